/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: for each image its volumes are looked for, and their leases taken, all of them or none; who waits asks
 * again, after a pause, and holds none meanwhile. A volume that has no lease, as one that was being made when its
 * maker was killed, gets one, by who has the domain's own. Fails: another host has one, and is named; there is no
 * daemon, or this host is not in the lockspace: then nothing is locked, and so nothing done, unless the
 * environment says that leases are to be ignored (VDISK_IO_LEASES=ignore), which is told. Killed: the daemon frees
 * what was held.
 *
 * Invariants:
 *  1. A lease is written only by who has the domain's own, where there is none, or one of another name.
 *  2. An image that has volumes is never locked without a lease.
 *  3. Nothing is held after lease_unlock().
 */
#include "tools/domain/lease.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OWNERS_MOST = 4, LOCKS_MOST = 8 };

#define OWN_NAME "SDM"
#define IGNORE   "VDISK_IO_LEASES"

struct held {
    int                  lock;
    char                 image[DOMAIN_UUID];
    struct sanlock_lease lease;
};

struct lease_state {
    bool         known, used; /* there is a lockspace, and leases are to be taken */
    struct held *list;
    size_t       count;
    struct changed {
        int  lock;
        char image[DOMAIN_UUID];
    }        changed[LOCKS_MOST]; /* images that are locked for a change */
    size_t   changed_count;
    unsigned own; /* how often the domain's own is held */
    int      own_of[LOCKS_MOST]; /* locks that hold it */
    size_t   own_count;
};

/* ---- is there a lockspace? --------------------------------------------------------------------------------- */

static int no_memory(void)
{
    return dom_fail(ENOMEM, NULL, "out of memory");
}

/* 1: leases are taken; 0: they are not; -errno. */
static int is_used(struct domain *d)
{
    const char *how = getenv(IGNORE);
    bool ignored = how != NULL && strcmp(how, "ignore") == 0;
    int rc;

    if (d->leases == NULL && (d->leases = calloc(1, sizeof *d->leases)) == NULL)
        return no_memory();
    if (d->leases->known)
        return d->leases->used;
    rc = lease_is_formatted(d);
    if (rc < 0 && !ignored)
        return rc;
    d->leases->used = rc != 0;
    if (d->leases->used && ignored) {
        dom_note(d, "%s: its leases are ignored: no other host may work in it", d->path);
        d->leases->used = false;
    }
    d->leases->known = true;
    return d->leases->used;
}

static int judge_host(struct domain *d)
{
    struct dom_error error;
    unsigned host;
    int rc = sanlock_host(d->uuid, &host);

    if (rc == -ENOENT)
        return dom_fail(ENOTCONN,
                        "'vdisk-io domain join --host-id N' does that, with a number that no other host has",
                        "%s: is locked by leases, and this host has not joined its lockspace", d->path);
    if (rc != -ENOTCONN)
        return rc;
    dom_error_keep(&error, rc);
    return dom_fail(ENOTCONN, "install and start sanlock, and join; where no other host uses the domain: "
                    IGNORE "=ignore", "%s: is locked by leases: %s", d->path, error.text);
}

/* ---- places ------------------------------------------------------------------------------------------------ */

static int find_own(struct domain *d, struct sanlock_lease *ret)
{
    *ret = (struct sanlock_lease){.name = OWN_NAME};
    return d->kind->find_lease(d, DOM_LEASE_OWN, NULL, NULL, &ret->place);
}

static int add_lease(struct domain *d, const char *image, const char *volume, int lock, bool shared)
{
    struct lease_state *s = d->leases;
    struct held *list = reallocarray(s->list, s->count + 1, sizeof *list), *h;

    if (list == NULL)
        return no_memory();
    s->list = list;
    h = &list[s->count];
    *h = (struct held){.lock = lock, .lease.shared = shared};
    snprintf(h->image, sizeof h->image, "%s", image);
    snprintf(h->lease.name, sizeof h->lease.name, "%s", volume);
    int rc = d->kind->find_lease(d, DOM_LEASE_VOLUME, image, volume, &h->lease.place);
    if (rc == 0)
        s->count++;
    return rc;
}

