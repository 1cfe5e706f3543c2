/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk's second door: what is done to an image as a whole, and what it is. The first one, <vdisk.h>, is for
 * its data.
 *
 * Jobs. What takes long and is no request is a job. vdisk_job_KIND() makes one from options; nothing has begun
 * then. It is run once: by vdisk_job_run(), which blocks, or on a queue by vdisk_job_start(), and then its
 * completion comes through vdisk_reap() as any request's, with the user_data that was given, while requests and
 * other jobs go on in that queue. A job that was started has a thread and, as long as it runs, a queue of its
 * own; the queue that it was started on lends it nothing but the completion.
 *
 * A job that changes an image leaves it, whenever it stops (cancelled, failed, or killed), as it was, or done,
 * or so that the same job can be made again and has the same outcome; what each kind leaves stands with it.
 *
 * A volume that a job is about cannot be closed (-EBUSY) before the job has ended, or, when it was not run,
 * been freed.
 *
 * A job waits for storage as any call does, on its own thread: while the host hangs in it (open(2) of a file of a
 * server that does not answer), the queue that it was started on goes on, but neither cancelling nor anything else
 * ends it, and till it has ended that queue is not destroyed. The program may end meanwhile.
 *
 * Options are copied, with their strings. Functions that they name are called on the job's thread: the caller's
 * for vdisk_job_run(), else a thread of the library, on which all signals are blocked. Files are opened by their
 * names while it runs: a relative one is one in the folder that the process is in then, and has to stay in.
 * Handles do not survive fork(): in the child calls on them are -ECHILD.
 */
#ifndef VDISK_IMAGE_H
#define VDISK_IMAGE_H

#include <vdisk.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vdisk_job vdisk_job;

/* ---- any job --------------------------------------------------------------------------------------- */

/*
 * Start a job. Completes from vdisk_reap() with `user_data` and the job's result, once. Does not block.
 * Context: the queue's thread. Until it has been reaped the queue cannot be destroyed: -EBUSY. Errors (nothing
 * has begun, and the job can be tried again): -EINVAL, -ECHILD, -EEXIST (another thread's queue); -EBUSY: it
 * was run before; -EAGAIN, -ENOMEM: no thread; -ENOTSUP: a queue within a simulation, where vdisk_job_run()
 * works.
 */
VDISK_API int vdisk_job_start(vdisk_job *job, vdisk_queue *q, uint64_t user_data);

/*
 * Run a job to its end, on this thread. Blocks. Queues of this thread are turned meanwhile. Returns its result,
 * with vdisk_error_text(). Errors also: -EINVAL, -ECHILD; -EBUSY: it was run before.
 */
VDISK_API int vdisk_job_run(vdisk_job *job);

/*
 * Have it stop at its next step, with -ECANCELED; what was cancelled before it began does not begin. It may
 * still succeed: when it was about to. Any thread, and from signal handlers. NULL is allowed.
 */
VDISK_API void vdisk_job_cancel(vdisk_job *job);

enum vdisk_job_state {
    VDISK_JOB_NEW,
    VDISK_JOB_RUNNING,
    VDISK_JOB_ENDED, /* its completion can be reaped */
};

struct vdisk_job_progress {
    size_t               size;             /* sizeof(struct vdisk_job_progress): set by the caller */
    enum vdisk_job_state state;
    int32_t              result;           /* ENDED: 0 or -errno; else 0 */
    uint64_t             bytes_done;       /* never falls */
    uint64_t             bytes_total;      /* as far as it is known by now: may rise. 0: it is not */
    uint64_t             bytes_per_second; /* since it began */
    uint64_t             seconds_left;     /* at that rate; UINT64_MAX: not known */
};

/* How far it is. Any thread. Errors: -EINVAL, -ECHILD. */
VDISK_API int vdisk_job_get_progress(const vdisk_job *job, struct vdisk_job_progress *ret_progress);

/* Of a job that has ended: its error in one line, and what to do about it; "" else. The job's. Any thread. */
VDISK_API const char *vdisk_job_get_error_text(const vdisk_job *job);
VDISK_API const char *vdisk_job_get_error_hint(const vdisk_job *job);

