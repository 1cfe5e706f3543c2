/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image locks.
 *
 * Happy path: read-lock the bytes that are new in the claim; look whether somebody is on a byte that speaks
 * against it; unlock the bytes that are no longer claimed.
 * Failure modes: a byte is write-locked by a program that locks the file as a whole, or somebody is on a byte that
 * speaks against us: what was taken is given back, the text says who it is. The file system knows no such locks:
 * go on without, as QEMU does.
 *
 * Looking comes after taking: of two that come at once, at least one sees the other.
 */
#include "backends/host/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/error.h"

enum { LOCK_TRIES = 50, LOCK_PAUSE_NS = 20 * 1000 * 1000 };

static int lock_byte(int fd, short type, unsigned byte)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int rc;

    do
        rc = fcntl(fd, F_OFD_SETLK, &fl);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* Is another on `byte`, be it shared? 1 or 0, or -errno. */
static int byte_taken(int fd, unsigned byte)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
        return -errno;
    return fl.l_type != F_UNLCK;
}

static bool locks_unsupported(int err)
{
    return err == -ENOLCK || err == -EINVAL || err == -EOPNOTSUPP || err == -ENOSYS;
}

static void unlock_claim(int fd, struct lock_claim c)
{
    uint16_t bytes[2 * LOCK_PERMS];
    unsigned n = lock_claim_bytes(c, false, bytes);

    for (unsigned i = 0; i < n; i++)
        lock_byte(fd, F_UNLCK, bytes[i]);
}

/* What QEMU says for it: programs look for that. */
static void qemu_words(unsigned byte, char *ret, size_t len)
{
    static const char *const perms[LOCK_PERMS] = {"consistent read", "write", "write unchanged", "resize"};
    bool unshared = byte >= LOCK_UNSHARED_BASE; /* by them: we cannot use it; else they use what we do not share */
    unsigned perm = byte - (unsigned)(unshared ? LOCK_UNSHARED_BASE : LOCK_USED_BASE);

    snprintf(ret, len, "Failed to get %s\"%s\" lock", unshared ? "" : "shared ",
             perms[perm < LOCK_PERMS ? perm : LOCK_PERM_WRITE]);
}

/* The error text for somebody on `byte`. */
static int refused(const char *name, unsigned byte, uint32_t flags, const struct lock_holder *h)
{
    bool we_write = flags & (BACKEND_RDWR | BACKEND_CREATE);
    const char *what = h->writes || byte < LOCK_UNSHARED_BASE ? "locked for writing" : "locked against writers";
    char words[64];

    if (h->pid == getpid()) { /* nobody is to be stopped, and to share would be to read what is being written */
        err_set(EAGAIN, "%s: it is in use here already: %s by this process", name, what);
        return err_hint(-EAGAIN, "one file is given twice, an image leads back to itself, or another handle is to "
                                 "be closed first");
    }
    qemu_words(byte, words, sizeof words);
    if (h->pid == 0)
        err_set(EAGAIN, "%s: %s: %s by another process", name, words, what);
    else
        err_set(EAGAIN, "%s: %s: %s by %s (pid %d)", name, words, what, h->comm, h->pid);
    return err_hint(-EAGAIN, we_write ? "stop it first: it and this would write at once"
                                      : "stop it first, or open the image with force-share");
}

/* Take the bytes of `c`. On failure none is held; *ret_byte is the one that was refused. */
static int take_claim(int fd, struct lock_claim c, unsigned *ret_byte)
{
    uint16_t bytes[2 * LOCK_PERMS];
    unsigned n = lock_claim_bytes(c, false, bytes);
    int rc;

    for (unsigned i = 0; i < n; i++) {
        rc = lock_byte(fd, F_RDLCK, bytes[i]);
        if (rc == 0)
            continue;
        *ret_byte = bytes[i];
        while (i-- > 0)
            lock_byte(fd, F_UNLCK, bytes[i]);
        return rc == -EACCES ? -EAGAIN : rc;
    }
    return 0;
}

/* Does somebody speak against `c`? -EAGAIN and the byte, or 0. */
static int look_around(int fd, struct lock_claim c, unsigned *ret_byte)
{
    uint16_t bytes[2 * LOCK_PERMS];
    unsigned n = lock_claim_bytes(c, true, bytes);
    int rc;

    for (unsigned i = 0; i < n; i++) {
        rc = byte_taken(fd, bytes[i]);
        if (rc == 0)
            continue;
        *ret_byte = bytes[i];
        return rc < 0 ? rc : -EAGAIN;
    }
    return 0;
}

static int take_and_look_around(int fd, struct lock_claim fresh, struct lock_claim want, unsigned *ret_byte)
{
    int rc = take_claim(fd, fresh, ret_byte);

    if (rc == 0 && !lock_claim_empty(fresh)) {
        rc = look_around(fd, want, ret_byte);
        if (rc < 0)
            unlock_claim(fd, fresh);
    }
    return rc;
}

int image_lock_set(struct image_lock *l, int fd, const char *name, uint32_t flags)
{
    struct lock_claim want = lock_claim_for(flags);
    struct lock_claim fresh = lock_claim_minus(want, l->held);
    struct lock_holder holder = {.pid = 0};
    unsigned byte = 0, tries = 0;
    int rc;

    if (l->unsupported)
        return 0;
    /*
     * Held by nobody who can be found: by a process that was killed, perhaps, whose ring the kernel has not taken
     * down yet. That takes a moment. Looking for who it is takes long, too: at first, and when it was in vain.
     */
    while ((rc = take_and_look_around(fd, fresh, want, &byte)) == -EAGAIN) {
        tries++;
        if (tries == 1 || tries == LOCK_TRIES)
            lock_find_holder(fd, byte, &holder);
        if (holder.pid != 0 || tries == LOCK_TRIES)
            return refused(name, byte, flags, &holder);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    if (locks_unsupported(rc)) {
        l->unsupported = true;
        return 0;
    }
    if (rc < 0)
        return err_set(rc, "%s: locking byte %u: %s", name, byte, strerror(-rc));
    unlock_claim(fd, lock_claim_minus(l->held, want));
    l->held = want;
    return 0;
}

void image_lock_drop(struct image_lock *l, int fd)
{
    unlock_claim(fd, l->held);
    l->held = (struct lock_claim){0, 0};
}
