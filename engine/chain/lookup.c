/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which layer of a chain has a place: all are asked, from the top down. */
#include <errno.h>

#include "engine/base/bits.h"
#include "engine/chain/layer.h"

int chain_lookup(struct layer *top, uint64_t guest_offset, uint64_t len, struct extent *ret,
                 struct layer **ret_layer)
{
    struct layer *layer = top;

    assert(len > 0);
    for (;;) {
        uint64_t reach = atomic_load_explicit(&layer->reach, memory_order_acquire);
        *ret_layer = layer;
        if (unlikely(guest_offset >= reach))
            break;
        if (unlikely(len > reach - guest_offset))
            len = reach - guest_offset;
        if (unlikely(layer->format->lookup(layer, guest_offset, len, ret) < 0))
            return -EAGAIN;
        assert(ret->len > 0 && ret->len <= len);
        if (ret->kind != EXTENT_UNALLOCATED)
            return 0;
        len = ret->len;
        if (!layer->backing)
            break;
        layer = layer->backing;
        assert(layer->read_only); /* layer.h, invariant 3 */
    }
    /* Nobody has it: past the end of a shorter layer, or unallocated all the way down. */
    ret->kind = EXTENT_ZERO;
    ret->flags = 0;
    ret->len = len;
    return 0;
}
