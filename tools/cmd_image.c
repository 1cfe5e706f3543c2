/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * image: the images of a storage domain.
 *
 * Works: tools/domain/ does it. Fails: one line that names the rule; what was begun is undone, by the next command
 * if this one is killed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/copy_target.h"
#include "tools/noun.h"

static const struct cli_option options[] = {
    {'f', "format", "FMT", "copy: raw or qcow2; otherwise as the volume; from a name, and to\n"
                           "one: raw"},
    {'a', "allocation", "KIND", "copy: sparse or preallocated; otherwise as the volume; from a name:\n"
                                "sparse"},
    {NOUN_SOURCE_FORMAT, "source-format", "FMT", "copy from a name: raw or qcow2; otherwise found from the\n"
                                                 "content"},
    NOUN_OUTPUT_OPTION,
    {'p', "progress", NULL, "show progress"},
    NOUN_QUIET_OPTION,
    {'r', "rate", "SIZE", "copy, delete --wipe: at most so many bytes a second"},
    NOUN_WAIT_OPTION,
    {NOUN_DRY_RUN, "dry-run", NULL, "delete, copy: say what would be done, and change nothing"},
    NOUN_WIPE_OPTION,
    NOUN_DISCARD_OPTION,
    {NOUN_VOLUMES, "volumes", NULL, "copy: volume by volume, each as it is; otherwise as one"},
    {NOUN_IMAGE, "image", "UUID", "clone, copy: the new image; otherwise a new UUID"},
    {NOUN_UUID, "uuid", "UUID", "clone, copy: the new volume; otherwise a new UUID"},
    {NOUN_DESCRIPTION, "description", "TEXT", "clone: of the new volume"},
    {0, NULL, NULL, NULL},
};

/* ---- showing ----------------------------------------------------------------------------------------------- */

/* All images, or the one that the name says, each in turn. `fn` returns a code of the command line. */
static int each_image(struct noun *n, const char *operand, int (*fn)(void *arg, struct domain_image *), void *arg)
{
    struct domain_names names = {0};
    struct domain_image *image;
    struct domain_name name;
    int rc = noun_name(n, operand, 0, &name), failed = CLI_OK;

    if (rc != CLI_OK)
        return rc;
    rc = noun_no_volume(n, operand, &name);
    if (rc != CLI_OK) {
        domain_name_free(&name);
        return rc;
    }
    if (name.image[0] != '\0') {
        rc = domain_load_image(name.domain, name.image, &image) < 0 ? noun_error(n) : fn(arg, image);
        if (rc == CLI_OK)
            domain_image_free(image);
    } else if (domain_list_images(name.domain, &names) < 0) {
        rc = noun_error(n);
    }
    for (size_t i = 0; rc == CLI_OK && i < names.count; i++) {
        if (noun_load_listed(n, name.domain, names.list[i], &image, &failed)) {
            rc = fn(arg, image);
            domain_image_free(image);
        }
    }
    domain_names_free(&names);
    domain_name_free(&name);
    return rc == CLI_OK ? failed : rc;
}

struct showing {
    const struct noun *noun;
    json_t            *list;
};

static int list_image(void *arg, struct domain_image *image)
{
    struct showing *s = arg;
    char capacity[32], allocated[32];

    if (s->list != NULL) {
        json_t *json = noun_image_json(image);
        json_object_set_new(json, "removed", json_boolean(image->removed));
        json_object_del(json, "volumes"); /* info has them */
        json_object_set_new(json, "volume-count", json_integer((json_int_t)image->count));
        json_array_append_new(s->list, json);
        return CLI_OK;
    }
    printf("%s  %zu volume%s, %s, holds %s%s\n", image->uuid, image->count, image->count == 1 ? "" : "s",
           cli_format_size(noun_image_capacity(image), capacity, sizeof capacity),
           cli_format_size(noun_image_allocated(image), allocated, sizeof allocated),
           image->removed ? ", deleted" : "");
    return CLI_OK;
}

static int show_image(void *arg, struct domain_image *image)
{
    struct showing *s = arg;

    if (s->list != NULL) {
        json_array_append_new(s->list, noun_image_json(image));
        return CLI_OK;
    }
    for (size_t i = 0; i < image->count; i++) {
        if (i > 0)
            printf("\n");
        noun_print_volume(image, &image->list[i]);
    }
    return CLI_OK;
}

static int draw_image(void *arg, struct domain_image *image)
{
    struct showing *s = arg;

    if (s->list != NULL)
        return show_image(arg, image);
    noun_print_tree(image);
    return CLI_OK;
}

