/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * info: what an image is, with the keys and the layout of qemu-img info. The layers of a chain are opened one
 * after another, each without its backing file. No name that stands in an image is followed otherwise: its data
 * file is not opened.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "tools/arith.h"
#include "tools/cli.h"

enum { MAX_LAYERS = 1024, PAGE = 4096 };

struct image {
    char                        *name;  /* as it was asked for */
    vdisk_image                 *image; /* owns what is below */
    struct vdisk_image_info      info;
    struct vdisk_encryption_info encryption; /* .format NULL: none */
    uint64_t                     file_length; /* in whole sectors, as QEMU counts */
    bool                         is_qcow2;
    json_t                      *limits, *file_limits; /* NULL: not asked for, or not to be had */
};

static void image_free(struct image *im)
{
    vdisk_image_free(im->image);
    json_decref(im->limits);
    json_decref(im->file_limits);
    free(im->name);
}

/* An export, or an image of Ceph, does not say what it occupies. */
static bool is_elsewhere(const struct vdisk_image_info *info)
{
    return strcmp(info->backend, "nbd") == 0 || strcmp(info->backend, "rbd") == 0;
}

/* Of all of the file, also where the image is a part of it. */
static uint64_t whole_length(const struct vdisk_image_info *info)
{
    struct stat st;
    bool is_file = strcmp(info->backend, "file") == 0 && stat(info->file, &st) == 0 && S_ISREG(st.st_mode);

    return align_up(is_file ? (uint64_t)st.st_size : info->file_size, 512);
}

/* All of it, or nothing: an error in a list is told before anything is printed. */
static int image_take(struct image *im)
{
    struct vdisk_snapshot_info snapshot = {.size = sizeof snapshot};
    struct vdisk_bitmap_info bitmap = {.size = sizeof bitmap};
    int rc = vdisk_image_get_info(im->image, &im->info);

    if (rc == 0)
        rc = vdisk_image_get_encryption(im->image, &im->encryption);
    if (rc == 0 || rc == -ENOENT)
        rc = vdisk_image_get_snapshot(im->image, 0, &snapshot);
    if (rc == 0 || rc == -ENOENT)
        rc = vdisk_image_get_bitmap(im->image, 0, &bitmap);
    if (rc < 0 && rc != -ENOENT)
        return cli_library_error();
    im->is_qcow2 = strcmp(im->info.format, "qcow2") == 0;
    im->file_length = whole_length(&im->info);
    return CLI_OK;
}

/* CLI_OK: to be given to image_free(). CLI_FAILED: a message was printed. */
static int image_load(struct image *im, const char *name, const char *format, uint32_t flags)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags, .format = format};

    *im = (struct image){.info.size = sizeof im->info, .encryption.size = sizeof im->encryption};
    if (vdisk_image_load(name, &how, &im->image) < 0)
        return cli_library_error();
    im->name = cli_strdup(name);
    if (image_take(im) == CLI_OK)
        return CLI_OK;
    image_free(im);
    return CLI_FAILED;
}

/* ---- limits ---------------------------------------------------------------------------------------- */

static void set_limit(json_t *to, const char *key, uint64_t value, uint64_t none)
{
    if (value != none)
        json_object_set_new(to, key, json_integer((json_int_t)value));
}

/* Those of requests to a volume, by QEMU's names: what is not told has no limit of its own. */
static json_t *limits_json(const struct vdisk_info *info)
{
    json_t *out = json_object();

    set_limit(out, "request-alignment", info->request_align, 0);
    set_limit(out, "discard-alignment", info->discard_align, 1);
    set_limit(out, "write-zeroes-alignment", info->zero_align, 1);
    set_limit(out, "opt-transfer", info->preferred_transfer, 1);
    set_limit(out, "max-transfer", info->max_transfer, 0);
    set_limit(out, "max-iov", IOV_MAX, 0);
    set_limit(out, "min-mem-alignment", info->memory_align, 0);
    set_limit(out, "opt-mem-alignment", info->memory_align < PAGE ? PAGE : info->memory_align, 0);
    return out;
}

