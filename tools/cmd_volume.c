/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * volume: the volumes of the images of a storage domain.
 *
 * Works: tools/domain/ does it. Fails: one line that names the rule; what was begun is undone, by the next command
 * if this one is killed.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/copy_target.h"
#include "tools/noun.h"
#include "tools/pipe.h"

static const struct cli_option options[] = {
    {'f', "format", "FMT", "create, upload: raw (default) or qcow2; measure: of the copy"},
    {'a', "allocation", "KIND", "create, snapshot: sparse (default) or preallocated; measure: of\nthe copy"},
    NOUN_OUTPUT_OPTION,
    {'p', "progress", NULL, "show progress"},
    NOUN_QUIET_OPTION,
    {'r', "rate", "SIZE", "merge, delete --wipe: at most so many bytes a second"},
    NOUN_WAIT_OPTION,
    {NOUN_DRY_RUN, "dry-run", NULL, "delete, merge, extend, reduce: say what would be done, and change\nnothing"},
    {NOUN_WIPE, "wipe", NULL, "delete, merge: zeros are written over the data before it goes"},
    NOUN_DISCARD_OPTION,
    {NOUN_UUID, "uuid", "UUID", "create, snapshot, upload: the new volume; otherwise a new UUID"},
    {NOUN_PARENT, "parent", "NAME", "create, upload: VOLUME, or IMAGE/VOLUME: what it lies on"},
    {NOUN_DESCRIPTION, "description", "TEXT", "create, snapshot, upload, update: up to 210 characters"},
    {NOUN_DIGEST, "digest", "HEX", "upload: SHA-256 that what comes has to have"},
    {NOUN_DISK_TYPE, "disk-type", "TYPE", "create, snapshot, update: DATA, OVFS, MEMD, ..."},
    {NOUN_INITIAL_SIZE, "initial-size", "SIZE", "create: that a sparse one in a volume group begins with"},
    {NOUN_ILLEGAL, "illegal", NULL, "create: ILLEGAL, until update makes it LEGAL"},
    {NOUN_SEQUENCE, "sequence", "N", "create, snapshot, update"},
    {NOUN_LEGALITY, "legality", "WORD", "update: LEGAL or ILLEGAL"},
    {NOUN_SHARED, "shared", NULL, "update: make it a template"},
    {NOUN_GENERATION, "generation", "N", "update: that it has to have; it has one more afterwards"},
    {0, NULL, NULL, NULL},
};

/* ---- create and snapshot ------------------------------------------------------------------------------------ */

static bool parse_create(struct noun *n, const char *size, struct domain_volume_create *o)
{
    if (size != NULL && !noun_size(n, n->action->name, size, &o->capacity))
        return false;
    o->allocation = DOMAIN_SPARSE;
    if (!noun_format(n, &o->format) || !noun_allocation(n, &o->allocation))
        return false;
    o->has_sequence = n->given[NOUN_SEQUENCE] != NULL;
    if (o->has_sequence && !noun_number(n, NOUN_SEQUENCE, "--sequence", UINT32_MAX, &o->sequence))
        return false;
    o->has_initial_size = n->given[NOUN_INITIAL_SIZE] != NULL;
    if (o->has_initial_size && cli_parse_size(n->given[NOUN_INITIAL_SIZE], &o->initial_size) < 0) {
        cli_usage_error(n->verb, "--initial-size takes a size, not '%s'", n->given[NOUN_INITIAL_SIZE]);
        return false;
    }
    o->uuid = n->given[NOUN_UUID];
    o->description = n->given[NOUN_DESCRIPTION];
    o->disk_type = n->given[NOUN_DISK_TYPE];
    o->illegal = n->given[NOUN_ILLEGAL] != NULL;
    o->progress = cli_progress_show;
    o->progress_arg = &n->progress;
    return true;
}

static int create_in(struct noun *n, struct domain *d, const char *image, const struct domain_volume_create *o)
{
    struct domain_volume_result result;

    if (domain_volume_create(d, image, o, &result) < 0)
        return noun_error(n);
    cli_progress_end(&n->progress);
    if (n->json)
        return cli_json_print(json_pack("{s:s, s:s, s:I, s:I, s:I}", "image", image, "volume", result.uuid,
                                        "capacity", (json_int_t)result.capacity, "asked", (json_int_t)result.asked,
                                        "allocated", (json_int_t)result.allocated));
    if (!n->quiet)
        printf("%s/%s\n", image, result.uuid);
    return CLI_OK;
}

