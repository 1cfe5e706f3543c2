/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of an image, as the format that describes it fills it in: engine/vdisk-image.h gives it out. All
 * that it points to is among its texts and lists. On failure a format leaves it as it is: what there is of it is
 * freed.
 */
#ifndef ENGINE_IMAGE_H
#define ENGINE_IMAGE_H

#include "engine/backend.h"
#include "engine/vdisk-image.h"

struct image_text;

/* Why a list cannot be told: its text and hint. */
struct image_problem {
    int         rc; /* 0: there is none */
    const char *text, *hint;
};

struct vdisk_image {
    struct vdisk_image_info       info;
    struct vdisk_encryption_info  encryption;    /* .format NULL: none */
    struct vdisk_key_slot_info   *key_slots;
    struct vdisk_snapshot_info   *snapshots;
    struct vdisk_bitmap_info     *bitmaps;
    uint32_t                      key_slots_count, snapshots_count, bitmaps_count;
    struct image_problem          snapshots_problem, bitmaps_problem;
    struct image_text            *texts;
};

/* Have *ret be a copy of `text` that lives as long as the image; NULL stays NULL. 0 or -ENOMEM, with text. */
int image_text(vdisk_image *im, const char *text, const char **ret);

/* The same of what was malloc'ed, which it takes over; NULL: there was no memory for it. */
int image_take_text(vdisk_image *im, char *text, const char **ret);

/* The error just set, `rc`, is what those who ask for a list are told. 0 or -ENOMEM, with text. */
int image_problem(vdisk_image *im, int rc, struct image_problem *ret);

#endif
