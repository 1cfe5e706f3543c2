/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What must hold.
 *  1. Reading changes no byte; and what both the library and the other reader can read is the same.
 *  2. An image that is refused when it is opened for writing reads as before.
 *  3. Guest sectors that were not written to read as before, and those that were as was written.
 *  4. Bytes of the file that were not ours to change are as before: `may_change()`. The file is not shorter,
 * unless what was cut off was ours.
 *  5. No refcount of what was not ours is lower than before.
 *  6. An image that a check found nothing wrong with is one afterwards.
 *  7. An image that is only odd, and not damaged, can be written to.
 *
 * What nobody can know without reading all of the image's tables is excepted: two entries that lead to one cluster
 * whose refcount, or flag, says that one does. Guest data whose refcount is 0 is nobody's to take. An entry of a
 * guest cluster that leads into a table shows what the table has.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/sim.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "tests/foreign/life.h"
#include "tests/lib/test.h"

/* What an L2 table is not. */
#define OTHER_TABLES ((unsigned)WALK_TABLES & ~(unsigned)(WALK_L2 | WALK_SNAPSHOT_L2))

enum { PIECE = 32 << 10, CHECK_MEMORY = 64 << 20 };

/* ---- reading --------------------------------------------------------------------------------------------- */

static vdisk *open_reader(struct life *l, struct memdisk *d)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .cache_bytes = 1 << 20};
    vdisk *v;
    int rc;

    rc = vdisk_open_backend(life_open(l, d, true), &opts, &v);
    CHECK(rc == 0 || strlen(vdisk_error_text()) > 10);
    return rc < 0 ? NULL : v;
}

/* Sectors into buf; which could be read. */
static void read_sectors(vdisk *v, uint64_t sectors, uint8_t *buf, uint8_t *ok)
{
    for (uint64_t at = 0, n; at < sectors * WALK_SECTOR; at += n) {
        n = min_u64(PIECE, sectors * WALK_SECTOR - at);
        bool whole = vdisk_pread(v, buf + at, n, at) == 0;
        for (uint64_t i = at; i < at + n; i += WALK_SECTOR)
            ok[i / WALK_SECTOR] = whole || vdisk_pread(v, buf + i, WALK_SECTOR, i) == 0;
    }
}

bool life_read(struct life *l, struct memdisk *d, uint64_t sectors, uint8_t *buf, uint8_t *ok)
{
    vdisk *v = open_reader(l, d);

    if (!v)
        return false;
    read_sectors(v, min_u64(sectors, vdisk_size(v) / WALK_SECTOR), buf, ok);
    CHECK_OK(vdisk_close(v));
    return true;
}

static void on_finding(void *arg, enum qcow2_finding kind, const char *text)
{
    life_say(arg, "  %s\n", text);
}

static bool is_clean(struct life *l)
{
    struct qcow2_check_opts opts = {.memory_max = CHECK_MEMORY, .report_max = 3};
    struct qcow2_check_result res;
    struct backend *b = life_open(l, &l->disk, true);
    vdisk_queue *q;
    int rc;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    if (l->usable) {
        opts.report = on_finding;
        opts.report_arg = l;
    }
    rc = qcow2_check(b, q, &opts, &res);
    vdisk_queue_destroy(q);
    backend_close(b);
    return rc == 0 && res.corruptions == 0 && res.check_errors == 0 && res.leaks == 0;
}

/* Where the library refuses what the other reads: an entry that leads into a table, say. Then nothing is compared.
 */
