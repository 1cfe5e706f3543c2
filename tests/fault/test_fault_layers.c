/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes of more than one file (a backing file, an external data file), and several requests at a time that wait
 * for each other, with each call failing once.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/loop/queue.h"
#include "engine/vdisk-image.h"
#include "tests/fault/fault_lib.h"
#include "tests/fault/oom.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define MIB(n)         ((uint64_t)(n) << 20)
#define QCOW2(cluster) .qcow2 = true, .cluster_size = (cluster), .version = 3, .refcount_bits = 16
#define TIGHT          .qcow2 = true, .cluster_size = 512, .version = 3, .refcount_bits = 64
#define OVER_BASE      .backing = "sim:base", .backing_format = "raw"
#define OVER_TWO       .backing = "sim:base", .backing_format = "qcow2"

static uint64_t at(const struct subject *s, uint64_t clusters)
{
    return clusters * s->spec.cluster_size;
}

/* ---- several at a time -------------------------------------------------------------------------------- */

enum { CROWD_MAX = 32, CROWD_QUEUES = 2, CROWD_BESIDE = 1, CROWD_HOLD = 100 };

struct member {
    char what; /* 'r'ead, 'w'rite, 'z'ero, 'd'iscard, 'f'lush, 'e'xtents; 'W'rite into zeros of the same crowd */
    unsigned queue;
    uint64_t offset, len;
    uint8_t *buf;
    struct vdisk_extents extents;
    struct vdisk_extent list[8];
};

struct crowd {
    struct subject *s;
    vdisk_queue *queues[CROWD_QUEUES];
    struct member members[CROWD_MAX];
    unsigned count, started;
    int rc; /* the first error */
    struct task feeder; /* starts one after the other */
    bool fed;           /* no more of that */
    unsigned held_turns;
};

/* 0, or -ENOMEM: no queue. */
static int crowd_begin(struct crowd *c, struct subject *s)
{
    memset(c, 0, sizeof *c);
    c->s = s;
    for (unsigned i = 0; i < CROWD_QUEUES; i++) {
        oom_enter();
        int rc = vdisk_queue_create(NULL, &c->queues[i]);
        oom_leave();
        if (rc < 0) {
            vdisk_queue_destroy(i > 0 ? c->queues[0] : NULL);
            return rc;
        }
    }
    return 0;
}

/* Members do not overlap, but for reads of what nobody changes, zeros with discards or 'W', and 'C' with 'C'. */
static void crowd_add(struct crowd *c, unsigned queue, char what, uint64_t offset, uint64_t len)
{
    struct member *m = &c->members[c->count];

    CHECK(c->count < CROWD_MAX);
    *m = (struct member){.what = what, .queue = queue, .offset = offset, .len = len, .buf = test_alloc(len)};
    m->extents = (struct vdisk_extents){.list = m->list, .max = ARRAY_LEN(m->list)};
    image_pattern_bytes(60 + c->count, m->buf, len);
    if (what == 'c') /* most of it gets shorter */
        memset(m->buf + len / 8, (int)c->count, len / 2);
    c->count++;
}

/* The next one. What runs out of memory is the library's business, and the caller's to say so. */
static void crowd_start(struct crowd *c)
{
    unsigned i = c->started++;
    struct member *m = &c->members[i];
    vdisk_queue *q = c->queues[m->queue];

    switch (m->what) {
    case 'r': vdisk_read(q, c->s->v, m->offset, m->buf, m->len, 0, i); break;
    case 'W':
    case 'w': vdisk_write(q, c->s->v, m->offset, m->buf, m->len, 0, i); break;
    case 'C':
    case 'c': vdisk_write(q, c->s->v, m->offset, m->buf, m->len, VDISK_REQ_COMPRESSED, i); break;
    case 'z': vdisk_write_zeroes(q, c->s->v, m->offset, m->len, 0, i); break;
    case 'd': vdisk_discard(q, c->s->v, m->offset, m->len, 0, i); break;
    case 'f': vdisk_flush(q, c->s->v, 0, i); break;
    default: vdisk_get_extents(q, c->s->v, m->offset, m->len, &m->extents, i); break;
    }
}

