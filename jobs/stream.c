/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stream: an image of some volumes, written from its start to its end.
 *
 * Happy path
 *  1. the extents of the sources (plan.h) tell the front where there is data, if they are not read for that, and
 *     it goes out; a dense format has none. With a backing file a unit that is not there as a whole, nor zeros as
 *     a whole, is data;
 *     Data that is to be compressed goes by once before, for the lengths that it gets;
 *  2. stretches of data, whole units, as the front says, are read ahead, in pieces, in as many slots as there
 *     are, and go out in their order; of a dense image the extents make them, and zeros are not read. Threads
 *     compress what has been read.
 * Failure modes: options, a size or a source that cannot be: nothing has been written; a read or the sink fails,
 * it is cancelled: nothing more is begun, and what is in flight is waited for.
 *
 * Invariants.
 *  1. Slots go out in the order in which they were taken, each when nothing of it is in flight, nor with a thread.
 *  2. Buffers, plan and queue go when nothing is in flight.
 *  3. Success: what has been written is as long as the front has said.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vdisk-bulk.h>

#include "jobs/digest.h"
#include "jobs/jobs.h"
#include "jobs/layers.h"
#include "jobs/pace.h"
#include "jobs/plan.h"
#include "jobs/zeros.h"

#define ZERO_MOST (UINT64_C(64) << 20) /* in one slot: progress goes on meanwhile; with a rate: a piece */

enum {
    PIECE_MOST = 2 << 20, PIECE_LEAST = 64 << 10, DEPTH = 16, DEPTH_MOST = 1024, MEMORY = 32 << 20, REAP_MOST = 64,
};

static const uint64_t PLAN_ASKED = UINT64_MAX; /* a completion that is of no slot */

struct stream_slot {
    struct hash_work work;   /* the first member: to be compressed */
    struct stream *stream;
    uint8_t *packed;  /* a unit each packed_max bytes; NULL: nothing is compressed */
    size_t  *lengths; /* of them; 0: zeros */
    bool     packing; /* a thread has it, or it has not been taken back */
    int      pack_rc;
    uint8_t *buf;
    uint64_t at;      /* in the whole */
    uint64_t len;
    unsigned pending; /* reads in flight */
    bool     zero;    /* `buf` has nothing */
};

struct stream {
    struct vdisk_stream_opts   opts;
    struct vdisk_create_opts   target;
    char                      *strings[5]; /* what `target` points to */
    char                      *name;
    vdisk                    **sources;
    unsigned                   count;
    vdisk_sink_fn             *sink;
    void                      *sink_arg;
    struct vdisk_stream_result result;

    vdisk_job                 *job;
    vdisk_queue               *q;
    int                        rc;
    struct plan                plan;
    vdisk_front               *front;
    struct vdisk_front_info    info;
    struct stream_slot        *slots;
    unsigned                   slot_count, oldest, taken; /* those taken are the oldest and what follows */
    uint8_t                   *buffers, *zeros, *packed;
    size_t                    *lengths;
    struct hashers             packers;
    unsigned                   packing;
    bool                       measuring;  /* for the lengths of what is compressed: nothing is written yet */
    bool                       keep_zeros; /* which are to be data */
    size_t                     piece;
    uint64_t                   from, end;  /* of the stretch at hand, what has no slot yet */
    bool                       zero;       /* it is zeros */
    bool                       all_taken;  /* and there is no other */
    bool                       looking;    /* at data, for what of it is zeros: nothing is written yet */
    unsigned                   inflight;
    struct pace                pace;
    uint64_t                   done;       /* of the plan's total */
    struct layer_sizes         layers;     /* of the only source, above backing_depth */
    uint64_t                   mixed_unit; /* with a backing file: the unit in which the last piece has ended */
    unsigned                   mixed_kinds; /* what pieces of that unit are: bits of enum piece_kind */
};

enum piece_kind { PIECE_BELOW = 1, PIECE_ZERO = 2, PIECE_DATA = 4 };

static int fail_text(struct stream *s, int err, const char *what)
{
    char text[512];

    snprintf(text, sizeof text, "%s: %s", s->name, what);
    return vdisk_job_fail(s->job, err, text, NULL);
}

