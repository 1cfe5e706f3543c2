/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: for each image its volumes are looked for, and their leases taken, all of them or none, then the domain's
 * own, if that is wanted, too; then it is looked again, and what has changed meanwhile has it begin again. Who
 * waits asks again, after a pause, and holds none meanwhile. A volume that has no lease, as one that was being
 * made when its maker was killed, gets one, by who has the domain's own. Of an image that is deleted the leases
 * are those that it had. Fails: another host has one, and is named; there is no daemon, or this host is not in the
 * lockspace: then nothing is locked, and so nothing done, unless the environment says that leases are to be
 * ignored (VDISK_IO_LEASES=ignore), which is told. Killed: the daemon frees what was held.
 *
 * Invariants:
 *  1. A lease is written only by who has the domain's own, where there is none, or one of another name, and the
 *     volume, looked at anew then, has its lease there: so nobody holds what was there.
 *  2. An image that has volumes is never locked without a lease: that of a volume, or the domain's own.
 *  3. Nothing is held after lease_unlock().
 *  4. What is locked is what was there when all of it was.
 *  5. Nobody waits for a volume's lease who has the domain's own.
 */
#include "tools/domain/lease.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OWNERS_MOST = 4, LOCKS_MOST = 8, PAUSE_MS = 100, WAIT_MS = 60 * 1000 };

#define OWN_NAME "SDM"
#define IGNORE   "VDISK_IO_LEASES"

struct held {
    int                  lock;
    char                 image[DOMAIN_UUID], folder[DOM_REMOVED_NAME]; /* what the image is called now */
    struct sanlock_lease lease;
};

/* What is to be locked. */
struct wanted {
    const struct dom_lock_wish *images;
    unsigned                    n;
    bool                        all; /* of the domain, instead */
    bool                        own; /* and the domain's own */
    int                         lock;
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
    unsigned own; /* how often the domain's own is held, and which that is */
    struct sanlock_lease own_lease;
    int      own_of[LOCKS_MOST]; /* locks that hold it */
    size_t   own_count;
};

/* ---- is there a lockspace? --------------------------------------------------------------------------------- */

static int no_memory(void)
{
    return dom_fail(ENOMEM, NULL, "out of memory");
}

int lease_is_used(struct domain *d)
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

/* -ENOENT, without text: it has no place for one. */
static int add_lease(struct domain *d, const struct held *as, const char *volume, bool shared)
{
    struct lease_state *s = d->leases;
    struct held *list = reallocarray(s->list, s->count + 1, sizeof *list), *h;

    if (list == NULL)
        return no_memory();
    s->list = list;
    h = &list[s->count];
    *h = *as;
    h->lease.shared = shared;
    snprintf(h->lease.name, sizeof h->lease.name, "%s", volume);
    int rc = d->kind->find_lease(d, DOM_LEASE_VOLUME, h->folder, volume, &h->lease.place);
    if (rc == 0)
        s->count++;
    return rc;
}

static bool may_have_lease(const struct domain_image *image, const struct domain_volume *v)
{
    return !v->odd && (v->has_meta || v->has_intent) && !dom_is_foreign(image, v);
}

static bool is_exclusive(const struct dom_lock_wish *wish)
{
    return wish->kind == DOM_LOCK_CHANGE || wish->kind == DOM_LOCK_ALONE;
}

/* An image that is not there: nor will it be, by who has such a lock. */
static bool will_not_be_made(const struct dom_lock_wish *wish)
{
    return wish->kind != DOM_LOCK_CHANGE && wish->kind != DOM_LOCK_BESIDE;
}

/* Those of an image that are its own. A template's are of the image that it is of. *ret_own: some have none. */
static int add_folder(struct domain *d, const char *folder, const struct dom_lock_wish *wish, int lock,
                      bool *ret_own)
{
    struct held as = {.lock = lock};
    struct domain_image *image;
    size_t first = d->leases->count;
    int rc = domain_load_image(d, folder, &image);

    if (rc == -ENOENT)
        *ret_own = *ret_own || will_not_be_made(wish);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    snprintf(as.image, sizeof as.image, "%s", image->uuid);
    snprintf(as.folder, sizeof as.folder, "%s", folder);
    for (size_t i = 0; rc == 0 && i < image->count; i++) {
        if (may_have_lease(image, &image->list[i]))
            rc = add_lease(d, &as, image->list[i].uuid, !is_exclusive(wish));
        if (rc == -ENOENT) {
            *ret_own = true;
            rc = 0;
        }
    }
    *ret_own = *ret_own || (image->removed && d->leases->count == first);
    domain_image_free(image);
    return rc;
}

