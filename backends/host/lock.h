/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image locks on an open file: the bytes that QEMU locks (lock_claim.h), so that it and we keep off each other's
 * images. They belong to the open file, and end with it or when they are dropped.
 */
#ifndef BACKENDS_LOCK_H
#define BACKENDS_LOCK_H

#include "backends/host/lock_claim.h"

/* What is held on one file. Zeroed: nothing. */
struct image_lock {
    struct lock_claim held;
    bool              unsupported; /* the file system has no such locks: claims are granted unseen */
};

/*
 * Change what is held on `fd` to what `flags` (enum backend_open_flags) ask for. Blocks, for system calls only. On
 * failure what was held before is still held.
 * Errors: -EAGAIN: another has it, named in the text; -errno of fcntl.
 */
int image_lock_set(struct image_lock *l, int fd, const char *name, uint32_t flags);

/* Give back what is held. */
void image_lock_drop(struct image_lock *l, int fd);

/* Who holds a lock that covers a byte of the file. */
struct lock_holder {
    int  pid;         /* 0: could not be found out */
    bool writes;      /* it claims to write, too */
    char comm[32];
};

/*
 * Find another holder than the open file `fd` itself (lock_holder.c). Blocks: looks through /proc, and
 * nowhere else, for a second at most.
 */
void lock_find_holder(int fd, unsigned byte, struct lock_holder *ret);

struct lock_line {
    struct backend_id file; /* the device is the superblock's: not always what stat() gives */
    uint64_t start, end;
    bool write;
};

/* One line of /proc/PID/fdinfo/FD, or of /proc/locks: true if it is a lock. Pure. */
bool lock_parse_line(const char *line, struct lock_line *ret);

/* One line of /proc/self/mountinfo: a mount's number, and the device of its superblock. Pure. */
bool lock_parse_mount(const char *line, uint64_t *ret_id, uint64_t *ret_device);

#endif
