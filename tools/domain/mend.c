/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an operation that was killed has left in an image, ended or undone. With the image locked nobody is at it.
 *
 * Works, in this order:
 *  1. metadata that was on its way goes;
 *  2. of a copy whose uppermost volume is published the rest is published; another unpublished volume is purged,
 *     who names one before that; a share that is not whole is dropped;
 *  3. a volume that is marked as merged: if its child's header names it still, or it has none, it is told, and
 *     the mark stays until it is merged again; if that names its parent, the child's metadata follows;
 *  4. a volume that is marked as merged, and another one has come into its place: it goes;
 *  5. who has a child is internal; who has none is a leaf.
 * An image without volumes of its own goes, unless one is about to be made.
 * Fails: as what it calls. What is done can be done again. What is not sure is told, and left as it is.
 *
 * Invariants:
 *  1. No volume goes, or gets another role, while a header or metadata in the image names it.
 *  2. Nor while it is not known of another volume what that lies on.
 *  3. A name of shared data goes only where another image has it. (file_shares.c)
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/domain/kind.h"

void dom_tell(struct dom_mend *m, enum vdisk_finding kind, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (kind == VDISK_FOUND_CORRUPTION || kind == VDISK_FOUND_LEAK || kind == VDISK_FOUND_ERROR)
        m->faults++;
    if (kind == VDISK_FOUND_FIXED)
        m->mended++;
    if (m->tell == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    m->tell(m->arg, kind, text);
}

static int reload(struct domain *d, struct domain_image **image)
{
    struct domain_image *again;
    char name[DOMAIN_UUID];
    int rc;

    memcpy(name, (*image)->uuid, sizeof name);
    rc = domain_load_image(d, name, &again);
    if (rc == -ENOENT) { /* an image that is but its volumes has gone with the last of them */
        (*image)->count = 0;
        return 0;
    }
    if (rc < 0)
        return rc;
    domain_image_free(*image);
    *image = again;
    return 0;
}

typedef int mend_fn(struct domain *, const struct dom_look *, struct domain_volume *, struct dom_mend *);

static int mend_each(struct domain *d, struct domain_image **image, struct dom_mend *m, mend_fn *fn)
{
    size_t mended = m->mended;
    struct dom_look look;
    int rc = dom_look(d, *image, &look);

    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < (*image)->count; i++)
        rc = fn(d, &look, &(*image)->list[i], m);
    dom_look_free(&look);
    return rc == 0 && m->mended > mended ? reload(d, image) : rc;
}

static bool is_intact(const struct domain_volume *v)
{
    return v->has_meta && v->why[0] == '\0' && v->has_data;
}

/* (1, 2) */
static bool can_go(const struct dom_look *look, const struct domain_volume *v)
{
    return dom_named_by(look, v, NULL) == NULL && dom_look_trouble(look, v) == NULL && !v->odd;
}

/* Otherwise why it stays is told. */
static bool may_go(const struct dom_look *look, const struct domain_volume *v, struct dom_mend *m)
{
    const struct domain_volume *child = dom_named_by(look, v, NULL);
    const char *trouble = dom_look_trouble(look, v);

    if (can_go(look, v))
        return true;
    if (child != NULL)
        dom_tell(m, VDISK_FOUND_NOTE, "image %s: volume %s is left as it is: %s lies on it", look->image->uuid,
                 v->uuid, child->uuid);
    else
        dom_tell(m, VDISK_FOUND_NOTE, "image %s: volume %s is left as it is: %s", look->image->uuid, v->uuid,
                 trouble != NULL ? trouble : "something of it is no regular file");
    return false;
}

/* ---- 1 and 2: unpublished ------------------------------------------------------------------------------- */

static bool is_unpublished(const struct domain_volume *v)
{
    return !v->has_meta && v->has_intent;
}

/* By its header. NULL: nothing that is in the image. */
static const struct domain_volume *below(const struct dom_look *look, const struct domain_volume *v)
{
    for (size_t i = 0; i < look->image->count; i++)
        if (&look->image->list[i] != v && dom_header_names(look, v, &look->image->list[i]))
            return &look->image->list[i];
    return NULL;
}

/* Nor is what lies below: a template that is shared apart. (op_copy_volumes.c, 1) */
static bool is_lower_part(const struct dom_look *look, const struct domain_volume *v)
{
    for (size_t n = 0; v != NULL && n <= look->image->count; n++, v = below(look, v)) {
        if (is_intact(v) && dom_is_foreign(look->image, v))
            return true;
        if (!is_unpublished(v) || !v->has_data || v->odd || v->wipe)
            return false;
        if (look->list[v - look->image->list].backing[0] == '\0')
            return true;
    }
    return false;
}