/* "VOLUME" or "IMAGE/VOLUME", taken apart in `text`. */
static void parse_parent(char *text, struct domain_volume_create *o)
{
    char *slash = strchr(text, '/');

    o->parent = text;
    if (slash != NULL) {
        *slash = '\0';
        o->parent_image = text;
        o->parent = slash + 1;
    }
}

static int create(struct noun *n, char **operands, int count)
{
    struct domain_volume_create o = {0};
    char *parent = NULL, uuid[DOMAIN_UUID];
    struct domain_name name;
    int rc;

    if (!parse_create(n, count > 1 ? operands[1] : NULL, &o))
        return CLI_FAILED;
    rc = noun_name(n, operands[0], 0, &name);
    if (rc != CLI_OK)
        return rc;
    if (name.volume[0] != '\0')
        rc = cli_usage_error(n->verb, "create: '%s' names a volume: --uuid says what the new one is called",
                             operands[0]);
    else if (name.image[0] == '\0' && domain_make_uuid(uuid) < 0)
        rc = noun_error(n);
    if (rc == CLI_OK) {
        if (n->given[NOUN_PARENT] != NULL)
            parse_parent(parent = cli_strdup(n->given[NOUN_PARENT]), &o);
        rc = create_in(n, name.domain, name.image[0] != '\0' ? name.image : uuid, &o);
    }
    free(parent);
    domain_name_free(&name);
    return rc;
}

static int snapshot(struct noun *n, char **operands, int count)
{
    struct domain_volume_create o = {.format = DOMAIN_COW};
    struct domain_name name;
    int rc;

    if (!parse_create(n, count > 1 ? operands[1] : NULL, &o))
        return CLI_FAILED;
    rc = noun_name(n, operands[0], 1, &name);
    if (rc != CLI_OK)
        return rc;
    o.parent = name.volume;
    rc = create_in(n, name.domain, name.image, &o);
    domain_name_free(&name);
    return rc;
}

/* ---- info and list ------------------------------------------------------------------------------------------ */

static int show(struct noun *n, struct domain_name *name, struct domain_image *image)
{
    const struct domain_volume *v = domain_image_volume(image, name->volume);
    char *path = NULL;
    json_t *json;

    if (v == NULL) {
        cli_error("%s: image %s has no volume %s", domain_path(name->domain), image->uuid, name->volume);
        return CLI_FAILED;
    }
    if (domain_volume_path(name->domain, image->uuid, v->uuid, &path) < 0)
        return noun_error(n);
    if (n->json) {
        json = noun_volume_json(image, v);
        json_object_set_new(json, "path", cli_json_string(path));
        free(path);
        return cli_json_print(json);
    }
    if (!n->quiet) {
        noun_print_volume(image, v);
        printf("path: %s\n", cli_printable(path));
    }
    free(path);
    return CLI_OK;
}

static int info(struct noun *n, char **operands, int count)
{
    struct domain_image *image = NULL;
    struct domain_name name;
    int rc = noun_name(n, operands[0], 1, &name);

    (void)count;
    if (rc != CLI_OK)
        return rc;
    rc = noun_leaf(n, &name);
    if (rc == CLI_OK && domain_load_image(name.domain, name.image, &image) < 0)
        rc = noun_error(n);
    else if (rc == CLI_OK) {
        rc = show(n, &name, image);
        domain_image_free(image);
    }
    domain_name_free(&name);
    return rc;
}

