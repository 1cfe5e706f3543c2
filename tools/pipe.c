/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: poll() first, for a while at a time, so that who is told to end does not sit in read() or write().
 * Fails: of read() and write(), as they say it.
 */
#include "tools/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WAIT_MS = 200, WRITE_MOST = 1 << 20 };

bool pipe_is(const char *name)
{
    return strcmp(name, "-") == 0;
}

/* Is it open for that, O_RDONLY or O_WRONLY? */
static bool is_open_for(int fd, int way)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && !(flags & O_PATH) && ((flags & O_ACCMODE) == way || (flags & O_ACCMODE) == O_RDWR);
}

int pipe_begin_output(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    if (isatty(STDOUT_FILENO)) {
        cli_error("%s: is a terminal: have another program, or a file, take the image", PIPE_OUTPUT);
        return CLI_FAILED;
    }
    if (!is_open_for(STDOUT_FILENO, O_WRONLY)) {
        cli_error("%s: is not open for writing", PIPE_OUTPUT);
        return CLI_FAILED;
    }
    sigaction(SIGPIPE, &ignore, NULL);
    return CLI_OK;
}

/* Some time: 0; -EAGAIN: it is not ready yet; -ECANCELED: the command is to end. */
static int wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n = poll(&p, 1, WAIT_MS);

    if (cli_is_told_to_end())
        return -ECANCELED;
    if (n < 0 && errno != EINTR)
        return 0; /* it says itself what is wrong */
    return n > 0 ? 0 : -EAGAIN;
}

int pipe_write(void *arg, const void *data, size_t len)
{
    const char *p = data;

    (void)arg;
    while (len > 0) {
        ssize_t n = wait_for(STDOUT_FILENO, POLLOUT);
        if (n == -ECANCELED)
            return -ECANCELED;
        if (n == -EAGAIN)
            continue;
        n = write(STDOUT_FILENO, p, len < WRITE_MOST ? len : WRITE_MOST);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

int64_t pipe_read(void *arg, void *buf, size_t len)
{
    struct pipe_part *part = arg;
    size_t most = part->skip > 0 ? part->skip : part->left;
    ssize_t n;
    int rc;

    if (part->left == 0)
        return 0;
    rc = wait_for(STDIN_FILENO, POLLIN);
    if (rc < 0)
        return -EAGAIN; /* the job knows what it was told */
    n = read(STDIN_FILENO, buf, len < most ? len : most);
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    if (n > 0 && part->skip > 0) {
        part->skip -= (size_t)n;
        return -EAGAIN;
    }
    if (part->left != UINT64_MAX)
        part->left -= (size_t)n;
    return n;
}
