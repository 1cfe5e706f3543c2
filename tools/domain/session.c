/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A locked image. Works: the lock is taken, the image loaded and mended. Fails: somebody else has the lock; a
 * volume of the image has metadata that cannot be read: nothing is guessed then.
 */
#include <errno.h>
#include <string.h>

#include "tools/domain/kind.h"

static void tell_note(void *arg, enum vdisk_finding kind, const char *text)
{
    if (kind == VDISK_FOUND_FIXED)
        dom_note(arg, "%s", text);
}

static int refuse_damaged(const struct domain *d, const struct domain_image *image)
{
    for (size_t i = 0; i < image->count; i++)
        if (image->list[i].has_meta && image->list[i].why[0] != '\0')
            return dom_fail(EBADMSG, "restore VOLUME.meta, or remove it",
                            "%s: image %s: the metadata of volume %s: %s", d->path, image->uuid,
                            image->list[i].uuid, image->list[i].why);
    return 0;
}

static int drop_empty(struct domain *d, const struct domain_image *image, struct dom_mend *mend)
{
    bool gone;
    int rc = dom_mend_empty(d, image, mend, &gone);

    return rc == 0 && gone ? dom_fail(ENOENT, NULL, "domain %s has no image %s", d->uuid, image->uuid) : rc;
}

int dom_begin(struct domain *d, const char *image, const char *shared_image, bool may_lack,
              struct dom_session *ret)
{
    struct dom_mend mend = {.repair = true, .tell = tell_note, .arg = d};
    struct dom_session s = {.domain = d, .lock = -1};
    struct dom_error error;
    int rc = dom_check_uuid("image", image);

    if (rc == 0)
        rc = d->kind->lock(d, false, image, shared_image, &s.lock);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &s.image);
    if (rc == -ENOENT && may_lack) {
        *ret = s;
        return 0;
    }
    if (rc == 0)
        rc = refuse_damaged(d, s.image);
    if (rc == 0)
        rc = dom_mend(d, &s.image, &mend);
    if (rc == 0 && !may_lack)
        rc = drop_empty(d, s.image, &mend);
    if (rc < 0) {
        dom_error_keep(&error, rc);
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
    s->domain->kind->unlock(s->lock);
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
