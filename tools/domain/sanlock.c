/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: libsanlock.so.1 is loaded once, and this process made known to the daemon once; leases are
 * taken one after the other. Fails: with what the daemon says; there is no library, or no daemon.
 *
 * Invariants:
 *  1. A lease is known to the daemon once for this process; who else in it has it, too, is counted here.
 *  2. What could not be taken as a whole is given back.
 *  3. The connection is this process's: no command gets it, and a child that was forked makes one of its own.
 */
#include "tools/domain/sanlock.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/sanlock_abi.h"
#include "tools/domain/kind.h"

static struct {
    pthread_mutex_t   lock;
    bool              loaded;
    struct sanlock_fn fn;
    int               connection; /* -1: none */
    struct held {
        char     space[SANLOCK_NAME], name[SANLOCK_NAME];
        unsigned users;
        bool     shared;
    }     *list; /* (1) */
    size_t count;
} the = {.lock = PTHREAD_MUTEX_INITIALIZER, .connection = -1};

/* ---- the library, and the daemon --------------------------------------------------------------------------- */

/* (3) What the parent has is not given back. */
static void in_child(void)
{
    pthread_mutex_init(&the.lock, NULL); /* a thread of the parent may have held it, with the list half changed */
    if (the.connection >= 0)
        close(the.connection);
    the.connection = -1;
    the.list = NULL;
    the.count = 0;
}

static int load(void)
{
    static const struct {
        const char *name;
        size_t      at;
    } names[] = {
        {"sanlock_register", offsetof(struct sanlock_fn, make_known)},
        {"sanlock_acquire", offsetof(struct sanlock_fn, acquire)},
        {"sanlock_release", offsetof(struct sanlock_fn, release)},
        {"sanlock_convert", offsetof(struct sanlock_fn, convert)},
        {"sanlock_get_lockspaces", offsetof(struct sanlock_fn, get_lockspaces)},
        {"sanlock_read_resource", offsetof(struct sanlock_fn, read_resource)},
        {"sanlock_read_resource_owners", offsetof(struct sanlock_fn, read_owners)},
        {"sanlock_write_lockspace", offsetof(struct sanlock_fn, write_lockspace)},
        {"sanlock_write_resource", offsetof(struct sanlock_fn, write_resource)},
        {"sanlock_add_lockspace", offsetof(struct sanlock_fn, add_lockspace)},
        {"sanlock_rem_lockspace", offsetof(struct sanlock_fn, rem_lockspace)},
        {"sanlock_strerror", offsetof(struct sanlock_fn, strerror)},
    };
    void *library;

    if (the.loaded)
        return 0;
    library = dlopen("libsanlock.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return dom_fail(ENOTCONN, NULL, "sanlock's library cannot be loaded: %s", dlerror());
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        void *symbol = dlsym(library, names[i].name);
        if (symbol == NULL)
            return dom_fail(ENOTCONN, NULL, "libsanlock.so.1 has no %s: it is too old", names[i].name);
        memcpy((char *)&the.fn + names[i].at, &symbol, sizeof symbol);
    }
    the.loaded = pthread_atfork(NULL, NULL, in_child) == 0;
    return the.loaded ? 0 : dom_fail(ENOMEM, NULL, "out of memory");
}

/* What a call gave, that is no conflict. */
static int fail(int rv, const char *space, const char *doing, const char *what)
{
    if (rv == -ECONNREFUSED || rv == -EPIPE || rv == -ECONNRESET)
        return dom_fail(ENOTCONN, NULL, "the sanlock daemon of this host does not answer: %s", strerror(-rv));
    return dom_fail(rv > -200 ? rv : EIO, NULL, "lockspace %.48s: %s %.100s: %s (sanlock: %d)", space, doing, what,
                    rv > -200 ? strerror(-rv) : the.fn.strerror(rv), rv);
}

/* That this host is out is not to be taken for a disk that is full. */
static int fail_taking(int rv, const char *space, const char *doing, const char *what)
{
    if (rv != -ENOSPC && rv != -ESTALE)
        return fail(rv, space, doing, what);
    return dom_fail(ENOTCONN, NULL, "lockspace %.48s: %s %.100s: this host has left it, or is losing it (sanlock: "
                    "%d)", space, doing, what, rv);
}

