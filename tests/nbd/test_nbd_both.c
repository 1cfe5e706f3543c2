/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD client over the NBD server in a simulated machine (both.h), against a model: random requests on one to
 * three queues, while lines are cut and the server stops or dies, and comes again.
 *
 *  1. Each request completes once, and none fails: the client has time to come back. But a flush may, once a line
 *     has been cut.
 *  2. A read gives what was acknowledged last. So what is sent again after a cut goes over nothing newer.
 *  3. What a flush that succeeded covers, or what was written with FUA, is there after the server has died.
 *  4. Nobody hangs, and no memory stays.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"
#include "tests/nbd/both.h"

enum { QUEUES = 3, DEPTH = 24, VALUES = 24, SECOND_NS = 1000000000, SEEDS = 10 };

/* What a block may be full of; what was written has a number each, and 0 is zeros. */
struct set {
    unsigned n;
    bool     any;
    uint32_t values[VALUES];
};

struct block {
    struct set may;      /* what a read may find */
    struct set durable;  /* what may be there after a death, besides */
    bool     known;      /* `acked` was acknowledged, and no flush has failed since */
    uint32_t acked;
    uint64_t acked_at;   /* counts what has been acknowledged */
    unsigned readers;    /* requests that are in flight on it */
    bool     changing;
    uint32_t pending;    /* to that */
};

enum kind { READ, WRITE, ZERO, DISCARD, FLUSH, STATUS, KINDS };

struct request {
    bool       used, fua;
    enum kind  kind;
    unsigned   first, count, queue;
    uint32_t   value;
    uint64_t   begun;    /* the count of acknowledgements */
    unsigned   deaths, failures; /* that there had been when it began */
    uint8_t   *buf;
    struct vdisk_extents extents;
    struct vdisk_extent  list[4];
};

struct world {
    struct both   both;
    struct rng   *rng;
    vdisk        *v;
    vdisk_queue  *queues[QUEUES];
    unsigned      nqueues, hot; /* requests begin on so many blocks */
    struct block  blocks[BOTH_BLOCKS];
    struct request requests[DEPTH];
    unsigned      inflight, deaths, failures; /* of flushes */
    bool          flushing;
    uint32_t      last_value;
    uint64_t      acks;
    uint64_t      start_ns; /* when the server comes again; 0: it is there */
};

/* ---- the model -------------------------------------------------------------------------------------------- */

static bool has(const struct set *s, uint32_t value)
{
    bool found = s->any;

    for (unsigned i = 0; i < s->n; i++)
        found |= s->values[i] == value;
    return found;
}

static void add(struct set *s, uint32_t value)
{
    if (has(s, value))
        return;
    s->any = s->n == VALUES;
    if (!s->any)
        s->values[s->n++] = value;
}

static void join(struct set *s, const struct set *other)
{
    s->any |= other->any;
    for (unsigned i = 0; i < other->n; i++)
        add(s, other->values[i]);
}

static struct set only(uint32_t value)
{
    return (struct set){.n = 1, .values = {value}};
}

static void fill(uint8_t *block, uint32_t value)
{
    uint32_t *words = (uint32_t *)(void *)block;

    for (unsigned i = 0; i < BOTH_BLOCK / sizeof value; i++)
        words[i] = value;
}

/* What it is full of. */
static uint32_t content(const uint8_t *block, unsigned number)
{
    uint32_t value;

    memcpy(&value, block, sizeof value);
    CHECK_MSG(memcmp(block, block + sizeof value, BOTH_BLOCK - sizeof value) == 0, "block %u is torn", number);
    return value;
}

/* `now`: and is now, since no server has died meanwhile. */
static void saw(struct world *w, unsigned number, uint32_t value, bool now)
{
    struct block *b = &w->blocks[number];

    CHECK_MSG(has(&b->may, value), "block %u has %u, not %u or one of %u", number, value, b->may.values[0],
              b->may.n);
    if (now)
        b->may = only(value);
}

/* A change has been acknowledged. */
static void acked(struct world *w, unsigned number, const struct request *r)
{
    struct block *b = &w->blocks[number];

    b->changing = false;
    b->acked_at = ++w->acks;
    if (r->kind == DISCARD) {
        add(&b->may, 0);
        join(&b->durable, &b->may);
        b->known = false;
        return;
    }
    /* A server that has died since may have taken it along, as it had not been made durable. */
    if (r->deaths != w->deaths && !r->fua)
        add(&b->may, r->value);
    else
        b->may = only(r->value);
    if (r->fua)
        b->durable = only(r->value);
    else
        add(&b->durable, r->value);
    b->known = r->failures == w->failures; /* a flush that fails tells of what has not been reaped yet, too */
    b->acked = r->value;
}