/*
 * In the loop of queue 0, while others wait: a few requests of queue 1 are always on; what is held goes on later.
 */
static void feed(struct task *t)
{
    struct crowd *c = container_of(t, struct crowd, feeder);
    const vdisk_queue *before = queue_current;
    unsigned on = vdisk_queue_inflight(c->queues[1]) - c->queues[1]->done_count;

    if (c->fed)
        return;
    if (on < CROWD_BESIDE && c->started < c->count)
        crowd_start(c);
    if (fault_held(c->s->fault) > 0 && ++c->held_turns % CROWD_HOLD == 0)
        fault_release(c->s->fault);
    queue_current = before;
    queue_ready(c->queues[0], t);
}

static void member_done(struct crowd *c, struct member *m, int result)
{
    struct model *now = &c->s->now;

    if (result < 0 && c->rc == 0)
        c->rc = result;
    switch (m->what) {
    case 'r':
        if (result == 0)
            model_expect(now, m->offset, m->buf, m->len, "read");
        break;
    case 'c':
    case 'w':
    case 'z':
        if (result < 0)
            model_maybe_write(now, m->offset, m->what != 'z' ? m->buf : NULL, m->len);
        else if (m->what != 'z')
            model_write(now, m->offset, m->buf, m->len);
        else
            model_zero(now, m->offset, m->len);
        break;
    case 'd':
        model_discard(now, m->offset, m->len);
        break;
    default:
        break;
    }
}

/* Wait for all; the first error. */
static int crowd_end(struct crowd *c)
{
    struct vdisk_completion done[CROWD_MAX];

    while (c->started < c->count) {
        oom_enter();
        crowd_start(c);
        oom_leave();
    }
    for (unsigned left = c->count; left > 0;) {
        vdisk_queue *q = vdisk_queue_inflight(c->queues[0]) ? c->queues[0] : c->queues[1];
        oom_enter();
        int n = vdisk_reap(q, done, 1, CROWD_MAX, NULL);
        oom_leave();
        CHECK(n > 0);
        for (int i = 0; i < n; i++)
            member_done(c, &c->members[done[i].user_data], done[i].result);
        left -= (unsigned)n;
    }
    for (unsigned i = 0; i < c->count; i++) {
        struct member *m = &c->members[i];
        if (m->what == 'W' || m->what == 'C') /* it came before the zeros, or after them */
            model_maybe_write(&c->s->now, m->offset, m->buf, m->len);
        free(m->buf);
    }
    for (unsigned i = 0; i < CROWD_QUEUES; i++)
        vdisk_queue_destroy(c->queues[i]);
    return c->rc;
}

/* What one member asks for: 'w' by the queue 0 of 300 bytes at cluster 10, say. */
struct ask {
    char what;
    unsigned queue;
    uint64_t clusters, bytes, len; /* offset: both together; len 0: a cluster */
};

/* `beside`, if any, runs on the volume's own queue, while requests come one after the other. */
static int crowd_run_beside(struct subject *s, const struct ask *asks, unsigned n, uint64_t base,
                            int (*beside)(struct subject *))
{
    struct crowd c;
    int rc = crowd_begin(&c, s), beside_rc = 0;

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < n; i++)
        crowd_add(&c, asks[i].queue, asks[i].what, base + at(s, asks[i].clusters) + asks[i].bytes,
                  asks[i].len ? asks[i].len : at(s, 1));
    if (beside) {
        c.feeder.run = feed;
        queue_ready(c.queues[0], &c.feeder);
        oom_enter();
        for (unsigned i = 0; i < 2 * (1 + s->rule.nth % 8); i++) /* somewhere in the middle of the first */
            queue_turn(c.queues[i % 2]);
        oom_leave();
        beside_rc = beside(s);
        c.fed = true;
        queue_turn(c.queues[0]);
    }
    rc = crowd_end(&c);
    return beside_rc < 0 ? beside_rc : rc;
}

