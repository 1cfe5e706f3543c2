/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A grower makes a device larger while it is written to: in time, late, by less than was asked for, with errors,
 * never; from within its call, from a thread, from an event loop. No write fails but those that the limit leaves
 * without space, and reads, writes in place and flushes never wait.
 */
#include <poll.h>
#include <sys/eventfd.h>

#include "backends/lab/sim.h"
#include "engine/watermark.h"
#include "tests/callers/grower.h"

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
    caller_wait_begin("trim"); /* waits for what is in flight */
    CHECK_OK(vdisk_trim_space(place.v));
    caller_wait_end();
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

/* There is room, it says each time, and has made none. */
static void answer_idly(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    CHECK(arg == &place && v == place.v);
    place.wishes++;
    CHECK_OK(vdisk_grown(wish->number, 0));
}

static void idle_on(vdisk_queue *q)
{
    enum { N = 80 };
    struct vdisk_completion c;
    char *buf = filled(5);
    unsigned ended = 0, asked;

    open_place(CLUSTER);
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    place.opts.least_free = 64 * MIB; /* never is enough free */
    place.opts.retry_ms = 10000000;
    CHECK_OK(vdisk_set_grower(place.v, answer_idly, &place, &place.opts));
    vdisk_write(q, place.v, 0, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_INT(place.wishes, 1); /* the pause is on, for what is in time */
    for (uint64_t i = 1; i <= N; i++)
        vdisk_write(q, place.v, i * CLUSTER, buf, CLUSTER, 0, 0);
    for (unsigned i = 0; i < 400; i++) {
        asked = place.wishes;
        int n = vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 1000000});
        CHECK(n >= 0);
        if (n > 0)
            CHECK_OK(c.result);
        ended += (unsigned)n;
        CHECK_MSG(place.wishes <= asked + 1, "%u wishes of one call", place.wishes - asked);
    }
    CHECK_MSG(place.wishes > 2, "%u wishes", place.wishes); /* what waits has nobody else to look after it */
    CHECK(ended < N);
    extend_to(device_size() + 8 * MIB);
    CHECK_OK(vdisk_get_info(place.v, &(struct vdisk_info){.size = sizeof(struct vdisk_info)}));
    reap_all(q, N - ended, NULL);
    close_place();
    free(buf);
}

