/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `info` shows of an image, out of its parsed header and tables. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/format/header.h"
#include "qcow2/format/inflate.h"
#include "qcow2/format/tables.h"
#include "qcow2/qcow2.h"

/* NULL stays NULL. false: out of memory. */
static bool copy(char **ret, const char *text)
{
    *ret = text ? strdup(text) : NULL;
    return !text || *ret;
}

static bool fill_snapshots(struct qcow2_details *d, const struct q2_snapshot_table *t)
{
    d->snapshots = calloc(t->n, sizeof d->snapshots[0]);
    if (!d->snapshots)
        return false;
    d->nsnapshots = t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct q2_snapshot *s = &t->entries[i];
        struct qcow2_snapshot_info *x = &d->snapshots[i];

        x->vm_state_size = s->vm_state_size;
        x->date_sec = s->date_sec;
        x->date_nsec = s->date_nsec;
        x->vm_clock_nsec = s->vm_clock_nsec;
        x->disk_size = s->has_disk_size ? s->disk_size : d->virtual_size;
        x->icount = s->icount;
        x->icount_valid = s->has_icount;
        if (!copy(&x->id, s->id) || !copy(&x->name, s->name))
            return false;
    }
    return true;
}

static bool fill_bitmaps(struct qcow2_details *d, const struct q2_bitmap_directory *t)
{
    d->bitmaps = calloc(t->n, sizeof d->bitmaps[0]);
    if (!d->bitmaps)
        return false;
    d->nbitmaps = t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct q2_bitmap_entry *b = &t->entries[i];
        struct qcow2_bitmap_info *x = &d->bitmaps[i];

        x->granularity = 1ull << b->granularity_bits;
        x->in_use = (b->flags & Q2_BITMAP_IN_USE) != 0;
        x->automatic = (b->flags & Q2_BITMAP_AUTO) != 0;
        if (!copy(&x->name, b->name))
            return false;
    }
    return true;
}

int q2_details_fill(const struct q2_header *h, const struct q2_snapshot_table *snapshots,
                    const struct q2_bitmap_directory *bitmaps, struct qcow2_details *ret)
{
    struct qcow2_details d = {
        .virtual_size = h->size,
        .cluster_size = h->geo.cluster_size,
        .version = h->geo.version,
        .refcount_bits = h->geo.refcount_bits,
        .lazy_refcounts = (h->compatible & Q2_COMPAT_LAZY_REFCOUNTS) != 0,
        .dirty = (h->incompatible & Q2_INCOMPAT_DIRTY) != 0,
        .corrupt = (h->incompatible & Q2_INCOMPAT_CORRUPT) != 0,
        .extended_l2 = h->geo.extended_l2,
        .data_file_raw = (h->autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW) != 0,
        .bitmaps_stale = h->bitmaps_stale,
        .compat = h->geo.version == 2 ? "0.10" : "1.1",
        .compression_type = h->compression_type == Q2_COMPRESSION_ZSTD ? "zstd" : "zlib",
    };
    bool ok = copy(&d.backing_file, h->backing_file) && copy(&d.backing_format, h->backing_format) &&
              copy(&d.data_file, h->data_file);

    if (ok && snapshots && snapshots->n > 0)
        ok = fill_snapshots(&d, snapshots);
    if (ok && bitmaps && bitmaps->n > 0)
        ok = fill_bitmaps(&d, bitmaps);
    if (!ok) {
        qcow2_details_free(&d);
        return -ENOMEM;
    }
    *ret = d;
    return 0;
}

void qcow2_details_free(struct qcow2_details *d)
{
    for (uint32_t i = 0; i < d->nsnapshots; i++) {
        free(d->snapshots[i].id);
        free(d->snapshots[i].name);
    }
    for (uint32_t i = 0; i < d->nbitmaps; i++)
        free(d->bitmaps[i].name);
    free(d->snapshots);
    free(d->bitmaps);
    free(d->backing_file);
    free(d->backing_format);
    free(d->data_file);
    free(d->luks);
    memset(d, 0, sizeof *d);
}
