/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: hold writes until the turn, put them in order, hand each run of neighbours to the format as a chain.
 * Failure modes: none of its own; a full plug is released at once.
 */
#include "engine/plug.h"

#include <string.h>

#include "engine/loop/queue.h"
#include "engine/volume.h"

/* By number: where a volume lies in memory differs from run to run. */
static bool in_order(const struct request *a, const struct request *b)
{
    if (a->vdisk != b->vdisk)
        return a->vdisk->number < b->vdisk->number;
    return a->guest_offset <= b->guest_offset;
}

/* By insertion: there are few, and most come in order. Those of one offset stay in the order they came in. */
static void sort(struct request **list, unsigned count)
{
    assert(count <= PLUG_MAX);
    for (unsigned i = 1; i < count; i++) {
        struct request *r = list[i];
        unsigned at = i;
        for (; at > 0 && !in_order(list[at - 1], r); at--)
            list[at] = list[at - 1];
        list[at] = r;
    }
}

static bool goes_on(const struct request *last, const struct request *next)
{
    return next->vdisk == last->vdisk && next->flags == last->flags &&
           next->guest_offset == last->guest_offset + last->len;
}

/* Link the run that begins at list[0]; how many it has. */
static unsigned link_run(struct request **list, unsigned count)
{
    uint64_t len = list[0]->len, iovcnt = list[0]->iovcnt;
    unsigned n = 1;

    for (; n < count && goes_on(list[n - 1], list[n]); n++) {
        len += list[n]->len;
        iovcnt += list[n]->iovcnt;
        if (len > PLUG_MERGED_MAX || iovcnt > PLUG_MERGED_IOV)
            break;
        list[n - 1]->merged = list[n];
    }
    assert(n > 0 && n <= count);
    list[n - 1]->merged = NULL;
    return n;
}

static void release(struct plug *p)
{
    unsigned count = p->count;

    p->count = 0;
    sort(p->held, count);
    for (unsigned i = 0; i < count;) {
        struct request *first = p->held[i];
        assert(first->state == REQUEST_STARTED && first->kind == REQ_WRITE);
        i += link_run(p->held + i, count - i);
        first->vdisk->top->format->submit(first->vdisk->top, first);
        assert(p->count == 0); /* nothing comes while the list is walked */
    }
}

static void run_plug(struct task *t)
{
    release(container_of(t, struct plug, task));
}

void plug_add(struct request *r)
{
    struct plug *p = &r->queue->plug;

    assert(r->kind == REQ_WRITE && r->state == REQUEST_STARTED);
    assert(queue_is_mine(r->queue) && p->count <= PLUG_MAX);
    if (p->count == PLUG_MAX)
        release(p); /* its task is on its way and finds what comes now */
    else if (p->count == 0) {
        p->task.run = run_plug;
        queue_ready(r->queue, &p->task);
    }
    p->held[p->count++] = r;
}

bool plug_take(struct request *r)
{
    struct plug *p = &r->queue->plug;
    unsigned at = 0;

    while (at < p->count && p->held[at] != r)
        at++;
    if (at == p->count)
        return false;
    assert(queue_is_mine(r->queue) && task_list_has(&r->queue->ready, &p->task));
    p->count--;
    memmove(p->held + at, p->held + at + 1, (p->count - at) * sizeof p->held[0]);
    if (p->count == 0) /* else the next would put it there a second time */
        task_list_take(&r->queue->ready, &p->task);
    return true;
}
