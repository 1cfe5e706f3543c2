/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The load loop: reap a batch, account for it, start as many again. The clock is read once for each batch: what a
 * reap handed out has ended then, and what is enqueued next starts then. So a request costs a store of its start,
 * a look at it, and one histogram update.
 */
#include "tools/bench_load.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "tools/arith.h"
#include "tools/cli.h"

enum { REAP_MAX = 256 };

struct slot {
    uint64_t start_ns;
    uint64_t offset;
    uint8_t *buf;
    uint8_t  kind; /* enum bench_kind */
};

/* What the threads share. */
struct run {
    pthread_barrier_t start;
    atomic_uint       finished; /* workers */
    atomic_bool       stop;     /* one has failed: no sense in going on */
};

struct worker {
    const struct bench_load *load;
    struct run              *run;
    vdisk                   *volume;
    vdisk_queue             *queue;
    pthread_t                thread;
    struct slot             *slots;
    uint8_t                 *buffers;
    uint64_t                 begin, end;  /* its part of the volume */
    uint64_t                 blocks;      /* whole blocks in it */
    uint64_t                 next;        /* offset of the next request, unless random */
    uint64_t                 random;      /* state of the generator */
    uint64_t                 to_start;    /* requests still to be started */
    uint64_t                 since_flush; /* writes */
    uint64_t                 start_ns, ramp_end_ns, deadline_ns, end_ns;
    struct rusage            usage;       /* when counting began */
    bool                     stopping, ramping, registered;
    int                      error;
    struct vdisk_completion  failed;      /* the first that did */
    bool                     queue_failed;
    struct bench_stats       stats[BENCH_KINDS];
    _Atomic uint64_t         done;        /* for progress */
} __attribute__((aligned(64)));

/* ---- what comes next ------------------------------------------------------------------------------- */

/* splitmix64: one multiply-and-shift chain, good enough for offsets, and any seed will do. */
static inline uint64_t next_random(struct worker *w)
{
    uint64_t x = w->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Evenly from [0, n), without a division. */
static inline uint64_t random_below(struct worker *w, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)next_random(w) * n) >> 64);
}

static inline uint64_t next_offset(struct worker *w)
{
    const struct bench_load *l = w->load;
    uint64_t offset = w->next;

    if (l->order == BENCH_RANDOM)
        return w->begin + random_below(w, w->blocks) * l->block;
    w->next += l->order == BENCH_STEP ? l->step : l->block;
    if (w->next > w->end - l->block)
        w->next = w->begin;
    return offset;
}

static inline enum bench_kind next_kind(struct worker *w)
{
    const struct bench_load *l = w->load;

    if (unlikely(l->flush_every != 0 && w->since_flush >= l->flush_every))
        return BENCH_FLUSH;
    if (l->read_percent == 100)
        return BENCH_READ;
    if (l->read_percent != 0 && random_below(w, 100) < l->read_percent)
        return BENCH_READ;
    return l->kind;
}

static inline void start_request(struct worker *w, struct slot *s, uint64_t now)
{
    const struct bench_load *l = w->load;
    enum bench_kind kind = next_kind(w);
    uint64_t tag = (uint64_t)(s - w->slots);

    s->kind = (uint8_t)kind;
    s->start_ns = now;
    if (kind == BENCH_FLUSH) {
        w->since_flush = 0;
        s->offset = 0;
        vdisk_flush(w->queue, w->volume, 0, tag);
        return;
    }
    s->offset = next_offset(w);
    w->to_start--;
    if (kind == BENCH_READ) {
        vdisk_read(w->queue, w->volume, s->offset, s->buf, l->block, 0, tag);
        return;
    }
    w->since_flush++;
    if (kind == BENCH_WRITE)
        vdisk_write(w->queue, w->volume, s->offset, s->buf, l->block, l->write_flags, tag);
    else if (kind == BENCH_ZERO)
        vdisk_write_zeroes(w->queue, w->volume, s->offset, l->block, l->write_flags, tag);
    else
        vdisk_discard(w->queue, w->volume, s->offset, l->block, 0, tag);
}

/* ---- the loop -------------------------------------------------------------------------------------- */

static void reset_stats(struct worker *w)
{
    for (int i = 0; i < BENCH_KINDS; i++) {
        w->stats[i].count = w->stats[i].bytes = 0;
        histogram_init(&w->stats[i].latency);
    }
}

/* From here on it counts: at the start, and again when the ramp is over. */
static void begin_counting(struct worker *w, uint64_t now)
{
    reset_stats(w);
    getrusage(RUSAGE_SELF, &w->usage);
    w->start_ns = now;
    w->deadline_ns = w->load->runtime_ns != 0 ? now + w->load->runtime_ns : UINT64_MAX;
}

