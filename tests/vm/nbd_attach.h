/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exports as block devices of the kernel: the handshake is made here, then the kernel gets the sockets, by netlink
 * (linux/nbd-netlink.h). All of it ends the program where it fails.
 */
#ifndef TESTS_VM_NBD_ATTACH_H
#define TESTS_VM_NBD_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

struct attach {
    const char *place;       /* a unix socket's path, or a TCP port of this machine */
    unsigned    index;       /* /dev/nbdINDEX */
    unsigned    connections;
    unsigned    block;       /* the device's sectors, in bytes */
    unsigned    timeout_s;   /* of a request: then it is sent again, by another connection; 0: never */
    unsigned    dead_s;      /* how long requests wait where no connection is left; 0: they fail */
    bool        writable;    /* hide from the kernel that the export is read-only */
};

/* Wait for somebody who listens there, and attach. Tells size and flags. */
void nbd_attach(const struct attach *a);
/* Likewise, then replace each connection that ends, until this process is. */
void nbd_attach_and_keep(const struct attach *a);
void nbd_detach(unsigned index);

#endif