/* Those of an image that are its own. A template's are of the image that it is of. */
static int add_image(struct domain *d, const struct dom_lock_wish *wish, int lock)
{
    struct domain_image *image;
    int rc = domain_load_image(d, wish->image, &image);

    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    for (size_t i = 0; rc == 0 && i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (!v->odd && (v->has_meta || v->has_intent) && !dom_is_foreign(image, v))
            rc = add_lease(d, wish->image, v->uuid, lock, wish->kind != DOM_LOCK_CHANGE);
    }
    domain_image_free(image);
    return rc;
}

/* ---- who has one ------------------------------------------------------------------------------------------- */

/* The first that is another host; false: there is none. */
static bool name_owner(struct domain *d, const struct sanlock_lease *lease, char *ret, size_t room)
{
    unsigned own = 0, hosts[OWNERS_MOST];
    unsigned char sector[TEXT_HOST_SIZE];
    char name[TEXT_HOST_NAME] = "";
    size_t count = 0;

    if (sanlock_host(d->uuid, &own) < 0 || sanlock_owners(d->uuid, lease, hosts, OWNERS_MOST, &count) < 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (hosts[i] == own)
            continue;
        if (d->kind->read_host(d, hosts[i], sector) == 0)
            text_host_name(sector, name);
        snprintf(ret, room, "host %u%s%s%s", hosts[i], name[0] != '\0' ? " (" : "", name,
                 name[0] != '\0' ? ")" : "");
        return true;
    }
    return false;
}

static int in_use(struct domain *d, const char *what, const char *name, const struct sanlock_lease *lease)
{
    char owner[128] = "a process of this host, or one that has just ended";

    name_owner(d, lease, owner, sizeof owner);
    return dom_fail(EAGAIN, "an action on images or volumes waits for it with --wait", "%s %s is in use by %s",
                    what, name, owner);
}

int lease_explain(struct domain *d, const struct dom_lock_wish *images, unsigned n, int rc)
{
    struct dom_error error;
    char owner[128];
    size_t first;

    dom_error_keep(&error, rc);
    if (rc != -EAGAIN || is_used(d) <= 0)
        return dom_error_give(&error);
    first = d->leases->count;
    for (unsigned i = 0; i < n; i++)
        if (add_image(d, &images[i], -1) < 0)
            break;
    for (size_t i = first; rc == -EAGAIN && i < d->leases->count; i++)
        if (name_owner(d, &d->leases->list[i].lease, owner, sizeof owner))
            rc = -EBUSY;
    d->leases->count = first;
    return rc == -EBUSY ? dom_fail(EAGAIN, error.hint, "image %s is in use by %s", images[0].image, owner)
                        : dom_error_give(&error);
}

/* ---- the domain's own -------------------------------------------------------------------------------------- */

int lease_begin(struct domain *d)
{
    struct sanlock_lease own;
    unsigned ms = 0;
    size_t which;
    bool here;
    int rc = is_used(d);

    if (rc <= 0)
        return rc;
    if (d->leases->own > 0) {
        d->leases->own++;
        return 0;
    }
    rc = judge_host(d);
    if (rc == 0)
        rc = find_own(d, &own);
    if (rc < 0)
        return rc;
    do
        rc = sanlock_take(d->uuid, &own, 1, &which, &here);
    while (rc == -EAGAIN && dom_pause(d, &ms));
    if (rc == -EAGAIN)
        return in_use(d, "the lease of domain", d->uuid, &own);
    if (rc == -ENODATA)
        return dom_fail(EBADMSG, "'sanlock direct init' writes it, while no host uses the domain",
                        "%s: has no lease " OWN_NAME " of its own in %s", d->path, own.place.path);
    d->leases->own += rc == 0;
    return rc;
}

