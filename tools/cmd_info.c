/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * info: what an image is, with the keys and the layout of qemu-img info. The layers of a chain are opened one
 * after another, each without its backing file. No name that stands in an image is followed otherwise: its data
 * file is not opened.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/bits.h"
#include "engine/layer_name.h"
#include "engine/vdisk.h"
#include "engine/volume.h"
#include "qcow2/format/format.h"
#include "qcow2/qcow2.h"
#include "tools/cli.h"

enum { MAX_LAYERS = 1024 };

struct image {
    char                *name;
    struct vdisk_info    info;
    char                *file;        /* what holds the header, or all of it */
    char                *shown;       /* the same with all that makes a difference; NULL: as `file` */
    uint64_t             file_length; /* in whole sectors, as QEMU counts */
    struct qcow2_details details; /* of qcow2, else zero */
    bool                 is_qcow2;
    char                *full_backing; /* NULL: no backing file */
};

static void image_free(struct image *im)
{
    if (im->is_qcow2)
        qcow2_details_free(&im->details);
    free(im->full_backing);
    free(im->shown);
    free(im->file);
    free(im->name);
}

static int image_named(struct image *im, const char *name)
{
    im->name = cli_strdup(name);
    if (im->details.backing_file != NULL)
        im->full_backing = cli_backing_path(im->file, im->details.backing_file);
    return CLI_OK;
}

/* One that cannot be opened: perhaps that is why. */
static int load_encrypted(struct image *im, const char *name, const struct vdisk_open_opts *how)
{
    bool qcow2 = how->format == NULL || strcmp(how->format, "qcow2") == 0;
    vdisk *v;

    if (qcow2 && qcow2_load_encrypted(name, how->flags, &im->info, &im->file, &im->file_length,
                                      &im->details) == 0) {
        im->file_length = align_up(im->file_length, 512);
        im->is_qcow2 = true;
        return image_named(im, name);
    }
    if (vdisk_open(name, how, &v) == 0) /* again, for the text */
        vdisk_close(v);
    return cli_library_error();
}

/* Of the file that the image is a part of. */
static uint64_t whole_length(const struct image *im)
{
    struct stat st;

    return stat(im->file, &st) == 0 && S_ISREG(st.st_mode) ? align_up((uint64_t)st.st_size, 512) : im->file_length;
}

/* Open `name`, look, close. Takes nothing over. CLI_OK, or CLI_FAILED with a message printed. */
static int image_load(struct image *im, const char *name, const char *format, uint32_t flags)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags | VDISK_OPEN_NO_NAMES, .format = format};
    vdisk *v;

    memset(im, 0, sizeof *im);
    im->info.size = sizeof im->info;
    if (vdisk_open(name, &how, &v) < 0)
        return load_encrypted(im, name, &how);
    int rc = vdisk_get_info(v, &im->info);
    im->file = cli_strdup(backend_path(v->file->name));
    im->shown = layer_name_shown(v->spec, v->format, v->file->name);
    im->file_length = align_up(backend_size(v->file), 512);
    if (v->spec != NULL && (spec_get(v->spec, "offset") != NULL || spec_get(v->spec, "size") != NULL))
        im->file_length = whole_length(im);
    if (rc >= 0 && strcmp(im->info.format, "qcow2") == 0) {
        rc = qcow2_get_details(v, &im->details);
        im->is_qcow2 = rc >= 0;
    }
    if (rc < 0)
        cli_library_error();
    vdisk_close(v);
    if (rc < 0) {
        free(im->shown);
        free(im->file);
        return CLI_FAILED;
    }
    return image_named(im, name);
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

