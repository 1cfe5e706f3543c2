/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device is extended or cut while it is open, a file is cut by another program: the volume follows, if its
 * format leaves it to the file how large it is, and who listens is told.
 *
 * Happy path: a backend finds that its end has moved (it looks when a read comes short, when something is to be
 * refused, when vdisk_get_info() asks), its filters pass that on, the volume has the new size.
 * Failure modes: none. While the volume is being resized it does not follow, but when that is over.
 *
 * Invariants.
 *  1. The reach of the top stays behind what has been cut: requests that were let in before look up what they did,
 *     and get what the file says, not the zeros of a shorter layer.
 *  2. Layers below the first do not follow, for the same reason.
 */
#include "engine/follow.h"

#include "engine/backend.h"
#include "engine/base/mutant.h"
#include "engine/base/short_lock.h"
#include "engine/volume.h"

static void take_size(vdisk *v)
{
    struct layer *top = v->top;
    uint64_t size = top->format->size_by_file(top), old = atomic_load(&top->size);

    assert_locked(&v->follow.lock);
    assert(is_aligned(size, 512));
    if (size == old)
        return;
    if (size > atomic_load(&top->reach))
        atomic_store_explicit(&top->reach, size, memory_order_release); /* before anybody asks for what is there */
    atomic_store_explicit(&top->size, size, memory_order_release);
    events_raise(v->events, VDISK_EVENT_SIZE);
}

static void file_moved(void *owner)
{
    vdisk *v = owner;

    pthread_mutex_lock(&v->follow.lock);
    if (v->follow.held && !ENGINE_MUTANT(FOLLOW_UNHELD))
        v->follow.missed = true;
    else
        take_size(v);
    pthread_mutex_unlock(&v->follow.lock);
}

void follow_begin(vdisk *v)
{
    if (v->top->format->size_by_file)
        backend_own(v->top->file, file_moved, v);
}

void follow_hold(vdisk *v)
{
    pthread_mutex_lock(&v->follow.lock);
    assert(!v->follow.held);
    v->follow.held = true;
    v->follow.missed = false;
    pthread_mutex_unlock(&v->follow.lock);
}

void follow_done(vdisk *v)
{
    pthread_mutex_lock(&v->follow.lock);
    assert(v->follow.held);
    v->follow.missed = false;
    pthread_mutex_unlock(&v->follow.lock);
}

void follow_release(vdisk *v)
{
    pthread_mutex_lock(&v->follow.lock);
    assert(v->follow.held);
    v->follow.held = false;
    if (v->follow.missed)
        take_size(v);
    pthread_mutex_unlock(&v->follow.lock);
}
