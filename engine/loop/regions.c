/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a table of empty places at the first region; each region is put there, piece by piece, while
 * requests are in flight, and taken from there when those that use it have ended.
 * Failure modes: no such table (a kernel before 5.19, a filter): regions are remembered, I/O uses plain addresses.
 * Too little memory may be locked, or it is memory that cannot be pinned: an error, and the region is not known.
 * The kernel does not give a place back: it stays taken as long as the queue.
 */
#include "engine/loop/regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/loop/io.h"
#include "engine/loop/queue.h"

enum { UPDATE_AT_ONCE = 16 };

/* Of more than there are places for, one more than that. */
static unsigned pieces_of(uint64_t len)
{
    return (unsigned)min_u64(div_up(len, UINT64_C(1) << REGION_PIECE_BITS), REGION_PLACES + 1);
}

static struct iovec piece(const struct region *r, unsigned i)
{
    uint64_t offset = (uint64_t)i << REGION_PIECE_BITS;

    assert(offset < r->len);
    return (struct iovec){(char *)r->start + offset, min_u64(r->len - offset, UINT64_C(1) << REGION_PIECE_BITS)};
}

/* ---- the kernel's table ---------------------------------------------------------------------------------- */

/* Put pieces [from, from + n) of the region there; `fill` false: empty their places. 0 or -errno. */
static int update(vdisk_queue *q, const struct region *r, unsigned from, unsigned n, bool fill)
{
    __u64 tags[UPDATE_AT_ONCE] = {0};
    struct iovec iov[UPDATE_AT_ONCE];

    assert(queue_has_ring(q) && from + n <= pieces_of(r->len) && r->place + from + n <= REGION_PLACES);
    while (n > 0) {
        unsigned part = (unsigned)min_u64(n, UPDATE_AT_ONCE);
        for (unsigned i = 0; i < part; i++)
            iov[i] = fill ? piece(r, from + i) : (struct iovec){NULL, 0};
        int done = io_uring_register_buffers_update_tag(&q->ring, r->place + from, iov, tags, part);
        if (done <= 0)
            return done < 0 ? done : -EINVAL;
        from += (unsigned)done;
        n -= (unsigned)done;
    }
    return 0;
}

static bool take_places(struct region_table *t, struct region *r)
{
    unsigned n = pieces_of(r->len), run = 0;

    assert(t->sparse && n > 0);
    for (unsigned i = 0; i < REGION_PLACES && run < n; i++) {
        run = t->taken[i] ? 0 : run + 1;
        r->place = i + 1 - run;
    }
    if (run < n)
        return false;
    assert(r->place + n <= REGION_PLACES);
    memset(t->taken + r->place, 1, n);
    return true;
}

static void give_places(struct region_table *t, const struct region *r)
{
    memset(t->taken + r->place, 0, pieces_of(r->len));
}

/* Its pieces into the table. 0; or -errno, and none of them is there. */
static int fill_places(vdisk_queue *q, struct region *r)
{
    unsigned n = pieces_of(r->len), i;
    int rc = 0;

    if (!take_places(q->region_table, r))
        return -ENOSPC;
    for (i = 0; i < n && rc == 0; i++)
        rc = update(q, r, i, 1, true);
    if (rc == 0)
        return 0;
    if (i <= 1 || update(q, r, 0, i - 1, false) == 0)
        give_places(q->region_table, r);
    return rc;
}

/* One there is; 0, -ENOMEM. Afterwards it may be plain. */
static int need_table(vdisk_queue *q)
{
    struct region_table *t = q->region_table;
    int rc;

    if (!t)
        t = q->region_table = mem_calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    if (t->sparse || t->plain || !queue_has_ring(q))
        return 0;
    rc = io_uring_register_buffers_sparse(&q->ring, REGION_PLACES);
    t->sparse = rc == 0;
    t->plain = rc < 0 && rc != -ENOMEM;
    return rc == -ENOMEM ? rc : 0;
}

static void forget_all(vdisk_queue *q)
{
    assert(!q->leaving && list_empty(&q->in_kernel)); /* nothing is in flight */
    if (q->region_table && (q->region_table->sparse || q->regions_count > 0))
        io_uring_unregister_buffers(&q->ring);
    q->regions_count = q->regions_known = 0;
    if (q->region_table)
        memset(q->region_table, 0, sizeof *q->region_table);
}

