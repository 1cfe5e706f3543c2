/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BLAKE2b (RFC 7693) as it stands there, but that each word is a vector of the four messages' words.
 *
 * Vectors are the compiler's own, so that there is nothing of AVX2 here but the shuffles by bytes, which it has in
 * place of rotations. AVX-512 has those, and registers for all of a block: of it the same vectors are used, since
 * longer ones would take twice the blocks. Failure modes: none.
 */
#include "jobs/lanes.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#if defined __x86_64__

enum { MESSAGE_BLOCK = 128, WORDS = MESSAGE_BLOCK / 8, ROUNDS = 12 };

typedef uint64_t words __attribute__((vector_size(8 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(8 * LANES)));

#define WITH_AVX2   __attribute__((target("avx2")))
#define WITH_AVX512 __attribute__((target("avx2,avx512f,avx512vl")))
#define PART static inline __attribute__((target("avx2"), always_inline))

static const uint64_t initial[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

static const uint8_t sigma[ROUNDS][WORDS] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
};

/* Bytes of each word in another order. */
#define TURNED(x, a, b, c, d, e, f, g, h)                                                                      \
    (words) __builtin_shufflevector((bytes)(x), (bytes)(x), a, b, c, d, e, f, g, h, 8 + (a), 8 + (b), 8 + (c), \
                                    8 + (d), 8 + (e), 8 + (f), 8 + (g), 8 + (h), 16 + (a), 16 + (b), 16 + (c), \
                                    16 + (d), 16 + (e), 16 + (f), 16 + (g), 16 + (h), 24 + (a), 24 + (b),      \
                                    24 + (c), 24 + (d), 24 + (e), 24 + (f), 24 + (g), 24 + (h))

PART words turned(words x, unsigned bits, bool rotates)
{
    if (rotates)
        return x >> bits | x << (64 - bits);
    switch (bits) {
    case 32: return TURNED(x, 4, 5, 6, 7, 0, 1, 2, 3);
    case 24: return TURNED(x, 3, 4, 5, 6, 7, 0, 1, 2);
    case 16: return TURNED(x, 2, 3, 4, 5, 6, 7, 0, 1);
    default: return x >> bits | (x + x); /* 63 */
    }
}

PART void mix(words *a, words *b, words *c, words *d, words x, words y, bool rotates)
{
    *a += *b + x;
    *d = turned(*d ^ *a, 32, rotates);
    *c += *d;
    *b = turned(*b ^ *c, 24, rotates);
    *a += *b + y;
    *d = turned(*d ^ *a, 16, rotates);
    *c += *d;
    *b = turned(*b ^ *c, 63, rotates);
}

/* Four words of each message: from rows to columns. */
PART void load(const uint8_t *const data[LANES], size_t at, words ret[4])
{
    words row[LANES], low[2], high[2];

    for (unsigned i = 0; i < LANES; i++)
        memcpy(&row[i], data[i] + at, sizeof row[i]);
    for (unsigned i = 0; i < 2; i++) {
        low[i] = __builtin_shufflevector(row[2 * i], row[2 * i + 1], 0, 4, 2, 6);
        high[i] = __builtin_shufflevector(row[2 * i], row[2 * i + 1], 1, 5, 3, 7);
    }
    ret[0] = __builtin_shufflevector(low[0], low[1], 0, 1, 4, 5);
    ret[1] = __builtin_shufflevector(high[0], high[1], 0, 1, 4, 5);
    ret[2] = __builtin_shufflevector(low[0], low[1], 2, 3, 6, 7);
    ret[3] = __builtin_shufflevector(high[0], high[1], 2, 3, 6, 7);
}

PART words in_all(uint64_t word)
{
    return (words){word, word, word, word};
}

PART void one_round(words v[16], const words m[WORDS], const uint8_t s[WORDS], bool rotates)
{
    mix(&v[0], &v[4], &v[8], &v[12], m[s[0]], m[s[1]], rotates);
    mix(&v[1], &v[5], &v[9], &v[13], m[s[2]], m[s[3]], rotates);
    mix(&v[2], &v[6], &v[10], &v[14], m[s[4]], m[s[5]], rotates);
    mix(&v[3], &v[7], &v[11], &v[15], m[s[6]], m[s[7]], rotates);
    mix(&v[0], &v[5], &v[10], &v[15], m[s[8]], m[s[9]], rotates);
    mix(&v[1], &v[6], &v[11], &v[12], m[s[10]], m[s[11]], rotates);
    mix(&v[2], &v[7], &v[8], &v[13], m[s[12]], m[s[13]], rotates);
    mix(&v[3], &v[4], &v[9], &v[14], m[s[14]], m[s[15]], rotates);
}

/* A block of each message, from `at` on; `count` bytes are before its end. */
PART void compress(words hash[8], const uint8_t *const data[LANES], size_t at, uint64_t count, bool last,
                   bool rotates)
{
    words m[WORDS], v[16];

    for (unsigned i = 0; i < WORDS; i += 4)
        load(data, at + 8 * i, m + i);
    for (unsigned i = 0; i < 8; i++) {
        v[i] = hash[i];
        v[8 + i] = in_all(initial[i]);
    }
    v[12] ^= in_all(count);
    if (last)
        v[14] = ~v[14];
    /* By hand: gcc unrolls too late to have all of that in registers. */
    one_round(v, m, sigma[0], rotates);
    one_round(v, m, sigma[1], rotates);
    one_round(v, m, sigma[2], rotates);
    one_round(v, m, sigma[3], rotates);
    one_round(v, m, sigma[4], rotates);
    one_round(v, m, sigma[5], rotates);
    one_round(v, m, sigma[6], rotates);
    one_round(v, m, sigma[7], rotates);
    one_round(v, m, sigma[8], rotates);
    one_round(v, m, sigma[9], rotates);
    one_round(v, m, sigma[10], rotates);
    one_round(v, m, sigma[11], rotates);
    for (unsigned i = 0; i < 8; i++)
        hash[i] ^= v[i] ^ v[8 + i];
}

typedef void compress_fn(words hash[8], const uint8_t *const data[LANES], size_t at, uint64_t count, bool last);

WITH_AVX2 static void compress_avx2(words hash[8], const uint8_t *const data[LANES], size_t at, uint64_t count,
                                    bool last)
{
    compress(hash, data, at, count, last, false);
}

WITH_AVX512 static void compress_avx512(words hash[8], const uint8_t *const data[LANES], size_t at,
                                        uint64_t count, bool last)
{
    compress(hash, data, at, count, last, true);
}

WITH_AVX2 static void digest(compress_fn *compressing, const uint8_t *const data[LANES], size_t len,
                             uint8_t ret[LANES][LANES_DIGEST])
{
    uint8_t ends[LANES][MESSAGE_BLOCK] = {0};
    const uint8_t *end[LANES];
    words hash[8];
    size_t at = 0;

    for (unsigned i = 0; i < 8; i++)
        hash[i] = in_all(initial[i]);
    hash[0] ^= in_all(0x01010000 | LANES_DIGEST); /* no key, no tree */
    for (; len - at > MESSAGE_BLOCK; at += MESSAGE_BLOCK)
        compressing(hash, data, at, at + MESSAGE_BLOCK, false);
    for (unsigned l = 0; l < LANES; l++) {
        memcpy(ends[l], data[l] + at, len - at);
        end[l] = ends[l];
    }
    compressing(hash, end, 0, len, true);
    for (unsigned l = 0; l < LANES; l++)
        for (unsigned i = 0; i < LANES_DIGEST / 8; i++)
            memcpy(&ret[l][8 * i], (const uint64_t *)&hash[i] + l, 8);
}

enum lanes_kind lanes_best(void)
{
    if (!__builtin_cpu_supports("avx2"))
        return LANES_NONE;
    return __builtin_cpu_supports("avx512vl") ? LANES_AVX512 : LANES_AVX2;
}

void lanes_digest(enum lanes_kind kind, const uint8_t *const data[LANES], size_t len,
                  uint8_t ret[LANES][LANES_DIGEST])
{
    assert(kind != LANES_NONE && kind <= lanes_best());
    digest(kind == LANES_AVX512 ? compress_avx512 : compress_avx2, data, len, ret);
}

#else

enum lanes_kind lanes_best(void)
{
    return LANES_NONE;
}

void lanes_digest(enum lanes_kind kind, const uint8_t *const data[LANES], size_t len,
                  uint8_t ret[LANES][LANES_DIGEST])
{
    (void)kind, (void)data, (void)len, (void)ret;
    assert(!"there is none here");
}

#endif
