/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the model tests share: one random volume, where it lives, and opening it. */
#ifndef TESTS_MODEL_MODEL_LIB_H
#define TESTS_MODEL_MODEL_LIB_H

#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/model.h"
#include "tests/lib/workload.h"

struct subject {
    struct image_spec layers[IMAGE_LAYERS];
    unsigned nlayers;
    struct model models[IMAGE_WINDOWS];
    unsigned nmodels;
    bool on_memory;
    struct memdisk disk;
};

enum subject_flags {
    SUBJECT_ON_MEMORY = 1u << 0,
    SUBJECT_SMALL = 1u << 1, /* one window */
    SUBJECT_QCOW2 = 1u << 2,
};

/* Choose options, make the images. */
void subject_init(struct subject *s, struct rng *r, unsigned flags);
void subject_finish(struct subject *s);

/* Open for writing with random open options. */
vdisk *subject_open(struct subject *s, struct rng *r);

/* Close; the image must check clean and hold what the models say. `compare`: by qemu-img, too. */
void subject_close(struct subject *s, vdisk *v, bool compare);

/* Grow it by a random amount, if it is of one window. */
void subject_grow(struct subject *s, struct rng *r, vdisk *v);

/* Fill in what the workload needs to know. */
void subject_workload(struct subject *s, struct rng *r, vdisk *v, struct workload *w);

#endif
