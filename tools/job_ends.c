/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of a job that is to go on: which they are, and whether they are what they were.
 *
 * Works: an image's chain is gone along by name, as the job will open it; of each file is noted which it is
 * (device and inode, when it was made), and, of what the job does not write, its size and the time of its last
 * write.
 * Fails: what cannot be looked at is not noted: opening it will tell.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/job_file.h"
#include "tools/target.h"

static const char *const what_names[] = {"reads", "writes", "keeps"};

/* ---- one of them ---------------------------------------------------------------------------------------- */

static void set_time(json_t *end, const char *key, const struct statx_timestamp *t)
{
    char text[64];

    snprintf(text, sizeof text, "%" PRIi64 ".%09" PRIu32, (int64_t)t->tv_sec, (uint32_t)t->tv_nsec);
    json_object_set_new(end, key, json_string(text));
}

static void set_number(json_t *end, const char *key, uint64_t n)
{
    json_object_set_new(end, key, json_integer((json_int_t)n));
}

/* What of it can change while it is the same file. */
static void set_content(json_t *end, const struct statx *st)
{
    if (S_ISREG(st->stx_mode))
        set_number(end, "size", st->stx_size);
    set_time(end, "modified", &st->stx_mtime);
}

static bool look(const char *path, struct statx *st)
{
    return statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, st) == 0 &&
           (S_ISREG(st->stx_mode) || S_ISBLK(st->stx_mode));
}

