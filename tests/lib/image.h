/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images for tests: random but legal create options, made by the library or by qemu-img, on files or on memory;
 * and chains of them with content.
 */
#ifndef TESTS_LIB_IMAGE_H
#define TESTS_LIB_IMAGE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/vdisk.h"
#include "tests/lib/model.h"
#include "tests/lib/rng.h"

struct backend;

enum { IMAGE_LAYERS = 4, IMAGE_WINDOWS = 4 };

struct image_spec {
    bool qcow2; /* or raw */
    bool guessed; /* raw: opened without a format, where the test knows of this */
    bool by_qemu;
    uint64_t size;
    uint32_t cluster_size;
    uint32_t version;
    uint32_t refcount_bits;
    bool lazy_refcounts;
    bool extended_l2;
    bool data_file; /* PATH.data */
    bool data_file_raw;
    bool zstd;
    enum vdisk_prealloc preallocation;
    char path[PATH_MAX];
    char backing[PATH_MAX]; /* "" without */
    const char *backing_format;
};

enum image_limits {
    IMAGE_NO_DATA_FILE = 1u << 0,
    IMAGE_NO_PREALLOC = 1u << 1,
    IMAGE_BACKED = 1u << 2, /* it will get a backing file: nothing that excludes one */
    IMAGE_NO_RAW = 1u << 3,
};

/* Random options; size, path and backing stay as they are. */
void image_random(struct rng *r, struct image_spec *spec, unsigned limits);

/* Default qcow2 of `size` at DIR/`name`. */
void image_default(struct image_spec *spec, const char *name, uint64_t size);

/* One line for people. Static buffer. */
const char *image_describe(const struct image_spec *spec);

/* Make it, or fail the case. */
void image_create(const struct image_spec *spec);

/* Fill in the library's options; they point into `spec`. */
void image_create_opts(const struct image_spec *spec, struct vdisk_create_opts *opts);

/* Make it on an open backend. 0 or -errno. */
int image_create_on(const struct image_spec *spec, struct backend *b);

/* qemu-img check: fails the case at corruption, and at leaks unless `leaks_allowed`. */
void image_check(const char *path, bool leaks_allowed);

/* The image reads as `nmodels` windows say, zero elsewhere: by qemu-img compare. `size` is the virtual size. */
void image_compare(const char *path, const char *format, uint64_t size, const struct model *models,
                   unsigned nmodels);

/* A file of `len` bytes with the pattern that image_pattern_bytes() gives for `id`; its path. */
const char *image_pattern_file(unsigned id);

/* The bytes that qemu-io writes for `write -s FILE`: the pattern from its start, again and again. */
void image_pattern_bytes(unsigned id, void *buf, uint64_t len);

/* Random content, written by qemu-io; the models follow. */
void image_add_content(struct rng *r, const struct image_spec *spec, struct model *models, unsigned nmodels);

/*
 * Build the layers spec[0] (top) to spec[n-1] (base), each with random content by qemu-io where it is
 * made, and bring the models up to what the top reads as. The sizes of layers below the top are chosen here;
 * paths are set. `top_on_memory`: the top layer is only described (backing set), not made.
 */
void image_chain(struct rng *r, struct image_spec *spec, unsigned n, struct model *models, unsigned nmodels,
                 bool top_on_memory);

#endif
