/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression of one cluster.
 *
 * Happy path: one raw deflate stream, or one zstd frame. Failure modes: it does not get shorter: told, and no
 * error; no memory.
 *
 * Deflate looks back up to 32 KiB, though QEMU itself writes with a window of 4 KiB, and asks zlib for no more
 * when it reads. What it then needs is bounded by that only for what an earlier call of inflate() gave: within the
 * output of one call zlib goes back as far as a stream says, and QEMU has a whole cluster decoded by one call into
 * one buffer, as 7.2 and 10 do. The library that has no other window is by far the faster one.
 */
#include "qcow2/format/deflate.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include <libdeflate.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "engine/base/mem.h"

/* The lowest of each: their streams are about as long as those of QEMU, which takes 6 and 3. */
enum { DEFLATE_LEVEL = 1, ZSTD_LEVEL = 1 };

struct q2_deflater {
    enum q2_compression           type;
    struct libdeflate_compressor *deflate;
    ZSTD_CCtx                    *zstd;
};

int q2_deflater_create(enum q2_compression type, struct q2_deflater **ret_deflater)
{
    struct q2_deflater *d;

    if (type != Q2_COMPRESSION_ZLIB && type != Q2_COMPRESSION_ZSTD)
        return -ENOTSUP;
    d = mem_calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->type = type;
    if (type == Q2_COMPRESSION_ZLIB)
        d->deflate = libdeflate_alloc_compressor(DEFLATE_LEVEL);
    else
        d->zstd = ZSTD_createCCtx();
    if (!d->deflate && !d->zstd) {
        mem_free(d);
        return -ENOMEM;
    }
    *ret_deflater = d;
    return 0;
}

void q2_deflater_destroy(struct q2_deflater *d)
{
    if (!d)
        return;
    if (d->deflate)
        libdeflate_free_compressor(d->deflate);
    ZSTD_freeCCtx(d->zstd);
    mem_free(d);
}

static int deflate_zstd(struct q2_deflater *d, const uint8_t *in, size_t len, uint8_t *out, size_t *ret_len)
{
    size_t made = ZSTD_compressCCtx(d->zstd, out, len - 1, in, len, ZSTD_LEVEL);

    if (ZSTD_getErrorCode(made) == ZSTD_error_dstSize_tooSmall)
        return 0;
    if (ZSTD_isError(made))
        return ZSTD_getErrorCode(made) == ZSTD_error_memory_allocation ? -ENOMEM : -EIO;
    *ret_len = made;
    return 0;
}

int q2_deflate(struct q2_deflater *d, const uint8_t *in, size_t len, uint8_t *out, size_t *ret_len)
{
    int rc = 0;

    assert(len > 1 && (d->type == Q2_COMPRESSION_ZLIB) == (d->deflate != NULL));
    *ret_len = 0;
    if (d->type == Q2_COMPRESSION_ZLIB)
        *ret_len = libdeflate_deflate_compress(d->deflate, in, len, out, len - 1);
    else
        rc = deflate_zstd(d, in, len, out, ret_len);
    assert(*ret_len < len);
    return rc;
}
