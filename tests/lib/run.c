/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/test.h"

enum { COMMAND_MAX = 65536, EXPECT_TIMEOUT_MS = 30000 };

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int exit_status(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* The child's side: never returns. */
static void become_shell(const char *command, int in, int out)
{
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    if (chdir(test_dir()) == 0)
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

static pid_t start(const char *command, int *ret_in, int *ret_out)
{
    int in[2] = {-1, -1}, out[2];
    pid_t pid;

    CHECK(pipe2(out, O_CLOEXEC) == 0);
    if (ret_in)
        CHECK(pipe2(in, O_CLOEXEC) == 0);
    else
        CHECK((in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0);
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        become_shell(command, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    if (ret_in)
        *ret_in = in[1];
    *ret_out = out[0];
    return pid;
}

/* Read all of `fd`; keep what fits in `out`. */
static void drain(int fd, char *out, size_t size)
{
    size_t used = 0;
    char scrap[4096];

    for (;;) {
        size_t space = size - 1 - used;
        ssize_t n = read(fd, space ? out + used : scrap, space ? space : sizeof scrap);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        if (space)
            used += (size_t)n;
    }
    out[used] = '\0';
}

static void run_command(struct run_result *ret, const char *command)
{
    struct rusage usage;
    double start_s = now_s();
    int fd, status;
    pid_t pid = start(command, NULL, &fd);

    drain(fd, ret->out, sizeof ret->out);
    close(fd);
    while (wait4(pid, &status, 0, &usage) < 0)
        CHECK(errno == EINTR);
    ret->status = exit_status(status);
    ret->max_rss = (uint64_t)usage.ru_maxrss * 1024;
    ret->seconds = now_s() - start_s;
}

static char *format_command(const char *fmt, va_list ap)
{
    char *command = test_alloc(COMMAND_MAX);
    int n = vsnprintf(command, COMMAND_MAX, fmt, ap);

    CHECK_MSG(n >= 0 && n < COMMAND_MAX, "command too long");
    return command;
}

void run_shell(struct run_result *ret, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    char *command = format_command(fmt, ap);
    va_end(ap);
    run_command(ret, command);
    free(command);
}

const char *run_ok(const char *fmt, ...)
{
    static struct run_result result;
    va_list ap;

    va_start(ap, fmt);
    char *command = format_command(fmt, ap);
    va_end(ap);
    run_command(&result, command);
    CHECK_MSG(result.status == 0, "'%.2000s' exits with %d: %.4000s", command, result.status, result.out);
    free(command);
    return result.out;
}

void run_start(struct run_child *c, const char *fmt, ...)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    va_list ap;

    va_start(ap, fmt);
    char *command = format_command(fmt, ap);
    va_end(ap);
    sigaction(SIGPIPE, &ignore, NULL);
    c->pid = start(command, &c->in, &c->out);
    free(command);
}

void run_tell(struct run_child *c, const char *line)
{
    size_t len = strlen(line);

    CHECK(write(c->in, line, len) == (ssize_t)len);
    CHECK(write(c->in, "\n", 1) == 1);
}

void run_expect(struct run_child *c, const char *text)
{
    char seen[16384];
    size_t used = 0;
    struct pollfd p = {.fd = c->out, .events = POLLIN};

    seen[0] = '\0';
    while (!strstr(seen, text)) {
        CHECK_MSG(used + 1 < sizeof seen, "no '%s' in a lot of output", text);
        CHECK_MSG(poll(&p, 1, EXPECT_TIMEOUT_MS) == 1, "no '%s' within its time in: %s", text, seen);
        ssize_t n = read(c->out, seen + used, sizeof seen - 1 - used);
        CHECK_MSG(n > 0, "no '%s' at its end in: %s", text, seen);
        used += (size_t)n;
        seen[used] = '\0';
    }
}

void run_kill(struct run_child *c, int signal)
{
    kill(c->pid, signal);
    run_wait(c);
}

int run_wait(struct run_child *c)
{
    int status;
    char scrap[4096];

    close(c->in);
    drain(c->out, scrap, sizeof scrap);
    close(c->out);
    while (waitpid(c->pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    return exit_status(status);
}
