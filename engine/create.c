/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Creation: what is there is not touched before everything that can be refused has been seen.
 *
 * Happy path
 *  1. options are judged, the files below are opened and looked at (format->plan_create());
 *  2. a queue is made, the target is opened or made, and locked;
 *  3. the format opens its other files, compares identities, and asks for size and room (create_check());
 *  4. create_take(): sizes are tried, then files are cut. It is the same file afterwards: inode, owner, mode and
 *     links stay, since whoever made it for us goes by them;
 *  5. the format writes.
 * Failure modes
 *  - before 4: nothing has changed; a file that this call made is removed;
 *  - in 4, the host refuses a size: a file that was there has its old one again, and what it held;
 *  - later: what this call made is removed. What was there before is left empty (a device: as far as it was
 *    written), and the text says so.
 *
 * Invariants
 *  1. Nothing is removed that this call did not make (backend->made), and no link is.
 */
#include "engine/create.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/job.h"
#include "engine/chain/layer_name.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

static bool grows(const struct create_target *t)
{
    return t->b->caps & BACKEND_GROWS;
}

/* ---- what can be refused ------------------------------------------------------------------------------- */

static int no_room(const struct create_target *t, uint64_t need, uint64_t room)
{
    err_set(ENOSPC, "%s: %s needs %" PRIu64 " bytes, its file system has %" PRIu64, t->b->name, t->why, need,
            room);
    return err_hint(-ENOSPC, "make room, or choose less preallocation or a smaller size");
}

/* Is there room for targets[i], and for the others on the same file system? */
static int check_room(const struct create_target *targets, unsigned n, unsigned i)
{
    const struct create_target *t = &targets[i];
    uint64_t need = 0, room;

    assert(i < n && t->why != NULL);
    if (!grows(t) || !t->b->driver->room || !t->b->driver->room(t->b, &room))
        return 0;
    for (unsigned j = 0; j < n; j++) {
        if (targets[j].b->id.device != t->b->id.device)
            continue;
        need += targets[j].need;
        room += t->b->driver->allocated ? t->b->driver->allocated(targets[j].b) : 0; /* cutting gives it back */
    }
    return t->need > 0 && need > room ? no_room(t, need, room) : 0;
}

/*
 * Asked of the first bytes, which are there: nothing changes. Of an empty file it would; that has nothing to lose.
 */
static int check_reserve(const struct create_target *t, vdisk_queue *q)
{
    uint64_t len = min_u64(backend_size(t->b), 512);
    int rc = t->reserves && len > 0 ? io_prange(q, t->b, IO_ALLOCATE, 0, len) : 0;

    if (rc != -ENOTSUP && rc != -EOPNOTSUPP)
        return 0; /* no space for them, say: there will be */
    return err_hint(err_set(ENOTSUP, "%s: preallocation=falloc is not possible here", t->b->name),
                    "use preallocation=full");
}

int create_check(struct create_target *targets, unsigned n, vdisk_queue *q)
{
    int rc = 0;

    for (unsigned i = 0; i < n && rc == 0; i++) {
        struct create_target *t = &targets[i];
        assert(!t->b->read_only && !t->grown && !t->doubtful && !t->replaced);
        t->old_size = backend_size(t->b);
        if (ENGINE_MUTANT(CREATE_CUT_EARLY) && grows(t))
            io_prange(q, t->b, IO_TRUNCATE, 0, 0);
        if (!grows(t) && t->size > t->old_size) {
            err_set(ENOSPC, "%s: has %" PRIu64 " bytes, %" PRIu64 " are needed", t->b->name, t->old_size, t->size);
            return err_hint(-ENOSPC, "make the device larger, or choose a smaller size");
        }
        rc = check_room(targets, n, i);
        if (rc == 0)
            rc = check_reserve(t, q);
    }
    return rc;
}

/* ---- the change ---------------------------------------------------------------------------------------- */

static int resize_failed(const struct create_target *t, int rc)
{
    err_set(rc, "%s: setting its size to %" PRIu64 ": %s", t->b->name, t->size, strerror(-rc));
    if (rc == -EFBIG)
        return err_hint(rc, "the file system, or a limit of the process, allows no file so large");
    return err_advise_host(rc);
}

/*
 * Who looks before the format has written something else there sees that nobody has finished it. Of a device it is
 * durable: the volume that it held must not come back after other parts have been overwritten.
 */
static int put_mark(struct create_target *t, vdisk_queue *q)
{
    int rc;

    assert(!t->marked && (!grows(t) || t->old_size == 0 || t->replaced));
    if (!t->mark)
        return 0;
    t->marked = true;
    rc = io_pwrite(q, t->b, t->mark, t->mark_len, 0);
    if (rc == 0 && !grows(t))
        rc = io_pflush(q, t->b);
    if (rc < 0)
        return err_advise_host(err_set(rc, "%s: marking it as unfinished: %s", t->b->name, strerror(-rc)));
    return 0;
}

