/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A backend over sockets (tests/lib/socket_backend.h), on each kind of queue, with peers of each kind. */
#include <pthread.h>

#include "engine/loop/queue.h"
#include "tests/lib/rng.h"
#include "tests/lib/socket_backend.h"
#include "tests/unit/backend_test.h"

enum { SIZE = 1 << 20, PART = 64 << 10, IOS = 8, ROUNDS = 40, SOON_MS = 50, NEVER_MS = 60000 };

static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};
static struct socket_server *server;

static int setup(void **state)
{
    server = socket_server_start(SIZE);
    return 0;
}

static int teardown(void **state)
{
    socket_server_stop(server);
    return 0;
}

/* NULL: not in this kernel. */
static vdisk_queue *queue_of(enum vdisk_queue_kind kind)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};
    vdisk_queue *q;

    return vdisk_queue_create(&opts, &q) < 0 ? NULL : q;
}

static struct backend *backend_with(unsigned timeout_ms, bool blocking)
{
    struct backend *b;

    assert_int_equal(socket_backend_create(server, timeout_ms, blocking, &b), 0);
    return b;
}

struct waited {
    struct io io;
    bool      done;
};

static void set_done(struct io *io)
{
    container_of(io, struct waited, io)->done = true;
}

static void start(struct waited *w, vdisk_queue *q)
{
    w->done = false;
    w->io.queue = q;
    w->io.op = NULL;
    w->io.done = set_done;
    io_start(&w->io);
}

/* Some I/Os at once, each in a part of its own, against what each part is known to hold. */
static void random_ios(vdisk_queue *q, struct backend *b, unsigned seed, uint64_t base)
{
    static _Thread_local uint8_t known[IOS * PART], data[IOS * PART];
    struct rng rng;
    struct waited ios[IOS];

    rng_init(&rng, seed);
    memset(known, 0, sizeof known);
    for (unsigned i = 0; i < IOS; i++)
        OK(io_pwrite(q, b, known + i * PART, PART, base + i * PART));
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < IOS; i++) {
            uint64_t at = i * PART + rng_below(&rng, PART / 2), len = 1 + rng_below(&rng, PART / 2);
            bool write = rng_below(&rng, 2);
            if (write)
                fill_pattern(known + at, at, len, round);
            memcpy(data + at, known + at, write ? len : 0);
            io_rw(&ios[i].io, b, write ? IO_WRITE : IO_READ, base + at, data + at, len);
            start(&ios[i], q);
        }
        for (unsigned i = 0; i < IOS; i++) {
            const struct io *io = &ios[i].io;
            queue_run_until(q, &ios[i].done);
            assert_int_equal(io->res, 0);
            assert_memory_equal(data + (io->offset - base), known + (io->offset - base), io->len);
        }
    }
}

static void each_kind(void (*run)(vdisk_queue *q, bool blocking))
{
    for (unsigned k = 0; k < 2 * ARRAY_LEN(kinds); k++) {
        vdisk_queue *q = queue_of(kinds[k / 2]);
        if (!q)
            continue;
        run(q, k % 2);
        OK(vdisk_queue_destroy(q));
        socket_server_set(server, SERVER_GOOD);
    }
}

static void good(vdisk_queue *q, bool blocking)
{
    struct backend *b = backend_with(NEVER_MS, blocking);
    unsigned before = socket_server_connections(server);

    random_ios(q, b, 1, 0);
    assert_int_equal(socket_server_connections(server), before + 1);
    backend_close(b);
}

static void all_is_well(void **state)
{
    each_kind(good);
}

static void pieces(vdisk_queue *q, bool blocking)
{
    struct backend *b = backend_with(NEVER_MS, blocking);
    char got[PART], want[PART];

    fill_pattern(want, 0, sizeof want, 3);
    socket_server_set(server, SERVER_PIECES);
    OK(io_pwrite(q, b, want, sizeof want, 100));
    OK(io_pread(q, b, got, sizeof got, 100));
    assert_memory_equal(got, want, sizeof got);
    backend_close(b);
}

