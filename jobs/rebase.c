/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebase: an image gets another backing file, and reads as before.
 *
 * Happy path
 *  1. the image is opened for writing, with its chain; the new one is opened; the header will take its name;
 *  2. one loop (rebase_slot.c has the way of a piece): both are asked for their extents ahead; what the image has
 *     itself, what both know to be zeros, and what comes from a layer that both have, is passed over; the rest is
 *     read from both sides, and what differs is written into the image, compressed if that is asked for: by whole
 *     units then, in their order;
 *  3. a flush, then the header names the new file; besides, where somebody wants to go on later, a flush from time
 *     to time (mark.h).
 * Failure modes: before 2 nothing has changed; later some of what it read from below the image has itself. It
 * reads as before, and the same job again does the rest.
 *
 * Invariants
 *  1. The header changes when all that differs is durable in the image, and not before.
 *  2. Buffers, plans and queue go when nothing is in flight.
 */
#include "jobs/rebase.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 8, DEPTH_MOST = 256, REAP_MOST = 64 };

static int fail_text(struct rebase *b, int err, const char *what)
{
    char text[2048];

    snprintf(text, sizeof text, "%s: %s", b->name, what);
    return vdisk_job_fail(b->job, err, text, NULL);
}

/* The error of the last call, with what it was for in front. */
static int fail_for(struct rebase *b, int rc, const char *what)
{
    char text[4096], hint[512];

    snprintf(text, sizeof text, "%s '%.256s': %s", what, b->backing, vdisk_error_text()); /* the reason must fit */
    snprintf(hint, sizeof hint, "%s", vdisk_error_hint());
    return vdisk_job_fail(b->job, rc, text, hint[0] ? hint : NULL);
}

/* ---- what is begun ------------------------------------------------------------------------------------ */

/* What comes next of one side; behind the end of what is below, or without any: zeros. false: not known yet. */
static bool look(const struct rebase *b, unsigned i, struct plan_piece *ret)
{
    if (i == 0 || (b->volumes[1] && !plan_ended(&b->plans[1])))
        return plan_look(&b->plans[i], ret);
    *ret = (struct plan_piece){.len = b->total - b->begun, .flags = VDISK_EXTENT_ZERO};
    return true;
}

static void take(struct rebase *b, uint64_t len)
{
    plan_take(&b->plans[0], len);
    if (b->volumes[1] && !plan_ended(&b->plans[1]))
        plan_take(&b->plans[1], len);
    b->begun += len;
}

/* The image has it, or both sides have the same: no data need be looked at. */
static bool is_settled(const struct rebase *b, const struct plan_piece *p)
{
    const uint32_t has = VDISK_EXTENT_ALLOCATED | VDISK_EXTENT_DATA;

    if (p[0].depth == 0 && p[0].flags & has)
        return true;
    if (p[0].flags & p[1].flags & VDISK_EXTENT_ZERO)
        return true;
    return p[0].flags & has && p[1].flags & has && b->new_layers.count > 0 &&
           layers_are_same(&b->old_layers.list[p[0].depth], &b->new_layers.list[p[1].depth]);
}

/* A part of a unit that is compressed as a whole, which both sides have of several kinds. */
static bool gather(struct rebase *b, const struct plan_piece *p, uint64_t len, uint64_t *ret_wait_ns)
{
    uint64_t start = b->begun - b->begun % b->pack;

    len = jobs_min(len, start + b->pack - b->begun);
    *ret_wait_ns = pace_wait_ns(&b->pace);
    if (!b->free_slots || *ret_wait_ns > 0) /* it may be the last */
        return false;
    b->gathered |= !is_settled(b, p);
    for (unsigned i = 0; i < 2; i++)
        b->gathered_read[i] |= !(p[i].flags & VDISK_EXTENT_ZERO);
    take(b, len);
    if (b->begun % b->pack != 0 && b->begun != b->total)
        return true;
    if (b->gathered)
        rebase_begin(b, start, b->begun - start, b->gathered_read[0], b->gathered_read[1]);
    else
        b->done += b->begun - start;
    b->gathered = b->gathered_read[0] = b->gathered_read[1] = false;
    return true;
}

