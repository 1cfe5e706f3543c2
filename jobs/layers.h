/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layers of a volume or an image, by public calls. */
#ifndef JOBS_LAYERS_H
#define JOBS_LAYERS_H

#include "jobs/jobs.h"

/* How large each of the layers above depth `below` is, as many as there are. An error of the library. */
struct layer_sizes {
    uint64_t *list;
    uint32_t  count;
};

int layers_get_sizes(vdisk *v, uint32_t below, struct layer_sizes *ret);

/*
 * A piece that no layer has was asked for down to `depth`: is it to be had from below (else: zeros, by the end of
 * that layer)? *len: cut to where that is so.
 */
bool layers_is_open_below(const struct layer_sizes *sizes, uint32_t depth, uint64_t offset, uint64_t *len);

/*
 * Of an extent at `depth` with `flags`: is it what comes from `below`, or further down? *len: cut to where that is
 * so. `sizes`: of the layers above `below`.
 */
bool layers_are_below(const struct layer_sizes *sizes, uint32_t below, uint32_t depth, uint32_t flags,
                      uint64_t offset, uint64_t *len);

/* What is known of a layer's file: whether another layer is the same. */
struct layer_id {
    char    *name; /* to open it by */
    bool     is_qcow2, has_node;
    uint64_t device, node;
};

struct layer_ids {
    struct layer_id *list; /* from the top down */
    uint32_t         count;
};

/* Of all layers of a volume; layers_free() in any case. An error of the library. */
int layers_identify(vdisk *v, struct layer_ids *ret);
void layers_free(struct layer_ids *ids);

/* Do both hold the same at each place, being the same image? It may be so and not be known. */
bool layers_are_same(const struct layer_id *a, const struct layer_id *b);

/* Do both lie in one file? */
bool layers_are_one_file(const struct layer_id *a, const struct layer_id *b);

/* Does `name` stand for the backing file of that image? As stored, as opened, or the same file. */
bool layers_is_backing(const struct vdisk_image_info *info, const char *name);

/* Are they paths of one file that is there? */
bool layers_same_file(const char *a, const char *b);

/*
 * Does a chain that begins with the image `name` (of a format; NULL: look) have the image `image` in it? Gone
 * through by names, with no lock taken or minded. false: also where it cannot be told.
 */
bool layers_reach(const char *name, const char *format, const char *image);

/* `name`, as it stands in the image `image`, as a name to open: relative to its directory. malloc'ed. */
char *layers_resolve(const char *image, const char *name);

#endif