json_t *job_end_make(const char *path, enum job_end what)
{
    struct statx st;
    json_t *end;
    char *real;

    if (path == NULL || !look(path, &st))
        return NULL;
    real = realpath(path, NULL);
    end = json_object();
    json_object_set_new(end, "path", cli_json_string(real != NULL ? real : path));
    json_object_set_new(end, "job", json_string(what_names[what]));
    if (S_ISBLK(st.stx_mode)) {
        set_number(end, "rdev", (uint64_t)st.stx_rdev_major << 32 | st.stx_rdev_minor);
    } else {
        set_number(end, "device", (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor);
        set_number(end, "inode", st.stx_ino);
        if (st.stx_mask & STATX_BTIME)
            set_time(end, "made", &st.stx_btime);
    }
    if (what != JOB_WRITES)
        set_content(end, &st);
    free(real);
    return end;
}

static enum job_end what_of(const json_t *end)
{
    const char *name = json_string_value(json_object_get(end, "job"));

    for (unsigned i = 0; i < sizeof what_names / sizeof what_names[0]; i++)
        if (name != NULL && strcmp(name, what_names[i]) == 0)
            return (enum job_end)i;
    return JOB_READS;
}

static bool differs(const json_t *a, const json_t *b, const char *key)
{
    const json_t *x = json_object_get(a, key), *y = json_object_get(b, key);

    return (x != NULL) != (y != NULL) || (x != NULL && !json_equal(x, y));
}

const char *job_end_changed(const json_t *end, bool emptying)
{
    enum job_end what = what_of(end);
    json_t *now = job_end_make(json_string_value(json_object_get(end, "path")), what);
    const char *how = NULL;

    if (now == NULL)
        return "is not there any more";
    if (differs(end, now, "device") || differs(end, now, "inode") || differs(end, now, "rdev") ||
        differs(end, now, "made"))
        how = "is another file now";
    else if (what == JOB_WRITES || (what == JOB_KEEPS && emptying))
        how = NULL;
    else if (differs(end, now, "size"))
        how = "has another size now";
    else if (differs(end, now, "modified"))
        how = "has been written to since";
    json_decref(now);
    return how;
}

void job_ends_refresh(json_t *ends)
{
    size_t i;
    json_t *end;

    json_array_foreach(ends, i, end) {
        const char *path = json_string_value(json_object_get(end, "path"));
        struct statx st;
        if (what_of(end) == JOB_KEEPS && path != NULL && look(path, &st))
            set_content(end, &st);
    }
}

void job_ends_note(json_t *ends, bool are_known)
{
    size_t i;
    json_t *end;

    json_array_foreach(ends, i, end) {
        const char *path = json_string_value(json_object_get(end, "path"));
        struct statx st;
        if (what_of(end) != JOB_WRITES)
            continue;
        json_object_del(end, "modified");
        if (are_known && path != NULL && look(path, &st) && S_ISREG(st.stx_mode))
            set_content(end, &st);
    }
}

static bool is_as_noted(const json_t *end)
{
    const char *path = json_string_value(json_object_get(end, "path"));
    json_t *now;
    struct statx st;
    bool same;

    if (path == NULL || !look(path, &st) || !S_ISREG(st.stx_mode)) /* a device has no time of its last write */
        return false;
    now = json_object();
    set_content(now, &st);
    same = !differs(end, now, "size") && !differs(end, now, "modified");
    json_decref(now);
    return same;
}

bool job_ends_are_doubted(const json_t *ends, bool was_killed)
{
    for (size_t i = 0; i < json_array_size(ends); i++) {
        const json_t *end = json_array_get(ends, i);
        if (what_of(end) == JOB_WRITES && (was_killed || !is_as_noted(end)))
            return true;
    }
    return false;
}

/* ---- all of them ---------------------------------------------------------------------------------------- */

void job_file_add(struct job_file *j, const char *path, enum job_end what)
{
    json_t *ends, *end;

    if (j->given == NULL || j->position > 0)
        return;
    end = job_end_make(path, what);
    ends = json_object_get(j->json, "ends");
    if (end != NULL)
        json_array_append_new(ends, end);
}

static void add_data_file(struct job_file *j, const struct vdisk_image_info *info, enum job_end what)
{
    char *path = info->data_file != NULL ? cli_backing_path(info->file, info->data_file) : NULL;

    if (path != NULL)
        job_file_add(j, target_path(path), what);
    free(path);
}

/* Does `base` stand for the file below, as an image names it, or as a path? */
static bool is_base(const struct vdisk_image_info *above, const char *base)
{
    struct stat st;

    return strcmp(above->backing_file, base) == 0 || strcmp(above->backing_name, base) == 0 ||
           (stat(above->backing_name, &st) == 0 && target_is_file(base, &st));
}

/* An image and what is below: the first is `what`, the base is written, the rest read. */
struct chain {
    struct job_file *job;
    enum job_end     what;
    bool             found; /* the base, or none is looked for */
    const char      *base;  /* NULL: the backing file */
};

static void add_layer(void *arg, const struct vdisk_image_info *info)
{
    struct chain *c = arg;

    job_file_add(c->job, info->file, c->what);
    add_data_file(c->job, info, c->what);
    c->what = JOB_READS;
    if (!c->found && info->backing_name != NULL && (c->base == NULL || is_base(info, c->base))) {
        c->what = JOB_WRITES;
        c->found = true;
    }
}

void job_file_add_chain(struct job_file *j, const char *name, const char *format, enum job_end what)
{
    struct chain c = {.job = j, .what = what, .found = true};

    if (j->given != NULL && j->position == 0)
        cli_each_layer(name, format, add_layer, &c);
}

void job_file_add_commit(struct job_file *j, const char *name, const char *format, const char *base)
{
    struct chain c = {.job = j, .what = JOB_KEEPS, .base = base};

    if (j->given != NULL && j->position == 0)
        cli_each_layer(name, format, add_layer, &c);
}

/* ---- the image that a commit goes into ------------------------------------------------------------------ */

struct search {
    struct job_base *base;
    const char      *by_name; /* NULL: the backing file */
    unsigned         count;   /* layers that have been seen */
};

static void look_below(void *arg, const struct vdisk_image_info *info)
{
    struct search *s = arg;

    s->count++;
    if (s->base->name != NULL || info->backing_name == NULL || (s->by_name != NULL && !is_base(info, s->by_name)))
        return;
    s->base->name = cli_strdup(info->backing_name);
    s->base->format = info->backing_fmt != NULL ? cli_strdup(info->backing_fmt) : NULL;
    s->base->depth = s->count;
}

bool job_base_find(struct job_base *ret, const char *name, const char *format, const char *base)
{
    struct search s = {.base = ret, .by_name = base};

    *ret = (struct job_base){.name = NULL};
    cli_each_layer(name, format, look_below, &s);
    return ret->name != NULL;
}

void job_base_free(struct job_base *base)
{
    free(base->name);
    free(base->format);
}
