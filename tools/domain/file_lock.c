/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: byte 0 is the domain's lock, another one, by the hash of its name, an image's; locks may lie behind the
 * end of a file. Fails: somebody has one: who, is looked for in /proc/PID/fdinfo, since fcntl() does not tell.
 */
#include "tools/domain/file_lock.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* FNV-1a, above the domain's byte and below what off_t has. */
static off_t byte_of(const struct file_lock_wish *wish)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ (wish->part == FILE_LOCK_USE);

    if (wish->part == FILE_LOCK_DOMAIN)
        return 0;
    for (const char *p = wish->name; *p != '\0'; p++)
        hash = (hash ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
    return (off_t)(1 + (hash >> 2));
}

/* ---- who has it ---------------------------------------------------------------------------------------- */

/* Does "lock: 1: OFDLCK  ADVISORY  WRITE -1 fe:01:1234 0 0" say that this byte of this file is locked? */
static bool line_has(const char *line, uint64_t inode, uint64_t byte)
{
    uint64_t file, first, last = UINT64_MAX;
    char end[32];

    if (strncmp(line, "lock:", 5) != 0 || strstr(line, "OFDLCK") == NULL)
        return false;
    if (sscanf(line, "lock: %*s %*s %*s %*s %*s %*[^:]:%*[^:]:%" SCNu64 " %" SCNu64 " %31s", &file, &first, end) !=
        3)
        return false;
    if (strcmp(end, "EOF") != 0 && sscanf(end, "%" SCNu64, &last) != 1)
        return false;
    return file == inode && first <= byte && byte <= last;
}

static bool process_has(const char *pid, uint64_t inode, uint64_t byte)
{
    char path[PATH_MAX], line[256];
    struct dirent *entry;
    bool found = false;
    DIR *dir;

    snprintf(path, sizeof path, "/proc/%s/fdinfo", pid);
    dir = opendir(path);
    while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
        FILE *f;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%s/fdinfo/%.20s", pid, entry->d_name);
        f = fopen(path, "re");
        while (f != NULL && !found && fgets(line, sizeof line, f) != NULL)
            found = line_has(line, inode, byte);
        if (f != NULL)
            fclose(f);
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

static void name_process(const char *pid, char *ret, size_t room)
{
    char path[64], name[64] = "";
    FILE *f;

    snprintf(path, sizeof path, "/proc/%.20s/comm", pid);
    f = fopen(path, "re");
    if (f != NULL && fgets(name, sizeof name, f) != NULL)
        name[strcspn(name, "\n")] = '\0';
    if (f != NULL)
        fclose(f);
    snprintf(ret, room, "process %.20s%s%s%s", pid, name[0] != '\0' ? " (" : "", name, name[0] != '\0' ? ")" : "");
}

static void find_holder(int fd, off_t byte, char *ret, size_t room)
{
    struct dirent *entry;
    struct stat st;
    DIR *proc = opendir("/proc");

    snprintf(ret, room, "a process that cannot be seen from here");
    if (proc == NULL || fstat(fd, &st) != 0)
        st.st_ino = 0;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name) ||
            !process_has(entry->d_name, st.st_ino, (uint64_t)byte))
            continue;
        name_process(entry->d_name, ret, room);
        break;
    }
    if (proc != NULL)
        closedir(proc);
}

/* ---- taking ---------------------------------------------------------------------------------------------- */

static int take_one(int fd, const char *path, const struct file_lock_wish *wish, bool wait)
{
    struct flock lock = {
        .l_type = wish->exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = byte_of(wish), .l_len = 1};
    char holder[128];
    int rc;

    do
        rc = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
    while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    if (errno != EAGAIN && errno != EACCES)
        return dom_fail_file(errno, path, "locking it");
    find_holder(fd, lock.l_start, holder, sizeof holder);
    return dom_fail(EAGAIN, "an action on images or volumes waits for it with --wait", "%s %s is in use by %s",
                    wish->part == FILE_LOCK_DOMAIN ? "domain" : "image", wish->name, holder);
}

static bool all_shared(const struct file_lock_wish *wishes, unsigned n)
{
    bool exclusive = false;

    for (unsigned i = 0; i < n; i++)
        exclusive = exclusive || wishes[i].exclusive;
    return !exclusive;
}

int file_lock_take(const char *path, const struct file_lock_wish *wishes, unsigned n, bool wait, int *ret_fd)
{
    const int how = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    bool shared = all_shared(wishes, n);
    struct stat st;
    int fd, rc = 0;

    fd = open(path, (shared ? O_RDONLY : O_RDWR) | how);
    if (fd < 0 && errno == EROFS) {
        shared = true;
        fd = open(path, O_RDONLY | how);
    }
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        int err = fd < 0 ? errno : EINVAL;
        rc = err == ENOENT ? dom_fail(err, "restore it: where the domain has no lockspace it is an empty file",
                                      "%s: opening it for locks: %s", path, strerror(err))
             : err == EINVAL || err == EISDIR || err == ELOOP
                 ? dom_fail(EINVAL, "restore it: where the domain has no lockspace it is an empty file",
                            "%s: is no regular file", path)
                 : dom_fail_file(err, path, "opening it for locks");
        if (fd >= 0)
            close(fd);
        return rc;
    }
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        struct file_lock_wish wish = wishes[i];
        wish.exclusive = wish.exclusive && !shared;
        rc = take_one(fd, path, &wish, wait);
    }
    if (rc < 0)
        file_lock_give(fd);
    else
        *ret_fd = fd;
    return rc;
}

int file_lock_add(int fd, const char *path, const struct file_lock_wish *wish)
{
    struct file_lock_wish with = *wish;

    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
        with.exclusive = false;
    return take_one(fd, path, &with, false);
}

void file_lock_give(int fd)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    fcntl(fd, F_OFD_SETLK, &all);
    close(fd);
}

static int compare_wishes(const void *a, const void *b)
{
    const struct dom_lock_wish *x = a, *y = b;

    return strcmp(x->image, y->image);
}

/* In one order, so that none who waits is waited for: by the names of images, each image's two locks together. */
int file_lock_images(const struct domain *d, const char *path, const struct dom_lock_wish *images, unsigned n,
                     int *ret_fd)
{
    struct file_lock_wish wishes[1 + 2 * DOM_LOCKS_MAX] = {{.part = FILE_LOCK_DOMAIN, .name = d->uuid}};
    struct dom_lock_wish sorted[DOM_LOCKS_MAX];
    unsigned count = 1;

    assert(n <= DOM_LOCKS_MAX);
    if (n > 0)
        memcpy(sorted, images, n * sizeof *images);
    qsort(sorted, n, sizeof *sorted, compare_wishes);
    for (unsigned i = 0; i < n; i++) {
        enum dom_lock_kind kind = sorted[i].kind;
        const char *name = sorted[i].image;
        bool alone = kind == DOM_LOCK_CHANGE || kind == DOM_LOCK_ALONE;
        if (kind != DOM_LOCK_USE && kind != DOM_LOCK_ALONE)
            wishes[count++] = (struct file_lock_wish){FILE_LOCK_IMAGE, name, kind != DOM_LOCK_READ};
        if (kind == DOM_LOCK_USE || alone)
            wishes[count++] = (struct file_lock_wish){FILE_LOCK_USE, name, alone};
    }
    return file_lock_take(path, wishes, count, d->how.wait, ret_fd);
}
