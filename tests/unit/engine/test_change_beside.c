/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changes an image as a whole, and others beside it: their requests are refused meanwhile, and so are their
 * changes where they are no longer right.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { SIZE = 1 << 20, BLOCK = 4096 };

static struct backend *keeper, *fault;
static vdisk_queue *q;
static vdisk *v;

/* An image whose header is changed once, late: until fault_clear(). */
static void begin(bool unfinished)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = SIZE,
                                       .unfinished = unfinished};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct fault_rule late = {.kinds = FAULT_KIND(IO_WRITE), .type = "header_commit", .nth = 1,
                              .what = FAULT_LATE};
    struct memory_options options = {.size = 0};
    struct backend *b;

    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory:change", &options, &keeper));
    OK(memory_backend_share(keeper, &b));
    OK(create_on(&qcow2_driver, b, &create, q));
    backend_close(b);
    OK(memory_backend_share(keeper, &b));
    OK(fault_backend_create(b, &fault));
    if (unfinished)
        how.flags |= VDISK_OPEN_UNFINISHED;
    OK(vdisk_open_backend(fault, &how, &v));
    assert_true(fault_add_rule(fault, &late) >= 0);
}

static int teardown(void **state)
{
    OK(vdisk_close(v));
    vdisk_queue_destroy(q);
    backend_close(keeper);
    return 0;
}

static int write_block(void)
{
    static char block[BLOCK];
    struct vdisk_completion done;

    vdisk_write(q, v, 0, block, sizeof block, 0, 0);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    return done.result;
}

static void *finish(void *arg)
{
    return (void *)(intptr_t)vdisk_finish(v);
}

static void nobody_writes_while_it_is_finished(void **state)
{
    pthread_t thread;
    void *rc;

    begin(true);
    assert_int_equal(pthread_create(&thread, NULL, finish, NULL), 0);
    while (fault_held(fault) == 0)
        sched_yield();
    assert_int_equal(write_block(), -EBUSY);
    fault_clear(fault);
    assert_int_equal(pthread_join(thread, &rc), 0);
    assert_int_equal((intptr_t)rc, 0);
    assert_int_equal(write_block(), 0);
}

static void *set_backing(void *name)
{
    return (void *)(intptr_t)vdisk_set_backing(v, name, "raw");
}

/* Who waits for another's change is refused after it: the layers below are still the old ones. */
static void one_backing_file_is_set(void **state)
{
    const struct timespec a_while = {.tv_nsec = 20 * 1000 * 1000};
    pthread_t first, second;
    void *rc;

    begin(false);
    assert_int_equal(pthread_create(&first, NULL, set_backing, unconst("first")), 0);
    while (fault_held(fault) == 0)
        sched_yield();
    assert_int_equal(pthread_create(&second, NULL, set_backing, unconst("second")), 0);
    nanosleep(&a_while, NULL); /* so that it waits, most likely: refused it is in any case */
    fault_clear(fault);
    assert_int_equal(pthread_join(first, &rc), 0);
    assert_int_equal((intptr_t)rc, 0);
    assert_int_equal(pthread_join(second, &rc), 0);
    assert_int_equal((intptr_t)rc, -EACCES);
    assert_int_equal(vdisk_make_empty(v, NULL, NULL), -EACCES);
    assert_int_equal(write_block(), -EACCES);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nobody_writes_while_it_is_finished, teardown),
        cmocka_unit_test_teardown(one_backing_file_is_set, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
