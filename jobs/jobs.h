/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of bulk work: jobs over volumes as any program could write them, with the installed headers only.
 *
 * It promises a handle: made from options, run or started as any job, with progress, cancelling, words for its
 * error, and a result. It owns the buffers and the queue that a job works with, as long as that works. It may not
 * include private headers, nor know formats and backends: what it needs of those becomes a public call.
 *
 * A job is one loop, on one queue, on the job's thread: plan.h says what there is to do, zeros.h what need not be.
 */
#ifndef JOBS_JOBS_H
#define JOBS_JOBS_H

#include <time.h>
#include <vdisk-image.h>

static inline uint64_t jobs_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* `align`: a power of two. */
static inline uint64_t jobs_align_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) & ~(align - 1);
}

/*
 * What a compressed write of `len` bytes takes beside them: as many for its streams, which may get no shorter,
 * and a buffer for what begins or ends within a block of the file.
 */
enum { JOBS_PACK_EDGES = 1 << 20 };

static inline uint64_t jobs_pack_takes(uint64_t len)
{
    return len + JOBS_PACK_EDGES;
}

#define JOBS_NS_PER_S UINT64_C(1000000000)

static inline uint64_t jobs_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * JOBS_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* The size of a struct of options is one that there can be. */
static inline bool jobs_size_is_sane(size_t size)
{
    return size >= sizeof(size_t) && size <= 4096;
}

/*
 * The error of a call, made the job's own: `rc`, with the text that the call left. Later calls do not change it.
 * Returns rc.
 */
static inline int jobs_fail(vdisk_job *job, int rc)
{
    return vdisk_job_fail(job, rc, NULL, NULL);
}

/* The first failure of a request counts, with its text: *rc. */
static inline void jobs_request_failed(vdisk_job *job, vdisk_queue *q, const struct vdisk_completion *done,
                                       int *rc)
{
    if (*rc == 0) {
        vdisk_explain(q, done);
        *rc = jobs_fail(job, done->result);
    }
}

#endif
