/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * engine/service: two threads with a queue and a request each, whose work is done where neither has to turn it.
 * The first to come does it beside his own queue; the second begins the thread that does it from then on. Each
 * sleeps as an event loop does, and destroys his queue when his request has ended; the last lets go of it.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/loop/service.h"
#include "engine/volume.h"
#include "tests/interleave/common.h"
#include "tests/interleave/wrap.h"

enum { THREADS = 2 };

/* What a request waits for. */
struct work {
    struct op       op;
    struct request *request;
};

/* Ends its request, on the request's queue. */
struct hearer {
    struct op       op;
    struct request *request;
};

static struct {
    vdisk         v;
    struct layer  layer;
    vdisk_queue  *queue[THREADS];
    struct hearer hearer[THREADS];
    unsigned      users;
    bool          one_first; /* the second comes when the first has ended his request */
    bool          ended[THREADS];
} x;

enum hearer_state { HEARER_START = OP_START, HEARER_WOKEN };

static void hearer_step(struct op *op)
{
    request_end(container_of(op, struct hearer, op)->request, op->rc);
}

OP_TYPE(hearer, hearer_step, "START", "HEARER_WOKEN");

enum work_state { WORK_START = OP_START, WORK_HALF_DONE };

/* Takes two turns, as an I/O would. */
static void work_step(struct op *op)
{
    struct work *w = container_of(op, struct work, op);
    struct request *r = w->request;

    OP_BEGIN(enum work_state, op)
    OP_AWAIT(op, WORK_HALF_DONE, op_wake(op, 0));
    op_free(op, sizeof *w);
    op_wake(&x.hearer[r->user_data].op, 0);
    return;
    OP_END
}

OP_TYPE(work, work_step, "START", "WORK_HALF_DONE");

static void service_submit(struct layer *layer, struct request *r)
{
    struct hearer *h = &x.hearer[r->user_data];
    struct work *w = op_alloc_for(service_queue(layer->volume, r->queue), r->queue, &work_type, sizeof *w);

    REQUIRE(w, "out of memory");
    op_init(&h->op, r->queue, &hearer_type);
    op_suspend(&h->op, HEARER_WOKEN);
    h->request = w->request = r;
    op_send(&w->op);
}

static const struct format_driver service_format = {.name = "service", .submit = service_submit};

static void setup(void)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 2, .kind = VDISK_QUEUE_THREADS};

    memset(&x, 0, sizeof x);
    x.v.top = &x.layer;
    x.layer.volume = &x.v;
    x.layer.format = &service_format;
    x.users = THREADS;
    REQUIRE(gate_init(&x.v.requests) == 0, "no gate");
    pthread_mutex_init(&x.v.service_lock, NULL);
    for (unsigned i = 0; i < THREADS; i++)
        REQUIRE(vdisk_queue_create(&opts, &x.queue[i]) == 0, "%s", vdisk_error_text());
    x.v.generation = process_generation;
    x.v.number = 1; /* as every open volume: none is known to a queue yet */
}

static void setup_one_first(void)
{
    setup();
    x.one_first = true;
}

static void setup_refused(void)
{
    setup();
    wrap_refuse_threads = 1;
}

static void finish(void)
{
    REQUIRE(!atomic_load(&x.v.service), "the volume still has a service");
    pthread_mutex_destroy(&x.v.service_lock);
    gate_finish(&x.v.requests);
}

static bool first_has_ended(void *arg)
{
    return x.ended[0];
}

static void thread(unsigned self)
{
    vdisk_queue *q = x.queue[self];
    struct vdisk_completion c;
    int fd = vdisk_queue_fd(q), n;

    if (x.one_first && self == 1)
        sched_wait("comes later", first_has_ended, NULL);
    vdisk_flush(q, &x.v, 0, self);
    REQUIRE(vdisk_submit(q) >= 0, "submitting fails: %s", vdisk_error_text());
    do {
        wrap_wait_readable("the event loop sleeps", fd);
        n = vdisk_reap(q, &c, 0, 1, NULL);
        REQUIRE(n >= 0 && (n == 0 || c.result == 0), "a request fails");
    } while (n == 0);
    x.ended[self] = true;
    vdisk_queue_destroy(q);
    if (--x.users == 0)
        service_leave(&x.v);
    thread_release();
}

const struct program service_two = {
    .name = "service",
    .text = "two queues of a volume share its service",
    .threads = THREADS,
    .quiet = "gate:",
    .preemptions = 2,
    .setup = setup,
    .thread = thread,
    .finish = finish,
};

const struct program service_later = {
    .name = "service_later",
    .text = "the same, the second comes when the first goes",
    .threads = THREADS,
    .quiet = "gate:",
    .setup = setup_one_first,
    .thread = thread,
    .finish = finish,
};

const struct program service_refused = {
    .name = "service_refused",
    .text = "the same as service, and the first thread cannot be had",
    .threads = THREADS,
    .quiet = "gate:",
    .setup = setup_refused,
    .thread = thread,
    .finish = finish,
};