static int crowd_run(struct subject *s, const struct ask *asks, unsigned n, uint64_t base)
{
    return crowd_run_beside(s, asks, n, base, NULL);
}

/* ---- what may fail ------------------------------------------------------------------------------------ */

static int act_read(struct subject *s)
{
    return subject_read(s, at(s, 1) + 100, s->now.size - at(s, 2));
}

static int act_first_touch(struct subject *s)
{
    return subject_write(s, 43, s->now.size / 2 + at(s, 1) + 300, at(s, 2), 0);
}

static int act_write(struct subject *s)
{
    int rc = subject_write(s, 40, at(s, 1) + 700, 1000, 0);

    return rc < 0 ? rc : act_first_touch(s);
}

static int act_zero(struct subject *s)
{
    int rc = subject_zero(s, 700, at(s, 2) + 11, 0);

    return rc < 0 ? rc : subject_zero(s, s->now.size / 2 + 100, at(s, 3), VDISK_REQ_UNMAP);
}

static int act_discard(struct subject *s)
{
    return subject_discard(s, 0, at(s, 6));
}

static int act_grow(struct subject *s)
{
    return subject_grow(s, s->now.size * 2);
}

static int act_grow_much(struct subject *s)
{
    return subject_grow(s, s->now.size * 16);
}

static int amend(struct subject *s, const struct vdisk_amend_opts *opts)
{
    vdisk_job *j = NULL;
    int rc;

    oom_enter();
    rc = vdisk_job_amend(s->v, opts, &j);
    if (rc == 0)
        rc = vdisk_job_run(j);
    vdisk_job_free(j);
    oom_leave();
    return rc;
}

static int act_amend_down(struct subject *s)
{
    const struct vdisk_amend_opts opts = {.size = sizeof opts, .version = 2, .flags = VDISK_AMEND_LAZY_OFF};

    return amend(s, &opts);
}

static int act_amend_up(struct subject *s)
{
    const struct vdisk_amend_opts opts = {.size = sizeof opts, .version = 3, .refcount_bits = 64,
                                          .flags = VDISK_AMEND_LAZY_ON};

    return amend(s, &opts);
}

/* Zeros with a cluster and without one, as one knows them only from version 3 on. */
static void prepare_zeros(struct subject *s)
{
    CHECK_OK(subject_write(s, 47, 0, at(s, 8), 0));
    CHECK_OK(subject_zero(s, at(s, 1), at(s, 2), 0));
    CHECK_OK(subject_zero(s, at(s, 5), at(s, 2), VDISK_REQ_UNMAP));
    CHECK_OK(subject_flush(s));
}

static int act_open(struct subject *s)
{
    return subject_open(s, VDISK_OPEN_RDWR, true);
}

/* Writes to one cluster that nobody has touched, and others beside it; one is zeroed and discarded at once. */
static int act_writers(struct subject *s)
{
    static const struct ask asks[] = {{'w', 0, 1, 0, 300},    {'w', 1, 1, 1000, 300}, {'w', 0, 1, 2000, 512},
                                      {'z', 1, 2, 0, 0},      {'w', 0, 5, 0, 0},      {'d', 0, 4, 0, 0},
                                      {'w', 1, 3, 100, 5000}, {'d', 1, 2, 0, 0},      {'z', 0, 2, 0, 0},
                                      {'f', 0, 0, 0, 1},      {'f', 1, 0, 0, 1}};

    return crowd_run(s, asks, ARRAY_LEN(asks), s->now.size / 2);
}

