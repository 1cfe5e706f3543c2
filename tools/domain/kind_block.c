/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Domains in volume groups: a volume is a logical volume; what it is its tags say.
 *
 *     IU_IMAGE  PU_PARENT  MD_SLOT       a volume; its metadata is in the slot
 *     and OVIRT_VOL_INITIALIZING         unpublished: half-made, or going. Vdsm does not look at it
 *     and VDISK_WIPE                     the same, and to be overwritten before it goes
 *     and VDISK_MERGE                    being merged into its parent; with VDISK_WIPE it is overwritten then
 *     IU__remove_me_IMAGE, VDISK_REMOVE  of an image that is deleted: all that is of it goes
 *     IU__remove_me_ZERO_IMAGE, the same and is to be overwritten before
 *
 * Works: each change of tags is one write of lvm's metadata; metadata of a volume is one sector. So there is none
 * on its way, and all is durable at once. A template is in other images by their tags of it as a parent. Fails: as
 * lvm, with its reason.
 *
 * Invariants:
 *  1. Where an image is deleted the first of its volumes that says so says it for all.
 *  2. A volume is made with its tags, unpublished; its metadata is in its slot before, so that what another one
 *     had left there is never its own.
 *  3. What did not exist before is removed where it fails, and nothing else.
 *  4. No volume leaves a note behind: lvm may go on alone, and another one may get its name.
 *  5. The lease of one that goes is held until it has gone, and no longer than that: the next one in its slot has
 *     the same place for its own.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/block.h"
#include "tools/domain/lease.h"

/* ---- the domain --------------------------------------------------------------------------------------- */

/* "/dev/UUID", where lvm has what is active; or "UUID", if nothing here is called so. */
static bool block_is_at(const char *path)
{
    bool whole = strncmp(path, "/dev/", 5) == 0;
    const char *name = whole ? path + 5 : path;

    return text_is_uuid(name, strlen(name)) && (whole || access(path, F_OK) != 0);
}

/* /dev is the folder of all groups. */
static int block_list(const char *path, struct domain_names *names)
{
    struct lvm_report report;
    void *list;
    int rc;

    if (strcmp(path, "/dev") != 0 && strcmp(path, "/dev/") != 0)
        return 0;
    rc = lvm_list(NULL, &report);
    if (rc < 0)
        return rc;
    list = reallocarray(names->list, names->count + report.count + 1, sizeof *names->list);
    if (list != NULL)
        names->list = list;
    for (size_t i = 0; list != NULL && i < report.count; i++)
        if (lvm_has_tag(&report.vgs[i].tags, TEXT_TAG_DOMAIN) &&
            text_is_uuid(report.vgs[i].name, strlen(report.vgs[i].name)))
            snprintf(names->list[names->count++], sizeof *names->list, "%.63s", report.vgs[i].name);
    lvm_report_free(&report);
    return list != NULL ? 0 : dom_fail(ENOMEM, NULL, "out of memory");
}

