/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crash images: bytes in blocks, and a backend on them.
 *
 * Happy path: an image borrows the blocks of what is durable, and copies a block when it changes it: making one
 * costs what differs. Failure modes: out of memory: -ENOMEM.
 *
 * Invariants.
 *  1. A borrowed block is never written and never freed; whose it is keeps it as it is meanwhile.
 *  2. Bytes at and past `size` are zero.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/crash_internal.h"
#include "engine/base/bits.h"
#include "engine/base/iov.h"
#include "engine/base/list.h"
#include "engine/base/mem.h"

/* ---- blocks ---------------------------------------------------------------------------------------------- */

void crash_store_finish(struct crash_store *s)
{
    for (size_t i = 0; i < s->blocks; i++)
        if (s->own[i])
            mem_free(s->block[i]);
    mem_free(s->block);
    mem_free(s->own);
    memset(s, 0, sizeof *s);
}

static int reserve(struct crash_store *s, size_t blocks)
{
    size_t n = blocks + blocks / 4 + 16;
    uint8_t **block;
    bool *own;

    if (blocks <= s->blocks)
        return 0;
    block = mem_realloc(s->block, n * sizeof *block);
    if (!block)
        return -ENOMEM;
    s->block = block;
    own = mem_realloc(s->own, n * sizeof *own);
    if (!own)
        return -ENOMEM;
    s->own = own;
    memset(block + s->blocks, 0, (n - s->blocks) * sizeof *block);
    memset(own + s->blocks, 0, (n - s->blocks) * sizeof *own);
    s->blocks = n;
    return 0;
}

int crash_store_borrow(struct crash_store *s, const struct crash_store *from)
{
    memset(s, 0, sizeof *s);
    if (reserve(s, from->blocks) < 0) {
        crash_store_finish(s);
        return -ENOMEM;
    }
    if (from->blocks > 0)
        memcpy(s->block, from->block, from->blocks * sizeof *s->block);
    s->size = from->size;
    return 0;
}

/* The block as one that may be written; NULL: out of memory. */
static uint8_t *own_block(struct crash_store *s, size_t i)
{
    uint8_t *fresh;

    if (s->own[i])
        return s->block[i];
    fresh = mem_alloc(CRASH_BLOCK);
    if (!fresh)
        return NULL;
    if (s->block[i])
        memcpy(fresh, s->block[i], CRASH_BLOCK);
    else
        memset(fresh, 0, CRASH_BLOCK);
    s->block[i] = fresh;
    s->own[i] = true;
    return fresh;
}

/* Bytes from offset to the end of its block, at most len. */
static uint64_t in_block(uint64_t offset, uint64_t len)
{
    return min_u64(CRASH_BLOCK - offset % CRASH_BLOCK, len);
}

int crash_store_write(struct crash_store *s, uint64_t offset, const uint8_t *data, uint64_t len)
{
    if (reserve(s, div_up(offset + len, CRASH_BLOCK)) < 0)
        return -ENOMEM;
    for (uint64_t n; len > 0; offset += n, data += n, len -= n) {
        uint8_t *block = own_block(s, offset / CRASH_BLOCK);
        if (!block)
            return -ENOMEM;
        n = in_block(offset, len);
        memcpy(block + offset % CRASH_BLOCK, data, n);
    }
    return 0;
}

int crash_store_zero(struct crash_store *s, uint64_t offset, uint64_t len)
{
    for (uint64_t n; len > 0; offset += n, len -= n) {
        size_t i = offset / CRASH_BLOCK;
        uint8_t *block;
        if (i >= s->blocks)
            return 0;
        n = in_block(offset, len);
        if (!s->block[i])
            continue;
        block = own_block(s, i);
        if (!block)
            return -ENOMEM;
        memset(block + offset % CRASH_BLOCK, 0, n);
    }
    return 0;
}

int crash_store_truncate(struct crash_store *s, uint64_t size)
{
    int rc = size < s->size ? crash_store_zero(s, size, s->size - size) : 0;

    if (rc == 0)
        s->size = size;
    return rc;
}

void crash_store_read(const struct crash_store *s, uint64_t offset, void *buf, uint64_t len)
{
    uint8_t *to = buf;

    for (uint64_t n; len > 0; offset += n, to += n, len -= n) {
        size_t i = offset / CRASH_BLOCK;
        n = in_block(offset, len);
        if (i < s->blocks && s->block[i])
            memcpy(to, s->block[i] + offset % CRASH_BLOCK, n);
        else
            memset(to, 0, n);
    }
}

bool crash_store_equal(const struct crash_store *s, uint64_t offset, const uint8_t *data, uint64_t len)
{
    static const uint8_t zeros[CRASH_BLOCK];

    for (uint64_t n, at = 0; at < len; at += n) {
        size_t i = (offset + at) / CRASH_BLOCK;
        const uint8_t *have = i < s->blocks && s->block[i] ? s->block[i] + (offset + at) % CRASH_BLOCK : zeros;
        n = in_block(offset + at, len - at);
        if (memcmp(have, data ? data + at : zeros, n) != 0)
            return false;
    }
    return true;
}

/* ---- images ---------------------------------------------------------------------------------------------- */

struct crash_image {
    struct crash_walk *walk;
    struct crash_store store[CRASH_DISKS];
    unsigned           handles;
};