/*
 * Free a job that has not been run, or has ended. NULL is allowed. Errors: -EBUSY: it runs; -ECHILD. The text
 * of an earlier error stays.
 */
VDISK_API int vdisk_job_free(vdisk_job *job);

/* ---- jobs of one's own ----------------------------------------------------------------------------- */

struct vdisk_job_kind {
    size_t      size; /* sizeof(struct vdisk_job_kind) */
    const char *name; /* a noun, for messages: "copy". Not copied: static, say */

    /*
     * All of it, on the job's thread; blocks. It is outside of the library: it may make any call but vdisk_close()
     * of the volumes that it is about. A queue that it makes is destroyed before it returns. 0, or -errno: the
     * job's error text is what vdisk_job_fail() was given, else that of the last call of the library on this
     * thread. It calls vdisk_job_step() often enough to be cancelled within a second.
     */
    int (*work)(vdisk_job *job, void *arg);

    /* By vdisk_job_free(): `arg` is not needed any more. NULL: nothing is to be done. Any thread. */
    void (*release)(void *arg);
};

/*
 * Make a job of a function. `name`: what it is about, for messages; copied. `volumes`: those that cannot be closed
 * before it has ended; may be NULL with 0 of them. `arg` is the job's from here on, until release(); when this
 * fails it is the caller's. `kind` is copied, but results are asked for by its address. Errors: -EINVAL, -ENOENT
 * (no name), -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_make(const struct vdisk_job_kind *kind, const char *name, void *arg, vdisk *const *volumes,
                             unsigned n_volumes, vdisk_job **ret_job);

/*
 * From work(): so far it has come; what progress tells. A part that begins anew, with less done, adds to what was.
 * -ECANCELED, with a text: it is to stop, and to return that. -EINVAL: not from the work of such a job.
 */
VDISK_API int vdisk_job_step(vdisk_job *job, uint64_t done, uint64_t total);

/*
 * From work(): what its error is to say when it returns one, whatever it calls till then to clean up; the last one
 * counts. One line each; copied. NULL text: those of the last call on this thread; NULL hint: that text's own, or
 * none. Returns -|err|, so that work reads `return vdisk_job_fail(...);`. -EINVAL: as vdisk_job_step().
 */
VDISK_API int vdisk_job_fail(vdisk_job *job, int err, const char *text, const char *hint);

/* The `arg` of a job that has succeeded, for its result. Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_arg(const vdisk_job *job, const struct vdisk_job_kind *kind, void **ret_arg);

/*
 * For functions that are built on the library: make `text` and `hint` (NULL: none) what vdisk_error_text() and
 * vdisk_error_hint() give on this thread, until the next call. One line each; copied. Returns -|err|.
 */
VDISK_API int vdisk_set_error(int err, const char *text, const char *hint);

/* ---- open and close -------------------------------------------------------------------------------- */

/*
 * vdisk_open() as a job. Descriptors that are given are duplicated here: the caller may close his at once. It can
 * be cancelled between layers, and while an image that was not closed is repaired. When it stops early, nothing is
 * left: no descriptor, lock or thread, and the image is as it was, or repaired. `opts` may be NULL. Errors:
 * -EINVAL, -ENOENT (no name), -ENOMEM; -EBADF, -EMFILE: of the descriptors; those of vdisk_open() are the job's
 * result.
 */
VDISK_API int vdisk_job_open(const char *name, const struct vdisk_open_opts *opts, vdisk_job **ret_job);

/*
 * The volume that has been opened, once: from then on it is the caller's, as after vdisk_open(). One that is not
 * asked for is closed by vdisk_job_free(), which then blocks as vdisk_close() does; -EMFILE, -ENOMEM: there was no
 * queue to do that with, and the job is as it was. Any thread. Errors: -EINVAL: another kind; -EBUSY: not ended;
 * -EALREADY: somebody has it; the job's own.
 */
VDISK_API int vdisk_job_take_volume(vdisk_job *job, vdisk **ret_vdisk);

/*
 * vdisk_close() as a job. From its start on nothing else is done with the volume, until the job has ended with one
 * of the errors after which the handle is as it was: with requests in flight, or another job about the volume, it
 * ends with -EBUSY. Cancelled before it begins it does not begin; later it goes on to its end. Errors: -EINVAL,
 * -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_close(vdisk *v, vdisk_job **ret_job);

/* ---- create ---------------------------------------------------------------------------------------- */

