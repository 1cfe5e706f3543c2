/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes and images that go.
 *
 * Works: a volume is unpublished, its data is wiped, if it is to be, and goes, and its parent is a leaf then; an
 * image is renamed, then its volumes are wiped, then its files go. Fails: something lies on it, or it is not known
 * of all others what they lie on; somebody has it open. Killed: once it is unpublished, or renamed, it does not
 * come back; that it is to be wiped is known from its name.
 *
 * Invariants:
 *  1. On a full disk, too, the data goes: nothing is written before, but zeros in its place.
 *  2. What is to be wiped does not go before it has been, nor does what one who was killed has left of the image;
 *     what other images have is not wiped (clear.c).
 *  3. What goes is not open here any more: a device would stay, and on NFS a name, in a folder that is to go.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/kind.h"

/* ---- a volume -------------------------------------------------------------------------------------------- */

static int judge_shares(struct domain *d, const char *image, const struct domain_volume *v)
{
    unsigned others = 0;
    int rc = 0;

    if (d->extent != 0 || (v->meta.role == DOMAIN_SHARED && v->links > 1)) /* a file has other names then */
        rc = d->kind->count_shares(d, image, v->uuid, false, &others);
    if (rc == 0 && others > 0)
        rc = dom_fail(EBUSY, "delete those first", "volume %s of image %s is a template that %u image%s on",
                      v->uuid, image, others, others == 1 ? " lies" : "s lie");
    return rc;
}

static int judge(const struct dom_session *s, const struct domain_volume *v)
{
    int rc;

    if (v->children > 0)
        return dom_fail(EBUSY, "'vdisk-io volume merge' puts it into its parent, and has the child lie on that",
                        "volume %s has a child: only a volume that none lies on is deleted", v->uuid);
    if (dom_is_merged(v))
        return dom_fail(EBUSY, "'vdisk-io volume merge' ends it",
                        "a merge of volume %s into its parent was ended early: the parent alone is no longer what "
                        "it was", v->uuid);
    if (dom_is_foreign(s->image, v))
        return dom_fail(EBUSY, "delete the image that it is of", "volume %s is the template of image %s", v->uuid,
                        v->meta.image);
    rc = judge_shares(s->domain, s->image->uuid, v);
    return rc == 0 ? dom_judge_top(s, v, NULL, "deleted") : rc;
}

/* The template that was shared into an image whose last volume has gone, and its folder. */
static int drop_rest(struct dom_session *s)
{
    struct dom_mend mend = {.repair = true};
    struct domain_image *image;
    bool gone = false;
    int rc = domain_load_image(s->domain, s->image->uuid, &image);

    if (rc == -ENOENT)
        return 0; /* an image that is but its volumes */
    if (rc < 0)
        return rc;
    rc = dom_mend_empty(s->domain, image, &mend, &gone);
    domain_image_free(image);
    return rc;
}

static struct dom_clear clear_of(const struct domain_delete *o)
{
    return (struct dom_clear){.wipe = o->wipe, .discard = o->discard, .rate = o->rate, .progress = o->progress,
                              .progress_arg = o->progress_arg};
}

static int clear_volume(struct dom_session *s, const struct domain_volume *v, struct dom_clear *c)
{
    int rc;

    if (!c->wipe && !c->discard)
        return 0;
    dom_clear_add(c, v);
    rc = dom_clear(s->domain, s->image->uuid, v, c);
    if (rc == 0)
        dom_step("delete: data is cleared");
    return rc;
}

static int remove_volume(struct dom_session *s, struct domain_volume *v, struct dom_clear *c,
                         struct dom_claims *claims)
{
    const struct dom_kind *kind = s->domain->kind;
    int rc = kind->unpublish(s->domain, s->image->uuid, v->uuid, c->wipe);

    if (rc == 0)
        rc = kind->sync(s->domain, s->image->uuid);
    if (rc == 0) {
        dom_step("delete: volume is unpublished");
        rc = clear_volume(s, v, c); /* (2) */
    }
    dom_claims_end(claims); /* (3) */
    if (rc == 0)
        rc = kind->purge(s->domain, s->image->uuid, v->uuid); /* (1) */
    if (rc == 0) {
        dom_step("delete: volume is removed");
        if (v->parent != NULL && v->parent->children == 1)
            rc = dom_set_role(s->domain, s->image->uuid, v->parent, DOMAIN_LEAF);
    }
    if (rc == 0) {
        dom_step("delete: parent is a leaf");
        rc = kind->sync(s->domain, s->image->uuid);
    }
    if (rc == 0)
        rc = drop_rest(s);
    return rc;
}

static void give_deleted(const struct dom_clear *c, struct domain_deleted *ret)
{
    if (ret != NULL)
        *ret = (struct domain_deleted){c->wiped, c->discarded};
}

int domain_volume_delete(struct domain *d, const char *image, const char *volume, const struct domain_delete *o,
                         struct domain_deleted *ret)
{
    struct dom_want want = {.image = image, .dry_run = o->dry_run, .wipe = o->wipe, .lock = -1};
    struct dom_clear clear = clear_of(o);
    struct dom_claims claims = {0};
    struct dom_session s;
    struct domain_volume *v;
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    v = dom_session_volume(&s, volume, &rc);
    if (v != NULL)
        rc = judge(&s, v);
    if (rc == 0 && v->has_data)
        rc = dom_claim_alone(d, image, (const struct domain_volume *const[]){v}, 1, &claims);
    if (d->extent != 0)
        dom_claims_end(&claims); /* a device that is open does not go */
    if (rc == 0 && !o->dry_run)
        rc = remove_volume(&s, v, &clear, &claims);
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    dom_end(&s);
    give_deleted(&clear, ret);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- an image -------------------------------------------------------------------------------------------- */

static int clear_image(struct domain *d, const struct domain_image *image, const char *removed,
                       struct dom_clear *c)
{
    int rc = 0;

