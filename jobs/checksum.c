/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checksum: the digest of a volume's content, and those of its blocks.
 *
 * Happy path: blocks whose digests are known are told and left out. Then one loop: the plan is asked for ahead;
 * blocks that it says are zeros have their digest at once, of others what is not zeros is read into a slot, as
 * many as there are; a slot that is whole goes to the threads that digest (digest.h), and its block's digest into
 * the order of blocks (order.h), which tells them.
 * Failure modes: a read or the plan fails, who is told says stop, it is cancelled: nothing more is begun, what is
 * in flight is waited for.
 *
 * Invariants
 *  1. Blocks are begun in order; one at a time is being begun.
 *  2. A slot's buffer is read into, or digested, never both.
 *  3. Buffers, plan and queue go when nothing is in flight and the threads are gone.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/digest.h"
#include "jobs/order.h"
#include "jobs/pace.h"
#include "jobs/plan.h"

enum {
    BLOCK = 4 << 20, BLOCK_LEAST = 4096, BLOCK_MOST = 64 << 20, MEMORY = 128 << 20, AHEAD = 16 << 20,
    PIECE = 1 << 20, READS_MOST = 512, SLOTS_MOST = 1024, REAP_MOST = 64, GAPS_MOST = 16,
};

#define BLOCKS_MOST (UINT64_C(1) << 31) /* the digest of all of them takes a minute or two */

/* In place of a slot's number, in user_data. */
#define OF_PLAN UINT64_MAX

/* Zeros between data, or before it. */
struct gap {
    size_t at, len;
};

struct block_slot {
    struct hash_work   work; /* the first member */
    struct block_slot *next_free;
    uint8_t           *buf;
    uint64_t           number;  /* of its entry in the order */
    unsigned           pending; /* reads */
    bool               begun;   /* all of it */
    bool               data;    /* some of it: what is zeros is among the gaps, or in the buffer */
    unsigned           gaps_count;
    struct gap         gaps[GAPS_MOST];
};

struct checksum {
    struct vdisk_checksum_opts   opts;
    char                        *name;
    vdisk                       *volume;
    struct vdisk_checksum_result result;

    vdisk_job                   *job;
    vdisk_queue                 *q;
    int                          rc;
    struct plan                  plan;
    struct order                 order;
    struct hashers               hashers;
    uint8_t                      zeros[VDISK_DIGEST_SIZE], last_zeros[VDISK_DIGEST_SIZE];
    size_t                       block, last; /* their length */
    uint64_t                     total, begun;
    unsigned                     inflight, digesting, slot_count;
    struct block_slot           *slots, *free_slots, *beginning;
    uint8_t                     *buffers;
    struct pace                  pace;
};

static int fail_text(struct checksum *c, int rc, const char *what)
{
    char text[512];

    snprintf(text, sizeof text, "%s: %s", c->name, what);
    return vdisk_job_fail(c->job, rc, text, NULL);
}

/* Of the block that `offset` is in. */
static uint64_t block_end(const struct checksum *c, uint64_t offset)
{
    return jobs_min(offset - offset % c->block + c->block, c->total);
}

static const uint8_t *zeros_of(const struct checksum *c, size_t len)
{
    return len == c->block ? c->zeros : c->last_zeros;
}

/* ---- a slot ------------------------------------------------------------------------------------------- */

static void free_slot(struct checksum *c, struct block_slot *s)
{
    assert(s->pending == 0);
    s->next_free = c->free_slots;
    c->free_slots = s;
}

/* Who digests writes them, so that reads do not wait for that; there are more than a slot has places: at once. */
static void add_zeros(struct block_slot *s, size_t at, size_t len)
{
    struct gap *next = &s->gaps[s->gaps_count];

    assert(s->gaps_count <= GAPS_MOST && at + len <= s->work.len);
    if (len > 0 && s->gaps_count < GAPS_MOST) {
        *next = (struct gap){at, len};
        s->gaps_count++;
    } else {
        memset(s->buf + at, 0, len);
    }
}

static void write_gaps(struct hash_work *w)
{
    struct block_slot *s = (struct block_slot *)w;

    for (unsigned i = 0; i < s->gaps_count; i++)
        memset(s->buf + s->gaps[i].at, 0, s->gaps[i].len);
}

static void begin_slot(struct checksum *c)
{
    struct block_slot *s = c->free_slots;

    c->free_slots = s->next_free;
    s->number = order_enter(&c->order);
    s->work.data = s->buf;
    s->work.len = block_end(c, c->begun) - c->begun;
    s->work.zeros = zeros_of(c, s->work.len);
    s->work.prepare = write_gaps;
    s->begun = s->data = false;
    s->gaps_count = 0;
    c->beginning = s;
}