static bool begin_piece(struct rebase *b, uint64_t *ret_wait_ns)
{
    struct plan_piece p[2];
    uint64_t len;

    if (b->begun == b->total || b->rc < 0 || !look(b, 0, &p[0]) || !look(b, 1, &p[1]))
        return false;
    len = jobs_min(p[0].len, p[1].len);
    if (b->pack > 0 && (b->begun % b->pack != 0 || len < b->pack))
        return gather(b, p, len, ret_wait_ns);
    if (b->pack > 0)
        len -= len % b->pack;
    if (is_settled(b, p)) {
        b->done += len;
        take(b, len);
        return true;
    }
    *ret_wait_ns = pace_wait_ns(&b->pace);
    if (!b->free_slots || *ret_wait_ns > 0)
        return false;
    len = jobs_min(len, b->piece - b->begun % b->piece);
    rebase_begin(b, b->begun, len, !(p[0].flags & VDISK_EXTENT_ZERO), !(p[1].flags & VDISK_EXTENT_ZERO));
    take(b, len);
    return true;
}

static void begin(struct rebase *b, uint64_t *ret_wait_ns)
{
    *ret_wait_ns = 0;
    do {
        for (unsigned i = 0; i < 2; i++)
            if (b->volumes[i])
                b->inflight += plan_ask(&b->plans[i], b->q, (uint64_t)REBASE_PLAN + i);
    } while (begin_piece(b, ret_wait_ns));
}

/* ---- how far it has come ------------------------------------------------------------------------------ */

/* All before it has ended well. Of a unit that is being gathered nothing has. */
static uint64_t done_before(const struct rebase *b)
{
    uint64_t position = b->pack > 0 && b->begun < b->total ? b->begun - b->begun % b->pack : b->begun;

    for (unsigned i = 0; i < b->slot_count; i++)
        if (b->slots[i].busy)
            position = jobs_min(position, b->slots[i].offset);
    return position;
}

static void mark(struct rebase *b)
{
    if (!mark_note(&b->mark, done_before(b)))
        return;
    vdisk_flush(b->q, b->volumes[0], 0, REBASE_FLUSH);
    b->inflight++;
}