/* The volume is opened for that, alone. */
static int read_limits(const char *name, const char *format, uint32_t flags, json_t **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = format,
                                  .flags = flags | VDISK_OPEN_NO_NAMES | VDISK_OPEN_NO_BACKING};
    struct vdisk_info info = {.size = sizeof info};
    vdisk *v;
    int rc;

    if (vdisk_open(name, &how, &v) < 0)
        return cli_library_error();
    rc = vdisk_get_info(v, &info) < 0 ? cli_library_error() : CLI_OK;
    if (rc == CLI_OK)
        *ret = limits_json(&info);
    if (vdisk_close(v) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    return rc;
}

/* Of the image, and of the file that it lies in, if that is one. An encrypted image cannot be opened. */
static int image_limits(struct image *im, const char *format, uint32_t flags)
{
    int rc = im->encryption.format == NULL ? read_limits(im->name, format, flags, &im->limits) : CLI_OK;
    bool is_file = strcmp(im->info.backend, "file") == 0 || strcmp(im->info.backend, "host_device") == 0;

    if (rc == CLI_OK && is_file)
        rc = read_limits(im->info.file, "raw", flags, &im->file_limits);
    return rc;
}

/* ---- JSON ------------------------------------------------------------------------------------------ */

static void set_text(json_t *to, const char *key, const char *value)
{
    if (value != NULL)
        json_object_set_new(to, key, cli_json_string(value));
}

static void set_number(json_t *to, const char *key, uint64_t value)
{
    json_object_set_new(to, key, json_integer((json_int_t)value));
}

static void set_bool(json_t *to, const char *key, bool value)
{
    json_object_set_new(to, key, json_boolean(value));
}