/* To one block: read, changed and written; and around it. */
static int act_one_block(struct subject *s)
{
    static const struct ask asks[] = {{'w', 0, 0, 100, 50}, {'w', 1, 0, 200, 50},  {'w', 0, 0, 300, 50},
                                      {'w', 1, 1, 10, 900}, {'d', 0, 2, 0, 0},     {'r', 1, 5, 0, 0},
                                      {'e', 0, 0, 0, 4096}, {'w', 0, 0, 1000, 700}};

    return crowd_run(s, asks, ARRAY_LEN(asks), 0);
}

/* Each needs an L2 table, or a refcount block, of its own. */
static int act_tables(struct subject *s)
{
    static const struct ask asks[] = {{'w', 0, 1, 0, 0},
                                      {'w', 1, 70, 0, 0},
                                      {'z', 0, 140, 0, 0},
                                      {'w', 1, 210, 0, 0},
                                      {'w', 0, 280, 0, 0}};

    return crowd_run(s, asks, ARRAY_LEN(asks), s->now.size / 2);
}

/* Two of one compressed cluster, and a write over part of another. */
static int act_compressed(struct subject *s)
{
    static const struct ask asks[] = {
        {'r', 0, 1, 10, 1000}, {'r', 1, 1, 5000, 1000}, {'r', 0, 2, 100, 0}, {'w', 1, 5, 700, 900}};
    static const struct ask whole[] = {{'r', 0, 1, 0, 256 << 10}}; /* some go together */
    int rc = crowd_run(s, asks, ARRAY_LEN(asks), s->now.size / 2);

    return rc < 0 ? rc : crowd_run(s, whole, ARRAY_LEN(whole), s->now.size / 2);
}

/* Several share a cluster, one comes over others, one is large; in place of what was compressed, or was not. */
static int act_compress(struct subject *s)
{
    static const struct ask asks[] = {{'c', 0, 1, 0, 0}, {'c', 0, 2, 0, 32 << 10}, {'w', 1, 90, 100, 300},
                                      {'c', 1, 70, 0, 0}, {'c', 0, 71, 0, 8 << 10}, {'c', 0, 100, 0, 0},
                                      {'C', 0, 121, 0, 0}, {'C', 0, 121, 0, 0}};

    return crowd_run(s, asks, ARRAY_LEN(asks), s->now.size / 2);
}

/* Clusters in turn, so that what they had waits to be freed while there is little room. */
static int act_compress_over(struct subject *s)
{
    int rc = 0;

    for (unsigned i = 0; i < 6 && rc == 0; i++) {
        static const struct ask asks[] = {{'c', 0, 0, 0, 16 << 10}, {'c', 1, 64, 0, 16 << 10}};
        rc = crowd_run(s, asks, ARRAY_LEN(asks), 0);
    }
    return rc;
}

static int grow_by_one(struct subject *s)
{
    return subject_resize(s, s->now.size + at(s, 1), VDISK_PREALLOC_OFF);
}

/* The last cluster is a part of one; the volume grows while the table of it is read. */
static int act_compress_end(struct subject *s)
{
    static const struct ask ends[] = {{'c', 1, 8, 0, 1024}};
    struct fault_rule full = {.type = "alloc_write", .kinds = FAULT_KIND(IO_WRITE), .nth = 1, .count = 2,
                              .what = FAULT_FAIL, .error = ENOSPC};
    struct fault_rule late = {.type = "slice_load", .nth = 1, .what = FAULT_LATE, .calls = 100};

    CHECK_OK(fault_add_rule(s->fault, &late));
    if (s->rule.error == ENOSPC)
        CHECK_OK(fault_add_rule(s->fault, &full) < 0 ? -ENOMEM : 0);
    return crowd_run_beside(s, ends, ARRAY_LEN(ends), s->now.size - 1024 - at(s, 8), grow_by_one);
}

static int act_zero_untouched(struct subject *s)
{
    return subject_zero(s, s->now.size / 2 + at(s, 4), at(s, 2), 0);
}