static void flushed(struct world *w, const struct request *r, int result)
{
    w->flushing = false;
    w->failures += result < 0;
    CHECK_MSG(result == 0 || result == -EIO, "a flush fails with %d", result);
    CHECK_MSG(result == 0 || w->both.cuts > 0, "a flush fails, and nothing was cut");
    for (unsigned i = 0; i < BOTH_BLOCKS; i++) {
        struct block *b = &w->blocks[i];

        if (result < 0) {
            b->known = false;
        } else if (b->known && b->acked_at <= r->begun && !b->changing) {
            CHECK_MSG(has(&b->may, b->acked), "a flush succeeds, and block %u is not the %u that it was", i,
                      b->acked);
            b->may = b->durable = only(b->acked);
        }
    }
}

static void died(struct world *w)
{
    w->deaths++;
    w->both.cuts++;
    for (unsigned i = 0; i < BOTH_BLOCKS; i++) {
        struct block *b = &w->blocks[i];

        join(&b->may, &b->durable);
        if (b->changing)
            add(&b->may, b->pending);
        join(&b->durable, &b->may);
    }
}

/* ---- requests --------------------------------------------------------------------------------------------- */

static bool is_change(enum kind kind)
{
    return kind == WRITE || kind == ZERO || kind == DISCARD;
}

/* Durable zeros are zeros and a flush. */
static bool flushes(const struct request *r)
{
    return r->kind == FLUSH || (r->kind == ZERO && r->fua);
}

static bool is_free(const struct world *w, const struct request *r)
{
    for (unsigned i = r->first; i < r->first + r->count; i++)
        if (w->blocks[i].changing || (is_change(r->kind) && w->blocks[i].readers > 0))
            return false;
    return true;
}

static void occupy(struct world *w, const struct request *r)
{
    for (unsigned i = r->first; i < r->first + r->count; i++) {
        struct block *b = &w->blocks[i];

        if (!is_change(r->kind)) {
            b->readers++;
            continue;
        }
        b->changing = true;
        b->pending = r->value;
        add(&b->durable, r->value); /* it may be there, and its acknowledgement never come */
    }
}

static void enqueue(struct world *w, struct request *r)
{
    vdisk_queue *q = w->queues[r->queue];
    uint64_t offset = (uint64_t)r->first * BOTH_BLOCK, len = (uint64_t)r->count * BOTH_BLOCK;
    uint64_t data = (uint64_t)(r - w->requests);
    uint32_t fua = r->fua ? VDISK_REQ_FUA : 0;

    switch (r->kind) {
    case READ: vdisk_read(q, w->v, offset, r->buf, len, 0, data); break;
    case WRITE: vdisk_write(q, w->v, offset, r->buf, len, fua, data); break;
    case ZERO: vdisk_write_zeroes(q, w->v, offset, len, fua | VDISK_REQ_UNMAP, data); break;
    case DISCARD: vdisk_discard(q, w->v, offset, len, 0, data); break;
    case FLUSH: vdisk_flush(q, w->v, 0, data); break;
    case STATUS:
        r->extents = (struct vdisk_extents){.list = r->list, .max = ARRAY_LEN(r->list)};
        vdisk_get_extents(q, w->v, offset, len, &r->extents, data);
        break;
    case KINDS: break;
    }
}

