/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a backend keeps for each queue: made once, gone once, whoever goes first and on whichever thread. */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/backend_test.h"

enum { QUEUES = 5, BACKENDS = 40 };

struct counting {
    struct backend  b; /* first */
    _Atomic unsigned attached, detached, calls;
    _Atomic int      refuse;
};

struct counting_queue {
    vdisk_queue *queue;
    unsigned     calls;
};

static int counting_attach(struct backend *b, vdisk_queue *q, void **ret_state)
{
    struct counting *c = container_of(b, struct counting, b);
    struct counting_queue *cq;

    if (atomic_load(&c->refuse))
        return -atomic_load(&c->refuse);
    cq = calloc(1, sizeof *cq);
    assert_non_null(cq);
    cq->queue = q;
    atomic_fetch_add(&c->attached, 1);
    *ret_state = cq;
    return 0;
}

static void counting_detach(struct backend *b, vdisk_queue *q, void *state)
{
    struct counting *c = container_of(b, struct counting, b);
    struct counting_queue *cq = state;

    assert_ptr_equal(cq->queue, q);
    atomic_fetch_add(&c->detached, 1);
    atomic_fetch_add(&c->calls, cq->calls);
    free(cq);
}

static void counting_submit(struct backend *b, struct io *io)
{
    int rc;
    struct counting_queue *cq = backend_on_queue(b, io->queue, &rc);

    if (cq)
        cq->calls++;
    io_end_later(io, cq ? (int64_t)io->len : rc);
}

static void counting_close(struct backend *b)
{
    struct counting *c = container_of(b, struct counting, b);

    assert_int_equal(atomic_load(&c->attached), atomic_load(&c->detached));
}

static const struct backend_driver driver = {
    .name = "counting", .close = counting_close, .submit = counting_submit, .attach = counting_attach,
    .detach = counting_detach,
};

static struct counting *make(void)
{
    struct counting *c = backend_alloc(&driver, "counting", sizeof *c);

    assert_non_null(c);
    atomic_store(&c->b.size, 4096);
    return c;
}

static int use(struct counting *c, vdisk_queue *q)
{
    char bytes[8];

    return io_pread(q, &c->b, bytes, sizeof bytes, 0);
}

static void one_state_for_each_queue(void **state)
{
    vdisk_queue *q[QUEUES];
    struct counting *c = make();

    for (unsigned i = 0; i < QUEUES; i++) {
        q[i] = test_queue(i % 2 ? VDISK_QUEUE_THREADS : VDISK_QUEUE_AUTO);
        OK(use(c, q[i]));
        OK(use(c, q[i]));
    }
    assert_int_equal(c->attached, QUEUES);
    assert_int_equal(c->detached, 0);
    vdisk_queue_destroy(q[0]);
    assert_int_equal(c->detached, 1);
    assert_int_equal(c->calls, 2);
    backend_close(&c->b);
    for (unsigned i = 1; i < QUEUES; i++)
        vdisk_queue_destroy(q[i]);
}

/* More than the queue has places for, some closed and others opened meanwhile. */
static void many_backends(void **state)
{
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    struct counting *c[BACKENDS];

    for (unsigned i = 0; i < BACKENDS; i++) {
        c[i] = make();
        OK(use(c[i], q));
    }
    for (unsigned i = 0; i < BACKENDS; i += 2) {
        backend_close(&c[i]->b);
        c[i] = make();
        assert_int_equal(c[i]->attached, 0);
        OK(use(c[i], q));
        assert_int_equal(c[i]->attached, 1);
    }
    for (unsigned i = 0; i < BACKENDS; i++) {
        OK(use(c[i], q));
        assert_int_equal(c[i]->attached, 1);
    }
    vdisk_queue_destroy(q);
    for (unsigned i = 0; i < BACKENDS; i++) {
        assert_int_equal(c[i]->detached, 1);
        assert_int_equal(c[i]->calls, 2);
        backend_close(&c[i]->b);
    }
}

static void refused(void **state)
{
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    struct counting *c = make();

    c->refuse = ECONNREFUSED;
    assert_int_equal(use(c, q), -ECONNREFUSED);
    c->refuse = 0;
    OK(use(c, q));
    assert_int_equal(c->attached, 1);
    backend_close(&c->b);
    vdisk_queue_destroy(q);
}

static struct counting *shared;
static _Atomic unsigned ready, going;

static void *use_and_go(void *arg)
{
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    struct counting *own = make();

    for (unsigned i = 0; i < 50; i++) {
        OK(use(shared, q));
        OK(use(own, q));
    }
    atomic_fetch_add(&ready, 1);
    while (!atomic_load(&going))
        ;
    vdisk_queue_destroy(q);
    backend_close(&own->b);
    return NULL;
}

/* The backend is closed while threads, which are done with it, destroy their queues. */
static void both_go_at_once(void **state)
{
    pthread_t threads[QUEUES];

    for (unsigned round = 0; round < 20; round++) {
        shared = make();
        ready = going = 0;
        for (unsigned i = 0; i < QUEUES; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, use_and_go, NULL), 0);
        while (atomic_load(&ready) < QUEUES)
            ;
        assert_int_equal(shared->attached, QUEUES);
        going = 1;
        backend_close(&shared->b); /* which looks whether all have gone */
        for (unsigned i = 0; i < QUEUES; i++)
            pthread_join(threads[i], NULL);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_state_for_each_queue),
        cmocka_unit_test(many_backends),
        cmocka_unit_test(refused),
        cmocka_unit_test(both_go_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