static int show(struct noun *n, const char *operand, int (*fn)(void *arg, struct domain_image *))
{
    struct showing s = {.noun = n, .list = n->json ? json_array() : NULL};
    int rc = each_image(n, operand, fn, &s);

    return noun_print_list(s.list, rc);
}

static int list(struct noun *n, char **operands, int count)
{
    (void)count;
    return show(n, operands[0], list_image);
}

static int tree(struct noun *n, char **operands, int count)
{
    (void)count;
    return show(n, operands[0], draw_image);
}

static int info(struct noun *n, char **operands, int count)
{
    struct domain_name name;
    int rc = noun_name(n, operands[0], 1, &name);

    (void)count;
    if (rc != CLI_OK)
        return rc;
    domain_name_free(&name);
    return show(n, operands[0], show_image);
}

/* ---- changing ---------------------------------------------------------------------------------------------- */

static int delete_image(struct noun *n, char **operands, int count)
{
    struct domain_deleted deleted;
    struct domain_delete o;
    struct domain_name name;
    int rc;

    (void)count;
    if (!noun_delete(n, &o))
        return CLI_FAILED;
    rc = noun_name(n, operands[0], 1, &name);
    if (rc != CLI_OK)
        return rc;
    if (name.volume[0] != '\0')
        rc = cli_usage_error(n->verb, "delete: '%s' names a volume: 'vdisk-io volume delete' deletes one",
                             operands[0]);
    else if (domain_image_delete(name.domain, name.image, &o, &deleted) < 0)
        rc = noun_error(n);
    else
        rc = noun_deleted(n, "image", &name, &o, &deleted);
    domain_name_free(&name);
    return rc;
}

static int clone_into(struct noun *n, struct domain_name *name, const char *image)
{
    struct domain_volume_create o = {.uuid = n->given[NOUN_UUID],
                                     .parent = name->volume,
                                     .parent_image = name->image,
                                     .description = n->given[NOUN_DESCRIPTION],
                                     .format = DOMAIN_COW,
                                     .allocation = DOMAIN_SPARSE};
    struct domain_volume_result result;

    if (domain_volume_create(name->domain, image, &o, &result) < 0)
        return noun_error(n);
    if (n->json)
        return cli_json_print(json_pack("{s:s, s:s, s:I}", "image", image, "volume", result.uuid, "capacity",
                                        (json_int_t)result.capacity));
    if (!n->quiet)
        printf("%s/%s\n", image, result.uuid);
    return CLI_OK;
}

static int clone_image(struct noun *n, char **operands, int count)
{
    const char *image = n->given[NOUN_IMAGE];
    char uuid[DOMAIN_UUID];
    struct domain_name name;
    int rc = noun_name(n, operands[0], 1, &name);

    (void)count;
    if (rc != CLI_OK)
        return rc;
    if (image == NULL && domain_make_uuid(uuid) < 0)
        rc = noun_error(n);
    if (rc == CLI_OK)
        rc = clone_into(n, &name, image != NULL ? image : uuid);
    domain_name_free(&name);
    return rc;
}

static bool parse_copy(struct noun *n, struct domain_copy *o)
{
    *o = (struct domain_copy){.image = n->given[NOUN_IMAGE], .uuid = n->given[NOUN_UUID],
                              .has_format = n->given['f'] != NULL, .has_allocation = n->given['a'] != NULL,
                              .progress = cli_progress_show, .progress_arg = &n->progress,
                              .dry_run = n->given[NOUN_DRY_RUN] != NULL};
    if (n->given[NOUN_VOLUMES] != NULL && (o->uuid != NULL || o->has_format || o->has_allocation)) {
        cli_usage_error(n->verb, "copy --volumes: each volume keeps what it is: no --uuid, -f or -a");
        return false;
    }
    return noun_format(n, &o->format) && noun_allocation(n, &o->allocation) &&
           (n->given['r'] == NULL || noun_size(n, "--rate", n->given['r'], &o->rate));
}

