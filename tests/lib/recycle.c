/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/recycle.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/lib/test.h"

enum { KEPT = 32 };

/* In front of what is handed out. */
struct piece {
    size_t room;
    size_t zeros; /* so many of its first bytes are */
};

static struct piece *kept[KEPT];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The smallest with room for `size`, all zeros or not; NULL: none. */
static struct piece **fitting(size_t size, bool zeros)
{
    struct piece **found = NULL;

    for (unsigned i = 0; i < KEPT; i++)
        if (kept[i] && kept[i]->room >= size && zeros == (kept[i]->zeros >= size) &&
            (!found || kept[i]->room < (*found)->room))
            found = &kept[i];
    return found;
}

/* Where one can be put: an empty place, or that of the smallest. */
static struct piece **place(void)
{
    struct piece **found = &kept[0];

    for (unsigned i = 0; i < KEPT && *found; i++)
        if (!kept[i] || kept[i]->room < (*found)->room)
            found = &kept[i];
    return found;
}

static struct piece *take_kept(size_t size, bool zeros)
{
    struct piece *piece = NULL, **found;

    pthread_mutex_lock(&lock);
    found = fitting(size, zeros);
    if (found) {
        piece = *found;
        *found = NULL;
    }
    pthread_mutex_unlock(&lock);
    return piece;
}

/* What is never touched costs nothing, whatever malloc() is told to fill its memory with. */
static struct piece *make(size_t size)
{
    struct piece *piece = mmap(NULL, sizeof *piece + size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    CHECK_MSG(piece != MAP_FAILED, "out of memory for %zu bytes", size);
    piece->room = size;
    piece->zeros = size;
    return piece;
}

void *recycle_take(size_t size)
{
    struct piece *piece = take_kept(size, false);

    if (!piece)
        piece = make(size);
    return piece + 1;
}

void *recycle_take_zeros(size_t size)
{
    struct piece *piece = take_kept(size, true);

    if (!piece && (piece = take_kept(size, false))) {
        memset(piece + 1, 0, size);
        piece->zeros = size;
    }
    if (!piece)
        piece = make(size);
    return piece + 1;
}

static void give(struct piece *piece)
{
    struct piece **at;

    pthread_mutex_lock(&lock);
    at = place();
    if (*at)
        munmap(*at, sizeof **at + (*at)->room);
    *at = piece;
    pthread_mutex_unlock(&lock);
}

void recycle_give(void *p)
{
    struct piece *piece = p;

    if (!piece)
        return;
    piece[-1].zeros = 0;
    give(piece - 1);
}

void recycle_give_zeros(void *p)
{
    if (p)
        give((struct piece *)p - 1);
}
