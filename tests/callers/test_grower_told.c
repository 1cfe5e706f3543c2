/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growers: on which thread one is told, how soon, and as what the process knows it. */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>

#include "backends/lab/fault.h"
#include "engine/backend.h"
#include "tests/callers/grower.h"

/* ---- a thread that has found a wish, and does not come back to tell it ---------------------------------- */

static _Atomic bool busy, let_go;
static pthread_t holder;
static _Atomic unsigned told_there, told_here;

static void count_call(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    CHECK(arg == &place && v == place.v);
    atomic_fetch_add(pthread_equal(pthread_self(), holder) ? &told_there : &told_here, 1);
    if (place.answers) {
        extend_to(wish->wanted);
        CHECK_OK(vdisk_grown(wish->number, 0));
    }
}

/* An event callback that fills the device, by which there is a wish, and goes on. */
static void hold(void *arg, vdisk *v, const struct vdisk_event *event)
{
    char *buf = filled(3);
    int rc = 0;

    CHECK(arg == &place && event->kind == VDISK_EVENT_WATERMARK);
    for (uint64_t i = 0; i < 2 * DEVICE / CLUSTER && rc == 0; i++)
        rc = vdisk_pwrite(v, buf, CLUSTER, i * CLUSTER, 0);
    CHECK_INT(rc, -ENOSPC);
    atomic_store(&busy, true);
    while (!atomic_load(&let_go))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    free(buf);
}

static void *find_wish(void *arg)
{
    CHECK_OK(vdisk_set_watermark(place.v, 4096));
    return arg;
}

/* Without a thread; when it returns there is a wish in the holder's line. */
static void open_held(void)
{
    open_place(CLUSTER);
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    atomic_store(&busy, false);
    atomic_store(&let_go, false);
    atomic_store(&told_there, 0);
    atomic_store(&told_here, 0);
    CHECK_OK(vdisk_set_grower(place.v, count_call, &place, &place.opts));
    CHECK_OK(vdisk_set_event_callback(place.v, hold, &place));
    CHECK(pthread_create(&holder, NULL, find_wish, NULL) == 0);
    while (!atomic_load(&busy))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    CHECK_INT(atomic_load(&told_there), 0);
    CHECK(mark_of(place.v).wish != 0);
}

static void let_holder_go(void)
{
    atomic_store(&let_go, true);
    pthread_join(holder, NULL);
}

/* Another is set, with a thread of its own: that tells it, whoever has been in whatever line. */
static void test_swapped(void)
{
    open_held();
    place.opts.flags = 0;
    place.opts.retry_ms = 10000000;
    CHECK_OK(vdisk_set_grower(place.v, count_call, &place, &place.opts));
    caller_wait_begin("a call on the grower's thread");
    while (atomic_load(&told_here) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    caller_wait_end();
    let_holder_go();
    CHECK_INT(atomic_load(&told_there), 0);
    CHECK_INT(atomic_load(&told_here), 1);
    close_place();
}

/* A write of another thread waits for room: it need not wait for the holder, too. */
static void parked_beside(vdisk_queue *q)
{
    struct vdisk_completion c;
    char *buf = filled(1);
    int n = 0;

    open_held();
    place.answers = true;
    vdisk_write(q, place.v, 60ull * MIB, buf, CLUSTER, 0, 1);
    caller_wait_begin("reap beside a thread that is busy");
    while (n == 0)
        n = vdisk_reap(q, &c, 1, 1, NULL); /* early, for the grower */
    caller_wait_end();
    CHECK_INT(n, 1);
    CHECK_OK(c.result);
    CHECK(atomic_load(&told_here) > 0);
    CHECK_INT(atomic_load(&told_there), 0);
    let_holder_go();
    close_place();
    free(buf);
}

static void test_parked_beside(void)
{
    for_each_kind(parked_beside);
}

/* ---- nothing that could be parked ------------------------------------------------------------------------ */

static void make_room(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    CHECK(arg == &place && v == place.v);
    CHECK_INT(wish->parked, 0);
    place.wishes++;
    memdisk_set_space(&place.disk, memdisk_occupied(&place.disk) + MIB);
    CHECK_OK(vdisk_grown(wish->number, 0));
}

/* Synchronous calls alone, on storage whose size tells nothing: what finds no space fails, and is told of. */
static void sync_alone(bool qcow2)
{
    unsigned failed = 0, ended = 0;
    char *buf = filled(3);

    open_full(qcow2, false);
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    place.opts.retry_ms = 10000000;
    CHECK_OK(vdisk_set_grower(place.v, make_room, &place, &place.opts));
    while (ended < 8 * 16) {
        unsigned asked = place.wishes;
        int rc = vdisk_pwrite(place.v, buf, CLUSTER, (uint64_t)ended * CLUSTER, 0);
        CHECK(rc == 0 || rc == -ENOSPC);
        CHECK_INT(place.wishes, asked + (rc < 0));
        failed += rc < 0;
        ended += rc == 0;
        CHECK_MSG(failed < 40, "%u failed, the grower was asked %u times", failed, place.wishes);
    }
    CHECK_MSG(failed > 3, "%u failed", failed);
    CHECK_OK(vdisk_close(place.v));
    memdisk_finish(&place.disk);
    free(buf);
}

static void test_sync_alone(void)
{
    sync_alone(false);
    sync_alone(true);
}

/* ---- signals --------------------------------------------------------------------------------------------- */

static void see_signals(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    sigset_t set;

    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &set) == 0);
    CHECK_INT(sigismember(&set, SIGTERM), 0); /* a command that is run from here can be stopped */
    CHECK_INT(sigismember(&set, SIGCHLD), 0);
    CHECK_INT(sigismember(&set, SIGUSR1), 1);
    on_wish(arg, v, wish);
}

