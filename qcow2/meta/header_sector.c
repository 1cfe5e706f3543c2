/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header of an image.
 *
 * Read, happy path: the first 4 KiB, as much more as the header says that it has, parse.
 * Failure modes: errors of the I/O and of parsing, with a text.
 *
 * Write, happy path: the changed fields into a copy of the first sector, which is written whole, and synced; then
 * it is what is known to be on disk, and what the change is for is adopted with it.
 * Failure modes: -ENOMEM: nothing has changed. Errors of the I/O: which of the two the disk has is not known, so
 * the volume takes no more writes; in memory all stays as it was.
 *
 * Invariants.
 *  1. One at a time: who changes the header holds the structure lock.
 *  2. meta->sector, and the fields of meta->header, are what is known to be durable; nothing else changes them.
 *  3. An unfinished image stays one until a change that finishes it.
 */
#include "qcow2/meta/header_sector.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/meta/state.h"
#include "qcow2/mutant.h"

/* ---- read ------------------------------------------------------------------------------------------------ */

enum { HEAD = 4096 };

/*
 * Parsed as if it were finished, where the caller allows that; but one whose creation has not ended has no
 * clusters yet (image/create.c), and stays what it is.
 */
static int parse(uint8_t *buf, size_t len, const struct backend *file, bool unfinished, struct q2_header *ret)
{
    bool is_one = unfinished && len >= 24 && get_be32(buf) == Q2_MAGIC_UNFINISHED && get_be32(buf + 20) != 0;
    int rc;

    if (is_one)
        put_be32(buf, Q2_MAGIC);
    rc = q2_header_parse(buf, len, backend_size(file), file->name, ret);
    if (is_one)
        put_be32(buf, Q2_MAGIC_UNFINISHED);
    return rc;
}

static int load(struct backend *file, vdisk_queue *queue, uint64_t len, bool unfinished, struct q2_header *ret,
                uint8_t *first)
{
    uint64_t file_size = backend_size(file), span;
    uint8_t *buf = mem_buffer(align_up(len, HEAD));
    int rc;

    if (!buf)
        return err_set(ENOMEM, "%s: out of memory", file->name);
    memset(buf, 0, HEAD);
    rc = file_size > 0 ? io_pread(queue, file, buf, min_u64(len, file_size), 0) : 0;
    span = min_u64(q2_header_span(buf, min_u64(len, file_size)), file_size);
    if (rc < 0) {
        err_set(rc, "%s: reading the header: %s", file->name, strerror(-rc));
    } else if (span > len) {
        mem_free(buf);
        return load(file, queue, span, unfinished, ret, first);
    } else {
        rc = parse(buf, min_u64(len, file_size), file, unfinished, ret);
    }
    memcpy(first, buf, Q2_SECTOR_SIZE);
    mem_free(buf);
    return rc;
}

int q2_header_load(struct backend *file, vdisk_queue *queue, struct q2_header *ret,
                   uint8_t first[Q2_SECTOR_SIZE])
{
    return load(file, queue, HEAD, false, ret, first);
}

int q2_header_read(struct q2_meta *meta, vdisk_queue *queue)
{
    bool unfinished = meta->layer->open_flags & VDISK_OPEN_UNFINISHED;

    return load(meta->layer->file, queue, HEAD, unfinished, &meta->header, meta->sector);
}

/* ---- write ----------------------------------------------------------------------------------------------- */

struct header_commit {
    struct op                op;
    struct q2_meta          *meta;
    struct q2_header_change *change;
    uint8_t                 *sector;
    struct io                io;
};

enum header_commit_state { HC_START = OP_START, HC_WRITTEN, HC_SYNCED };

struct q2_header_change q2_header_change(struct q2_meta *meta)
{
    struct q2_header_change change = {.fields = q2_header_fields_of(&meta->header)};

    return change;
}

