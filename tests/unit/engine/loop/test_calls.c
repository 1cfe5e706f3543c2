/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* loop/call.h: time, computing, polls and receives that are given up; on each kind of queue and simulated. */
#include <sys/socket.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>

#include "backends/lab/sim.h"
#include "engine/loop/call.h"
#include "engine/loop/queue.h"
#include "tests/unit/backend_test.h"

enum { MANY = 3000 };

#define HOURS UINT64_C(3600000000000)

static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};
static struct call calls[MANY];
static unsigned ended, cancelled;

static void count(struct call *c)
{
    assert_true(c->queue->in_loop);
    assert_false(call_is_under_way(c));
    ended++;
    cancelled += c->res == -ECANCELED;
}

static void begin(void)
{
    ended = cancelled = 0;
    for (unsigned i = 0; i < MANY; i++)
        calls[i].done = count;
}

static void turn_until(vdisk_queue *q, unsigned n)
{
    while (ended < n)
        if (!queue_turn(q))
            OK(queue_sleep(q, 1, NULL));
    assert_int_equal(ended, n);
}

static void each_kind(void (*run)(vdisk_queue *q))
{
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kinds[k]};
        vdisk_queue *q;
        if (vdisk_queue_create(&opts, &q) < 0)
            continue; /* not in this kernel */
        begin();
        queue_current = q;
        run(q);
        assert_true(list_empty(&q->calls) && q->worker_jobs == 0);
        OK(vdisk_queue_destroy(q));
    }
}

/* More than the ring has places for; those for an hour are given up, whichever place they are in. */
static void timeouts(vdisk_queue *q)
{
    for (unsigned i = 0; i < MANY; i++)
        call_timeout(&calls[i], q, i % 2 ? HOURS : i * 1000);
    assert_int_equal(ended, 0);
    for (unsigned i = 1; i < MANY; i += 2)
        call_cancel(&calls[i]);
    turn_until(q, MANY);
    assert_int_equal(cancelled, MANY / 2);
}

static void time_passes(void **state)
{
    each_kind(timeouts);
}

static int64_t square(struct call *c)
{
    return (int64_t)((c - calls) * (c - calls));
}

