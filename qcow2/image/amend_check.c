/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image cannot become, said before anything changes.
 *
 * Happy path: what the options ask for goes together, with what the image has, and fits into its header.
 * Failure modes: -EINVAL, -ENOTSUP, -ENOSPC with a text in QEMU's words, where it has some; of the I/O.
 *
 * Not as QEMU, which loses them and leaves their clusters leaked: an image with bitmaps does not become version 2,
 * nor does one whose compressed clusters may be zstd's.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/check/check.h"
#include "qcow2/format/format.h"
#include "qcow2/image/amend.h"
#include "qcow2/image/resize.h"

enum { SNAPSHOT_EXTRA_V3 = 16 };

static const struct q2_header *header_of(const struct q2_amend *a)
{
    return &q2_of(a->layer)->meta.header;
}

struct q2_header q2_amend_header(const struct q2_amend *a, uint32_t version, uint32_t refcount_bits)
{
    const struct q2_geometry *g = &header_of(a)->geo;
    struct q2_header h = *header_of(a);

    q2_geometry_init(&h.geo, version, g->cluster_bits, (uint32_t)__builtin_ctz(version < 3 ? 16 : refcount_bits),
                     g->extended_l2, g->data_file);
    assert(h.geo.cluster_size == g->cluster_size);
    if (version < 3) {
        h.compatible = h.autoclear = 0;
        h.has_bitmaps = false;
    }
    return h;
}

/* ---- snapshots ------------------------------------------------------------------------------------------ */

typedef bool snapshot_fn(const struct q2_amend *a, const struct q2_snapshot *s);

static int any_snapshot(const struct q2_amend *a, snapshot_fn *is_so, bool *ret)
{
    struct q2_meta *meta = &q2_of(a->layer)->meta;
    struct q2_snapshot_table t;
    int rc;

    *ret = false;
    if (meta->header.nb_snapshots == 0)
        return 0;
    rc = q2_read_snapshots(meta, a->queue, &t);
    if (rc < 0)
        return rc;
    assert(t.n == meta->header.nb_snapshots);
    for (uint32_t i = 0; i < t.n; i++)
        *ret |= is_so(a, &t.entries[i]);
    q2_snapshots_free(&t);
    return 0;
}

/* Version 2 takes the disk's present size (to QEMU: in sectors) for a snapshot's, and 32 bits for a state's. */
static bool prevents_version_2(const struct q2_amend *a, const struct q2_snapshot *s)
{
    return s->vm_state_size > UINT32_MAX ||
           (s->has_disk_size && s->disk_size != a->size && s->disk_size != align_down(a->size, Q2_SECTOR_SIZE));
}

static bool lacks_size(const struct q2_amend *a, const struct q2_snapshot *s)
{
    assert(a->version >= 3);
    return s->extra_size < SNAPSHOT_EXTRA_V3;
}

int q2_amend_old_snapshots(const struct q2_amend *a, bool *ret_old)
{
    return any_snapshot(a, lacks_size, ret_old);
}

/* ---- version 2 ------------------------------------------------------------------------------------------ */

static int check_features(const struct q2_amend *a)
{
    const struct q2_header *h = header_of(a);

    if (h->geo.data_file)
        return err_hint(err_set(ENOTSUP, "%s: Cannot downgrade an image with a data file", a->layer->name),
                        "convert it");
    if (h->incompatible != 0)
        return err_hint(err_set(ENOTSUP, "%s: Cannot downgrade an image with incompatible features 0x%" PRIx64
                                " set", a->layer->name, h->incompatible),
                        h->geo.extended_l2 ? "it has subclusters: convert it" : "convert it");
    if (h->has_bitmaps && h->nb_bitmaps > 0)
        return err_hint(err_set(ENOTSUP, "%s: Cannot downgrade an image with bitmaps", a->layer->name),
                        "remove the bitmaps first");
    return 0;
}

static int check_version_2(const struct q2_amend *a)
{
    bool prevented = false;
    int rc;

    assert(a->version == 2);
    if (a->opts->refcount_bits != 0 && a->refcount_bits != 16)
        return err_set(EINVAL, "%s: Refcount widths other than 16 bits require compatibility level 1.1 or above "
                       "(use compat=1.1 or greater)", a->layer->name);
    if (a->opts->flags & VDISK_AMEND_LAZY_ON)
        return err_set(EINVAL, "%s: Lazy refcounts only supported with compatibility level 1.1 and above "
                       "(use compat=1.1 or greater)", a->layer->name);
    if (a->refcount_bits != 16)
        return err_hint(err_set(ENOTSUP, "%s: compat=0.10 requires refcount_bits=16", a->layer->name),
                        "both can be changed at once");
    if (header_of(a)->geo.version < 3)
        return 0;
    rc = check_features(a);
    if (rc == 0)
        rc = any_snapshot(a, prevents_version_2, &prevented);
    if (rc == 0 && prevented)
        rc = err_hint(err_set(ENOTSUP, "%s: Internal snapshots prevent downgrade of image", a->layer->name),
                      "delete the snapshots whose disk had another size");
    return rc;
}

/* ---- the header ----------------------------------------------------------------------------------------- */

/* Of this version, with the present backing file's name or the one it is to have. */
static int fits(const struct q2_amend *a, uint32_t version, bool new_name)
{
    static const char doubt[] = "nothing is written";
    struct q2_header h = q2_amend_header(a, version, a->refcount_bits);

    if (new_name) {
        h.backing_file = unconst(a->backing_file);
        h.backing_format = unconst(a->backing_fmt);
    }
    return q2_header_replace(a->layer, &h, doubt, true, a->queue);
}

static uint32_t highest_version(const struct q2_amend *a)
{
    return (uint32_t)max_u64(a->version, header_of(a)->geo.version);
}

bool q2_amend_backing_first(const struct q2_amend *a)
{
    bool first = a->backing && fits(a, highest_version(a), false) < 0;

    err_clear();
    return first;
}

/* All that are written on the way. */
static int check_headers(const struct q2_amend *a)
{
    bool first = q2_amend_backing_first(a);
    int rc = fits(a, highest_version(a), first);

    if (rc == 0 && a->backing)
        rc = fits(a, first ? header_of(a)->geo.version : a->version, true);
    return rc;
}

/* ---- all of it ------------------------------------------------------------------------------------------ */

/* Is what is read by other rules then, or counted anew, sound? */
static int check_sound(const struct q2_amend *a)
{
    struct qcow2_check_opts opts = {.progress = a->opts->progress, .progress_arg = a->opts->progress_arg};
    const struct q2_geometry *g = &header_of(a)->geo;
    struct q2_sound how = {.refcount_bits = a->refcount_bits < g->refcount_bits ? a->refcount_bits : 0};
    int rc;

    if (a->version == g->version && a->refcount_bits == g->refcount_bits)
        return 0;
    rc = q2_trim_run(&q2_of(a->layer)->space, a->queue, true); /* the disk tells */
    return rc == 0 ? q2_check_sound(a->layer->file, a->queue, &opts, &how) : rc;
}

int q2_amend_check(const struct q2_amend *a)
{
    int rc = a->version < 3 ? check_version_2(a) : 0;

    if (rc == 0 && a->backing)
        rc = q2_check_new_backing(a->layer, a->backing_file, a->backing_fmt, "say backing_fmt=raw or qcow2");
    if (rc == 0 && a->size != layer_size(a->layer))
        rc = q2_resize_check(a->layer, a->size, highest_version(a), a->queue);
    if (rc == 0)
        rc = check_headers(a);
    return rc == 0 ? check_sound(a) : rc;
}
