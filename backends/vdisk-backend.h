/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage of the program's own, below any format: a struct of functions, known to names by an id.
 *
 *     vdisk_backend_register("disk", &ops, &storage);
 *     vdisk_create("user:disk", &create);
 *     vdisk_open("json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"user\",\"id\":\"disk\"}}", &open, &v);
 *
 * "user:ID" is the plain name of the same. It may be a volume's file, its external data file, a backing file, or
 * the file of a filter. An image can name one, as it can name a file: VDISK_OPEN_NO_NAMES keeps it from that.
 *
 * One id is one storage, whoever opens it. As with files it is open for writing once, and then not for reading
 * besides, unless with VDISK_OPEN_FORCE_SHARE or NO_LOCK: else -EAGAIN.
 *
 * In a laboratory (vdisk-lab.h) no thread is waited for: there all requests are to end within submit().
 */
#ifndef VDISK_BACKEND_H
#define VDISK_BACKEND_H

#include <vdisk.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vdisk_backend_caps {
    VDISK_BACKEND_GROWS      = 1u << 0, /* as a file: writes, zeroes and allocations past the end extend it, and it
                                         * takes TRUNCATE. Without, as a device: they are -ENOSPC */
    VDISK_BACKEND_ZERO_NEW   = 1u << 1, /* what the end moves over reads as zeros, also where it has been before */
    VDISK_BACKEND_ZERO       = 1u << 2, /* it takes ZERO; without, zeros are written */
    VDISK_BACKEND_ZERO_CHEAP = 1u << 3, /* and that costs much less than writing them */
    VDISK_BACKEND_DISCARD    = 1u << 4, /* it takes DISCARD */
    VDISK_BACKEND_ALLOCATE   = 1u << 5, /* it takes ALLOCATE */
    VDISK_BACKEND_FUA        = 1u << 6, /* it takes the flag FUA; without, a flush follows such a write */
};

enum vdisk_backend_kind {
    VDISK_BACKEND_IO_READ = 1, /* ends at the end of the storage at most */
    VDISK_BACKEND_IO_WRITE,
    VDISK_BACKEND_IO_FLUSH,    /* what had ended before is durable; offset and len are 0 */
    VDISK_BACKEND_IO_ZERO,     /* the range reads as zeros; -ENOTSUP: not so, zeros are written */
    VDISK_BACKEND_IO_DISCARD,  /* the content is not needed any more; may do nothing */
    VDISK_BACKEND_IO_ALLOCATE, /* the range has its space from here on, with the content that it has */
    VDISK_BACKEND_IO_TRUNCATE, /* the size is `offset` from here on; what is new reads as zeros */
};

enum vdisk_backend_io_flags {
    VDISK_BACKEND_IO_FUA   = 1u << 0, /* WRITE: durable when it ends */
    VDISK_BACKEND_IO_UNMAP = 1u << 1, /* ZERO: may give space back */
};

/* A request to the storage. It, its iovec array and its buffers are there until vdisk_backend_io_done(). */
struct vdisk_backend_io {
    size_t                  size;   /* sizeof(struct vdisk_backend_io) of the library: may be less than here */
    enum vdisk_backend_kind kind;
    uint32_t                flags;  /* enum vdisk_backend_io_flags */
    uint64_t                offset;
    uint64_t                len;    /* of READ and WRITE: not 0, and what the buffers have together */
    const struct iovec     *iov;    /* of READ and WRITE */
    uint32_t                iovcnt;
    void                   *own[3]; /* the storage's: a list it is in, say */
};

struct vdisk_backend_ops {
    size_t   size;          /* sizeof(struct vdisk_backend_ops) */
    uint32_t caps;          /* enum vdisk_backend_caps */
    uint32_t align;         /* of offset and len of READ and WRITE, and of the single buffers' lengths: a power of
                             * two, at most 4096; 0: 1. A storage that grows is also asked for what is left before
                             * an end within such a block, and to write as little */
    uint32_t memory_align;  /* of where buffers begin: the same; 0: 1 */
    uint32_t max_iov;       /* buffers of a request; 0: 1024 */
    uint32_t max_transfer;  /* bytes of a READ or WRITE; a multiple of `align`; 0: 1 GiB */
    uint32_t discard_align; /* DISCARD gives back what is whole of it; 0: 1 */

    /*
     * Begin a request. It ends by vdisk_backend_io_done(), once: within submit() or later, in any order, on any
     * thread. Must not block, nor call anything else of the library: who reads from another volume does so on a
     * thread of his own. Requests that are on their way at once do not overlap, where one of them writes, unless
     * the volume's user has it so.
     * Context: the threads that turn queues, several at once.
     */
    void (*submit)(void *opaque, struct vdisk_backend_io *io);

    /*
     * How many bytes it has: at most INT64_MAX, and a multiple of `align` where it does not grow. Asked for when
     * it is opened; of one that does not grow at any time: it may have become longer, or shorter, and then refuses
     * by itself what lies behind its end. Short; any thread.
     */
    uint64_t (*get_size)(void *opaque);

    /* How many of them take space. Short; any thread. NULL: all. */
    uint64_t (*get_allocated)(void *opaque);

    /*
     * Somebody opens it. Blocks. 0, or -errno: it cannot be opened now. NULL: it always can. `writable`: to be
     * written to.
     */
    int (*open)(void *opaque, bool writable);

    /* Somebody who had opened it closes it: nothing of his is on its way. May block. NULL: nothing to be done. */
    void (*close)(void *opaque);
};

/*
 * Make a storage known by `id`: a letter, then letters, digits, '-', '.', '_', 64 at most. `ops` and the id are
 * copied; `opaque` is the caller's, and stays until it is unregistered. Any thread. Errors: -EINVAL: the id, or
 * `ops`; -EEXIST: there is one of that id; -ENOMEM.
 */
VDISK_API int vdisk_backend_register(const char *id, const struct vdisk_backend_ops *ops, void *opaque);

/*
 * No volume can open it from here on; submit() and the others are not called any more. Any thread. Errors: -EBUSY:
 * somebody has it open; -ENOENT: there is none.
 */
VDISK_API int vdisk_backend_unregister(const char *id);

/*
 * The request has ended; `io` is gone. `result`: 0 when all of it has been done, or a negative errno (any other
 * number is -EIO); of a write the range is undefined then. -ENOSPC is what says that there is no space.
 * Context: any thread, within submit() or not; no signal handler. Never blocks, and runs nothing of the volume's
 * user.
 */
VDISK_API void vdisk_backend_io_done(struct vdisk_backend_io *io, int result);

#ifdef __cplusplus
}
#endif
#endif