struct image_backend {
    struct backend      b; /* first */
    struct crash_image *image;
    struct crash_store *store;
};

static int apply_kept(struct crash_walk *w, struct crash_image *image)
{
    int rc = 0;

    for (size_t i = 0; i < w->piece_count && rc == 0; i++) {
        const struct crash_piece *p = &w->piece[i];
        struct crash_change *c = w->pending[p->pending].change;
        if (p->keep)
            rc = crash_piece_apply(w, &w->pending[p->pending], p->index, &image->store[c->disk]);
    }
    return rc;
}

int crash_image_make(struct crash_walk *w, struct crash_image **ret_image)
{
    struct crash_image *image = mem_calloc(1, sizeof *image);
    int rc = image ? crash_walk_find_pieces(w) : -ENOMEM;

    if (rc < 0) {
        mem_free(image);
        return rc;
    }
    image->walk = w;
    w->images++;
    for (unsigned i = 0; i < CRASH_DISKS && rc == 0; i++)
        rc = crash_store_borrow(&image->store[i], &w->base[i]);
    if (rc == 0)
        rc = apply_kept(w, image);
    if (rc < 0) {
        crash_image_destroy(image);
        return rc;
    }
    *ret_image = image;
    return 0;
}

void crash_image_destroy(struct crash_image *image)
{
    if (!image)
        return;
    assert(image->handles == 0);
    for (unsigned i = 0; i < CRASH_DISKS; i++)
        crash_store_finish(&image->store[i]);
    image->walk->images--;
    mem_free(image);
}

uint64_t crash_image_size(const struct crash_image *image, unsigned disk)
{
    return image->store[disk].size;
}

void crash_image_read(const struct crash_image *image, unsigned disk, uint64_t offset, void *buf, uint64_t len)
{
    crash_store_read(&image->store[disk], offset, buf, len);
}

/* ---- the backend on one ---------------------------------------------------------------------------------- */

static struct image_backend *image_backend_of(struct backend *b)
{
    return container_of(b, struct image_backend, b);
}

static int64_t do_read(const struct crash_store *s, const struct io *io)
{
    uint64_t offset = io->offset, left = offset < s->size ? s->size - offset : 0;

    for (uint32_t i = 0; i < io->iovcnt; i++) {
        uint64_t n = min_u64(io->iov[i].iov_len, left);
        crash_store_read(s, offset, io->iov[i].iov_base, n);
        offset += n;
        left -= n;
    }
    return (int64_t)(offset - min_u64(io->offset + io->moved, offset));
}

static int64_t do_write(struct crash_store *s, const struct io *io)
{
    uint64_t offset = io->offset;
    int rc = 0;

    for (uint32_t i = 0; i < io->iovcnt && rc == 0; i++) {
        rc = crash_store_write(s, offset, io->iov[i].iov_base, io->iov[i].iov_len);
        offset += io->iov[i].iov_len;
    }
    return rc < 0 ? rc : (int64_t)(io->len - io->moved);
}

static int64_t carry_out(struct image_backend *m, const struct io *io)
{
    struct crash_store *s = m->store;
    uint64_t end = io->offset + io->len;
    bool extends = io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_ALLOCATE;
    int64_t res = 0;

    if (extends && end > s->size && !(m->b.caps & BACKEND_GROWS))
        return -ENOSPC;
    switch ((enum io_kind)io->kind) {
    case IO_READ: return do_read(s, io);
    case IO_WRITE: res = do_write(s, io); break;
    case IO_ZERO: res = crash_store_zero(s, io->offset, io->len); break;
    case IO_DISCARD: res = crash_store_zero(s, io->offset, io->len); break;
    case IO_TRUNCATE: res = m->b.caps & BACKEND_GROWS ? crash_store_truncate(s, io->offset) : -ENOTSUP; break;
    case IO_ALLOCATE:
    case IO_STATUS:
    case IO_FLUSH: break;
    }
    if (res >= 0 && extends)
        s->size = max_u64(s->size, end);
    if (res >= 0)
        atomic_store(&m->b.size, s->size);
    return res;
}

static void image_submit(struct backend *b, struct io *io)
{
    assert(!b->read_only || io->kind == IO_READ || io->kind == IO_FLUSH);
    io_end_later(io, carry_out(image_backend_of(b), io));
}

static void image_close(struct backend *b)
{
    image_backend_of(b)->image->handles--;
}

static const struct backend_driver crash_image_driver = {
    .name = "crash-image",
    .close = image_close,
    .submit = image_submit,
};

struct backend *crash_image_open(struct crash_image *image, unsigned disk, bool read_only)
{
    const struct crash_disk *d = &image->walk->log->disk[disk];
    struct image_backend *m;

    assert(disk < CRASH_DISKS && d->wrapped);
    m = backend_alloc(&crash_image_driver, d->name, sizeof *m);
    if (!m)
        return NULL;
    m->image = image;
    m->store = &image->store[disk];
    m->b.align = d->align;
    m->b.mem_align = d->mem_align;
    m->b.max_transfer = d->max_transfer;
    m->b.max_iov = d->max_iov;
    m->b.caps = d->caps & ~(uint32_t)BACKEND_SPARSE; /* all is data */
    m->b.discard_align = d->discard_align;
    m->b.read_only = read_only;
    atomic_init(&m->b.size, m->store->size);
    image->handles++;
    return &m->b;
}
