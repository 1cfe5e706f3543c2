/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Domains in folders: a local file system, or a mounted export.
 *
 *     DOMAIN/dom_md/metadata
 *     DOMAIN/images/IMAGE/VOLUME, VOLUME.meta, VOLUME.meta.new, VOLUME.intent, VOLUME.wipe, VOLUME.lease
 *
 * Works: metadata is written beside (VOLUME.meta.new), synced, and renamed. What is changed in a folder gets to
 * the disk in its order, by the file system's journal, and is there when the folder has been synced. VOLUME.intent
 * without VOLUME.meta is a volume that is being made or removed: so publishing and unpublishing are one rename
 * each. VOLUME.wipe is an intent to remove, or to merge, and to wipe before it goes. Fails: as the call of the
 * system, with the path.
 *
 * Invariants:
 *  1. VOLUME.meta is whole, whenever it is there.
 *  2. Data that is unpublished goes before its intent.
 *  3. No symbolic link is followed: an image is a folder, what a volume has are regular files.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"
#include "tools/domain/file_lock.h"
#include "tools/domain/lease.h"

/* ---- small things ------------------------------------------------------------------------------------- */

static int sync_folder(const struct domain *d, int folder, const char *image, const char *name)
{
    return fsync(folder) == 0 || errno == EINVAL ? 0 : file_fail(d, image, name, errno, "making it durable");
}

static int file_sync(struct domain *d, const char *image)
{
    int folder = file_open_folder(d, image), rc;

    if (folder < 0)
        return folder;
    rc = sync_folder(d, folder, image, "");
    close(folder);
    return rc;
}

static int write_all(int fd, const char *text, size_t len, bool sync)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return !sync || fsync(fd) == 0 ? 0 : -errno;
}

/* At most `max` bytes, and a NUL. -EFBIG: there are more. */
static int read_all(int fd, const char *path, char *buf, size_t max, size_t *ret_len)
{
    size_t len = 0;
    ssize_t n = 1;

    while (n != 0 && len <= max) {
        n = read(fd, buf + len, max + 1 - len);
        if (n > 0)
            len += (size_t)n;
        else if (n < 0 && errno != EINTR)
            return dom_fail_file(errno, path, "reading it");
    }
    if (len > max)
        return dom_fail(EFBIG, NULL, "%s: is longer than metadata is: %zu bytes", path, max);
    buf[len] = '\0';
    *ret_len = len;
    return 0;
}

static int rename_suffix(struct domain *d, const char *image, const char *volume, const char *from, const char *to)
{
    int folder = file_open_folder(d, image), rc = 0;
    char a[FILE_NAME], b[FILE_NAME];

    if (folder < 0)
        return folder;
    if (file_rename(folder, file_name(a, volume, from), file_name(b, volume, to)) != 0)
        rc = file_fail(d, image, a, errno, "renaming it");
    close(folder);
    return rc;
}

static int unlink_suffix(struct domain *d, const char *image, const char *volume, const char *suffix)
{
    int folder = file_open_folder(d, image), rc = 0;
    char name[FILE_NAME];

    if (folder < 0)
        return folder;
    if (unlinkat(folder, file_name(name, volume, suffix), 0) != 0 && errno != ENOENT)
        rc = file_fail(d, image, name, errno, "removing it");
    close(folder);
    return rc;
}

/* ---- the domain --------------------------------------------------------------------------------------- */

/* One whose metadata is damaged is one, too. */
static bool file_is_at(const char *path)
{
    char name[PATH_MAX];
    struct stat st;

    return snprintf(name, sizeof name, "%s/dom_md", path) < (int)sizeof name && lstat(name, &st) == 0;
}

static int add_name(struct domain_names *names, const char *name)
{
    if ((names->count & (names->count + 1)) == 0) { /* room for the next power of two */
        void *list = reallocarray(names->list, 2 * names->count + 2, sizeof *names->list);
        if (list == NULL)
            return file_no_memory();
        names->list = list;
    }
    snprintf(names->list[names->count++], sizeof *names->list, "%.63s", name);
    return 0;
}

