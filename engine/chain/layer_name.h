/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the name of a layer says: its tree, its format, where its bytes are, how it is to be opened. Pure. */
#ifndef ENGINE_CHAIN_LAYER_NAME_H
#define ENGINE_CHAIN_LAYER_NAME_H

#include "engine/backend.h"
#include "engine/format.h"

/* The key of the child that is the next layer of a chain. */
#define SPEC_BACKING "backing"

struct layer_name {
    char                       *name;   /* for messages */
    struct spec                *root;
    const struct spec          *file;   /* the node of it that is opened as a backend; may be the root itself */
    const struct format_driver *format; /* NULL: not said; the content tells */
    uint32_t                    flags;  /* enum vdisk_open_flags: those asked for, and what the root says */
};

/*
 * Of a name (a path, or a tree in any syntax), or of a node of another tree in place of one. `format`: asked for
 * by the caller or the image above; NULL: not. On success *ret is to be given to layer_name_free(). -EINVAL,
 * -ENOTSUP, -EACCES, with text; -ENOMEM.
 */
int layer_name_parse(const char *name, const struct spec *node, const char *format, uint32_t flags,
                     struct layer_name *ret);

/* The same of a name that stands in an image: what only a user can type is refused. */
int layer_name_stored(const char *name, const char *format, uint32_t flags, struct layer_name *ret);

/* Once the format is known: nothing in the root but what it has. -EINVAL, with text. */
int layer_name_check(const struct layer_name *n, const struct format_driver *format);

void layer_name_free(struct layer_name *n);

/* The backing node that it names; *ret_none: it says that there is none. NULL: the image tells. */
const struct spec *layer_name_backing(const struct spec *root, bool *ret_none);

/* The path of the file that the bytes lie in in the end; NULL: it is no file. The tree's. */
const char *layer_name_path(const struct layer_name *n);

/* What the bytes of a layer lie in in the end, below all parts of files: a backend's name; static. */
const char *layer_name_storage(const struct spec *root);

/*
 * The name that an open layer is shown by: `plain`, the path of its file, where opening that as `format` gives the
 * same; else "json:{...}" with what makes a difference. malloc'ed; NULL: out of memory.
 */
char *layer_name_shown(const struct spec *root, const struct format_driver *format, const char *plain);

/* "raw and qcow2": for messages. Returns `buf`. */
const char *known_formats(char *buf, size_t len);

#endif
