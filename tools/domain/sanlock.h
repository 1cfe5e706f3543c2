/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sanlock daemon of this host, by its library, which is loaded when it is needed. It works for a process: what
 * that has taken is free when it ends, however it does.
 *
 * All calls: 0 or -errno with text, unless it is said otherwise. Any thread. -ENOTCONN: there is no library, or no
 * daemon that answers.
 */
#ifndef TOOLS_DOMAIN_SANLOCK_H
#define TOOLS_DOMAIN_SANLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SANLOCK_NAME = 48, SANLOCK_PATH = 1024, SANLOCK_HOSTS_MAX = 2000 };

/* A lockspace is a domain: `space` is its UUID. Where its hosts are noted, or a lease is. */
struct sanlock_place {
    char     path[SANLOCK_PATH];
    uint64_t offset;
    unsigned sector, align; /* bytes */
};

struct sanlock_lease {
    char                 name[SANLOCK_NAME];
    struct sanlock_place place;
    bool                 shared;
};

/* The number by which this host is in a lockspace. -ENOENT, without text: it is not; -ENOTCONN. */
int sanlock_host(const char *space, unsigned *ret);

/* Nor is it coming in, or leaving: the daemon has nothing of the lockspace open. false: it has, or who knows. */
bool sanlock_is_out(const char *space);

/*
 * All of them, or none. Errors without text: -EAGAIN: somebody has lease *ret_which; another process of this host,
 * if *ret_here; -ENODATA: there is no lease of that name. One that this process has, shared, can be taken as often
 * as it is given back.
 */
int sanlock_take(const char *space, const struct sanlock_lease *leases, size_t n, size_t *ret_which,
                 bool *ret_here);

/* One that is held shared becomes exclusive. -EAGAIN, without text: others have it. */
int sanlock_exclude(const char *space, const struct sanlock_lease *lease);

/* What has been removed meanwhile is given back, too. */
int sanlock_give(const char *space, const struct sanlock_lease *leases, size_t n);

/* The hosts that have a lease, `most` at most of them, and how many these are. */
int sanlock_owners(const char *space, const struct sanlock_lease *lease, unsigned *ret, size_t most,
                   size_t *count);

/* A lease's name on disk. -ENOENT, without text: there is none of this lockspace. */
int sanlock_read(const char *space, const struct sanlock_place *place, char ret[SANLOCK_NAME + 1]);

/* Write the notes on hosts of a new lockspace; or a lease that nobody has. What is there is gone. */
int sanlock_format_space(const char *space, const struct sanlock_place *place);
int sanlock_format_lease(const char *space, const struct sanlock_lease *lease);

/* This host comes in, by its number, or leaves. Takes seconds. -EBUSY: leases are held. */
int sanlock_join(const char *space, const struct sanlock_place *place, unsigned host);
int sanlock_leave(const char *space, const struct sanlock_place *place, unsigned host);

#endif
