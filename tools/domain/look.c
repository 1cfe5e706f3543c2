/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of an image's volumes before one of them goes, or is written to.
 *
 * Works: headers are read beside metadata, those of data without metadata, too. Fails: what cannot be read is
 * trouble, which is noted with the volume: who would remove something then does not.
 *
 * Invariant: 1. a raw volume names nothing, whatever a guest has written to it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/domain/kind.h"

/* ---- who lies on whom ------------------------------------------------------------------------------------ */

static bool is_unpublished(const struct domain_volume *v)
{
    return !v->has_meta && v->has_intent && !v->odd;
}

/* Data of which nothing is known: does it begin as qcow2? -errno. */
static int begins_as_qcow2(struct domain *d, const char *image, const struct domain_volume *v)
{
    static const char magic[4] = {'Q', 'F', 'I', (char)0xfb};
    char buf[sizeof magic];
    int fd, rc = d->kind->open_data(d, image, v->uuid, false, &fd);

    if (rc < 0)
        return rc;
    rc = pread(fd, buf, sizeof buf, 0) == (ssize_t)sizeof buf && memcmp(buf, magic, sizeof magic) == 0;
    close(fd);
    return rc;
}

static void look_at_header(struct domain *d, const char *image, const struct domain_volume *v,
                           struct dom_looked *ret)
{
    struct domain_volume as = *v;
    struct dom_header header;
    int rc = v->has_meta ? v->meta.format == DOMAIN_COW : begins_as_qcow2(d, image, v); /* (1) */

    as.meta.format = DOMAIN_COW;
    if (rc > 0)
        rc = dom_read_header(d, image, &as, &header);
    else if (rc == 0)
        return;
    if (rc == 0)
        snprintf(ret->backing, sizeof ret->backing, "%s", header.backing);
    else
        snprintf(ret->trouble, sizeof ret->trouble, "volume %s: its header: %.100s", v->uuid, vdisk_error_text());
}

/* Half-made, it need not have a header; going, or found by accident as one that does, it has. */
static void look_at_unpublished(struct domain *d, const char *image, const struct domain_volume *v,
                                struct dom_looked *ret)
{
    if (!v->has_data)
        return;
    look_at_header(d, image, v, ret);
    ret->trouble[0] = '\0';
}

static void look_at(struct domain *d, const char *image, const struct domain_volume *v, struct dom_looked *ret)
{
    if (is_unpublished(v)) {
        look_at_unpublished(d, image, v, ret);
        return;
    }
    if (v->odd || (v->has_meta && v->why[0] != '\0'))
        snprintf(ret->trouble, sizeof ret->trouble, "volume %s: its metadata: %.100s", v->uuid,
                 v->odd ? "it, or what is beside it, is no regular file" : v->why);
    else if (!v->has_meta && v->has_draft)
        snprintf(ret->trouble, sizeof ret->trouble, "volume %s has no metadata, but such as was on its way",
                 v->uuid);
    else if (v->has_meta && !v->has_data)
        snprintf(ret->trouble, sizeof ret->trouble, "volume %s has no data", v->uuid);
    if (v->has_data && !v->odd && v->why[0] == '\0' && ret->trouble[0] == '\0')
        look_at_header(d, image, v, ret);
}

int dom_look(struct domain *d, const struct domain_image *image, struct dom_look *ret)
{
    struct dom_look l = {.image = image, .list = calloc(image->count + 1, sizeof *l.list)};

    if (l.list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; i < image->count; i++)
        look_at(d, image->uuid, &image->list[i], &l.list[i]);
    *ret = l;
    return 0;
}

void dom_look_free(struct dom_look *l)
{
    free(l->list);
    l->list = NULL;
}

/* By its last component: others write paths, too. */
static bool names(const char *backing, const char *uuid)
{
    const char *slash = strrchr(backing, '/');

    return strcmp(slash != NULL ? slash + 1 : backing, uuid) == 0;
}

bool dom_header_names(const struct dom_look *l, const struct domain_volume *child,
                      const struct domain_volume *parent)
{
    return names(l->list[child - l->image->list].backing, parent->uuid);
}

static bool lies_on(const struct dom_look *l, const struct domain_volume *u, const struct domain_volume *v)
{
    return u != v && ((u->has_meta && u->why[0] == '\0' && strcmp(u->meta.parent, v->uuid) == 0) ||
                      dom_header_names(l, u, v));
}

const struct domain_volume *dom_named_by(const struct dom_look *l, const struct domain_volume *v,
                                         const struct domain_volume *except)
{
    for (size_t i = 0; i < l->image->count; i++) {
        const struct domain_volume *u = &l->image->list[i];
        if (u != except && lies_on(l, u, v))
            return u;
    }
    return NULL;
}

/* Who is half-made, or going, and named by none, plays no part: it goes before anything is changed. */
static const struct domain_volume *find_top(const struct dom_look *l, const struct domain_volume *v,
                                            const struct domain_volume *except)
{
    for (size_t i = 0; i < l->image->count; i++) {
        const struct domain_volume *u = &l->image->list[i];
        if (u != except && lies_on(l, u, v) && (!is_unpublished(u) || dom_named_by(l, u, NULL) != NULL))
            return u;
    }
    return NULL;
}

const char *dom_look_trouble(const struct dom_look *l, const struct domain_volume *v)
{
    for (size_t i = 0; i < l->image->count; i++)
        if (&l->image->list[i] != v && l->list[i].trouble[0] != '\0')
            return l->list[i].trouble;
    return NULL;
}

