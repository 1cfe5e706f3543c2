/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata of the volumes of a group: 512 bytes each, in the volume "metadata".
 *
 * Works: a slot is read and written past the page cache, as other hosts do; one sector is written as a whole.
 * Where the parent is another one then, the tag follows. Fails: as the device; "metadata" cannot be activated.
 *
 * Invariants:
 *  1. The tag of a parent is written after the metadata, which goes before it wherever they differ.
 *  2. Of a slot that two volumes have nothing is taken for what it is not: it says whose image it is of, and it is
 *     not written to.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/domain/block.h"

#define METADATA "metadata"

enum { ALIGNMENT = 4096 };

/* ---- slots -------------------------------------------------------------------------------------------- */

/* It stays active: each command needs it, and Vdsm has it so as long as it has the domain. */
static int activate_slots(struct block_state *s)
{
    static const char *const names[] = {METADATA};
    int rc;

    if (lvm_is_active(s->lvm, METADATA))
        return 0;
    rc = lvm_begin(s->lvm);
    if (rc < 0)
        return rc;
    rc = lvm_activate(s->lvm, names, 1);
    lvm_end(s->lvm);
    return rc;
}

static int open_slots(struct domain *d)
{
    struct block_state *s = d->state;
    char *path;
    int rc;

    if (s->slots >= 0)
        return 0;
    rc = activate_slots(s);
    if (rc < 0)
        return rc;
    path = d->kind->data_path(d, "", METADATA);
    if (path == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    rc = block_open_device(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC, &s->slots);
    free(path);
    return rc;
}

static int move_slot(struct domain *d, unsigned slot, char *buf, bool write)
{
    struct block_state *s = d->state;
    uint64_t at = text_slot_offset(s->version, slot);
    int rc = open_slots(d);
    ssize_t n;

    if (rc < 0)
        return rc;
    do
        n = write ? pwrite(s->slots, buf, TEXT_SLOT_SIZE, (off_t)at) :
                    pread(s->slots, buf, TEXT_SLOT_SIZE, (off_t)at);
    while (n < 0 && errno == EINTR);
    return n == TEXT_SLOT_SIZE ? 0 :
           dom_fail(n < 0 ? errno : EIO, NULL, "%s: slot %u of its metadata: %s: %s", d->path, slot,
                    write ? "writing it" : "reading it", strerror(n < 0 ? errno : EIO));
}

static int use_buffer(struct domain *d, unsigned slot, char ret[TEXT_SLOT_SIZE], bool write)
{
    void *buf;
    int rc;

    if (posix_memalign(&buf, ALIGNMENT, TEXT_SLOT_SIZE) != 0)
        return dom_fail(ENOMEM, NULL, "out of memory");
    memcpy(buf, ret, TEXT_SLOT_SIZE);
    rc = move_slot(d, slot, buf, write);
    if (rc == 0)
        memcpy(ret, buf, TEXT_SLOT_SIZE);
    free(buf);
    return rc;
}

int block_read_slot(struct domain *d, unsigned slot, char ret[TEXT_SLOT_SIZE])
{
    memset(ret, 0, TEXT_SLOT_SIZE);
    return use_buffer(d, slot, ret, false);
}

int block_write_slot(struct domain *d, unsigned slot, const char *text, size_t len)
{
    char buf[TEXT_SLOT_SIZE] = {0};

    assert(len <= sizeof buf && slot >= text_slot_first(5) && slot <= TEXT_SLOT_LAST);
    memcpy(buf, text, len);
    return use_buffer(d, slot, buf, true);
}

int block_free_slot(const struct domain *d, unsigned *ret)
{
    const struct block_state *s = d->state;
    bool taken[TEXT_SLOT_LAST + 1] = {false};

    assert(s->fresh);
    for (size_t i = 0; i < s->count; i++)
        taken[s->list[i].is.slot] = true;
    for (unsigned slot = text_slot_first(s->version); slot <= TEXT_SLOT_LAST; slot++) {
        if (!taken[slot]) {
            *ret = slot;
            return 0;
        }
    }
    return dom_fail(ENOSPC, NULL, "%s has %d volumes: there is no place for the metadata of another one", d->path,
                    TEXT_SLOT_LAST);
}

/* ---- volumes ------------------------------------------------------------------------------------------ */

static int find_slot(struct domain *d, const char *volume, struct block_lv **ret)
{
    int rc = block_refresh(d);

    if (rc < 0)
        return rc;
    *ret = block_find(d, volume);
    return *ret != NULL && (*ret)->is.slot != 0 ? 0 :
           dom_fail(ENOENT, NULL, "%s/%s: has no tag that says where its metadata is", d->path, volume);
}

/* (2): is it known that what is in its slot is not another volume's? */
static bool is_its_own(const struct domain *d, const struct block_lv *b, const struct domain_meta *meta)
{
    const struct block_state *s = d->state;

    if (block_slot_is_own(d, b))
        return true;
    for (size_t i = 0; i < s->count; i++)
        if (&s->list[i] != b && s->list[i].is.slot == b->is.slot && strcmp(s->list[i].is.image, b->is.image) == 0)
            return false;
    return strcmp(meta->image, b->is.image) == 0;
}

static int refuse_doubled(const struct domain *d, const struct block_lv *b)
{
    return dom_fail(EBADMSG, "'vdisk-io domain check' tells of whom",
                    "%s/%s: another volume has its metadata in the same place, slot %u", d->path, b->lv->name,
                    b->is.slot);
}

int block_read_meta(struct domain *d, const char *image, const char *volume, char buf[TEXT_VOLUME_MAX + 1],
                    size_t *ret_len)
{
    char slot[TEXT_SLOT_SIZE], why[TEXT_WHY];
    struct domain_meta meta;
    struct block_lv *b;
    int rc = find_slot(d, volume, &b);

    (void)image;
    if (rc == 0)
        rc = block_read_slot(d, b->is.slot, slot);
    if (rc < 0)
        return rc;
    if (text_volume_parse(slot, sizeof slot, &meta, why) == 0 && !is_its_own(d, b, &meta))
        return refuse_doubled(d, b);
    for (*ret_len = sizeof slot; *ret_len > 0 && slot[*ret_len - 1] == '\0';)
        (*ret_len)--;
    memcpy(buf, slot, *ret_len);
    buf[*ret_len] = '\0';
    return 0;
}

const char *block_below(struct domain *d, struct block_lv *b)
{
    char slot[TEXT_SLOT_SIZE], why[TEXT_WHY];
    struct domain_meta meta;

    if (b->asked)
        return b->below;
    b->asked = true;
    memcpy(b->below, b->is.parent, DOMAIN_UUID);
    if (b->is.slot != 0 && !b->is.half_made && block_read_slot(d, b->is.slot, slot) == 0 &&
        text_volume_parse(slot, sizeof slot, &meta, why) == 0 && is_its_own(d, b, &meta))
        memcpy(b->below, meta.parent, DOMAIN_UUID);
    if (strcmp(b->below, DOMAIN_BLANK) == 0)
        b->below[0] = '\0';
    return b->below;
}

int block_visit_chain(struct domain *d, const char *image, block_visit_fn *fn, void *arg)
{
    const struct block_state *s = d->state;
    bool removed, *visited = calloc(s->count + 1, sizeof *visited);
    int rc = visited != NULL ? 0 : dom_fail(ENOMEM, NULL, "out of memory");

    image = block_take_apart(image, &removed);
    for (size_t i = 0; rc == 0 && i < s->count; i++) {
        struct block_lv *b = &s->list[i];
        if (!block_is_of(d, b, image, removed))
            continue;
        for (; rc == 0 && b != NULL && b->is.volume && !visited[b - s->list];
             b = block_find(d, block_below(d, b))) {
            visited[b - s->list] = true;
            rc = fn(arg, b);
        }
    }
    free(visited);
    return rc;
}

/* (1) */
static int follow_parent(struct domain *d, const struct block_lv *b, const char *parent)
{
    struct block_state *s = d->state;
    char add[64], drop[64];
    int rc;

    if (strcmp(b->is.parent, parent) == 0)
        return 0;
    snprintf(add, sizeof add, TEXT_TAG_PARENT "%.40s", parent);
    snprintf(drop, sizeof drop, TEXT_TAG_PARENT "%.40s", b->is.parent);
    rc = block_begin(d);
    if (rc < 0)
        return rc;
    rc = lvm_retag(s->lvm, (const char *const[]){b->lv->name}, 1, (const char *const[]){add, NULL},
                   (const char *const[]){b->is.parent[0] != '\0' ? drop : NULL, NULL});
    block_end(d);
    block_stale(d);
    return rc;
}

int block_write_meta(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    struct domain_meta meta;
    char why[TEXT_WHY];
    struct block_lv *b;
    int rc = find_slot(d, volume, &b);

    (void)image;
    if (rc == 0 && !block_slot_is_own(d, b))
        rc = refuse_doubled(d, b);
    if (rc == 0)
        rc = block_write_slot(d, b->is.slot, text, len);
    if (rc < 0)
        return rc;
    b->asked = false;
    return text_volume_parse(text, len, &meta, why) == 0 ? follow_parent(d, b, meta.parent) : 0;
}

static int check_parent(struct domain *d, const char *image, const struct block_lv *b, const char *parent,
                        struct dom_mend *m)
{
    int rc;

    dom_tell(m, VDISK_FOUND_CORRUPTION,
             "image %s: volume %s: its tag says that it lies on '%s', its metadata on '%s'", image, b->lv->name,
             b->is.parent, parent);
    if (!m->repair)
        return 0;
    rc = follow_parent(d, b, parent);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: the tag of volume %s says '%s' now", image, b->lv->name, parent);
    return rc;
}

int block_check(struct domain *d, const char *image, struct dom_mend *m)
{
    const struct block_state *s = d->state;
    char slot[TEXT_SLOT_SIZE], why[TEXT_WHY];
    struct domain_meta meta;
    int rc = block_refresh(d);

    for (size_t i = 0; rc == 0 && i < s->count; i++) {
        const struct block_lv *b = &s->list[i];
        if (!block_is_of(d, b, image, false) || b->is.half_made || b->is.slot == 0)
            continue;
        if (!block_slot_is_own(d, b))
            dom_tell(m, VDISK_FOUND_CORRUPTION,
                     "image %s: volume %s: another volume has its metadata in the same place, slot %u", image,
                     b->lv->name, b->is.slot);
        rc = block_read_slot(d, b->is.slot, slot);
        if (rc == 0 && text_volume_parse(slot, sizeof slot, &meta, why) == 0 &&
            is_its_own(d, b, &meta) && strcmp(meta.parent, b->is.parent) != 0)
            rc = check_parent(d, image, b, meta.parent, m);
    }
    return rc;
}
