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
 * one buffer, as 7.2 and 10 do. The libraries that have no other window are by far the faster ones.
 *
 * Of two that make deflate streams ISA-L takes half the time for clusters that are not small, and libdeflate is to
 * be had everywhere. ISA-L's choice of matches may differ from one kind of processor to the next, not from one run
 * to the next: the content of its memory does not matter.
 */
#include "qcow2/format/deflate.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_ISAL
#include <isa-l/igzip_lib.h>
#endif
#include <libdeflate.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"

/*
 * The lowest of libdeflate and zstd: their streams are about as long as those of QEMU, which takes 6 and 3. Of
 * ISA-L the highest: 0.96 of QEMU's length for the data of bench/jobs, 1.03 for a file system with programs and
 * texts; its lower ones make 1.01 and 1.05 of it. Below ISAL_LEAST it is no faster than libdeflate.
 */
enum { DEFLATE_LEVEL = 1, ZSTD_LEVEL = 1, ISAL_LEVEL = 3, ISAL_LEAST = 16 << 10 };

struct isal;

struct q2_deflater {
    enum q2_compression           type;
    struct libdeflate_compressor *deflate;
    struct isal                  *isal; /* made on first need */
    ZSTD_CCtx                    *zstd;
};

/* ---- ISA-L ---------------------------------------------------------------------------------------------- */

#ifdef HAVE_ISAL

struct isal {
    struct isal_zstream stream;
    uint8_t             level[ISAL_DEF_LVL3_MEDIUM]; /* with room for more it is no faster */
};

static bool isal_is_for(size_t len)
{
    return len >= ISAL_LEAST;
}

static int deflate_isal(struct q2_deflater *d, const uint8_t *in, size_t len, uint8_t *out, size_t *ret_len)
{
    struct isal_zstream *z;
    int res;

    if (!d->isal)
        d->isal = mem_alloc(sizeof *d->isal);
    if (!d->isal)
        return -ENOMEM;
    z = &d->isal->stream;
    isal_deflate_stateless_init(z);
    z->level = ISAL_LEVEL;
    z->level_buf = d->isal->level;
    z->level_buf_size = sizeof d->isal->level;
    z->end_of_stream = 1;
    z->flush = NO_FLUSH;
    z->next_in = unconst(in);
    z->avail_in = (uint32_t)len;
    z->next_out = out;
    z->avail_out = (uint32_t)len - 1;
    res = isal_deflate_stateless(z);
    if (res != COMP_OK && res != STATELESS_OVERFLOW)
        return -EIO;
    assert(res != COMP_OK || z->avail_in == 0);
    *ret_len = res == COMP_OK ? z->total_out : 0;
    return 0;
}

#else

static bool isal_is_for(size_t len)
{
    (void)len;
    return false;
}

static int deflate_isal(struct q2_deflater *d, const uint8_t *in, size_t len, uint8_t *out, size_t *ret_len)
{
    (void)d, (void)in, (void)len, (void)out, (void)ret_len;
    assert(isal_is_for(len)); /* it never is */
    return -EIO;
}

#endif

/* ---- any ------------------------------------------------------------------------------------------------ */

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
    mem_free(d->isal);
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
    if (d->type == Q2_COMPRESSION_ZSTD)
        rc = deflate_zstd(d, in, len, out, ret_len);
    else if (isal_is_for(len))
        rc = deflate_isal(d, in, len, out, ret_len);
    else
        *ret_len = libdeflate_deflate_compress(d->deflate, in, len, out, len - 1);
    assert(*ret_len < len);
    return rc;
}

/* ---- as it is ------------------------------------------------------------------------------------------ */

enum { DEFLATE_BLOCK = 65535, DEFLATE_HEAD = 5, ZSTD_BLOCK = 128 << 10, ZSTD_BLOCK_HEAD = 3, ZSTD_HEAD = 9 };

size_t q2_store_length(enum q2_compression type, size_t len)
{
    if (type == Q2_COMPRESSION_ZLIB)
        return len + DEFLATE_HEAD * div_up(len, DEFLATE_BLOCK);
    return ZSTD_HEAD + len + ZSTD_BLOCK_HEAD * div_up(len, ZSTD_BLOCK);
}

/* The `n` bytes of `value`, the least one first. */
static uint8_t *put_le(uint8_t *out, uint32_t value, unsigned n)
{
    for (; n > 0; n--, value >>= 8)
        *out++ = (uint8_t)value;
    return out;
}

/* RFC 1951, 3.2.4: a byte of flags, since each block begins at one; its length, and that inverted. */
static uint8_t *store_deflate(const uint8_t *in, size_t len, uint8_t *out)
{
    for (size_t n; len > 0; in += n, len -= n, out += n) {
        n = min_u64(len, DEFLATE_BLOCK);
        out = put_le(out, n == len, 1);
        out = put_le(out, (uint32_t)n | ((uint32_t)~n << 16), 4);
        memcpy(out, in, n);
    }
    return out;
}

/* RFC 8878, 3.1.1: a frame of a single segment, with its length in 4 bytes, and raw blocks. */
static uint8_t *store_zstd(const uint8_t *in, size_t len, uint8_t *out)
{
    out = put_le(out, ZSTD_MAGICNUMBER, 4);
    out = put_le(out, 0xa0, 1);
    out = put_le(out, (uint32_t)len, 4);
    for (size_t n; len > 0; in += n, len -= n, out += n) {
        n = min_u64(len, ZSTD_BLOCK);
        out = put_le(out, (uint32_t)n << 3 | (n == len), 3);
        memcpy(out, in, n);
    }
    return out;
}

void q2_store(enum q2_compression type, const uint8_t *in, size_t len, uint8_t *out)
{
    const uint8_t *end = type == Q2_COMPRESSION_ZLIB ? store_deflate(in, len, out) : store_zstd(in, len, out);

    assert(len > 0 && (size_t)(end - out) == q2_store_length(type, len));
    (void)end;
}
