/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk: raw and qcow2 volumes, and chains of them, through io_uring.
 *
 * Everything is bytes unless a name says otherwise. All structs of options start with their size, so that
 * a program built against an older header keeps working: set `.size = sizeof opts`, leave the rest zero.
 *
 * Threads. A `vdisk` may be used by any number of threads at once. A `vdisk_queue` belongs to one thread: the
 * one that first uses it. Another thread's submit or reap on a queue of kind URING_DEFER is -EEXIST, and what
 * it enqueued stays there for the owner to send; with the other kinds it is a race. A thread may end when all
 * that it enqueued has been reaped, and not before: nobody could reap it. Handles do not survive fork(): in the
 * child every call on one is -ECHILD and touches nothing, and requests complete so.
 *
 * Waiting. A request goes on whatever the owners of other queues do, in the library or elsewhere, but for these
 * waits for what is in flight on another queue, which last until that queue's owner calls the library:
 *   - writes, zeroes and discards of one qcow2 cluster wait for each other;
 *   - so do those of the first 512 bytes of a volume that was opened without a format and found to be raw;
 *   - a write that does not keep to vdisk_info.request_align waits for the writes of the volume that were in
 *     flight when it came, and writes to the blocks of its ends for it;
 *   - a write that finds no space, where discarded space could be had, waits for the requests that may still
 *     use it;
 *   - a request whose metadata finds no place since writes in flight, or they and a read of metadata that other
 *     queues have fought for, hold all of its set in the cache: possible where cache_bytes is less than some
 *     MiB. Who waits in the library (vdisk_reap(), synchronous calls, resize, trim) turns all queues of its
 *     thread, so that nothing of these waits for itself; what completes meanwhile is handed out by the next
 *     vdisk_reap() of its queue. Work that queues share is done by the only queue that a volume has seen, and by a
 *     thread of the library as soon as there is a second. Where the host refuses that thread, a wait asks for it
 *     again (and a descriptor stays readable) until there is one or the first queue's owner calls. poll() and the
 *     like may end with EINTR on a thread that has used a queue.
 *
 * Requests. Enqueue functions return nothing and never complete inline: every result, misuse of ranges
 * included, arrives through vdisk_reap(). A result is 0 or a negative errno, never a short transfer.
 * Buffers belong to the library from enqueue to completion; iovec arrays are copied, and the caller's again when
 * the call returns. Requests in flight are not ordered; a flush covers the writes whose completions had been
 * reaped when it was enqueued.
 *
 * Errors. Functions that return int give 0 (or a count) or a negative errno, and leave a text and a hint for
 * the calling thread: see vdisk_error_text().
 */
#ifndef VDISK_H
#define VDISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VDISK_API __attribute__((visibility("default")))

#define VDISK_IOV_INLINE 4 /* longer lists may take memory to be copied: -ENOMEM when there is none */

struct timespec; /* <time.h> has it, but not for strict C99 */

typedef struct vdisk vdisk;
typedef struct vdisk_queue vdisk_queue;

/* ---- errors ---------------------------------------------------------------------------------------- */

/*
 * The error of the last call on this thread that returns int: one line that names the file and the thing,
 * without a trailing newline. Valid until the next libvdisk call on this thread. Never NULL; "" when that call
 * succeeded, whatever failed on its way. What fails by completion has a text of its own: see vdisk_explain().
 */
VDISK_API const char *vdisk_error_text(void);

/* What to do about it, or "" when there is nothing to say. Same lifetime. */
VDISK_API const char *vdisk_error_hint(void);

/* ---- volumes --------------------------------------------------------------------------------------- */

enum vdisk_open_flags {
    VDISK_OPEN_RDWR        = 1u << 0, /* default: read-only */
    VDISK_OPEN_BUFFERED    = 1u << 1, /* use the page cache; default: O_DIRECT where the file allows it */
    VDISK_OPEN_FORCE_SHARE = 1u << 2, /* read-only; take no exclusive claim (qemu's -U) */
    VDISK_OPEN_NO_LOCK     = 1u << 3, /* no image locks at all; the caller guards the file */
    VDISK_OPEN_NO_BACKING  = 1u << 4, /* leave the backing chain closed: what it would give reads as zeros, and
                                       * so none of it may be written over: not with RDWR, but for a check */
    VDISK_OPEN_CHECK       = 1u << 5, /* for check: leave dirty and corrupt bits as they are, no repair on open */
    VDISK_OPEN_UNSAFE      = 1u << 6, /* flushes succeed without reaching the disk (scratch copies) */
    VDISK_OPEN_NO_NAMES    = 1u << 7, /* follow no name that the image holds (it may be anybody's): NO_BACKING, and
                                       * its external data file is neither opened nor locked, unless `data_file`
                                       * below names it; what it holds reads as -EIO */
    VDISK_OPEN_HOST_HOLES  = 1u << 8, /* vdisk_get_extents() looks for holes of the host in mapped clusters, which
                                       * read as zeros then: in layers for reading of which only the metadata was
                                       * preallocated, as qemu-img map does */
    VDISK_OPEN_UNFINISHED  = 1u << 9, /* with RDWR: the image may be one that was created as unfinished, by the
                                       * caller; vdisk_finish() finishes it. Without it such an image is refused */
};

/*
 * A descriptor to be used in place of open(2): for programs in a sandbox, or that are handed their files. `name`
 * is the name that it stands for, as the library would open it (a relative one that an image stores is relative to
 * the directory of that image's name); NULL: that of the volume itself. The caller keeps the descriptor, and may
 * close it when vdisk_open() has returned: the volume has a duplicate. Those share what open(2) made: its flags
 * are used as they are (O_RDWR for a volume to be written; direct I/O if it has O_DIRECT, which is taken from it
 * where it is of no use; no O_APPEND), and the image locks, which are taken as for names, are its. So it serves
 * one volume at a time (-EAGAIN). A file whose end is no multiple of the block is opened once more through /proc.
 */
