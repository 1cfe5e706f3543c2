/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of a volume group: one command each.
 *
 * Works: lvm writes its metadata once a command, or once for each volume that is named. Fails: as lvm says; it has
 * happened then for none, or for those that were named first.
 *
 * Invariant: 1. who changes a group is its writer.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/lvm/command.h"

static void begin(struct lvm_command *c, const struct lvm *l, const char *name)
{
    assert(l->depth > 0 && l->writer >= 0); /* (1) */
    command_begin(c, l, name, l->devices);
}

static void add_names(struct lvm_command *c, const struct lvm *l, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        command_add(c, "%s/%s", l->vg, names[i]);
}

/* ---- volumes ------------------------------------------------------------------------------------------ */

int lvm_create(struct lvm *l, const struct lvm_new *o)
{
    struct lvm_command c;

    begin(&c, l, "lvcreate");
    command_add_each(&c, NULL, (const char *const[]){"--yes", "--autobackup", "n", "--contiguous", "n", "--zero",
                                                     "n", "--wipesignatures", "n", "--activate", NULL});
    command_add(&c, o->active ? "y" : "n");
    command_add(&c, "--size");
    command_add(&c, "%" PRIu64 "b", o->size);
    command_add_each(&c, "--addtag", o->tags);
    command_add(&c, "--name");
    command_add(&c, "%s", o->name);
    command_add(&c, "%s", l->vg);
    if (o->device != NULL)
        command_add(&c, "%s", o->device);
    return command_end(&c, NULL, "making volume %s of %" PRIu64 " bytes", o->name, o->size);
}

int lvm_remove(struct lvm *l, const char *const *names, size_t n)
{
    struct lvm_command c;

    if (n == 0)
        return 0;
    begin(&c, l, "lvremove");
    command_add_each(&c, NULL, (const char *const[]){"--yes", "--force", "--autobackup", "n", NULL});
    add_names(&c, l, names, n);
    return command_end(&c, NULL, "removing volume %s%s", names[0], n > 1 ? " and others" : "");
}

static int set_active(struct lvm *l, const char *const *names, size_t n, bool active)
{
    struct lvm_command c;

    if (n == 0)
        return 0;
    begin(&c, l, "lvchange");
    command_add_each(&c, NULL, (const char *const[]){"--yes", "--autobackup", "n", "--activate", NULL});
    command_add(&c, active ? "y" : "n");
    add_names(&c, l, names, n);
    return command_end(&c, NULL, "%s volume %s%s", active ? "activating" : "deactivating", names[0],
                       n > 1 ? " and others" : "");
}

int lvm_activate(struct lvm *l, const char *const *names, size_t n)
{
    if (n > 0 && !lvm_can_activate())
        return lvm_fail(ENOTSUP, "volume %s/%s cannot be used: this kernel has no device-mapper", l->vg, names[0]);
    return set_active(l, names, n, true);
}

int lvm_deactivate(struct lvm *l, const char *const *names, size_t n)
{
    return set_active(l, names, n, false);
}

static int set_size(struct lvm *l, const char *command, const char *name, uint64_t size)
{
    struct lvm_command c;

    begin(&c, l, command);
    command_add_each(&c, NULL, (const char *const[]){"--yes", "--autobackup", "n", NULL});
    if (strcmp(command, "lvreduce") == 0)
        command_add(&c, "--force");
    command_add(&c, "--size");
    command_add(&c, "%" PRIu64 "b", size);
    command_add(&c, "%s/%s", l->vg, name);
    return command_end(&c, NULL, "giving volume %s %" PRIu64 " bytes", name, size);
}

int lvm_extend(struct lvm *l, const char *name, uint64_t size)
{
    return set_size(l, "lvextend", name, size);
}

int lvm_reduce(struct lvm *l, const char *name, uint64_t size)
{
    return set_size(l, "lvreduce", name, size);
}

int lvm_refresh(struct lvm *l, const char *const *names, size_t n)
{
    struct lvm_command c;

    if (n == 0)
        return 0;
    begin(&c, l, "lvchange");
    command_add_each(&c, NULL, (const char *const[]){"--autobackup", "n", "--refresh", NULL});
    add_names(&c, l, names, n);
    return command_end(&c, NULL, "refreshing volume %s%s", names[0], n > 1 ? " and others" : "");
}

/* ---- tags --------------------------------------------------------------------------------------------- */

static bool has_any(const char *const *list)
{
    return list != NULL && list[0] != NULL;
}

int lvm_retag(struct lvm *l, const char *const *names, size_t n, const char *const *add, const char *const *drop)
{
    struct lvm_command c;

    if (n == 0 || (!has_any(add) && !has_any(drop)))
        return 0;
    begin(&c, l, "lvchange");
    command_add_each(&c, NULL, (const char *const[]){"--autobackup", "n", NULL});
    command_add_each(&c, "--addtag", add);
    command_add_each(&c, "--deltag", drop);
    add_names(&c, l, names, n);
    return command_end(&c, NULL, "tagging volume %s%s", names[0], n > 1 ? " and others" : "");
}

int lvm_retag_group(struct lvm *l, const char *const *add, const char *const *drop)
{
    struct lvm_command c;

    if (!has_any(add) && !has_any(drop))
        return 0;
    begin(&c, l, "vgchange");
    command_add_each(&c, NULL, (const char *const[]){"--autobackup", "n", NULL});
    command_add_each(&c, "--addtag", add);
    command_add_each(&c, "--deltag", drop);
    command_add(&c, "%s", l->vg);
    return command_end(&c, NULL, "tagging volume group %s", l->vg);
}

int lvm_never_activate(struct lvm *l)
{
    struct lvm_command c;

    begin(&c, l, "vgchange");
    command_add_each(&c, NULL, (const char *const[]){"--autobackup", "n", "--setautoactivation", "n", NULL});
    command_add(&c, "%s", l->vg);
    return command_end(&c, NULL, "volume group %s: not to be activated by itself", l->vg);
}