static void test_signals(void)
{
    sigset_t set, old;

    open_place(CLUSTER);
    place.opts.least_free = 64 * MIB;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(pthread_sigmask(SIG_SETMASK, &set, &old) == 0);
    CHECK_OK(vdisk_set_grower(place.v, see_signals, &place, &place.opts));
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    wait_for_wish();
    close_place();
}

/* ---- a file that another program cuts ------------------------------------------------------------------- */

/* A write that waits is behind the end then: it does not begin anew. */
static void cut_beside(vdisk_queue *q)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct fault_rule full = {.kinds = FAULT_KIND(IO_WRITE), .offset = 12 * MIB, .len = 1, .nth = 1,
                              .what = FAULT_FAIL, .error = ENOSPC};
    const char *path = test_path("cut");
    char *buf = filled(1);
    struct backend *file, *fault;
    struct vdisk_completion c;
    struct stat st;

    reset_place();
    place.opts.retry_ms = 10000000;
    CHECK(close(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600)) == 0 && truncate(path, 16 * MIB) == 0);
    CHECK_OK(backend_open(path, BACKEND_RDWR | BACKEND_BUFFERED, &file));
    CHECK_OK(fault_backend_create(file, &fault));
    CHECK_OK(fault_add_rule(fault, &full));
    CHECK_OK(vdisk_open_backend(fault, &opts, &place.v));
    set_grower();
    vdisk_write(q, place.v, 12 * MIB, buf, CLUSTER, 0, 0);
    while (mark_of(place.v).parked == 0)
        CHECK_INT(vdisk_reap(q, NULL, 1, 0, &(struct timespec){.tv_nsec = 1000000}), 0);
    wait_for_wish();
    CHECK(truncate(path, 8 * MIB) == 0);
    CHECK_OK(vdisk_get_info(place.v, &(struct vdisk_info){.size = sizeof(struct vdisk_info)}));
    CHECK_INT(vdisk_size(place.v), 8 * MIB);
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    caller_wait_begin("reap");
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    caller_wait_end();
    CHECK_INT(c.result, -EINVAL);
    CHECK_INT(vdisk_explain(q, &c), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "end");
    CHECK(stat(path, &st) == 0 && st.st_size == 8 * MIB);
    CHECK_OK(vdisk_close(place.v));
    free(buf);
}

static void test_cut(void)
{
    for_each_kind(cut_beside);
}

/* ---- a device that is cut, and extended again ------------------------------------------------------------ */

static struct backend_driver resized;
static _Atomic uint64_t resized_to;

static int look_it_up(struct backend *b)
{
    atomic_store(&b->size, atomic_load(&resized_to));
    return 0;
}

