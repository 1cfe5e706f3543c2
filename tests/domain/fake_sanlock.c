/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libsanlock.so.1, as a test has it: what a daemon of several hosts would do, in files of the folder that
 * FAKE_SANLOCK names, for the host that FAKE_HOST does. Calls are logged there. A lease is held by a lock on a
 * file of its name, so that it is free when who has it is killed. FAKE_FAIL, "CALL:VALUE", is what that call
 * gives. Errors that are no daemon's end the process.
 */
#undef NDEBUG /* what it is called with is judged in each build */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/domain/sanlock_abi.h"

#define EXPORTED __attribute__((visibility("default")))

enum { MAGIC_HOSTS = 0x12212010, MAGIC_LEASE = 0x06152010, NAME = 48, MIB = 1 << 20, MOST = 512 };

struct record {
    uint32_t magic;
    char     before[52], space[NAME], name[NAME];
};

static struct {
    char name[NAME + 1];
    int  fd;
} mine[MOST];

static const char *folder(void)
{
    const char *path = getenv("FAKE_SANLOCK");

    return path != NULL ? path : "/nowhere";
}

static unsigned host(void)
{
    return (unsigned)strtoul(getenv("FAKE_HOST"), NULL, 10);
}

/* What the test says that it gives; else 0. */
static int told(const char *call, const char *fmt, ...)
{
    const char *fail = getenv("FAKE_FAIL");
    char path[512];
    va_list ap;
    FILE *f;

    if (access(folder(), F_OK) != 0)
        return -ENOENT; /* no daemon runs */
    snprintf(path, sizeof path, "%s/log", folder());
    f = fopen(path, "ae");
    assert(f != NULL);
    fprintf(f, "%u %s ", host(), call);
    va_start(ap, fmt);
    vfprintf(f, fmt, ap);
    va_end(ap);
    fputc('\n', f);
    fclose(f);
    return fail != NULL && strncmp(fail, call, strlen(call)) == 0 && fail[strlen(call)] == ':'
               ? (int)strtol(fail + strlen(call) + 1, NULL, 10) : 0;
}

/* ---- who has what ------------------------------------------------------------------------------------------ */

static int joined(const char *space, unsigned of)
{
    char path[512];
    unsigned n = 0;
    FILE *f;

    snprintf(path, sizeof path, "%s/in.%u.%.48s", folder(), of, space);
    f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%u", &n) != 1)
        n = 0;
    fclose(f);
    return (int)n;
}

/* Notes of owners: a file each, "own.NAME.HOST.PID", which counts as long as the process lives. */
static int owners(const char *name, unsigned *hosts, int most)
{
    char have[NAME + 1];
    struct dirent *entry;
    DIR *dir = opendir(folder());
    unsigned of;
    int pid, n = 0;

    assert(dir != NULL);
    while ((entry = readdir(dir)) != NULL)
        if (sscanf(entry->d_name, "own.%48[^.].%u.%d", have, &of, &pid) == 3 && strcmp(have, name) == 0 &&
            kill(pid, 0) == 0 && n < most)
            hosts[n++] = of;
    closedir(dir);
    return n;
}

static void note_owner(const char *name, bool there)
{
    char path[512];

    snprintf(path, sizeof path, "%s/own.%s.%u.%d", folder(), name, host(), (int)getpid());
    if (there)
        close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    else
        unlink(path);
}

static int find_mine(const char *name)
{
    for (int i = 0; i < MOST; i++)
        if (mine[i].fd > 0 && strcmp(mine[i].name, name) == 0)
            return i;
    return -1;
}

static int set_lock(int fd, bool shared)
{
    struct flock lock = {.l_type = shared ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock);
}

static int conflict(const char *name)
{
    unsigned hosts[8];
    int n = owners(name, hosts, 8), rv = SANLOCK_RV_IDLIVE;

    for (int i = 0; i < n; i++)
        if (hosts[i] == host())
            rv = -EEXIST;
    return rv;
}

/* ---- what is on disk --------------------------------------------------------------------------------------- */

static void text_of(char ret[NAME + 1], const char text[NAME])
{
    memcpy(ret, text, NAME);
    ret[NAME] = '\0';
}

/* The daemon is in a folder of its own. */
static int open_disk(const struct sanlock_disk *disk)
{
    assert(disk->path[0] == '/');
    return open(disk->path, O_RDWR | O_CLOEXEC);
}

static int read_record(const struct sanlock_disk *disk, struct record *ret)
{
    int fd = open_disk(disk), rv = 0;

    if (fd < 0)
        return -errno;
    if (pread(fd, ret, sizeof *ret, (off_t)disk->offset) != (ssize_t)sizeof *ret)
        rv = -EMSGSIZE;
    close(fd);
    return rv;
}

