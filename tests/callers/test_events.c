/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who listens to a volume is told: of its size, of damage, of the watermark; once, in time, from whatever queue,
 * and not any more when he has said so.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/callers/callers.h"

static struct seen {
    _Atomic unsigned count[4]; /* by kind */
    _Atomic uint64_t value[4];
    char text[256];
    bool closes;               /* tries to close the volume */
    uint64_t next_mark;        /* what to set the watermark to */
} seen;

static void on_event(void *arg, vdisk *v, const struct vdisk_event *event)
{
    struct seen *s = arg;
    struct vdisk_info info = {.size = sizeof info};

    CHECK(event->kind < ARRAY_LEN(s->count));
    s->count[event->kind]++;
    s->value[event->kind] = event->value;
    CHECK_OK(vdisk_get_info(v, &info)); /* no lock is held */
    if (event->text[0])
        snprintf(s->text, sizeof s->text, "%s", event->text);
    if (s->closes)
        CHECK_INT(vdisk_close(v), -EDEADLK);
    if (s->next_mark)
        CHECK_OK(vdisk_set_watermark(v, s->next_mark));
    s->next_mark = 0;
}

static void forget(void)
{
    memset(&seen, 0, sizeof seen);
}

static vdisk *open_raw(const char *name)
{
    const char *path = test_path("%s", name);
    struct vdisk_create_opts create = {.size = sizeof create, .format = "raw", .virtual_size = 64u << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    vdisk *v;

    CHECK_OK(vdisk_create(path, &create));
    CHECK_OK(vdisk_open(path, &opts, &v));
    return v;
}

/* ---- size -------------------------------------------------------------------------------------------- */

static void *grow_beside(void *arg)
{
    CHECK_OK(vdisk_grow(arg, 3u << 30));
    return NULL;
}

static void test_size(void)
{
    struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
    vdisk *v = open_rw(make_full_image("image"));
    pthread_t thread;

    CHECK_OK(vdisk_set_event_callback(v, on_event, &seen));
    seen.closes = true;
    CHECK_OK(vdisk_resize(v, 1u << 30, NULL)); /* it has that size */
    CHECK_INT(seen.count[VDISK_EVENT_SIZE], 0);
    CHECK_OK(vdisk_grow(v, 2u << 30));
    CHECK_INT(seen.count[VDISK_EVENT_SIZE], 1);
    CHECK_INT(seen.value[VDISK_EVENT_SIZE], 2u << 30);
    CHECK(pthread_create(&thread, NULL, grow_beside, v) == 0);
    pthread_join(thread, NULL);
    CHECK_INT(seen.count[VDISK_EVENT_SIZE], 2);
    CHECK_INT(seen.value[VDISK_EVENT_SIZE], 3u << 30);
    CHECK_OK(vdisk_resize(v, 1u << 30, &shrink));
    CHECK_INT(seen.value[VDISK_EVENT_SIZE], 1u << 30);
    forget();
    CHECK_OK(vdisk_set_event_callback(v, NULL, NULL));
    CHECK_OK(vdisk_grow(v, 2u << 30));
    CHECK_INT(seen.count[VDISK_EVENT_SIZE], 0);
    CHECK_INT(vdisk_set_event_callback(NULL, on_event, &seen), -EINVAL);
    CHECK_OK(vdisk_close(v));
}

/* ---- watermark --------------------------------------------------------------------------------------- */

static struct vdisk_watermark mark_of(vdisk *v)
{
    struct vdisk_watermark mark = {.size = sizeof mark};

    CHECK_OK(vdisk_get_watermark(v, &mark));
    return mark;
}

static void write_raw(vdisk_queue *q, vdisk *v, uint64_t offset, char *buf)
{
    vdisk_write(q, v, offset, buf, BLOCK, 0, 0);
    reap_all(q, 1, NULL);
}

static void raw_on(vdisk_queue *q)
{
    vdisk *v = open_raw("raw");
    char *buf = vdisk_alloc_buffer(BLOCK);

    memset(buf, 1, BLOCK);
    forget();
    CHECK_OK(vdisk_set_event_callback(v, on_event, &seen));
    CHECK_OK(vdisk_set_watermark(v, 5 << 20));
    write_raw(q, v, (5 << 20) - BLOCK, buf); /* up to it */
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 0);
    CHECK_INT(mark_of(v).highest, 5 << 20);
    write_raw(q, v, (5 << 20) - BLOCK / 2, buf);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 1);
    CHECK_INT(seen.value[VDISK_EVENT_WATERMARK], (5 << 20) + BLOCK / 2);
    CHECK(mark_of(v).passed);
    CHECK_INT(mark_of(v).threshold, 5 << 20);
    write_raw(q, v, 6 << 20, buf);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 1);
    /* Behind it already. */
    CHECK_OK(vdisk_set_watermark(v, 1 << 20));
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 2);
    /* By zeros, and it is set again by who is told. */
    CHECK_OK(vdisk_set_watermark(v, 7 << 20));
    CHECK(!mark_of(v).passed);
    seen.next_mark = 20 << 20;
    vdisk_write_zeroes(q, v, 7 << 20, BLOCK, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 3);
    write_raw(q, v, (20 << 20) - BLOCK, buf);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 3);
    CHECK_OK(vdisk_set_watermark(v, 0));
    write_raw(q, v, 30 << 20, buf);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 3);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void for_each_kind(void (*run)(vdisk_queue *q))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        vdisk_queue *q;
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run(q);
        CHECK_OK(vdisk_queue_destroy(q));
    }
}

