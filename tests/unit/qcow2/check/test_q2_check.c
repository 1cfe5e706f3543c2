/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2/check on images broken by hand: each kind of damage gives the numbers worked out beside it, and
 * `qemu-img check` gives the same ones, but for those differences that qcow2/check/check.c lists.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/check/check.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"
#include "tests/unit/qcow2/check/q2_damage.h"

static long long number(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

/* False: it gave up. */
static bool qemu_check(const char *path, struct qcow2_check_result *ret)
{
    struct run_result r;
    json_t *o;

    run_shell(&r, "qemu-img check --output json -f qcow2 %s 2>/dev/null", path);
    o = json_loads(r.out, 0, NULL);
    if (!o)
        return false;
    ret->corruptions = (uint64_t)number(o, "corruptions");
    ret->leaks = (uint64_t)number(o, "leaks");
    ret->check_errors = (uint64_t)number(o, "check-errors");
    ret->total_clusters = (uint64_t)number(o, "total-clusters");
    ret->allocated_clusters = (uint64_t)number(o, "allocated-clusters");
    ret->compressed_clusters = (uint64_t)number(o, "compressed-clusters");
    ret->fragmented_clusters = (uint64_t)number(o, "fragmented-clusters");
    ret->image_end_offset = (uint64_t)number(o, "image-end-offset");
    json_decref(o);
    return true;
}

static char findings[8192];

static void note(void *arg, enum qcow2_finding kind, const char *text)
{
    size_t n = strlen(findings);

    CHECK(strchr(text, '\n') == NULL && text[0] != '\0');
    snprintf(findings + n, sizeof findings - n, "\n    %d: %s", (int)kind, text);
}

static void damage_is_found(void)
{
    const struct damage *d = &damages[test_repetition()];
    const char *path = test_path("image");
    struct qcow2_check_opts opts = {.report = note};
    struct qcow2_check_result ours, qemu = {0};
    bool answered;

    test_requires("qemu-img");
    test_note("%s", d->name);
    damage_make(d, path);
    answered = qemu_check(path, &qemu);
    CHECK_OK(qcow2_check_path(path, 0, &opts, &ours));
    printf("%s: %" PRIu64 " corruptions, %" PRIu64 " leaks, %" PRIu64 " errors; QEMU: ", d->name, ours.corruptions,
           ours.leaks, ours.check_errors);
    if (answered)
        printf("%" PRIu64 ", %" PRIu64 ", %" PRIu64 "\n", qemu.corruptions, qemu.leaks, qemu.check_errors);
    else
        printf("no result\n");
    CHECK_MSG(ours.corruptions == d->corruptions && ours.leaks == d->leaks && ours.check_errors == d->errors,
              "%s: not %u corruptions, %u leaks, %u errors:%s", d->name, d->corruptions, d->leaks, d->errors,
              findings);
    if (d->differs)
        return;
    CHECK(answered);
    CHECK_INT(ours.corruptions, qemu.corruptions);
    CHECK_INT(ours.leaks, qemu.leaks);
    CHECK_INT(ours.check_errors, qemu.check_errors);
    CHECK_INT(ours.total_clusters, qemu.total_clusters);
    CHECK_INT(ours.allocated_clusters, qemu.allocated_clusters);
    CHECK_INT(ours.compressed_clusters, qemu.compressed_clusters);
}

/* ---- long tables with little in them ------------------------------------------------------------------- */

enum { FREE_FROM = 8 /* guest clusters: q2_damage.c */, DENSITIES = 5 };

static uint64_t word_at(int fd, uint64_t at)
{
    uint8_t buf[8];

    CHECK(pread(fd, buf, 8, (off_t)at) == 8);
    return get_be64(buf);
}

/* In the first L2 table one free entry of `rarity`, and the last one, gets a word that does not belong there. */
static uint64_t scatter(const char *path, bool extended, unsigned rarity)
{
    uint64_t size = extended ? 16 : 8, entries = 65536 / size, count = 0, at;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t bad[8];

    CHECK(fd >= 0);
    at = word_at(fd, word_at(fd, 40)) & Q2_L1_OFFSET;
    put_be64(bad, extended ? 1 : 1ull << 56); /* a subcluster without a cluster; a reserved bit */
    for (uint64_t i = FREE_FROM; i < entries; i++) {
        if (i % rarity != 0 && i != entries - 1)
            continue;
        CHECK(pwrite(fd, bad, 8, (off_t)(at + i * size + (extended ? 8 : 0))) == 8);
        count++;
    }
    close(fd);
    return count;
}

/* No entry is passed over among zeros, wherever it is, and none is seen twice. */
static void entries_are_found_among_zeros(void)
{
    static const unsigned rarities[DENSITIES] = {1, 3, 7, 61, 8192};
    bool extended = test_repetition() % 2;
    const char *path = test_path("image");
    struct qcow2_check_result res;
    uint64_t count;

    test_requires("qemu-img");
    damage_make_base(extended ? EXTENDED : PLAIN, path);
    count = scatter(path, extended, rarities[test_repetition() / 2]);
    CHECK_OK(qcow2_check_path(path, 0, NULL, &res));
    CHECK_INT(res.corruptions, count);
    CHECK_INT(res.leaks + res.check_errors, 0);
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "damage", .run = damage_is_found, .repeat = damages_count},
        {.name = "scattered", .run = entries_are_found_among_zeros, .repeat = 2 * DENSITIES},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
