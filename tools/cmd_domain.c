/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * domain: make, show, list, check and upgrade storage domains.
 *
 * Works: tools/domain/ does it. Fails: one line that says what is wrong, and where. check exits with 2 when faults
 * are left.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/noun.h"

enum { FAULTS_LEFT = 2 };

static const struct cli_option options[] = {
    NOUN_OUTPUT_OPTION,
    NOUN_QUIET_OPTION,
    NOUN_WAIT_OPTION,
    {NOUN_TYPE, "type", "TYPE", "create: localfs (default); nfs: mounted, or SERVER:/PATH; block: of devices"},
    {NOUN_VG, "vg", "VG", "create: in this volume group, which is empty; it gets the domain's UUID as its name"},
    {NOUN_DESCRIPTION, "description", "TEXT", "create: what it is called"},
    {NOUN_UUID, "uuid", "UUID", "create: the domain's UUID; otherwise a new one"},
    {NOUN_REMOTE_PATH, "remote-path", "TEXT", "create: REMOTE_PATH; otherwise what is mounted, or PATH"},
    {NOUN_DOMAIN_VERSION, "domain-version", "N", "create: 5 (default), 4 or 3"},
    {NOUN_MOUNT_OPTIONS, "mount-options", "TEXT", "create: of SERVER:/PATH, for mount -o"},
    {NOUN_LOCKSPACE, "lockspace", NULL, "create: of nfs, block: sanlock, which has to run, makes the lockspace"},
    {NOUN_HOST_ID, "host-id", "N", "join: this host's number, 1 to 2000, which no other host has"},
    {NOUN_REPAIR, "repair", NULL, "check: end or undo what was left, and mend metadata"},
    {0, NULL, NULL, NULL},
};

/* ---- create ------------------------------------------------------------------------------------------------ */

enum { TYPE_LOCALFS, TYPE_NFS, TYPE_BLOCK };

/* Of a group that is there, or of devices. */
static int create_block(struct noun *n, const struct domain_create *o, char **operands, char uuid[DOMAIN_UUID])
{
    const char *group = n->given[NOUN_VG];
    const char *const *devices = group == NULL ? (const char *const *)operands : NULL;

    if (n->given[NOUN_REMOTE_PATH] != NULL)
        return cli_usage_error(n->verb, "create: --remote-path is of domains in folders");
    if ((group != NULL) == (operands[0] != NULL))
        return cli_usage_error(n->verb, "create: a domain in a volume group takes devices, or --vg");
    return domain_create_block(o, devices, group, &n->how, uuid) < 0 ? noun_error(n) : CLI_OK;
}

static int create_file(struct noun *n, const struct domain_create *o, int count, char uuid[DOMAIN_UUID])
{
    if (count != 1)
        return cli_usage_error(n->verb, "create: a domain in a folder takes one path");
    return domain_create(o, &n->how, uuid) < 0 ? noun_error(n) : CLI_OK;
}

static int create(struct noun *n, char **operands, int count)
{
    static const char *const types[] = {"localfs", "nfs", "block", NULL};
    static const char *const names[] = {"LOCALFS", "NFS", NULL};
    struct domain_create o = {.path = operands[0], .description = n->given[NOUN_DESCRIPTION],
                              .uuid = n->given[NOUN_UUID], .remote_path = n->given[NOUN_REMOTE_PATH],
                              .lockspace = n->given[NOUN_LOCKSPACE] != NULL,
                              .mount_options = n->given[NOUN_MOUNT_OPTIONS]};
    char uuid[DOMAIN_UUID];
    uint64_t version = 0;
    int type = n->given[NOUN_VG] != NULL ? TYPE_BLOCK : TYPE_LOCALFS, rc;

    if (n->given[NOUN_TYPE] != NULL && !noun_word(n, "--type", n->given[NOUN_TYPE], types, &type))
        return CLI_FAILED;
    if (n->given[NOUN_DOMAIN_VERSION] != NULL &&
        !noun_number(n, NOUN_DOMAIN_VERSION, "--domain-version", 99, &version))
        return CLI_FAILED;
    o.type = names[type];
    o.version = (unsigned)version;
    if (type != TYPE_BLOCK && n->given[NOUN_VG] != NULL)
        return cli_usage_error(n->verb, "create: --vg is of domains of type block");
    rc = type == TYPE_BLOCK ? create_block(n, &o, operands, uuid) : create_file(n, &o, count, uuid);
    if (rc != CLI_OK)
        return rc;
    if (n->json)
        return cli_json_print(json_pack("{s:s}", "uuid", uuid));
    if (!n->quiet)
        printf("%s\n", uuid);
    return CLI_OK;
}