/* NULL: there are none. */
static json_t *bitmaps_json(const struct image *im)
{
    struct vdisk_bitmap_info b = {.size = sizeof b};
    json_t *list = NULL;

    for (uint32_t i = 0; vdisk_image_get_bitmap(im->image, i, &b) == 0; i++) {
        json_t *one = json_object(), *flags = json_array();

        if (b.in_use)
            json_array_append_new(flags, json_string("in-use"));
        if (b.automatic)
            json_array_append_new(flags, json_string("auto"));
        json_object_set_new(one, "flags", flags);
        set_text(one, "name", b.name);
        set_number(one, "granularity", b.granularity);
        list = list != NULL ? list : json_array();
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *key_slot_json(const struct vdisk_key_slot_info *s)
{
    json_t *out = json_object();

    set_bool(out, "active", s->active);
    if (s->active)
        set_number(out, "iters", s->iterations);
    set_number(out, "key-offset", s->key_offset);
    if (s->active)
        set_number(out, "stripes", s->stripes);
    return out;
}

static json_t *encrypt_json(const struct image *im)
{
    struct vdisk_key_slot_info slot = {.size = sizeof slot};
    const struct vdisk_encryption_info *e = &im->encryption;
    json_t *out = json_object(), *slots = json_array();

    if (e->cipher != NULL) {
        set_text(out, "ivgen-alg", e->ivgen);
        set_bool(out, "detached-header", false);
        set_text(out, "ivgen-hash-alg", e->ivgen_hash);
        set_text(out, "hash-alg", e->hash);
        set_text(out, "cipher-alg", e->cipher);
        set_text(out, "uuid", e->uuid);
    }
    set_text(out, "format", e->format);
    if (e->cipher != NULL) {
        set_text(out, "cipher-mode", e->cipher_mode);
        for (uint32_t i = 0; vdisk_image_get_key_slot(im->image, i, &slot) == 0; i++)
            json_array_append_new(slots, key_slot_json(&slot));
        json_object_set(out, "slots", slots);
        set_number(out, "payload-offset", e->payload_offset);
        set_number(out, "master-key-iters", e->master_key_iterations);
    }
    json_decref(slots);
    return out;
}

static void set_object(json_t *to, const char *key, json_t *value)
{
    if (value != NULL)
        json_object_set_new(to, key, value);
}

/* The members that only qcow2 has, in the order in which QEMU shows them. */
static json_t *specific_json(const struct image *im)
{
    const struct vdisk_image_info *info = &im->info;
    json_t *encrypt = im->encryption.format != NULL ? encrypt_json(im) : NULL;
    json_t *data = json_object();

    set_text(data, "compat", info->version < 3 ? "0.10" : "1.1");
    set_text(data, "compression-type", info->compression_type);
    if (info->version < 3) {
        set_number(data, "refcount-bits", info->refcount_bits);
        set_object(data, "encrypt", encrypt);
        return data;
    }
    set_bool(data, "lazy-refcounts", info->lazy_refcounts);
    set_object(data, "bitmaps", bitmaps_json(im));
    set_number(data, "refcount-bits", info->refcount_bits);
    set_object(data, "encrypt", encrypt);
    if (info->data_file != NULL) {
        set_text(data, "data-file", info->data_file);
        set_bool(data, "data-file-raw", info->data_file_raw);
    }
    set_bool(data, "corrupt", info->corrupt);
    set_bool(data, "extended-l2", info->extended_l2);
    return data;
}

/* NULL: there are none. */
static json_t *snapshots_json(const struct image *im)
{
    struct vdisk_snapshot_info s = {.size = sizeof s};
    json_t *list = NULL;

    for (uint32_t i = 0; vdisk_image_get_snapshot(im->image, i, &s) == 0; i++) {
        json_t *one = json_object();

        if (s.has_icount)
            set_number(one, "icount", s.icount);
        set_number(one, "vm-clock-nsec", s.vm_clock_nsec % 1000000000);
        set_text(one, "name", s.name);
        set_number(one, "date-sec", s.date_sec);
        set_number(one, "date-nsec", s.date_nsec);
        set_number(one, "vm-clock-sec", s.vm_clock_nsec / 1000000000);
        set_text(one, "id", s.id);
        set_number(one, "vm-state-size", s.vm_state_size);
        list = list != NULL ? list : json_array();
        json_array_append_new(list, one);
    }
    return list;
}

static void set_file(json_t *to)
{
    json_t *specific = json_object();

    set_text(specific, "type", "file");
    json_object_set_new(specific, "data", json_object());
    json_object_set_new(to, "format-specific", specific);
    set_bool(to, "dirty-flag", false);
}

/* The one child that QEMU tells of without opening others: the file. */
static json_t *children_json(const struct image *im)
{
    json_t *list = json_array(), *child = json_object(), *info = json_object();

    set_text(child, "name", "file");
    json_object_set_new(info, "children", json_array());
    set_number(info, "virtual-size", im->file_length);
    set_text(info, "filename", im->info.file);
    set_text(info, "format", im->info.backend);
    if (!is_elsewhere(&im->info)) {
        set_number(info, "actual-size", im->info.allocated_size);
        set_file(info);
    }
    if (im->file_limits != NULL)
        json_object_set(info, "limits", im->file_limits);
    json_object_set_new(child, "info", info);
    json_array_append_new(list, child);
    return list;
}

static json_t *image_json(const struct image *im)
{
    const struct vdisk_image_info *info = &im->info;
    json_t *out = json_object();

    json_object_set_new(out, "children", children_json(im));
    set_object(out, "snapshots", snapshots_json(im));
    set_text(out, "backing-filename-format", info->backing_fmt);
    set_number(out, "virtual-size", info->virtual_size);
    set_text(out, "filename", info->name);
    if (info->cluster_size != 0)
        set_number(out, "cluster-size", info->cluster_size);
    set_text(out, "format", info->format);
    if (!is_elsewhere(info))
        set_number(out, "actual-size", info->allocated_size);
    if (im->is_qcow2) {
        json_t *specific = json_object();
        set_text(specific, "type", "qcow2");
        json_object_set_new(specific, "data", specific_json(im));
        json_object_set_new(out, "format-specific", specific);
    }
    set_text(out, "full-backing-filename", info->backing_name);
    set_text(out, "backing-filename", info->backing_file);
    if (im->encryption.format != NULL)
        set_bool(out, "encrypted", true);
    if (im->is_qcow2 || !is_elsewhere(info))
        set_bool(out, "dirty-flag", info->dirty);
    if (im->limits != NULL)
        json_object_set(out, "limits", im->limits);
    return out;
}

/* ---- human ----------------------------------------------------------------------------------------- */

static void print_text(const char *label, const char *text)
{
    char *copy = cli_strdup(text);

    printf("%s: %s", label, cli_printable(copy));
    free(copy);
}

static void print_value(json_t *value)
{
    if (json_is_string(value)) {
        char *copy = cli_strdup(json_string_value(value));
        printf(" %s\n", cli_printable(copy));
        free(copy);
    } else if (json_is_boolean(value)) {
        printf(" %s\n", json_is_true(value) ? "true" : "false");
    } else {
        printf(" %" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
    }
}

/* QEMU prints the members of the JSON form, with spaces for dashes, numbers for list items. */
static void print_members(json_t *from, int indent)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_array(from)) {
        json_array_foreach(from, i, value) {
            printf("%*s[%zu]:", indent, "", i);
            if (json_is_object(value))
                putchar('\n');
            if (json_is_object(value))
                print_members(value, indent + 4);
            else
                print_value(value);
        }
        return;
    }
    json_object_foreach(from, key, value) {
        printf("%*s", indent, "");
        for (const char *c = key; *c != '\0'; c++)
            putchar(*c == '-' ? ' ' : *c);
        putchar(':');
        if (!json_is_array(value) && !json_is_object(value)) {
            print_value(value);
            continue;
        }
        putchar('\n');
        print_members(value, indent + 4);
    }
}

static void print_snapshot(const struct vdisk_snapshot_info *s)
{
    time_t seconds = (time_t)s->date_sec;
    uint64_t clock_s = s->vm_clock_nsec / 1000000000;
    char date[32] = "", clock[48], size[32], icount[24] = "";
    char *id = cli_printable(cli_strdup(s->id)), *name = cli_printable(cli_strdup(s->name));
    struct tm tm;

    if (localtime_r(&seconds, &tm) != NULL)
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(clock, sizeof clock, "%04" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64, clock_s / 3600,
             clock_s / 60 % 60, clock_s % 60, s->vm_clock_nsec / 1000000 % 1000);
    if (s->has_icount)
        snprintf(icount, sizeof icount, "%" PRIu64, s->icount);
    printf("%-7s %-16s %8s %19s %15s %10s\n", id, name, cli_format_size(s->vm_state_size, size, sizeof size), date,
           clock, icount);
    free(id);
    free(name);
}

static void print_snapshots(const struct image *im)
{
    struct vdisk_snapshot_info s = {.size = sizeof s};

    for (uint32_t i = 0; vdisk_image_get_snapshot(im->image, i, &s) == 0; i++) {
        if (i == 0)
            printf("Snapshot list:\n%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK",
                   "ICOUNT");
        print_snapshot(&s);
    }
}

static void print_backing(const struct vdisk_image_info *info)
{
    print_text("backing file", info->backing_file);
    if (strcmp(info->backing_name, info->backing_file) != 0) {
        print_text(" (actual path", info->backing_name);
        putchar(')');
    }
    putchar('\n');
    if (info->backing_fmt != NULL) {
        print_text("backing file format", info->backing_fmt);
        putchar('\n');
    }
}

static void print_limits(json_t *limits, int indent)
{
    if (limits == NULL)
        return;
    printf("%*sBlock limits:\n", indent, "");
    print_members(limits, indent + 4);
}

static void print_occupied(const struct vdisk_image_info *info, int indent)
{
    char buf[32];

    printf("%*sdisk size: %s\n", indent, "", is_elsewhere(info) ? "unavailable" :
           cli_format_size(info->allocated_size, buf, sizeof buf));
}

static void print_child(const struct image *im)
{
    char buf[32];

    printf("Child node '/file':\n");
    print_text("    filename", im->info.file);
    printf("\n    protocol type: %s\n    file length: %s (%" PRIu64 " bytes)\n", im->info.backend,
           cli_format_size(im->file_length, buf, sizeof buf), im->file_length);
    print_occupied(&im->info, 4);
    print_limits(im->file_limits, 4);
}

static void print_image(const struct image *im)
{
    const struct vdisk_image_info *info = &im->info;
    char buf[32];

    print_text("image", info->name);
    printf("\nfile format: %s\n", info->format);
    printf("virtual size: %s (%" PRIu64 " bytes)\n", cli_format_size(info->virtual_size, buf, sizeof buf),
           info->virtual_size);
    print_occupied(info, 0);
    if (im->encryption.format != NULL)
        printf("encrypted: yes\n");
    if (info->cluster_size != 0)
        printf("cluster_size: %u\n", info->cluster_size);
    if (info->dirty)
        printf("cleanly shut down: no\n");
    if (info->backing_file != NULL)
        print_backing(info);
    print_snapshots(im);
    if (im->is_qcow2) {
        json_t *specific = specific_json(im);
        printf("Format specific information:\n");
        print_members(specific, 4);
        json_decref(specific);
    }
    print_limits(im->limits, 0);
    print_child(im);
}

/* ---- command line ---------------------------------------------------------------------------------- */

struct chain {
    struct image *list;
    size_t        count;
    bool          whole, limits; /* all layers are asked for, and their limits */
};

/* A name seen before: the chain never ends. Two names of one file are caught by the limit. */
static bool seen(const struct chain *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->list[i].name, name) == 0)
            return true;
    }
    return false;
}

