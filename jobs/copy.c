/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy: volumes, one after the other, into another.
 *
 * Happy path
 *  1. options are judged; the volumes are held; what an old target has is given back, if it is to be
 *     (copy_discard.c);
 *  2. where both can share their blocks on the host, and may (VDISK_COPY_CLONE), they do, and that is all; else
 *     buffers are had, a fixed number of a fixed size, for two of them many that are short; and in one loop
 *     the plan is asked for ahead (plan.h), pieces go their way in as many slots as there are
 *     (copy_slot.c): reads in the order of the plan, writes in any, but those that are compressed; known zeros are
 *     not read, nor is data of which the host can share the blocks, where a part is all that it can. What comes in
 *     from the program has no plan (fill.c);
 *     Where digests of blocks are asked for, what a slot has read goes to threads that digest as well (blocks.h),
 *     and the slot is free when both are done;
 *  3. one flush; besides, where somebody wants to go on later, one from time to time (mark.h).
 * Failure modes
 *  - before 2: nothing has been written;
 *  - a read, a write, the plan or the flush fails, or it is cancelled: nothing more is begun, what is in flight is
 *    waited for, and the target holds some of the source. The same job can be made again: it writes all of it.
 *
 * Invariants
 *  1. Buffers, plan and queue go when nothing is in flight.
 *  2. Success: each byte of the sources is in the target, as read, or left out since it is there already by what
 *     the caller has promised (TARGET_IS_ZERO, backing_depth) or the target says (copy_discard.c), and durable.
 */
#include "jobs/copy.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE_MOST = 2 << 20, PIECE_WHOLE = 8 << 20, PIECE_LEAST = 64 << 10, PIECE_PACKED = 1 << 20,
    DEPTH = 16, SHORTENED = 2, DEPTH_MOST = 1024, UNIT = 4096, UNIT_LEAST = 512,
    MEMORY_PACKED = 64 << 20,
};

#define BLOCKS_MOST (UINT64_C(1) << 31) /* as of a checksum */

/* ---- what is begun ------------------------------------------------------------------------------------ */

/* The target has it from its own backing file. Of a piece that is so in part that part is left. */
static bool is_below(const struct copy *c, struct plan_piece *p)
{
    return layers_are_below(&c->layers, c->opts.backing_depth, p->depth, p->flags, p->offset, &p->len);
}

/* What has been begun ahead of the plan. false: that is not at hand yet. */
static bool catch_up(struct copy *c)
{
    struct plan_piece p;

    while (c->ahead > 0 && plan_look(&c->plan, &p)) {
        uint64_t n = jobs_min(c->ahead, p.len);
        plan_take(&c->plan, n);
        c->ahead -= n;
    }
    return c->ahead == 0;
}

/* Whole units are compressed: one in which something else begins is data. true: it is such a one. */
static bool round_to_units(const struct copy *c, struct plan_piece *p)
{
    assert((p->whole & (c->pack - 1)) == 0);
    if (p->whole + p->len == c->plan.total)
        return false;
    if (p->len >= c->pack) {
        p->len &= ~(uint64_t)(c->pack - 1);
        return false;
    }
    p->len = jobs_min(c->pack, c->plan.total - p->whole);
    return true;
}

/* One piece, of what is at hand. false: it has to wait. */
static bool begin_piece(struct copy *c, uint64_t *ret_wait_ns)
{
    uint32_t flags = c->opts.flags;
    bool zero, below, mixed, left, has;
    struct plan_piece p;

    if (!catch_up(c) || !plan_look(&c->plan, &p) || !copy_has_room(c))
        return false;
    if (!copy_look_there(c, &p))
        return false;
    below = is_below(c, &p); /* which may leave a part: of that, whole units */
    mixed = c->pack > 0 && round_to_units(c, &p);
    below = below && !mixed;
    zero = (p.flags & VDISK_EXTENT_ZERO) != 0 && !mixed;
    has = flags & VDISK_COPY_TARGET_IS_ZERO || c->clean >= p.len;
    left = below ? zero || !c->blocks : zero && has && !(flags & VDISK_COPY_DENSE);
    if (left) {
        c->result.bytes_skipped += p.len;
        c->done += p.len;
        if (c->blocks)
            blocks_enter_zeros(c->blocks, p.len);
        plan_take(&c->plan, p.len);
        return true;
    }
    *ret_wait_ns = pace_wait_ns(&c->pace);
    zero = zero && !(c->pack > 0 && flags & VDISK_COPY_DENSE);
    if (*ret_wait_ns > 0 || !copy_has_slot(c, &p, zero))
        return false;
    if (zero)
        copy_begin_zeros(c, &p);
    else if (below || !copy_begin_shared(c, &p))
        copy_begin_data(c, &p, below);
    return true;
}

