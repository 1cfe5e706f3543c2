/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Locks of a file domain: open file description locks on bytes of dom_md/leases, which nothing else locks so. */
#ifndef TOOLS_DOMAIN_FILE_LOCK_H
#define TOOLS_DOMAIN_FILE_LOCK_H

#include <stdbool.h>

struct file_lock_wish {
    const char *what; /* "domain" or "image" */
    const char *name; /* its UUID */
    bool        exclusive;
};

/* All of them, in this order. *ret_fd: closing it gives them back. -EAGAIN: the text says who has one. */
int file_lock_take(const char *domain_path, const struct file_lock_wish *wishes, unsigned n, bool wait,
                   int *ret_fd);

#endif