static void compare_readers(struct life *l, const struct walk *w, const char *when)
{
    uint8_t sector[WALK_SECTOR];

    for (uint64_t i = 0; i < l->sectors && w->usable; i++) {
        struct walk_entry e;
        if (!walk_read(w, i * WALK_SECTOR, sector))
            continue;
        if (l->state[i] != LIFE_UNREAD) {
            e = walk_lookup(w, &w->l1, i * WALK_SECTOR);
            CHECK_MSG(memcmp(sector, l->content + i * WALK_SECTOR, WALK_SECTOR) == 0,
                      "guest offset 0x%" PRIx64 " %s: 0x%02x, another reader finds 0x%02x (entry 0x%" PRIx64 ")",
                      i * WALK_SECTOR, when, l->content[i * WALK_SECTOR], sector[0], e.word);
            continue;
        }
        e = walk_lookup(w, &w->l1, i * WALK_SECTOR);
        CHECK_MSG(e.at == 0 || walk_uses(w, align_down(e.at, w->cluster), w->cluster) & ~(unsigned)WALK_L2 ||
                      walk_uses(w, e.host, e.len) & WALK_TABLES || e.host + e.len > w->len,
                  "guest offset 0x%" PRIx64 " %s: cannot be read, but by another reader", i * WALK_SECTOR, when);
    }
}

void life_look(struct life *l)
{
    vdisk *v = open_reader(l, &l->disk);
    struct walk w;
    uint8_t *after;
    uint64_t len;

    l->opens = v != NULL;
    life_say(l, "open for reading: %s\n", v ? "done" : vdisk_error_text());
    l->size = v ? vdisk_size(v) : 0;
    l->sectors = min_u64(l->size, LIFE_READ_MAX) / WALK_SECTOR;
    l->content = test_alloc(l->sectors * WALK_SECTOR);
    l->state = test_alloc(l->sectors);
    if (!v) {
        l->totals->unreadable++;
        return;
    }
    read_sectors(v, l->sectors, l->content, l->state);
    CHECK_OK(vdisk_close(v));
    _Static_assert(LIFE_FIRM == 1, "a sector that was read");
    walk_init(&w, l->bytes, l->len, life_base(), LIFE_BASE);
    compare_readers(l, &w, "at first");
    walk_finish(&w);
    after = life_bytes(l, &len);
    CHECK_MSG(len == l->len && memcmp(after, l->bytes, len) == 0, "reading has changed the file");
    free(after);
    l->was_clean = is_clean(l);
    CHECK_MSG(l->was_clean || !l->usable || l->habits & ~(uint32_t)HABITS_CLEAN, "a check finds something");
}

/* ---- what is ours ---------------------------------------------------------------------------------------- */

/* Its refcount and flags agree with what leads to it: then nobody but who owns it may lose anything. */
static bool is_sound(const struct walk *w, uint64_t cluster)
{
    return walk_refcount(w, cluster * w->cluster) >= w->refs[cluster] &&
           (w->refs[cluster] <= 1 || !w->flagged[cluster]);
}

void life_judge_opened(struct life *l)
{
    struct walk *w = &l->walk;

    walk_init(w, l->opened, l->opened_len, life_base(), LIFE_BASE);
    l->guests = w->usable ? div_up(l->sectors * WALK_SECTOR, w->cluster) : 0;
    l->ours = test_alloc(w->clusters + 1);
    l->given_up = test_alloc((w->clusters + 1) * sizeof *l->given_up);
    l->touched = test_alloc(l->guests + 1);
    l->totals->unjudged += !w->usable && l->writable;
    CHECK_MSG(l->writable || !l->usable, "an image that is not damaged is refused: %s", vdisk_error_text());
    CHECK_MSG(l->writable || l->opened_len >= l->len, "an image that was refused has become shorter");
    CHECK_MSG(!l->writable || l->opens, "an image that cannot be read can be written");
}

/* The file's clusters that an entry has: [*ret_first, end). */
static uint64_t clusters_of(const struct walk *w, const struct walk_entry *e, uint64_t *ret_first)
{
    *ret_first = e->host / w->cluster;
    return e->len ? min_u64(w->clusters, div_up(e->host + e->len, w->cluster)) : 0;
}

