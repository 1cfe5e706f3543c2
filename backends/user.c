/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage of the host program's own: vdisk-backend.h, from the other side.
 *
 * Happy path: find the storage by its id and count ourselves in; each I/O is told to the program in a struct that
 * lives in an op's memory; vdisk_backend_io_done() brings it back to its queue, from within submit() by the list
 * of what is ready, else as what other threads do is brought back.
 * Failure modes: no such id (-ENOENT), held by another (-EAGAIN), the program's own errors from open() and of
 * requests; results that are none (-EIO); no memory: the I/O ends with -ENOMEM and the program sees none of it.
 *
 * Invariants
 *  1. A storage whose `handles` are not 0 stays on the list, with its functions.
 *  2. No read reaches past the end: so the program need not know what is there.
 *  3. The program is asked for nothing that its caps do not have.
 */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "backends/drivers.h"
#include "backends/name.h"
#include "backends/vdisk-backend.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/iov.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"
#include "engine/spec/option.h"

enum { ID_MAX = 64, ALIGN_MAX = 4096 };

/* What has been registered. */
struct storage {
    struct storage          *next;
    char                    *id;
    struct vdisk_backend_ops ops;
    void                    *opaque;
    uint64_t                 number;  /* not given twice: for struct backend_id */
    unsigned                 handles, readers, writers; /* the last two: with a claim */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct storage *first; /* these two under the lock */
static uint64_t last_number;

struct user_backend {
    struct backend  b; /* first */
    struct storage *storage;
    uint32_t        flags; /* as it was opened */
};

struct user_io {
    struct op               op;  /* for its memory, which the queue keeps */
    struct task             task;
    struct io              *io;
    struct iovec           *iov; /* of a part */
    int                     result;
    struct vdisk_backend_io given;
};

/* ---- what is registered ---------------------------------------------------------------------------------- */

/* Under the lock: where the pointer to it is, or the one at the end. */
static struct storage **find(const char *id)
{
    struct storage **at = &first;