/* A copy was ended early, when its uppermost volumes were published, and this is the one below those. */
static bool is_next_of_copy(const struct dom_look *look, const struct domain_volume *v)
{
    for (size_t i = 0; i < look->image->count; i++) {
        const struct domain_volume *u = &look->image->list[i];
        if (u != v && is_intact(u) && strcmp(u->meta.parent, v->uuid) == 0 && dom_header_names(look, u, v))
            return is_unpublished(v) && is_lower_part(look, v);
    }
    return false;
}

/* This one, or one above that is not published either. */
static bool is_of_copy(const struct dom_look *look, const struct domain_volume *v)
{
    for (size_t i = 0; i < look->image->count; i++) {
        const struct domain_volume *u = &look->image->list[i];
        if (!is_next_of_copy(look, u))
            continue;
        for (size_t n = 0; u != NULL && n <= look->image->count; n++, u = below(look, u))
            if (u == v)
                return true;
    }
    return false;
}

static int publish_copied(struct domain *d, const struct dom_look *look, struct domain_volume *v,
                          struct dom_mend *m)
{
    const char *image = look->image->uuid;
    int rc;

    if (!is_next_of_copy(look, v))
        return 0;
    dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s is copied, and not published yet: the copy was ended early",
             image, v->uuid);
    if (!m->repair)
        return 0;
    rc = d->kind->publish(d, image, v->uuid);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s, which is copied, is published", image, v->uuid);
    return rc;
}

static int drop_draft(struct domain *d, const struct dom_look *look, struct domain_volume *v, struct dom_mend *m)
{
    const char *image = look->image->uuid;
    int rc;

    if (!v->has_draft || !v->has_meta)
        return 0;
    dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s: metadata that was on its way when it ended", image,
             v->uuid);
    if (!m->repair || v->why[0] != '\0')
        return 0;
    rc = d->kind->drop_draft(d, image, v->uuid);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s: metadata that was on its way is removed", image,
                 v->uuid);
    return rc;
}

/*
 * Data that another image has, with its metadata: the sharing of a template was ended early. In a group nothing is
 * done to share one.
 */
static int is_half_shared(struct domain *d, const char *image, const struct domain_volume *v)
{
    unsigned others = 0;
    int rc = 0;

    if (d->extent == 0 && !v->has_meta && !v->has_intent && v->has_data && v->links > 1 && !v->odd)
        rc = d->kind->count_shares(d, image, v->uuid, true, &others);
    return rc < 0 ? rc : others > 0;
}

/* Half-made, or going, and of no copy that goes on. -errno. */
static int is_left(struct domain *d, const struct dom_look *look, const struct domain_volume *v)
{
    if (is_unpublished(v))
        return !is_of_copy(look, v);
    return is_half_shared(d, look->image->uuid, v);
}

static void tell_left(const struct dom_look *look, const struct domain_volume *v, struct dom_mend *m)
{
    dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s is half-made, or was being removed", look->image->uuid,
             v->uuid);
}

/*
 * Its data is not to be found on the disk afterwards. What cannot be wiped stays. That it is to be is noted first,
 * for who ends this.
 */
static bool is_wiped(struct domain *d, const char *image, const struct domain_volume *v, struct dom_mend *m)
{
    bool late = m->wipe && !v->wipe && is_unpublished(v) && v->has_data;
    struct dom_clear clear = {.wipe = v->wipe || late};
    int rc = late ? d->kind->keep_wipe(d, image, v->uuid) : 0;

    if (rc == 0 && dom_clear(d, image, v, &clear) == 0)
        return true;
    dom_tell(m, VDISK_FOUND_ERROR, "image %s: volume %s was to be wiped and removed, and cannot be wiped: %s",
             image, v->uuid, vdisk_error_text());
    return false;
}

/* Where it is the data itself, not a name of it, that goes: is there another image that lies on it? -errno. */
static int has_users(struct domain *d, const struct dom_look *look, const struct domain_volume *v,
                     struct dom_mend *m)
{
    unsigned others = 0;
    int rc = d->extent != 0 ? d->kind->count_shares(d, look->image->uuid, v->uuid, true, &others) : 0;