static int unreachable(int rv)
{
    return dom_fail(ENOTCONN, NULL, "the sanlock daemon of this host does not answer: %s",
                    rv < 0 && rv > -200 ? strerror(-rv) : "no connection");
}

/* (3) */
static int connect_daemon(void)
{
    int rc = load();

    if (rc < 0 || the.connection >= 0)
        return rc;
    the.connection = the.fn.make_known();
    if (the.connection < 0)
        return unreachable(the.connection);
    fcntl(the.connection, F_SETFD, FD_CLOEXEC);
    return 0;
}

/* With the library, locked. */
static int begin(void)
{
    int rc;

    pthread_mutex_lock(&the.lock);
    rc = load();
    if (rc < 0)
        pthread_mutex_unlock(&the.lock);
    return rc;
}

static int end(int rc)
{
    pthread_mutex_unlock(&the.lock);
    return rc;
}

/* ---- what the library takes -------------------------------------------------------------------------------- */

static void fill_text(char *ret, size_t room, const char *text)
{
    memset(ret, 0, room);
    memcpy(ret, text, strnlen(text, room));
}

static uint32_t size_flags(const struct sanlock_place *p)
{
    uint32_t flags = p->sector == 4096 ? SANLOCK_SECTOR_4K : SANLOCK_SECTOR_512;

    switch (p->align >> 20) {
    case 2: return flags | SANLOCK_ALIGN_2M;
    case 4: return flags | SANLOCK_ALIGN_4M;
    case 8: return flags | SANLOCK_ALIGN_8M;
    default: return flags | SANLOCK_ALIGN_1M;
    }
}

static void fill_disk(struct sanlock_disk *disk, const struct sanlock_place *place)
{
    *disk = (struct sanlock_disk){.offset = place->offset};
    fill_text(disk->path, sizeof disk->path - 1, place->path);
}

static void fill_resource(struct sanlock_resource *r, const char *space, const struct sanlock_lease *lease)
{
    *r = (struct sanlock_resource){.disks = 1, .flags = lease->shared ? SANLOCK_SHARED : 0};
    fill_text(r->space, sizeof r->space, space);
    fill_text(r->name, sizeof r->name, lease->name);
    fill_disk(&r->disk, &lease->place);
}

static void fill_space(struct sanlock_space *s, const char *space, const struct sanlock_place *place,
                       unsigned host)
{
    *s = (struct sanlock_space){.host = host, .flags = size_flags(place)};
    fill_text(s->name, sizeof s->name, space);
    fill_disk(&s->disk, place);
}

/* ---- what this process has --------------------------------------------------------------------------------- */

static struct held *find_held(const char *space, const char *name)
{
    for (size_t i = 0; i < the.count; i++)
        if (strncmp(the.list[i].space, space, SANLOCK_NAME) == 0 &&
            strncmp(the.list[i].name, name, SANLOCK_NAME) == 0)
            return &the.list[i];
    return NULL;
}

/* Room for one more, so that what has been taken can be noted. */
static int make_room(void)
{
    struct held *list;

    if ((the.count & (the.count + 1)) != 0)
        return 0;
    list = reallocarray(the.list, 2 * the.count + 2, sizeof *list);
    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    the.list = list;
    return 0;
}

static void note_held(const char *space, const struct sanlock_lease *lease)
{
    struct held *h = &the.list[the.count++];

    *h = (struct held){.users = 1, .shared = lease->shared};
    fill_text(h->space, sizeof h->space, space);
    fill_text(h->name, sizeof h->name, lease->name);
}

static bool is_conflict(int rv)
{
    return rv == -EEXIST || rv == -EAGAIN || rv == -EBUSY || rv == SANLOCK_RV_IDLIVE || rv == SANLOCK_RV_OWNED ||
           rv == SANLOCK_RV_OTHER || rv == SANLOCK_RV_SHRETRY || rv == SANLOCK_RV_OWNED_RETRY;
}

