/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes that images of a domain share, by hard links; and who has a name.
 *
 * Works: what is shared gets its names in another image, data first, metadata last. Fails: as the system.
 *
 * Invariant: 1. a name of what is shared goes only where another image has it, with its metadata.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"

static int link_one(struct domain *d, int from, int to, const char *image, const char *name, bool needed)
{
    struct stat a, b;

    if (linkat(from, name, to, name, 0) == 0 || (errno == ENOENT && !needed))
        return 0;
    if (errno != EEXIST)
        return file_fail(d, image, name, errno, "sharing it");
    if (fstatat(from, name, &a, AT_SYMLINK_NOFOLLOW) == 0 && fstatat(to, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
        a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return 0;
    return dom_fail(EEXIST, NULL, "%s/images/%s/%s: is there, and another file than the one that is to be shared",
                    d->path, image, name);
}

int file_share(struct domain *d, const char *image, const char *volume, const char *to_image)
{
    int from = file_open_folder(d, image), to = from >= 0 ? file_open_folder(d, to_image) : from;
    char name[FILE_NAME];
    int rc = to;

    if (to >= 0)
        rc = link_one(d, from, to, to_image, volume, true);
    if (rc == 0)
        rc = link_one(d, from, to, to_image, file_name(name, volume, FILE_LEASE), false);
    if (rc == 0)
        rc = link_one(d, from, to, to_image, file_name(name, volume, FILE_META), true);
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return rc;
}

/* (1) */
int file_unshare(struct domain *d, const char *image, const char *volume)
{
    static const char *const suffixes[] = {FILE_META, FILE_LEASE, ""};
    unsigned others;
    char name[FILE_NAME];
    int folder, rc = file_count_shares(d, image, volume, true, &others);

    if (rc < 0)
        return rc;
    if (others == 0)
        return dom_fail(EBUSY, NULL, "volume %s is in no other image: it is left in image %s", volume, image);
    folder = file_open_folder(d, image);
    if (folder < 0)
        return folder;
    for (size_t i = 0; rc == 0 && i < sizeof suffixes / sizeof suffixes[0]; i++)
        if (unlinkat(folder, file_name(name, volume, suffixes[i]), 0) != 0 && errno != ENOENT)
            rc = file_fail(d, image, name, errno, "removing it");
    close(folder);
    return rc;
}

struct shares {
    const char *image, *volume;
    struct stat st;
    bool        published;
    unsigned    count;
};

static int count_share(void *arg, int folder, const char *image)
{
    struct shares *s = arg;
    char name[FILE_NAME];
    struct stat st;

    if (strcmp(image, s->image) != 0 && fstatat(folder, s->volume, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_dev == s->st.st_dev && st.st_ino == s->st.st_ino &&
        (!s->published ||
         (fstatat(folder, file_name(name, s->volume, FILE_META), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
          S_ISREG(st.st_mode))))
        s->count++;
    return 0;
}

int file_count_shares(struct domain *d, const char *image, const char *volume, bool published,
                             unsigned *ret)
{
    struct shares s = {.image = image, .volume = volume, .published = published};
    int folder = file_open_folder(d, image), rc = 0;

    if (folder < 0)
        return folder;
    if (fstatat(folder, volume, &s.st, AT_SYMLINK_NOFOLLOW) != 0)
        rc = file_fail(d, image, volume, errno, "looking at it");
    close(folder);
    if (rc == 0 && s.st.st_nlink > 1)
        rc = file_visit(d, count_share, &s);
    if (rc == 0)
        *ret = s.count;
    return rc;
}

struct search {
    const char *volume, *except;
    char       *image;
};

static int look_for(void *arg, int folder, const char *image)
{
    static const char *const suffixes[] = {"", FILE_META, FILE_INTENT, FILE_WIPE};
    struct search *s = arg;
    char name[FILE_NAME];
    struct stat st;

    for (size_t i = 0; strcmp(image, s->except) != 0 && i < sizeof suffixes / sizeof suffixes[0]; i++) {
        if (fstatat(folder, file_name(name, s->volume, suffixes[i]), &st, AT_SYMLINK_NOFOLLOW) == 0) {
            snprintf(s->image, DOMAIN_UUID, "%s", image);
            return 1;
        }
    }
    return 0;
}

int file_find_volume(struct domain *d, const char *volume, const char *except, char ret_image[DOMAIN_UUID])
{
    struct search s = {volume, except, ret_image};

    ret_image[0] = '\0';
    int rc = file_visit(d, look_for, &s);
    return rc < 0 ? rc : 0;
}