static inline void account(struct worker *w, const struct slot *s, uint64_t now)
{
    struct bench_stats *stats = &w->stats[s->kind];

    stats->count++;
    stats->bytes += s->kind == BENCH_FLUSH ? 0 : w->load->block;
    if (w->load->latency)
        histogram_add(&stats->latency, now - s->start_ns);
}

static void note_failure(struct worker *w, const struct vdisk_completion *failed)
{
    if (w->error == 0) {
        w->error = failed->result;
        w->failed = *failed;
    }
    w->stopping = true;
    atomic_store(&w->run->stop, true);
}

static void check_time(struct worker *w, uint64_t now)
{
    if (unlikely(w->ramping && now >= w->ramp_end_ns)) {
        w->ramping = false;
        begin_counting(w, now);
    }
    if ((!w->ramping && now >= w->deadline_ns) ||
        unlikely(atomic_load_explicit(&w->run->stop, memory_order_relaxed)))
        w->stopping = true;
}

static void run_loop(struct worker *w)
{
    struct vdisk_completion list[REAP_MAX];
    uint64_t now = cli_now_ns(), total = 0;

    w->ramp_end_ns = now + w->load->ramp_ns;
    w->ramping = w->load->ramp_ns != 0;
    begin_counting(w, now);
    for (unsigned i = 0; i < w->load->depth && w->to_start > 0; i++)
        start_request(w, &w->slots[i], now);

    while (vdisk_queue_inflight(w->queue) > 0) {
        int n = vdisk_reap(w->queue, list, 1, REAP_MAX, NULL);
        if (unlikely(n < 0)) {
            if (n == -EINTR)
                continue;
            w->queue_failed = true;
            note_failure(w, &(struct vdisk_completion){.result = n});
            return; /* the queue itself is broken: nothing more will come */
        }
        now = cli_now_ns();
        check_time(w, now);
        for (int i = 0; i < n; i++) {
            struct slot *s = &w->slots[list[i].user_data];
            if (unlikely(list[i].result < 0))
                note_failure(w, &list[i]);
            else
                account(w, s, now);
            if (likely(!w->stopping && w->to_start > 0))
                start_request(w, s, now);
        }
        total += (unsigned)n;
        atomic_store_explicit(&w->done, total, memory_order_relaxed);
    }
    w->end_ns = now;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;

    pthread_barrier_wait(&w->run->start);
    run_loop(w);
    atomic_fetch_add(&w->run->finished, 1);
    return NULL;
}

/* ---- set-up ---------------------------------------------------------------------------------------- */

static void set_range(struct worker *w, unsigned index)
{
    const struct bench_load *l = w->load;
    uint64_t blocks = l->size / l->block, first = 0, last = blocks;

    /* Sequential queues share the range out; random ones and steps use all of it. */
    if (l->order == BENCH_SEQUENTIAL) {
        first = blocks / l->queues * index;
        last = index + 1 == l->queues ? blocks : blocks / l->queues * (index + 1);
    }
    w->begin = l->offset + first * l->block;
    w->end = l->offset + last * l->block;
    w->blocks = last - first;
    w->next = w->begin;
    if (l->order == BENCH_STEP)
        w->next += random_below(w, w->blocks) * l->block * (index != 0); /* others start somewhere else */
    assert(w->blocks > 0);
}

/* Noise, so that no layer below can make the data smaller. */
static void fill_buffers(struct worker *w, uint64_t len)
{
    uint64_t x;

    for (uint64_t i = 0; i + sizeof x <= len; i += sizeof x) {
        x = next_random(w);
        memcpy(w->buffers + i, &x, sizeof x);
    }
}

static int worker_init(struct worker *w, unsigned index)
{
    const struct bench_load *l = w->load;
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = l->depth, .kind = l->queue_kind};
    uint64_t stride = align_up(l->block, 4096);
    bool needs_memory = l->kind == BENCH_WRITE || l->read_percent > 0;

    w->random = l->seed * BENCH_MAX_QUEUES + index;
    w->to_start = UINT64_MAX;
    if (l->count != 0)
        w->to_start = l->count / l->queues + (index < l->count % l->queues);
    set_range(w, index);
    w->slots = cli_calloc(l->depth, sizeof *w->slots);
    if (needs_memory) {
        w->buffers = vdisk_alloc_buffer(stride * l->depth);
        if (w->buffers == NULL) {
            cli_error("bench: no memory for %u buffers of %" PRIu64 " bytes", l->depth, stride);
            return -1;
        }
        fill_buffers(w, stride * l->depth);
    }
    for (unsigned i = 0; i < l->depth; i++)
        w->slots[i].buf = needs_memory ? w->buffers + stride * i : NULL;
    if (vdisk_queue_create(&opts, &w->queue) < 0) {
        cli_library_error();
        return -1;
    }
    if (needs_memory && l->register_buffers) {
        struct iovec region = {w->buffers, stride * l->depth};
        w->registered = vdisk_queue_register_buffers(w->queue, &region, 1) == 0;
    }
    return 0;
}

