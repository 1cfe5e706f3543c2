/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a format provides: where guest bytes are, and the operations that change that. engine/raw.c is the
 * skeleton to copy.
 *
 * Reads are the engine's (engine/chain/read.c): it asks each layer of a chain for the extent and moves the bytes.
 * So are writes to extents that say EXTENT_WRITABLE. All else goes to the format.
 */
#ifndef ENGINE_FORMAT_H
#define ENGINE_FORMAT_H

#include "engine/backend.h"
#include "engine/request.h"
#include "engine/vdisk-image.h"

struct layer; /* engine/chain/layer.h */

enum extent_kind {
    EXTENT_UNALLOCATED, /* ask the backing layer; zeros without one */
    EXTENT_ZERO,
    EXTENT_DATA,        /* len bytes at host_offset of `data` */
    EXTENT_COMPRESSED,  /* read through read_compressed() */
};

enum extent_flags {
    EXTENT_WRITABLE  = 1u << 0, /* DATA: may be written in place */
    EXTENT_HOST      = 1u << 1, /* ZERO: host_offset has space kept for it */
    EXTENT_MARKED    = 1u << 3, /* ZERO: this layer says so; it is not just that nobody has the range */
    EXTENT_DURABLE   = 1u << 2, /* DATA: this mapping is on disk: a durable write needs no flush of metadata */
};

struct extent {
    uint64_t        len;         /* from the offset asked for; > 0, at most the length asked for */
    uint64_t        host_offset; /* DATA, ZERO with EXTENT_HOST, COMPRESSED (a descriptor of the format's own) */
    uint8_t         kind;        /* enum extent_kind */
    uint8_t         flags;       /* enum extent_flags */
};

/* How a volume is opened: what vdisk_open() was told, worked out per layer. */
struct layer_open {
    uint32_t    flags;       /* enum vdisk_open_flags */
    uint64_t    cache_bytes;
    const char *data_file;   /* by vdisk_open_opts; NULL: not given */
    const struct spec *name; /* the layer's node, checked; NULL: it was opened on a backend */
    uint64_t   *tables_left; /* bytes of memory that tables kept whole may still take in this chain; NULL: any */
    vdisk_progress_fn *progress; /* by vdisk_open_opts; NULL: nobody asks */
    void       *progress_arg;
};

/* What a format has planned to create: the start of its own struct. */
struct create_plan {
    const char                     *name;
    const struct vdisk_create_opts *opts;
};

/*
 * What comes before the data of an image that is written from its start to its end: the start of the format's own
 * struct.
 */
struct front {
    uint64_t unit;   /* fill in: data comes in units of it, so aligned; a power of two */
    uint64_t length; /* fill in, when it is known: of the whole image; 0: no longer than its data */
    bool     dense;  /* fill in: there is no front, and what is no data is written as zeros */
    size_t   packed_max; /* fill in by front_compress(): of a unit, compressed */
};

struct format_driver {
    const char *name;

    /*
     * What a node of it has besides the common ones, children among them; ends with a NULL name. NULL: that of the
     * backend of the same name, whose node it is opened as.
     */
    const struct option_desc *options;

    /* Guest bytes are the file's bytes, and so is its size: of one format, the one for what no other knows. */
    bool plain;

    /* Does this content look like ours? `head` holds the first `len` bytes of the file. Score 0 (no) to 100. */
    int (*probe)(const uint8_t *head, size_t len, const char *name);

    /*
     * Blocks. layer->file is open; fill in its size, data, format_state, backing_name and backing_format.
     * `q` serves the I/O. On failure an error text is set and nothing is left behind.
     */
    int (*open)(struct layer *layer, const struct layer_open *how, vdisk_queue *q);

    /* Blocks: write back, flush, release. The struct layer and its file stay the engine's. */
    int (*close)(struct layer *layer, vdisk_queue *q);

    /*
     * The extent at guest_offset, from cached metadata; 0, or -EAGAIN: load() first. Any thread, takes no lock,
     * costs tens of nanoseconds. The range lies inside the volume.
     */
    int (*lookup)(struct layer *layer, uint64_t guest_offset, uint64_t len, struct extent *ret);

    /*
     * Make lookup() succeed for guest_offset, at least once; ends by op_wake(op). NULL if lookup() never says
     * -EAGAIN.
     */
    void (*load)(struct layer *layer, uint64_t guest_offset, struct op *op);

