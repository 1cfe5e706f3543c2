/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a backend provides: bytes at offsets. backends/null.c is the skeleton to copy.
 */
#ifndef ENGINE_BACKEND_H
#define ENGINE_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/list.h"
#include "engine/loop/gate.h"
#include "engine/loop/io.h"
#include "engine/spec.h"

struct option_desc;
struct vdisk_export_info;

enum backend_caps {
    BACKEND_GROWS     = 1u << 0, /* writes past the end extend it (a file); otherwise they are -ENOSPC. With an
                                  * align above 1 it also takes IO_EXACT: writes that end inside a block */
    BACKEND_ZERO_NEW  = 1u << 1, /* space past the end at any time reads as zeros once the end has moved over it */
    BACKEND_ZERO_FAST = 1u << 2, /* IO_ZERO is likely much cheaper than writing zeros */
    BACKEND_DISCARD   = 1u << 3, /* IO_DISCARD gives space back */
    BACKEND_SPARSE    = 1u << 4, /* holes can exist: IO_STATUS tells them apart */
    BACKEND_FIXED     = 1u << 5, /* a part of another, with a size of its own: nobody makes it larger */
};

enum backend_open_flags {
    BACKEND_RDWR     = 1u << 0,
    BACKEND_BUFFERED = 1u << 1, /* no O_DIRECT */
    BACKEND_CREATE   = 1u << 2, /* make it where it is not there (`made`); what is there stays as it is */
    BACKEND_NO_LOCK  = 1u << 3,
    BACKEND_SHARE    = 1u << 4, /* force-share: claim nothing but reading */
    BACKEND_UNSAFE   = 1u << 5, /* IO_FLUSH does nothing */
};

/* Which file or device of this host it is, under whatever name. All zero: it is none (memory, null). */
struct backend_id {
    uint64_t device, node;
};

struct backend {
    const struct backend_driver *driver;
    char            *name;         /* what the user typed, for messages; ours to free */
    uint32_t         align;        /* of offsets and lengths of IO_READ and IO_WRITE; a power of two */
    uint32_t         mem_align;    /* addresses and lengths of buffers too */
    uint32_t         max_transfer; /* largest IO_READ or IO_WRITE; a multiple of align */
    uint32_t         max_iov;
    uint32_t         caps;         /* enum backend_caps */
    uint32_t         discard_align;/* IO_DISCARD works on units of it */
    uint32_t         preferred;    /* reads and writes of it, so aligned, cost the least; a power of two, or 0 */
    bool             read_only;
    bool             direct;       /* O_DIRECT */
    bool             cached;       /* in the host's page cache: IO_FUA is not asked of it, but a flush: fd.c */
    _Atomic int      sync_failed;  /* `cached`: -errno once a flush has failed; so do all later ones. Else 0 */
    bool             made;         /* by BACKEND_CREATE: it was not there */
    struct backend_id id;
    void   (*_Atomic moved)(void *owner); /* backend_own(); told by any thread, so after `owner` */
    void            *owner;
    _Atomic uint64_t size;         /* current end; io_end() moves it up after writes past it */
    _Atomic bool     no_discards;  /* BACKEND_DISCARD, but the host has said that it cannot */
    _Atomic uint64_t peak;         /* a device: the furthest end that it has had: no zeros before it */

    /* The engine's own: see engine/loop/bounce.c. */
    struct gate      writes;
    _Atomic uint32_t rmw_active;
    struct range_locks *rmw_locks;
    struct list      attached;     /* engine/loop/attach.c */
};

struct backend_driver {
    const char *name;   /* as in names that say their driver, and in vdisk_info.backend; QEMU's where it has it */

    /* What a node of it has besides the common ones, ends with a NULL name; NULL: it cannot be named. */
    const struct option_desc *options;

    /*
     * Is the plain name `name` one of ours? Drivers are asked in the order of backend_drivers[]; the last takes
     * any. NULL: none is.
     */
    bool (*claims)(const char *name);

    /* Put what such a name says into options (spec_put()). 0, -ENOMEM, or another error with text. */
    int (*parse)(const char *name, struct spec *options);

    /* The id that open() would give it; false: none, or there is no such file. NULL: never one. */
    bool (*identify)(const struct spec *options, struct backend_id *ret_id);

