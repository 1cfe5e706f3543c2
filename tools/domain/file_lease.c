/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where leases of a domain in a folder are: dom_md/ids, dom_md/leases, and VOLUME.lease, which are sanlock's own
 * to read and write. Fails: as the system.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"
#include "tools/domain/sanlock.h"

enum { ALIGN = 1 << 20, BUFFER = 4096 };

/* As sanlock has them from the domain's metadata; version 4 and before say nothing. */
static unsigned number_of(const struct domain *d, const char *key, unsigned otherwise)
{
    const char *text = domain_value(d, key);
    unsigned long n = text != NULL ? strtoul(text, NULL, 10) : 0;

    return n > 0 && n <= 8 * ALIGN ? (unsigned)n : otherwise;
}

int file_find_lease(struct domain *d, enum dom_lease which, const char *image, const char *volume,
                    struct sanlock_place *ret)
{
    int n;

    *ret = (struct sanlock_place){.sector = number_of(d, "BLOCK_SIZE", 512),
                                   .align = number_of(d, "ALIGNMENT", ALIGN)};
    if (which == DOM_LEASE_VOLUME)
        n = snprintf(ret->path, sizeof ret->path, "%s/images/%s/%s" FILE_LEASE, d->path, image, volume);
    else
        n = snprintf(ret->path, sizeof ret->path, "%s/dom_md/%s", d->path,
                     which == DOM_LEASE_OWN ? "leases" : "ids");
    if (which == DOM_LEASE_OWN)
        ret->offset = ret->align;
    return n < (int)sizeof ret->path ? 0
                                     : dom_fail(ENAMETOOLONG, NULL, "%s: is too long a path for sanlock", d->path);
}

int file_make_lease(struct domain *d, const char *image, const char *volume)
{
    int folder = file_open_folder(d, image), fd, rc;
    char name[FILE_NAME];

    if (folder < 0)
        return folder;
    fd = openat(folder, file_name(name, volume, FILE_LEASE),
                O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, FILE_MODE_DATA);
    rc = fd < 0 ? -errno : file_own(fd, d->path, FILE_MODE_DATA);
    if (fd >= 0)
        close(fd);
    close(folder);
    return rc < 0 ? file_fail(d, image, name, rc, "making it") : 0;
}

int file_open_leases(struct domain *d, bool open)
{
    (void)d, (void)open;
    return 0;
}

/* Past the page cache, since other hosts write there; where that cannot be, as it is. A file may end before. */
int file_read_host(struct domain *d, unsigned host, unsigned char ret[TEXT_HOST_SIZE])
{
    const unsigned sector = number_of(d, "BLOCK_SIZE", 512);
    off_t at = (off_t)(host - 1) * sector, start = at / BUFFER * BUFFER;
    struct sanlock_place place;
    ssize_t n = -1;
    void *buf;
    int fd, rc = file_find_lease(d, DOM_LEASE_HOSTS, NULL, NULL, &place);

    if (rc < 0)
        return rc;
    fd = open(place.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_DIRECT);
    if (fd < 0 && errno == EINVAL)
        fd = open(place.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : dom_fail_file(errno, place.path, "opening it");
    if (posix_memalign(&buf, BUFFER, BUFFER) != 0) {
        close(fd);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    do
        n = pread(fd, buf, BUFFER, start);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        rc = dom_fail_file(errno, place.path, "reading it");
    else if (n < at - start + TEXT_HOST_SIZE)
        rc = -ENOENT;
    else
        memcpy(ret, (unsigned char *)buf + (at - start), TEXT_HOST_SIZE);
    free(buf);
    close(fd);
    return rc;
}