/* A call of the library has failed: the first failure counts. */
static void note(struct stream *s, int rc)
{
    if (rc < 0 && s->rc == 0)
        s->rc = jobs_fail(s->job, rc);
}

static void step(struct stream *s)
{
    if (s->opts.progress && s->opts.progress(s->opts.progress_arg, s->done, s->plan.total))
        vdisk_job_cancel(s->job);
    note(s, vdisk_job_step(s->job, s->done, s->plan.total));
}

static void put(struct stream *s, const void *data, size_t len)
{
    char text[128];
    int rc;

    if (s->rc < 0 || len == 0)
        return;
    rc = s->sink(s->sink_arg, data, len);
    if (rc == 0) {
        s->result.bytes_written += len;
        return;
    }
    rc = rc < 0 ? rc : -ECANCELED;
    if (rc == -ECANCELED) /* it has seen that the job was told to stop */
        step(s);
    if (s->rc < 0)
        return;
    snprintf(text, sizeof text, "writing: %s", strerror(-rc));
    s->rc = fail_text(s, rc, text);
}

/* ---- the queue ------------------------------------------------------------------------------------------- */

/* On a thread. */
static void pack_slot(struct hash_work *w)
{
    struct stream_slot *t = (struct stream_slot *)w;
    const struct stream *s = t->stream;
    size_t unit = (size_t)s->info.unit;
    int rc = 0;

    for (size_t i = 0; i < t->len / unit && rc == 0; i++) {
        t->lengths[i] = 0;
        if (s->keep_zeros || !zeros_only(t->buf + i * unit, unit))
            rc = vdisk_front_pack(s->front, t->buf + i * unit, t->packed + i * s->info.packed_max, &t->lengths[i]);
    }
    t->pack_rc = rc;
}

/* All of it has been read. */
static void slot_is_read(struct stream *s, struct stream_slot *t)
{
    if (!t->packed || s->rc < 0)
        return;
    t->packing = true;
    s->packing++;
    hashers_give(&s->packers, &t->work);
}

static void take_packed(struct stream *s)
{
    for (struct hash_work *w = hashers_take(&s->packers); w; w = w->next) {
        struct stream_slot *t = (struct stream_slot *)w;
        assert(t->packing && s->packing > 0);
        t->packing = false;
        s->packing--;
        if (t->pack_rc < 0 && s->rc == 0)
            s->rc = fail_text(s, t->pack_rc, strerror(-t->pack_rc));
    }
}

static void take(struct stream *s, const struct vdisk_completion *done)
{
    s->inflight--;
    if (done->result < 0)
        jobs_request_failed(s->job, s->q, done, &s->rc);
    if (done->user_data == PLAN_ASKED) {
        plan_answer(&s->plan, done->result);
        return;
    }
    assert(s->slots[done->user_data].pending > 0);
    if (--s->slots[done->user_data].pending == 0)
        slot_is_read(s, &s->slots[done->user_data]);
}

/* What has ended, waiting for `least`. false: something is left in flight that cannot be waited for. */
static bool reap(struct stream *s, unsigned least)
{
    struct vdisk_completion done[REAP_MOST];
    int n = vdisk_wait(s->q, done, least, REAP_MOST, NULL);

    if (n < 0 && n != -EINTR) {
        note(s, n);
        return false;
    }
    for (int i = 0; i < n; i++)
        take(s, &done[i]);
    if (s->packed)
        take_packed(s);
    return true;
}

static void ask(struct stream *s)
{
    if (plan_ask(&s->plan, s->q, PLAN_ASKED))
        s->inflight++;
}

/* The extents from the start on. */
static void begin_plan(struct stream *s)
{
    int rc;

    assert(s->inflight == 0);
    plan_free(&s->plan);
    memset(&s->plan, 0, sizeof s->plan);
    rc = plan_init(&s->plan, s->sources, s->count, INT64_MAX);
    if (rc < 0 && s->rc == 0)
        s->rc = fail_text(s, rc, rc == -ENOMEM ? "out of memory" : "the sources are larger than a volume can be");
    if (rc == 0 && (s->opts.offset > 0 || s->opts.length > 0))
        plan_cut(&s->plan, s->opts.offset, s->opts.length);
}