/* What it reads is no lease, or not that one. */
static bool is_none(int rv)
{
    return rv == -ENOENT || rv == -EMSGSIZE || rv == SANLOCK_RV_MAGIC || rv == SANLOCK_RV_LOCKSPACE ||
           rv == SANLOCK_RV_RESOURCE;
}

static int take_one(const char *space, const struct sanlock_lease *lease, bool *ret_here)
{
    struct held *h = find_held(space, lease->name);
    struct sanlock_resource r, *list[] = {&r};
    int rv;

    *ret_here = true;
    if (h != NULL && h->shared && lease->shared) {
        h->users++;
        return 0;
    }
    if (h != NULL)
        return -EAGAIN;
    rv = make_room();
    if (rv < 0)
        return rv;
    fill_resource(&r, space, lease);
    rv = the.fn.acquire(the.connection, -1, SANLOCK_NOWAIT, 1, list, NULL);
    *ret_here = rv == -EEXIST;
    if (is_conflict(rv))
        return -EAGAIN;
    if (is_none(rv))
        return -ENODATA;
    if (rv < 0)
        return fail_taking(rv, space, "taking lease", lease->name);
    note_held(space, lease);
    return 0;
}

static int give_one(const char *space, const struct sanlock_lease *lease)
{
    struct held *h = find_held(space, lease->name);
    struct sanlock_resource r, *list[] = {&r};
    int rv;

    if (h == NULL || --h->users > 0)
        return 0;
    *h = the.list[--the.count];
    fill_resource(&r, space, lease);
    rv = the.fn.release(the.connection, -1, 0, 1, list);
    return rv >= 0 || rv == -ENOENT ? 0 : fail(rv, space, "giving back lease", lease->name);
}

int sanlock_take(const char *space, const struct sanlock_lease *leases, size_t n, size_t *ret_which,
                 bool *ret_here)
{
    size_t done = 0;
    int rc = begin();

    if (rc < 0)
        return rc;
    rc = connect_daemon();
    while (rc == 0 && done < n) {
        rc = take_one(space, &leases[done], ret_here);
        if (rc == 0)
            done++;
    }
    *ret_which = done;
    if (rc < 0) { /* (2) */
        struct dom_error error;
        dom_error_keep(&error, rc);
        while (done > 0)
            give_one(space, &leases[--done]);
        rc = rc == -EAGAIN || rc == -ENODATA ? rc : dom_error_give(&error);
    }
    return end(rc);
}

int sanlock_give(const char *space, const struct sanlock_lease *leases, size_t n)
{
    int rc = begin();

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        int now = give_one(space, &leases[i]);
        rc = rc == 0 ? now : rc;
    }
    return end(rc);
}

int sanlock_exclude(const char *space, const struct sanlock_lease *lease)
{
    struct sanlock_lease alone = *lease;
    struct sanlock_resource r;
    struct held *h;
    int rv = begin();

    if (rv < 0)
        return rv;
    alone.shared = false;
    h = find_held(space, lease->name);
    assert(h != NULL);
    if (!h->shared)
        return end(0);
    if (h->users > 1)
        return end(-EAGAIN);
    fill_resource(&r, space, &alone);
    rv = the.fn.convert(the.connection, -1, SANLOCK_NOWAIT, &r);
    if (is_conflict(rv))
        return end(-EAGAIN);
    if (rv < 0)
        return end(fail_taking(rv, space, "having alone lease", lease->name));
    h->shared = false;
    return end(0);
}

/* ---- what the daemon knows --------------------------------------------------------------------------------- */

/* 1: it is in it; 0: it is coming in, or leaving; -ENOENT: it is not. With the library. */
static int look_for_space(const char *space, unsigned *ret)
{
    struct sanlock_space *list = NULL;
    int count = 0, rv = the.fn.get_lockspaces(&list, &count, 0), rc = rv < 0 ? unreachable(rv) : -ENOENT;

    for (int i = 0; rv >= 0 && i < count; i++) {
        if (strncmp(list[i].name, space, SANLOCK_NAME) != 0 || rc == 1)
            continue;
        rc = (list[i].flags & (SANLOCK_COMING | SANLOCK_GOING)) == 0;
        *ret = (unsigned)list[i].host;
    }
    free(list);
    return rc;
}