static void list_volumes(const struct domain_image *image, json_t *list)
{
    char capacity[32], allocated[32];

    for (size_t i = 0; i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (list != NULL)
            json_array_append_new(list, noun_volume_json(image, v));
        else if (!v->has_meta || v->why[0] != '\0')
            noun_print_trouble(image, v);
        else
            printf("%s/%s  %s %s %s%s%s, %s, holds %s\n", image->uuid, v->uuid,
                   noun_format_word(v), noun_allocation_word(v), domain_role_name(v->meta.role),
                   v->meta.legality == DOMAIN_LEGAL ? "" : " ",
                   v->meta.legality == DOMAIN_LEGAL ? "" : domain_legality_name(v->meta.legality),
                   cli_format_size(v->meta.capacity, capacity, sizeof capacity),
                   cli_format_size(v->allocated, allocated, sizeof allocated));
    }
}

static int list_images(struct noun *n, struct domain_name *name, json_t *list)
{
    struct domain_names names = {0};
    struct domain_image *image;
    int rc = CLI_OK;

    if (name->image[0] != '\0') {
        if (domain_load_image(name->domain, name->image, &image) < 0)
            return noun_error(n);
        list_volumes(image, list);
        domain_image_free(image);
        return CLI_OK;
    }
    if (domain_list_images(name->domain, &names) < 0)
        return noun_error(n);
    for (size_t i = 0; i < names.count; i++) {
        if (strncmp(names.list[i], DOMAIN_REMOVED, sizeof DOMAIN_REMOVED - 1) == 0)
            continue;
        if (noun_load_listed(n, name->domain, names.list[i], &image, &rc)) {
            list_volumes(image, list);
            domain_image_free(image);
        }
    }
    domain_names_free(&names);
    return rc;
}

static int list(struct noun *n, char **operands, int count)
{
    json_t *all = n->json ? json_array() : NULL;
    struct domain_name name;
    int rc = noun_name(n, operands[0], 0, &name);

    (void)count;
    if (rc == CLI_OK) {
        rc = noun_no_volume(n, operands[0], &name);
        if (rc == CLI_OK)
            rc = list_images(n, &name, all);
        domain_name_free(&name);
    }
    return noun_print_list(all, rc);
}

/* ---- operations on one ---------------------------------------------------------------------------------------
 */

static int delete_volume(struct noun *n, struct domain_name *name)
{
    struct domain_deleted deleted;
    struct domain_delete o;
    int rc;

    if (!noun_delete(n, &o))
        return CLI_FAILED;
    rc = noun_leaf(n, name); /* named, so that it is that one which is deleted and told of */
    if (rc != CLI_OK)
        return rc;
    if (domain_volume_delete(name->domain, name->image, name->volume, &o, &deleted) < 0)
        return noun_error(n);
    return noun_deleted(n, "volume", name, &o, &deleted);
}

/* The leaf is not meant unless it is named: what lies below it would no longer be what it is. */
static int merge_volume(struct noun *n, struct domain_name *name)
{
    struct domain_merge o = {.progress = cli_progress_show, .progress_arg = &n->progress,
                             .dry_run = n->given[NOUN_DRY_RUN] != NULL, .wipe = n->given[NOUN_WIPE] != NULL};

    if (name->volume[0] == '\0')
        return cli_usage_error(n->verb, "merge: name the volume that is to go into its parent, as "
                               "DOMAIN/IMAGE/VOLUME: 'vdisk-io image tree' shows them");
    if (n->given['r'] != NULL && !noun_size(n, "--rate", n->given['r'], &o.rate))
        return CLI_FAILED;
    if (domain_volume_merge(name->domain, name->image, name->volume, &o) < 0)
        return noun_error(n);
    if (!o.dry_run)
        cli_progress_end(&n->progress);
    if (n->json)
        return cli_json_print(json_pack("{s:s, s:s, s:b}", "image", name->image, "volume", name->volume, "merged",
                                        !o.dry_run));
    if (!n->quiet)
        printf("volume %s %s\n", name->volume, o.dry_run ? "would be merged" : "merged");
    return CLI_OK;
}

/* What a volume is, now that it has been changed, in JSON; people have asked for it, and know. */
static int change_volume(struct noun *n, struct domain_name *name, int rc)
{
    struct domain_image *image;

    if (rc < 0)
        return noun_error(n);
    if (!n->json)
        return CLI_OK;
    rc = noun_leaf(n, name);
    if (rc != CLI_OK)
        return rc;
    if (domain_load_image(name->domain, name->image, &image) < 0)
        return noun_error(n);
    rc = show(n, name, image);
    domain_image_free(image);
    return rc;
}