/*
 * vdisk_create() as a job. When it stops early, the volume is not there (what the job made is removed, a file
 * that was there before is left empty and a device has no header, as the error's text says), and the same job
 * makes it. Killed: a file that nothing takes for an image. Errors: -EINVAL (no name, the options' size),
 * -ENOENT, -ENOMEM; those of vdisk_create() are the job's result.
 */
VDISK_API int vdisk_job_create(const char *name, const struct vdisk_create_opts *opts, vdisk_job **ret_job);

struct vdisk_create_result {
    size_t   size;           /* sizeof(struct vdisk_create_result): set by the caller */
    uint64_t virtual_size;   /* as the options say, or of the backing file */
    uint64_t file_size;      /* of the file that bears the name, or the device */
    uint64_t allocated_size; /* bytes that it occupies on the host */
};

/* What a create that succeeded has made. Any thread. -EINVAL: another kind; -EBUSY: not ended; its own error. */
VDISK_API int vdisk_job_get_create_result(const vdisk_job *job, struct vdisk_create_result *ret_result);

/* ---- resize ---------------------------------------------------------------------------------------- */

/*
 * vdisk_resize() as a job, about an open volume. When it stops early, or is killed, the volume has its old
 * size; but once one that is made smaller has its new size, what is left is to give space back: the same job
 * does that. A raw file whose preallocation was killed may be longer. `opts` may be NULL. Errors: -EINVAL,
 * -ECHILD, -ENOMEM; those of vdisk_resize() are the job's result.
 */
VDISK_API int vdisk_job_resize(vdisk *v, uint64_t virtual_size, const struct vdisk_resize_opts *opts,
                               vdisk_job **ret_job);

