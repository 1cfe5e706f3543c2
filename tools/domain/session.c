/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A locked image. Works: the lock is taken, the image loaded and mended. Fails: somebody else has the lock; a
 * volume of the image has metadata that cannot be read: nothing is guessed then.
 */
#include <errno.h>
#include <string.h>

#include "tools/domain/lease.h"

static void tell_note(void *arg, enum vdisk_finding kind, const char *text)
{
    if (kind == VDISK_FOUND_FIXED)
        dom_note(arg, "%s", text);
}

/* What others say of it, too, may be of another one. */
static int judge_places(const struct domain *d, const struct domain_image *image)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < image->count; i++)
        rc = dom_judge_place(d, image, &image->list[i]);
    return rc;
}

static int refuse_damaged(const struct domain *d, const struct domain_image *image)
{
    for (size_t i = 0; i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (v->has_meta && v->why[0] != '\0')
            return dom_fail(EBADMSG, "restore VOLUME.meta: without it nobody knows what the volume lies on",
                            "%s: image %s: the metadata of volume %s: %s", d->path, image->uuid, v->uuid, v->why);
        if (v->odd)
            return dom_fail(EBADMSG, NULL, "%s: image %s: volume %s, or what is beside it, is no regular file",
                            d->path, image->uuid, v->uuid);
    }
    return 0;
}

static int drop_empty(struct domain *d, const struct domain_image *image, struct dom_mend *mend)
{
    bool gone;
    int rc = dom_mend_empty(d, image, mend, &gone);

    return rc == 0 && gone ? dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, image->uuid) : rc;
}

static int lock_image(struct domain *d, const struct dom_want *want, struct dom_session *s)
{
    struct dom_lock_wish wishes[] = {{want->image, want->beside ? DOM_LOCK_BESIDE : DOM_LOCK_CHANGE},
                                     {want->shared_image, DOM_LOCK_READ}};
    bool two = want->shared_image != NULL && strcmp(want->image, want->shared_image) != 0;
    int rc;

    s->alone = !want->beside;
    s->lock = want->lock;
    if (want->lock >= 0)
        return 0;
    rc = d->kind->lock(d, wishes, two ? 2 : 1, &s->lock);
    if (rc == 0 && want->beside)
        s->alone = d->kind->lock_alone(d, s->lock, want->image) == 0;
    return rc;
}

static int load(struct domain *d, const struct dom_want *want, struct dom_session *s)
{
    struct dom_mend mend = {.repair = !want->dry_run, .wipe = want->wipe, .tell = tell_note, .arg = d};
    int rc = domain_load_image(d, want->image, &s->image);

    if (rc == -ENOENT && want->may_lack)
        return 0;
    if (rc == 0)
        rc = lease_judge(d, s->image, want->lock >= 0 ? want->lock : s->lock, NULL);
    if (rc == 0)
        rc = refuse_damaged(d, s->image);
    if (rc == 0)
        rc = judge_places(d, s->image);
    if (rc < 0 || !s->alone)
        return rc;
    rc = dom_mend(d, &s->image, &mend);
    if (rc == 0 && !want->may_lack)
        rc = drop_empty(d, s->image, &mend);
    if (rc == 0 && want->dry_run && mend.faults > 0)
        dom_note(d, "image %s: %zu thing%s that a command has left would be mended first", want->image,
                 mend.faults, DOM_S(mend.faults));
    return rc;
}

int dom_begin(struct domain *d, const struct dom_want *want, struct dom_session *ret)
{
    struct dom_session s = {.domain = d, .lock = -1};
    struct dom_error error;
    int rc = dom_check_uuid("image", want->image);

    if (rc == 0)
        rc = lock_image(d, want, &s);
    if (rc == 0)
        rc = dom_check_version(d);
    if (rc == 0 && !want->beside && !want->dry_run && d->kind->judge_change != NULL)
        rc = d->kind->judge_change(d);
    if (rc == 0)
        rc = load(d, want, &s);
    if (rc < 0) {
        dom_error_keep(&error, rc);
        s.lock = s.lock >= 0 ? s.lock : want->lock;
        dom_end(&s);
        return dom_error_give(&error);
    }
    *ret = s;
    return 0;
}

void dom_end(struct dom_session *s)
{
    domain_image_free(s->image);
    s->image = NULL;
    if (s->lock >= 0)
        s->domain->kind->unlock(s->domain, s->lock);
}

struct domain_volume *dom_session_volume(const struct dom_session *s, const char *volume, int *ret_rc)
{
    struct domain_volume *v;

    if (volume[0] == '\0')
        return domain_image_leaf(s->domain, s->image, ret_rc);
    *ret_rc = dom_check_uuid("volume", volume);
    if (*ret_rc < 0)
        return NULL;
    v = domain_image_volume(s->image, volume);
    if (v == NULL || !v->has_meta) {
        *ret_rc = dom_fail(ENOENT, NULL, "image %s has no volume %s", s->image->uuid, volume);
        return NULL;
    }
    return v;
}
