/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: each path is followed to the file (device and inode), or, since what is to be written need not be there
 * yet, to the name in the folder. Fails: two are one, by either; the first such two are told.
 */
#include "tools/own_files.h"

#include <assert.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/target.h"

enum { LINKS_MOST = 40 };

/* ---- where paths lead --------------------------------------------------------------------------------- */

/* What a link at `path` says, from the same folder; NULL: there is none. malloc'ed. */
static char *follow(const char *path)
{
    char text[PATH_MAX], *next;
    ssize_t n = readlink(path, text, sizeof text - 1);
    const char *slash = strrchr(path, '/');
    size_t folder = slash != NULL ? (size_t)(slash - path) + 1 : 0;

    if (n <= 0)
        return NULL;
    text[n] = '\0';
    if (text[0] == '/')
        return cli_strdup(text);
    next = cli_calloc(1, folder + (size_t)n + 1);
    memcpy(next, path, folder);
    memcpy(next + folder, text, (size_t)n);
    return next;
}

char *own_files_path(const char *path)
{
    char *at = cli_strdup(path);

    for (unsigned i = 0; i < LINKS_MOST; i++) {
        char *next = follow(at);
        if (next == NULL)
            break;
        free(at);
        at = next;
    }
    return at;
}

char *own_files_beside(const char *path, const char *suffix)
{
    size_t len = strlen(path) + strlen(suffix) + 1;
    char *text = cli_calloc(1, len);

    snprintf(text, len, "%s%s", path, suffix);
    return text;
}

void own_files_sync_folder(const char *path)
{
    char *copy = cli_strdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(copy);
}

/* `path` is the place's from here on. */
static void find_place(struct own_place *p, char *path)
{
    char *slash = strrchr(path, '/');
    struct stat st = {0};

    *p = (struct own_place){.path = path, .name = slash != NULL ? slash + 1 : path};
    p->is_there = stat(path, &st) == 0;
    p->device = !p->is_there ? 0 : S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    p->inode = !p->is_there || S_ISBLK(st.st_mode) ? 0 : st.st_ino;
    if (slash != NULL)
        *slash = '\0';
    p->is_named = p->name[0] != '\0' && stat(slash == NULL ? "." : slash == path ? "/" : path, &st) == 0;
    if (slash != NULL)
        *slash = '/';
    p->folder_device = st.st_dev;
    p->folder = st.st_ino;
}

static bool is_one(const struct own_place *a, const struct own_place *b)
{
    if (a->is_there && b->is_there && a->device == b->device && a->inode == b->inode)
        return true;
    return a->is_named && b->is_named && a->folder_device == b->folder_device && a->folder == b->folder &&
           strcmp(a->name, b->name) == 0;
}

/* ---- those of a command -------------------------------------------------------------------------------- */

static void tell(struct own_files *o, const struct own_place *place, const char *option, const char *what)
{
    if (!o->clashes)
        cli_error("%s: %s writes it, and it %s", place->path, option, what);
    o->clashes = true;
}

static void add(struct own_files *o, const char *path, const char *suffix, const char *option)
{
    struct own_place place;

    find_place(&place, own_files_beside(path, suffix));
    for (unsigned i = 0; i < o->count; i++)
        if (is_one(&place, &o->list[i].place))
            tell(o, &place, o->list[i].option, "is that of --manifest, too");
    assert(o->count < OWN_FILES_MOST);
    o->list[o->count].place = place;
    o->list[o->count++].option = option;
}

void own_files_add_job(struct own_files *o, const char *path)
{
    char *at = path != NULL ? own_files_path(path) : NULL;

    if (at != NULL) {
        add(o, at, "", "--job");
        add(o, at, ".next", "--job");
        add(o, at, ".blocks", "--job");
    }
    free(at);
}

void own_files_add_manifest(struct own_files *o, const char *path)
{
    char *at = path != NULL ? own_files_path(path) : NULL;

    if (at != NULL) {
        add(o, at, "", "--manifest");
        add(o, at, ".new", "--manifest");
    }
    free(at);
}

void own_files_exclude(struct own_files *o, const char *path, const char *what)
{
    struct own_place place;

    if (path == NULL || o->count == 0)
        return;
    find_place(&place, own_files_path(path));
    for (unsigned i = 0; i < o->count; i++)
        if (is_one(&place, &o->list[i].place))
            tell(o, &o->list[i].place, o->list[i].option, what);
    free(place.path);
}

static const char an_image[] = "is an image of this command, too";

static void exclude_layer(void *arg, const struct vdisk_image_info *info)
{
    char *data = info->data_file != NULL ? cli_backing_path(info->file, info->data_file) : NULL;

    own_files_exclude(arg, info->file, an_image);
    if (data != NULL)
        own_files_exclude(arg, target_path(data), an_image);
    free(data);
}

void own_files_exclude_image(struct own_files *o, const char *name, const char *format)
{
    if (o->count == 0)
        return;
    own_files_exclude(o, target_path(name), an_image);
    cli_each_layer(name, format, exclude_layer, o);
}

int own_files_end(struct own_files *o)
{
    for (unsigned i = 0; i < o->count; i++)
        free(o->list[i].place.path);
    o->count = 0;
    return o->clashes ? CLI_FAILED : CLI_OK;
}