/* ---- the front ------------------------------------------------------------------------------------------- */

/* [from, from + len) is of these kinds. */
static void tell_kinds(struct stream *s, uint64_t from, uint64_t len, unsigned kinds)
{
    if (len == 0 || kinds == PIECE_BELOW)
        return;
    if (kinds == PIECE_ZERO)
        note(s, vdisk_front_add_zeroes(s->front, from, len));
    else
        note(s, vdisk_front_add(s->front, from, len));
}

/* The unit that is begun has ended, or all has. */
static void end_unit(struct stream *s)
{
    uint64_t at = s->mixed_unit * s->info.unit;

    if (s->mixed_kinds != 0)
        tell_kinds(s, at, jobs_min(s->info.unit, s->plan.total - at), s->mixed_kinds);
    s->mixed_kinds = 0;
}

/* With a backing file: units are told whole, those with several pieces when all of them are known. */
static void tell_piece(struct stream *s, struct plan_piece *p)
{
    bool below = layers_are_below(&s->layers, s->opts.backing_depth, p->depth, p->flags, p->offset, &p->len);
    unsigned kind = below ? PIECE_BELOW : p->flags & VDISK_EXTENT_ZERO ? PIECE_ZERO : PIECE_DATA;
    uint64_t unit = s->info.unit, end = p->whole + p->len, last = end / unit * unit;
    uint64_t first = jobs_min(jobs_align_up(p->whole, unit), end);

    if (first > p->whole)
        s->mixed_kinds |= kind;
    if (first % unit != 0)
        return; /* it ends within that unit */
    end_unit(s);
    tell_kinds(s, first, last - first, kind);
    s->mixed_unit = last / unit;
    s->mixed_kinds = end > last ? kind : 0;
}

/* By what the sources say alone, or all of it is data. false: as reap(). */
static bool tell_front(struct stream *s)
{
    struct plan_piece p;
    bool alive = true;

    if (s->opts.flags & VDISK_STREAM_DENSE && s->plan.total > 0) {
        note(s, vdisk_front_add(s->front, 0, s->plan.total));
        return true;
    }
    while (alive && s->rc == 0 && !plan_ended(&s->plan)) {
        ask(s);
        if (plan_look(&s->plan, &p)) {
            if (s->target.backing_file)
                tell_piece(s, &p);
            else if (!(p.flags & VDISK_EXTENT_ZERO))
                note(s, vdisk_front_add(s->front, p.whole, p.len));
            plan_take(&s->plan, p.len);
        } else {
            alive = reap(s, 1);
        }
        step(s);
    }
    if (alive && s->rc == 0)
        end_unit(s);
    return alive;
}

/* ---- the data -------------------------------------------------------------------------------------------- */

/* The next stretch of a dense image. false: the plan has nothing at hand, or ends. */
static bool find_in_plan(struct stream *s)
{
    struct plan_piece p;

    if (!plan_look(&s->plan, &p))
        return false;
    plan_take(&s->plan, p.len);
    s->zero = p.flags & VDISK_EXTENT_ZERO;
    s->end = p.whole + p.len;
    s->from = s->looking && s->zero ? s->end : p.whole;
    if (s->end == s->plan.total && !s->looking)
        s->end = jobs_align_up(s->end, s->info.unit);
    return true;
}

/* Is it the extents that make stretches? */
static bool by_plan(const struct stream *s)
{
    return s->info.dense || s->looking;
}

/* The next stretch, if the one at hand has been taken. false: there is none, or none yet. */
static bool find_stretch(struct stream *s)
{
    uint64_t len = 0;

    while (by_plan(s) && s->from == s->end)
        if (!find_in_plan(s))
            return false;
    if (s->from < s->end)
        return true;
    note(s, vdisk_front_next(s->front, s->end, &s->from, &len));
    s->all_taken = len == 0;
    if (len > 0)
        s->end = s->from + len;
    else
        s->from = s->end;
    return len > 0;
}

