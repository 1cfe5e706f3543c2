/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that outlives the volumes on it: a volume closes its backend, a memdisk is opened again. */
#ifndef TESTS_LIB_MEMDISK_H
#define TESTS_LIB_MEMDISK_H

#include <stdbool.h>
#include <stdint.h>

struct backend;

struct memdisk {
    struct backend *keeper; /* holds the bytes */
    uint32_t align;         /* of offsets, lengths and memory */
    uint32_t max_transfer;  /* 0: as the backend likes */
    uint32_t max_iov;       /* same */
};

void memdisk_init(struct memdisk *d, uint32_t align);
void memdisk_finish(struct memdisk *d);

/* One that is `size` bytes long and cannot grow, as a block device. */
void memdisk_init_fixed(struct memdisk *d, uint32_t align, uint64_t size);

/* Bytes that are occupied now, and how many may be at most: memory_backend_set_space(). */
uint64_t memdisk_occupied(struct memdisk *d);
void memdisk_set_space(struct memdisk *d, uint64_t bytes);

/* A backend on it, for vdisk_open_backend(), which takes it over. One writer at a time. */
struct backend *memdisk_open(struct memdisk *d, bool read_only);

uint64_t memdisk_size(struct memdisk *d);
void memdisk_read(struct memdisk *d, uint64_t offset, void *buf, uint64_t len);
void memdisk_write(struct memdisk *d, uint64_t offset, const void *buf, uint64_t len);

/* Another disk with the same bytes. */
void memdisk_clone(struct memdisk *to, struct memdisk *from);

/* To and from a file. */
void memdisk_save(struct memdisk *d, const char *path);
void memdisk_load(struct memdisk *d, const char *path, uint32_t align);

#endif
