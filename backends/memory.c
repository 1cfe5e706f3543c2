/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "memory:SIZE": bytes in memory, allocated by the chunk when first written.
 *
 * Happy path: a tree of fixed depth leads to the chunk; copy; end the I/O.
 * Failure modes: out of memory (-ENOMEM), past the tree's reach (-EFBIG), past the end of a fixed one (-ENOSPC).
 *
 * Invariants.
 *  1. Nodes and chunks are added by compare-and-swap and stay until the last handle is closed: any thread may
 *     follow a pointer that it has loaded. A chunk that was discarded keeps its address and loses its pages.
 *  2. A chunk marked HOLE, or not there, reads as `fill`; a marked one holds zeros (fill is 0 then).
 *  3. Bytes at and past store->size read as `fill`.
 *  4. Different ranges may be read and written at once; of the same range the users take care.
 */
#include "backends/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/drivers.h"
#include "backends/name.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/loop/status.h"
#include "engine/spec/option.h"

enum {
    CHUNK_BITS = 16,
    NODE_BITS = 11,
    NODE_LEN = 1 << NODE_BITS,
    DEPTH = 3,
    STATUS_LOOKS_MAX = 4096,
};

#define CHUNK_SIZE (UINT64_C(1) << CHUNK_BITS)
#define REACH_BITS (CHUNK_BITS + NODE_BITS * DEPTH + 1)
#define HOLE ((uintptr_t)1) /* in a leaf's pointer to a chunk */

_Static_assert(REACH_BITS == 50, "1 PiB: what memory.h says");

struct node {
    _Atomic uintptr_t child[NODE_LEN];
};

/* What the handles share. */
struct store {
    _Atomic uint32_t handles;
    uint32_t         align;
    bool             fixed;
    uint8_t          fill;
    _Atomic uint64_t size;
    _Atomic uint64_t data_chunks; /* that are there and no hole */
    _Atomic uint64_t max_chunks;  /* of those; about, with several queues */
    char            *ready;       /* memory for chunks to come, or NULL */
    uint64_t         ready_len;
    _Atomic uint64_t ready_used;
    struct node      roots[2];
};

struct memory_backend {
    struct backend b;
    struct store  *store;
};

/* ---- the tree ---------------------------------------------------------------------------------------- */

