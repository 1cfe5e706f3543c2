/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/format/deflate: what is written is read back by us and by the calls that QEMU makes, for any cluster. */
#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "engine/base/bits.h"
#include "qcow2/format/deflate.h"

enum { LARGEST = 2 << 20 };

enum content { ZEROS, ONE_BYTE, TEXT, FAR_TEXT, HALF_RANDOM, RANDOM, CONTENTS };

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 24;
}

/* FAR_TEXT: what repeats does so from 4 KiB to 32 KiB before, out of reach of a window of 4 KiB. */
static void fill(uint8_t *p, size_t len, enum content what, uint32_t seed)
{
    for (size_t i = 0; i < len; i++) {
        switch (what) {
        case ZEROS: p[i] = 0; break;
        case ONE_BYTE: p[i] = 0x5a; break;
        case TEXT: p[i] = (uint8_t)"etaoin shrdlu\n\0\xff"[next(&seed) % 16]; break;
        case FAR_TEXT: p[i] = i < 31000 ? (uint8_t)next(&seed) : p[i - 31000]; break;
        case HALF_RANDOM: p[i] = i < len / 2 ? (uint8_t)next(&seed) : 1; break;
        case RANDOM: p[i] = (uint8_t)next(&seed); break;
        case CONTENTS: break;
        }
    }
}

/* As QEMU does: inflateInit2(-12), one call; the stream goes on with other bytes up to the end of a sector. */
static void expect_zlib(const uint8_t *in, size_t in_len, const uint8_t *plain, size_t len, uint8_t *out)
{
    z_stream z = {0};
    int res;

    assert_int_equal(inflateInit2(&z, -12), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)in_len;
    z.next_out = out;
    z.avail_out = (uInt)len;
    res = inflate(&z, Z_FINISH);
    assert_true((res == Z_STREAM_END || res == Z_BUF_ERROR) && z.avail_out == 0);
    assert_memory_equal(out, plain, len);
    inflateEnd(&z);
}

/* The same of zstd: the streaming calls, until the output is full and the frame at its end. */
static void expect_zstd(const uint8_t *in, size_t in_len, const uint8_t *plain, size_t len, uint8_t *out)
{
    ZSTD_DCtx *d = ZSTD_createDCtx();
    ZSTD_inBuffer from = {in, in_len, 0};
    ZSTD_outBuffer to = {out, len, 0};
    size_t res = 0;

    assert_non_null(d);
    while (to.pos < to.size) {
        size_t was = to.pos;
        res = ZSTD_decompressStream(d, &to, &from);
        assert_false(ZSTD_isError(res));
        assert_true(to.pos > was);
    }
    assert_int_equal(res, 0);
    assert_memory_equal(out, plain, len);
    ZSTD_freeDCtx(d);
}

struct room {
    uint8_t plain[LARGEST], packed[LARGEST + 512], again[LARGEST], out[LARGEST];
};

/*
 * An encoder that has done others gives what a new one gives, whatever was in the memory that it is made of: files
 * do not depend on who did what.
 */
static void expect_same(struct room *r, struct q2_deflater *used, enum q2_compression type, size_t cluster,
                        size_t len)
{
    struct q2_deflater *each[2] = {used};
    size_t len_again;

    mallopt(M_PERTURB, (int)(cluster / 512 % 255 + 1));
    assert_int_equal(q2_deflater_create(type, &each[1]), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(q2_deflate(each[i], r->plain, cluster, r->again, &len_again), 0);
        assert_int_equal(len_again, len);
        assert_memory_equal(r->again, r->packed, len);
    }
    q2_deflater_destroy(each[1]);
}

static void test_round_trip(struct room *r, enum q2_compression type, size_t cluster)
{
    struct q2_deflater *d;
    size_t len;

    assert_int_equal(q2_deflater_create(type, &d), 0);
    for (int what = ZEROS; what < CONTENTS; what++) {
        fill(r->plain, cluster, (enum content)what, (uint32_t)what + 7);
        assert_int_equal(q2_deflate(d, r->plain, cluster, r->packed, &len), 0);
        if (what == RANDOM)
            assert_int_equal(len, 0);
        else if (what != FAR_TEXT || cluster >= 65536)
            assert_in_range(len, 1, cluster - 1);
        if (len == 0)
            continue;
        expect_same(r, d, type, cluster, len);
        memset(r->packed + len, 0xa5, 512);
        len = align_up(len, 512);
        assert_int_equal(q2_decompress(type, r->packed, len, r->out, cluster), 0);
        assert_memory_equal(r->out, r->plain, cluster);
        if (type == Q2_COMPRESSION_ZLIB)
            expect_zlib(r->packed, len, r->plain, cluster, r->out);
        else
            expect_zstd(r->packed, len, r->plain, cluster, r->out);
    }
    q2_deflater_destroy(d);
}

static void test_all(void **state)
{
    struct room *r = malloc(sizeof *r);

    assert_non_null(r);
    for (size_t cluster = 512; cluster <= LARGEST; cluster *= 2) {
        test_round_trip(r, Q2_COMPRESSION_ZLIB, cluster);
        test_round_trip(r, Q2_COMPRESSION_ZSTD, cluster);
    }
    free(r);
}

/* What is stored is a stream as well, as long as is said, of any length of blocks. */
static void store(struct room *r, enum q2_compression type, size_t cluster)
{
    size_t len = q2_store_length(type, cluster), space = (size_t)align_up(len, 512);
    uint8_t *out = malloc(space + 1);

    assert_non_null(out);
    assert_in_range(len, cluster + 1, cluster + cluster / 32 + 16);
    memset(out, 0xa5, space + 1);
    fill(r->plain, cluster, RANDOM, (uint32_t)cluster);
    q2_store(type, r->plain, cluster, out);
    for (size_t i = len; i <= space; i++)
        assert_int_equal(out[i], 0xa5);
    assert_int_equal(q2_decompress(type, out, space, r->out, cluster), 0);
    assert_memory_equal(r->out, r->plain, cluster);
    if (type == Q2_COMPRESSION_ZLIB)
        expect_zlib(out, space, r->plain, cluster, r->out);
    else
        expect_zstd(out, space, r->plain, cluster, r->out);
    free(out);
}

static void test_stored(void **state)
{
    struct room *r = malloc(sizeof *r);

    assert_non_null(r);
    for (size_t cluster = 512; cluster <= LARGEST; cluster *= 2) {
        store(r, Q2_COMPRESSION_ZLIB, cluster);
        store(r, Q2_COMPRESSION_ZSTD, cluster);
    }
    free(r);
}

static void test_wrong_type(void **state)
{
    struct q2_deflater *d;

    assert_int_equal(q2_deflater_create((enum q2_compression)2, &d), -ENOTSUP);
    q2_deflater_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_stored),
        cmocka_unit_test(test_wrong_type),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