static json_t *bitmaps_json(const struct qcow2_details *d)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < d->nbitmaps; i++) {
        const struct qcow2_bitmap_info *b = &d->bitmaps[i];
        json_t *one = json_object(), *flags = json_array();

        if (b->in_use)
            json_array_append_new(flags, json_string("in-use"));
        if (b->automatic)
            json_array_append_new(flags, json_string("auto"));
        json_object_set_new(one, "flags", flags);
        set_text(one, "name", b->name);
        set_number(one, "granularity", b->granularity);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *luks_slot_json(const struct luks_slot *s)
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

static json_t *encrypt_json(const struct qcow2_details *d)
{
    const struct luks_info *l = d->luks;
    json_t *out = json_object(), *slots = json_array();

    if (l != NULL) {
        set_text(out, "ivgen-alg", l->ivgen);
        set_bool(out, "detached-header", false);
        if (l->ivgen_hash[0] != '\0')
            set_text(out, "ivgen-hash-alg", l->ivgen_hash);
        set_text(out, "hash-alg", l->hash);
        set_text(out, "cipher-alg", l->cipher);
        set_text(out, "uuid", l->uuid);
    }
    set_text(out, "format", d->encryption);
    if (l != NULL) {
        set_text(out, "cipher-mode", l->cipher_mode);
        for (int i = 0; i < LUKS_SLOTS; i++)
            json_array_append_new(slots, luks_slot_json(&l->slots[i]));
        json_object_set(out, "slots", slots);
        set_number(out, "payload-offset", l->payload_offset);
        set_number(out, "master-key-iters", l->master_key_iterations);
    }
    json_decref(slots);
    return out;
}

/* The members that only qcow2 has, in the order in which QEMU shows them. */
static json_t *specific_json(const struct qcow2_details *d)
{
    json_t *data = json_object();

    set_text(data, "compat", d->compat);
    set_text(data, "compression-type", d->compression_type);
    if (d->version < 3) {
        set_number(data, "refcount-bits", d->refcount_bits);
        if (d->encryption != NULL)
            json_object_set_new(data, "encrypt", encrypt_json(d));
        return data;
    }
    set_bool(data, "lazy-refcounts", d->lazy_refcounts);
    if (d->nbitmaps > 0 && !d->bitmaps_stale)
        json_object_set_new(data, "bitmaps", bitmaps_json(d));
    set_number(data, "refcount-bits", d->refcount_bits);
    if (d->encryption != NULL)
        json_object_set_new(data, "encrypt", encrypt_json(d));
    if (d->data_file != NULL) {
        set_text(data, "data-file", d->data_file);
        set_bool(data, "data-file-raw", d->data_file_raw);
    }
    set_bool(data, "corrupt", d->corrupt);
    set_bool(data, "extended-l2", d->extended_l2);
    return data;
}

static json_t *snapshots_json(const struct qcow2_details *d)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < d->nsnapshots; i++) {
        const struct qcow2_snapshot_info *s = &d->snapshots[i];
        json_t *one = json_object();

        if (s->icount_valid)
            set_number(one, "icount", s->icount);
        set_number(one, "vm-clock-nsec", s->vm_clock_nsec % 1000000000);
        set_text(one, "name", s->name);
        set_number(one, "date-sec", s->date_sec);
        set_number(one, "date-nsec", s->date_nsec);
        set_number(one, "vm-clock-sec", s->vm_clock_nsec / 1000000000);
        set_text(one, "id", s->id);
        set_number(one, "vm-state-size", s->vm_state_size);
        json_array_append_new(list, one);
    }
    return list;
}

/* The one child that QEMU tells of without opening others: the file. */
static json_t *children_json(const struct image *im)
{
    json_t *list = json_array(), *child = json_object(), *info = json_object(), *specific = json_object();

    set_text(child, "name", "file");
    json_object_set_new(info, "children", json_array());
    set_number(info, "virtual-size", im->file_length);
    set_text(info, "filename", im->file);
    set_text(info, "format", im->info.backend);
    set_number(info, "actual-size", im->info.allocated_size);
    set_text(specific, "type", "file");
    json_object_set_new(specific, "data", json_object());
    json_object_set_new(info, "format-specific", specific);
    set_bool(info, "dirty-flag", false);
    json_object_set_new(child, "info", info);
    json_array_append_new(list, child);
    return list;
}

static json_t *image_json(const struct image *im)
{
    const struct qcow2_details *d = &im->details;
    json_t *out = json_object();

    json_object_set_new(out, "children", children_json(im));
    if (d->nsnapshots > 0)
        json_object_set_new(out, "snapshots", snapshots_json(d));
    set_text(out, "backing-filename-format", d->backing_format);
    set_number(out, "virtual-size", im->info.virtual_size);
    set_text(out, "filename", im->shown != NULL ? im->shown : im->file);
    if (im->info.cluster_size != 0)
        set_number(out, "cluster-size", im->info.cluster_size);
    set_text(out, "format", im->info.format);
    set_number(out, "actual-size", im->info.allocated_size);
    if (im->is_qcow2) {
        json_t *specific = json_object();
        set_text(specific, "type", "qcow2");
        json_object_set_new(specific, "data", specific_json(d));
        json_object_set_new(out, "format-specific", specific);
    }
    set_text(out, "full-backing-filename", im->full_backing);
    set_text(out, "backing-filename", d->backing_file);
    if (d->encryption != NULL)
        set_bool(out, "encrypted", true);
    set_bool(out, "dirty-flag", d->dirty);
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

static void print_snapshot(const struct qcow2_snapshot_info *s)
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
    if (s->icount_valid)
        snprintf(icount, sizeof icount, "%" PRIu64, s->icount);
    printf("%-7s %-16s %8s %19s %15s %10s\n", id, name, cli_format_size(s->vm_state_size, size, sizeof size), date,
           clock, icount);
    free(id);
    free(name);
}