/* ---- add ------------------------------------------------------------------------------------------------- */

static int failed(int rc, const char *what)
{
    err_set(rc, "queue: registering %s: %s", what, strerror(-rc));
    return rc == -ENOMEM ? err_hint(rc, "raise the locked memory limit (ulimit -l)") : rc;
}

/* Invariant 1. */
static void insert(vdisk_queue *q, const struct region *r, bool has_places)
{
    unsigned at = q->regions_known++;

    assert(q->regions_count <= at && at < REGIONS_MAX && (!has_places || queue_has_ring(q)));
    if (has_places) {
        q->regions[at] = q->regions[q->regions_count];
        at = q->regions_count++;
    }
    q->regions[at] = *r;
}

static int check_new(const vdisk_queue *q, const void *base, size_t len)
{
    uintptr_t start = (uintptr_t)base;

    if (!base || len == 0 || len > UINTPTR_MAX - start)
        return err_set(EINVAL, "queue: %zu bytes at %p are no memory", len, base);
    for (unsigned i = 0; i < q->regions_known; i++)
        if (start < q->regions[i].start + q->regions[i].len && q->regions[i].start < start + len)
            return err_set(EEXIST, "queue: of the %zu bytes at %p some are registered", len, base);
    if (q->regions_known == REGIONS_MAX)
        return err_hint(err_set(ENOSPC, "queue: %d regions are registered", REGIONS_MAX),
                        "register fewer and larger ones");
    return 0;
}

static int add_memory(vdisk_queue *q, void *base, size_t len)
{
    struct region r = {.start = (uintptr_t)base, .len = len};
    int rc = queue_check_handle(q);
    bool has_places;

    if (rc < 0)
        return err_set(rc, "queue: registering memory: %s", strerror(-rc));
    rc = check_new(q, base, len);
    if (rc < 0)
        return rc;
    rc = need_table(q);
    has_places = rc == 0 && q->region_table->sparse && queue_has_ring(q);
    if (has_places)
        rc = fill_places(q, &r);
    if (rc < 0)
        return failed(rc, "a region");
    insert(q, &r, has_places);
    return 0;
}

int vdisk_queue_add_memory(vdisk_queue *q, void *base, size_t len)
{
    return ERR_CALL(add_memory(q, base, len));
}

/* ---- remove ---------------------------------------------------------------------------------------------- */

/* Of a request that takes a region away: which. */
static struct region region_of(const struct request *r)
{
    return (struct region){.start = (uintptr_t)r->io.iov, .len = r->len, .place = (uint32_t)r->io.offset};
}

/* May this I/O use the region's places? Those with several buffers have plain addresses. */
static bool uses(const struct io *io, const struct region *region)
{
    struct iovec buf;

    if (!io->backend || (io->kind != IO_READ && io->kind != IO_WRITE) || (io->iovcnt > 1 && io->moved == 0))
        return false;
    buf = ring_current_buffer(io);
    return region_find(region, 1, buf.iov_base, buf.iov_len) >= 0;
}

/* Invariant 2. */
static bool is_used(const vdisk_queue *q, const struct request *r)
{
    struct region region = region_of(r);

    if (ENGINE_MUTANT(REGION_GONE_EARLY))
        return false;
    for (struct list *n = q->in_kernel.next; n != &r->io.in_kernel; n = n->next)
        if (uses(container_of(n, struct io, in_kernel), &region))
            return true;
    return false;
}

static void end_removal(struct request *r, int result)
{
    assert(r->queue->worker_jobs > 0 && !list_empty(&r->io.in_kernel)); /* invariants 2, 3 */
    list_del(&r->io.in_kernel);
    r->queue->worker_jobs--;
    request_hand_in(r, result);
}