struct vdisk_fd {
    const char *name;
    int         fd;
};

/*
 * Called now and then from a long call, on its thread. Return non-zero to stop it with -ECANCELED. It may not
 * change or close the volume (-EDEADLK, -EBUSY), nor wait for writes to it.
 */
typedef int vdisk_progress_fn(void *arg, uint64_t done, uint64_t total);

/*
 * Names: a path; "file:PATH" for a path that looks like something else; "null:SIZE" reads as it pleases and
 * forgets writes; "memory:SIZE" lives as long as the handle; SIZE takes K, M, G, T, P. "user:ID" is storage of the
 * program's own: <vdisk-backend.h>. "rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:KEY=VALUE]..." is an image of Ceph's.
 * Or a tree of nodes with drivers, options and children, as QEMU has it: "json:{...}", members nested or with
 * dots, or "image-opts:KEY=VALUE,...", a comma in a value doubled. Without a driver the content tells the format,
 * and a file name alone the driver of its file; a backend's driver alone (file) is raw bytes. What a driver takes,
 * vdisk_get_driver_option() tells; what it does not take is refused. What the name says for a node (cache.direct,
 * force-share, ...) goes before the flags below.
 */
struct vdisk_open_opts {
    size_t      size;        /* sizeof(struct vdisk_open_opts) */
    uint32_t    flags;       /* enum vdisk_open_flags */
    uint32_t    max_depth;   /* longest backing chain accepted; 0: 1024 */
    const char *format;      /* "raw", "qcow2", or NULL to look at the content: see below */
    uint64_t    cache_bytes; /* bound for cached metadata of each layer, at least 1 MiB; 0: 32 MiB. See below */
    const char *data_file;   /* instead of the external data file that the header names */
    const struct vdisk_fd *fds; /* for its files, backing files included; those without are opened by name */
    uint32_t    fds_count;
    vdisk_progress_fn *progress; /* at each layer (0 of 0), and while one that was not closed is repaired */
    void       *progress_arg;
    uint32_t    layers;      /* open so many from the top, 0: all. Where there are more, what they would give reads
                              * as zeros, and none of it may be written over: with RDWR requests that change are
                              * -EACCES, and only vdisk_make_empty() and vdisk_set_backing() change it */
};

/*
 * What a layer keeps besides cache_bytes: its L1 and refcount tables; four inflated clusters, once compressed ones
 * have been read; 16 KiB for each read of metadata at a time, which stays with its queue; and while a flush runs,
 * a copy of what was dirty when it began (so together at most twice cache_bytes). When it is open for writing,
 * also a map of where metadata lies (11 to 22 bytes for each L2 table and refcount block, 64 MiB at most), and
 * six sets of clusters and slices, such as what is mapped and what was freed: one bit each, in pages of 4 KiB
 * (with clusters of 64 KiB that is 4 KiB for each 2 GiB of the file), 4 MiB at most each. Runs of freed clusters
 * take 16 bytes or so each; more than 16384 of them make the next write or discard flush.
 * While L2 tables are read to learn what is mapped: two sets more, and up to 4 MiB of buffers.
 * A chain of three layers or more has a table of what lies below its top, of cache_bytes at most: 8 bytes for each
 * 4 KiB to 2 MiB (the smallest cluster or subcluster) that have been read through it.
 */

/*
 * Name the format where it is known. Without it a guest decides what its disk is taken for: what was found to
 * be raw can therefore not be written so that it begins like an image of another format (ours or one that QEMU
 * looks for); such a write, zero or discard ends with -EPERM, all others are carried out. A backing file whose
 * image does not name its format is looked at as well.
 */

/*
 * The names of drivers, from index 0 on: formats, then what they lie in. NULL: no more. Static. Any thread.
 */
VDISK_API const char *vdisk_driver_name(unsigned index);

struct vdisk_driver_option {
    size_t             size;     /* set by the caller: sizeof(struct vdisk_driver_option) */
    const char        *name;     /* all of it is static */
    const char        *type;     /* "text", "bool", "size", "choice", "secret", "node", "node or null" */
    const char        *fallback; /* the default; NULL: there is none to tell */
    const char        *help;     /* one line; "accepted: ..." where the option changes nothing here */
    const char *const *choices;  /* of a choice, ends with NULL; NULL: of others */
    bool               required;
};

/*
 * The options that a name can give to a driver, from index 0 on: its own, then those that all have. Any thread.
 * Errors: -ENOENT: no such driver, or no more options; -EINVAL.
 */
VDISK_API int vdisk_get_driver_option(const char *driver, unsigned index, struct vdisk_driver_option *ret_option);

/*
 * Secrets are known by an id for as long as the process lives, or until they are removed: names refer to them, so
 * that no name and no message has one in it. The text is "secret,id=ID,data=TEXT" or "secret,id=ID,file=PATH",
 * with format=raw or format=base64, a comma in a value doubled; or the same as JSON, with "qom-type". Data is
 * copied, 1 MiB at most; memory that held it is overwritten. Any thread. Errors: -EINVAL: not that, or the id is
 * taken; -ENOTSUP: another kind of object; -EFBIG; -ENOMEM; of the file; -ENOENT: there is none to remove.
 *
 * Objects are also credentials for TLS, as QEMU has them, which stay to the end of the process:
 * "tls-creds-x509,id=ID,dir=FOLDER" with endpoint=client (the default) or server, verify-peer=on (the default) or
 * off, priority=TEXT (GnuTLS's words); or "tls-creds-psk" with username=NAME in place of verify-peer. Their files
 * are loaded then: -ENOENT and others of a file, -EACCES: anybody may read a key, -ENOTSUP: there is no GnuTLS.
 */
VDISK_API int vdisk_object_add(const char *text);
VDISK_API int vdisk_secret_add(const char *id, const void *data, size_t len);
VDISK_API int vdisk_secret_remove(const char *id);

