/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: an export that is not mounted is, in a folder that is made for it. Fails: as mount(8) says; the folder
 * goes.
 *
 * Invariant: 1. only what was mounted here is unmounted.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"
#include "tools/domain/nfs.h"
#include "tools/lvm/lvm.h"

static int make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return dom_fail_file(errno, path, "making the folder");
        *slash = '/';
    }
    return mkdir(path, 0755) == 0 || errno == EEXIST ? 0 : dom_fail_file(errno, path, "making the folder");
}

static int mount_at(const char *source, const char *options, const char *point)
{
    const char *const argv[] = {"mount", "-t", "nfs", "-o", options != NULL ? options : "defaults", source, point,
                                NULL};
    int rc = lvm_run_program(argv);

    if (rc == -ENOENT)
        return dom_fail(ENOENT, "install nfs-common, or mount it, and name the folder",
                        "%s: cannot be mounted: there is no mount(8)", source);
    if (rc < 0)
        rmdir(point);
    return rc;
}

int file_mount(const char *source, const char *options, char **ret_point, bool *ret_mounted)
{
    char point[PATH_MAX];
    int rc = nfs_find(source, ret_point);

    *ret_mounted = false;
    if (rc < 0 || strcmp(*ret_point, source) != 0)
        return rc; /* (1) */
    free(*ret_point);
    if (text_mount_point(source, point, sizeof point) < 0)
        return dom_fail(ENAMETOOLONG, NULL, "%s: is too long a name", source);
    rc = make_folders(point);
    if (rc == 0)
        rc = mount_at(source, options, point);
    if (rc < 0)
        return rc;
    *ret_mounted = true;
    *ret_point = strdup(point);
    if (*ret_point == NULL) {
        file_unmount(point);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    return 0;
}

void file_unmount(const char *point)
{
    const char *const argv[] = {"umount", point, NULL};

    if (lvm_run_program(argv) == 0)
        rmdir(point);
}
