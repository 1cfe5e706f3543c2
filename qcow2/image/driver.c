/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the engine knows of qcow2: the table of the format, and which operation serves which request. */
#include <errno.h>

#include "engine/queue.h"
#include "qcow2/format/ondisk.h"
#include "qcow2/image/create.h"
#include "qcow2/meta/packed.h"
#include "qcow2/qcow2.h"
#include "qcow2/space/highest.h"
#include "qcow2/state.h"

static int q2_probe(const uint8_t *head, size_t len, const char *name)
{
    /* Version 1 has our magic too: better refused by name than taken for raw data. */
    return len >= 8 && get_be32(head) == Q2_MAGIC && get_be32(head + 4) >= 1 ? 100 : 0;
}

static void q2_submit(vdisk *v, struct request *r)
{
    struct q2 *q = q2_of(v);

    if (r->kind != REQ_FLUSH && atomic_load_explicit(&q->meta.broken, memory_order_relaxed)) {
        request_refuse(r, -EIO);
        return;
    }
    switch ((enum request_kind)r->kind) {
    case REQ_WRITE:
        q2_alloc_write_start(q, r);
        break;
    case REQ_ZERO:
    case REQ_DISCARD:
        q2_clear_start(q, r);
        break;
    case REQ_FLUSH:
        q2_flush_start(q, r);
        break;
    case REQ_READ:
    case REQ_EXTENTS:
        assert(!"reads are the engine's");
    }
}

const struct format_driver qcow2_driver = {
    .name = "qcow2",
    .probe = q2_probe,
    .open = q2_open,
    .close = q2_close,
    .lookup = q2_lookup,
    .load = q2_load,
    .read_packed = q2_read_packed,
    .submit = q2_submit,
    .check_create = qcow2_check_create,
    .create = qcow2_create,
    .resize = q2_resize,
    .highest = q2_highest,
    .check = qcow2_check_image,
    .trim = q2_trim,
};
