/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/watch.h"

#ifndef NDEBUG

#include <stdatomic.h>
#include <stdio.h>

#include "engine/loop/queue.h"

enum { QUEUES_MAX = 512, LOOSE_MAX = 128 }; /* more than that are not listed */

static _Atomic(vdisk_queue *) queues[QUEUES_MAX];
static _Atomic(struct op *) loose[LOOSE_MAX];

void watch_queue(vdisk_queue *q)
{
    list_init(&q->ops);
    for (unsigned i = 0; i < QUEUES_MAX; i++) {
        vdisk_queue *none = NULL;
        if (atomic_compare_exchange_strong_explicit(&queues[i], &none, q, memory_order_relaxed,
                                                    memory_order_relaxed))
            return;
    }
}

void watch_queue_gone(vdisk_queue *q)
{
    for (unsigned i = 0; i < QUEUES_MAX; i++)
        if (atomic_load_explicit(&queues[i], memory_order_relaxed) == q)
            atomic_store_explicit(&queues[i], NULL, memory_order_relaxed);
}

void watch_op(struct op *op)
{
    list_init(&op->listed);
    if (!op->loose) {
        list_add_tail(&op->queue->ops, &op->listed);
        return;
    }
    for (unsigned i = 0; i < LOOSE_MAX; i++) {
        struct op *none = NULL;
        if (atomic_compare_exchange_strong_explicit(&loose[i], &none, op, memory_order_relaxed,
                                                    memory_order_relaxed))
            return;
    }
}

void watch_op_gone(struct op *op)
{
    if (!op->loose) {
        list_del(&op->listed);
        return;
    }
    for (unsigned i = 0; i < LOOSE_MAX; i++)
        if (atomic_load_explicit(&loose[i], memory_order_relaxed) == op)
            atomic_store_explicit(&loose[i], NULL, memory_order_relaxed);
}

static void say_op(void (*say)(const char *line), const struct op *op)
{
    char line[200], waits[32] = "";

    if (op->waits > 0)
        snprintf(waits, sizeof waits, ", %u to come", op->waits);
    snprintf(line, sizeof line, "    %p %s: %s%s%s, rc %d", (const void *)op, op->type->name,
             op->state == OP_START ? "" : "awaits ", op->state == OP_START ? "begins" : op_state_name(op), waits,
             op->rc);
    say(line);
}

static void say_queue(void (*say)(const char *line), vdisk_queue *q)
{
    bool threaded = q->serves && atomic_load(&q->serves->threaded);
    char line[300];

    snprintf(line, sizeof line, "queue %u (%s%s%s): %u in flight, %u done, %u in the kernel, %u with workers%s"
                                "%s%s%s%s",
             q->id, vdisk_queue_kind_name(q->kind), q->serves ? ", a service" : "",
             threaded ? " with a thread" : "", q->inflight, q->done_count, q->kernel_inflight, q->worker_jobs,
             list_empty(&q->calls) ? "" : ", has calls",
             q->ready.head ? ", has steps" : "", atomic_load(&q->remote) ? ", has posts" : "",
             q->starved.head ? ", has I/O without an SQE" : "", q->in_loop ? ", in its loop" : "");
    say(line);
    for (struct list *n = q->ops.next; n != &q->ops; n = n->next)
        say_op(say, container_of(n, struct op, listed));
    for (unsigned i = 0; i < LOOSE_MAX; i++) {
        const struct op *op = atomic_load_explicit(&loose[i], memory_order_relaxed);
        if (op && op->queue == q)
            say_op(say, op);
    }
}

void watch_each(void (*say)(const char *line))
{
    for (unsigned i = 0; i < QUEUES_MAX; i++) {
        vdisk_queue *q = atomic_load_explicit(&queues[i], memory_order_relaxed);
        if (q)
            say_queue(say, q);
    }
}

#endif
