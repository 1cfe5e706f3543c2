/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening and closing an image. Both block.
 *
 * Open, happy path: read and check the header, decide whether we may write it, open the external data file, read
 * L1 and refcount table, set up caches, learn where metadata lies, clear autoclear bits that we do not know.
 * Failure modes: each with one line that names what is wrong; nothing is left open, nothing was written (but for
 * the autoclear bits, which are the last step).
 *
 * Close, happy path: write back, give back all that can be given back (trim.c), release.
 * Failure modes: a failed flush is reported; everything is released all the same.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/chain/layer_name.h"
#include "engine/spec/option.h"
#include "qcow2/format/format.h"
#include "qcow2/image/image.h"
#include "qcow2/image/open_repair.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"

enum { NAMED_CACHE_MAX = 256 << 20 };

/* ---- may it be opened so? ------------------------------------------------------------------------------ */

/* A bitmap that records writes would miss ours. */
static int check_bitmap(const struct q2_meta *meta, const struct q2_bitmap_entry *b, uint64_t size)
{
    if ((b->flags & (Q2_BITMAP_AUTO | Q2_BITMAP_IN_USE)) != Q2_BITMAP_AUTO)
        return 0;
    return err_hint(err_set(ENOTSUP, "%s: bitmap '%s' records writes, which we cannot keep up", meta->layer->name,
                            b->name),
                    "disable or remove the bitmap, or open the image read-only");
}

/* What writing needs, and reading does not. */
static int check_named_tables(struct q2 *q)
{
    const char *problem = q->meta.header.reftable_problem;

    if (!problem)
        problem = q->meta.header.snapshots_problem;
    if (!problem)
        return 0;
    return err_hint(err_set(EINVAL, "%s: can only be opened read-only: %s", q->meta.layer->name, problem),
                    "repair it with vdisk-io check -r all");
}

static int check_writable(struct q2 *q, vdisk_queue *queue)
{
    if (q->meta.header.incompatible & Q2_INCOMPAT_CORRUPT)
        return err_hint(err_set(EACCES, "%s: is marked corrupt and can only be opened read-only",
                                q->meta.layer->name),
                        "repair it with vdisk-io check -r all");
    return q2_judge_bitmaps(&q->meta, queue, check_bitmap, q->meta.header.size);
}

/*
 * Who writes must have all that the image consists of: a hole is filled from below, and a mapping leads somewhere.
 */
static int check_whole(struct q2 *q, const struct layer_open *how)
{
    uint32_t flags = q->meta.layer->open_flags;
    bool no_backing = flags & (VDISK_OPEN_NO_BACKING | VDISK_OPEN_NO_NAMES), none;

    layer_name_backing(how->name, &none);
    no_backing |= none;
    if (q->meta.layer->read_only || flags & VDISK_OPEN_CHECK)
        return 0;
    if (no_backing && !MUTANT(HIDE_BACKING) && q->meta.header.backing_file &&
        q->meta.header.backing_file[0] != '\0')
        err_set(EINVAL, "%s: cannot be written without its backing file", q->meta.layer->name);
    else if (flags & VDISK_OPEN_NO_NAMES && q->meta.geo.data_file && !how->data_file)
        err_set(EINVAL, "%s: cannot be written without its external data file", q->meta.layer->name);
    else
        return 0;
    return err_hint(-EINVAL, "open it read-only, or with all of its files");
}

/* Bits that say what other writers must know, and we do not. */
static int clear_autoclear(struct q2 *q, vdisk_queue *queue)
{
    struct q2_header_change change = q2_header_change(&q->meta);
    int rc;

    if (q->meta.layer->read_only || q->meta.layer->open_flags & VDISK_OPEN_CHECK ||
        (q->meta.header.autoclear & ~Q2_AUTOCLEAR_KNOWN) == 0)
        return 0;
    change.fields.autoclear &= Q2_AUTOCLEAR_KNOWN;
    rc = q2_header_commit_sync(&q->meta, &change, queue);
    return rc < 0 ? err_set(rc, "%s: writing the header: %s", q->meta.layer->name, strerror(-rc)) : 0;
}

/* Before any table is in memory. */
static int prepare_writing(struct q2 *q, const struct layer_open *how, vdisk_queue *queue)
{
    int rc;

    assert(!q->meta.reftable && !atomic_load(&q->meta.l1));
    if (q->meta.layer->read_only)
        return 0;
    rc = check_named_tables(q);
    if (rc < 0 || q->meta.layer->open_flags & VDISK_OPEN_CHECK)
        return rc;
    rc = check_writable(q, queue);
    if (rc == 0 && q->meta.header.incompatible & Q2_INCOMPAT_DIRTY)
        rc = q2_open_repair(q, how, queue);
    return rc;
}