static void print_backing(const struct image *im)
{
    print_text("backing file", im->details.backing_file);
    if (strcmp(im->full_backing, im->details.backing_file) != 0) {
        print_text(" (actual path", im->full_backing);
        putchar(')');
    }
    putchar('\n');
    if (im->details.backing_format != NULL) {
        print_text("backing file format", im->details.backing_format);
        putchar('\n');
    }
}

static void print_child(const struct image *im)
{
    char buf[32];

    printf("Child node '/file':\n");
    print_text("    filename", im->file);
    printf("\n    protocol type: %s\n    file length: %s (%" PRIu64 " bytes)\n", im->info.backend,
           cli_format_size(im->file_length, buf, sizeof buf), im->file_length);
    printf("    disk size: %s\n", cli_format_size(im->info.allocated_size, buf, sizeof buf));
}

static void print_image(const struct image *im)
{
    const struct qcow2_details *d = &im->details;
    char buf[32];

    print_text("image", im->shown != NULL ? im->shown : im->file);
    printf("\nfile format: %s\n", im->info.format);
    printf("virtual size: %s (%" PRIu64 " bytes)\n", cli_format_size(im->info.virtual_size, buf, sizeof buf),
           im->info.virtual_size);
    printf("disk size: %s\n", cli_format_size(im->info.allocated_size, buf, sizeof buf));
    if (d->encryption != NULL)
        printf("encrypted: yes\n");
    if (im->info.cluster_size != 0)
        printf("cluster_size: %" PRIu64 "\n", im->info.cluster_size);
    if (d->dirty)
        printf("cleanly shut down: no\n");
    if (im->full_backing != NULL)
        print_backing(im);
    if (d->nsnapshots > 0)
        printf("Snapshot list:\n%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK",
               "ICOUNT");
    for (uint32_t i = 0; i < d->nsnapshots; i++)
        print_snapshot(&d->snapshots[i]);
    if (im->is_qcow2) {
        json_t *specific = specific_json(d);
        printf("Format specific information:\n");
        print_members(specific, 4);
        json_decref(specific);
    }
    print_child(im);
}

/* ---- command line ---------------------------------------------------------------------------------- */

struct chain {
    struct image *list;
    size_t        count;
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

static int load_chain(struct chain *c, const char *name, const char *format, uint32_t flags, bool whole)
{
    while (name != NULL) {
        if (c->count == MAX_LAYERS || seen(c, name)) {
            cli_error("Backing file '%s' creates an infinite loop.", name);
            return CLI_FAILED;
        }
        struct image *list = reallocarray(c->list, c->count + 1, sizeof *list);
        if (list == NULL) {
            cli_error("out of memory");
            return CLI_FAILED;
        }
        c->list = list;
        if (image_load(&list[c->count], name, format, flags) != CLI_OK)
            return CLI_FAILED;
        format = list[c->count].details.backing_format;
        name = whole ? list[c->count].full_backing : NULL;
        c->count++;
    }
    return CLI_OK;
}

static int print_chain(const struct chain *c, bool json, bool whole)
{
    if (json && !whole)
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

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1, OPT_CHAIN };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {OPT_CHAIN, "backing-chain", NULL, "all layers of the backing chain, top first"},
    {'U', "force-share", NULL, "open even if another process writes to the image"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    const char *format = NULL;
    bool json = false, whole = false;
    uint32_t flags = 0;
    struct cli_parser p;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        switch (id) {
        case 'f': format = p.value; break;
        case 'U': flags |= VDISK_OPEN_FORCE_SHARE; break;
        case OPT_CHAIN: whole = true; break;
        case OPT_OUTPUT:
            if (!cli_parse_output(verb, p.value, &json))
                return CLI_FAILED;
            break;
        default: return CLI_FAILED;
        }
    }
    if (cli_operands(&p, &operands) != 1)
        return cli_usage_error(verb, "takes the name of one image");

    struct chain chain = {NULL, 0};
    const char *name = cli_image(&p, operands[0], format);
    int rc = name != NULL ? load_chain(&chain, name, format, flags, whole) : CLI_FAILED;
    if (rc == CLI_OK)
        rc = print_chain(&chain, json, whole);
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
