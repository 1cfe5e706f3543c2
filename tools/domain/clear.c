/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The data of a volume that goes: zeros are written over it, and its space is given back.
 *
 * Works: what the file has data for is written over, in place, in steps of 32 MiB, each of which is durable
 * before the next one: so who else uses the disk waits for one step at most. What it has no data for (holes, space
 * that is set aside) takes none by that. Then, or instead, the same steps are discarded. Fails: what cannot be
 * written to is an error; what cannot be discarded is told, and left.
 *
 * Invariant: 1. data that has another name, wherever, is not written to.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { STEP = 32 << 20, PIECE = 2 << 20, EXTENTS = 64 };

#define NS_PER_S UINT64_C(1000000000)

struct clearing {
    struct dom_clear *c;
    vdisk            *v;
    vdisk_queue      *q;
    void             *zeros;
    uint64_t          begun_ns, wiped; /* for the rate */
};

/* ---- requests -------------------------------------------------------------------------------------------- */

/* All that is in flight. The first error, with its text. */
static int wait_for_all(struct clearing *w)
{
    struct vdisk_completion done;
    struct dom_error error = {0};

    while (vdisk_queue_inflight(w->q) > 0) {
        int n = vdisk_reap(w->q, &done, 1, 1, NULL);
        if (n < 0 && n != -EINTR)
            return n;
        if (n == 1 && done.result < 0 && error.rc == 0)
            dom_error_keep(&error, vdisk_explain(w->q, &done));
    }
    return error.rc < 0 ? dom_error_give(&error) : 0;
}

static int flush(struct clearing *w)
{
    vdisk_flush(w->q, w->v, 0, 0);
    return wait_for_all(w);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Until as much time has passed as what was written is to take. */
static void pace(const struct clearing *w)
{
    uint64_t due, now = now_ns();

    if (w->c->rate == 0)
        return;
    due = w->begun_ns + (uint64_t)((double)w->wiped / (double)w->c->rate * (double)NS_PER_S);
    if (due > now) {
        struct timespec pause = {(time_t)((due - now) / NS_PER_S), (long)((due - now) % NS_PER_S)};
        nanosleep(&pause, NULL);
    }
}

static int show(struct clearing *w, uint64_t bytes)
{
    struct dom_clear *c = w->c;

    c->done += bytes;
    if (c->progress == NULL || c->progress(c->progress_arg, min_u64(c->done, c->total), c->total) == 0)
        return 0;
    return dom_fail(ECANCELED, NULL, "it was cancelled");
}

/* ---- zeros ----------------------------------------------------------------------------------------------- */

static int write_step(struct clearing *w, uint64_t offset, uint64_t len)
{
    int rc;

    for (uint64_t at = 0; at < len; at += PIECE)
        vdisk_write(w->q, w->v, offset + at, w->zeros, (size_t)min_u64(PIECE, len - at), 0, 0);
    rc = wait_for_all(w);
    if (rc == 0)
        rc = flush(w);
    w->wiped += len;
    w->c->wiped += len;
    if (rc == 0)
        pace(w);
    return rc;
}

static int write_extent(struct clearing *w, const struct vdisk_extent *e)
{
    bool data = (e->flags & VDISK_EXTENT_DATA) != 0 && (e->flags & VDISK_EXTENT_ZERO) == 0;
    int rc = 0;

    for (uint64_t at = 0, len; rc == 0 && at < e->length; at += len) {
        len = data ? min_u64(STEP, e->length - at) : e->length - at;
        if (data)
            rc = write_step(w, e->guest_offset + at, len);
        if (rc == 0)
            rc = show(w, len);
    }
    return rc;
}

static int wipe(struct clearing *w)
{
    struct vdisk_extent list[EXTENTS];
    uint64_t at = 0, size = vdisk_size(w->v);
    int rc = 0;

    while (rc == 0 && at < size) {
        struct vdisk_extents extents = {.list = list, .max = EXTENTS};
        vdisk_get_extents(w->q, w->v, at, size - at, &extents, 0);
        rc = wait_for_all(w);
        for (unsigned i = 0; rc == 0 && i < extents.count; i++) {
            rc = write_extent(w, &list[i]);
            at = list[i].guest_offset + list[i].length;
        }
    }
    return rc;
}

/* ---- discards -------------------------------------------------------------------------------------------- */

/* As Vdsm has it: nobody relies on it. */
static int discard(struct clearing *w, const struct domain *d, const char *volume)
{
    uint64_t size = vdisk_size(w->v), len;
    int rc = 0;

    for (uint64_t at = 0; rc == 0 && at < size; at += len) {
        len = min_u64(STEP, size - at);
        vdisk_discard(w->q, w->v, at, len, 0, 0);
        rc = wait_for_all(w);
        if (rc == 0)
            rc = flush(w);
        if (rc < 0) {
            dom_note(d, "volume %s: its space is not discarded: %s", volume, vdisk_error_text());
            return show(w, size - at);
        }
        w->c->discarded += len;
        rc = show(w, len);
    }
    return rc;
}

/* ---- all of it --------------------------------------------------------------------------------------------- */

/* Where a file system writes to another place than before, the old one is not written over. */
static void tell_where(const struct domain *d, const char *path, const char *volume)
{
    struct statfs fs;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), flags = 0;

    if (fd < 0)
        return;
    if (fstatfs(fd, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC &&
        (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_NOCOW_FL) == 0))
        dom_note(d, "volume %s: its file system writes zeros to another place: what it had stays on the disk "
                 "until that is used again", volume);
    close(fd);
}

