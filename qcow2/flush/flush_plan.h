/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The plan of a flush: which steps, in the order of the fields. Pure; the rules are in flush.c. */
#ifndef QCOW2_FLUSH_PLAN_H
#define QCOW2_FLUSH_PLAN_H

#include <stdbool.h>

struct q2_flush_needs {
    bool refcounts; /* dirty refcount slices, or blocks that were written whole */
    bool reftable;  /* dirty pages of the refcount table */
    bool mapping;   /* dirty L2 slices or pages of the L1 table */
    bool data;      /* that mapping shows data which must be durable before: rule 2 */
};

struct q2_flush_plan {
    bool write_refcounts;
    bool sync_refcounts; /* rule 3 */
    bool write_reftable;
    bool sync_data;      /* rules 1, 2, 4; and for the guest's sake, where no later sync covers its data */
    bool write_mapping;
    bool sync_mapping;
};

static inline struct q2_flush_plan q2_flush_plan(struct q2_flush_needs n)
{
    return (struct q2_flush_plan){
        .write_refcounts = n.refcounts,
        .sync_refcounts = n.refcounts && n.reftable,
        .write_reftable = n.reftable,
        .sync_data = n.data || n.refcounts || n.reftable || !n.mapping,
        .write_mapping = n.mapping,
        .sync_mapping = n.mapping,
    };
}

#endif
