/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fields of the public structs of options by name, as text: for command lines, configuration files, and
 * languages that do not speak C. What a name's own drivers can be told is another matter: engine/spec/option.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/spec/size.h"
#include "engine/vdisk.h"

enum field_type {
    FIELD_TEXT,   /* const char *: the caller's */
    FIELD_SIZE,   /* uint64_t */
    FIELD_NUMBER, /* uint32_t, a size too */
    FIELD_BOOL,   /* bool */
    FIELD_FLAG,   /* `flag` of a uint32_t */
    FIELD_CHOICE, /* an enum: the index in `words` */
};

struct field {
    enum field_type    type;
    size_t             offset;
    uint32_t           flag;
    const char *const *words;
};

static const char *const preallocations[] = {"off", "metadata", "falloc", "full", NULL};
static const char *const queue_kinds[] = {"auto", "uring-defer", "uring", "threads", NULL};

#define OPEN(field) offsetof(struct vdisk_open_opts, field)
#define CREATE(field) offsetof(struct vdisk_create_opts, field)
#define RESIZE(field) offsetof(struct vdisk_resize_opts, field)
#define QUEUE(field) offsetof(struct vdisk_queue_opts, field)

static const struct vdisk_option open_options[] = {
    {"writable", "bool", "off", "open for reading and writing"},
    {"buffered", "bool", "off", "use the page cache"},
    {"force_share", "bool", "off", "read although others write"},
    {"no_lock", "bool", "off", "take no image locks"},
    {"no_backing", "bool", "off", "leave the backing chain closed"},
    {"check", "bool", "off", "as it is, for a check"},
    {"unsafe", "bool", "off", "flushes do nothing"},
    {"no_names", "bool", "off", "follow no name that the image holds"},
    {"host_holes", "bool", "off", "block status tells holes of the host in mapped clusters, as qemu-img map"},
    {"unfinished", "bool", "off", "an image that was created as unfinished may be opened"},
    {"max_depth", "number", "1024", "longest backing chain"},
    {"format", "text", NULL, "raw or qcow2; found out where it is not said"},
    {"cache_bytes", "size", "32M", "bound for cached metadata of each layer"},
    {"data_file", "text", NULL, "instead of the external data file that the header names"},
    {"layers", "number", "0", "open so many layers from the top, 0: all"},
    {NULL, NULL, NULL, NULL},
};

static const struct field open_fields[] = {
    {FIELD_FLAG, OPEN(flags), VDISK_OPEN_RDWR, NULL},        {FIELD_FLAG, OPEN(flags), VDISK_OPEN_BUFFERED, NULL},
    {FIELD_FLAG, OPEN(flags), VDISK_OPEN_FORCE_SHARE, NULL}, {FIELD_FLAG, OPEN(flags), VDISK_OPEN_NO_LOCK, NULL},
    {FIELD_FLAG, OPEN(flags), VDISK_OPEN_NO_BACKING, NULL},  {FIELD_FLAG, OPEN(flags), VDISK_OPEN_CHECK, NULL},
    {FIELD_FLAG, OPEN(flags), VDISK_OPEN_UNSAFE, NULL},      {FIELD_FLAG, OPEN(flags), VDISK_OPEN_NO_NAMES, NULL},
    {FIELD_FLAG, OPEN(flags), VDISK_OPEN_HOST_HOLES, NULL},
    {FIELD_FLAG, OPEN(flags), VDISK_OPEN_UNFINISHED, NULL},
    {FIELD_NUMBER, OPEN(max_depth), 0, NULL},                {FIELD_TEXT, OPEN(format), 0, NULL},
    {FIELD_SIZE, OPEN(cache_bytes), 0, NULL},                {FIELD_TEXT, OPEN(data_file), 0, NULL},
    {FIELD_NUMBER, OPEN(layers), 0, NULL},
};