struct vdisk_resize_result {
    size_t   size;         /* sizeof(struct vdisk_resize_result): set by the caller */
    uint64_t old_size;     /* when it began */
    uint64_t virtual_size; /* now */
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_resize_result(const vdisk_job *job, struct vdisk_resize_result *ret_result);

/* ---- what lies below -------------------------------------------------------------------------------- */

/*
 * Make the top layer of an open volume empty, so that all is read from its backing file, and give its space back.
 * The caller vouches that what lies below has the same content: interrupted, cancelled or killed, the image reads
 * from both. Then the same call goes on, as it does where an earlier one has left clusters leaked. Blocks;
 * requests are refused meanwhile. `progress` may be NULL. Errors: -EBUSY: requests are in flight; -EACCES:
 * read-only; -EINVAL: it has no backing file; -ENOTSUP: raw; -ECANCELED; -ECHILD, -EDEADLK; or of the I/O. After
 * those of giving back the image is empty, says the text, and has leaked clusters.
 */
VDISK_API int vdisk_make_empty(vdisk *v, vdisk_progress_fn *progress, void *progress_arg);

/*
 * Write another backing file's name and format ("raw" or "qcow2") into the header of an open volume's top layer;
 * NULL or "" and NULL: it has none any more. Nothing else changes, and nothing is opened: what the image reads is
 * the caller's matter. When it returns 0 it is durable; killed, or after a power cut, the image has the old name
 * or the new one. From then on the handle, which still reads from the old one, takes no more changes. Blocks;
 * requests are refused meanwhile. Errors: -EBUSY: requests are in flight; -EACCES: read-only; -EINVAL: the name,
 * or the format; -ENOSPC: there is no room for it in the header; -ENOTSUP: raw; -ECHILD, -EDEADLK; or of the I/O:
 * where it is not known then which name the image has, the volume takes no more writes.
 */
VDISK_API int vdisk_set_backing(vdisk *v, const char *backing_file, const char *backing_fmt);

/* Would it be refused? Nothing changes. Errors: as that, but for those of the I/O of writing. */
VDISK_API int vdisk_check_backing(vdisk *v, const char *backing_file, const char *backing_fmt);

/* ---- amend ----------------------------------------------------------------------------------------- */

enum vdisk_amend_flags {
    VDISK_AMEND_SHRINK   = 1u << 0, /* `virtual_size` may be smaller: what is behind it is lost */
    VDISK_AMEND_LAZY_ON  = 1u << 1, /* lazy_refcounts: one of the two, or it stays as it is */
    VDISK_AMEND_LAZY_OFF = 1u << 2,
};

struct vdisk_amend_opts {
    size_t             size;          /* sizeof(struct vdisk_amend_opts) */
    uint32_t           flags;         /* enum vdisk_amend_flags */
    uint32_t           version;       /* 2 or 3; 0: as it is, and so with all others */
    uint32_t           refcount_bits; /* a power of two, up to 64; version 2 has 16 */
    uint64_t           virtual_size;  /* a multiple of 512 */
    const char        *backing_file;  /* "": none; NULL: as it is. As all texts it is copied */
    const char        *backing_fmt;   /* NULL or "": as it is */
    vdisk_progress_fn *progress;
    void              *progress_arg;
};

/*
 * Change what an image is, as a job, about an open volume: all of it, in an order in which each step has what
 * it needs, a smaller version and the backing file's name last (the name first, where the larger version has no
 * room for the present one). Version 2 knows no zeros that take no space: with a backing file they are written.
 * All that can be refused is, before anything changes. Requests are refused meanwhile. When it stops early, or
 * is killed, some of the steps are done, each of them whole, the image reads as it did (but for its size), and
 * clusters may be leaked: the same job does the rest. Once it has begun to get another backing file the handle
 * takes no more changes. Errors of the job: -EINVAL, -ENOTSUP: the options, or the image is not of a kind for
 * them; -EBUSY: requests are in flight; -EACCES: read-only; -EIO: it is damaged; of vdisk_resize() and
 * vdisk_set_backing(); -ENOSPC, -ENOMEM, -ECANCELED, or of the I/O. Errors here: -EINVAL, -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_amend(vdisk *v, const struct vdisk_amend_opts *opts, vdisk_job **ret_job);

/* ---- trim ------------------------------------------------------------------------------------------ */

struct vdisk_trim_opts {
    size_t             size; /* sizeof(struct vdisk_trim_opts) */
    vdisk_progress_fn *progress;
    void              *progress_arg;
};

/*
 * vdisk_trim_space() as a job. When it stops early, some space has been given back, and the rest is another
 * time. How much there is is not known before. `opts` may be NULL. Errors: -EINVAL, -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_trim(vdisk *v, const struct vdisk_trim_opts *opts, vdisk_job **ret_job);

struct vdisk_trim_result {
    size_t   size;             /* sizeof(struct vdisk_trim_result): set by the caller */
    uint64_t allocated_before; /* bytes that the host file occupied; what was written meanwhile counts, too */
    uint64_t allocated_after;
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_trim_result(const vdisk_job *job, struct vdisk_trim_result *ret_result);

/* ---- check and repair ------------------------------------------------------------------------------ */

enum vdisk_finding {
    VDISK_FOUND_CORRUPTION, /* data is lost, or will be if the image is written to */
    VDISK_FOUND_LEAK,       /* space is lost, nothing else */
    VDISK_FOUND_ERROR,      /* something could not be looked at */
    VDISK_FOUND_NOTE,       /* worth knowing, no fault by itself */
    VDISK_FOUND_FIXED,      /* repair: what was done */
};

/*
 * `text` is one line without a newline, and without the name of the image; valid during the call. What stands in
 * the image may be in it: mind control characters. Context: the job's thread.
 */
typedef void vdisk_report_fn(void *arg, enum vdisk_finding kind, const char *text);

/*
 * Something in the image refers to these bytes of its file, once or more often. In the order of the file, whole
 * clusters, neighbours as one; the last one may end past the file. Non-zero ends the job with that: an -errno
 * (> 0: -ECANCELED). Context: the job's thread.
 */
typedef int vdisk_used_fn(void *arg, uint64_t host_offset, uint64_t len);

struct vdisk_check_opts {
    size_t             size;         /* sizeof(struct vdisk_check_opts) */
    uint32_t           flags;        /* of enum vdisk_open_flags: BUFFERED, FORCE_SHARE (not to repair), NO_LOCK */
    uint32_t           kinds;        /* which to report: bits 1 << enum vdisk_finding; 0: all */
    const char        *format;       /* "qcow2", or NULL to look at the content */
    vdisk_report_fn   *report;       /* NULL: count only */
    void              *report_arg;
    uint64_t           report_max;   /* findings to report, the others are only counted; 0: 1000 */
    uint64_t           memory_max;   /* for reference counts and tables; 0: half of the machine's memory */
    vdisk_progress_fn *progress;
    void              *progress_arg;
    vdisk_used_fn     *used;         /* called at the end of a check, not of a repair; NULL: nobody asks */
    void              *used_arg;
};

/*
 * Look for inconsistencies in an image that need not be fit to be opened. The backing chain and an external
 * data file are not looked at; nothing is written. `opts` may be NULL. The job succeeds when it came to its
 * end, whatever it found: the result tells. Errors of the job: -ENOSYS: the format has no checks (raw);
 * -EINVAL, -ENOTSUP: the header cannot be used; -EFBIG: too many clusters to be counted; -ENOMEM: memory_max is
 * too little; as open(2); -EAGAIN: locked; -ECANCELED; or of the I/O. Errors here: -EINVAL, -ENOENT (no name),
 * -ENOMEM.
 */
VDISK_API int vdisk_job_check(const char *name, const struct vdisk_check_opts *opts, vdisk_job **ret_job);

struct vdisk_check_result {
    size_t   size;                /* sizeof(struct vdisk_check_result): set by the caller */
    uint64_t image_end_offset;    /* what is past it is not in use */
    uint64_t total_clusters;      /* of the virtual disk */
    uint64_t allocated_clusters;  /* these three: of the active layer, snapshots apart */
    uint64_t fragmented_clusters;
    uint64_t compressed_clusters;
    uint64_t corruptions;
    uint64_t leaks;
    uint64_t check_errors;
};

/* Of a check, or of a repair: of the image as it is now. Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_check_result(const vdisk_job *job, struct vdisk_check_result *ret_result);

enum vdisk_repair {
    VDISK_REPAIR_NOTHING, /* is a check */
    VDISK_REPAIR_LEAKS,   /* refcounts that are too high; nothing that could touch data */
    VDISK_REPAIR_ALL,     /* refcounts, flags, damaged entries: what can be mended without a change of content */
};

