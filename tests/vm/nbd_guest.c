/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs in the test machine: what nbd.sh does with devices of the kernel's NBD client, each a process less.
 *
 *     nbd_guest attach INDEX PLACE CONNECTIONS BLOCK
 *     nbd_guest keep INDEX PLACE CONNECTIONS BLOCK    as well, and connects again until it is killed
 *     nbd_guest attach-writable INDEX PLACE           though the export is read-only
 *     nbd_guest detach INDEX
 *     nbd_guest commands DEVICE BLOCK                 writes, zeros and discards, and what it reads then
 *     nbd_guest refuses DEVICE                        it takes no write of any kind
 *     nbd_guest write FOLDER FROM TO ACKED [LOG]      files, each durable before its number is a line of ACKED
 *                                                     and a mark in the log of the device-mapper device LOG
 *     nbd_guest verify FOLDER LOW HIGH                all up to LOW are there, or what replaced them up to HIGH
 *
 * Number n of `write` replaces file n % FILES, by a rename; what is in it says n. Beside them another file is
 * written to that nobody makes durable.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/vm/mark.h"
#include "tests/vm/nbd_attach.h"

enum {
    FILES = 12,
    LINE = 16,          /* bytes of a line of a file */
    MAX_LINES = 4096,
    NOISE_FILE = 1 << 20, NOISE = 30000,
    MIB = 1 << 20,
    SPAN = 8 * MIB,     /* of a device, that commands are tried on */
    TIMEOUT_S = 3,      /* of a request: how long one waits that a dead server has */
    DEAD_S = 120,
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void wrong(const char *what, unsigned long long where)
{
    fprintf(stderr, "nbd_guest: %s: %llu\n", what, where);
    exit(1);
}

/* ---- commands ------------------------------------------------------------------------------------------- */

static void write_all(int fd, const uint8_t *buf, uint64_t offset, uint64_t len)
{
    for (uint64_t at = 0; at < len; at += MIB) {
        size_t n = len - at < MIB ? len - at : MIB;
        if (pwrite(fd, buf + at, n, (off_t)(offset + at)) != (ssize_t)n)
            die("write");
    }
}

static void zeroed(uint8_t *model, const char *what, int rc, uint64_t offset, uint64_t len)
{
    if (rc < 0)
        die(what);
    memset(model + offset, 0, len);
}

/* What the device holds is what the model does. */
static void compare(int fd, const uint8_t *model, uint8_t *buf, const char *when)
{
    for (uint64_t at = 0; at < SPAN; at += MIB) {
        if (pread(fd, buf, MIB, (off_t)at) != MIB)
            die("read");
        for (uint64_t i = 0; i < MIB; i++)
            if (buf[i] != model[at + i])
                wrong(when, at + i);
    }
}

static int range(int fd, unsigned long command, uint64_t offset, uint64_t len)
{
    return ioctl(fd, command, (uint64_t[]){offset, len});
}

static void commands(const char *device, uint64_t block)
{
    int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
    uint8_t *model = aligned_alloc(4096, SPAN), *buf = aligned_alloc(4096, MIB);
    const int keep = FALLOC_FL_KEEP_SIZE;

    if (fd < 0 || !model || !buf)
        die(device);
    for (uint64_t i = 0; i < SPAN; i++)
        model[i] = (uint8_t)(i / 512 % 251 + 1);
    write_all(fd, model, 0, SPAN);
    zeroed(model, "BLKDISCARD", range(fd, BLKDISCARD, MIB, MIB), MIB, MIB);
    zeroed(model, "BLKZEROOUT", range(fd, BLKZEROOUT, 3 * MIB + block, 5 * block), 3 * MIB + block, 5 * block);
    zeroed(model, "punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | keep, 4 * MIB, 1 << 17), 4 * MIB, 1 << 17);
    zeroed(model, "zero", fallocate(fd, FALLOC_FL_ZERO_RANGE | keep, 5 * MIB, 1 << 17), 5 * MIB, 1 << 17);
    memset(model + MIB + block, 0xee, block);
    write_all(fd, model + MIB + block, MIB + block, block);
    /* Durable when it is answered: FUA, where the device has it. */
    memset(model + 6 * MIB, 0xdd, block);
    if (pwritev2(fd, &(struct iovec){model + 6 * MIB, block}, 1, 6 * MIB, RWF_DSYNC) != (ssize_t)block)
        die("a durable write");
    compare(fd, model, buf, "read");
    if (fsync(fd) < 0)
        die("fsync");
    compare(fd, model, buf, "read after a flush");
    if (range(fd, BLKSECDISCARD, 0, MIB) == 0)
        wrong("it erases securely, it says", 0);
    if (pread(fd, buf, block, (off_t)block / 2) >= 0)
        wrong("half of a sector is read", block / 2);
    close(fd);
    free(model);
    free(buf);
}

static void refuses(const char *device)
{
    uint8_t *buf = aligned_alloc(4096, 4096);
    int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);

    if (fd < 0 && errno != EACCES && errno != EPERM && errno != EROFS)
        die(device);
    if (!buf || (fd < 0 && (fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC)) < 0))
        die(device);
    if (pread(fd, buf, 4096, 0) != 4096)
        die("read");
    memset(buf, 0x77, 4096);
    if (pwrite(fd, buf, 4096, 0) >= 0)
        wrong("it is written to", 0);
    printf("a write: %s\n", strerror(errno));
    if (range(fd, BLKDISCARD, 0, MIB) == 0)
        wrong("it is discarded", 0);
    printf("a discard: %s\n", strerror(errno));
    if (range(fd, BLKZEROOUT, 0, MIB) == 0)
        wrong("it is zeroed", 0);
    printf("zeros: %s\n", strerror(errno));
    close(fd);
    free(buf);
}

