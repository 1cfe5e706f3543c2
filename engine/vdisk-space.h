/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk on storage that is extended while it is used: how far a volume's file is in use, and who makes it
 * larger. <vdisk.h> includes this.
 */
#ifndef VDISK_SPACE_H
#define VDISK_SPACE_H

#include <vdisk.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the watermark ----------------------------------------------------------------------------------- */

/*
 * The watermark: a host offset in the file of the volume itself (not in an external data file, nor in a backing
 * file). When something there is taken into use behind `threshold`, VDISK_EVENT_WATERMARK tells it, once; so a
 * block device can be extended before it is full. With qcow2 that is when clusters are taken, from whatever queue,
 * which is before they are written to; they are taken ahead of need, on storage that cannot grow up to a sixteenth
 * of what is left at a time. With raw it is when a write or zero is enqueued. What is behind it when it is set is
 * told by this call, on its end. 0: no watermark. The first call for a qcow2 volume blocks: it reads the refcounts
 * that lie last. Any thread. Errors: -EACCES when read-only, -EINVAL, -ECHILD; or of the I/O.
 */
VDISK_API int vdisk_set_watermark(vdisk *v, uint64_t threshold);

struct vdisk_watermark {
    size_t   size;      /* set by the caller: sizeof(struct vdisk_watermark) */
    uint64_t threshold; /* as set; 0: none */
    uint64_t highest;   /* how far the file has been in use: qcow2: the end of the last cluster. Raw: of what was
                         * written since it was opened, rounded up to 1 MiB at most. Does not fall */
    bool     passed;    /* it has been told, and will not be told again before it is set anew */
    uint64_t storage;   /* the size of the file or device now, as far as it has been looked at */
    /* Of the grower; 0 without one: */
    uint64_t wish;      /* the number of the one that has not been answered; 0: none */
    uint64_t wanted;    /* by that */
    uint64_t bytes_per_second; /* what has been taken into use of late */
    uint64_t parked;    /* requests that wait for room */
};

/* Fill `ret_mark`. Blocks as vdisk_set_watermark(), same errors. Any thread. */
VDISK_API int vdisk_get_watermark(vdisk *v, struct vdisk_watermark *ret_mark);

/* ---- the grower -------------------------------------------------------------------------------------- */

/*
 * What a volume asks its grower for. `number` names the wish in vdisk_grown(): no two of a process have the same.
 */
struct vdisk_wish {
    size_t   size;             /* sizeof(struct vdisk_wish): of what the library knows */
    uint64_t number;
    uint64_t storage;          /* the size of the file or device now */
    uint64_t allocated_end;    /* of it that is in use: as vdisk_watermark.highest */
    uint64_t wanted;           /* the size that is asked for: more does no harm; less, down to one chunk more than
                                * there is, helps too, and is asked for again */
    uint64_t bytes_per_second; /* what has been taken into use of late */
    uint64_t parked;           /* requests that wait for room already; 0: it is in time, or what has found no
                                * space could not wait (VDISK_GROWER_NO_THREAD) */
};

/*
 * Called when `v` needs more room; one wish at a time. It answers by vdisk_grown(), from here or any time
 * later, from any thread. On a thread of the library's own, which has nothing else to do for `v`: so it may
 * take its time, and run a command, say; requests go on meanwhile. The signals that are blocked there are those
 * that were in the call that has set it. With VDISK_GROWER_NO_THREAD as a
 * vdisk_event_fn is: on the thread that has found it, as its last deed before a call of the library returns,
 * or on a thread of the library that serves the volume: there it must be quick, such as to start the work and
 * return to an event loop. Such calls are vdisk_grown() and vdisk_get_info(), too: who makes them with a lock
 * of its own held must not take that one here. A vdisk_reap() that waits returns early for that, as when it is
 * woken; synchronous calls do not wait for room then, nor what is waited for within any callback of the
 * library. No lock is held: it may call the library, but for vdisk_close() and vdisk_set_grower() of `v`
 * (-EDEADLK), and wait for nothing that other threads do in calls of it. Event callbacks for what such calls
 * bring about run on the same thread afterwards: the same holds for them. What finds no space on that thread,
 * or in such a call, is not parked: -ENOSPC. Of a synchronous call that has failed so it is told, too.
 */
typedef void vdisk_grow_fn(void *arg, vdisk *v, const struct vdisk_wish *wish);

