/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compare: the content of two volumes, up to the first difference.
 *
 * Happy path: both plans are asked for ahead; where both have zeros nothing is read, where one has, the other is
 * looked at for what is not; pieces are read in as many slots as there are. The shorter one goes on as zeros.
 * Failure modes: a read or a plan fails, it is cancelled: nothing more is begun; what is in flight is waited for.
 *
 * Invariants
 *  1. Pieces are begun in order, and none behind a difference that has been found; all that was begun is looked at
 *     before the job ends: so the least difference is the first.
 *  2. Buffers, plans and queue go when nothing is in flight.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/pace.h"
#include "jobs/plan.h"
#include "jobs/zeros.h"

enum { PIECE = 1 << 20, DEPTH = 8, DEPTH_MOST = 256, REAP_MOST = 64, SECTOR = 512 };

/* What a completion is of, in the low bits of its user_data; above: the slot. Plans: 0 and 1. */
enum { OF_PLAN = 0, OF_READ = 2, KINDS = 4 };

struct compare_slot {
    struct compare_slot *next_free;
    uint8_t             *buf[2];
    bool                 read[2]; /* else it is zeros */
    unsigned             number, pending;
    uint64_t             offset;
    size_t               len;
};

struct compare {
    struct vdisk_compare_opts   opts;
    char                       *name;
    vdisk                      *volumes[2];
    struct vdisk_compare_result result;

    vdisk_job                  *job;
    vdisk_queue                *q;
    int                         rc;
    struct plan                 plans[2];
    uint64_t                    total, begun, done;
    bool                        differs; /* result says where: nothing behind is begun */
    unsigned                    inflight, slot_count;
    struct compare_slot        *slots, *free_slots;
    uint8_t                    *buffers;
    struct pace                 pace;
};

/* ---- what differs ------------------------------------------------------------------------------------- */

static void found(struct compare *c, enum vdisk_difference what, uint64_t offset)
{
    if (c->differs && offset >= c->result.offset)
        return;
    c->differs = true;
    c->result.difference = what;
    c->result.offset = offset;
    c->result.behind_end = offset >= jobs_min(c->plans[0].total, c->plans[1].total);
}

/* The first sector of a slot that differs; its length: none does. */
static size_t first_difference(const struct compare_slot *s)
{
    size_t n;

    for (size_t at = 0; at < s->len; at += n) {
        n = jobs_min(SECTOR, s->len - at);
        if (s->read[0] && s->read[1] ? memcmp(s->buf[0] + at, s->buf[1] + at, n) != 0
                                     : !zeros_only(s->buf[s->read[1]] + at, n))
            return at;
    }
    return s->len;
}

static bool is_same(const struct compare_slot *s)
{
    if (s->read[0] && s->read[1])
        return memcmp(s->buf[0], s->buf[1], s->len) == 0;
    return zeros_only(s->buf[s->read[1]], s->len);
}

static void read_done(struct compare *c, struct compare_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending > 0);
    s->pending--;
    if (done->result < 0)
        jobs_request_failed(c->job, c->q, done, &c->rc);
    if (s->pending > 0)
        return;
    if (c->rc == 0 && !is_same(s))
        found(c, VDISK_DIFFERENCE_CONTENT, s->offset + first_difference(s));
    c->done += s->len;
    s->next_free = c->free_slots;
    c->free_slots = s;
}

/* ---- what is begun ------------------------------------------------------------------------------------ */

/* What comes next in one of them; behind its end: zeros. false: that is not known yet. */
static bool look(const struct compare *c, unsigned i, struct plan_piece *ret)
{
    if (!plan_ended(&c->plans[i]))
        return plan_look(&c->plans[i], ret);
    *ret = (struct plan_piece){.len = c->total - c->begun, .flags = VDISK_EXTENT_ZERO};
    return true;
}

static void take(struct compare *c, uint64_t len)
{
    for (unsigned i = 0; i < 2; i++)
        if (!plan_ended(&c->plans[i]))
            plan_take(&c->plans[i], len);
    c->begun += len;
}

