/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "volume:DOMAIN/IMAGE/VOLUME" as the name of an image.
 *
 * Works: the domain's metadata tells the file and its format; the image is in use until the program ends. Fails:
 * there is no such volume, it is not LEGAL, or the verb would change what the metadata says of it. A thin one in a
 * volume group grows while it is open for writing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/domain/domain.h"

bool cli_is_volume(const char *operand)
{
    return domain_is_name(operand);
}

/* What is to be done in place of a verb that would leave the metadata behind; NULL: it does not. */
static const char *instead_of(const char *verb)
{
    static const char *const verbs[][2] = {
        {"resize", "'vdisk-io volume resize' does"},
        {"commit", "'vdisk-io volume merge' does"},
        {"rebase", "'vdisk-io volume merge' does, and so does 'vdisk-io image clone'"},
        {"amend", "the metadata of its domain says what it is"},
        {"snapshot", "'vdisk-io volume snapshot' has a new volume lie on it, which is written to from then on"},
        {"bitmap", "what is written after 'vdisk-io volume snapshot' is in a volume of its own"},
    };

    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(verb, verbs[i][0]) == 0)
            return verbs[i][1];
    return NULL;
}

/* ---- uses: until the program ends ------------------------------------------------------------------------ */

static struct kept {
    struct domain_use *use;
    char              *name; /* that it was given, or NULL: it has its path only */
    char              *operand; /* of the command line */
} *uses;
static size_t use_count;

static void end_uses(void)
{
    for (size_t i = 0; i < use_count; i++) {
        domain_use_end(uses[i].use);
        free(uses[i].name);
        free(uses[i].operand);
    }
    free(uses);
    use_count = 0;
}

/* One that is not kept ends with the process all the same. */
static void keep(struct domain_use *use, const char *name, const char *operand)
{
    struct kept *list = reallocarray(uses, use_count + 1, sizeof *list);

    if (list == NULL)
        return;
    if (uses == NULL)
        atexit(end_uses);
    uses = list;
    uses[use_count++] = (struct kept){use, name != NULL ? cli_strdup(name) : NULL, cli_strdup(operand)};
    cli_printable(uses[use_count - 1].operand);
}

/* ---- as they were given ---------------------------------------------------------------------------------- */

const char *cli_given_name(const char *name)
{
    for (size_t i = 0; i < use_count; i++)
        if (uses[i].name != NULL && strcmp(uses[i].name, name) == 0)
            return uses[i].operand;
    return name;
}

/* The one that comes first in it. */
static const struct kept *find_kept(const char *text, const char **ret_at)
{
    const struct kept *found = NULL;

    for (size_t i = 0; i < use_count; i++) {
        const char *at = uses[i].name != NULL ? strstr(text, uses[i].name) : NULL;
        if (at != NULL && (found == NULL || at < *ret_at)) {
            found = &uses[i];
            *ret_at = at;
        }
    }
    return found;
}

void cli_put_given(FILE *f, const char *text)
{
    const char *at = NULL;

    for (const struct kept *k; (k = find_kept(text, &at)) != NULL; text = at + strlen(k->name))
        fprintf(f, "%.*s%s", (int)(at - text), text, k->operand);
    fputs(text, f);
}

/* ---- volumes that grow ----------------------------------------------------------------------------------- */

static void tell(void *arg, const char *text)
{
    (void)arg;
    cli_warn("more space cannot be had: %s", text);
}

/* NULL: it is no name that was made here. */
static struct domain_use *use_of(const char *name)
{
    for (size_t i = use_count; i > 0; i--)
        if (uses[i - 1].name != NULL && strcmp(uses[i - 1].name, name) == 0)
            return uses[i - 1].use;
    return NULL;
}

int cli_open(const char *name, const struct vdisk_open_opts *how, vdisk **ret)
{
    const struct domain_grow grow = {.note = tell};
    struct domain_use *use = how->flags & VDISK_OPEN_RDWR ? use_of(name) : NULL;
    char text[512], hint[256];
    vdisk *v = NULL;
    int rc = vdisk_open(name, how, &v);

    if (rc == 0 && use != NULL)
        rc = domain_use_grow(use, v, &grow);
    if (rc == 0) {
        *ret = v;
    } else if (v != NULL) {
        snprintf(text, sizeof text, "%s", vdisk_error_text());
        snprintf(hint, sizeof hint, "%s", vdisk_error_hint());
        vdisk_close(v);
        vdisk_set_error(rc, text, hint);
    }
    return rc;
}

bool cli_refuses_volume(const struct cli_verb *verb, const char *operand)
{
    const char *instead = instead_of(verb->name);

    if (instead != NULL)
        cli_usage_error(verb, "'%s': does not change volumes of domains: %s", operand, instead);
    return instead != NULL;
}

char *cli_volume_name(const struct cli_verb *verb, const char *operand, const char *option)
{
    struct domain_use *use;
    char *name;

    if (cli_refuses_volume(verb, operand))
        return NULL;
    if (option != NULL) {
        cli_usage_error(verb, "'%s': its domain says its format: leave out %s", operand, option);
        return NULL;
    }
    if (domain_open_name(operand, &name, &use) < 0) {
        cli_library_error();
        return NULL;
    }
    keep(use, name, operand);
    return name;
}

int cli_volume_use(const char *operand, const struct domain_use_opts *o, const char **ret_name,
                   struct domain_use **ret_use)
{
    char *name;
    int rc = domain_open_use(operand, o, &name, ret_use);

    if (rc < 0)
        return rc;
    keep(*ret_use, name, operand);
    *ret_name = name;
    if (use_count > 0 && uses[use_count - 1].use == *ret_use) {
        *ret_name = uses[use_count - 1].name;
        free(name);
    }
    return 0;
}

char *cli_volume_path(const char *operand, const char **ret_format)
{
    struct domain_use *use;
    char *path;

    if (domain_open_path(operand, &path, ret_format, &use) < 0) {
        cli_library_error();
        return NULL;
    }
    keep(use, NULL, operand);
    return path;
}