struct vdisk_tls_creds {
    size_t      size;        /* set by the caller: sizeof(struct vdisk_tls_creds) */
    const char *dir;         /* texts stay to the end of the process */
    const char *username;    /* NULL: none was given */
    const char *priority;    /* the same */
    uint32_t    server, psk, verify_peer, reserved; /* 0 or 1 */
};

/* What credentials were made of, for a program that speaks TLS itself. Any thread. Errors: -ENOENT; -EINVAL. */
VDISK_API int vdisk_get_tls_creds(const char *id, struct vdisk_tls_creds *ret_creds);

/*
 * Open a volume with its backing chain. Blocks. `opts` may be NULL. On success *ret_vdisk is the caller's, to
 * be given back with vdisk_close(); on failure it is untouched. Errors: -ENOENT, -EACCES, ...: as open(2);
 * -EAGAIN: locked by another process, named in the text; -EINVAL: not a valid image; -ENOTSUP: a feature, or
 * a protocol such as ssh://, that we lack, named in the text; -EACCES also: marked corrupt, and to be written, or
 * a descriptor is for reading; -EBADF; -EIO also: not closed, and what is there cannot be repaired; -EFBIG (also:
 * the chain's L1 tables take more than 1 GiB of memory), -ELOOP, -ENOMEM, -ECANCELED.
 */
VDISK_API int vdisk_open(const char *name, const struct vdisk_open_opts *opts, vdisk **ret_vdisk);

/*
 * Write back all metadata, flush, and free the handle. Blocks. NULL is allowed. Errors: -EBUSY: requests are in
 * flight on some queue (completed and not reaped ones are not), or another call changes the volume; -ECHILD:
 * opened by the parent process; -EDEADLK: from its event callback or its grower; -EMFILE, -ENOMEM: no queue for
 * it. After these the handle is as it was. After any other, as after success, it is gone, and what was written
 * since the last successful flush may be lost.
 */
VDISK_API int vdisk_close(vdisk *v);

struct vdisk_info {
    size_t      size;           /* set by the caller: sizeof(struct vdisk_info) */
    uint64_t    virtual_size;
    uint64_t    allocated_size; /* bytes that the host file of the top layer occupies */
    uint64_t    cluster_size;   /* 0 for raw */
    uint32_t    request_align;  /* requests of this alignment (offset, length) need no read-modify-write */
    uint32_t    memory_align;   /* buffers of this alignment need no bounce buffer */
    uint32_t    depth;          /* number of layers, 1 without a backing file */
    bool        read_only;
    bool        direct;         /* O_DIRECT in use */
    const char *format;         /* static strings */
    const char *backend;
    const char *trouble;        /* why the volume takes no more writes; NULL: it does. Until vdisk_close() */
    uint64_t    max_transfer;   /* what goes to the storage at a time at most; larger requests go in parts */
    uint32_t    preferred_transfer; /* reads and writes of multiples of it, so aligned, cost the least */
    uint32_t    zero_align;     /* zeros so aligned are not written, where zeroes_cheap */
    uint32_t    discard_align;  /* discards give back what is whole of it */
    bool        zeroes_cheap;   /* as a rule zeros cost no more than a change of metadata */
    uint32_t    compress_align; /* of writes with VDISK_REQ_COMPRESSED; 0: there are none */
    bool        discards;       /* they may give back space: the storage has not said that it cannot */
};

/* Fill `ret_info`. Any thread. Looks whether the device or file of raw, or with a grower, has another size. */
VDISK_API int vdisk_get_info(vdisk *v, struct vdisk_info *ret_info);

/* The virtual size. Any thread, does not block. */
VDISK_API uint64_t vdisk_size(const vdisk *v);

/*
 * Grow the volume to `size`; what is new reads as zeros. Blocks; other requests may be in flight. A raw volume
 * on a block device follows the device: `size` is what that has by now, and what is new reads as the device has
 * it. Errors: -EINVAL for a smaller size, -EACCES when read-only, -EFBIG past the format's limit, -ENOSPC past
 * the device's end, -ENOTSUP: a raw volume would be smaller than its device; or of the I/O.
 */
VDISK_API int vdisk_grow(vdisk *v, uint64_t size);

/*
 * Give back to the host what an open qcow2 volume holds and does not use: clusters taken ahead for writes to
 * come, the space of discarded clusters, and the file's end behind the last cluster in use; vdisk_close() does
 * the same. Flushes. Raw volumes have nothing to give back: 0. Context: any thread; blocks until the requests
 * in flight when it begins have ended (this thread's own it turns). Errors: -EACCES when read-only, -ENOMEM, or
 * of the I/O: what is left is given back another time.
 */
VDISK_API int vdisk_trim_space(vdisk *v);

/*
 * What a new image (vdisk_create_opts.unfinished) was made for is all in it: flush, then have it count as an
 * image, durably. So whoever is killed before leaves nothing that is taken for whole. Of any other volume, raw
 * ones among them: flush. Context: any thread; blocks; requests are refused meanwhile (-EBUSY). Errors: -EACCES
 * when read-only; -EBUSY: requests are in flight; -ENOMEM, or of the I/O: it is unfinished still, but for an
 * error in writing the header, after which that is not known and the volume takes no more writes.
 */
VDISK_API int vdisk_finish(vdisk *v);

/*
 * Have `target` hold what all of `source` is, from its start on, in that both files have the same blocks on the
 * host from now on (a reflink), until one of them is written to: no data is moved, holes stay holes, and what
 * space the target had there is given back. Both are raw, with nothing below, in whole files of one file system
 * that can do it (XFS, btrfs), and the target is as large or larger. It becomes durable by a flush. Context: any
 * thread; blocks; no request that changes one of them is in flight. Errors: -EACCES: the target is read-only;
 * -ENOTSUP: it cannot be had, whatever the reason: the caller copies; some of the target may be as the source
 * then; -EINVAL, -ECHILD.
 */
