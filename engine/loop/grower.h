/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who makes a volume's storage larger (vdisk-space.h), and the requests that wait for that.
 *
 * A request that has found no space ends as after any failure: its op gives back what it has taken, unlocks, frees
 * itself. Where it would be handed in with -ENOSPC (request_end.c), it is parked instead, and begins anew, as a
 * whole, when there is room. So nothing else knows of it, whatever it needed the space for.
 *
 * Invariants.
 *  1. What is parked is in the list, out of the volume's gate, counted in `outside`, and holds nothing. Who takes
 *     it off the list, with the lock held, sends it on, once.
 *  2. A request parks only when it has failed since room came last (`rooms`): else it tries again at once. So no
 *     room is missed, and at the limit none fails that would have fitted.
 *  3. One wish is open at a time, and nobody is called with a lock held.
 *  4. How large the storage is its backend knows; no answer is believed.
 *  5. The lock is taken below any of a format's; nothing is called with it held but what takes none, or posts.
 */
#ifndef ENGINE_GROWER_H
#define ENGINE_GROWER_H

#include <signal.h>

#include "engine/base/list.h"
#include "engine/loop/after.h"
#include "engine/vdisk.h"

struct clock;
struct request;

enum {
    GROWER_SAMPLES = 16,      /* of how much is in use, for the rate: */
    GROWER_SAMPLE_MS = 250,   /* so far apart at least */
    GROWER_RATE_MS = 100,     /* a rate is never that of a shorter time */
    GROWER_WISH_BITS = 24,    /* of a wish's number: which of the volume's; before them the volume's own */
};

struct grower_sample {
    uint64_t at_ms, end;
};

struct grower {
    vdisk           *v;          /* while it is open: who calls the hook's function has it */
    uint64_t         number;     /* the volume's */
    struct list      node;       /* of all: grower_life.c, with `pins` */
    unsigned         pins;
    const struct clock *clock;   /* of the simulation that it is made in; NULL: the kernel's. Fixed */
    struct after     after;      /* without a thread: it has a reference while it is in line */
    struct hook      hook;
    _Atomic unsigned refs;
    _Atomic bool     on;         /* there is a function: changed with the lock held */
    pthread_mutex_t  set;        /* one change at a time of who is called; and `has_thread` */
    bool             has_thread;
    pthread_t        thread;
    sigset_t         signals;    /* blocked where it was started, and in its function */

    pthread_mutex_t  lock;       /* all that follows */
    pthread_cond_t   more;       /* the thread has something to do. By CLOCK_MONOTONIC */
    bool             stop;
    struct vdisk_grower_opts opts; /* none is 0 but flags and limit */
    bool             by_mark;    /* it is asked in time, too */
    uint64_t         highest;    /* as was told last */
    struct grower_sample sample[GROWER_SAMPLES]; /* the newest at `samples` - 1, modulo */
    uint64_t         samples;
    uint64_t         wishes;     /* so far: the last one's number, within the volume */
    bool             open, untold, in_line;
    const char      *line_of;    /* the thread that has it in its line: the last of several, or NULL */
    bool             changing;   /* to another function: no wish is made */
    bool             refuses;    /* now: what has found no space, and cannot be parked */
    uint64_t         wanted;
    uint64_t         asked_ms, asked_size, asked_end; /* of the last wish */
    uint64_t         took_ms;    /* the last extension */
    uint64_t         pause_ms;   /* none is asked before */
    bool             parked_may_ask; /* but for what has parked since: it has tried once more */
    bool             is_final;   /* nobody makes it larger than `final_size` */
    uint64_t         final_size;
    uint64_t         rooms;      /* so often room has come */
    uint64_t         seen;       /* the largest size that is in `rooms`; falls with it, as `final_size` */
    struct request  *parked, **parked_tail; /* by request.next, in the order they came in */
    uint64_t         parked_count, parked_bytes;
    uint64_t         stalled_ms; /* since when some are */
    uint64_t         retry_ms;   /* then the thread looks whether there is room all the same */
};

/* NULL: out of memory. The caller's, as volume_free() of the volume is, which gives it back. */
struct grower *grower_new(vdisk *v, const struct clock *clock);
void grower_unref(struct grower *g); /* NULL is allowed */

/* Its open wish is dropped, and there is no other before grower_start() or grower_stop(). */
void grower_change(struct grower *g);

/* Begin to ask, by these rules: what there is to be asked is. And: nobody is asked, what is parked fails. */
void grower_start(struct grower *g, const struct vdisk_grower_opts *opts, uint64_t highest);
void grower_stop(struct grower *g);

/* A thread for its function: 0 or -errno. And: nobody is called any more; it waits for a call that is on. */
int grower_start_thread(struct grower *g);
void grower_silence(struct grower *g);

/*
 * It is the volume's, and answers find it from now on; returns which: another may have come first, and then this
 * one is still the caller's. By the volume's number; NULL: there is none, and *ret_of_parent tells whether it
 * was of the process that this one was forked from. It stays until grower_unpin().
 */
struct grower *grower_enlist(struct grower *g);
struct grower *grower_pin(uint64_t number, bool *ret_of_parent);
void grower_unpin(struct grower *g);

/* After fork(): there is none yet. */
void growers_in_child(void);

/* Is this thread within a call of it, or its own, where others are called too? Then it cannot wait for that. */
bool grower_is_within(const struct grower *g);
bool grower_is_mine(const vdisk *v); /* the volume's, if there is one */

/* The volume is being closed, with nothing in flight: nobody is called any more, and no answer finds it. */
void grower_close(vdisk *v);

/* Everything before the host offset `highest` is in use. Any thread; takes the lock. */
void grower_note(struct grower *g, uint64_t highest);

/* Look at the size; what has come is room. Any thread; no lock held. */
void grower_look(struct grower *g);

/* vdisk_grown(). Any thread; no lock held. */
void grower_answer(struct grower *g, uint64_t wish, int result);

/* What the thread runs, until `stop`. */
void grower_serve(struct grower *g);

void grower_describe(struct grower *g, struct vdisk_watermark *ret);

enum park_result { PARK_REFUSED, PARK_AGAIN, PARK_DONE };

/*
 * `r` has found no space, in its last attempt: room.h of the format or the host says so. PARK_DONE: it waits, out
 * of the gate; its io.task is posted to its queue, with 0 or an error in its result, and whoever runs that calls
 * grower_unpark(). PARK_AGAIN: room has come since. Context: the loop of its queue, no lock held.
 */
enum park_result grower_park(struct request *r);
void grower_unpark(struct request *r);

/* It is parked, and waits no more: it goes on with -ECANCELED. False: it is not. Context: its queue's thread. */
bool grower_give_up(struct request *r);

#endif