static void flushed(struct rebase *b, const struct vdisk_completion *done)
{
    int rc;

    if (done->result < 0)
        rebase_failed(b, done);
    rc = mark_flushed(&b->mark, done->result);
    if (rc < 0 && b->rc == 0)
        b->rc = fail_text(b, rc, strerror(-rc));
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

static void ended(struct rebase *b, const struct vdisk_completion *done)
{
    unsigned kind = done->user_data % REBASE_REQUESTS;

    b->inflight--;
    if (kind == REBASE_READ || kind == REBASE_WRITE)
        rebase_ended(b, &b->slots[done->user_data / REBASE_REQUESTS], kind == REBASE_WRITE, done);
    else if (kind == REBASE_FLUSH)
        flushed(b, done);
    else if (plan_answer(&b->plans[kind - REBASE_PLAN], done->result) < 0)
        rebase_failed(b, done);
}

static void step(struct rebase *b)
{
    int rc;

    if (b->opts.progress && b->opts.progress(b->opts.progress_arg, b->done, b->total))
        vdisk_job_cancel(b->job);
    rc = vdisk_job_step(b->job, b->done, b->total);
    if (rc < 0 && b->rc == 0)
        b->rc = jobs_fail(b->job, rc);
}

/* Nothing has ended for a while. Writes that wait for room end by that, or as the job does: it lets go of them. */
static void look_again(struct rebase *b)
{
    if (b->rc == 0)
        step(b);
    for (unsigned i = 0; b->rc < 0 && i < b->slot_count; i++)
        if (b->slots[i].busy)
            (void)vdisk_cancel(b->q, (uint64_t)i * REBASE_REQUESTS + REBASE_WRITE);
}

static bool wait_some(struct rebase *b, uint64_t wait_ns)
{
    struct vdisk_completion done[REAP_MOST];
    struct timespec t;
    int n = vdisk_wait(b->q, done, 1, REAP_MOST, pace_look_again(wait_ns, &t));

    if (n < 0 && n != -EINTR) {
        b->rc = b->rc < 0 ? b->rc : jobs_fail(b->job, n);
        return false;
    }
    for (int i = 0; i < n; i++)
        ended(b, &done[i]);
    if (n == 0 && b->inflight > 0)
        look_again(b);
    return true;
}

/* false: something is left in flight that cannot be waited for. */
static bool loop(struct rebase *b)
{
    bool alive = true;
    uint64_t wait_ns;

    step(b);
    while (alive && b->rc == 0) {
        begin(b, &wait_ns);
        if (b->inflight == 0 && wait_ns == 0)
            break;
        if (mark_is_due(&b->mark))
            mark(b);
        alive = wait_some(b, wait_ns);
        step(b);
    }
    while (alive && b->inflight > 0) /* invariant 2 */
        alive = wait_some(b, 0);
    if (alive)
        mark(b); /* all of it, or what can be gone on from */
    while (alive && b->inflight > 0)
        alive = wait_some(b, 0);
    assert(!alive || b->rc < 0 || (b->begun == b->total && b->done == b->total));
    return alive;
}

/* ---- the two sides ------------------------------------------------------------------------------------ */

#define CIRCLE "the image would be part of its own backing chain"

/* The image itself, or its old chain, must not lie below itself. */
static int check_circle(struct rebase *b)
{
    for (uint32_t i = 0; i < b->new_layers.count; i++)
        if (layers_are_one_file(&b->old_layers.list[0], &b->new_layers.list[i]))
            return fail_text(b, ELOOP, CIRCLE);
    return 0;
}

/* Where the new one is: relative to the image, as the header will have it. *ret is malloc'ed. */
static int find_new(struct rebase *b, char **ret)
{
    const char *image = b->old_layers.list[0].name;

    *ret = layers_resolve(image, b->backing);
    if (!*ret)
        return fail_text(b, ENOMEM, "out of memory");
    return layers_same_file(*ret, image) ? fail_text(b, ELOOP, "an image cannot be its own backing file") : 0;
}

static int open_new(struct rebase *b, const char *name)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = b->backing_fmt,
                                  .flags = b->opts.backing_open_flags, .cache_bytes = b->opts.cache_bytes};
    int rc;

    if (layers_reach(name, b->backing_fmt, b->old_layers.list[0].name))
        return fail_text(b, ELOOP, CIRCLE); /* opening it would meet our own lock */
    rc = vdisk_open(name, &how, &b->volumes[1]);
    if (rc < 0)
        return fail_for(b, rc, "Could not open new backing file");
    rc = layers_identify(b->volumes[1], &b->new_layers);
    return rc < 0 ? rc : check_circle(b);
}

/* With -u by its name alone: it need not be there. */
static int take_new(struct rebase *b)
{
    char *name;
    int rc;

    if (!b->backing)
        return 0;
    rc = find_new(b, &name);
    if (rc == 0 && !(b->opts.flags & VDISK_REBASE_UNSAFE))
        rc = open_new(b, name);
    free(name);
    return rc;
}

static int check_compress(struct rebase *b)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = b->opts.flags & VDISK_REBASE_COMPRESS ? vdisk_get_info(b->volumes[0], &info) : 0;

    if (rc < 0)
        return jobs_fail(b->job, rc);
    return b->opts.flags & VDISK_REBASE_COMPRESS && info.compress_align == 0
               ? fail_text(b, ENOTSUP, "Compression not supported for this file format")
               : 0;
}

