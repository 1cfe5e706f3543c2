/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How large an image gets, by the sums of qemu-img measure, which callers compare with sizes of devices.
 *
 * Happy path: the geometry is that of creation; metadata is counted for all of the size, data as it comes.
 * Failure modes: what creation refuses of version and geometry; a size whose tables are too large.
 */
#include <string.h>

#include "engine/image.h"
#include "qcow2/image/create.h"

enum { BITMAP_ENTRY = 24 }; /* of the directory, without the name */

/* Bitmaps as they would be with all of their tables; those that nobody trusts are not copied. */
static uint64_t bitmaps_size(const struct q2_geometry *geo, const vdisk_image *source)
{
    uint64_t size = 0, directory = 0;

    for (uint32_t i = 0; i < source->bitmaps_count; i++) {
        const struct vdisk_bitmap_info *b = &source->bitmaps[i];
        uint64_t bits, clusters;

        if (b->in_use)
            continue;
        assert(is_power_of_two(b->granularity));
        bits = div_up(source->info.virtual_size, b->granularity);
        clusters = q2_clusters(geo, div_up(bits, 8));
        size += clusters << geo->cluster_bits;
        size += align_up(clusters * sizeof(uint64_t), geo->cluster_size);
        directory += align_up(BITMAP_ENTRY + strlen(b->name), 8);
    }
    return size + align_up(directory, geo->cluster_size);
}

int q2_measure(const char *name, const struct vdisk_create_opts *o, const vdisk_image *source,
               struct vdisk_measure_result *ret)
{
    bool data_at_once = o->preallocation == VDISK_PREALLOC_FALLOC || o->preallocation == VDISK_PREALLOC_FULL;
    struct q2_geometry geo;
    uint64_t guest = 0;
    int rc = q2_create_geometry(name, o, &geo);

    if (rc < 0)
        return rc;
    guest = align_up(ret->virtual_size, geo.cluster_size);
    rc = q2_layout_measure(&geo, guest, name, &ret->fully_allocated);
    if (rc < 0)
        return rc;
    assert(ret->fully_allocated > guest);
    ret->required = ret->fully_allocated - (data_at_once ? 0 : guest);
    ret->unit = data_at_once ? 0 : geo.cluster_size;
    ret->has_bitmaps = source && geo.version >= 3 && source->info.format &&
                       strcmp(source->info.format, "qcow2") == 0 && source->info.version >= 3;
    if (ret->has_bitmaps && source->bitmaps_problem.rc < 0)
        return err_set(source->bitmaps_problem.rc, "%s", source->bitmaps_problem.text);
    if (ret->has_bitmaps)
        ret->bitmaps = bitmaps_size(&geo, source);
    /* The source may have any of it in common with the backing file, or none. */
    if (source && o->backing_file) {
        ret->required = ret->fully_allocated;
        ret->unit = 0;
    }
    return 0;
}
