/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: the files of the target are found by its name, or in its header; each layer of each source tells its own.
 * Fails: one file is both; or a source cannot tell, which is the library's error.
 */
#include "tools/distinct.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/target.h"

enum { FILES = 2 };

/* Files that are there, of a target: itself, its data file. */
struct files {
    char       *names[FILES];
    struct stat st[FILES];
    unsigned    count;
};

/* Pipes and terminals have nothing to lose. `path` is the files' from here on. */
static void add(struct files *f, char *path)
{
    struct stat *st = &f->st[f->count];

    assert(f->count < FILES);
    if (path != NULL && stat(path, st) == 0 && (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)))
        f->names[f->count++] = path;
    else
        free(path);
}

static void add_name(struct files *f, const char *name)
{
    const char *path = target_path(name);

    if (path != NULL)
        add(f, cli_strdup(path));
}

static void add_data_file(struct files *f, const char *image, const char *data_file)
{
    char *name = data_file != NULL ? cli_backing_path(image, data_file) : NULL;

    if (name != NULL)
        add_name(f, name);
    free(name);
}

/* Of an image that is there, under any name. Nothing is locked, written, or opened but itself. */
static void look_into(struct files *f, const struct distinct_target *t)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = t->format,
                                  .flags = VDISK_OPEN_BUFFERED | VDISK_OPEN_FORCE_SHARE};
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;

    if (vdisk_image_load(t->name, &how, &image) < 0)
        return;
    if (vdisk_image_get_info(image, &info) == 0) {
        add(f, cli_strdup(info.file));
        add_data_file(f, info.file, info.data_file);
    }
    vdisk_image_free(image);
}

static bool is_file(const char *path, const struct stat *st)
{
    struct stat other;

    if (path == NULL || stat(path, &other) != 0)
        return false;
    if (S_ISBLK(st->st_mode) || S_ISBLK(other.st_mode))
        return S_ISBLK(st->st_mode) && S_ISBLK(other.st_mode) && st->st_rdev == other.st_rdev;
    return st->st_dev == other.st_dev && st->st_ino == other.st_ino;
}

/* Is a file of the target one of a source's layer? */
static int check_layer(const struct files *f, const char *source, vdisk *v, uint32_t depth)
{
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;
    int rc = CLI_OK;

    if (vdisk_image_of_layer(v, depth, &image) < 0)
        return cli_library_error();
    if (vdisk_image_get_info(image, &info) < 0)
        rc = cli_library_error();
    for (unsigned i = 0; i < f->count && rc == CLI_OK; i++) {
        if (depth == 0 && is_file(info.file, &f->st[i]))
            cli_error("%s: source and target are the same file", f->names[i]);
        else if (is_file(info.file, &f->st[i]) || is_file(info.data_path, &f->st[i]))
            cli_error("%s: it would be overwritten, and the source %s reads it", f->names[i], source);
        else
            continue;
        rc = CLI_FAILED;
    }
    vdisk_image_free(image);
    return rc;
}

static int check_source(const struct files *f, const char *source, vdisk *v)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = CLI_OK;

    if (vdisk_get_info(v, &info) < 0)
        return cli_library_error();
    for (uint32_t i = 0; i < info.depth && rc == CLI_OK; i++)
        rc = check_layer(f, source, v, i);
    return rc;
}

int distinct_check(vdisk *const *sources, char *const *names, unsigned count, const struct distinct_target *t)
{
    struct files f = {.count = 0};
    int rc = CLI_OK;

    if (t->is_there) {
        look_into(&f, t);
    } else {
        add_name(&f, t->name);
        add_data_file(&f, t->name, t->data_file);
    }
    for (unsigned i = 0; i < count && rc == CLI_OK; i++)
        rc = f.count > 0 ? check_source(&f, names[i], sources[i]) : CLI_OK;
    for (unsigned i = 0; i < f.count; i++)
        free(f.names[i]);
    return rc;
}