/*
 * Check, and mend: the image is in no other use. When it stops early, or is killed, the image is no worse than
 * before, and the same job goes on where this one ended. Otherwise as vdisk_job_check().
 */
VDISK_API int vdisk_job_repair(const char *name, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                               vdisk_job **ret_job);

struct vdisk_repair_result {
    size_t   size;              /* sizeof(struct vdisk_repair_result): set by the caller */
    uint64_t leaks_fixed;       /* as `qemu-img check -r` counts them */
    uint64_t corruptions_fixed;
};

/* What a repair has done; vdisk_job_get_check_result(): what is left. Any thread. */
VDISK_API int vdisk_job_get_repair_result(const vdisk_job *job, struct vdisk_repair_result *ret_result);

/* ---- what an image is ------------------------------------------------------------------------------ */

/*
 * What an image says of itself, and where it lies, as it was at one moment. Nothing in it changes, so that any
 * threads may use it at once; it is plain memory, and survives fork(). Texts that are given out are its own: they
 * stay until it is freed. What stands in an image may be in them: mind control characters.
 *
 * A chain is gone through by name, without opening all of it: the layer below is `backing_name`, of the format
 * `backing_fmt`. (Mind that it may lead in a circle.)
 */
typedef struct vdisk_image vdisk_image;

/*
 * Look at an image and nothing else: it is opened for reading, and closed; no name that it holds is followed. An
 * encrypted one, too, which vdisk_open() refuses. `opts` as for vdisk_open(), may be NULL. Blocks. Any thread.
 * *ret_image is the caller's, for vdisk_image_free(); untouched on failure. Errors: as vdisk_open(); -EINVAL: also
 * for RDWR.
 */
VDISK_API int vdisk_image_load(const char *name, const struct vdisk_open_opts *opts, vdisk_image **ret_image);