/* ---- open, close --------------------------------------------------------------------------------------- */

static char *dup_or_null(const char *s)
{
    return s ? mem_strdup(s) : NULL;
}

/*
 * What the name says for this layer goes before what is said for all of the chain. It may stand in an image, so
 * that it is bounded.
 */
static uint64_t cache_bytes(const struct layer_open *how)
{
    uint64_t named = how->name ? option_size(how->name, "cache-size", 0) : 0;

    if (how->name && named == 0)
        named = option_size(how->name, "l2-cache-size", 0);
    return named > 0 ? min_u64(named, NAMED_CACHE_MAX) : how->cache_bytes;
}

/* What a version can say. */
static void set_cheap(struct q2 *q)
{
    atomic_store(&q->meta.layer->zeroes_cheap, q->meta.geo.version >= 3 || !q->meta.header.backing_file);
}

int q2_open(struct layer *layer, const struct layer_open *how, vdisk_queue *queue)
{
    struct q2 *q = q2_state_alloc(layer);
    int rc;

    assert(!layer->format_state && layer_size(layer) == 0);
    if (!q)
        return err_set(ENOMEM, "%s: out of memory", layer->name);
    layer->format_state = q;
    q->cache_bytes = cache_bytes(how);
    rc = q2_state_read_header(q, queue);
    if (rc == 0)
        rc = check_whole(q, how);
    if (rc == 0)
        rc = q2_data_file_open(q, how);
    if (rc == 0)
        rc = prepare_writing(q, how, queue);
    if (rc == 0)
        rc = q2_state_setup(q, queue, how->tables_left);
    if (rc < 0)
        goto fail;
    layer_set_size(layer, q->meta.header.size);
    layer->cluster_size = q->meta.geo.cluster_size;
    layer->map_unit = (uint32_t)q->meta.geo.subcluster_size;
    layer->compress_align = q->meta.data_file ? 0 : (uint32_t)q->meta.geo.cluster_size;
    layer->zero_align = q->meta.data_file_raw ? 0 : q->meta.geo.cluster_size;
    set_cheap(q);
    layer->backing_name = dup_or_null(q->meta.header.backing_file);
    layer->backing_format = dup_or_null(q->meta.header.backing_format);
    if ((q->meta.header.backing_file && !layer->backing_name) ||
        (q->meta.header.backing_format && !layer->backing_format)) {
        rc = err_set(ENOMEM, "%s: out of memory", layer->name);
        goto fail;
    }
    rc = clear_autoclear(q, queue);
    if (rc < 0)
        goto fail;
    layer->writes_in_place = true;
    q2_assert(q);
    return 0;

fail:
    q2_state_free(q);
    layer->format_state = NULL;
    return rc;
}

/* What is in memory is not what is on disk: whatever was written by it might be lost. */
static int reload_failed(struct q2 *old, int rc)
{
    layer_set_size(old->meta.layer, old->meta.header.size); /* it has that already */
    if (!MUTANT(RELOAD_TRUSTED))
        q2_doubt(&old->meta, "its tables could not be read again after they had been changed");
    return rc;
}

int q2_reload(struct layer *layer, vdisk_queue *queue)
{
    struct q2 *q = q2_state_alloc(layer), *old = q2_of(layer);
    int rc;

    assert(old->meta.l2.dirty_count == 0 && old->meta.refcounts.dirty_count == 0);
    assert(old->meta.l1_pages.dirty_count == 0 && old->meta.reftable_pages.dirty_count == 0);
    assert(!layer->read_only && layer == layer->volume->top);
    if (!q)
        return reload_failed(old, err_set(ENOMEM, "%s: out of memory", layer->name));
    q->cache_bytes = old->cache_bytes;
    rc = q2_state_read_header(q, queue);
    if (rc == 0)
        rc = q2_state_setup(q, queue, NULL);
    if (rc < 0) {
        q2_state_free(q);
        return reload_failed(old, rc);
    }
    layer->format_state = q;
    layer_set_size(layer, q->meta.header.size);
    set_cheap(q);
    q2_state_free(old);
    q2_assert(q);
    return 0;
}

int q2_close(struct layer *layer, vdisk_queue *queue)
{
    struct q2 *q = q2_of(layer);
    int rc = 0;

    q2_assert(q);
    if (!layer->read_only && !(layer->open_flags & VDISK_OPEN_CHECK))
        rc = q2_trim_run(&q->space, queue, true);
    q2_state_free(q);
    layer->format_state = NULL;
    return rc;
}
