/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk's door to pipes: images that are written from their start to their end, and bytes that come so. The
 * jobs here are those of <vdisk-image.h>, and what holds for all jobs stands there.
 */
#ifndef VDISK_STREAM_H
#define VDISK_STREAM_H

#include <vdisk-image.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- an image as a stream --------------------------------------------------------------------------- */

/* All of it goes on. Blocks. 0, or -errno, which ends the job. On the job's thread. */
typedef int vdisk_sink_fn(void *arg, const void *data, size_t len);

enum vdisk_stream_flags {
    VDISK_STREAM_DENSE = 1u << 0, /* zeros are data */
    VDISK_STREAM_LOOK  = 1u << 1, /* data is read once before: units of zeros only are none. Not with DENSE */
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
};

/*
 * Write an image that has what the sources have, one after the other, to a function, from its start to its end:
 * nothing is sought, and there is no copy of it anywhere. `target` is what vdisk_create() would be given; its
 * size is that of the sources, each at a multiple of 512 bytes. All of them are open; what somebody else writes
 * to them meanwhile may be in the image or not, which is sound all the same. Their extents are asked for first,
 * and kept as a bit for each cluster at most (vdisk_front); what they know to be zeros is not read, and is no
 * data unless the format is dense. Zeros in their data are not looked for, but with VDISK_STREAM_LOOK. `opts`
 * may be NULL. When it stops early, what has been written is the start of an image, which a reader knows by the
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
 * Fill a volume with bytes that come one after the other, from its start on: a raw image. A length that is no
 * multiple of 512 is rounded up, with zeros. Zeros in them are left out, or zeroed, as by vdisk_job_copy(),
 * whose options and result these are; `offset`, `length`, `backing_depth` and what is about salvaging are of no
 * use here. With VDISK_COPY_GROW the volume is made longer as they come, and never longer than they are by then:
 * so a volume that was created empty has their size in the end. One flush ends the job. When it stops early, or
 * is killed, the volume holds the start of them. `opts` may be NULL. Errors of the job: -ENOSPC: the volume is
 * too small; those of vdisk_resize(), and of `source`; -ENOTSUP, -EFBIG, -ENOMEM, -ECANCELED, or of the I/O.
 * Errors here: -EINVAL, -ECHILD, -ENOMEM.
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
 * cluster below those of them that lead to data (at most 2 MiB for 1 TiB in clusters of 64 KiB). It opens
 * nothing, and there is no I/O. Calls for one front come one at a time, from any thread.
 */
typedef struct vdisk_front vdisk_front;

/*
 * Of the image that vdisk_create() would make; `opts` is copied, with its strings. `name` is for messages, copied.
 * Errors: those of vdisk_create() for options; -ENOTSUP also: a backing file, an external data file, or
 * preallocation; -EINVAL, -ENOMEM.
 */
VDISK_API int vdisk_front_create(const char *name, const struct vdisk_create_opts *opts, vdisk_front **ret_front);

struct vdisk_front_info {
    size_t   size;         /* set by the caller: sizeof(struct vdisk_front_info) */
    uint64_t virtual_size; /* bytes, a multiple of 512 */
    uint64_t unit;         /* bytes; a power of two. What has data in it is data as a whole: the last one, too,
                            * which may reach behind the virtual size, and has zeros there */
    uint64_t length;       /* bytes of the whole image; 0: known when it is laid out */
    bool     dense;        /* there is no front */
};

VDISK_API int vdisk_front_get_info(const vdisk_front *front, struct vdisk_front_info *ret_info);

/*
 * There is data; in any order, and more than once if you like. Errors: -EINVAL: it is not in the volume, the
 * image is laid out, or dense; -ENOMEM: some of it may be noted.
 */
VDISK_API int vdisk_front_add(vdisk_front *front, uint64_t guest_offset, uint64_t length);

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

/* NULL is allowed. */
VDISK_API void vdisk_front_free(vdisk_front *front);

#ifdef __cplusplus
}
#endif
#endif