    assert_locked(&lock);
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    return at;
}

static bool is_id(const char *id)
{
    if (!isalpha((unsigned char)id[0]) || strnlen(id, ID_MAX + 1) > ID_MAX)
        return false;
    for (const char *p = id; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
            return false;
    return true;
}

static bool is_align(uint32_t align, uint32_t max)
{
    return align == 0 || (is_power_of_two(align) && align <= max);
}

static bool ops_fit(const struct vdisk_backend_ops *o)
{
    uint32_t known = VDISK_BACKEND_FUA * 2 - 1;

    if (!o->submit || !o->get_size || o->caps & ~known)
        return false;
    if (o->caps & VDISK_BACKEND_ZERO_CHEAP && !(o->caps & VDISK_BACKEND_ZERO))
        return false;
    if (!is_align(o->align, ALIGN_MAX) || !is_align(o->memory_align, ALIGN_MAX) ||
        !is_align(o->discard_align, 1u << 30))
        return false;
    if (o->align && !is_aligned(o->max_transfer, o->align))
        return false;
    return o->max_transfer <= 1u << 30 && o->max_iov <= 1024;
}

/* With what stands for the defaults. False: it is none. */
static bool read_ops(const struct vdisk_backend_ops *from, struct vdisk_backend_ops *to)
{
    size_t least = offsetof(struct vdisk_backend_ops, close) + sizeof from->close;

    if (!from || from->size < least || from->size > 4096)
        return false;
    *to = (struct vdisk_backend_ops){0};
    memcpy(to, from, min_u64(from->size, sizeof *to));
    if (!ops_fit(to))
        return false;
    to->align = to->align ? to->align : 1;
    to->memory_align = to->memory_align ? to->memory_align : 1;
    to->discard_align = to->discard_align ? to->discard_align : 1;
    to->max_iov = to->max_iov ? to->max_iov : 1024;
    to->max_transfer = to->max_transfer ? to->max_transfer : 1u << 30;
    return true;
}

static void storage_free(struct storage *s)
{
    assert(!s || s->handles == 0);
    if (s)
        mem_free(s->id);
    mem_free(s);
}

static int register_storage(const char *id, const struct vdisk_backend_ops *ops, void *opaque)
{
    struct storage *s, **at;
    int rc = 0;

    if (!id || !is_id(id))
        return err_hint(err_set(EINVAL, "a storage's id is none"),
                        "a letter, then letters, digits, '-', '.' and '_', %d at most", ID_MAX);
    s = mem_calloc(1, sizeof *s);
    if (s)
        s->id = mem_strdup(id);
    if (!s || !s->id) {
        storage_free(s);
        return err_set(ENOMEM, "storage '%s': out of memory", id);
    }
    if (!read_ops(ops, &s->ops)) {
        storage_free(s);
        return err_set(EINVAL, "storage '%s': its functions or properties are none", id);
    }
    s->opaque = opaque;
    pthread_mutex_lock(&lock);
    at = find(id);
    if (*at) {
        rc = err_set(EEXIST, "there is a storage '%s'", id);
    } else {
        s->number = ++last_number;
        *at = s;
    }
    pthread_mutex_unlock(&lock);
    if (rc < 0)
        storage_free(s);
    return rc;
}

static int unregister_storage(const char *id)
{
    struct storage *s = NULL, **at;
    int rc = 0;

    pthread_mutex_lock(&lock);
    at = id ? find(id) : NULL;
    if (!at || !*at) {
        rc = err_set(ENOENT, "there is no storage '%.*s'", SPEC_SHOWN(id ? id : ""));
    } else if ((*at)->handles > 0 && !ENGINE_MUTANT(STORAGE_PULLED)) { /* invariant 1 */
        rc = err_set(EBUSY, "storage '%s' is in use", id);
    } else {
        s = *at;
        *at = s->next;
    }
    pthread_mutex_unlock(&lock);
    storage_free(s);
    return rc;
}

int vdisk_backend_register(const char *id, const struct vdisk_backend_ops *ops, void *opaque)
{
    return ERR_CALL(register_storage(id, ops, opaque));
}

int vdisk_backend_unregister(const char *id)
{
    return ERR_CALL(unregister_storage(id));
}

/* When the process ends, or the library is unloaded: what the program has left. */
static void __attribute__((destructor)) forget_all(void)
{
    while (first && first->handles == 0) {
        struct storage *s = first;
        first = s->next;
        storage_free(s);
    }
}

/* ---- who has it open ------------------------------------------------------------------------------------- */

static bool claims_nothing(uint32_t flags)
{
    return flags & BACKEND_NO_LOCK || (flags & BACKEND_SHARE && !(flags & BACKEND_RDWR));
}

static bool writes(uint32_t flags)
{
    return flags & (BACKEND_RDWR | BACKEND_CREATE);
}

static int enter(const char *id, uint32_t flags, struct storage **ret)
{
    struct storage *s;
    int rc = 0;

    pthread_mutex_lock(&lock);
    s = *find(id);
    if (!s)
        rc = err_set(ENOENT, "there is no storage '%.*s'", SPEC_SHOWN(id));
    else if (!claims_nothing(flags) && (s->writers > 0 || (writes(flags) && s->readers > 0)))
        rc = err_set(EAGAIN, "storage '%s' is in use by another volume of this process", id);
    if (rc == 0) {
        s->handles++;
        s->writers += !claims_nothing(flags) && writes(flags);
        s->readers += !claims_nothing(flags) && !writes(flags);
        *ret = s;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static void leave(struct storage *s, uint32_t flags)
{
    pthread_mutex_lock(&lock);
    assert(s->handles > 0);
    s->handles--;
    s->writers -= !claims_nothing(flags) && writes(flags);
    s->readers -= !claims_nothing(flags) && !writes(flags);
    assert(s->readers + s->writers <= s->handles);
    pthread_mutex_unlock(&lock);
}

/* ---- I/O ------------------------------------------------------------------------------------------------- */

static void user_step(struct op *op)
{
    assert(!"it has no steps");
}

OP_TYPE(user_io, user_step, "START");

/* The queue whose I/O is being handed to the program, by this thread. */
static _Thread_local const vdisk_queue *submitting;

/* What the program has done to the end; after writes it is the engine's to do. */
static void follow_size(struct backend *b, const struct io *io)
{
    if (io->kind == IO_TRUNCATE)
        atomic_store(&b->size, io->offset);
    else if (io->kind == IO_ZERO || io->kind == IO_ALLOCATE)
        raise_size(b, io->offset + io->len);
}

static void end(struct user_io *u)
{
    struct io *io = u->io;
    int64_t res = u->result;

    if (res == 0 && (io->kind == IO_READ || io->kind == IO_WRITE))
        res = (int64_t)u->given.len; /* may be less than was asked for: the engine goes on, or has zeros there */
    else if (res == 0)
        follow_size(io->backend, io);
    mem_free(u->iov);
    op_free(&u->op, sizeof *u);
    io_end(io, res);
}

static void run_ended(struct task *t)
{
    struct user_io *u = container_of(t, struct user_io, task);

    assert(u->io->queue->worker_jobs > 0);
    u->io->queue->worker_jobs--;
    end(u);
}

void vdisk_backend_io_done(struct vdisk_backend_io *given, int result)
{
    struct user_io *u = container_of(given, struct user_io, given);
    vdisk_queue *q = u->io->queue;

    u->result = result <= 0 && result > -4096 ? result : -EIO;
    u->task.run = run_ended;
    if (submitting == q)
        queue_ready(q, &u->task);
    else
        queue_post(q, &u->task);
}

/* As a device: of one that grows it is we who move the end. */
static int user_refresh(struct backend *b)
{
    const struct storage *s = container_of(b, struct user_backend, b)->storage;
    uint64_t old, size, peak = atomic_load(&b->peak);

    if (b->caps & BACKEND_GROWS)
        return 0;
    do { /* not what it was before somebody else looked */
        old = backend_size(b);
        size = s->ops.get_size(s->opaque);
        if (size > INT64_MAX || !is_aligned(size, b->align))
            return -EINVAL;
        while (peak < size && !atomic_compare_exchange_weak(&b->peak, &peak, size))
            ;
    } while (!atomic_compare_exchange_strong(&b->size, &old, size));
    if (old != size)
        backend_tell_moved(b);
    return 0;
}

static const uint8_t public_kind[IO_KINDS] = {
    [IO_READ] = VDISK_BACKEND_IO_READ, [IO_WRITE] = VDISK_BACKEND_IO_WRITE, [IO_FLUSH] = VDISK_BACKEND_IO_FLUSH,
    [IO_ZERO] = VDISK_BACKEND_IO_ZERO, [IO_DISCARD] = VDISK_BACKEND_IO_DISCARD,
    [IO_ALLOCATE] = VDISK_BACKEND_IO_ALLOCATE, [IO_TRUNCATE] = VDISK_BACKEND_IO_TRUNCATE,
};

/* Ends it here: 0 or -errno. 1: the program is to do it. */
static int decide(const struct user_backend *ub, const struct io *io)
{
    uint32_t caps = ub->storage->ops.caps;

    switch ((enum io_kind)io->kind) {
    case IO_READ:
    case IO_WRITE: return 1;
    case IO_FLUSH: return ub->flags & BACKEND_UNSAFE ? 0 : 1;
    case IO_ZERO: return caps & VDISK_BACKEND_ZERO ? 1 : -ENOTSUP;
    case IO_DISCARD: return caps & VDISK_BACKEND_DISCARD ? 1 : 0;
    case IO_ALLOCATE: return caps & VDISK_BACKEND_ALLOCATE ? 1 : -ENOTSUP;
    case IO_TRUNCATE:
        return caps & VDISK_BACKEND_GROWS ? 1 : io->offset == backend_size(&ub->b) ? 0 : -ENOTSUP;
    case IO_STATUS: break;
    }
    return -ENOTSUP;
}

/* `len` of the range, behind what has been moved: what the program is told. False: out of memory. */
static bool describe(struct user_io *u, struct io *io, uint64_t len)
{
    const struct iovec *iov = io->iov;
    uint32_t n = io->iovcnt;

    if (n > 0 && len < io->len) {
        u->iov = mem_calloc(n, sizeof *u->iov);
        if (!u->iov)
            return false;
        n = iov_slice(io->iov, io->iovcnt, io->moved, len, u->iov, n, &len);
        iov = u->iov;
    }
    u->io = io;
    u->given = (struct vdisk_backend_io){
        .size = sizeof u->given, .kind = (enum vdisk_backend_kind)public_kind[io->kind],
        .offset = io->kind == IO_FLUSH ? 0 : io->offset + io->moved, .len = len, .iov = iov, .iovcnt = n,
        .flags = (io->flags & IO_FUA ? VDISK_BACKEND_IO_FUA : 0u) |
                 (io->flags & IO_UNMAP ? VDISK_BACKEND_IO_UNMAP : 0u)};
    return true;
}

static void hand_over(struct user_backend *ub, struct io *io, uint64_t len)
{
    struct user_io *u = op_alloc(io->queue, &user_io_type, sizeof *u);
    const vdisk_queue *outer = submitting;

    if (!u || !describe(u, io, len)) {
        if (u)
            op_free(&u->op, sizeof *u);
        io_end_later(io, -ENOMEM);
        return;
    }
    io->queue->worker_jobs++;
    submitting = io->queue;
    ub->storage->ops.submit(ub->storage->opaque, &u->given);
    submitting = outer;
}

/* How much of it lies before the end; one that does not grow may have become longer. */
static uint64_t inside_now(struct backend *b, uint64_t offset, uint64_t len)
{
    uint64_t inside = backend_inside(b, offset, len);

    if (inside < len && user_refresh(b) == 0)
        inside = backend_inside(b, offset, len);
    return inside;
}

static void user_submit(struct backend *b, struct io *io)
{
    struct user_backend *ub = container_of(b, struct user_backend, b);
    uint64_t left = io->len - io->moved, at_once = left, inside;
    int what = decide(ub, io);

    assert(io->moved == 0 || io->kind == IO_READ || io->kind == IO_WRITE);
    if (what <= 0) {
        io_end_later(io, what);
        return;
    }
    inside = inside_now(b, io->offset + io->moved, left);
    if (io->kind == IO_READ && !ENGINE_MUTANT(STORAGE_OVERREAD)) /* invariant 2 */
        left = inside;
    if (io->kind == IO_READ || io->kind == IO_WRITE) /* what is left comes again: io_end() */
        at_once = min_u64(left, b->max_transfer);
    if (io->kind == IO_READ && left == 0)
        io_end_later(io, 0);
    else if (inside < left && !(b->caps & BACKEND_GROWS) && io->kind != IO_READ)
        io_end_later(io, io->kind == IO_DISCARD ? 0 : -ENOSPC);
    else
        hand_over(ub, io, at_once);
}

/* ---- open and the rest ----------------------------------------------------------------------------------- */

static const struct option_desc user_options[] = {
    {"id", OPTION_TEXT, true, NULL, "of a storage of the program's own, which it has registered", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static bool user_claims(const char *name)
{
    return name_after(name, "user") != NULL;
}

static int user_parse(const char *name, struct spec *options)
{
    return spec_put(options, "id", SPEC_TEXT, name_after(name, "user"));
}

static bool user_identify(const struct spec *options, struct backend_id *ret_id)
{
    const struct storage *s;

    pthread_mutex_lock(&lock);
    s = *find(spec_text(options, "id"));
    if (s)
        *ret_id = (struct backend_id){UINT64_MAX, s->number}; /* no device of the host's has that number */
    pthread_mutex_unlock(&lock);
    return s != NULL;
}

static void set_properties(struct user_backend *ub, uint64_t size)
{
    const struct vdisk_backend_ops *o = &ub->storage->ops;
    struct backend *b = &ub->b;

    b->align = o->align;
    b->mem_align = o->memory_align;
    b->max_transfer = (uint32_t)align_down(o->max_transfer, o->align);
    b->max_iov = o->max_iov;
    b->discard_align = o->discard_align;
    b->caps = (o->caps & VDISK_BACKEND_GROWS ? BACKEND_GROWS : 0u) |
              (o->caps & VDISK_BACKEND_ZERO_NEW ? BACKEND_ZERO_NEW : 0u) |
              (o->caps & VDISK_BACKEND_ZERO_CHEAP ? BACKEND_ZERO_FAST : 0u) |
              (o->caps & VDISK_BACKEND_DISCARD ? BACKEND_DISCARD : 0u);
    b->cached = !(o->caps & VDISK_BACKEND_FUA); /* a flush in its place */
    b->read_only = !writes(ub->flags);
    b->id = (struct backend_id){UINT64_MAX, ub->storage->number};
    atomic_store(&b->size, size);
    atomic_store(&b->peak, o->caps & VDISK_BACKEND_GROWS ? 0 : size);
}

static int check_size(const char *name, const struct storage *s, uint64_t size)
{
    if (size > INT64_MAX)
        return err_set(EFBIG, "%s: says that it has more than %llu bytes", name, (unsigned long long)INT64_MAX);
    if (!(s->ops.caps & VDISK_BACKEND_GROWS) && !is_aligned(size, s->ops.align))
        return err_set(EINVAL, "%s: has %llu bytes, which is no multiple of its alignment, %u", name,
                       (unsigned long long)size, s->ops.align);
    return 0;
}

static int open_storage(const char *name, struct user_backend *ub)
{
    const struct storage *s = ub->storage;
    int rc = s->ops.open ? s->ops.open(s->opaque, writes(ub->flags)) : 0;
    uint64_t size;

    if (rc != 0)
        return err_set(rc < 0 && rc > -4096 ? rc : EIO, "%s: cannot be opened: %s", name,
                       strerror(rc < 0 && rc > -4096 ? -rc : EIO));
    size = s->ops.get_size(s->opaque);
    rc = check_size(name, s, size);
    if (rc == 0)
        set_properties(ub, size);
    else if (s->ops.close)
        s->ops.close(s->opaque);
    return rc;
}

static int user_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    struct user_backend *ub = backend_alloc(&user_driver, name, sizeof *ub);
    int rc;

    if (!ub)
        return err_set(ENOMEM, "%s: out of memory", name);
    ub->flags = flags;
    rc = enter(spec_text(options, "id"), flags, &ub->storage);
    if (rc == 0) {
        rc = open_storage(name, ub);
        if (rc < 0)
            leave(ub->storage, flags);
    }
    if (rc < 0)
        backend_free(&ub->b);
    else
        *ret_backend = &ub->b;
    return rc;
}

static void user_close(struct backend *b)
{
    struct user_backend *ub = container_of(b, struct user_backend, b);

    if (ub->storage->ops.close)
        ub->storage->ops.close(ub->storage->opaque);
    leave(ub->storage, ub->flags);
}

static uint64_t user_allocated(struct backend *b)
{
    const struct storage *s = container_of(b, struct user_backend, b)->storage;

    return s->ops.get_allocated ? s->ops.get_allocated(s->opaque) : backend_size(b);
}

const struct backend_driver user_driver = {
    .name = "user",
    .options = user_options,
    .claims = user_claims,
    .parse = user_parse,
    .identify = user_identify,
    .open = user_open,
    .close = user_close,
    .submit = user_submit,
    .allocated = user_allocated,
    .refresh = user_refresh,
};