static void *new_chunk(struct store *s)
{
    void *p;

    if (atomic_load_explicit(&s->ready_used, memory_order_relaxed) < s->ready_len) {
        uint64_t at = atomic_fetch_add_explicit(&s->ready_used, CHUNK_SIZE, memory_order_relaxed);
        if (at < s->ready_len)
            return s->ready + at;
    }
    p = mmap(NULL, CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (s->fill)
        memset(p, s->fill, CHUNK_SIZE);
    return p;
}

/* No room for one more chunk. */
static bool is_full(const struct store *s)
{
    return atomic_load_explicit(&s->data_chunks, memory_order_relaxed) >=
           atomic_load_explicit(&s->max_chunks, memory_order_relaxed);
}

/* What `slot` points to, made if it is not there and `make` says so. 0: not there, or out of memory. */
static uintptr_t follow(struct store *s, _Atomic uintptr_t *slot, bool leaf, bool make)
{
    uintptr_t old = atomic_load_explicit(slot, memory_order_acquire);
    void *fresh;

    if (old || !make)
        return old;
    fresh = leaf ? new_chunk(s) : mem_calloc(1, sizeof(struct node));
    if (!fresh)
        return 0;
    if (atomic_compare_exchange_strong(slot, &old, (uintptr_t)fresh)) {
        if (leaf)
            atomic_fetch_add_explicit(&s->data_chunks, 1, memory_order_relaxed);
        return (uintptr_t)fresh;
    }
    if (leaf)
        munmap(fresh, CHUNK_SIZE);
    else
        mem_free(fresh);
    return old;
}

/* The leaf's slot for the chunk that holds `offset`; NULL: not there, or out of memory. */
static _Atomic uintptr_t *chunk_slot(struct store *s, uint64_t offset, bool make)
{
    uint64_t index = offset >> CHUNK_BITS;
    struct node *n = &s->roots[index >> (NODE_BITS * DEPTH)];

    assert(offset >> REACH_BITS == 0);
    for (unsigned level = DEPTH - 1; level > 0; level--) {
        n = (struct node *)follow(s, &n->child[(index >> (NODE_BITS * level)) % NODE_LEN], false, make);
        if (!n)
            return NULL;
    }
    return &n->child[index % NODE_LEN];
}

/* The chunk to read from; NULL: it reads as `fill`. */
static char *chunk_to_read(struct store *s, uint64_t offset)
{
    _Atomic uintptr_t *slot = chunk_slot(s, offset, false);
    uintptr_t p = slot ? follow(s, slot, true, false) : 0;

    return p & HOLE ? NULL : (char *)p;
}

/* The chunk to write to: 0, or why there is none. Looked at once: room may come meanwhile. */
static int chunk_to_write(struct store *s, uint64_t offset, char **ret_chunk)
{
    _Atomic uintptr_t *slot = chunk_slot(s, offset, true);
    uintptr_t p = slot ? atomic_load_explicit(slot, memory_order_acquire) : 0;

    if (!slot)
        return -ENOMEM;
    if ((!p || p & HOLE) && is_full(s))
        return -ENOSPC;
    p = follow(s, slot, true, true);
    if (!p)
        return -ENOMEM;
    if (p & HOLE && atomic_fetch_and(slot, ~HOLE) & HOLE)
        atomic_fetch_add_explicit(&s->data_chunks, 1, memory_order_relaxed);
    *ret_chunk = (char *)(p & ~HOLE);
    return 0;
}

/* Bytes from `offset` on for which there is surely no data, as far as one look tells; 0: there is a chunk. */
static uint64_t absent(struct store *s, uint64_t offset)
{
    uint64_t index = offset >> CHUNK_BITS;
    struct node *n = &s->roots[index >> (NODE_BITS * DEPTH)];

    for (unsigned level = DEPTH; level-- > 0;) {
        uint64_t span = CHUNK_SIZE << (NODE_BITS * level);
        uintptr_t p = atomic_load(&n->child[(index >> (NODE_BITS * level)) % NODE_LEN]);
        if (!p || p & HOLE)
            return span - offset % span;
        n = (struct node *)p;
    }
    return 0;
}

/* Give a whole chunk's pages back. The range is its caller's alone (invariant 4). */
static void punch_chunk(struct store *s, uint64_t offset)
{
    _Atomic uintptr_t *slot = chunk_slot(s, offset, false);
    uintptr_t p = slot ? follow(s, slot, true, false) : 0;

    assert(s->fill == 0);
    if (!p || p & HOLE)
        return;
    if (madvise((void *)p, CHUNK_SIZE, MADV_DONTNEED) < 0)
        memset((void *)p, 0, CHUNK_SIZE);
    if (!(atomic_fetch_or(slot, HOLE) & HOLE))
        atomic_fetch_sub_explicit(&s->data_chunks, 1, memory_order_relaxed);
}

static void free_children(struct node *n, unsigned level)
{
    for (unsigned i = 0; i < NODE_LEN; i++) {
        uintptr_t p = atomic_load_explicit(&n->child[i], memory_order_relaxed) & ~HOLE;
        if (!p)
            continue;
        if (level == 0) {
            munmap((void *)p, CHUNK_SIZE);
        } else {
            free_children((struct node *)p, level - 1);
            mem_free((void *)p);
        }
    }
}

/* ---- ranges ------------------------------------------------------------------------------------------ */

/*
 * As on any disk, a read of whole blocks may meet a write to other bytes of them; what it reads there is thrown
 * away. ThreadSanitizer must not take that for a race of the engine's, so it does not see these copies.
 */
#ifdef __SANITIZE_THREAD__
#define UNSEEN __attribute__((noinline, no_sanitize("thread")))

UNSEEN static void copy_bytes(char *to, const char *from, uint64_t n)
{
    volatile char *t = to;
    const volatile char *f = from;

    for (uint64_t i = 0; i < n; i++)
        t[i] = f[i];
}

UNSEEN static void zero_bytes(char *to, uint64_t n)
{
    volatile char *t = to;

    for (uint64_t i = 0; i < n; i++)
        t[i] = 0;
}
#else
static void copy_bytes(char *to, const char *from, uint64_t n)
{
    memcpy(to, from, n);
}

static void zero_bytes(char *to, uint64_t n)
{
    memset(to, 0, n);
}
#endif

/* Bytes from `offset` to the end of its chunk, at most `len`. */
static uint64_t in_chunk(uint64_t offset, uint64_t len)
{
    return min_u64(CHUNK_SIZE - offset % CHUNK_SIZE, len);
}

static void store_read(struct store *s, uint64_t offset, char *buf, uint64_t len)
{
    for (uint64_t n; len > 0; offset += n, buf += n, len -= n) {
        const char *chunk = chunk_to_read(s, offset);
        n = in_chunk(offset, len);
        if (chunk)
            copy_bytes(buf, chunk + offset % CHUNK_SIZE, n);
        else
            memset(buf, s->fill, n);
    }
}

/* 0, or why it came only *ret_done bytes far. */
static int store_write_part(struct store *s, uint64_t offset, const char *buf, uint64_t len, uint64_t *ret_done)
{
    *ret_done = 0;
    for (uint64_t n; *ret_done < len; *ret_done += n) {
        char *chunk;
        int rc = chunk_to_write(s, offset + *ret_done, &chunk);
        if (rc < 0)
            return rc;
        n = in_chunk(offset + *ret_done, len - *ret_done);
        copy_bytes(chunk + (offset + *ret_done) % CHUNK_SIZE, buf + *ret_done, n);
    }
    return 0;
}

static int store_write(struct store *s, uint64_t offset, const char *buf, uint64_t len)
{
    uint64_t done;

    return store_write_part(s, offset, buf, len, &done);
}

/* The range reads as zeros; whole chunks lose their pages if `unmap`. */
static int store_zero(struct store *s, uint64_t offset, uint64_t len, bool unmap)
{
    for (uint64_t n; len > 0; offset += n, len -= n) {
        n = s->fill == 0 ? min_u64(absent(s, offset), len) : 0;
        if (n > 0)
            continue;
        n = in_chunk(offset, len);
        if (n == CHUNK_SIZE && unmap && s->fill == 0) {
            punch_chunk(s, offset);
            continue;
        }
        char *chunk;
        int rc = chunk_to_write(s, offset, &chunk);
        if (rc < 0)
            return rc;
        zero_bytes(chunk + offset % CHUNK_SIZE, n);
    }
    return 0;
}

static int store_allocate(struct store *s, uint64_t offset, uint64_t len)
{
    for (uint64_t n; len > 0; offset += n, len -= n) {
        char *chunk;
        int rc = chunk_to_write(s, offset, &chunk);
        if (rc < 0)
            return rc;
        n = in_chunk(offset, len);
    }
    return 0;
}

/* 0, or why the store cannot hold the range. */
static int check_reach(const struct store *s, uint64_t offset, uint64_t len)
{
    uint64_t end;

    if (!add_u64(offset, len, &end) || end > UINT64_C(1) << REACH_BITS)
        return -EFBIG;
    return s->fixed && end > atomic_load(&s->size) ? -ENOSPC : 0;
}

static void store_raise_size(struct store *s, uint64_t end)
{
    uint64_t size = atomic_load(&s->size);

    while (size < end && !atomic_compare_exchange_weak(&s->size, &size, end))
        ;
}

/* ---- I/O --------------------------------------------------------------------------------------------- */

static int64_t do_read(struct store *s, const struct io *io)
{
    uint64_t size = atomic_load(&s->size);
    uint64_t offset = io->offset + io->moved;
    uint64_t skip = io->moved, done = 0;

    for (uint32_t i = 0; i < io->iovcnt && offset + done < size; i++) {
        uint64_t from = min_u64(skip, io->iov[i].iov_len);
        uint64_t n = min_u64(io->iov[i].iov_len - from, size - offset - done);
        store_read(s, offset + done, (char *)io->iov[i].iov_base + from, n);
        skip -= from;
        done += n;
    }
    return (int64_t)done;
}

static int64_t do_write(struct store *s, const struct io *io)
{
    uint64_t offset = io->offset;
    int rc = check_reach(s, io->offset, io->len);

    /* From the start again, if it went on: no harm. */
    for (uint32_t i = 0; i < io->iovcnt && rc == 0; i++) {
        uint64_t done;
        rc = store_write_part(s, offset, io->iov[i].iov_base, io->iov[i].iov_len, &done);
        offset += done;
    }
    if (rc < 0 && offset <= io->offset + io->moved)
        return rc;
    store_raise_size(s, offset);
    return (int64_t)(offset - io->offset - io->moved);
}

static int64_t do_truncate(struct backend *b, struct store *s, uint64_t size)
{
    uint64_t old = atomic_load(&s->size);

    if (s->fixed)
        return size == old ? 0 : -ENOTSUP;
    if (size > UINT64_C(1) << REACH_BITS)
        return -EFBIG;
    if (size < old)
        store_zero(s, size, old - size, true); /* invariant 3; cannot fail: fill is 0 */
    atomic_store(&s->size, size);
    atomic_store(&b->size, size);
    return 0;
}

static int64_t do_discard(struct store *s, uint64_t offset, uint64_t len)
{
    uint64_t size = atomic_load(&s->size);
    uint64_t start = align_up(offset, CHUNK_SIZE);
    uint64_t end = align_down(min_u64(offset + len, size), CHUNK_SIZE);

    return start < end && s->fill == 0 ? store_zero(s, start, end - start, true) : 0;
}

/* IO_ZERO, IO_ALLOCATE. */
static int64_t do_range(struct backend *b, struct store *s, const struct io *io)
{
    int rc = check_reach(s, io->offset, io->len);

    if (rc == 0 && io->kind == IO_ZERO)
        rc = store_zero(s, io->offset, io->len, io->flags & IO_UNMAP);
    else if (rc == 0)
        rc = store_allocate(s, io->offset, io->len);
    if (rc < 0)
        return rc;
    store_raise_size(s, io->offset + io->len);
    raise_size(b, io->offset + io->len);
    return 0;
}

/* The engine bounces what is not aligned: if it did not, say so here and not on some device. */
static void assert_aligned(const struct backend *b, const struct io *io)
{
    assert(is_aligned(io->offset, b->align) && is_aligned(io->len, b->align));
    assert(is_aligned(io->moved, b->align));
    for (uint32_t i = 0; i < io->iovcnt; i++) {
        assert(is_aligned((uintptr_t)io->iov[i].iov_base, b->mem_align));
        assert(io->iovcnt == 1 || is_aligned(io->iov[i].iov_len, b->align));
    }
}

/* How far from `pos` on it is the same, as far as one look tells: a chunk, or what has none. */
static uint64_t run_at(struct store *s, uint64_t pos, uint64_t len, bool *ret_hole)
{
    uint64_t size = atomic_load(&s->size);
    uint64_t run = pos >= size ? len : s->fill == 0 ? absent(s, pos) : 0;

    *ret_hole = run > 0;
    return *ret_hole ? min_u64(run, len) : min_u64(in_chunk(pos, len), size - pos);
}

/* At once; so of very long data the beginning only. */
static void tell_status(struct store *s, const struct io *io)
{
    uint64_t pos = io->offset, end = io->offset + io->len;
    bool hole;

    for (unsigned looks = 0; pos < end && looks < STATUS_LOOKS_MAX; looks++) {
        pos += run_at(s, pos, end - pos, &hole);
        if (!status_add(io->status, pos, hole))
            break;
    }
}

static void memory_submit(struct backend *b, struct io *io)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;
    int64_t res = 0;

    assert(!b->read_only || io->kind == IO_READ || io->kind == IO_FLUSH || io->kind == IO_STATUS);
    switch ((enum io_kind)io->kind) {
    case IO_READ:
        assert_aligned(b, io);
        res = do_read(s, io);
        break;
    case IO_WRITE:
        if (!(io->flags & IO_EXACT))
            assert_aligned(b, io);
        res = do_write(s, io);
        break;
    case IO_ZERO:
    case IO_ALLOCATE: res = do_range(b, s, io); break;
    case IO_DISCARD: res = do_discard(s, io->offset, io->len); break;
    case IO_TRUNCATE: res = do_truncate(b, s, io->offset); break;
    case IO_FLUSH: break;
    case IO_STATUS: tell_status(s, io); break;
    }
    io_end_later(io, res);
}

