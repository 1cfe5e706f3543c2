/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume group: reading it, and its one writer.
 *
 * Works: the first report says which devices the group has; from then on commands get these. The writer has an
 * open file description lock on a file of the group's name. Fails: a device of the group has gone, or another one
 * has come: the group is looked for anew, by all devices.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tools/lvm/command.h"

#define RUN_DIR "/run/vdisk-io"

/* ---- opening ------------------------------------------------------------------------------------------ */

static void free_list(char **list)
{
    for (size_t i = 0; list != NULL && list[i] != NULL; i++)
        free(list[i]);
    free(list);
}

static bool copy_list(const char *const *from, char ***ret)
{
    size_t count = 0;
    char **list;

    while (from[count] != NULL)
        count++;
    list = calloc(count + 1, sizeof *list);
    for (size_t i = 0; list != NULL && i < count; i++) {
        list[i] = strdup(from[i]);
        if (list[i] == NULL) {
            free_list(list);
            return false;
        }
    }
    *ret = list;
    return list != NULL;
}

static bool copy_how(struct lvm *l, const struct lvm_how *how)
{
    static const struct lvm_how none;

    if (how == NULL)
        how = &none;
    l->command = strdup(how->command != NULL ? how->command : "lvm");
    l->run_dir = strdup(how->run_dir != NULL ? how->run_dir : RUN_DIR);
    l->given = how->devices != NULL;
    return l->command != NULL && l->run_dir != NULL && (!l->given || copy_list(how->devices, &l->devices));
}

int lvm_open(const char *vg, const struct lvm_how *how, struct lvm **ret)
{
    struct lvm *l;

    if (vg[0] == '\0' || vg[0] == '-' || vg[0] == '@' || strlen(vg) >= LVM_NAME || strchr(vg, '/') != NULL)
        return lvm_fail(EINVAL, "'%.140s' is no name of a volume group", vg);
    l = calloc(1, sizeof *l);
    if (l == NULL || !copy_how(l, how)) {
        lvm_close(l);
        return lvm_fail(ENOMEM, "out of memory");
    }
    snprintf(l->vg, sizeof l->vg, "%s", vg);
    l->writer = -1;
    *ret = l;
    return 0;
}