/* All reads of a slot at once: what lies between sources, and behind the last one, is zeros. */
static void read_slot(struct stream *s, unsigned number)
{
    struct stream_slot *t = &s->slots[number];
    uint64_t n, offset = 0;
    unsigned source;

    for (uint64_t at = 0; at < t->len; at += n) {
        source = s->count;
        n = t->len - at;
        if (t->at + at < s->plan.total)
            n = jobs_min(n, plan_find(&s->plan, t->at + at, &source, &offset));
        if (source == s->count) {
            memset(t->buf + at, 0, n);
            continue;
        }
        t->pending++;
        s->inflight++;
        s->result.bytes_read += n;
        vdisk_read(s->q, s->sources[source], offset, t->buf + at, n, 0, number);
    }
    if (t->pending == 0)
        slot_is_read(s, t);
}

static void take_slot(struct stream *s)
{
    unsigned number = (s->oldest + s->taken) % s->slot_count;
    struct stream_slot *t = &s->slots[number];

    assert(s->taken < s->slot_count && t->pending == 0);
    s->taken++;
    t->at = s->from;
    t->zero = s->zero;
    t->len = jobs_min(s->end - s->from, t->zero && s->opts.rate == 0 ? ZERO_MOST : s->piece);
    s->from += t->len;
    if (!t->zero)
        read_slot(s, number);
}

/* Data that may not go yet: some of the time that it is to wait. true: there is more of that. */
static bool is_throttled(const struct stream *s)
{
    struct timespec t;
    uint64_t ns = pace_wait_ns(&s->pace);

    if (ns == 0)
        return false;
    nanosleep(pace_timeout(ns, &t), NULL);
    return ns > PACE_WAIT_NS;
}

/* Of data that has been read: what is not zeros is data. */
static void look_at(struct stream *s, const struct stream_slot *t)
{
    bool zeros;

    for (uint64_t at = 0, n; at < t->len && s->rc == 0; at += n) {
        n = zeros_run(t->buf + at, t->len - at, (size_t)s->info.unit, (size_t)(t->at + at), &zeros);
        if (!zeros)
            note(s, vdisk_front_add(s->front, t->at + at, n));
    }
}

static void put_zeros(struct stream *s, uint64_t len)
{
    for (uint64_t n; len > 0 && s->rc == 0; len -= n) {
        n = jobs_min(len, s->piece);
        put(s, s->zeros, n);
    }
}

/* The length of each unit is told, or it goes to its place. A source that has changed may get another one. */
static void put_packed(struct stream *s, const struct stream_slot *t)
{
    uint64_t offset = 0, len = 0;

    for (size_t i = 0; i < t->len / s->info.unit && s->rc == 0; i++) {
        uint64_t at = t->at + i * s->info.unit;
        if (s->measuring) {
            note(s, vdisk_front_note(s->front, at, t->lengths[i]));
            continue;
        }
        note(s, vdisk_front_place(s->front, at, &offset, &len));
        if (s->rc == 0 && len != t->lengths[i])
            s->rc = fail_text(s, EBUSY, "a source has changed while it was read");
        if (s->rc < 0)
            return;
        put_zeros(s, offset - s->result.bytes_written);
        put(s, t->packed + i * s->info.packed_max, len);
    }
}

static void put_slot(struct stream *s, const struct stream_slot *t)
{
    if (t->packed) {
        put_packed(s, t);
        return;
    }
    if (!t->zero)
        put(s, t->buf, t->len);
    else
        put_zeros(s, t->len);
}

/* Of the total, where all data is read once, or twice. */
static uint64_t done_at(const struct stream *s, uint64_t at)
{
    if (!(s->opts.flags & (VDISK_STREAM_LOOK | VDISK_STREAM_COMPRESS)) || s->info.dense)
        return at;
    return s->looking || s->measuring ? at / 2 : s->plan.total - (s->plan.total - at) / 2;
}

