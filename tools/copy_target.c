/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: the target is made when its size is known, unfinished, and counts when all of it is there. Fails: what
 * was made is removed, and what was there is left empty (target.h); an export, or an image of Ceph, as far as it
 * was written.
 */
#include "tools/copy_target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/distinct.h"

bool copy_is_name(const char *operand)
{
    static const char *const prefixes[] = {"nbd:", "nbd+", "nbds:", "nbds+", "rbd:", "file:", "json:"};

    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
        if (strncmp(operand, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

int copy_open_source(const struct noun *n, const char *operand, const char *format, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = format};
    char *name;
    int rc;

    if (!cli_is_volume(operand))
        return vdisk_open(operand, &how, ret) < 0 ? noun_error(n) : CLI_OK;
    how.format = NULL; /* its domain says it */
    name = cli_volume_name(n->verb, operand, NULL);
    if (name == NULL)
        return CLI_FAILED;
    rc = vdisk_open(name, &how, ret) < 0 ? noun_error(n) : CLI_OK;
    free(name);
    return rc;
}

/* ---- where a copy goes ------------------------------------------------------------------------------------ */

static int refuse(struct copy_target *t, const char *text)
{
    char line[512];

    snprintf(line, sizeof line, "%.300s: %s", t->operand, text);
    return vdisk_set_error(EINVAL, line, NULL);
}

static int make(struct copy_target *t, uint64_t size, bool *ret_zero)
{
    const struct vdisk_create_opts opts = {.size = sizeof opts, .format = t->format, .virtual_size = size,
                                           .unfinished = true};
    int rc;

    t->target.name = t->name;
    rc = target_create(&t->target, &opts);
    if (rc == 0)
        *ret_zero = target_is_zero(&t->target, &opts);
    return rc;
}

static int open_target(void *arg, const struct domain_volume *v, vdisk *source, uint64_t size, vdisk **ret,
                       bool *ret_zero)
{
    struct copy_target *t = arg;
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR};
    const struct distinct_target distinct = {.name = t->name, .is_there = t->is_there,
                                             .format = t->is_there ? NULL : t->format};
    char volume[DOMAIN_UUID], *name = volume;
    int rc = 0;

    if (cli_is_volume(t->operand) && v->meta.format != DOMAIN_RAW)
        return refuse(t, "its guest would see the bytes of a qcow2 image: 'vdisk-io convert' gives it what that "
                         "reads");
    memcpy(volume, v->uuid, sizeof volume);
    t->said = distinct_check(&source, &name, 1, &distinct) != CLI_OK;
    if (t->said)
        return -EINVAL;
    if (!t->is_there) {
        rc = make(t, size, ret_zero);
        how.flags |= VDISK_OPEN_UNFINISHED;
        how.format = t->format;
    }
    if (rc == 0)
        rc = cli_open(t->name, &how, &t->volume);
    if (rc == 0 && vdisk_size(t->volume) < size)
        return refuse(t, "output file is smaller than input file");
    *ret = t->volume;
    return rc;
}

int copy_target_begin(struct copy_target *t, const struct noun *n, const char *operand, const char *format)
{
    *t = (struct copy_target){.noun = n, .operand = operand, .format = format != NULL ? format : "raw",
                              .is_there = cli_is_volume(operand) || strncmp(operand, "json:", 5) == 0};
    t->how = (struct domain_target){.open = open_target, .arg = t};
    if (t->is_there && format != NULL)
        return cli_usage_error(n->verb, "-f: '%s' says its format", operand);
    t->name = cli_is_volume(operand) ? cli_volume_name(n->verb, operand, NULL) : cli_strdup(operand);
    return t->name != NULL ? CLI_OK : CLI_FAILED;
}

/* What the library said is kept, since undoing may say something else. */
static void fail(struct copy_target *t)
{
    char *text = cli_strdup(vdisk_error_text()), *hint = cli_strdup(vdisk_error_hint());

    vdisk_close(t->volume);
    if (!t->is_there)
        target_undo(&t->target);
    if (!t->said) {
        cli_error("%s%s", text, t->target.left);
        if (hint[0] != '\0')
            fprintf(stderr, "%s: hint: %s\n", cli_program(), hint);
    }
    free(text);
    free(hint);
}

int copy_target_end(struct copy_target *t, int rc)
{
    if (rc == 0 && t->volume != NULL && !t->is_there)
        rc = vdisk_finish(t->volume);
    if (rc == 0 && t->volume != NULL) {
        rc = vdisk_close(t->volume);
        t->volume = NULL;
    }
    if (rc < 0)
        fail(t);
    target_free(&t->target);
    free(t->name);
    return rc < 0 ? CLI_FAILED : CLI_OK;
}