/*
 * The same of a layer of an open volume, 0 being the top one, with the files that it has open. Any thread; blocks:
 * it reads tables, and waits for a change of the whole volume (resize, trim) to end. Errors: -ENOENT: no such
 * layer; -EDEADLK: from such a change's progress function; -EINVAL, -ECHILD, -ENOMEM, -EMFILE.
 */
VDISK_API int vdisk_image_of_layer(vdisk *v, uint32_t depth, vdisk_image **ret_image);

/* NULL is allowed. */
VDISK_API void vdisk_image_free(vdisk_image *image);

struct vdisk_image_info {
    size_t      size;           /* set by the caller: sizeof(struct vdisk_image_info) */
    const char *name;           /* to open it by: a path; "json:{...}" where that alone gives something else */
    const char *format;         /* static strings, both */
    const char *backend;        /* what it lies in */
    const char *file;           /* the path of that, or what stands for one */
    uint64_t    file_size;      /* of the file; where the image is a part of it: of that */
    uint64_t    allocated_size; /* bytes that the file occupies */
    uint64_t    virtual_size;
    const char *data_path;      /* the file that vdisk_extent.host_offset is in; NULL: it is not open */
    const char *backing_name;   /* the backing file, to open it by: with the image's directory, where it has to */
    /* As in struct vdisk_create_opts, but as they are stored; 0, false, NULL: the format, or image, has none */
    const char *backing_file;
    const char *backing_fmt;
    const char *data_file;
    const char *compression_type;
    uint32_t    cluster_size;
    uint32_t    version;
    uint32_t    refcount_bits;
    bool        lazy_refcounts;
    bool        extended_l2;
    bool        data_file_raw;
    /* Its state */
    bool        dirty;          /* it was not closed: refcounts may be wrong; a repair or an open mends them */
    bool        corrupt;        /* it is marked so: no writes before a repair */
    bool        bitmaps_stale;  /* it has bitmaps that a writer has not kept, which are not listed */
};

/* Any thread. Errors: -EINVAL. */
VDISK_API int vdisk_image_get_info(const vdisk_image *image, struct vdisk_image_info *ret_info);

/* Within the image. */
struct vdisk_snapshot_info {
    size_t      size;          /* set by the caller: sizeof(struct vdisk_snapshot_info), and so on */
    const char *id;
    const char *name;
    uint64_t    virtual_size;  /* when it was taken */
    uint64_t    vm_state_size; /* bytes; 0: of the disk only */
    uint64_t    vm_clock_nsec;
    uint64_t    icount;        /* has_icount */
    uint32_t    date_sec;      /* since 1970 */
    uint32_t    date_nsec;
    bool        has_icount;
};

/*
 * Number `index` of the list, from 0 on. Any thread. Errors: -ENOENT: there are no more; -EINVAL; why the list
 * could not be read: all else is known then.
 */
VDISK_API int vdisk_image_get_snapshot(const vdisk_image *image, uint32_t index,
                                       struct vdisk_snapshot_info *ret_snapshot);

struct vdisk_bitmap_info {
    size_t      size;
    const char *name;
    uint64_t    granularity; /* bytes that a bit stands for */
    bool        in_use;      /* it was not saved: what it says is not true */
    bool        automatic;   /* it is kept by who writes to the image */
};

/* Likewise. */
VDISK_API int vdisk_image_get_bitmap(const vdisk_image *image, uint32_t index,
                                     struct vdisk_bitmap_info *ret_bitmap);

struct vdisk_encryption_info {
    size_t      size;
    const char *format;         /* "luks" or "aes" */
    const char *cipher;         /* NULL, and nothing below either: not luks, or its header cannot be read */
    const char *cipher_mode;
    const char *hash;
    const char *ivgen;
    const char *ivgen_hash;     /* NULL: none */
    const char *uuid;
    uint64_t    payload_offset; /* bytes */
    uint32_t    master_key_iterations;
};

/* Any thread. Errors: -ENOENT: it is not encrypted; -EINVAL. */
VDISK_API int vdisk_image_get_encryption(const vdisk_image *image, struct vdisk_encryption_info *ret_encryption);

struct vdisk_key_slot_info {
    size_t   size;
    uint64_t key_offset; /* bytes */
    uint32_t iterations; /* these two: of active ones */
    uint32_t stripes;
    bool     active;
};

