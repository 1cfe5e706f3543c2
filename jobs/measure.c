/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Measure: how much space a copy of a volume takes, by what its extents say.
 *
 * Happy path: the new image's sums are done when the job is made; then the volume is gone through in stretches, as
 * many at once as there are slots, each asked for again from where its answer ended, and units with data counted.
 * Failure modes: a question fails, it is cancelled: nothing more is asked, what is in flight is waited for.
 *
 * Invariants
 *  1. A stretch is whole units, but for the volume's end: so a unit is counted in one slot only, and once.
 *  2. Lists and queue go when nothing is in flight.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/jobs.h"

#define STRETCH (UINT64_C(256) << 20)

enum { DEPTH = 32, DEPTH_MOST = 256, EXTENTS = 512, REAP_MOST = 64 };

struct measure_slot {
    uint64_t             at, end;  /* what is left of the stretch */
    uint64_t             counted;  /* up to where units have been counted */
    struct vdisk_extents extents;
    struct vdisk_extent  list[EXTENTS];
};

struct measure {
    struct vdisk_measure_opts   opts;
    char                       *name;
    vdisk                      *source;
    struct vdisk_measure_result result;

    vdisk_job                  *job;
    vdisk_queue                *q;
    int                         rc;
    uint64_t                    total, begun, done, units;
    unsigned                    inflight, slot_count;
    struct measure_slot        *slots;
};

/* ---- a stretch ---------------------------------------------------------------------------------------- */

static void ask(struct measure *m, struct measure_slot *s)
{
    assert(s->at < s->end);
    s->extents = (struct vdisk_extents){.list = s->list, .max = EXTENTS};
    m->inflight++;
    vdisk_get_extents(m->q, m->source, s->at, s->end - s->at, &s->extents, (uint64_t)(s - m->slots));
}

/* The next stretch, if there is one. */
static void begin(struct measure *m, struct measure_slot *s)
{
    if (m->begun == m->total || m->rc < 0)
        return;
    s->at = s->counted = m->begun;
    s->end = m->begun + jobs_min(STRETCH, m->total - m->begun);
    assert(s->at % m->result.unit == 0); /* invariant 1 */
    m->begun = s->end;
    ask(m, s);
}

static void count(struct measure *m, struct measure_slot *s, const struct vdisk_extent *x)
{
    uint64_t unit = m->result.unit, from = x->guest_offset / unit * unit;
    uint64_t end = jobs_align_up(x->guest_offset + x->length, unit);

    if (x->flags & VDISK_EXTENT_ZERO || !(x->flags & VDISK_EXTENT_DATA))
        return;
    if (from < s->counted)
        from = s->counted;
    if (end > from) {
        m->units += (end - from) / unit;
        s->counted = end;
    }
}

