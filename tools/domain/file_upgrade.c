/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What only an upgrade changes: metadata of a domain, and of what its images share.
 *
 * Works: written beside, synced, renamed. What images share gets one new file, linked into each, into that which
 * is named last: so who was killed finds the old one there, and does it again. Fails: as the system.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"

enum { XLEASES_AT = 1 << 20, XLEASES_END = 2 << 20, BLOCK_LEAST = 512 };

/* ---- the domain ------------------------------------------------------------------------------------------ */

static int fill(int fd, const void *data, size_t len, off_t at, off_t size)
{
    ssize_t n = pwrite(fd, data, len, at);

    if (n != (ssize_t)len)
        return n < 0 ? -errno : -EIO;
    return (size > 0 && ftruncate(fd, size) != 0) || fsync(fd) != 0 ? -errno : 0;
}

/* A file of dom_md, made anew. */
static int replace(const struct domain *d, const char *name, const void *data, size_t len, off_t at, off_t size,
                   mode_t mode)
{
    char path[PATH_MAX], beside[FILE_NAME];
    int folder, fd, rc;

    snprintf(path, sizeof path, "%s/dom_md", d->path);
    folder = open(path, FILE_FOLDER);
    if (folder < 0)
        return dom_fail_file(errno, path, "opening the folder");
    snprintf(beside, sizeof beside, "%.32s.new", name);
    unlinkat(folder, beside, 0);
    fd = openat(folder, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    rc = fd < 0 ? -errno : file_own(fd, d->path, mode);
    if (rc == 0)
        rc = fill(fd, data, len, at, size);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && (file_rename(folder, beside, name) != 0 || (fsync(folder) != 0 && errno != EINVAL)))
        rc = -errno;
    if (rc < 0 && fd >= 0)
        unlinkat(folder, beside, 0);
    close(folder);
    return rc < 0 ? dom_fail(rc, NULL, "%s/%s: writing it: %s", path, name, strerror(-rc)) : 0;
}

int file_write_domain(struct domain *d, const char *text, size_t len)
{
    return replace(d, "metadata", text, len, 0, 0, FILE_MODE_TEXT);
}

int file_find_drafts(struct domain *d, bool drop, unsigned *ret)
{
    static const char *const names[] = {"metadata.new", "xleases.new"};
    char path[PATH_MAX];
    struct stat st;
    int folder, rc = 0;

    snprintf(path, sizeof path, "%s/dom_md", d->path);
    folder = open(path, FILE_FOLDER);
    if (folder < 0)
        return dom_fail_file(errno, path, "opening the folder");
    *ret = 0;
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof names[0]; i++) {
        if (fstatat(folder, names[i], &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        ++*ret;
        if (drop && unlinkat(folder, names[i], 0) != 0)
            rc = dom_fail(errno, NULL, "%s/%s: removing it: %s", path, names[i], strerror(errno));
    }
    close(folder);
    return rc;
}

int file_check_domain(struct domain *d, struct dom_mend *m)
{
    static const char *const names[] = {"ids", "leases", "inbox", "outbox", "xleases"};
    const char *type = domain_value(d, "TYPE");
    bool local = type != NULL && strcmp(type, "LOCALFS") == 0;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[PATH_MAX];
        struct stat st;
        if (strcmp(names[i], "xleases") == 0 && (local || d->version < 4))
            continue;
        snprintf(path, sizeof path, "%s/dom_md/%s", d->path, names[i]);
        if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode))
            dom_tell(m, VDISK_FOUND_CORRUPTION, "dom_md/%s is not there, or no regular file: Vdsm needs it",
                     names[i]);
    }
    return 0;
}

/* By a file without a name, so that nothing is left. Where there is none: NFS, whose blocks have 512 bytes. */
static unsigned probe(const struct domain *d)
{
    int fd = open(d->path, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    unsigned size = fd >= 0 ? file_probe_block(fd) : 0;

    if (fd >= 0)
        close(fd);
    return size != 0 ? size : BLOCK_LEAST;
}

static int make_xleases(struct domain *d)
{
    char path[PATH_MAX];
    unsigned char *index;
    struct stat st;
    int rc;

    snprintf(path, sizeof path, "%s/dom_md/xleases", d->path);
    if (lstat(path, &st) == 0)
        return 0;
    index = malloc(TEXT_XLEASES_SIZE);
    if (index == NULL)
        return file_no_memory();
    text_xleases(d->uuid, (uint64_t)time(NULL), index);
    rc = replace(d, "xleases", index, TEXT_XLEASES_SIZE, XLEASES_AT, XLEASES_END, FILE_MODE_DATA);
    free(index);
    return rc;
}

int file_begin_upgrade(struct domain *d, unsigned *ret_block_size)
{
    const char *type = text_domain_get(&d->md, "TYPE");

    *ret_block_size = probe(d);
    return type == NULL || strcmp(type, "LOCALFS") == 0 ? 0 : make_xleases(d);
}

/* ---- what is shared -------------------------------------------------------------------------------------- */

struct relink {
    struct domain *domain;
    const char    *image, *volume;
    int            folder; /* that has the new file */
    struct stat    st;     /* of the data */
};

static int relink_one(void *arg, int folder, const char *image)
{
    struct relink *r = arg;
    char draft[FILE_NAME], meta[FILE_NAME];
    struct stat st;

    if (strcmp(image, r->image) == 0 || fstatat(folder, r->volume, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        st.st_dev != r->st.st_dev || st.st_ino != r->st.st_ino)
        return 0;
    file_name(draft, r->volume, FILE_DRAFT);
    unlinkat(folder, draft, 0);
    if (linkat(r->folder, draft, folder, draft, 0) != 0 ||
        file_rename(folder, draft, file_name(meta, r->volume, FILE_META)) != 0 ||
        (fsync(folder) != 0 && errno != EINVAL))
        return file_fail(r->domain, image, draft, errno, "sharing it");
    return 0;
}

int file_write_shared(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    struct relink r = {.domain = d, .image = image, .volume = volume};
    char draft[FILE_NAME], meta[FILE_NAME];
    int fd, rc;

    r.folder = file_open_folder(d, image);
    if (r.folder < 0)
        return r.folder;
    unlinkat(r.folder, file_name(draft, volume, FILE_DRAFT), 0);
    fd = openat(r.folder, draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE_TEXT);
    rc = fd < 0 ? -errno : file_own(fd, d->path, FILE_MODE_TEXT);
    if (rc == 0)
        rc = fill(fd, text, len, 0, 0);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && fstatat(r.folder, volume, &r.st, AT_SYMLINK_NOFOLLOW) != 0)
        rc = -errno;
    if (rc < 0)
        rc = file_fail(d, image, draft, rc, "writing it");
    if (rc == 0)
        rc = file_visit(d, relink_one, &r);
    if (rc == 0 && file_rename(r.folder, draft, file_name(meta, volume, FILE_META)) != 0)
        rc = file_fail(d, image, draft, errno, "renaming it");
    close(r.folder);
    return rc;
}
