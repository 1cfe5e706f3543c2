/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/chain/absent.h"

#include <errno.h>

static void absent_close(struct backend *b)
{
}

static void absent_submit(struct backend *b, struct io *io)
{
    assert(backend_is_absent(b) && io->backend == b && b->read_only);
    io_end_later(io, -EIO);
}

static const struct backend_driver absent_driver = {
    .name = "absent",
    .close = absent_close,
    .submit = absent_submit,
};

struct backend *absent_backend(const char *name)
{
    struct backend *b = backend_alloc(&absent_driver, name, sizeof *b);

    if (b)
        b->read_only = true;
    return b;
}

bool backend_is_absent(const struct backend *b)
{
    return b->driver == &absent_driver;
}
