/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backend that does nothing: the skeleton to copy, and the floor under every benchmark.
 *
 * "null:SIZE": writes are forgotten, reads leave the buffer as it is. "null:SIZE,zeroes": reads give zeros. In
 * trees it is the driver null-co, as in QEMU, with the options of the table below.
 *
 * What every backend has:
 *  1. A struct with `struct backend` first, for what it keeps. Nothing here is needed but a flag.
 *  2. A driver: the table of its options; claims() says whether a plain name is ours, parse() makes options of it;
 *     open() makes the backend from options and sets its properties, submit() starts an I/O, close() releases.
 *     Other functions of the driver may stay NULL.
 *  3. One promise: an I/O that submit() was given ends exactly once, and never before submit() has returned. Here
 *     io_end_later() sees to that; on a file descriptor ring_rw() and its like do.
 *  4. Lines in drivers.h, drivers.c and meson.build.
 *
 * Failure modes: a name that makes no sense (-EINVAL), out of memory.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/drivers.h"
#include "backends/name.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/loop/status.h"
#include "engine/spec/option.h"

struct null_backend {
    struct backend b; /* first */
    bool           zeroes;
};

static bool null_claims(const char *name)
{
    return name_after(name, "null") != NULL;
}

static const struct option_desc null_options[] = {
    {"size", OPTION_SIZE, false, "1G", "bytes that it has", NULL},
    {"read-zeroes", OPTION_BOOL, false, "off", "on: reads give zeros; off: they leave the buffer as it is", NULL},
    {"latency-ns", OPTION_SIZE, false, "0", "accepted: nothing waits", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static int null_parse(const char *name, struct spec *options)
{
    const char *rest;
    char text[24];
    uint64_t size;
    int rc;

    if (!name_parse_size(name_after(name, "null"), &size, &rest) || (*rest && strcmp(rest, ",zeroes") != 0)) {
        err_set(EINVAL, "%s: not a size", name);
        return err_hint(-EINVAL, "use null:SIZE or null:SIZE,zeroes, with K, M, G, T or P behind the number");
    }
    snprintf(text, sizeof text, "%" PRIu64, size);
    rc = spec_put(options, "size", SPEC_TEXT, text);
    return rc == 0 && *rest ? spec_put(options, "read-zeroes", SPEC_TEXT, "on") : rc;
}

static int null_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    struct null_backend *nb;

    /* backend_alloc() copies the name and sets what is safe: no alignment, no capabilities. */
    nb = backend_alloc(&null_driver, name, sizeof *nb);
    if (!nb)
        return err_set(ENOMEM, "%s: out of memory", name);

    nb->zeroes = option_bool(options, "read-zeroes", false);
    nb->b.caps = BACKEND_GROWS | BACKEND_ZERO_FAST | (nb->zeroes ? BACKEND_ZERO_NEW | BACKEND_SPARSE : 0);
    nb->b.read_only = !(flags & (BACKEND_RDWR | BACKEND_CREATE));
    atomic_init(&nb->b.size, option_size(options, "size", UINT64_C(1) << 30));
    *ret_backend = &nb->b;
    return 0;
}

static void null_close(struct backend *b)
{
    /* Nothing of ours but the struct, which backend_close() frees. */
}

static void null_submit(struct backend *b, struct io *io)
{
    const struct null_backend *nb = container_of(b, struct null_backend, b);

    /* Bytes moved for these two; a transfer that came short before would go on from io->moved. */
    if (likely(io->kind == IO_READ || io->kind == IO_WRITE)) {
        if (unlikely(nb->zeroes && io->kind == IO_READ))
            iov_zero(io->iov, io->iovcnt, io->moved, io->len - io->moved);
        io_end_later(io, (int64_t)(io->len - io->moved));
        return;
    }
    /* The engine moves the size up after writes only. */
    if (io->kind == IO_TRUNCATE)
        atomic_store(&b->size, io->offset);
    else if (io->kind == IO_ZERO || io->kind == IO_ALLOCATE)
        raise_size(b, io->offset + io->len);
    else if (io->kind == IO_STATUS)
        status_add(io->status, io->offset + io->len, true); /* who must ask the host for it uses a worker */
    io_end_later(io, 0);
}

const struct backend_driver null_driver = {
    .name = "null-co",
    .options = null_options,
    .claims = null_claims,
    .parse = null_parse,
    .open = null_open,
    .close = null_close,
    .submit = null_submit,
};
