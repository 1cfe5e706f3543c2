/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: the image's bytes go to a file in memory that the daemon has as well; it opens them read-only (QMP
 * on its standard input), exports the disk (NBD on a socket that it was given), and is read from; then it forgets
 * both. A piece that cannot be read is read again in smaller ones, down to sectors.
 * Failure modes: whatever it does not answer in time, or not as it should, is its end.
 */
#include "tests/foreign/qemu.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/test.h"

enum {
    SECONDS = 30, /* for an answer */
    LINE = 64 << 10,
    /* Its descriptors. */
    FD_LISTEN = 3,
    FD_IMAGE = 4,
    FD_BASE = 5,
    FD_ABOVE = 100,
    /* Of NBD, the newstyle handshake and simple replies. */
    NBD_FIXED = 1,
    NBD_NO_ZEROES = 2,
    NBD_EXPORT_NAME = 1,
    NBD_READ = 0,
    NBD_DISCONNECT = 2,
    NBD_REQUEST = 0x25609513,
    NBD_REPLY = 0x67446698,
};

/* A piece is cut into so many of the next size. */
static const uint32_t pieces[] = {256 << 10, 32 << 10, 4 << 10, QEMU_SECTOR};
enum { LEVELS = sizeof pieces / sizeof pieces[0], IN_FLIGHT = 16 };

struct nbd_hello {
    uint64_t magic, option_magic;
    uint16_t flags;
} __attribute__((packed));

struct nbd_choice {
    uint32_t flags;
    uint64_t magic;
    uint32_t option, len;
    char name;
} __attribute__((packed));

struct nbd_export {
    uint64_t size;
    uint16_t flags;
} __attribute__((packed));

struct nbd_request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t handle, offset;
    uint32_t len;
} __attribute__((packed));

struct nbd_reply {
    uint32_t magic, error;
    uint64_t handle;
} __attribute__((packed));

static struct qemu {
    pid_t owner, pid;
    const char *doing;
    int qmp, image, disk; /* descriptors; disk: the connection by NBD, or -1 */
    struct sockaddr_un address;
    socklen_t address_len;
    bool deleted;       /* it has said that the export is */
    size_t used, taken; /* of line: filled, looked at */
    char line[LINE];
} qemu;