static uint64_t memory_allocated(struct backend *b)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;

    return atomic_load(&s->data_chunks) * CHUNK_SIZE;
}

/* ---- handles ----------------------------------------------------------------------------------------- */

/* Chunks from it are unmapped like any other. */
static void drop_ready(struct store *s)
{
    uint64_t used = min_u64(atomic_load(&s->ready_used), s->ready_len);

    if (used < s->ready_len)
        munmap(s->ready + used, s->ready_len - used);
}

static int make_ready(struct store *s, uint64_t bytes)
{
    uint64_t len = align_up(bytes, CHUNK_SIZE);
    void *p;

    if (len == 0)
        return 0;
    p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    s->ready = p;
    s->ready_len = len;
    return 0;
}

static void memory_close(struct backend *b)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;

    if (atomic_fetch_sub(&s->handles, 1) > 1)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(s->roots); i++)
        free_children(&s->roots[i], DEPTH - 1);
    drop_ready(s);
    mem_free(s);
}

static bool memory_claims(const char *name)
{
    return name_after(name, "memory") != NULL;
}

static const struct option_desc memory_options[] = {
    {"size", OPTION_SIZE, true, NULL, "bytes that it has; they go when it is closed", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static int memory_parse(const char *name, struct spec *options)
{
    const char *rest;
    char text[24];
    uint64_t size;

    if (!name_parse_size(name_after(name, "memory"), &size, &rest) || *rest) {
        err_set(EINVAL, "%s: not a size", name);
        return err_hint(-EINVAL, "use memory:SIZE, with K, M, G, T or P behind the number");
    }
    snprintf(text, sizeof text, "%" PRIu64, size);
    return spec_put(options, "size", SPEC_TEXT, text);
}

static int memory_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    uint64_t size = option_size(options, "size", 0);
    int rc;

    rc = memory_backend_create(name, flags & BACKEND_CREATE ? 0 : size, ret_backend);
    if (rc == 0)
        (*ret_backend)->read_only = !(flags & (BACKEND_RDWR | BACKEND_CREATE));
    return rc;
}

static int make_handle(const char *name, struct store *s, struct backend **ret_backend)
{
    struct memory_backend *mb = backend_alloc(&memory_driver, name, sizeof *mb);

    if (!mb)
        return err_set(ENOMEM, "%s: out of memory", name);
    mb->store = s;
    atomic_fetch_add(&s->handles, 1);
    mb->b.align = mb->b.mem_align = s->align;
    mb->b.max_transfer = (uint32_t)align_down(mb->b.max_transfer, s->align);
    mb->b.discard_align = CHUNK_SIZE;
    if (!s->fixed)
        mb->b.caps = BACKEND_GROWS | BACKEND_ZERO_NEW | BACKEND_ZERO_FAST | BACKEND_DISCARD | BACKEND_SPARSE;
    atomic_init(&mb->b.size, atomic_load(&s->size));
    *ret_backend = &mb->b;
    return 0;
}

int memory_backend_create_with(const char *name, const struct memory_options *options,
                               struct backend **ret_backend)
{
    struct store *s;
    int rc;

    assert(options->fill == 0 || options->fixed);
    assert(options->align == 0 || is_power_of_two(options->align));
    if (options->size > UINT64_C(1) << REACH_BITS)
        return err_set(EFBIG, "%s: larger than 1P", name);
    s = mem_calloc(1, sizeof *s);
    if (!s)
        return err_set(ENOMEM, "%s: out of memory", name);
    s->align = options->align ? options->align : 1;
    s->fixed = options->fixed;
    s->fill = options->fill;
    atomic_init(&s->size, options->size);
    atomic_init(&s->max_chunks, UINT64_MAX);
    rc = make_ready(s, options->ready);
    if (rc == 0)
        rc = make_handle(name, s, ret_backend);
    else
        err_set(ENOMEM, "%s: out of memory", name);
    if (rc < 0) {
        drop_ready(s);
        mem_free(s);
    }
    return rc;
}

int memory_backend_create(const char *name, uint64_t size, struct backend **ret_backend)
{
    struct memory_options options = {.size = size};

    return memory_backend_create_with(name, &options, ret_backend);
}

int memory_backend_share(struct backend *b, struct backend **ret_backend)
{
    return make_handle(b->name, container_of(b, struct memory_backend, b)->store, ret_backend);
}

/* Copy the chunks below `n`, which starts at chunk number `first`. */
static int copy_children(struct store *to, struct node *n, unsigned level, uint64_t first)
{
    int rc = 0;

    for (unsigned i = 0; i < NODE_LEN && rc == 0; i++) {
        uintptr_t p = atomic_load(&n->child[i]);
        uint64_t index = first + ((uint64_t)i << (NODE_BITS * level));
        if (!p || p & HOLE)
            continue;
        if (level == 0)
            rc = store_write(to, index << CHUNK_BITS, (const char *)p, CHUNK_SIZE);
        else
            rc = copy_children(to, (struct node *)p, level - 1, index);
    }
    return rc;
}

int memory_backend_clone(struct backend *b, struct backend **ret_backend)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;
    struct memory_options options = {
        .size = atomic_load(&s->size), .align = s->align, .fixed = s->fixed, .fill = s->fill};
    struct backend *copy;
    int rc = memory_backend_create_with(b->name, &options, &copy);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < ARRAY_LEN(s->roots) && rc == 0; i++)
        rc = copy_children(container_of(copy, struct memory_backend, b)->store, &s->roots[i], DEPTH - 1,
                           (uint64_t)i << (NODE_BITS * DEPTH));
    if (rc < 0) {
        backend_close(copy);
        return err_set(ENOMEM, "%s: out of memory", b->name);
    }
    *ret_backend = copy;
    return 0;
}