/* The pairs in the group's tags, as the lines that they are in a file. */
static int pairs_of(const struct lvm_vg *vg, char **ret_text, size_t *ret_len)
{
    char line[TEXT_TAG_MAX + 1], *text = NULL;
    FILE *f = open_memstream(&text, ret_len);
    bool bad = false;

    for (size_t i = 0; f != NULL && i < vg->tags.count; i++) {
        const char *tag = vg->tags.list[i];
        if (strncmp(tag, TEXT_TAG_PAIR, sizeof TEXT_TAG_PAIR - 1) != 0)
            continue;
        bad = bad || text_tag_decode(tag + sizeof TEXT_TAG_PAIR - 1, line, sizeof line) < 0;
        fprintf(f, "%s\n", line);
    }
    if (f == NULL || fclose(f) != 0) {
        free(text);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    if (bad) {
        free(text);
        return dom_fail(EBADMSG, NULL, "volume group %s: a tag of it is no metadata of a domain", vg->name);
    }
    *ret_text = text;
    return 0;
}

static int make_absolute(struct domain *d)
{
    char *path;

    if (d->path[0] == '/')
        return 0;
    if (asprintf(&path, "/dev/%s", d->path) < 0)
        return dom_fail(ENOMEM, NULL, "out of memory");
    free(d->path);
    d->path = path;
    return 0;
}

static int block_load(struct domain *d, char **ret_text, size_t *ret_len)
{
    int rc = block_open(d);

    if (rc < 0)
        return rc;
    rc = block_refresh(d);
    if (rc == -ENOENT)
        return dom_fail(ENOENT, NULL, "%s: there is no storage domain, neither a folder nor a volume group",
                        d->path);
    if (rc < 0)
        return rc;
    if (!lvm_has_tag(&block_vg(d)->tags, TEXT_TAG_DOMAIN))
        return dom_fail(ENOENT, NULL, "volume group %s is no storage domain: it has no tag " TEXT_TAG_DOMAIN,
                        block_vg(d)->name);
    rc = make_absolute(d);
    return rc < 0 ? rc : pairs_of(block_vg(d), ret_text, ret_len);
}

static void block_close(struct domain *d)
{
    if (d->state == NULL)
        return;
    block_rest(d);
    block_free(d);
}

static int block_space(struct domain *d, struct domain_space *ret)
{
    int rc = block_refresh(d);

    if (rc < 0)
        return rc;
    ret->size = block_vg(d)->size;
    ret->available = block_vg(d)->free;
    return 0;
}

/* ---- images ------------------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Each once: they are sorted first. */
static void drop_doubles(struct domain_names *names)
{
    size_t kept = 0;

    if (names->count > 0)
        qsort(names->list, names->count, sizeof *names->list, compare_names);
    for (size_t i = 0; i < names->count; i++)
        if (kept == 0 || strcmp(names->list[kept - 1], names->list[i]) != 0)
            memmove(names->list[kept++], names->list[i], sizeof *names->list);
    names->count = kept;
}

static int block_list_images(struct domain *d, struct domain_names *ret)
{
    const struct block_state *s = d->state;
    struct domain_names names = {0};
    int rc = block_refresh(d);

    if (rc < 0)
        return rc;
    names.list = calloc(s->count + 1, sizeof *names.list);
    if (names.list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; i < s->count; i++) {
        const struct text_lv *is = &s->list[i].is;
        char *name = names.list[names.count];
        if (!is->volume || is->image[0] == '\0')
            continue;
        names.count++;
        if (is->removed || block_is_going(d, is->image))
            dom_removed_name(name, is->image, block_is_wiped(d, is->image));
        else
            memcpy(name, is->image, DOMAIN_UUID);
    }
    drop_doubles(&names);
    *ret = names;
    return 0;
}

/* ---- volumes of an image ------------------------------------------------------------------------------ */

struct listing {
    struct domain     *domain;
    const char        *image;
    struct dom_entries entries;
};

static int add_entry(void *arg, struct block_lv *b)
{
    struct listing *l = arg;
    struct dom_entry *list = reallocarray(l->entries.list, l->entries.count + 1, sizeof *list), *e;
    bool own = strcmp(b->is.image, l->image) == 0;

    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    l->entries.list = list;
    e = &list[l->entries.count++];
    *e = (struct dom_entry){.meta = b->is.slot != 0 && !b->is.half_made,
                            .intent = b->is.half_made || (b->is.merged && b->is.slot != 0), /* else it is lost */
                            .data = true,
                            .wipe = (b->is.half_made || b->is.merged) && b->is.wipe,
                            .links = 1 + block_count_users(l->domain, b, l->image) + !own,
                            .size = b->lv->size,
                            .allocated = b->lv->size};
    memcpy(e->volume, b->lv->name, DOMAIN_UUID);
    return 0;
}

static int block_list_volumes(struct domain *d, const char *image, struct dom_entries *ret)
{
    bool removed, wipe = false;
    struct listing l = {.domain = d, .image = block_take_apart(image, &removed)};
    int rc = block_refresh(d);

    if (removed)
        dom_removed_uuid(image, &wipe);
    if (rc == 0 && (!removed || wipe == block_is_wiped(d, l.image)))
        rc = block_visit_chain(d, image, add_entry, &l);
    if (rc == 0 && l.entries.count == 0)
        rc = dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, image);
    if (rc < 0) {
        free(l.entries.list);
        return rc;
    }
    dom_sort_entries(&l.entries);
    *ret = l.entries;
    return 0;
}

/* There is none without a volume. */
static int block_make_image(struct domain *d, const char *image)
{
    int rc = block_refresh(d);

    return rc == 0 && block_is_going(d, image) ?
               dom_fail(EEXIST, "'vdisk-io domain check --repair' purges it",
                        "%s: an image %s was deleted before, and is still there", d->path, image) : rc;
}

