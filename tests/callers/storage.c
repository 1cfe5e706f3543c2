/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/callers/storage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What no storage may be asked. */
static void require(bool holds, const char *what, const struct vdisk_backend_io *io)
{
    if (holds)
        return;
    fprintf(stderr, "the storage was asked for what it does not have: %s (kind %d, %llu+%llu, flags %x)\n", what,
            (int)io->kind, (unsigned long long)io->offset, (unsigned long long)io->len, io->flags);
    abort();
}

static bool moves(const struct vdisk_backend_io *io)
{
    return io->kind == VDISK_BACKEND_IO_READ || io->kind == VDISK_BACKEND_IO_WRITE;
}

static bool grows(const struct storage *s)
{
    return s->ops.caps & VDISK_BACKEND_GROWS;
}

static void judge_buffers(const struct storage *s, const struct vdisk_backend_io *io, bool whole)
{
    uint64_t len = 0, align = s->ops.memory_align ? s->ops.memory_align : 1;

    for (unsigned i = 0; i < io->iovcnt; i++) {
        require(io->iov[i].iov_len > 0, "an empty buffer", io);
        require(!whole || (uintptr_t)io->iov[i].iov_base % align == 0, "where a buffer is", io);
        len += io->iov[i].iov_len;
    }
    require(len == io->len && len > 0, "buffers of that length", io);
    require(!s->ops.max_iov || io->iovcnt <= s->ops.max_iov, "so many buffers", io);
    require(!s->ops.max_transfer || len <= s->ops.max_transfer, "so much at a time", io);
}

/* Under the lock. */
static void judge(const struct storage *s, const struct vdisk_backend_io *io)
{
    uint64_t align = s->ops.align ? s->ops.align : 1, end = io->offset + io->len;
    static const uint32_t needs[STORAGE_KINDS] = {
        [VDISK_BACKEND_IO_ZERO] = VDISK_BACKEND_ZERO, [VDISK_BACKEND_IO_DISCARD] = VDISK_BACKEND_DISCARD,
        [VDISK_BACKEND_IO_ALLOCATE] = VDISK_BACKEND_ALLOCATE, [VDISK_BACKEND_IO_TRUNCATE] = VDISK_BACKEND_GROWS,
    };
    bool ends_inside = grows(s) && (end == s->size || io->kind == VDISK_BACKEND_IO_WRITE);

    require(io->size == sizeof *io, "a struct of that size", io);
    require(io->kind > 0 && io->kind <= VDISK_BACKEND_IO_TRUNCATE, "a kind", io);
    require((needs[io->kind] & s->ops.caps) == needs[io->kind], "a kind that it does not take", io);
    require(!(io->flags & VDISK_BACKEND_IO_FUA) || s->ops.caps & VDISK_BACKEND_FUA, "FUA", io);
    require(!(io->flags & VDISK_BACKEND_IO_FUA) || io->kind == VDISK_BACKEND_IO_WRITE, "FUA", io);
    require(io->kind != VDISK_BACKEND_IO_FLUSH || end == 0, "a flush of a range", io);
    require(io->kind != VDISK_BACKEND_IO_READ || s->was_cut || end <= s->size, "what is past its end", io);
    require(grows(s) || s->was_cut || end <= s->size, "to become longer", io);
    if (moves(io)) {
        bool whole = io->offset % align == 0 && io->len % align == 0;
        require(whole || ends_inside, "parts of a block", io);
        judge_buffers(s, io, whole);
    }
}

static int make_room(const struct storage *s, uint64_t end)
{
    return end > STORAGE_ROOM || (!grows(s) && end > s->size) ? -ENOSPC : 0;
}

static void copy(struct storage *s, const struct vdisk_backend_io *io)
{
    uint64_t at = io->offset;

    for (unsigned i = 0; i < io->iovcnt; at += io->iov[i++].iov_len) {
        if (io->kind == VDISK_BACKEND_IO_READ)
            memcpy(io->iov[i].iov_base, s->bytes + at, io->iov[i].iov_len);
        else
            memcpy(s->bytes + at, io->iov[i].iov_base, io->iov[i].iov_len);
    }
}

static void raise_end(struct storage *s, uint64_t end)
{
    if (end > s->size)
        s->size = end;
}

/* Under the lock. */
static int do_it(struct storage *s, const struct vdisk_backend_io *io)
{
    uint64_t end = io->offset + io->len;
    int rc = io->kind == VDISK_BACKEND_IO_READ ? (end > s->size ? -EIO : 0) : make_room(s, end);

    judge(s, io);
    s->count[io->kind]++;
    s->fua += !!(io->flags & VDISK_BACKEND_IO_FUA);
    if (++s->requests == s->fail_nth) {
        s->failed++;
        return s->error;
    }
    if (rc < 0)
        return rc;
    switch (io->kind) {
    case VDISK_BACKEND_IO_READ:
        copy(s, io);
        break;
    case VDISK_BACKEND_IO_WRITE:
        copy(s, io);
        raise_end(s, end);
        break;
    case VDISK_BACKEND_IO_ZERO:
        memset(s->bytes + io->offset, 0, io->len);
        raise_end(s, end);
        break;
    case VDISK_BACKEND_IO_DISCARD:
        memset(s->bytes + io->offset, 0, end < s->size ? io->len : s->size - io->offset);
        break;
    case VDISK_BACKEND_IO_ALLOCATE:
        raise_end(s, end);
        break;
    case VDISK_BACKEND_IO_TRUNCATE:
        if (io->offset < s->size)
            memset(s->bytes + io->offset, 0, s->size - io->offset);
        s->size = io->offset;
        break;
    case VDISK_BACKEND_IO_FLUSH:
        break;
    }
    return 0;
}