static void begin(struct copy *c, uint64_t *ret_wait_ns)
{
    *ret_wait_ns = 0;
    do {
        if (plan_ask(&c->plan, c->q, COPY_PLAN))
            c->inflight++;
        copy_ask_there(c);
    } while (begin_piece(c, ret_wait_ns));
}

/* The host may do it, with nobody looking at the data. */
static bool may_share(const struct copy *c)
{
    uint32_t harmless = VDISK_COPY_CLONE | VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_DISCARD;
    uint32_t others = c->opts.flags & ~harmless;

    return c->opts.flags & VDISK_COPY_CLONE && others == 0 && c->opts.sparse == 0 && c->opts.backing_depth == 0 &&
           !c->opts.block_digest;
}

/* false: it cannot be had as a whole. */
static bool clone_whole(struct copy *c)
{
    bool whole = c->count == 1 && c->opts.offset == 0 && c->opts.length == 0 && c->opts.going_on.start == 0;

    if (!whole || !may_share(c))
        return false;
    if (vdisk_clone(c->sources[0], c->target) < 0)
        return false;
    c->done = c->result.bytes_cloned = c->plan.handed = c->plan.total;
    return true;
}

/* ---- buffers ------------------------------------------------------------------------------------------ */

/* The first `whole` ones are for whole pieces. */
static void add_slot(struct copy *c, unsigned i, size_t whole)
{
    struct copy_slot *s = &c->slots[i], **list = i < whole ? &c->free_slots : &c->free_short;

    s->number = i;
    s->room = i < whole ? c->piece : COPY_SHORT;
    s->buf = c->buffers + jobs_min(i, whole) * c->piece + (i < whole ? 0 : (i - whole) * COPY_SHORT);
    s->next_free = *list;
    *list = s;
}

