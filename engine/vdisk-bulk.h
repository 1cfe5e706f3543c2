/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk's bulk work: volumes copied, compared, merged, digested, and images that go through pipes. The jobs
 * here are those of <vdisk-image.h>, which includes this; what holds for all jobs stands there.
 */
#ifndef VDISK_BULK_H
#define VDISK_BULK_H

#include <vdisk-image.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what the host copies ---------------------------------------------------------------------------- */

/*
 * Enqueue, as the requests of <vdisk.h>: a part of what vdisk_clone() does. The range of `v` becomes what `source`
 * has at `source_offset`, by the host: its file system has both share the blocks, until one of them is written to
 * (XFS, btrfs), or its server copies them (NFS, SMB, and the like). Elsewhere the kernel moves data through the
 * page cache, which takes longer than a read and a write with direct I/O; with VDISK_REQ_NO_FALLBACK it does not.
 * Both are raw, with nothing below, in whole files; offsets and lengths are multiples of the block of the file
 * system, vdisk_info.discard_align as a rule. Holes of the source may become data: vdisk_get_extents() tells them
 * apart. What another handle has just written to either file is seen, as with all I/O. `source` stays open, and
 * nothing changes the range there, until it completes. Errors, by completion: those of a write; -ENOTSUP: it is
 * not to be had, whatever the reason, and some of the range may be as in the source: the caller reads and writes;
 * -EINVAL also: the source is the target, or ends before; -ECHILD; -EBUSY: the source is being changed.
 */
VDISK_API void vdisk_copy_range(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, vdisk *source,
                                uint64_t source_offset, uint32_t flags, uint64_t user_data);

/* ---- jobs that go on --------------------------------------------------------------------------------- */

/*
 * All of a job before `position`, a byte of the volume that it fills or goes through, is done and durable: it
 * may be killed now, and another one with the same images and options, and `start` the position, does the rest.
 * Told from time to time, after a flush; at the end of the work on data; and when the job stops early, if the
 * flush succeeds then. Positions do not fall. Non-zero ends the job: an -errno (> 0: -ECANCELED). On the job's
 * thread; it may use neither the job nor the volumes. What `start` says is believed: that nothing has changed
 * meanwhile but by the job itself, the caller has to know.
 */
typedef int vdisk_checkpoint_fn(void *arg, uint64_t position);

/* A part of the options of such a job. */
struct vdisk_going_on {
    uint64_t             start;          /* go on from here; 0: all of it is to be done */
    vdisk_checkpoint_fn *checkpoint;     /* NULL: not asked for */
    void                *checkpoint_arg;
    uint32_t             checkpoint_ms;  /* between two of them; 0: 5000 */
};
/* ---- digests of blocks: of copies and checksums -------------------------------------------------------- */

enum { VDISK_DIGEST_SIZE = 32 }; /* blake2b-256 */

/*
 * `count` blocks, from number `first` on, have this digest each. Non-zero ends the job with that: an -errno (> 0:
 * -ECANCELED). On the job's thread, in the order of the volume, each block once. It may not use the job.
 */
typedef int vdisk_block_digest_fn(void *arg, uint64_t first, uint64_t count, const uint8_t *digest);

/*
 * For going on: *ret_count blocks, from number `first` on, are known to have the digest ret_digest; 0: no more are
 * known. Asked at the start of the job, until there are no more; they are told as all others, but not read.
 * Otherwise as vdisk_block_digest_fn.
 */
typedef int vdisk_known_digest_fn(void *arg, uint64_t first, uint64_t *ret_count, uint8_t *ret_digest);

/* ---- copy ------------------------------------------------------------------------------------------- */

enum vdisk_copy_flags {
    VDISK_COPY_TARGET_IS_ZERO = 1u << 0, /* it is known that the target reads as zeros: they are not written */
    VDISK_COPY_DENSE          = 1u << 1, /* zeros are data: all of the target gets its space */
    VDISK_COPY_SALVAGE        = 1u << 2, /* what cannot be read is zeros in the target, and reported */
    VDISK_COPY_COMPRESS       = 1u << 3, /* by VDISK_REQ_COMPRESSED: see vdisk_job_copy() */
    VDISK_COPY_CLONE          = 1u << 4, /* by vdisk_clone(), where that can be had, or else what is data by
                                          * vdisk_copy_range() with NO_FALLBACK: the target need not keep the
                                          * space that it has, and zeros in data are not looked for there. Without
                                          * the others but TARGET_IS_ZERO, `sparse` and `backing_depth` */
    VDISK_COPY_GROW           = 1u << 5, /* of vdisk_job_fill() */
    VDISK_COPY_DISCARD        = 1u << 6, /* what the target has is given back before: see vdisk_job_copy() */
};