/* What is left of one of that name is changed, too. */
static int add_image(struct domain *d, const struct dom_lock_wish *wish, int lock, bool *ret_own)
{
    char removed[DOM_REMOVED_NAME];
    int rc = add_folder(d, wish->image, wish, lock, ret_own);

    for (int wipe = 0; rc == 0 && wish->kind == DOM_LOCK_CHANGE && wipe < 2; wipe++)
        rc = add_folder(d, dom_removed_name(removed, wish->image, wipe != 0), wish, lock, ret_own);
    return rc;
}

static int add_domain(struct domain *d, int lock, bool *ret_own)
{
    struct domain_names names = {0};
    int rc = domain_list_images(d, &names);

    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        const struct dom_lock_wish wish = {names.list[i], DOM_LOCK_CHANGE};
        if (dom_removed_uuid(names.list[i], NULL) == NULL)
            rc = add_folder(d, names.list[i], &wish, lock, ret_own);
    }
    domain_names_free(&names);
    return rc;
}

/* As it is now. */
static int add_wanted(struct domain *d, const struct wanted *w, bool *ret_own)
{
    int rc = 0;

    *ret_own = w->own;
    d->kind->look_anew(d);
    for (unsigned i = 0; rc == 0 && i < w->n; i++)
        rc = add_image(d, &w->images[i], w->lock, ret_own);
    return rc == 0 && w->all ? add_domain(d, w->lock, ret_own) : rc;
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
    bool own = false;
    size_t first;

    dom_error_keep(&error, rc);
    if (rc != -EAGAIN || lease_is_used(d) <= 0)
        return dom_error_give(&error);
    first = d->leases->count;
    for (unsigned i = 0; i < n; i++)
        if (add_image(d, &images[i], -1, &own) < 0)
            break;
    for (size_t i = first; rc == -EAGAIN && i < d->leases->count; i++)
        if (name_owner(d, &d->leases->list[i].lease, owner, sizeof owner))
            rc = -EBUSY;
    d->leases->count = first;
    return rc == -EBUSY ? dom_fail(EAGAIN, error.hint, "image %s is in use by %s", images[0].image, owner)
                        : dom_error_give(&error);
}

/* ---- the domain's own -------------------------------------------------------------------------------------- */

int lease_try(struct domain *d)
{
    struct lease_state *s;
    size_t which;
    bool here;
    int rc = lease_is_used(d);

    if (rc <= 0)
        return rc;
    s = d->leases;
    if (s->own > 0) {
        s->own++;
        return 0;
    }
    rc = judge_host(d);
    if (rc == 0)
        rc = find_own(d, &s->own_lease);
    if (rc < 0)
        return rc;
    rc = sanlock_take(d->uuid, &s->own_lease, 1, &which, &here);
    if (rc == -ENODATA)
        return dom_fail(EBADMSG, "'sanlock direct init' writes it, while no host uses the domain",
                        "%s: has no lease " OWN_NAME " of its own in %s", d->path, s->own_lease.place.path);
    s->own += rc == 0;
    return rc;
}

int lease_refuse(struct domain *d)
{
    struct sanlock_lease own;
    int rc = find_own(d, &own);

    return rc < 0 ? rc : in_use(d, "the lease of domain", d->uuid, &own);
}

bool lease_pause(unsigned *ms)
{
    static const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};

    if (*ms >= WAIT_MS)
        return false;
    *ms += PAUSE_MS;
    nanosleep(&pause, NULL);
    return true;
}

/* Who has it has it for one change. */
static int await_own(struct domain *d)
{
    unsigned ms = 0;
    int rc;

    do
        rc = lease_try(d);
    while (rc == -EAGAIN && lease_pause(&ms));
    return rc == -EAGAIN ? lease_refuse(d) : rc;
}

static int try_own(struct domain *d)
{
    int rc = lease_try(d);

    return rc == -EAGAIN ? lease_refuse(d) : rc;
}

void lease_end(struct domain *d)
{
    struct dom_error error;

    if (d->leases == NULL || d->leases->own == 0 || --d->leases->own > 0)
        return;
    dom_error_keep(&error, -EIO); /* of what goes on: the text is what counts */
    if (sanlock_give(d->uuid, &d->leases->own_lease, 1) < 0)
        dom_note(d, "%s", vdisk_error_text());
    dom_error_give(&error);
}

/* ---- taking ------------------------------------------------------------------------------------------------ */