static int print_made(const struct noun *n, const char *from, const char *image,
                      const struct domain_volume_result *result, bool dry_run)
{
    if (n->json && dry_run)
        return cli_json_print(json_pack("{s:I, s:I}", "capacity", (json_int_t)result->capacity, "asked",
                                        (json_int_t)result->asked));
    if (n->json)
        return cli_json_print(json_pack("{s:s, s:s, s:I, s:I, s:I}", "image", image, "volume", result->uuid,
                                        "capacity", (json_int_t)result->capacity, "asked",
                                        (json_int_t)result->asked, "allocated", (json_int_t)result->allocated));
    if (!n->quiet && dry_run)
        printf("%s would be copied as one volume of %" PRIu64 " bytes\n", from, result->capacity);
    else if (!n->quiet)
        printf("%s/%s\n", image, result->uuid);
    return CLI_OK;
}

static int copy_into(struct noun *n, struct domain_name *name, struct domain *to, const struct domain_copy *o)
{
    struct domain_volume_result result;
    char image[DOMAIN_UUID], from[sizeof "image " + DOMAIN_UUID];

    if (domain_image_copy(name->domain, name->image, name->volume, to, o, image, &result) < 0)
        return noun_error(n);
    if (!o->dry_run)
        cli_progress_end(&n->progress);
    snprintf(from, sizeof from, "image %s", name->image);
    return print_made(n, from, image, &result, o->dry_run);
}

/* From the first one up. What would only be made has no names yet. */
static int print_copied(const struct noun *n, const struct domain_copied *copied, bool dry_run)
{
    json_t *list = n->json ? json_array() : NULL, *json;

    for (size_t i = 0; i < copied->count; i++) {
        const struct domain_copied_volume *v = &copied->list[i];
        if (n->json) {
            json = json_pack("{s:s, s:I, s:I, s:I}", "source", v->source, "capacity", (json_int_t)v->made.capacity,
                             "asked", (json_int_t)v->made.asked, "allocated", (json_int_t)v->made.allocated);
            if (!dry_run)
                json_object_set_new(json, "volume", json_string(v->made.uuid));
            json_array_append_new(list, json);
        } else if (!n->quiet && dry_run) {
            printf("volume %s of %" PRIu64 " bytes would be copied\n", v->source, v->made.capacity);
        } else if (!n->quiet) {
            printf("%s/%s\n", copied->image, v->made.uuid);
        }
    }
    if (!n->json)
        return CLI_OK;
    json = json_pack("{s:I, s:o}", "capacity", (json_int_t)copied->capacity, "volumes", list);
    if (!dry_run)
        json_object_set_new(json, "image", json_string(copied->image));
    return cli_json_print(json);
}

static int copy_volumes(struct noun *n, struct domain_name *name, struct domain *to, const struct domain_copy *o)
{
    struct domain_copied copied;
    int rc;

    if (domain_image_copy_volumes(name->domain, name->image, name->volume, to, o, &copied) < 0)
        return noun_error(n);
    if (!o->dry_run)
        cli_progress_end(&n->progress);
    rc = print_copied(n, &copied, o->dry_run);
    domain_copied_free(&copied);
    return rc;
}

/* ---- copies from and to names that are no domain's ---------------------------------------------------------- */

static int copy_source_to(struct noun *n, vdisk *source, const char *operand, struct domain *to,
                          const struct domain_copy *o)
{
    struct domain_volume_result result;
    char image[DOMAIN_UUID], from[256];

    if (domain_image_copy_from(to, source, o, image, &result) < 0)
        return noun_error(n);
    if (!o->dry_run)
        cli_progress_end(&n->progress);
    snprintf(from, sizeof from, "%s", operand);
    return print_made(n, cli_printable(from), image, &result, o->dry_run);
}

static int copy_from(struct noun *n, const char *operand, const char *domain, const struct domain_copy *o)
{
    struct domain *to;
    vdisk *source;
    int rc;

    if (n->given[NOUN_VOLUMES] != NULL)
        return cli_usage_error(n->verb, "copy --volumes: '%s' is no image of a domain", operand);
    if (copy_is_name(domain))
        return cli_usage_error(n->verb, "copy: neither '%s' nor '%s' is of a domain: 'vdisk-io convert' copies "
                               "such", operand, domain);
    if (domain_open(domain, &n->how, &to) < 0)
        return noun_error(n);
    rc = copy_open_source(n, operand, n->given[NOUN_SOURCE_FORMAT], &source);
    if (rc == CLI_OK) {
        rc = copy_source_to(n, source, operand, to, o);
        vdisk_close(source);
    }
    domain_close(to);
    return rc;
}