/* What could not be read: of the source of that number, with that -errno. On the job's thread. */
typedef void vdisk_salvaged_fn(void *arg, unsigned source, uint64_t offset, uint64_t len, int error);

struct vdisk_copy_opts {
    size_t             size;          /* sizeof(struct vdisk_copy_opts) */
    uint32_t           flags;         /* enum vdisk_copy_flags */
    uint32_t           depth;         /* pieces in flight, of up to 2 MiB, or of preferred_transfer where that is
                                       * longer, up to 8 MiB; 0: 16, or more that are short */
    const char        *name;          /* for messages, as the target's; copied. NULL: "copy" */
    uint64_t           memory_max;    /* for buffers: then there are smaller pieces, or fewer. 0: 16 pieces, or
                                       * 64 MiB where it compresses */
    uint64_t           sparse;        /* zeros in data count where there are so many bytes of them, so aligned; at
                                       * least what the target can leave out. 0: 4096 */
    uint64_t           rate;          /* bytes of data in a second; 0: as many as there can be */
    uint32_t           backing_depth; /* the target's backing file has what the sources have in layers from this
                                       * depth on, which is left out; 0: it has none */
    uint64_t           offset;        /* of one source: what is before it is left out, and what is behind */
    uint64_t           length;        /* so many bytes; 0: to its end */
    vdisk_salvaged_fn *salvaged;
    void              *salvaged_arg;
    vdisk_progress_fn *progress;
    void              *progress_arg;
    struct vdisk_going_on going_on;
    vdisk_block_digest_fn *block_digest; /* NULL: they are not asked for. Else of blocks of 4 MiB, as by
                                       * vdisk_job_checksum() of what is copied; nothing is cloned then, and what
                                       * the target has from below is read */
    void              *block_digest_arg;
    vdisk_known_digest_fn *known_digest; /* with going_on.start, which is rounded down to blocks: of all before */
    void              *known_digest_arg;
    uint64_t           digest_length; /* as if so much were copied, with zeros at its end, if that is less */
};

/*
 * Copy volumes, one after the other, to the start of another. Each begins at a multiple of 512 bytes. All of them
 * are open; nobody else writes to them meanwhile. What the sources know to be zeros is not read. Unless it is
 * known that the target reads as zeros they are zeroed there, and may give back their space. Writes have no order;
 * one flush ends the job. When it stops early, or is killed, the target holds some of the source, and the same job
 * writes all of it; what is behind their end stays. With VDISK_COPY_COMPRESS pieces have 1 MiB, or one
 * vdisk_info.compress_align if that is more, and each takes as much memory again, and 1 MiB, for what becomes of
 * it; a new image is the same file whatever `depth` is, which bounds the threads that compress, too. With
 * VDISK_COPY_DISCARD the target is discarded before the first write, when all else has been judged: from
 * going_on.start to its own end; what is behind the sources' end, too, which is then what a discard leaves of it.
 * After that zeros are left out where the target knows that it has them (holes of files, clusters), and zeroed
 * elsewhere. A storage that takes no discards is no error: vdisk_copy_result.bytes_discarded is 0. Not with
 * TARGET_IS_ZERO, GROW or backing_depth. `opts` may be NULL. Errors of the job: -ENOSPC: the target is too small;
 * nothing has been written. -ENOTSUP: the same, it cannot have compressed data. -EFBIG, -ENOMEM, -ECANCELED, or of
 * the I/O. Errors here: -EINVAL (a source is the target, too; flags that contradict each other), -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_copy(vdisk *const *sources, unsigned n_sources, vdisk *target,
                             const struct vdisk_copy_opts *opts, vdisk_job **ret_job);

struct vdisk_copy_result {
    size_t   size;           /* sizeof(struct vdisk_copy_result): set by the caller */
    uint64_t bytes_total;    /* of the sources; these are counts of bytes, too: */
    uint64_t bytes_read;
    uint64_t bytes_written;  /* as data */
    uint64_t bytes_zeroed;
    uint64_t bytes_skipped;  /* not written, since the target had them */
    uint64_t bytes_salvaged; /* not to be read */
    uint64_t read_errors;
    uint64_t bytes_cloned;   /* neither read nor written: see VDISK_COPY_CLONE */
    uint8_t  digest[VDISK_DIGEST_SIZE]; /* with block_digest: that of a checksum */
    uint64_t bytes_discarded; /* of the target; 0 where its storage takes no discards */
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_copy_result(const vdisk_job *job, struct vdisk_copy_result *ret_result);