/* All that can be refused. */
static int open_both(struct rebase *b)
{
    bool unsafe = b->opts.flags & VDISK_REBASE_UNSAFE;
    struct vdisk_open_opts how = {.size = sizeof how, .format = b->format, .layers = unsafe ? 1 : 0,
                                  .flags = b->opts.open_flags | VDISK_OPEN_RDWR,
                                  .cache_bytes = b->opts.cache_bytes};
    int rc = vdisk_open(b->name, &how, &b->volumes[0]);

    if (rc < 0)
        return jobs_fail(b->job, rc);
    rc = check_compress(b);
    if (rc < 0)
        return rc;
    rc = vdisk_check_backing(b->volumes[0], b->backing, b->backing_fmt);
    if (rc < 0)
        return b->backing ? fail_for(b, rc, "Could not change the backing file to") : jobs_fail(b->job, rc);
    rc = layers_identify(b->volumes[0], &b->old_layers);
    return rc < 0 ? jobs_fail(b->job, rc) : take_new(b);
}

/* ---- before and after --------------------------------------------------------------------------------- */

static int get_memory(struct rebase *b)
{
    uint64_t slot = 2 * b->piece + (b->pack > 0 ? jobs_pack_takes(b->piece) : 0);

    b->slot_count = b->opts.depth ? (unsigned)jobs_min(b->opts.depth, DEPTH_MOST) : DEPTH;
    while (b->opts.memory_max > 0 && b->slot_count > 1 && slot * b->slot_count > b->opts.memory_max)
        b->slot_count--;
    b->slots = calloc(b->slot_count, sizeof *b->slots);
    b->buffers = vdisk_alloc_buffer(2 * b->piece * b->slot_count);
    if (!b->slots || !b->buffers)
        return fail_text(b, ENOMEM, "out of memory");
    for (unsigned i = b->slot_count; i-- > 0;) {
        b->slots[i].number = i;
        b->slots[i].buf[0] = b->buffers + 2 * i * b->piece;
        b->slots[i].buf[1] = b->slots[i].buf[0] + b->piece;
        b->slots[i].next_free = b->free_slots;
        b->free_slots = &b->slots[i];
    }
    return 0;
}

/* What was done before. */
static void skip(struct rebase *b)
{
    plan_skip(&b->plans[0], b->opts.going_on.start, b->piece);
    if (b->volumes[1])
        plan_skip(&b->plans[1], b->plans[0].handed, b->piece);
    b->begun = b->done = b->plans[0].handed;
    mark_begin(&b->mark, &b->opts.going_on, b->begun);
    pace_begin(&b->pace, b->opts.rate);
}

static int prepare(struct rebase *b)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = vdisk_get_info(b->volumes[0], &info);

    for (unsigned i = 0; i < 2 && rc == 0; i++)
        if (b->volumes[i])
            rc = plan_init(&b->plans[i], &b->volumes[i], 1, 0);
    if (rc < 0)
        return fail_text(b, rc, strerror(-rc));
    b->total = b->plans[0].total;
    b->pack = b->opts.flags & VDISK_REBASE_COMPRESS ? info.compress_align : 0;
    b->piece = b->pack > REBASE_PIECE ? b->pack : REBASE_PIECE;
    b->unit = info.cluster_size > 0 ? (size_t)jobs_min(info.cluster_size, b->piece) : 512;
    assert(b->pack == 0 || b->unit == b->pack);
    skip(b);
    rc = get_memory(b);
    if (rc < 0)
        return rc;
    rc = vdisk_queue_create(NULL, &b->q);
    return rc < 0 ? jobs_fail(b->job, rc) : 0;
}

/* The data. false: something is left in flight, and all that it needs. */
static bool merge(struct rebase *b)
{
    b->rc = prepare(b);
    if (b->rc == 0 && !loop(b))
        return false;
    vdisk_queue_destroy(b->q);
    plan_free(&b->plans[0]);
    plan_free(&b->plans[1]);
    free(b->slots);
    free(b->buffers);
    return true;
}

