/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A logical volume becomes larger while it is written to.
 *
 * Works: one command, by the group's writer; others who make theirs larger wait for that. Fails: the group has
 * less than was asked for: what it has; or nothing: -ENOSPC. Its devices are not those that were known, or
 * somebody else has made the volume larger: it is looked at anew. Killed: before lvm has written its metadata
 * nothing has happened; after that the device may be smaller than the metadata says, or suspended: who extends it
 * next, or uses it, has it be what the metadata says.
 *
 * Invariant: 1. it never becomes smaller.
 */
#include <assert.h>
#include <errno.h>

#include "tools/arith.h"
#include "tools/domain/block.h"
#include "tools/domain/lease.h"

/* That lvm does not find what is there is no reason to give up. */
static int of_what_is_there(int rc)
{
    return rc == -ENOENT ? -EIO : rc;
}

/* It has been made larger by somebody who did not come to its device. */
static int refresh(struct block_state *s, const char *volume)
{
    return of_what_is_there(lvm_refresh(s->lvm, &volume, 1));
}

/* `failed` with one command; its text is there. */
static int grow_by_what_is_there(struct domain *d, const char *volume, uint64_t bytes, int failed)
{
    struct block_state *s = d->state;
    const struct block_lv *b;
    struct dom_error error;
    uint64_t device, size;
    int rc;

    dom_error_keep(&error, failed);
    block_stale(d);
    rc = block_refresh(d);
    if (rc < 0)
        return rc;
    b = block_find(d, volume);
    if (b == NULL)
        return dom_fail(ENOENT, NULL, "%s: has no volume %s any more", d->path, volume);
    size = min_u64(text_extents(bytes, d->extent), b->lv->size + block_vg(d)->free / d->extent * d->extent);
    if (size > b->lv->size)
        return of_what_is_there(lvm_extend(s->lvm, volume, size));
    assert(size <= b->lv->size); /* (1) */
    rc = lvm_device_size(s->lvm, volume, &device);
    if (rc == 0 && device < b->lv->size)
        return refresh(s, volume);
    if (rc < 0 || b->lv->size >= bytes)
        return rc;
    return failed == -ENOSPC ? dom_error_give(&error) :
           dom_fail(ENOSPC, NULL, "volume group %s is full", d->uuid);
}

/* Who has a volume open has it for long: where other hosts change the group it may have come into a pool since. */
static int begin(struct domain *d)
{
    int rc = lease_is_used(d);

    if (rc > 0) {
        block_stale(d);
        rc = block_refresh(d);
    }
    return rc < 0 ? rc : block_begin(d);
}

int block_grow(struct domain *d, const char *image, const char *volume, uint64_t bytes, uint64_t *ret)
{
    struct block_state *s = d->state;
    struct dom_error error;
    int rc = begin(d);

    (void)image;
    if (rc < 0)
        return rc;
    rc = lvm_extend(s->lvm, volume, bytes);
    if (rc < 0 && rc != -ENOTSUP)
        rc = grow_by_what_is_there(d, volume, bytes, rc);
    dom_error_keep(&error, rc);
    block_end(d);
    block_stale(d);
    if (lvm_device_size(s->lvm, volume, ret) < 0)
        *ret = 0;
    return rc < 0 ? dom_error_give(&error) : 0;
}
