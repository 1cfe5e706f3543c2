/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/crash/scenarios.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "tests/crash/rig.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { MIX_IMAGES = 400, ALONE_IMAGES = 250, LARGE = 1 << 20, TINY = 512 };

static const uint32_t cluster_sizes[] = {512,   1024,  2048,   4096,    8192,   16384,
                                         32768, 65536, 131072, 1 << 20, 2 << 20};

/* Small volumes: some tens of clusters, fewer where they are large. */
static void random_spec(struct image_spec *s)
{
    struct rng *r = test_rng();

    image_default(s, "image", 1);
    image_random(r, s, IMAGE_NO_RAW | IMAGE_NO_PREALLOC);
    s->cluster_size = cluster_sizes[rng_below(r, rng_chance(r, 90) ? 6 : ARRAY_LEN(cluster_sizes))];
    if (s->extended_l2)
        s->cluster_size = (uint32_t)16384 << rng_below(r, 3);
    s->data_file_raw = false;
    s->size = rng_between(r, 20, 40) * s->cluster_size;
    if (s->size > LARGE)
        s->size = max_u64(LARGE, 4 * s->cluster_size);
}

static void finish(struct rig *rig, unsigned images)
{
    rig_judge(rig, rig->max_size > 2 * LARGE ? images / 8 : images);
    rig_finish(rig);
    free(rig);
}

static void close_or_cut(struct rig *rig)
{
    if (rng_chance(rig->rng, 50))
        rig_close(rig);
    else
        rig_cut(rig);
}

/* ---- mixes ------------------------------------------------------------------------------------------------ */

static void mix(unsigned queues)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    rig->fixed = rng_chance(test_rng(), 15);
    rig->rotated = rng_chance(test_rng(), 15);
    rig->max_size = align_up(s.size + s.size / 2, 512);
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, queues);
    rig_mix(rig, test_steps(80));
    close_or_cut(rig);
    finish(rig, MIX_IMAGES);
}

static void run_mix(void)
{
    mix(1);
}

static void run_mix_two_queues(void)
{
    mix(2);
}

/* And with calls that fail, whatever they are: what had not been flushed before may be there or not. */
static void run_mix_faults(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct fault_rule rule = {.kinds = FAULT_WRITES | FAULT_KIND(IO_FLUSH)};
    struct image_spec s;

    random_spec(&s);
    rig->fixed = rng_chance(test_rng(), 15);
    rig->rotated = rng_chance(test_rng(), 15);
    rig->faults = rig->may_fail = true;
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, rng_chance(rig->rng, 50) ? 2 : 1);
    for (unsigned i = 0; i < 8; i++) {
        struct backend *fault = rig->fault[s.data_file && rng_chance(rig->rng, 50) ? RIG_DATA : RIG_IMAGE];
        rule.nth = (unsigned)rng_between(rig->rng, 1, 20);
        rule.count = (unsigned)rng_between(rig->rng, 1, 3);
        rule.what = rng_chance(rig->rng, 50) ? FAULT_FAIL : FAULT_FAIL_AFTER;
        rule.error = rng_chance(rig->rng, 50) ? EIO : ENOSPC;
        CHECK_OK(fault_add_rule(fault, &rule));
        rig_mix(rig, test_steps(10));
    }
    close_or_cut(rig);
    finish(rig, MIX_IMAGES);
}

/* ---- one kind alone ---------------------------------------------------------------------------------------- */

/* Of what the scenarios write to: growing adds nothing to it, shrinking takes from it. */
static uint64_t reach(const struct rig *r)
{
    return min_u64(r->spec.size, vdisk_size(r->v));
}

static uint64_t at(const struct rig *r, uint64_t clusters)
{
    return align_down(clusters * r->spec.cluster_size % reach(r), r->spec.cluster_size);
}

/* A write that may begin and end inside clusters. */
static void write_some(struct rig *r, uint64_t cluster, uint32_t flags)
{
    uint64_t unit = r->spec.cluster_size, offset = at(r, cluster), len;

    if (rng_chance(r->rng, 60))
        offset += align_down(rng_below(r->rng, min_u64(unit, reach(r) - offset)),
                             rng_chance(r->rng, 50) ? 1 : 512);
    len = rng_chance(r->rng, 50) ? rng_between(r->rng, 1, unit) : unit * rng_between(r->rng, 1, 2);
    len = min_u64(len, reach(r) - offset);
    while (rig_is_busy(r, offset, len))
        rig_wait(r, r->inflight - 1);
    rig_write(r, offset, len, flags);
}