/* Zeros, and where the holes are, while a block is read, changed and written. */
static int act_raw_block(struct subject *s)
{
    static const struct ask asks[] = {{'W', 0, 0, 100, 50}, {'z', 1, 0, 0, 4096}, {'W', 1, 0, 9000, 50},
                                      {'d', 0, 0, 8192, 4096},
                                      {'e', 0, 0, 65536, 65536}, {'e', 1, 0, 131072, 4096}};

    return crowd_run(s, asks, ARRAY_LEN(asks), 0);
}

/* More clusters than one refcount block describes, each. */
static int act_blocks(struct subject *s)
{
    static const struct ask asks[] = {{'w', 0, 0, 0, 32 << 10},   {'w', 1, 64, 0, 32 << 10},
                                      {'w', 0, 128, 0, 32 << 10}, {'w', 1, 192, 0, 32 << 10},
                                      {'w', 0, 256, 0, 32 << 10}, {'w', 1, 320, 0, 32 << 10}};

    return crowd_run(s, asks, ARRAY_LEN(asks), s->now.size / 2);
}

/* Where there is an L2 table (prepare_tables()) and where there is none. */
static const struct ask beside[] = {
    {'w', 1, 10, 0, 20 << 10},  {'w', 1, 512, 0, 0},        {'w', 1, 74, 0, 20 << 10},  {'w', 1, 576, 0, 0},
    {'w', 1, 138, 0, 20 << 10}, {'w', 1, 640, 0, 0},        {'w', 1, 202, 0, 20 << 10}, {'w', 1, 704, 0, 0},
    {'w', 1, 266, 0, 20 << 10}, {'w', 1, 768, 0, 0},        {'w', 1, 330, 0, 20 << 10}, {'w', 1, 832, 0, 0},
    {'w', 1, 394, 0, 20 << 10}, {'w', 1, 896, 0, 20 << 10}, {'w', 1, 458, 0, 20 << 10}, {'w', 1, 960, 0, 20 << 10},
};

static void prepare_tables(struct subject *s)
{
    for (unsigned i = 0; i < 8; i++)
        CHECK_OK(subject_write(s, 45, s->now.size / 2 + at(s, 64 * i), at(s, 1), 0));
}

/* Free clusters between others, and at the end. */
static void prepare_gaps(struct subject *s)
{
    prepare_tables(s);
    CHECK_OK(subject_write(s, 46, at(s, 256), at(s, 600), 0));
    CHECK_OK(subject_discard(s, at(s, 256), at(s, 256)));
    CHECK_OK(subject_discard(s, at(s, 600), at(s, 256)));
    CHECK_OK(subject_flush(s));
    CHECK_OK(subject_flush(s));
}

static int trim(struct subject *s)
{
    int rc;

    oom_enter();
    rc = vdisk_trim_space(s->v);
    oom_leave();
    return rc;
}

static int act_trim_beside(struct subject *s)
{
    return crowd_run_beside(s, beside, ARRAY_LEN(beside), s->now.size / 2, trim);
}

/* Each with an L2 table, so that none waits for the lock that the trim holds. */
static const struct ask with_tables[] = {
    {'w', 1, 2, 0, 20 << 10},   {'w', 1, 66, 0, 20 << 10},  {'w', 1, 130, 0, 20 << 10}, {'w', 1, 194, 0, 20 << 10},
    {'w', 1, 258, 0, 20 << 10}, {'w', 1, 322, 0, 20 << 10}, {'w', 1, 386, 0, 20 << 10}, {'w', 1, 450, 0, 20 << 10},
    {'w', 1, 43, 0, 9 << 10},   {'w', 1, 107, 0, 9 << 10},  {'w', 1, 171, 0, 9 << 10},  {'w', 1, 235, 0, 9 << 10},
    {'w', 1, 299, 0, 9 << 10},  {'w', 1, 363, 0, 9 << 10},  {'w', 1, 427, 0, 9 << 10},  {'w', 1, 491, 0, 9 << 10},
};