    /*
     * The same for who does not know yet whether it matters: of what is wrong there nothing is said, and nothing
     * follows. Of layers below the top. NULL if load() is.
     */
    void (*load_ahead)(struct layer *layer, uint64_t guest_offset, struct op *op);

    /*
     * The same for who goes through [guest_offset, guest_offset + len): as much of it as takes at most `bytes` of
     * metadata, in few reads; of what is wrong there nothing is said. It may be nothing, or fail: then load() is
     * asked. NULL: it always is.
     */
    void (*load_range)(struct layer *layer, uint64_t guest_offset, uint64_t len, uint64_t bytes, struct op *op);

    /*
     * Read a COMPRESSED extent: `len` bytes from guest_offset (inside the extent) into `buf`; ends by op_wake(op).
     */
    void (*read_compressed)(struct layer *layer, const struct extent *e, uint64_t guest_offset,
                            const struct iovec *iov, uint32_t iovcnt, uint64_t len, struct op *op);

    /*
     * The same of `n` COMPRESSED extents, one behind the other, into the start of `iov`: as many of them, from the
     * first on, as are as well read together. How many bytes that are: then it ends by op_wake(op), not inline; 0:
     * read_compressed() is asked. `e` is the caller's again when it returns. NULL: always 0.
     */
    uint64_t (*read_compressed_run)(struct layer *layer, const struct extent *e, unsigned n,
                                    const struct iovec *iov, uint32_t iovcnt, struct op *op);

    /*
     * Carry out a write that is not in place, or found no space there, a zero, a discard, or a flush: ends by
     * request_end(r), not inline.
     * Context: the request's queue's thread. Ranges are checked, lengths not 0 but for flush. A write may come
     * with neighbours (r->merged: each begins where the one before it ends): ends by request_end_merged().
     */
    void (*submit)(struct layer *layer, struct request *r);

    /*
     * Carry out a write with VDISK_REQ_COMPRESSED, of any range inside the volume: ends by request_end(r), not
     * inline. Context: the request's queue's thread. Asked if layer->compress_align > 0. NULL: that never is.
     */
    void (*write_compressed)(struct layer *layer, struct request *r);

    /*
     * `r`, for which nothing has been done, waits for a lock: it does not any more, and ends with -ECANCELED.
     * NULL: there are none. Context: its queue's thread, outside the loop.
     */
    bool (*give_up)(struct layer *layer, const struct request *r);

    /*
     * All three block. Creation is planned before anything is opened for it: options are judged, and what lies
     * below is looked at; afterwards opts->virtual_size is a size, where it was that of the backing file. `name`
     * and `opts` stay until drop_plan(), which follows in any case but after a failure. Then a volume is created
     * in `b`, which is open, locked, and holds whatever it held: see engine/create.h. After a failure create_end()
     * has been called for it. NULL, all of them: -ENOTSUP.
     */
    int (*plan_create)(const char *name, struct vdisk_create_opts *opts, struct create_plan **ret_plan);
    int (*create)(struct create_plan *plan, struct backend *b, vdisk_queue *q);
    void (*drop_plan)(struct create_plan *plan);

    /*
     * vdisk_measure(), with opts->virtual_size rounded up to 512: all of *ret but its size and virtual_size, which
     * are set. `source` may be NULL. NULL: -ENOTSUP.
     */
    int (*measure)(const char *name, const struct vdisk_create_opts *opts, const vdisk_image *source,
                   struct vdisk_measure_result *ret);

    /*
     * vdisk_front_create() and so on. None of them does I/O. What is added is whole units, in any order; all of
     * it is added before front_lay_out(), which is called once, and what is read and asked for comes after that.
     * `name` and `opts` stay until front_end(), which follows but after a failure of front_begin(); that sets
     * opts->virtual_size to what the image has. `len` of front_read() is a unit or more. front_next(): the first
     * run of data at `guest_offset`, which is a unit's, or behind it; false: there is none. Errors with text.
     * NULL, all of them: -ENOTSUP; but for the first and the last: of a dense one.
     */
    int (*front_begin)(const char *name, struct vdisk_create_opts *opts, struct front **ret_front);
    int (*front_add)(struct front *front, uint64_t guest_offset, uint64_t len);
    int (*front_add_zeroes)(struct front *front, uint64_t guest_offset, uint64_t len);
    int (*front_lay_out)(struct front *front);
    int (*front_read)(struct front *front, uint8_t *buf, size_t len, size_t *ret_len);
    bool (*front_next)(struct front *front, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_len);

