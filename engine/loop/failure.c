/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/failure.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/loop/io.h"

_Thread_local uint32_t failure_now;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct failure kept[FAILURES_KEPT];
static uint32_t last;

static void keep(const struct failure *what, const char *file)
{
    size_t len = strlen(file), skip = len >= FAILURE_NAME_MAX ? len - FAILURE_NAME_MAX + 1 : 0;
    struct failure *f;

    assert(what->res < 0 && len - skip < FAILURE_NAME_MAX);
    pthread_mutex_lock(&lock);
    last += last == UINT32_MAX ? 2 : 1;
    assert(last != 0); /* that is the number of none */
    f = &kept[last % FAILURES_KEPT];
    *f = *what;
    f->number = last;
    memcpy(f->file, file + skip, len - skip + 1);
    failure_now = last;
    pthread_mutex_unlock(&lock);
}

void failure_note(const struct io *io, int32_t res)
{
    struct failure what = {.res = res, .kind = io->kind, .offset = io->offset, .len = io->len};
    struct backend *b = io->backend;

    assert(res < 0 && io->kind < IO_KINDS);
    if (res == -ENOTSUP) {
        failure_now = 0; /* the answer to a question, and no failure */
        return;
    }
    if (res == -EIO && b->driver->explain)
        b->driver->explain(b, what.why, sizeof what.why);
    if (b->driver->advise)
        what.hint = b->driver->advise(res);
    keep(&what, b->name);
}

void failure_note_content(const struct backend *file, uint64_t offset, uint64_t len)
{
    assert(len > 0);
    keep(&(struct failure){.res = -EIO, .kind = FAILURE_CONTENT, .offset = offset, .len = len}, file->name);
}

bool failure_find(uint32_t number, int32_t res, struct failure *ret)
{
    bool found;

    if (number == 0)
        return false;
    pthread_mutex_lock(&lock);
    *ret = kept[number % FAILURES_KEPT];
    assert(ret->number == 0 || ret->number % FAILURES_KEPT == number % FAILURES_KEPT); /* invariant 2 */
    found = ret->number == number && ret->res == res;
    pthread_mutex_unlock(&lock);
    return found;
}