static int copy_name_to(struct noun *n, struct domain_name *name, const char *operand, const struct domain_copy *o)
{
    struct copy_target target;
    uint64_t capacity = 0;
    int rc = copy_target_begin(&target, n, operand, n->given['f']);

    if (rc != CLI_OK)
        return rc;
    rc = copy_target_end(&target, domain_image_copy_to(name->domain, name->image, name->volume, o, &target.how,
                                                       &capacity));
    if (rc != CLI_OK)
        return rc;
    if (!o->dry_run)
        cli_progress_end(&n->progress);
    if (n->json)
        return cli_json_print(json_pack("{s:I}", "capacity", (json_int_t)capacity));
    if (!n->quiet && o->dry_run)
        printf("image %s would be copied: %" PRIu64 " bytes\n", name->image, capacity);
    return CLI_OK;
}

static int copy_to(struct noun *n, const char *operand, const char *to, const struct domain_copy *o)
{
    struct domain_name name;
    int rc;

    if (n->given[NOUN_VOLUMES] != NULL || o->image != NULL || o->uuid != NULL || o->has_allocation)
        return cli_usage_error(n->verb, "copy: '%s' is no domain: no --volumes, --image, --uuid or -a", to);
    rc = noun_name(n, operand, 1, &name);
    if (rc != CLI_OK)
        return rc;
    rc = copy_name_to(n, &name, to, o);
    domain_name_free(&name);
    return rc;
}

static int copy_image(struct noun *n, char **operands, int count)
{
    struct domain_name name;
    struct domain_copy o;
    struct domain *to;
    int rc;

    (void)count;
    if (!parse_copy(n, &o))
        return CLI_FAILED;
    if (copy_is_name(operands[0]))
        return copy_from(n, operands[0], operands[1], &o);
    if (n->given[NOUN_SOURCE_FORMAT] != NULL)
        return cli_usage_error(n->verb, "copy --source-format: '%s' is of a domain, which says its format",
                               operands[0]);
    if (copy_is_name(operands[1]))
        return copy_to(n, operands[0], operands[1], &o);
    rc = noun_name(n, operands[0], 1, &name);
    if (rc != CLI_OK)
        return rc;
    if (domain_open(operands[1], &n->how, &to) < 0) {
        rc = noun_error(n);
    } else {
        rc = (n->given[NOUN_VOLUMES] != NULL ? copy_volumes : copy_into)(n, &name, to, &o);
        domain_close(to);
    }
    domain_name_free(&name);
    return rc;
}

/* ---- command line ------------------------------------------------------------------------------------------- */

static const struct noun_action actions[] = {
    {"list", 1, 1, {0}, list},
    {"info", 1, 1, {0}, info},
    {"tree", 1, 1, {0}, tree},
    {"delete", 1, 1, {'p', 'r', NOUN_WIPE, NOUN_DISCARD, NOUN_DRY_RUN, NOUN_WAIT}, delete_image},
    {"clone", 1, 1, {NOUN_IMAGE, NOUN_UUID, NOUN_DESCRIPTION, NOUN_WAIT}, clone_image},
    {"copy",
     2,
     2,
     {'f', 'a', 'p', 'r', NOUN_IMAGE, NOUN_UUID, NOUN_VOLUMES, NOUN_SOURCE_FORMAT, NOUN_DRY_RUN, NOUN_WAIT},
     copy_image},
    {NULL, 0, 0, {0}, NULL},
};

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    return noun_run(verb, actions, argc, argv);
}

const struct cli_verb cli_image_verb = {
    .name = "image",
    .summary = "Show, delete, clone and copy images of storage domains.",
    .usage = "[OPTION]... list|info|tree|delete|clone|copy NAME [DOMAIN]",
    .options = options,
    .notes =
        "NAME: DOMAIN, the path of a domain, for list and tree; or DOMAIN/IMAGE. list: one line each. tree: "
        "chains,\n"
        "what lies on what, with sizes and what each volume occupies. delete: renamed first, then wiped, if it\n"
        "is to be, and removed.\n"
        "clone: a new image that lies on a template (a volume that is SHARED), whose name is printed.\n"
        "copy NAME DOMAIN: what an image, or a volume of it, reads, as an image of one volume in that domain.\n"
        "copy NAME OTHER: the same to an image that is no domain's: nbd:..., nbd+unix:..., rbd:..., file:...,\n"
        "json:...; copy OTHER DOMAIN: what such a one reads, as a new image.\n"
        "copy --volumes NAME DOMAIN: all volumes, each as it is: in another domain by the same UUIDs, in the\n"
        "same one by new ones, which are printed, the first one first.\n"
        "Exit code: 0, or 1.\n",
    .run = run,
};
