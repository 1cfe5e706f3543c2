/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growers: on which thread one is told, how soon, and as what the process knows it. */
#include <stdatomic.h>

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

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "swapped", .run = test_swapped},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