/* ---- info and list ------------------------------------------------------------------------------------------ */

static json_t *domain_json(struct domain *d)
{
    json_t *json = json_object(), *metadata = json_object();
    struct domain_lockspace lockspace;
    struct domain_space space = {0};
    const char *key, *value;
    int rc;

    json_object_set_new(json, "uuid", json_string(domain_uuid(d)));
    json_object_set_new(json, "path", cli_json_string(domain_path(d)));
    json_object_set_new(json, "kind", json_string(domain_kind(d)));
    json_object_set_new(json, "version", json_integer((json_int_t)domain_version(d)));
    if (domain_get_space(d, &space) == 0) {
        json_object_set_new(json, "size", json_integer((json_int_t)space.size));
        json_object_set_new(json, "available", json_integer((json_int_t)space.available));
    }
    for (size_t i = 0; domain_pair(d, i, &key, &value); i++)
        json_object_set_new(metadata, key, cli_json_string(value));
    json_object_set_new(json, "metadata", metadata);
    rc = domain_get_lockspace(d, &lockspace);
    if (rc < 0)
        json_object_set_new(json, "lockspace", json_pack("{s:o}", "error", cli_json_string(vdisk_error_text())));
    else if (rc > 0)
        json_object_set_new(json, "lockspace",
                            lockspace.known ? json_pack("{s:I}", "host-id", (json_int_t)lockspace.host)
                                            : json_pack("{s:n}", "host-id"));
    return json;
}

static void print_lockspace(struct domain *d)
{
    struct domain_lockspace lockspace;
    int rc;

    rc = domain_get_lockspace(d, &lockspace);
    if (rc < 0)
        printf("lockspace: %s\n", vdisk_error_text());
    if (rc <= 0)
        return;
    if (lockspace.host != 0)
        printf("lockspace: this host is host %u\n", lockspace.host);
    else
        printf("lockspace: %s\n", lockspace.known ? "this host has not joined" : "sanlock does not answer");
}

static void print_value(struct domain *d, const char *what, const char *key)
{
    const char *value = domain_value(d, key);
    char *text = cli_strdup(value != NULL ? value : "");

    if (text[0] != '\0')
        printf("%s: %s\n", what, cli_printable(text));
    free(text);
}

static void print_domain(struct domain *d)
{
    struct domain_space space = {0};
    char size[32], available[32], *path = cli_strdup(domain_path(d));

    printf("domain: %s\npath: %s\n", domain_uuid(d), cli_printable(path));
    free(path);
    print_value(d, "type", "TYPE");
    print_value(d, "version", "VERSION");
    print_value(d, "class", "CLASS");
    print_value(d, "role", "ROLE");
    print_value(d, "description", "DESCRIPTION");
    print_value(d, "remote path", "REMOTE_PATH");
    print_value(d, "pool", "POOL_UUID");
    print_value(d, "block size", "BLOCK_SIZE");
    print_value(d, "alignment", "ALIGNMENT");
    print_lockspace(d);
    if (domain_get_space(d, &space) == 0)
        printf("space: %s, %s available\n", cli_format_size(space.size, size, sizeof size),
               cli_format_size(space.available, available, sizeof available));
}

static int info(struct noun *n, char **operands, int count)
{
    struct domain *d;
    int rc = CLI_OK;

    (void)count;
    if (domain_open(operands[0], &n->how, &d) < 0)
        return noun_error(n);
    if (n->json)
        rc = cli_json_print(domain_json(d));
    else if (!n->quiet)
        print_domain(d);
    domain_close(d);
    return rc;
}