static void short_reads(void **state)
{
    each_kind(pieces);
}

/* It fails, and the next is made on a new connection. */
static void fails_with(vdisk_queue *q, bool blocking, enum server_habit habit, unsigned timeout_ms)
{
    struct backend *b = backend_with(NEVER_MS, blocking);
    char buf[512] = {0};
    unsigned before;

    socket_server_set(server, SERVER_GOOD);
    OK(io_pread(q, b, buf, sizeof buf, 0));
    socket_server_set(server, habit);
    socket_backend_set_timeout(b, timeout_ms);
    assert_int_equal(io_pread(q, b, buf, sizeof buf, 0), -EIO);
    before = socket_server_connections(server);
    assert_int_equal(io_pwrite(q, b, buf, sizeof buf, 0), -EIO);
    assert_int_equal(socket_server_connections(server), before + 1);
    socket_server_set(server, SERVER_GOOD);
    socket_backend_set_timeout(b, NEVER_MS); /* a good server on a busy machine takes its time */
    OK(io_pread(q, b, buf, sizeof buf, 0));
    backend_close(b);
}

static void closes(vdisk_queue *q, bool blocking)
{
    fails_with(q, blocking, SERVER_CLOSES, NEVER_MS);
}

static void lies(vdisk_queue *q, bool blocking)
{
    fails_with(q, blocking, SERVER_LIES, NEVER_MS);
}

static void silent(vdisk_queue *q, bool blocking)
{
    fails_with(q, blocking, SERVER_SILENT, SOON_MS);
}

static void peer_closes(void **state)
{
    each_kind(closes);
}

static void sum_is_wrong(void **state)
{
    each_kind(lies);
}

static void reply_does_not_come(void **state)
{
    each_kind(silent);
}

/* The kernel refuses the ring while a receive waits: it fails, or comes in time; the queue goes on. */
static void ring_goes(vdisk_queue *q, bool blocking)
{
    struct backend *b = backend_with(2000, blocking);
    struct waited w;
    char buf[512];

    if (queue_has_ring(q)) {
        OK(io_pread(q, b, buf, sizeof buf, 0));
        socket_server_set(server, SERVER_PIECES);
        io_rw(&w.io, b, IO_READ, 0, buf, sizeof buf);
        start(&w, q);
        OK(queue_submit(q));
        while (!w.done && list_empty(&q->calls))
            queue_turn(q);
        ring_stop(q, -EPERM);
        queue_run_until(q, &w.done);
        assert_true(w.io.res == 0 || w.io.res == -EIO);
        random_ios(q, b, 2, 0);
    }
    backend_close(b);
}

static void ring_stops(void **state)
{
    each_kind(ring_goes);
}

static struct backend *shared;

static void *own_queue(void *arg)
{
    vdisk_queue *q = test_queue(*(enum vdisk_queue_kind *)arg);

    random_ios(q, shared, 7, *(enum vdisk_queue_kind *)arg == VDISK_QUEUE_THREADS ? IOS * PART : 0);
    OK(vdisk_queue_destroy(q));
    return NULL;
}

/* Each queue has a connection of its own. */
static void two_queues(void **state)
{
    enum vdisk_queue_kind kind[] = {VDISK_QUEUE_AUTO, VDISK_QUEUE_THREADS};
    unsigned before = socket_server_connections(server);
    pthread_t thread[2];

    shared = backend_with(NEVER_MS, false);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, own_queue, &kind[i]), 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(socket_server_connections(server), before + 2);
    backend_close(shared);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_well),         cmocka_unit_test(short_reads), cmocka_unit_test(peer_closes),
        cmocka_unit_test(sum_is_wrong),        cmocka_unit_test(ring_stops),  cmocka_unit_test(two_queues),
        cmocka_unit_test(reply_does_not_come),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
