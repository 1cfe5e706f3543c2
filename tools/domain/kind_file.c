/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Domains in folders: a local file system, or a mounted export.
 *
 *     DOMAIN/dom_md/metadata
 *     DOMAIN/images/IMAGE/VOLUME, VOLUME.meta, VOLUME.meta.new, VOLUME.lease
 *
 * Works: metadata is written beside, synced, and renamed. What is changed in a folder gets to the disk in its
 * order, by the file system's journal, and is there when the folder has been synced. VOLUME.meta.new without
 * VOLUME.meta is the intent of a volume that is being made or removed: so publishing and unpublishing are one
 * rename each. Fails: as the call of the system, with the path.
 *
 * Invariants:
 *  1. VOLUME.meta is whole, whenever it is there.
 *  2. Data that is unpublished goes before its intent.
 */
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

#include "tools/domain/file_lock.h"
#include "tools/domain/kind.h"

static const char meta_suffix[] = ".meta", intent_suffix[] = ".meta.new", lease_suffix[] = ".lease";

/* ---- paths and small things -------------------------------------------------------------------------- */

static char *image_path(const struct domain *d, const char *image, const char *name, const char *suffix)
{
    char *path;

    return asprintf(&path, "%s/images/%s%s%s%s", d->path, image, name[0] != '\0' ? "/" : "", name, suffix) < 0 ?
           NULL : path;
}

static int out_of_memory(void)
{
    return dom_fail(ENOMEM, NULL, "out of memory");
}

/* A file or a folder. */
static int sync_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        rc = dom_fail_file(errno, path, "making it durable");
    if (fd >= 0)
        close(fd);
    return rc;
}

static int file_sync(struct domain *d, const char *image)
{
    char *path = image_path(d, image, "", "");
    int rc = path != NULL ? sync_file(path) : out_of_memory();

    free(path);
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

static int write_file(const char *path, const char *text, size_t len, bool sync)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), rc;

    if (fd < 0)
        return dom_fail_file(errno, path, "making it");
    rc = write_all(fd, text, len, sync);
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    return rc < 0 ? dom_fail_file(rc, path, "writing it") : 0;
}

/* At most `max` bytes, and a NUL. -EFBIG: there are more. */
static int read_file(const char *path, char *buf, size_t max, size_t *ret_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), rc = 0;
    size_t len = 0;
    ssize_t n = 1;

    if (fd < 0)
        return dom_fail_file(errno, path, "opening it");
    while (n != 0 && len <= max) {
        n = read(fd, buf + len, max + 1 - len);
        if (n > 0)
            len += (size_t)n;
        else if (n < 0 && errno != EINTR)
            break;
    }
    if (n < 0)
        rc = dom_fail_file(errno, path, "reading it");
    else if (len > max)
        rc = dom_fail(EFBIG, NULL, "%s: is longer than metadata is: %zu bytes", path, max);
    close(fd);
    if (rc < 0)
        return rc;
    buf[len] = '\0';
    *ret_len = len;
    return 0;
}

static int rename_suffix(struct domain *d, const char *image, const char *volume, const char *from, const char *to)
{
    char *a = image_path(d, image, volume, from), *b = image_path(d, image, volume, to);
    int rc = 0;

    if (a == NULL || b == NULL)
        rc = out_of_memory();
    else if (rename(a, b) != 0)
        rc = dom_fail_file(errno, a, "renaming it");
    free(a);
    free(b);
    return rc;
}

static int unlink_suffix(struct domain *d, const char *image, const char *volume, const char *suffix)
{
    char *path = image_path(d, image, volume, suffix);
    int rc = 0;

    if (path == NULL)
        return out_of_memory();
    if (unlink(path) != 0 && errno != ENOENT)
        rc = dom_fail_file(errno, path, "removing it");
    free(path);
    return rc;
}

/* ---- the domain --------------------------------------------------------------------------------------- */