struct listing {
    const struct noun *noun;
    json_t            *list; /* NULL: printed at once */
    int                rc;
};

/* One that cannot be opened does not hide the others. */
static int list_one(void *arg, const char *path)
{
    struct listing *l = arg;
    struct domain *d;
    char *text;

    if (domain_open(path, &l->noun->how, &d) < 0) {
        l->rc = noun_error(l->noun);
        return 0;
    }
    text = cli_strdup(path);
    if (l->list != NULL)
        json_array_append_new(l->list, domain_json(d));
    else
        printf("%s  %s version %u  %s\n", domain_uuid(d),
               domain_value(d, "TYPE") != NULL ? domain_value(d, "TYPE") : "?", domain_version(d),
               cli_printable(text));
    free(text);
    domain_close(d);
    return 0;
}

static int list(struct noun *n, char **operands, int count)
{
    struct listing l = {.noun = n, .list = n->json ? json_array() : NULL, .rc = CLI_OK};
    int rc = CLI_OK;

    for (int i = 0; i < count; i++)
        if (domain_find(operands[i], list_one, &l) < 0)
            l.rc = noun_error(n);
    if (l.list != NULL)
        rc = cli_json_print(l.list);
    return rc == CLI_OK ? l.rc : rc;
}

/* ---- check -------------------------------------------------------------------------------------------------- */

struct report {
    const struct noun *noun;
    json_t            *list;
};

static void report(void *arg, enum vdisk_finding kind, const char *text)
{
    static const char *const words[] = {
        [VDISK_FOUND_CORRUPTION] = "fault", [VDISK_FOUND_LEAK] = "leftover", [VDISK_FOUND_ERROR] = "error",
        [VDISK_FOUND_NOTE] = "note", [VDISK_FOUND_FIXED] = "mended",
    };
    struct report *r = arg;
    char *copy;

    if (r->list != NULL) {
        json_t *finding = json_object();
        json_object_set_new(finding, "kind", json_string(words[kind]));
        json_object_set_new(finding, "text", cli_json_string(text));
        json_array_append_new(r->list, finding);
    } else if (!r->noun->quiet) {
        copy = cli_strdup(text);
        printf("%s: %s\n", words[kind], cli_printable(copy));
        free(copy);
    }
}

static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

static int print_result(const struct noun *n, struct report *r, const struct domain_check_result *result)
{
    if (r->list != NULL)
        return cli_json_print(json_pack("{s:I, s:I, s:I, s:I, s:I, s:o}", "image-count",
                                        (json_int_t)result->images, "volume-count", (json_int_t)result->volumes,
                                        "faults", (json_int_t)result->faults, "mended", (json_int_t)result->mended,
                                        "skipped", (json_int_t)result->skipped, "findings", r->list));
    if (!n->quiet)
        printf("%zu image%s, %zu volume%s: %zu fault%s, %zu mended\n", result->images, plural(result->images),
               result->volumes, plural(result->volumes), result->faults, plural(result->faults), result->mended);
    if (!n->quiet && result->skipped > 0)
        printf("%zu image%s in use, and not looked at\n", result->skipped,
               result->skipped == 1 ? " was" : "s were");
    return CLI_OK;
}

static int check(struct noun *n, char **operands, int count)
{
    struct report r = {.noun = n, .list = n->json ? json_array() : NULL};
    struct domain_check o = {.repair = n->given[NOUN_REPAIR] != NULL, .report = report, .report_arg = &r};
    struct domain_check_result result;
    struct domain *d;
    int rc;

    (void)count;
    if (domain_open(operands[0], &n->how, &d) < 0)
        return noun_error(n);
    rc = domain_check(d, &o, &result);
    domain_close(d);
    if (rc < 0) {
        json_decref(r.list);
        return noun_error(n);
    }
    rc = print_result(n, &r, &result);
    return rc == CLI_OK && result.faults > result.mended ? FAULTS_LEFT : rc;
}

/* ---- upgrade ------------------------------------------------------------------------------------------------ */