static int block_drop_image(struct domain *d, const char *image)
{
    const struct block_state *s = d->state;
    int rc = block_refresh(d);

    for (size_t i = 0; rc == 0 && i < s->count; i++)
        if (block_is_of(d, &s->list[i], image, false))
            rc = -ENOTEMPTY;
    return rc;
}

/* Names of what is of an image, in whatever way; the list is the caller's. */
static int names_of(struct domain *d, const char *image, bool live_only, const char ***ret, size_t *ret_count)
{
    const struct block_state *s = d->state;
    const char **names = calloc(s->count + 1, sizeof *names);
    bool going = block_is_going(d, image);

    if (names == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    *ret_count = 0;
    for (size_t i = 0; i < s->count; i++) {
        const struct text_lv *is = &s->list[i].is;
        if (is->volume && strcmp(is->image, image) == 0 && (live_only ? !is->removed : is->removed || going))
            names[(*ret_count)++] = s->list[i].lv->name;
    }
    *ret = names;
    return 0;
}

/* (1). What is known stays so where none is left to be tagged. */
static int retire(struct domain *d, const char *image, bool wipe)
{
    struct block_state *s = d->state;
    char live[64], removed[sizeof TEXT_TAG_IMAGE + DOM_REMOVED_NAME] = TEXT_TAG_IMAGE;
    const char **names = NULL;
    size_t count = 0;
    int rc = names_of(d, image, true, &names, &count);

    if (rc < 0 || count == 0) {
        free(names);
        return rc;
    }
    snprintf(live, sizeof live, TEXT_TAG_IMAGE "%.36s", image);
    dom_removed_name(removed + strlen(removed), image, wipe);
    rc = block_begin(d);
    if (rc == 0) {
        rc = lvm_retag(s->lvm, names, count, (const char *const[]){removed, TEXT_TAG_GOING, NULL},
                       (const char *const[]){live, NULL});
        block_end(d);
    }
    free(names);
    block_stale(d);
    return rc;
}

static int block_retire_image(struct domain *d, const char *image, bool wipe)
{
    const struct block_state *s = d->state;
    int rc = block_refresh(d);

    for (size_t i = 0; rc == 0 && i < s->count; i++)
        if (s->list[i].is.removed && strcmp(s->list[i].is.image, image) == 0)
            rc = dom_fail(EEXIST, "'vdisk-io domain check --repair' purges it",
                          "%s: an image %s was deleted before, and is still there", d->path, image);
    return rc == 0 ? retire(d, image, wipe) : rc;
}

struct going {
    char name[DOMAIN_UUID]; /* a report does not stay */
    bool noted;             /* as active, by us */
};

/* Of these lvm has removed some, or none. (5) */
static void keep_volumes(struct domain *d, const struct going *list, size_t count)
{
    struct block_state *s = d->state;
    bool known;

    block_stale(d);
    known = block_refresh(d) == 0;
    for (size_t i = 0; i < count; i++) {
        if (known && block_find(d, list[i].name) == NULL) {
            lease_drop(d, list[i].name);
            block_forget_active(d, list[i].name);
        } else if (list[i].noted && lvm_is_active(s->lvm, list[i].name)) {
            block_put_note(d, list[i].name);
        }
    }
}

/* (4) */
static int remove_as_writer(struct domain *d, const char *const *names, struct going *list, size_t count)
{
    struct block_state *s = d->state;
    struct dom_error error;
    int rc;

    for (size_t i = 0; i < count; i++) {
        snprintf(list[i].name, sizeof list[i].name, "%s", names[i]);
        list[i].noted = block_drop_note(d, names[i]);
    }
    rc = lvm_remove(s->lvm, names, count);
    dom_error_keep(&error, rc);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        lease_drop(d, list[i].name); /* (5) */
        block_forget_active(d, list[i].name);
    }
    if (rc < 0)
        keep_volumes(d, list, count);
    block_stale(d);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static int remove_volumes(struct domain *d, const char *const *names, size_t count)
{
    struct going *list = calloc(count + 1, sizeof *list);
    int rc = list != NULL ? block_begin(d) : dom_fail(ENOMEM, NULL, "out of memory");

    if (rc == 0) {
        rc = remove_as_writer(d, names, list, count);
        block_end(d);
    }
    free(list);
    return rc;
}

static int block_purge_image(struct domain *d, const char *removed)
{
    bool wipe = false;
    const char *image = dom_removed_uuid(removed, &wipe);
    const char **names = NULL;
    size_t count = 0;
    int rc = block_refresh(d);

    if (rc == 0 && wipe != block_is_wiped(d, image))
        rc = dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, removed);
    if (rc == 0 && block_is_going(d, image))
        rc = retire(d, image, wipe); /* what was not reached: it would be all that is left, and an image again */
    if (rc == 0)
        rc = block_refresh(d);
    if (rc == 0)
        rc = names_of(d, image, false, &names, &count);
    if (rc < 0)
        return rc;
    rc = remove_volumes(d, names, count);
    free(names);
    return rc;
}

