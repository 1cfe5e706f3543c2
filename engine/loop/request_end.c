/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: counted, out of the volume's gate, handed in. A FUA request that was carried out without it is a
 * flush first.
 * Failure modes: none; an error finds its words. What has found no space is parked where somebody makes room
 * (grower.h), and begins anew.
 */
#include "engine/loop/request_end.h"

#include <errno.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/clock.h"
#include "engine/base/mutant.h"
#include "engine/loop/failure.h"
#include "engine/loop/grower.h"

uint64_t request_now_ns(const vdisk_queue *q)
{
    struct timespec t;

    clock_now(q->host ? q->host->clock : NULL, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What few requests have: an error, a time to be noted. */
void request_count_more(struct request *r, int result)
{
    struct pair *p = r->pair;

    assert(result < 0 || (result == 0 && p->latency));
    if (p->latency)
        latency_note(p->latency, r->asked, request_now_ns(r->queue) - r->begun_ns);
    if (result < 0) {
        stat_add(&p->stats.kind[r->asked].errors, 1);
        r->error = request_explain(r, result);
    }
}

/* Part of a resize, which works on what is behind the end. */
static bool may_go_behind(const vdisk *v, const struct request *r, uint64_t end)
{
    return atomic_load_explicit(&v->resizer, memory_order_acquire) == r->queue &&
           end <= atomic_load_explicit(&v->top->reach, memory_order_relaxed);
}

/* Before it is refused its device is looked at, which may have been extended: follow.c. */
static bool is_behind(const vdisk *v, uint64_t end)
{
    const struct layer *top = v->top;

    if (likely(end <= layer_size(top)))
        return false;
    if (top->format->size_by_file && !(top->file->caps & BACKEND_GROWS) && !ENGINE_MUTANT(END_UNSEEN))
        backend_reaches_past(top->file, end - 1);
    return end > layer_size(top);
}

int request_check(const struct request *r)
{
    const vdisk *v = r->vdisk;
    uint64_t end;

    if (!add_u64(r->guest_offset, r->len, &end))
        return -EINVAL;
    if (unlikely(is_behind(v, end)) && !may_go_behind(v, r, end))
        return -EINVAL;
    if (atomic_load(&v->refuses) & VOLUME_READ_ONLY && request_changes(r->kind))
        return -EACCES;
    return atomic_load(&v->refuses) & VOLUME_SHUT && atomic_load(&v->manager) != r->queue ? -EBUSY : 0;
}

/* As a whole: what it had written it writes again. In the gate. */
static void begin_anew(struct request *r)
{
    struct layer *top = r->vdisk->top;

    assert(!(r->kind == REQ_WRITE && r->merged));
    r->flags |= REQUEST_TRIED;
    r->error = 0;
    if (r->flags & VDISK_REQ_COMPRESSED)
        top->format->write_compressed(top, r);
    else
        top->format->submit(top, r);
}

static void run_unparked(struct task *t)
{
    struct request *r = container_of(t, struct request, io.task);

    grower_unpark(r);
    if (r->result == 0 && !ENGINE_MUTANT(ANEW_UNCHECKED)) { /* while it was out of the gate the volume changed */
        r->result = request_check(r);
        r->error = 0;
    }
    if (r->result == 0) {
        begin_anew(r);
        return;
    }
    failure_now = r->error;
    r->error = 0;
    request_end_now(r, r->asked, r->direct, r->result);
}

/* It has found no space. True: that is not its end. */
static bool is_parked(struct request *r)
{
    enum park_result result;

    r->io.task.run = run_unparked;
    result = grower_park(r);
    if (result == PARK_AGAIN)
        begin_anew(r);
    return result != PARK_REFUSED;
}

void request_end(struct request *r, int result)
{
    assert(r->state == REQUEST_STARTED && r->queue->in_loop);
    if (unlikely(result == -ENOSPC) && is_parked(r))
        return;
    if (unlikely(r->flags & VDISK_REQ_FUA) && result == 0 && r->kind != REQ_FLUSH) {
        r->flags &= (uint8_t)~VDISK_REQ_FUA;
        r->kind = REQ_FLUSH;
        r->vdisk->top->format->submit(r->vdisk->top, r);
        return;
    }
    request_end_now(r, r->asked, r->direct, result);
}

void request_end_merged(struct request *r, int result)
{
    while (r) {
        assert(r->asked == REQ_WRITE && (!r->merged || r->merged->vdisk == r->vdisk)); /* plug.h, invariant 2 */
        struct request *next = r->merged;
        r->merged = NULL;
        request_end(r, result);
        r = next;
    }
}

static void run_end(struct task *t)
{
    struct request *r = container_of(t, struct request, io.task);

    failure_now = r->error;
    r->error = 0;
    request_end(r, r->result);
}

void request_end_later(struct request *r, int result)
{
    assert(r->state == REQUEST_STARTED && result <= 0);
    r->result = result;
    r->error = result < 0 ? failure_now : 0;
    r->io.task.run = run_end;
    queue_ready(r->queue, &r->io.task);
}

void request_refuse(struct request *r, int result)
{
    while (r) {
        struct request *next = r->kind == REQ_WRITE ? r->merged : NULL;
        request_end_later(r, result);
        r = next;
    }
}
