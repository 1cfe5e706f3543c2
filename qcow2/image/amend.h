/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image is to become: qcow2/image/amend.c. */
#ifndef QCOW2_AMEND_H
#define QCOW2_AMEND_H

#include "qcow2/image/image.h"

struct q2_amend {
    struct layer                  *layer;
    const struct vdisk_amend_opts *opts;
    vdisk_queue                   *queue;
    uint32_t                       version, refcount_bits; /* in the end */
    bool                           lazy;
    uint64_t                       size;
    bool                           backing;                /* it gets another backing file: */
    const char                    *backing_file, *backing_fmt; /* NULL both: none */
};

/* All that can be refused, with a text: amend_check.c. */
int q2_amend_check(const struct q2_amend *a);

/*
 * Is the backing file's name to change before all else? The longer header of version 3 has no room for the present
 * one.
 */
bool q2_amend_backing_first(const struct q2_amend *a);

/* *ret_old: the snapshot table lacks fields that version 3 asks for. */
int q2_amend_old_snapshots(const struct q2_amend *a, bool *ret_old);

/* The header as it would be after that; its texts and lists are the image's own. */
struct q2_header q2_amend_header(const struct q2_amend *a, uint32_t version, uint32_t refcount_bits);

#endif