static void write_many(struct rig *r, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        write_some(r, first + i, 0);
        if (rng_chance(r->rng, 20))
            rig_flush(r);
    }
}

static void fill(struct rig *r)
{
    write_many(r, 0, 8);
    rig_settle(r);
}

static void in_place(struct rig *r)
{
    for (unsigned i = 0; i < 12; i++)
        write_some(r, rng_below(r->rng, 6), rng_chance(r->rng, 25) ? VDISK_REQ_FUA : 0);
    rig_settle(r);
    write_many(r, 0, 4);
}

static void first_touch(struct rig *r)
{
    write_many(r, 8, 8);
    rig_settle(r);
    write_many(r, 14, 4);
}

static void zero(struct rig *r)
{
    for (unsigned i = 0; i < 8; i++) {
        rig_wait(r, 0);
        rig_zero(r, at(r, i), min_u64(2 * r->spec.cluster_size, reach(r) - at(r, i)),
                 rng_chance(r->rng, 50) ? VDISK_REQ_UNMAP : 0);
        if (rng_chance(r->rng, 40))
            write_some(r, i + 3, 0);
        if (rng_chance(r->rng, 40))
            rig_flush(r);
    }
    rig_settle(r);
    write_many(r, 0, 6);
}

static void discard_some(struct rig *r, uint64_t first)
{
    rig_wait(r, 0);
    rig_discard(r, at(r, first), min_u64(3 * r->spec.cluster_size, reach(r) - at(r, first)));
}

static void discard(struct rig *r)
{
    for (unsigned i = 0; i < 6; i++) {
        discard_some(r, 2 * i);
        if (rng_chance(r->rng, 50))
            rig_flush(r);
    }
    rig_settle(r);
}

/* What is freed is taken again, more than once. */
static void reuse(struct rig *r)
{
    for (unsigned round = 0; round < 4; round++) {
        discard_some(r, 0);
        discard_some(r, 3);
        rig_flush(r);
        write_some(r, 10 + round, 0);
        rig_flush(r);
        rig_settle(r);
        write_many(r, 4 * round, 6);
        if (rng_chance(r->rng, 50))
            rig_settle(r);
    }
}

static void grow(struct rig *r)
{
    for (unsigned i = 1; i <= 3; i++) {
        rig_grow(r, align_up(r->spec.size + (r->max_size - r->spec.size) * i / 3, 512));
        rig_write(r, r->spec.size + (r->max_size - r->spec.size) * i / 3 / 512 * 512 - 512, 512, 0);
        write_some(r, i, 0);
        if (i == 2)
            rig_settle(r);
    }
}

/* A new end inside a cluster or not; then the old one again, over what had been there. */
static void shrink(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++) {
        uint64_t size = vdisk_size(r->v), unit = rng_chance(r->rng, 50) ? 512 : r->spec.cluster_size;

        write_many(r, rng_below(r->rng, 100), 3);
        if (rng_chance(r->rng, 50))
            discard_some(r, rng_below(r->rng, 12));
        if (size > 512)
            rig_shrink(r, min_u64(align_up(rng_between(r->rng, 1, size - 1), unit), size - 512));
        write_many(r, rng_below(r->rng, 100), 2);
        if (rng_chance(r->rng, 30))
            rig_settle(r);
        if (rng_chance(r->rng, 70))
            rig_grow(r, rng_chance(r->rng, 70) ? size : r->max_size);
    }
    write_many(r, 0, 3);
}

/* In the middle of what the queues write and flush. */
static void trim(struct rig *r)
{
    for (unsigned i = 0; i < 6; i++) {
        discard_some(r, rng_below(r->rng, 12));
        if (rng_chance(r->rng, 50))
            rig_flush(r);
        write_many(r, 3 * i, 3);
        rig_wait(r, (unsigned)rng_below(r->rng, 3));
        rig_trim(r);
        write_some(r, 3 * i + 1, 0);
    }
    rig_settle(r);
    write_many(r, 0, 4);
}

static void leases(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++) {
        write_many(r, 8 + 2 * i, 3);
        rig_close(r);
        rig_open(r, 2);
    }
    write_some(r, 3, 0);
}