/* The oldest slot, if it can go. */
static void put_oldest(struct stream *s)
{
    struct stream_slot *t = &s->slots[s->oldest];

    if (s->taken == 0 || t->pending > 0 || t->packing || is_throttled(s)) /* invariant 1 */
        return;
    if (s->looking)
        look_at(s, t);
    else
        put_slot(s, t);
    s->pace.charged += t->len;
    s->oldest = (s->oldest + 1) % s->slot_count;
    s->taken--;
    s->done = done_at(s, jobs_min(t->at + t->len, s->plan.total));
}

/* Before the oldest slot can go, if something will end. What is in flight goes on while the sink blocks. */
static unsigned to_wait_for(const struct stream *s)
{
    const struct stream_slot *t = &s->slots[s->oldest];

    if (s->inflight == 0 && s->packing == 0)
        return 0;
    return s->taken == 0 || t->pending > 0 || t->packing ? 1 : 0;
}

/* All stretches. false: as reap(). */
static bool go_through(struct stream *s)
{
    bool alive = true;

    s->from = s->end = 0;
    s->zero = s->all_taken = false;
    if (by_plan(s))
        begin_plan(s);
    while (alive && s->rc == 0) {
        while (s->taken < s->slot_count && find_stretch(s))
            take_slot(s);
        if (by_plan(s))
            ask(s);
        if (s->taken == 0 && s->inflight == 0 && (by_plan(s) ? plan_ended(&s->plan) : s->all_taken))
            break;
        alive = reap(s, to_wait_for(s));
        if (alive && s->rc == 0)
            put_oldest(s);
        step(s);
    }
    s->done = done_at(s, s->plan.total);
    if (s->rc == 0)
        step(s);
    return alive;
}

static bool look(struct stream *s)
{
    bool alive;

    s->looking = true;
    alive = go_through(s);
    s->looking = false;
    return alive;
}

/* How long units get, of those that may have data. */
static bool measure(struct stream *s)
{
    bool alive;

    s->measuring = true;
    pace_begin(&s->pace, s->opts.rate);
    alive = go_through(s);
    s->measuring = false;
    return alive;
}

/* All of it goes out. false: as reap(). */
static bool put_front(struct stream *s)
{
    size_t len = s->piece > s->info.unit ? s->piece : (size_t)s->info.unit, n = 1;
    bool alive = s->opts.flags & VDISK_STREAM_LOOK ? look(s) : tell_front(s);

    if (alive && s->rc == 0 && s->packed)
        alive = measure(s);
    if (alive && s->rc == 0)
        note(s, vdisk_front_lay_out(s->front));
    while (alive && s->rc == 0 && n > 0) {
        note(s, vdisk_front_read(s->front, s->buffers, len, &n));
        put(s, s->buffers, s->rc == 0 ? n : 0);
        step(s);
    }
    return alive;
}

/* ---- before and after --------------------------------------------------------------------------------- */

static int begin_front(struct stream *s)
{
    int rc;

    s->target.size = sizeof s->target;
    s->target.virtual_size = s->plan.total;
    rc = vdisk_front_create(s->name, &s->target, &s->front);
    if (rc == 0 && s->opts.flags & VDISK_STREAM_COMPRESS)
        rc = vdisk_front_compress(s->front);
    if (rc < 0)
        return jobs_fail(s->job, rc);
    s->keep_zeros = s->opts.flags & VDISK_STREAM_DENSE || (s->target.backing_file && s->target.version == 2);
    s->info.size = sizeof s->info;
    rc = vdisk_front_get_info(s->front, &s->info);
    s->result.virtual_size = s->info.virtual_size;
    return rc < 0 ? jobs_fail(s->job, rc) : 0;
}

static int get_pack_memory(struct stream *s)
{
    size_t units = s->piece / s->info.unit;
    unsigned threads;

    s->packed = vdisk_alloc_buffer(units * s->slot_count * s->info.packed_max);
    s->lengths = calloc(units * s->slot_count, sizeof *s->lengths);
    if (!s->packed || !s->lengths)
        return fail_text(s, ENOMEM, "out of memory");
    for (unsigned i = 0; i < s->slot_count; i++) {
        s->slots[i].packed = s->packed + i * units * s->info.packed_max;
        s->slots[i].lengths = s->lengths + i * units;
        s->slots[i].stream = s;
        s->slots[i].work.run = pack_slot;
    }
    threads = hashers_number();
    if (s->opts.depth && s->opts.depth < threads)
        threads = s->opts.depth;
    hashers_init(&s->packers, s->q, threads, 1);
    return 0;
}

