/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: less is free than is needed to be in time: a wish is made, told, answered; the size is looked at,
 * and there is room. A request that was parked meanwhile begins anew.
 * Failure modes: the storage is as large as before: the answer counts as room, for there may be some that no size
 * tells of (a pool below has been extended), but it is not asked again at once. It is as large as it gets: what is
 * parked fails. No answer: what is parked waits, and tries again from time to time.
 */
#include "engine/loop/grower.h"

#include <errno.h>
#include <signal.h>

#include "engine/backend.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/base/short_lock.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

static _Thread_local const struct grower *served; /* whose thread this is; NULL: nobody's */
static _Thread_local const char line_name;        /* its address: of this thread's line */

static void tell_if_due(struct grower *g, bool *in_line);

static uint64_t now_ms(const struct grower *g)
{
    struct timespec t;

    clock_now(g->clock, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t size_of(const struct grower *g)
{
    return backend_size(g->v->top->file);
}

/* Not where the file becomes larger as it is written to: then there is room when who makes it says so. */
static bool size_tells(const struct grower *g)
{
    return !(g->v->top->file->caps & BACKEND_GROWS) || ENGINE_MUTANT(GROWTH_BELIEVED);
}

static bool is_larger(const struct grower *g, uint64_t size, uint64_t than)
{
    return size_tells(g) && size > than;
}

static uint64_t add_capped(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return add_u64(a, b, &sum) ? sum : UINT64_MAX;
}

/* ---- how fast it fills ----------------------------------------------------------------------------------- */

static void sample(struct grower *g, uint64_t at_ms)
{
    const struct grower_sample *last = &g->sample[(g->samples + GROWER_SAMPLES - 1) % GROWER_SAMPLES];

    assert_locked(&g->lock);
    if (g->samples > 0 && at_ms < last->at_ms + GROWER_SAMPLE_MS)
        return;
    g->sample[g->samples++ % GROWER_SAMPLES] = (struct grower_sample){at_ms, g->highest};
}

/* Bytes in a second. Of the time that the samples span, standstill does not count: stall_ends(). */
static uint64_t rate(const struct grower *g, uint64_t at_ms)
{
    uint64_t window = (uint64_t)GROWER_SAMPLES * GROWER_SAMPLE_MS, from = g->samples - 1, span, bytes;

    assert_locked(&g->lock);
    assert(g->samples > 0);
    while (from > 0 && g->samples - from < GROWER_SAMPLES &&
           g->sample[(from - 1) % GROWER_SAMPLES].at_ms + window >= at_ms)
        from--;
    span = at_ms - min_u64(at_ms, g->sample[from % GROWER_SAMPLES].at_ms);
    bytes = g->highest - min_u64(g->highest, g->sample[from % GROWER_SAMPLES].end);
    span = max_u64(span, GROWER_RATE_MS);
    return bytes > UINT64_MAX / 1000 ? UINT64_MAX / span : bytes * 1000 / span;
}

/* So much at that rate. */
static uint64_t in_time(uint64_t bytes_per_second, uint64_t ms)
{
    return bytes_per_second > UINT64_MAX / max_u64(ms, 1) ? UINT64_MAX : bytes_per_second * ms / 1000;
}

/* What found space while others waited has been sampled: the time up to the last of that is no standstill. */
static void stall_ends(struct grower *g, uint64_t at_ms)
{
    uint64_t from = max_u64(g->stalled_ms, g->sample[(g->samples - 1) % GROWER_SAMPLES].at_ms);

    assert_locked(&g->lock);
    assert(g->samples > 0);
    for (unsigned i = 0; i < GROWER_SAMPLES; i++)
        g->sample[i].at_ms += at_ms - min_u64(at_ms, ENGINE_MUTANT(STALL_OF_ALL) ? g->stalled_ms : from);
}

/* ---- wishes ---------------------------------------------------------------------------------------------- */

static uint64_t wish_number(const struct grower *g)
{
    assert_locked(&g->lock);
    return g->number << GROWER_WISH_BITS | (g->wishes & ((UINT64_C(1) << GROWER_WISH_BITS) - 1));
}

/* With the lock held: it is made no larger. */
static bool is_at_limit(const struct grower *g, uint64_t size)
{
    assert_locked(&g->lock);
    return (g->opts.limit > 0 && size >= g->opts.limit) || (g->is_final && !is_larger(g, size, g->final_size));
}

/* What should be free, so that more comes in time. */
static uint64_t needed_free(const struct grower *g, uint64_t at_ms)
{
    /* One extension that took for ever, an administrator's lunch, say, does not make all wishes huge. */
    uint64_t took_ms = ENGINE_MUTANT(TOOK_UNBOUNDED) ? g->took_ms : min_u64(g->took_ms, g->opts.ahead_ms);

    assert_locked(&g->lock);
    return max_u64(g->opts.least_free, in_time(rate(g, at_ms), 2 * took_ms));
}

static bool needs_more(const struct grower *g, uint64_t size, uint64_t at_ms)
{
    uint64_t left = size - min_u64(size, g->highest);

    assert_locked(&g->lock);
    return atomic_load(&g->on) && !g->changing && !g->open && !is_at_limit(g, size) &&
           (g->parked_count > 0 || g->refuses || (g->by_mark && left < needed_free(g, at_ms)));
}

static uint64_t size_to_ask_for(const struct grower *g, uint64_t size, uint64_t at_ms)
{
    uint64_t more = max_u64(g->opts.chunk, in_time(rate(g, at_ms), g->opts.ahead_ms)), wanted;
    uint64_t needs = add_capped(g->highest, add_capped(needed_free(g, at_ms), g->parked_bytes));

    assert_locked(&g->lock);
    wanted = max_u64(add_capped(size, more), g->by_mark ? needs : 0);
    more = wanted - size;
    if (more % g->opts.chunk > 0)
        more = add_capped(more, g->opts.chunk - more % g->opts.chunk);
    wanted = add_capped(size, more);
    return g->opts.limit > 0 ? min_u64(wanted, g->opts.limit) : wanted;
}

/* A place in a line of its own: of the grower's thread, or of one that waits while another is to tell. */
struct place {
    struct after after;
    struct grower *g;
};

static void tell_too(struct after *a)
{
    struct place *p = container_of(a, struct place, after);
    struct grower *g = p->g;

    mem_free(p);
    tell_if_due(g, NULL);
    grower_unref(g);
}

/* With the lock held: the thread that has it in its line may take a while. Out of memory: it waits for that. */
static void tell_here_too(struct grower *g)
{
    struct place *p = mem_calloc(1, sizeof *p);

    assert_locked(&g->lock);
    if (!p)
        return;
    p->after.run = tell_too;
    p->g = g;
    g->line_of = &line_name;
    atomic_fetch_add(&g->refs, 1);
    after_add_urgent(&p->after);
}

/* With the lock held: by this thread, when it has left the library. */
static void tell_later(struct grower *g)
{
    assert_locked(&g->lock);
    if (g->in_line) {
        if (g->line_of != &line_name && !ENGINE_MUTANT(TOLD_IN_ONE_LINE))
            tell_here_too(g);
        return;
    }
    g->in_line = true;
    g->line_of = &line_name;
    atomic_fetch_add(&g->refs, 1);
    after_add_urgent(&g->after);
}

/* With the lock held: have the open wish told, or the thread look at what has changed. */
static void rouse(struct grower *g)
{
    assert_locked(&g->lock);
    if (!(g->opts.flags & VDISK_GROWER_NO_THREAD)) {
        pthread_cond_signal(&g->more);
    } else if (g->untold) {
        tell_later(g);
    }
}

/* Make a wish if there is need. */
static void consider(struct grower *g, uint64_t at_ms)
{
    uint64_t size = size_of(g);

    assert_locked(&g->lock);
    if (!needs_more(g, size, at_ms))
        return;
    if (at_ms >= g->pause_ms || (g->parked_may_ask && (g->parked_count > 0 || g->refuses))) {
        g->wishes++;
        g->open = g->untold = true;
        g->asked_ms = at_ms;
        g->asked_size = size;
        g->asked_end = g->highest;
        g->wanted = size_to_ask_for(g, size, at_ms);
    }
    rouse(g);
}

void grower_note(struct grower *g, uint64_t highest)
{
    uint64_t at_ms;

    if (!atomic_load_explicit(&g->on, memory_order_relaxed))
        return;
    at_ms = now_ms(g);
    pthread_mutex_lock(&g->lock);
    g->highest = max_u64(g->highest, highest);
    sample(g, at_ms);
    if (g->by_mark)
        consider(g, at_ms);
    pthread_mutex_unlock(&g->lock);
}

/* ---- room ------------------------------------------------------------------------------------------------ */

/* With the lock held: all that is parked goes on, in the order it came in. */
static void release(struct grower *g, int result, uint64_t at_ms)
{
    struct request *r;

    assert_locked(&g->lock);
    if (g->parked_count > 0)
        stall_ends(g, at_ms);
    while ((r = g->parked)) {
        g->parked = r->next;
        r->result = result;
        g->parked_count--;
        queue_post(r->queue, &r->io.task); /* whoever calls may own the queue, and sleep next */
    }
    assert(g->parked_count == 0);
    g->parked_tail = &g->parked;
    g->parked_bytes = 0;
}

/* With the lock held: room has come all the same, by another answer or by none. What waits for more may ask. */
static void forget_pause(struct grower *g, uint64_t size, int result)
{
    assert_locked(&g->lock);
    if (ENGINE_MUTANT(PAUSE_OUTLIVES))
        return;
    if (is_larger(g, size, g->seen))
        g->pause_ms = 0;
    if (result == 0 && g->opts.flags & VDISK_GROWER_NO_THREAD)
        g->parked_may_ask = true;
}

static void room(struct grower *g, uint64_t size, uint64_t at_ms)
{
    assert_locked(&g->lock);
    g->rooms++;
    g->seen = max_u64(g->seen, size);
    release(g, 0, at_ms);
}

/* How large it is now. */
static uint64_t refresh(struct grower *g)
{
    struct backend *file = g->v->top->file;

    if (file->driver->refresh)
        file->driver->refresh(file); /* what it does not know now it does not tell */
    return backend_size(file);
}

/* With the lock held: it may have been cut. What it gets back is room, and what was final is not any more. */
static void fall(struct grower *g)
{
    uint64_t size = size_of(g);

    assert_locked(&g->lock);
    if (!size_tells(g) || ENGINE_MUTANT(GROWER_PEAKS))
        return;
    g->seen = min_u64(g->seen, size);
    g->final_size = min_u64(g->final_size, size);
}

/* `again`: what is parked tries again in any case. */
static void look(struct grower *g, bool again)
{
    uint64_t size = refresh(g), at_ms = now_ms(g);

    pthread_mutex_lock(&g->lock);
    fall(g);
    forget_pause(g, size, -EAGAIN);
    if (is_larger(g, size, g->seen) || (again && g->parked_count > 0))
        room(g, size, at_ms);
    if (g->by_mark || g->parked_count > 0)
        consider(g, at_ms);
    pthread_mutex_unlock(&g->lock);
}

void grower_look(struct grower *g)
{
    look(g, false);
}

/* With the lock held: the open wish has its answer. */
static void close_wish(struct grower *g, int result, uint64_t size, uint64_t at_ms)
{
    bool larger = is_larger(g, size, g->asked_size);

    assert_locked(&g->lock);
    g->open = g->untold = false;
    g->wanted = 0;
    g->pause_ms = larger || ENGINE_MUTANT(IDLE_UNPAUSED) ? 0 : at_ms + g->opts.retry_ms;
    /* Without a thread nobody would look when the pause is over: who says that there is room is believed, once. */
    g->parked_may_ask = result == 0 && g->opts.flags & VDISK_GROWER_NO_THREAD;
    if (larger)
        g->took_ms = at_ms - min_u64(at_ms, g->asked_ms);
    if (result == -ENOSPC && !larger) {
        g->is_final = true;
        g->final_size = size;
        release(g, -ENOSPC, at_ms);
    }
}

void grower_answer(struct grower *g, uint64_t wish, int result)
{
    uint64_t size = refresh(g), at_ms = now_ms(g);

    assert(result <= 0);
    pthread_mutex_lock(&g->lock);
    if (!atomic_load(&g->on)) {
        pthread_mutex_unlock(&g->lock);
        return;
    }
    fall(g);
    if (g->open && wish == wish_number(g))
        close_wish(g, result, size, at_ms);
    else
        forget_pause(g, size, result);
    if (result == 0)
        g->is_final = g->is_final && size_tells(g);
    if (is_larger(g, size, g->seen) || result == 0)
        room(g, size, at_ms);
    consider(g, at_ms);
    rouse(g);
    pthread_mutex_unlock(&g->lock);
}

/* ---- parked requests ---------------------------------------------------------------------------------------- */

/* It takes no space, is part of a change of the whole, or was to be taken back. */
static bool may_not_park(const struct request *r)
{
    return (r->flags & REQUEST_UNWANTED && !ENGINE_MUTANT(UNWANTED_PARKED)) ||
           (r->kind != REQ_WRITE && r->kind != REQ_ZERO && r->kind != REQ_DISCARD) ||
           atomic_load(&r->vdisk->manager) == r->queue;
}

/* It would wait, or could, in a place where the wish is not told or answered before it has ended. */
static bool cannot_wait(const struct grower *g, const struct request *r)
{
    assert_locked(&g->lock);
    if (g->opts.flags & VDISK_GROWER_NO_THREAD && (r->queue->always_turned || after_is_running()))
        return true;
    return grower_is_within(g);
}

/* With the lock held: what becomes of it. */
static enum park_result judge(const struct grower *g, const struct request *r, uint64_t size)
{
    assert_locked(&g->lock);
    if (!atomic_load(&g->on))
        return PARK_REFUSED;
    if ((r->flags & REQUEST_UNPARKED ? r->rooms : 0) != (uint32_t)g->rooms && !ENGINE_MUTANT(PARK_MISSES_ROOM))
        return PARK_AGAIN; /* invariant 2 */
    return cannot_wait(g, r) || is_at_limit(g, size) ? PARK_REFUSED : PARK_DONE;
}

/* That there was no more to be had is some time ago. */
static void forget_final(struct grower *g, uint64_t at_ms)
{
    assert_locked(&g->lock);
    if (g->opts.flags & VDISK_GROWER_ASKED_AGAIN && at_ms >= g->pause_ms && !ENGINE_MUTANT(FINAL_FOR_EVER))
        g->is_final = false;
}

/* Out of the gate, into the list: invariant 1. */
static void put_in(struct grower *g, struct request *r, uint64_t at_ms)
{
    vdisk *v = g->v;

    assert_locked(&g->lock);
    if (g->parked_count == 0)
        g->stalled_ms = at_ms;
    if (g->parked_count++ == 0 || ENGINE_MUTANT(RETRY_PUT_OFF))
        g->retry_ms = at_ms + g->opts.retry_ms;
    g->parked_bytes = add_capped(g->parked_bytes, r->kind == REQ_WRITE ? r->len : 0);
    r->next = NULL;
    *g->parked_tail = r;
    g->parked_tail = &r->next;
    r->error = failure_now;
    if (ENGINE_MUTANT(PARK_IN_GATE))
        return;
    volume_count_out(v);
    gate_leave_slot(&v->requests, r->pair->slot, r->gate);
}

/* With the lock held: what cannot wait fails. There is a wish all the same, for those that come after it. */
static void ask_afterwards(struct grower *g, uint64_t at_ms)
{
    assert_locked(&g->lock);
    if (grower_is_within(g) || ENGINE_MUTANT(REFUSED_UNASKED)) /* who is asked knows */
        return;
    g->refuses = true;
    consider(g, at_ms);
    g->refuses = false;
}

enum park_result grower_park(struct request *r)
{
    struct grower *g = atomic_load(&r->vdisk->grower);
    enum park_result result;
    uint64_t at_ms;

    assert(r->state == REQUEST_STARTED && r->queue->in_loop);
    if (!g || !atomic_load(&g->on) || may_not_park(r))
        return PARK_REFUSED;
    grower_look(g);
    at_ms = now_ms(g);
    pthread_mutex_lock(&g->lock);
    forget_final(g, at_ms);
    result = judge(g, r, size_of(g));
    if (result == PARK_AGAIN) {
        r->rooms = (uint32_t)g->rooms;
        r->flags |= REQUEST_UNPARKED;
    } else if (result == PARK_DONE) {
        put_in(g, r, at_ms);
        consider(g, at_ms);
        rouse(g); /* the thread looks again from now on */
    } else {
        ask_afterwards(g, at_ms);
    }
    pthread_mutex_unlock(&g->lock);
    return result;
}

void grower_unpark(struct request *r)
{
    struct grower *g = atomic_load(&r->vdisk->grower);
    vdisk *v = r->vdisk;

    if (!ENGINE_MUTANT(PARK_IN_GATE)) {
        r->gate = gate_enter_slot(&v->requests, r->pair->slot);
        volume_count_in(v);
    }
    pthread_mutex_lock(&g->lock);
    r->rooms = (uint32_t)g->rooms;
    pthread_mutex_unlock(&g->lock);
    r->flags |= REQUEST_UNPARKED;
}

bool grower_give_up(struct request *r)
{
    struct grower *g = atomic_load(&r->vdisk->grower);
    struct request **at;
    bool found = false;

    if (!g)
        return false;
    pthread_mutex_lock(&g->lock);
    for (at = &g->parked; *at && *at != r; at = &(*at)->next)
        ;
    found = *at == r;
    if (found) {
        *at = r->next;
        if (!r->next)
            g->parked_tail = at;
        g->parked_count--;
        g->parked_bytes -= min_u64(g->parked_bytes, r->kind == REQ_WRITE ? r->len : 0);
        if (g->parked_count == 0)
            stall_ends(g, now_ms(g));
    }
    pthread_mutex_unlock(&g->lock);
    if (found) {
        r->result = -ECANCELED;
        r->error = 0;
        queue_ready(r->queue, &r->io.task);
    }
    return found;
}

/* ---- who is asked ------------------------------------------------------------------------------------------- */

static void tell(struct grower *g)
{
    struct vdisk_wish wish = {.size = sizeof wish};
    void (*fn)(void);
    bool due;
    void *arg;

    if (!hook_enter(&g->hook, &fn, &arg))
        return;
    pthread_mutex_lock(&g->lock);
    due = g->untold;
    g->untold = false;
    wish.number = wish_number(g);
    wish.storage = g->asked_size;
    wish.allocated_end = min_u64(g->asked_end, g->asked_size);
    wish.wanted = g->wanted;
    wish.bytes_per_second = rate(g, now_ms(g));
    wish.parked = g->parked_count;
    pthread_mutex_unlock(&g->lock);
    if (due)
        ((vdisk_grow_fn *)fn)(arg, g->v, &wish);
    hook_leave(&g->hook);
}

/* In a line, of which `in_line` says so, or NULL. */
static void tell_if_due(struct grower *g, bool *in_line)
{
    bool due;

    pthread_mutex_lock(&g->lock);
    if (in_line)
        *in_line = false;
    if (g->line_of == &line_name)
        g->line_of = NULL;
    due = g->opts.flags & VDISK_GROWER_NO_THREAD || /* else another has been set since, whose thread tells */
          ENGINE_MUTANT(TOLD_IN_OLD_LINE);
    pthread_mutex_unlock(&g->lock);
    if (due)
        tell(g);
}

static void tell_after(struct after *a)
{
    struct grower *g = container_of(a, struct grower, after);

    tell_if_due(g, &g->in_line);
    grower_unref(g);
}

/* With the signals of who set it: a command that is run from there inherits what is blocked. */
static void tell_here(struct after *a)
{
    struct grower *g = container_of(a, struct place, after)->g;
    sigset_t ours;

    pthread_sigmask(ENGINE_MUTANT(TOLD_ALL_BLOCKED) ? SIG_BLOCK : SIG_SETMASK, &g->signals, &ours);
    tell(g);
    pthread_sigmask(SIG_SETMASK, &ours, NULL);
}

/* With the lock held: sleep till there is something to do, or to look at. True: to look at. */
static bool sleep_on(struct grower *g)
{
    uint64_t at_ms = now_ms(g), until;
    struct timespec t;

    assert_locked(&g->lock);
    if (needs_more(g, size_of(g), at_ms))
        until = max_u64(g->pause_ms, at_ms + 1);
    else if (g->parked_count > 0)
        until = g->retry_ms; /* others may have made room, by a discard, say */
    else
        return pthread_cond_wait(&g->more, &g->lock) != 0;
    t = (struct timespec){(time_t)(until / 1000), (long)(until % 1000) * 1000000};
    return pthread_cond_timedwait(&g->more, &g->lock, &t) == ETIMEDOUT;
}

bool grower_is_within(const struct grower *g)
{
    return served == g || hook_is_mine(&g->hook);
}

void grower_serve(struct grower *g)
{
    struct place place = {{.run = tell_here}, g};
    bool looks;

    assert(!served);
    served = g;
    pthread_mutex_lock(&g->lock);
    while (!g->stop) {
        looks = !g->untold && sleep_on(g);
        if (!g->untold && !looks)
            continue;
        if (!looks && !(ENGINE_MUTANT(TOLD_IN_OLD_LINE) && g->in_line))
            after_add(&place.after);
        pthread_mutex_unlock(&g->lock);
        if (looks)
            look(g, true);
        after_run(); /* that, and what has been found here for others */
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
}

/* ---- its life ----------------------------------------------------------------------------------------------- */

struct grower *grower_new(vdisk *v, const struct clock *clock)
{
    struct grower *g = mem_calloc(1, sizeof *g);
    pthread_condattr_t attr;

    if (!g)
        return NULL;
    g->v = v;
    g->clock = clock;
    g->number = v->number;
    g->after.run = tell_after;
    list_init(&g->node);
    hook_init(&g->hook);
    pthread_mutex_init(&g->set, NULL);
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->more, &attr);
    pthread_condattr_destroy(&attr);
    g->parked_tail = &g->parked;
    atomic_init(&g->refs, 1);
    return g;
}

void grower_unref(struct grower *g)
{
    if (!g || atomic_fetch_sub(&g->refs, 1) > 1)
        return;
    assert(!atomic_load(&g->on) && g->parked_count == 0 && !g->has_thread && !g->in_line);
    hook_finish(&g->hook);
    pthread_cond_destroy(&g->more);
    pthread_mutex_destroy(&g->lock);
    pthread_mutex_destroy(&g->set);
    mem_free(g);
}

void grower_change(struct grower *g)
{
    pthread_mutex_lock(&g->lock);
    g->changing = true;
    g->open = g->untold = false;
    g->wanted = 0;
    pthread_mutex_unlock(&g->lock);
}

void grower_start(struct grower *g, const struct vdisk_grower_opts *opts, uint64_t highest)
{
    struct layer *top = g->v->top;
    uint64_t size = refresh(g), at_ms = now_ms(g);

    assert(opts->chunk > 0 && opts->least_free > 0 && opts->ahead_ms > 0 && opts->retry_ms > 0);
    pthread_mutex_lock(&g->lock);
    g->opts = *opts;
    g->by_mark = top->mark.by_format && !(top->file->caps & BACKEND_GROWS);
    g->open = g->untold = g->is_final = g->stop = g->changing = false; /* what is parked for another stays */
    g->pause_ms = 0;
    g->parked_may_ask = false;
    g->seen = size;
    g->highest = max_u64(g->highest, highest);
    g->samples = 0;
    sample(g, at_ms);
    atomic_store(&g->on, true);
    if (g->parked_count > 0)
        room(g, size, at_ms); /* the limit may be another one */
    consider(g, at_ms);
    pthread_mutex_unlock(&g->lock);
}

void grower_stop(struct grower *g)
{
    pthread_mutex_lock(&g->lock);
    atomic_store(&g->on, false);
    g->open = g->untold = g->changing = false;
    g->wanted = 0;
    release(g, -ENOSPC, now_ms(g));
    pthread_mutex_unlock(&g->lock);
}

void grower_describe(struct grower *g, struct vdisk_watermark *ret)
{
    pthread_mutex_lock(&g->lock);
    if (atomic_load(&g->on)) {
        ret->wish = g->open ? wish_number(g) : 0;
        ret->wanted = g->wanted;
        ret->bytes_per_second = rate(g, now_ms(g));
        ret->parked = g->parked_count;
    }
    pthread_mutex_unlock(&g->lock);
}