VDISK_API int vdisk_clone(vdisk *source, vdisk *target);

/* ---- what happens to a volume ------------------------------------------------------------------------ */

enum vdisk_event_kind {
    VDISK_EVENT_SIZE = 1,  /* its size has changed; value: what it is now. Also of a raw volume whose device
                            * has been extended or cut, or whose file another program has cut: it follows as
                            * soon as that is found, by vdisk_get_info() at the latest */
    VDISK_EVENT_CORRUPT,   /* its metadata cannot be trusted: no more writes; text: why. qcow2 of version 3 is
                            * marked corrupt by the next change that fails for it, or at close */
    VDISK_EVENT_WATERMARK, /* see vdisk_set_watermark(); value: how far the file is in use now */
};

struct vdisk_event {
    enum vdisk_event_kind kind;
    uint64_t              value;
    const char           *text; /* "" where there is nothing to say; valid during the call */
};

/*
 * Called when something has happened to `v`, once for several of a kind that came before it could be told. On the
 * thread that found it, as its last deed before a call of the library returns, or on a thread of the library; on
 * several at once, perhaps. No lock is held: it may call the library, but for vdisk_close() of `v` (-EDEADLK), and
 * wait for nothing that other threads do in calls of it.
 */
typedef void vdisk_event_fn(void *arg, vdisk *v, const struct vdisk_event *event);

/*
 * Have `fn` called from now on, in place of the one before; NULL: nobody. When it returns, and when vdisk_close()
 * does, the one before is not called any more, on any thread. Any thread. Errors: -EINVAL, -ECHILD.
 */
VDISK_API int vdisk_set_event_callback(vdisk *v, vdisk_event_fn *fn, void *arg);

enum vdisk_log_level {
    VDISK_LOG_ERROR = 1, /* something is lost or refused from now on */
    VDISK_LOG_WARNING,   /* it goes on, slower or changed */
    VDISK_LOG_INFO,
};

/* `volume`: its name, or NULL; `text`: one line without a newline. Both are valid during the call. */
typedef void vdisk_log_fn(void *arg, enum vdisk_log_level level, const char *volume, const char *text);

/*
 * Have `fn` told what is the answer to no call: that metadata cannot be trusted, that a queue goes on without
 * io_uring, that an image was repaired when it was opened. For the whole process; NULL: nobody, as at first. It is
 * called as a vdisk_event_fn is, never with a lock held; when this returns the one before is not called any more.
 * Never fails. Any thread.
 */
VDISK_API void vdisk_set_log(vdisk_log_fn *fn, void *arg);

/* ---- changing its size ------------------------------------------------------------------------------- */

enum vdisk_prealloc { VDISK_PREALLOC_OFF, VDISK_PREALLOC_METADATA, VDISK_PREALLOC_FALLOC, VDISK_PREALLOC_FULL };

struct vdisk_resize_opts {
    size_t              size;          /* sizeof(struct vdisk_resize_opts) */
    enum vdisk_prealloc preallocation; /* of what is new; raw has no metadata */
    bool                shrink;        /* a smaller size is meant: what lies behind the new end is lost */
    vdisk_progress_fn  *progress;
    void               *progress_arg;
};

/*
 * Make the volume `virtual_size` bytes, rounded up to 512; what is new reads as zeros (raw on a block device:
 * see vdisk_grow()). Blocks. Other requests may be in flight while it grows; with some in flight it cannot be made
 * smaller, and those that come meanwhile are refused: -EBUSY. `opts`
 * may be NULL. Errors: -EINVAL: smaller, and not asked for, or a wrong option; -EACCES when read-only; -EFBIG
 * past the format's limit; -ENOTSUP: snapshots, bitmaps or the storage forbid it, says the text; -ENOSPC;
 * -ECANCELED; or of the I/O. After an error, and after a crash, the volume has the old size; but once a shrunk
 * volume has its new size, what is left is to give space back, and when that fails the text says so; and a raw
 * file whose preallocation was killed may be longer.
 */
VDISK_API int vdisk_resize(vdisk *v, uint64_t virtual_size, const struct vdisk_resize_opts *opts);

/* ---- creation -------------------------------------------------------------------------------------- */

struct vdisk_create_opts {
    size_t              size;             /* sizeof(struct vdisk_create_opts) */
    const char         *format;           /* "raw" or "qcow2" */
    uint64_t            virtual_size;     /* rounded up to 512; UINT64_MAX with a backing file: the size of that */
    enum vdisk_prealloc preallocation;
    /* qcow2 only; zero or NULL means the default */
    uint32_t            cluster_size;     /* 512 to 2 MiB, a power of two; default 65536 */
    uint32_t            version;          /* 2 or 3; default 3 */
    uint32_t            refcount_bits;    /* 1 to 64, a power of two; default 16 */
    bool                lazy_refcounts;
    bool                extended_l2;
    bool                data_file_raw;
    const char         *compression_type; /* "zlib" (default) or "zstd" */
    const char         *backing_file;     /* stored as given; relative names are relative to the new image */
    const char         *backing_fmt;
    bool                backing_unchecked; /* do not open the backing file; virtual_size must be given */
    const char         *data_file;        /* made anew, name stored in the header as given */
    bool                buffered;         /* write through the page cache instead of O_DIRECT */
    vdisk_progress_fn  *progress;
    void               *progress_arg;
    bool                unfinished;       /* it counts only after vdisk_finish(). qcow2: till then another magic
                                           * number stands in place of its own, and VDISK_OPEN_UNFINISHED alone
                                           * opens it. raw has nothing to be marked with */
};