static int upgrade(struct noun *n, char **operands, int count)
{
    struct domain *d;
    unsigned before;
    int rc;

    (void)count;
    if (domain_open(operands[0], &n->how, &d) < 0)
        return noun_error(n);
    before = domain_version(d);
    rc = domain_upgrade(d) < 0 ? noun_error(n) : CLI_OK;
    if (rc == CLI_OK && n->json)
        rc = cli_json_print(json_pack("{s:s, s:I, s:I}", "uuid", domain_uuid(d), "version-before",
                                      (json_int_t)before, "version", (json_int_t)domain_version(d)));
    else if (rc == CLI_OK && !n->quiet)
        printf("%s: version %u%s\n", domain_uuid(d), domain_version(d), before == 5 ? ", as before" : "");
    domain_close(d);
    return rc;
}

/* ---- join and leave ----------------------------------------------------------------------------------------- */

/* As "lockspace" of info has it: 0 is none. */
static int print_host(const struct noun *n, const struct domain *d, uint64_t host)
{
    return n->json ? cli_json_print(json_pack("{s:s, s:I}", "uuid", domain_uuid(d), "host-id", (json_int_t)host))
                   : CLI_OK;
}

static int join(struct noun *n, char **operands, int count)
{
    struct domain *d;
    uint64_t host = 0;
    int rc;

    (void)count;
    if (n->given[NOUN_HOST_ID] == NULL)
        return cli_usage_error(n->verb, "join: --host-id is missing");
    if (!noun_number(n, NOUN_HOST_ID, "--host-id", 2000, &host))
        return CLI_FAILED;
    if (domain_open(operands[0], &n->how, &d) < 0)
        return noun_error(n);
    rc = domain_join(d, (unsigned)host) < 0 ? noun_error(n) : print_host(n, d, host);
    domain_close(d);
    return rc;
}

static int leave(struct noun *n, char **operands, int count)
{
    struct domain *d;
    int rc;

    (void)count;
    if (domain_open(operands[0], &n->how, &d) < 0)
        return noun_error(n);
    rc = domain_leave(d) < 0 ? noun_error(n) : print_host(n, d, 0);
    domain_close(d);
    return rc;
}

/* ---- command line ------------------------------------------------------------------------------------------- */

static const struct noun_action actions[] = {
    {"create",
     0,
     10,
     {NOUN_TYPE, NOUN_VG, NOUN_DESCRIPTION, NOUN_UUID, NOUN_REMOTE_PATH, NOUN_DOMAIN_VERSION, NOUN_LOCKSPACE,
      NOUN_MOUNT_OPTIONS},
     create},
    {"info", 1, 1, {0}, info},
    {"list", 1, 1000, {0}, list},
    {"check", 1, 1, {NOUN_REPAIR, NOUN_WAIT}, check},
    {"upgrade", 1, 1, {NOUN_WAIT}, upgrade},
    {"join", 1, 1, {NOUN_HOST_ID}, join},
    {"leave", 1, 1, {0}, leave},
    {NULL, 0, 0, {0}, NULL},
};

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    return noun_run(verb, actions, argc, argv);
}

const struct cli_verb cli_domain = {
    .name = "domain",
    .summary = "Make, show, list, check and upgrade storage domains.",
    .usage = "[OPTION]... create|info|list|check|upgrade|join|leave PATH...",
    .options = options,
    .notes =
        "create PATH: a new domain, in a folder of PATH that has its UUID, which is printed. create --type block\n"
        "DEVICE..., create --vg VG: one in a volume group, /dev/UUID, by lvm. info PATH: what it is. list\n"
        "PATH...: the domains there; /dev has those in volume groups. check PATH: leftovers of commands that\n"
        "were killed, volumes and metadata that disagree. upgrade PATH: one of version 3 or 4 becomes one of\n"
        "version 5. join PATH, leave PATH: this host comes into the domain's lockspace, or leaves it.\n"
        "PATH of a domain is its folder, or one in which it is the only one; or /dev/UUID.\n"
        "Exit code: 0; 1; check: 2 when faults are left.\n",
    .run = run,
};