static void resize_device(uint64_t size)
{
    atomic_store(&resized_to, size);
    CHECK_OK(vdisk_get_info(place.v, &(struct vdisk_info){.size = sizeof(struct vdisk_info)}));
}

static void write_first(vdisk_queue *q, struct backend *fault, const char *buf)
{
    struct fault_rule full = {.kinds = FAULT_KIND(IO_WRITE), .len = 1, .nth = 1, .what = FAULT_FAIL,
                              .error = ENOSPC};

    CHECK_OK(fault_add_rule(fault, &full));
    vdisk_write(q, place.v, 0, buf, BLOCK, 0, 0);
    CHECK_OK(vdisk_submit(q));
}

/* It says that this is as far as it goes. From what is left after a cut it goes further. */
static void test_cut_device(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char *buf = filled(1);
    struct vdisk_completion c;
    struct backend *b;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    reset_place();
    place.errors_first = 1;
    place.error = -ENOSPC;
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    memdisk_init_fixed(&place.disk, 512, 16 * MIB);
    CHECK_OK(fault_backend_create(memdisk_open(&place.disk, false), &b));
    atomic_store(&resized_to, 16 * MIB);
    resized = *b->driver;
    resized.refresh = look_it_up;
    b->driver = &resized;
    CHECK_OK(vdisk_open_backend(b, &opts, &place.v));
    place.answers = true;
    set_grower();
    write_first(q, b, buf);
    caller_wait_begin("reap");
    while (vdisk_reap(q, &c, 1, 1, NULL) == 0)
        ;
    CHECK_INT(c.result, -ENOSPC);
    CHECK_INT(place.wishes, 1);
    resize_device(8 * MIB);
    resize_device(12 * MIB);
    write_first(q, b, buf);
    while (vdisk_reap(q, &c, 1, 1, NULL) == 0)
        ;
    caller_wait_end();
    CHECK_OK(c.result);
    CHECK_OK(vdisk_close(place.v));
    CHECK_OK(vdisk_queue_destroy(q));
    memdisk_finish(&place.disk);
    free(buf);
}

/* ---- cancelled while it is tried again ------------------------------------------------------------------ */

static void cancelled_late(vdisk_queue *q)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct fault_rule full = {.kinds = FAULT_KIND(IO_WRITE), .offset = CLUSTER, .len = 1, .what = FAULT_FAIL,
                              .error = ENOSPC};
    struct fault_rule second = {.kinds = FAULT_KIND(IO_WRITE), .offset = CLUSTER, .len = 1, .nth = 2,
                                .what = FAULT_LATE_END};
    struct backend *fails, *late;
    struct vdisk_completion c;
    char *buf = filled(1);

    reset_place();
    place.opts.retry_ms = 10000000;
    memdisk_init_fixed(&place.disk, 512, 16 * MIB);
    CHECK_OK(fault_backend_create(memdisk_open(&place.disk, false), &fails));
    CHECK_OK(fault_backend_create(fails, &late));
    CHECK_OK(fault_add_rule(fails, &full));
    CHECK_OK(fault_add_rule(late, &second));
    CHECK_OK(vdisk_open_backend(late, &opts, &place.v));
    set_grower();
    vdisk_write(q, place.v, CLUSTER, buf, BLOCK, 0, 7);
    while (mark_of(place.v).parked == 0)
        CHECK_INT(vdisk_reap(q, NULL, 1, 0, &(struct timespec){.tv_nsec = 1000000}), 0);
    wait_for_wish();
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    while (fault_held(late) == 0)
        CHECK_INT(vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 1000000}), 0);
    CHECK_INT(vdisk_cancel(q, 7), -EALREADY);
    fault_release(late);
    caller_wait_begin("reap");
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    caller_wait_end();
    CHECK_INT(c.result, -ENOSPC);
    CHECK_INT(mark_of(place.v).parked, 0);
    CHECK_OK(vdisk_close(place.v));
    memdisk_finish(&place.disk);
    free(buf);
}

static void test_cancelled_late(void)
{
    for_each_kind(cancelled_late);
}

/* ---- the first grower, set by two at once --------------------------------------------------------------- */

static pthread_barrier_t both;

static void answer_with_error(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    CHECK(arg == &place && v == place.v);
    CHECK_OK(vdisk_grown(wish->number, -EAGAIN));
}