    if (rc == 0 && others > 0)
        dom_tell(m, VDISK_FOUND_NOTE, "image %s: volume %s is left as it is: other images lie on it",
                 look->image->uuid, v->uuid);
    return rc < 0 ? rc : others > 0;
}

/* Who names another one goes before it: that has a later turn. */
static int drop_unpublished(struct domain *d, const struct dom_look *look, struct domain_volume *v,
                            struct dom_mend *m)
{
    const char *image = look->image->uuid;
    int rc = m->repair ? is_left(d, look, v) : 0;

    if (rc <= 0 || !can_go(look, v))
        return rc < 0 ? rc : 0;
    rc = has_users(d, look, v, m);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    tell_left(look, v, m);
    if (!is_wiped(d, image, v, m))
        return 0;
    rc = is_unpublished(v) ? d->kind->purge(d, image, v->uuid) : d->kind->unshare(d, image, v->uuid);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s, half-made or half removed, is removed", image,
                 v->uuid);
    return rc;
}

static int tell_unpublished(struct domain *d, const struct dom_look *look, struct domain_volume *v,
                            struct dom_mend *m)
{
    int rc = is_left(d, look, v);

    if (rc > 0) {
        tell_left(look, v, m);
        may_go(look, v, m);
    }
    return rc < 0 ? rc : 0;
}

/* ---- 3 and 4: merges ------------------------------------------------------------------------------------ */

static struct domain_volume *only_child(const struct domain_image *image, const struct domain_volume *v)
{
    struct domain_volume *child = NULL;

    for (size_t i = 0; v->children == 1 && i < image->count; i++)
        if (image->list[i].parent == v)
            child = &image->list[i];
    return child;
}

/* The child's header names the base already. */
static int follow_header(struct domain *d, const char *image, const struct domain_volume *v,
                         struct domain_volume *child, struct dom_mend *m)
{
    struct domain_meta meta = child->meta;
    int rc;

    dom_tell(m, VDISK_FOUND_CORRUPTION, "image %s: volume %s lies on %s, and its metadata says on %s: a merge was "
             "ended early", image, child->uuid, v->parent->uuid, v->uuid);
    if (!m->repair)
        return 0;
    memcpy(meta.parent, v->parent->uuid, DOMAIN_UUID);
    rc = dom_write_meta(d, image, child, &meta);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED,
                 "image %s: volume %s lies on %s, as its metadata says now: the merge goes on", image, child->uuid,
                 v->parent->uuid);
    return rc;
}

/* Its parent has some of it: without it that would not be what it was. All that is above reads as before. */
static int keep_mark(const char *image, const struct domain_volume *v, struct dom_mend *m)
{
    dom_tell(m, VDISK_FOUND_NOTE, "image %s: volume %s: a merge was ended early: 'vdisk-io volume merge' ends it",
             image, v->uuid);
    return 0;
}

static int mend_marked(struct domain *d, const struct dom_look *look, struct domain_volume *v, struct dom_mend *m)
{
    struct domain_volume *child;

    if (!dom_is_merged(v) || !is_intact(v) || dom_is_replaced(v))
        return 0;
    child = only_child(look->image, v);
    if (v->children == 0 || (child != NULL && dom_header_names(look, child, v)))
        return keep_mark(look->image->uuid, v, m);
    if (child != NULL && is_intact(child) && v->parent != NULL && dom_header_names(look, child, v->parent))
        return follow_header(d, look->image->uuid, v, child, m);
    dom_tell(m, VDISK_FOUND_CORRUPTION,
             "image %s: volume %s is marked as merged, and it is not clear what lies on it: it is left as it is",
             look->image->uuid, v->uuid);
    return 0;
}

/* Another volume has come into its place. */
static int drop_merged(struct domain *d, const struct dom_look *look, struct domain_volume *v, struct dom_mend *m)
{
    const char *image = look->image->uuid;
    int rc;

    if (!dom_is_replaced(v) || !is_intact(v))
        return 0;
    dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s has been merged, and is still there", image, v->uuid);
    if (!may_go(look, v, m) || !m->repair)
        return 0;
    rc = d->kind->unpublish(d, image, v->uuid, v->wipe);
    if (rc == 0 && !is_wiped(d, image, v, m))
        return 0;
    if (rc == 0)
        rc = d->kind->purge(d, image, v->uuid);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s, which has been merged into %s, is removed", image,
                 v->uuid, v->parent->uuid);
    return rc;
}

/* ---- 5: roles -------------------------------------------------------------------------------------------- */

