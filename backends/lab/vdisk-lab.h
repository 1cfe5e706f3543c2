/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A laboratory for programs that use libvdisk: disks in memory whose power can be cut and whose calls can fail, in
 * time that is not real, so that a test is exact and repeats from its seed.
 *
 * While a laboratory exists, the thread that made it names its disks "sim:NAME": vdisk_create() makes one,
 * vdisk_open() opens it, a header may name one as its backing file. Queues that the thread makes are the
 * laboratory's: nothing makes a system call, and time moves only when all of them wait. Everything of one
 * laboratory happens on that one thread. At most VDISK_LAB_DISKS disks; each open for writing once at a time.
 *
 *     vdisk_lab_create(NULL, &lab);
 *     vdisk_create("sim:disk", &create);
 *     vdisk_lab_arm(lab);                           what is there now is durable
 *     ... open, write, flush, vdisk_lab_mark(lab, n) whenever something has been promised, close ...
 *     vdisk_lab_cut_power(lab, 20, judge, &state, &crashes);
 *     vdisk_lab_destroy(lab);
 *
 * Functions that return int give 0 or a negative errno, with vdisk_error_text(), unless they say otherwise.
 */
#ifndef VDISK_LAB_H
#define VDISK_LAB_H

#include <vdisk.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { VDISK_LAB_DISKS = 4 };

typedef struct vdisk_lab vdisk_lab;

struct vdisk_lab_opts {
    size_t   size;        /* sizeof(struct vdisk_lab_opts) */
    uint64_t seed;        /* of latencies and the order in which requests end, and of the choice of crash images */
    uint64_t latency_ns;  /* of a call, about; 0: 100 us */
    uint32_t align;       /* of offsets, lengths and memory that the disks ask for: 1 to 4096; 0: 512 */
};

/* `opts` may be NULL. The thread is in no laboratory yet. */
VDISK_API int vdisk_lab_create(const struct vdisk_lab_opts *opts, vdisk_lab **ret_lab);

/* All volumes and queues of it are closed. NULL is allowed. */
VDISK_API void vdisk_lab_destroy(vdisk_lab *lab);

/* ---- calls that fail --------------------------------------------------------------------------------- */

enum vdisk_lab_calls {
    VDISK_LAB_READS   = 1u << 0,
    VDISK_LAB_WRITES  = 1u << 1, /* all that change something: writes, zeroes, discards, allocations, sizes */
    VDISK_LAB_FLUSHES = 1u << 2,
};

struct vdisk_lab_fault {
    size_t   size;  /* sizeof(struct vdisk_lab_fault) */
    uint32_t calls; /* enum vdisk_lab_calls; 0: all */
    uint64_t nth;   /* of these calls, counted from now on, over all disks; 0: every one */
    int      error; /* an errno; 0: EIO */
};

/* Calls to disks that are opened from here on fail by this rule and no earlier one. NULL: none fails. */
VDISK_API int vdisk_lab_fail(vdisk_lab *lab, const struct vdisk_lab_fault *fault);

/* Has a call failed since vdisk_lab_fail()? */
VDISK_API bool vdisk_lab_has_failed(const vdisk_lab *lab);

/* 0: it went well. Negative: it failed, and said so. Positive: what must hold does not. */
typedef int vdisk_lab_scenario_fn(void *arg, vdisk_lab *lab);

/*
 * Run a scenario again and again, each time in a laboratory of its own: with the first call that `fault` describes
 * (its nth is not looked at) failing, then with the second, until a run needs no more of them. The scenario opens
 * what it uses; to look at the outcome it calls vdisk_lab_fail(lab, NULL) and opens that again. ret_runs may be
 * NULL. Returns 0, a negative errno, or what a run returned that was positive; then *ret_runs is the number of the
 * call that failed in it.
 */
VDISK_API int vdisk_lab_each_failure(const struct vdisk_lab_opts *opts, const struct vdisk_lab_fault *fault,
                                     vdisk_lab_scenario_fn *scenario, void *arg, uint64_t *ret_runs);

/* ---- power cuts -------------------------------------------------------------------------------------- */

/* From here on the power may be cut; what the disks hold is durable. Nothing is open. Once for a laboratory. */
VDISK_API int vdisk_lab_arm(vdisk_lab *lab);

/* Note at this moment, for the judge, that something has been promised: a flush has completed, say. Armed. */
VDISK_API int vdisk_lab_mark(vdisk_lab *lab, uint64_t value);

/*
 * Judge one crash image: the names of the disks mean the image's for now, and what is changed on them is gone
 * afterwards. `mark`: the value of the last vdisk_lab_mark() before the cut, 0 without one. 0: it is right.
 */
typedef int vdisk_lab_judge_fn(void *arg, uint64_t mark);

struct vdisk_lab_crashes {
    size_t   size; /* set by the caller: sizeof(struct vdisk_lab_crashes) */
    uint64_t places, images;
};

/*
 * Go along what has happened since vdisk_lab_arm() and cut the power wherever that leaves something new: at most
 * `images_per_place` images at each, all that there are where they are fewer. An image has all that completed
 * before a flush was started that completed; of all else any part, in pieces of 512 bytes. Nothing is open.
 * Afterwards the laboratory can be destroyed and nothing else. `ret_crashes` may be NULL.
 * Returns 0, a negative errno, or what the judge returned that was not 0; then the error text tells the image.
 */
VDISK_API int vdisk_lab_cut_power(vdisk_lab *lab, unsigned images_per_place, vdisk_lab_judge_fn *judge, void *arg,
                                  struct vdisk_lab_crashes *ret_crashes);

#ifdef __cplusplus
}
#endif
#endif