/* What all that lead to it have given up is ours; and what nobody can know to be somebody else's. */
void life_touch(struct life *l, uint64_t offset, uint64_t len)
{
    const struct walk *w = &l->walk;

    for (uint64_t g = w->usable ? offset / w->cluster : 1; w->usable && g < div_up(offset + len, w->cluster);
         g++) {
        struct walk_entry e = walk_lookup(w, &w->l1, g * w->cluster);
        uint64_t c, end = clusters_of(w, &e, &c);
        if (g < l->guests && l->touched[g])
            continue;
        if (g < l->guests)
            l->touched[g] = 1;
        for (; c < end; c++) {
            l->given_up[c]++;
            l->ours[c] |= l->given_up[c] >= w->refs[c] || !is_sound(w, c);
        }
    }
}

/* Has the cluster other bytes than when the file was opened? Behind the end that it had then there were zeros. */
static bool has_changed(const struct life *l, uint64_t at, const uint8_t *now, uint64_t len)
{
    for (uint64_t i = at; i < min_u64(len, at + l->walk.cluster); i++)
        if (now[i] != (i < l->opened_len ? l->opened[i] : 0))
            return true;
    return false;
}

/* What was free and has been taken is ours from then on, to give up and to cut off. */
void life_watch(struct life *l)
{
    const struct walk *w = &l->walk;
    uint64_t len;
    uint8_t *now = life_bytes(l, &len);

    for (uint64_t at = 0; w->usable && at < min_u64(len, l->opened_len); at += w->cluster)
        if (!l->ours[at / w->cluster] && walk_uses(w, at, w->cluster) == 0 && walk_refcount(w, at) == 0)
            l->ours[at / w->cluster] = has_changed(l, at, now, len);
    free(now);
}

/* Sectors of guest clusters that share what is ours with others. */
static void loosen(struct life *l)
{
    const struct walk *w = &l->walk;

    for (uint64_t g = 0; g < l->guests; g++) {
        struct walk_entry e = walk_lookup(w, &w->l1, g * w->cluster);
        bool loose = e.at && walk_uses(w, align_down(e.at, w->cluster), w->cluster) & OTHER_TABLES;
        for (uint64_t at = align_down(e.host, w->cluster); e.len && at < e.host + e.len; at += w->cluster) {
            uint64_t c = at / w->cluster;
            loose |= (walk_uses(w, at, w->cluster) & WALK_TABLES) != 0;
            loose |= c < w->clusters && w->refs[c] > 1 && !is_sound(w, c) && l->given_up[c] > l->touched[g];
        }
        for (uint64_t i = g * w->cluster / WALK_SECTOR;
             loose && i < min_u64(l->sectors, (g + 1) * w->cluster / WALK_SECTOR); i++)
            l->state[i] = LIFE_LOOSE;
        l->totals->excepted += loose;
    }
}

/* An L2 table that several lead to, and no flag says otherwise, is copied before it is changed. */
static bool may_change(const struct life *l, uint64_t sector)
{
    const struct walk *w = &l->walk;
    uint64_t at = sector * WALK_SECTOR, c = at / w->cluster;
    uint32_t uses = w->use[sector];

    if (uses & WALK_HEADER)
        return at == 0;
    if (!(uses & WALK_TABLES) && walk_uses(w, c * w->cluster, w->cluster) & (WALK_L1 | WALK_REFTABLE))
        return true; /* behind the last entry of the table */
    if (uses & WALK_ACTIVE & ~(unsigned)WALK_L2)
        return true; /* its content shows in what can be read */
    if (uses & WALK_L2)
        return w->refs[c] <= 1 || !is_sound(w, c);
    if (uses & WALK_TABLES)
        return false;
    return l->ours[c] || (walk_refcount(w, at) == 0 && !(walk_uses(w, c * w->cluster, w->cluster) & WALK_DATA));
}

/* ---- the end --------------------------------------------------------------------------------------------- */

