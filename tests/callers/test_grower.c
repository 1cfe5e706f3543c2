/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A grower makes a device larger while it is written to: in time, late, by less than was asked for, with errors,
 * never; from within its call, from a thread, from an event loop, while the volume is closed. No write fails but
 * those that the limit leaves without space, and reads, writes in place and flushes never wait.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
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

static uint64_t device_size(void)
{
    return memdisk_size(&place.disk);
}

/* As lvextend does. */
static void extend_to(uint64_t size)
{
    memory_backend_extend(place.disk.keeper, size);
}

static void check_wish(const struct vdisk_wish *w)
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

static void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
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

static void reset_place(void)
{
    memset(&place, 0, sizeof place);
    pthread_mutex_init(&place.lock, NULL);
    pthread_cond_init(&place.asked, NULL);
    place.fd = -1;
    place.opts = (struct vdisk_grower_opts){.size = sizeof place.opts, .chunk = CHUNK, .least_free = CHUNK / 2,
                                            .retry_ms = 20, .ahead_ms = 1};
}

/* On place.disk. */
static void make_volume(const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR,
                                   .format = spec->qcow2 ? "qcow2" : "raw"};
    struct backend *b = memdisk_open(&place.disk, false);

    CHECK_OK(image_create_on(spec, b));
    backend_close(b);
    CHECK_OK(vdisk_open_backend(memdisk_open(&place.disk, false), &opts, &place.v));
}

static void open_place(uint32_t cluster_size)
{
    struct image_spec spec;

    reset_place();
    memdisk_init_fixed(&place.disk, 512, DEVICE);
    image_default(&spec, "thin", (uint64_t)GUEST_MIB * MIB);
    spec.cluster_size = cluster_size;
    make_volume(&spec);
}

/* Storage whose size tells nothing: a full file system, a device with a pool below. */
static void open_full(bool qcow2, bool fixed)
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

static void set_grower(void)
{
    CHECK_OK(vdisk_set_grower(place.v, on_wish, &place, &place.opts));
}

static void close_place(void)
{
    CHECK_OK(vdisk_close(place.v));
    memdisk_save(&place.disk, test_path("saved"));
    if (access("/usr/bin/qemu-img", X_OK) == 0)
        image_check(test_path("saved"), false);
    memdisk_finish(&place.disk);
}

static struct vdisk_watermark mark_of(vdisk *v)
{
    struct vdisk_watermark mark = {.size = sizeof mark};

    CHECK_OK(vdisk_get_watermark(v, &mark));
    return mark;
}

/* On another thread. */
static void wait_for_wish(void)
{
    pthread_mutex_lock(&place.lock);
    while (place.wishes == 0)
        pthread_cond_wait(&place.asked, &place.lock);
    pthread_mutex_unlock(&place.lock);
}

/* ---- writing ----------------------------------------------------------------------------------------- */

static char *filled(int value)
{
    char *buf = vdisk_alloc_buffer(CLUSTER);

    CHECK(buf != NULL);
    memset(buf, value, CLUSTER);
    return buf;
}

static void check_cluster(vdisk_queue *q, uint64_t i, int value)
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

static int value_of(uint64_t cluster)
{
    return (int)(cluster % 120 + 1);
}

/* All of them, some at a time; none may fail. */
static void write_clusters(struct writer *w)
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

static void verify_clusters(vdisk_queue *q, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        check_cluster(q, i, value_of(i));
}

/* Write on from cluster `first` until `n` requests wait for room. How many were sent; before those none failed. */
static uint64_t write_until_parked(vdisk_queue *q, uint64_t first, uint64_t n, char *buf)
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

/* ---- cases ------------------------------------------------------------------------------------------- */

/* It does all within its call, on the library's thread or on ours. */
static void answered_at_once(vdisk_queue *q, uint32_t flags, uint32_t cluster_size)
{
    struct writer w = {q, 0, 40 * 16, 16};

    open_place(cluster_size);
    place.opts.flags = flags;
    place.answers = place.misuses = true;
    set_grower();
    write_clusters(&w);
    verify_clusters(q, w.n);
    CHECK_MSG(place.wishes >= 20, "%u wishes", place.wishes);
    CHECK_MSG(device_size() < 48 * MIB, "the device has %llu bytes", (unsigned long long)device_size());
    CHECK_INT(mark_of(place.v).parked, 0);
    CHECK_INT(mark_of(place.v).storage, device_size());
    close_place();
}