static int get_memory(struct stream *s)
{
    uint64_t memory = s->opts.memory_max ? s->opts.memory_max : MEMORY;
    size_t len, least = PIECE_LEAST;

    s->slot_count = s->opts.depth ? (unsigned)jobs_min(s->opts.depth, DEPTH_MOST) : DEPTH;
    s->piece = PIECE_MOST;
    if (s->info.packed_max > 0) {
        memory = memory * s->info.unit / (s->info.unit + s->info.packed_max);
        least = s->info.unit > PIECE_LEAST ? (size_t)s->info.unit : PIECE_LEAST;
    }
    while (s->piece > least && (uint64_t)s->piece * s->slot_count > memory)
        s->piece /= 2;
    while (s->slot_count > 1 && (uint64_t)s->piece * s->slot_count > memory)
        s->slot_count--;
    len = s->piece * s->slot_count;
    if (len < s->info.unit)
        len = (size_t)s->info.unit; /* for the front */
    s->slots = calloc(s->slot_count, sizeof *s->slots);
    s->buffers = vdisk_alloc_buffer(len);
    s->zeros = calloc(1, s->piece);
    if (!s->slots || !s->buffers || !s->zeros)
        return fail_text(s, ENOMEM, "out of memory");
    for (unsigned i = 0; i < s->slot_count; i++)
        s->slots[i].buf = s->buffers + i * s->piece;
    return s->info.packed_max > 0 ? get_pack_memory(s) : 0;
}

static int prepare(struct stream *s)
{
    int rc = vdisk_queue_create(NULL, &s->q);

    if (rc < 0)
        return jobs_fail(s->job, rc);
    begin_plan(s);
    rc = s->rc;
    if (rc == 0 && s->opts.backing_depth > 0) {
        rc = layers_get_sizes(s->sources[0], s->opts.backing_depth, &s->layers);
        rc = rc < 0 ? jobs_fail(s->job, rc) : 0;
    }
    if (rc == 0)
        rc = begin_front(s);
    return rc < 0 ? rc : get_memory(s);
}

/* false: as reap(). */
static bool write_all(struct stream *s)
{
    bool alive = true;

    step(s);
    if (s->rc == 0 && !s->info.dense)
        alive = put_front(s);
    if (alive && s->rc == 0) {
        note(s, vdisk_front_get_info(s->front, &s->info));
        pace_begin(&s->pace, s->opts.rate);
        alive = go_through(s);
        if (alive && s->rc == 0 && s->packed)
            put_zeros(s, s->info.length - s->result.bytes_written);
    }
    while (alive && s->inflight > 0)
        alive = reap(s, 1);
    assert(!alive || s->rc < 0 || s->result.bytes_written == s->info.length); /* invariant 3 */
    return alive;
}

static int stream_work(vdisk_job *job, void *arg)
{
    struct stream *s = arg;
    bool alive;

    s->job = job;
    s->rc = prepare(s);
    alive = s->rc < 0 || write_all(s);
    hashers_finish(&s->packers);
    if (!alive)
        return s->rc; /* invariant 2: what is still in flight has them */
    vdisk_queue_destroy(s->q);
    vdisk_front_free(s->front);
    plan_free(&s->plan);
    free(s->layers.list);
    free(s->slots);
    free(s->buffers);
    free(s->packed);
    free(s->lengths);
    free(s->zeros);
    return s->rc;
}

static void stream_release(void *arg)
{
    struct stream *s = arg;

    for (size_t i = 0; i < sizeof s->strings / sizeof s->strings[0]; i++)
        free(s->strings[i]);
    free(s->sources);
    free(s->name);
    free(s);
}