/* ---- volumes: what they are ----------------------------------------------------------------------------- */

/* Lists end with NULL. */
static int retag(struct domain *d, const char *volume, const char *const *add, const char *const *drop)
{
    struct block_state *s = d->state;
    int rc = block_begin(d);

    if (rc < 0)
        return rc;
    rc = lvm_retag(s->lvm, &volume, 1, add, drop);
    block_end(d);
    block_stale(d);
    return rc;
}

static int retag_one(struct domain *d, const char *volume, const char *add, const char *drop)
{
    return retag(d, volume, (const char *const[]){add, NULL}, (const char *const[]){drop, NULL});
}

/* Of what is there it is noted that it is being merged; of what is to come its intent is, until make_data(). */
static int block_set_intent(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    struct block_state *s = d->state;
    const struct block_lv *b;
    int rc = block_refresh(d);

    if (rc < 0)
        return rc;
    b = block_find(d, volume);
    if (b != NULL && (b->is.half_made || strcmp(b->is.image, image) != 0))
        return dom_fail(EEXIST, NULL, "%s: has a logical volume %s, which is no volume of image %s", d->path,
                        volume, image);
    if (b != NULL)
        return retag_one(d, volume, TEXT_TAG_MERGED, NULL);
    assert(len <= TEXT_VOLUME_MAX);
    memcpy(s->intent_of, volume, DOMAIN_UUID);
    memcpy(s->intent, text, len);
    s->intent_len = len;
    return 0;
}

static int block_drop_intent(struct domain *d, const char *image, const char *volume)
{
    struct block_state *s = d->state;
    int rc = block_refresh(d);

    (void)image;
    s->intent_of[0] = '\0';
    return rc == 0 && block_find(d, volume) != NULL ? retag_one(d, volume, NULL, TEXT_TAG_MERGED) : rc;
}

static int block_keep_wipe(struct domain *d, const char *image, const char *volume)
{
    (void)image;
    return retag_one(d, volume, TEXT_TAG_WIPE, NULL);
}

static int block_publish(struct domain *d, const char *image, const char *volume)
{
    const struct block_lv *b;
    int rc = block_refresh(d);

    (void)image;
    b = rc == 0 ? block_find(d, volume) : NULL;
    if (b != NULL && b->is.slot != 0 && !block_slot_is_own(d, b))
        rc = dom_fail(EBADMSG, "'vdisk-io domain check' tells of whom",
                      "volume %s: another volume has its metadata in the same place, slot %u", volume, b->is.slot);
    return rc == 0 ? retag_one(d, volume, NULL, TEXT_TAG_HALF_MADE) : rc;
}

static int block_unpublish(struct domain *d, const char *image, const char *volume, bool wipe)
{
    (void)image;
    return retag(d, volume, (const char *const[]){TEXT_TAG_HALF_MADE, wipe ? TEXT_TAG_WIPE : NULL, NULL}, NULL);
}

static int purge_as_writer(struct domain *d, const char *volume)
{
    const struct block_lv *b;
    int rc;

    block_stale(d);
    rc = block_refresh(d);
    if (rc < 0)
        return rc;
    b = block_find(d, volume);
    if (b != NULL && block_slot_is_own(d, b))
        rc = block_write_slot(d, b->is.slot, "", 0);
    return b != NULL && rc == 0 ? remove_volumes(d, &volume, 1) : rc;
}

/* Its slot is free when its tag has gone with it: what is in there then is nobody's. */
static int block_purge(struct domain *d, const char *image, const char *volume)
{
    int rc = block_begin(d);

    (void)image;
    if (rc < 0)
        return rc;
    rc = purge_as_writer(d, volume);
    block_end(d);
    return rc;
}

/* ---- volumes: data ------------------------------------------------------------------------------------- */

