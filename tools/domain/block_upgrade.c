/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What only an upgrade of a domain in a volume group does.
 *
 * Works: metadata of version 5 has places of its own, behind the first MiB of "metadata": it is written there
 * while the present one stays; the tags of the group say then which counts; after that the first MiB becomes
 * zeros, as Vdsm leaves it. A domain of version 3 gets the volume "xleases". Fails: as the device, or lvm. Killed:
 * done again.
 *
 * Invariant: 1. an index of leases that is there stays.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/domain/block.h"

#define XLEASES "xleases"

enum { MIB = 1 << 20, ALIGNMENT = 4096, BLOCK_SIZE = 512, NEXT = 5, MAGIC = 4 };

/* ---- volumes of the domain's own ------------------------------------------------------------------------ */

/* `len` bytes at an offset, past the page cache; both of them whole pages. */
static int move_special(struct domain *d, const char *name, void *buf, size_t len, uint64_t at, bool write)
{
    char path[PATH_MAX];
    ssize_t n;
    int fd, rc;

    snprintf(path, sizeof path, "%s/%s", d->path, name);
    fd = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
    if (fd < 0)
        return dom_fail_file(errno, path, "opening it");
    do
        n = write ? pwrite(fd, buf, len, (off_t)at) : pread(fd, buf, len, (off_t)at);
    while (n < 0 && errno == EINTR);
    rc = n == (ssize_t)len ? 0 : dom_fail_file(n < 0 ? errno : EIO, path, write ? "writing it" : "reading it");
    close(fd);
    return rc;
}

/*
 * What begins with the magic number, and is of this domain, is whole: that comes last. (1) Another one's lay on
 * the device before.
 */
static int write_index(struct domain *d, const struct text_special *special)
{
    unsigned char *buf;
    unsigned char first[TEXT_XLEASES_OWNER];
    int rc;

    assert(special->zeros > MIB + TEXT_XLEASES_SIZE && special->zeros % ALIGNMENT == 0);
    if (posix_memalign((void **)&buf, ALIGNMENT, special->zeros) != 0)
        return dom_fail(ENOMEM, NULL, "out of memory");
    rc = move_special(d, XLEASES, buf, ALIGNMENT, MIB, false);
    memcpy(first, buf, sizeof first);
    memset(buf, 0, special->zeros);
    text_xleases(d->uuid, (uint64_t)time(NULL), buf + MIB);
    if (rc == 0 && memcmp(first, buf + MIB, sizeof first) != 0) {
        memset(buf + MIB, 0, MAGIC);
        rc = move_special(d, XLEASES, buf, special->zeros, 0, true);
        text_xleases(d->uuid, (uint64_t)time(NULL), buf + MIB);
        if (rc == 0)
            rc = move_special(d, XLEASES, buf + MIB, ALIGNMENT, MIB, true);
    }
    free(buf);
    return rc;
}

static const struct text_special *find_special(void)
{
    for (size_t i = 0; i < TEXT_SPECIALS; i++)
        if (strcmp(text_specials[i].name, XLEASES) == 0)
            return &text_specials[i];
    return NULL;
}

/* With the group's writer. */
static int make_xleases(struct domain *d)
{
    const struct text_special *special = find_special();
    struct block_state *s = d->state;
    const char *const names[] = {XLEASES};
    bool active = lvm_is_active(s->lvm, XLEASES);
    struct dom_error error;
    int rc = 0;

    assert(special != NULL && lvm_is_writer(s->lvm));
    if (lvm_find_lv(block_vg(d), XLEASES) == NULL) {
        const struct lvm_new o = {.name = XLEASES, .size = special->size, .active = true};
        rc = lvm_create(s->lvm, &o);
        block_stale(d);
    } else if (!active) {
        rc = lvm_activate(s->lvm, names, 1);
    }
    if (rc < 0)
        return rc;
    rc = write_index(d, special);
    dom_error_keep(&error, rc);
    if (!active)
        lvm_deactivate(s->lvm, names, 1);
    return rc < 0 ? dom_error_give(&error) : 0;
}

int block_begin_upgrade(struct domain *d, unsigned *ret_block_size)
{
    int rc = block_begin(d);

    *ret_block_size = BLOCK_SIZE;
    if (rc < 0)
        return rc;
    block_stale(d);
    rc = block_refresh(d);
    if (rc == 0)
        rc = make_xleases(d);
    block_end(d);
    return rc;
}

/* ---- metadata of volumes --------------------------------------------------------------------------------- */

int block_write_next(struct domain *d, const char *image, const char *volume, const char *text, size_t len)
{
    struct block_state *s = d->state;
    unsigned version;
    int rc = block_refresh(d);

    (void)image;
    if (rc < 0)
        return rc;
    assert(block_find(d, volume) != NULL && block_find(d, volume)->is.slot != 0);
    version = s->version;
    s->version = NEXT;
    rc = block_write_slot(d, block_find(d, volume)->is.slot, text, len);
    s->version = version;
    return rc;
}

int block_end_upgrade(struct domain *d)
{
    void *zeros;
    int rc;

    if (posix_memalign(&zeros, ALIGNMENT, MIB) != 0)
        return dom_fail(ENOMEM, NULL, "out of memory");
    memset(zeros, 0, MIB);
    rc = move_special(d, "metadata", zeros, MIB, 0, true);
    free(zeros);
    return rc;
}