/* The end of the file moves for so long that others have to wait for it. */
static int act_trim_long(struct subject *s)
{
    struct fault_rule late = {.state = "TRIM_CUT", .what = FAULT_LATE};

    CHECK_OK(fault_add_rule(s->fault, &late));
    return crowd_run_beside(s, with_tables, ARRAY_LEN(with_tables), s->now.size / 2, trim);
}

/* Flushes that carry a reclaim whose punches take long: the trim has to wait for its turn. */
static const struct ask with_flushes[] = {
    {'d', 1, 256, 0, 8 << 10}, {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1}, {'d', 1, 280, 0, 8 << 10},
    {'f', 1, 0, 0, 1},         {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1}, {'d', 1, 310, 0, 8 << 10},
    {'f', 1, 0, 0, 1},         {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1}, {'d', 1, 340, 0, 8 << 10},
    {'f', 1, 0, 0, 1},         {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1}, {'d', 1, 370, 0, 8 << 10},
    {'f', 1, 0, 0, 1},         {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1}, {'d', 1, 400, 0, 8 << 10},
    {'f', 1, 0, 0, 1},         {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1}, {'f', 1, 0, 0, 1},
};

static void prepare_content(struct subject *s)
{
    prepare_tables(s);
    CHECK_OK(subject_write(s, 46, at(s, 256), at(s, 300), 0));
    CHECK_OK(subject_flush(s));
}

static int act_trim_reclaim(struct subject *s)
{
    struct fault_rule late = {.state = "RECLAIM_PUNCHED", .what = FAULT_LATE};

    CHECK_OK(fault_add_rule(s->fault, &late));
    return crowd_run_beside(s, with_flushes, ARRAY_LEN(with_flushes), 0, trim);
}

static int grow_little(struct subject *s)
{
    return subject_resize(s, s->now.size + at(s, 64), VDISK_PREALLOC_METADATA);
}

static int act_grow_beside(struct subject *s)
{
    return crowd_run_beside(s, beside, ARRAY_LEN(beside), s->now.size / 2, grow_little);
}

/* So many L2 tables at once that their clusters need another refcount block. */
static int grow_tables(struct subject *s)
{
    return subject_resize(s, s->now.size + at(s, 40 * 64), VDISK_PREALLOC_METADATA);
}

/* New L2 tables by others take their time, before and while a piece is written behind the end. */
static int act_append_beside(struct subject *s)
{
    struct fault_rule late = {.state = "ZERO_WRITTEN", .what = FAULT_LATE, .calls = 3};

    CHECK_OK(fault_add_rule(s->fault, &late));
    return crowd_run_beside(s, beside, ARRAY_LEN(beside), s->now.size / 2, grow_tables);
}

static int act_write_shared(struct subject *s)
{
    int rc = subject_write(s, 44, at(s, 1) + 700, 1000, 0);

    return rc < 0 ? rc : subject_zero(s, at(s, 5), at(s, 1), 0);
}

/* ---- images by qemu ------------------------------------------------------------------------------------- */

/* Let a command, which takes the name last, change the image. */
static void by_qemu(struct subject *s, const char *command)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s", test_path("by-qemu"));
    memdisk_save(&s->disk, path);
    run_ok("%s %s", command, path);
    memdisk_finish(&s->disk);
    memdisk_load(&s->disk, path, 512);
    unlink(path);
}

/* Clusters 1 to 6 of the second half, compressed. */
static void make_compressed(struct subject *s)
{
    uint64_t offset = s->now.size / 2 + at(s, 1), len = at(s, 1);
    char command[1024];
    uint8_t *bytes = test_alloc(len);

    for (unsigned i = 0; i < 6; i++, offset += len) {
        snprintf(command, sizeof command, "qemu-io -f qcow2 -c 'write -q -c -s %s %" PRIu64 " %" PRIu64 "'",
                 image_pattern_file(i % 4), offset, len);
        by_qemu(s, command);
        image_pattern_bytes(i % 4, bytes, len);
        model_write(&s->now, offset, bytes, len);
        model_write(&s->flushed, offset, bytes, len);
    }
    free(bytes);
}

