/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log of what is written, and the backend that keeps it.
 *
 * Happy path: enter the change with a copy of its bytes; an I/O of our own carries it to the child; its end is
 * entered and ends the caller's. Reads pass without an entry. Failure modes: no memory for the entry or for our
 * own I/O: -ENOMEM, and the child has not seen it.
 *
 * Invariants.
 *  1. A change is in the log before the child sees it, and its end before the caller does: what the log says had
 *     ended when a flush began is never more than what had.
 *  2. Entries are in one order for all disks and queues.
 */
#include "backends/lab/crash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/crash_internal.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/base/list.h"
#include "engine/base/mem.h"
#include "engine/filter.h"
#include "engine/loop/op.h"

enum { BASE_PIECE = 1 << 20, OVERLAP_LOOK = 256 };

struct crash_backend {
    struct filter    w; /* first */
    struct crash_log *log;
    unsigned          disk;
};

/* One call on its way. Belongs to its queue's thread. */
struct crash_io {
    struct io            io; /* the child's */
    struct crash_backend *c;
    struct io            *outer;
    struct crash_change  *change; /* NULL: a read */
    size_t                number; /* its index */
    struct iovec          iov[];
};

static struct crash_backend *crash_backend_of(struct backend *b)
{
    return container_of(b, struct crash_backend, w.b);
}

/* ---- the log --------------------------------------------------------------------------------------------- */

int crash_log_create(struct crash_log **ret_log)
{
    struct crash_log *log = mem_calloc(1, sizeof *log);

    if (!log)
        return -ENOMEM;
    pthread_mutex_init(&log->lock, NULL);
    *ret_log = log;
    return 0;
}

void crash_log_destroy(struct crash_log *log)
{
    if (!log)
        return;
    for (size_t i = 0; i < log->changes_count; i++) {
        mem_free(log->changes[i]->data);
        mem_free(log->changes[i]);
    }
    mem_free(log->changes);
    mem_free(log->entries);
    for (unsigned i = 0; i < CRASH_DISKS; i++) {
        crash_store_finish(&log->disk[i].base);
        mem_free(log->disk[i].name);
    }
    pthread_mutex_destroy(&log->lock);
    mem_free(log);
}

int crash_log_base(struct crash_log *log, unsigned disk, struct backend *b, vdisk_queue *queue)
{
    struct crash_store *base = &log->disk[disk].base;
    uint64_t size = backend_size(b);
    uint8_t *buf = mem_buffer(BASE_PIECE);
    int rc = buf ? 0 : -ENOMEM;

    assert(disk < CRASH_DISKS && base->blocks == 0 && base->size == 0);
    for (uint64_t at = 0, n; at < size && rc == 0; at += n) {
        n = min_u64(BASE_PIECE, size - at);
        rc = io_pread(queue, b, buf, n, at);
        for (uint64_t i = 0; i < n && rc == 0; i += CRASH_BLOCK) {
            uint64_t len = min_u64(CRASH_BLOCK, n - i);
            if (!crash_store_equal(base, at + i, buf + i, len))
                rc = crash_store_write(base, at + i, buf + i, len);
        }
    }
    base->size = size;
    mem_free(buf);
    return rc;
}

int crash_log_extend(struct crash_log *log, unsigned disk, uint64_t size, uint8_t fill)
{
    struct crash_store *base = &log->disk[disk].base;
    uint8_t bytes[4096];
    int rc = 0;

    assert(disk < CRASH_DISKS && log->changes_count == 0);
    memset(bytes, fill, sizeof bytes);
    for (uint64_t at = base->size, n; at < size && rc == 0; at += n) {
        n = min_u64(sizeof bytes, size - at);
        rc = crash_store_write(base, at, bytes, n);
    }
    base->size = max_u64(base->size, size);
    return rc;
}