/* A size that the host refuses is refused while what the file holds is still there. */
static int try_size(struct create_target *t, vdisk_queue *q)
{
    int rc;

    assert(!t->grown && !t->replaced);
    if (!grows(t) || t->size <= t->old_size)
        return 0;
    rc = t->old_size == 0 && !ENGINE_MUTANT(CREATE_MARK_LATE) ? put_mark(t, q) : 0;
    if (rc < 0)
        return rc;
    rc = io_prange(q, t->b, IO_TRUNCATE, t->size, 0);
    t->grown = rc == 0 || rc == -EIO; /* perhaps after having been done */
    return rc < 0 ? resize_failed(t, rc) : 0;
}

static int cut(struct create_target *t, vdisk_queue *q)
{
    int rc = 0;

    if (grows(t) && t->old_size > 0) {
        rc = io_prange(q, t->b, IO_TRUNCATE, 0, 0);
        t->doubtful = rc == -EIO;
        if (rc < 0)
            return err_advise_host(err_set(rc, "%s: cutting it to nothing: %s", t->b->name, strerror(-rc)));
    }
    assert(!t->replaced && !t->doubtful);
    t->replaced = true;
    if (!t->marked)
        rc = put_mark(t, q);
    if (rc < 0)
        return rc;
    if (grows(t) && backend_size(t->b) != t->size)
        rc = io_prange(q, t->b, IO_TRUNCATE, t->size, 0);
    return rc < 0 ? resize_failed(t, rc) : 0;
}

int create_take(struct create_target *targets, unsigned n, vdisk_queue *q)
{
    int rc = 0;

    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = try_size(&targets[i], q);
    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = cut(&targets[i], q);
    return rc;
}

/* ---- the end ------------------------------------------------------------------------------------------- */

/* A failure: undo what can be undone, and add to the text what cannot. */
static void give_up(struct create_target *t, vdisk_queue *q)
{
    int rc;

    assert(!(t->replaced && t->doubtful));
    if (t->b->made && t->b->driver->unlink) {
        rc = t->b->driver->unlink(t->b);
        if (rc < 0)
            err_append("; removing %s: %s", t->b->name, strerror(-rc));
    } else if (t->replaced) {
        /* Half an image is of no use, and may fill the file system. */
        rc = grows(t) ? io_prange(q, t->b, IO_TRUNCATE, 0, 0) : -ENOTSUP;
        if (!ENGINE_MUTANT(CREATE_QUIET))
            err_append(rc == 0 ? "; %s is left empty" : "; %s no longer holds what it did", t->b->name);
    } else if (t->doubtful) {
        err_append("; %s may be left empty", t->b->name);
    } else if (t->grown || t->marked) {
        rc = io_prange(q, t->b, IO_TRUNCATE, t->old_size, 0);
        if (rc < 0)
            err_append("; %s is left longer than it was", t->b->name);
    }
}

int create_end(struct create_target *targets, unsigned n, vdisk_queue *q, int rc)
{
    bool begun = false;

    for (unsigned i = 0; i < n && rc < 0; i++) {
        const struct create_target *t = &targets[i];
        assert(!t->b->made || grows(t));
        begun |= t->replaced || t->doubtful || t->grown || t->marked;
        give_up(&targets[i], q);
    }
    /* What could be refused had been before the first change. */
    return begun && rc != -ECANCELED ? err_advise_host(rc) : rc;
}

/* ---- the job ------------------------------------------------------------------------------------------- */

struct create_job {
    vdisk_job                job;
    struct vdisk_create_opts opts;
    char                    *strings[CREATE_STRINGS]; /* what `opts` points to */
    uint64_t                 file_size, allocated_size;
};

_Static_assert(offsetof(struct create_job, job) == 0, "of a job its struct is known");
_Static_assert(offsetof(struct vdisk_create_result, size) == 0, "of a result its size, too");

int create_check_opts(const char *name, struct vdisk_create_opts *opts, const struct format_driver **ret_format)
{
    char formats[64];

    if (!opts->format)
        opts->format = format_plain()->name;
    *ret_format = format_find(opts->format);
    if (!*ret_format || !(*ret_format)->create)
        return err_set(EINVAL, "%s: unknown format '%s'; known are %s", name, opts->format,
                       known_formats(formats, sizeof formats));
    assert((*ret_format)->plan_create && (*ret_format)->drop_plan);
    if ((unsigned)opts->preallocation > VDISK_PREALLOC_FULL)
        return err_set(EINVAL, "%s: unknown preallocation %d", name, (int)opts->preallocation);
    return 0;
}

