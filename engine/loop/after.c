/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/after.h"

#include <assert.h>

#include "engine/base/error.h"

static _Thread_local struct after *first, **last;
static _Thread_local bool running;

static _Thread_local const struct hook *entered; /* at most one: what is found meanwhile waits */

void after_add(struct after *a)
{
    if (!first)
        last = &first;
    assert(a != first && last != &a->next && !*last); /* invariant 1 */
    a->next = NULL;
    *last = a;
    last = &a->next;
    err_state.is_due = true;
}

void after_add_urgent(struct after *a)
{
    after_add(a);
    if (!running)
        err_state.is_urgent = true;
}

bool after_is_due(void)
{
    return first && !running;
}

bool after_is_running(void)
{
    return running;
}

void after_run(void)
{
    struct err_saved saved;

    if (!after_is_due())
        return;
    assert(!entered && err_state.depth == 0);
    err_save(&saved);
    running = true;
    err_state.is_urgent = false;
    while (first) {
        struct after *a = first;
        first = a->next;
        if (!first)
            last = &first;
        a->run(a);
    }
    running = false;
    err_state.is_due = err_state.is_urgent = false;
    err_restore(&saved);
}

void hook_init(struct hook *h)
{
    *h = (struct hook){.lock = PTHREAD_MUTEX_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};
}

void hook_finish(struct hook *h)
{
    assert(h->inside == 0 && !hook_is_mine(h));
    pthread_cond_destroy(&h->left);
    pthread_mutex_destroy(&h->lock);
}

bool hook_is_mine(const struct hook *h)
{
    return entered == h;
}

void hook_set(struct hook *h, void (*fn)(void), void *arg)
{
    pthread_mutex_lock(&h->lock);
    h->fn = fn;
    h->arg = arg;
    while (h->inside > (hook_is_mine(h) ? 1u : 0u))
        pthread_cond_wait(&h->left, &h->lock);
    assert(h->inside == (hook_is_mine(h) ? 1u : 0u)); /* invariant 2 */
    pthread_mutex_unlock(&h->lock);
}

bool hook_enter(struct hook *h, void (**ret_fn)(void), void **ret_arg)
{
    bool is_set;

    assert(!entered);
    pthread_mutex_lock(&h->lock);
    is_set = h->fn != NULL;
    if (is_set) {
        *ret_fn = h->fn;
        *ret_arg = h->arg;
        h->inside++;
        entered = h;
    }
    pthread_mutex_unlock(&h->lock);
    return is_set;
}

void hook_leave(struct hook *h)
{
    assert(hook_is_mine(h));
    entered = NULL;
    pthread_mutex_lock(&h->lock);
    assert(h->inside > 0);
    h->inside--;
    pthread_cond_broadcast(&h->left);
    pthread_mutex_unlock(&h->lock);
}
