/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Alignment, big-endian access, checked arithmetic. Pure. */
#ifndef ENGINE_BITS_H
#define ENGINE_BITS_H

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define HIDDEN __attribute__((visibility("hidden"))) /* a variable of ours is found without a table */
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline bool is_power_of_two(uint64_t x)
{
    return x != 0 && (x & (x - 1)) == 0;
}

/* `align` is a power of two in all three. */
static inline uint64_t align_down(uint64_t x, uint64_t align)
{
    assert(is_power_of_two(align));
    return x & ~(align - 1);
}

static inline uint64_t align_up(uint64_t x, uint64_t align)
{
    assert(is_power_of_two(align) && x <= UINT64_MAX - (align - 1));
    return (x + align - 1) & ~(align - 1);
}

static inline bool is_aligned(uint64_t x, uint64_t align)
{
    assert(is_power_of_two(align));
    return (x & (align - 1)) == 0;
}

/* Position of the highest set bit; x is not 0. */
static inline unsigned log2_floor(uint64_t x)
{
    assert(x != 0);
    return 63u - (unsigned)__builtin_clzll(x);
}

static inline uint64_t div_up(uint64_t x, uint64_t y)
{
    assert(y != 0);
    return x / y + (x % y != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* true: no overflow, *ret is set. */
static inline bool add_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}

static inline bool mul_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

/* For interfaces (iovec) that have no const form; the memory is not written. */
static inline void *unconst(const void *p)
{
    return (void *)(uintptr_t)p;
}

/* Big-endian at any alignment. */
static inline uint16_t get_be16(const void *p)
{
    uint16_t x;

    memcpy(&x, p, sizeof x);
    return be16toh(x);
}

static inline uint32_t get_be32(const void *p)
{
    uint32_t x;

    memcpy(&x, p, sizeof x);
    return be32toh(x);
}

static inline uint64_t get_be64(const void *p)
{
    uint64_t x;

    memcpy(&x, p, sizeof x);
    return be64toh(x);
}

static inline void put_be16(void *p, uint16_t x)
{
    x = htobe16(x);
    memcpy(p, &x, sizeof x);
}

static inline void put_be32(void *p, uint32_t x)
{
    x = htobe32(x);
    memcpy(p, &x, sizeof x);
}

static inline void put_be64(void *p, uint64_t x)
{
    x = htobe64(x);
    memcpy(p, &x, sizeof x);
}

/* Have [a, a_end) and [b, b_end) something in common? */
static inline bool ranges_meet(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
    return a < b_end && b < a_end;
}

#endif