static void begin_reads(struct compare *c, const struct plan_piece *p, uint64_t len)
{
    struct compare_slot *s = c->free_slots;

    c->free_slots = s->next_free;
    s->offset = c->begun;
    s->len = len;
    for (unsigned i = 0; i < 2; i++) {
        s->read[i] = !(p[i].flags & VDISK_EXTENT_ZERO);
        if (!s->read[i])
            continue;
        s->pending++;
        c->inflight++;
        c->result.bytes_read += len;
        vdisk_read(c->q, c->volumes[i], s->offset, s->buf[i], len, 0, (uint64_t)s->number * KINDS + OF_READ);
    }
}

static bool begin_piece(struct compare *c, uint64_t *ret_wait_ns)
{
    struct plan_piece p[2];
    uint64_t len;

    if (c->begun == c->total || c->differs || !look(c, 0, &p[0]) || !look(c, 1, &p[1]))
        return false;
    len = jobs_min(p[0].len, p[1].len);
    if (c->opts.flags & VDISK_COMPARE_STRICT && p[0].flags != p[1].flags) {
        found(c, VDISK_DIFFERENCE_STATUS, c->begun);
        return false;
    }
    if (p[0].flags & p[1].flags & VDISK_EXTENT_ZERO) {
        c->done += len;
        take(c, len);
        return true;
    }
    *ret_wait_ns = pace_wait_ns(&c->pace);
    if (!c->free_slots || *ret_wait_ns > 0)
        return false;
    len = jobs_min(len, PIECE - c->begun % PIECE);
    begin_reads(c, p, len);
    c->pace.charged += len;
    take(c, len);
    return true;
}