/* With the lock held: room for one more entry, and one for the end of each change that is on. */
static int reserve_entries(struct crash_log *log)
{
    size_t need = log->count + log->changes_count + 2, max;
    struct crash_entry *entries;

    if (need <= log->max)
        return 0;
    max = need + need / 2 + 64;
    entries = mem_realloc(log->entries, max * sizeof *entries);
    if (!entries)
        return -ENOMEM;
    log->entries = entries;
    log->max = max;
    return 0;
}

static int reserve_changes(struct crash_log *log)
{
    size_t max = log->changes_max ? 2 * log->changes_max : 64;
    struct crash_change **changes;

    if (log->changes_count < log->changes_max)
        return 0;
    changes = mem_realloc(log->changes, max * sizeof *changes);
    if (!changes)
        return -ENOMEM;
    log->changes = changes;
    log->changes_max = max;
    return 0;
}

int crash_mark(struct crash_log *log, uint32_t kind, uint64_t value)
{
    int rc;

    pthread_mutex_lock(&log->lock);
    rc = reserve_entries(log);
    if (rc == 0)
        log->entries[log->count++] = (struct crash_entry){.kind = CRASH_MARK, .mark = kind, .value = value};
    pthread_mutex_unlock(&log->lock);
    return rc;
}

static bool has_content(enum io_kind kind)
{
    return kind == IO_WRITE || kind == IO_ZERO || kind == IO_DISCARD;
}

/* With the lock held: remember what the new change overlaps of those under way. */
static void note_overlaps(struct crash_log *log, const struct crash_change *c)
{
    size_t first = log->changes_count > OVERLAP_LOOK ? log->changes_count - OVERLAP_LOOK : 0;

    for (size_t i = first; i < log->changes_count && has_content(c->kind); i++) {
        const struct crash_change *o = log->changes[i];
        const struct crash_change **note = log->overlap[c->disk][o->kind == IO_DISCARD || c->kind == IO_DISCARD];
        if (o->end != CRASH_OPEN || o->disk != c->disk || !has_content(o->kind) || note[0] ||
            o->offset >= c->offset + c->len || c->offset >= o->offset + o->len)
            continue;
        note[0] = o;
        note[1] = c;
    }
}

/* Enter its beginning; it is the log's from here on, but on failure. */
static int log_begin(struct crash_log *log, struct crash_change *c, size_t *ret_number)
{
    int rc;

    pthread_mutex_lock(&log->lock);
    rc = reserve_changes(log);
    if (rc == 0)
        rc = reserve_entries(log);
    if (rc == 0) {
        note_overlaps(log, c);
        c->begin = log->count;
        c->end = CRASH_OPEN;
        *ret_number = log->changes_count;
        log->entries[log->count++] = (struct crash_entry){.kind = CRASH_BEGIN, .value = log->changes_count};
        log->changes[log->changes_count++] = c;
    }
    pthread_mutex_unlock(&log->lock);
    return rc;
}

static void log_end(struct crash_log *log, struct crash_change *c, size_t number, int res)
{
    pthread_mutex_lock(&log->lock);
    assert(c->end == CRASH_OPEN && log->count < log->max);
    c->end = log->count;
    c->res = res;
    log->entries[log->count++] = (struct crash_entry){.kind = CRASH_END, .value = number};
    pthread_mutex_unlock(&log->lock);
}

bool crash_log_overlap(struct crash_log *log, unsigned disk, bool discards, char *text, size_t size)
{
    const struct crash_change *a, *b;

    pthread_mutex_lock(&log->lock);
    a = log->overlap[disk][0][0];
    b = log->overlap[disk][0][1];
    if (!a && discards) {
        a = log->overlap[disk][1][0];
        b = log->overlap[disk][1][1];
    }
    pthread_mutex_unlock(&log->lock);
    if (!a)
        return false;
    snprintf(text, size, "%llu+%llu by %s/%s and %llu+%llu by %s/%s", (unsigned long long)a->offset,
             (unsigned long long)a->len, a->type ? a->type : "-", a->state ? a->state : "-",
             (unsigned long long)b->offset, (unsigned long long)b->len, b->type ? b->type : "-",
             b->state ? b->state : "-");
    return true;
}

