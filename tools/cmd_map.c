/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * map: what each range of an image is made of, and where, as qemu-img map.
 *
 * Streams: extents are fetched a batch at a time, neighbours of one kind are merged, and each run is printed as
 * soon as the next one starts, so that memory does not grow with the image.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"

enum { BATCH = 256 };

struct layer {
    vdisk_image            *image; /* owns what the next points to */
    struct vdisk_image_info info;
};

struct map {
    vdisk              *volume;
    const char         *name;
    struct layer       *layers;  /* from the top down */
    uint32_t            layers_count;
    bool                json;
    bool                any;     /* something was printed */
    struct vdisk_extent current; /* not printed yet; length 0: none */
};

static const struct vdisk_image_info *layer(const struct map *m, uint32_t depth)
{
    return &m->layers[depth < m->layers_count ? depth : m->layers_count - 1].info;
}

static int find_layers(struct map *m)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = vdisk_get_info(m->volume, &info);

    if (rc < 0)
        return cli_library_error();
    m->layers = cli_calloc(info.depth, sizeof m->layers[0]);
    for (; m->layers_count < info.depth; m->layers_count++) {
        struct layer *l = &m->layers[m->layers_count];
        l->info.size = sizeof l->info;
        rc = vdisk_image_of_layer(m->volume, m->layers_count, &l->image);
        if (rc == 0)
            rc = vdisk_image_get_info(l->image, &l->info);
        if (rc < 0)
            return cli_library_error();
    }
    return CLI_OK;
}

static void free_layers(struct map *m)
{
    for (uint32_t i = 0; i < m->layers_count; i++)
        vdisk_image_free(m->layers[i].image);
    free(m->layers);
}

/* ---- a line of JSON: millions are printed, and printf() would take as long as all else ------------------ */

enum { LINE_MAX_LENGTH = 320 }; /* five numbers of 20 digits, and the words */

struct line {
    char  text[LINE_MAX_LENGTH];
    char *end;
};

static void put_text(struct line *l, const char *text)
{
    size_t length = strlen(text);

    assert(l->end + length <= l->text + LINE_MAX_LENGTH);
    memcpy(l->end, text, length);
    l->end += length;
}

static void put_number(struct line *l, const char *key, uint64_t n)
{
    char digits[20], *first = digits + sizeof digits;

    put_text(l, key);
    do
        *--first = (char)('0' + n % 10);
    while ((n /= 10) != 0);
    assert(l->end + sizeof digits <= l->text + LINE_MAX_LENGTH);
    memcpy(l->end, first, (size_t)(digits + sizeof digits - first));
    l->end += digits + sizeof digits - first;
}

static void put_flag(struct line *l, const char *key, bool set)
{
    put_text(l, key);
    put_text(l, set ? "true" : "false");
}

static void print_json(struct map *m, const struct vdisk_extent *e)
{
    struct line l;

    l.end = l.text;
    put_number(&l, m->any ? ",\n{ \"start\": " : "[{ \"start\": ", e->guest_offset);
    put_number(&l, ", \"length\": ", e->length);
    put_number(&l, ", \"depth\": ", e->depth);
    put_flag(&l, ", \"present\": ", e->flags & VDISK_EXTENT_ALLOCATED);
    put_flag(&l, ", \"zero\": ", e->flags & VDISK_EXTENT_ZERO);
    put_flag(&l, ", \"data\": ", e->flags & VDISK_EXTENT_DATA);
    put_flag(&l, ", \"compressed\": ", e->flags & VDISK_EXTENT_COMPRESSED);
    if (e->flags & VDISK_EXTENT_OFFSET)
        put_number(&l, ", \"offset\": ", e->host_offset);
    put_text(&l, "}");
    fwrite(l.text, 1, (size_t)(l.end - l.text), stdout);
    m->any = true;
}

/* Only what a reader of the file could find there: data at an offset. */
static int print_human(struct map *m, const struct vdisk_extent *e)
{
    if (!(e->flags & VDISK_EXTENT_DATA) || (e->flags & VDISK_EXTENT_ZERO))
        return CLI_OK;
    if (!(e->flags & VDISK_EXTENT_OFFSET)) {
        cli_error("%s: File contains external, encrypted or compressed clusters. (at offset %" PRIu64
                  "; --output json shows them)",
                  m->name, e->guest_offset);
        return CLI_FAILED;
    }
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->guest_offset, e->length, e->host_offset,
           layer(m, e->depth)->data_path);
    return CLI_OK;
}

static int print_run(struct map *m)
{
    int rc = CLI_OK;

    if (m->current.length == 0)
        return CLI_OK;
    if (m->json)
        print_json(m, &m->current);
    else
        rc = print_human(m, &m->current);
    m->current.length = 0;
    return rc;
}