static int file_load(const char *path, char **ret_text, size_t *ret_len)
{
    char *name, *text = malloc(TEXT_DOMAIN_MAX + 2);
    int rc = -ENOMEM;

    if (text == NULL || asprintf(&name, "%s/dom_md/metadata", path) < 0) {
        free(text);
        return out_of_memory();
    }
    rc = read_file(name, text, TEXT_DOMAIN_MAX, ret_len);
    free(name);
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
    size_t n = strncmp(name, DOMAIN_REMOVED, sizeof DOMAIN_REMOVED - 1) == 0 ? sizeof DOMAIN_REMOVED - 1 : 0;

    return text_is_uuid(name + n, strlen(name + n));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int add_name(struct domain_names *names, const char *name)
{
    if ((names->count & (names->count + 1)) == 0) { /* room for the next power of two */
        void *list = reallocarray(names->list, 2 * names->count + 2, sizeof *names->list);
        if (list == NULL)
            return out_of_memory();
        names->list = list;
    }
    snprintf(names->list[names->count++], sizeof *names->list, "%.63s", name);
    return 0;
}

static int file_list_images(struct domain *d, struct domain_names *ret)
{
    struct domain_names names = {0};
    struct dirent *entry;
    char path[PATH_MAX];
    int rc = 0;
    DIR *dir;

    snprintf(path, sizeof path, "%s/images", d->path);
    dir = opendir(path);
    if (dir == NULL)
        return dom_fail_file(errno, path, "opening the folder");
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

static int file_lock(struct domain *d, bool exclusive, const char *image, const char *shared_image, int *ret_lock)
{
    struct file_lock_wish wishes[3] = {{.what = "domain", .name = d->uuid, .exclusive = exclusive}};
    unsigned n = 1;

    if (image != NULL)
        wishes[n++] = (struct file_lock_wish){.what = "image", .name = image, .exclusive = true};
    if (shared_image != NULL && (image == NULL || strcmp(image, shared_image) != 0))
        wishes[n++] = (struct file_lock_wish){.what = "image", .name = shared_image};
    return file_lock_take(d->path, wishes, n, d->how.wait, ret_lock);
}

static void file_unlock(int lock)
{
    close(lock);
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

/* A file in an image's folder. */
static int note_file(struct dom_entries *e, int folder, const char *name)
{
    struct dom_entry *entry;
    const char *suffix = name + DOMAIN_UUID - 1;

    if (strlen(name) < DOMAIN_UUID - 1 || !text_is_uuid(name, DOMAIN_UUID - 1) ||
        (suffix[0] != '\0' && strcmp(suffix, meta_suffix) != 0 && strcmp(suffix, intent_suffix) != 0 &&
         strcmp(suffix, lease_suffix) != 0)) {
        snprintf(e->stranger, sizeof e->stranger, "%.60s", name);
        return 0;
    }
    entry = entry_of(e, name);
    if (entry == NULL)
        return out_of_memory();
    if (suffix[0] == '\0')
        note_data(entry, folder, name);
    else if (strcmp(suffix, meta_suffix) == 0)
        entry->meta = true;
    else if (strcmp(suffix, intent_suffix) == 0)
        entry->intent = true;
    else
        entry->lease = true;
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    const struct dom_entry *x = a, *y = b;

    return strcmp(x->volume, y->volume);
}

static int file_list_volumes(struct domain *d, const char *image, struct dom_entries *ret)
{
    struct dom_entries entries = {0};
    struct dirent *entry;
    char path[PATH_MAX];
    int rc = 0;
    DIR *dir;

    snprintf(path, sizeof path, "%s/images/%s", d->path, image);
    dir = opendir(path);
    if (dir == NULL)
        return errno == ENOENT ? dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, image) :
               dom_fail_file(errno, path, "opening the folder");
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = note_file(&entries, dirfd(dir), entry->d_name);
    closedir(dir);
    if (rc < 0) {
        free(entries.list);
        return rc;
    }
    if (entries.count > 0)
        qsort(entries.list, entries.count, sizeof *entries.list, compare_entries);
    *ret = entries;
    return 0;
}

static int sync_images(struct domain *d)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/images", d->path);
    return sync_file(path);
}

static int file_make_image(struct domain *d, const char *image)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/images/%s", d->path, image);
    return mkdir(path, 0775) == 0 || errno == EEXIST ? 0 : dom_fail_file(errno, path, "making the folder");
}