static const struct vdisk_option create_options[] = {
    {"format", "text", NULL, "raw or qcow2"},
    {"virtual_size", "size", NULL, "bytes of the disk"},
    {"preallocation", "off|metadata|falloc|full", "off", "what has its space from the start"},
    {"cluster_size", "number", "64K", "qcow2: 512 to 2M, a power of two"},
    {"version", "number", "3", "qcow2: 2 or 3"},
    {"refcount_bits", "number", "16", "qcow2: 1 to 64, a power of two"},
    {"lazy_refcounts", "bool", "off", "qcow2: may be left behind by a crash of another program"},
    {"extended_l2", "bool", "off", "qcow2: subclusters"},
    {"data_file_raw", "bool", "off", "qcow2: the data file is the disk as it is"},
    {"compression_type", "text", "zlib", "qcow2: zlib or zstd"},
    {"backing_file", "text", NULL, "qcow2: stored as given"},
    {"backing_fmt", "text", NULL, "qcow2: the backing file's format"},
    {"backing_unchecked", "bool", "off", "qcow2: do not open the backing file"},
    {"data_file", "text", NULL, "qcow2: external data file, made anew"},
    {"buffered", "bool", "off", "write through the page cache"},
    {"unfinished", "bool", "off", "it counts as an image only after vdisk_finish()"},
    {NULL, NULL, NULL, NULL},
};

static const struct field create_fields[] = {
    {FIELD_TEXT, CREATE(format), 0, NULL},           {FIELD_SIZE, CREATE(virtual_size), 0, NULL},
    {FIELD_CHOICE, CREATE(preallocation), 0, preallocations},
    {FIELD_NUMBER, CREATE(cluster_size), 0, NULL},   {FIELD_NUMBER, CREATE(version), 0, NULL},
    {FIELD_NUMBER, CREATE(refcount_bits), 0, NULL},  {FIELD_BOOL, CREATE(lazy_refcounts), 0, NULL},
    {FIELD_BOOL, CREATE(extended_l2), 0, NULL},      {FIELD_BOOL, CREATE(data_file_raw), 0, NULL},
    {FIELD_TEXT, CREATE(compression_type), 0, NULL}, {FIELD_TEXT, CREATE(backing_file), 0, NULL},
    {FIELD_TEXT, CREATE(backing_fmt), 0, NULL},      {FIELD_BOOL, CREATE(backing_unchecked), 0, NULL},
    {FIELD_TEXT, CREATE(data_file), 0, NULL},        {FIELD_BOOL, CREATE(buffered), 0, NULL},
    {FIELD_BOOL, CREATE(unfinished), 0, NULL},
};

static const struct vdisk_option resize_options[] = {
    {"preallocation", "off|metadata|falloc|full", "off", "of what is new"},
    {"shrink", "bool", "off", "a smaller size is meant"},
    {NULL, NULL, NULL, NULL},
};

static const struct field resize_fields[] = {
    {FIELD_CHOICE, RESIZE(preallocation), 0, preallocations},
    {FIELD_BOOL, RESIZE(shrink), 0, NULL},
};

static const struct vdisk_option queue_options[] = {
    {"depth", "number", "256", "requests in flight that need no allocation"},
    {"kind", "auto|uring-defer|uring|threads", "auto", "ask for one kind and no better one"},
    {"measure", "bool", "off", "the time that requests take"},
    {NULL, NULL, NULL, NULL},
};

static const struct field queue_fields[] = {
    {FIELD_NUMBER, QUEUE(depth), 0, NULL},
    {FIELD_CHOICE, QUEUE(kind), 0, queue_kinds},
    {FIELD_FLAG, QUEUE(flags), VDISK_QUEUE_MEASURE, NULL},
};

static const struct table {
    const char                *what;
    const struct vdisk_option *options;
    const struct field        *fields;
} tables[] = {
    [VDISK_OPTS_OPEN] = {"open", open_options, open_fields},
    [VDISK_OPTS_CREATE] = {"create", create_options, create_fields},
    [VDISK_OPTS_RESIZE] = {"resize", resize_options, resize_fields},
    [VDISK_OPTS_QUEUE] = {"queue", queue_options, queue_fields},
};

#define TABLES (sizeof tables / sizeof tables[0])

_Static_assert(TABLES == VDISK_OPTS_QUEUE + 1, "each kind has a table");
_Static_assert(ARRAY_LEN(open_fields) + 1 == ARRAY_LEN(open_options), "a field for each option");
_Static_assert(ARRAY_LEN(create_fields) + 1 == ARRAY_LEN(create_options), "the same");
_Static_assert(ARRAY_LEN(resize_fields) + 1 == ARRAY_LEN(resize_options), "the same");
_Static_assert(ARRAY_LEN(queue_fields) + 1 == ARRAY_LEN(queue_options), "the same");
_Static_assert(ARRAY_LEN(preallocations) == VDISK_PREALLOC_FULL + 2, "a word for each, and the end");
_Static_assert(ARRAY_LEN(queue_kinds) == VDISK_QUEUE_THREADS + 2, "a word for each that can be asked for");
_Static_assert(sizeof(enum vdisk_prealloc) == sizeof(uint32_t) &&
               sizeof(enum vdisk_queue_kind) == sizeof(uint32_t), "set_word() writes so many bytes");