/* ---- compare ---------------------------------------------------------------------------------------- */

enum vdisk_compare_flags {
    VDISK_COMPARE_STRICT = 1u << 0, /* sizes are to be the same, and where there is data, zeros or nothing */
};

struct vdisk_compare_opts {
    size_t             size;  /* sizeof(struct vdisk_compare_opts) */
    uint32_t           flags; /* enum vdisk_compare_flags */
    uint32_t           depth; /* pieces of 1 MiB of both in flight; 0: 8 */
    const char        *name;  /* for messages; copied. NULL: "comparison" */
    vdisk_progress_fn *progress;
    void              *progress_arg;
    uint64_t           memory_max; /* for buffers: then there are fewer pieces; 0: as `depth` says */
    uint64_t           rate;  /* bytes that are compared in a second; 0: as many as there can be */
    /*
     * Becomes true when the job fails since a volume could not say what it has data for, and not since data could
     * not be read; stays the caller's until the job is freed. NULL: nobody asks.
     */
    bool              *ret_extents_failed;
};

/*
 * Find the first difference of two open volumes, rounded down to 512 bytes; the shorter one goes on as zeros. What
 * both know to be zeros is not read. Changes nothing. The job succeeds whether or not there is one: the result
 * tells. `opts` may be NULL; `a` and `b` may be the same. Errors of the job: -ENOMEM, -ECANCELED, or of the I/O.
 * Errors here: -EINVAL, -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_compare(vdisk *a, vdisk *b, const struct vdisk_compare_opts *opts, vdisk_job **ret_job);

enum vdisk_difference {
    VDISK_DIFFERENCE_NONE,
    VDISK_DIFFERENCE_CONTENT,
    VDISK_DIFFERENCE_SIZE,   /* strict: nothing else has been looked at */
    VDISK_DIFFERENCE_STATUS, /* strict: of the extents there */
};

