/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A smaller virtual size.
 *
 * Happy path: write back all there is; one write of the header's first sector gives the new size and a shorter L1
 * table at once. Read the image anew, and what has a refcount. Clear what the last L2 table has behind the new
 * end, without giving its clusters to the host, and write back. What only the rest of the L1 table led to has
 * refcounts, and nothing refers to it any more: build new refcounts, in the first free clusters, and switch to
 * them. Cut the file behind its last cluster in use, and tell the host what has become free before that.
 * One that has its new size and was stopped while space was given back is made again: where there are leaks, from
 * the header on.
 * Failure modes: until the header is written nothing has changed. While it is written: which of the two counts is
 * not known, so the image takes no more writes. Afterwards: the volume has its new size, and some clusters that
 * are leaked, at worst: the error says so.
 *
 * Invariants.
 *  1. What lies behind the new end is there, untouched, until the header says the new size.
 *  2. Nothing is cut off or discarded but what had a refcount before, and what a count of all references, made
 *     after the header was written and all was flushed, found free.
 *  3. Once the refcounts say what is free nothing but an error stops it: a shrink that is made again would not
 *     know any more which of the free clusters were its own to give to the host.
 */
#include "engine/base/mem.h"
#include "qcow2/image/resize.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/check/check.h"
#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

/* ---- the header ----------------------------------------------------------------------------------------- */

static int commit(struct layer *layer, struct q2_header_change *change, vdisk_queue *queue)
{
    int rc;

    change->doubt = "the header could not be written while the image was made smaller";
    rc = q2_header_commit_sync(&q2_of(layer)->meta, change, queue);
    return rc == 0 ? q2_reload(layer, queue) : rc;
}

static int set_size(struct layer *layer, uint64_t size, vdisk_queue *queue)
{
    const struct q2_geometry *g = &q2_of(layer)->meta.geo;
    struct q2_header_change change = q2_header_change(&q2_of(layer)->meta);

    change.fields.size = size;
    change.fields.l1_entries = (uint32_t)min_u64(q2_l1_entries(g, size), change.fields.l1_entries);
    assert(size <= layer_size(layer) && change.fields.l1_entries == q2_l1_entries(g, size));
    return commit(layer, &change, queue);
}

static int set_refcounts(struct layer *layer, const struct qcow2_check_opts *opts, vdisk_queue *queue)
{
    struct q2_header_change change = q2_header_change(&q2_of(layer)->meta);
    struct q2_rebuilt n;
    int rc = q2_rebuild_refcounts(layer->file, queue, opts, Q2_REBUILD_STRICT, &n);

    if (rc < 0)
        return rc;
    assert(n.host_offset > 0 && n.clusters > 0);
    q2_spans_finish(&n.freed); /* trim() looks for more than that */
    change.fields.reftable_offset = n.host_offset;
    change.fields.reftable_clusters = n.clusters;
    return commit(layer, &change, queue);
}

/* ---- space ---------------------------------------------------------------------------------------------- */

/* Behind the new end, as far as the last L2 table reaches. */
static int clear_rest(struct layer *layer, uint64_t size, uint64_t old, vdisk_queue *queue)
{
    struct q2 *q = q2_of(layer);
    uint64_t end = min_u64(old, align_up(size, q2_l1_entry_span(&q->meta.geo)));
    int rc;

    assert(size <= end && !q->space.count_decides);
    layer_reach(layer, end, queue);
    q->space.count_decides = !MUTANT(SHRINK_PUNCH_FIRST); /* invariant 2 */
    rc = q2_resize_zero(layer, size, end, queue);
    layer_set_size(layer, size);
    if (rc == 0)
        rc = q2_trim_run(&q->space, queue, true);
    q->space.count_decides = false;
    return rc;
}

/* What has a refcount now: of that, what nothing refers to afterwards was freed here. */
static int read_in_use(struct q2 *q, vdisk_queue *queue, struct q2_cluster_set *ret)
{
    uint8_t *block = mem_buffer(align_up(q->meta.geo.cluster_size, 4096));
    uint64_t per_block = q2_refblock_entries(&q->meta.geo);
    int rc = block ? 0 : err_set(ENOMEM, "%s: out of memory", q->meta.layer->name);

    for (uint64_t b = 0; b < q->meta.reftable_entries && rc == 0; b++) {
        uint64_t offset = q2_reftable_offset(q->meta.reftable[b]);
        if (offset == 0 || q2_reftable_problem(&q->meta.geo, q->meta.reftable[b]))
            continue;
        rc = io_pread(queue, q->meta.layer->file, block, q->meta.geo.cluster_size, offset);
        for (uint64_t i = 0; i < per_block && rc == 0; i++)
            if (q2_refcount_get(&q->meta.geo, block, i) != 0)
                q2_cluster_set_add(ret, b * per_block + i, 1);
    }
    mem_free(block);
    return rc;
}

/* What gives back, and to whom. */
struct trim {
    struct layer                *layer;
    vdisk_queue                 *queue;
    const struct q2_cluster_set *were; /* in use before */
};

/* Free clusters below `end` that were not: to the host. */
static int discard(const struct trim *t, const struct q2_refs *refs, uint64_t end)
{
    const struct q2_geometry *g = &q2_of(t->layer)->meta.geo;
    uint64_t start, stop, next;
    int rc = 0;

    for (uint64_t i = 1; i < end && rc == 0; i = stop) {
        start = q2_cluster_set_next(t->were, i, end, &stop);
        next = start < stop ? max_u64(start, min_u64(stop, q2_refs_next(refs, start))) : stop;
        assert(i <= start && start <= next && next <= stop && stop <= end);
        if (next > start)
            rc = io_prange(t->queue, t->layer->file, IO_DISCARD, start << g->cluster_bits,
                           (next - start) << g->cluster_bits);
        stop = next < stop ? next + 1 : stop;
    }
    return rc;
}