static int file_list(const char *path, struct domain_names *names)
{
    struct dirent *entry;
    char name[PATH_MAX];
    DIR *dir = opendir(path);
    int rc = 0;

    if (dir == NULL)
        return dom_fail_file(errno, path, "opening the folder");
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (!text_is_uuid(entry->d_name, strlen(entry->d_name)))
            continue;
        snprintf(name, sizeof name, "%s/%.40s", path, entry->d_name);
        if (file_is_at(name))
            rc = add_name(names, entry->d_name);
    }
    closedir(dir);
    return rc;
}

/* Whatever folder this process goes to; and sanlock's daemon is in another one. */
static int make_absolute(struct domain *d)
{
    char *full;

    if (d->path[0] == '/')
        return 0;
    full = realpath(d->path, NULL);
    if (full == NULL)
        return dom_fail_file(errno, d->path, "looking for the folder");
    free(d->path);
    d->path = full;
    return 0;
}

static int file_load(struct domain *d, char **ret_text, size_t *ret_len)
{
    char name[PATH_MAX], *text;
    struct stat st;
    int fd, rc = make_absolute(d);

    if (rc < 0)
        return rc;
    text = malloc(TEXT_DOMAIN_MAX + 2);
    if (text == NULL)
        return file_no_memory();
    snprintf(name, sizeof name, "%s/dom_md/metadata", d->path);
    fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        rc = dom_fail_file(errno, name, "opening it");
    else if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
        rc = dom_fail(EINVAL, "restore the domain's metadata", "%s: is no regular file", name);
    else
        rc = read_all(fd, name, text, TEXT_DOMAIN_MAX, ret_len);
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        *ret_text = text;
    else
        free(text);
    return rc;
}

static int file_space(struct domain *d, struct domain_space *ret)
{
    struct statvfs fs;

    if (statvfs(d->path, &fs) != 0)
        return dom_fail_file(errno, d->path, "asking for its space");
    ret->size = (uint64_t)fs.f_blocks * fs.f_frsize;
    ret->available = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}

