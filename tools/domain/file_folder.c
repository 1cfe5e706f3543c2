/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Works: each name is looked up in its folder, which is opened without following a link. Fails: as the system. */
#include "tools/domain/file_folder.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_no_memory(void)
{
    return dom_fail(ENOMEM, NULL, "out of memory");
}

/* The folder of all images. */
int file_open_images(const struct domain *d)
{
    char path[PATH_MAX];
    int fd;

    snprintf(path, sizeof path, "%s/images", d->path);
    fd = open(path, FILE_FOLDER);
    return fd >= 0 ? fd : dom_fail_file(errno, path, "opening the folder");
}

/* That of an image. (3) */
int file_open_folder(const struct domain *d, const char *image)
{
    int images = file_open_images(d), fd, err;

    if (images < 0)
        return images;
    fd = openat(images, image, FILE_FOLDER);
    err = errno;
    close(images);
    if (fd >= 0)
        return fd;
    if (err == ENOENT)
        return dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, image);
    if (err == ELOOP || err == ENOTDIR)
        return dom_fail(ENOTDIR, NULL, "%s/images/%s: is no folder: nothing in it is looked at", d->path, image);
    return dom_fail(err, NULL, "%s/images/%s: opening the folder: %s", d->path, image, strerror(err));
}

int file_own(int fd, const char *like, mode_t mode)
{
    struct stat st, of;

    if (fchmod(fd, mode) != 0)
        return -errno;
    if (geteuid() != 0)
        return 0;
    if (stat(like, &of) != 0 || fstat(fd, &st) != 0)
        return -errno;
    if ((st.st_uid == of.st_uid && st.st_gid == of.st_gid) || fchown(fd, of.st_uid, of.st_gid) == 0)
        return 0;
    return errno == EPERM || errno == EINVAL || errno == EOPNOTSUPP ? 0 : -errno;
}

const char *file_name(char buf[FILE_NAME], const char *volume, const char *suffix)
{
    snprintf(buf, FILE_NAME, "%.36s%s", volume, suffix);
    return buf;
}

int file_fail(const struct domain *d, const char *image, const char *name, int err, const char *doing)
{
    return dom_fail(err, NULL, "%s/images/%s/%s: %s: %s", d->path, image, name, doing, strerror(abs(err)));
}

/* As the server has it, not as it was known here. */
static bool is_same(int folder, const char *name, const struct stat *as)
{
    struct statx of_folder;
    struct stat st;

    return statx(folder, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &of_folder) == 0 &&
           fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == as->st_dev &&
           st.st_ino == as->st_ino;
}

int file_rename(int folder, const char *from, const char *to)
{
    struct stat st;
    bool known = fstatat(folder, from, &st, AT_SYMLINK_NOFOLLOW) == 0;
    int err;

    if (renameat(folder, from, folder, to) == 0)
        return 0;
    err = errno;
    if (err == ENOENT && known && is_same(folder, to, &st))
        return 0;
    errno = err;
    return -1;
}

/* A regular file. -EINVAL, with text: it is something else. */
int file_open_regular(const struct domain *d, int folder, const char *image, const char *name, int flags)
{
    int fd = openat(folder, name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 && errno != ELOOP && errno != ENXIO)
        return file_fail(d, image, name, errno, "opening it");
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    if (fd >= 0)
        close(fd);
    return dom_fail(EINVAL, NULL, "%s/images/%s/%s: is no regular file", d->path, image, name);
}

int file_visit(struct domain *d, file_visit_fn *fn, void *arg)
{
    int images = file_open_images(d), folder, rc = 0;
    struct dirent *entry;
    DIR *dir;

    if (images < 0)
        return images;
    dir = fdopendir(images);
    if (dir == NULL) {
        close(images);
        return file_no_memory();
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (!text_is_uuid(entry->d_name, strlen(entry->d_name)) ||
            (folder = openat(images, entry->d_name, FILE_FOLDER)) < 0)
            continue;
        rc = fn(arg, folder, entry->d_name);
        close(folder);
    }
    closedir(dir);
    return rc;
}