/* Of an image encrypted with luks: as vdisk_image_get_snapshot(). */
VDISK_API int vdisk_image_get_key_slot(const vdisk_image *image, uint32_t index,
                                       struct vdisk_key_slot_info *ret_slot);

/* ---- measure ---------------------------------------------------------------------------------------- */

struct vdisk_measure_result {
    size_t   size;            /* set by the caller: sizeof(struct vdisk_measure_result). All counts are bytes */
    uint64_t virtual_size;
    uint64_t required;        /* that the file takes with what it has to hold; a device has to be as large */
    uint64_t fully_allocated; /* the same when all of it has been written */
    uint64_t bitmaps;         /* has_bitmaps: that copies of the source's bitmaps take besides */
    uint64_t unit;            /* data takes space in units of it, so aligned; 0: `required` is all there can be */
    bool     has_bitmaps;     /* the source, and the new image, are of a kind that can have some */
};

/*
 * How large a volume gets that vdisk_create() makes with these options, before anything has been written to it.
 * No name in `opts` is looked at. `source`: whose content it is to have, for the bitmaps; NULL: nothing is copied.
 * For qcow2 it is what `qemu-img measure` says, which includes metadata for all of the size, and counts guest data
 * that goes to an external data file. Any thread; does not block. Errors: -EINVAL, -EFBIG, -ENOTSUP: the options.
 */
VDISK_API int vdisk_measure(const struct vdisk_create_opts *opts, const vdisk_image *source,
                            struct vdisk_measure_result *ret_result);

struct vdisk_measure_opts {
    size_t             size;  /* sizeof(struct vdisk_measure_opts) */
    uint32_t           depth; /* stretches of 256 MiB that are looked at at once; 0: 32 */
    const char        *name;  /* for messages; copied. NULL: "measuring" */
    vdisk_progress_fn *progress;
    void              *progress_arg;
};

/*
 * The same of a copy of an open volume: its size counts, not that of `target`, and what it knows to be zeros needs
 * no space. With a backing file, which may have any of it, all is required. No data is read, nothing changes.
 * `target` is judged here, and not kept; `opts` may be NULL. Errors of the job: -ECANCELED, -ENOMEM, or of the
 * I/O. Errors here: those of vdisk_measure(), -ECHILD, -ENOMEM; of reading the source's list of bitmaps.
 */
VDISK_API int vdisk_job_measure(vdisk *source, const struct vdisk_create_opts *target,
                                const struct vdisk_measure_opts *opts, vdisk_job **ret_job);

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_measure_result(const vdisk_job *job, struct vdisk_measure_result *ret_result);

/* ---- servers ---------------------------------------------------------------------------------------- */

/* What a server exports. Strings are there until the function that is told returns. */
struct vdisk_export_info {
    size_t      size;        /* sizeof(struct vdisk_export_info) of this library */
    const char *name;        /* what clients ask for; may be "" */
    const char *description; /* for people; "": none */
    uint64_t    bytes;       /* how long it is; with flags 0 that is not told */
    uint32_t    flags;       /* of NBD: its transmission flags; 0: the server tells of it no more than its name */
    uint32_t    min_block, preferred_block, max_block; /* bytes; 0: not told */
    bool        extended;    /* NBD: by headers of 64 bits */
    uint32_t    n_contexts;  /* NBD: metadata contexts that it has, 64 at most: */
    const char *const *contexts;
};

/* Anything but 0 ends the list. What it is told is a server's: anything may be in names, and is to be judged. */
typedef int vdisk_export_fn(void *arg, const struct vdisk_export_info *info);

/*
 * Tell `fn` of each export of the server that a name leads to (nbd://HOST, say; the export that it names does not
 * matter), on this thread, once all are known. Blocks, 10 s at most (but for the resolver of names). Returns 0, or
 * what `fn` has returned. Errors: of the connection, as vdisk_open(); -EACCES, -EIO: the server gives no list;
 * -EPROTO: what it says cannot be, or more than 1024; -ENOTSUP: a name that leads to no server; -EINVAL, -ENOMEM.
 */
VDISK_API int vdisk_list_exports(const char *name, vdisk_export_fn *fn, void *arg);

#ifdef __cplusplus
}
#endif

#include <vdisk-bulk.h>

#endif