    /*
     * NULL, all of them: data cannot be compressed; else before anything is added. A unit is compressed on any
     * thread; its length is noted before front_lay_out(), 0: zeros only. front_place(): in the order of
     * front_next(), where the unit lies in the image, and its length; false: it is not the next one.
     */
    int (*front_compress)(struct front *front);
    int (*front_pack)(struct front *front, const uint8_t *unit, uint8_t *buf, size_t *ret_len);
    int (*front_note)(struct front *front, uint64_t guest_offset, size_t len);
    bool (*front_place)(struct front *front, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_len);
    void (*front_end)(struct front *front);

    /*
     * A volume that was created with opts->unfinished, if it is that still, is made one that any program takes for
     * whole, durably. Blocks; all else is durable, and nothing is in flight. NULL: there is no such mark.
     */
    int (*finish)(struct layer *layer, vdisk_queue *q);

    /*
     * Make it `size` bytes (rounded; smaller only if opts->shrink; as now only then, and to end what an earlier
     * one may have left, or of raw). Blocks. NULL: -ENOTSUP.
     */
    int (*resize)(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *q);

    /*
     * How large the volume is by what its file is now, where that alone says it: when the file's end moves by
     * itself the volume follows (engine/follow.c). Any thread, any lock held. NULL: its metadata says.
     */
    uint64_t (*size_by_file)(const struct layer *layer);

    /*
     * Blocks: where in its file nothing is in use any more; from open on the format notes by layer_note_end() what
     * it takes there. NULL: what requests write counts. Of volumes open for writing.
     */
    int (*highest)(struct layer *layer, vdisk_queue *q, uint64_t *ret_end);

    /*
     * Look for inconsistencies in the image in `file`, which is no open volume, and mend them as `what` says (then
     * it is writable). Blocks. 0: *ret and *ret_fixed tell, but for their sizes. NULL: the format has no checks.
     */
    int (*check)(struct backend *file, enum vdisk_repair what, const struct vdisk_check_opts *opts, vdisk_queue *q,
                 struct vdisk_check_result *ret, struct vdisk_repair_result *ret_fixed);

    /*
     * Blocks: fill in what the format knows of an open volume beyond what any volume has: engine/image.h. Nobody
     * changes the volume meanwhile. NULL: nothing.
     */
    int (*describe)(struct layer *layer, vdisk_image *image, vdisk_queue *q);

    /*
     * Blocks: the same, with the sizes, of the image in `file`, if it is one that cannot be opened by its nature.
     * Any error: it is not, and the text means nothing. NULL: there are none.
     */
    int (*describe_closed)(struct backend *file, vdisk_image *image, vdisk_queue *q);

    /*
     * Blocks: is block status to look for holes of the host in mapped clusters? Of a layer that was just opened,
     * for reading. NULL: no.
     */
    bool (*has_host_holes)(struct layer *layer, vdisk_queue *q);

    /*
     * Both block; no request is in flight, nor comes: all reads go to what lies below (whose content is the same,
     * as long as this has not come to its end); another name for that, and its format (NULL both: there is none).
     * NULL: -ENOTSUP.
     */
    int (*make_empty)(struct layer *layer, vdisk_progress_fn *progress, void *progress_arg, vdisk_queue *q);
    int (*set_backing)(struct layer *layer, const char *file, const char *format, bool only_check, vdisk_queue *q);

    /*
     * What the image is changes, all that `opts` asks for: its backing file with both texts, or none of them. Or
     * `only_check`: would it be refused? Blocks; no request is in flight, nor comes. NULL: -ENOTSUP.
     */
    int (*amend)(struct layer *layer, const struct vdisk_amend_opts *opts, bool only_check, vdisk_queue *q);

    /* Give host space back that is not in use. Blocks; requests may be in flight. NULL: there is never any. */
    int (*trim)(struct layer *layer, const struct vdisk_trim_opts *opts, vdisk_queue *q);
};

/* All formats, raw last, ends with NULL: qcow2/drivers.c. */
extern const struct format_driver *const format_drivers[];
extern const struct format_driver raw_driver;

/* The plain one of them. */
static inline const struct format_driver *format_plain(void)
{
    const struct format_driver *const *f = format_drivers;

    while (!(*f)->plain)
        f++;
    return *f;
}

#endif
