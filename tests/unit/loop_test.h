/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loop devices and file systems on them, for tests of what depends on sectors and on file systems. Needs root. */
#ifndef TESTS_UNIT_LOOP_TEST_H
#define TESTS_UNIT_LOOP_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct loop {
    char image[300];
    char dev[64];
    char where[310]; /* the mounted file system; "": none */
};

/* Make a file of `size` bytes, and a device of it. */
static inline bool loop_attach(struct loop *l, const char *image, uint64_t size, unsigned sector)
{
    char command[700];
    FILE *p;
    bool ok;

    memset(l, 0, sizeof *l);
    snprintf(l->image, sizeof l->image, "%s", image);
    snprintf(command, sizeof command, "truncate -s %llu %s && losetup -f --show -b %u %s 2>/dev/null",
             (unsigned long long)size, image, sector, image);
    p = popen(command, "r");
    ok = p && fgets(l->dev, sizeof l->dev, p) != NULL;
    if (!p || pclose(p) != 0 || !ok) {
        unlink(image);
        return false;
    }
    l->dev[strcspn(l->dev, "\n")] = '\0';
    return true;
}

static inline void loop_detach(struct loop *l)
{
    char command[400];

    snprintf(command, sizeof command, "losetup -d %s", l->dev);
    if (system(command) != 0)
        printf("%s failed\n", command);
    unlink(l->image);
}

/* The device gets the size that the file has been given meanwhile. */
static inline bool loop_resize(struct loop *l, uint64_t size)
{
    char command[400];

    snprintf(command, sizeof command, "truncate -s %llu %s && losetup -c %s", (unsigned long long)size, l->image,
             l->dev);
    return system(command) == 0;
}

/* A file system ("ext4", "xfs", "btrfs") of its own, mounted in image.d. False: not here. */
static inline bool loop_mount(struct loop *l, const char *image, uint64_t size, unsigned sector, const char *type)
{
    char command[400];

    if (geteuid() != 0 || !loop_attach(l, image, size, sector))
        return false;
    snprintf(l->where, sizeof l->where, "%s.d", image);
    snprintf(command, sizeof command, "PATH=$PATH:/usr/sbin:/sbin; mkfs.%s %s %s >/dev/null 2>&1", type,
             strcmp(type, "ext4") == 0 ? "-q -F" : "-q -f", l->dev);
    if (mkdir(l->where, 0755) == 0 && system(command) == 0 && mount(l->dev, l->where, type, 0, NULL) == 0)
        return true;
    rmdir(l->where);
    loop_detach(l);
    return false;
}

static inline void loop_unmount(struct loop *l)
{
    /* A ring lets go of files some time after it has been closed. */
    for (int i = 0; umount2(l->where, i < 100 ? 0 : MNT_DETACH) != 0 && i < 101; i++)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    rmdir(l->where);
    loop_detach(l);
}

#endif