/* (2). *ret_tried: lvm may have made it. */
static int create_tagged(struct domain *d, const char *image, const char *volume, uint64_t size,
                         const char *parent, bool *ret_tried)
{
    struct block_state *s = d->state;
    char slot_tag[32], image_tag[64], parent_tag[64];
    const char *const tags[] = {TEXT_TAG_HALF_MADE, slot_tag, image_tag, parent_tag, NULL};
    const struct lvm_new o = {.name = volume, .size = size, .tags = tags, .active = lvm_can_activate()};
    unsigned slot = 0;
    int rc;

    block_stale(d); /* other writers may have been here */
    rc = block_refresh(d);
    if (rc == 0 && lvm_find_lv(block_vg(d), volume) != NULL)
        rc = dom_fail(EEXIST, NULL, "%s: has a logical volume %s", d->path, volume);
    if (rc == 0)
        rc = block_free_slot(d, &slot);
    if (rc == 0)
        rc = block_write_slot(d, slot, s->intent, s->intent_len);
    if (rc < 0)
        return rc;
    snprintf(slot_tag, sizeof slot_tag, TEXT_TAG_SLOT "%u", slot);
    snprintf(image_tag, sizeof image_tag, TEXT_TAG_IMAGE "%.36s", image);
    snprintf(parent_tag, sizeof parent_tag, TEXT_TAG_PARENT "%.36s", parent);
    rc = block_note_active(d, volume);
    if (rc < 0)
        return rc;
    *ret_tried = true;
    rc = lvm_create(s->lvm, &o);
    block_stale(d);
    return rc == 0 ? lease_make(d, image, volume) : rc;
}

static int create_as_writer(struct domain *d, const char *image, const char *volume, uint64_t size,
                            const char *parent, bool *ret_tried)
{
    int rc = block_use(d, volume); /* before we are the writer (block_active.c, 3) */

    if (rc == 0)
        rc = block_begin(d);
    if (rc < 0)
        return rc;
    rc = create_tagged(d, image, volume, size, parent, ret_tried);
    block_end(d);
    return rc;
}

static int block_make_data(struct domain *d, const char *image, const char *volume, uint64_t size)
{
    struct block_state *s = d->state;
    struct domain_meta meta;
    struct dom_error error;
    char why[TEXT_WHY];
    bool tried = false;
    int rc = text_volume_parse(s->intent, s->intent_len, &meta, why);

    assert(strcmp(s->intent_of, volume) == 0 && size > 0);
    if (rc < 0)
        return dom_fail(rc, NULL, "volume %s: its metadata: %s", volume, why);
    rc = create_as_writer(d, image, volume, size, meta.parent, &tried);
    s->intent_of[0] = '\0';
    if (rc < 0) {
        dom_error_keep(&error, rc);
        if (tried && rc != -EEXIST) /* (3) */
            block_purge(d, image, volume);
        if (tried)
            block_forget_active(d, volume);
        return dom_error_give(&error);
    }
    return 0;
}

static int find_size(struct domain *d, const char *volume, uint64_t *ret)
{
    const struct block_lv *b;
    int rc = block_refresh(d);

    if (rc < 0)
        return rc;
    b = block_find(d, volume);
    if (b == NULL)
        return dom_fail(ENOENT, NULL, "%s: has no volume %s", d->path, volume);
    *ret = b->lv->size;
    return 0;
}

static int set_size(struct domain *d, const char *volume, uint64_t bytes,
                    int (*fn)(struct lvm *l, const char *name, uint64_t size))
{
    struct block_state *s = d->state;
    int rc = block_begin(d);

    if (rc < 0)
        return rc;
    rc = fn(s->lvm, volume, bytes);
    block_end(d);
    block_stale(d);
    return rc;
}

/* Who has it open may have made it larger meanwhile: lvm says then that it cannot. */
static int block_make_room(struct domain *d, const char *image, const char *volume, uint64_t bytes)
{
    uint64_t size = 0;
    struct dom_error error;
    int rc = find_size(d, volume, &size);

    (void)image;
    if (rc < 0 || size >= bytes)
        return rc;
    rc = set_size(d, volume, bytes, lvm_extend);
    dom_error_keep(&error, rc);
    return rc == 0 || (find_size(d, volume, &size) == 0 && size >= bytes) ? 0 : dom_error_give(&error);
}

