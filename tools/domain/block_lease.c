/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leases of a domain in a volume group: in its volumes "ids" and "leases", which are active while this host is in
 * the lockspace. What changes the group's metadata has the domain's own lease meanwhile: lvm's locks are this
 * host's. Works: what "ids" holds is read from the device that it lies on, so that nothing needs to be active to
 * learn whether there is a lockspace. Fails: as lvm; "ids" is in pieces.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/domain/block.h"
#include "tools/domain/lease.h"

enum { SECTOR = 512, ALIGN = 1 << 20, BUFFER = 4096 };

/* As the group was when it was looked at last: it may have come into one since the domain was opened. */
static const char *pool_of(const struct domain *d)
{
    const struct block_state *s = d->state;

    return s->report.count == 1 ? lvm_tag_value(&s->report.vgs[0].tags, TEXT_TAG_PAIR "POOL_UUID=") :
                                  domain_value(d, "POOL_UUID");
}

/* Some host is that while the pool is up; of the pool's master domain it has the own lease all the time. */
int block_judge_pool(struct domain *d)
{
    const char *pool = pool_of(d), *spm = getenv("VDISK_IO_SPM");
    int rc;

    if (pool == NULL || pool[0] == '\0' || (spm != NULL && strcmp(spm, "none") == 0))
        return 0;
    rc = lease_is_used(d);
    return rc <= 0 ? rc :
           dom_fail(EBUSY, "where no host is its SPM, as in maintenance: VDISK_IO_SPM=none in the environment",
                    "volume group %s: is in pool %.64s, whose SPM changes it without a lease", d->uuid, pool);
}

/*
 * Who works on this host comes first, by a lock that is fair; who has that never waits with it for another host.
 * It is one command of lvm's that is waited for, whether or not the image was to be.
 */
int block_begin(struct domain *d)
{
    struct block_state *s = d->state;
    struct dom_error error;
    unsigned ms = 0;
    int rc = block_judge_pool(d);

    if (rc < 0)
        return rc;
    do {
        rc = lvm_begin(s->lvm);
        if (rc < 0)
            return rc;
        rc = lease_try(d);
        if (rc == 0)
            return 0;
        dom_error_keep(&error, rc);
        lvm_end(s->lvm);
    } while (rc == -EAGAIN && lease_pause(&ms));
    return rc == -EAGAIN ? lease_refuse(d) : dom_error_give(&error);
}

void block_end(struct domain *d)
{
    struct block_state *s = d->state;

    lvm_end(s->lvm);
    lease_end(d);
}

int block_find_lease(struct domain *d, enum dom_lease which, const char *image, const char *volume,
                     struct sanlock_place *ret)
{
    const struct block_lv *b;
    int rc = block_refresh(d);

    (void)image;
    if (rc < 0)
        return rc;
    *ret = (struct sanlock_place){.sector = SECTOR, .align = ALIGN};
    snprintf(ret->path, sizeof ret->path, "/dev/%s/%s", block_vg(d)->name,
             which == DOM_LEASE_HOSTS ? "ids" : "leases");
    if (which == DOM_LEASE_OWN)
        ret->offset = ALIGN;
    if (which != DOM_LEASE_VOLUME)
        return 0;
    b = block_find(d, volume);
    if (b == NULL || !block_slot_is_own(d, b)) /* two volumes in one place would write over each other's */
        return -ENOENT;
    ret->offset = text_lease_offset(b->is.slot, ALIGN);
    return 0;
}

static int read_at(const char *path, off_t at, unsigned char ret[TEXT_HOST_SIZE])
{
    off_t start = at / BUFFER * BUFFER;
    ssize_t n = -1;
    void *buf;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT), rc = 0;

    if (fd < 0)
        return dom_fail_file(errno == ENOENT ? ENXIO : errno, path, "opening it"); /* not: nothing is noted */
    if (posix_memalign(&buf, BUFFER, BUFFER) != 0) {
        close(fd);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    do
        n = pread(fd, buf, BUFFER, start);
    while (n < 0 && errno == EINTR);
    if (n == BUFFER)
        memcpy(ret, (unsigned char *)buf + (at - start), TEXT_HOST_SIZE);
    else
        rc = dom_fail_file(n < 0 ? errno : EIO, path, "reading it");
    free(buf);
    close(fd);
    return rc;
}

static int no_place(const struct domain *d, const char *why)
{
    return dom_fail(EIO, NULL, "volume group %s: its volume ids cannot be read: %s", block_vg(d)->name, why);
}

int block_read_host(struct domain *d, unsigned host, unsigned char ret[TEXT_HOST_SIZE])
{
    const struct lvm_segment *segment;
    const struct block_lv *ids;
    uint64_t start = 0;
    int rc = block_refresh(d);

    if (rc < 0)
        return rc;
    ids = block_find(d, "ids");
    if (ids == NULL)
        return -ENOENT;
    if (ids->lv->segment_count == 0 || ids->lv->segments[0].device[0] == '\0')
        return no_place(d, "a device of it is missing, or it is of another type than volumes of domains are");
    segment = &ids->lv->segments[0];
    for (size_t i = 0; i < block_vg(d)->pv_count; i++)
        if (strcmp(block_vg(d)->pvs[i].name, segment->device) == 0)
            start = block_vg(d)->pvs[i].start + segment->extent * d->extent;
    return start > 0 ? read_at(segment->device, (off_t)(start + (uint64_t)(host - 1) * SECTOR), ret) :
                       no_place(d, "lvm names a device for it that it does not have");
}

/* Who comes in has them active, until he leaves. */
int block_open_leases(struct domain *d, bool open)
{
    static const char *const names[] = {"ids", "leases"};
    struct block_state *s = d->state;
    int rc = 0;

    if (open && lvm_is_active(s->lvm, names[0]) && lvm_is_active(s->lvm, names[1]))
        return 0;
    rc = lvm_begin(s->lvm);
    if (rc < 0)
        return rc;
    rc = open ? lvm_activate(s->lvm, names, 2) : lvm_deactivate(s->lvm, names, 2);
    lvm_end(s->lvm);
    block_stale(d);
    return rc;
}
