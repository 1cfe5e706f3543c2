/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decompression of one cluster.
 *
 * An L2 entry gives the size of a stream in sectors, so what follows the stream in its last sector is part of the
 * input and means nothing. What decides is that the output is filled: a deflate stream that would give more, or
 * whose end was cut off after the last byte that matters, is taken (QEMU writes neither, but takes both); one
 * that gives less is damaged.
 */
#include "qcow2/format/inflate.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

#include <libdeflate.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include "engine/base/mem.h"

struct q2_inflater {
    enum q2_compression             type;
    struct libdeflate_decompressor *deflate;
    z_stream                        zlib; /* for streams that libdeflate refuses; made on first need */
    bool                            zlib_ready;
    ZSTD_DCtx                      *zstd;
};

int q2_inflater_create(enum q2_compression type, struct q2_inflater **ret_inflater)
{
    struct q2_inflater *f;

    if (type != Q2_COMPRESSION_ZLIB && type != Q2_COMPRESSION_ZSTD)
        return -ENOTSUP;
    f = mem_calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->type = type;
    if (type == Q2_COMPRESSION_ZLIB)
        f->deflate = libdeflate_alloc_decompressor();
    else
        f->zstd = ZSTD_createDCtx();
    if (!f->deflate && !f->zstd) {
        mem_free(f);
        return -ENOMEM;
    }
    *ret_inflater = f;
    return 0;
}

void q2_inflater_destroy(struct q2_inflater *f)
{
    if (!f)
        return;
    if (f->deflate)
        libdeflate_free_decompressor(f->deflate);
    if (f->zlib_ready)
        inflateEnd(&f->zlib);
    ZSTD_freeDCtx(f->zstd);
    mem_free(f);
}

/* zlib tells a full output apart from a damaged stream; libdeflate does not, nor does it take a cut-off end. */
static int inflate_tolerant(struct q2_inflater *f, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    z_stream *z = &f->zlib;
    int res;

    if (!f->zlib_ready) {
        res = inflateInit2(z, -15);
        if (res != Z_OK)
            return res == Z_MEM_ERROR ? -ENOMEM : -EIO;
        f->zlib_ready = true;
    } else if (inflateReset(z) != Z_OK) {
        return -EIO;
    }
    z->next_in = in;
    z->avail_in = (uInt)in_len;
    z->next_out = out;
    z->avail_out = (uInt)out_len;
    res = inflate(z, Z_FINISH);
    assert(z->avail_in <= in_len && z->avail_out <= out_len);
    if (res == Z_MEM_ERROR)
        return -ENOMEM;
    if ((res == Z_STREAM_END || res == Z_BUF_ERROR) && z->avail_out == 0)
        return 0;
    return -EIO;
}

static int inflate_deflate(struct q2_inflater *f, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    size_t used, made;
    enum libdeflate_result res;

    res = libdeflate_deflate_decompress_ex(f->deflate, in, in_len, out, out_len, &used, &made);
    assert(res != LIBDEFLATE_SUCCESS || (used <= in_len && made <= out_len));
    if (res == LIBDEFLATE_SUCCESS)
        return made == out_len ? 0 : -EIO;
    return inflate_tolerant(f, in, in_len, out, out_len);
}

/*
 * Frame by frame into `out`: the streaming interface would allocate the window that a frame's header asks for, up
 * to 128 MiB.
 */
static int inflate_zstd(struct q2_inflater *f, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    while (out_len > 0) {
        size_t frame, made;

        frame = ZSTD_findFrameCompressedSize(in, in_len);
        if (ZSTD_isError(frame) || frame == 0)
            return -EIO;
        assert(frame <= in_len);
        made = ZSTD_decompressDCtx(f->zstd, out, out_len, in, frame);
        if (ZSTD_isError(made))
            return -EIO;
        assert(made <= out_len);
        in += frame;
        in_len -= frame;
        out += made;
        out_len -= made;
    }
    return 0;
}

int q2_inflate(struct q2_inflater *f, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    assert(in_len <= INT_MAX && out_len <= INT_MAX);
    assert((f->type == Q2_COMPRESSION_ZLIB) == (f->deflate != NULL) && !f->deflate == (f->zstd != NULL));
    if (f->type == Q2_COMPRESSION_ZLIB)
        return inflate_deflate(f, in, in_len, out, out_len);
    return inflate_zstd(f, in, in_len, out, out_len);
}

int q2_decompress(enum q2_compression type, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    struct q2_inflater *f;
    int rc = q2_inflater_create(type, &f);

    if (rc == 0) {
        rc = q2_inflate(f, in, in_len, out, out_len);
        q2_inflater_destroy(f);
    }
    return rc;
}