static bool send_all(int fd, const void *buf, size_t len)
{
    return send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool receive_all(int fd, void *buf, size_t len)
{
    return len == 0 || recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static void be_patient(int fd)
{
    struct timeval time = {.tv_sec = SECONDS};

    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
}

/* ---- QMP --------------------------------------------------------------------------------------------------- */

static bool tell(struct qemu *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool tell(struct qemu *q, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    CHECK(n > 0 && n < (int)sizeof text);
    return send_all(q->qmp, text, (size_t)n);
}

/* A line of what it says, without its end; NULL: it says nothing any more. */
static const char *next_line(struct qemu *q)
{
    char *end;

    q->used -= q->taken;
    memmove(q->line, q->line + q->taken, q->used);
    q->taken = 0;
    while (!(end = memchr(q->line, '\n', q->used))) {
        ssize_t n = q->used < LINE ? recv(q->qmp, q->line + q->used, LINE - q->used, 0) : 0;
        if (n <= 0)
            return NULL;
        q->used += (size_t)n;
    }
    *end = '\0';
    q->taken = (size_t)(end + 1 - q->line);
    q->deleted |= strstr(q->line, "\"BLOCK_EXPORT_DELETED\"") != NULL;
    return q->line;
}

/* The answer to a command: 1: it was done, 0: it was refused, -1: none. Events come in between. */
static int answer(struct qemu *q)
{
    const char *line;

    while ((line = next_line(q)))
        if (line[2] == 'r' || (line[2] == 'e' && line[3] == 'r'))
            return line[2] == 'r';
    return -1;
}

static bool wait_deleted(struct qemu *q)
{
    while (!q->deleted && next_line(q))
        ;
    return q->deleted;
}

/* ---- the daemon ------------------------------------------------------------------------------------------ */

static int memory_file(const char *name, const uint8_t *bytes, uint64_t len)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    CHECK(fd >= 0 && (len == 0 || pwrite(fd, bytes, len, 0) == (ssize_t)len));
    return fd;
}

_Noreturn static void be_daemon(const char *daemon, int qmp, int listening, int image, int base)
{
    const int from[] = {qmp, qmp, open("/dev/null", O_WRONLY), listening, image, base};
    int above[ARRAY_LEN(from)];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0; i < ARRAY_LEN(from); i++)
        above[i] = fcntl(from[i], F_DUPFD, FD_ABOVE);
    for (unsigned i = 0; i < ARRAY_LEN(from); i++)
        dup2(above[i], (int)i);
    close_range(FD_BASE + 1, ~0u, 0);
    /* One thread beside its own: many wake each other for each cluster. */
    execl(daemon, daemon, "--object", "main-loop,id=loop,thread-pool-max=1", "--chardev", "stdio,id=qmp",
          "--monitor", "chardev=qmp", "--nbd-server", "addr.type=fd,addr.str=3", (char *)NULL);
    _exit(127);
}

static void forget(struct qemu *q)
{
    close(q->qmp);
    close(q->image);
    if (q->disk >= 0)
        close(q->disk);
    q->pid = 0;
}

/* Whatever it has come to; how is said in `why`. */
static void stop(struct qemu *q, char why[QEMU_WHY])
{
    int error = errno, status = 0;

    if (waitpid(q->pid, &status, WNOHANG) == 0) {
        kill(q->pid, SIGKILL);
        while (waitpid(q->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    snprintf(why, QEMU_WHY, "%s: %s, wait status 0x%x", q->doing, strerror(error), (unsigned)status);
    forget(q);
}

static bool start(struct qemu *q, const char *daemon, const struct qemu_image *image)
{
    int pair[2], listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int base = memory_file("base", image->base, image->base_len);

    CHECK(listening >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    /* The kernel finds a name for it that is not in the file system. */
    q->address.sun_family = AF_UNIX;
    CHECK(bind(listening, (struct sockaddr *)&q->address, sizeof q->address.sun_family) == 0);
    q->address_len = sizeof q->address;
    CHECK(getsockname(listening, (struct sockaddr *)&q->address, &q->address_len) == 0);
    CHECK(listen(listening, 4) == 0);
    q->image = memory_file("image", NULL, 0);
    fflush(NULL);
    q->pid = fork();
    CHECK(q->pid >= 0);
    if (q->pid == 0)
        be_daemon(daemon, pair[1], listening, q->image, base);
    close(pair[1]);
    close(listening);
    close(base);
    q->owner = getpid();
    q->qmp = pair[0];
    q->disk = -1;
    q->used = q->taken = 0;
    be_patient(q->qmp);
    return tell(q, "{\"execute\":\"qmp_capabilities\"}\n") && answer(q) == 1 &&
           tell(q,
                "{\"execute\":\"blockdev-add\",\"arguments\":{\"driver\":\"raw\",\"node-name\":\"base\","
                "\"read-only\":true,\"file\":{\"driver\":\"file\",\"filename\":\"/proc/self/fd/%d\","
                "\"locking\":\"off\"}}}\n",
                FD_BASE) &&
           answer(q) == 1;
}

/* ---- NBD ------------------------------------------------------------------------------------------------- */

static bool connect_disk(struct qemu *q, uint64_t *ret_size)
{
    struct nbd_choice choice = {.flags = htobe32(NBD_FIXED | NBD_NO_ZEROES),
                                .magic = htobe64(0x49484156454f5054),
                                .option = htobe32(NBD_EXPORT_NAME),
                                .len = htobe32(1),
                                .name = 'd'};
    struct nbd_hello hello;
    struct nbd_export export;

    q->disk = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(q->disk >= 0);
    be_patient(q->disk);
    if (connect(q->disk, (struct sockaddr *)&q->address, q->address_len) < 0 ||
        !receive_all(q->disk, &hello, sizeof hello) || hello.option_magic != choice.magic ||
        !send_all(q->disk, &choice, sizeof choice) || !receive_all(q->disk, &export, sizeof export))
        return false;
    *ret_size = be64toh(export.size);
    return true;
}

static bool request(struct qemu *q, uint16_t type, uint64_t offset, uint32_t len)
{
    struct nbd_request r = {.magic = htobe32(NBD_REQUEST),
                            .type = htobe16(type),
                            .handle = offset,
                            .offset = htobe64(offset),
                            .len = htobe32(len)};

    return send_all(q->disk, &r, sizeof r);
}

/* One piece of those under way, whichever it is, of [from, end): into buf, and ok. */
static bool take_reply(struct qemu *q, uint64_t from, uint64_t end, uint32_t piece, uint8_t *buf, uint8_t *ok)
{
    struct nbd_reply r;
    uint64_t len;

    if (!receive_all(q->disk, &r, sizeof r) || be32toh(r.magic) != NBD_REPLY || r.handle < from || r.handle >= end)
        return false;
    len = min_u64(piece, end - r.handle);
    memset(ok + r.handle / QEMU_SECTOR, r.error == 0, len / QEMU_SECTOR);
    return r.error != 0 || receive_all(q->disk, buf + r.handle, len);
}

/* [from, end) in pieces of that level. */
static bool read_pieces(struct qemu *q, unsigned level, uint64_t from, uint64_t end, uint8_t *buf, uint8_t *ok)
{
    uint32_t piece = pieces[level];
    unsigned under_way = 0;
    bool fine = true;

    for (uint64_t at = from; at < end && fine; at += piece) {
        fine = request(q, NBD_READ, at, (uint32_t)min_u64(piece, end - at));
        under_way++;
        if (under_way == IN_FLIGHT && fine)
            fine = take_reply(q, from, end, piece, buf, ok), under_way--;
    }
    for (; under_way > 0 && fine; under_way--)
        fine = take_reply(q, from, end, piece, buf, ok);
    for (uint64_t at = from; at < end && fine && level + 1 < LEVELS; at += piece)
        if (!ok[at / QEMU_SECTOR])
            fine = read_pieces(q, level + 1, at, min_u64(at + piece, end), buf, ok);
    return fine;
}

static bool read_disk(struct qemu *q, uint64_t sectors, uint8_t *buf, uint8_t *ok)
{
    uint64_t size;
    bool fine;

    q->doing = "connecting";
    fine = connect_disk(q, &size);
    q->doing = "reading";
    fine = fine && read_pieces(q, 0, 0, min_u64(sectors, size / QEMU_SECTOR) * QEMU_SECTOR, buf, ok) &&
           request(q, NBD_DISCONNECT, 0, 0);
    close(q->disk);
    q->disk = -1;
    return fine;
}

/* ---- an image ---------------------------------------------------------------------------------------------- */

/* 1: it has opened it, 0: it refuses, -1: lost. */
static int open_image(struct qemu *q, const struct qemu_image *image)
{
    char path[40];

    snprintf(path, sizeof path, "/proc/self/fd/%d", q->image);
    memdisk_save(image->disk, path);
    return tell(q,
                "{\"execute\":\"blockdev-add\",\"arguments\":{\"driver\":\"qcow2\",\"node-name\":\"image\","
                "\"read-only\":true,\"force-share\":true,\"backing\":%s,\"file\":{\"driver\":\"file\","
                "\"filename\":\"/proc/self/fd/%d\",\"locking\":\"off\"}}}\n",
                image->backed ? "\"base\"" : "null", FD_IMAGE)
               ? answer(q)
               : -1;
}

static bool close_image(struct qemu *q)
{
    q->doing = "closing";
    q->deleted = false;
    return tell(q, "{\"execute\":\"block-export-del\",\"arguments\":{\"id\":\"d\",\"mode\":\"hard\"}}\n") &&
           answer(q) == 1 && wait_deleted(q) &&
           tell(q, "{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"image\"}}\n") && answer(q) == 1;
}

static int read_image(struct qemu *q, const struct qemu_image *image, uint64_t sectors, uint8_t *buf, uint8_t *ok)
{
    int rc;

    q->doing = "opening";
    rc = open_image(q, image);
    if (rc <= 0)
        return rc;
    q->doing = "exporting";
    if (!tell(q, "{\"execute\":\"block-export-add\",\"arguments\":{\"type\":\"nbd\",\"id\":\"d\","
                 "\"node-name\":\"image\",\"name\":\"d\"}}\n") ||
        answer(q) != 1 || !read_disk(q, sectors, buf, ok) || !close_image(q))
        return -1;
    return 1;
}

enum qemu_answer qemu_read(const char *daemon, const struct qemu_image *image, uint64_t sectors, uint8_t *buf,
                           uint8_t *ok, char why[QEMU_WHY])
{
    struct qemu *q = &qemu;
    int rc;

    if (q->pid > 0 && q->owner != getpid()) /* a fork of its own has one of its own */
        forget(q);
    memset(ok, 0, sectors);
    if (q->pid == 0)
        CHECK_MSG(start(q, daemon, image), "%s does not start", daemon);
    rc = read_image(q, image, sectors, buf, ok);
    if (rc < 0)
        stop(q, why);
    return rc > 0 ? QEMU_READS : rc == 0 ? QEMU_REFUSES : QEMU_LOST;
}