static void start_write(struct header_commit *h, struct op *op)
{
    bool unfinished = get_be32(h->meta->sector) == Q2_MAGIC_UNFINISHED;

    assert(!h->change->finishes || unfinished);
    memcpy(h->sector, h->change->sector ? h->change->sector : h->meta->sector, Q2_SECTOR_SIZE);
    q2_header_fields_put(h->sector, &h->change->fields);
    if (unfinished)
        put_be32(h->sector, h->change->finishes ? Q2_MAGIC : Q2_MAGIC_UNFINISHED);
    io_rw(&h->io, h->meta->layer->file, IO_WRITE, 0, h->sector, Q2_SECTOR_SIZE);
    op_io(op, &h->io);
}

static void start_sync(struct header_commit *h, struct op *op)
{
    io_range(&h->io, h->meta->layer->file, IO_FLUSH, 0, 0);
    op_io(op, &h->io);
}

/* Invariant 2. */
static void adopt(struct header_commit *h)
{
    struct q2_meta *meta = h->meta;

    pthread_mutex_lock(&meta->lock);
    assert(get_be32(h->sector) == get_be32(meta->sector) || h->change->finishes); /* invariant 3 */
    memcpy(meta->sector, h->sector, Q2_SECTOR_SIZE);
    if (h->change->adopt)
        h->change->adopt(h->change);
    q2_header_fields_adopt(&meta->header, &h->change->fields);
    pthread_mutex_unlock(&meta->lock);
}

static void header_commit_step(struct op *op)
{
    struct header_commit *h = container_of(op, struct header_commit, op);
    int rc;

    OP_BEGIN(enum header_commit_state, op)
    OP_TRY(op, HC_WRITTEN, start_write(h, op));
    if (!MUTANT(HEADER_UNSYNCED))
        OP_TRY(op, HC_SYNCED, start_sync(h, op));
    adopt(h);
    mem_free(h->sector);
    op_end(op, sizeof *h, 0);
    return;
    OP_END
fail:
    rc = h->change->doubt ? q2_doubt(h->meta, h->change->doubt) : op->rc;
    mem_free(h->sector);
    op_end(op, sizeof *h, rc);
}

OP_TYPE(header_commit, header_commit_step, "START", "HC_WRITTEN", "HC_SYNCED");

/* Tables are whole clusters behind the header, and not one in the other. */
static bool is_sound(const struct q2_meta *meta, const struct q2_header_fields *f)
{
    uint64_t size = meta->geo.cluster_size, l1_end = f->l1_offset + (uint64_t)f->l1_entries * Q2_L1_ENTRY_SIZE;
    uint64_t reftable_end = f->reftable_offset + ((uint64_t)f->reftable_clusters << meta->geo.cluster_bits);

    return is_aligned(f->l1_offset, size) && is_aligned(f->reftable_offset, size) && f->reftable_offset >= size &&
           f->reftable_clusters > 0 && (f->l1_entries == 0 || f->l1_offset >= size) &&
           f->l1_entries >= q2_l1_entries(&meta->geo, f->size) &&
           (meta->header.l1_doubtful || f->l1_entries == 0 ||
            !ranges_meet(f->l1_offset, l1_end, f->reftable_offset, reftable_end));
}

void q2_header_commit(struct q2_meta *meta, struct q2_header_change *change, struct op *op)
{
    struct header_commit *h = NULL;

    if (!q2_invariant(meta, is_sound(meta, &change->fields), "the header is to point where no table can be") ||
        atomic_load(&meta->breached)) {
        op_wake(op, -EIO);
        return;
    }
    h = op_alloc(op->queue, &header_commit_type, sizeof *h);

    if (h)
        h->sector = mem_buffer(HEAD);
    if (!h || !h->sector) {
        if (h)
            op_free(&h->op, sizeof *h);
        op_wake(op, -ENOMEM);
        return;
    }
    h->op.parent = op;
    h->meta = meta;
    h->change = change;
    op_start(&h->op);
}

struct commit_call {
    struct q2_meta          *meta;
    struct q2_header_change *change;
};

static void commit_call(void *arg, struct op *op)
{
    struct commit_call *c = arg;

    q2_header_commit(c->meta, c->change, op);
}

int q2_header_commit_sync(struct q2_meta *meta, struct q2_header_change *change, vdisk_queue *queue)
{
    return op_run_call(queue, commit_call, &(struct commit_call){meta, change});
}
