/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume on disks whose writes are logged, used from one or two queues in a simulated machine; and afterwards
 * the judgement over the crash images that the log allows. One seed is one run.
 */
#ifndef TESTS_CRASH_RIG_H
#define TESTS_CRASH_RIG_H

#include "backends/lab/crash.h"
#include "backends/lab/fault.h"
#include "backends/lab/sim.h"
#include "qcow2/check/check.h"
#include "tests/crash/oracle.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"

enum { RIG_QUEUES = 2, RIG_SLOTS = 16, RIG_VERSIONS = 4096 };
enum rig_disk { RIG_IMAGE, RIG_DATA, RIG_BASE, RIG_DISKS };

struct rig_slot {
    bool used, changes;
    uint64_t offset, len;
    uint64_t id; /* of the version or flush */
    bool is_flush;
    unsigned queue;
};

struct rig {
    struct image_spec spec;
    uint64_t max_size;          /* of the volume, after all growing */
    bool fixed;                 /* on a device: of a given size, with old content */
    bool creates;               /* its creation is logged: before that there need not be an image */
    struct rng *rng;
    struct sim *sim;
    struct memdisk disk[RIG_DISKS];
    struct crash_log *log;
    struct version version[RIG_VERSIONS + 1];
    uint32_t versions;
    uint64_t flushes;
    bool preallocates;          /* whenever it grows */
    bool rotated;               /* the image goes through a filter: filters/rotate.c */
    bool tight;                 /* and little larger than it must be */
    bool thin;                  /* or smaller, and made larger by its grower while it is used */
    bool faults;                /* calls of the disks below the log can be made to fail, or come late: fault[] */
    bool may_fail;              /* so requests may, and closing */
    uint32_t unit;              /* the disks write so many bytes whole or not at all */
    bool threads;               /* used from threads, outside the simulation: no simulated latencies */
    const char *made;           /* the image is this file, instead of one made by `spec`; before rig_init() */
    uint64_t base_size;         /* the backing file has so much of `initial` */
    uint8_t *initial;           /* what the volume reads as before it is logged, max_size bytes; NULL: zeros */
    /* while it is open */
    struct backend *fault[RIG_DISKS];
    vdisk *v;
    vdisk_queue *q[RIG_QUEUES];
    unsigned queues, turn;
    unsigned on_queue[RIG_QUEUES]; /* requests in flight */
    struct rig_slot slot[RIG_SLOTS];
    unsigned inflight;
    uint64_t wish, wanted;      /* thin: what has been asked for; 0: nothing */
};

/* Counters of all cases of a program; in memory that they share. */
struct rig_totals {
    _Atomic uint64_t images, places, used, qemu_checked, leaks, runs;
};
extern struct rig_totals *rig_totals;

/* Before test_main(). */
void rig_totals_init(void);
/* After it: say what was done. */
void rig_totals_print(void);

/*
 * An image by `spec`, closed; nothing is logged yet. Before: max_size, fixed, faults, threads, may_fail, initial,
 * base_size, made; all else 0. A backing file is the disk RIG_BASE by the name "sim:base". The simulation is
 * entered until rig_finish().
 */
void rig_init(struct rig *r, const struct image_spec *spec);
void rig_finish(struct rig *r);

enum rig_disk rig_disk_by_name(const char *name);

/* Disks without an image, for a creation that is to be logged. */
void rig_init_empty(struct rig *r, const struct image_spec *spec);
int rig_create(struct rig *r);

/* From here on all is logged. */
void rig_start_log(struct rig *r);

/* The same once more, with the volume open and settled: as if what was logged so far had not been. */
void rig_restart_log(struct rig *r);

/* Open for writing with `queues` queues; close. Both fail the case if they fail. */
void rig_open(struct rig *r, unsigned queues);
void rig_close(struct rig *r);

/* The power is cut now, whatever is in flight. */
void rig_cut(struct rig *r);

/* Begin a request on the next queue. Ranges of changes that are in flight must not overlap: rig_is_busy(). */
void rig_write(struct rig *r, uint64_t offset, uint64_t len, uint32_t flags);
/* Of the clusters around the range, when no change of them is in flight; most become shorter. As they are, where
 * there is a data file. */
void rig_write_compressed(struct rig *r, uint64_t offset, uint64_t len, uint32_t flags);
void rig_zero(struct rig *r, uint64_t offset, uint64_t len, uint32_t flags);
void rig_discard(struct rig *r, uint64_t offset, uint64_t len);
void rig_flush(struct rig *r);
bool rig_is_busy(const struct rig *r, uint64_t offset, uint64_t len);

/* Until no more than `most` requests are in flight. */
void rig_wait(struct rig *r, unsigned most);

/* Wait for all, flush, wait. */
void rig_settle(struct rig *r);

/* Both wait for all first. */
void rig_grow(struct rig *r, uint64_t size);
void rig_shrink(struct rig *r, uint64_t size);

/* vdisk_trim_space(), whatever is in flight. */
void rig_trim(struct rig *r);

/*
 * Continue, closed, on a crash image of what was logged, one with leaks if that can be: what it reads as is what
 * the volume has to begin with, and a new log begins. In judge.c.
 */
void rig_crash(struct rig *r);

/* Repair it, closed: then it must be clean. */
void rig_repair(struct rig *r, enum qcow2_repair_what what);

/* `steps` random requests. */
void rig_mix(struct rig *r, unsigned steps);

/*
 * Walk along the log and judge about `images` crash images, spread over its places; at least a few at each.
 */
void rig_judge(struct rig *r, unsigned images);

#endif
