/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As much of an open qcow2 image as caches and flushes look at, on a disk that tells what is durable. L2 slices of
 * 512 bytes, one after another by key, each word of it IMAGE_WORD(key, its index).
 */
#ifndef TESTS_INTERLEAVE_IMAGE_H
#define TESTS_INTERLEAVE_IMAGE_H

#include "engine/backend.h"
#include "engine/volume.h"
#include "qcow2/image/image.h"

enum { IMAGE_SLICE = 512, IMAGE_WORDS = IMAGE_SLICE / 8, IMAGE_SLICES = 64, IMAGE_CLUSTERS = 40 };

#define IMAGE_WORD(key, index) ((uint64_t)(key) << 32 | (uint64_t)(index))

struct disk {
    struct backend b;          /* first */
    uint64_t       written[IMAGE_SLICES * IMAGE_WORDS]; /* host order */
    uint64_t       durable[IMAGE_SLICES * IMAGE_WORDS];
    unsigned       flushes;    /* made so far */
    unsigned       fail_flush; /* this one of them fails, from 1; 0: none */
};

/* On success *ret is the caller's, to be closed as any backend. */
void disk_create(struct disk **ret);

struct image {
    struct q2    q;
    vdisk        v;
    struct layer layer;
    struct disk *disk;
    uint64_t     reftable; /* one entry */
};

void image_init(struct image *im);
void image_finish(struct image *im);

/* The word on the disk, for good. */
uint64_t image_durable(const struct image *im, uint64_t key, unsigned index);

/* Load slice `key`, outside of a run's threads or inside, on the queue. */
void image_load(struct image *im, vdisk_queue *q, uint64_t key);

/* As an allocating write ends: the entry changes, under the lock. */
void image_change(struct image *im, uint64_t key, unsigned index, uint64_t value);

/* A flush of the format's, to its end; its result. */
int image_flush(struct image *im, vdisk_queue *q);

/* As a lookup reads, without a lock. False: it would have to look again. */
bool image_read(struct image *im, uint64_t key, unsigned index, uint64_t *ret_value, bool *ret_settled);

/* The slot that has the slice, NULL: none. For who looks while no thread of the program runs. */
struct q2_slot *image_slot(struct image *im, struct q2_cache *c, uint64_t key);

#endif
