/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks of a domain: open file description locks on bytes of a file that nothing else locks so: dom_md/leases, or,
 * for a volume group, a file of this host.
 */
#ifndef TOOLS_DOMAIN_FILE_LOCK_H
#define TOOLS_DOMAIN_FILE_LOCK_H

#include "tools/domain/kind.h"

enum file_lock_part {
    FILE_LOCK_DOMAIN,
    FILE_LOCK_IMAGE, /* what an image is: changed, or to stay as it is */
    FILE_LOCK_USE,   /* what its volumes hold: shared by those that have one open */
};

struct file_lock_wish {
    enum file_lock_part part;
    const char         *name; /* the UUID of the domain, or of the image */
    bool                exclusive;
};

/*
 * All of them, in this order. `path`: of the file. *ret_fd: for file_lock_give(). -EAGAIN: the text says who
 * has one. On a file system that is read-only nobody changes anything: all are shared there.
 */
int file_lock_take(const char *path, const struct file_lock_wish *wishes, unsigned n, bool wait, int *ret_fd);

/* All that were taken by it, though a child that was forked may have it, too; and the descriptor goes. */
void file_lock_give(int fd);

/* Those that lock() of the contract is asked for: by the names of images, so that none who waits is waited for. */
int file_lock_images(const struct domain *d, const char *path, const struct dom_lock_wish *images, unsigned n,
                     int *ret_fd);

/* One more, without waiting. */
int file_lock_add(int fd, const char *path, const struct file_lock_wish *wish);

#endif