static void judge_content(struct life *l)
{
    uint64_t sectors = l->sectors;
    uint8_t *buf = test_alloc(l->sectors * WALK_SECTOR), *ok = test_alloc(l->sectors);
    vdisk *v = open_reader(l, &l->disk);

    CHECK_MSG(v || !l->opens, "it cannot be opened any more: %s", vdisk_error_text());
    if (!v)
        sectors = 0;
    CHECK_MSG(!v || vdisk_size(v) >= l->size, "it has become smaller");
    if (v)
        read_sectors(v, sectors, buf, ok);
    for (uint64_t i = 0; i < sectors; i++) {
        bool same, zero;
        if (l->state[i] == LIFE_UNREAD || l->state[i] == LIFE_LOOSE)
            continue;
        CHECK_MSG(ok[i], "guest offset 0x%" PRIx64 " cannot be read any more", i * WALK_SECTOR);
        same = memcmp(buf + i * WALK_SECTOR, l->content + i * WALK_SECTOR, WALK_SECTOR) == 0;
        zero = buf[i * WALK_SECTOR] == 0 &&
               memcmp(buf + i * WALK_SECTOR, buf + i * WALK_SECTOR + 1, WALK_SECTOR - 1) == 0;
        CHECK_MSG(same || (zero && l->state[i] == LIFE_OR_ZERO),
                  "guest offset 0x%" PRIx64 " reads otherwise (0x%02x, not 0x%02x)", i * WALK_SECTOR,
                  buf[i * WALK_SECTOR], l->content[i * WALK_SECTOR]);
    }
    if (v)
        CHECK_OK(vdisk_close(v));
    free(buf);
    free(ok);
}

static void judge_bytes(struct life *l, const uint8_t *after, uint64_t len)
{
    const struct walk *w = &l->walk;

    for (uint64_t at = 0; at < l->opened_len; at += WALK_SECTOR) {
        uint64_t n = min_u64(WALK_SECTOR, l->opened_len - at), c = at / w->cluster;
        if (at + n > len) {
            CHECK_MSG(l->ours[c] || walk_uses(w, c * w->cluster, w->cluster) & WALK_ACTIVE,
                      "the file was cut at 0x%" PRIx64 ", and 0x%" PRIx64 " (%s) is gone", len, at,
                      walk_use_name(w->use[at / WALK_SECTOR]));
            continue;
        }
        CHECK_MSG(memcmp(after + at, l->opened + at, n) == 0 || may_change(l, at / WALK_SECTOR),
                  "the file's bytes at 0x%" PRIx64 " (%s) have changed", at,
                  walk_use_name(w->use[at / WALK_SECTOR]));
    }
}

static void judge_refcounts(struct life *l, const uint8_t *after, uint64_t len)
{
    const struct walk *w = &l->walk;
    struct walk now;

    walk_init(&now, after, len, NULL, 0);
    for (uint64_t c = 0; c < w->clusters && now.usable; c++) {
        uint64_t at = c * w->cluster, was = walk_refcount(w, at), is = walk_refcount(&now, at);
        uint32_t uses = walk_uses(w, at, w->cluster);
        if (walk_uses(w, walk_refblock(w, at), w->cluster) & ~(unsigned)WALK_REFBLOCK)
            continue; /* these are no refcounts */
        if (is >= was || l->ours[c] || (uses & WALK_ACTIVE) || (uses & WALK_DATA && w->refs[c] > 1))
            continue;
        FAIL("the refcount of 0x%" PRIx64 " (%s) was %" PRIu64 ", and is %" PRIu64, at, walk_use_name(uses), was,
             is);
    }
    walk_finish(&now);
}

void life_judge_end(struct life *l)
{
    uint64_t len;
    uint8_t *after = life_bytes(l, &len);

    if (l->walk.usable) {
        loosen(l);
        judge_content(l);
        judge_bytes(l, after, len);
        judge_refcounts(l, after, len);
        life_peer_end(l, after, len);
    }
    if (l->was_clean && l->writable)
        CHECK_MSG(is_clean(l), "a check was clean before, and is no more");
    walk_finish(&l->walk);
    free(after);
    free(l->opened);
    free(l->bytes);
    free(l->content);
    free(l->state);
    free(l->ours);
    free(l->given_up);
    free(l->touched);
}