static int file_drop_image(struct domain *d, const char *image)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/images/%s", d->path, image);
    if (rmdir(path) != 0)
        return errno == ENOTEMPTY || errno == EEXIST ? -ENOTEMPTY
                                                     : dom_fail_file(errno, path, "removing the folder");
    return sync_images(d);
}

static int file_retire_image(struct domain *d, const char *image)
{
    char from[PATH_MAX], to[PATH_MAX];

    snprintf(from, sizeof from, "%s/images/%s", d->path, image);
    snprintf(to, sizeof to, "%s/images/" DOMAIN_REMOVED "%s", d->path, image);
    if (rename(from, to) != 0)
        return errno == ENOTEMPTY || errno == EEXIST ?
               dom_fail(EEXIST, "'vdisk-io domain check --repair' purges it",
                        "%s: an image of that name was deleted before, and is still there", to) :
               dom_fail_file(errno, from, "renaming it");
    return sync_images(d);
}

static int file_purge_image(struct domain *d, const char *image)
{
    char path[PATH_MAX];
    struct dirent *entry;
    int rc = 0;
    DIR *dir;

    snprintf(path, sizeof path, "%s/images/" DOMAIN_REMOVED "%s", d->path, image);
    dir = opendir(path);
    if (dir == NULL)
        return dom_fail_file(errno, path, "opening the folder");
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            rc = dom_fail(errno, NULL, "%s/%.60s: removing it: %s", path, entry->d_name, strerror(errno));
    closedir(dir);
    if (rc == 0 && rmdir(path) != 0)
        rc = dom_fail_file(errno, path, "removing the folder");
    return rc == 0 ? sync_images(d) : rc;
}

/* ---- volumes: metadata -------------------------------------------------------------------------------- */

static int file_read_meta(struct domain *d, const char *image, const char *volume, char buf[TEXT_VOLUME_MAX + 1],
                          size_t *ret_len)
{
    char path[PATH_MAX], text[TEXT_VOLUME_MAX + 2];
    size_t len;
    int rc;

    snprintf(path, sizeof path, "%s/images/%s/%s%s", d->path, image, volume, meta_suffix);
    rc = read_file(path, text, TEXT_VOLUME_MAX, &len);
    if (rc < 0)
        return rc;
    memcpy(buf, text, len + 1);
    *ret_len = len;
    return 0;
}

static int write_intent(struct domain *d, const char *image, const char *volume, const char *text, size_t len,
                        bool sync)
{
    char *path = image_path(d, image, volume, intent_suffix);
    int rc = path != NULL ? write_file(path, text, len, sync) : out_of_memory();

    free(path);
    return rc;
}

static int file_write_meta(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    int rc = write_intent(d, image, volume, text, len, true);

    return rc == 0 ? rename_suffix(d, image, volume, intent_suffix, meta_suffix) : rc;
}

static int file_drop_intent(struct domain *d, const char *image, const char *volume)
{
    return unlink_suffix(d, image, volume, intent_suffix);
}

static int file_begin(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    return write_intent(d, image, volume, text, len, false);
}

static int file_publish(struct domain *d, const char *image, const char *volume)
{
    char *path = image_path(d, image, volume, intent_suffix);
    int rc = path != NULL ? sync_file(path) : out_of_memory();

    free(path);
    if (rc < 0)
        return rc;
    return rename_suffix(d, image, volume, intent_suffix, meta_suffix);
}

static int file_unpublish(struct domain *d, const char *image, const char *volume)
{
    return rename_suffix(d, image, volume, meta_suffix, intent_suffix);
}