static void ask(struct world *w)
{
    static const enum kind kinds[] = {READ, READ, READ, WRITE, WRITE, WRITE, WRITE, ZERO, DISCARD, FLUSH, STATUS};
    struct request *r = w->requests;
    unsigned most;

    while (r->used && ++r < w->requests + DEPTH)
        ;
    if (r == w->requests + DEPTH)
        return;
    *r = (struct request){.kind = kinds[rng_below(w->rng, ARRAY_LEN(kinds))],
                          .begun = w->acks, .deaths = w->deaths, .failures = w->failures,
                          .queue = (unsigned)rng_below(w->rng, w->nqueues)};
    if (r->kind != FLUSH) {
        r->first = (unsigned)rng_below(w->rng, w->hot);
        most = rng_chance(w->rng, 10) ? BOTH_BLOCKS : 4;
        r->count = (unsigned)rng_between(w->rng, 1, min_u64(BOTH_BLOCKS - r->first, most));
    }
    r->fua = (r->kind == WRITE || r->kind == ZERO) && rng_chance(w->rng, 15);
    if ((flushes(r) && w->flushing) || !is_free(w, r))
        return;
    r->value = r->kind == WRITE ? ++w->last_value : 0;
    if (r->kind == READ || r->kind == WRITE)
        r->buf = test_alloc((size_t)r->count * BOTH_BLOCK);
    for (unsigned i = 0; r->kind == WRITE && i < r->count; i++)
        fill(r->buf + (size_t)i * BOTH_BLOCK, r->value);
    w->flushing |= flushes(r);
    r->used = true;
    w->inflight++;
    occupy(w, r);
    enqueue(w, r);
}

/* Where it says that there are zeros there may be. */
static void judge_status(struct world *w, const struct request *r)
{
    for (unsigned i = 0; i < r->extents.count; i++) {
        const struct vdisk_extent *e = &r->list[i];

        for (uint64_t at = e->guest_offset; e->flags & VDISK_EXTENT_ZERO && at < e->guest_offset + e->length;
             at += BOTH_BLOCK)
            CHECK_MSG(has(&w->blocks[at / BOTH_BLOCK].may, 0), "block %u is said to be zeros",
                      (unsigned)(at / BOTH_BLOCK));
    }
}

static void completed(struct world *w, const struct vdisk_completion *c)
{
    struct request *r = &w->requests[c->user_data];

    CHECK_MSG(r->used, "a request completes twice");
    CHECK_MSG(c->result == 0 || flushes(r), "request %d fails: %s", r->kind, strerror(-c->result));
    if (flushes(r))
        flushed(w, r, c->result);
    r->fua = r->fua && c->result == 0;
    if (r->kind == STATUS)
        judge_status(w, r);
    for (unsigned i = r->first; i < r->first + r->count; i++) {
        if (is_change(r->kind))
            acked(w, i, r);
        else
            w->blocks[i].readers--;
        if (r->kind == READ)
            saw(w, i, content(r->buf + (size_t)(i - r->first) * BOTH_BLOCK, i), r->deaths == w->deaths);
    }
    free(r->buf);
    r->used = false;
    w->inflight--;
}

/* Let time pass, some of it. */
static void reap(struct world *w)
{
    struct vdisk_completion done[8];
    unsigned q = (unsigned)rng_below(w->rng, w->nqueues);
    struct timespec wait = {.tv_nsec = (long)rng_below(w->rng, rng_chance(w->rng, 20) ? 5000000 : 100000)};
    int n = vdisk_reap(w->queues[q], done, rng_chance(w->rng, 70) ? 1 : 0, ARRAY_LEN(done), &wait);

    CHECK_MSG(n >= 0 || n == -ETIME, "reap: %s", strerror(-n));
    for (int i = 0; i < n; i++)
        completed(w, &done[i]);
    if (n == 0 && vdisk_queue_inflight(w->queues[q]) == 0)
        both_wait(&w->both, -1, 0, both_ns(&w->both) + (uint64_t)wait.tv_nsec);
    if (w->start_ns != 0 && both_ns(&w->both) >= w->start_ns) {
        both_start(&w->both);
        w->start_ns = 0;
    }
}

static void drain(struct world *w)
{
    w->both.end_ns = both_ns(&w->both) + 300 * (uint64_t)SECOND_NS;
    while (w->inflight > 0 || w->start_ns != 0)
        reap(w);
    w->both.end_ns = UINT64_MAX;
}

/* ---- a run ------------------------------------------------------------------------------------------------ */

enum trouble { CUTS, DEATHS, STOPS, NOTHING, TROUBLES };

static void disturb(struct world *w, enum trouble trouble)
{
    if (w->start_ns != 0 || trouble == NOTHING)
        return;
    if (trouble == CUTS || rng_chance(w->rng, 50)) {
        both_cut(&w->both);
        return;
    }
    if (trouble == DEATHS) {
        died(w);
        both_kill(&w->both);
    } else {
        w->both.cuts++;
        both_stop(&w->both);
    }
    w->start_ns = both_ns(&w->both) + rng_between(w->rng, 1, 3 * (uint64_t)SECOND_NS);
}

