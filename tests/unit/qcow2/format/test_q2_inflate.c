/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/inflate: streams of every maker, what may follow them, and damage. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include "engine/base/bits.h"
#include "qcow2/format/inflate.h"

enum { CLUSTER = 65536, ROOM = 2 * CLUSTER };

struct sample {
    uint8_t plain[CLUSTER];
    uint8_t compressed[ROOM];
    uint8_t out[CLUSTER + 64]; /* with a guard */
    size_t  compressed_len;
};

/* Text-like content: repetition near and far, so that every kind of match occurs. */
static void fill_plain(uint8_t *p, size_t len, uint32_t seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1103515245u + 12345u;
        if (i > 40000 && seed >> 30 == 0)
            p[i] = p[i - 39000];
        else if (i > 100 && seed >> 31)
            p[i] = p[i - 97];
        else
            p[i] = (uint8_t)("etaoin shrdlu\n\0\xff"[(seed >> 20) % 16]);
    }
}

static int setup(void **state)
{
    struct sample *s = calloc(1, sizeof *s);

    assert_non_null(s);
    fill_plain(s->plain, CLUSTER, 42);
    memset(s->out, 0xa5, sizeof s->out);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static size_t pack_zlib(const uint8_t *in, size_t len, uint8_t *out, size_t room, int level, int window_bits)
{
    z_stream z = {0};
    size_t made;

    assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    made = room - z.avail_out;
    deflateEnd(&z);
    return made;
}

static size_t pack_libdeflate(const uint8_t *in, size_t len, uint8_t *out, size_t room, int level)
{
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(level);
    size_t made;

    assert_non_null(c);
    made = libdeflate_deflate_compress(c, in, len, out, room);
    libdeflate_free_compressor(c);
    assert_true(made > 0);
    return made;
}

static size_t pack_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t room, int level)
{
    size_t made = ZSTD_compress(out, room, in, len, level);

    assert_false(ZSTD_isError(made));
    return made;
}

/* What is after the stream must not matter, and nothing may be written past the cluster. */
static void expect_plain(struct sample *s, enum q2_compression type, size_t in_len)
{
    memset(s->out, 0xa5, sizeof s->out);
    assert_int_equal(q2_decompress(type, s->compressed, in_len, s->out, CLUSTER), 0);
    assert_memory_equal(s->out, s->plain, CLUSTER);
    for (size_t i = CLUSTER; i < sizeof s->out; i++)
        assert_int_equal(s->out[i], 0xa5);
}

static void expect_eio(struct sample *s, enum q2_compression type, size_t in_len)
{
    assert_int_equal(q2_decompress(type, s->compressed, in_len, s->out, CLUSTER), -EIO);
    for (size_t i = CLUSTER; i < sizeof s->out; i++)
        assert_int_equal(s->out[i], 0xa5);
}

static void add_garbage(struct sample *s)
{
    size_t end = align_up(s->compressed_len, 512);

    for (size_t i = s->compressed_len; i < end; i++)
        s->compressed[i] = (uint8_t)(i * 37 + 1);
    s->compressed_len = end;
}

static void test_zlib_as_qemu_writes(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zlib(s->plain, CLUSTER, s->compressed, ROOM, 6, -12);
    expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
    add_garbage(s);
    expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
}

static void test_zlib_levels_and_windows(void **state)
{
    struct sample *s = *state;

    for (int level = 0; level <= 9; level++) {
        for (int bits = 9; bits <= 15; bits++) {
            s->compressed_len = pack_zlib(s->plain, CLUSTER, s->compressed, ROOM, level, -bits);
            add_garbage(s);
            expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
        }
    }
}

static void test_libdeflate_32k_window(void **state)
{
    struct sample *s = *state;

    for (int level = 1; level <= 12; level++) {
        s->compressed_len = pack_libdeflate(s->plain, CLUSTER, s->compressed, ROOM, level);
        add_garbage(s);
        expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
    }
}

/* The end-of-block code is missing, all content is there: zlib says Z_BUF_ERROR, and it is taken as QEMU does. */
static void test_deflate_end_cut_off(void **state)
{
    struct sample *s = *state;

    /* Stored blocks, then an empty final one of 5 bytes that is cut off: the decoder wants more and has it all. */
    s->compressed_len = pack_zlib(s->plain, CLUSTER, s->compressed, ROOM, 0, -15);
    s->compressed[s->compressed_len] = 1;
    for (size_t pos = 0; pos < s->compressed_len;) {
        size_t len = (size_t)(s->compressed[pos + 1] | s->compressed[pos + 2] << 8);

        s->compressed[pos] &= 0xfe; /* no block is the last */
        pos += 5 + len;
    }
    expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
    expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len + 1);
    expect_eio(s, Q2_COMPRESSION_ZLIB, s->compressed_len - 1);
}

