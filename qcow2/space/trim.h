/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_TRIM_H
#define QCOW2_TRIM_H

#include "engine/vdisk-image.h"
#include "qcow2/space/state.h"

/* Give back what is free: trim.c. `closing`: nothing else is going on. Outside the loop; 0 or -errno. */
int q2_trim_run(struct q2_space *space, vdisk_queue *queue, bool closing);

/* The same beside requests, and opts->progress is asked meanwhile whether to stop: -ECANCELED. */
int q2_trim_watched(struct q2_space *space, vdisk_queue *queue, const struct vdisk_trim_opts *opts);

#endif
