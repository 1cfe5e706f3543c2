/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: poll() first, for a while at a time, so that who is told to end does not sit in read() or write().
 * Fails: of read() and write(), as they say it.
 */
#include "tools/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WAIT_MS = 200, WRITE_MOST = 1 << 20 };

static bool output_is_file; /* a write to it comes to its end by itself */

bool pipe_is(const char *name)
{
    return strcmp(name, "-") == 0;
}

static bool is_file(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
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
    output_is_file = is_file(STDOUT_FILENO);
    sigaction(SIGPIPE, &ignore, NULL);
    return CLI_OK;
}

int pipe_end_output(void)
{
    if (!output_is_file || fsync(STDOUT_FILENO) == 0)
        return CLI_OK;
    cli_error("%s: flushing: %s", PIPE_OUTPUT, strerror(errno));
    return CLI_FAILED;
}

int pipe_begin_input(struct pipe_part *part)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    ssize_t n = -1;

    if (!is_open_for(STDIN_FILENO, O_RDONLY)) {
        cli_error("%s: is not open for reading", PIPE_INPUT);
        return CLI_FAILED;
    }
    if (part->left == 0)
        return CLI_OK;
    do {
        if (poll(&p, 1, -1) >= 0)
            n = read(STDIN_FILENO, part->first, sizeof part->first);
    } while (n < 0 && (errno == EINTR || errno == EAGAIN));
    if (n < 0) {
        cli_error("%s: %s", PIPE_INPUT, strerror(errno));
        return CLI_FAILED;
    }
    part->first_len = (size_t)n;
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

/*
 * What goes at once: poll() says that something does, not how much, and a write() that waits for more of a pipe's
 * room would not see that the command is to end. As much as PIPE_BUF always goes.
 */
static ssize_t write_some(const char *data, size_t len)
{
    const struct iovec all = {(void *)(uintptr_t)data, len < WRITE_MOST ? len : WRITE_MOST};
    ssize_t n = pwritev2(STDOUT_FILENO, &all, 1, -1, RWF_NOWAIT);

    if (n >= 0 || (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS && errno != EAGAIN))
        return n;
    return write(STDOUT_FILENO, data, len < PIPE_BUF ? len : PIPE_BUF);
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
        n = output_is_file ? write(STDOUT_FILENO, p, len < WRITE_MOST ? len : WRITE_MOST) : write_some(p, len);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* What comes next, the first of it from where it has been put. */
static ssize_t read_some(struct pipe_part *part, void *buf, size_t len)
{
    size_t n = part->first_len - part->first_at;

    if (n == 0)
        return read(STDIN_FILENO, buf, len);
    n = n < len ? n : len;
    memcpy(buf, part->first + part->first_at, n);
    part->first_at += n;
    return (ssize_t)n;
}

/* That was all of it: zeros up to a multiple of the unit follow. */
static int64_t end_of_input(struct pipe_part *part, void *buf, size_t len)
{
    size_t n = part->unit > 0 ? (size_t)(-part->got % part->unit) : 0;

    if (part->skip > 0 && part->left > 0 && !part->ended)
        cli_warn("%s: cannot skip to specified offset", PIPE_INPUT);
    part->ended = true;
    n = n < len ? n : len;
    memset(buf, 0, n);
    part->got += n;
    return (int64_t)n;
}

int64_t pipe_read(void *arg, void *buf, size_t len)
{
    struct pipe_part *part = arg;
    uint64_t most = part->skip > 0 ? part->skip : part->left;
    ssize_t n;

    if (part->left == 0 || part->ended)
        return end_of_input(part, buf, len);
    if (part->first_at == part->first_len && wait_for(STDIN_FILENO, POLLIN) < 0)
        return -EAGAIN; /* the job knows what it was told */
    n = read_some(part, buf, len < most ? len : (size_t)most);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return -EAGAIN;
    if (n < 0)
        return -(part->error = errno);
    if (n == 0)
        return end_of_input(part, buf, len);
    if (part->skip > 0) {
        part->skip -= (uint64_t)n;
        return -EAGAIN;
    }
    part->got += (uint64_t)n;
    if (part->left != UINT64_MAX)
        part->left -= (uint64_t)n;
    return n;
}
