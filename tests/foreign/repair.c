/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `check -r all` on a copy of a damaged image. What could be read before reads the same, and it ends with an image
 * in which a check finds nothing, or says what is left; made once more, it changes nothing.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/sim.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "tests/foreign/life.h"
#include "tests/lib/test.h"

enum { REPAIR_MEMORY = 64 << 20 };

static void on_finding(void *arg, enum qcow2_finding kind, const char *text)
{
    struct life *l = arg;

    l->leaks_kept |= strstr(text, "is kept: free it with -r leaks") != NULL;
    if (strlen(l->text) < sizeof l->text / 2)
        life_say(l, "  %s%s\n", kind == QCOW2_FIXED ? "fixed: " : "", text);
}

static int repair(struct life *l, struct memdisk *d, struct qcow2_repair_result *ret)
{
    struct qcow2_check_opts opts = {
        .report = on_finding, .report_arg = l, .memory_max = REPAIR_MEMORY, .report_max = 40};
    struct backend *b = life_open(l, d, false);
    vdisk_queue *q;
    int rc;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    rc = qcow2_repair(b, q, QCOW2_REPAIR_ALL, &opts, ret);
    life_say(l, "repair: %s\n", rc < 0 ? vdisk_error_text() : "done");
    CHECK(rc == 0 || strlen(vdisk_error_text()) > 10);
    vdisk_queue_destroy(q);
    backend_close(b);
    return rc;
}

/* What its entry leads to is a table, which a repair may have reason to change; or comes from what is none. */
static bool shows_table(const struct walk *w, uint64_t guest)
{
    struct walk_entry e = {0};

    if (w->usable)
        e = walk_lookup(w, &w->l1, guest);
    return walk_uses(w, e.host, e.len) & WALK_TABLES ||
           (e.at && walk_uses(w, align_down(e.at, w->cluster), w->cluster) & WALK_TABLES & ~(unsigned)WALK_L2);
}

void life_compare(struct life *l, struct memdisk *d, const char *after)
{
    struct walk w;
    uint8_t *buf = test_alloc(l->sectors * WALK_SECTOR), *ok = test_alloc(l->sectors);
    bool opens = life_read(l, d, l->sectors, buf, ok);

    CHECK_MSG(opens || !l->opens, "after %s the image cannot be opened any more: %s", after, vdisk_error_text());
    walk_init(&w, l->bytes, l->len, NULL, 0);
    for (uint64_t i = 0; i < l->sectors; i++) {
        if (l->state[i] != LIFE_FIRM || shows_table(&w, i * WALK_SECTOR))
            continue;
        CHECK_MSG(ok[i], "guest offset 0x%" PRIx64 " cannot be read after %s", i * WALK_SECTOR, after);
        CHECK_MSG(memcmp(buf + i * WALK_SECTOR, l->content + i * WALK_SECTOR, WALK_SECTOR) == 0,
                  "guest offset 0x%" PRIx64 " reads otherwise after %s", i * WALK_SECTOR, after);
    }
    walk_finish(&w);
    free(buf);
    free(ok);
}

void life_repair(struct life *l)
{
    struct qcow2_repair_result first, second;
    struct memdisk d;
    size_t said = strlen(l->text);
    bool same;
    int rc;

    l->leaks_kept = false;
    memdisk_init(&d, l->disk.align);
    memdisk_write(&d, 0, l->bytes, l->len);
    rc = repair(l, &d, &first);
    life_compare(l, &d, "the repair");
    l->totals->repaired += rc == 0 && first.check.corruptions + first.check.check_errors == 0;
    l->totals->unrepaired += rc < 0 || first.check.corruptions + first.check.check_errors > 0;
    if (rc == 0) {
        CHECK_MSG(first.check.corruptions || first.check.check_errors || first.check.leaks == 0 || l->leaks_kept,
                  "a repair leaves leaks only");
        life_say(l, "once more\n");
        CHECK_INT(repair(l, &d, &second), 0);
        /* What seemed to be leaked, and was kept, may go the second time, and with it what depends on it. */
        same = first.check.corruptions == second.check.corruptions &&
               first.check.check_errors == second.check.check_errors &&
               (l->leaks_kept || (first.check.leaks == second.check.leaks && second.leaks_fixed == 0 &&
                                  second.corruptions_fixed == 0));
        CHECK_MSG(same,
                  "a second repair finds something else: %" PRIu64 " corruptions, %" PRIu64 " errors, %" PRIu64
                  " leaks; then %" PRIu64 ", %" PRIu64 ", %" PRIu64 "; fixed %" PRIu64 ", %" PRIu64,
                  first.check.corruptions, first.check.check_errors, first.check.leaks, second.check.corruptions,
                  second.check.check_errors, second.check.leaks, second.corruptions_fixed, second.leaks_fixed);
    }
    memdisk_finish(&d);
    l->text[said] = '\0';
}
