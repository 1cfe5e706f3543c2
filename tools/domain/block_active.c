/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes of a group are active as long as somebody uses them.
 *
 * Works: who uses a volume has a lock for it, shared, and activates it where it is not; that it was us who did
 * is noted in a file of its name. The last one who gives his lock back, and could have it alone, puts to rest what
 * has such a file. Fails: it cannot be activated. Killed: the file stays, and the next one who used the volume
 * puts it to rest.
 *
 * Invariants:
 *  1. What somebody else has activated, and so has no file, stays active.
 *  2. Nothing is put to rest but by who has the volume's lock alone.
 *  3. Who is the group's writer does not wait for a volume's lock: who has that may wait to be the writer.
 *  4. What was active before somebody uses it has the blocks that the group says: another host may have cut it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/domain/block.h"

/* ---- locks -------------------------------------------------------------------------------------------- */

static int open_locks(struct domain *d)
{
    struct block_state *s = d->state;
    char path[PATH_MAX];
    int rc;

    if (s->active >= 0)
        return 0;
    rc = block_run_path(d, "active", path);
    if (rc < 0)
        return rc;
    s->active = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return s->active >= 0 ? 0 : dom_fail_file(errno, path, "opening it for locks");
}

/* A byte for each volume, by the hash of its whole name (FNV-1a); "metadata" has none. */
static off_t byte_of(const char *volume)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *volume != '\0'; volume++)
        hash = (hash ^ (unsigned char)*volume) * UINT64_C(0x100000001b3);
    return (off_t)(hash >> 2);
}

static int set_lock(const struct block_state *s, const char *volume, short type, bool wait)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte_of(volume), .l_len = 1};
    int rc;

    do
        rc = fcntl(s->active, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

static bool is_used(const struct block_state *s, const char *volume)
{
    for (size_t i = 0; i < s->used_count; i++)
        if (strcmp(s->used[i], volume) == 0)
            return true;
    return false;
}

/* Who is putting it to rest just now is waited for. */
int block_use(struct domain *d, const char *volume)
{
    struct block_state *s = d->state;
    void *list;
    int rc = open_locks(d);

    if (rc < 0 || is_used(s, volume))
        return rc;
    list = reallocarray(s->used, s->used_count + 1, sizeof *s->used);
    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    s->used = list;
    assert(!lvm_is_writer(s->lvm)); /* (3) */
    rc = set_lock(s, volume, F_RDLCK, true);
    if (rc < 0)
        return dom_fail(rc, NULL, "volume %s: locking it: %s", volume, strerror(-rc));
    memcpy(s->used[s->used_count++], volume, DOMAIN_UUID);
    return 0;
}

/* ---- notes -------------------------------------------------------------------------------------------- */

int block_put_note(struct domain *d, const char *volume)
{
    char path[PATH_MAX];
    int fd, rc = block_run_path(d, volume, path);

    if (rc < 0)
        return rc;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return dom_fail_file(errno, path, "making it");
    close(fd);
    return 0;
}

static bool has_note(struct domain *d, const char *volume)
{
    char path[PATH_MAX];

    return block_run_path(d, volume, path) == 0 && access(path, F_OK) == 0;
}

static void drop_note(struct domain *d, const char *volume)
{
    char path[PATH_MAX];

    if (block_run_path(d, volume, path) == 0)
        unlink(path);
}

bool block_drop_note(struct domain *d, const char *volume)
{
    bool noted = has_note(d, volume);

    drop_note(d, volume);
    return noted;
}

int block_note_active(struct domain *d, const char *volume)
{
    int rc = block_use(d, volume);

    return rc == 0 ? block_put_note(d, volume) : rc;
}

void block_forget_active(struct domain *d, const char *volume)
{
    struct block_state *s = d->state;

    drop_note(d, volume);
    for (size_t i = 0; i < s->used_count; i++) {
        if (strcmp(s->used[i], volume) != 0)
            continue;
        set_lock(s, volume, F_UNLCK, false);
        memmove(s->used[i], s->used[s->used_count - 1], DOMAIN_UUID);
        s->used_count--;
        return;
    }
}

/* ---- activating --------------------------------------------------------------------------------------- */

struct names {
    struct domain *domain;
    const char   **list;
    size_t         count;
};

static int add_name(struct names *n, const char *name)
{
    const char **list = reallocarray(n->list, n->count + 1, sizeof *list);

    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    n->list = list;
    list[n->count++] = name;
    return 0;
}

/* (4) Where there are leases other hosts change it, too, and where it lies: its size does not tell that. */
static bool is_stale(const struct domain *d, const struct block_lv *b)
{
    const struct block_state *s = d->state;
    uint64_t size;

    return d->leases != NULL || lvm_is_suspended(s->lvm, b->lv->name) ||
           lvm_device_size(s->lvm, b->lv->name, &size) < 0 || size != b->lv->size;
}

struct chain {
    struct names resting, stale;
};

static int add_resting(void *arg, struct block_lv *b)
{
    struct chain *c = arg;
    struct domain *d = c->resting.domain;
    struct block_state *s = d->state;
    bool used = is_used(s, b->lv->name);
    int rc = block_use(d, b->lv->name);

    if (rc < 0)
        return rc;
    if (lvm_is_active(s->lvm, b->lv->name))
        return !used && is_stale(d, b) ? add_name(&c->stale, b->lv->name) : 0;
    rc = block_put_note(d, b->lv->name);
    return rc == 0 ? add_name(&c->resting, b->lv->name) : rc;
}

/* Who is changing one just now has the group's lock; or lvm's own, for which the command waits. */
static int revive(struct domain *d, const struct names *n)
{
    struct block_state *s = d->state;
    int rc = n->count > 0 ? lvm_begin(s->lvm) : 0;

    if (rc < 0 || n->count == 0)
        return rc;
    rc = lvm_refresh(s->lvm, n->list, n->count);
    lvm_end(s->lvm);
    return rc;
}

static int change(struct domain *d, const struct names *n, bool active)
{
    struct block_state *s = d->state;
    int rc = n->count > 0 ? lvm_begin(s->lvm) : 0;

    if (rc < 0 || n->count == 0)
        return rc;
    rc = active ? lvm_activate(s->lvm, n->list, n->count) : lvm_deactivate(s->lvm, n->list, n->count);
    lvm_end(s->lvm);
    return rc;
}

/* Who opens it by its path is not to get a file that lies there: lvm says nothing of that. */
static int judge_devices(const struct domain *d, const struct names *n)
{
    char path[PATH_MAX];
    int fd, rc = 0;

    for (size_t i = 0; rc == 0 && i < n->count; i++) {
        snprintf(path, sizeof path, "%s/%s", d->path, n->list[i]);
        rc = block_open_device(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, &fd);
        if (rc == 0)
            close(fd);
    }
    return rc;
}

int block_activate(struct domain *d, const char *image)
{
    struct chain c = {.resting = {.domain = d}};
    int rc = block_refresh(d);

    if (rc == 0)
        rc = block_visit_chain(d, image, add_resting, &c);
    if (rc == 0)
        rc = revive(d, &c.stale);
    if (rc == 0)
        rc = change(d, &c.resting, true);
    if (rc == 0)
        rc = judge_devices(d, &c.resting);
    free(c.resting.list);
    free(c.stale.list);
    return rc;
}

static int keep(void *arg, struct block_lv *b)
{
    drop_note(arg, b->lv->name);
    return 0;
}

/* Templates stay: other images may lie on them. */
static int let_go(struct domain *d, const char *image)
{
    struct block_state *s = d->state;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->count; i++) {
        const struct block_lv *b = &s->list[i];
        if (block_is_of(d, b, image, false) && lvm_is_active(s->lvm, b->lv->name))
            rc = block_note_active(d, b->lv->name);
    }
    return rc;
}