static int update_volume(struct noun *n, struct domain_name *name)
{
    static const char *const words[] = {"LEGAL", "ILLEGAL", NULL};
    struct domain_volume_update o = {.description = n->given[NOUN_DESCRIPTION],
                                     .disk_type = n->given[NOUN_DISK_TYPE],
                                     .legality = -1,
                                     .role = n->given[NOUN_SHARED] != NULL ? DOMAIN_SHARED : -1,
                                     .generation = -1,
                                     .sequence = -1};
    uint64_t number;

    if (n->given[NOUN_LEGALITY] != NULL &&
        !noun_word(n, "--legality", n->given[NOUN_LEGALITY], words, &o.legality))
        return CLI_FAILED;
    if (n->given[NOUN_GENERATION] != NULL) {
        if (!noun_number(n, NOUN_GENERATION, "--generation", DOMAIN_GENERATIONS - 1, &number))
            return CLI_FAILED;
        o.generation = (int)number;
    }
    if (n->given[NOUN_SEQUENCE] != NULL) {
        if (!noun_number(n, NOUN_SEQUENCE, "--sequence", UINT32_MAX, &number))
            return CLI_FAILED;
        o.sequence = (int64_t)number;
    }
    if (o.description == NULL && o.disk_type == NULL && o.legality < 0 && o.role < 0 && o.sequence < 0)
        return cli_usage_error(n->verb, "update: nothing is to be changed");
    return change_volume(n, name, domain_volume_update(name->domain, name->image, name->volume, &o));
}

/* A volume that is named, or, where the action may choose, the leaf. */
static int on_volume(struct noun *n, const char *operand, int (*fn)(struct noun *, struct domain_name *))
{
    struct domain_name name;
    int rc = noun_name(n, operand, 1, &name);

    if (rc != CLI_OK)
        return rc;
    rc = fn(n, &name);
    domain_name_free(&name);
    return rc;
}

static int delete(struct noun *n, char **operands, int count)
{
    (void)count;
    return on_volume(n, operands[0], delete_volume);
}

static int merge(struct noun *n, char **operands, int count)
{
    (void)count;
    return on_volume(n, operands[0], merge_volume);
}

static int update(struct noun *n, char **operands, int count)
{
    (void)count;
    return on_volume(n, operands[0], update_volume);
}

static int resize(struct noun *n, char **operands, int count)
{
    struct domain_name name;
    uint64_t size;
    int rc;

    (void)count;
    if (!noun_size(n, "resize", operands[1], &size))
        return CLI_FAILED;
    rc = noun_name(n, operands[0], 1, &name);
    if (rc != CLI_OK)
        return rc;
    rc = domain_volume_resize(name.domain, name.image, name.volume, size, cli_progress_show, &n->progress);
    if (rc == 0)
        cli_progress_end(&n->progress);
    rc = change_volume(n, &name, rc);
    domain_name_free(&name);
    return rc;
}

/* ---- prepare -------------------------------------------------------------------------------------------------
 */

static void show_path(void *arg, const struct domain_volume *v, const char *path)
{
    json_t *list = arg;
    char *text = cli_strdup(path);

    if (list != NULL)
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "volume", v->uuid, "format",
                                              noun_format_word(v), "path", cli_json_string(path)));
    else
        printf("%s\n", cli_printable(text));
    free(text);
}

static int prepare(struct noun *n, char **operands, int count)
{
    json_t *list = n->json ? json_array() : NULL;
    struct domain_name name;
    int rc = noun_name(n, operands[0], 1, &name);

    (void)count;
    if (rc == CLI_OK) {
        if (domain_volume_prepare(name.domain, name.image, name.volume, show_path, list) < 0)
            rc = noun_error(n);
        domain_name_free(&name);
    }
    if (list != NULL && rc == CLI_OK)
        return cli_json_print(list);
    json_decref(list);
    return rc;
}

/* ---- storage -------------------------------------------------------------------------------------------------
 */

static int teardown_volume(struct noun *n, struct domain_name *name)
{
    if (domain_volume_teardown(name->domain, name->image, name->volume) < 0)
        return noun_error(n);
    return n->json ? cli_json_print(json_pack("{s:s, s:b}", "image", name->image, "in-use", 0)) : CLI_OK;
}