/* (1): with the domain's own. -EAGAIN: another one, or none, is at its place. */
static int judge_place(struct domain *d, const struct held *h)
{
    struct dom_entries entries = {0};
    struct sanlock_place now;
    bool there = false;
    int rc;

    assert(d->leases->own > 0);
    d->kind->look_anew(d);
    rc = d->kind->list_volumes(d, h->folder, &entries);
    for (size_t i = 0; rc == 0 && i < entries.count; i++) {
        const struct dom_entry *e = &entries.list[i];
        there = there || ((e->meta || e->intent) && strcmp(e->volume, h->lease.name) == 0);
    }
    free(entries.list);
    if (rc == 0 && there)
        rc = d->kind->find_lease(d, DOM_LEASE_VOLUME, h->folder, h->lease.name, &now);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    return rc == 0 && there && now.offset == h->lease.place.offset ? 0 :
           dom_fail(EAGAIN, "do it again", "volume %s of image %s: another host has removed it just now",
                    h->lease.name, h->image);
}

/* (1) */
static int write_lease(struct domain *d, const struct held *h)
{
    char name[SANLOCK_NAME + 1] = "";
    int rc = try_own(d);

    if (rc < 0)
        return rc;
    rc = judge_place(d, h);
    if (rc == 0)
        rc = sanlock_read(d->uuid, &h->lease.place, name);
    if (rc == -ENOENT || (rc == 0 && strcmp(name, h->lease.name) != 0)) {
        rc = d->kind->make_lease(d, h->folder, h->lease.name);
        if (rc == 0)
            rc = sanlock_format_lease(d->uuid, &h->lease);
    }
    lease_end(d);
    return rc;
}

/* It is written where there is none. */
static int take_one(struct domain *d, const struct held *h)
{
    size_t which;
    bool here;
    int rc = sanlock_take(d->uuid, &h->lease, 1, &which, &here);

    if (rc == -ENODATA) {
        rc = write_lease(d, h);
        if (rc == 0)
            rc = sanlock_take(d->uuid, &h->lease, 1, &which, &here);
        else
            return rc;
    }
    if (rc == -ENODATA)
        return dom_fail(EBADMSG, NULL, "volume %s: its lease was written, and sanlock still finds none in %s",
                        h->lease.name, h->lease.place.path);
    return rc == -EAGAIN ? in_use(d, "image", h->image, &h->lease) : rc;
}

/* Those from `first` on that are held, up to `end`, are given back, and none is in the list any more. */
static void give_from(struct domain *d, size_t first, size_t end)
{
    struct lease_state *s = d->leases;
    struct dom_error error;

    dom_error_keep(&error, -EIO); /* the text is what counts */
    while (end > first)
        if (sanlock_give(d->uuid, &s->list[--end].lease, 1) < 0)
            dom_note(d, "%s", vdisk_error_text());
    s->count = first;
    dom_error_give(&error);
}

/* Those in the list from `first` on: all or none. */
static int take_from(struct domain *d, size_t first)
{
    struct lease_state *s = d->leases;
    size_t done = first;
    int rc = 0;

    while (rc == 0 && done < s->count) {
        rc = take_one(d, &s->list[done]);
        done += rc == 0;
    }
    if (rc < 0)
        give_from(d, first, done);
    return rc;
}

/* For as long as the lock is held. (5) */
static int keep_own(struct domain *d, int lock)
{
    struct lease_state *s = d->leases;
    int rc = try_own(d);

    assert(s->own_count < LOCKS_MOST);
    if (rc == 0)
        s->own_of[s->own_count++] = lock;
    return rc;
}

static void give_own(struct domain *d, int lock)
{
    struct lease_state *s = d->leases;

    for (size_t i = s->own_count; i > 0; i--) {
        if (s->own_of[i - 1] == lock) {
            s->own_of[i - 1] = s->own_of[--s->own_count];
            lease_end(d);
        }
    }
}

static bool is_kept(const struct lease_state *s, int lock)
{
    for (size_t i = 0; i < s->own_count; i++)
        if (s->own_of[i] == lock)
            return true;
    return false;
}

static bool is_among(const struct lease_state *s, size_t first, size_t end, const struct held *h)
{
    for (size_t i = first; i < end; i++)
        if (strcmp(s->list[i].lease.name, h->lease.name) == 0 && strcmp(s->list[i].folder, h->folder) == 0 &&
            s->list[i].lease.place.offset == h->lease.place.offset)
            return true;
    return false;
}

/* (4): those from `first` on are held. */
static int judge_same(struct domain *d, const struct wanted *w, size_t first)
{
    struct lease_state *s = d->leases;
    size_t end = s->count;
    bool own, same;
    int rc = add_wanted(d, w, &own);

    same = s->count - end == end - first && (!own || is_kept(s, w->lock));
    for (size_t i = end; same && i < s->count; i++)
        same = is_among(s, first, end, &s->list[i]);
    s->count = end;
    return rc < 0 || same ? rc :
           dom_fail(EAGAIN, "do it again", "%s %s: another host has changed it just now",
                    w->n > 0 ? "image" : "domain", w->n > 0 ? w->images[0].image : d->uuid);
}

