/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of Ceph's RBD: what the files of this room share. */
#ifndef BACKENDS_RBD_RBD_H
#define BACKENDS_RBD_RBD_H

#include <pthread.h>

#include "backends/rbd/ceph.h"
#include "engine/backend.h"

struct rbd_backend {
    struct backend     b; /* first */
    const struct ceph *ceph;
    void              *cluster, *ioctx, *image; /* each NULL: not open (any more) */
    char              *image_name;
    uint32_t           flags;       /* as it was opened */
    uint64_t           object_size; /* a power of two */
    bool               is_snapshot;
    bool               striped;     /* objects are no ranges of the image */
    bool               own_timeout; /* rados_osd_op_timeout is ours to set: open.c */
    bool               locked;
    bool               watching;    /* `watch` is told when something of the image has changed */
    uint64_t           watch;
    _Atomic int        trouble;     /* of the last I/O that failed: -ETIMEDOUT, -CEPH_BLOCKLISTED, or 0 */
    pthread_mutex_t    resizing;    /* one at a time; workers only, which block for it */
};

static inline struct rbd_backend *rbd_backend_of(struct backend *b)
{
    return (struct rbd_backend *)(void *)b;
}

/* ---- name.c: pure ----------------------------------------------------------------------------------------- */

/* What "POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:KEY=VALUE]..." says, as options. */
int rbd_parse(const char *name, struct spec *options);

/* Up to `end` that has no backslash before it, which is cut off; *text moves behind it, or becomes NULL. */
char *rbd_token(char **text, char end);

/* Backslashes go, what they stand before stays. */
void rbd_unescape(char *text);

/* malloc'ed. NULL: out of memory. */
char *rbd_base64(const uint8_t *data, size_t len);

/* ---- open.c: these block ---------------------------------------------------------------------------------- */

bool rbd_identify(const struct spec *options, struct backend_id *ret_id);

/* rb has its name and its libraries. On failure, with text, nothing is left open. */
int  rbd_open_image(struct rbd_backend *rb, const struct spec *options, uint32_t flags);
void rbd_close_image(struct backend *b);
int  rbd_unlink(struct backend *b);

/* ---- watch.c ---------------------------------------------------------------------------------------------- */

/* The size is what the cluster says, from now on. Any thread. 0 or -errno. */
int rbd_refresh(struct backend *b);

/* rbd_refresh() when something of the image has changed. 0 or -errno with text. */
int rbd_watch(struct rbd_backend *rb);

/* No news is on its way when this returns. Also where nothing is watched. */
void rbd_unwatch(struct rbd_backend *rb);

/* ---- status.c: on a worker -------------------------------------------------------------------------------- */

int64_t  rbd_blocking_status(struct io *io);
uint64_t rbd_allocated(struct backend *b);

#endif