static void make_snapshot(struct subject *s)
{
    by_qemu(s, "qemu-img snapshot -c one");
}

static void read_first(struct subject *s)
{
    CHECK_OK(subject_read(s, 0, 4096));
}

/* ---- the table ----------------------------------------------------------------------------------------- */

/*
 * Three layers load what they know of one place, the lower two at once: where that fails once the first is asked
 * again, where it fails twice the read does. Then over all of it.
 */
static int act_deep(struct subject *s)
{
    struct fault_rule twice = {.type = "slice_load", .nth = 1, .count = 2, .what = FAULT_FAIL,
                               .error = s->rule.error};
    uint64_t place = s->now.size / 2;
    int rc = 0;

    if (s->rule.what == FAULT_FAIL && !s->mode->oom) {
        CHECK_OK(fault_add_rule(s->faults[SUBJECT_BASE], &twice));
        CHECK(subject_read(s, place, 4096) < 0);
    }
    rc = subject_read(s, place, 4096);
    if (rc == 0)
        rc = subject_read(s, 0, s->now.size);
    if (rc == 0)
        rc = subject_write(s, 47, place + 1000, 3000, 0);
    return rc < 0 ? rc : subject_read(s, place, at(s, 3));
}

static const struct scenario scenarios[] = {
    {.name = "deep", .spec = {.size = MIB(2), QCOW2(65536), OVER_TWO}, .act = act_deep, .cold = true},
    {.name = "deep, the base's calls",
     .spec = {.size = MIB(2), QCOW2(65536), OVER_TWO},
     .act = act_deep,
     .cold = true,
     .target = SUBJECT_BASE},
    {.name = "deep, the lowest's calls",
     .spec = {.size = MIB(2), QCOW2(16384), OVER_TWO},
     .act = act_deep,
     .cold = true,
     .target = SUBJECT_BELOW},
    {.name = "base, read", .spec = {.size = MIB(2), QCOW2(65536), OVER_BASE}, .act = act_read, .cold = true},
    {.name = "base, read, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), OVER_BASE},
     .act = act_read,
     .cold = true,
     .target = SUBJECT_BASE},
    {.name = "base, first touch",
     .spec = {.size = MIB(2), QCOW2(16384), OVER_BASE, .extended_l2 = true},
     .act = act_first_touch},
    {.name = "base, first touch, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), OVER_BASE},
     .act = act_first_touch,
     .target = SUBJECT_BASE},
    {.name = "base, zero", .spec = {.size = MIB(2), QCOW2(4096), OVER_BASE}, .act = act_zero, .cold = true},
    {.name = "base, zero, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), OVER_BASE},
     .act = act_zero,
     .target = SUBJECT_BASE},
    {.name = "base, zero, small clusters",
     .spec = {.size = MIB(1), QCOW2(512), OVER_BASE},
     .act = act_zero,
     .cold = true},
    {.name = "base, version 2",
     .spec = {.size = MIB(2), .qcow2 = true, .cluster_size = 4096, .version = 2, .refcount_bits = 16, OVER_BASE},
     .act = act_zero},
    {.name = "data file, write", .spec = {.size = MIB(2), QCOW2(65536), .data_file = true}, .act = act_write},
    {.name = "data file, write, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), .data_file = true},
     .act = act_write,
     .target = SUBJECT_DATA},
    {.name = "data file, zero, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), .data_file = true},
     .act = act_zero,
     .target = SUBJECT_DATA},
    {.name = "data file, discard, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), .data_file = true},
     .act = act_discard,
     .no_data = true,
     .target = SUBJECT_DATA},
    {.name = "raw data file, zero, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), .data_file = true, .data_file_raw = true},
     .act = act_zero,
     .no_data = true,
     .target = SUBJECT_DATA},
    {.name = "data file, grow, its calls",
     .spec = {.size = MIB(2), QCOW2(65536), .data_file = true, .data_file_raw = true},
     .act = act_grow,
     .no_data = true,
     .target = SUBJECT_DATA},
    {.name = "data file, grow, small clusters, its calls",
     .spec = {.size = MIB(1), QCOW2(512), .data_file = true},
     .act = act_grow_much,
     .no_data = true,
     .target = SUBJECT_DATA},
    {.name = "data file, open", .spec = {.size = MIB(2), QCOW2(65536), .data_file = true}, .act = act_open,
     .opens = true},
    {.name = "writers", .spec = {.size = MIB(2), QCOW2(65536)}, .act = act_writers, .cold = true},
    {.name = "writers over a base", .spec = {.size = MIB(2), QCOW2(65536), OVER_BASE}, .act = act_writers},
    {.name = "one block", .spec = {.size = MIB(2), QCOW2(65536)}, .prepare = read_first, .act = act_one_block},
    {.name = "compressed", .spec = {.size = MIB(2), QCOW2(65536)}, .make = make_compressed, .act = act_compressed},
    {.name = "compressed, large", .spec = {.size = MIB(4), QCOW2(131072)}, .make = make_compressed,
     .act = act_compressed},
    {.name = "compress", .spec = {.size = MIB(1), QCOW2(512)}, .act = act_compress, .cold = true},
    {.name = "compress over", .spec = {.size = MIB(1), TIGHT}, .act = act_compress_over, .cold = true},
    {.name = "compress up to the end", .spec = {.size = MIB(1) + 1024, QCOW2(4096)}, .act = act_compress_end,
     .cold = true},
    {.name = "snapshot", .spec = {.size = MIB(2), QCOW2(65536)}, .make = make_snapshot, .act = act_write_shared},
    {.name = "amend to version 2", .spec = {.size = MIB(2), QCOW2(4096), OVER_BASE}, .prepare = prepare_zeros,
     .act = act_amend_down},
    {.name = "amend to version 2, small clusters", .spec = {.size = MIB(1), QCOW2(512)}, .prepare = prepare_zeros,
     .act = act_amend_down},
    {.name = "amend to version 3",
     .spec = {.size = MIB(1), .qcow2 = true, .cluster_size = 512, .version = 2, .refcount_bits = 16},
     .act = act_amend_up},
    {.name = "base, zero, untouched",
     .spec = {.size = MIB(1), QCOW2(512), OVER_BASE},
     .act = act_zero_untouched,
     .no_data = true},
    {.name = "raw block", .spec = {.size = MIB(1)}, .act = act_raw_block, .no_data = true},
    {.name = "blocks", .spec = {.size = MIB(1), TIGHT}, .act = act_blocks},
    {.name = "trim beside writes",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_gaps,
     .act = act_trim_beside,
     .stride = 2},
    {.name = "long trim beside writes",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_gaps,
     .act = act_trim_long,
     .stride = 3},
    {.name = "trim beside reclaims",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_content,
     .act = act_trim_reclaim,
     .no_data = true},
    {.name = "grow beside writes",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_tables,
     .act = act_grow_beside,
     .stride = 3},
    {.name = "grow by pieces beside writes",
     .spec = {.size = MIB(1), TIGHT},
     .prepare = prepare_tables,
     .act = act_append_beside,
     .stride = 3},
    {.name = "grow by tables", .spec = {.size = MIB(1), TIGHT}, .act = grow_tables},
    {.name = "tables", .spec = {.size = MIB(1), QCOW2(512)}, .act = act_tables, .cold = true},
};

int main(int argc, char **argv)
{
    static const char *const requires[] = {"qemu-img", "qemu-io", NULL};

    return scenario_main(argc, argv, scenarios, ARRAY_LEN(scenarios), requires);
}