void lease_end(struct domain *d)
{
    struct sanlock_lease own;
    struct dom_error error;

    if (d->leases == NULL || d->leases->own == 0 || --d->leases->own > 0)
        return;
    dom_error_keep(&error, -EIO); /* of what goes on: the text is what counts */
    if (find_own(d, &own) < 0 || sanlock_give(d->uuid, &own, 1) < 0)
        dom_note(d, "%s", vdisk_error_text());
    dom_error_give(&error);
}

/* ---- taking ------------------------------------------------------------------------------------------------ */

/* (1) */
static int write_lease(struct domain *d, const struct held *h)
{
    char name[SANLOCK_NAME + 1] = "";
    int rc = lease_begin(d);

    if (rc < 0)
        return rc;
    rc = sanlock_read(d->uuid, &h->lease.place, name);
    if (rc == -ENOENT || (rc == 0 && strcmp(name, h->lease.name) != 0)) {
        rc = d->kind->make_lease(d, h->image, h->lease.name);
        if (rc == 0)
            rc = sanlock_format_lease(d->uuid, &h->lease);
    }
    lease_end(d);
    return rc;
}

/* Those in the list from `first` on: all or none. */
static int take_from(struct domain *d, size_t first)
{
    struct lease_state *s = d->leases;
    struct dom_error error;
    size_t done = first, written = SIZE_MAX, which;
    bool here;
    int rc = 0;

    while (rc == 0 && done < s->count) {
        rc = sanlock_take(d->uuid, &s->list[done].lease, 1, &which, &here);
        if (rc == -ENODATA && written == done)
            rc = dom_fail(EBADMSG, NULL, "volume %s: its lease was written, and sanlock still finds none in %s",
                          s->list[done].lease.name, s->list[done].lease.place.path);
        else if (rc == -ENODATA)
            rc = write_lease(d, &s->list[written = done]);
        else if (rc == 0)
            done++;
    }
    if (rc == -EAGAIN)
        in_use(d, "image", s->list[done].image, &s->list[done].lease);
    dom_error_keep(&error, rc);
    while (rc < 0 && done > first) {
        done--;
        sanlock_give(d->uuid, &s->list[done].lease, 1);
    }
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* What an image has is looked at anew each time: who had it has changed that. */
static int try_once(struct domain *d, const struct dom_lock_wish *images, unsigned n, int lock)
{
    size_t first = d->leases->count;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < n; i++)
        rc = add_image(d, &images[i], lock);
    if (rc == 0)
        rc = take_from(d, first);
    if (rc < 0)
        d->leases->count = first;
    return rc;
}

static int try_again(struct domain *d, const struct dom_lock_wish *images, unsigned n, int lock)
{
    unsigned ms = 0;
    int rc;

    do
        rc = try_once(d, images, n, lock);
    while (rc == -EAGAIN && dom_pause(d, &ms));
    return rc;
}

/* For as long as the lock is held. */
static int keep_own(struct domain *d, int lock)
{
    struct lease_state *s = d->leases;
    int rc;

    assert(s->own_count < LOCKS_MOST);
    rc = lease_begin(d);
    if (rc == 0)
        s->own_of[s->own_count++] = lock;
    return rc;
}

static void note_changed(struct lease_state *s, const struct dom_lock_wish *wish, int lock)
{
    struct changed *c = &s->changed[s->changed_count];

    if (wish->kind != DOM_LOCK_CHANGE)
        return;
    assert(s->changed_count < LOCKS_MOST);
    s->changed_count++;
    c->lock = lock;
    snprintf(c->image, sizeof c->image, "%s", wish->image);
}

int lease_lock(struct domain *d, const struct dom_lock_wish *images, unsigned n, int lock)
{
    bool beside = false;
    int rc = is_used(d);

    if (rc <= 0)
        return rc;
    for (unsigned i = 0; i < n; i++)
        beside = beside || images[i].kind == DOM_LOCK_BESIDE;
    rc = judge_host(d);
    if (rc == 0 && beside)
        rc = keep_own(d, lock);
    if (rc == 0)
        rc = try_again(d, images, n, lock);
    if (rc < 0) {
        struct dom_error error;
        dom_error_keep(&error, rc);
        lease_unlock(d, lock);
        return dom_error_give(&error);
    }
    for (unsigned i = 0; i < n; i++)
        note_changed(d->leases, &images[i], lock);
    return 0;
}