/* Under the lock. */
static int carry_out(struct storage *s, const struct vdisk_backend_io *io)
{
    int rc = do_it(s, io);

    if (s->look)
        s->look(s);
    return rc;
}

/* ---- threads --------------------------------------------------------------------------------------------- */

static struct vdisk_backend_io *take(struct storage *s)
{
    unsigned i = 0;
    struct vdisk_backend_io *io;

    s->seed = s->seed * 6364136223846793005u + 1442695040888963407u;
    if (s->way == STORAGE_SHUFFLED)
        i = (unsigned)(s->seed >> 33) % s->waiting_count;
    io = s->waiting[i];
    s->waiting_count--;
    memmove(s->waiting + i, s->waiting + i + 1, (s->waiting_count - i) * sizeof *s->waiting);
    return io;
}

static void *work(void *arg)
{
    struct storage *s = arg;

    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct vdisk_backend_io *io;
        int rc;
        while (!s->ending && (s->held || s->waiting_count == 0))
            pthread_cond_wait(&s->wake, &s->lock);
        if (s->ending)
            break;
        io = take(s);
        rc = carry_out(s, io);
        pthread_mutex_unlock(&s->lock);
        vdisk_backend_io_done(io, rc);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- what the library calls ------------------------------------------------------------------------------ */

static void submit(void *opaque, struct vdisk_backend_io *io)
{
    struct storage *s = opaque;
    int rc;

    pthread_mutex_lock(&s->lock);
    require(!io->own[0] && !io->own[1] && !io->own[2], "something of its own that is set", io);
    if (s->threads_count == 0) {
        rc = carry_out(s, io);
        pthread_mutex_unlock(&s->lock);
        vdisk_backend_io_done(io, rc);
        return;
    }
    require(s->waiting_count < sizeof s->waiting / sizeof s->waiting[0], "too much at once", io);
    s->waiting[s->waiting_count++] = io;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static uint64_t get_size(void *opaque)
{
    struct storage *s = opaque;
    uint64_t size;

    pthread_mutex_lock(&s->lock);
    size = s->size;
    pthread_mutex_unlock(&s->lock);
    if (s->sized)
        s->sized(s);
    return size;
}

static int open_it(void *opaque, bool writable)
{
    struct storage *s = opaque;

    pthread_mutex_lock(&s->lock);
    if (!s->refuses) {
        s->opens++;
        s->writable_opens += writable;
    }
    pthread_mutex_unlock(&s->lock);
    return s->refuses;
}

static void close_it(void *opaque)
{
    struct storage *s = opaque;

    pthread_mutex_lock(&s->lock);
    s->closes++;
    pthread_mutex_unlock(&s->lock);
}

/* ---- the test's ------------------------------------------------------------------------------------------ */

int storage_start(struct storage *s, const char *id)
{
    unsigned n = s->way == STORAGE_AT_ONCE ? 0 : s->way == STORAGE_THREAD ? 1 : STORAGE_THREADS;

    s->ops.size = sizeof s->ops;
    s->ops.submit = submit;
    s->ops.get_size = get_size;
    s->ops.open = open_it;
    s->ops.close = close_it;
    s->bytes = calloc(1, STORAGE_ROOM);
    if (!s->bytes)
        return -ENOMEM;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    while (s->threads_count < n) {
        int rc = pthread_create(&s->threads[s->threads_count], NULL, work, s);
        if (rc != 0)
            return -rc;
        s->threads_count++;
    }
    return vdisk_backend_register(id, &s->ops, s);
}

void storage_hold(struct storage *s, bool held)
{
    pthread_mutex_lock(&s->lock);
    s->held = held;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void storage_fail(struct storage *s, uint64_t nth, int error)
{
    pthread_mutex_lock(&s->lock);
    s->requests = s->failed = 0;
    s->fail_nth = nth;
    s->error = error;
    pthread_mutex_unlock(&s->lock);
}

unsigned storage_waiting(struct storage *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->waiting_count;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void storage_resize(struct storage *s, uint64_t size)
{
    pthread_mutex_lock(&s->lock);
    if (size < s->size)
        memset(s->bytes + size, 0, s->size - size);
    s->was_cut = size < s->size;
    s->size = size;
    pthread_mutex_unlock(&s->lock);
}

void storage_stop(struct storage *s)
{
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->threads_count; i++)
        pthread_join(s->threads[i], NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s->bytes);
    s->bytes = NULL;
    s->threads_count = 0;
}
