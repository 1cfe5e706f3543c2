/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue of the kernel's kinds. Its owner has two requests in flight, which two others end, each by waking an op;
 * it sleeps as an event loop does, or in the ring, takes what has ended one at a time, and destroys the queue as
 * soon as it has both. It must not sleep for ever, and nobody may touch the queue when it is gone.
 *
 * One that gathers: it has as many I/Os with a library as it takes for that. A share of them ends on the library's
 * thread, which ends the last of them when the other post has been seen; no time passes meanwhile.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/volume.h"
#include "tests/interleave/common.h"
#include "tests/interleave/wrap.h"

enum { THREADS = 3, REQUESTS = THREADS - 1 };

/* Ends its request when it is woken. */
struct late {
    struct op       op;
    struct request *request;
};

static struct {
    vdisk        v;
    struct layer layer;
    vdisk_queue *queue;
    struct late  late[REQUESTS];
    unsigned     started, ended;
} x;

enum late_state { LATE_START = OP_START, LATE_WOKEN };

static void late_step(struct op *op)
{
    struct late *l = container_of(op, struct late, op);

    request_end(l->request, op->rc);
}

OP_TYPE(late, late_step, "START", "LATE_WOKEN");

static void late_submit(struct layer *layer, struct request *r)
{
    struct late *l = &x.late[x.started];

    op_init(&l->op, r->queue, &late_type);
    op_suspend(&l->op, LATE_WOKEN);
    l->request = r;
    x.started++;
}

static const struct format_driver late_format = {.name = "late", .submit = late_submit};

static void setup_kind(enum vdisk_queue_kind kind)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = REQUESTS, .kind = kind};

    memset(&x, 0, sizeof x);
    x.v.top = &x.layer;
    x.layer.volume = &x.v;
    x.layer.format = &late_format;
    REQUIRE(gate_init(&x.v.requests) == 0, "no gate");
    REQUIRE(vdisk_queue_create(&opts, &x.queue) == 0, "%s", vdisk_error_text());
}

static void setup_threads(void)
{
    setup_kind(VDISK_QUEUE_THREADS);
}

static void setup_ring(void)
{
    setup_kind(VDISK_QUEUE_URING_DEFER);
}

static void finish(void)
{
    gate_finish(&x.v.requests);
}

static void begin(void)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        vdisk_flush(x.queue, &x.v, 0, i);
}

static void take(unsigned min)
{
    struct vdisk_completion c;
    int n = vdisk_reap(x.queue, &c, min, 1, NULL);

    REQUIRE(n >= 0, "reaping fails: %s", vdisk_error_text());
    REQUIRE(n == 0 || c.result == 0, "a request fails: %d", (int)c.result);
    x.ended += (unsigned)n;
}

static void end(void)
{
    REQUIRE(vdisk_queue_inflight(x.queue) == 0, "%u in flight", vdisk_queue_inflight(x.queue));
    vdisk_queue_destroy(x.queue);
}

/* As vdisk.h tells an event loop to do, with a budget of one. */
static void event_loop(void)
{
    int fd = vdisk_queue_fd(x.queue);

    REQUIRE(fd >= 0, "no descriptor: %s", vdisk_error_text());
    begin();
    REQUIRE(vdisk_submit(x.queue) >= 0, "submitting fails: %s", vdisk_error_text());
    while (x.ended < REQUESTS) {
        wrap_wait_readable("the event loop sleeps", fd);
        take(0);
    }
    end();
}

static void sleeper(void)
{
    begin();
    while (x.ended < REQUESTS)
        take(1);
    end();
}

static bool has_started(void *arg)
{
    const struct late *l = arg;

    return x.started > l - x.late;
}

static void wake(unsigned i)
{
    sched_wait("waits for its request", has_started, &x.late[i]);
    op_wake(&x.late[i].op, 0);
}

static void loop_thread(unsigned self)
{
    if (self == 0)
        event_loop();
    else
        wake(self - 1);
}

static void sleeper_thread(unsigned self)
{
    if (self == 0)
        sleeper();
    else
        wake(self - 1);
}

/* ---- ends that are gathered ------------------------------------------------------------------------------- */

enum { IOS = 16, SHARE = 4 };

static struct {
    struct io ios[IOS];
    struct op woken;
    unsigned  begun, ended;
    bool      op_ran;
} g;

static void io_has_ended(struct io *io)
{
    g.ended++;
}

static void woken_step(struct op *op)
{
    g.op_ran = true;
}

OP_TYPE(woken, woken_step, "START", "LATE_WOKEN");

static void setup_gather(void)
{
    memset(&g, 0, sizeof g);
    setup_kind(VDISK_QUEUE_URING_DEFER);
}

static void gatherer(void)
{
    vdisk_queue *q = x.queue;

    REQUIRE(vdisk_submit(q) >= 0, "submitting fails: %s", vdisk_error_text());
    op_init(&g.woken, q, &woken_type);
    op_suspend(&g.woken, LATE_WOKEN);
    for (unsigned i = 0; i < IOS; i++) {
        g.ios[i] = (struct io){.queue = q, .kind = IO_FLUSH, .done = io_has_ended};
        io_elsewhere(&g.ios[i]);
    }
    g.begun = 1;
    while (g.ended < SHARE || !g.op_ran) {
        queue_turn(q);
        if (g.ended < SHARE || !g.op_ran)
            ring_sleep(q, 1, IOS, NULL, false);
    }
    for (unsigned i = SHARE; i < IOS; i++)
        io_end_foreign(&g.ios[i], 0);
    while (g.ended < IOS)
        queue_turn(q);
    end();
}

static bool has_begun(void *arg)
{
    return g.begun > 0;
}

static bool has_run(void *arg)
{
    return g.op_ran;
}

static void gather_thread(unsigned self)
{
    if (self == 0) {
        gatherer();
        return;
    }
    sched_wait("waits until there is something", has_begun, NULL);
    if (self == 1) {
        op_wake(&g.woken, 0);
        return;
    }
    for (unsigned i = 0; i < SHARE; i++) {
        if (i == SHARE - 1)
            sched_wait("waits until the other post has been seen", has_run, NULL);
        io_end_foreign(&g.ios[i], 0);
    }
}

const struct program post_threads = {
    .name = "post_threads",
    .text = "an event loop with worker threads, two who post",
    .threads = 3,
    .setup = setup_threads,
    .thread = loop_thread,
    .finish = finish,
};

const struct program post_ring = {
    .name = "post_ring",
    .text = "an event loop with a ring, two who post",
    .threads = 3,
    .setup = setup_ring,
    .thread = loop_thread,
    .finish = finish,
};

const struct program post_sleep = {
    .name = "post_sleep",
    .text = "one who sleeps in the ring, two who post",
    .threads = 3,
    .setup = setup_ring,
    .thread = sleeper_thread,
    .finish = finish,
};

const struct program post_gather = {
    .name = "post_gather",
    .text = "one who gathers ends in the ring, a library that ends, one who posts",
    .threads = 3,
    .setup = setup_gather,
    .thread = gather_thread,
    .finish = finish,
};