/* More than a cluster: what fits is the cluster. */
static void test_deflate_too_much_output(void **state)
{
    struct sample *s = *state;
    uint8_t *longer = malloc(CLUSTER + 1000);

    assert_non_null(longer);
    memcpy(longer, s->plain, CLUSTER);
    memset(longer + CLUSTER, 'x', 1000);
    s->compressed_len = pack_zlib(longer, CLUSTER + 1000, s->compressed, ROOM, 6, -12);
    expect_plain(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
    free(longer);
}

static void test_deflate_too_little_output(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zlib(s->plain, CLUSTER - 1, s->compressed, ROOM, 6, -12);
    expect_eio(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
    add_garbage(s);
    expect_eio(s, Q2_COMPRESSION_ZLIB, s->compressed_len);
}

static void test_deflate_truncated(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zlib(s->plain, CLUSTER, s->compressed, ROOM, 6, -12);
    for (size_t len = 0; len + 16 < s->compressed_len; len += 509)
        expect_eio(s, Q2_COMPRESSION_ZLIB, len);
}

static void test_zstd_one_frame(void **state)
{
    struct sample *s = *state;
    static const int levels[] = {-5, 1, 3, 9, 19, 22};

    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        s->compressed_len = pack_zstd(s->plain, CLUSTER, s->compressed, ROOM, levels[i]);
        expect_plain(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
        add_garbage(s);
        expect_plain(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
    }
}

/* Streamed without a known size: the frame has no content size and a window larger than the cluster. */
static void test_zstd_large_window(void **state)
{
    struct sample *s = *state;
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_inBuffer in = {s->plain, CLUSTER / 2, 0};
    ZSTD_outBuffer out = {s->compressed, ROOM, 0};

    assert_non_null(c);
    ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, 27);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    assert_false(ZSTD_isError(ZSTD_compressStream2(c, &out, &in, ZSTD_e_flush)));
    in.size = CLUSTER;
    assert_int_equal(ZSTD_compressStream2(c, &out, &in, ZSTD_e_end), 0);
    ZSTD_freeCCtx(c);
    s->compressed_len = out.pos;
    add_garbage(s);
    expect_plain(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
}

static void test_zstd_several_frames(void **state)
{
    struct sample *s = *state;
    static const uint8_t skippable[] = {0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'};
    size_t n = 0;

    n += pack_zstd(s->plain, 1000, s->compressed, ROOM, 1);
    memcpy(s->compressed + n, skippable, sizeof skippable);
    n += sizeof skippable;
    n += pack_zstd(s->plain, 0, s->compressed + n, ROOM - n, 1);
    n += pack_zstd(s->plain + 1000, CLUSTER - 1000, s->compressed + n, ROOM - n, 7);
    s->compressed_len = n;
    expect_plain(s, Q2_COMPRESSION_ZSTD, n);
    add_garbage(s);
    expect_plain(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
    expect_eio(s, Q2_COMPRESSION_ZSTD, n - 1);
}

static void test_zstd_wrong_size(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zstd(s->plain, CLUSTER - 1, s->compressed, ROOM, 1);
    expect_eio(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
    /* One byte too many: QEMU refuses it too. */
    s->compressed_len = pack_zstd(s->plain, CLUSTER - 1, s->compressed, ROOM, 1);
    s->compressed_len += pack_zstd(s->plain, 2, s->compressed + s->compressed_len, ROOM - s->compressed_len, 1);
    expect_eio(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
}

static void test_zstd_truncated(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zstd(s->plain, CLUSTER, s->compressed, ROOM, 3);
    for (size_t len = 0; len < s->compressed_len; len += 509)
        expect_eio(s, Q2_COMPRESSION_ZSTD, len);
    expect_eio(s, Q2_COMPRESSION_ZSTD, s->compressed_len - 1);
}

/* Damage is refused, or gives wrong bytes; never writes past the output (the guard, and ASan). */
static void damage(struct sample *s, enum q2_compression type)
{
    struct q2_inflater *f;
    uint32_t seed = 7;
    unsigned refused = 0;

    assert_int_equal(q2_inflater_create(type, &f), 0);
    for (int i = 0; i < 300; i++) {
        size_t at;
        uint8_t bit;
        int rc;

        seed = seed * 1103515245u + 12345u;
        at = (seed >> 8) % s->compressed_len;
        bit = (uint8_t)(1u << (seed >> 29));
        s->compressed[at] ^= bit;
        rc = q2_inflate(f, s->compressed, s->compressed_len, s->out, CLUSTER);
        assert_true(rc == 0 || rc == -EIO);
        refused += rc != 0;
        for (size_t k = CLUSTER; k < sizeof s->out; k++)
            assert_int_equal(s->out[k], 0xa5);
        s->compressed[at] ^= bit;
        /* The decoder is as good as new after a failure. */
        assert_int_equal(q2_inflate(f, s->compressed, s->compressed_len, s->out, CLUSTER), 0);
        assert_memory_equal(s->out, s->plain, CLUSTER);
    }
    assert_true(refused > 0);
    q2_inflater_destroy(f);
}

static void test_deflate_damaged(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zlib(s->plain, CLUSTER, s->compressed, ROOM, 6, -12);
    damage(s, Q2_COMPRESSION_ZLIB);
}

static void test_zstd_damaged(void **state)
{
    struct sample *s = *state;

    s->compressed_len = pack_zstd(s->plain, CLUSTER, s->compressed, ROOM, 3);
    damage(s, Q2_COMPRESSION_ZSTD);
}

static void test_wrong_type(void **state)
{
    struct sample *s = *state;
    struct q2_inflater *f = NULL;

    s->compressed_len = pack_zlib(s->plain, CLUSTER, s->compressed, ROOM, 6, -12);
    expect_eio(s, Q2_COMPRESSION_ZSTD, s->compressed_len);
    assert_int_equal(q2_inflater_create((enum q2_compression)2, &f), -ENOTSUP);
    assert_null(f);
    q2_inflater_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_zlib_as_qemu_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zlib_levels_and_windows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_libdeflate_32k_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deflate_end_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deflate_too_much_output, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deflate_too_little_output, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deflate_truncated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd_one_frame, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd_large_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd_several_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd_wrong_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd_truncated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deflate_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_type, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
