/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume group as a domain: what was reported of it, and what the tags of its volumes say.
 *
 * Works: one report answers what is asked until something is changed. Fails: there is no such group; it is no
 * domain.
 */
#include "tools/domain/block.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "/dev/UUID", or "UUID". */
static const char *group_of(const struct domain *d)
{
    const char *slash = strrchr(d->path, '/');

    return slash != NULL ? slash + 1 : d->path;
}

int block_open(struct domain *d)
{
    struct block_state *s;
    int rc;

    if (d->state != NULL)
        return 0;
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    s->slots = s->active = -1;
    rc = lvm_open(group_of(d), NULL, &s->lvm);
    if (rc < 0)
        free(s);
    else
        d->state = s;
    return rc;
}

static void forget(struct block_state *s)
{
    lvm_report_free(&s->report);
    free(s->list);
    s->list = NULL;
    s->count = 0;
    s->fresh = false;
}

void block_free(struct domain *d)
{
    struct block_state *s = d->state;

    if (s->slots >= 0)
        close(s->slots);
    if (s->active >= 0)
        close(s->active);
    forget(s);
    free(s->used);
    lvm_close(s->lvm);
    free(s);
    d->state = NULL;
}

static int take_list(struct block_state *s)
{
    const struct lvm_vg *vg = &s->report.vgs[0];
    const char *version = lvm_tag_value(&vg->tags, TEXT_TAG_PAIR "VERSION=");

    s->version = version != NULL && strlen(version) == 1 ? (unsigned)(version[0] - '0') : 5;
    s->list = calloc(vg->lv_count + 1, sizeof *s->list);
    if (s->list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; i < vg->lv_count; i++) {
        struct block_lv *b = &s->list[s->count++];
        b->lv = &vg->lvs[i];
        text_lv_parse(b->lv->name, b->lv->tags.list, b->lv->tags.count, s->version, &b->is);
    }
    return 0;
}

int block_refresh(struct domain *d)
{
    struct block_state *s = d->state;
    int rc;

    if (s->fresh)
        return 0;
    forget(s);
    rc = lvm_read(s->lvm, &s->report);
    if (rc == -ENOENT && s->known) /* not to be taken for a volume, or an image, that is not there */
        rc = dom_fail(ENODEV, NULL, "volume group %s, which was there before, is not found", group_of(d));
    if (rc == 0)
        rc = take_list(s);
    s->known = s->known || rc == 0;
    s->fresh = rc == 0;
    if (rc == 0)
        d->extent = s->report.vgs[0].extent_size;
    return rc;
}

void block_stale(struct domain *d)
{
    struct block_state *s = d->state;

    s->fresh = false;
}

const struct lvm_vg *block_vg(const struct domain *d)
{
    const struct block_state *s = d->state;

    assert(s->fresh && s->report.count == 1);
    return &s->report.vgs[0];
}

struct block_lv *block_find(const struct domain *d, const char *volume)
{
    const struct block_state *s = d->state;
    const struct lvm_lv *lv = lvm_find_lv(block_vg(d), volume);

    return lv != NULL ? &s->list[lv - s->report.vgs[0].lvs] : NULL;
}

const char *block_take_apart(const char *image, bool *ret_removed)
{
    const char *uuid = dom_removed_uuid(image, NULL);

    *ret_removed = uuid != NULL;
    return uuid != NULL ? uuid : image;
}

bool block_is_going(const struct domain *d, const char *image)
{
    const struct block_state *s = d->state;

    for (size_t i = 0; i < s->count; i++)
        if (s->list[i].is.going && strcmp(s->list[i].is.image, image) == 0)
            return true;
    return false;
}

bool block_is_of(const struct domain *d, const struct block_lv *b, const char *image, bool removed)
{
    if (!b->is.volume || strcmp(b->is.image, image) != 0)
        return false;
    return removed == (b->is.removed || block_is_going(d, image));
}

bool block_is_wiped(const struct domain *d, const char *image)
{
    const struct block_state *s = d->state;

    for (size_t i = 0; i < s->count; i++)
        if (s->list[i].is.wiped && strcmp(s->list[i].is.image, image) == 0)
            return true;
    return false;
}

bool block_slot_is_own(const struct domain *d, const struct block_lv *b)
{
    const struct block_state *s = d->state;

    for (size_t i = 0; i < s->count; i++)
        if (&s->list[i] != b && s->list[i].is.slot == b->is.slot)
            return false;
    return b->is.slot != 0;
}

/* A folder each. Nothing in them outlives the host's next start, as nothing that is active does. */
int block_open_device(const char *path, int flags, int *ret_fd)
{
    int fd = open(path, flags);
    struct stat st;

    if (fd < 0)
        return dom_fail_file(errno, path, "opening it");
    if (fstat(fd, &st) != 0 || !S_ISBLK(st.st_mode)) {
        close(fd);
        return dom_fail(ENOTBLK, "move it away: it is what was written here while the volume was not active",
                        "%s: is no block device, but a file in the place of one", path);
    }
    *ret_fd = fd;
    return 0;
}

int block_run_path(const struct domain *d, const char *name, char ret[PATH_MAX])
{
    if (mkdir(BLOCK_RUN_DIR, 0755) != 0 && errno != EEXIST)
        return dom_fail_file(errno, BLOCK_RUN_DIR, "making the folder for locks");
    snprintf(ret, PATH_MAX, BLOCK_RUN_DIR "/%s", group_of(d));
    if (mkdir(ret, 0755) != 0 && errno != EEXIST)
        return dom_fail_file(errno, ret, "making the folder for locks");
    if (name[0] != '\0')
        snprintf(ret, PATH_MAX, BLOCK_RUN_DIR "/%s/%s", group_of(d), name);
    return 0;
}