/* The file's end moves while flushes are under way, again and again. */
static void extend(struct rig *r)
{
    unsigned queues = r->queues;

    for (unsigned i = 0; i < 8; i++) {
        write_some(r, 8 + i, 0);
        for (unsigned k = 0; k < 5; k++) {
            rig_flush(r);
            rig_wait(r, 1); /* the write, with its lease, or another flush goes on */
        }
        write_some(r, 9 + i, 0);
        rig_flush(r);
        rig_close(r);
        rig_open(r, queues);
    }
}

/* Clusters that cannot be written in place lose their old host space, with several flushes under way. */
static void replace(struct rig *r)
{
    for (unsigned i = 0; i < 10; i++) {
        write_some(r, 2 * i, 0);
        rig_wait(r, r->inflight > 2 ? 2 : 0);
        rig_flush(r);
        rig_flush(r);
        write_some(r, 2 * i + 1, 0);
        rig_flush(r);
    }
    rig_settle(r);
}

static void flushes(struct rig *r)
{
    for (unsigned i = 0; i < 20; i++) {
        write_some(r, rng_below(r->rng, 16), 0);
        rig_flush(r);
        if (i % 4 == 3)
            discard_some(r, rng_below(r->rng, 12));
    }
}

/* `act` on an image by `s`, filled before. */
static void alone_on(struct rig *rig, const struct image_spec *s, void (*act)(struct rig *))
{
    rig->max_size = max_u64(rig->max_size, align_up(2 * s->size + (s->cluster_size <= 1024 ? 64 << 10 : 0), 512));
    rig_init(rig, s);
    rig_start_log(rig);
    rig_open(rig, rng_chance(rig->rng, 50) ? 2 : 1);
    fill(rig);
    act(rig);
    close_or_cut(rig);
    finish(rig, ALONE_IMAGES);
}

static void alone(void (*act)(struct rig *))
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    rig->fixed = rng_chance(test_rng(), 20);
    alone_on(rig, &s, act);
}

static void run_in_place(void)
{
    alone(in_place);
}

static void run_first_touch(void)
{
    alone(first_touch);
}

static void run_zero(void)
{
    alone(zero);
}

static void run_discard(void)
{
    alone(discard);
}

/* Where space is short, so that leases are too, and what is freed is soon taken again. */
static void run_reuse(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    rig->fixed = rig->tight = rng_chance(test_rng(), 75);
    alone_on(rig, &s, reuse);
}

/* With small clusters the L1 table has to grow too. */
static void run_grow(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    if (!s.extended_l2 && rng_chance(test_rng(), 60)) {
        s.size = s.size / s.cluster_size * TINY;
        s.cluster_size = TINY;
    }
    alone_on(rig, &s, grow);
}

/*
 * By more than what one refcount block describes, all of it preallocated: clusters come in pieces behind the end
 * of the file. From where an L2 table begins, or not.
 */
static void run_append(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    do
        random_spec(&s);
    while (s.extended_l2 || s.version < 3 || s.data_file || s.backing[0]);
    s.cluster_size = TINY;
    s.refcount_bits = (uint32_t)16 << rng_below(test_rng(), 3);
    s.size = rng_chance(test_rng(), 50) ? 64 * TINY : rng_between(test_rng(), 20, 200) * TINY;
    rig->max_size = s.size + (384 << 10);
    rig->preallocates = true;
    alone_on(rig, &s, grow);
}

/* With small clusters several L2 tables go. */
static void run_shrink(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    s.data_file |= s.version == 3 && rng_chance(test_rng(), 30); /* which is cut by itself */
    rig->fixed = rng_chance(test_rng(), 20);
    if (!s.extended_l2 && rng_chance(test_rng(), 50)) {
        s.cluster_size = TINY;
        s.size = rng_between(test_rng(), 100, 250) * TINY;
    }
    alone_on(rig, &s, shrink);
}

static void run_trim(void)
{
    alone(trim);
}

static void run_leases(void)
{
    alone(leases);
}

static void run_extend(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    do
        random_spec(&s);
    while (s.data_file);
    alone_on(rig, &s, extend);
}

static void run_flushes(void)
{
    alone(flushes);
}

