/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images and volumes of a domain, as JSON and for people. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/noun.h"

static bool is_shared_in(const struct domain_image *image, const struct domain_volume *v)
{
    return v->has_meta && v->why[0] == '\0' && v->meta.role == DOMAIN_SHARED &&
           strcmp(v->meta.image, image->uuid) != 0;
}

uint64_t noun_image_allocated(const struct domain_image *image)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < image->count; i++)
        if (!is_shared_in(image, &image->list[i]))
            sum += image->list[i].allocated;
    return sum;
}

uint64_t noun_image_capacity(const struct domain_image *image)
{
    uint64_t capacity = 0;

    for (size_t i = 0; i < image->count; i++)
        if (image->list[i].has_meta && image->list[i].why[0] == '\0' && image->list[i].children == 0)
            capacity = image->list[i].meta.capacity;
    return capacity;
}

const char *noun_format_word(const struct domain_volume *v)
{
    return v->meta.format == DOMAIN_COW ? "qcow2" : "raw";
}

const char *noun_allocation_word(const struct domain_volume *v)
{
    return v->meta.allocation == DOMAIN_PREALLOCATED ? "preallocated" : "sparse";
}

/* Why there is nothing to tell of a volume; NULL: there is. */
static const char *trouble_of(const struct domain_volume *v)
{
    return !v->has_meta ? "no metadata: half-made, or being removed" : v->why[0] != '\0' ? v->why : NULL;
}

/* ---- JSON -------------------------------------------------------------------------------------------------- */

/* Formats and allocations have the words that options take, roles and legalities those of the metadata. */
static void add_meta(json_t *json, const struct domain_volume *v)
{
    const struct domain_meta *m = &v->meta;

    json_object_set_new(json, "image", json_string(m->image));
    json_object_set_new(json, "domain", json_string(m->domain));
    json_object_set_new(json, "format", json_string(noun_format_word(v)));
    json_object_set_new(json, "allocation", json_string(noun_allocation_word(v)));
    json_object_set_new(json, "role", json_string(domain_role_name(m->role)));
    json_object_set_new(json, "legality", json_string(domain_legality_name(m->legality)));
    json_object_set_new(json, "parent", json_string(m->parent));
    json_object_set_new(json, "capacity", json_integer((json_int_t)m->capacity));
    json_object_set_new(json, "generation", json_integer((json_int_t)m->generation));
    json_object_set_new(json, "sequence", json_integer((json_int_t)m->sequence));
    json_object_set_new(json, "ctime", json_integer((json_int_t)m->ctime));
    json_object_set_new(json, "disk-type", json_string(m->disk_type));
    json_object_set_new(json, "description", cli_json_string(m->description));
}

json_t *noun_volume_json(const struct domain_image *image, const struct domain_volume *v)
{
    json_t *json = json_object();
    const char *trouble = trouble_of(v);

    json_object_set_new(json, "uuid", json_string(v->uuid));
    if (trouble != NULL) {
        json_object_set_new(json, "image", json_string(image->uuid));
        json_object_set_new(json, "trouble", cli_json_string(trouble));
    } else {
        add_meta(json, v);
        json_object_set_new(json, "child-count", json_integer((json_int_t)v->children));
    }
    json_object_set_new(json, "size", json_integer((json_int_t)v->size));
    json_object_set_new(json, "allocated", json_integer((json_int_t)v->allocated));
    return json;
}

json_t *noun_image_json(const struct domain_image *image)
{
    json_t *json = json_object(), *list = json_array();

    json_object_set_new(json, "uuid", json_string(image->uuid));
    json_object_set_new(json, "capacity", json_integer((json_int_t)noun_image_capacity(image)));
    json_object_set_new(json, "allocated", json_integer((json_int_t)noun_image_allocated(image)));
    for (size_t i = 0; i < image->count; i++)
        json_array_append_new(list, noun_volume_json(image, &image->list[i]));
    json_object_set_new(json, "volumes", list);
    return json;
}

int noun_print_list(json_t *list, int rc)
{
    int printed = CLI_OK;

    if (list != NULL && (rc == CLI_OK || json_array_size(list) > 0))
        printed = cli_json_print(list);
    else
        json_decref(list);
    return rc != CLI_OK ? rc : printed;
}

/* ---- for people -------------------------------------------------------------------------------------------- */

void noun_print_trouble(const struct domain_image *image, const struct domain_volume *v)
{
    char *text = cli_strdup(trouble_of(v));

    printf("%s/%s  (%s)\n", image->uuid, v->uuid, cli_printable(text));
    free(text);
}

void noun_print_volume(const struct domain_image *image, const struct domain_volume *v)
{
    char capacity[32], allocated[32], *text;
    const char *trouble = trouble_of(v);

    printf("volume: %s\nimage: %s\n", v->uuid, image->uuid);
    if (trouble != NULL) {
        text = cli_strdup(trouble);
        printf("trouble: %s\n", cli_printable(text));
        free(text);
        return;
    }
    text = cli_strdup(v->meta.description);
    printf("format: %s\nallocation: %s\nrole: %s\nlegality: %s\n", noun_format_word(v), noun_allocation_word(v),
           domain_role_name(v->meta.role), domain_legality_name(v->meta.legality));
    printf("parent: %s\n", strcmp(v->meta.parent, DOMAIN_BLANK) == 0 ? "none" : v->meta.parent);
    printf("capacity: %s (%" PRIu64 " bytes)\n", cli_format_size(v->meta.capacity, capacity, sizeof capacity),
           v->meta.capacity);
    printf("allocated: %s (%" PRIu64 " bytes)\n", cli_format_size(v->allocated, allocated, sizeof allocated),
           v->allocated);
    printf("generation: %u\nsequence: %" PRIu64 "\ndisk type: %s\ndescription: %s\n", v->meta.generation,
           v->meta.sequence, v->meta.disk_type, cli_printable(text));
    free(text);
}

static unsigned depth_of(const struct domain_volume *v)
{
    unsigned depth = 0;

    while ((v = v->parent) != NULL)
        depth++;
    return depth;
}

static void print_line(const struct domain_image *image, const struct domain_volume *v)
{
    char capacity[32], allocated[32], *text;
    const char *trouble = trouble_of(v);

    printf("%*s%s  ", (int)(2 * depth_of(v) + 2), "", v->uuid);
    if (trouble != NULL) {
        text = cli_strdup(trouble);
        printf("(%s)\n", cli_printable(text));
        free(text);
        return;
    }
    printf("%s %s %s, %s, holds %s%s%s\n", noun_format_word(v), noun_allocation_word(v),
           domain_role_name(v->meta.role), cli_format_size(v->meta.capacity, capacity, sizeof capacity),
           cli_format_size(v->allocated, allocated, sizeof allocated),
           is_shared_in(image, v) ? ", of image " : "", is_shared_in(image, v) ? v->meta.image : "");
    if (v->meta.legality != DOMAIN_LEGAL)
        printf("%*s%s\n", (int)(2 * depth_of(v) + 4), "", domain_legality_name(v->meta.legality));
}

/* A volume, then what lies on it. */
static void print_below(const struct domain_image *image, const struct domain_volume *v)
{
    print_line(image, v);
    for (size_t i = 0; i < image->count; i++)
        if (image->list[i].parent == v)
            print_below(image, &image->list[i]);
}

void noun_print_tree(const struct domain_image *image)
{
    printf("%s\n", image->uuid);
    for (size_t i = 0; i < image->count; i++)
        if (image->list[i].parent == NULL)
            print_below(image, &image->list[i]);
}