static void open_client(struct world *w)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    int rc;

    w->nqueues = (unsigned)rng_between(w->rng, 1, QUEUES);
    do /* a line that is cut in the handshake is an error: that is tried again for want of a server only */
        rc = vdisk_open("image-opts:driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=/here,"
                        "file.reconnect-delay=200", &opts, &w->v);
    while (rc < 0 && w->both.limits.cut_percent > 0);
    CHECK_MSG(rc == 0, "open: %s", vdisk_error_text());
    for (unsigned i = 0; i < w->nqueues; i++)
        CHECK_OK(vdisk_queue_create(NULL, &w->queues[i]));
}

/* All of it is what it is to be; then the client goes. */
static void close_client(struct world *w)
{
    int rc;

    for (unsigned i = 0; i < w->nqueues; i++)
        vdisk_queue_destroy(w->queues[i]);
    w->both.end_ns = both_ns(&w->both) + 300 * (uint64_t)SECOND_NS;
    rc = vdisk_close(w->v);
    w->both.end_ns = UINT64_MAX;
    flushed(w, &(struct request){.begun = w->acks}, rc);
}

static void verify(struct world *w)
{
    for (unsigned i = 0; i < BOTH_BLOCKS; i++)
        saw(w, i, content(w->both.disk.now + (size_t)i * BOTH_BLOCK, i), true);
}

static uint64_t run(uint64_t seed, enum trouble trouble, struct rng *rng)
{
    struct world *w = test_alloc(sizeof *w);
    struct both_limits limits = {.threads = (unsigned)rng_between(rng, 1, BOTH_THREADS),
                                 .cut_percent = trouble == NOTHING ? 0 : (unsigned)rng_below(rng, 60),
                                 .half_percent = (unsigned)rng_below(rng, 60),
                                 .cut_bytes = rng_between(rng, 1000, 300000),
                                 .late_ns = UINT64_C(1000) << rng_below(rng, 12),
                                 .room = (size_t)rng_between(rng, 2000, 200000),
                                 .multi_conn = rng_chance(rng, 60), .durable = rng_chance(rng, 10)};
    unsigned steps = test_steps(250);
    uint64_t cuts;

    w->rng = rng;
    w->hot = rng_chance(rng, 50) ? BOTH_BLOCKS : 6;
    for (unsigned i = 0; i < BOTH_BLOCKS; i++)
        w->blocks[i] = (struct block){.may = only(0), .durable = only(0), .known = true};
    both_init(&w->both, seed, &limits);
    both_start(&w->both);
    open_client(w);
    for (unsigned i = 0; i < steps; i++) {
        for (uint64_t n = rng_below(rng, 4); n > 0; n--)
            ask(w);
        reap(w);
        if (rng_chance(rng, 2))
            disturb(w, trouble);
    }
    w->both.limits.cut_percent = 0;
    drain(w);
    verify(w);
    close_client(w);
    both_kill(&w->both);
    died(w);
    verify(w);
    cuts = w->both.cuts;
    both_finish(&w->both);
    free(w);
    return cuts;
}

/* Some runs in one process, so that what one of them leaves is seen. */
static void test_runs(enum trouble trouble)
{
    uint64_t cuts = 0;
    long before = 0;

    for (unsigned i = 0; i < SEEDS; i++) {
        uint64_t seed = rng_next(test_rng());
        struct rng rng;

        test_note("run %u", i);
        rng_init(&rng, seed);
        cuts += run(seed, trouble, &rng);
        if (i == 1)
            before = both_blocks;
    }
    CHECK_MSG(trouble == NOTHING || cuts > SEEDS, "only %llu cuts", (unsigned long long)cuts);
    CHECK_INT(both_blocks, before);
}

static void test_cuts(void)
{
    test_runs(CUTS);
}

static void test_deaths(void)
{
    test_runs(DEATHS);
}

static void test_stops(void)
{
    test_runs(STOPS);
}

static void test_nothing(void)
{
    test_runs(NOTHING);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "cuts", .run = test_cuts, .repeat = 20, .quick = 5, .lengthy = 2000},
        {.name = "deaths", .run = test_deaths, .repeat = 15, .quick = 4, .lengthy = 1000},
        {.name = "stops", .run = test_stops, .repeat = 6, .quick = 2, .lengthy = 400},
        {.name = "nothing", .run = test_nothing, .repeat = 3, .quick = 1, .lengthy = 200},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