static void (*random_act(void))(struct rig *)
{
    static void (*const acts[])(struct rig *) = {in_place, first_touch, zero,   discard, reuse,
                                                grow,     flushes,     shrink, trim};

    return acts[rng_below(test_rng(), ARRAY_LEN(acts))];
}

static void run_data_file(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    do
        random_spec(&s);
    while (s.version < 3);
    s.data_file = true;
    s.data_file_raw = false;
    alone_on(rig, &s, random_act());
}

static void run_subclusters(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    do
        random_spec(&s);
    while (s.version < 3);
    s.extended_l2 = true;
    s.cluster_size = (uint32_t)16384 << rng_below(test_rng(), 2);
    s.size = 24 * s.cluster_size;
    alone_on(rig, &s, random_act());
}

static void run_lazy_refcounts(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    do
        random_spec(&s);
    while (s.version < 3);
    s.lazy_refcounts = true;
    alone_on(rig, &s, random_act());
}

/* Upwards, a little in each L2 table: some are made before they are needed, over old content mostly. */
static void run_tables_ahead(void)
{
    const uint64_t span = TINY / 8 * TINY;
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    image_default(&s, "image", rng_between(test_rng(), 8, 16) * span);
    s.cluster_size = TINY;
    rig->fixed = rng_chance(test_rng(), 75);
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, rng_chance(rig->rng, 50) ? 2 : 1);
    for (uint64_t i = 0; i < s.size; i += span) {
        rig_write(rig, i + rng_below(rig->rng, span / TINY) * TINY, TINY, 0);
        if (rng_chance(rig->rng, 40))
            rig_flush(rig);
        rig_wait(rig, (unsigned)rng_below(rig->rng, 3));
    }
    close_or_cut(rig);
    finish(rig, ALONE_IMAGES);
}

/* ---- what once went wrong ---------------------------------------------------------------------------------- */

/*
 * A new L2 table in a cluster with old content: its zeros are written while one flush makes the cluster's refcount
 * durable; the next has nothing to write but the mapping. (That one did not wait for the zeros to be durable.)
 */
static void run_table_over_old(void)
{
    struct fault_rule late = {.state = "ZERO_WRITTEN", .what = FAULT_LATE}; /* of the table */
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    image_default(&s, "image", 256 * TINY); /* a table for each 64 clusters */
    s.cluster_size = TINY;
    snprintf(s.backing, sizeof s.backing, "sim:base"); /* so that zeros need a table */
    s.backing_format = "raw";
    rig->fixed = rig->faults = true;
    rig->initial = test_alloc(s.size);
    rng_fill(test_rng(), rig->initial, s.size);
    rig->base_size = s.size;
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, 1);
    rig_write(rig, 0, TINY, 0);
    rig_settle(rig);
    CHECK_OK(fault_add_rule(rig->fault[RIG_IMAGE], &late));
    rig_zero(rig, 100 * TINY, TINY, 0);
    for (bool held = false; !held && rig->inflight == 1;) {
        held = fault_held(rig->fault[RIG_IMAGE]) > 0;
        rig_flush(rig);
        rig_wait(rig, 1);
    }
    CHECK_INT(fault_held(rig->fault[RIG_IMAGE]), 1);
    fault_clear(rig->fault[RIG_IMAGE]);
    rig_wait(rig, 0);
    rig_settle(rig);
    rig_cut(rig);
    finish(rig, ALONE_IMAGES);
}

/* ---- repair of what a crash has left ----------------------------------------------------------------------- */

/* And the power goes again. What is not durable of a repair is as it was: leaks, and nothing worse. */
static void run_repair(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    rig->fixed = rng_chance(test_rng(), 20);
    rig->max_size = 2 * s.size + (64 << 10);
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, 2);
    fill(rig);
    random_act()(rig);
    close_or_cut(rig);
    rig_crash(rig);
    if (s.lazy_refcounts && rng_chance(rig->rng, 50)) { /* all of them are counted anew when it is opened */
        rig_open(rig, 1);
        rig_close(rig);
    } else {
        rig_repair(rig, rng_chance(rig->rng, 50) ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS);
    }
    finish(rig, ALONE_IMAGES);
}

/* ---- on what is there already ------------------------------------------------------------------------------- */