int block_keep_active(struct domain *d, const char *image, bool active)
{
    int rc = active ? block_activate(d, image) : block_refresh(d);

    if (rc < 0)
        return rc;
    return active ? block_visit_chain(d, image, keep, d) : let_go(d, image);
}

/* ---- putting to rest ------------------------------------------------------------------------------------ */

static int collect(struct domain *d, struct names *n)
{
    struct block_state *s = d->state;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->used_count; i++) {
        set_lock(s, s->used[i], F_UNLCK, false); /* of two who end at once one is to get it */
        if (set_lock(s, s->used[i], F_WRLCK, false) < 0 || !has_note(d, s->used[i])) /* (1, 2) */
            continue;
        if (lvm_is_active(s->lvm, s->used[i]))
            rc = add_name(n, s->used[i]);
        else
            drop_note(d, s->used[i]);
    }
    return rc;
}

/* What somebody has open by its path stays active, and keeps its file. */
void block_rest(struct domain *d)
{
    struct block_state *s = d->state;
    struct names n = {.domain = d};
    struct dom_error error;

    if (s->used_count == 0)
        return;
    dom_error_keep(&error, -1);
    if (collect(d, &n) == 0)
        change(d, &n, false);
    for (size_t i = 0; i < n.count; i++)
        if (!lvm_is_active(s->lvm, n.list[i]))
            drop_note(d, n.list[i]);
    for (size_t i = 0; i < s->used_count; i++)
        set_lock(s, s->used[i], F_UNLCK, false);
    free(n.list);
    s->used_count = 0;
    dom_error_give(&error);
}
