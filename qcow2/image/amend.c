/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image is, changed: version, width of refcounts, lazy_refcounts, size.
 *
 * Happy path: write back all there is. Version 3 first, since the others may need it. Another width: new refcounts
 * in free space, and one write of the header that leads to them and says how wide they are. Then the size; and
 * version 2 last: zero clusters are made explicit, what that leaves leaked is freed, and one write of the header
 * says so. After each step the image is read anew. The backing file's name comes last, or first where version 3
 * has no room for the present one. Failure modes: what forbids it (amend_check.c): nothing has changed. Later: the
 * steps before are done, and what the one that failed has taken is given back, if that can be. The header's own:
 * the volume takes no more writes.
 *
 * Invariants.
 *  1. Each step but the last leaves an image of version 3 that is whole by itself, or the version that it had.
 *  2. What the header leads to is durable before.
 */
#include "qcow2/image/amend.h"

#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/check/check.h"
#include "qcow2/format/format.h"
#include "qcow2/image/resize.h"
#include "qcow2/mutant.h"

static const char doubt[] = "the header could not be written while the image was amended";

static struct q2_meta *meta_of(const struct q2_amend *a)
{
    return &q2_of(a->layer)->meta;
}

static struct qcow2_check_opts check_opts(const struct q2_amend *a)
{
    return (struct qcow2_check_opts){.progress = a->opts->progress, .progress_arg = a->opts->progress_arg};
}

/* ---- the header ----------------------------------------------------------------------------------------- */

/* The disk has changed, by what has ended with `rc`: in memory is to be what is there. Returns rc, or worse. */
static int read_anew(const struct q2_amend *a, int rc)
{
    int loaded = atomic_load(&meta_of(a)->broken) ? 0 : q2_reload(a->layer, a->queue);

    return rc < 0 ? rc : loaded;
}

/* Invariant 2 is the caller's. */
static int replace_header(const struct q2_amend *a, const struct q2_header *h)
{
    int rc = q2_header_replace(a->layer, h, doubt, false, a->queue);

    assert(h->geo.version >= 3 || h->compatible == 0);
    return rc == 0 ? q2_reload(a->layer, a->queue) : rc;
}

/* A step has failed, with `rc`, in whose text this changes nothing: what it has taken. Returns rc. */
static int give_back(const struct q2_amend *a, int rc)
{
    struct qcow2_check_opts opts = {.progress = NULL}; /* to the end, whoever has stopped the step */
    struct err_saved saved;

    assert(rc < 0);
    if (atomic_load(&meta_of(a)->broken) || MUTANT(AMEND_KEEPS_WHAT_IT_TOOK))
        return rc;
    err_save(&saved);
    q2_give_back_leaks(a->layer, &opts, a->queue);
    err_restore(&saved);
    return rc;
}

/* ---- steps ---------------------------------------------------------------------------------------------- */

static int set_snapshots(void *arg, uint64_t host_offset, uint32_t n)
{
    const struct q2_amend *a = arg;
    struct q2_header_change change = q2_header_change(meta_of(a));

    assert(n == change.fields.nb_snapshots && is_aligned(host_offset, meta_of(a)->geo.cluster_size));
    change.fields.snapshots_offset = host_offset;
    change.fields.nb_snapshots = n;
    change.doubt = doubt;
    return q2_header_commit_sync(meta_of(a), &change, a->queue);
}

static int switch_to(void *arg, const struct q2_rebuilt *n)
{
    const struct q2_amend *a = arg;
    struct q2_header_change change = q2_header_change(meta_of(a));

    assert(n->host_offset > 0 && n->clusters > 0);
    change.fields.reftable_offset = n->host_offset;
    change.fields.reftable_clusters = n->clusters;
    change.doubt = doubt;
    return q2_header_commit_sync(meta_of(a), &change, a->queue);
}

/* A snapshot table with all fields; the old one is free then. */
static int complete_snapshots(struct q2_amend *a)
{
    struct qcow2_check_opts opts = check_opts(a);
    bool old = false;
    int rc = q2_amend_old_snapshots(a, &old);

    if (rc < 0 || !old)
        return rc;
    rc = q2_complete_snapshots(a->layer->file, a->queue, &opts, set_snapshots, switch_to, a);
    rc = read_anew(a, rc);
    return rc == 0 ? q2_give_back_leaks(a->layer, &opts, a->queue) : give_back(a, rc);
}

static int upgrade(struct q2_amend *a)
{
    struct q2_header h;
    int rc;

    assert(a->version == 2 || a->version == 3);
    if (a->version <= meta_of(a)->geo.version)
        return 0;
    rc = complete_snapshots(a);
    if (rc < 0)
        return rc;
    h = q2_amend_header(a, a->version, meta_of(a)->geo.refcount_bits);
    return replace_header(a, &h);
}

static int set_refcount_bits(struct q2_amend *a)
{
    struct q2_rebuild as = {.flags = Q2_REBUILD_STRICT, .refcount_bits = a->refcount_bits};
    struct qcow2_check_opts opts = check_opts(a);
    struct q2_rebuilt n;
    struct q2_header h;
    int rc, punched;

    assert(is_power_of_two(a->refcount_bits) && a->refcount_bits <= 64);
    if (a->refcount_bits == meta_of(a)->geo.refcount_bits)
        return 0;
    rc = q2_rebuild_refcounts_as(a->layer->file, a->queue, &opts, &as, &n);
    if (rc < 0)
        return read_anew(a, rc); /* the file may be longer */
    assert(n.host_offset > 0 && n.clusters > 0);
    h = q2_amend_header(a, meta_of(a)->geo.version, a->refcount_bits);
    h.reftable_offset = n.host_offset;
    h.reftable_clusters = n.clusters;
    rc = replace_header(a, &h);
    if (rc == 0)
        q2_spans_punch(&n.freed, a->layer->file, a->queue, h.geo.cluster_bits, &punched);
    q2_spans_finish(&n.freed);
    return rc;
}