static void answered(struct measure *m, struct measure_slot *s, const struct vdisk_completion *done)
{
    m->inflight--;
    if (done->result < 0) {
        jobs_request_failed(m->job, m->q, done, &m->rc);
        return;
    }
    assert(s->extents.count > 0);
    for (unsigned i = 0; i < s->extents.count; i++) {
        assert(s->list[i].guest_offset == s->at && s->list[i].length <= s->end - s->at);
        count(m, s, &s->list[i]);
        s->at += s->list[i].length;
        m->done += s->list[i].length;
    }
    if (m->rc < 0)
        return;
    if (s->at < s->end)
        ask(m, s);
    else
        begin(m, s);
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

static bool wait_some(struct measure *m)
{
    struct vdisk_completion done[REAP_MOST];
    int n = vdisk_reap(m->q, done, 1, REAP_MOST, NULL);

    if (n < 0 && n != -EINTR) {
        m->rc = m->rc < 0 ? m->rc : jobs_fail(m->job, n);
        return false;
    }
    for (int i = 0; i < n; i++)
        answered(m, &m->slots[done[i].user_data], &done[i]);
    return true;
}

static void step(struct measure *m)
{
    int rc;

    if (m->opts.progress && m->opts.progress(m->opts.progress_arg, m->done, m->total))
        vdisk_job_cancel(m->job);
    rc = vdisk_job_step(m->job, m->done, m->total);
    if (rc < 0 && m->rc == 0)
        m->rc = jobs_fail(m->job, rc);
}

/* false: something is left in flight that cannot be waited for. */
static bool loop(struct measure *m)
{
    bool alive = true;

    step(m);
    for (unsigned i = 0; i < m->slot_count; i++)
        begin(m, &m->slots[i]);
    while (alive && m->inflight > 0) { /* invariant 2 */
        alive = wait_some(m);
        step(m);
    }
    assert(!alive || m->rc < 0 || m->done == m->total);
    return alive;
}

/* ---- before and after --------------------------------------------------------------------------------- */

static int prepare(struct measure *m)
{
    char text[300];
    int rc;

    m->slot_count = m->opts.depth ? (unsigned)jobs_min(m->opts.depth, DEPTH_MOST) : DEPTH;
    m->slots = calloc(m->slot_count, sizeof *m->slots);
    if (!m->slots) {
        snprintf(text, sizeof text, "%s: out of memory", m->name);
        return vdisk_job_fail(m->job, ENOMEM, text, NULL);
    }
    rc = vdisk_queue_create(NULL, &m->q);
    return rc < 0 ? jobs_fail(m->job, rc) : 0;
}

static int measure_work(vdisk_job *job, void *arg)
{
    struct measure *m = arg;
    bool alive = true;

    m->job = job;
    if (m->result.unit == 0 || m->total == 0)
        return vdisk_job_step(job, m->total, m->total);
    m->rc = prepare(m);
    if (m->rc == 0)
        alive = loop(m);
    if (!alive)
        return m->rc; /* invariant 2: what is still in flight has them */
    vdisk_queue_destroy(m->q);
    free(m->slots);
    m->result.required += m->units * m->result.unit;
    assert(m->rc < 0 || m->result.required <= m->result.fully_allocated);
    return m->rc;
}

static void measure_release(void *arg)
{
    struct measure *m = arg;

    free(m->name);
    free(m);
}

static const struct vdisk_job_kind measure_kind = {
    .size = sizeof measure_kind, .name = "measuring", .work = measure_work, .release = measure_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

/* What is known without a look at the extents. */
static int do_sums(struct measure *m, const struct vdisk_create_opts *target)
{
    struct vdisk_create_opts opts = {0};
    vdisk_image *image;
    int rc = vdisk_image_of_layer(m->source, 0, &image);

    if (rc < 0)
        return rc;
    memcpy(&opts, target, jobs_min(target->size, sizeof opts));
    opts.size = sizeof opts;
    m->total = vdisk_size(m->source);
    opts.virtual_size = m->total;
    m->result.size = sizeof m->result;
    rc = vdisk_measure(&opts, image, &m->result);
    vdisk_image_free(image);
    return rc;
}

static int check_opts(const struct vdisk_create_opts *target, const struct vdisk_measure_opts *opts)
{
    if (!target || !jobs_size_is_sane(target->size) || (opts && !jobs_size_is_sane(opts->size)))
        return vdisk_set_error(EINVAL, "measuring: options missing or of a wrong size", NULL);
    return 0;
}

int vdisk_job_measure(vdisk *source, const struct vdisk_create_opts *target, const struct vdisk_measure_opts *opts,
                      vdisk_job **ret_job)
{
    struct measure *m;
    int rc = check_opts(target, opts);

    if (rc < 0)
        return rc;
    m = calloc(1, sizeof *m);
    if (!m)
        return vdisk_set_error(ENOMEM, "measuring: out of memory", NULL);
    if (opts)
        memcpy(&m->opts, opts, jobs_min(opts->size, sizeof m->opts));
    m->source = source;
    m->name = strdup(m->opts.name ? m->opts.name : "measuring");
    m->opts.name = NULL;
    rc = m->name ? vdisk_job_make(&measure_kind, m->name, m, &source, 1, ret_job)
                 : vdisk_set_error(ENOMEM, "measuring: out of memory", NULL);
    if (rc < 0) {
        measure_release(m);
        return rc;
    }
    rc = do_sums(m, target);
    if (rc < 0) {
        vdisk_job_free(*ret_job); /* the text stays */
        *ret_job = NULL;
    }
    return rc;
}

int vdisk_job_get_measure_result(const vdisk_job *job, struct vdisk_measure_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &measure_kind, &arg);
    struct vdisk_measure_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "measuring: result struct of a wrong size", NULL);
    r = ((struct measure *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