    for (size_t i = 0; i < image->count; i++)
        if (!dom_is_foreign(image, &image->list[i]))
            dom_clear_add(c, &image->list[i]);
    for (size_t i = 0; rc == 0 && i < image->count; i++)
        if (!dom_is_foreign(image, &image->list[i]))
            rc = dom_clear(d, removed, &image->list[i], c);
    if (rc == 0)
        dom_step("image delete: data is cleared");
    return rc;
}

static int clear_removed(struct domain *d, const char *removed, struct dom_clear *c)
{
    struct domain_image *image;
    int rc;

    if (!c->wipe && !c->discard)
        return 0;
    rc = domain_load_image(d, removed, &image);
    if (rc < 0)
        return rc;
    rc = clear_image(d, image, removed, c);
    domain_image_free(image);
    return rc;
}

int dom_purge_removed(struct domain *d, const char *removed, struct dom_clear *c)
{
    int rc = clear_removed(d, removed, c); /* (2) */

    return rc == 0 ? d->kind->purge_image(d, removed) : rc;
}

/* -ENOENT, without more: there is none of that name. */
static int purge_one(struct domain *d, const char *image, bool wipe, struct dom_clear *c, bool dry_run)
{
    char name[DOM_REMOVED_NAME];
    struct dom_entries entries = {0};
    int rc = d->kind->list_volumes(d, dom_removed_name(name, image, wipe), &entries);

    free(entries.list);
    if (rc < 0 || dry_run)
        return rc;
    dom_note(d, "image %s was deleted before: what is left of it is removed", image);
    c->wipe |= wipe;
    return dom_purge_removed(d, name, c);
}

/* It was renamed by an earlier call. */
static int purge_earlier(struct domain *d, const char *image, struct dom_clear *c, bool dry_run)
{
    int plain = purge_one(d, image, false, c, dry_run), zero = -ENOENT;

    if (plain == 0 || plain == -ENOENT)
        zero = purge_one(d, image, true, c, dry_run);
    if (plain == -ENOENT && zero == -ENOENT)
        return dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, image);
    return plain < 0 && plain != -ENOENT ? plain : zero == -ENOENT ? 0 : zero;
}

/* Nobody has one of its volumes open; what it shares from others stays there. */
static int judge_image(struct domain *d, const struct domain_image *image, struct dom_claims *claims)
{
    const struct domain_volume **own = calloc(image->count + 1, sizeof *own);
    size_t count = 0;
    int rc = own != NULL ? 0 : dom_fail(ENOMEM, NULL, "out of memory");

    for (size_t i = 0; rc == 0 && i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (!v->has_data || dom_is_foreign(image, v))
            continue;
        rc = v->has_meta || d->extent != 0 ? judge_shares(d, image->uuid, v) : 0;
        own[count++] = v;
    }
    if (rc == 0)
        rc = dom_claim_alone(d, image->uuid, own, count, claims);
    free(own);
    return rc;
}

/* A template of which the image has the only names would be lost, whoever's it is said to be. */
static int judge_foreign(struct domain *d, const struct domain_image *image)
{
    unsigned others = 1;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (!v->has_data || !dom_is_foreign(image, v))
            continue;
        rc = d->kind->count_shares(d, image->uuid, v->uuid, true, &others);
        if (rc == 0 && others == 0)
            rc = dom_fail(EBUSY, "'vdisk-io domain check' tells more",
                          "image %s has the only copy of volume %s, which is said to be of image %s", image->uuid,
                          v->uuid, v->meta.image);
    }
    return rc;
}

static int remove_image(struct domain *d, const char *image, struct dom_clear *c, struct dom_claims *claims)
{
    char name[DOM_REMOVED_NAME];
    int rc = d->kind->retire_image(d, image, c->wipe);

    if (rc < 0)
        return rc;
    dom_step("image delete: image is renamed");
    rc = clear_removed(d, dom_removed_name(name, image, c->wipe), c); /* (2) */
    dom_claims_end(claims); /* (3) */
    if (rc == 0)
        rc = d->kind->purge_image(d, name);
    if (rc == 0)
        dom_step("image delete: image is removed");
    return rc;
}

int domain_image_delete(struct domain *d, const char *image, const struct domain_delete *o,
                        struct domain_deleted *ret)
{
    struct dom_want want = {.image = image, .may_lack = true, .dry_run = o->dry_run, .wipe = o->wipe, .lock = -1};
    struct dom_clear clear = clear_of(o);
    struct dom_claims claims = {0};
    struct dom_session s;
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    if (s.image == NULL) {
        rc = purge_earlier(d, image, &clear, o->dry_run);
    } else {
        rc = judge_foreign(d, s.image);
        if (rc == 0)
            rc = d->kind->judge_purge(d, image);
        if (rc == 0)
            rc = judge_image(d, s.image, &claims);
        if (d->extent != 0)
            dom_claims_end(&claims);
        if (rc == 0 && !o->dry_run)
            rc = remove_image(d, image, &clear, &claims);
    }
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    dom_end(&s);
    give_deleted(&clear, ret);
    return rc < 0 ? dom_error_give(&error) : 0;
}
