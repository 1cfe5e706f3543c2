/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library's memory: malloc() and its kin, or what the host program has given in their place
 * (vdisk_set_allocator()). All rooms ask here, lint holds it; only what a caller is told to free() does not come
 * by.
 *
 * Where nothing was given, a call is a look at one byte and then malloc() itself.
 *
 * Invariants
 *  1. The state changes once, from UNUSED: nothing is freed by another allocator than it is from.
 */
#ifndef ENGINE_MEM_H
#define ENGINE_MEM_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum mem_state { MEM_UNUSED, MEM_PLAIN, MEM_GIVEN };

/* What is called in place of the C library's. Of all memory, aligned or not, free() is the one. */
struct mem_functions {
    void *(*malloc)(void *opaque, size_t size);
    void *(*calloc)(void *opaque, size_t n, size_t size);
    void *(*realloc)(void *opaque, void *p, size_t size);
    void *(*aligned_alloc)(void *opaque, size_t align, size_t size);
    void (*free)(void *opaque, void *p);
    void *opaque;
};

extern __attribute__((visibility("hidden"))) _Atomic uint8_t mem_state; /* enum mem_state */

/* From here on all memory comes from there. False: some has been asked for by now. Any thread. */
bool mem_give(const struct mem_functions *f);

/* What the functions below do, where they are not plain (yet). */
void *mem_slow_alloc(size_t size);
void *mem_slow_calloc(size_t n, size_t size);
void *mem_slow_realloc(void *p, size_t size);
void *mem_slow_aligned(size_t align, size_t size);
void mem_slow_free(void *p);

static inline bool mem_is_plain(void)
{
    return __builtin_expect(atomic_load_explicit(&mem_state, memory_order_acquire) == MEM_PLAIN, 1);
}

/* As malloc(), calloc(), realloc(), free(). */
static inline __attribute__((malloc, alloc_size(1))) void *mem_alloc(size_t size)
{
    return mem_is_plain() ? malloc(size) : mem_slow_alloc(size);
}

static inline __attribute__((malloc, alloc_size(1, 2))) void *mem_calloc(size_t n, size_t size)
{
    return mem_is_plain() ? calloc(n, size) : mem_slow_calloc(n, size);
}

static inline __attribute__((alloc_size(2))) void *mem_realloc(void *p, size_t size)
{
    return mem_is_plain() ? realloc(p, size) : mem_slow_realloc(p, size);
}

static inline void mem_free(void *p)
{
    if (mem_is_plain())
        free(p);
    else
        mem_slow_free(p);
}

/* `align`: a power of two, of pointers' size at least; `size` need be no multiple. */
static inline __attribute__((malloc, alloc_size(2))) void *mem_aligned(size_t align, size_t size)
{
    void *p = NULL;

    if (!mem_is_plain())
        return mem_slow_aligned(align, size);
    return posix_memalign(&p, align, size) == 0 ? p : NULL;
}

/* As posix_memalign(): not 0: out of memory. */
static inline int mem_memalign(void **ret, size_t align, size_t size)
{
    *ret = mem_aligned(align, size);
    return *ret ? 0 : -1;
}

/* Memory that direct I/O takes anywhere: vdisk_alloc_buffer() for ourselves. */
static inline __attribute__((malloc, alloc_size(1))) void *mem_buffer(size_t len)
{
    return mem_aligned(4096, len ? len : 1);
}

static inline __attribute__((alloc_size(2, 3))) void *mem_reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;

    return __builtin_mul_overflow(n, size, &bytes) ? NULL : mem_realloc(p, bytes);
}

/* NULL: out of memory; of the third, also no such path. */
char *mem_strdup(const char *text);
char *mem_strndup(const char *text, size_t max);
char *mem_realpath(const char *path);

/* As asprintf() and vasprintf(): negative: out of memory, and *ret is NULL. */
int mem_asprintf(char **ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int mem_vasprintf(char **ret, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

/*
 * A wish: long memory that is used from one end to the other is to lie in huge pages. That takes fewer faults, and
 * what is on its way to a device lies in fewer pieces. `p` is aligned to 4096; to MEM_HUGE, where all of it is
 * meant. errno stays.
 */
enum { MEM_HUGE = 2 << 20 };
void mem_prefer_huge(void *p, size_t len);

#endif