static int set_lazy(struct q2_amend *a)
{
    struct q2_header h = meta_of(a)->header;
    uint64_t bit = a->lazy ? Q2_COMPAT_LAZY_REFCOUNTS : 0;

    if (a->version < 3 || (h.compatible & Q2_COMPAT_LAZY_REFCOUNTS) == bit)
        return 0;
    h.compatible = (h.compatible & ~(uint64_t)Q2_COMPAT_LAZY_REFCOUNTS) | bit;
    return replace_header(a, &h);
}

static int set_size(struct q2_amend *a)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = a->size < layer_size(a->layer),
                                     .progress = a->opts->progress, .progress_arg = a->opts->progress_arg};
    int rc;

    assert(a->size > 0 || layer_size(a->layer) == 0);
    if (a->size == layer_size(a->layer))
        return 0;
    rc = q2_resize(a->layer, a->size, &opts, a->queue);
    return rc == 0 ? q2_trim_run(&q2_of(a->layer)->space, a->queue, true) : rc;
}

/* Nothing is to be leaked in the end, nor a flag to be wrong since somebody else let go of a cluster. */
static int mend(struct q2_amend *a, const struct qcow2_check_opts *opts)
{
    struct qcow2_repair_result r;
    int rc = qcow2_repair(a->layer->file, a->queue, QCOW2_REPAIR_ALL, opts, &r);

    if (rc == 0 && r.check.corruptions + r.check.check_errors > 0)
        rc = err_hint(err_set(EIO, "%s: does not check clean", a->layer->name),
                      "repair it with vdisk-io check -r all");
    return rc;
}

static int downgrade(struct q2_amend *a)
{
    struct qcow2_check_opts opts = check_opts(a);
    struct q2_expand how = {.opts = &opts, .backed = meta_of(a)->header.backing_file || a->backing_file,
                            .switch_to = switch_to, .arg = a};
    struct q2_header h;
    bool leaks = false;
    int rc;

    if (a->version >= meta_of(a)->geo.version)
        return 0;
    rc = q2_expand_zeros(a->layer->file, a->queue, &how, &leaks);
    if (rc == 0)
        rc = mend(a, &opts);
    rc = read_anew(a, rc);
    if (rc < 0)
        return leaks ? give_back(a, rc) : rc;
    assert(meta_of(a)->geo.refcount_bits == 16 && (meta_of(a)->header.incompatible == 0));
    h = q2_amend_header(a, a->version, 16);
    return replace_header(a, &h); /* invariant 1 */
}

static int set_backing(struct q2_amend *a)
{
    return q2_set_backing(a->layer, a->backing_file, a->backing_fmt, false, a->queue);
}

static int run(struct q2_amend *a)
{
    bool first = q2_amend_backing_first(a);
    int rc = q2_trim_run(&q2_of(a->layer)->space, a->queue, true);

    assert(a->backing || (!first && !a->backing_file && !a->backing_fmt));
    if (rc == 0 && first)
        rc = set_backing(a);
    if (rc == 0)
        rc = upgrade(a);
    if (rc == 0)
        rc = set_refcount_bits(a);
    if (rc == 0)
        rc = set_lazy(a);
    if (rc == 0)
        rc = set_size(a);
    if (rc == 0)
        rc = downgrade(a);
    return rc == 0 && a->backing && !first ? set_backing(a) : rc;
}

/* With all that is not asked for as it is. */
static struct q2_amend amendment(struct layer *layer, const struct vdisk_amend_opts *opts, vdisk_queue *queue)
{
    const struct q2_header *h = &q2_of(layer)->meta.header;
    bool backed = opts->backing_file && opts->backing_file[0] != '\0';
    struct q2_amend a = {.layer = layer, .opts = opts, .queue = queue,
                         .version = opts->version ? opts->version : h->geo.version,
                         .refcount_bits = opts->refcount_bits ? opts->refcount_bits : h->geo.refcount_bits,
                         .size = opts->virtual_size ? opts->virtual_size : layer_size(layer),
                         .lazy = h->compatible & Q2_COMPAT_LAZY_REFCOUNTS,
                         .backing = opts->backing_file != NULL,
                         .backing_file = backed ? opts->backing_file : NULL, .backing_fmt = opts->backing_fmt};

    if (opts->flags & (VDISK_AMEND_LAZY_ON | VDISK_AMEND_LAZY_OFF))
        a.lazy = opts->flags & VDISK_AMEND_LAZY_ON;
    return a;
}

int q2_amend(struct layer *layer, const struct vdisk_amend_opts *opts, bool only_check, vdisk_queue *queue)
{
    struct q2_amend a = amendment(layer, opts, queue);
    int rc;

    assert(atomic_load(&layer->volume->refuses) & VOLUME_SHUT && !layer->read_only);
    if (atomic_load(&q2_of(layer)->meta.broken))
        return layer_trouble(layer, "amending it");
    rc = only_check ? q2_amend_check(&a) : run(&a);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: amending it: %s", layer->name, strerror(-rc));
    return rc;
}
