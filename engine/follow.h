/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The volume's size follows its file's, where somebody else has moved that: follow.c. */
#ifndef ENGINE_FOLLOW_H
#define ENGINE_FOLLOW_H

#include <pthread.h>
#include <stdbool.h>

#include "engine/vdisk.h"

struct volume_follow {
    pthread_mutex_t lock;   /* all that follows; a leaf */
    bool            held;   /* a change of the whole volume is on */
    bool            missed; /* the file has moved meanwhile */
};

/* The volume is the file's owner from now on. Context: nobody else knows of the volume. */
void follow_begin(vdisk *v);

/* While the volume is resized, say, it does not follow; then it does. */
void follow_hold(vdisk *v);
void follow_release(vdisk *v);

/* Within that: the size has been seen to. */
void follow_done(vdisk *v);

#endif