static void change_header(struct rebase *b)
{
    b->rc = vdisk_sync(b->volumes[0]); /* invariant 1 */
    if (b->rc == 0)
        b->rc = vdisk_set_backing(b->volumes[0], b->backing, b->backing_fmt);
    if (b->rc < 0)
        b->rc = jobs_fail(b->job, b->rc);
}

static int rebase_work(vdisk_job *job, void *arg)
{
    struct rebase *b = arg;

    b->job = job;
    b->rc = open_both(b);
    if (b->rc == 0 && !(b->opts.flags & VDISK_REBASE_UNSAFE) && !merge(b))
        return b->rc;
    if (b->rc == 0)
        b->rc = vdisk_job_step(job, b->total, b->total);
    if (b->rc == 0)
        change_header(b);
    for (unsigned i = 2; i-- > 0;) {
        int rc = vdisk_close(b->volumes[i]);
        if (rc < 0 && b->rc == 0)
            b->rc = jobs_fail(job, rc);
    }
    layers_free(&b->old_layers);
    layers_free(&b->new_layers);
    return b->rc;
}

static void rebase_release(void *arg)
{
    struct rebase *b = arg;

    free(b->name);
    free(b->format);
    free(b->backing);
    free(b->backing_fmt);
    free(b);
}

static const struct vdisk_job_kind rebase_kind = {
    .size = sizeof rebase_kind, .name = "rebase", .work = rebase_work, .release = rebase_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

/* NULL and "" are none. false: out of memory. */
static bool copy_text(const char *text, char **ret)
{
    *ret = text && text[0] != '\0' ? strdup(text) : NULL;
    return *ret || !text || text[0] == '\0';
}

static struct rebase *new_rebase(const char *name, const struct vdisk_rebase_opts *opts)
{
    struct rebase *b = calloc(1, sizeof *b);

    if (!b)
        return NULL;
    memcpy(&b->opts, opts, jobs_min(opts->size, sizeof b->opts));
    if (!copy_text(name, &b->name) || !copy_text(b->opts.format, &b->format) ||
        !copy_text(b->opts.backing_file, &b->backing) || !copy_text(b->opts.backing_fmt, &b->backing_fmt)) {
        rebase_release(b);
        return NULL;
    }
    return b;
}

static bool flags_are_known(const struct vdisk_rebase_opts *o)
{
    const uint32_t modes = VDISK_OPEN_BUFFERED | VDISK_OPEN_UNSAFE | VDISK_OPEN_NO_LOCK;

    return !(o->flags & ~(uint32_t)(VDISK_REBASE_UNSAFE | VDISK_REBASE_COMPRESS)) && !(o->open_flags & ~modes) &&
           !(o->backing_open_flags & ~(modes | VDISK_OPEN_FORCE_SHARE));
}

int vdisk_job_rebase(const char *name, const struct vdisk_rebase_opts *opts, vdisk_job **ret_job)
{
    struct rebase *b;
    int rc;

    if (!name || name[0] == '\0')
        return vdisk_set_error(name ? ENOENT : EINVAL, "rebase: no name of an image", NULL);
    if (!opts || !jobs_size_is_sane(opts->size))
        return vdisk_set_error(EINVAL, "rebase: options missing or of a wrong size", NULL);
    b = new_rebase(name, opts);
    if (!b)
        return vdisk_set_error(ENOMEM, "rebase: out of memory", NULL);
    if (flags_are_known(&b->opts))
        rc = vdisk_job_make(&rebase_kind, name, b, NULL, 0, ret_job);
    else
        rc = vdisk_set_error(EINVAL, "rebase: unknown flags", NULL);
    if (rc < 0)
        rebase_release(b);
    return rc;
}

int vdisk_job_get_rebase_result(const vdisk_job *job, struct vdisk_rebase_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &rebase_kind, &arg);
    struct vdisk_rebase_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "rebase: result struct of a wrong size", NULL);
    r = ((struct rebase *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