static bool has_wrong_role(const struct domain_volume *v)
{
    return is_intact(v) && v->meta.role != DOMAIN_SHARED && !dom_is_replaced(v) &&
           (v->meta.role == DOMAIN_INTERNAL) != (v->children > 0);
}

/* Of who becomes internal a header is to say so, too; who becomes a leaf is to be the only one. */
static bool role_is_sure(const struct dom_look *look, const struct domain_volume *v, struct dom_mend *m)
{
    const struct domain_volume *child = only_child(look->image, v);

    if (v->children == 0 && (v->parent == NULL || v->parent->children == 1))
        return may_go(look, v, m);
    if (child != NULL && dom_header_names(look, child, v))
        return true;
    dom_tell(m, VDISK_FOUND_NOTE, "image %s: volume %s is left as it is: its image is no one chain",
             look->image->uuid, v->uuid);
    return false;
}

static int mend_role(struct domain *d, const struct dom_look *look, struct domain_volume *v, struct dom_mend *m)
{
    enum domain_role role = v->children > 0 ? DOMAIN_INTERNAL : DOMAIN_LEAF;
    const char *image = look->image->uuid;
    int rc;

    if (!has_wrong_role(v))
        return 0;
    dom_tell(m, VDISK_FOUND_CORRUPTION, "image %s: volume %s has %s, and its metadata says %s", image, v->uuid,
             v->children > 0 ? "a child" : "no child", domain_role_name(v->meta.role));
    if (!role_is_sure(look, v, m) || !m->repair)
        return 0;
    rc = dom_set_role(d, image, v, role);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: the metadata of volume %s says %s now", image, v->uuid,
                 domain_role_name(role));
    return rc;
}

/* Headers are read only where there is something. */
static bool has_something(const struct domain_image *image)
{
    for (size_t i = 0; i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (v->has_draft || v->has_intent || !v->has_meta || has_wrong_role(v))
            return true;
    }
    return false;
}

int dom_mend(struct domain *d, struct domain_image **image, struct dom_mend *m)
{
    static const struct {
        mend_fn *fn;
        bool     again; /* while it mends something */
    } steps[] = {{drop_draft, false},       {publish_copied, true}, {drop_unpublished, true},
                 {tell_unpublished, false}, {mend_marked, false},   {drop_merged, false},
                 {mend_role, false}};
    size_t mended = m->mended;
    int rc = 0;

    if (!has_something(*image))
        return 0;
    for (size_t i = 0; rc == 0 && i < sizeof steps / sizeof steps[0]; i++) {
        size_t before;
        do {
            before = m->mended;
            rc = mend_each(d, image, m, steps[i].fn);
        } while (rc == 0 && steps[i].again && m->mended > before);
    }
    return rc == 0 && m->mended > mended ? d->kind->sync(d, (*image)->uuid) : rc;
}

/* (3) */
static int is_shared_elsewhere(struct domain *d, const struct domain_image *image, const struct domain_volume *v,
                               struct dom_mend *m)
{
    unsigned others = 0;
    int rc;

    if (!dom_is_foreign(image, v))
        return 0;
    rc = v->has_data && v->has_meta ? d->kind->count_shares(d, image->uuid, v->uuid, true, &others) : 0;
    if (rc == 0 && others == 0)
        dom_tell(m, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s is said to be of image %s, and no other image has it: it is left as it is",
                 image->uuid, v->uuid, v->meta.image);
    return rc < 0 ? rc : others > 0;
}

/* Nothing but what is shared from others, or nothing at all: a creation or a deletion that ended early. */
int dom_mend_empty(struct domain *d, const struct domain_image *image, struct dom_mend *m, bool *ret_gone)
{
    int rc = 0;

    *ret_gone = false;
    for (size_t i = 0; i < image->count; i++) {
        rc = is_shared_elsewhere(d, image, &image->list[i], m);
        if (rc <= 0)
            return rc;
    }
    dom_tell(m, VDISK_FOUND_LEAK, "image %s has no volume of its own", image->uuid);
    if (!m->repair)
        return 0;
    rc = 0;
    for (size_t i = 0; rc == 0 && i < image->count; i++)
        rc = d->kind->unshare(d, image->uuid, image->list[i].uuid);
    if (rc == 0)
        rc = d->kind->drop_image(d, image->uuid);
    if (rc == -ENOTEMPTY)
        return 0; /* strangers */
    *ret_gone = rc == 0;
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s, which has no volume of its own, is removed", image->uuid);
    return rc;
}