static void test_raw(void)
{
    for_each_kind(raw_on);
}

/* Told before what was allocated is written, so before its write completes. */
static void fill_until_told(vdisk_queue *q, vdisk *v, char *buf)
{
    for (unsigned i = 0; i < 2000 && seen.count[VDISK_EVENT_WATERMARK] == 0; i++) {
        vdisk_write(q, v, (200 + i) * CLUSTER, buf, CLUSTER, 0, 0);
        reap_all(q, 1, NULL);
    }
}

struct filler {
    vdisk *v;
    enum vdisk_queue_kind kind;
};

static void *fill_on_thread(void *arg)
{
    struct filler *f = arg;
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = f->kind};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    vdisk_queue *q;

    memset(buf, 2, CLUSTER);
    CHECK_OK(vdisk_queue_create(&opts, &q));
    fill_until_told(q, f->v, buf);
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
    return NULL;
}

static void qcow2_on(vdisk_queue *q)
{
    const char *path = make_full_image("image");
    struct filler f = {.v = open_rw(path), .kind = vdisk_queue_get_kind(q)};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    uint64_t before;
    pthread_t thread;

    forget();
    memset(buf, 3, CLUSTER);
    CHECK_OK(vdisk_set_event_callback(f.v, on_event, &seen));
    before = mark_of(f.v).highest;
    CHECK_MSG(before > CLUSTERS * CLUSTER && before < (CLUSTERS + 16) * CLUSTER, "in use up to %llu",
              (unsigned long long)before);
    CHECK_OK(vdisk_set_watermark(f.v, before + (20 << 20)));
    vdisk_write(q, f.v, 0, buf, CLUSTER, 0, 0); /* in place */
    reap_all(q, 1, NULL);
    CHECK_INT(mark_of(f.v).highest, before);
    CHECK(pthread_create(&thread, NULL, fill_on_thread, &f) == 0);
    pthread_join(thread, NULL);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 1);
    CHECK(seen.value[VDISK_EVENT_WATERMARK] > before + (20 << 20));
    CHECK(mark_of(f.v).highest >= seen.value[VDISK_EVENT_WATERMARK]);
    fill_until_told(q, f.v, buf);
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 1);
    CHECK_OK(vdisk_set_watermark(f.v, before + BLOCK));
    CHECK_INT(seen.count[VDISK_EVENT_WATERMARK], 2);
    CHECK_OK(vdisk_close(f.v));
    free(buf);
}

static void test_qcow2(void)
{
    for_each_kind(qcow2_on);
}

static void test_read_only(void)
{
    vdisk *v;

    CHECK_OK(vdisk_open(make_full_image("image"), NULL, &v));
    CHECK_INT(vdisk_set_watermark(v, 1), -EACCES);
    CHECK_HAS(vdisk_error_text(), "read-only");
    CHECK_INT(vdisk_get_watermark(v, &(struct vdisk_watermark){.size = sizeof(struct vdisk_watermark)}), -EACCES);
    CHECK_INT(vdisk_get_watermark(v, NULL), -EINVAL);
    CHECK_OK(vdisk_close(v));
}

