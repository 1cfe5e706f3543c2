/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The data of volumes that are files.
 *
 * Works: a file grows as it is written to; space is set aside, and given back, by the file system. Fails: as the
 * call of the system, with the path; what is no regular file is not opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"

char *file_data_path(const struct domain *d, const char *image, const char *volume)
{
    char *path;

    return asprintf(&path, "%s/images/%s/%s", d->path, image, volume) < 0 ? NULL : path;
}

int file_open_data(struct domain *d, const char *image, const char *volume, bool write, int *ret_fd)
{
    int folder = file_open_folder(d, image), fd;

    if (folder < 0)
        return folder;
    fd = file_open_regular(d, folder, image, volume, write ? O_RDWR : O_RDONLY);
    close(folder);
    if (fd >= 0)
        *ret_fd = fd;
    return fd < 0 ? fd : 0;
}

/* NFS cannot leave a file's length as it is: what it has behind its end then is zeros, and space. */
static int allocate(int fd, uint64_t bytes)
{
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) == 0)
        return 0;
    return errno == EOPNOTSUPP && fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : -errno;
}

int file_reserve(struct domain *d, const char *image, const char *volume, uint64_t bytes)
{
    int fd, rc = file_open_data(d, image, volume, true, &fd);

    if (rc < 0)
        return rc;
    rc = allocate(fd, bytes);
    if (rc < 0)
        rc = rc == -EOPNOTSUPP ? dom_fail(ENOTSUP, NULL, "%s/images/%s/%s: its file system reserves no space",
                                          d->path, image, volume) :
             file_fail(d, image, volume, rc, "reserving space");
    close(fd);
    return rc;
}

/* Space behind the end of a file goes with a truncation, also one to the size that it has. */
int file_give_back(struct domain *d, const char *image, const char *volume, uint64_t bytes)
{
    int fd, rc = file_open_data(d, image, volume, true, &fd);
    struct stat st;

    if (rc < 0)
        return rc;
    if (fstat(fd, &st) != 0 || ftruncate(fd, (uint64_t)st.st_size > bytes ? (off_t)bytes : st.st_size) != 0 ||
        fsync(fd) != 0)
        rc = file_fail(d, image, volume, errno, "giving back its space");
    close(fd);
    return rc;
}

int file_measure(struct domain *d, const char *image, const char *volume, uint64_t *ret_size,
                 uint64_t *ret_allocated)
{
    int fd, rc = file_open_data(d, image, volume, false, &fd);
    struct stat st;

    if (rc < 0)
        return rc;
    if (fstat(fd, &st) != 0)
        rc = file_fail(d, image, volume, errno, "looking at it");
    close(fd);
    if (rc == 0) {
        *ret_size = (uint64_t)st.st_size;
        *ret_allocated = (uint64_t)st.st_blocks * 512;
    }
    return rc;
}