static void run_backing(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;
    uint64_t len;

    random_spec(&s);
    snprintf(s.backing, sizeof s.backing, "sim:base");
    s.backing_format = "raw";
    rig->max_size = 2 * s.size + (64 << 10);
    len = align_down(rng_chance(test_rng(), 50) ? s.size : s.size / 2 + 700, 512);
    rig->initial = test_alloc(rig->max_size);
    rng_fill(test_rng(), rig->initial, len);
    rig->base_size = len;
    alone_on(rig, &s, random_act());
}

/* A write behind the end of the base, in the cluster that the base ends in: its edge is the base's. */
static void run_end_of_base(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;
    uint64_t end;

    do
        random_spec(&s);
    while (s.size < 4 * (uint64_t)s.cluster_size || s.data_file);
    snprintf(s.backing, sizeof s.backing, "sim:base");
    s.backing_format = "raw";
    rig->max_size = s.size;
    rig->initial = test_alloc(rig->max_size);
    end = 2 * (uint64_t)s.cluster_size - 512 * rng_between(test_rng(), 1, max_u64(s.cluster_size / 1024, 1));
    rng_fill(test_rng(), rig->initial, end);
    rig->base_size = end;
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, 1);
    rig_write(rig, 0, 512, 0);
    rig_settle(rig); /* the L2 table is there, and the file has room: the next flush has nothing else to sync */
    rig_write(rig, end, 512, 0);
    rig_settle(rig);
    close_or_cut(rig);
    finish(rig, ALONE_IMAGES);
}

/* New clusters, over others, over part of them; some are freed, and what comes goes behind the rest. */
static void compressing(struct rig *r)
{
    for (unsigned i = 0; i < 10; i++) {
        rig_write_compressed(r, at(r, rng_below(r->rng, 12)), r->spec.cluster_size * rng_between(r->rng, 1, 4), 0);
        if (rng_chance(r->rng, 25))
            discard_some(r, rng_below(r->rng, 12));
        write_some(r, rng_below(r->rng, 12), 0);
        if (rng_chance(r->rng, 35))
            rig_flush(r);
    }
}

static void run_compressing(void)
{
    alone(compressing);
}

/* Content that QEMU made: every other cluster compressed; with a snapshot or without. */
static void made_by_qemu(bool snapshot)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;
    char path[PATH_MAX];

    test_requires("qemu-io");
    do
        random_spec(&s);
    while (s.data_file || s.refcount_bits < 8 || s.cluster_size > 32768 || s.version < 3);
    snprintf(path, sizeof path, "%s", test_path("made"));
    snprintf(s.path, sizeof s.path, "%s", path);
    s.by_qemu = true;
    image_create(&s);
    rig->max_size = 2 * s.size + (64 << 10);
    rig->initial = test_alloc(rig->max_size);
    for (uint64_t i = 0; i < 10; i++) {
        uint64_t unit = s.cluster_size, offset = 2 * i * unit;
        image_pattern_bytes((unsigned)i % 4, rig->initial + offset, unit);
        run_ok("qemu-io -f qcow2 -c 'write %s -s %s %llu %llu' %s", snapshot ? "" : "-c",
               image_pattern_file((unsigned)i % 4), (unsigned long long)offset, (unsigned long long)unit, path);
    }
    if (snapshot)
        run_ok("qemu-img snapshot -c before %s", path);
    rig->made = path;
    alone_on(rig, &s, rng_chance(test_rng(), 50) ? replace : random_act());
}

static void run_compressed(void)
{
    made_by_qemu(false);
}

static void run_snapshot(void)
{
    made_by_qemu(true);
}

/* Up to the edge of what the first refcount table covers, and over it. */
static void run_refcount_table(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;
    uint64_t covered = TINY / 8 * (TINY * 8 / 64) * TINY, offset = 0;

    image_default(&s, "image", 3 << 20);
    s.cluster_size = TINY;
    s.refcount_bits = 64;
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, 1);
    while (memdisk_size(&rig->disk[RIG_IMAGE]) < covered - (96 << 10)) {
        rig_write(rig, offset, 64 << 10, 0);
        offset += 64 << 10;
        rig_close(rig);
        rig_open(rig, 1);
    }
    rig_restart_log(rig);
    for (unsigned i = 0; i < 16; i++) {
        rig_write(rig, offset, 8 << 10, 0);
        offset += 8 << 10;
        if (i % 3 == 0)
            rig_flush(rig);
    }
    rig_settle(rig);
    close_or_cut(rig);
    finish(rig, 8 * ALONE_IMAGES);
}