/* ---- damage, and the log ----------------------------------------------------------------------------- */

static char log_line[256], log_volume[256];
static unsigned log_lines;

static void on_log(void *arg, enum vdisk_log_level level, const char *volume, const char *text)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = UINT32_MAX};
    vdisk_queue *q;

    CHECK(arg == log_line);
    log_lines++;
    snprintf(log_line, sizeof log_line, "%d %s", (int)level, text);
    snprintf(log_volume, sizeof log_volume, "%s", volume ? volume : "-");
    CHECK_INT(vdisk_queue_create(&opts, &q), -EINVAL); /* an error of its own */
}

static uint64_t be64_at(int fd, uint64_t offset)
{
    uint64_t value;

    CHECK(pread(fd, &value, 8, (off_t)offset) == 8);
    return be64toh(value);
}

/* The entry of guest cluster `index` leads to the L1 table. */
static void damage(const char *path, uint64_t index)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint64_t l1 = be64_at(fd, 40), l2 = be64_at(fd, l1) & 0x00fffffffffffe00, entry = htobe64(l1 | 1ull << 63);

    CHECK(pwrite(fd, &entry, 8, (off_t)(l2 + 8 * index)) == 8);
    close(fd);
}

static void damaged(vdisk_queue *q, bool sync)
{
    const char *path = make_full_image("image");
    char *buf = vdisk_alloc_buffer(CLUSTER);
    int results[1];
    vdisk *v;

    damage(path, 100);
    forget();
    log_lines = 0;
    vdisk_set_log(on_log, log_line);
    v = open_rw(path);
    CHECK_OK(vdisk_set_event_callback(v, on_event, &seen));
    memset(buf, 4, CLUSTER);
    if (sync) {
        CHECK_INT(vdisk_pwrite(v, buf, CLUSTER, 100 * CLUSTER, 0), -EIO);
        CHECK_HAS(vdisk_error_text(), "image"); /* its own text, not that of who was told */
    } else {
        vdisk_write(q, v, 100 * CLUSTER, buf, CLUSTER, 0, 0);
        reap_all(q, 1, results);
        CHECK_INT(results[0], -EIO);
    }
    CHECK_INT(seen.count[VDISK_EVENT_CORRUPT], 1);
    CHECK_HAS(seen.text, "no more writes");
    CHECK_INT(log_lines, 1);
    CHECK_HAS(log_line, "1 ");
    CHECK_HAS(log_line, "no more writes");
    CHECK_HAS(log_volume, "image");
    vdisk_set_log(NULL, NULL);
    CHECK_OK(vdisk_close(v));
    CHECK_INT(log_lines, 1);
    free(buf);
}

static void damaged_on(vdisk_queue *q)
{
    damaged(q, false);
}

static void test_damage(void)
{
    damaged(NULL, true);
    for_each_kind(damaged_on);
}

/* ---- between threads: who says that he listens no more is not called --------------------------------- */

enum { ROUNDS = 300 };

static _Atomic bool stop;
static _Atomic int listening;

static void on_size(void *arg, vdisk *v, const struct vdisk_event *event)
{
    CHECK(atomic_load(&listening) > 0);
}

static void *grow_often(void *arg)
{
    vdisk *v = arg;

    for (uint64_t size = vdisk_size(v); !atomic_load(&stop) && size < UINT64_C(1) << 40; size += 1 << 20)
        CHECK_OK(vdisk_grow(v, size));
    return NULL;
}

static void test_deaf(void)
{
    vdisk *v = open_rw(make_full_image("image"));
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, grow_often, v) == 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        atomic_store(&listening, 1);
        CHECK_OK(vdisk_set_event_callback(v, on_size, NULL));
        sched_yield();
        CHECK_OK(vdisk_set_event_callback(v, NULL, NULL));
        atomic_store(&listening, 0);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    CHECK_OK(vdisk_close(v));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "size", .run = test_size},
        {.name = "raw", .run = test_raw},
        {.name = "qcow2", .run = test_qcow2},
        {.name = "read-only", .run = test_read_only},
        {.name = "damage", .run = test_damage},
        {.name = "deaf", .run = test_deaf},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