    /*
     * Blocks. `options` have been checked; `name` is for messages and for struct backend. On success *ret_backend
     * has been made by backend_alloc() and filled in, with the image locks that `flags` ask for
     * (backends/host/lock.h). On failure an error text is set.
     */
    int (*open)(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend);

    /*
     * Blocks. Tell of what there is beside what such options name: the exports of a server. 0, or what `fn` has
     * returned when that was not 0, or an error with text. NULL: there is nothing of the kind.
     */
    int (*list)(const char *name, const struct spec *options,
                int (*fn)(void *arg, const struct vdisk_export_info *info), void *arg);

    /* Release everything but the struct itself (backend_close() frees that). Nothing is in flight. */
    void (*close)(struct backend *b);

    /*
     * Start `io`: alignment (but for IO_EXACT) and limits hold, asserted; it ends by io_end() or io_end_later(),
     * never inline.
     * Context: io->queue's thread. Several queues call at once.
     */
    void (*submit)(struct backend *b, struct io *io);

    /*
     * State for each queue that uses the backend: backend_on_queue() has it made, at the queue's first I/O, say;
     * it goes with the queue or the backend, when nothing of the backend's is in flight there. Both or neither;
     * short.
     * Context: attach() on the queue's thread, within backend_on_queue(); detach() on the thread that destroys or
     * closes.
     */
    int  (*attach)(struct backend *b, vdisk_queue *q, void **ret_state);
    void (*detach)(struct backend *b, vdisk_queue *q, void *state);

    /*
     * Have the range read into the host's page cache; advice, not waited for. May block a little: on a worker. Not
     * called of what is `direct`. NULL: there is nothing of the kind.
     */
    void (*prefetch)(struct backend *b, uint64_t offset, uint64_t len);

    /* Bytes that the host has allocated for it. NULL: size. */
    uint64_t (*allocated)(struct backend *b);

    /*
     * Change image locks: from read-only claims to writer's, say. Blocks. NULL: no locks. backends/host/lock.h.
     */
    int (*relock)(struct backend *b, uint32_t flags);

    /*
     * Look at the end again, since a device may have been extended, or somebody else has cut the file: `size`
     * follows, and backend_tell_moved() says so. Any thread; short. 0 or -errno. NULL: it does not move by itself.
     * The engine asks for it when a read comes short of the end, and reads on if that has moved meanwhile.
     */
    int (*refresh)(struct backend *b);

    /*
     * Why I/Os fail at present, where an errno says too little: put it into `buf`. Any thread, any lock of the
     * engine's held; short. NULL, or nothing put there: the errno says enough.
     */
    void (*explain)(struct backend *b, char *buf, size_t size);

    /* What to do about an error (-errno) of its I/O, where that is not to be done on this host; NULL: nothing
     * known. Static; any thread, any lock of the engine held. NULL: as for a file or a device of this host. */
    const char *(*advise)(int32_t res);

    /* Blocks: bytes that its file system still has; false: it does not tell. NULL: never. */
    bool (*room)(struct backend *b, uint64_t *ret_bytes);

    /*
     * Blocks: share all blocks of `from`, which has the same driver and is no longer, with the host's file system.
     * 0, or any -errno: some of it may be as in `from`. NULL: there is no such thing.
     */
    int (*clone)(struct backend *b, struct backend *from);

    /*
     * The same of a part: `len` bytes at `from_offset`, to be at `offset`; both ranges lie in their files, of
     * which `b` ends where it did. Where blocks cannot be shared the host copies them; with `cheap`, only if that
     * is no work for this machine (it is a server's). Blocks: on a worker. Returns how many bytes, fewer where
     * `from` has ended, or any -errno: some of it may be as in `from`. NULL if clone() is.
     */
    int64_t (*copy_range)(struct backend *b, uint64_t offset, struct backend *from, uint64_t from_offset,
                          uint64_t len, bool cheap);

    /*
     * Blocks: remove what BACKEND_CREATE made (b->made), unless its name stands for another file now. 0 or -errno.
     */
    int (*unlink)(struct backend *b);
};

