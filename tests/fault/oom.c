/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One thread: the tests that link this run their volumes in a simulation, or on a queue of their own thread. */
#include "tests/fault/oom.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void **ret, size_t align, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t max);
void __real_free(void *p);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_posix_memalign(void **ret, size_t align, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t max);
void __wrap_free(void *p);

enum { SLOTS = 1 << 16 };

static struct {
    bool inside, armed, forever, fired, watching;
    unsigned count, nth, live;
    uintptr_t set[SLOTS]; /* addresses that are live; 0: free, 1: was in use */
} oom;

void oom_arm(unsigned nth, bool forever)
{
    oom.armed = true;
    oom.forever = forever;
    oom.fired = false;
    oom.count = 0;
    oom.nth = nth;
}

bool oom_disarm(void)
{
    bool fired = oom.armed && oom.fired;

    oom.armed = false;
    return fired;
}

void oom_enter(void)
{
    oom.inside = true;
}

void oom_leave(void)
{
    oom.inside = false;
}

void oom_watch(void)
{
    memset(oom.set, 0, sizeof oom.set);
    oom.live = 0;
    oom.watching = true;
}

unsigned oom_live(void)
{
    oom.watching = false;
    return oom.live;
}

static bool fails(void)
{
    if (!oom.inside || !oom.armed)
        return false;
    oom.count++;
    if (oom.count != oom.nth && !(oom.forever && oom.count > oom.nth))
        return false;
    oom.fired = true;
    errno = ENOMEM;
    return true;
}

static unsigned slot_of(uintptr_t p)
{
    return (unsigned)((p >> 4) * 2654435761u % SLOTS);
}

static void *born(void *p)
{
    unsigned i = slot_of((uintptr_t)p);

    if (!p || !oom.inside || !oom.watching || oom.live > SLOTS / 2)
        return p;
    while (oom.set[i] > 1)
        i = (i + 1) % SLOTS;
    oom.set[i] = (uintptr_t)p;
    oom.live++;
    return p;
}

/* Wherever it is given back. */
static void died(const void *p)
{
    if (!p || !oom.watching)
        return;
    for (unsigned i = slot_of((uintptr_t)p); oom.set[i]; i = (i + 1) % SLOTS) {
        if (oom.set[i] != (uintptr_t)p)
            continue;
        oom.set[i] = 1;
        oom.live--;
        return;
    }
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : born(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : born(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    void *moved;

    if (fails())
        return NULL;
    died(p); /* before: the address may be another's at once */
    moved = __real_realloc(p, size);
    return born(moved);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return fails() ? NULL : born(__real_aligned_alloc(align, size));
}

int __wrap_posix_memalign(void **ret, size_t align, size_t size)
{
    int rc = fails() ? ENOMEM : __real_posix_memalign(ret, align, size);

    if (rc == 0)
        born(*ret);
    return rc;
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : born(__real_strdup(text));
}

char *__wrap_strndup(const char *text, size_t max)
{
    return fails() ? NULL : born(__real_strndup(text, max));
}

void __wrap_free(void *p)
{
    died(p);
    __real_free(p);
}