/* ---- one call -------------------------------------------------------------------------------------------- */

/* What is left of the caller's I/O, as a change. NULL: out of memory. */
static struct crash_change *make_change(const struct crash_backend *c, const struct io *outer)
{
    struct crash_change *change = mem_calloc(1, sizeof *change);

    if (!change)
        return NULL;
    change->disk = c->disk;
    change->kind = (enum io_kind)outer->kind;
    change->offset = outer->offset;
    change->len = outer->len;
    if (outer->op) {
        change->type = outer->op->type->name;
        change->state = op_state_name(outer->op);
    }
    if (outer->kind != IO_WRITE)
        return change;
    change->fua = outer->flags & IO_FUA;
    change->offset += outer->moved;
    change->len -= outer->moved;
    change->data = mem_alloc(change->len ? change->len : 1);
    if (!change->data) {
        mem_free(change);
        return NULL;
    }
    iov_to(outer->iov, outer->iovcnt, outer->moved, change->data, change->len);
    return change;
}

static void child_done(struct io *io)
{
    struct crash_io *ci = container_of(io, struct crash_io, io);
    int64_t result = filter_result(&ci->c->w, io);
    struct io *outer = ci->outer;

    if (ci->change)
        log_end(ci->c->log, ci->change, ci->number, io->res);
    mem_free(ci);
    io_end(outer, result);
}

static void crash_submit(struct backend *b, struct io *outer)
{
    struct crash_backend *c = crash_backend_of(b);
    struct crash_io *ci = mem_calloc(1, sizeof *ci + outer->iovcnt * sizeof ci->iov[0]);
    struct crash_change *change = NULL;
    bool is_change = outer->kind != IO_READ && outer->kind != IO_STATUS; /* flushes are, for the order */

    if (is_change)
        change = make_change(c, outer);
    if (!ci || (is_change && (!change || log_begin(c->log, change, &ci->number) < 0))) {
        if (change)
            mem_free(change->data);
        mem_free(change);
        mem_free(ci);
        io_end_later(outer, -ENOMEM);
        return;
    }
    ci->c = c;
    ci->outer = outer;
    ci->change = change;
    filter_fill_io(&c->w, &ci->io, outer, ci->iov, UINT64_MAX);
    ci->io.done = child_done;
    io_start(&ci->io);
}

/* ---- the rest -------------------------------------------------------------------------------------------- */

static void crash_close(struct backend *b)
{
    backend_close(filter_of(b)->below);
}

static const struct backend_driver crash_driver = {
    .name = "crash",
    .close = crash_close,
    .submit = crash_submit,
    .prefetch = filter_prefetch,
    .allocated = filter_allocated,
    .relock = filter_relock,
    .refresh = filter_refresh,
    .unlink = filter_unlink,
};

/* What images of the disk are to be like: as the first that was wrapped. */
static int describe_disk(struct crash_disk *d, const struct backend *child)
{
    if (d->wrapped)
        return 0;
    d->name = mem_strdup(child->name);
    if (!d->name)
        return -ENOMEM;
    d->align = child->align;
    d->mem_align = child->mem_align;
    d->max_transfer = child->max_transfer;
    d->max_iov = child->max_iov;
    d->caps = child->caps;
    d->discard_align = child->discard_align;
    d->wrapped = true;
    return 0;
}

int crash_backend_create(struct crash_log *log, unsigned disk, struct backend *child,
                         struct backend **ret_backend)
{
    struct crash_backend *c = backend_alloc(&crash_driver, child->name, sizeof *c);

    assert(disk < CRASH_DISKS);
    if (!c || describe_disk(&log->disk[disk], child) < 0) {
        backend_free(c ? &c->w.b : NULL);
        return err_set(ENOMEM, "%s: out of memory", child->name);
    }
    filter_init(&c->w, child);
    c->log = log;
    c->disk = disk;
    *ret_backend = &c->w.b;
    return 0;
}