static int clear_open(struct clearing *w, const struct domain *d, const char *volume)
{
    int rc = vdisk_queue_create(NULL, &w->q);

    if (rc < 0)
        return rc;
    w->zeros = vdisk_alloc_buffer(PIECE);
    if (w->zeros == NULL)
        rc = dom_fail(ENOMEM, NULL, "out of memory");
    else
        memset(w->zeros, 0, PIECE);
    w->begun_ns = now_ns();
    if (rc == 0 && w->c->wipe)
        rc = wipe(w);
    if (rc == 0 && w->c->discard)
        rc = discard(w, d, volume);
    return rc;
}

/* The image is locked, and the volume is not published: who claims a file is this program; a device nobody. */
static int clear_path(struct domain *d, const char *path, const char *volume, struct dom_clear *c)
{
    struct vdisk_open_opts how = {.size = sizeof how,
                                  .flags = VDISK_OPEN_RDWR | (d->extent == 0 ? VDISK_OPEN_NO_LOCK : 0),
                                  .format = "raw"};
    struct clearing w = {.c = c};
    struct dom_error error;
    int rc = vdisk_open(path, &how, &w.v);

    if (rc < 0)
        return rc;
    if (c->wipe)
        tell_where(d, path, volume);
    rc = clear_open(&w, d, volume);
    dom_error_keep(&error, rc);
    vdisk_close(w.v);
    vdisk_queue_destroy(w.q);
    free(w.zeros);
    return rc < 0 ? dom_error_give(&error) : 0;
}

int dom_clear(struct domain *d, const char *image, const struct domain_volume *v, struct dom_clear *c)
{
    char *path = NULL;
    int rc;

    if (!v->has_data || v->odd || (!c->wipe && !c->discard))
        return 0;
    if (v->links > 1) { /* (1) */
        dom_note(d, "volume %s: its data has %u names: it is not written to", v->uuid, v->links);
        return 0;
    }
    rc = dom_data_path(d, image, v->uuid, &path);
    if (rc == 0)
        rc = clear_path(d, path, v->uuid, c);
    free(path);
    return rc;
}

void dom_clear_add(struct dom_clear *c, const struct domain_volume *v)
{
    if (v->has_data && !v->odd && v->links <= 1)
        c->total += v->size * (uint64_t)(c->wipe + c->discard);
}