static bool is_image_name(const char *name)
{
    return text_is_uuid(name, strlen(name)) || dom_removed_uuid(name, NULL) != NULL;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int file_list_images(struct domain *d, struct domain_names *ret)
{
    struct domain_names names = {0};
    struct dirent *entry;
    int images = file_open_images(d), rc = 0;
    DIR *dir;

    if (images < 0)
        return images;
    dir = fdopendir(images);
    if (dir == NULL) {
        close(images);
        return file_no_memory();
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (is_image_name(entry->d_name))
            rc = add_name(&names, entry->d_name);
    closedir(dir);
    if (rc < 0) {
        domain_names_free(&names);
        return rc;
    }
    if (names.count > 0)
        qsort(names.list, names.count, sizeof *names.list, compare_names);
    *ret = names;
    return 0;
}

static void path_of_locks(const struct domain *d, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s/dom_md/leases", d->path);
}

/* Locks of this host come first. */
static int file_lock(struct domain *d, const struct dom_lock_wish *images, unsigned n, int *ret_lock)
{
    char path[PATH_MAX];
    int lock, rc = dom_check_process(d);

    if (rc < 0)
        return rc;
    path_of_locks(d, path);
    rc = file_lock_images(d, path, images, n, &lock);
    if (rc < 0)
        return lease_explain(d, images, n, rc);
    rc = lease_lock(d, images, n, lock);
    if (rc < 0)
        file_lock_give(lock);
    else
        *ret_lock = lock;
    return rc;
}

static int file_lock_alone(struct domain *d, int lock, const char *image)
{
    const struct file_lock_wish wish = {FILE_LOCK_USE, image, true};
    char path[PATH_MAX];

    int rc;

    path_of_locks(d, path);
    rc = file_lock_add(lock, path, &wish);
    return rc == 0 ? lease_lock_alone(d, lock, image) : rc;
}

static int file_lock_domain(struct domain *d, int *ret_lock)
{
    const struct file_lock_wish wish = {FILE_LOCK_DOMAIN, d->uuid, true};
    char path[PATH_MAX];
    int lock, rc = dom_check_process(d);

    if (rc < 0)
        return rc;
    path_of_locks(d, path);
    rc = file_lock_take(path, &wish, 1, d->how.wait, &lock);
    if (rc < 0)
        return rc;
    rc = lease_lock_domain(d, lock);
    if (rc < 0)
        file_lock_give(lock);
    else
        *ret_lock = lock;
    return rc;
}

static void file_unlock(struct domain *d, int lock)
{
    lease_unlock(d, lock);
    file_lock_give(lock);
}

/* ---- images ------------------------------------------------------------------------------------------- */

static struct dom_entry *entry_of(struct dom_entries *e, const char *volume)
{
    for (size_t i = e->count; i > 0; i--) /* files of one volume lie near each other, as a rule */
        if (memcmp(e->list[i - 1].volume, volume, DOMAIN_UUID - 1) == 0)
            return &e->list[i - 1];
    if ((e->count & (e->count + 1)) == 0) {
        struct dom_entry *list = reallocarray(e->list, 2 * e->count + 2, sizeof *list);
        if (list == NULL)
            return NULL;
        e->list = list;
    }
    e->list[e->count] = (struct dom_entry){0};
    memcpy(e->list[e->count].volume, volume, DOMAIN_UUID - 1);
    return &e->list[e->count++];
}

/* What is no regular file is no file of a volume, whatever it is called. (3) */
static bool is_regular(int folder, const struct dirent *file)
{
    struct stat st;

    if (file->d_type != DT_UNKNOWN)
        return file->d_type == DT_REG;
    return fstatat(folder, file->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static void note_data(struct dom_entry *entry, int folder, const char *name)
{
    struct stat st;

    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    entry->data = true;
    entry->size = (uint64_t)st.st_size;
    entry->allocated = (uint64_t)st.st_blocks * 512;
    entry->links = (unsigned)st.st_nlink;
}

static bool *flag_of(struct dom_entry *entry, const char *suffix)
{
    return strcmp(suffix, FILE_META) == 0   ? &entry->meta
           : strcmp(suffix, FILE_DRAFT) == 0  ? &entry->draft
           : strcmp(suffix, FILE_INTENT) == 0 ? &entry->intent
           : strcmp(suffix, FILE_WIPE) == 0   ? &entry->wipe
           : strcmp(suffix, FILE_LEASE) == 0  ? &entry->lease
                                                : NULL;
}

/* A file in an image's folder. */
static int note_file(struct dom_entries *e, int folder, const struct dirent *file)
{
    const char *name = file->d_name, *suffix = name + DOMAIN_UUID - 1;
    struct dom_entry *entry, none = {0};

    if (strlen(name) < DOMAIN_UUID - 1 || !text_is_uuid(name, DOMAIN_UUID - 1) ||
        (suffix[0] != '\0' && flag_of(&none, suffix) == NULL)) {
        snprintf(e->stranger, sizeof e->stranger, "%.60s", name);
        return 0;
    }
    entry = entry_of(e, name);
    if (entry == NULL)
        return file_no_memory();
    if (suffix[0] != '\0')
        *flag_of(entry, suffix) = true;
    entry->intent |= entry->wipe;
    if (!is_regular(folder, file))
        entry->odd = true;
    else if (suffix[0] == '\0')
        note_data(entry, folder, name);
    return 0;
}

static int file_list_volumes(struct domain *d, const char *image, struct dom_entries *ret)
{
    struct dom_entries entries = {0};
    int folder = file_open_folder(d, image), rc = 0;
    struct dirent *file;
    DIR *dir;

    if (folder < 0)
        return folder;
    dir = fdopendir(folder);
    if (dir == NULL) {
        close(folder);
        return file_no_memory();
    }
    while (rc == 0 && (file = readdir(dir)) != NULL)
        if (strcmp(file->d_name, ".") != 0 && strcmp(file->d_name, "..") != 0)
            rc = note_file(&entries, folder, file);
    closedir(dir);
    if (rc < 0) {
        free(entries.list);
        return rc;
    }
    dom_sort_entries(&entries);
    *ret = entries;
    return 0;
}

static int own_folder(struct domain *d, const char *image)
{
    int folder = file_open_folder(d, image), rc;

    if (folder < 0)
        return folder;
    rc = file_own(folder, d->path, FILE_MODE_FOLDER);
    close(folder);
    return rc == 0 ? 0 : file_fail(d, image, "", rc, "giving it its owner");
}

static int file_make_image(struct domain *d, const char *image)
{
    int images = file_open_images(d), rc = 0;

    if (images < 0)
        return images;
    if (mkdirat(images, image, FILE_MODE_FOLDER) == 0)
        rc = own_folder(d, image);
    else if (errno != EEXIST)
        rc = file_fail(d, image, "", errno, "making the folder");
    close(images);
    return rc;
}

static int file_drop_image(struct domain *d, const char *image)
{
    int images = file_open_images(d), rc;

    if (images < 0)
        return images;
    if (unlinkat(images, image, AT_REMOVEDIR) != 0 && errno != ENOENT)
        rc = errno == ENOTEMPTY || errno == EEXIST ? -ENOTEMPTY :
             file_fail(d, image, "", errno, "removing the folder");
    else
        rc = sync_folder(d, images, image, "");
    close(images);
    return rc;
}

static int file_retire_image(struct domain *d, const char *image, bool wipe)
{
    int images = file_open_images(d), rc;
    char to[DOM_REMOVED_NAME];
    struct stat st;

    if (images < 0)
        return images;
    dom_removed_name(to, image, wipe);
    if (fstatat(images, image, &st, AT_SYMLINK_NOFOLLOW) != 0)
        rc = file_fail(d, image, "", errno, "looking at it");
    else if (!S_ISDIR(st.st_mode)) /* (3) */
        rc = dom_fail(ENOTDIR, NULL, "%s/images/%s: is no folder: it is left as it is", d->path, image);
    else if (file_rename(images, image, to) == 0)
        rc = sync_folder(d, images, image, "");
    else if (errno == ENOTEMPTY || errno == EEXIST)
        rc = dom_fail(EEXIST, "'vdisk-io domain check --repair' purges it",
                      "%s/images/%s: an image of that name was deleted before, and is still there", d->path, to);
    else
        rc = file_fail(d, image, "", errno, "renaming it");
    close(images);
    return rc;
}

/* All that can be removed is; the error is of what cannot. */
static int empty_folder(const struct domain *d, DIR *dir, const char *image)
{
    struct dirent *file;
    int rc = 0;

    while ((file = readdir(dir)) != NULL)
        if (strcmp(file->d_name, ".") != 0 && strcmp(file->d_name, "..") != 0 &&
            unlinkat(dirfd(dir), file->d_name, 0) != 0 && errno != ENOENT)
            rc = file_fail(d, image, file->d_name, errno, "removing it");
    return rc;
}

/* Who may rename the folder need not be one who may remove what is in it. */
static int judge_files(const struct domain *d, DIR *dir, const char *image)
{
    struct dirent *file;
    struct stat st;

    if (faccessat(dirfd(dir), ".", W_OK | X_OK, AT_EACCESS) != 0)
        return dom_fail(errno, "do it as a user who may write to the domain's folders",
                        "%s/images/%s: nothing can be removed from the folder: %s", d->path, image,
                        strerror(errno));
    while ((file = readdir(dir)) != NULL)
        if (strcmp(file->d_name, ".") != 0 && strcmp(file->d_name, "..") != 0 &&
            fstatat(dirfd(dir), file->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
            return dom_fail(EISDIR, "see what it has, and move it away",
                            "%s/images/%s/%s: is a folder, and no image has one: the image is left as it is",
                            d->path, image, file->d_name);
    return 0;
}

static int open_folder(struct domain *d, const char *image, DIR **ret_dir)
{
    int folder = file_open_folder(d, image);

    if (folder < 0)
        return folder;
    *ret_dir = fdopendir(folder);
    if (*ret_dir != NULL)
        return 0;
    close(folder);
    return file_no_memory();
}

static int file_judge_purge(struct domain *d, const char *image)
{
    DIR *dir;
    int rc = open_folder(d, image, &dir);

    if (rc < 0)
        return rc;
    rc = judge_files(d, dir, image);
    closedir(dir);
    return rc;
}

static int file_purge_image(struct domain *d, const char *name)
{
    DIR *dir;
    int rc = open_folder(d, name, &dir);

    if (rc < 0)
        return rc;
    rc = empty_folder(d, dir, name);
    closedir(dir);
    if (rc == 0)
        rc = file_drop_image(d, name);
    return rc != -ENOTEMPTY ? rc :
           dom_fail(ENOTEMPTY, "'vdisk-io domain check --repair' removes it later",
                    "%s/images/%s: has files still: on NFS what a program has open stays until it is closed",
                    d->path, name);
}

/* ---- volumes: metadata -------------------------------------------------------------------------------- */

static int file_read_meta(struct domain *d, const char *image, const char *volume, char buf[TEXT_VOLUME_MAX + 1],
                          size_t *ret_len)
{
    char text[TEXT_VOLUME_MAX + 2], name[FILE_NAME];
    int folder = file_open_folder(d, image), fd, rc;
    size_t len;

    if (folder < 0)
        return folder;
    fd = file_open_regular(d, folder, image, file_name(name, volume, FILE_META), O_RDONLY);
    close(folder);
    if (fd < 0)
        return fd;
    rc = read_all(fd, name, text, TEXT_VOLUME_MAX, &len);
    close(fd);
    if (rc < 0)
        return rc;
    memcpy(buf, text, len + 1);
    *ret_len = len;
    return 0;
}

/* A new file: what has the name already goes, as a name only. */
static int write_file(struct domain *d, const char *image, const char *volume, const char *suffix,
                      const char *text, size_t len)
{
    int folder = file_open_folder(d, image), fd, rc;
    char name[FILE_NAME];

    if (folder < 0)
        return folder;
    unlinkat(folder, file_name(name, volume, suffix), 0);
    fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE_TEXT);
    rc = fd < 0 ? -errno : file_own(fd, d->path, FILE_MODE_TEXT);
    if (rc == 0)
        rc = write_all(fd, text, len, true);
    if (fd >= 0 && close(fd) != 0 && rc == 0)
        rc = -errno;
    if (rc < 0) {
        if (fd >= 0)
            unlinkat(folder, name, 0);
        rc = file_fail(d, image, name, rc, fd < 0 ? "making it" : "writing it");
    }
    close(folder);
    return rc;
}

static int file_write_meta(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    int rc = write_file(d, image, volume, FILE_DRAFT, text, len);

    return rc == 0 ? rename_suffix(d, image, volume, FILE_DRAFT, FILE_META) : rc;
}

static int file_drop_draft(struct domain *d, const char *image, const char *volume)
{
    return unlink_suffix(d, image, volume, FILE_DRAFT);
}

static int file_set_intent(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    return write_file(d, image, volume, FILE_INTENT, text, len);
}

static int file_drop_intent(struct domain *d, const char *image, const char *volume)
{
    return unlink_suffix(d, image, volume, FILE_INTENT);
}

static int file_keep_wipe(struct domain *d, const char *image, const char *volume)
{
    return rename_suffix(d, image, volume, FILE_INTENT, FILE_WIPE);
}

static int file_publish(struct domain *d, const char *image, const char *volume)
{
    return rename_suffix(d, image, volume, FILE_INTENT, FILE_META);
}

static int file_unpublish(struct domain *d, const char *image, const char *volume, bool wipe)
{
    return rename_suffix(d, image, volume, FILE_META, wipe ? FILE_WIPE : FILE_INTENT);
}

static int file_purge(struct domain *d, const char *image, const char *volume)
{
    int rc = unlink_suffix(d, image, volume, "");

    if (rc == 0) {
        lease_drop(d, volume);
        rc = unlink_suffix(d, image, volume, FILE_LEASE);
    }
    if (rc == 0)
        rc = unlink_suffix(d, image, volume, FILE_WIPE);
    return rc == 0 ? file_drop_intent(d, image, volume) : rc; /* (2) */
}

/* ---- volumes: data ------------------------------------------------------------------------------------ */

static int make_file(struct domain *d, const char *image, const char *volume)
{
    int folder = file_open_folder(d, image), fd, rc;

    if (folder < 0)
        return folder;
    fd = openat(folder, volume, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE_DATA);
    rc = fd < 0 ? -errno : file_own(fd, d->path, FILE_MODE_DATA);
    if (rc < 0)
        rc = file_fail(d, image, volume, rc, "making it");
    if (rc < 0 && fd >= 0)
        unlinkat(folder, volume, 0);
    if (fd >= 0)
        close(fd);
    close(folder);
    return rc;
}

/* Its lease is there before, and is held. */
static int file_make_data(struct domain *d, const char *image, const char *volume, uint64_t size)
{
    struct dom_error error;
    int rc = lease_make(d, image, volume);

    (void)size; /* files grow */
    if (rc == 0)
        rc = make_file(d, image, volume);
    if (rc == 0 || rc == -EEXIST)
        return rc;
    dom_error_keep(&error, rc);
    lease_drop(d, volume);
    unlink_suffix(d, image, volume, FILE_LEASE);
    return dom_error_give(&error);
}

/* Files grow, and are what they are by their names. */
static int file_make_room(struct domain *d, const char *image, const char *volume, uint64_t bytes)
{
    (void)d, (void)image, (void)volume, (void)bytes;
    return 0;
}

static int file_keep_active(struct domain *d, const char *image, bool active)
{
    (void)d, (void)image, (void)active;
    return 0;
}

static int file_end_upgrade(struct domain *d)
{
    (void)d;
    return 0;
}

static int file_check(struct domain *d, const char *image, struct dom_mend *m)
{
    (void)d, (void)image, (void)m;
    return 0;
}

static void file_close(struct domain *d)
{
    (void)d;
}

/* Nothing is kept; and a folder that is opened is one as the server has it. */
static void file_look_anew(struct domain *d)
{
    (void)d;
}

/* The locks of whoever has a file open tell. */
static int file_judge_idle(struct domain *d, const char *const *volumes, size_t n)
{
    (void)d, (void)volumes, (void)n;
    return 0;
}

const struct dom_kind dom_kind_file = {
    .name = "file",
    .list = file_list,
    .is_at = file_is_at,
    .load = file_load,
    .close = file_close,
    .space = file_space,
    .list_images = file_list_images,
    .lock = file_lock,
    .lock_alone = file_lock_alone,
    .lock_domain = file_lock_domain,
    .unlock = file_unlock,
    .begin_upgrade = file_begin_upgrade,
    .write_domain = file_write_domain,
    .end_upgrade = file_end_upgrade,
    .look_anew = file_look_anew,
    .find_drafts = file_find_drafts,
    .check_domain = file_check_domain,
    .list_volumes = file_list_volumes,
    .make_image = file_make_image,
    .drop_image = file_drop_image,
    .retire_image = file_retire_image,
    .judge_purge = file_judge_purge,
    .purge_image = file_purge_image,
    .read_meta = file_read_meta,
    .write_meta = file_write_meta,
    .write_shared = file_write_shared,
    .drop_draft = file_drop_draft,
    .set_intent = file_set_intent,
    .drop_intent = file_drop_intent,
    .keep_wipe = file_keep_wipe,
    .make_data = file_make_data,
    .publish = file_publish,
    .unpublish = file_unpublish,
    .purge = file_purge,
    .share = file_share,
    .unshare = file_unshare,
    .count_shares = file_count_shares,
    .find_volume = file_find_volume,
    .open_data = file_open_data,
    .make_room = file_make_room,
    .activate = dom_nothing_of_image,
    .keep_active = file_keep_active,
    .reserve = file_reserve,
    .give_back = file_give_back,
    .measure = file_measure,
    .judge_idle = file_judge_idle,
    .find_lease = file_find_lease,
    .make_lease = file_make_lease,
    .open_leases = file_open_leases,
    .read_host = file_read_host,
    .sync = file_sync,
    .check = file_check,
    .data_path = file_data_path,
};