/*
 * Create a volume. Blocks. An existing file is replaced, unless another process holds it or it is part of the new
 * volume's backing chain; it stays the same file (inode, owner, mode, links), and symbolic links are followed. A
 * block device must be large enough; raw leaves its content, but for a first sector of zeros, so that it is not
 * taken for another format. The backing file may be in use by another process.
 * All that can be refused is refused before anything changes: options, names, locks, descriptors, sizes, and too
 * little room for what is preallocated. After a later failure or a cancelled run, what this call made is removed;
 * a file that was there before is left empty, and a device has no qcow2 header, which the text says.
 * Errors: -EINVAL, -ENOTSUP, -EFBIG: options; -ENOTSUP also: a protocol that we lack, such as ssh:, where no file
 * of that name is there ("file:PATH" makes one); as open(2), -EMFILE among them; -EAGAIN: locked; -ENOSPC;
 * -ECANCELED; or of the I/O.
 */
VDISK_API int vdisk_create(const char *name, const struct vdisk_create_opts *opts);

/* ---- queues ---------------------------------------------------------------------------------------- */

enum vdisk_queue_kind {
    VDISK_QUEUE_AUTO,          /* the best that the kernel allows */
    VDISK_QUEUE_URING_DEFER,   /* io_uring with SINGLE_ISSUER and DEFER_TASKRUN */
    VDISK_QUEUE_URING,         /* io_uring without them */
    VDISK_QUEUE_THREADS,       /* preadv and pwritev on a few threads: io_uring is refused here */
    VDISK_QUEUE_SIMULATED,     /* not to be asked for: what a queue made within a simulation is (for tests) */
};

enum vdisk_queue_flags {
    VDISK_QUEUE_MEASURE = 1u << 0, /* the time that requests take: vdisk_queue_get_latency(). Reads a clock twice
                                    * for each, some 50 ns */
};

struct vdisk_queue_opts {
    size_t                size;  /* sizeof(struct vdisk_queue_opts) */
    uint32_t              depth; /* requests in flight that need no allocation (without memory, with more,
                                  * enqueueing waits for some); 0: 256; at most 4096 */
    enum vdisk_queue_kind kind;  /* ask for one kind and no better one */
    uint32_t              flags; /* enum vdisk_queue_flags */
    int                   watch_fd;    /* open as long as the queue is; vdisk_reap() and vdisk_wait() make */
    bool                 *watch_ready; /* this true when that has become readable, once for each change, and do
                                        * not sleep while it is; NULL: there is none */
};

/*
 * Make a queue. It serves any number of volumes and is owned by one thread. Where io_uring is refused, or too
 * little memory may be locked even for a small ring, it falls back to the next kind; vdisk_queue_get_kind() and
 * vdisk_queue_get_reason() tell. So it does later, when the kernel refuses a call of the ring: requests go on
 * with threads; those that the kernel had and did not end within a second end with its error, and their buffers
 * may still be written to. Where no kind is asked for, the environment variable VDISK_QUEUE may name one (auto,
 * uring-defer, uring, threads), for this queue and those that the library makes for itself: for valgrind, rr, and
 * hosts whose io_uring is better left alone. Errors: -ENOMEM, -EINVAL (VDISK_QUEUE, too), -EMFILE, -ENFILE; a kind
 * asked for by name that cannot be had.
 */
VDISK_API int vdisk_queue_create(const struct vdisk_queue_opts *opts, vdisk_queue **ret_queue);

/*
 * Free a queue, before the volumes that it served are closed or after. NULL is allowed. Errors: -EBUSY:
 * requests have not been reaped; -ECHILD: made by the parent process; the queue is as it was. The text of an
 * earlier error stays.
 */
VDISK_API int vdisk_queue_destroy(vdisk_queue *q);

/* Which kind it got; never VDISK_QUEUE_AUTO. And its name, for people. */
VDISK_API enum vdisk_queue_kind vdisk_queue_get_kind(const vdisk_queue *q);
VDISK_API const char *vdisk_queue_kind_name(enum vdisk_queue_kind kind);

/*
 * Why a queue has no better kind, as one line: "io_uring (defer_taskrun): Operation not permitted", with a hint
 * where too little memory may be locked; "" when there is none better. It changes, with the kind, when the kernel
 * refuses io_uring later. The queue's; valid until it goes.
 */
VDISK_API const char *vdisk_queue_get_reason(const vdisk_queue *q);

/*
 * Memory that I/O will use, such as the guest's: requests whose single buffer lies inside one of these regions
 * save the kernel the pinning of pages. It may come and go while requests are in flight, as with a DIMM that is
 * plugged in. A region may have any length; there may be 64 of a queue, of 4 TiB together. For each queue that
 * is to use it, on the queue's thread: nobody waits for another queue. The memory stays the caller's. Its pages
 * may not be replaced while it is registered (munmap(), mmap() over it, mremap(), MADV_DONTNEED, a hole in its
 * file: what a balloon does): requests would still use the old ones. Remove it first. Where there is nothing to
 * register with (no io_uring, a kernel before 5.19, a simulation) it is remembered, and requests work as
 * without. Blocks as long as the kernel takes to pin it. Errors, and then requests work as without it: -EINVAL:
 * no memory; -EEXIST: a part is registered; -ENOSPC: too many; -ENOMEM: the limit of locked memory (ulimit -l);
 * -ECHILD; -EEXIST on another thread; or whatever the kernel says, as -EOPNOTSUPP of some files' memory.
 */
VDISK_API int vdisk_queue_add_memory(vdisk_queue *q, void *base, size_t len);

/*
 * Remove a region as it was added. What is enqueued from now on does not use the registration; this completes,
 * as a request does, when what was before has ended, and the kernel lets go of the pages. It waits for nothing
 * but I/O that is under way in that region, on this queue; without any it can be reaped at once. Requests in
 * the memory may go on, and it may be added again at once. Context: the queue's thread. Errors, by completion:
 * -ENOENT: no such region; -ECHILD, -EEXIST; of the kernel: then its pages stay pinned until the queue goes,
 * and no request uses it.
 */
VDISK_API void vdisk_queue_remove_memory(vdisk_queue *q, void *base, size_t len, uint64_t user_data);

