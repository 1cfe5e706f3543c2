/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The -o options of create: what they are called, what they take, what they set. Nothing is opened or made. */
#ifndef TOOLS_CREATE_OPTIONS_H
#define TOOLS_CREATE_OPTIONS_H

#include <stdbool.h>
#include <vdisk.h>

#include "tools/cli.h"

struct create_options {
    struct vdisk_create_opts opts;     /* points into the pairs that were applied */
    const char              *name;     /* of the image, for messages */
    const char              *compat;   /* as given, for the summary */
    const char              *prealloc; /* as given */
    uint64_t                 extent_size_hint;
    bool                     have_size;
    bool                     raw;      /* format is raw */
    bool                     is_target; /* the verb takes the format by -O, not -f */
    bool                     have_data_file_raw, have_extent_size_hint;
    char                     why[1024]; /* one line, after a failure */
};

/* In their order; the last of a key counts. 0, or -EINVAL and c->why. Before: opts.format, name, raw. */
int create_options_apply(struct create_options *c, const struct cli_pairs *pairs);

/* The SIZE argument. 0, or -EINVAL and c->why. */
int create_options_set_size(struct create_options *c, const char *value);

/* Their names, in order; NULL after the last. */
const char *create_option_key(size_t i);

/* "-o help". Returns CLI_OK. */
int create_options_print(bool raw);

#endif
