/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image: its volumes, as their metadata says, and what follows from that.
 *
 * Works: what is there is listed, metadata is read, children find their parents. Fails: metadata of one that
 * cannot be read is noted with it, and fails nothing here.
 *
 * Invariant: parents stand before their children in the list; volumes in a circle have no parent.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/kind.h"

static void read_meta(struct domain *d, const char *image, struct domain_volume *v)
{
    char buf[TEXT_VOLUME_MAX + 1], why[TEXT_WHY] = "";
    size_t len;
    int rc;

    if (v->odd) {
        snprintf(v->why, sizeof v->why, "it, or what is beside it, is no regular file");
        return;
    }
    rc = d->kind->read_meta(d, image, v->uuid, buf, &len);
    if (rc < 0) {
        snprintf(v->why, sizeof v->why, "%.150s",
                 rc == -EFBIG     ? "more than 512 bytes"
                 : rc == -EBADMSG ? vdisk_error_text()
                                  : strerror(-rc));
        return;
    }
    rc = text_volume_parse(buf, len, &v->meta, why);
    if (rc == -ENODATA)
        snprintf(v->why, sizeof v->why, "says that it was deleted");
    else if (rc < 0)
        snprintf(v->why, sizeof v->why, "%.150s", why);
}

static void take_entry(struct domain *d, const char *image, struct domain_volume *v, const struct dom_entry *e)
{
    *v = (struct domain_volume){.has_meta = e->meta,
                                .has_data = e->data,
                                .has_draft = e->draft,
                                .has_intent = e->intent,
                                .wipe = e->wipe,
                                .odd = e->odd,
                                .has_lease = e->lease,
                                .links = e->links,
                                .size = e->size,
                                .allocated = e->allocated};
    memcpy(v->uuid, e->volume, DOMAIN_UUID);
    if (v->has_meta)
        read_meta(d, image, v);
}

static bool is_read(const struct domain_volume *v)
{
    return v->has_meta && v->why[0] == '\0';
}

/* ---- order --------------------------------------------------------------------------------------------- */

struct place {
    size_t parent; /* index in the list as it was; NONE */
    size_t depth, index;
};

#define NONE SIZE_MAX

static int compare_uuids(const void *uuid, const void *v)
{
    return strcmp(uuid, ((const struct domain_volume *)v)->uuid);
}

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->depth != y->depth)
        return x->depth < y->depth ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The list is sorted by name still. */
static void find_parents(const struct domain_image *image, struct place *places)
{
    for (size_t i = 0; i < image->count; i++) {
        const struct domain_volume *v = &image->list[i], *parent = NULL;
        if (is_read(v))
            parent = bsearch(v->meta.parent, image->list, image->count, sizeof *v, compare_uuids);
        places[i] = (struct place){NONE, 0, i};
        if (parent != NULL && is_read(parent))
            places[i].parent = (size_t)(parent - image->list);
    }
}

/* How many lie below each. What leads into a circle lies on nothing. */
static void find_depths(struct place *places, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t at = i; places[at].parent != NONE && places[i].depth <= count; at = places[at].parent)
            places[i].depth++;
    }
    for (size_t i = 0; i < count; i++) {
        if (places[i].depth > count)
            places[i].parent = NONE, places[i].depth = 0;
    }
}

