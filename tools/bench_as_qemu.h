/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The load of `qemu-img bench`: equal requests at equal distances, so many at once, perhaps with flushes. */
#ifndef TOOLS_BENCH_AS_QEMU_H
#define TOOLS_BENCH_AS_QEMU_H

#include <stdbool.h>
#include <stdint.h>
#include <vdisk.h>

struct bench_as_qemu {
    uint64_t count;          /* requests, without flushes */
    uint64_t depth;          /* in flight */
    uint64_t block;          /* bytes of each */
    uint64_t offset, step;   /* of the first one; to the next: 0 is `block`. Behind the end it begins anew */
    uint64_t pattern;        /* of writes: a byte */
    uint64_t flush_interval; /* 0, or a flush after so many have been started */
    bool     no_drain;       /* others are in flight meanwhile */
    bool     write;
    bool     fua;            /* writes are durable when they complete */
    enum vdisk_queue_kind queue_kind;
};

/* Print what is sent, send it, print how long it took. CLI_OK, or CLI_FAILED: said so. */
int bench_as_qemu_run(vdisk *v, const struct bench_as_qemu *b);

#endif