/* Behind the last cluster in use; but not over what was free before. */
static uint64_t cut_at(const struct trim *t, uint64_t in_use_end)
{
    const struct q2_geometry *g = &q2_of(t->layer)->meta.geo;
    uint64_t size = backend_size(t->layer->file), end = div_up(size, g->cluster_size);

    assert(in_use_end >= g->cluster_size); /* the header */
    while (end << g->cluster_bits > in_use_end && q2_cluster_set_has(t->were, end - 1))
        end--;
    return min_u64(size, end << g->cluster_bits);
}

static int trim_counted(void *arg, const struct q2_refs *refs, const struct qcow2_check_result *res)
{
    const struct trim *t = arg;
    struct backend *file = t->layer->file;
    uint64_t cut = cut_at(t, res->image_end_offset);
    int rc = 0;

    if (res->corruptions > 0 || res->check_errors > 0)
        return err_hint(err_set(EIO, "%s: does not check clean", t->layer->name),
                        "repair it with vdisk-io check -r all");
    if (file->caps & BACKEND_GROWS && cut < backend_size(file))
        rc = io_prange(t->queue, file, IO_TRUNCATE, cut, 0);
    if (rc == 0 && file->caps & BACKEND_DISCARD)
        rc = discard(t, refs, backend_size(file) >> q2_of(t->layer)->meta.geo.cluster_bits);
    return rc;
}

/* Invariant 2. */
static int trim(struct layer *layer, const struct q2_cluster_set *were, const struct qcow2_check_opts *opts,
                vdisk_queue *queue)
{
    struct trim t = {.layer = layer, .queue = queue, .were = were};
    struct qcow2_check_result res;
    int rc = qcow2_check_counted(layer->file, queue, opts, trim_counted, &t, &res);

    return rc == 0 ? q2_reload(layer, queue) : rc; /* the file's end is another */
}

static int trim_data_file(struct layer *layer, uint64_t size, vdisk_queue *queue)
{
    if (layer->data == layer->file || !(layer->data->caps & BACKEND_GROWS) || backend_size(layer->data) <= size)
        return 0;
    return io_prange(queue, layer->data, IO_TRUNCATE, size, 0);
}

/* Invariant 3: who wants it to stop is told how far it is, and nothing else. */
static int go_on(void *arg, uint64_t done, uint64_t total)
{
    const struct qcow2_check_opts *user = arg;

    if (user->progress)
        user->progress(user->progress_arg, done, total);
    return 0;
}

/* Count anew what is in use, and give back what was and is not. */
static int count_anew(struct layer *layer, const struct q2_cluster_set *were, struct qcow2_check_opts *opts,
                      vdisk_queue *queue)
{
    struct qcow2_check_opts to_the_end = {.progress = go_on, .progress_arg = opts};
    int rc = set_refcounts(layer, opts, queue);

    return rc == 0 ? trim(layer, were, &to_the_end, queue) : rc;
}

int q2_give_back_leaks(struct layer *layer, struct qcow2_check_opts *opts, vdisk_queue *queue)
{
    struct q2_cluster_set were = {0};
    int rc = read_in_use(q2_of(layer), queue, &were);

    if (rc == 0)
        rc = count_anew(layer, &were, opts, queue);
    q2_cluster_set_finish(&were);
    return rc;
}

static int give_back(struct layer *layer, uint64_t size, uint64_t old, struct qcow2_check_opts *opts,
                     vdisk_queue *queue)
{
    struct q2_cluster_set were = {0};
    int rc = read_in_use(q2_of(layer), queue, &were);

    if (rc == 0)
        rc = clear_rest(layer, size, old, queue);
    if (rc == 0)
        rc = trim_data_file(layer, size, queue);
    if (rc == 0)
        rc = count_anew(layer, &were, opts, queue);
    q2_cluster_set_finish(&were);
    return rc;
}

/* Has a shrink left something that another can give back? An image that is not sound is left alone. */
static int find_leaks(struct layer *layer, const struct qcow2_check_opts *opts, vdisk_queue *queue, bool *ret)
{
    struct qcow2_check_result res;
    int rc = qcow2_check(layer->file, queue, opts, &res);

    *ret = rc == 0 && res.leaks > 0 && res.corruptions == 0 && res.check_errors == 0;
    return rc;
}

int q2_shrink(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue)
{
    struct qcow2_check_opts check = {.progress = opts->progress, .progress_arg = opts->progress_arg};
    uint64_t old = layer_size(layer);
    int rc;
    bool leaks;

    assert(size <= old && opts->shrink);
    assert(atomic_load(&layer->volume->refuses) & VOLUME_SHUT);
    rc = q2_trim_run(&q2_of(layer)->space, queue, true);
    if (rc == 0 && size == old) {
        rc = find_leaks(layer, &check, queue, &leaks);
        if (rc < 0 || !leaks)
            return rc;
        old = UINT64_MAX; /* not known any more */
    }
    if (rc == 0 && MUTANT(SHRINK_CUT_FIRST))
        rc = trim_data_file(layer, size, queue);
    if (rc == 0)
        rc = set_size(layer, size, queue);
    if (rc < 0)
        return rc;
    rc = give_back(layer, size, old, &check, queue);
    if (rc < 0) {
        if (vdisk_error_text()[0] == '\0')
            err_set(rc, "%s", strerror(-rc));
        err_prefix(rc, "%s: has its new size, but its space could not be given back", layer->name);
    }
    return rc;
}