/*
 * All regions at once, in place of all that were there before, and with nothing in flight; n = 0: none. The
 * memory stays the caller's and must stay until it is unregistered, or the queue goes; regions may overlap.
 * Context: the queue's thread. Errors: -EINVAL: more than 64, or none given; -EBUSY: requests have not been
 * reaped; -ENOTSUP: the queue's kind has none (requests work as before); -ENOMEM: the limit of locked memory
 * (ulimit -l), and whatever else the kernel says: then no regions are registered.
 */
VDISK_API int vdisk_queue_register_buffers(vdisk_queue *q, const struct iovec *regions, unsigned n);

/* ---- requests -------------------------------------------------------------------------------------- */

enum vdisk_req_flags {
    VDISK_REQ_FUA         = 1u << 0, /* write, zero, discard: durable, with its metadata, when it completes */
    VDISK_REQ_UNMAP       = 1u << 1, /* zero: space may be given back */
    VDISK_REQ_NO_FALLBACK = 1u << 2, /* zero: -ENOTSUP rather than write zeros, soon, and as a rule with nothing
                                      * changed. What zero_align does not divide may be so. Copy: <vdisk-bulk.h> */
    VDISK_REQ_EXPLICIT    = 1u << 3, /* zero: by the volume's own word, also where it would read zeros without, so
                                      * that it still does with something else below */
    VDISK_REQ_COMPRESSED  = 1u << 4, /* write: compressed, see below */
};

/*
 * Enqueue. Nothing is sent before vdisk_submit() or vdisk_reap(). Context: the queue's thread.
 * Completes: from vdisk_reap(), once, with `user_data`. Owns: buffers, until then.
 * Errors, by completion: -EINVAL: unknown flag, past the end (raw: its device's, by now); -EACCES: read-only;
 * -EPERM: struct vdisk_open_opts; -EIO and whatever the host gives; -ENOSPC: see vdisk_set_grower(); -ENOMEM.
 * A failed write leaves its range undefined: old, new, or a mixture, in units of 512 bytes.
 * A write with VDISK_REQ_COMPRESSED is of whole multiples of vdisk_info.compress_align, or up to the volume's end:
 * -EINVAL otherwise; -ENOTSUP where that is 0. Each such unit is compressed by itself, on threads of the queue;
 * what gets no shorter is stored as it is; zeros are data. Large requests, several at a time, take the least. Of
 * one queue they get their places in the file in the order in which they are enqueued, so that the same requests
 * give the same file. A later write to a part of a unit stores all of it as it is.
 */
VDISK_API void vdisk_read(vdisk_queue *q, vdisk *v, uint64_t offset, void *buf, size_t len, uint32_t flags,
                          uint64_t user_data);
VDISK_API void vdisk_write(vdisk_queue *q, vdisk *v, uint64_t offset, const void *buf, size_t len,
                           uint32_t flags, uint64_t user_data);
VDISK_API void vdisk_readv(vdisk_queue *q, vdisk *v, uint64_t offset, const struct iovec *iov, unsigned n,
                           uint32_t flags, uint64_t user_data);
VDISK_API void vdisk_writev(vdisk_queue *q, vdisk *v, uint64_t offset, const struct iovec *iov, unsigned n,
                            uint32_t flags, uint64_t user_data);

/* The range reads as zeros afterwards. */
VDISK_API void vdisk_write_zeroes(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags,
                                  uint64_t user_data);

/* The content of the range is no longer needed: afterwards each byte reads as before or as zero. */
VDISK_API void vdisk_discard(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags,
                             uint64_t user_data);

/*
 * The range is going to be read: have it in caches. The metadata that is needed to find it is read, of all layers;
 * of files that go through the host's page cache (VDISK_OPEN_BUFFERED, or no direct I/O) the data is, too, and
 * that goes on when this has completed. With direct I/O, memory: and null: the data stays where it is. Compressed
 * clusters are not inflated. Changes nothing; allowed on read-only volumes. No flags.
 */
VDISK_API void vdisk_prefetch(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, uint32_t flags,
                              uint64_t user_data);

/*
 * Writes completed (reaped) before this was enqueued are durable when it completes. Through the page cache
 * (VDISK_OPEN_BUFFERED, or a file without direct I/O) a failure is for good: the host may have dropped what it
 * could not write, so that this and all later flushes and durable writes of the handle fail, with the first
 * error, until the volume is opened anew.
 */
VDISK_API void vdisk_flush(vdisk_queue *q, vdisk *v, uint32_t flags, uint64_t user_data);

/*
 * Cancel the requests with this user_data for which nothing has been done. Context: the queue's thread. Never
 * blocks, and completes nothing inline.
 * Completes: each request as without this, exactly once, from vdisk_reap(); till then its buffers are the
 * library's. What has been cancelled completes with -ECANCELED, from the next vdisk_reap() (for which
 * vdisk_queue_fd() becomes readable), and has not changed the volume; of a read the buffer is undefined. What has
 * not been goes on, and completes with its real result, when it has one.
 * Can be cancelled: reads and writes, and flushes and discards of raw volumes, until they are sent; of qcow2
 * writes that need space, zeroes and discards, and block status and prefetch of any, until vdisk_reap() begins
 * them; of all these what waits for others in the same place, as long as it does. vdisk_submit() and vdisk_reap()
 * send, and so do a blocking call on the same thread and a full ring.
 * And what is parked (vdisk_set_grower()).
 * Cannot: what has been sent or has ended; what is of several parts, when one has been sent; what waits for
 * metadata, for space otherwise, or for the flush of VDISK_REQ_FUA; compressed writes that have begun; what has
 * failed once and is tried in another way; writes of neighbours, once vdisk_reap(), or that 64 of them wait, has
 * made them one; unaligned I/O of several parts, or that waits for unaligned writes while its memory is unaligned;
 * from the start on a flush of qcow2, zeroes of a raw volume, a read for which metadata is read or clusters are
 * decompressed, and I/O through a filter (a part of a file is one). Flushes and discards may be on their way to a
 * thread at once, and with a queue of kind THREADS all I/O. Jobs have vdisk_job_cancel().
 * What has been cancelled counts in vdisk_stats as a request that failed, and a write to a raw volume may have
 * moved the watermark.
 * Returns: how many have been cancelled; others with this user_data go on. Errors: -EALREADY: there are such, and
 * none could be; -ENOENT: there are none; -EINVAL: no queue; -ECHILD: the parent process's; -EEXIST: another
 * thread's.
 */