/* What there is is looked at anew each time: who had it has changed that. */
static int try_once(struct domain *d, const struct wanted *w)
{
    struct lease_state *s = d->leases;
    size_t first = s->count;
    bool own;
    int rc = add_wanted(d, w, &own);

    if (rc < 0) {
        s->count = first;
        return rc;
    }
    rc = take_from(d, first);
    if (rc < 0)
        return rc;
    if (own)
        rc = keep_own(d, w->lock);
    if (rc == 0)
        rc = judge_same(d, w, first);
    if (rc < 0) {
        give_from(d, first, s->count);
        give_own(d, w->lock);
    }
    return rc;
}

static int try_again(struct domain *d, const struct wanted *w)
{
    unsigned ms = 0;
    int rc;

    do
        rc = try_once(d, w);
    while (rc == -EAGAIN && dom_pause(d, &ms));
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
    struct wanted w = {.images = images, .n = n, .lock = lock};
    int rc = lease_is_used(d);

    if (rc <= 0)
        return rc;
    for (unsigned i = 0; i < n; i++)
        w.own = w.own || images[i].kind == DOM_LOCK_BESIDE;
    rc = judge_host(d);
    if (rc == 0)
        rc = try_again(d, &w);
    for (unsigned i = 0; rc == 0 && i < n; i++)
        note_changed(d->leases, &images[i], lock);
    return rc;
}

int lease_lock_alone(struct domain *d, int lock, const char *image)
{
    int rc = lease_is_used(d);

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
    const struct wanted w = {.all = true, .own = true, .lock = lock};
    int rc = lease_is_used(d);

    if (rc <= 0)
        return rc;
    rc = judge_host(d);
    return rc == 0 ? try_again(d, &w) : rc;
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
    if (s != NULL)
        give_own(d, lock);
}

/* ---- volumes that come, and go ----------------------------------------------------------------------------- */

static const struct changed *find_changed(const struct lease_state *s, const char *image)
{
    for (size_t i = 0; i < s->changed_count; i++)
        if (strcmp(s->changed[i].image, image) == 0)
            return &s->changed[i];
    return NULL;
}

static bool is_held(const struct lease_state *s, int lock, const char *volume)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->list[i].lock == lock && strcmp(s->list[i].lease.name, volume) == 0)
            return true;
    return false;
}

int lease_judge(struct domain *d, const struct domain_image *image, int lock, const char *except)
{
    int rc = lease_is_used(d);

    if (rc <= 0 || is_kept(d->leases, lock))
        return rc < 0 ? rc : 0;
    for (size_t i = 0; i < image->count; i++) {
        const struct domain_volume *v = &image->list[i];
        if (may_have_lease(image, v) && !is_held(d->leases, lock, v->uuid) &&
            (except == NULL || strcmp(v->uuid, except) != 0))
            return dom_fail(EAGAIN, "do it again", "image %s: another host has made volume %s just now",
                            image->uuid, v->uuid);
    }
    return 0;
}

/* With the domain's own: it still is what it was when it was locked. */
static int judge_changed(struct domain *d, const char *image, const char *volume, int lock)
{
    struct domain_image *now;
    int rc;

    d->kind->look_anew(d);
    rc = dom_check_version(d);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &now);
    if (rc < 0)
        return rc;
    rc = lease_judge(d, now, lock, volume);
    domain_image_free(now);
    return rc;
}

static int make_held(struct domain *d, const char *image, const char *volume, int lock)
{
    struct held as = {.lock = lock};
    size_t first = d->leases->count;
    int rc;

    snprintf(as.image, sizeof as.image, "%s", image);
    snprintf(as.folder, sizeof as.folder, "%s", image);
    rc = add_lease(d, &as, volume, false);
    if (rc == -ENOENT)
        return dom_fail(ENOENT, NULL, "volume %s has no slot: so it has no lease", volume);
    if (rc < 0)
        return rc;
    rc = write_lease(d, &d->leases->list[first]);
    if (rc == 0)
        return take_from(d, first);
    d->leases->count = first;
    return rc;
}

int lease_make(struct domain *d, const char *image, const char *volume)
{
    const struct changed *c;
    int lock, rc = lease_is_used(d);

    if (rc <= 0)
        return rc;
    c = find_changed(d->leases, image);
    assert(c != NULL);
    lock = c->lock;
    rc = await_own(d);
    if (rc < 0)
        return rc;
    rc = judge_changed(d, image, volume, lock);
    if (rc == 0)
        rc = make_held(d, image, volume, lock);
    lease_end(d);
    return rc;
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
    assert((s->count == 0 && s->own == 0) || dom_is_of_parent(d)); /* (3) */
    free(s->list);
    free(s);
    d->leases = NULL;
}
