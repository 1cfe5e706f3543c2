/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of an image as a whole: what its own files share. Other rooms use nothing of it; the engine has the
 * driver.
 *
 * Promises: open, close, create, resize, info and what else is done to an image at once, from beginning to end.
 * Owns: struct q2, which puts the other rooms' together.
 * May not: write metadata but through meta/.
 */
#ifndef QCOW2_IMAGE_H
#define QCOW2_IMAGE_H

#include <stdint.h>

#include "qcow2/flush/flush.h"
#include "qcow2/map/map.h"
#include "qcow2/meta/meta.h"
#include "qcow2/space/space.h"

struct q2 {
    struct q2_meta  meta; /* first: q2_meta_of() */
    struct q2_space space;
    struct q2_map   map;
    struct q2_flush flush;
    uint64_t        cache_bytes; /* as asked for when it was opened */
};

static inline struct q2 *q2_of(struct layer *layer)
{
    return layer->format_state;
}

/* qcow2/image/resize.c: format_driver.resize */
int q2_resize(struct layer *layer, uint64_t size, const struct vdisk_resize_opts *opts, vdisk_queue *queue);

/* Debug builds, while nothing is under way: do the rooms belong together, and agree with the volume? */
#ifdef NDEBUG
static inline void q2_assert(struct q2 *q) {}
#else
void q2_assert(struct q2 *q);
#endif

struct layer_open;

/* qcow2/image/open.c: format_driver.open and .close */
int q2_open(struct layer *layer, const struct layer_open *how, vdisk_queue *queue);
int q2_close(struct layer *layer, vdisk_queue *queue);

/* qcow2/image/empty.c: format_driver.make_empty; qcow2/image/backing.c: .set_backing */
int q2_make_empty(struct layer *layer, vdisk_progress_fn *progress, void *progress_arg, vdisk_queue *queue);
int q2_set_backing(struct layer *layer, const char *file, const char *format, bool only_check, vdisk_queue *queue);

/* Can it be that, whatever room there is for its name? `hint`: how to say the format. Errors with a text. */
int q2_check_new_backing(const struct layer *layer, const char *file, const char *format, const char *hint);

/* qcow2/image/amend.c: format_driver.amend */
int q2_amend(struct layer *layer, const struct vdisk_amend_opts *opts, bool only_check, vdisk_queue *queue);

/*
 * qcow2/image/header_replace.c: the header becomes `h`, all of it, in one step: a crash leaves the old one or the
 * new one. What it leads to is durable, and nothing is in memory that is not on disk. In memory only the fields
 * that change in any image's life are those of `h` then: q2_reload(). `doubt`: why there are no more writes when
 * it is not known which of the two is there. `only_check`: does it fit? Outside the loop; errors with a text.
 */
int q2_header_replace(struct layer *layer, const struct q2_header *h, const char *doubt, bool only_check,
                      vdisk_queue *queue);

/* qcow2/image/info.c: format_driver.describe and .describe_closed; qcow2/image/holes.c: .has_host_holes */
int  q2_describe(struct layer *layer, vdisk_image *image, vdisk_queue *queue);
int  q2_describe_encrypted(struct backend *b, vdisk_image *image, vdisk_queue *queue);
bool q2_has_host_holes(struct layer *layer, vdisk_queue *queue);

/*
 * qcow2/image/state.c: the struct, empty; NULL: out of memory. q2_state_free() gives it back, however much of it
 * is filled in.
 */
struct q2 *q2_state_alloc(struct layer *layer);
void q2_state_free(struct q2 *q);

/* The header, and what follows from it. Outside the loop; errors with a text. */
int q2_state_read_header(struct q2 *q, vdisk_queue *queue);

/*
 * Then all else, when nothing will change it on disk any more. `tables_left`: what the layers above leave of the
 * bound for the whole chain; NULL: not one of a chain. Outside the loop; errors with a text.
 */
int q2_state_setup(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left);

/*
 * qcow2/image/data_file.c: layer->data, its file without an external data file. Outside the loop; errors with
 * a text.
 */
int q2_data_file_open(struct q2 *q, const struct layer_open *how);

/*
 * What the image's own files have has changed: read it all anew. Outside the loop, after q2_trim_run(), with
 * nothing in flight. Replaces layer->format_state. On failure (with a text) it stays, for reading: the volume
 * takes no more writes.
 */
int q2_reload(struct layer *layer, vdisk_queue *queue);

#endif