/* What was read of it is there, and all of it was begun. */
static void slot_is_whole(struct checksum *c, struct block_slot *s)
{
    assert(s->begun && s->pending == 0); /* invariant 2 */
    if (c->rc < 0) {
        free_slot(c, s);
    } else if (!s->data) {
        order_set(&c->order, s->number, s->work.zeros);
        free_slot(c, s);
    } else {
        c->digesting++;
        hashers_give(&c->hashers, &s->work);
    }
}

static void read_done(struct checksum *c, struct block_slot *s, const struct vdisk_completion *done)
{
    assert(s->pending > 0);
    s->pending--;
    if (done->result < 0)
        jobs_request_failed(c->job, c->q, done, &c->rc);
    if (s->pending == 0 && s->begun)
        slot_is_whole(c, s);
}

static void take_digests(struct checksum *c)
{
    struct hash_work *next;

    for (struct hash_work *w = hashers_take(&c->hashers); w; w = next) {
        struct block_slot *s = (struct block_slot *)w;
        next = w->next;
        assert(c->digesting > 0);
        c->digesting--;
        order_set(&c->order, s->number, w->digest);
        free_slot(c, s);
    }
}

/* ---- what is begun ------------------------------------------------------------------------------------ */

/* What comes next; behind the volume's end: zeros. false: that is not known yet. */
static bool look(const struct checksum *c, struct plan_piece *ret)
{
    if (!plan_ended(&c->plan))
        return plan_look(&c->plan, ret);
    *ret = (struct plan_piece){.len = c->total - c->begun, .flags = VDISK_EXTENT_ZERO};
    return true;
}

static void take(struct checksum *c, uint64_t len)
{
    if (!plan_ended(&c->plan))
        plan_take(&c->plan, len);
    c->begun += len;
}

/* Whole blocks of zeros, as many as there are. */
static void begin_zeros(struct checksum *c, uint64_t len)
{
    uint64_t count = len / c->block;

    if (count > 0) {
        order_enter_zeros(&c->order, count, c->zeros);
        len = count * c->block;
    } else {
        order_enter_zeros(&c->order, 1, c->last_zeros);
        len = c->last;
    }
    c->result.bytes_zero += len;
    take(c, len);
}

/* Up to `len` bytes of the block that is being begun. */
static void begin_part(struct checksum *c, const struct plan_piece *p, uint64_t len)
{
    struct block_slot *s = c->beginning;
    size_t at = c->begun % c->block;

    if (p->flags & VDISK_EXTENT_ZERO) {
        if (s->data)
            add_zeros(s, at, len);
        c->result.bytes_zero += len;
    } else {
        len = jobs_min(len, PIECE);
        if (!s->data)
            add_zeros(s, 0, at);
        s->data = true;
        s->pending++;
        c->inflight++;
        c->result.bytes_read += len;
        c->pace.charged += len;
        vdisk_read(c->q, c->volume, p->offset, s->buf + at, len, 0, (uint64_t)(s - c->slots));
    }
    take(c, len);
    if (at + len < s->work.len)
        return;
    c->beginning = NULL;
    s->begun = true;
    if (s->pending == 0)
        slot_is_whole(c, s);
}

static bool begin_piece(struct checksum *c, uint64_t *ret_wait_ns)
{
    struct plan_piece p;
    uint64_t left;

    if (c->begun == c->total || c->inflight >= READS_MOST || !look(c, &p))
        return false;
    left = block_end(c, c->begun) - c->begun;
    if (!c->beginning && order_is_full(&c->order))
        return false;
    if (!c->beginning && p.flags & VDISK_EXTENT_ZERO && p.len >= left) {
        begin_zeros(c, p.len);
        return true;
    }
    *ret_wait_ns = p.flags & VDISK_EXTENT_ZERO ? 0 : pace_wait_ns(&c->pace);
    if (*ret_wait_ns > 0 || (!c->beginning && !c->free_slots))
        return false;
    if (!c->beginning)
        begin_slot(c);
    begin_part(c, &p, jobs_min(p.len, left));
    return true;
}