void regions_retire(vdisk_queue *q)
{
    struct request *r, **at = &q->leaving;

    while ((r = *at)) {
        struct region region = region_of(r);
        int rc;
        if (is_used(q, r)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        rc = update(q, &region, 0, pieces_of(region.len), false);
        if (rc == 0)
            give_places(q->region_table, &region);
        end_removal(r, rc);
    }
    if (!q->leaving)
        q->chores &= (uint8_t)~CHORE_REGIONS;
}

void regions_stop(vdisk_queue *q)
{
    struct request *r;

    while ((r = q->leaving)) {
        q->leaving = r->next;
        end_removal(r, 0);
    }
    q->chores &= (uint8_t)~CHORE_REGIONS;
    q->regions_count = 0;
    if (q->region_table)
        memset(q->region_table, 0, sizeof *q->region_table);
}

/* Out of the list; false: it is not there. */
static bool take_out(vdisk_queue *q, const void *base, size_t len, struct region *ret, bool *ret_has_places)
{
    unsigned at = 0, last = q->regions_known;

    assert(q->regions_count <= last && last <= REGIONS_MAX); /* invariant 1 */
    while (at < last && (q->regions[at].start != (uintptr_t)base || q->regions[at].len != len))
        at++;
    if (at == last)
        return false;
    *ret = q->regions[at];
    *ret_has_places = at < q->regions_count;
    if (*ret_has_places && !ENGINE_MUTANT(REGION_STAYS)) {
        q->regions[at] = q->regions[--q->regions_count];
        at = q->regions_count;
    }
    if (!ENGINE_MUTANT(REGION_STAYS))
        q->regions[at] = q->regions[--q->regions_known];
    return true;
}

void vdisk_queue_remove_memory(vdisk_queue *q, void *base, size_t len, uint64_t user_data)
{
    struct request *r = request_get(q), **last;
    struct region region;
    bool has_places = false;
    int rc = queue_check_handle(q);

    r->user_data = user_data;
    r->vdisk = NULL;
    if (rc == 0 && !q->host)
        thread_adopt(q);
    if (rc == 0 && !take_out(q, base, len, &region, &has_places))
        rc = -ENOENT;
    if (rc < 0 || !has_places) {
        request_hand_in(r, rc);
        return;
    }
    r->io.backend = NULL; /* it is no I/O */
    r->io.iov = base;
    r->io.offset = region.place;
    r->len = len;
    r->next = NULL;
    q->worker_jobs++; /* invariant 3 */
    list_add_tail(&q->in_kernel, &r->io.in_kernel);
    for (last = &q->leaving; *last; last = &(*last)->next)
        ;
    *last = r;
    q->chores |= CHORE_REGIONS;
    regions_retire(q);
}

/* ---- all at once ----------------------------------------------------------------------------------------- */

/* As the kernels before 5.19 can: for good, until all go. */
static int register_fixed(vdisk_queue *q, const struct iovec *regions, unsigned n)
{
    int rc = io_uring_register_buffers(&q->ring, regions, n);

    for (unsigned i = 0; rc == 0 && i < n; i++)
        insert(q, &(struct region){(uintptr_t)regions[i].iov_base, regions[i].iov_len, i}, true);
    return rc;
}

static int register_each(vdisk_queue *q, const struct iovec *regions, unsigned n)
{
    int rc = 0;

    for (unsigned i = 0; i < n && rc == 0; i++) {
        struct region r = {.start = (uintptr_t)regions[i].iov_base, .len = regions[i].iov_len};
        rc = r.len == 0 ? -EFAULT : fill_places(q, &r);
        if (rc == 0)
            insert(q, &r, true);
    }
    return rc;
}

static int register_buffers(vdisk_queue *q, const struct iovec *regions, unsigned n)
{
    int rc = queue_check_handle(q);

    if (rc < 0)
        return err_set(rc, "queue: registering buffers: %s", strerror(-rc));
    if (!regions && n > 0)
        return err_set(EINVAL, "queue: no regions are given");
    if (q->inflight > 0)
        return err_hint(queue_is_busy(q), "reap what is in flight first");
    if (n > REGIONS_MAX)
        return err_hint(err_set(EINVAL, "queue: %u regions are more than %d", n, REGIONS_MAX),
                        "register fewer and larger ones");
    if (!queue_has_ring(q))
        return err_set(ENOTSUP, "queue: no registered buffers without io_uring");
    forget_all(q);
    rc = n > 0 ? need_table(q) : 0;
    if (n == 0 || rc < 0)
        return rc < 0 ? failed(rc, "buffers") : 0;
    rc = q->region_table->sparse ? register_each(q, regions, n) : register_fixed(q, regions, n);
    if (rc == 0)
        return 0;
    forget_all(q);
    return failed(rc, n == 1 ? "1 buffer" : "buffers");
}

int vdisk_queue_register_buffers(vdisk_queue *q, const struct iovec *regions, unsigned n)
{
    return ERR_CALL(register_buffers(q, regions, n));
}
