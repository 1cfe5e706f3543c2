/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leases of sanlock: locks between hosts, of domains that have a lockspace. A volume has one; an image is locked
 * by those of all volumes that are its own:
 *
 *     DOM_LOCK_CHANGE            exclusive
 *     DOM_LOCK_READ, _USE        shared
 *     DOM_LOCK_BESIDE            shared; and the domain's own lease, "SDM", exclusive
 *
 * The same of what else changes what is the domain's: one at a time does. They come after the locks of this host,
 * and are given back before those. Where a domain has no lockspace nothing is done. All: 0 or -errno with text.
 */
#ifndef TOOLS_DOMAIN_LEASE_H
#define TOOLS_DOMAIN_LEASE_H

#include "tools/domain/kind.h"
#include "tools/domain/sanlock.h"

/*
 * With a lock of this host, which names it from here on. -EAGAIN: the text says which host has one; -ENOTCONN: no
 * leases can be had.
 */
int lease_lock(struct domain *d, const struct dom_lock_wish *images, unsigned n, int lock);
int lease_lock_alone(struct domain *d, int lock, const char *image); /* as the contract's lock_alone() */
int lease_lock_domain(struct domain *d, int lock);                   /* all images */
void lease_unlock(struct domain *d, int lock);

/* Instead of what the locks of this host say: another host is it that has the image. The error, else. */
int lease_explain(struct domain *d, const struct dom_lock_wish *images, unsigned n, int rc);

/* A new volume in an image that is locked gets one, and it is held with the image. */
int lease_make(struct domain *d, const char *image, const char *volume);

/*
 * Of an image that was loaded under a lock all volumes are locked by it, but `except` (or NULL). -EAGAIN: another
 * host has made some where there were none to be locked.
 */
int lease_judge(struct domain *d, const struct domain_image *image, int lock, const char *except);

/* It is given back: by who removes the volume, before another one can have its place. */
void lease_drop(struct domain *d, const char *volume);

/*
 * The domain's own. May be nested. lease_try(): -EAGAIN, without text: somebody has it, for one change as a rule:
 * for that lease_pause() waits, a minute in all: *ms is 0 at first, false: it has passed. lease_refuse(): that
 * text.
 */
int lease_try(struct domain *d);
bool lease_pause(unsigned *ms);
int lease_refuse(struct domain *d);
void lease_end(struct domain *d);

/*
 * Does the domain have a lockspace? 1, 0; -errno: its notes on hosts cannot be read, and it is not known. Of a
 * local one it does not count.
 */
int lease_is_formatted(struct domain *d);

/* 1: leases are taken; 0: they are not: it has no lockspace, or they are to be ignored; -errno. */
int lease_is_used(struct domain *d);

/* Where a new domain notes its hosts, and its own lease is: `ids` and `leases` are paths. */
int lease_format(const char *uuid, const char *ids, const char *leases, unsigned sector, unsigned align);

void lease_close(struct domain *d);

#endif
