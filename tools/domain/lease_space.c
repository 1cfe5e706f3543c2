/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lockspace of a domain: who is in it. Works: the daemon writes, and comes in. Fails: as it says; the number
 * is another host's; there is none.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/domain/lease.h"

/* Only what was read, and is none, is none. */
int lease_is_formatted(struct domain *d)
{
    const char *type = domain_value(d, "TYPE");
    unsigned char sector[TEXT_HOST_SIZE];
    struct dom_error error;
    int rc;

    if (type == NULL || strcmp(type, "LOCALFS") == 0)
        return 0;
    rc = d->kind->read_host(d, 1, sector);
    if (rc == 0 || rc == -ENOENT)
        return rc == 0 && text_is_hosts(sector);
    dom_error_keep(&error, rc);
    return dom_fail(rc, error.hint[0] != '\0' ? error.hint : NULL,
                    "%s: whether it is locked by leases is not known: %s", d->path, error.text);
}

int lease_format(const char *uuid, const char *ids, const char *leases, unsigned sector, unsigned align)
{
    struct sanlock_place hosts = {.sector = sector, .align = align};
    struct sanlock_lease own = {.name = "SDM", .place = {.offset = align, .sector = sector, .align = align}};
    int rc;

    if (snprintf(hosts.path, sizeof hosts.path, "%s", ids) >= (int)sizeof hosts.path ||
        snprintf(own.place.path, sizeof own.place.path, "%s", leases) >= (int)sizeof own.place.path)
        return dom_fail(ENAMETOOLONG, NULL, "%s: is too long a path for sanlock", ids);
    rc = sanlock_format_lease(uuid, &own);
    return rc == 0 ? sanlock_format_space(uuid, &hosts) : rc; /* there is one when all of it is there */
}

static int find_hosts(struct domain *d, struct sanlock_place *ret)
{
    int rc = lease_is_formatted(d);

    if (rc < 0)
        return rc;
    if (rc == 0)
        return dom_fail(ENOENT, "'vdisk-io domain create --lockspace' makes a domain that has one",
                        "%s: has no lockspace: only programs on this host are kept from each other", d->path);
    return d->kind->find_lease(d, DOM_LEASE_HOSTS, NULL, NULL, ret);
}

/* Unless another process of this host has them opened, and is coming in. */
static int close_leases(struct domain *d)
{
    return sanlock_is_out(d->uuid) ? d->kind->open_leases(d, false) : 0;
}

int domain_join(struct domain *d, unsigned host)
{
    struct sanlock_place hosts;
    struct dom_error error;
    unsigned now;
    int rc;

    if (host == 0 || host > SANLOCK_HOSTS_MAX)
        return dom_fail(EINVAL, NULL, "%u is no number of a host: they are 1 to %d", host, SANLOCK_HOSTS_MAX);
    rc = find_hosts(d, &hosts);
    if (rc < 0)
        return rc;
    rc = sanlock_host(d->uuid, &now);
    if (rc == 0 && now != host)
        return dom_fail(EEXIST, NULL, "%s: this host is in its lockspace, by number %u", d->path, now);
    if (rc == 0)
        return d->kind->open_leases(d, true); /* somebody may have closed them since */
    if (rc == -ENOENT)
        rc = d->kind->open_leases(d, true);
    if (rc < 0)
        return rc;
    rc = sanlock_join(d->uuid, &hosts, host);
    dom_error_keep(&error, rc);
    if (rc == 0)
        return d->kind->open_leases(d, true); /* another one, who left just now, may have closed them */
    close_leases(d);
    return dom_error_give(&error);
}

int domain_leave(struct domain *d)
{
    struct sanlock_place hosts;
    unsigned host;
    int rc = find_hosts(d, &hosts);

    if (rc < 0)
        return rc;
    rc = sanlock_host(d->uuid, &host);
    if (rc == -ENOENT)
        return dom_fail(ENOENT, NULL, "%s: this host is not in its lockspace", d->path);
    if (rc == 0)
        rc = sanlock_leave(d->uuid, &hosts, host);
    if (rc == 0 && close_leases(d) < 0)
        dom_note(d, "%s", vdisk_error_text()); /* this host has left */
    return rc;
}

int domain_get_lockspace(struct domain *d, struct domain_lockspace *ret)
{
    int rc = lease_is_formatted(d);

    *ret = (struct domain_lockspace){0};
    if (rc <= 0)
        return rc;
    rc = sanlock_host(d->uuid, &ret->host);
    ret->known = rc == 0 || rc == -ENOENT;
    return 1;
}
