/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Internals of creation: the plan that create.c makes, and the writing of its large parts in prealloc.c. */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/error.h"
#include "engine/format.h"
#include "engine/vdisk.h"
#include "qcow2/format/format.h"

struct q2_create {
    struct create_plan              plan;
    vdisk_queue                    *q;
    char                           *backing_path, *data_path;
    vdisk                          *chain; /* what is below, until the files are open */
    struct backend                 *file;  /* NULL: not open yet, options are being judged */
    struct backend                 *data;  /* where guest data goes: `file`, or the external data file */
    enum vdisk_prealloc             prealloc;
    uint8_t                        *mark; /* the first block, as long as the image is unfinished */
    struct q2_header                header;
    struct q2_layout                layout;
    uint64_t                        progress_done, progress_total;
};

/*
 * Does what nobody has written yet read as zeros? A file has been cut to nothing; a device holds whatever it held.
 */
static inline bool q2_create_reads_zero(const struct backend *b)
{
    return (b->caps & BACKEND_GROWS) && (b->caps & BACKEND_ZERO_NEW);
}

/* Which host bytes of c->data the guest's data will have. */
static inline uint64_t q2_create_data_offset(const struct q2_create *c)
{
    assert(c->file != NULL && c->data != NULL);
    return c->data == c->file ? c->layout.data_offset : 0;
}

static inline uint64_t q2_create_data_len(const struct q2_create *c)
{
    return c->data == c->file ? c->layout.data_clusters << c->layout.geo.cluster_bits : c->layout.size;
}

/* What version and geometry the options ask for. 0 or -EINVAL, with text. */
int q2_create_geometry(const char *name, const struct vdisk_create_opts *o, struct q2_geometry *ret);

/* Can they stand in an image? 0 or -EINVAL, with text. */
int q2_check_backing(const char *name, const char *file, const char *format);

/* format_driver.measure. */
int q2_measure(const char *name, const struct vdisk_create_opts *o, const vdisk_image *source,
               struct vdisk_measure_result *ret);

/* format_driver.plan_create, .create and .drop_plan. */
int q2_create_plan(const char *name, struct vdisk_create_opts *opts, struct create_plan **ret_plan);
int q2_create(struct create_plan *plan, struct backend *b, vdisk_queue *q);
void q2_create_drop(struct create_plan *plan);

/* Another layout of the same size, in the header, too. */
void q2_create_place(struct q2_create *c, const struct q2_layout *layout);

/* format_driver.front_begin and so on: front.c, front_pack.c. */
int q2_front_begin(const char *name, struct vdisk_create_opts *opts, struct front **ret_front);
int q2_front_add(struct front *front, uint64_t guest_offset, uint64_t len);
int q2_front_add_zeroes(struct front *front, uint64_t guest_offset, uint64_t len);
int q2_front_lay_out(struct front *front);
int q2_front_read(struct front *front, uint8_t *buf, size_t len, size_t *ret_len);
int q2_front_compress(struct front *front);
int q2_front_pack(struct front *front, const uint8_t *unit, uint8_t *buf, size_t *ret_len);
int q2_front_note(struct front *front, uint64_t guest_offset, size_t len);
bool q2_front_place(struct front *front, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_len);
bool q2_front_next(struct front *front, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_len);
void q2_front_end(struct front *front);

/*
 * Bring the data area to what the preallocation mode promises: reserved, or written. Blocks. An error text is set
 * on failure; -ECANCELED when the user's progress function says so.
 */
int q2_prealloc_data(struct q2_create *c);

/* Write the metadata behind the header cluster as a stream. Blocks; errors as above. */
int q2_prealloc_metadata(struct q2_create *c);

/* Sets the text: "NAME: WHAT: ...". Returns rc. */
static inline int q2_create_failed(const struct q2_create *c, int rc, const char *name, const char *what)
{
    assert(rc < 0);
    if (rc == -ECANCELED)
        return err_set(rc, "%s: creation was cancelled", c->plan.name);
    return err_set(rc, "%s: %s: %s", name, what, strerror(-rc));
}

#endif