struct vdisk_compare_result {
    size_t                size;         /* sizeof(struct vdisk_compare_result): set by the caller */
    enum vdisk_difference difference;
    bool                  sizes_differ; /* rounded up to 512 */
    bool                  behind_end;   /* the difference is behind the end of the shorter one */
    uint64_t              offset;       /* of the difference */
    uint64_t              bytes_read;   /* of both */
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_compare_result(const vdisk_job *job, struct vdisk_compare_result *ret_result);

/* ---- commit ----------------------------------------------------------------------------------------- */

enum vdisk_commit_flags {
    VDISK_COMMIT_KEEP = 1u << 0, /* do not make the image empty afterwards; implied where layers are between */
};

struct vdisk_commit_opts {
    size_t             size;       /* sizeof(struct vdisk_commit_opts) */
    uint32_t           flags;      /* enum vdisk_commit_flags */
    uint32_t           open_flags; /* of enum vdisk_open_flags, for all files: BUFFERED, UNSAFE, NO_LOCK */
    const char        *format;     /* of the image; NULL: look */
    const char        *base;       /* the file below that is to have it, as an image of the chain names it, or a
                                    * path; NULL: the backing file. Copied, as `format` */
    uint32_t           depth;      /* as in struct vdisk_copy_opts: these three */
    uint64_t           memory_max;
    uint64_t           rate;
    vdisk_progress_fn *progress;
    void              *progress_arg;
    struct vdisk_going_on going_on;
    uint64_t           cache_bytes; /* as in struct vdisk_open_opts, of each layer that is opened */
};

/*
 * Put what an image has into a file below it, with all that the layers between them have; zeros that they say
 * become zeros there. A base that is smaller grows. The image and the layers between are opened and locked, the
 * base for writing, and all that can be refused is, before anything changes. Then the base has everything,
 * durably, before the image is made empty. With VDISK_COMMIT_KEEP it is not, nor with a base that is further below
 * than the backing file: the layers between would hide what the base has. When the job stops early, or is killed,
 * the image reads as before, as it does when it is done; what else has the base below it, the layers between among
 * them, may not. The same job again does all of it. `opts` may be NULL. Errors of the job: those of vdisk_open();
 * -EINVAL: no backing file, or no such one; of vdisk_resize() of the base; -EFBIG, -ENOSPC, -ENOMEM, -ECANCELED;
 * of vdisk_make_empty(), or of the I/O. Errors here: -EINVAL, -ENOENT (no name), -ENOMEM.
 */
VDISK_API int vdisk_job_commit(const char *name, const struct vdisk_commit_opts *opts, vdisk_job **ret_job);

struct vdisk_commit_result {
    size_t   size;          /* sizeof(struct vdisk_commit_result): set by the caller */
    uint64_t bytes_written; /* as data, to the base */
    uint64_t bytes_zeroed;
    uint32_t base_depth;    /* how far below the image it is: 1 and more */
    bool     grown;         /* it was smaller */
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_commit_result(const vdisk_job *job, struct vdisk_commit_result *ret_result);

/* ---- rebase ----------------------------------------------------------------------------------------- */

enum vdisk_rebase_flags {
    VDISK_REBASE_UNSAFE   = 1u << 0, /* change the name and nothing else: no backing file is opened */
    VDISK_REBASE_COMPRESS = 1u << 1, /* data is written by VDISK_REQ_COMPRESSED; -ENOTSUP where that is */
};

struct vdisk_rebase_opts {
    size_t             size;         /* sizeof(struct vdisk_rebase_opts) */
    uint32_t           flags;        /* enum vdisk_rebase_flags */
    uint32_t           open_flags;   /* of enum vdisk_open_flags, for the image: BUFFERED, UNSAFE, NO_LOCK */
    uint32_t           backing_open_flags; /* for what is to be below it: these and FORCE_SHARE */
    const char        *format;       /* of the image; NULL: look */
    const char        *backing_file; /* as it is to be stored: a relative name is relative to the image's
                                      * directory; NULL or "": none. Copied, as all texts */
    const char        *backing_fmt;  /* its format; with a backing file it must be given */
    uint32_t           depth;        /* pieces of 1 MiB of both sides in flight; 0: 8 */
    vdisk_progress_fn *progress;
    void              *progress_arg;
    struct vdisk_going_on going_on;
    uint64_t           memory_max;   /* for buffers: then there are fewer pieces; 0: as `depth` says */
    uint64_t           rate;         /* bytes that are looked at in a second; 0: as many as there can be */
    uint64_t           cache_bytes;  /* as in struct vdisk_open_opts, of each layer that is opened */
};

/*
 * Give an image another backing file, so that it reads as before: what it reads from below, and the new one does
 * not have, is written into it. What both know to be zeros, or have from a layer that is the same, is not read.
 * All that can be refused is, before anything changes; the header has the new name when all else is durable. When
 * the job stops early, or is killed, the image reads as before, with the old name, and the same job again does the
 * rest. Errors of the job: those of vdisk_open(), -ELOOP: it would be below itself, those of
 * vdisk_check_backing(), -ENOSPC, -ENOMEM, -ECANCELED, or of the I/O. Errors here: -EINVAL, -ENOENT (no name),
 * -ENOMEM.
 */
VDISK_API int vdisk_job_rebase(const char *name, const struct vdisk_rebase_opts *opts, vdisk_job **ret_job);

struct vdisk_rebase_result {
    size_t   size;          /* sizeof(struct vdisk_rebase_result): set by the caller */
    uint64_t bytes_read;    /* of both sides */
    uint64_t bytes_written; /* as data, into the image */
    uint64_t bytes_zeroed;
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_rebase_result(const vdisk_job *job, struct vdisk_rebase_result *ret_result);

/* ---- checksum --------------------------------------------------------------------------------------- */

enum vdisk_checksum_flags {
    VDISK_CHECKSUM_LENGTH = 1u << 0, /* as if the volume were `length` bytes long */
};

struct vdisk_checksum_opts {
    size_t                 size;       /* sizeof(struct vdisk_checksum_opts) */
    uint32_t               flags;      /* enum vdisk_checksum_flags */
    uint32_t               block_size; /* a multiple of 4096, up to 64 MiB; 0: 4 MiB */
    const char            *name;       /* for messages; copied. NULL: "checksum" */
    uint64_t               length;     /* VDISK_CHECKSUM_LENGTH: a multiple of 512. What is behind it is left out;
                                        * behind the volume's end it is zeros */
    uint64_t               memory_max; /* for buffers, but one block at least; 0: 128 MiB */
    uint32_t               threads;    /* that compute; 1: none but the job's; 0: one for each processor */
    vdisk_block_digest_fn *block_digest; /* NULL: they are not asked for */
    void                  *block_digest_arg;
    vdisk_progress_fn     *progress;
    void                  *progress_arg;
    uint64_t               rate;       /* bytes that are read in a second; 0: as many as there can be */
    vdisk_known_digest_fn *known_digest; /* NULL: none is known */
    void                  *known_digest_arg;
};

/*
 * The digest of what an open volume reads as, whatever its format, and what of it is allocated: the blake2b-256 of
 * the blake2b-256 of each block, one after the other, with no block left out. The last block is as long as what is
 * left; a size that is no multiple of 512 is rounded up, with zeros. (With 4 MiB it is the checksum of oVirt's
 * imageio.) What is known to be zeros is not read. Changes nothing. `opts` may be NULL. Errors of the job: -EFBIG:
 * more than 2^31 blocks; -ENOMEM, -ECANCELED; of `block_digest`, or of the I/O. Errors here: -EINVAL; -ENOTSUP:
 * libgcrypt does not give the digest (in FIPS mode); -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_checksum(vdisk *v, const struct vdisk_checksum_opts *opts, vdisk_job **ret_job);

struct vdisk_checksum_result {
    size_t   size;        /* sizeof(struct vdisk_checksum_result): set by the caller */
    uint8_t  digest[VDISK_DIGEST_SIZE];
    uint32_t block_size;
    uint64_t blocks;
    uint64_t bytes_total; /* these are counts of bytes: */
    uint64_t bytes_read;
    uint64_t bytes_zero;  /* known to be zeros, and not read */
    uint64_t bytes_known; /* by known_digest, and not read either */
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_checksum_result(const vdisk_job *job, struct vdisk_checksum_result *ret_result);

/* ---- an image as a stream --------------------------------------------------------------------------- */

/* All of it goes on. Blocks. 0, or -errno, which ends the job. On the job's thread. */
typedef int vdisk_sink_fn(void *arg, const void *data, size_t len);

enum vdisk_stream_flags {
    VDISK_STREAM_DENSE = 1u << 0, /* zeros are data */
    VDISK_STREAM_LOOK  = 1u << 1, /* data is read once before: units of zeros only are none. Not with DENSE, nor
                                   * with a backing file */
    VDISK_STREAM_COMPRESS = 1u << 2, /* data is compressed, twice: first for the lengths, which the tables have.
                                      * Units of zeros only are none, but with DENSE. Not with LOOK */
};

struct vdisk_stream_opts {
    size_t             size;       /* sizeof(struct vdisk_stream_opts) */
    uint32_t           flags;      /* enum vdisk_stream_flags */
    uint32_t           depth;      /* reads of up to 2 MiB in flight; 0: 16 */
    const char        *name;       /* for messages, of what the bytes go to; copied. NULL: "stream" */
    uint64_t           memory_max; /* for buffers: then there are smaller pieces, or fewer. 0: 32 MiB */
    uint64_t           rate;       /* bytes of data in a second; 0: as many as there can be */
    uint64_t           offset;     /* of one source: what is before it is left out, and what is behind */
    uint64_t           length;     /* so many bytes; 0: to its end */
    vdisk_progress_fn *progress;
    void              *progress_arg;
    uint32_t           backing_depth; /* the image's backing file has what the only source has in layers from this
                                       * depth on, which is left out; 0: it has none, or something else */
};

/*
 * Write an image that has what the sources have, one after the other, to a function, from its start to its
 * end: nothing is sought, and there is no copy of it anywhere. `target` is what vdisk_create() would be given;
 * its size is that of the sources, each at a multiple of 512 bytes. All of them are open; what somebody else
 * writes to them meanwhile may be in the image or not, which is sound all the same. Their extents are asked
 * for first, and kept as a bit for each cluster at most (vdisk_front); what they know to be zeros is not read,
 * and is no data unless the format is dense. Zeros in their data are not looked for, but with
 * VDISK_STREAM_LOOK. A backing file of the image is not opened: its name is written as it is given. `opts` may
 * be NULL. When it stops early, what has been written is the start of an image, which a reader knows by the
 * exit of whoever writes. Errors of the job: those of vdisk_front_create(), _add() and _lay_out(); of `sink`;
 * -EFBIG, -ENOMEM, -ECANCELED, or of the I/O. Errors here: -EINVAL, -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_stream(vdisk *const *sources, unsigned n_sources, const struct vdisk_create_opts *target,
                               vdisk_sink_fn *sink, void *sink_arg, const struct vdisk_stream_opts *opts,
                               vdisk_job **ret_job);

struct vdisk_stream_result {
    size_t   size;          /* sizeof(struct vdisk_stream_result): set by the caller */
    uint64_t virtual_size;  /* of the image; these are counts of bytes, too: */
    uint64_t bytes_read;    /* of the sources */
    uint64_t bytes_written; /* the length of the image */
};

/* Any thread. Errors: as vdisk_job_get_create_result(). */
VDISK_API int vdisk_job_get_stream_result(const vdisk_job *job, struct vdisk_stream_result *ret_result);

/* ---- a stream as a volume --------------------------------------------------------------------------- */

/*
 * Some bytes, as many as there are, into `buf`: their number; 0: that was all; -errno, which ends the job. It
 * may wait for them; -EAGAIN: none have come for a while, and it is to be asked again, when it has been looked
 * whether the job is to stop. On the job's thread.
 */
typedef int64_t vdisk_source_fn(void *arg, void *buf, size_t len);

/*
 * Fill a volume with bytes that come one after the other, from its start on: a raw image. What the volume has
 * behind them stays; one that grows is a multiple of 512 long, with zeros behind their end. Zeros in them are left
 * out, or zeroed, as by vdisk_job_copy(), whose options and result these are; `offset`, `length`, `backing_depth`
 * and what is about salvaging are of no use here. With VDISK_COPY_GROW the volume is made longer as they come, and
 * never longer than they are by then: so a volume that was created empty has their size in the end. One flush ends
 * the job. When it stops early, or is killed, the volume holds the start of them. `opts` may be NULL. Errors of
 * the job: -ENOSPC: the volume is too small; those of vdisk_resize(), and of `source`; -ENOTSUP, -EFBIG, -ENOMEM,
 * -ECANCELED, or of the I/O. Errors here: -EINVAL, -ECHILD, -ENOMEM.
 */
VDISK_API int vdisk_job_fill(vdisk *target, vdisk_source_fn *source, void *source_arg,
                             const struct vdisk_copy_opts *opts, vdisk_job **ret_job);

/* ---- the front of an image --------------------------------------------------------------------------- */

/*
 * What vdisk_job_stream() is made of, for programs that have the data from elsewhere. The front of an image that
 * is written from its start to its end is all that comes before its data. First it is said where there is data,
 * then the image is laid out, and the front can be read. The data follows, in runs of whole units, in the order
 * in which vdisk_front_next() gives them; then the image ends. A format may be dense (raw): then there is no
 * front, and all is data, as it were.
 *
 * It is plain memory: five units and some, and for qcow2 eight bytes for each L1 entry, and a bit for each
 * cluster below those of them that lead to data (at most 2 MiB for 1 TiB in clusters of 64 KiB); with a
 * backing file the same for zeros. It opens nothing, a backing file neither, and there is no I/O. Calls for
 * one front come one at a time, from any thread.
 */
typedef struct vdisk_front vdisk_front;

/*
 * Of the image that vdisk_create() would make; `opts` is copied, with its strings. `name` is for messages, copied.
 * Errors: those of vdisk_create() for options; -ENOTSUP also: an external data file, or preallocation;
 * -EINVAL, -ENOMEM.
 */
VDISK_API int vdisk_front_create(const char *name, const struct vdisk_create_opts *opts, vdisk_front **ret_front);

struct vdisk_front_info {
    size_t   size;         /* set by the caller: sizeof(struct vdisk_front_info) */
    uint64_t virtual_size; /* bytes, a multiple of 512 */
    uint64_t unit;         /* bytes; a power of two. What has data in it is data as a whole: the last one, too,
                            * which may reach behind the virtual size, and has zeros there */
    uint64_t length;       /* bytes of the whole image; 0: known when it is laid out */
    bool     dense;        /* there is no front */
    size_t   packed_max;   /* bytes that a unit may have, compressed; 0: it is not */
};

VDISK_API int vdisk_front_get_info(const vdisk_front *front, struct vdisk_front_info *ret_info);

/*
 * There is data; in any order, and more than once if you like. Errors: -EINVAL: it is not in the volume, the
 * image is laid out, or dense; -ENOMEM: some of it may be noted.
 */
VDISK_API int vdisk_front_add(vdisk_front *front, uint64_t guest_offset, uint64_t length);

/*
 * There are zeros, which hide what a backing file has: units that lie in it, and have no data. Version 2 of qcow2
 * cannot say that: there they are data. Without a backing file nothing happens. In any order; errors as above.
 */
VDISK_API int vdisk_front_add_zeroes(vdisk_front *front, uint64_t guest_offset, uint64_t length);

/* That was all. Errors: -EINVAL: it is laid out; -EFBIG: the image would be too large. */
VDISK_API int vdisk_front_lay_out(vdisk_front *front);

/*
 * What comes next of the front: into `buf`, of `len` bytes, at least a unit. *ret_len: so many bytes; 0: that
 * was all. Errors: -EINVAL.
 */
VDISK_API int vdisk_front_read(vdisk_front *front, void *buf, size_t len, size_t *ret_len);

/*
 * The first run of data at `guest_offset` or behind it, from the start of its unit on: so many bytes of the volume
 * come next. *ret_length 0: there is no more. Errors: -EINVAL.
 */
VDISK_API int vdisk_front_next(const vdisk_front *front, uint64_t guest_offset, uint64_t *ret_offset,
                               uint64_t *ret_length);

/*
 * Its data is compressed, said before anything is added. Then all of it goes by twice: first vdisk_front_next()
 * gives the units that have been added, each is packed, and the length noted; behind vdisk_front_lay_out() each is
 * packed again, and stands where vdisk_front_place() says, with zeros between, and up to the end of the image. Two
 * more bytes for each cluster are kept (at most 32 MiB for 1 TiB of data in clusters of 64 KiB). Errors: -ENOTSUP:
 * the format cannot have that; -EINVAL, -ENOMEM.
 */
VDISK_API int vdisk_front_compress(vdisk_front *front);

/*
 * A unit, compressed, into `buf`, which has space for packed_max bytes: always the same for the same bytes. The
 * one call that any threads make at the same time, and beside others. Errors: -EINVAL, -ENOMEM, -EIO.
 */
VDISK_API int vdisk_front_pack(const vdisk_front *front, const void *unit, void *buf, size_t *ret_length);

/*
 * That unit gets so long, as vdisk_front_pack() has said; 0: it is zeros and no data (with a backing file: as by
 * vdisk_front_add_zeroes(), and not in version 2). Errors: -EINVAL, -ENOMEM.
 */
VDISK_API int vdisk_front_note(vdisk_front *front, uint64_t guest_offset, size_t length);

/* Where the unit begins in the image, and its length; in the order of vdisk_front_next(). Errors: -EINVAL. */
VDISK_API int vdisk_front_place(vdisk_front *front, uint64_t guest_offset, uint64_t *ret_offset,
                                uint64_t *ret_length);

/* NULL is allowed. */
VDISK_API void vdisk_front_free(vdisk_front *front);

#ifdef __cplusplus
}
#endif
#endif