static int write_record(const struct sanlock_disk *disk, uint64_t more, const struct record *r)
{
    int fd = open_disk(disk), rv = 0;

    if (fd < 0)
        return -errno;
    assert(pwrite(fd, r, sizeof *r, (off_t)(disk->offset + more)) == (ssize_t)sizeof *r);
    if (more == 0 && lseek(fd, 0, SEEK_END) < (off_t)disk->offset + MIB)
        rv = ftruncate(fd, (off_t)disk->offset + MIB);
    close(fd);
    return rv;
}

static int judge_lease(const struct sanlock_resource *r)
{
    struct record is;
    int rv = read_record(&r->disk, &is);

    return rv < 0                                     ? rv
           : is.magic != MAGIC_LEASE                  ? SANLOCK_RV_MAGIC
           : memcmp(is.space, r->space, NAME) != 0    ? SANLOCK_RV_LOCKSPACE
           : memcmp(is.name, r->name, NAME) != 0      ? SANLOCK_RV_RESOURCE
                                                      : 0;
}

/* ---- the library's calls ----------------------------------------------------------------------------------- */

EXPORTED int sanlock_register(void);
EXPORTED int sanlock_acquire(int s, int pid, uint32_t flags, int n, struct sanlock_resource *list[], void *o);
EXPORTED int sanlock_release(int s, int pid, uint32_t flags, int n, struct sanlock_resource *list[]);
EXPORTED int sanlock_convert(int s, int pid, uint32_t flags, struct sanlock_resource *r);
EXPORTED int sanlock_get_lockspaces(struct sanlock_space **ret, int *count, uint32_t flags);
EXPORTED int sanlock_read_resource(struct sanlock_resource *r, uint32_t flags);
EXPORTED int sanlock_read_resource_owners(struct sanlock_resource *r, uint32_t flags, struct sanlock_owner **ret,
                                          int *count);
EXPORTED int sanlock_write_lockspace(struct sanlock_space *s, int most, uint32_t flags, uint32_t timeout);
EXPORTED int sanlock_write_resource(struct sanlock_resource *r, int most, int hosts, uint32_t flags);
EXPORTED int sanlock_add_lockspace(struct sanlock_space *s, uint32_t flags);
EXPORTED int sanlock_rem_lockspace(struct sanlock_space *s, uint32_t flags);
EXPORTED const char *sanlock_strerror(int rv);