void memory_backend_read(struct backend *b, uint64_t offset, void *buf, uint64_t len)
{
    assert(b->driver == &memory_driver);
    store_read(container_of(b, struct memory_backend, b)->store, offset, buf, len);
}

int memory_backend_write(struct backend *b, uint64_t offset, const void *buf, uint64_t len)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;
    int rc;

    assert(b->driver == &memory_driver);
    assert(check_reach(s, offset, len) == 0);
    rc = store_write(s, offset, buf, len);
    if (rc < 0)
        return rc;
    store_raise_size(s, offset + len);
    raise_size(b, offset + len);
    return 0;
}

void memory_backend_set_space(struct backend *b, uint64_t bytes)
{
    assert(b->driver == &memory_driver);
    atomic_store(&container_of(b, struct memory_backend, b)->store->max_chunks, bytes / CHUNK_SIZE);
}

void memory_backend_extend(struct backend *b, uint64_t size)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;

    assert(b->driver == &memory_driver && s->fixed);
    store_raise_size(s, size);
}

uint64_t memory_backend_run(struct backend *b, uint64_t offset, uint64_t len, bool *ret_hole)
{
    assert(b->driver == &memory_driver && len > 0);
    return run_at(container_of(b, struct memory_backend, b)->store, offset, len, ret_hole);
}

static int memory_refresh(struct backend *b)
{
    struct store *s = container_of(b, struct memory_backend, b)->store;
    uint64_t size = backend_size(b);

    if (s->fixed && atomic_load(&s->size) > size) {
        raise_size(b, atomic_load(&s->size));
        backend_tell_moved(b);
    }
    return 0;
}

const struct backend_driver memory_driver = {
    .name = "memory",
    .options = memory_options,
    .claims = memory_claims,
    .parse = memory_parse,
    .open = memory_open,
    .close = memory_close,
    .submit = memory_submit,
    .allocated = memory_allocated,
    .refresh = memory_refresh,
};
