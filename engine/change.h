/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A change of what an open volume is: engine/change.c. */
#ifndef ENGINE_CHANGE_H
#define ENGINE_CHANGE_H

#include "engine/volume.h"

/*
 * A change begins, on the queue that this gives: no other is under way, and requests are refused. change_end()
 * after that. `what` it is that cannot be done when there are some: -EBUSY. `lack`: why its format cannot, in
 * words: -ENOTSUP; NULL: it can. Errors with a text.
 */
int change_begin(vdisk *v, const char *what, const char *lack, vdisk_queue **ret_queue);
int change_end(vdisk *v, int rc); /* returns rc, with some text */

/* Within it: other layers are to be below than those that are open. */
void change_takes_no_more(vdisk *v);

#endif
