/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backends whose I/O ends on threads that are not ours: by a library's callback, say. Whoever waits is woken,
 * however he waits, and no I/O ends but in its queue's loop.
 */
#include <limits.h>
#include <poll.h>
#include <pthread.h>

#include "engine/loop/queue.h"
#include "tests/unit/backend_test.h"

enum { IOS = 200 };

/* A library with a thread, and what its users have asked for. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static struct task_list asked;
static unsigned allowed = UINT_MAX; /* so many more end */
static bool stop;

static void *library_main(void *arg)
{
    pthread_mutex_lock(&lock);
    while (!stop || asked.head) {
        struct task *t = asked.head;
        if (!t || allowed == 0) {
            pthread_cond_wait(&more, &lock);
            continue;
        }
        allowed--;
        asked.head = t->next;
        if (!asked.head)
            task_list_init(&asked);
        pthread_mutex_unlock(&lock);
        struct io *io = container_of(t, struct io, task);
        if (io->kind == IO_READ)
            memset(io->iov[0].iov_base, (int)(io->offset & 0xff), io->iov[0].iov_len);
        io_end_foreign(io, io->offset == 4096 ? -EIO : (int64_t)io->len);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void foreign_submit(struct backend *b, struct io *io)
{
    io_elsewhere(io);
    pthread_mutex_lock(&lock);
    task_list_add(&asked, &io->task);
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
}

static void foreign_close(struct backend *b)
{
}

static const struct backend_driver driver = {.name = "foreign", .close = foreign_close, .submit = foreign_submit};

static struct backend *backend;
static struct io ios[IOS];
static char bytes[IOS];
static unsigned ended;

static void count(struct io *io)
{
    unsigned i = (unsigned)(io - ios);

    assert_true(io->queue->in_loop);
    assert_int_equal(io->res, io->offset == 4096 ? -EIO : 0);
    if (io->res == 0)
        assert_int_equal((uint8_t)bytes[i], io->offset & 0xff);
    ended++;
}

static void start(vdisk_queue *q, unsigned i, uint64_t offset)
{
    io_rw(&ios[i], backend, IO_READ, offset, &bytes[i], 1);
    ios[i].queue = q;
    ios[i].op = NULL;
    ios[i].done = count;
    io_start(&ios[i]);
}

static void finish(vdisk_queue *q)
{
    while (ended < IOS)
        if (!queue_turn(q))
            assert_int_equal(queue_sleep(q, 1, NULL), 0);
    assert_int_equal(q->worker_jobs, 0);
    OK(vdisk_queue_destroy(q));
}

static void in_any_wait(void **state)
{
    static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};
    struct vdisk_queue_opts opts = {.size = sizeof opts};

    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        vdisk_queue *q;
        opts.kind = kinds[k];
        if (vdisk_queue_create(&opts, &q) < 0)
            continue; /* not in this kernel */
        ended = 0;
        queue_submit(q);
        for (unsigned i = 0; i < IOS; i++)
            start(q, i, i == 7 ? 4096 : i);
        assert_int_equal(ended, 0); /* never under submit */
        finish(q);
    }
}

/* An event loop that sleeps on the queue's descriptor alone. */
static void by_the_descriptor(void **state)
{
    static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_AUTO, VDISK_QUEUE_THREADS};

    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        vdisk_queue *q = test_queue(kinds[k]);
        struct pollfd pfd = {.fd = vdisk_queue_fd(q), .events = POLLIN};
        ended = 0;
        OK(vdisk_submit(q));
        for (unsigned i = 0; i < IOS; i++) {
            start(q, i, i);
            while (ended <= i) {
                assert_int_equal(poll(&pfd, 1, 10000), 1);
                assert_int_equal(vdisk_reap(q, NULL, 0, 0, NULL), 0);
            }
        }
        finish(q);
    }
}

static void allow(unsigned n)
{
    pthread_mutex_lock(&lock);
    allowed = n;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
}

/* Who has many in flight sleeps until some have ended; and no longer than a while, if fewer do. */
static void some_at_a_time(void **state)
{
    static const unsigned parts[] = {1, 40, 3, IOS};
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    unsigned all = 0;

    ended = 0;
    allow(0);
    OK(vdisk_submit(q));
    for (unsigned i = 0; i < IOS; i++)
        start(q, i, i);
    for (unsigned i = 0; i < ARRAY_LEN(parts) && queue_has_ring(q); i++) {
        all = parts[i] < IOS - all ? all + parts[i] : IOS;
        allow(all - ended);
        while (ended < all)
            if (!queue_turn(q) && ended < all) {
                int rc = ring_sleep(q, 1, IOS, NULL, false);
                assert_true(rc == 0 || rc == -ETIME);
            }
    }
    allow(UINT_MAX);
    finish(q);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_any_wait),
        cmocka_unit_test(by_the_descriptor),
        cmocka_unit_test(some_at_a_time),
    };
    pthread_t library;
    int failed;

    task_list_init(&asked);
    backend = backend_alloc(&driver, "foreign", sizeof *backend);
    atomic_store(&backend->size, 1 << 20);
    if (pthread_create(&library, NULL, library_main, NULL) != 0)
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    pthread_mutex_lock(&lock);
    stop = true;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
    pthread_join(library, NULL);
    backend_close(backend);
    return failed;
}