static void worker_finish(struct worker *w)
{
    vdisk_queue_destroy(w->queue);
    free(w->buffers);
    free(w->slots);
}

/* ---- all of it ------------------------------------------------------------------------------------- */

/* Until all workers are through. */
static void show_progress(const struct run *run, const struct worker *workers, const struct bench_load *l)
{
    struct cli_progress progress = {.enabled = true};
    const struct timespec tick = {0, 100 * 1000 * 1000};
    uint64_t begin_ns = cli_now_ns(), length_ns = l->ramp_ns + l->runtime_ns;

    while (atomic_load(&run->finished) < l->queues) {
        uint64_t done = 0;
        for (unsigned i = 0; i < l->queues; i++)
            done += atomic_load_explicit(&workers[i].done, memory_order_relaxed);
        /* Whichever end comes first. */
        double by_time = l->runtime_ns != 0 ? (double)(cli_now_ns() - begin_ns) / (double)length_ns : 0.0;
        double by_count = l->count != 0 ? (double)done / (double)l->count : 0.0;
        cli_progress_show(&progress, (uint64_t)((by_time > by_count ? by_time : by_count) * 10000.0), 10000);
        nanosleep(&tick, NULL);
    }
    cli_progress_end(&progress);
}

static int report_failure(const struct worker *w)
{
    if (w->queue_failed) {
        cli_error("bench: queue: %s", strerror(-w->error));
        cli_abandon();
    }
    vdisk_explain(w->queue, &w->failed);
    cli_library_error();
    return -1;
}

static struct timeval time_since(struct timeval now, struct timeval then)
{
    struct timeval diff;

    timersub(&now, &then, &diff);
    return diff;
}

static int collect(const struct worker *workers, const struct bench_load *l, struct bench_result *ret)
{
    uint64_t begin = UINT64_MAX, end = 0;
    struct rusage now;

    getrusage(RUSAGE_SELF, &now);
    memset(ret, 0, sizeof *ret);
    for (int k = 0; k < BENCH_KINDS; k++)
        histogram_init(&ret->kinds[k].latency);
    for (unsigned i = 0; i < l->queues; i++) {
        const struct worker *w = &workers[i];
        if (w->error != 0)
            return report_failure(w);
        for (int k = 0; k < BENCH_KINDS; k++) {
            ret->kinds[k].count += w->stats[k].count;
            ret->kinds[k].bytes += w->stats[k].bytes;
            histogram_merge(&ret->kinds[k].latency, &w->stats[k].latency);
        }
        begin = min_u64(begin, w->start_ns);
        end = max_u64(end, w->end_ns);
    }
    ret->elapsed_ns = max_u64(end > begin ? end - begin : 0, 1);
    ret->cpu.ru_utime = time_since(now.ru_utime, workers[0].usage.ru_utime);
    ret->cpu.ru_stime = time_since(now.ru_stime, workers[0].usage.ru_stime);
    ret->queue_kind = vdisk_queue_get_kind(workers[0].queue);
    ret->registered = workers[0].registered;
    return 0;
}

static void run_threads(struct run *run, struct worker *workers, const struct bench_load *l)
{
    pthread_barrier_init(&run->start, NULL, l->queues + 1);
    for (unsigned i = 0; i < l->queues; i++) {
        int rc = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        if (rc != 0) {
            cli_error("bench: cannot make thread %u of %u: %s", i + 1, l->queues, strerror(rc));
            cli_abandon(); /* those that were made wait at the barrier */
        }
    }
    pthread_barrier_wait(&run->start);
    if (l->progress)
        show_progress(run, workers, l);
    for (unsigned i = 0; i < l->queues; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&run->start);
}

int bench_run(vdisk *v, const struct bench_load *load, struct bench_result *ret)
{
    struct worker *workers = aligned_alloc(64, load->queues * sizeof *workers);
    struct run run = {.finished = 0};
    unsigned ready = 0;
    int rc = workers == NULL ? -1 : 0;

    if (rc < 0) {
        cli_no_memory();
        return rc;
    }
    memset(workers, 0, load->queues * sizeof *workers);
    for (; ready < load->queues && rc == 0; ready++) {
        workers[ready].load = load;
        workers[ready].run = &run;
        workers[ready].volume = v;
        rc = worker_init(&workers[ready], ready);
    }
    if (rc == 0) {
        run_threads(&run, workers, load);
        rc = collect(workers, load, ret);
    }
    while (ready > 0)
        worker_finish(&workers[--ready]);
    free(workers);
    return rc;
}
