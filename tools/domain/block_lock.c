/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks of a domain in a volume group: those of this host, in a file in /run, then leases.
 *
 * Works: what an lvm of one who was killed is still at is waited for, and the group is looked at anew with the
 * locks. Fails: somebody has one; what was taken is given back, and what was active for it rests.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "tools/domain/block.h"
#include "tools/domain/file_lock.h"
#include "tools/domain/lease.h"

static int count_lock(struct domain *d, int rc)
{
    struct block_state *s = d->state;

    if (rc == 0)
        s->locks++;
    return rc;
}

static int make_locks(struct domain *d, char ret[PATH_MAX])
{
    int fd, rc = block_run_path(d, "locks", ret);

    if (rc < 0)
        return rc;
    fd = open(ret, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return dom_fail_file(errno, ret, "making it");
    close(fd);
    return 0;
}

void block_unlock(struct domain *d, int lock)
{
    struct block_state *s = d->state;

    assert(s->locks > 0);
    if (--s->locks == 0)
        block_rest(d);
    lease_unlock(d, lock);
    file_lock_give(lock);
}

static void unlock_failed(struct domain *d, int lock)
{
    struct dom_error error;

    dom_error_keep(&error, -EIO); /* the text is what counts */
    block_unlock(d, lock);
    dom_error_give(&error);
}

/* Of one who was killed an lvm may still be at work, on our image: it has the writer's lock, and his no longer. */
static int await_writer(struct domain *d)
{
    struct block_state *s = d->state;
    int rc = lvm_begin(s->lvm);

    if (rc == 0)
        lvm_end(s->lvm);
    return rc;
}

int block_lock(struct domain *d, const struct dom_lock_wish *images, unsigned n, int *ret_lock)
{
    char path[PATH_MAX];
    int lock = -1, rc = dom_check_process(d);

    if (rc < 0)
        return rc;
    rc = make_locks(d, path);
    if (rc == 0)
        rc = count_lock(d, file_lock_images(d, path, images, n, &lock));
    if (rc < 0)
        return lease_explain(d, images, n, rc);
    rc = await_writer(d);
    block_stale(d); /* as it is now, with the lock */
    if (rc == 0)
        rc = lease_lock(d, images, n, lock);
    if (rc < 0) {
        unlock_failed(d, lock);
        return rc;
    }
    *ret_lock = lock; /* what is known by now was looked at with all of it */
    return 0;
}

int block_lock_alone(struct domain *d, int lock, const char *image)
{
    const struct file_lock_wish wish = {FILE_LOCK_USE, image, true};
    int rc = file_lock_add(lock, d->path, &wish);

    return rc == 0 ? lease_lock_alone(d, lock, image) : rc;
}

int block_lock_domain(struct domain *d, int *ret_lock)
{
    const struct file_lock_wish wish = {FILE_LOCK_DOMAIN, d->uuid, true};
    char path[PATH_MAX];
    int lock = -1, rc = dom_check_process(d);

    if (rc == 0)
        rc = block_judge_pool(d);
    if (rc == 0)
        rc = make_locks(d, path);
    if (rc == 0)
        rc = count_lock(d, file_lock_take(path, &wish, 1, d->how.wait, &lock));
    if (rc < 0)
        return rc;
    rc = lease_lock_domain(d, lock);
    block_stale(d); /* as it is now, with the lock */
    if (rc < 0)
        unlock_failed(d, lock);
    else
        *ret_lock = lock;
    return rc;
}