static int teardown(struct noun *n, char **operands, int count)
{
    (void)count;
    return on_volume(n, operands[0], teardown_volume);
}

/* `asked`: what that is in JSON. */
static int print_extent(const struct noun *n, const struct domain_extent *e, const char *asked, bool dry_run)
{
    char before[32], after[32], wanted[32];

    if (n->json)
        return cli_json_print(json_pack("{s:I, s:I, s:I}", "before", (json_int_t)e->before, asked,
                                        (json_int_t)e->asked, "allocated", (json_int_t)e->after));
    if (n->quiet)
        return CLI_OK;
    cli_format_size(e->before, before, sizeof before);
    if (dry_run)
        printf("it occupies %s, and %s: %s\n", before, asked, cli_format_size(e->asked, wanted, sizeof wanted));
    else
        printf("it occupied %s, and occupies %s\n", before, cli_format_size(e->after, after, sizeof after));
    return CLI_OK;
}

static int extend(struct noun *n, char **operands, int count)
{
    bool dry_run = n->given[NOUN_DRY_RUN] != NULL;
    struct domain_extent e;
    struct domain_name name;
    uint64_t size = 0;
    int rc;

    if (count > 1 && !noun_size(n, "extend", operands[1], &size))
        return CLI_FAILED;
    rc = noun_name(n, operands[0], 1, &name);
    if (rc != CLI_OK)
        return rc;
    if (domain_volume_extend(name.domain, name.image, name.volume, size, dry_run, &e) < 0)
        rc = noun_error(n);
    else
        rc = print_extent(n, &e, "asked", dry_run);
    domain_name_free(&name);
    return rc;
}

static int reduce_volume(struct noun *n, struct domain_name *name)
{
    struct domain_reduce o = {.dry_run = n->given[NOUN_DRY_RUN] != NULL, .progress = cli_progress_show,
                              .progress_arg = &n->progress};
    struct domain_extent e;

    if (domain_volume_reduce(name->domain, name->image, name->volume, &o, &e) < 0)
        return noun_error(n);
    cli_progress_end(&n->progress);
    return print_extent(n, &e, "end", o.dry_run);
}

static int reduce(struct noun *n, char **operands, int count)
{
    (void)count;
    return on_volume(n, operands[0], reduce_volume);
}

static int measure_volume(struct noun *n, struct domain_name *name)
{
    struct domain_measure o = {.has_format = n->given['f'] != NULL, .has_allocation = n->given['a'] != NULL};
    struct domain_measured m;

    if (!noun_format(n, &o.format) || !noun_allocation(n, &o.allocation))
        return CLI_FAILED;
    if (domain_volume_measure(name->domain, name->image, name->volume, &o, &m) < 0)
        return noun_error(n);
    if (n->json)
        return cli_json_print(json_pack("{s:I, s:I, s:I, s:I}", "capacity", (json_int_t)m.capacity, "takes",
                                        (json_int_t)m.takes, "required", (json_int_t)m.required, "fully-allocated",
                                        (json_int_t)m.fully_allocated));
    if (!n->quiet)
        printf("takes: %" PRIu64 "\nrequired size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", m.takes,
               m.required, m.fully_allocated);
    return CLI_OK;
}

static int measure(struct noun *n, char **operands, int count)
{
    (void)count;
    return on_volume(n, operands[0], measure_volume);
}

/* ---- streams -------------------------------------------------------------------------------------------------
 */

static int print_uploaded(const struct noun *n, const char *image, const struct domain_stream *s,
                          const struct domain_volume_result *result)
{
    json_t *json;

    if (!n->json) {
        if (!n->quiet)
            printf("%s/%s\n", image, result->uuid);
        return CLI_OK;
    }
    json = json_pack("{s:s, s:s, s:I, s:I}", "image", image, "volume", result->uuid, "capacity",
                     (json_int_t)result->capacity, "bytes", (json_int_t)s->bytes);
    if (s->sha256[0] != '\0')
        json_object_set_new(json, "sha256", json_string(s->sha256));
    return cli_json_print(json);
}