static void *set_first(void *arg)
{
    pthread_barrier_wait(&both);
    CHECK_OK(vdisk_set_grower(place.v, answer_with_error, &place, &place.opts));
    return arg;
}

static void test_first(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    unsigned rounds = test_is_quick() ? 100 : 1000;
    pthread_t thread;

    open_place(CLUSTER);
    CHECK_OK(vdisk_close(place.v));
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    place.opts.least_free = 1ull << 40;
    CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
    for (unsigned i = 0; i < rounds; i++) {
        CHECK_OK(vdisk_open_backend(memdisk_open(&place.disk, false), &opts, &place.v));
        (void)mark_of(place.v); /* it has been looked at: the two meet */
        CHECK(pthread_create(&thread, NULL, set_first, NULL) == 0);
        set_first(NULL);
        pthread_join(thread, NULL);
        CHECK_OK(vdisk_close(place.v));
    }
    pthread_barrier_destroy(&both);
    memdisk_finish(&place.disk);
}

/* ---- storage that becomes no larger ----------------------------------------------------------------------- */

static void test_part(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    const char *path = make_full_image("part");
    char name[600];
    struct stat st;
    vdisk *v;

    CHECK(stat(path, &st) == 0);
    snprintf(name, sizeof name, "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"raw\",\"size\":%llu,\"file\":"
             "{\"driver\":\"file\",\"filename\":\"%s\"}}}", (unsigned long long)st.st_size / 512 * 512, path);
    CHECK_OK(vdisk_open(name, &opts, &v));
    CHECK_INT(vdisk_set_grower(v, count_call, &place, NULL), -ENOTSUP);
    CHECK_HAS(vdisk_error_text(), "part of a file");
    CHECK_OK(vdisk_set_grower(v, NULL, NULL, NULL));
    CHECK_OK(vdisk_close(v));
}

/* ---- more than one answer --------------------------------------------------------------------------------- */

/* Nobody looks when a pause is over: what waits has a wish, or it waits for ever. */
static void write_asking(vdisk_queue *q, uint64_t cluster, const char *buf)
{
    struct vdisk_completion c;
    int got;

    vdisk_write(q, place.v, cluster * CLUSTER, buf, CLUSTER, 0, 0);
    while ((got = vdisk_reap(q, &c, 0, 1, NULL)) == 0 || got == -EINTR) {
        struct vdisk_watermark mark = mark_of(place.v);
        CHECK_MSG(mark.parked == 0 || mark.wish != 0, "cluster %llu waits, and nobody is asked",
                  (unsigned long long)cluster);
    }
    CHECK_INT(got, 1);
    CHECK_OK(c.result);
}

/* "Not now"; there is more after all, which is told, or seen by who looks. Then it is asked as ever. */
static void answered_once_more(vdisk_queue *q, bool told)
{
    char *buf = filled(8);
    uint64_t sent = 0;

    open_place(CLUSTER);
    place.opts.flags = VDISK_GROWER_NO_THREAD;
    place.opts.retry_ms = 3600000;
    place.answers = true;
    place.errors_first = 1;
    place.error = -EIO;
    set_grower();
    while (place.wishes == 0)
        write_asking(q, sent++, buf);
    extend_to(device_size() + CHUNK);
    if (told)
        CHECK_OK(vdisk_grown(place.wish.number, 0));
    else
        CHECK_OK(vdisk_get_info(place.v, &(struct vdisk_info){.size = sizeof(struct vdisk_info)}));
    while (sent < 20 * 16)
        write_asking(q, sent++, buf);
    close_place();
    free(buf);
}

static void once_more_on(vdisk_queue *q)
{
    answered_once_more(q, true);
    answered_once_more(q, false);
}

static void test_once_more(void)
{
    for_each_kind(once_more_on);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "once_more", .run = test_once_more},
        {.name = "swapped", .run = test_swapped},
        {.name = "parked_beside", .run = test_parked_beside},
        {.name = "cut", .run = test_cut},
        {.name = "first", .run = test_first},
        {.name = "cancelled_late", .run = test_cancelled_late},
        {.name = "cut_device", .run = test_cut_device},
        {.name = "part", .run = test_part},
        {.name = "signals", .run = test_signals},
        {.name = "sync_alone", .run = test_sync_alone},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
