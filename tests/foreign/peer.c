/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU on copies. What both read at first is the same; what it read at first, it reads when the library has
 * written elsewhere; and what the library has made of the image reads the same to both. An image that nothing is
 * wrong with is also written to by QEMU, as the library did: then the disks are equal.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/foreign/life.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

/* By qemu-img: sectors into buf, and which could be read. False: not opened. */
static bool read_by_qemu(struct life *l, const uint8_t *bytes, uint64_t len, uint8_t *buf, uint8_t *ok)
{
    char path[4096];
    struct run_result r;
    uint64_t size = 0, bad;
    char line[256];
    FILE *f;
    int fd;

    snprintf(path, sizeof path, "%s", test_path("peer"));
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
    close(fd);
    run_shell(&r, "rm -f %s.raw; timeout -s KILL 20 %s convert --salvage -f qcow2 -O raw %s %s.raw 2>%s.err", path,
              l->peer, path, path, path);
    if (r.status != 0)
        return false;
    fd = open(test_path("peer.raw"), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    size = (uint64_t)pread(fd, buf, LIFE_READ_MAX, 0);
    close(fd);
    memset(ok, 0, LIFE_READ_MAX / WALK_SECTOR);
    memset(ok, 1, size / WALK_SECTOR);
    f = fopen(test_path("peer.err"), "r");
    CHECK(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "qemu-img: warning: error while reading offset %" SCNu64, &bad) == 1 && bad < size)
            ok[bad / WALK_SECTOR] = 0;
    fclose(f);
    return true;
}

/* Of the file that was read last. */
static bool is_clean_to_qemu(struct life *l)
{
    struct run_result r;

    run_shell(&r, "timeout -s KILL 20 %s check -q -f qcow2 %s", l->peer, test_path("peer"));
    return r.status == 0;
}

static bool wanted(const struct life *l)
{
    return l->peer && l->opens && l->with_peer && l->size <= LIFE_READ_MAX && get_be64(l->bytes + 8) == 0;
}

/* Where both can read, they read the same. */
static void compare(const struct life *l, const uint8_t *ours, const uint8_t *state, const uint8_t *buf,
                    const uint8_t *ok, const char *when)
{
    for (uint64_t i = 0; i < l->sectors; i++)
        CHECK_MSG(state[i] != LIFE_FIRM || !ok[i] ||
                      memcmp(buf + i * WALK_SECTOR, ours + i * WALK_SECTOR, WALK_SECTOR) == 0,
                  "guest offset 0x%" PRIx64 " %s: QEMU reads 0x%02x, not 0x%02x", i * WALK_SECTOR, when,
                  buf[i * WALK_SECTOR], ours[i * WALK_SECTOR]);
}

void life_peer_look(struct life *l)
{
    uint8_t *buf;

    if (!wanted(l))
        return;
    buf = test_alloc(LIFE_READ_MAX);
    l->peer_ok = test_alloc(LIFE_READ_MAX / WALK_SECTOR);
    if (read_by_qemu(l, l->bytes, l->len, buf, l->peer_ok)) {
        l->peer_clean = is_clean_to_qemu(l);
        compare(l, l->content, l->state, buf, l->peer_ok, "at first");
        l->totals->compared++;
    } else {
        free(l->peer_ok);
        l->peer_ok = NULL;
    }
    free(buf);
}

void life_peer_end(struct life *l, const uint8_t *after, uint64_t len)
{
    uint8_t *buf, *ok;

    if (!l->peer_ok)
        return;
    buf = test_alloc(LIFE_READ_MAX);
    ok = test_alloc(LIFE_READ_MAX / WALK_SECTOR);
    CHECK_MSG(read_by_qemu(l, after, len, buf, ok), "QEMU cannot open it any more");
    CHECK_MSG(!l->peer_clean || is_clean_to_qemu(l), "QEMU finds damage, where there was none");
    compare(l, l->content, l->state, buf, ok, "at the end");
    for (uint64_t i = 0; i < l->sectors; i++)
        CHECK_MSG(ok[i] || !l->peer_ok[i] || l->state[i] != LIFE_FIRM,
                  "guest offset 0x%" PRIx64 ": QEMU cannot read it any more", i * WALK_SECTOR);
    free(buf);
    free(ok);
    free(l->peer_ok);
    l->peer_ok = NULL;
}
