/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How check reads: L2 tables and refcount blocks by the dozen, since one after another takes minutes on a disk or
 * over a network.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/loop/queue.h"

enum {
    READS = 16,                 /* in flight */
    READS_BYTES = 8 << 20,      /* of buffers; at least 2 are in flight */
    PROBE_AFTER_ZERO_TABLES = 64,
    PROBE_RUNS = 16,            /* a worker may have to ask: better for some at once */
};

_Static_assert(READS_BYTES >= 2 << Q2_MAX_CLUSTER_BITS, "two of the largest clusters");
_Static_assert((int)PROBE_RUNS <= STATUS_RUNS_MAX, "an answer has room for them");

void *check_buffer(struct check *c, uint64_t len)
{
    uint64_t align = max_u64(c->file->mem_align, sizeof(void *));
    void *buf;

    assert(len > 0 && is_power_of_two(align));
    return mem_memalign(&buf, align, align_up(len, align)) ? NULL : buf;
}

/*
 * A table of zeros is rare in an image that somebody uses. When there are many, ask the host for holes before
 * reading: a small sparse file could else make us read terabytes of nothing.
 */
static bool in_hole(struct check *c, uint64_t host_offset, uint64_t len)
{
    uint64_t end;
    bool hole;
    struct io io;

    if (c->zero_tables < PROBE_AFTER_ZERO_TABLES || !(c->file->caps & BACKEND_SPARSE) ||
        host_offset >= c->file_size)
        return false;
    if (!status_find(&c->known, host_offset, &hole, &end)) {
        c->known.max = PROBE_RUNS;
        io_status(&io, c->file, host_offset, c->file_size - host_offset, &c->known);
        if (io_run(c->queue, &io) < 0)
            c->known.count = 0;
    }
    return status_find(&c->known, host_offset, &hole, &end) && hole && len <= end - host_offset;
}

static void note_zeros(struct check *c, const uint8_t *buf, uint64_t len)
{
    assert(len > 0);
    c->zero_tables += buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

int check_read(struct check *c, void *buf, uint64_t len, uint64_t host_offset)
{
    int rc;

    assert(len > 0 && !c->queue->in_loop);
    if (in_hole(c, host_offset, len)) {
        memset(buf, 0, len);
        return 0;
    }
    rc = io_pread(c->queue, c->file, buf, len, host_offset);
    if (rc == 0)
        note_zeros(c, buf, len);
    return rc;
}

int check_progress(struct check *c, uint64_t n)
{
    enum { EVERY_BYTES = 65536 };
    uint64_t before = c->progress_done, len = c->header.geo.cluster_size;
    int stop;

    assert(n > 0);
    c->progress_done += n;
    if (!c->opts.progress || before * len / EVERY_BYTES == c->progress_done * len / EVERY_BYTES)
        return 0;
    c->progress_total = max_u64(c->progress_total, c->progress_done);
    stop = c->opts.progress(c->opts.progress_arg, c->progress_done * len, c->progress_total * len);
    return stop != 0 ? -ECANCELED : 0;
}

/* ---- several at a time ------------------------------------------------------------------------------- */

struct slot {
    struct io io;
    uint8_t  *buf;
    bool      read; /* there is something in buf when it is done */
    bool      done;
};

static void slot_done(struct io *io)
{
    assert(!container_of(io, struct slot, io)->done);
    container_of(io, struct slot, io)->done = true;
}

static void slot_start(struct check *c, struct slot *s, uint64_t host_offset)
{
    uint64_t len = c->header.geo.cluster_size;

    s->done = true;
    s->read = host_offset != 0;
    s->io.res = 0;
    if (!s->read)
        return;
    assert(is_aligned(host_offset, len) && host_offset < c->file_size);
    if (in_hole(c, host_offset, len)) {
        memset(s->buf, 0, len);
        return;
    }
    s->done = false;
    io_rw(&s->io, c->file, IO_READ, host_offset, s->buf, len);
    s->io.queue = c->queue;
    s->io.op = NULL;
    s->io.done = slot_done;
    queue_current = c->queue;
    io_start(&s->io);
}

static int slot_take(struct check *c, const struct check_reads *reads, struct slot *s, uint64_t i)
{
    assert(s->done && (s->read || s->io.res == 0));
    if (s->read && s->io.res == 0)
        note_zeros(c, s->buf, c->header.geo.cluster_size);
    return reads->take(c, i, s->read ? s->buf : NULL, s->io.res);
}

static int run_slots(struct check *c, const struct check_reads *reads, struct slot *slots, uint64_t depth)
{
    uint64_t taken = 0, started = 0;
    int rc = 0;

    while (taken < reads->count && rc == 0) {
        for (; started < reads->count && started < taken + depth; started++)
            slot_start(c, &slots[started % depth], reads->offset(c, started));
        assert(taken < started && started - taken <= depth);
        queue_run_until(c->queue, &slots[taken % depth].done);
        rc = slot_take(c, reads, &slots[taken % depth], taken);
        taken++;
    }
    for (; taken < started; taken++)
        queue_run_until(c->queue, &slots[taken % depth].done);
    return rc;
}

int check_read_clusters(struct check *c, const struct check_reads *reads)
{
    uint64_t len = c->header.geo.cluster_size;
    uint64_t depth = max_u64(2, min_u64(READS, READS_BYTES / len));
    struct slot *slots = mem_calloc(depth, sizeof *slots);
    int rc = slots ? 0 : -ENOMEM;

    assert(depth * len <= READS_BYTES || depth == 2);
    for (uint64_t i = 0; i < depth && rc == 0; i++) {
        slots[i].buf = check_buffer(c, len);
        rc = slots[i].buf ? 0 : -ENOMEM;
    }
    if (rc == 0)
        rc = run_slots(c, reads, slots, depth);
    for (uint64_t i = 0; i < depth && slots; i++)
        mem_free(slots[i].buf);
    mem_free(slots);
    return rc;
}
