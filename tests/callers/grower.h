/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of growers share: a device in memory, an image on it, and a grower that does what it is told. */
#ifndef TESTS_GROWER_H
#define TESTS_GROWER_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/memory.h"
#include "engine/volume.h"
#include "tests/callers/callers.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"

enum { MIB = 1 << 20, GUEST_MIB = 64, DEVICE = 4 * MIB, CHUNK = MIB };

/* A device in memory, an image on it, and what its grower is to do. */
static struct place {
    struct memdisk disk;
    vdisk *v;
    struct vdisk_grower_opts opts;
    pthread_mutex_t lock;      /* all that follows */
    pthread_cond_t asked;
    struct vdisk_wish wish;    /* the last one */
    unsigned wishes;
    bool answers, half;        /* within the call; with half of what is missing */
    int errors_first, error;   /* so many answers are that */
    int fd;                    /* or it writes that one */
    bool misuses;              /* does what is refused there */
} place;

static inline uint64_t device_size(void)
{
    return memdisk_size(&place.disk);
}

/* As lvextend does. */
static inline void extend_to(uint64_t size)
{
    memory_backend_extend(place.disk.keeper, size);
}

static inline void check_wish(const struct vdisk_wish *w)
{
    uint64_t limit = place.opts.limit;

    CHECK_INT(w->size, sizeof *w);
    CHECK(w->number != 0 && w->number != place.wish.number);
    CHECK_MSG(w->wanted > w->storage && (w->wanted == limit || (w->wanted - w->storage) % CHUNK == 0),
              "of %llu bytes %llu are wanted", (unsigned long long)w->storage, (unsigned long long)w->wanted);
    CHECK(w->allocated_end > 0 && w->allocated_end <= w->storage);
    CHECK(limit == 0 || w->wanted <= limit);
    if (w->parked == 0)
        CHECK(w->storage - w->allocated_end < place.opts.least_free || w->bytes_per_second > 0);
}

static inline void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    struct vdisk_info info = {.size = sizeof info};
    uint64_t size = place.half ? wish->storage + (wish->wanted - wish->storage) / 2 : wish->wanted;
    int error = 0;

    CHECK(arg == &place && v == place.v);
    CHECK_OK(vdisk_get_info(v, &info)); /* no lock is held */
    if (place.misuses) {
        CHECK_INT(vdisk_close(v), -EDEADLK);
        CHECK_INT(vdisk_set_grower(v, NULL, NULL, NULL), -EDEADLK);
    }
    pthread_mutex_lock(&place.lock);
    check_wish(wish);
    place.wish = *wish;
    place.wishes++;
    if (place.errors_first > 0 && place.errors_first-- > 0)
        error = place.error;
    pthread_cond_broadcast(&place.asked);
    pthread_mutex_unlock(&place.lock);
    if (place.fd >= 0)
        CHECK(write(place.fd, &(uint64_t){1}, 8) == 8);
    if (!place.answers)
        return;
    if (error == 0) {
        extend_to(align_up(size, 4096));
        memdisk_set_space(&place.disk, UINT64_MAX);
    }
    CHECK_OK(vdisk_grown(wish->number, error));
}

static inline void reset_place(void)
{
    memset(&place, 0, sizeof place);
    pthread_mutex_init(&place.lock, NULL);
    pthread_cond_init(&place.asked, NULL);
    place.fd = -1;
    place.opts = (struct vdisk_grower_opts){.size = sizeof place.opts, .chunk = CHUNK, .least_free = CHUNK / 2,
                                            .retry_ms = 20, .ahead_ms = 1};
}

/* On place.disk. */
static inline void make_volume(const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR,
                                   .format = spec->qcow2 ? "qcow2" : "raw"};
    struct backend *b = memdisk_open(&place.disk, false);

    CHECK_OK(image_create_on(spec, b));
    backend_close(b);
    CHECK_OK(vdisk_open_backend(memdisk_open(&place.disk, false), &opts, &place.v));
}

static inline void open_place(uint32_t cluster_size)
{
    struct image_spec spec;

    reset_place();
    memdisk_init_fixed(&place.disk, 512, DEVICE);
    image_default(&spec, "thin", (uint64_t)GUEST_MIB * MIB);
    spec.cluster_size = cluster_size;
    make_volume(&spec);
}

