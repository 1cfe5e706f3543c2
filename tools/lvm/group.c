/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volume groups as a whole.
 *
 * Works: devices become physical volumes, with room for two copies of large metadata each, of which only those of
 * the first device are in use; then the group is made of them. Fails: devices that have something, or are another
 * group's; what was made is undone.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <vdisk-image.h>

#include "tools/lvm/command.h"

static void drop_devices(const struct lvm *l, const char *const *devices)
{
    struct lvm_command c;

    command_begin(&c, l, "pvremove", (char *const *)(uintptr_t)devices);
    command_add(&c, "--yes");
    command_add_each(&c, NULL, devices);
    command_end(&c, NULL, "%s", devices[0]);
}

static int make_devices(const struct lvm *l, const struct lvm_group *o, bool *ret_made)
{
    struct lvm_command c;
    int rc;

    command_begin(&c, l, "pvcreate", (char *const *)(uintptr_t)o->devices);
    command_add(&c, "--metadatasize");
    command_add(&c, "%" PRIu64 "b", o->metadata_size);
    command_add_each(&c, NULL, (const char *const[]){"--metadatacopies", "2", "--metadataignore", "y", NULL});
    command_add_each(&c, NULL, o->devices);
    rc = command_end(&c, NULL, "%s", o->devices[0]);
    *ret_made = rc == 0;
    if (rc < 0)
        return rc;
    command_begin(&c, l, "pvchange", (char *const *)(uintptr_t)o->devices);
    command_add_each(&c, NULL, (const char *const[]){"--metadataignore", "n", o->devices[0], NULL});
    return command_end(&c, NULL, "%s", o->devices[0]);
}

static int make_group(const struct lvm *l, const struct lvm_group *o)
{
    struct lvm_command c;

    command_begin(&c, l, "vgcreate", (char *const *)(uintptr_t)o->devices);
    command_add_each(&c, NULL, (const char *const[]){"--autobackup", "n", "--setautoactivation", "n",
                                                     "--physicalextentsize", NULL});
    command_add(&c, "%" PRIu64 "b", o->extent_size);
    command_add_each(&c, "--addtag", o->tags);
    command_add(&c, "%s", l->vg);
    command_add_each(&c, NULL, o->devices);
    return command_end(&c, NULL, "making volume group %s", l->vg);
}

int lvm_make_group(struct lvm *l, const struct lvm_group *o)
{
    char text[1024];
    bool made = false;
    int rc = make_devices(l, o, &made);

    if (rc == 0)
        rc = make_group(l, o);
    if (rc == 0)
        return lvm_keep_devices(l, o->devices);
    snprintf(text, sizeof text, "%s", vdisk_error_text());
    if (made)
        drop_devices(l, o->devices);
    return lvm_fail(rc, "%s", text);
}

int lvm_drop_group(struct lvm *l, bool devices)
{
    struct lvm_command c;
    int rc;

    command_begin(&c, l, "vgremove", l->devices);
    command_add_each(&c, NULL, (const char *const[]){"--yes", "--force", "--autobackup", "n", NULL});
    command_add(&c, "%s", l->vg);
    rc = command_end(&c, NULL, "removing volume group %s", l->vg);
    if (rc == 0 && devices && l->devices != NULL)
        drop_devices(l, (const char *const *)l->devices);
    return rc;
}

int lvm_rename_group(struct lvm *l, const char *name)
{
    struct lvm_command c;
    int rc;

    command_begin(&c, l, "vgrename", l->devices);
    command_add_each(&c, NULL, (const char *const[]){"--autobackup", "n", l->vg, name, NULL});
    rc = command_end(&c, NULL, "renaming volume group %s", l->vg);
    if (rc == 0)
        snprintf(l->vg, sizeof l->vg, "%s", name);
    return rc;
}