/* Parents before their children, and who is whose. */
static int relate(struct domain_image *image)
{
    struct domain_volume *list = calloc(image->count + 1, sizeof *list);
    struct place *places = calloc(image->count + 1, sizeof *places);
    size_t *now = calloc(image->count + 1, sizeof *now);

    if (list == NULL || places == NULL || now == NULL) {
        free(list);
        free(places);
        free(now);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    find_parents(image, places);
    find_depths(places, image->count);
    qsort(places, image->count, sizeof *places, compare_places);
    for (size_t i = 0; i < image->count; i++) {
        now[places[i].index] = i;
        list[i] = image->list[places[i].index];
        list[i].parent = places[i].parent != NONE ? &list[now[places[i].parent]] : NULL;
        assert(list[i].parent == NULL || list[i].parent < &list[i]);
        if (list[i].parent != NULL)
            list[i].parent->children++;
    }
    free(image->list);
    image->list = list;
    free(places);
    free(now);
    return 0;
}

/* ---- loading ------------------------------------------------------------------------------------------- */

int domain_load_image(struct domain *d, const char *name, struct domain_image **ret)
{
    const char *removed = dom_removed_uuid(name, NULL);
    struct dom_entries entries = {0};
    struct domain_image *image;
    int rc = d->kind->list_volumes(d, name, &entries);

    if (rc < 0)
        return rc;
    image = calloc(1, sizeof *image);
    if (image != NULL)
        image->list = calloc(entries.count + 1, sizeof *image->list);
    if (image == NULL || image->list == NULL) {
        free(image);
        free(entries.list);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    image->removed = removed != NULL;
    snprintf(image->uuid, sizeof image->uuid, "%s", removed != NULL ? removed : name);
    for (size_t i = 0; i < entries.count; i++)
        take_entry(d, name, &image->list[image->count++], &entries.list[i]);
    free(entries.list);
    rc = relate(image);
    if (rc < 0)
        domain_image_free(image);
    else
        *ret = image;
    return rc;
}

void domain_image_free(struct domain_image *image)
{
    if (image != NULL)
        free(image->list);
    free(image);
}

struct domain_volume *domain_image_volume(const struct domain_image *image, const char *uuid)
{
    for (size_t i = 0; i < image->count; i++)
        if (strcmp(image->list[i].uuid, uuid) == 0)
            return &image->list[i];
    return NULL;
}

bool dom_is_merged(const struct domain_volume *v)
{
    return v->has_meta && v->has_intent;
}

bool dom_is_replaced(const struct domain_volume *v)
{
    return dom_is_merged(v) && v->children == 0 && v->meta.role == DOMAIN_INTERNAL && v->parent != NULL &&
           v->parent->children > 1;
}

/* Of two, one whose metadata cannot be read is why. */
static int not_one_leaf(const struct domain *d, const struct domain_image *image, const struct domain_volume *a,
                        const struct domain_volume *b)
{
    const struct domain_volume *bad = !is_read(a) ? a : b;

    if (!is_read(bad))
        return dom_fail(EBADMSG, "name the volume, or have 'vdisk-io domain check' look",
                        "image %s of domain %s: which volume is the leaf is not known: the metadata of volume %s: "
                        "%s", image->uuid, d->uuid, bad->uuid, bad->why);
    return dom_fail(ENOTUNIQ, "name the volume, or have 'vdisk-io domain check' look",
                    "image %s of domain %s has more than one leaf: %s and %s", image->uuid, d->uuid, a->uuid,
                    b->uuid);
}

/*
 * What has lost its metadata may have been the leaf: of who says that something lies on it, and of whom a header
 * says so, it is not known that they are.
 */
static int judge_leaf(struct domain *d, const struct domain_image *image, const struct domain_volume *leaf)
{
    const struct domain_volume *lost = NULL;
    struct dom_look look;
    bool named;
    int rc;

    for (size_t i = 0; lost == NULL && i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (!v->has_meta && !v->has_intent && (v->has_data || v->has_draft))
            lost = v;
    }
    if (lost == NULL || !is_read(leaf))
        return 0;
    rc = dom_look(d, image, &look);
    if (rc < 0)
        return rc;
    named = leaf->meta.role == DOMAIN_INTERNAL || dom_named_by(&look, leaf, NULL) != NULL;
    dom_look_free(&look);
    if (!named)
        return 0;
    return dom_fail(EBADMSG, "name the volume, or have 'vdisk-io domain check' look",
                    "image %s of domain %s: which volume is the leaf is not known: volume %s has no metadata",
                    image->uuid, d->uuid, lost->uuid);
}

struct domain_volume *domain_image_leaf(struct domain *d, const struct domain_image *image, int *ret_error)
{
    struct domain_volume *leaf = NULL;

    for (size_t i = 0; i < image->count; i++) {
        struct domain_volume *v = &image->list[i];
        if (!v->has_meta || v->children > 0 || dom_is_replaced(v))
            continue;
        if (leaf != NULL) {
            *ret_error = not_one_leaf(d, image, leaf, v);
            return NULL;
        }
        leaf = v;
    }
    if (leaf == NULL)
        *ret_error = dom_fail(ENOENT, NULL, "image %s of domain %s has no volume", image->uuid, d->uuid);
    else
        *ret_error = judge_leaf(d, image, leaf);
    return leaf != NULL && *ret_error == 0 ? leaf : NULL;
}

bool dom_is_circular(const struct domain_image *image, const struct domain_volume *v)
{
    const struct domain_volume *named = NULL;

    if (is_read(v) && v->parent == NULL)
        named = domain_image_volume(image, v->meta.parent);
    return named != NULL && is_read(named);
}

int dom_judge_place(const struct domain *d, const struct domain_image *image, const struct domain_volume *v)
{
    bool other = is_read(v) && strcmp(v->meta.domain, d->uuid) != 0;

    if (!other && (!is_read(v) || v->meta.role == DOMAIN_SHARED || strcmp(v->meta.image, image->uuid) == 0))
        return 0;
    return dom_fail(EBADMSG, "'vdisk-io domain check' tells more; copy what it holds, or restore its metadata",
                    "image %s: the metadata of volume %s says that it is of %s %s: it is not changed",
                    image->uuid, v->uuid, other ? "domain" : "image", other ? v->meta.domain : v->meta.image);
}

bool dom_is_foreign(const struct domain_image *image, const struct domain_volume *v)
{
    return is_read(v) && v->meta.role == DOMAIN_SHARED && strcmp(v->meta.image, image->uuid) != 0;
}