static const struct vdisk_job_kind stream_kind = {
    .size = sizeof stream_kind, .name = "stream", .work = stream_work, .release = stream_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

/* The caller's strings may go. false: out of memory. */
static bool copy_strings(struct stream *s)
{
    const char **all[] = {&s->target.format, &s->target.compression_type, &s->target.backing_file,
                          &s->target.backing_fmt, &s->target.data_file};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        s->strings[i] = *all[i] ? strdup(*all[i]) : NULL;
        if (*all[i] && !s->strings[i])
            return false;
        *all[i] = s->strings[i];
    }
    return true;
}

static struct stream *new_stream(vdisk *const *sources, unsigned count, const struct vdisk_create_opts *target,
                                 const struct vdisk_stream_opts *opts)
{
    struct stream *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    if (opts)
        memcpy(&s->opts, opts, jobs_min(opts->size, sizeof s->opts));
    memcpy(&s->target, target, jobs_min(target->size, sizeof s->target));
    s->name = strdup(s->opts.name ? s->opts.name : "stream");
    s->opts.name = NULL;
    s->sources = calloc(count, sizeof(vdisk *));
    s->count = count;
    if (!copy_strings(s) || !s->name || !s->sources) {
        stream_release(s);
        return NULL;
    }
    memcpy(s->sources, sources, count * sizeof(vdisk *));
    return s;
}

static int check_opts(vdisk *const *sources, unsigned count, const struct vdisk_create_opts *target,
                      vdisk_sink_fn *sink, const struct vdisk_stream_opts *opts)
{
    if (!target || !jobs_size_is_sane(target->size) || (opts && !jobs_size_is_sane(opts->size)))
        return vdisk_set_error(EINVAL, "stream: options missing or of a wrong size", NULL);
    if (opts && opts->size >= offsetof(struct vdisk_stream_opts, flags) + sizeof opts->flags &&
        opts->flags & ~(uint32_t)(VDISK_STREAM_DENSE | VDISK_STREAM_LOOK | VDISK_STREAM_COMPRESS))
        return vdisk_set_error(EINVAL, "stream: unknown flags", NULL);
    if (opts && opts->size >= offsetof(struct vdisk_stream_opts, flags) + sizeof opts->flags &&
        opts->flags & (VDISK_STREAM_DENSE | VDISK_STREAM_COMPRESS) && opts->flags & VDISK_STREAM_LOOK)
        return vdisk_set_error(EINVAL, "stream: zeros are data, or are looked for", NULL);
    if (opts && opts->size >= sizeof *opts && opts->backing_depth > 0 && (count > 1 || !target->backing_file))
        return vdisk_set_error(EINVAL, "stream: a backing file has what one source has from below", NULL);
    if (target->size >= sizeof *target && target->backing_file && opts && opts->flags & VDISK_STREAM_LOOK)
        return vdisk_set_error(EINVAL, "stream: zeros are not looked for above a backing file", NULL);
    if (!sources || count == 0)
        return vdisk_set_error(EINVAL, "stream: no source", NULL);
    if (!sink)
        return vdisk_set_error(EINVAL, "stream: nowhere to write to", NULL);
    if (count > 1 && opts && opts->size >= sizeof *opts && (opts->offset > 0 || opts->length > 0))
        return vdisk_set_error(EINVAL, "stream: a part is of one source", NULL);
    return 0;
}

int vdisk_job_stream(vdisk *const *sources, unsigned n_sources, const struct vdisk_create_opts *target,
                     vdisk_sink_fn *sink, void *sink_arg, const struct vdisk_stream_opts *opts,
                     vdisk_job **ret_job)
{
    struct stream *s;
    int rc = check_opts(sources, n_sources, target, sink, opts);

    if (rc < 0)
        return rc;
    s = new_stream(sources, n_sources, target, opts);
    if (!s)
        return vdisk_set_error(ENOMEM, "stream: out of memory", NULL);
    s->sink = sink;
    s->sink_arg = sink_arg;
    rc = vdisk_job_make(&stream_kind, s->name, s, s->sources, n_sources, ret_job);
    if (rc < 0)
        stream_release(s);
    return rc;
}

int vdisk_job_get_stream_result(const vdisk_job *job, struct vdisk_stream_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &stream_kind, &arg);
    struct vdisk_stream_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "stream: result struct of a wrong size", NULL);
    r = ((struct stream *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
