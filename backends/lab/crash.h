/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a power cut can leave: a backend around another that logs what is written, and from the log any legal crash
 * image.
 *
 *     crash_log_create(&log);
 *     crash_log_base(log, 0, child, queue);          what is on the disk to begin with
 *     crash_backend_create(log, 0, child, &b);       use b, close it, wrap the next handle, ...
 *     crash_walk_create(log, 512, &walk);
 *     do {
 *         if (crash_walk_is_rich(walk))
 *             for (i = 0; crash_walk_choose(walk, seed, i, 200); i++) {
 *                 crash_image_make(walk, &image);    one of the images that a cut here can leave
 *                 b = crash_image_open(image, 0, false);
 *                 ...
 *             }
 *     } while (crash_walk_next(walk, &event) > 0);
 *
 * What is legal. A disk keeps what had ended, without an error, before a flush of it was started that ended
 * without an error; and writes with IO_FUA once they have ended. Of all else that was started before the cut any
 * part may be there, in pieces of one unit (512 bytes, or what the device writes atomically); sizes change apart
 * from content; what was discarded reads as before or as zeros. Where two changes of the same place are there, and
 * one was started after the other had ended, that one wins. A write that failed may be there at any time later,
 * until something else that was written to the same place is durable.
 *
 * Several disks may share a log, an image and its external data file for instance: they crash together.
 */
#ifndef BACKENDS_CRASH_H
#define BACKENDS_CRASH_H

#include "engine/backend.h"

enum { CRASH_DISKS = 4 };

struct crash_log;
struct crash_walk;
struct crash_image;

/* ---- the log: any thread may add to it ------------------------------------------------------------------- */

/* 0 or -ENOMEM. */
int crash_log_create(struct crash_log **ret_log);

/* No backend that writes to it is open. NULL is allowed. */
void crash_log_destroy(struct crash_log *log);

/*
 * What `b` holds now is durable, and where the images of `disk` begin. Before anything is logged for it; reads all
 * of it through `queue`; blocks. 0, -ENOMEM, or of the read.
 */
int crash_log_base(struct crash_log *log, unsigned disk, struct backend *b, vdisk_queue *queue);

/*
 * It is a device that is going to be extended, up to `size`; what it gains has bytes `fill` before it is written.
 * So large it is in all images: its size is durable before what is there is used. After crash_log_base(). 0 or
 * -ENOMEM.
 */
int crash_log_extend(struct crash_log *log, unsigned disk, uint64_t size, uint8_t fill);

/*
 * Wrap `child`; it becomes the new backend's, to be closed with it. On failure (-ENOMEM) it stays the caller's.
 * One handle that writes per disk at a time. Out of memory for the log: the request fails with -ENOMEM.
 */
int crash_backend_create(struct crash_log *log, unsigned disk, struct backend *child,
                         struct backend **ret_backend);

/* A note of the caller's at this place of the log, for its own account of what must be there. 0 or -ENOMEM. */
int crash_mark(struct crash_log *log, uint32_t kind, uint64_t value);

/*
 * True: two changes of `disk` overlapped in place and in time, so that what they leave is not defined even without
 * a crash; the first two as text. Discards count if `discards`: where content may be lost anyway they do no harm.
 */
bool crash_log_overlap(struct crash_log *log, unsigned disk, bool discards, char *text, size_t size);

/* ---- walking along it: one thread, nothing is logged meanwhile ------------------------------------------- */

enum crash_event_kind { CRASH_BEGIN, CRASH_END, CRASH_MARK };

struct crash_event {
    enum crash_event_kind kind;
    /* BEGIN, END */
    unsigned    disk;
    enum io_kind io_kind;
    uint64_t    offset, len;
    const char *type, *state; /* the op that waits for it, and in which state; NULL: none */
    int         res;          /* END: 0 or -errno */
    /* MARK */
    uint32_t    mark;
    uint64_t    value;
};

/* At the start of the log. `unit`: bytes that are written whole or not at all, a power of two, 512 to 4096. */
int crash_walk_create(struct crash_log *log, uint32_t unit, struct crash_walk **ret_walk);
void crash_walk_destroy(struct crash_walk *w);

/* Pass one event. 1; or 0: there was none left; or -ENOMEM: the walk is of no more use. No image of it exists. */
int crash_walk_next(struct crash_walk *w, struct crash_event *ret_event);

/*
 * The next event makes something durable, or there is none: what can be left by a cut here contains all that a cut
 * since the last such place could leave.
 */
bool crash_walk_is_rich(const struct crash_walk *w);

/* Number of the next event, for messages and to find the place again. */
uint64_t crash_walk_position(const struct crash_walk *w);

/*
 * Decide what survives a cut here: the nth of at most `max` ways, all different. All there are, where that is not
 * more than `max`; else some, those that tend to be nasty first: nothing, all, all but one change, only one, one
 * kind of change without the others, parts torn. The same numbers, n from 0 up, give the same choices. False: no
 * nth way (or out of memory).
 */
bool crash_walk_choose(struct crash_walk *w, uint64_t seed, unsigned n, unsigned max);

/* How many pieces may or may not survive here. */
size_t crash_walk_pieces(struct crash_walk *w);

/* What was chosen, for a message: which changes were pending, and what survived of each. */
void crash_walk_describe(struct crash_walk *w, char *text, size_t size);

/* ---- images ------------------------------------------------------------------------------------------------ */

/* What crash_walk_choose() chose; it changes only through its own handles. 0 or -ENOMEM. */
int crash_image_make(struct crash_walk *w, struct crash_image **ret_image);

/* All handles are closed. NULL is allowed. */
void crash_image_destroy(struct crash_image *image);

/* A handle on one disk of it, with the properties of the backend that was logged. NULL: out of memory. */
struct backend *crash_image_open(struct crash_image *image, unsigned disk, bool read_only);

uint64_t crash_image_size(const struct crash_image *image, unsigned disk);
void crash_image_read(const struct crash_image *image, unsigned disk, uint64_t offset, void *buf, uint64_t len);

#endif