static int load_chain(struct chain *c, const char *name, const char *format, uint32_t flags)
{
    while (name != NULL) {
        if (c->count == MAX_LAYERS || seen(c, name)) {
            cli_error("Backing file '%s' creates an infinite loop.", name);
            return CLI_FAILED;
        }
        struct image *list = reallocarray(c->list, c->count + 1, sizeof *list);
        if (list == NULL) {
            cli_no_memory();
            return CLI_FAILED;
        }
        c->list = list;
        struct image *im = &list[c->count];
        if (image_load(im, name, format, flags) != CLI_OK)
            return CLI_FAILED;
        c->count++;
        if (c->limits && image_limits(im, format, flags) != CLI_OK)
            return CLI_FAILED;
        format = im->info.backing_fmt;
        name = c->whole ? im->info.backing_name : NULL;
    }
    return CLI_OK;
}

static int print_chain(const struct chain *c, bool json)
{
    if (json && !c->whole)
        return cli_json_print(image_json(&c->list[0]));
    if (json) {
        json_t *list = json_array();
        for (size_t i = 0; i < c->count; i++)
            json_array_append_new(list, image_json(&c->list[i]));
        return cli_json_print(list);
    }
    for (size_t i = 0; i < c->count; i++) {
        if (i > 0)
            putchar('\n');
        print_image(&c->list[i]);
    }
    return CLI_OK;
}

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1, OPT_LIMITS };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'b', "backing-chain", NULL, "all layers of the backing chain, top first"},
    {OPT_LIMITS, "limits", NULL, "also the limits of requests, of the image and of its file"},
    {'U', "force-share", NULL, "open even if another process writes to the image"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    const char *format = NULL;
    struct chain chain = {.list = NULL};
    bool json = false;
    uint32_t flags = 0;
    struct cli_parser p;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        switch (id) {
        case 'f': format = p.value; break;
        case 'U': flags |= VDISK_OPEN_FORCE_SHARE; break;
        case 'b': chain.whole = true; break;
        case OPT_LIMITS: chain.limits = true; break;
        case OPT_OUTPUT:
            if (!cli_parse_output(verb, p.value, &json))
                return CLI_FAILED;
            break;
        default: return CLI_FAILED;
        }
    }
    if (cli_operands(&p, &operands) != 1)
        return cli_usage_error(verb, "takes the name of one image");

    const char *name = cli_image(&p, operands[0], format);
    int rc = name != NULL ? load_chain(&chain, name, format, flags) : CLI_FAILED;
    if (rc == CLI_OK)
        rc = print_chain(&chain, json);
    for (size_t i = 0; i < chain.count; i++)
        image_free(&chain.list[i]);
    free(chain.list);
    return rc;
}

const struct cli_verb cli_info = {
    .name = "info",
    .summary = "Show what an image is: format, sizes, backing file, options, snapshots, bitmaps.",
    .usage = "[OPTION]... NAME",
    .options = options,
    .notes = "Keys and layout are those of qemu-img. Backing files are opened with --backing-chain only, data\n"
             "files never.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