/* All backends, ends with NULL: backends/drivers.c. */
extern const struct backend_driver *const backend_drivers[];

/*
 * A struct of `size` bytes (struct backend first), zeroed, with name copied and safe defaults (align 1, no caps).
 * NULL: out of memory. Give it back with backend_free() if open fails.
 */
void *backend_alloc(const struct backend_driver *driver, const char *name, size_t size);
void backend_free(struct backend *b);

/*
 * What attach() made for this queue, made now if it was not. NULL with *ret_rc 0: that was its state; else -errno.
 * Context: the queue's thread.
 */
void *backend_on_queue(struct backend *b, vdisk_queue *q, int *ret_rc);

/*
 * Whose it is: a filter's, or a volume's. `moved` is told when its end has moved by somebody else's doing: on any
 * thread, with any lock held; it is short. Context: before other threads use the backend, but to tell that. A
 * backend that has no owner tells nobody.
 */
void backend_own(struct backend *b, void (*moved)(void *owner), void *owner);

/* For backends: it has been found that the end has moved by itself; `size` is what it is now. Any thread. */
void backend_tell_moved(struct backend *b);

/* By driver, of those that can be named. NULL: there is none. */
const struct backend_driver *backend_find(const char *driver);

/* Those that can be named, from index 0 on. NULL: there are no more. */
const struct backend_driver *backend_at(unsigned index);

/*
 * Open a node of a name's tree (engine/spec.h), which the name `shown` has. Errors with text. `flags` are the
 * caller's; the node's options join them.
 */
int backend_open_node(const char *shown, const struct spec *node, uint32_t flags, struct backend **ret_backend);

/* The id that it will have when it is opened, so that an image that names itself is found out before that. */
bool backend_identify_node(const struct spec *node, struct backend_id *ret_id);

/*
 * The node that the bytes of an image are in: `root` itself where its driver is a backend's, or it has a file name
 * and no driver; else its "file". -EINVAL, with text: there is none.
 */
int backend_file_of(const char *shown, const struct spec *root, const struct spec **ret);

/* The driver that a node would be opened by; NULL: it has none that there is. */
const struct backend_driver *backend_driver_of(const struct spec *node);

/* `flags` with what the options of a node ask for that all drivers have. -EACCES, -EINVAL: not so, with text. */
int backend_node_flags(const char *shown, const struct spec *node, uint32_t flags, uint32_t *ret);

/* The same by name: the file of whatever image it has. Its format's options are not looked at. */
int backend_open(const char *name, uint32_t flags, struct backend **ret_backend);
bool backend_identify(const char *name, struct backend_id *ret_id);

/* The same of the driver that the name has: its list(). -ENOTSUP, with text: it has none. */
int backend_list(const char *name, int (*fn)(void *arg, const struct vdisk_export_info *info), void *arg);

/* Of a name that is to be created: -ENOTSUP, with text, for a protocol that is not there. Opens nothing. */
int backend_check_meant(const char *name);

/* Is it that file? */
bool backend_is(const struct backend *b, const struct backend_id *id);

/* Does it reach further than `size` bytes by now? Looked up at its source if not known to: short, any thread. */
bool backend_reaches_past(struct backend *b, uint64_t size);

/* NULL is allowed. */
void backend_close(struct backend *b);

/* What makes a plain name a path, whatever it looks like. */
#define BACKEND_PATH_PREFIX "file:"

/* "file:PATH" gives PATH, others themselves. */
const char *backend_path(const char *name);

static inline uint64_t backend_size(const struct backend *b)
{
    return atomic_load_explicit(&b->size, memory_order_acquire);
}

/* The part of the range that lies before the end: its length. */
static inline uint64_t backend_inside(const struct backend *b, uint64_t offset, uint64_t len)
{
    uint64_t size = backend_size(b), left = size - offset;

    if (offset >= size)
        return 0;
    return len < left ? len : left;
}

/* The end is at `end` at least. Any thread. The engine does this after writes; after the rest the backend does. */
static inline void raise_size(struct backend *b, uint64_t end)
{
    uint64_t size = atomic_load_explicit(&b->size, memory_order_relaxed);

    while (size < end && !atomic_compare_exchange_weak(&b->size, &size, end))
        ;
}

#endif