int sanlock_host(const char *space, unsigned *ret)
{
    unsigned host = 0;
    int rc = begin();

    if (rc < 0)
        return rc;
    rc = look_for_space(space, &host);
    if (rc == 1)
        *ret = host;
    return end(rc == 1 ? 0 : rc == 0 ? -ENOENT : rc);
}

bool sanlock_is_out(const char *space)
{
    unsigned host;

    return begin() == 0 && end(look_for_space(space, &host)) == -ENOENT;
}

int sanlock_owners(const char *space, const struct sanlock_lease *lease, unsigned *ret, size_t most, size_t *count)
{
    struct sanlock_owner *list = NULL;
    struct sanlock_resource r;
    int n = 0, rv = begin();

    if (rv < 0)
        return rv;
    fill_resource(&r, space, lease);
    rv = the.fn.read_owners(&r, 0, &list, &n);
    if (rv < 0)
        return end(fail(rv, space, "asking who has lease", lease->name));
    *count = min_u64((uint64_t)n, most);
    for (size_t i = 0; i < *count; i++)
        ret[i] = (unsigned)list[i].host;
    free(list);
    return end(0);
}

int sanlock_read(const char *space, const struct sanlock_place *place, char ret[SANLOCK_NAME + 1])
{
    const struct sanlock_lease any = {.place = *place};
    struct sanlock_resource r;
    int rv = begin();

    if (rv < 0)
        return rv;
    fill_resource(&r, "", &any);
    rv = the.fn.read_resource(&r, 0);
    if (is_none(rv))
        return end(-ENOENT);
    if (rv < 0)
        return end(fail(rv, space, "reading", place->path));
    if (strncmp(r.space, space, SANLOCK_NAME) != 0)
        return end(-ENOENT);
    memcpy(ret, r.name, SANLOCK_NAME);
    ret[SANLOCK_NAME] = '\0';
    return end(0);
}

/* ---- what is on disk, and who is in ------------------------------------------------------------------------ */

int sanlock_format_space(const char *space, const struct sanlock_place *place)
{
    struct sanlock_space s;
    int rv = begin();

    if (rv < 0)
        return rv;
    fill_space(&s, space, place, 0);
    rv = the.fn.write_lockspace(&s, 0, 0, 0);
    return end(rv < 0 ? fail(rv, space, "writing", place->path) : 0);
}

int sanlock_format_lease(const char *space, const struct sanlock_lease *lease)
{
    struct sanlock_resource r;
    int rv = begin();

    if (rv < 0)
        return rv;
    fill_resource(&r, space, lease);
    r.flags = size_flags(&lease->place);
    rv = the.fn.write_resource(&r, 0, 0, 0);
    return end(rv < 0 ? fail(rv, space, "writing lease", lease->name) : 0);
}

int sanlock_join(const char *space, const struct sanlock_place *place, unsigned host)
{
    struct sanlock_space s;
    int rv = begin();

    if (rv < 0)
        return rv;
    fill_space(&s, space, place, host);
    s.flags = 0;
    rv = the.fn.add_lockspace(&s, 0);
    if (rv == SANLOCK_RV_HOST_BUSY)
        return end(dom_fail(EBUSY, "each host has a number of its own",
                            "lockspace %.48s: another host is in it by number %u", space, host));
    return end(rv < 0 ? fail(rv, space, "coming into", place->path) : 0);
}

int sanlock_leave(const char *space, const struct sanlock_place *place, unsigned host)
{
    struct sanlock_space s;
    int rv = begin();

    if (rv < 0)
        return rv;
    fill_space(&s, space, place, host);
    s.flags = 0;
    rv = the.fn.rem_lockspace(&s, SANLOCK_UNUSED);
    if (rv == -EBUSY)
        return end(dom_fail(EBUSY, NULL, "lockspace %.48s: leases of it are held by this host", space));
    return end(rv < 0 ? fail(rv, space, "leaving", place->path) : 0);
}
