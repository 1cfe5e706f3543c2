/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process around a server of volumes.
 *
 * Happy path: with --fork a child does all of it, since nothing that is open survives a fork; the parent waits
 * until that says it is ready. Failures: until then an error is the command's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/serve.h"

enum { MAX_PASSED_FDS = 64 };

int serve_passed_fds(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    uint64_t number;

    if (!pid || !fds || cli_parse_number(pid, INT32_MAX, &number) < 0 || (pid_t)number != getpid())
        return 0;
    return cli_parse_number(fds, MAX_PASSED_FDS, &number) < 0 ? -1 : (int)number;
}

/*
 * In the child: go on, with a descriptor to tell the parent. In the parent: wait for it, and end as it says; its
 * messages are on stderr by then.
 */
int serve_fork(struct serve *s)
{
    int fds[2];
    char ok;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        cli_error("no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    pid_t pid = fork();
    if (pid < 0) {
        cli_error("no process: %s", strerror(errno));
        return CLI_FAILED;
    }
    if (pid == 0) {
        close(fds[0]);
        setsid();
        s->ready_fd = fds[1];
        return CLI_OK;
    }
    close(fds[1]);
    ssize_t got;
    do
        got = read(fds[0], &ok, 1);
    while (got < 0 && errno == EINTR);
    if (got != 1)
        waitpid(pid, NULL, 0);
    _exit(got == 1 ? CLI_OK : CLI_FAILED);
}

int serve_write_pid_file(const struct serve *s)
{
    FILE *f = s->pid_file ? fopen(s->pid_file, "w") : NULL;

    if (!s->pid_file)
        return CLI_OK;
    bool written = f && fprintf(f, "%d\n", (int)getpid()) > 0;
    if (!f || fclose(f) != 0 || !written) {
        cli_error("%s: cannot write the process id: %s", s->pid_file, strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

void serve_tell_ready(struct serve *s)
{
    if (s->ready_fd < 0)
        return;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        if (null > STDERR_FILENO)
            close(null);
    }
    /* Who waits for it may be gone; and it stays in its folder, where names of files and sockets lead from. */
    if (write(s->ready_fd, "+", 1) < 0)
        cli_note("nobody waits for the server");
    close(s->ready_fd);
    s->ready_fd = -1;
}
