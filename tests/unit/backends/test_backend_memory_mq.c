/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory backend under several queues, each with ranges of its own that share chunks and tree nodes. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "backends/memory.h"
#include "tests/unit/backend_test.h"

enum { THREADS = 4, PIECE = 4096, ROUNDS = 400 };

struct worker {
    pthread_t       thread;
    struct backend *b;
    unsigned        id;
    unsigned        wrong;
    int             rc;
};

static int one_round(struct worker *w, vdisk_queue *q, unsigned round, uint8_t *want, uint8_t *got)
{
    /* Neighbours in a chunk belong to different threads; every few rounds a new part of the tree. */
    uint64_t offset = (uint64_t)(round % 40) * (UINT64_C(1) << 37) + (round * THREADS + w->id) * (uint64_t)PIECE;
    int rc;

    fill_pattern(want, offset, PIECE, w->id);
    rc = io_pwrite(q, w->b, want, PIECE, offset);
    if (rc == 0)
        rc = io_pread(q, w->b, got, PIECE, offset);
    if (rc < 0)
        return rc;
    w->wrong += memcmp(want, got, PIECE) != 0;
    if (round % 3 == 0) {
        rc = io_prange(q, w->b, round % 2 ? IO_ZERO : IO_DISCARD, offset, PIECE);
        if (rc == 0)
            rc = io_pread(q, w->b, got, PIECE, offset);
        w->wrong += round % 2 ? !is_filled(got, 0, PIECE) : memcmp(want, got, PIECE) != 0;
    }
    return rc;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    uint8_t want[PIECE], got[PIECE];
    struct vdisk_queue_opts opts = {.size = sizeof opts};
    vdisk_queue *q;

    w->rc = vdisk_queue_create(&opts, &q);
    if (w->rc < 0)
        return NULL;
    for (unsigned round = 0; round < ROUNDS && w->rc == 0; round++)
        w->rc = one_round(w, q, round, want, got);
    vdisk_queue_destroy(q);
    return NULL;
}

static void queues_do_not_disturb_each_other(void **state)
{
    struct worker workers[THREADS];
    struct backend *b;

    OK(memory_backend_create("memory:0", 0, &b));
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.b = b, .id = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        OK(workers[i].rc);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_int_equal(backend_size(b), UINT64_C(39) * (UINT64_C(1) << 37) + ROUNDS * THREADS * UINT64_C(4096));
    backend_close(b);
}

/* Room comes and goes: what finds none says so, and not that there is no memory. */
static _Atomic bool done;

static void *fill_and_empty(void *arg)
{
    for (unsigned i = 0; !atomic_load(&done); i++)
        memory_backend_set_space(arg, i % 2 ? 0 : UINT64_MAX);
    return NULL;
}

static void room_comes_meanwhile(void **state)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts};
    uint8_t piece[PIECE] = {1};
    unsigned found = 0;
    pthread_t thread;
    struct backend *b;
    vdisk_queue *q;

    OK(memory_backend_create("memory:0", 0, &b));
    OK(vdisk_queue_create(&opts, &q));
    assert_int_equal(pthread_create(&thread, NULL, fill_and_empty, b), 0);
    for (unsigned i = 0; i < 50 * ROUNDS; i++) {
        int rc = io_pwrite(q, b, piece, PIECE, (uint64_t)found << 20);
        assert_true(rc == 0 || rc == -ENOSPC);
        found += rc == 0;
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    vdisk_queue_destroy(q);
    backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_comes_meanwhile),
        cmocka_unit_test(queues_do_not_disturb_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