VDISK_API int vdisk_cancel(vdisk_queue *q, uint64_t user_data);

enum vdisk_extent_flags {
    VDISK_EXTENT_DATA       = 1u << 0, /* some layer holds bytes for it */
    VDISK_EXTENT_ZERO       = 1u << 1, /* reads as zeros */
    VDISK_EXTENT_COMPRESSED = 1u << 2,
    VDISK_EXTENT_OFFSET     = 1u << 3, /* host_offset is valid */
    VDISK_EXTENT_ALLOCATED  = 1u << 4, /* space for it is allocated in layer `depth` (qemu's "present") */
};

struct vdisk_extent {
    uint64_t guest_offset;
    uint64_t length;
    uint64_t host_offset; /* in the file that holds the data of layer `depth` */
    uint32_t flags;       /* enum vdisk_extent_flags */
    uint32_t depth;       /* 0 is the top layer */
};

struct vdisk_extents {
    struct vdisk_extent *list; /* the caller's */
    unsigned             max;
    unsigned             count; /* set on completion; fewer than the range needs when `max` is reached */
};

/*
 * What the range is made of, neighbours of one kind merged. It covers a prefix of the range, at least one
 * extent. `extents` and its list stay the library's until completion.
 */
VDISK_API void vdisk_get_extents(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len,
                                 struct vdisk_extents *extents, uint64_t user_data);

struct vdisk_completion {
    uint64_t user_data;
    int32_t  result; /* 0 or -errno */
    uint32_t error;  /* number of the words for it, for vdisk_explain(); 0: there are none */
};

/*
 * Make the text of a completion that was handed out by `q` this thread's: what vdisk_error_text() and
 * vdisk_error_hint() give until the next call. It names the volume, the request, and the file and the place in it
 * where an I/O failed: that may be another layer's. A queue keeps the texts of the last 128 requests that failed;
 * of older ones there is the errno only. Returns the completion's result. Any thread. Errors: -EINVAL, -ECHILD.
 */
VDISK_API int vdisk_explain(vdisk_queue *q, const struct vdisk_completion *completion);

/* Send what is enqueued to the kernel. Never blocks, completes nothing. 0, -EEXIST on another thread, -ECHILD. */
VDISK_API int vdisk_submit(vdisk_queue *q);

/*
 * Submit, then wait until `min` completions are there or `timeout` (NULL: none) has passed, and hand out up to
 * `max`. With 16 and more in flight, a wait for fewer than `max` may last up to 4 ms longer, to find several at
 * once: that is faster for the device and takes less CPU. min = max never gathers. min = 0 polls; what is more
 * than is in flight is not waited for. Returns the number handed out, or -errno: -EINTR after a signal, -EEXIST
 * on another thread, -ECHILD, -EINVAL (no memory for completions, a timeout that is none).
 */
VDISK_API int vdisk_reap(vdisk_queue *q, struct vdisk_completion *completions, unsigned min, unsigned max,
                         const struct timespec *timeout);

/*
 * The same, but with nothing in flight it waits as well (unless min = 0): for vdisk_queue_wake(), or until
 * `timeout` has passed. For threads that sleep here until there is work for them.
 */
VDISK_API int vdisk_wait(vdisk_queue *q, struct vdisk_completion *completions, unsigned min, unsigned max,
                         const struct timespec *timeout);

/*
 * A vdisk_reap() or vdisk_wait() of this queue returns, though fewer than `min` have completed: the one that waits
 * now, or else the next; several wakes before it count as one. The queue's descriptor becomes readable. Context:
 * any thread, and signal handlers; the queue must not be destroyed meanwhile. Never blocks, never fails; of a
 * queue of the parent process it does nothing. Synchronous calls are not woken.
 */
VDISK_API void vdisk_queue_wake(vdisk_queue *q);

/* Requests enqueued and not yet reaped. */
VDISK_API unsigned vdisk_queue_inflight(const vdisk_queue *q);

/*
 * A descriptor that is readable when vdisk_reap() has something to do: not always a completion, a request may
 * just have made a step; completions that `max` left behind count, too. For poll and epoll, level- or edge-
 * triggered; the queue's, do not read or close it. Call vdisk_submit() or vdisk_reap() after enqueueing, before
 * going to sleep: when either has returned, what remains to be done makes it readable. Context: the queue's
 * thread, or any before it was first used. Made on the first call, so that queues that are not polled do not pay
 * for it; the same ever after. Errors: -EMFILE, -ENFILE, -ENOMEM, or of the kernel.
 */
VDISK_API int vdisk_queue_fd(vdisk_queue *q);

/* ---- statistics -------------------------------------------------------------------------------------- */

enum vdisk_request_kind {
    VDISK_REQUEST_READ,
    VDISK_REQUEST_WRITE,
    VDISK_REQUEST_ZERO,
    VDISK_REQUEST_DISCARD,
    VDISK_REQUEST_FLUSH,
    VDISK_REQUEST_EXTENTS,
    VDISK_REQUEST_PREFETCH,
    VDISK_REQUEST_COPY,
    VDISK_REQUEST_KINDS = 8
};

/* Of requests that have ended, those that failed included. */
struct vdisk_counts {
    uint64_t requests;
    uint64_t bytes;  /* asked for */
    uint64_t errors;
};

