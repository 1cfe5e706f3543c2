/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: a file that is not there is made first, exclusively, so that it is known to be ours; vdisk_create() makes
 * the image in it, as in one that was there. Fails: see target_undo().
 *
 * Invariant: nothing is removed that was not made here, which is looked at again before (device and inode).
 */
#include "tools/target.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/own_files.h"

bool target_cache_flags(const char *mode, uint32_t *ret_flags)
{
    static const struct {
        const char *name;
        uint32_t    flags;
    } modes[] = {
        {"none", 0},
        {"off", 0},
        {"directsync", 0},
        {"writeback", VDISK_OPEN_BUFFERED},
        {"writethrough", VDISK_OPEN_BUFFERED},
        {"unsafe", VDISK_OPEN_BUFFERED | VDISK_OPEN_UNSAFE},
    };

    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            *ret_flags = modes[i].flags;
            return true;
        }
    }
    return false;
}

const char *target_path(const char *name)
{
    size_t n = strcspn(name, ":/");

    if (strncmp(name, "file:", 5) == 0)
        return name + 5;
    return name[n] == ':' ? NULL : name;
}

bool target_is_file(const char *name, const struct stat *st)
{
    const char *path = target_path(name);
    struct stat other;

    if (path == NULL || stat(path, &other) != 0)
        return false;
    if (S_ISBLK(st->st_mode) && S_ISBLK(other.st_mode))
        return st->st_rdev == other.st_rdev;
    return st->st_dev == other.st_dev && st->st_ino == other.st_ino;
}

/* ---- making it -------------------------------------------------------------------------------------- */

/*
 * A link that leads to nothing is followed: what is made, and removed again, is the file that it leads to. What
 * cannot be opened here vdisk_create() will say.
 */
static void begin_file(struct target_file *f, const char *path)
{
    int fd;

    if (path == NULL)
        return;
    f->path = access(path, F_OK) == 0 ? cli_strdup(path) : own_files_path(path);
    fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    f->made = fd >= 0;
    if ((fd < 0 || fstat(fd, &f->st) != 0) && stat(f->path, &f->st) != 0) {
        f->absent = !f->made && errno == ENOENT;
        memset(&f->st, 0, sizeof f->st);
    }
    if (fd >= 0)
        close(fd);
}

/* Until cli_job_run() they wait, so that nothing is left behind. Who reads our output may go: that is an error. */
static void hold_signals(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t held;

    cli_ends(&held);
    sigprocmask(SIG_BLOCK, &held, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* It was not there, and could not be made here: the library has made it, then. */
static void look_again(struct target_file *f)
{
    f->made = f->made || (f->absent && stat(f->path, &f->st) == 0 && S_ISREG(f->st.st_mode));
}

int target_create(struct target *t, const struct vdisk_create_opts *opts)
{
    vdisk_job *job;
    int rc;

    hold_signals();
    begin_file(&t->file, target_path(t->name));
    if (opts->data_file != NULL) {
        char *data = cli_backing_path(t->name, opts->data_file);
        begin_file(&t->data, target_path(data));
        free(data);
    }
    rc = vdisk_job_create(t->name, opts, &job);
    if (rc < 0)
        return rc;
    rc = cli_job_run(job);
    t->created = rc == 0; /* else it has said itself what is left */
    if (t->created) {
        look_again(&t->file);
        look_again(&t->data);
    }
    vdisk_job_free(job);
    return rc;
}

static bool is_regular(const struct target_file *f)
{
    return f->path != NULL && S_ISREG(f->st.st_mode);
}

bool target_is_zero(const struct target *t, const struct vdisk_create_opts *opts)
{
    if (opts->backing_file != NULL)
        return false;
    if (is_regular(&t->file) && (opts->data_file == NULL || is_regular(&t->data)))
        return true; /* what was in it is gone */
    return strcmp(opts->format, "raw") != 0 && opts->preallocation == VDISK_PREALLOC_OFF;
}

/* ---- undoing it ------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void note_left(struct target *t, const char *fmt, ...)
{
    size_t n = strlen(t->left);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(t->left + n, sizeof t->left - n, fmt, ap);
    va_end(ap);
}

/* Gone already, or another by now: nothing of ours is left under that name. */
static void remove_file(struct target *t, const struct target_file *f)
{
    struct stat st;
    int rc = stat(f->path, &st);

    if (rc == 0 && (st.st_dev != f->st.st_dev || st.st_ino != f->st.st_ino))
        return;
    if (rc == 0)
        rc = unlink(f->path);
    if (rc != 0 && errno != ENOENT)
        note_left(t, "; removing %s: %s", f->path, strerror(errno));
}

/* It is no image any more: a file is empty, a device begins with zeros. */
static void empty_file(struct target *t, const struct target_file *f)
{
    static const char zeros[4096];
    int fd = open(f->path, O_WRONLY | O_CLOEXEC);
    bool regular = S_ISREG(f->st.st_mode), done;

    if (regular)
        done = fd >= 0 && ftruncate(fd, 0) == 0;
    else
        done = fd >= 0 && pwrite(fd, zeros, sizeof zeros, 0) == (ssize_t)sizeof zeros && fsync(fd) == 0;
    if (done)
        note_left(t, "; %s %s", f->path, regular ? "is left empty" : "no longer holds what it did");
    else
        note_left(t, "; %s is left as far as it was written: %s", f->path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

void target_undo(struct target *t)
{
    struct target_file *files[] = {&t->file, &t->data};

    for (size_t i = 0; i < 2; i++) {
        if (files[i]->path == NULL)
            continue;
        if (files[i]->made)
            remove_file(t, files[i]);
        else if (t->created)
            empty_file(t, files[i]);
    }
}

void target_free(struct target *t)
{
    free(t->file.path);
    free(t->data.path);
    t->file.path = t->data.path = NULL;
}
