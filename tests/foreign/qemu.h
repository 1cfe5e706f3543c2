/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's storage daemon, which reads one image after another: one of them for each process, started when it is
 * first needed, started anew when it has died or hangs, and gone with the process.
 */
#ifndef TESTS_FOREIGN_QEMU_H
#define TESTS_FOREIGN_QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { QEMU_SECTOR = 512, QEMU_WHY = 100 };

enum qemu_answer {
    QEMU_READS,
    QEMU_REFUSES, /* to open it */
    QEMU_LOST,    /* it died, or did not answer: the next image has a new one */
};

struct memdisk;

/* An image. What is behind it is `base` (the same each time) or nothing, whatever its header says. */
struct qemu_image {
    struct memdisk *disk;
    const uint8_t *base;
    uint64_t base_len;
    bool backed;
};

/* The first `sectors` of its disk into buf, as many as it has; ok: by sector, which could be read; why: it
 * was lost. */
enum qemu_answer qemu_read(const char *daemon, const struct qemu_image *image, uint64_t sectors, uint8_t *buf,
                           uint8_t *ok, char why[QEMU_WHY]);

#endif
