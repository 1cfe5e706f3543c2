/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The work that queues share: what one of them starts and others wait for (the lead of a flush, a new table,
 * giving freed space back) must not wait for the one's owner to call the library. It goes on a queue beside the
 * owner's, a plain ring, which anybody could turn. As long as a volume has seen one queue only, that queue's
 * owner does, with his own; when a second comes to one of the volumes that it serves, a thread does from then
 * on.
 *
 * Invariants.
 *  1. Who turns the queue holds `turn`: the owner for a moment, the thread for as long as it lives.
 *  2. A service lives as long as its owner, or a volume that has it.
 *  3. As long as there is no thread, completions and posts write the owner's eventfd.
 *  4. A poster looks at `threaded` after it has put its task there; the thread looks for tasks after `threaded`
 *     was set, and before it sleeps.
 *  5. Work comes here from the owner, or when there is a thread: where none can be had, and the owner is gone or
 *     sleeps, nobody would turn it for others.
 *  6. Who may wait for work here that is the owner's, where no thread could be had, asks for one again in each of
 *     its own waits, until there is one.
 */
#ifndef ENGINE_SERVICE_H
#define ENGINE_SERVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "engine/loop/op.h"

struct service {
    pthread_mutex_t                turn;
    vdisk_queue                   *queue;
    _Atomic(const vdisk_queue *)   owner;    /* NULL: gone */
    pthread_mutex_t                start;    /* of the thread, by several volumes */
    _Atomic bool                   begun;    /* there is a thread, which will turn it, */
    _Atomic bool                   threaded; /* and does */
    _Atomic bool                   stop;
    _Atomic unsigned               refs;
    _Atomic unsigned               busy;     /* ops under way */
    pthread_t                      thread;
};

/*
 * Where work of `v` that others may wait for goes, when it is begun on `q`: a queue that is turned whatever q's
 * owner does. `q` itself when it is such a queue, or when there is no memory or descriptor for another.
 * Context: q's thread.
 */
vdisk_queue *service_queue(vdisk *v, vdisk_queue *q);

/* A request of `v` has come on `q`, which is not the only one that it has seen. Context: q's thread. */
void service_meet(vdisk *v, vdisk_queue *q);

/*
 * For a queue that needs the thread of a service that could have none (`wants`): is something under way there that
 * it may wait for? Ask for the threads again; `timeout`, or so long as to do so in time. And: the queue goes.
 * Context: the queue's thread, outside the loop.
 */
bool service_is_wanted(const vdisk_queue *q);
const struct timespec *service_ask_again(vdisk_queue *q, const struct timespec *timeout);
void service_want_none(vdisk_queue *q);

/* The volume goes: nothing is in flight. */
void service_leave(vdisk *v);

/* The owner goes, with nothing in flight; or its eventfd is another one. Context: the owner's thread. */
void service_owner_goes(vdisk_queue *owner);
void service_owner_moved(struct service *s);

/* The owner's ring has stopped with `rc`: what he turns beside it stops as well. Context: the owner's thread. */
void service_ring_stops(struct service *s, int rc);

/* Run what is ready, if it is the owner's to do: after his own. True: it ran something. */
bool service_turn(struct service *s, vdisk_queue *owner);

/* Count an op that lives on `q`, if that is a service, in and out. */
void service_begin(vdisk_queue *q);
void service_end(vdisk_queue *q);

#endif
