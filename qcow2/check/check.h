/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of the check: what other rooms use of it.
 *
 * Promises: what is wrong with an image; a repair, each change of which rests on what is durable.
 * Owns: what it has counted, for as long as it runs.
 * May not: use an open image, nor what keeps one; it uses format/ only.
 *
 * Consistency check of a qcow2 image, and repair. The check counts every reference to every host cluster and
 * compares with the refcounts on disk; it looks at each table entry on the way. Both work below an open volume, so
 * that images which are too damaged to be opened can be checked, as long as their header can be read.
 */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include <stddef.h>
#include <stdint.h>

#include "engine/backend.h"
#include "engine/vdisk.h"
#include "qcow2/check/check_refs.h"
#include "qcow2/check/expand.h"
#include "qcow2/check/rebuild.h"
#include "qcow2/check/spans.h"

enum qcow2_finding {
    QCOW2_CORRUPTION, /* data is lost or will be if the image is written to */
    QCOW2_LEAK,       /* space is lost, nothing else */
    QCOW2_ERROR,      /* something could not be looked at */
    QCOW2_NOTE,       /* worth knowing, no fault by itself */
    QCOW2_FIXED,      /* repair only: what was done */
};

/* `text` is one line without a newline, and without the name of the image; valid during the call. */
typedef void qcow2_report_fn(void *arg, enum qcow2_finding kind, const char *text);

/* One of those: `arg` is a text of QCOW2_REASON_MAX bytes, at first "", that becomes the first damage's. */
enum { QCOW2_REASON_MAX = 256 };
void qcow2_note_reason(void *arg, enum qcow2_finding kind, const char *text);

struct qcow2_check_opts {
    qcow2_report_fn   *report;      /* NULL: count only */
    void              *report_arg;
    uint32_t           kinds;       /* which: bits 1 << enum qcow2_finding; 0: all */
    uint64_t           report_max;  /* findings to report, the others are only counted; 0: 1000 */
    vdisk_progress_fn *progress;    /* NULL: none */
    void              *progress_arg;
    uint64_t           memory_max;  /* for reference counts and tables; 0: half of the machine's memory */
};

/* The numbers that `qemu-img check` gives. */
struct qcow2_check_result {
    uint64_t image_end_offset;    /* what is past it is not in use */
    uint64_t total_clusters;      /* of the virtual disk */
    uint64_t allocated_clusters;  /* these three: of the active layer, snapshots apart */
    uint64_t fragmented_clusters;
    uint64_t compressed_clusters;
    uint64_t corruptions;
    uint64_t leaks;
    uint64_t check_errors;
    uint64_t cluster_size;        /* which QEMU's does not give */
};

/*
 * Check the image in `file`. Blocks; outside the loop. `opts` may be NULL. Returns 0 when the check came to its
 * end, whatever it found: *ret tells. Else nothing can be said: -EINVAL, -ENOTSUP, ...: the header cannot be used
 * (text as for vdisk_open()); -EFBIG: the file has more clusters than can be counted; -ENOMEM: memory_max is too
 * little; -ECANCELED by progress; of the I/O: header or refcount table cannot be read.
 */
int qcow2_check(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                struct qcow2_check_result *ret);

/* What is in use, from cluster 0 to the end of the file; `refs` during the call. 0 or -errno. */
typedef int qcow2_counted_fn(void *arg, const struct q2_refs *refs, const struct qcow2_check_result *res);

/* qcow2_check(), and when it has come to its end, *ret filled in, its outcome is that of `take`. */
int qcow2_check_counted(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                        qcow2_counted_fn *take, void *arg, struct qcow2_check_result *ret);

enum qcow2_repair_what {
    QCOW2_REPAIR_LEAKS, /* refcounts that are too high; nothing that could touch data */
    QCOW2_REPAIR_ALL,   /* refcounts, flags, damaged entries: all that can be mended without a change of content */
};

struct qcow2_repair_result {
    struct qcow2_check_result check; /* of the image as it is now */
    uint64_t leaks_fixed, corruptions_fixed; /* as `qemu-img check -r` counts them */
};

/*
 * Check the image in `file`, which is writable and in no other use, and mend it. Blocks; outside the loop. `opts`
 * as for qcow2_check(); what was done is reported (QCOW2_FIXED), and in the end what is left. Returns 0 when the
 * repair came to its end: *ret tells what could not be saved. Errors as qcow2_check(), and of writing, with a
 * text: then the image is no worse than before, and the next repair goes on where this one ended. The same holds
 * for a crash at any point: see the invariants in qcow2/check/repair.c. Before the first write: -EFBIG: so many
 * entries share clusters that the file would become far longer by giving each its own; -EINVAL, also: tables are
 * where the cluster size of the header does not allow any, so that it must be wrong (QCOW2_REPAIR_ALL).
 */
int qcow2_repair(struct backend *file, vdisk_queue *q, enum qcow2_repair_what what,
                 const struct qcow2_check_opts *opts, struct qcow2_repair_result *ret);

/* What an image is to be fit for: q2_check_sound(). */
struct q2_sound {
    uint32_t refcount_bits; /* so wide may refcounts become; 0: they stay as they are */
};

/*
 * Is the image sound (COPIED flags apart, which not all writers set), and can it become that? Nothing is written.
 * Blocks; outside the loop. Errors with a text: -EIO: it is damaged; -EINVAL: a count does not fit; as
 * qcow2_check().
 */
int q2_check_sound(struct backend *file, vdisk_queue *queue, const struct qcow2_check_opts *opts,
                   const struct q2_sound *how);

/* Point the header to a snapshot table of `n` entries, durably. 0 or -errno. */
typedef int q2_snapshots_fn(void *arg, uint64_t host_offset, uint32_t n);

/*
 * A snapshot table with the fields that version 3 asks for, for an image of version 2 that is sound; then what the
 * old one had is leaked. Where no refcount block has room for it there are new refcounts first. Blocks; outside
 * the loop. Errors with a text; -ENOSPC: no place for it.
 */
int q2_complete_snapshots(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                          q2_snapshots_fn *set, q2_refcounts_fn *switch_to, void *arg);

/*
 * Open `name` read-only with `backend_flags` (enum backend_open_flags), check, close. Blocks. The backing chain
 * and an external data file are not looked at. Errors also as backend_open().
 */
int qcow2_check_path(const char *name, uint32_t backend_flags, const struct qcow2_check_opts *opts,
                     struct qcow2_check_result *ret);

#endif
