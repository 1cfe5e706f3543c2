/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/ring: waiting for one of many. What never completes must not hold up what does. */
#include "tests/unit/op_test.h"

#include <unistd.h>

#include "backends/memory.h"

enum { STUCK = 24, SHARE = STUCK / 4, PLENTY = 64 };

static vdisk_queue *q;
static struct backend *backend; /* the I/Os must have one; nothing is done to it */
static struct io ios[STUCK + 1];
static char bytes[STUCK + 1];
static unsigned done;

static void count(struct io *io)
{
    assert_int_equal(io->res, 0);
    done++;
}

/* A read of one byte from a pipe: it completes when somebody has written one. */
static void start_read(unsigned i, int fd)
{
    io_rw(&ios[i], backend, IO_READ, 0, &bytes[i], 1);
    ios[i].queue = q;
    ios[i].done = count;
    ring_rw(&ios[i], fd);
}

static void put(int fd, unsigned n)
{
    static const char text[STUCK];

    assert_true(n <= STUCK);
    assert_int_equal(write(fd, text, n), n);
}

static void start(int pipe_ends[2])
{
    assert_int_equal(pipe(pipe_ends), 0);
    done = 0;
    q->gather_rest = 0;
    for (unsigned i = 0; i < STUCK; i++)
        start_read(i, pipe_ends[0]);
}

static void finish(int pipe_ends[2], unsigned to_put, unsigned total)
{
    put(pipe_ends[1], to_put);
    while (done < total)
        if (!queue_turn(q))
            assert_int_equal(queue_sleep(q, 1, NULL), 0);
    assert_int_equal(q->kernel_inflight, 0);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

/* One completes, 24 do not: it is handed out, and the next waits are for one. */
static void one_of_many(void **state)
{
    int stuck[2], other[2];

    (void)state;
    if (!queue_has_ring(q))
        skip();
    start(stuck);
    assert_int_equal(pipe(other), 0);
    start_read(STUCK, other[0]);
    put(other[1], 1);
    assert_int_equal(ring_sleep(q, 1, PLENTY, NULL, true), 0);
    queue_turn(q);
    assert_int_equal(done, 1);
    assert_true(q->gather_rest > 0 || !ring_gathers(q));

    unsigned rest = q->gather_rest;
    put(stuck[1], 1);
    assert_int_equal(ring_sleep(q, 1, PLENTY, NULL, true), 0);
    queue_turn(q);
    assert_int_equal(done, 2);
    assert_true(q->gather_rest + 1 == rest || !ring_gathers(q));
    finish(stuck, STUCK - 1, STUCK + 1);
    close(other[0]);
    close(other[1]);
}

/* All are there: a share of them comes at once, and gathering goes on. */
static void a_share(void **state)
{
    int ends[2];

    (void)state;
    if (!queue_has_ring(q))
        skip();
    start(ends);
    put(ends[1], STUCK);
    assert_int_equal(ring_sleep(q, 1, PLENTY, NULL, true), 0);
    queue_turn(q);
    assert_true(done >= (ring_gathers(q) ? SHARE : 1));
    assert_int_equal(q->gather_rest, 0);
    finish(ends, 0, STUCK);
}

/* Who takes one, or has a moment only, does not gather. */
static void not_asked_for(void **state)
{
    const struct timespec moment = {.tv_nsec = 1000};
    int ends[2];

    (void)state;
    if (!queue_has_ring(q))
        skip();
    start(ends);
    put(ends[1], 1);
    assert_int_equal(ring_sleep(q, 1, 1, NULL, true), 0);
    queue_turn(q);
    assert_int_equal(done, 1);
    assert_int_equal(ring_sleep(q, 1, PLENTY, &moment, true), -ETIME);
    assert_int_equal(q->gather_rest, 0);
    finish(ends, STUCK - 1, STUCK);
}

static int setup(void **state)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = PLENTY};

    (void)state;
    if (vdisk_queue_create(&opts, &q) < 0 || memory_backend_create("memory", 4096, &backend) < 0)
        return -1;
    queue_turn(q); /* this thread's queue from now on */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vdisk_queue_destroy(q);
    backend_close(backend);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_of_many),
        cmocka_unit_test(a_share),
        cmocka_unit_test(not_asked_for),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