/* ---- left unsynced ------------------------------------------------------------------------------------------ */

/*
 * The last sync of who wrote the mappings failed. Who opens the image next cannot tell, looks at them, and writes
 * durably to what is mapped.
 */
static void run_left_unsynced(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_FLUSH), .state = "FLUSH_MAPPING_SYNCED", .what = FAULT_FAIL,
                              .error = EIO};
    struct image_spec s;
    char byte;

    random_spec(&s);
    rig->fixed = rng_chance(test_rng(), 15);
    rig->faults = rig->may_fail = true;
    rig_init(rig, &s);
    rig_start_log(rig);
    rig_open(rig, 1);
    CHECK(fault_add_rule(rig->fault[RIG_IMAGE], &rule) >= 0);
    write_many(rig, 0, 8);
    rig_close(rig);
    rig_open(rig, 1);
    rig->may_fail = false;
    for (unsigned i = 0; i < 8; i++)
        CHECK_OK(vdisk_pread(rig->v, &byte, 1, at(rig, i)));
    for (unsigned i = 0; i < 6; i++)
        write_some(rig, rng_below(rig->rng, 8), rng_chance(rig->rng, 80) ? VDISK_REQ_FUA : 0);
    rig_wait(rig, 0);
    rig_cut(rig);
    finish(rig, ALONE_IMAGES);
}

/* ---- creation ----------------------------------------------------------------------------------------------- */

static void run_create(void)
{
    struct rig *rig = test_alloc(sizeof *rig);
    struct image_spec s;

    random_spec(&s);
    s.preallocation = (enum vdisk_prealloc)rng_below(test_rng(), VDISK_PREALLOC_FULL + 1);
    rig->fixed = rng_chance(test_rng(), 40);
    rig->creates = true;
    rig_init_empty(rig, &s);
    rig_start_log(rig);
    CHECK_OK(rig_create(rig));
    CHECK_OK(crash_mark(rig->log, MARK_CREATED, 0));
    rig_open(rig, 1);
    write_many(rig, 0, 4);
    close_or_cut(rig);
    finish(rig, ALONE_IMAGES);
}

const struct crash_scenario crash_scenarios[] = {
    {"extend", run_extend, 6, 2, 150},
    {"in-place", run_in_place, 6, 2, 150},
    {"first-touch", run_first_touch, 6, 2, 150},
    {"zero", run_zero, 6, 2, 150},
    {"discard", run_discard, 6, 2, 150},
    {"reuse", run_reuse, 6, 2, 150},
    {"grow", run_grow, 6, 2, 150},
    {"append", run_append, 6, 2, 150},
    {"shrink", run_shrink, 6, 2, 150},
    {"amend", run_amend, 8, 2, 200},
    {"trim", run_trim, 6, 2, 150},
    {"leases", run_leases, 6, 2, 150},
    {"flushes", run_flushes, 6, 2, 150},
    {"data-file", run_data_file, 6, 2, 150},
    {"subclusters", run_subclusters, 6, 2, 150},
    {"lazy-refcounts", run_lazy_refcounts, 6, 2, 150},
    {"tables-ahead", run_tables_ahead, 6, 2, 150},
    {"table-over-old", run_table_over_old, 1, 1, 4},
    {"backing", run_backing, 6, 2, 150},
    {"end-of-base", run_end_of_base, 20, 6, 300},
    {"repair", run_repair, 20, 4, 1000},
    {"repair-damage", run_repair_damage, 4, 1, 100},
    {"repair-refcounts", run_repair_refcounts, 6, 2, 300},
    {"compressed", run_compressed, 6, 2, 100},
    {"compressing", run_compressing, 10, 3, 300},
    {"snapshot", run_snapshot, 6, 2, 100}, {"thin", run_thin, 20, 5, 800},
    {"refcount-table", run_refcount_table, 2, 1, 20},
    {"left-unsynced", run_left_unsynced, 6, 2, 150},
    {"create", run_create, 10, 3, 200}, {"mix", run_mix, 30, 6, 1500},
    {"mix-two-queues", run_mix_two_queues, 30, 6, 1500},
    {"mix-faults", run_mix_faults, 20, 4, 800},
};
const unsigned crash_scenarios_count = ARRAY_LEN(crash_scenarios);