/* ---- files ---------------------------------------------------------------------------------------------- */

static unsigned lines_of(unsigned n)
{
    return 60 + n * 7919 % 3700;
}

/* Of number n; gives the length. */
static size_t fill(char *text, unsigned n)
{
    for (unsigned i = 0; i < lines_of(n); i++)
        snprintf(text + (size_t)i * LINE, LINE + 1, "%07x %07x\n", n & 0xfffffffu, i & 0xfffffffu);
    return (size_t)lines_of(n) * LINE;
}

static void write_noise(int fd, unsigned n)
{
    static char noise[NOISE];

    memset(noise, (int)('a' + n % 26), sizeof noise);
    if (pwrite(fd, noise, NOISE, n * 40000 % NOISE_FILE) != NOISE)
        die("noise");
}

static void write_one(int folder, const char *text, size_t len, unsigned n)
{
    char name[16];
    int fd = openat(folder, "new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    snprintf(name, sizeof name, "f%u", n % FILES);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len || fsync(fd) < 0)
        die(name);
    close(fd);
    if (renameat(folder, "new", folder, name) < 0 || fsync(folder) < 0)
        die(name);
}

static void write_files(const char *path, unsigned from, unsigned to, const char *acked, const char *log)
{
    static char text[MAX_LINES * LINE + 1];
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ack = open(acked, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int noise = folder < 0 ? -1 : openat(folder, "noise", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    if (ack < 0 || noise < 0)
        die(path);
    for (unsigned n = from; n < to; n++) {
        write_noise(noise, n);
        write_one(folder, text, fill(text, n), n);
        if (log)
            mark_log(log, n);
        if (dprintf(ack, "%u\n", n) < 0)
            die(acked);
    }
    close(noise);
    close(ack);
    close(folder);
}

/* The number that a file is of, all of which it holds. */
static unsigned number_of(int folder, const char *name)
{
    static char got[MAX_LINES * LINE + 1], want[MAX_LINES * LINE + 1];
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, got, sizeof got - 1);

    if (len < LINE)
        die(name);
    close(fd);
    unsigned n = (unsigned)strtoul(got, NULL, 16);
    if ((size_t)len != fill(want, n) || memcmp(got, want, (size_t)len) != 0)
        wrong(name, n);
    return n;
}

static void verify(const char *path, unsigned low, unsigned high)
{
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char name[16];

    if (folder < 0)
        die(path);
    for (unsigned k = 0; k < FILES && k <= low; k++) {
        snprintf(name, sizeof name, "f%u", k);
        unsigned n = number_of(folder, name), least = low - (low - k) % FILES;
        if (n % FILES != k || n < least || n > high)
            wrong(name, n);
    }
    close(folder);
}

/* ---- the command line ----------------------------------------------------------------------------------- */

static unsigned number(const char *text)
{
    return (unsigned)strtoul(text, NULL, 10);
}

static void attach_as(char **argv, bool keep)
{
    const struct attach a = {.index = number(argv[2]), .place = argv[3], .connections = number(argv[4]),
                             .block = number(argv[5]), .timeout_s = TIMEOUT_S, .dead_s = keep ? DEAD_S : 0};

    if (keep)
        nbd_attach_and_keep(&a);
    else
        nbd_attach(&a);
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";

    if (strcmp(verb, "attach") == 0 && argc == 6)
        attach_as(argv, false);
    else if (strcmp(verb, "keep") == 0 && argc == 6)
        attach_as(argv, true);
    else if (strcmp(verb, "attach-writable") == 0 && argc == 4)
        nbd_attach(&(struct attach){.index = number(argv[2]), .place = argv[3], .connections = 1, .block = 512,
                                    .writable = true});
    else if (strcmp(verb, "detach") == 0)
        nbd_detach(number(argv[2]));
    else if (strcmp(verb, "commands") == 0 && argc == 4)
        commands(argv[2], number(argv[3]));
    else if (strcmp(verb, "refuses") == 0)
        refuses(argv[2]);
    else if (strcmp(verb, "write") == 0 && argc >= 6)
        write_files(argv[2], number(argv[3]), number(argv[4]), argv[5], argv[6]);
    else if (strcmp(verb, "verify") == 0 && argc == 5)
        verify(argv[2], number(argv[3]), number(argv[4]));
    else
        return 2;
    return 0;
}
