/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the interop tests share. */
#ifndef TESTS_INTEROP_INTEROP_LIB_H
#define TESTS_INTEROP_INTEROP_LIB_H

#include <stddef.h>
#include <stdint.h>

#include "engine/vdisk.h"
#include "tests/lib/image.h"
#include "tests/lib/model.h"

/* Open or fail the case. */
vdisk *must_open(const char *path, uint32_t flags);

/* Open must fail with `error` (negative errno); its text names `part`. */
void must_refuse(const char *path, uint32_t flags, int error, const char *part);

/* A random workload of `steps` requests by the engine; the model follows. */
void engine_workload(vdisk *v, struct model *m, uint64_t cluster_size, unsigned steps);

/* Open, run a workload, close; the image checks clean and qemu-img reads it as the model says. */
void engine_rewrites(const struct image_spec *spec, struct model *m, unsigned steps);

/* Open read-only and compare all of it with the model. */
void engine_reads(const char *path, struct model *m);


/* Write with a pattern by qemu-io and into the model. `flags`: of qemu-io's write, as " -c". */
void qemu_write(const char *path, struct model *m, const char *flags, unsigned pattern, uint64_t offset,
                uint64_t len);

/* Write with a pattern by the engine and into the model. */
void engine_write(vdisk *v, struct model *m, unsigned pattern, uint64_t offset, uint64_t len);

void file_read(const char *path, uint64_t offset, void *buf, size_t len);
void file_write(const char *path, uint64_t offset, const void *buf, size_t len);
uint64_t file_be64(const char *path, uint64_t offset);
void file_set_be64(const char *path, uint64_t offset, uint64_t value);

/* Offsets in the header. */
enum { HEADER_INCOMPATIBLE = 72, HEADER_COMPATIBLE = 80, HEADER_AUTOCLEAR = 88 };

#endif