/* Storage whose size tells nothing: a full file system, a device with a pool below. */
static inline void open_full(bool qcow2, bool fixed)
{
    struct image_spec spec;

    reset_place();
    if (fixed)
        memdisk_init_fixed(&place.disk, 512, 16 * MIB);
    else
        memdisk_init(&place.disk, 512);
    image_default(&spec, "full", 16 * MIB);
    spec.qcow2 = qcow2;
    make_volume(&spec);
    memdisk_set_space(&place.disk, 2 * MIB);
}

static inline void set_grower(void)
{
    CHECK_OK(vdisk_set_grower(place.v, on_wish, &place, &place.opts));
}

static inline void close_place(void)
{
    CHECK_OK(vdisk_close(place.v));
    memdisk_save(&place.disk, test_path("saved"));
    if (access("/usr/bin/qemu-img", X_OK) == 0)
        image_check(test_path("saved"), false);
    memdisk_finish(&place.disk);
}

static inline struct vdisk_watermark mark_of(vdisk *v)
{
    struct vdisk_watermark mark = {.size = sizeof mark};

    CHECK_OK(vdisk_get_watermark(v, &mark));
    return mark;
}

/* On another thread. */
static inline void wait_for_wish(void)
{
    pthread_mutex_lock(&place.lock);
    while (place.wishes == 0)
        pthread_cond_wait(&place.asked, &place.lock);
    pthread_mutex_unlock(&place.lock);
}

/* ---- writing ----------------------------------------------------------------------------------------- */

static inline char *filled(int value)
{
    char *buf = vdisk_alloc_buffer(CLUSTER);

    CHECK(buf != NULL);
    memset(buf, value, CLUSTER);
    return buf;
}

static inline void check_cluster(vdisk_queue *q, uint64_t i, int value)
{
    char *buf = filled(0);

    vdisk_read(q, place.v, i * CLUSTER, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    for (unsigned at = 0; at < CLUSTER; at += 511)
        CHECK_MSG(buf[at] == (char)value, "cluster %llu reads %d, not %d", (unsigned long long)i, buf[at], value);
    free(buf);
}

struct writer {
    vdisk_queue *q;
    uint64_t first, n; /* clusters */
    unsigned depth;
};

static inline int value_of(uint64_t cluster)
{
    return (int)(cluster % 120 + 1);
}

/* All of them, some at a time; none may fail. */
static inline void write_clusters(struct writer *w)
{
    char *buf[120];
    uint64_t sent = 0, ended = 0;

    for (unsigned i = 0; i < ARRAY_LEN(buf); i++)
        buf[i] = filled((int)i + 1);
    while (ended < w->n) {
        for (; sent < w->n && sent - ended < w->depth; sent++)
            vdisk_write(w->q, place.v, (w->first + sent) * CLUSTER, buf[value_of(w->first + sent) - 1], CLUSTER,
                        sent % 7 == 0 ? VDISK_REQ_FUA : 0, 0);
        reap_all(w->q, 1, NULL);
        ended++;
    }
    for (unsigned i = 0; i < ARRAY_LEN(buf); i++)
        free(buf[i]);
}

static inline void verify_clusters(vdisk_queue *q, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        check_cluster(q, i, value_of(i));
}

/* Write on from cluster `first` until `n` requests wait for room. How many were sent; before those none failed. */
static inline uint64_t write_until_parked(vdisk_queue *q, uint64_t first, uint64_t n, char *buf)
{
    struct vdisk_completion c;
    uint64_t sent = 0;

    while (mark_of(place.v).parked < n) {
        CHECK(sent < 2000);
        vdisk_write(q, place.v, (first + sent) * CLUSTER, buf, CLUSTER, 0, 0);
        sent++;
        while (vdisk_queue_inflight(q) > mark_of(place.v).parked) {
            int got = vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 1000000});
            CHECK(got >= 0 || got == -EINTR);
            if (got > 0)
                CHECK_OK(c.result);
        }
    }
    return sent;
}

static inline void for_each_kind(void (*run)(vdisk_queue *q))
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

#endif
