/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process around a server of volumes.
 *
 * Happy path: with --fork a child does all of it, since nothing that is open survives a fork; the parent waits
 * until that says it is ready. Failures: until then an error is the command's. What takes without end until then
 * (a server that is not there yet, a name that is not resolved) is ended by a signal all the same, by a thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/serve.h"

enum { MAX_PASSED_FDS = 64, PID_BYTES = 32 };

int serve_passed_fds(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    uint64_t number;

    if (!pid || !fds || cli_parse_number(pid, INT32_MAX, &number) < 0 || (pid_t)number != getpid())
        return 0;
    return cli_parse_number(fds, MAX_PASSED_FDS, &number) < 0 ? -1 : (int)number;
}

static void *watch(void *arg)
{
    const struct serve *s = arg;
    struct pollfd fds[] = {{.fd = s->opened_fd, .events = POLLIN}, {.fd = s->signal_fd, .events = POLLIN}};
    int n;

    while (poll(fds, 2, -1) < 0)
        ;
    do
        n = fds[0].revents == 0 ? poll(fds, 1, SERVE_END_MS) : 1;
    while (n < 0);
    if (n == 0) {
        cli_error("told to end, before all was open that is to be served");
        _exit(CLI_FAILED);
    }
    return NULL;
}

int serve_watch_begin(struct serve *s)
{
    int rc;

    s->opened_fd = eventfd(0, EFD_CLOEXEC);
    rc = s->opened_fd < 0 ? errno : pthread_create(&s->watcher, NULL, watch, s);
    if (rc == 0)
        return CLI_OK;
    if (s->opened_fd >= 0)
        close(s->opened_fd);
    s->opened_fd = -1;
    cli_error("no thread for signals: %s", strerror(rc));
    return CLI_FAILED;
}

void serve_watch_end(struct serve *s)
{
    const uint64_t one = 1;

    if (s->opened_fd < 0)
        return;
    if (write(s->opened_fd, &one, sizeof one) < 0) /* it has room for that */
        abort();
    pthread_join(s->watcher, NULL);
    close(s->opened_fd);
    s->opened_fd = -1;
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

/* An empty file, or what another server has written: whatever else is there is not ours to lose. */
static bool is_pid_file(int fd)
{
    char text[PID_BYTES + 1];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    struct stat st;

    if (n < 0 || fstat(fd, &st) < 0 || st.st_size > PID_BYTES)
        return false;
    text[n] = '\0';
    return strspn(text, "0123456789\n") == (size_t)n;
}

/* 0 or -errno. Waits for nobody at the other end of a pipe. */
static int write_pid(const char *path)
{
    char text[PID_BYTES];
    int fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666), rc = 0;
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        rc = !is_pid_file(fd) ? -EEXIST : ftruncate(fd, 0) < 0 ? -errno : 0;
    if (rc == 0) {
        ssize_t n = write(fd, text, (size_t)len);
        rc = n < 0 ? -errno : n < len ? -ENOSPC : 0;
    }
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

int serve_write_pid_file(const struct serve *s)
{
    int rc = s->pid_file ? write_pid(s->pid_file) : 0;

    if (rc == 0)
        return CLI_OK;
    cli_error("%s: cannot write the process id: %s", s->pid_file,
              rc == -EEXIST ? "the file holds something else, which stays" : strerror(-rc));
    return CLI_FAILED;
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
