/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The load behind `vdisk-io bench`: threads, each with a queue of its own, on one open volume. Each keeps `depth`
 * requests in flight; buffers, slots and histograms are made before the clock starts.
 */
#ifndef TOOLS_BENCH_LOAD_H
#define TOOLS_BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <vdisk.h>

#include "tools/histogram.h"

enum bench_kind { BENCH_READ, BENCH_WRITE, BENCH_ZERO, BENCH_DISCARD, BENCH_FLUSH, BENCH_KINDS };
enum bench_order { BENCH_SEQUENTIAL, BENCH_RANDOM, BENCH_STEP };

enum { BENCH_MAX_DEPTH = 4096, BENCH_MAX_QUEUES = 256 };

struct bench_load {
    enum bench_kind  kind;         /* of what is not a read by read_percent */
    unsigned         read_percent; /* 0 to 100 */
    enum bench_order order;
    uint64_t         step;         /* BENCH_STEP: from one request to the next */
    uint64_t         block;        /* length of a request */
    uint64_t         offset, size; /* the range of the volume that is used; size > 0 */
    unsigned         depth, queues;
    uint64_t         runtime_ns;   /* 0: no limit */
    uint64_t         count;        /* requests of all queues, without flushes; 0: no limit */
    uint64_t         ramp_ns;      /* run for so long before counting */
    uint64_t         flush_every;  /* a flush after so many writes of a queue; 0: none */
    uint64_t         seed;
    uint32_t         write_flags;  /* enum vdisk_req_flags, of writes and zeroes */
    enum vdisk_queue_kind queue_kind;
    bool             register_buffers;
    bool             latency;      /* keep histograms */
    bool             progress;
};

struct bench_stats {
    uint64_t         count, bytes;
    struct histogram latency;
};

struct bench_result {
    struct bench_stats    kinds[BENCH_KINDS];
    uint64_t              elapsed_ns; /* from the first start to the last completion */
    struct rusage         cpu;        /* ru_utime and ru_stime: of the whole process in that time */
    enum vdisk_queue_kind queue_kind;
    bool                  registered; /* buffers were */
};

/* 0: *ret is filled in. -1: a request failed or there was no memory: said so already. */
int bench_run(vdisk *v, const struct bench_load *load, struct bench_result *ret);

#endif