static bool continues(const struct vdisk_extent *run, const struct vdisk_extent *e)
{
    const uint32_t shown = VDISK_EXTENT_DATA | VDISK_EXTENT_ZERO | VDISK_EXTENT_OFFSET | VDISK_EXTENT_ALLOCATED |
                           VDISK_EXTENT_COMPRESSED;

    return run->length != 0 && run->depth == e->depth && ((run->flags ^ e->flags) & shown) == 0 &&
           (!(e->flags & VDISK_EXTENT_OFFSET) || run->host_offset + run->length == e->host_offset);
}

static int add_extent(struct map *m, const struct vdisk_extent *e)
{
    int rc;

    if (continues(&m->current, e)) {
        m->current.length += e->length;
        return CLI_OK;
    }
    rc = print_run(m);
    m->current = *e;
    return rc;
}

/* Where the next layer ends that is shorter than those above it, or `end`. */
static uint64_t next_layer_end(const struct map *m, uint64_t offset, uint64_t end)
{
    for (uint32_t i = 0; i < m->layers_count; i++) {
        if (layer(m, i)->virtual_size > offset)
            end = min_u64(end, layer(m, i)->virtual_size);
    }
    return end;
}

/* What lies past the end of a backing file is zero by the word of the layer above. */
static void settle_depth(const struct map *m, struct vdisk_extent *e)
{
    while (e->depth > 0 && !(e->flags & VDISK_EXTENT_ALLOCATED) &&
           e->guest_offset >= layer(m, e->depth)->virtual_size)
        e->depth--;
}

static int map_range(struct map *m, uint64_t offset, uint64_t end)
{
    struct vdisk_extent list[BATCH];
    int rc = CLI_OK;

    while (offset < end && rc == CLI_OK) {
        struct vdisk_extents extents = {.list = list, .max = BATCH};
        if (vdisk_pextents(m->volume, next_layer_end(m, offset, end) - offset, offset, &extents) < 0)
            return cli_library_error();
        for (unsigned i = 0; i < extents.count && rc == CLI_OK; i++) {
            settle_depth(m, &list[i]);
            rc = add_extent(m, &list[i]);
            offset = list[i].guest_offset + list[i].length;
        }
    }
    return rc == CLI_OK ? print_run(m) : rc;
}

static int map_image(struct map *m, uint64_t start, uint64_t max_length)
{
    uint64_t size = vdisk_size(m->volume);
    uint64_t end = start < size ? start + min_u64(max_length, size - start) : start;
    int rc;

    if (!m->json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    rc = map_range(m, start, end);
    if (m->json && !m->any && rc == CLI_OK)
        print_json(m, &(struct vdisk_extent){.guest_offset = start}); /* an empty range has one entry, as QEMU's */
    if (m->json)
        puts(m->any ? "]" : "[]");
    return rc;
}

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1 };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'s', "start-offset", "BYTES", "begin here"},
    {'l', "max-length", "BYTES", "go on for so long"},
    {'U', "force-share", NULL, "open even if another process writes to the image"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_HOST_HOLES};
    uint64_t start = 0, max_length = UINT64_MAX;
    struct map m = {.volume = NULL};
    struct cli_parser p;
    char **operands;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        switch (id) {
        case 'f': how.format = p.value; break;
        case 'U': how.flags |= VDISK_OPEN_FORCE_SHARE; break;
        case OPT_OUTPUT:
            if (!cli_parse_output(verb, p.value, &m.json))
                return CLI_FAILED;
            break;
        case 's':
            if (cli_parse_ranged(verb, "start offset", p.value, 0, INT64_MAX, &start) != CLI_OK)
                return CLI_FAILED;
            break;
        case 'l':
            if (cli_parse_ranged(verb, "max length", p.value, 0, INT64_MAX, &max_length) != CLI_OK)
                return CLI_FAILED;
            break;
        default: return CLI_FAILED;
        }
    }
    if (cli_operands(&p, &operands) != 1)
        return cli_usage_error(verb, "takes the name of one image");
    m.name = cli_image(&p, operands[0], how.format);
    if (m.name == NULL)
        return CLI_FAILED;
    if (vdisk_open(m.name, &how, &m.volume) < 0)
        return cli_library_error();
    int rc = find_layers(&m);
    if (rc == CLI_OK)
        rc = map_image(&m, start, max_length);
    free_layers(&m);
    if (vdisk_close(m.volume) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    return rc;
}

const struct cli_verb cli_map = {
    .name = "map",
    .summary = "Show what each range of an image is made of, and where.",
    .usage = "[OPTION]... NAME",
    .options = options,
    .notes = "The human form lists what holds data, with the file of the backing chain that it lies in, and\n"
             "fails at data that has no place of its own (compressed clusters). The JSON form lists all:\n"
             "start, length, depth (0: this image), present (the layer at that depth says what is here),\n"
             "zero (reads as zeros), data (host space is mapped for it), compressed, offset (in the file of\n"
             "that layer, where there is one).\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
