/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle: what each byte of a window of a volume must read as. Offsets are the volume's.
 *
 * A byte may be loose: after a discard it reads as before or as zero, after a failed write as before or as
 * written. Reading it pins it: from then on it must stay what it was seen to be.
 */
#ifndef TESTS_LIB_MODEL_H
#define TESTS_LIB_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_marks {
    MODEL_OR_ZERO = 1u << 0, /* zero is right too */
    MODEL_OR_OLD = 1u << 1,  /* what `old` says is right too */
    MODEL_ANY = 1u << 2,     /* anything is */
};

/* Threads may use one at the same time, each its own range of bytes. */
struct model {
    uint64_t base; /* first byte of the window */
    uint64_t size; /* of the window */
    uint8_t *now;
    uint8_t *old;
    uint8_t *marks; /* enum model_marks */
    _Atomic uint64_t *stamps; /* a number for each 4 KiB, another after each change of it; of two models what has
                                 one number is alike. 0: all of it is zero, and firm */
    _Atomic bool loose; /* else no byte ever was: `marks` are 0, and neither they nor `old` are looked at */
};

/* All zero, and firm. */
void model_init(struct model *m, uint64_t base, uint64_t size);
void model_finish(struct model *m);
void model_copy(struct model *to, const struct model *from); /* of equal size */
void model_init_copy(struct model *to, const struct model *from);

/* Cut, or add zeros. The window begins at 0. */
void model_resize(struct model *m, uint64_t size);

void model_write(struct model *m, uint64_t offset, const void *buf, uint64_t len);
void model_zero(struct model *m, uint64_t offset, uint64_t len);
void model_discard(struct model *m, uint64_t offset, uint64_t len);

/* Add `mark` to each byte. */
void model_mark(struct model *m, uint64_t offset, uint64_t len, enum model_marks mark);

/* A write (buf NULL: of zeros) that failed: each byte is old or new. */
void model_maybe_write(struct model *m, uint64_t offset, const void *buf, uint64_t len);

/* What was not flushed may be lost: each byte is as in `m`, or as in `flushed`. */
void model_loosen(struct model *m, const struct model *flushed);

/* What the window reads as through a layer that ends at `size`. */
void model_cut(struct model *m, uint64_t size);

/* Fails the case, naming the first wrong byte, unless `buf` is right. Pins what was loose. */
void model_expect(struct model *m, uint64_t offset, const void *buf, uint64_t len, const char *what);

/* Fails the case unless the range can be all zeros; pins it to that. */
void model_expect_zero(struct model *m, uint64_t offset, uint64_t len, const char *what);

/* First offset at which `buf` is wrong, or UINT64_MAX. Pins nothing. */
uint64_t model_find_wrong(const struct model *m, uint64_t offset, const void *buf, uint64_t len);

/* Write the window into a file at its offset, leaving zeros as holes; no byte may be loose. */
void model_dump(const struct model *m, int fd);

#endif