static void begin(struct compare *c, uint64_t *ret_wait_ns)
{
    *ret_wait_ns = 0;
    do {
        for (unsigned i = 0; i < 2; i++)
            c->inflight += plan_ask(&c->plans[i], c->q, (uint64_t)OF_PLAN + i);
    } while (begin_piece(c, ret_wait_ns));
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

static void plan_failed(struct compare *c, const struct vdisk_completion *done)
{
    if (c->rc == 0 && c->opts.ret_extents_failed)
        *c->opts.ret_extents_failed = true;
    jobs_request_failed(c->job, c->q, done, &c->rc);
}

static bool wait_some(struct compare *c, uint64_t wait_ns)
{
    struct vdisk_completion done[REAP_MOST];
    struct timespec t;
    int n = vdisk_wait(c->q, done, 1, REAP_MOST, pace_timeout(wait_ns, &t));

    if (n < 0 && n != -EINTR) {
        c->rc = c->rc < 0 ? c->rc : jobs_fail(c->job, n);
        return false;
    }
    for (int i = 0; i < n; i++) {
        unsigned kind = done[i].user_data % KINDS;
        c->inflight--;
        if (kind == OF_READ)
            read_done(c, &c->slots[done[i].user_data / KINDS], &done[i]);
        else if (plan_answer(&c->plans[kind], done[i].result) < 0)
            plan_failed(c, &done[i]);
    }
    return true;
}

static void step(struct compare *c)
{
    int rc;

    if (c->opts.progress && c->opts.progress(c->opts.progress_arg, c->done, c->total))
        vdisk_job_cancel(c->job);
    rc = vdisk_job_step(c->job, c->done, c->total);
    if (rc < 0 && c->rc == 0)
        c->rc = jobs_fail(c->job, rc);
}

/* false: something is left in flight that cannot be waited for. */
static bool loop(struct compare *c)
{
    bool alive = true;
    uint64_t wait_ns;

    step(c);
    while (alive && c->rc == 0 && !c->differs) {
        begin(c, &wait_ns);
        if (c->inflight == 0 && (wait_ns == 0 || c->differs))
            break;
        alive = wait_some(c, wait_ns);
        step(c);
    }
    while (alive && c->inflight > 0) /* invariants 1 and 2 */
        alive = wait_some(c, 0);
    assert(!alive || c->rc < 0 || c->differs || c->begun == c->total);
    return alive;
}

/* ---- before and after --------------------------------------------------------------------------------- */

static int get_memory(struct compare *c)
{
    c->slot_count = c->opts.depth ? (unsigned)jobs_min(c->opts.depth, DEPTH_MOST) : DEPTH;
    while (c->opts.memory_max > 0 && c->slot_count > 1 &&
           (uint64_t)2 * PIECE * c->slot_count > c->opts.memory_max)
        c->slot_count--;
    c->slots = calloc(c->slot_count, sizeof *c->slots);
    c->buffers = vdisk_alloc_buffer((size_t)2 * PIECE * c->slot_count);
    if (!c->slots || !c->buffers)
        return -ENOMEM;
    for (unsigned i = c->slot_count; i-- > 0;) {
        c->slots[i].number = i;
        c->slots[i].buf[0] = c->buffers + (size_t)2 * i * PIECE;
        c->slots[i].buf[1] = c->slots[i].buf[0] + PIECE;
        c->slots[i].next_free = c->free_slots;
        c->free_slots = &c->slots[i];
    }
    return 0;
}

static int prepare(struct compare *c)
{
    char text[300];
    int rc = 0;

    for (unsigned i = 0; i < 2 && rc == 0; i++) {
        rc = plan_init(&c->plans[i], &c->volumes[i], 1, UINT64_MAX);
        c->total = c->plans[i].total > c->total ? c->plans[i].total : c->total;
    }
    if (rc == 0)
        rc = get_memory(c);
    if (rc < 0) {
        snprintf(text, sizeof text, "%s: %s", c->name, strerror(-rc));
        return vdisk_job_fail(c->job, rc, text, NULL);
    }
    c->result.sizes_differ = c->plans[0].total != c->plans[1].total;
    if (c->result.sizes_differ && c->opts.flags & VDISK_COMPARE_STRICT) {
        found(c, VDISK_DIFFERENCE_SIZE, jobs_min(c->plans[0].total, c->plans[1].total));
        return 0;
    }
    rc = vdisk_queue_create(NULL, &c->q);
    return rc < 0 ? jobs_fail(c->job, rc) : 0;
}

static int compare_work(vdisk_job *job, void *arg)
{
    struct compare *c = arg;
    bool alive = true;

    c->job = job;
    pace_begin(&c->pace, c->opts.rate);
    c->rc = prepare(c);
    if (c->rc == 0 && !c->differs)
        alive = loop(c);
    if (!alive)
        return c->rc; /* invariant 2: what is still in flight has them */
    vdisk_queue_destroy(c->q);
    plan_free(&c->plans[0]);
    plan_free(&c->plans[1]);
    free(c->slots);
    free(c->buffers);
    return c->rc;
}

static void compare_release(void *arg)
{
    struct compare *c = arg;

    free(c->name);
    free(c);
}

static const struct vdisk_job_kind compare_kind = {
    .size = sizeof compare_kind, .name = "comparison", .work = compare_work, .release = compare_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

int vdisk_job_compare(vdisk *a, vdisk *b, const struct vdisk_compare_opts *opts, vdisk_job **ret_job)
{
    struct compare *c;
    int rc;

    if (opts && (!jobs_size_is_sane(opts->size) ||
                 (opts->size >= sizeof *opts && opts->flags & ~(uint32_t)VDISK_COMPARE_STRICT)))
        return vdisk_set_error(EINVAL, "comparison: options of a wrong size, or unknown flags", NULL);
    c = calloc(1, sizeof *c);
    if (!c)
        return vdisk_set_error(ENOMEM, "comparison: out of memory", NULL);
    if (opts)
        memcpy(&c->opts, opts, jobs_min(opts->size, sizeof c->opts));
    c->volumes[0] = a;
    c->volumes[1] = b;
    c->name = strdup(c->opts.name ? c->opts.name : "comparison");
    c->opts.name = NULL;
    rc = c->name ? vdisk_job_make(&compare_kind, c->name, c, c->volumes, 2, ret_job)
                 : vdisk_set_error(ENOMEM, "comparison: out of memory", NULL);
    if (rc < 0)
        compare_release(c);
    return rc;
}

int vdisk_job_get_compare_result(const vdisk_job *job, struct vdisk_compare_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &compare_kind, &arg);
    struct vdisk_compare_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "comparison: result struct of a wrong size", NULL);
    r = ((struct compare *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