/* `source`: NULL: standard input. Its bytes are not looked at before they have come. */
static int upload_to(struct noun *n, struct domain_name *name, const char *image, struct domain_volume_create *o,
                     const char *source)
{
    struct domain_stream s = {.fd = STDIN_FILENO, .digest = n->given[NOUN_DIGEST]};
    struct domain_volume_result result;
    int rc = source != NULL ? copy_open_source(n, source, "raw", &s.source) : CLI_OK;

    if (rc == CLI_OK && domain_volume_upload(name->domain, image, o, &s, &result) < 0)
        rc = noun_error(n);
    vdisk_close(s.source);
    if (rc != CLI_OK)
        return rc;
    cli_progress_end(&n->progress);
    return print_uploaded(n, image, &s, &result);
}

static int upload(struct noun *n, char **operands, int count)
{
    struct domain_volume_create o = {0};
    char *parent = NULL, uuid[DOMAIN_UUID];
    struct domain_name name;
    int rc;

    if (!parse_create(n, operands[1], &o))
        return CLI_FAILED;
    rc = noun_name(n, operands[0], 0, &name);
    if (rc != CLI_OK)
        return rc;
    if (name.volume[0] != '\0')
        rc = cli_usage_error(n->verb, "upload: '%s' names a volume: --uuid says what the new one is called",
                             operands[0]);
    else if (domain_make_uuid(uuid) < 0)
        rc = noun_error(n);
    if (n->given[NOUN_PARENT] != NULL)
        parse_parent(parent = cli_strdup(n->given[NOUN_PARENT]), &o);
    if (rc == CLI_OK)
        rc = upload_to(n, &name, name.image[0] != '\0' ? name.image : uuid, &o,
                       count > 2 && !pipe_is(operands[2]) ? operands[2] : NULL);
    free(parent);
    domain_name_free(&name);
    return rc;
}

static int download_volume(struct noun *n, struct domain_name *name)
{
    struct domain_stream s = {.fd = STDOUT_FILENO, .progress = cli_progress_show, .progress_arg = &n->progress};

    if (isatty(STDOUT_FILENO))
        return cli_usage_error(n->verb, "download: standard output is a terminal");
    n->progress.to_stderr = true;
    if (domain_volume_download(name->domain, name->image, name->volume, &s) < 0)
        return noun_error(n);
    cli_progress_end(&n->progress);
    if (n->json)
        fprintf(stderr, "{\"bytes\": %" PRIu64 ", \"sha256\": \"%s\"}\n", s.bytes, s.sha256);
    else if (!n->quiet)
        cli_note("%" PRIu64 " bytes, SHA-256 %s", s.bytes, s.sha256);
    return CLI_OK;
}

static int download_to(struct noun *n, struct domain_name *name, const char *operand)
{
    struct domain_stream s = {.progress = cli_progress_show, .progress_arg = &n->progress};
    struct copy_target target;
    int rc = copy_target_begin(&target, n, operand, NULL);

    if (rc != CLI_OK)
        return rc;
    s.target = &target.how;
    rc = copy_target_end(&target, domain_volume_download(name->domain, name->image, name->volume, &s));
    if (rc != CLI_OK)
        return rc;
    cli_progress_end(&n->progress);
    return n->json ? cli_json_print(json_pack("{s:I}", "bytes", (json_int_t)s.bytes)) : CLI_OK;
}

static int download(struct noun *n, char **operands, int count)
{
    struct domain_name name;
    int rc;

    if (count < 2 || pipe_is(operands[1]))
        return on_volume(n, operands[0], download_volume);
    rc = noun_name(n, operands[0], 1, &name);
    if (rc != CLI_OK)
        return rc;
    rc = download_to(n, &name, operands[1]);
    domain_name_free(&name);
    return rc;
}

/* ---- command line --------------------------------------------------------------------------------------------
 */

/* Its options are its own, and so not known before it is. */
static int misplaced(struct noun *n, char **operands, int count)
{
    (void)operands;
    (void)count;
    return cli_usage_error(&cli_volume_serve, "comes before its options (%s serve ...)", n->verb->name);
}

