/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who makes a volume's storage larger: set, and answering. What is asked for, and what waits, is in
 * engine/loop/grower.c, its life with the volume in engine/loop/grower_life.c.
 *
 * Happy path: how far the file is in use is looked up, a thread is made that tells wishes, and those there are
 * come.
 * Failure modes: no thread: an error, and nobody is asked.
 */
#include <errno.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/error.h"
#include "engine/loop/grower.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"
#include "engine/watermark.h"

enum {
    CHUNK_MIB = 2560,
    AHEAD_MS = 10000,
    RETRY_MS = 2000,
};

/* ---- set ------------------------------------------------------------------------------------------------- */

static int copy_opts(const vdisk *v, const struct vdisk_grower_opts *user, struct vdisk_grower_opts *ret)
{
    memset(ret, 0, sizeof *ret);
    if (user) {
        if (user->size < sizeof(size_t) || user->size > 4096)
            return err_set(EINVAL, "%s: grower options of size %zu", v->top->name, user->size);
        memcpy(ret, user, min_u64(user->size, sizeof *ret));
    }
    if (ret->flags & ~(uint32_t)(VDISK_GROWER_NO_THREAD | VDISK_GROWER_ASKED_AGAIN))
        return err_set(EINVAL, "%s: unknown grower flags 0x%x", v->top->name, ret->flags);
    if (ret->chunk == 0)
        ret->chunk = (uint64_t)CHUNK_MIB << 20;
    if (ret->least_free == 0)
        ret->least_free = ret->chunk - ret->chunk / 5;
    if (ret->ahead_ms == 0)
        ret->ahead_ms = AHEAD_MS;
    if (ret->retry_ms == 0)
        ret->retry_ms = RETRY_MS;
    return 0;
}

static int check(const vdisk *v)
{
    if (v->top->read_only)
        return err_set(EACCES, "%s: is open read-only, and takes no space", v->top->name);
    if (v->top->data != v->top->file)
        return err_hint(err_set(ENOTSUP, "%s: its data is in an external data file, which is not extended",
                                v->top->name),
                        "give the data file the space of the whole volume");
    if (v->top->mark.by_format && v->top->file->caps & BACKEND_FIXED)
        return err_hint(err_set(ENOTSUP, "%s: is in a part of a file with a size of its own: nobody extends that",
                                v->top->name),
                        "open it without a size, or in a larger part");
    return 0;
}

/* The volume's, made when it first has one. */
static struct grower *grower_of(vdisk *v, const struct clock *clock)
{
    struct grower *g = atomic_load(&v->grower), *first;

    if (g)
        return g;
    g = grower_new(v, clock);
    first = g ? grower_enlist(g) : atomic_load(&v->grower);
    if (g != first)
        grower_unref(g);
    return first;
}

/* With no other set at the same time. The old one is called no more. */
static int replace(struct grower *g, vdisk_grow_fn *fn, void *arg, const struct vdisk_grower_opts *opts)
{
    int rc;

    if (fn)
        grower_change(g); /* the new one is not told an old wish */
    else
        grower_stop(g); /* first: the call that is on may wait for what is parked */
    grower_silence(g);
    if (!fn)
        return 0;
    hook_set(&g->hook, (void (*)(void))fn, arg);
    grower_start(g, opts, watermark_highest(g->v));
    rc = opts->flags & VDISK_GROWER_NO_THREAD ? 0 : grower_start_thread(g);
    if (rc == 0)
        return 0;
    grower_silence(g);
    grower_stop(g);
    return err_set(EAGAIN, "%s: no thread for its grower: %s", g->v->top->name, strerror(-rc));
}

static int set_grower(vdisk *v, vdisk_grow_fn *fn, void *arg, const struct vdisk_grower_opts *user_opts)
{
    struct vdisk_grower_opts opts;
    struct grower *g;
    vdisk_queue *q = NULL;
    int rc = volume_check_handle(v);

    if (rc == 0)
        rc = copy_opts(v, user_opts, &opts);
    if (rc == 0 && grower_is_mine(v))
        rc = err_set(EDEADLK, "%s: its grower cannot be changed from within a call of it, or on its thread",
                     v->top->name);
    if (rc == 0 && fn)
        rc = check(v);
    if (rc == 0 && fn)
        rc = watermark_look(v);
    if (rc == 0)
        rc = volume_queue(v->top->name, &q);
    if (rc < 0)
        return rc;
    if (q->host)
        opts.flags |= VDISK_GROWER_NO_THREAD; /* a simulation has one thread */
    g = grower_of(v, q->host ? q->host->clock : NULL);
    if (!g)
        return err_set(ENOMEM, "%s: out of memory", v->top->name);
    pthread_mutex_lock(&g->set);
    rc = replace(g, fn, arg, &opts);
    pthread_mutex_unlock(&g->set);
    return rc;
}

int vdisk_set_grower(vdisk *v, vdisk_grow_fn *fn, void *arg, const struct vdisk_grower_opts *opts)
{
    return ERR_CALL(set_grower(v, fn, arg, opts));
}

/* ---- answers --------------------------------------------------------------------------------------------- */

static int grown(uint64_t wish, int result)
{
    struct grower *g;
    bool of_parent;

    if (result > 0)
        return err_set(EINVAL, "wish %llu: %d is no answer", (unsigned long long)wish, result);
    g = grower_pin(wish >> GROWER_WISH_BITS, &of_parent);
    if (!g && of_parent && wish >> GROWER_WISH_BITS > 0)
        return err_set(ECHILD, "wish %llu: is the parent process's", (unsigned long long)wish);
    if (!g)
        return err_set(ENOENT, "wish %llu: its volume is closed", (unsigned long long)wish);
    grower_answer(g, wish, result);
    grower_unpin(g);
    return 0;
}

int vdisk_grown(uint64_t wish, int result)
{
    return ERR_CALL(grown(wish, result));
}
