/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_LOOKUP_H
#define QCOW2_LOOKUP_H

#include "engine/format.h"

/* format_driver.lookup, .load, .load_ahead and .load_range */
int q2_lookup(struct layer *layer, uint64_t guest_offset, uint64_t len, struct extent *ret);
void q2_load(struct layer *layer, uint64_t guest_offset, struct op *op);
void q2_load_ahead(struct layer *layer, uint64_t guest_offset, struct op *op);
void q2_load_range(struct layer *layer, uint64_t guest_offset, uint64_t len, uint64_t bytes, struct op *op);

#endif