static const struct noun_action actions[] = {
    {"create",
     1,
     2,
     {'f', 'a', 'p', NOUN_WAIT, NOUN_UUID, NOUN_PARENT, NOUN_DESCRIPTION, NOUN_DISK_TYPE, NOUN_INITIAL_SIZE,
      NOUN_ILLEGAL, NOUN_SEQUENCE},
     create},
    {"info", 1, 1, {0}, info},
    {"list", 1, 1, {0}, list},
    {"snapshot",
     1,
     2,
     {'a', 'p', NOUN_WAIT, NOUN_UUID, NOUN_DESCRIPTION, NOUN_DISK_TYPE, NOUN_SEQUENCE},
     snapshot},
    {"merge", 1, 1, {'p', 'r', NOUN_WIPE, NOUN_WAIT, NOUN_DRY_RUN}, merge},
    {"delete", 1, 1, {'p', 'r', NOUN_WIPE, NOUN_DISCARD, NOUN_WAIT, NOUN_DRY_RUN}, delete},
    {"resize", 2, 2, {'p', NOUN_WAIT}, resize},
    {"update",
     1,
     1,
     {NOUN_WAIT, NOUN_DESCRIPTION, NOUN_DISK_TYPE, NOUN_LEGALITY, NOUN_SHARED, NOUN_GENERATION, NOUN_SEQUENCE},
     update},
    {"prepare", 1, 1, {NOUN_WAIT}, prepare},
    {"teardown", 1, 1, {NOUN_WAIT}, teardown},
    {"extend", 1, 2, {NOUN_WAIT, NOUN_DRY_RUN}, extend},
    {"reduce", 1, 1, {'p', NOUN_WAIT, NOUN_DRY_RUN}, reduce},
    {"measure", 1, 1, {'f', 'a', NOUN_WAIT}, measure},
    {"upload", 2, 3, {'f', 'p', NOUN_WAIT, NOUN_UUID, NOUN_PARENT, NOUN_DESCRIPTION, NOUN_DISK_TYPE, NOUN_SEQUENCE,
                      NOUN_DIGEST}, upload},
    {"download", 1, 2, {'p', NOUN_WAIT}, download},
    {"serve", 0, INT_MAX, {0}, misplaced},
    {NULL, 0, 0, {0}, NULL},
};

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "serve") == 0)
        return cli_volume_serve.run(&cli_volume_serve, argc - 1, argv + 1);
    return noun_run(verb, actions, argc, argv);
}

const struct cli_verb cli_volume = {
    .name = "volume",
    .summary = "Make, show, snapshot, merge, delete and change volumes.",
    .usage = "[OPTION]... ACTION NAME [SIZE]",
    .options = options,
    .notes =
        "NAME: DOMAIN/IMAGE/VOLUME, or DOMAIN/IMAGE for its leaf; DOMAIN is the path of a storage domain.\n"
        "create DOMAIN[/IMAGE] [SIZE]: a volume, and the image where there is none; its name is printed.\n"
        "snapshot DOMAIN/IMAGE [SIZE]: a qcow2 volume on the leaf. merge DOMAIN/IMAGE/VOLUME: put it into\n"
        "its parent, which grows first; then it goes. delete NAME: a leaf. resize NAME SIZE: a leaf\n"
        "becomes larger. update NAME: what its metadata says. prepare NAME: see that it can be used, and print\n"
        "the paths of its chain.\n"
        "teardown NAME: the end of that; in a volume group the image is not active then. extend NAME [SIZE]:\n"
        "set space aside. reduce NAME: give back what is behind the end of a qcow2 volume. measure NAME: what a\n"
        "copy takes.\n"
        "upload DOMAIN[/IMAGE] SIZE [SOURCE]: a volume whose file is what comes: from standard input (-), or\n"
        "a file, an export, any image as it is. download NAME [TARGET]: its file, likewise.\n"
        "info NAME, list DOMAIN[/IMAGE]: what there is. Sizes are rounded up to 4096.\n"
        "serve [OPTION]... NAME...: to NBD clients; 'vdisk-io volume serve --help' has its options.\n"
        "Exit code: 0, or 1.\n",
    .action = &cli_volume_serve,
    .run = run,
};
