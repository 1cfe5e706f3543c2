/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: the files of the target are found by its name, or in its header; each layer of each source tells its own.
 * What is compared is where the bytes lie: of a loop device, also its part of the file behind it. Of exports, and
 * images of Ceph, it is their names: one that is spelled in two ways is not found out.
 * Fails: one file is both; or a source cannot tell, which is the library's error.
 */
#include "tools/distinct.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tools/pipe.h"
#include "tools/target.h"

enum { FILES = 2, SECTOR = 512 };

/* Bytes of a file, or of a block device. */
struct place {
    bool     is_block;
    dev_t    device;   /* the device itself, or that of the file */
    ino_t    inode;    /* of a file */
    uint64_t from, to;
};

/* Where the bytes of a file are: in itself, and, of a loop device, in what is behind that. */
struct places {
    struct place list[2];
    unsigned     count;
};

/* Files that are there, of a target: itself, its data file. */
struct files {
    char         *names[FILES];
    struct places places[FILES];
    unsigned      count;
    char         *elsewhere; /* the target's name, if it is no path; else NULL */
};

/* ---- where bytes lie -------------------------------------------------------------------------------- */

/* What the system has about a block device. false: nothing of that name. */
static bool ask_system(dev_t device, const char *what, uint64_t *ret)
{
    char path[96];
    FILE *file;
    bool found;

    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(device), minor(device), what);
    file = fopen(path, "re");
    found = file != NULL && fscanf(file, "%" SCNu64, ret) == 1;
    if (file != NULL)
        fclose(file);
    return found;
}

/* Of a loop device, or a partition of one. */
static void add_behind(struct places *p, int fd, const struct stat *st)
{
    uint64_t start = 0, sectors = 0;
    struct loop_info64 info;
    struct place *behind = &p->list[p->count];

    if (ioctl(fd, LOOP_GET_STATUS64, &info) != 0)
        return;
    *behind = (struct place){.is_block = info.lo_rdevice != 0, .inode = (ino_t)info.lo_inode,
                             .device = (dev_t)(info.lo_rdevice != 0 ? info.lo_rdevice : info.lo_device),
                             .from = info.lo_offset, .to = UINT64_MAX};
    if (ask_system(st->st_rdev, "start", &start) && ask_system(st->st_rdev, "size", &sectors)) {
        behind->from += start * SECTOR;
        behind->to = behind->from + sectors * SECTOR;
    } else if (info.lo_sizelimit > 0) {
        behind->to = behind->from + info.lo_sizelimit;
    }
    p->count++;
}