static int block_give_back(struct domain *d, const char *image, const char *volume, uint64_t bytes)
{
    uint64_t size = 0, least = text_extents(max_u64(bytes, 1), d->extent);
    int rc = find_size(d, volume, &size);

    (void)image;
    return rc < 0 || size <= least ? rc : set_size(d, volume, least, lvm_reduce);
}

static int block_measure(struct domain *d, const char *image, const char *volume, uint64_t *ret_size,
                         uint64_t *ret_allocated)
{
    int rc = find_size(d, volume, ret_size);

    (void)image;
    if (rc == 0)
        *ret_allocated = *ret_size;
    return rc;
}

static char *block_data_path(const struct domain *d, const char *image, const char *volume)
{
    char *path;

    (void)image;
    return asprintf(&path, "%s/%s", d->path, volume) < 0 ? NULL : path;
}

static int block_open_data(struct domain *d, const char *image, const char *volume, bool write, int *ret_fd)
{
    char *path = block_data_path(d, image, volume);
    int rc = path != NULL ? block_activate(d, image) : dom_fail(ENOMEM, NULL, "out of memory");

    if (rc == 0)
        rc = block_open_device(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC, ret_fd);
    free(path);
    return rc;
}

static int block_judge_idle(struct domain *d, const char *const *volumes, size_t n)
{
    int rc;

    block_stale(d);
    rc = block_refresh(d);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct block_lv *b = block_find(d, volumes[i]);
        if (b != NULL && b->lv->open)
            rc = dom_fail(EAGAIN, NULL, "%s/%s: somebody has it open: another program, or a virtual machine",
                          d->path, volumes[i]);
    }
    return rc;
}

/* ---- checks ------------------------------------------------------------------------------------------------ */

static int block_check_domain(struct domain *d, struct dom_mend *m)
{
    int rc = block_refresh(d);

    for (size_t i = 0; rc == 0 && i < TEXT_SPECIALS; i++) {
        const char *name = text_specials[i].name;
        if (lvm_find_lv(block_vg(d), name) == NULL && (d->version >= 4 || strcmp(name, "xleases") != 0))
            dom_tell(m, VDISK_FOUND_CORRUPTION, "the domain has no logical volume %s, which Vdsm needs", name);
    }
    return rc;
}

/* ---- upgrades ------------------------------------------------------------------------------------------- */

static int block_find_drafts(struct domain *d, bool drop, unsigned *ret)
{
    (void)d, (void)drop;
    *ret = 0;
    return 0;
}

const struct dom_kind dom_kind_block = {
    .name = "block",
    .list = block_list,
    .is_at = block_is_at,
    .load = block_load,
    .close = block_close,
    .space = block_space,
    .list_images = block_list_images,
    .lock = block_lock,
    .lock_alone = block_lock_alone,
    .lock_domain = block_lock_domain,
    .unlock = block_unlock,
    .begin_upgrade = block_begin_upgrade,
    .write_domain = block_write_domain,
    .write_next = block_write_next,
    .end_upgrade = block_end_upgrade,
    .judge_change = block_judge_pool,
    .look_anew = block_stale,
    .find_drafts = block_find_drafts,
    .check_domain = block_check_domain,
    .list_volumes = block_list_volumes,
    .make_image = block_make_image,
    .drop_image = block_drop_image,
    .retire_image = block_retire_image,
    .judge_purge = dom_nothing_of_image,
    .purge_image = block_purge_image,
    .read_meta = block_read_meta,
    .write_meta = block_write_meta,
    .write_shared = block_write_meta,
    .drop_draft = dom_nothing_of_volume,
    .set_intent = block_set_intent,
    .drop_intent = block_drop_intent,
    .keep_wipe = block_keep_wipe,
    .make_data = block_make_data,
    .publish = block_publish,
    .unpublish = block_unpublish,
    .purge = block_purge,
    .share = block_share,
    .unshare = dom_nothing_of_volume,
    .count_shares = block_count_shares,
    .find_volume = block_find_volume,
    .make_room = block_make_room,
    .grow = block_grow,
    .activate = block_activate,
    .keep_active = block_keep_active,
    .reserve = block_make_room,
    .give_back = block_give_back,
    .measure = block_measure,
    .open_data = block_open_data,
    .judge_idle = block_judge_idle,
    .find_lease = block_find_lease,
    .make_lease = dom_nothing_of_volume,
    .read_host = block_read_host,
    .open_leases = block_open_leases,
    .sync = dom_nothing_of_image,
    .check = block_check,
    .data_path = block_data_path,
};