static int file_purge(struct domain *d, const char *image, const char *volume)
{
    int rc = unlink_suffix(d, image, volume, "");

    if (rc == 0)
        rc = unlink_suffix(d, image, volume, lease_suffix);
    return rc == 0 ? file_drop_intent(d, image, volume) : rc; /* (2) */
}

/* ---- volumes: data ------------------------------------------------------------------------------------ */

static char *file_data_path(const struct domain *d, const char *image, const char *volume)
{
    return image_path(d, image, volume, "");
}

static int file_make_data(struct domain *d, const char *image, const char *volume, uint64_t size)
{
    char *path = image_path(d, image, volume, "");
    int fd, rc = 0;

    (void)size; /* files grow */
    if (path == NULL)
        return out_of_memory();
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0660);
    if (fd < 0 || fchmod(fd, 0660) != 0)
        rc = dom_fail_file(errno, path, "making it");
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

static int link_one(struct domain *d, const char *image, const char *volume, const char *to, const char *suffix,
                    bool needed)
{
    char *a = image_path(d, image, volume, suffix), *b = image_path(d, to, volume, suffix);
    int rc = 0;

    if (a == NULL || b == NULL)
        rc = out_of_memory();
    else if (link(a, b) != 0 && errno != EEXIST && (needed || errno != ENOENT))
        rc = dom_fail(errno, NULL, "%s: sharing it as %s: %s", a, b, strerror(errno));
    free(a);
    free(b);
    return rc;
}

static int file_share(struct domain *d, const char *image, const char *volume, const char *to_image)
{
    int rc = link_one(d, image, volume, to_image, "", true);

    if (rc == 0)
        rc = link_one(d, image, volume, to_image, lease_suffix, false);
    if (rc == 0)
        rc = link_one(d, image, volume, to_image, meta_suffix, true);
    return rc;
}

static int file_unshare(struct domain *d, const char *image, const char *volume)
{
    int rc = unlink_suffix(d, image, volume, meta_suffix);

    if (rc == 0)
        rc = unlink_suffix(d, image, volume, lease_suffix);
    if (rc == 0)
        rc = unlink_suffix(d, image, volume, "");
    return rc;
}

static int file_reserve(struct domain *d, const char *image, const char *volume, uint64_t bytes)
{
    char *path = image_path(d, image, volume, "");
    int fd, rc = 0;

    if (path == NULL)
        return out_of_memory();
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        rc = dom_fail_file(errno, path, "opening it");
    else if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) != 0)
        rc = errno == EOPNOTSUPP ? dom_fail(ENOTSUP, NULL, "%s: its file system reserves no space", path) :
             dom_fail_file(errno, path, "reserving space");
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

static int file_measure(struct domain *d, const char *image, const char *volume, uint64_t *ret_size,
                        uint64_t *ret_allocated)
{
    char *path = image_path(d, image, volume, "");
    struct stat st;
    int rc = path == NULL           ? out_of_memory()
             : stat(path, &st) != 0 ? dom_fail_file(errno, path, "looking at it")
                                    : 0;

    free(path);
    if (rc == 0) {
        *ret_size = (uint64_t)st.st_size;
        *ret_allocated = (uint64_t)st.st_blocks * 512;
    }
    return rc;
}

const struct dom_kind dom_kind_file = {
    .name = "file",
    .load = file_load,
    .space = file_space,
    .list_images = file_list_images,
    .lock = file_lock,
    .unlock = file_unlock,
    .list_volumes = file_list_volumes,
    .make_image = file_make_image,
    .drop_image = file_drop_image,
    .retire_image = file_retire_image,
    .purge_image = file_purge_image,
    .read_meta = file_read_meta,
    .write_meta = file_write_meta,
    .drop_intent = file_drop_intent,
    .begin = file_begin,
    .make_data = file_make_data,
    .publish = file_publish,
    .unpublish = file_unpublish,
    .purge = file_purge,
    .share = file_share,
    .unshare = file_unshare,
    .reserve = file_reserve,
    .measure = file_measure,
    .sync = file_sync,
    .data_path = file_data_path,
};