/* A socket, as the daemon's is: an end of one that nothing comes from. */
int sanlock_register(void)
{
    static int pair[2];
    int rv = told("register", "");

    if (rv == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        rv = -errno;
    return rv < 0 ? rv : pair[0];
}

int sanlock_acquire(int s, int pid, uint32_t flags, int n, struct sanlock_resource *list[], void *o)
{
    const struct sanlock_resource *r = list[0];
    bool shared = (r->flags & SANLOCK_SHARED) != 0;
    char name[NAME + 1], space[NAME + 1], path[512];
    int rv, at = 0;

    assert(s >= 0 && pid == -1 && n == 1 && o == NULL && r->disks == 1 && (flags & SANLOCK_NOWAIT) != 0);
    text_of(name, r->name);
    text_of(space, r->space);
    rv = told("acquire", "%s %s %" PRIu64, shared ? "shared" : "exclusive", name, r->disk.offset);
    if (rv == 0 && joined(space, host()) == 0)
        rv = -ENOSPC;
    if (rv == 0)
        rv = judge_lease(r);
    if (rv < 0)
        return rv;
    assert(find_mine(name) < 0);
    while (at < MOST && mine[at].fd > 0)
        at++;
    assert(at < MOST);
    snprintf(path, sizeof path, "%s/lock.%s", folder(), name);
    mine[at].fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (set_lock(mine[at].fd, shared) != 0) {
        close(mine[at].fd);
        mine[at].fd = 0;
        return conflict(name);
    }
    memcpy(mine[at].name, name, sizeof name);
    note_owner(name, true);
    return 0;
}

int sanlock_release(int s, int pid, uint32_t flags, int n, struct sanlock_resource *list[])
{
    char name[NAME + 1];
    int at, rv;

    assert(s >= 0 && pid == -1 && n == 1 && flags == 0);
    text_of(name, list[0]->name);
    rv = told("release", "%s", name);
    at = find_mine(name);
    assert(at >= 0);
    note_owner(name, false);
    close(mine[at].fd);
    mine[at].fd = 0;
    if (rv == 0 && access(list[0]->disk.path, F_OK) != 0)
        rv = -ENOENT;
    return rv;
}

int sanlock_convert(int s, int pid, uint32_t flags, struct sanlock_resource *r)
{
    char name[NAME + 1];
    int rv;

    assert(s >= 0 && pid == -1 && (r->flags & SANLOCK_SHARED) == 0 && (flags & SANLOCK_NOWAIT) != 0);
    text_of(name, r->name);
    rv = told("convert", "%s", name);
    assert(find_mine(name) >= 0);
    return rv < 0 ? rv : set_lock(mine[find_mine(name)].fd, false) == 0 ? 0 : -EAGAIN;
}

int sanlock_get_lockspaces(struct sanlock_space **ret, int *count, uint32_t flags)
{
    struct sanlock_space *list = calloc(MOST, sizeof *list);
    DIR *dir = opendir(folder());
    int rv = told("get_lockspaces", ""), n = 0;
    struct dirent *entry;
    char prefix[16];

    assert(flags == 0);
    snprintf(prefix, sizeof prefix, "in.%u.", host());
    while (rv == 0 && (entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        memcpy(list[n].name, entry->d_name + strlen(prefix), strnlen(entry->d_name + strlen(prefix), NAME));
        list[n].host = (uint64_t)joined(entry->d_name + strlen(prefix), host());
        list[n].flags = list[n].host == 0 ? SANLOCK_COMING : 0; /* its file says no number yet */
        n++;
    }
    if (dir != NULL)
        closedir(dir);
    *ret = list;
    *count = n;
    return rv;
}

int sanlock_read_resource(struct sanlock_resource *r, uint32_t flags)
{
    struct record is;
    int rv = told("read", "%s %" PRIu64, r->disk.path, r->disk.offset);

    assert(flags == 0);
    if (rv == 0)
        rv = read_record(&r->disk, &is);
    if (rv == 0 && is.magic != MAGIC_LEASE)
        rv = SANLOCK_RV_MAGIC;
    if (rv == 0) {
        memcpy(r->space, is.space, NAME);
        memcpy(r->name, is.name, NAME);
    }
    return rv;
}

int sanlock_read_resource_owners(struct sanlock_resource *r, uint32_t flags, struct sanlock_owner **ret,
                                 int *count)
{
    char name[NAME + 1], space[NAME + 1];
    unsigned hosts[8];
    int rv = told("owners", "%.48s", r->name);

    assert(flags == 0);
    text_of(name, r->name);
    text_of(space, r->space);
    if (rv < 0)
        return rv;
    *count = owners(name, hosts, 8);
    *ret = calloc(8, sizeof **ret);
    for (int i = 0; i < *count; i++)
        (*ret)[i].host = (uint64_t)joined(space, hosts[i]);
    return 0;
}

int sanlock_write_lockspace(struct sanlock_space *s, int most, uint32_t flags, uint32_t timeout)
{
    struct record r = {.magic = MAGIC_HOSTS};
    int rv = told("write_lockspace", "%.48s %#x %" PRIu64, s->name, s->flags, s->disk.offset);

    assert(most == 0 && flags == 0 && timeout == 0);
    memcpy(r.space, s->name, NAME);
    return rv < 0 ? rv : write_record(&s->disk, 0, &r);
}

int sanlock_write_resource(struct sanlock_resource *r, int most, int hosts, uint32_t flags)
{
    struct record is = {.magic = MAGIC_LEASE}, before;
    char name[NAME + 1], there[NAME + 1];
    unsigned have[8];
    int rv = told("write_resource", "%.48s %#x %" PRIu64, r->name, r->flags, r->disk.offset);

    assert(most == 0 && hosts == 0 && flags == 0);
    text_of(name, r->name);
    assert(rv < 0 || owners(name, have, 8) == 0); /* nobody's lease is written over */
    if (read_record(&r->disk, &before) == 0 && before.magic == MAGIC_LEASE &&
        memcmp(before.space, r->space, NAME) == 0) {
        text_of(there, before.name);
        assert(owners(there, have, 8) == 0);
    }
    memcpy(is.space, r->space, NAME);
    memcpy(is.name, r->name, NAME);
    return rv < 0 ? rv : write_record(&r->disk, 0, &is);
}

int sanlock_add_lockspace(struct sanlock_space *s, uint32_t flags)
{
    struct record r = {.magic = MAGIC_HOSTS};
    char space[NAME + 1], path[512];
    int rv = told("join", "%.48s %" PRIu64, s->name, s->host);
    FILE *f;

    assert(flags == 0);
    text_of(space, s->name);
    for (unsigned other = 1; rv == 0 && other < 9; other++)
        if (other != host() && joined(space, other) == (int)s->host)
            rv = SANLOCK_RV_HOST_BUSY;
    if (rv < 0)
        return rv;
    snprintf(path, sizeof path, "%s/in.%u.%s", folder(), host(), space);
    f = fopen(path, "we");
    fprintf(f, "%" PRIu64 "\n", s->host);
    fclose(f);
    memcpy(r.space, space, NAME);
    snprintf(r.name, NAME, "name-%u", host());
    return write_record(&s->disk, (s->host - 1) * 512, &r);
}

int sanlock_rem_lockspace(struct sanlock_space *s, uint32_t flags)
{
    char space[NAME + 1], path[512];
    int rv = told("leave", "%.48s %" PRIu64, s->name, s->host);

    assert(flags == SANLOCK_UNUSED);
    text_of(space, s->name);
    snprintf(path, sizeof path, "%s/in.%u.%s", folder(), host(), space);
    return rv < 0 ? rv : unlink(path) == 0 ? 0 : -ENOENT;
}

const char *sanlock_strerror(int rv)
{
    (void)rv;
    return "an error of the daemon";
}