static void computations(vdisk_queue *q)
{
    for (unsigned i = 0; i < 100; i++)
        call_compute(&calls[i], q, square);
    call_cancel(&calls[50]); /* goes on to its end */
    turn_until(q, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(calls[i].res, i * i);
}

static void they_compute(void **state)
{
    each_kind(computations);
}

/* One processor: a computation is alone, and what blocks does not wait for it. */
static _Atomic unsigned computing, most;
static sem_t call_made;

static int64_t counted(struct call *c)
{
    unsigned n = atomic_fetch_add(&computing, 1) + 1;

    if (n > atomic_load(&most))
        atomic_store(&most, n);
    for (unsigned i = 0; i < 100; i++)
        sched_yield();
    atomic_fetch_sub(&computing, 1);
    return 0;
}

static int64_t wait_for_call(struct call *c)
{
    counted(c);
    while (sem_wait(&call_made) != 0)
        continue;
    return 0;
}

static int64_t make_it(struct io *io)
{
    sem_post(&call_made);
    return 0;
}

static void submit_call(struct backend *b, struct io *io)
{
    ring_work(io, make_it);
}

static void count_io(struct io *io)
{
    assert_int_equal(io->res, 0);
    ended++;
}

static void close_nothing(struct backend *b)
{
}

static void beside_a_computation(vdisk_queue *q)
{
    static const struct backend_driver driver = {.name = "calls", .close = close_nothing, .submit = submit_call};
    struct backend b = {.driver = &driver, .align = 1, .mem_align = 1};
    struct io io = {.queue = q, .done = count_io};

    assert_int_equal(sem_init(&call_made, 0, 0), 0);
    atomic_store(&most, 0);
    call_compute(&calls[0], q, wait_for_call);
    for (unsigned i = 1; i < 100; i++)
        call_compute(&calls[i], q, counted);
    io_range(&io, &b, IO_FLUSH, 0, 0);
    io_start(&io);
    turn_until(q, 101);
    assert_int_equal(atomic_load(&most), 1);
    sem_destroy(&call_made);
}

static void as_many_as_processors(void **state)
{
    cpu_set_t before, one;
    int cpu = 0;

    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    each_kind(beside_a_computation);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void sockets(vdisk_queue *q)
{
    char a[4] = {0}, b[4] = {0};
    char ab[] = "ab", cd[] = "cd";
    struct iovec out[] = {{ab, 2}, {cd, 2}}, in[] = {{a, 4}}, late[] = {{b, 4}};
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    call_poll(&calls[0], q, ends[1], POLLIN);
    call_receive(&calls[1], q, ends[0], late, 1);
    OK(queue_submit(q));
    call_send(&calls[2], q, ends[0], out, 2);
    turn_until(q, 2);
    assert_int_equal(calls[0].res, POLLIN);
    assert_int_equal(calls[2].res, 4);
    call_receive(&calls[3], q, ends[1], in, 1);
    turn_until(q, 3);
    assert_int_equal(calls[3].res, 4);
    assert_memory_equal(a, "abcd", 4);
    call_cancel(&calls[1]);
    call_cancel(&calls[1]);
    turn_until(q, 4);
    assert_int_equal(calls[1].res, -ECANCELED);
    /* What nobody takes any more is still there. */
    close(ends[1]);
    call_receive(&calls[4], q, ends[0], in, 1);
    call_send(&calls[5], q, ends[0], out, 2);
    turn_until(q, 6);
    assert_int_equal(calls[4].res, 0);
    assert_int_equal(calls[5].res, -EPIPE);
    close(ends[0]);
    call_receive(&calls[6], q, ends[0], in, 1);
    turn_until(q, 7);
    assert_int_equal(calls[6].res, -EBADF);
}

static void sockets_do(void **state)
{
    each_kind(sockets);
}

/* The kernel refuses the ring: what waits for time goes on to wait, what was given up is. */
static void without_a_ring(vdisk_queue *q)
{
    int ends[2];
    char byte;
    struct iovec in[] = {{&byte, 1}};

    if (!queue_has_ring(q))
        return;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    call_timeout(&calls[0], q, 20000000);
    call_timeout(&calls[1], q, HOURS);
    call_poll(&calls[2], q, ends[0], POLLIN);
    call_receive(&calls[3], q, ends[1], in, 1);
    OK(queue_submit(q));
    call_cancel(&calls[1]);
    call_timeout(&calls[4], q, 1000); /* the kernel has not seen it */
    ring_stop(q, -EPERM);
    assert_int_equal(write(ends[1], "x", 1), 1);
    turn_until(q, 5);
    assert_int_equal(calls[0].res, 0);
    assert_int_equal(calls[1].res, -ECANCELED);
    assert_int_equal(calls[2].res, POLLIN);
    assert_int_equal(calls[3].res, -EPERM);
    assert_int_equal(calls[4].res, 0);
    close(ends[0]);
    close(ends[1]);
}

static void ring_stops(void **state)
{
    each_kind(without_a_ring);
}

/* Time is virtual: hours pass at once, and in order. */
static void in_a_simulation(void **state)
{
    struct sim_options options = {.seed = 1};
    struct sim *sim;
    vdisk_queue *q;
    uint64_t begun;

    OK(sim_create(&options, &sim));
    sim_enter(sim);
    OK(vdisk_queue_create(NULL, &q));
    begin();
    queue_current = q;
    begun = sim_now_ns(sim);
    call_timeout(&calls[0], q, 2 * HOURS);
    call_timeout(&calls[1], q, HOURS);
    call_timeout(&calls[2], q, 3 * HOURS);
    call_compute(&calls[3], q, square);
    call_poll(&calls[4], q, 0, POLLIN);
    call_cancel(&calls[2]);
    turn_until(q, 4);
    assert_true(call_is_under_way(&calls[0]));
    assert_int_equal(sim_now_ns(sim) - begun, HOURS);
    assert_int_equal(calls[2].res, -ECANCELED);
    assert_int_equal(calls[3].res, 9);
    assert_int_equal(calls[4].res, -ENOTSUP);
    turn_until(q, 5);
    assert_int_equal(sim_now_ns(sim) - begun, 2 * HOURS);
    OK(vdisk_queue_destroy(q));
    sim_leave(sim);
    sim_destroy(sim);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_passes), cmocka_unit_test(they_compute), cmocka_unit_test(as_many_as_processors),
        cmocka_unit_test(sockets_do),  cmocka_unit_test(ring_stops),   cmocka_unit_test(in_a_simulation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