static void at_once_on(vdisk_queue *q)
{
    answered_at_once(q, 0, CLUSTER);
    answered_at_once(q, VDISK_GROWER_NO_THREAD, CLUSTER);
    answered_at_once(q, 0, 512);
}

static void test_at_once(void)
{
    for_each_kind(at_once_on);
}

static void *answer_late(void *arg)
{
    extend_to(device_size() + 4 * MIB);
    CHECK_OK(vdisk_grown(*(uint64_t *)arg, 0));
    return NULL;
}

/* Nobody has answered: all else goes on. */
static void others_go_on(vdisk_queue *q)
{
    char *buf = filled(77);

    check_cluster(q, 0, 5);
    vdisk_write(q, place.v, CLUSTER, buf, CLUSTER, VDISK_REQ_FUA, 0);
    vdisk_flush(q, place.v, 0, 0);
    vdisk_write_zeroes(q, place.v, 2 * CLUSTER, CLUSTER, 0, 0);
    reap_all(q, 3, NULL);
    check_cluster(q, 1, 77);
    check_cluster(q, 2, 0);
    free(buf);
}

static void late_on(vdisk_queue *q)
{
    char *buf = filled(5);
    uint64_t sent;
    pthread_t thread;

    open_place(CLUSTER);
    place.answers = false;
    set_grower();
    sent = write_until_parked(q, 0, 3, buf);
    wait_for_wish();
    CHECK_INT(place.wishes, 1);
    CHECK_INT(mark_of(place.v).wish, place.wish.number);
    CHECK_INT(mark_of(place.v).wanted, place.wish.wanted);
    CHECK_INT(vdisk_close(place.v), -EBUSY);
    CHECK_HAS(vdisk_error_text(), "3 of them without space");
    others_go_on(q);
    CHECK_INT(vdisk_queue_inflight(q), 3);
    CHECK(pthread_create(&thread, NULL, answer_late, &place.wish.number) == 0);
    reap_all(q, 3, NULL);
    pthread_join(thread, NULL);
    CHECK_OK(vdisk_grown(place.wish.number, -EIO)); /* it has its answer */
    for (uint64_t i = sent - 3; i < sent; i++)
        check_cluster(q, i, 5);
    close_place();
    CHECK_INT(vdisk_grown(place.wish.number, 0), -ENOENT);
    free(buf);
}

static void test_late(void)
{
    for_each_kind(late_on);
}

/* Half of what it is asked for, and errors before: it is asked again. */
static void test_less(void)
{
    vdisk_queue *q;
    struct writer w = {NULL, 0, 30 * 16, 16};

    CHECK_OK(vdisk_queue_create(NULL, &q));
    w.q = q;
    open_place(CLUSTER);
    place.answers = place.half = true;
    place.errors_first = 3;
    place.error = -EIO;
    set_grower();
    write_clusters(&w);
    CHECK_INT(place.errors_first, 0);
    place.errors_first = 1;
    place.error = -EAGAIN;
    w.first = w.n;
    write_clusters(&w);
    verify_clusters(q, 2 * w.n);
    close_place();
    CHECK_OK(vdisk_queue_destroy(q));
}