void lvm_close(struct lvm *l)
{
    if (l == NULL)
        return;
    assert(l->depth == 0);
    free_list(l->devices);
    free(l->command);
    free(l->run_dir);
    free(l);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static int report(const struct lvm *l, char *const *devices, const char *vg, struct lvm_report *ret)
{
    struct lvm_command c;
    struct run_result r;
    char why[LVM_WHY];
    int rc;

    command_begin(&c, l, "fullreport", devices);
    command_add_each(&c, NULL, (const char *const[]){
        "--reportformat", "json", "--units", "b", "--nosuffix",
        "--configreport", "vg", "-o", "vg_name,vg_uuid,vg_extent_size,vg_size,vg_free,vg_tags",
        "--configreport", "pv", "-o",
        "pv_name,pv_uuid,dev_size,pv_pe_count,pv_pe_alloc_count,pe_start,pv_mda_used_count",
        "--configreport", "lv", "-o", "lv_name,lv_uuid,lv_size,lv_tags,lv_active,lv_device_open",
        "--configreport", "pvseg", "-o", "pvseg_start",
        "--configreport", "seg", "-o", "lv_name,seg_start,seg_size,segtype,devices", NULL});
    if (vg != NULL)
        command_add(&c, "%s", vg);
    rc = command_end(&c, &r, "%s", vg != NULL ? vg : "looking for volume groups");
    if (rc < 0)
        return rc;
    rc = lvm_report_parse(r.output, r.output_len, ret, why);
    run_result_free(&r);
    return rc == 0 ? 0 : lvm_fail(rc, "what lvm reports is not understood: %s", rc == -ENOMEM ? "no memory" : why);
}

int lvm_list(const struct lvm_how *how, struct lvm_report *ret)
{
    struct lvm *l;
    int rc = lvm_open("all", how, &l);

    if (rc < 0)
        return rc;
    rc = report(l, l->devices, NULL, ret);
    lvm_close(l);
    return rc;
}

static bool lacks_device(const struct lvm_vg *vg)
{
    for (size_t i = 0; i < vg->pv_count; i++)
        if (vg->pvs[i].name[0] != '/')
            return true;
    return false;
}

int lvm_keep_devices(struct lvm *l, const char *const *devices)
{
    char **list;

    if (!copy_list(devices, &list))
        return lvm_fail(ENOMEM, "out of memory");
    free_list(l->devices);
    l->devices = list;
    return 0;
}

static int keep_devices(struct lvm *l, const struct lvm_vg *vg)
{
    const char **list = calloc(vg->pv_count + 1, sizeof *list);
    int rc;

    if (list == NULL)
        return lvm_fail(ENOMEM, "out of memory");
    for (size_t i = 0; i < vg->pv_count; i++)
        list[i] = vg->pvs[i].name;
    rc = lvm_keep_devices(l, list);
    free(list);
    return rc;
}

int lvm_read(struct lvm *l, struct lvm_report *ret)
{
    struct lvm_report found = {0};
    int rc = report(l, l->devices, l->vg, &found);

    if (!l->given && l->devices != NULL && (rc == -ENOENT || (rc == 0 && found.count == 1 &&
                                                               lacks_device(&found.vgs[0])))) {
        lvm_report_free(&found);
        rc = report(l, NULL, l->vg, &found);
    }
    if (rc == 0 && found.count != 1)
        rc = lvm_fail(found.count == 0 ? ENOENT : ENOTUNIQ, "%zu volume groups are called %s", found.count, l->vg);
    if (rc == 0 && lacks_device(&found.vgs[0]))
        rc = lvm_fail(ENODEV, "volume group %s: a device of it is missing", l->vg);
    if (rc == 0 && !l->given)
        rc = keep_devices(l, &found.vgs[0]);
    if (rc < 0)
        lvm_report_free(&found);
    else
        *ret = found;
    return rc;
}

/* A file there, which somebody made who wrote to a volume that was not active, is no volume. */
bool lvm_is_active(const struct lvm *l, const char *lv)
{
    char path[PATH_MAX];
    struct stat st;

    return snprintf(path, sizeof path, "/dev/%s/%s", l->vg, lv) < (int)sizeof path && stat(path, &st) == 0 &&
           S_ISBLK(st.st_mode);
}

bool lvm_is_suspended(const struct lvm *l, const char *lv)
{
    char path[PATH_MAX], state = '0';
    struct stat st;
    int fd;

    if (snprintf(path, sizeof path, "/dev/%s/%s", l->vg, lv) >= (int)sizeof path || stat(path, &st) != 0)
        return false;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/dm/suspended", major(st.st_rdev), minor(st.st_rdev));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (read(fd, &state, 1) != 1)
        state = '0';
    close(fd);
    return state == '1';
}

int lvm_device_size(const struct lvm *l, const char *lv, uint64_t *ret)
{
    char path[PATH_MAX];
    int fd, rc = 0;

    if (snprintf(path, sizeof path, "/dev/%s/%s", l->vg, lv) >= (int)sizeof path)
        return lvm_fail(ENAMETOOLONG, "%s/%s: is too long a name", l->vg, lv);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, ret) != 0)
        rc = lvm_fail(errno, "%s: looking at its size: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

/* ---- the writer --------------------------------------------------------------------------------------- */

static int take_lock(struct lvm *l)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    char path[PATH_MAX];
    int fd, rc;

    if (mkdir(l->run_dir, 0755) != 0 && errno != EEXIST)
        return lvm_fail(errno, "%s: making the folder for locks: %s", l->run_dir, strerror(errno));
    if (snprintf(path, sizeof path, "%s/%s.lvm", l->run_dir, l->vg) >= (int)sizeof path)
        return lvm_fail(ENAMETOOLONG, "%s: is too long a path", l->run_dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return lvm_fail(errno, "%s: opening it for the lock: %s", path, strerror(errno));
    do
        rc = fcntl(fd, F_OFD_SETLKW, &lock);
    while (rc != 0 && errno == EINTR);
    if (rc != 0) {
        rc = lvm_fail(errno, "%s: locking it: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    l->writer = fd;
    return 0;
}

int lvm_begin(struct lvm *l)
{
    int rc = l->depth == 0 ? take_lock(l) : 0;

    if (rc == 0)
        l->depth++;
    return rc;
}

bool lvm_is_writer(const struct lvm *l)
{
    return l->depth > 0;
}

void lvm_end(struct lvm *l)
{
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    assert(l->depth > 0 && l->writer >= 0);
    if (--l->depth > 0)
        return;
    fcntl(l->writer, F_OFD_SETLK, &lock); /* a child that was forked meanwhile has the file, too */
    close(l->writer);
    l->writer = -1;
}
