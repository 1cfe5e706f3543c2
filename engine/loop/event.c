/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/event.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/loop/after.h"
#include "engine/loop/grower.h"
#include "engine/volume.h"

_Static_assert(VDISK_EVENT_WATERMARK < 32, "a bit of `pending` for each kind");

/* It outlives its volume while it waits to be told. */
struct volume_events {
    struct after     after;
    struct hook      hook;
    vdisk           *v;       /* to be used within the hook only: events_close() waits for that */
    _Atomic uint32_t pending; /* bits, by kind. From 0 to something: who does that puts it in line */
    _Atomic unsigned refs;
};

static void unref(struct volume_events *e)
{
    assert(atomic_load(&e->refs) > 0);
    if (atomic_fetch_sub(&e->refs, 1) > 1)
        return;
    assert(atomic_load(&e->pending) == 0); /* else it would be in line, with a reference */
    hook_finish(&e->hook);
    mem_free(e);
}

static struct vdisk_event describe(vdisk *v, enum vdisk_event_kind kind)
{
    struct vdisk_event event = {.kind = kind, .text = ""};

    if (kind == VDISK_EVENT_SIZE)
        event.value = atomic_load_explicit(&v->top->size, memory_order_acquire);
    if (kind == VDISK_EVENT_CORRUPT)
        event.text = v->top->trouble;
    if (kind == VDISK_EVENT_WATERMARK) {
        pthread_mutex_lock(&v->top->mark.lock);
        event.value = v->top->mark.highest;
        pthread_mutex_unlock(&v->top->mark.lock);
    }
    return event;
}

static void tell(struct after *a)
{
    struct volume_events *e = container_of(a, struct volume_events, after);
    uint32_t pending = atomic_exchange(&e->pending, 0);
    void (*fn)(void);
    void *arg;

    assert(pending != 0);
    for (unsigned kind = 0; pending >> kind; kind++) {
        if (!(pending >> kind & 1) || !hook_enter(&e->hook, &fn, &arg))
            continue;
        struct vdisk_event event = describe(e->v, (enum vdisk_event_kind)kind);
        ((vdisk_event_fn *)fn)(arg, e->v, &event);
        hook_leave(&e->hook);
    }
    unref(e);
}

struct volume_events *events_new(vdisk *v)
{
    struct volume_events *e = mem_calloc(1, sizeof *e);

    if (!e)
        return NULL;
    e->after.run = tell;
    e->v = v;
    atomic_init(&e->refs, 1);
    hook_init(&e->hook);
    return e;
}

void events_close(struct volume_events *e)
{
    if (!e)
        return;
    hook_set(&e->hook, NULL, NULL);
    unref(e);
}

void events_raise(struct volume_events *e, enum vdisk_event_kind kind)
{
    assert(kind >= VDISK_EVENT_SIZE && kind <= VDISK_EVENT_WATERMARK);
    if (atomic_fetch_or(&e->pending, UINT32_C(1) << kind) != 0)
        return;
    atomic_fetch_add(&e->refs, 1);
    after_add(&e->after);
}

void events_listen(struct volume_events *e, vdisk_event_fn *fn, void *arg)
{
    hook_set(&e->hook, (void (*)(void))fn, arg);
}

bool events_is_mine(const struct volume_events *e)
{
    return hook_is_mine(&e->hook);
}

void layer_note_end(struct layer *layer, uint64_t end)
{
    struct volume_mark *m = &layer->mark;
    struct grower *grower;
    bool passes;

    pthread_mutex_lock(&m->lock);
    m->highest = max_u64(m->highest, end);
    passes = m->threshold > 0 && !m->passed && m->highest > m->threshold;
    m->passed |= passes;
    assert(!m->passed || (m->threshold > 0 && m->highest > m->threshold));
    if (!m->by_format) {
        uint64_t above = align_up(m->highest, MARK_STEP);
        if (m->threshold > 0 && !m->passed)
            above = min_u64(above, m->threshold);
        atomic_store(&m->above, above);
    }
    pthread_mutex_unlock(&m->lock);
    if (passes)
        events_raise(layer->volume->events, VDISK_EVENT_WATERMARK);
    grower = atomic_load_explicit(&layer->volume->grower, memory_order_acquire);
    if (grower)
        grower_note(grower, end);
}
