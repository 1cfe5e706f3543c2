/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zero clusters made explicit, as version 2 has them: qcow2/check/expand.c. */
#ifndef QCOW2_EXPAND_H
#define QCOW2_EXPAND_H

#include <stdbool.h>

#include "engine/backend.h"
#include "engine/vdisk.h"
#include "qcow2/check/rebuild.h"

struct qcow2_check_opts;

struct q2_expand {
    const struct qcow2_check_opts *opts; /* progress; may be NULL */
    bool backed;                         /* there is a backing file, which an unallocated cluster would show */
    q2_refcounts_fn *switch_to;
    void            *arg;
};

/*
 * Of all L2 tables, of snapshots, too: an entry that says "zeros" becomes one of a cluster that holds zeros,
 * or, where nothing is below and it has none, of none. Without subclusters and external data files. The image
 * is sound but for refcounts that are too high; what reads does not change at any moment, nor after a crash,
 * which leaves new clusters leaked at worst. *ret_leaks: there may be such, or others whose refcounts are too
 * high now: new ones have refcounts, or one that somebody else has, too, has been let go of. Blocks; outside
 * the loop. Errors with a text: -EIO: damaged; of the I/O, -ENOSPC, -ENOMEM, -ECANCELED, or of switch_to().
 */
int q2_expand_zeros(struct backend *file, vdisk_queue *queue, const struct q2_expand *how, bool *ret_leaks);

#endif