static int get_memory(struct copy *c)
{
    size_t whole = c->slot_count - c->short_count, len = whole * c->piece + (size_t)c->short_count * COPY_SHORT;
    struct iovec all;

    c->slots = calloc(c->slot_count, sizeof *c->slots);
    c->buffers = vdisk_alloc_buffer(len);
    if (c->opts.flags & VDISK_COPY_DENSE)
        c->zeros = vdisk_alloc_buffer(c->piece);
    if (!c->slots || !c->buffers || (c->opts.flags & VDISK_COPY_DENSE && !c->zeros))
        return copy_fail_text(c, ENOMEM, "out of memory");
    if (c->zeros)
        memset(c->zeros, 0, c->piece);
    for (unsigned i = c->slot_count; i-- > 0;) {
        add_slot(c, i, whole);
    }
    all = (struct iovec){c->buffers, len};
    vdisk_queue_register_buffers(c->q, &all, 1); /* saves some work where it can be had */
    return 0;
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

/* What can be had without is had before. */
static bool discard(struct copy *c)
{
    c->rc = get_memory(c);
    return c->rc == 0 ? copy_discard(c) : true;
}

/* false: something is left in flight that cannot be waited for. */
static bool loop(struct copy *c)
{
    uint64_t wait_ns;
    bool alive = true;

    copy_step(c);
    if (c->rc == 0 && c->opts.flags & VDISK_COPY_DISCARD)
        alive = discard(c);
    if (alive && c->rc == 0 && clone_whole(c))
        copy_step(c);
    else if (alive && c->rc == 0 && !c->slots) /* not before: it takes longer than cloning */
        c->rc = get_memory(c);
    if (alive && c->rc == 0 && c->source)
        alive = copy_fill(c);
    while (alive && c->rc == 0 && !(plan_ended(&c->plan) && !copy_is_busy(c))) {
        begin(c, &wait_ns);
        if (!copy_is_busy(c) && wait_ns == 0) {
            assert(plan_ended(&c->plan));
            break;
        }
        copy_mark_if_due(c);
        alive = copy_wait(c, wait_ns);
        copy_step(c);
    }
    if (alive && c->rc == 0 && c->blocks)
        alive = copy_end_digests(c);
    while (alive && c->inflight > 0)
        alive = copy_wait(c, 0);
    if (alive && (mark_note(&c->mark, copy_done_before(c)) || c->rc == 0))
        copy_flush(c);
    while (alive && c->inflight > 0)
        alive = copy_wait(c, 0);
    return alive;
}

/* ---- before and after --------------------------------------------------------------------------------- */

static size_t power_of_two(uint64_t least, uint64_t most)
{
    size_t size = UNIT_LEAST;

    while (size < least && size < most)
        size *= 2;
    return size;
}

/* What the target's storage has as a unit (an object of a cluster) is written as a whole, unless that is much. */
static size_t whole_piece(const struct vdisk_info *info)
{
    bool whole = info->preferred_transfer > PIECE_MOST && info->preferred_transfer <= PIECE_WHOLE;

    return whole ? info->preferred_transfer : PIECE_MOST;
}

static int choose_sizes(struct copy *c)
{
    struct vdisk_info info = {.size = sizeof info};
    uint64_t memory = c->opts.memory_max, slot, unit;
    int rc = vdisk_get_info(c->target, &info);

    if (rc < 0)
        return jobs_fail(c->job, rc);
    c->slot_count = c->opts.depth ? (unsigned)jobs_min(c->opts.depth, DEPTH_MOST) : DEPTH;
    c->pack = c->opts.flags & VDISK_COPY_COMPRESS ? info.compress_align : 0;
    if (c->opts.flags & VDISK_COPY_COMPRESS && c->pack == 0)
        return copy_fail_text(c, ENOTSUP, "Compression not supported for this file format");
    c->piece = whole_piece(&info);
    if (c->pack > 0)
        c->piece = PIECE_PACKED > c->pack ? PIECE_PACKED : c->pack; /* whatever the depth is */
    if (memory == 0)
        memory = c->pack > 0 ? MEMORY_PACKED : (uint64_t)DEPTH * c->piece;
    while (c->pack == 0 && c->piece > PIECE_LEAST && (uint64_t)c->piece * c->slot_count > memory)
        c->piece /= 2;
    slot = c->piece + (c->pack > 0 ? jobs_pack_takes(c->piece) : 0);
    while (c->slot_count > 1 && slot * c->slot_count > memory)
        c->slot_count--;
    if (c->opts.depth == 0 && c->pack == 0 && !c->source && c->slot_count > SHORTENED && c->piece > COPY_SHORT) {
        c->short_count = (unsigned)(SHORTENED * c->piece / COPY_SHORT);
        c->slot_count += c->short_count - SHORTENED;
    }
    unit = c->opts.sparse ? c->opts.sparse : UNIT;
    if (info.zero_align > unit)
        unit = info.zero_align;
    if (info.request_align > unit)
        unit = info.request_align;
    c->unit = c->opts.flags & VDISK_COPY_DENSE ? 0 : power_of_two(unit, c->piece);
    c->zeroes_cheap = info.zeroes_cheap;
    c->share_most = c->piece;
    c->share_unit = info.discard_align > info.request_align ? info.discard_align : info.request_align;
    if (!may_share(c) || strcmp(info.format, "raw") != 0 || c->share_unit > c->piece)
        c->share_unit = 0;
    return 0;
}

static int prepare_plan(struct copy *c)
{
    int rc = plan_init(&c->plan, c->sources, c->count, vdisk_size(c->target));
    char text[64];

    if (rc < 0)
        return copy_fail_text(c, rc, rc == -ENOMEM ? "out of memory"
                                                        : "the sources are larger than a volume can be");
    if (c->opts.offset > 0 || c->opts.length > 0)
        plan_cut(&c->plan, c->opts.offset, c->opts.length);
    c->plan.guess = c->opts.flags & VDISK_COPY_SALVAGE;
    c->result.bytes_total = c->plan.total;
    mark_begin(&c->mark, &c->opts.going_on, 0);
    if (c->plan.total > vdisk_size(c->target)) {
        snprintf(text, sizeof text, "has %" PRIu64 " bytes, %" PRIu64 " are needed", vdisk_size(c->target),
                 c->plan.total);
        return copy_fail_text(c, ENOSPC, text);
    }
    return 0;
}

/* Those of what has been copied before are known. */
static int prepare_digests(struct copy *c)
{
    uint64_t end = c->plan.total > c->opts.digest_length ? c->plan.total : c->opts.digest_length;
    uint64_t known = plan_ended(&c->plan) ? end : c->plan.handed;
    int rc;

    if (end / BLOCKS_SIZE >= BLOCKS_MOST)
        return copy_fail_text(c, EFBIG, "more than 2^31 blocks to be digested");
    c->blocks = calloc(1, sizeof *c->blocks);
    rc = c->blocks ? blocks_begin(c->blocks, c->q, c->slot_count, c->opts.block_digest, c->opts.block_digest_arg)
                   : -ENOMEM;
    if (rc == -ENOTSUP)
        return copy_fail_text(c, rc, "libgcrypt does not give blake2b-256 here (FIPS mode?)");
    if (rc == 0)
        rc = blocks_know(c->blocks, c->plan.handed, known, c->opts.known_digest, c->opts.known_digest_arg);
    return rc < 0 ? copy_fail_text(c, rc, rc == -EINVAL ? "the digest of a block before the start is not known"
                                                        : strerror(-rc)) : 0;
}

static int prepare(struct copy *c)
{
    int rc = c->source ? 0 : prepare_plan(c);

    if (rc < 0)
        return rc;
    rc = vdisk_queue_create(NULL, &c->q);
    if (rc < 0)
        return jobs_fail(c->job, rc);
    rc = choose_sizes(c);
    if (rc < 0)
        return rc;
    plan_skip(&c->plan, c->opts.going_on.start, c->opts.block_digest ? BLOCKS_SIZE : c->pack > 0 ? c->pack : UNIT);
    c->done = c->mark.reached = c->plan.handed;
    if (c->opts.backing_depth > 0)
        rc = layers_get_sizes(c->sources[0], c->opts.backing_depth, &c->layers);
    if (rc < 0)
        return jobs_fail(c->job, rc);
    return c->opts.block_digest ? prepare_digests(c) : 0;
}

static int copy_work(vdisk_job *job, void *arg)
{
    struct copy *c = arg;
    bool alive = true;

    c->job = job;
    pace_begin(&c->pace, c->opts.rate);
    c->rc = prepare(c);
    if (c->rc == 0)
        alive = loop(c);
    if (c->blocks)
        hashers_finish(&c->blocks->hashers);
    if (!alive)
        return c->rc; /* invariant 1: what is still in flight has them */
    if (c->rc == 0 && c->blocks)
        digest_end(c->blocks->order.all, c->result.digest);
    if (c->blocks)
        blocks_free(c->blocks);
    free(c->blocks);
    vdisk_queue_destroy(c->q);
    plan_free(&c->plan);
    plan_free(&c->there);
    free(c->layers.list);
    free(c->slots);
    free(c->buffers);
    free(c->zeros);
    return c->rc;
}

static void copy_release(void *arg)
{
    struct copy *c = arg;

    free(c->sources);
    free(c->name);
    free(c);
}

static const struct vdisk_job_kind copy_kind = {
    .size = sizeof copy_kind, .name = "copy", .work = copy_work, .release = copy_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

static struct copy *new_copy(vdisk *const *sources, unsigned count, vdisk *target,
                             const struct vdisk_copy_opts *opts)
{
    struct copy *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    if (opts)
        memcpy(&c->opts, opts, jobs_min(opts->size, sizeof c->opts));
    c->name = strdup(c->opts.name ? c->opts.name : "copy");
    c->opts.name = NULL;
    c->sources = calloc(count + 1, sizeof *c->sources);
    if (!c->name || !c->sources) {
        copy_release(c);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        c->sources[i] = sources[i];
    c->sources[count] = target; /* all that are held, in one list */
    c->count = count;
    c->target = target;
    return c;
}

static int check_flags(const struct vdisk_copy_opts *opts, uint32_t known)
{
    if (opts && !jobs_size_is_sane(opts->size))
        return vdisk_set_error(EINVAL, "copy: options of a wrong size", NULL);
    if (opts && opts->size >= offsetof(struct vdisk_copy_opts, flags) + sizeof opts->flags && opts->flags & ~known)
        return vdisk_set_error(EINVAL, "copy: unknown flags", NULL);
    return 0;
}

static int check_opts(vdisk *const *sources, unsigned count, vdisk *target, const struct vdisk_copy_opts *opts)
{
    int rc = check_flags(opts, VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_DENSE | VDISK_COPY_SALVAGE |
                                   VDISK_COPY_COMPRESS | VDISK_COPY_CLONE | VDISK_COPY_DISCARD);

    if (rc < 0)
        return rc;
    if (!sources || count == 0)
        return vdisk_set_error(EINVAL, "copy: no source", NULL);
    if (count > 1 && opts && opts->size >= sizeof *opts && (opts->offset > 0 || opts->length > 0))
        return vdisk_set_error(EINVAL, "copy: a part is of one source", NULL);
    for (unsigned i = 0; i < count; i++)
        if (sources[i] == target)
            return vdisk_set_error(EINVAL, "copy: source and target are the same volume", NULL);
    return 0;
}

/* What it had is needed, or is known. */
static int check_discard(const struct copy *c)
{
    if (!(c->opts.flags & VDISK_COPY_DISCARD))
        return 0;
    if (c->opts.flags & (VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_GROW))
        return vdisk_set_error(EINVAL, "copy: a target that is zeros, or grows, is not discarded", NULL);
    if (c->opts.backing_depth > 0)
        return vdisk_set_error(EINVAL, "copy: a discard may hide what the target has from its backing file", NULL);
    return 0;
}

int vdisk_job_copy(vdisk *const *sources, unsigned n_sources, vdisk *target, const struct vdisk_copy_opts *opts,
                   vdisk_job **ret_job)
{
    struct copy *c;
    int rc = check_opts(sources, n_sources, target, opts);

    if (rc < 0)
        return rc;
    c = new_copy(sources, n_sources, target, opts);
    if (!c)
        return vdisk_set_error(ENOMEM, "copy: out of memory", NULL);
    rc = check_discard(c);
    if (rc == 0)
        rc = vdisk_job_make(&copy_kind, c->name, c, c->sources, n_sources + 1, ret_job);
    if (rc < 0)
        copy_release(c);
    return rc;
}

int vdisk_job_fill(vdisk *target, vdisk_source_fn *source, void *source_arg, const struct vdisk_copy_opts *opts,
                   vdisk_job **ret_job)
{
    struct copy *c;
    int rc = check_flags(opts, VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_DENSE | VDISK_COPY_COMPRESS |
                                   VDISK_COPY_GROW | VDISK_COPY_DISCARD);

    if (rc < 0)
        return rc;
    if (!source)
        return vdisk_set_error(EINVAL, "copy: no source", NULL);
    c = new_copy(NULL, 0, target, opts);
    if (!c)
        return vdisk_set_error(ENOMEM, "copy: out of memory", NULL);
    if (c->opts.going_on.start > 0 || c->opts.going_on.checkpoint) {
        copy_release(c);
        return vdisk_set_error(EINVAL, "copy: what comes from the program cannot go on later", NULL);
    }
    c->source = source;
    c->source_arg = source_arg;
    c->opts.backing_depth = 0;
    rc = check_discard(c);
    if (rc == 0)
        rc = vdisk_job_make(&copy_kind, c->name, c, c->sources, 1, ret_job);
    if (rc < 0)
        copy_release(c);
    return rc;
}

int vdisk_job_get_copy_result(const vdisk_job *job, struct vdisk_copy_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &copy_kind, &arg);
    struct vdisk_copy_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "copy: result struct of a wrong size", NULL);
    r = ((struct copy *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