struct vdisk_stats {
    size_t              size; /* set by the caller: sizeof(struct vdisk_stats) */
    struct vdisk_counts kind[VDISK_REQUEST_KINDS]; /* by enum vdisk_request_kind */
    uint64_t cache_hits;      /* reads and writes that went to storage at once: their metadata was at hand */
    /* Of volumes only, with all layers; 0 for a queue: */
    uint64_t cache_misses;    /* pieces of metadata that were read from storage */
    uint64_t allocations;     /* clusters that writes have taken */
    uint64_t flushes;         /* that were carried out, */
    uint64_t flushes_shared;  /* and those that were answered by another's */
};

/*
 * What there has been since the volume was opened, the queue made: whatever queue it came by, synchronous calls
 * included; whatever volume it went to. While requests end the numbers need not be of one moment. Any thread.
 * Errors: -EINVAL, -ECHILD.
 */
VDISK_API int vdisk_get_stats(vdisk *v, struct vdisk_stats *ret_stats);
VDISK_API int vdisk_queue_get_stats(vdisk_queue *q, struct vdisk_stats *ret_stats);

enum { VDISK_LATENCY_BUCKETS = 160 };

struct vdisk_latency {
    size_t   size;   /* set by the caller: sizeof(struct vdisk_latency) */
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t bucket[VDISK_LATENCY_BUCKETS]; /* requests that took vdisk_latency_floor() of this one, but not of
                                             * the next: four to each power of two; the last: and longer */
};

/*
 * The time from enqueue to end of the requests of one kind that went by a queue made with VDISK_QUEUE_MEASURE. Any
 * thread. Errors: -ENODATA without that, -EINVAL, -ECHILD.
 */
VDISK_API int vdisk_queue_get_latency(vdisk_queue *q, enum vdisk_request_kind kind,
                                      struct vdisk_latency *ret_latency);

/* Nanoseconds. */
VDISK_API uint64_t vdisk_latency_floor(unsigned bucket);

/* ---- synchronous wrappers -------------------------------------------------------------------------- */

/*
 * As above, and wait: one request at a time, on a queue of the calling thread's own, which is made at its first
 * such call and goes with the thread. Any thread, calls do not wait for each other. 0 or -errno, never short.
 */
VDISK_API int vdisk_pread(vdisk *v, void *buf, size_t len, uint64_t offset);
VDISK_API int vdisk_pwrite(vdisk *v, const void *buf, size_t len, uint64_t offset, uint32_t flags);
VDISK_API int vdisk_pzero(vdisk *v, uint64_t len, uint64_t offset, uint32_t flags);
VDISK_API int vdisk_pdiscard(vdisk *v, uint64_t len, uint64_t offset);
VDISK_API int vdisk_sync(vdisk *v);
VDISK_API int vdisk_pextents(vdisk *v, uint64_t len, uint64_t offset, struct vdisk_extents *extents);

/* ---- options by name --------------------------------------------------------------------------------- */

enum vdisk_opts_kind {
    VDISK_OPTS_OPEN,   /* struct vdisk_open_opts, */
    VDISK_OPTS_CREATE, /* and so on */
    VDISK_OPTS_RESIZE,
    VDISK_OPTS_QUEUE,
};

struct vdisk_option {
    const char *name;     /* as the field, or the flag, of the struct; VDISK_OPEN_RDWR is "writable" */
    const char *type;     /* "text", "bool", "size", "number", or words with | between */
    const char *fallback; /* the default, as text; NULL: none to tell */
    const char *help;     /* one line */
};

/*
 * Set the field of a struct of options that has this name ("-" may stand for "_"). `opts` points to the struct,
 * whose `.size` is set. `value` as text: on or off, a number with K, M, G, T, P, a word; a text is not copied and
 * must stay as long as the struct is used. Any thread. Errors: -ENOENT: no such option, -EINVAL: no such value,
 * -ENOTSUP: `.size` does not reach so far.
 */
VDISK_API int vdisk_set_option(enum vdisk_opts_kind kind, void *opts, const char *name, const char *value);

/* All that there are, ends with a NULL name. Static. NULL: unknown kind. */
VDISK_API const struct vdisk_option *vdisk_list_options(enum vdisk_opts_kind kind);

/* ---- memory ------------------------------------------------------------------------------------------ */

/* Memory for I/O: aligned to 4096, or NULL. Free with free(): it is the C library's, whatever allocator is set. */
VDISK_API void *vdisk_alloc_buffer(size_t len);

/* As in C, all of them; free() is for what any of the others gave, and for no NULL. Any threads. */
struct vdisk_allocator {
    size_t size; /* sizeof(struct vdisk_allocator) */
    void  *opaque;
    void *(*malloc)(void *opaque, size_t size);
    void *(*calloc)(void *opaque, size_t n, size_t size);
    void *(*realloc)(void *opaque, void *p, size_t size);
    void *(*aligned_alloc)(void *opaque, size_t align, size_t size); /* `size` may be any */
    void  (*free)(void *opaque, void *p);
};

/*
 * Have the library's own memory come from there, for the whole process and until it ends: what is kept for the
 * process (secrets, storage that is registered) goes when it exits. Before anything else of the library is called.
 * They may not call the library, and run with locks held; NULL is out of memory, which fails what asked (-ENOMEM)
 * and nothing else. The struct is copied. Not from there: memory of the C library, of liburing, and what
 * decompresses (zlib, libdeflate, zstd); what is mapped (rings, storage in memory, large copies of metadata).
 * jansson's is set as well, by json_set_alloc_funcs(): for all who use it in this process, so that they must not
 * have begun either. Errors: -EINVAL; -EBUSY: too late.
 */
VDISK_API int vdisk_set_allocator(const struct vdisk_allocator *allocator);

VDISK_API const char *vdisk_version(void);

#ifdef __cplusplus
}
#endif

#include <vdisk-space.h> /* the watermark, growers */

#endif