static void test_idle(void)
{
    for_each_kind(idle_on);
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

/* There was no more to be had, and after a while there is: who is asked again makes room for what comes. */
static void test_asked_again(void)
{
    char *buf = filled(9);
    struct vdisk_completion c;
    vdisk_queue *q;
    uint64_t sent;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    open_place(CLUSTER);
    place.answers = false;
    place.opts.flags = VDISK_GROWER_ASKED_AGAIN;
    place.opts.retry_ms = 1;
    set_grower();
    sent = write_until_parked(q, 0, 1, buf);
    wait_for_wish();
    CHECK_OK(vdisk_grown(place.wish.number, -ENOSPC));
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    CHECK_INT(c.result, -ENOSPC);
    pthread_mutex_lock(&place.lock);
    place.answers = true;
    pthread_mutex_unlock(&place.lock);
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    vdisk_write(q, place.v, (sent + 1) * CLUSTER, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    check_cluster(q, sent + 1, 9);
    CHECK_MSG(device_size() > DEVICE, "the device has %llu bytes", (unsigned long long)device_size());
    close_place();
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
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

/* An event callback that waits for its own write: no grower is called meanwhile, so the write is not parked. */
static vdisk_queue *event_queue;
static unsigned event_calls;

static void write_in_event(void *arg, vdisk *v, const struct vdisk_event *event)
{
    struct vdisk_completion c = {0};
    char *buf = filled(3);
    uint64_t i = 0;

    CHECK(arg == &place && event->kind == VDISK_EVENT_WATERMARK);
    caller_wait_begin("reap in a callback");
    for (; i < 2 * DEVICE / CLUSTER && c.result == 0; i++) {
        vdisk_write(event_queue, v, i * CLUSTER, buf, CLUSTER, 0, 0);
        CHECK_INT(vdisk_reap(event_queue, &c, 1, 1, NULL), 1); /* not woken for what cannot be told */
    }
    caller_wait_end();
    CHECK_INT(c.result, -ENOSPC);
    event_calls++;
    free(buf);
}

static void in_event_on(vdisk_queue *q)
{
    char *buf = filled(4);

    open_place(CLUSTER);
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    place.opts.least_free = MIB;
    event_queue = q;
    event_calls = 0;
    CHECK_OK(vdisk_set_event_callback(place.v, write_in_event, &place));
    set_grower();
    CHECK_OK(vdisk_set_watermark(place.v, 1));
    CHECK_INT(event_calls, 1);
    CHECK_INT(place.wishes, 1); /* told afterwards */
    vdisk_write(q, place.v, 0, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_INT(mark_of(place.v).parked, 0);
    close_place();
    free(buf);
}

static void test_in_event(void)
{
    for_each_kind(in_event_on);
}

/* ---- in virtual time: how much, and when -------------------------------------------------------------- */

enum { TAKES_MS = 200, AHEAD_MS = 1000, WRITES = 4000 };

/* Each extension takes its time; when the rate and that time are known no write waits for any. */
static void write_steadily(struct sim *sim, vdisk_queue *q)
{
    struct vdisk_completion c;
    uint64_t due = 0, wish = 0, sent = 0, ended = 0, early = 0;
    char *buf = filled(1);

    while (ended < WRITES) {
        if (sent == ended)
            vdisk_write(q, place.v, sent++ * CLUSTER, buf, CLUSTER, 0, 0);
        int n = vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 1000000});
        CHECK(n >= 0);
        if (n > 0)
            CHECK_OK(c.result);
        ended += (uint64_t)n;
        if (place.wish.number != wish) { /* a new one */
            wish = place.wish.number;
            due = sim_now_ns(sim) + TAKES_MS * UINT64_C(1000000);
            early += place.wish.parked == 0;
            CHECK(place.wish.wanted - place.wish.storage >= place.wish.bytes_per_second / 1000 * AHEAD_MS);
        }
        if (place.wishes > 2)
            CHECK_MSG(mark_of(place.v).parked == 0, "wish %u, of %llu B/s, came late", place.wishes,
                      (unsigned long long)place.wish.bytes_per_second);
        if (due > 0 && sim_now_ns(sim) >= due) {
            extend_to(place.wish.wanted);
            CHECK_OK(vdisk_grown(wish, 0));
            due = 0;
        }
    }
    CHECK_MSG(early + 2 >= place.wishes && place.wishes >= 4 && place.wishes < 20, "%u wishes, %llu in time",
              place.wishes, (unsigned long long)early);
    free(buf);
}

/* On a device of its own, of a simulation. */
static void in_sim(void (*run)(struct sim *sim, vdisk_queue *q))
{
    struct sim_options options = {.seed = rng_next(test_rng()), .latency_ns = 1000000};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    struct image_spec spec;
    struct backend *b;
    struct sim *sim;
    vdisk_queue *q;

    reset_place();
    place.opts.ahead_ms = AHEAD_MS;
    place.opts.least_free = CLUSTER;
    memdisk_init_fixed(&place.disk, 512, DEVICE);
    image_default(&spec, "steady", 512ull * MIB);
    b = memdisk_open(&place.disk, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    CHECK_OK(sim_create(&options, &sim));
    sim_enter(sim);
    CHECK_OK(sim_backend_create(sim, memdisk_open(&place.disk, false), &b));
    CHECK_OK(vdisk_open_backend(b, &opts, &place.v));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    set_grower();
    run(sim, q);
    CHECK_OK(vdisk_close(place.v));
    CHECK_OK(vdisk_queue_destroy(q));
    sim_leave(sim);
    sim_destroy(sim);
    memdisk_finish(&place.disk);
}

static void test_in_time(void)
{
    in_sim(write_steadily);
}

/* The first extension takes `seconds`, and a write waits for it. */
static void extend_late(struct sim *sim, vdisk_queue *q, unsigned seconds, unsigned steps, void (*meanwhile)(void))
{
    struct vdisk_completion c;
    char *buf = filled(1);
    uint64_t number, until;

    write_until_parked(q, 0, 1, buf);
    number = place.wish.number;
    for (unsigned i = 0; i < seconds * steps; i++) {
        until = sim_now_ns(sim) + UINT64_C(1000000000) / steps;
        while (sim_now_ns(sim) < until)
            CHECK_INT(vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 10000000}), 0);
        if (meanwhile)
            meanwhile();
    }
    place.answers = true; /* those that come */
    extend_to(place.wish.wanted);
    CHECK_OK(vdisk_grown(number, 0));
    reap_all(q, 1, NULL);
    free(buf);
}

/* It took so long once: what is asked for then is bounded by what is taken in the time to look ahead. */
static void extend_slowly(struct sim *sim, vdisk_queue *q)
{
    struct writer w = {q, 300, 600, 1};

    extend_late(sim, q, 600, 1, NULL);
    write_clusters(&w);
    CHECK_MSG(place.wishes > 1, "%u wishes", place.wishes);
    CHECK_MSG(device_size() < DEVICE + 900 * CLUSTER + 64 * MIB, "the device has %llu bytes",
              (unsigned long long)device_size());
}

static void test_slow(void)
{
    in_sim(extend_slowly);
}

/* While one waits, others find space, at a rate of their own. */
static void take_some(void)
{
    layer_note_end(place.v->top, watermark_highest(place.v) + CLUSTER);
}

static void stand_still(struct sim *sim, vdisk_queue *q)
{
    extend_late(sim, q, 8, 4, take_some); /* longer than samples go back */
    CHECK_MSG(mark_of(place.v).bytes_per_second < 8 * CLUSTER, "%llu B/s",
              (unsigned long long)mark_of(place.v).bytes_per_second);
}

static void test_stalled(void)
{
    in_sim(stand_still);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "at_once", .run = test_at_once},
        {.name = "late", .run = test_late},
        {.name = "less", .run = test_less},
        {.name = "idle", .run = test_idle},
        {.name = "limit", .run = test_limit},
        {.name = "asked_again", .run = test_asked_again},
        {.name = "never", .run = test_never},
        {.name = "in_time", .run = test_in_time},
        {.name = "slow", .run = test_slow},
        {.name = "stalled", .run = test_stalled},
        {.name = "event_loop", .run = test_event_loop},
        {.name = "in_event", .run = test_in_event},
        {.name = "reap_alone", .run = test_reap_alone},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