_Static_assert(offsetof(struct vdisk_open_opts, size) == 0 && offsetof(struct vdisk_create_opts, size) == 0 &&
               offsetof(struct vdisk_resize_opts, size) == 0 && offsetof(struct vdisk_queue_opts, size) == 0,
               "all begin with their size");

const struct vdisk_option *vdisk_list_options(enum vdisk_opts_kind kind)
{
    return (unsigned)kind < TABLES ? tables[kind].options : NULL;
}

/* "-" and "_" are one. */
static bool is_name(const char *known, const char *name)
{
    for (; *known && *name; known++, name++)
        if (*known != *name && !(*known == '_' && *name == '-'))
            return false;
    return *known == *name;
}

static size_t width_of(enum field_type type)
{
    switch (type) {
    case FIELD_TEXT: return sizeof(const char *);
    case FIELD_SIZE: return sizeof(uint64_t);
    case FIELD_BOOL: return sizeof(bool);
    case FIELD_NUMBER: case FIELD_FLAG: case FIELD_CHOICE: break;
    }
    return sizeof(uint32_t);
}

static int set_word(const struct field *f, void *at, const char *value)
{
    assert(f->type == FIELD_CHOICE && f->words != NULL);
    for (uint32_t i = 0; f->words[i]; i++)
        if (strcmp(f->words[i], value) == 0) {
            memcpy(at, &i, sizeof i);
            return 0;
        }
    return -EINVAL;
}

static int set_number(void *at, const char *value)
{
    uint64_t number;
    uint32_t n;

    if (parse_size(value, &number) < 0 || number > UINT32_MAX)
        return -EINVAL;
    n = (uint32_t)number;
    memcpy(at, &n, sizeof n);
    return 0;
}

static int set_truth(const struct field *f, void *at, const char *value)
{
    uint32_t flags;
    bool truth;

    assert(f->type == FIELD_BOOL || (f->type == FIELD_FLAG && is_power_of_two(f->flag)));
    if (parse_bool(value, &truth) < 0)
        return -EINVAL;
    if (f->type == FIELD_BOOL) {
        memcpy(at, &truth, sizeof truth);
        return 0;
    }
    memcpy(&flags, at, sizeof flags);
    flags = truth ? flags | f->flag : flags & ~f->flag;
    memcpy(at, &flags, sizeof flags);
    return 0;
}

/* 0, or -EINVAL: that is no value of its type. */
static int set_field(const struct field *f, void *at, const char *value)
{
    uint64_t size;

    switch (f->type) {
    case FIELD_TEXT:
        memcpy(at, &value, sizeof value);
        return 0;
    case FIELD_SIZE:
        if (parse_size(value, &size) < 0)
            return -EINVAL;
        memcpy(at, &size, sizeof size);
        return 0;
    case FIELD_NUMBER: return set_number(at, value);
    case FIELD_CHOICE: return set_word(f, at, value);
    case FIELD_BOOL: case FIELD_FLAG: break;
    }
    return set_truth(f, at, value);
}

static int set_option(enum vdisk_opts_kind kind, void *opts, const char *name, const char *value)
{
    const struct table *t = (unsigned)kind < TABLES ? &tables[kind] : NULL;
    size_t size;
    unsigned i = 0;

    if (!t || !opts || !name || !value)
        return err_set(EINVAL, "options: %s", t ? "no options, name or value are given" : "unknown kind");
    memcpy(&size, opts, sizeof size);
    while (t->options[i].name && !is_name(t->options[i].name, name))
        i++;
    if (!t->options[i].name)
        return err_hint(err_set(ENOENT, "%s: there is no option '%s'", t->what, name),
                        "vdisk_list_options() has them");
    if (t->fields[i].offset + width_of(t->fields[i].type) > size)
        return err_set(ENOTSUP, "%s: option '%s' is newer than the program", t->what, name);
    if (set_field(&t->fields[i], (char *)opts + t->fields[i].offset, value) < 0)
        return err_set(EINVAL, "%s: option '%s': '%s' is not a value of type %s", t->what, name, value,
                       t->options[i].type);
    return 0;
}

int vdisk_set_option(enum vdisk_opts_kind kind, void *opts, const char *name, const char *value)
{
    return ERR_CALL(set_option(kind, opts, name, value));
}