int create_on(const struct format_driver *format, struct backend *b, struct vdisk_create_opts *opts,
              vdisk_queue *q)
{
    struct create_plan *plan;
    int rc = format->plan_create(b->name, opts, &plan);

    if (rc < 0)
        return rc;
    assert(plan->opts == opts && plan->name == b->name);
    rc = format->create(plan, b, q);
    format->drop_plan(plan);
    return rc;
}

static int create_volume(struct create_job *c)
{
    struct vdisk_create_opts *opts = &c->opts;
    const char *name = c->job.name;
    uint32_t flags = BACKEND_RDWR | BACKEND_CREATE | (opts->buffered ? BACKEND_BUFFERED : 0);
    const struct format_driver *format = NULL;
    struct create_plan *plan = NULL;
    struct backend *b = NULL;
    vdisk_queue *q = NULL;
    int rc = create_check_opts(name, opts, &format);

    if (rc == 0)
        rc = format->plan_create(name, opts, &plan);
    if (rc < 0)
        return rc;
    assert(plan->opts == opts && plan->name == name);
    rc = volume_queue(name, &q);
    if (rc == 0)
        rc = backend_open(name, flags, &b);
    if (rc == 0) {
        rc = format->create(plan, b, q);
        c->file_size = backend_size(b);
        c->allocated_size = b->driver->allocated ? b->driver->allocated(b) : c->file_size;
        backend_close(b);
    }
    format->drop_plan(plan);
    return rc;
}

static int create_work(vdisk_job *j)
{
    return err_advise(create_volume(container_of(j, struct create_job, job)));
}

static void create_release(vdisk_job *j)
{
    struct create_job *c = container_of(j, struct create_job, job);

    for (size_t i = 0; i < ARRAY_LEN(c->strings); i++)
        mem_free(c->strings[i]);
    mem_free(c);
}

static const struct job_kind create_kind = {"creation", create_work, create_release, NULL};

bool create_copy_strings(struct vdisk_create_opts *opts, char *strings[CREATE_STRINGS])
{
    const char **all[CREATE_STRINGS] = {&opts->format, &opts->compression_type, &opts->backing_file,
                                        &opts->backing_fmt, &opts->data_file};

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        strings[i] = *all[i] ? mem_strdup(*all[i]) : NULL;
        if (*all[i] && !strings[i])
            return false;
        *all[i] = strings[i];
    }
    return true;
}

static int create_job_new(const char *name, const struct vdisk_create_opts *opts, vdisk_job **ret_job)
{
    struct create_job *c;
    int rc = volume_check_name(name);

    if (rc < 0)
        return rc;
    if (!opts || opts->size < sizeof(size_t) || opts->size > 4096)
        return err_set(EINVAL, "%s: create options missing or of a wrong size", name);
    if (!ret_job)
        return err_set(EINVAL, "%s: no place for the job", name);
    rc = backend_check_meant(name);
    if (rc < 0)
        return rc;
    c = mem_calloc(1, sizeof *c);
    if (!c)
        return err_advise(err_set(ENOMEM, "%s: out of memory", name));
    memcpy(&c->opts, opts, min_u64(opts->size, sizeof c->opts));
    rc = job_init(&c->job, &create_kind, name, NULL);
    if (!create_copy_strings(&c->opts, c->strings))
        rc = err_set(ENOMEM, "%s: out of memory", name);
    job_watch(&c->job, &c->opts.progress, &c->opts.progress_arg);
    if (rc < 0)
        vdisk_job_free(&c->job);
    else
        *ret_job = &c->job;
    return rc;
}

int vdisk_job_create(const char *name, const struct vdisk_create_opts *opts, vdisk_job **ret_job)
{
    return ERR_CALL(create_job_new(name, opts, ret_job));
}

static int get_result(const vdisk_job *j, struct vdisk_create_result *ret)
{
    int rc = job_check_result(j, &create_kind, ret, ret ? ret->size : 0);
    struct vdisk_create_result r = {.size = ret ? ret->size : 0};
    const struct create_job *c;

    if (rc < 0)
        return rc;
    c = (const struct create_job *)(const void *)j;
    r.virtual_size = align_up(c->opts.virtual_size, 512);
    r.file_size = c->file_size;
    r.allocated_size = c->allocated_size;
    memcpy(ret, &r, min_u64(r.size, sizeof r));
    return 0;
}

int vdisk_job_get_create_result(const vdisk_job *j, struct vdisk_create_result *ret_result)
{
    return ERR_CALL(get_result(j, ret_result));
}

static int create_now(const char *name, const struct vdisk_create_opts *opts)
{
    vdisk_job *j = NULL;
    int rc = create_job_new(name, opts, &j);

    return rc < 0 ? err_advise(rc) : job_run_once(j);
}

int vdisk_create(const char *name, const struct vdisk_create_opts *user_opts)
{
    return ERR_CALL(create_now(name, user_opts));
}