int dom_judge_top(const struct dom_session *s, const struct domain_volume *v, const struct domain_volume *child,
                  const char *doing)
{
    return dom_judge_top_of(s->domain, s->image, v, child, doing);
}

int dom_judge_top_of(struct domain *d, const struct domain_image *image, const struct domain_volume *v,
                     const struct domain_volume *child, const char *doing)
{
    const struct domain_volume *other;
    struct dom_look look;
    const char *trouble;
    int rc = dom_look(d, image, &look);

    if (rc < 0)
        return rc;
    other = find_top(&look, v, child);
    trouble = dom_look_trouble(&look, v);
    if (other != NULL)
        rc = dom_fail(EBUSY, "'vdisk-io domain check' tells more",
                      "volume %s is not %s: volume %s lies on it, as its header says", v->uuid, doing,
                      other->uuid);
    else if (trouble != NULL)
        rc = dom_fail(EBADMSG, "'vdisk-io domain check' tells more",
                      "volume %s is not %s: it is not known whether something lies on it: %s", v->uuid, doing,
                      trouble);
    dom_look_free(&look);
    return rc;
}

int dom_judge_double(struct domain *d, const char *image, const struct domain_volume *v, bool write)
{
    unsigned others = 0;
    int rc = 0;

    if (v->meta.role == DOMAIN_SHARED || v->links <= 1)
        return 0;
    rc = d->kind->count_shares(d, image, v->uuid, false, &others);
    if (rc == 0 && others > 0)
        rc = dom_fail(EBUSY, "copy one of the images, and delete it",
                      "the data of volume %s of image %s is that of another image, too, and it is no template",
                      v->uuid, image);
    else if (rc == 0 && write)
        rc = dom_fail(EBUSY, "copy the image, or remove the other name",
                      "the data of volume %s of image %s has %u names: who writes by one changes the other",
                      v->uuid, image, v->links);
    return rc;
}

/* ---- who has it open ------------------------------------------------------------------------------------- */

enum { PAUSE_FIRST_MS = 20, PAUSE_MOST_MS = 320 };

bool dom_pause(const struct domain *d, unsigned *ms)
{
    struct timespec pause;

    if (*ms == PAUSE_MOST_MS && !d->how.wait)
        return false;
    *ms = *ms == 0 ? PAUSE_FIRST_MS : *ms < PAUSE_MOST_MS ? 2 * *ms : PAUSE_MOST_MS;
    pause = (struct timespec){.tv_nsec = *ms * 1000000L};
    nanosleep(&pause, NULL);
    return true;
}

/* As bytes: what the volume holds plays no part. A process that was killed has its locks for a moment still. */
static int open_claimed(const struct domain *d, const char *path, bool alone, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_BUFFERED | VDISK_OPEN_NO_NAMES,
                                  .format = "raw"};
    int rc;

    if (alone)
        how.flags |= VDISK_OPEN_RDWR;
    rc = vdisk_open(path, &how, ret);
    if (rc == -EROFS && alone) { /* nobody writes there: only looking is done */
        how.flags &= ~(uint32_t)VDISK_OPEN_RDWR;
        rc = vdisk_open(path, &how, ret);
    }
    for (unsigned ms = 0; rc == -EAGAIN && dom_pause(d, &ms);)
        rc = vdisk_open(path, &how, ret);
    return rc;
}

static int claim(struct domain *d, const char *image, const struct domain_volume *v, bool alone,
                 struct dom_claims *claims)
{
    vdisk **list = reallocarray(claims->list, claims->count + 1, sizeof *list);
    char *path = NULL;
    int rc;

    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    claims->list = list;
    rc = dom_data_path(d, image, v->uuid, &path);
    if (rc == 0)
        rc = open_claimed(d, path, alone, &list[claims->count]);
    if (alone)
        rc = dom_explain_open(rc);
    free(path);
    if (rc == 0)
        claims->count++;
    return rc;
}

int dom_claim(struct domain *d, const char *image, const struct domain_volume *v, struct dom_claims *claims)
{
    return claim(d, image, v, false, claims);
}

/* Locks are of a device's name, and a virtual machine may have one of its own: the kernel is asked first. */
static int judge_idle(struct domain *d, const struct domain_volume *const *list, size_t n)
{
    const char **names = calloc(n + 1, sizeof *names);
    int rc;

    if (names == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; i < n; i++)
        names[i] = list[i]->uuid;
    rc = d->kind->judge_idle(d, names, n);
    for (unsigned ms = 0; rc == -EAGAIN && dom_pause(d, &ms);)
        rc = d->kind->judge_idle(d, names, n);
    free(names);
    return rc;
}

int dom_claim_alone(struct domain *d, const char *image, const struct domain_volume *const *list, size_t n,
                    struct dom_claims *claims)
{
    int rc = n > 0 ? judge_idle(d, list, n) : 0;

    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = claim(d, image, list[i], true, claims);
    return rc;
}

void dom_claims_end(struct dom_claims *claims)
{
    struct dom_error error;

    dom_error_keep(&error, -1);
    for (size_t i = 0; i < claims->count; i++)
        vdisk_close(claims->list[i]);
    free(claims->list);
    *claims = (struct dom_claims){0};
    dom_error_give(&error);
}