/* What is parked fails, and what comes then fails at once; till it is larger after all. */
static void at_the_limit(vdisk_queue *q, bool by_answer)
{
    char *buf = filled(9);
    int results[64];
    uint64_t sent, failed = 0;

    open_place(CLUSTER);
    place.answers = !by_answer;
    place.opts.limit = by_answer ? 0 : DEVICE + 2 * MIB + 4096;
    set_grower();
    if (by_answer) {
        sent = write_until_parked(q, 0, 4, buf);
        wait_for_wish();
        CHECK_OK(vdisk_grown(place.wish.number, -ENOSPC));
        for (unsigned i = 0; i < 4; i++) {
            struct vdisk_completion c;
            CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
            CHECK_INT(c.result, -ENOSPC);
            CHECK_INT(vdisk_explain(q, &c), -ENOSPC);
            CHECK_HAS(vdisk_error_text(), "No space");
        }
    }
    sent = 0;
    while (failed == 0 && sent < 1000) {
        for (unsigned i = 0; i < 8; i++)
            vdisk_write(q, place.v, (sent + i) * CLUSTER, buf, CLUSTER, 0, i);
        reap_all(q, 8, results);
        for (unsigned i = 0; i < 8; i++) {
            CHECK(results[i] == 0 || results[i] == -ENOSPC);
            failed += results[i] < 0;
        }
        sent += 8;
    }
    CHECK(failed > 0);
    CHECK_INT(mark_of(place.v).parked, 0);
    check_cluster(q, 0, 9);
    if (!by_answer)
        CHECK_INT(device_size(), DEVICE + 2 * MIB + 4096);
    extend_to(device_size() + 2 * MIB);
    vdisk_write(q, place.v, (sent + 1) * CLUSTER, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    close_place();
    free(buf);
}

static void test_limit(void)
{
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    at_the_limit(q, false);
    at_the_limit(q, true);
    CHECK_OK(vdisk_queue_destroy(q));
}

/* It never answers: what waits is cancelled, or let go of; or somebody else makes the device larger. */
static void never_on(vdisk_queue *q)
{
    char *buf = filled(6);
    struct vdisk_completion c;
    uint64_t sent;

    open_place(CLUSTER);
    place.opts.retry_ms = 10000000;
    set_grower();
    sent = write_until_parked(q, 0, 2, buf);
    vdisk_write(q, place.v, sent * CLUSTER, buf, CLUSTER, 0, 42);
    while (mark_of(place.v).parked < 3)
        CHECK_INT(vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 1000000}), 0);
    CHECK_INT(vdisk_cancel(q, 42), 1);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    CHECK_INT(c.result, -ECANCELED);
    CHECK_INT(c.user_data, 42);
    CHECK_INT(mark_of(place.v).parked, 2);
    CHECK_OK(vdisk_set_grower(place.v, NULL, NULL, NULL));
    for (unsigned i = 0; i < 2; i++) {
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, -ENOSPC);
    }
    set_grower();
    sent += write_until_parked(q, sent, 2, buf);
    extend_to(device_size() + 2 * MIB);
    CHECK_OK(vdisk_get_info(place.v, &(struct vdisk_info){.size = sizeof(struct vdisk_info)}));
    reap_all(q, 2, NULL);
    place.opts.retry_ms = 20;
    set_grower();
    sent += write_until_parked(q, sent, 2, buf);
    extend_to(device_size() + 2 * MIB);
    reap_all(q, 2, NULL); /* its thread has looked */
    write_until_parked(q, sent, 2, buf);
    vdisk_discard(q, place.v, 0, 16 * CLUSTER, 0, 0);
    reap_all(q, 3, NULL); /* the same */
    close_place();
    free(buf);
}

static void test_never(void)
{
    for_each_kind(never_on);
}

