/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench in the manner of qemu-img: its output, and its order of requests and flushes, so that what it leaves in an
 * image is the same. Latency and processor time are not looked at.
 *
 * Happy path: as many requests as may be in flight are started; each one that ends makes room for the next. When
 * the number of those that are not started yet is a multiple of the interval a flush is due: with a drain nothing
 * is started until all have ended and the flush has.
 *
 * Failure modes: the first request that fails stops all; those in flight are waited for.
 */
#include "tools/bench_as_qemu.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"

enum { REAP_MAX = 64, QUEUE_MAX = 4096 };

#define TAG_FLUSH UINT64_MAX

struct bench_run {
    const struct bench_as_qemu *b;
    vdisk       *volume;
    vdisk_queue *queue;
    uint8_t     *buffers;   /* a read has one of its own, all writes the first */
    unsigned    *free_tags; /* of requests that can be started */
    uint64_t     stride, offset, step, size;
    uint64_t     to_start;
    unsigned     tags, free_count;
    bool         flushing;  /* with a drain */
    int          error;
};

static unsigned in_flight(const struct bench_run *r)
{
    return r->tags - r->free_count;
}

static uint64_t next_offset(struct bench_run *r)
{
    uint64_t offset = r->offset;

    r->offset = r->size <= r->step ? 0 : (r->offset + r->step) % r->size;
    return offset;
}

static void start_requests(struct bench_run *r)
{
    const struct bench_as_qemu *b = r->b;

    while (r->to_start > 0 && r->free_count > 0 && r->error == 0) {
        uint64_t offset = next_offset(r);
        unsigned tag = r->free_tags[r->free_count - 1];

        if (offset > r->size || b->block > r->size - offset) {
            r->error = -EIO;
            return;
        }
        r->free_count--;
        r->to_start--;
        if (b->write)
            vdisk_write(r->queue, r->volume, offset, r->buffers, b->block, b->fua ? VDISK_REQ_FUA : 0, tag);
        else
            vdisk_read(r->queue, r->volume, offset, r->buffers + r->stride * tag, b->block, 0, tag);
    }
}

static void flush(struct bench_run *r)
{
    vdisk_flush(r->queue, r->volume, 0, TAG_FLUSH);
}

/* One request less is in flight. */
static void request_ended(struct bench_run *r, unsigned tag)
{
    const struct bench_as_qemu *b = r->b;

    assert(tag < r->tags && r->free_count < r->tags);
    r->free_tags[r->free_count++] = tag;
    if (b->flush_interval != 0 && r->to_start % b->flush_interval == 0) {
        if (b->no_drain) {
            flush(r);
        } else if (in_flight(r) == 0) {
            r->flushing = true;
            flush(r);
        }
        if (!b->no_drain)
            return;
    }
    start_requests(r);
}

static void handle(struct bench_run *r, const struct vdisk_completion *c)
{
    if (c->result < 0 && r->error == 0)
        r->error = c->result;
    if (c->user_data != TAG_FLUSH) {
        request_ended(r, (unsigned)c->user_data);
    } else if (r->flushing) {
        r->flushing = false;
        start_requests(r);
    }
}

static void run_loop(struct bench_run *r)
{
    struct vdisk_completion list[REAP_MAX];

    start_requests(r);
    while (vdisk_queue_inflight(r->queue) > 0) {
        int n = vdisk_reap(r->queue, list, 1, REAP_MAX, NULL);
        if (n < 0 && n != -EINTR) {
            cli_error("bench: queue: %s", strerror(-n));
            cli_abandon();
        }
        for (int i = 0; i < n; i++)
            handle(r, &list[i]);
    }
    assert(r->error != 0 || (r->to_start == 0 && in_flight(r) == 0));
}

/* The queue, and memory for what is in flight at once. */
static int set_up(struct bench_run *r)
{
    const struct bench_as_qemu *b = r->b;
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = b->queue_kind};
    uint64_t tags = b->depth < b->count ? b->depth : b->count, room;

    r->stride = align_up(b->block, 4096);
    opts.depth = (unsigned)(tags < QUEUE_MAX ? tags : QUEUE_MAX);
    if (mul_u64(r->stride, b->write ? 1 : tags, &room))
        r->buffers = vdisk_alloc_buffer(room);
    r->free_tags = calloc(tags, sizeof *r->free_tags);
    if (r->buffers == NULL || r->free_tags == NULL) {
        cli_error("bench: no memory for %" PRIu64 " requests of %" PRIu64 " bytes", tags, b->block);
        return CLI_FAILED;
    }
    memset(r->buffers, (int)b->pattern, room);
    r->tags = r->free_count = (unsigned)tags;
    for (unsigned i = 0; i < r->tags; i++)
        r->free_tags[i] = r->tags - 1 - i;
    return vdisk_queue_create(&opts, &r->queue) < 0 ? cli_library_error() : CLI_OK;
}

static int measure(struct bench_run *r)
{
    const struct bench_as_qemu *b = r->b;
    uint64_t begin;

    printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64 " in parallel "
           "(starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
           b->count, b->write ? "write" : "read", b->block, b->depth, b->offset, r->step);
    if (b->flush_interval != 0)
        printf("Sending flush every %" PRIu64 " requests\n", b->flush_interval);
    begin = cli_now_ns();
    run_loop(r);
    if (r->error != 0) {
        cli_error("bench: Failed request: %s", strerror(-r->error));
        return CLI_FAILED;
    }
    printf("Run completed in %.3f seconds.\n", (double)(cli_now_ns() - begin) / 1e9);
    return CLI_OK;
}

int bench_as_qemu_run(vdisk *v, const struct bench_as_qemu *b)
{
    struct bench_run r = {
        .b = b, .volume = v, .offset = b->offset, .step = b->step != 0 ? b->step : b->block, .size = vdisk_size(v),
        .to_start = b->count,
    };
    int rc;

    assert(b->count > 0 && b->depth > 0 && b->block > 0);
    rc = set_up(&r);
    if (rc == CLI_OK)
        rc = measure(&r);
    if (r.queue != NULL)
        vdisk_queue_destroy(r.queue);
    free(r.free_tags);
    free(r.buffers);
    return rc;
}