enum vdisk_grower_flags {
    VDISK_GROWER_NO_THREAD = 1u << 0, /* see vdisk_grow_fn */
    /* -ENOSPC is an answer for retry_ms: what finds no space after that is parked, and it is asked again. */
    VDISK_GROWER_ASKED_AGAIN = 1u << 1,
};

struct vdisk_grower_opts {
    size_t   size;      /* sizeof(struct vdisk_grower_opts) */
    uint32_t flags;     /* enum vdisk_grower_flags */
    uint32_t retry_ms;  /* after an answer that made no room it is asked again no sooner, unless more has come
                         * since; 0: 2000 */
    uint64_t chunk;     /* storage grows by multiples of it, one at least; 0: 2560 MiB */
    uint64_t least_free; /* with less than that free behind what is in use, more is asked for; 0: 4/5 of a chunk */
    uint64_t limit;     /* it grows no further: at that size there is -ENOSPC. 0: none */
    uint32_t ahead_ms;  /* what is asked for lasts so long at the present rate, or is one chunk; 0: 10000 */
};

/*
 * Have `fn` called from now on when the volume needs room, in place of the one before; NULL: nobody, as at first.
 *
 * In time: with qcow2 on storage that does not grow by being written to (a block device) it is asked when less is
 * free than `least_free`, or than is taken at the present rate in twice the time that the last extension took, or
 * in twice `ahead_ms` if that is shorter.
 * At the end: a write, zero or discard that finds no space, on whatever storage, is parked: it is not failed,
 * holds nothing that others wait for, and begins anew when there is room, checked as one that comes then; and
 * every retry_ms, since others may have made some, by a discard, say (not with VDISK_GROWER_NO_THREAD, nor while
 * the thread is in a call). Reads, writes to what has its place, flushes, and requests that find space go on. A
 * parked request counts as being in flight: synchronous calls wait, and vdisk_close() is -EBUSY. It ends with
 * -ENOSPC when the limit is reached, when a wish is answered so, or by this call with NULL; and with -ECANCELED by
 * vdisk_cancel(); or, where that found it on its way (-EALREADY), with -ENOSPC if there is no room even
 * now. After all of these its range is undefined, as after any write that failed. What is part of a change of the
 * whole (vdisk_resize()) fails at once, as without a grower.
 * With raw a request past the end of the device is -EINVAL as ever: the volume is no larger; parked is what the
 * storage has no space for all the same (thin provisioning below, a full file system). Whether storage can become
 * larger at all is not looked at, but for a part of a file that was opened with a size of its own: that cannot.
 *
 * Of `opts` (NULL: all as by default) a copy is kept. When this returns, and when vdisk_close() does, the one
 * before is not called any more, on any thread: both wait for a call of it that is on. Its open wish is dropped;
 * what is parked waits for the new one. Blocks as vdisk_set_watermark() does. Any thread, but not within a call of
 * a grower of `v`, nor in an event callback on its thread (-EDEADLK). Errors: -EACCES when read-only; -ENOTSUP: an
 * external data file has the data, or a format that takes space as it goes (qcow2) is in such a part; -EINVAL,
 * -ECHILD, -ENOMEM; -EAGAIN: no thread can be had, and nobody is called; or of the I/O.
 */
VDISK_API int vdisk_set_grower(vdisk *v, vdisk_grow_fn *fn, void *arg, const struct vdisk_grower_opts *opts);

/*
 * Answer the wish of that number. 0: there is room now; the size is looked at here, requests that are parked try
 * again, and what is still missing is a new wish; where the storage is no larger than before, after retry_ms, or
 * with VDISK_GROWER_NO_THREAD by the next request that finds no space even now, over and over: who has made none
 * answers with another error. -ENOSPC: this is as far as it goes, not even one chunk more can be had: what is
 * parked fails, and until the storage is larger all the same (a file that grows as it is written to: until an
 * answer of 0, its size tells nothing), so does at once what finds no space; or until it is asked again
 * (VDISK_GROWER_ASKED_AGAIN). Any other error: not now; what is parked waits on, and the grower is asked again
 * after retry_ms; with VDISK_GROWER_NO_THREAD, by the next request that finds no space then, so that who means to
 * try again answers later, or once more. An answer to a wish that is not open any more (answered, dropped, its
 * volume is closed) does no harm: 0 has the size looked at, where the volume has a grower still.
 * Any thread; does not wait for requests. Errors: -EINVAL: result > 0; -ENOENT: there is no volume with a grower
 * that could have had this wish; -ECHILD.
 */
VDISK_API int vdisk_grown(uint64_t wish, int result);

#ifdef __cplusplus
}
#endif
#endif
