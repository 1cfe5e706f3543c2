/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What libsanlock.so.1 takes and gives: as much of it as is used, so that nothing is needed to build. */
#ifndef TOOLS_DOMAIN_SANLOCK_ABI_H
#define TOOLS_DOMAIN_SANLOCK_ABI_H

#include <stddef.h>
#include <stdint.h>

struct sanlock_disk {
    char     path[1024];
    uint64_t offset;
    uint32_t unused[2];
};

/* The library has any number of disks here. */
struct sanlock_resource {
    char                space[48], name[48];
    uint64_t            version, data64;
    uint32_t            data32, unused, flags, disks;
    struct sanlock_disk disk;
};

struct sanlock_space {
    char                name[48];
    uint64_t            host;
    uint32_t            flags;
    struct sanlock_disk disk;
};

struct sanlock_owner {
    uint64_t host, generation, timestamp;
    uint32_t io_timeout, flags;
};

_Static_assert(sizeof(struct sanlock_disk) == 1040 && sizeof(struct sanlock_resource) == 1168 &&
                   sizeof(struct sanlock_space) == 1104 && sizeof(struct sanlock_owner) == 32,
               "what the library has");

enum {
    /* of resources and lockspaces */
    SANLOCK_SHARED = 0x4,
    SANLOCK_ALIGN_1M = 0x10,
    SANLOCK_ALIGN_2M = 0x20,
    SANLOCK_ALIGN_4M = 0x40,
    SANLOCK_ALIGN_8M = 0x80,
    SANLOCK_SECTOR_512 = 0x100,
    SANLOCK_SECTOR_4K = 0x200,
    SANLOCK_COMING = 0x1, /* a lockspace that this host is coming into, or leaving */
    SANLOCK_GOING = 0x2,
    /* of calls */
    SANLOCK_NOWAIT = 0x8,
    SANLOCK_UNUSED = 0x2,
    /* what they give */
    SANLOCK_RV_MAGIC = -223,
    SANLOCK_RV_LOCKSPACE = -226,
    SANLOCK_RV_RESOURCE = -227,
    SANLOCK_RV_IDLIVE = -243,
    SANLOCK_RV_OWNED = -244,
    SANLOCK_RV_OTHER = -245,
    SANLOCK_RV_SHRETRY = -246,
    SANLOCK_RV_OWNED_RETRY = -247,
    SANLOCK_RV_HOST_BUSY = -262,
};

struct sanlock_fn {
    int (*make_known)(void);
    int (*acquire)(int connection, int pid, uint32_t flags, int n, struct sanlock_resource *list[], void *options);
    int (*release)(int connection, int pid, uint32_t flags, int n, struct sanlock_resource *list[]);
    int (*convert)(int connection, int pid, uint32_t flags, struct sanlock_resource *r);
    int (*get_lockspaces)(struct sanlock_space **ret, int *ret_count, uint32_t flags);
    int (*read_resource)(struct sanlock_resource *r, uint32_t flags);
    int (*read_owners)(struct sanlock_resource *r, uint32_t flags, struct sanlock_owner **ret, int *ret_count);
    int (*write_lockspace)(struct sanlock_space *s, int most_hosts, uint32_t flags, uint32_t io_timeout);
    int (*write_resource)(struct sanlock_resource *r, int most_hosts, int hosts, uint32_t flags);
    int (*add_lockspace)(struct sanlock_space *s, uint32_t flags);
    int (*rem_lockspace)(struct sanlock_space *s, uint32_t flags);
    const char *(*strerror)(int rv);
};

#endif
