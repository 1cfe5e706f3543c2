/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A grower's thread, and how answers find it: by the volume's number.
 *
 * Happy path: it is listed when it is first set, found by who answers, and leaves the list when its volume goes.
 * Failure modes: no thread can be had.
 *
 * Invariants.
 *  1. An answer is for a number, not for a handle: it may come when the volume is closed, and finds none then.
 *  2. Those of the process that this one was forked from are in no list: no thread serves them here.
 *  3. Who has found a volume by a number has a pin on its grower; closing waits for those to go, and they wait for
 *     nothing.
 */
#include <signal.h>

#include "engine/base/bits.h"
#include "engine/loop/grower.h"
#include "engine/volume.h"

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unpinned = PTHREAD_COND_INITIALIZER;
static struct list all = {&all, &all};
static uint64_t last;      /* the highest number that has been listed */
static uint64_t of_parent; /* as `last` was when this process was forked off */

void growers_in_child(void)
{
    pthread_mutex_init(&all_lock, NULL); /* a thread of the parent may have held it, with the list half changed */
    pthread_cond_init(&unpinned, NULL);
    list_init(&all);
    of_parent = last;
}

/* ---- the thread ------------------------------------------------------------------------------------------ */

static void *serve(void *arg)
{
    grower_serve(arg);
    return NULL;
}

int grower_start_thread(struct grower *g)
{
    sigset_t set;
    int rc;

    assert(!g->has_thread);
    sigfillset(&set); /* the host program's signal handlers are not to run on our thread, but in its function */
    pthread_sigmask(SIG_SETMASK, &set, &g->signals);
    rc = pthread_create(&g->thread, NULL, serve, g);
    pthread_sigmask(SIG_SETMASK, &g->signals, NULL);
    g->has_thread = rc == 0;
    return -rc;
}

void grower_silence(struct grower *g)
{
    int rc;

    assert(!grower_is_within(g));
    hook_set(&g->hook, NULL, NULL);
    if (!g->has_thread)
        return;
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_broadcast(&g->more);
    pthread_mutex_unlock(&g->lock);
    rc = pthread_join(g->thread, NULL);
    assert(rc == 0);
    (void)rc;
    g->has_thread = false;
}

/* ---- answers --------------------------------------------------------------------------------------------- */

struct grower *grower_enlist(struct grower *g)
{
    struct grower *first;

    pthread_mutex_lock(&all_lock);
    first = atomic_load(&g->v->grower);
    if (!first) {
        first = g;
        last = max_u64(last, g->number);
        list_add_tail(&all, &g->node);
        atomic_store(&g->v->grower, g); /* listed: who sees it there may call it, and be answered */
    }
    pthread_mutex_unlock(&all_lock);
    return first;
}

struct grower *grower_pin(uint64_t number, bool *ret_of_parent)
{
    struct grower *found = NULL;

    *ret_of_parent = number <= of_parent;

    pthread_mutex_lock(&all_lock);
    for (struct list *n = all.next; n != &all && !found; n = n->next) {
        struct grower *g = container_of(n, struct grower, node);
        if (g->number == number)
            found = g;
    }
    if (found)
        found->pins++;
    pthread_mutex_unlock(&all_lock);
    return found;
}

void grower_unpin(struct grower *g)
{
    pthread_mutex_lock(&all_lock);
    assert(g->pins > 0);
    if (--g->pins == 0)
        pthread_cond_broadcast(&unpinned);
    pthread_mutex_unlock(&all_lock);
}

/* ---- with the volume ------------------------------------------------------------------------------------- */

bool grower_is_mine(const vdisk *v)
{
    struct grower *g = atomic_load(&v->grower);

    return g && grower_is_within(g);
}

void grower_close(vdisk *v)
{
    struct grower *g = atomic_load(&v->grower);

    if (!g)
        return;
    pthread_mutex_lock(&all_lock);
    list_del(&g->node);
    while (g->pins > 0)
        pthread_cond_wait(&unpinned, &all_lock);
    pthread_mutex_unlock(&all_lock);
    grower_silence(g);
    grower_stop(g);
}