int lease_lock_alone(struct domain *d, int lock, const char *image)
{
    int rc = is_used(d);

    if (rc <= 0)
        return rc;
    for (size_t i = 0; rc >= 0 && i < d->leases->count; i++) {
        struct held *h = &d->leases->list[i];
        if (h->lock != lock || strcmp(h->image, image) != 0)
            continue;
        rc = sanlock_exclude(d->uuid, &h->lease);
        if (rc == -EAGAIN)
            rc = in_use(d, "image", image, &h->lease);
    }
    return rc < 0 ? rc : 0;
}

int lease_lock_domain(struct domain *d, int lock)
{
    struct domain_names names = {0};
    int rc = is_used(d);

    if (rc <= 0)
        return rc;
    rc = judge_host(d);
    if (rc == 0)
        rc = keep_own(d, lock);
    if (rc == 0)
        rc = domain_list_images(d, &names);
    else
        return rc;
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        const struct dom_lock_wish wish = {names.list[i], DOM_LOCK_CHANGE};
        if (dom_removed_uuid(names.list[i], NULL) == NULL)
            rc = try_again(d, &wish, 1, lock);
    }
    domain_names_free(&names);
    if (rc < 0) {
        struct dom_error error;
        dom_error_keep(&error, rc);
        lease_unlock(d, lock);
        return dom_error_give(&error);
    }
    return 0;
}

static void give_at(struct domain *d, size_t at)
{
    struct lease_state *s = d->leases;
    struct dom_error error;

    dom_error_keep(&error, -EIO);
    if (sanlock_give(d->uuid, &s->list[at].lease, 1) < 0)
        dom_note(d, "%s", vdisk_error_text());
    dom_error_give(&error);
    s->list[at] = s->list[--s->count];
}

/* (3) */
void lease_unlock(struct domain *d, int lock)
{
    struct lease_state *s = d->leases;

    for (size_t i = s != NULL ? s->count : 0; i > 0; i--)
        if (s->list[i - 1].lock == lock)
            give_at(d, i - 1);
    for (size_t i = s != NULL ? s->changed_count : 0; i > 0; i--)
        if (s->changed[i - 1].lock == lock)
            s->changed[i - 1] = s->changed[--s->changed_count];
    for (size_t i = s != NULL ? s->own_count : 0; i > 0; i--) {
        if (s->own_of[i - 1] == lock) {
            s->own_of[i - 1] = s->own_of[--s->own_count];
            lease_end(d);
        }
    }
}

/* ---- volumes that come, and go ----------------------------------------------------------------------------- */

int lease_make(struct domain *d, const char *image, const char *volume)
{
    const struct changed *c = NULL;
    struct dom_error error;
    size_t first;
    int rc = is_used(d);

    if (rc <= 0)
        return rc;
    for (size_t i = 0; c == NULL && i < d->leases->changed_count; i++)
        if (strcmp(d->leases->changed[i].image, image) == 0)
            c = &d->leases->changed[i];
    assert(c != NULL);
    first = d->leases->count;
    rc = add_lease(d, image, volume, c->lock, false);
    if (rc == 0)
        rc = write_lease(d, &d->leases->list[first]);
    if (rc == 0)
        rc = take_from(d, first);
    if (rc < 0) {
        dom_error_keep(&error, rc);
        d->leases->count = first;
        return dom_error_give(&error);
    }
    return 0;
}

void lease_drop(struct domain *d, const char *volume)
{
    struct lease_state *s = d->leases;

    for (size_t i = s != NULL ? s->count : 0; i > 0; i--)
        if (strcmp(s->list[i - 1].lease.name, volume) == 0)
            give_at(d, i - 1);
}

void lease_close(struct domain *d)
{
    struct lease_state *s = d->leases;

    if (s == NULL)
        return;
    assert(s->count == 0 && s->own == 0); /* (3) */
    free(s->list);
    free(s);
    d->leases = NULL;
}
