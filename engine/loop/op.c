/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/loop/failure.h"
#include "engine/loop/io.h"
#include "engine/loop/queue.h"
#include "engine/loop/watch.h"

/* The linker's: from the first to behind the last of what OP_TYPE() lists. */
extern const struct op_type *const __start_vdisk_op_types[] __attribute__((visibility("hidden")));
extern const struct op_type *const __stop_vdisk_op_types[] __attribute__((visibility("hidden")));

const struct op_type *const *op_types(unsigned *ret_count)
{
    *ret_count = (unsigned)(__stop_vdisk_op_types - __start_vdisk_op_types);
    return __start_vdisk_op_types;
}

enum op_seen op_seen_error(int rc)
{
    switch (rc) {
    case -EIO: return OP_SEEN_EIO;
    case -EDQUOT: /* is to be the same */
    case -ENOSPC: return OP_SEEN_ENOSPC;
    case -ENOMEM: return OP_SEEN_ENOMEM;
    default: return OP_SEEN_OTHER;
    }
}

static unsigned size_class(size_t size)
{
    unsigned class = 0;

    assert(size >= sizeof(struct op));
    while (((size_t)256 << class) < size)
        class++;
    assert(class < OP_POOL_CLASSES);
    return class;
}

void op_resume(struct op *op)
{
    assert(op->queue->in_loop && queue_is_mine(op->queue)); /* rule 4 */
    failure_now = op->failure; /* failure.h, invariant 1 */
    op->type->step(op);
}

static void run_step(struct task *t)
{
    struct op *op = container_of(t, struct op, task);

    op_resume(op);
}

struct op *op_of_task(struct task *t)
{
    return t->run == run_step ? container_of(t, struct op, task) : NULL;
}

void op_init(struct op *op, vdisk_queue *q, const struct op_type *type)
{
    memset(op, 0, sizeof *op);
    op->task.run = run_step;
    op->type = type;
    op->queue = q;
    list_init(&op->wait);
}

void *op_alloc_head(vdisk_queue *q, const struct op_type *type, size_t size, size_t head)
{
    unsigned class = size_class(size);
    struct op *op = q->op_pool[class];

    assert(head >= sizeof *op && head <= size);
    if (op)
        q->op_pool[class] = op->task.next ? container_of(op->task.next, struct op, task) : NULL;
    else
        op = mem_alloc((size_t)256 << class);
    if (!op)
        return NULL;
    memset(op, 0, head);
    op_init(op, q, type);
    q->ops_active++;
    watch_op(op);
    return op;
}

void *op_alloc(vdisk_queue *q, const struct op_type *type, size_t size)
{
    return op_alloc_head(q, type, size, size);
}

void *op_alloc_for(vdisk_queue *target, vdisk_queue *here, const struct op_type *type, size_t size)
{
    struct op *op;

    if (target == here)
        return op_alloc(here, type, size);
    op = mem_calloc(1, size);
    if (!op)
        return NULL;
    assert(!target->host && !here->host); /* in a simulation the two are one */
    op_init(op, target, type);
    op->loose = true;
    watch_op(op);
    service_begin(target);
    return op;
}

void op_free(struct op *op, size_t size)
{
    vdisk_queue *q = op->queue;
    unsigned class = size_class(size);

    assert(list_empty(&op->wait) && op->waits == 0);
    watch_op_gone(op);
    if (op->loose) {
        service_end(q);
        mem_free(op);
        return;
    }
    assert(q->ops_active > 0);
    q->ops_active--;
    op->task.next = q->op_pool[class] ? &q->op_pool[class]->task : NULL;
    q->op_pool[class] = op;
}

void op_end(struct op *op, size_t size, int rc)
{
    struct op *parent = op->parent;
    struct request *request = op->request;
    void (*end_request)(struct request *, int) = op->end_request;

    assert(rc <= 0 && (!parent || !request));
    assert(!request || end_request);
    op_free(op, size);
    if (parent)
        op_wake(parent, rc);
    if (request)
        end_request(request, rc);
}

void op_send(struct op *op)
{
    assert(op->state == OP_START);
    if (queue_current == op->queue)
        op->type->step(op);
    else if (queue_is_mine(op->queue))
        queue_ready(op->queue, &op->task);
    else
        queue_post(op->queue, &op->task);
}

void op_start_later(struct op *op)
{
    assert(op->state == OP_START);
    queue_ready(op->queue, &op->task);
}

void op_note_error(struct op *op, int rc)
{
    assert(rc < 0);
    if (op->rc != 0)
        return;
    op->rc = rc;
    op->failure = failure_now;
}

static void op_io_done(struct io *io)
{
    struct op *op = io->op;

    assert(op->waits > 0);
    if (io->res < 0)
        op_note_error(op, io->res);
    if (--op->waits == 0)
        op_resume(op);
}

void op_io_begin(struct op *op)
{
    assert(op->waits == 0);
    /* One more than there are, so that the last to be added is not the last to be waited for. */
    op->waits = 1;
}

void op_io_prepare(struct op *op, struct io *io)
{
    assert(op->waits > 0);
    op->waits++;
    io->op = op;
    io->queue = op->queue;
    io->done = op_io_done;
}

void op_io_add(struct op *op, struct io *io)
{
    op_io_prepare(op, io);
    io_start(io);
}

void op_io_wait(struct op *op)
{
    assert(op->waits > 0);
    if (--op->waits == 0)
        queue_ready(op->queue, &op->task);
}

/* Not of a filter's I/O, which has the op for its names only. */
static bool waits_for(const struct op *op, const struct io *io)
{
    return io->op == op && io->done == op_io_done;
}

bool op_take_back(struct op *op)
{
    struct list *all = &op->queue->in_kernel, *next;
    unsigned unsent = 0;

    assert(queue_is_mine(op->queue) && !op->queue->in_loop);
    for (struct list *n = all->next; n != all; n = n->next) {
        const struct io *io = container_of(n, struct io, in_kernel);
        unsent += waits_for(op, io) && ring_is_unsent(io);
    }
    assert(unsent <= op->waits);
    if (op->rc < 0 || unsent == 0 || unsent != op->waits)
        return false;
    for (struct list *n = all->next; n != all; n = next) {
        struct io *io = container_of(n, struct io, in_kernel);
        next = n->next;
        if (waits_for(op, io))
            io_take_back(io);
    }
    return true;
}

void op_io(struct op *op, struct io *io)
{
    op_io_begin(op);
    op_io_add(op, io);
    op_io_wait(op);
}

/* One of several has ended. */
static void child_step(struct op *op)
{
    struct op *parent = op->parent;

    assert(parent->waits > 0 && op->queue == parent->queue);
    if (op->rc < 0)
        op_note_error(parent, op->rc);
    if (--parent->waits == 0)
        op_resume(parent);
}

OP_TYPE(child, child_step, "CHILD");

struct op *op_child_add(struct op *op, struct op_child *child)
{
    assert(op->waits > 0);
    op->waits++;
    op_init(&child->op, op->queue, &child_type);
    child->op.parent = op;
    return &child->op;
}
