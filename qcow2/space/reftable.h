/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* New refcount blocks, and a longer refcount table. */
#ifndef QCOW2_REFTABLE_H
#define QCOW2_REFTABLE_H

#include "qcow2/space/state.h"

/*
 * Make sure that refcount block `block` exists; as the call of an await. `have_structure`: the caller holds the
 * structure lock. `apart`: the block itself need not lie in the range that it describes, which is to stay in one
 * piece. op->rc: 0, -ENOSPC, -EFBIG (the table has its largest size), -ENOMEM, of the I/O.
 */
void q2_refblock_make(struct q2_space *space, uint64_t block, bool have_structure, bool apart, struct op *op);

#endif
