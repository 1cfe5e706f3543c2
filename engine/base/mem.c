/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

_Atomic uint8_t mem_state = MEM_UNUSED;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mem_functions given; /* fixed, once the state is MEM_GIVEN */

bool mem_give(const struct mem_functions *f)
{
    uint8_t unused = MEM_UNUSED;
    bool done = false;

    assert(f->malloc && f->calloc && f->realloc && f->aligned_alloc && f->free);
    pthread_mutex_lock(&lock);
    if (atomic_load(&mem_state) == MEM_UNUSED) {
        given = *f;
        done = atomic_compare_exchange_strong(&mem_state, &unused, MEM_GIVEN); /* invariant 1 */
    }
    pthread_mutex_unlock(&lock);
    return done;
}

/* The first call settles it. */
static bool is_given(void)
{
    uint8_t state = MEM_UNUSED;

    if (atomic_compare_exchange_strong(&mem_state, &state, MEM_PLAIN))
        return false;
    assert(state == MEM_PLAIN || state == MEM_GIVEN);
    return state == MEM_GIVEN;
}

void *mem_slow_alloc(size_t size)
{
    return is_given() ? given.malloc(given.opaque, size) : malloc(size);
}

void *mem_slow_calloc(size_t n, size_t size)
{
    return is_given() ? given.calloc(given.opaque, n, size) : calloc(n, size);
}

void *mem_slow_realloc(void *p, size_t size)
{
    return is_given() ? given.realloc(given.opaque, p, size) : realloc(p, size);
}

void *mem_slow_aligned(size_t align, size_t size)
{
    void *p = NULL;

    assert(align >= sizeof(void *) && (align & (align - 1)) == 0);
    if (is_given())
        return given.aligned_alloc(given.opaque, align, size);
    return posix_memalign(&p, align, size) == 0 ? p : NULL;
}

void mem_slow_free(void *p)
{
    if (!p)
        return;
    if (is_given())
        given.free(given.opaque, p);
    else
        free(p);
}

/* ---- texts ----------------------------------------------------------------------------------------------- */

char *mem_strndup(const char *text, size_t max)
{
    size_t len = strnlen(text, max);
    char *copy = mem_alloc(len + 1);

    assert(len <= max);
    if (!copy)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

char *mem_strdup(const char *text)
{
    return mem_strndup(text, strlen(text));
}

char *mem_realpath(const char *path)
{
    char *found = realpath(path, NULL), *copy = found ? mem_strdup(found) : NULL;

    free(found); /* the C library's */
    return copy;
}

int mem_vasprintf(char **ret, const char *fmt, va_list ap)
{
    va_list again;
    int len;

    va_copy(again, ap);
    len = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    *ret = len < 0 ? NULL : mem_alloc((size_t)len + 1);
    if (!*ret)
        return -1;
    len = vsnprintf(*ret, (size_t)len + 1, fmt, ap);
    assert(len >= 0 && strlen(*ret) == (size_t)len);
    return len;
}

int mem_asprintf(char **ret, const char *fmt, ...)
{
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = mem_vasprintf(ret, fmt, ap);
    va_end(ap);
    return len;
}

void mem_prefer_huge(void *p, size_t len)
{
    int kept = errno;

    assert((uintptr_t)p % 4096 == 0);
    if (len >= MEM_HUGE)
        madvise(p, len, MADV_HUGEPAGE); /* a kernel without them refuses */
    errno = kept;
}