/* An event loop: one thread, no call of the library blocks; the grower starts what takes a while and returns. */
static void event_loop_on(vdisk_queue *q)
{
    enum { N = 30 * 16, DEPTH = 16 };
    struct vdisk_completion c[DEPTH];
    uint64_t sent = 0, ended = 0, ticks;
    char *buf = filled(8);
    int fd = eventfd(0, EFD_CLOEXEC);

    open_place(CLUSTER);
    place.fd = fd;
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    place.opts.least_free = 4096; /* too late always */
    set_grower();
    while (ended < N) {
        struct pollfd fds[2] = {{.fd = vdisk_queue_fd(q), .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        for (; sent < N && sent - ended < DEPTH; sent++)
            vdisk_write(q, place.v, sent * CLUSTER, buf, CLUSTER, 0, 0);
        int got = vdisk_reap(q, c, 0, DEPTH, NULL);
        CHECK_OK(got);
        for (int i = 0; i < got; i++)
            CHECK_OK(c[i].result);
        ended += (uint64_t)got;
        if (got > 0)
            continue;
        caller_wait_begin("poll");
        CHECK(poll(fds, 2, -1) > 0 || errno == EINTR);
        caller_wait_end();
        if (fds[1].revents) {
            CHECK(read(fd, &ticks, 8) == 8);
            extend_to(place.wish.wanted);
            CHECK_OK(vdisk_grown(place.wish.number, 0));
        }
    }
    CHECK(place.wishes > 10);
    close_place();
    close(fd);
    free(buf);
}

static void test_event_loop(void)
{
    for_each_kind(event_loop_on);
}

/* It waits in vdisk_reap() for nothing but what is parked: that returns, so that the grower hears of it. */
static void reap_alone_on(vdisk_queue *q)
{
    struct vdisk_completion c;
    char *buf = filled(8);
    uint64_t parked = 0;

    open_full(true, false);
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    set_grower();
    for (uint64_t i = 0; i < 12 * 16; i++) {
        vdisk_write(q, place.v, i * CLUSTER, buf, CLUSTER, 0, 0);
        caller_wait_begin("reap(1)");
        int n = vdisk_reap(q, &c, 1, 1, NULL);
        while (n == 0) {
            parked++;
            CHECK_INT(mark_of(place.v).parked, 1);
            CHECK_INT(vdisk_pwrite(place.v, buf, CLUSTER, 15 * MIB, 0), -ENOSPC); /* there none is parked */
            memdisk_set_space(&place.disk, memdisk_occupied(&place.disk) + MIB);
            CHECK_OK(vdisk_grown(place.wish.number, 0));
            n = vdisk_reap(q, &c, 1, 1, NULL);
        }
        caller_wait_end();
        CHECK_INT(n, 1);
        CHECK_OK(c.result);
    }
    CHECK_MSG(parked > 4, "%llu times", (unsigned long long)parked);
    memdisk_set_space(&place.disk, UINT64_MAX);
    close_place();
    free(buf);
}

static void test_reap_alone(void)
{
    for_each_kind(reap_alone_on);
}

/* ---- two queues, each with its thread; and a third that answers -------------------------------------- */

static _Atomic bool done;

static void *answer_on(void *arg)
{
    struct vdisk_wish wish = {0};

    (void)arg;
    while (!atomic_load(&done)) {
        pthread_mutex_lock(&place.lock);
        bool is_new = place.wish.number != wish.number;
        wish = place.wish;
        pthread_mutex_unlock(&place.lock);
        if (is_new) {
            extend_to(wish.storage + (wish.wanted - wish.storage) / (wish.number % 2 + 1));
            vdisk_grown(wish.number, 0);
        }
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return NULL;
}

static void *write_on(void *arg)
{
    struct writer *w = arg;

    CHECK_OK(vdisk_queue_create(NULL, &w->q));
    write_clusters(w);
    CHECK_OK(vdisk_queue_destroy(w->q));
    return NULL;
}

static void test_threads(void)
{
    struct writer w[2] = {{NULL, 0, 25 * 16, 12}, {NULL, 25 * 16, 25 * 16, 12}};
    pthread_t thread[3];
    vdisk_queue *q;

    open_place(CLUSTER);
    atomic_store(&done, false);
    set_grower();
    CHECK(pthread_create(&thread[2], NULL, answer_on, NULL) == 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, write_on, &w[i]) == 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    atomic_store(&done, true);
    pthread_join(thread[2], NULL);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    verify_clusters(q, 50 * 16);
    CHECK_OK(vdisk_queue_destroy(q));
    close_place();
}

/* It is closed, and its grower set anew, while answers to it are on their way. */
static void *answer_always(void *arg)
{
    (void)arg;
    while (!atomic_load(&done)) {
        pthread_mutex_lock(&place.lock);
        uint64_t number = place.wish.number;
        pthread_mutex_unlock(&place.lock);
        int rc = vdisk_grown(number, number % 3 == 0 ? -EIO : 0);
        CHECK(rc == 0 || rc == -ENOENT);
    }
    return NULL;
}

static void test_closed_beside(void)
{
    unsigned rounds = test_is_quick() ? 10 : 40;
    pthread_t thread;
    char *buf = filled(3);

    memset(&place, 0, sizeof place);
    pthread_mutex_init(&place.lock, NULL);
    atomic_store(&done, false);
    CHECK(pthread_create(&thread, NULL, answer_always, NULL) == 0);
    for (unsigned i = 0; i < rounds; i++) {
        const char *path = test_path("thin%u", i);
        struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 1u << 30};
        struct vdisk_grower_opts opts = {.size = sizeof opts, .chunk = CHUNK, .retry_ms = 1};
        CHECK_OK(vdisk_create(path, &create));
        vdisk *v = open_rw(path);
        CHECK_OK(vdisk_set_grower(v, on_wish, &place, &opts));
        pthread_mutex_lock(&place.lock);
        place.wish.number = (v->number << 24) + 1;
        pthread_mutex_unlock(&place.lock);
        CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, 0, 0));
        if (i % 2)
            CHECK_OK(vdisk_set_grower(v, NULL, NULL, NULL));
        CHECK_OK(vdisk_close(v));
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    free(buf);
}

/* A synchronous write waits for room. */
static void *sync_write(void *arg)
{
    char *buf = filled(2);

    for (uint64_t i = 0; i < 8 * 16; i++)
        CHECK_OK(vdisk_pwrite(place.v, buf, CLUSTER, i * CLUSTER, 0));
    CHECK_OK(vdisk_sync(place.v));
    free(buf);
    return arg;
}

static void test_sync(void)
{
    pthread_t thread;

    open_place(CLUSTER);
    set_grower();
    CHECK(pthread_create(&thread, NULL, sync_write, NULL) == 0);
    while (mark_of(place.v).parked == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    wait_for_wish();
    extend_to(device_size() + 16 * MIB);
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    pthread_join(thread, NULL);
    close_place();
}

static void full_storage(bool qcow2, bool fixed)
{
    char *buf = filled(4), *back = filled(0);
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    open_full(qcow2, fixed);
    place.answers = fixed; /* and the volume follows the device */
    set_grower();
    CHECK_INT(place.wishes, 0);
    uint64_t sent = fixed ? 64 : write_until_parked(q, 0, 2, buf);
    vdisk_write_zeroes(q, place.v, 0, CLUSTER, 0, 0);
    vdisk_write(q, place.v, 0, buf, CLUSTER, VDISK_REQ_FUA, 0); /* in place, or again */
    for (unsigned i = 0; fixed && i < sent; i++)
        vdisk_write(q, place.v, i * CLUSTER, buf, CLUSTER, VDISK_REQ_FUA, 0);
    CHECK_OK(vdisk_submit(q));
    if (!fixed)
        memdisk_set_space(&place.disk, UINT64_MAX);
    if (!fixed)
        wait_for_wish();
    if (!fixed)
        CHECK_OK(vdisk_grown(place.wish.number, 0));
    reap_all(q, vdisk_queue_inflight(q), NULL);
    vdisk_read(q, place.v, (sent - 1) * CLUSTER, back, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    CHECK(memcmp(buf, back, CLUSTER) == 0);
    CHECK_MSG(!fixed || vdisk_size(place.v) > 16 * MIB, "the volume has not followed its device");
    CHECK_OK(vdisk_close(place.v));
    memdisk_finish(&place.disk);
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
    free(back);
}

static void test_full(void)
{
    full_storage(true, false);
    full_storage(false, false);
    full_storage(false, true);
}

static void test_refused(void)
{
    struct vdisk_grower_opts opts = {.size = sizeof opts, .flags = 1u << 31};
    vdisk *v;

    CHECK_OK(vdisk_open(make_full_image("image"), NULL, &v));
    CHECK_INT(vdisk_set_grower(v, on_wish, NULL, NULL), -EACCES);
    CHECK_HAS(vdisk_error_text(), "read-only");
    CHECK_INT(vdisk_set_grower(v, on_wish, NULL, &opts), -EINVAL);
    opts.size = 1;
    CHECK_INT(vdisk_set_grower(v, on_wish, NULL, &opts), -EINVAL);
    CHECK_OK(vdisk_set_grower(v, NULL, NULL, NULL));
    CHECK_INT(vdisk_set_grower(NULL, on_wish, NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_grown(0, 0), -ENOENT);
    CHECK_INT(vdisk_grown(1, 1), -EINVAL);
    CHECK_OK(vdisk_close(v));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "at_once", .run = test_at_once},
        {.name = "late", .run = test_late},
        {.name = "less", .run = test_less},
        {.name = "limit", .run = test_limit},
        {.name = "never", .run = test_never},
        {.name = "event_loop", .run = test_event_loop},
        {.name = "reap_alone", .run = test_reap_alone},
        {.name = "threads", .run = test_threads, .repeat = 4, .quick = 1},
        {.name = "closed_beside", .run = test_closed_beside},
        {.name = "sync", .run = test_sync},
        {.name = "full", .run = test_full},
        {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
