/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU on copies, of each image: what both can read at first is the same; what the library has made of it reads
 * the same to both; what QEMU could read at first, it can read then, as it was or as was written. And of some
 * images: one that QEMU's check finds nothing wrong with is such a one afterwards.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "tests/foreign/life.h"
#include "tests/foreign/qemu.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

_Static_assert((int)QEMU_SECTOR == (int)WALK_SECTOR, "sectors are sectors");

/* There is a name of a file behind it: then that is the one that the library takes, or it opens nothing. */
static bool is_backed(const uint8_t *bytes, uint64_t len)
{
    uint64_t at = len >= 20 ? get_be64(bytes + 8) : 0;

    return at != 0 && at < len && get_be32(bytes + 16) > 0 && bytes[at] != 0;
}

/* The disk as it is now, of which these are the first bytes. */
static enum qemu_answer read_by_qemu(struct life *l, const uint8_t *bytes, uint64_t len, uint8_t *buf, uint8_t *ok)
{
    struct qemu_image image = {
        .disk = &l->disk, .base = life_base(), .base_len = LIFE_BASE, .backed = is_backed(bytes, len)};
    enum qemu_answer answer = qemu_read(l->peer_daemon, &image, l->sectors, buf, ok, l->totals->peer_why);

    l->totals->peer_lost += answer == QEMU_LOST;
    return answer;
}

static bool is_clean_to_qemu(struct life *l, struct memdisk *d)
{
    const char *path = test_path("peer");
    struct run_result r;

    memdisk_save(d, path);
    run_shell(&r, "timeout -s KILL 20 %s check -q -f qcow2 %s", l->peer, path);
    return r.status == 0;
}

static bool was_clean_to_qemu(struct life *l)
{
    struct memdisk d;
    bool clean;

    memdisk_init(&d, 1);
    memdisk_write(&d, 0, l->bytes, l->len);
    clean = is_clean_to_qemu(l, &d);
    memdisk_finish(&d);
    return clean;
}

/* Where both can read, they read the same: what is LIFE_FIRM in `state`. */
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
    enum qemu_answer answer;
    uint8_t *buf;

    free(l->peer_ok); /* of an image that was not judged */
    l->peer_ok = NULL;
    if (!l->peer_daemon || !l->opens)
        return;
    buf = test_alloc(l->sectors * WALK_SECTOR);
    l->peer_ok = test_alloc(l->sectors + 1);
    answer = read_by_qemu(l, l->bytes, l->len, buf, l->peer_ok);
    l->totals->compared += answer == QEMU_READS;
    l->totals->peer_refuses += answer == QEMU_REFUSES;
    if (answer == QEMU_READS) {
        compare(l, l->content, l->state, buf, l->peer_ok, "at first");
    } else {
        free(l->peer_ok);
        l->peer_ok = NULL;
    }
    free(buf);
}

/* What the library has made of it, read by both. */
static void compare_end(struct life *l, const uint8_t *after, uint64_t len)
{
    uint8_t *buf = test_alloc(l->sectors * WALK_SECTOR), *ok = test_alloc(l->sectors + 1);
    uint8_t *ours = test_alloc(l->sectors * WALK_SECTOR), *ours_ok = test_alloc(l->sectors + 1);
    enum qemu_answer answer = read_by_qemu(l, after, len, buf, ok);

    _Static_assert(LIFE_FIRM == 1, "a sector that was read");
    CHECK_MSG(answer != QEMU_REFUSES, "QEMU cannot open it any more");
    if (answer == QEMU_READS) {
        CHECK(life_read(l, &l->disk, l->sectors, ours, ours_ok));
        compare(l, ours, ours_ok, buf, ok, "in the end");
        compare(l, l->content, l->state, buf, ok, "after the writes");
        for (uint64_t i = 0; i < l->sectors; i++)
            CHECK_MSG(ok[i] || !l->peer_ok[i] || l->state[i] != LIFE_FIRM,
                      "guest offset 0x%" PRIx64 ": QEMU cannot read it any more", i * WALK_SECTOR);
    }
    free(buf);
    free(ok);
    free(ours);
    free(ours_ok);
}

void life_peer_end(struct life *l, const uint8_t *after, uint64_t len)
{
    bool same = len == l->len && memcmp(after, l->bytes, len) == 0;

    if (l->peer_ok && !same) {
        compare_end(l, after, len);
        if (l->peer_checks && !is_clean_to_qemu(l, &l->disk))
            CHECK_MSG(!was_clean_to_qemu(l), "QEMU finds damage, where there was none");
    }
    free(l->peer_ok);
    l->peer_ok = NULL;
}