static void begin(struct checksum *c, uint64_t *ret_wait_ns)
{
    *ret_wait_ns = 0;
    do {
        c->inflight += plan_ask(&c->plan, c->q, OF_PLAN);
    } while (begin_piece(c, ret_wait_ns));
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

/* Until something has ended, if `block`, or so long. false: the queue cannot be waited for. */
static bool wait_some(struct checksum *c, bool block, uint64_t wait_ns)
{
    struct vdisk_completion done[REAP_MOST];
    struct timespec t;
    int n = vdisk_wait(c->q, done, block, REAP_MOST, pace_timeout(wait_ns, &t));

    if (n < 0 && n != -EINTR) {
        c->rc = c->rc < 0 ? c->rc : jobs_fail(c->job, n);
        return false;
    }
    for (int i = 0; i < n; i++) {
        c->inflight--;
        if (done[i].user_data != OF_PLAN)
            read_done(c, &c->slots[done[i].user_data], &done[i]);
        else if (plan_answer(&c->plan, done[i].result) < 0)
            jobs_request_failed(c->job, c->q, &done[i], &c->rc);
    }
    return true;
}

/* Whether something was told, so that there may be more. */
static bool tell(struct checksum *c)
{
    int rc = order_tell(&c->order);

    if (rc < 0 && c->rc == 0)
        c->rc = fail_text(c, rc, strerror(-rc));
    return rc != 0;
}

static void step(struct checksum *c)
{
    uint64_t done = jobs_min(c->order.told * c->block, c->total);
    int rc;

    if (c->opts.progress && c->opts.progress(c->opts.progress_arg, done, c->total))
        vdisk_job_cancel(c->job);
    rc = vdisk_job_step(c->job, done, c->total);
    if (rc < 0 && c->rc == 0)
        c->rc = jobs_fail(c->job, rc);
}

/* Whole blocks, or the last one too, at the start. Told one after the other: so none is entered behind it. */
static void take_known(struct checksum *c)
{
    uint8_t digest[VDISK_DIGEST_SIZE];
    uint64_t count = 1, blocks = 0;

    while (c->opts.known_digest && c->rc == 0 && count > 0 && blocks < c->result.blocks) {
        int rc = c->opts.known_digest(c->opts.known_digest_arg, blocks, &count, digest);
        if (rc == 0 && count > c->result.blocks - blocks)
            rc = -EINVAL;
        if (rc != 0) {
            rc = rc < 0 ? rc : -ECANCELED;
            c->rc = fail_text(c, rc, strerror(-rc));
        } else if (count > 0) {
            order_enter_known(&c->order, count, digest);
            blocks += count;
        }
        while (c->rc == 0 && !order_is_empty(&c->order)) {
            tell(c);
            step(c);
        }
    }
    c->begun = c->result.bytes_known = jobs_min(blocks * c->block, c->total);
    plan_skip(&c->plan, c->begun, 1);
}

/* false: something is left in flight that cannot be waited for. */
static bool loop(struct checksum *c)
{
    bool alive = true, told;
    uint64_t wait_ns;

    take_known(c);
    step(c);
    while (alive && c->rc == 0 && !(c->begun == c->total && order_is_empty(&c->order))) {
        take_digests(c);
        begin(c, &wait_ns);
        told = tell(c);
        if (c->inflight == 0 && c->digesting > 0)
            hashers_hurry(&c->hashers); /* nothing else comes before that */
        assert(told || c->rc < 0 || c->inflight + c->digesting > 0 || wait_ns > 0);
        if (c->rc == 0)
            alive = wait_some(c, !told, wait_ns);
        step(c);
    }
    while (alive && c->inflight > 0) /* invariant 3 */
        alive = wait_some(c, true, 0);
    assert(!alive || c->rc < 0 || c->digesting == 0);
    return alive;
}

/* ---- before and after --------------------------------------------------------------------------------- */

/* What all threads compute at once, and as much to be read meanwhile: fresh memory costs more than it brings. */
static int get_memory(struct checksum *c, unsigned threads)
{
    uint64_t memory = c->opts.memory_max ? c->opts.memory_max : MEMORY, count = 2 * LANES * threads;
    size_t room = c->total > 0 ? jobs_min(c->block, c->total) : 1; /* smaller: of the only one */

    if (count < AHEAD / c->block)
        count = AHEAD / c->block;
    count = jobs_min(jobs_min(count, SLOTS_MOST), jobs_min(memory / c->block, c->result.blocks));
    c->slot_count = count > 0 ? (unsigned)count : 1;
    c->slots = calloc(c->slot_count, sizeof *c->slots);
    c->buffers = vdisk_alloc_buffer(room * c->slot_count);
    if (!c->slots || !c->buffers || order_init(&c->order, c->opts.block_digest, c->opts.block_digest_arg) < 0)
        return fail_text(c, ENOMEM, "out of memory");
    for (unsigned i = c->slot_count; i-- > 0;) {
        c->slots[i].buf = c->buffers + i * room;
        free_slot(c, &c->slots[i]);
    }
    memset(c->buffers, 0, room);
    digest_of(c->buffers, room, c->zeros); /* of a whole one, if there is one */
    digest_of(c->buffers, c->last, c->last_zeros);
    return 0;
}

static int set_sizes(struct checksum *c)
{
    char text[160];

    if (plan_init(&c->plan, &c->volume, 1, UINT64_MAX) < 0)
        return fail_text(c, ENOMEM, "out of memory");
    c->total = c->plan.total;
    if (c->opts.flags & VDISK_CHECKSUM_LENGTH) {
        c->total = c->opts.length;
        if (c->total == 0)
            plan_cut(&c->plan, UINT64_MAX, 0);
        else if (c->total < c->plan.total)
            plan_cut(&c->plan, 0, c->total);
    }
    c->last = c->total % c->block;
    c->result.bytes_total = c->total;
    c->result.blocks = c->total / c->block + (c->last > 0);
    if (c->result.blocks > BLOCKS_MOST) {
        snprintf(text, sizeof text, "%" PRIu64 " blocks, which have to be larger: %" PRIu64 " are the most",
                 c->result.blocks, BLOCKS_MOST);
        return fail_text(c, EFBIG, text);
    }
    return 0;
}

/* So many blocks are computed side by side that all threads have some, and as many can be read meanwhile. */
static unsigned together(const struct checksum *c, unsigned threads)
{
    uint64_t count = c->slot_count / (2 * threads);

    return count > 0 ? (unsigned)jobs_min(count, LANES) : 1;
}

static int prepare(struct checksum *c)
{
    unsigned threads = c->opts.threads ? (unsigned)jobs_min(c->opts.threads, HASHERS_MOST) : hashers_number();
    int rc = set_sizes(c);

    if (rc == 0)
        rc = get_memory(c, threads);
    if (rc < 0)
        return rc;
    rc = vdisk_queue_create(NULL, &c->q);
    if (rc < 0)
        return jobs_fail(c->job, rc);
    hashers_init(&c->hashers, c->q, threads, together(c, threads));
    pace_begin(&c->pace, c->opts.rate);
    return 0;
}

static int checksum_work(vdisk_job *job, void *arg)
{
    struct checksum *c = arg;
    bool alive = true;

    c->job = job;
    c->rc = prepare(c);
    if (c->rc == 0)
        alive = loop(c);
    hashers_finish(&c->hashers);
    if (c->rc == 0)
        digest_end(c->order.all, c->result.digest);
    order_free(&c->order);
    if (!alive)
        return c->rc; /* invariant 3: what is still in flight has them */
    vdisk_queue_destroy(c->q);
    plan_free(&c->plan);
    free(c->slots);
    free(c->buffers);
    return c->rc;
}

static void checksum_release(void *arg)
{
    struct checksum *c = arg;

    free(c->name);
    free(c);
}

static const struct vdisk_job_kind checksum_kind = {
    .size = sizeof checksum_kind, .name = "checksum", .work = checksum_work, .release = checksum_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

static int check_opts(const struct vdisk_checksum_opts *o)
{
    if (o->flags & ~(uint32_t)VDISK_CHECKSUM_LENGTH)
        return vdisk_set_error(EINVAL, "checksum: unknown flags", NULL);
    if (o->block_size > 0 &&
        (o->block_size < BLOCK_LEAST || o->block_size > BLOCK_MOST || o->block_size % BLOCK_LEAST > 0))
        return vdisk_set_error(EINVAL, "checksum: the block size has to be a multiple of 4096, and at most 64 MiB",
                               NULL);
    if (o->length % PLAN_SECTOR > 0 || o->length > INT64_MAX)
        return vdisk_set_error(EINVAL, "checksum: the length has to be a multiple of 512", NULL);
    if (digest_init() < 0)
        return vdisk_set_error(ENOTSUP, "checksum: libgcrypt does not give blake2b-256 here (FIPS mode?)", NULL);
    return 0;
}

int vdisk_job_checksum(vdisk *v, const struct vdisk_checksum_opts *opts, vdisk_job **ret_job)
{
    struct vdisk_checksum_opts o = {0};
    struct checksum *c;
    int rc;

    if (opts && !jobs_size_is_sane(opts->size))
        return vdisk_set_error(EINVAL, "checksum: options of a wrong size", NULL);
    if (opts)
        memcpy(&o, opts, jobs_min(opts->size, sizeof o));
    rc = check_opts(&o);
    if (rc < 0)
        return rc;
    c = calloc(1, sizeof *c);
    if (!c)
        return vdisk_set_error(ENOMEM, "checksum: out of memory", NULL);
    c->opts = o;
    c->block = o.block_size ? o.block_size : BLOCK;
    c->result.block_size = (uint32_t)c->block;
    c->volume = v;
    c->name = strdup(o.name ? o.name : "checksum");
    c->opts.name = NULL;
    rc = c->name ? vdisk_job_make(&checksum_kind, c->name, c, &c->volume, 1, ret_job)
                 : vdisk_set_error(ENOMEM, "checksum: out of memory", NULL);
    if (rc < 0)
        checksum_release(c);
    return rc;
}

int vdisk_job_get_checksum_result(const vdisk_job *job, struct vdisk_checksum_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &checksum_kind, &arg);
    struct vdisk_checksum_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "checksum: result struct of a wrong size", NULL);
    r = ((struct checksum *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