/* Pipes and terminals have nothing to lose: false. */
static bool find_places(struct places *p, int fd)
{
    struct stat st;

    p->count = 0;
    if (fstat(fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
        return false;
    p->list[p->count++] = (struct place){.is_block = S_ISBLK(st.st_mode), .to = UINT64_MAX, .inode = st.st_ino,
                                         .device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev};
    if (S_ISBLK(st.st_mode))
        add_behind(p, fd, &st);
    return true;
}

/* Without waiting for anybody at a pipe. A device that we may not open is still known by its number. */
static bool find_places_of(struct places *p, const char *path)
{
    int fd = path != NULL ? open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    bool found;

    if (path != NULL && fd < 0)
        fd = open(path, O_PATH | O_CLOEXEC);
    found = fd >= 0 && find_places(p, fd);
    if (fd >= 0)
        close(fd);
    return found;
}

static bool is_one(const struct place *a, const struct place *b)
{
    return a->is_block == b->is_block && a->device == b->device && (a->is_block || a->inode == b->inode) &&
           a->from < b->to && b->from < a->to;
}

static bool meet(const struct places *a, const struct places *b)
{
    for (unsigned i = 0; i < a->count; i++)
        for (unsigned j = 0; j < b->count; j++)
            if (is_one(&a->list[i], &b->list[j]))
                return true;
    return false;
}

/* ---- of a target ------------------------------------------------------------------------------------- */

/* `path` is the files' from here on. */
static void add(struct files *f, char *path)
{
    assert(f->count < FILES);
    if (find_places_of(&f->places[f->count], path))
        f->names[f->count++] = path;
    else
        free(path);
}

static void set_elsewhere(struct files *f, const char *name)
{
    free(f->elsewhere);
    f->elsewhere = cli_strdup(name);
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
        set_elsewhere(f, info.file);
    }
    vdisk_image_free(image);
}

static void find_files(struct files *f, const struct distinct_target *t)
{
    if (t->is_there) {
        look_into(f, t);
    } else {
        add_name(f, t->name);
        add_data_file(f, t->name, t->data_file);
        set_elsewhere(f, t->name);
    }
}

static void give_back(struct files *f)
{
    for (unsigned i = 0; i < f->count; i++)
        free(f->names[i]);
    free(f->elsewhere);
}

/* ---- of sources -------------------------------------------------------------------------------------- */

/* What a source's layer lies in is known by its name alone, and that is the target's. */
static bool is_elsewhere(const struct files *f, const struct vdisk_image_info *info)
{
    return f->elsewhere != NULL && strcmp(f->elsewhere, info->file) == 0 &&
           (strcmp(info->backend, "nbd") == 0 || strcmp(info->backend, "rbd") == 0);
}

static int refuse(const char *target, const char *source, uint32_t depth)
{
    if (depth == 0)
        cli_error("%s: source and target are the same", target);
    else
        cli_error("%s: it would be overwritten, and the source %s reads it", target, source);
    return CLI_FAILED;
}

/* Is a file of the target one of a source's layer? */
static int check_layer(const struct files *f, const char *source, vdisk *v, uint32_t depth)
{
    struct vdisk_image_info info = {.size = sizeof info};
    struct places own = {.count = 0}, data = {.count = 0};
    vdisk_image *image;
    int rc = CLI_OK;

    if (vdisk_image_of_layer(v, depth, &image) < 0)
        return cli_library_error();
    if (vdisk_image_get_info(image, &info) < 0)
        rc = cli_library_error();
    if (rc == CLI_OK) {
        find_places_of(&own, info.file);
        find_places_of(&data, info.data_path);
        if (is_elsewhere(f, &info))
            rc = refuse(f->elsewhere, source, depth);
    }
    for (unsigned i = 0; i < f->count && rc == CLI_OK; i++) {
        if (depth == 0 && meet(&own, &f->places[i]))
            cli_error("%s: source and target are the same file", f->names[i]);
        else if (meet(&own, &f->places[i]) || meet(&data, &f->places[i]))
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

static int check_sources(const struct files *f, vdisk *const *sources, char *const *names, unsigned count)
{
    int rc = CLI_OK;

    for (unsigned i = 0; i < count && rc == CLI_OK; i++)
        rc = f->count > 0 || f->elsewhere != NULL ? check_source(f, names[i], sources[i]) : CLI_OK;
    return rc;
}

int distinct_check(vdisk *const *sources, char *const *names, unsigned count, const struct distinct_target *t)
{
    struct files f = {.count = 0};
    int rc;

    find_files(&f, t);
    rc = check_sources(&f, sources, names, count);
    give_back(&f);
    return rc;
}

int distinct_check_output(vdisk *const *sources, char *const *names, unsigned count)
{
    struct files f = {.count = 0};
    int rc;

    if (!find_places(&f.places[0], STDOUT_FILENO))
        return CLI_OK;
    f.names[f.count++] = cli_strdup(PIPE_OUTPUT);
    rc = check_sources(&f, sources, names, count);
    give_back(&f);
    return rc;
}

int distinct_check_input(const struct distinct_target *t)
{
    struct files f = {.count = 0};
    struct places input;
    int rc = CLI_OK;

    if (!find_places(&input, STDIN_FILENO))
        return CLI_OK;
    find_files(&f, t);
    for (unsigned i = 0; i < f.count && rc == CLI_OK; i++) {
        if (!meet(&input, &f.places[i]))
            continue;
        cli_error("%s: it would be overwritten, and %s is the same file", f.names[i], PIPE_INPUT);
        rc = CLI_FAILED;
    }
    give_back(&f);
    return rc;
}
