/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filter that hides bytes from a glance and from nobody else: the skeleton to copy.
 *
 *     driver=rotate,key=13,file.driver=file,file.filename=PATH
 *
 * Each byte but 0 is stored as the one that comes `key` later, round from 255 to 1. 0 stays 0, so that holes,
 * zeros and what lies past the end are below what they are here, and only reads and writes need a look.
 *
 * What every filter has:
 *  1. A struct with `struct filter` first, for what it keeps: a key.
 *  2. A driver: the table of its options, of which "file" is what lies below; open() opens that, and filter_init()
 *     makes it ours, with its limits, its end, and whoever is to be told when that moves. What it does not change
 *     the filter_*() functions pass on.
 *  3. For each I/O one of its own below, with the outer one's kind, range and flags. It goes the whole way of an
 *     I/O (alignment, limits, short transfers), and its end ends the outer one.
 *  4. Lines in filters.h and meson.build, and in backends/drivers.c.
 *
 * Happy path, write: a piece of it is copied, rotated, and written; the engine comes again with the rest.
 * Happy path, read: what has been read is turned back where it lies.
 * Failure modes: out of memory (-ENOMEM); errors from below are passed on.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/filter.h"
#include "engine/spec/option.h"
#include "filters/filters.h"

enum { WRITE_PIECE = 1 << 20 };

struct rotate {
    struct filter f; /* first */
    unsigned      key; /* 0 to 254 */
};

struct rotate_io {
    struct io    io; /* the one below */
    struct io   *outer;
    void        *copy; /* of a write */
    struct iovec iov[];
};

static void rotate_bytes(uint8_t *p, uint64_t len, unsigned by)
{
    for (; len > 0; p++, len--)
        if (*p)
            *p = (uint8_t)((*p - 1 + by) % 255 + 1);
}

/* ---- I/O ------------------------------------------------------------------------------------------------ */

static void below_done(struct io *io)
{
    struct rotate_io *ri = container_of(io, struct rotate_io, io);
    struct io *outer = ri->outer;
    struct rotate *r = container_of(filter_of(outer->backend), struct rotate, f);
    int64_t res = filter_result(&r->f, io);

    for (uint32_t i = 0; io->kind == IO_READ && res > 0 && i < io->iovcnt; i++)
        rotate_bytes(io->iov[i].iov_base, io->iov[i].iov_len, 255 - r->key);
    mem_free(ri->copy);
    mem_free(ri);
    io_end(outer, res);
}

/* The caller's memory stays as it is. False: out of memory. */
static bool copy_rotated(const struct rotate *r, struct rotate_io *ri)
{
    struct io *io = &ri->io;
    uint64_t len = io->len;

    if (mem_memalign(&ri->copy, max_u64(r->f.below->mem_align, sizeof(void *)), len) != 0) {
        ri->copy = NULL;
        return false;
    }
    iov_to(io->iov, io->iovcnt, 0, ri->copy, len);
    rotate_bytes(ri->copy, len, r->key);
    ri->iov[0] = (struct iovec){ri->copy, len};
    io->iovcnt = 1;
    return true;
}

/* Freed by below_done(). Out of memory: the outer one ends so. */
static void rotate_submit(struct backend *b, struct io *outer)
{
    struct rotate *r = container_of(filter_of(b), struct rotate, f);
    struct rotate_io *ri = mem_calloc(1, sizeof *ri + max_u64(outer->iovcnt, 1) * sizeof ri->iov[0]);

    if (ri) {
        ri->outer = outer;
        filter_fill_io(&r->f, &ri->io, outer, ri->iov, outer->kind == IO_WRITE ? WRITE_PIECE : UINT64_MAX);
        ri->io.done = below_done;
    }
    if (!ri || (outer->kind == IO_WRITE && !copy_rotated(r, ri))) {
        mem_free(ri);
        io_end_later(outer, -ENOMEM);
        return;
    }
    io_start(&ri->io);
}

/* ---- open and the rest ---------------------------------------------------------------------------------- */

static const struct option_desc rotate_options[] = {
    {SPEC_FILE, OPTION_NODE, true, NULL, "what holds the bytes", NULL},
    {"key", OPTION_SIZE, false, "13", "by how much each byte is turned", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

int rotate_backend_create(struct backend *below, unsigned key, struct backend **ret_backend)
{
    struct rotate *r = backend_alloc(&rotate_driver, below->name, sizeof *r);

    if (!r)
        return err_set(ENOMEM, "%s: out of memory", below->name);
    filter_init(&r->f, below);
    r->f.b.id = below->id;
    r->key = key % 255;
    *ret_backend = &r->f.b;
    return 0;
}

static int rotate_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    unsigned key = (unsigned)(option_size(options, "key", 13) % 255);
    struct backend *below;
    int rc = backend_open_node(name, spec_node(options, SPEC_FILE), flags, &below);

    if (rc < 0)
        return rc;
    rc = rotate_backend_create(below, key, ret_backend);
    if (rc < 0)
        backend_close(below);
    return rc;
}

static bool rotate_identify(const struct spec *options, struct backend_id *ret_id)
{
    return backend_identify_node(spec_node(options, SPEC_FILE), ret_id);
}

static void rotate_close(struct backend *b)
{
    backend_close(filter_of(b)->below);
}

const struct backend_driver rotate_driver = {
    .name = "rotate",
    .options = rotate_options,
    .identify = rotate_identify,
    .open = rotate_open,
    .close = rotate_close,
    .submit = rotate_submit,
    .prefetch = filter_prefetch,
    .allocated = filter_allocated,
    .relock = filter_relock,
    .refresh = filter_refresh,
    .room = filter_room,
    .unlink = filter_unlink,
};
