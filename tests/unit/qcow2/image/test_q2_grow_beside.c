/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growing while requests are in flight: what clears up to the old end, or writes compressed clusters up to it,
 * leaves alone what was written behind it since, and nobody can write behind it before the image is ready for
 * that.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "qcow2/format/ondisk.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { CLUSTER = 65536, BLOCK = 4096, SLICE_SPAN = 32 << 20, SIZE_FIELD = 24 };

static struct backend *keeper, *fault;
static vdisk_queue *q;
static vdisk *v;

static void make(uint64_t size, uint32_t version)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = size,
                                       .cluster_size = CLUSTER, .version = version};
    struct memory_options options = {.size = 0};
    struct backend *b;

    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory:grow", &options, &keeper));
    OK(memory_backend_share(keeper, &b));
    OK(create_on(&qcow2_driver, b, &create, q));
    backend_close(b);
}

static void open_it(void)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct backend *b;

    OK(memory_backend_share(keeper, &b));
    OK(fault_backend_create(b, &fault));
    OK(vdisk_open_backend(fault, &how, &v));
}

static int teardown(void **state)
{
    OK(vdisk_close(v));
    vdisk_queue_destroy(q);
    backend_close(keeper);
    return 0;
}

static void expect(uint64_t offset, char byte)
{
    char in[BLOCK], want[BLOCK];

    memset(want, byte, sizeof want);
    OK(vdisk_pread(v, in, sizeof in, offset));
    assert_memory_equal(in, want, sizeof in);
}

static void write_bytes(uint64_t offset, char byte)
{
    char out[BLOCK];

    memset(out, byte, sizeof out);
    OK(vdisk_pwrite(v, out, sizeof out, offset, 0));
}

enum { ZERO, ZERO_UNMAP, DISCARD, WAYS };

/* Data in the first and in the last, partial cluster; the slice of the first comes late. */
static void one_clear(int way, bool grow, uint32_t version)
{
    const uint64_t old = SLICE_SPAN + BLOCK;
    struct fault_rule late = {.kinds = FAULT_KIND(IO_READ), .type = "slice_load", .nth = 1, .what = FAULT_LATE};
    struct vdisk_completion done;

    make(old, version);
    open_it();
    write_bytes(0, 0x11);
    write_bytes(SLICE_SPAN, 0x22);
    OK(vdisk_close(v));
    open_it();
    expect(SLICE_SPAN, 0x22); /* its slice is at hand, for the write below */
    assert_true(fault_add_rule(fault, &late) >= 0);
    if (way == DISCARD)
        vdisk_discard(q, v, 0, old, 0, 0);
    else
        vdisk_write_zeroes(q, v, 0, old, way == ZERO_UNMAP ? VDISK_REQ_UNMAP : 0, 0);
    assert_int_equal(vdisk_reap(q, &done, 0, 1, NULL), 0);
    assert_true(fault_held(fault) > 0);
    if (grow) {
        OK(vdisk_grow(v, old + CLUSTER));
        write_bytes(old, 0x77);
        OK(vdisk_sync(v));
    }
    fault_clear(fault);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, 0);
    expect(0, 0);
    if (!grow || way != DISCARD) /* what shares its cluster with other data is not discarded */
        expect(SLICE_SPAN, 0);
    if (grow)
        expect(old, 0x77);
}

static void what_is_behind_the_old_end_stays(void **state)
{
    for (int way = 0; way < WAYS; way++)
        for (uint32_t version = 2; version <= 3; version++)
            for (int grow = 0; grow < 2; grow++) {
                one_clear(way, grow, version);
                if (way < WAYS - 1 || version < 3 || !grow)
                    teardown(state);
            }
}

static void assert_sound(void)
{
    struct qcow2_check_opts opts = {.progress = NULL};
    struct qcow2_check_result r;
    struct backend *b;

    OK(memory_backend_share(keeper, &b));
    OK(qcow2_check(b, q, &opts, &r));
    backend_close(b);
    assert_true(r.corruptions == 0 && r.check_errors == 0 && r.leaks == 0);
}

/*
 * Compressed, the last cluster is a part of one; the slice of the one before comes late. `plain`: as it does not
 * get shorter. What is written behind the old end meanwhile is there first.
 */
static void one_compressed(bool plain, bool grow)
{
    const uint64_t old = SLICE_SPAN + BLOCK, start = SLICE_SPAN - CLUSTER;
    struct fault_rule late = {.kinds = FAULT_KIND(IO_READ), .type = "slice_load", .nth = 1, .what = FAULT_LATE};
    char *out = malloc(CLUSTER + BLOCK), *in = malloc(CLUSTER + BLOCK);
    struct vdisk_completion done;
    uint32_t noise = 1;

    assert_true(out && in);
    for (unsigned i = 0; i < CLUSTER + BLOCK; i++)
        out[i] = plain ? (char)((noise = noise * 1103515245 + 12345) >> 16) : (char)(i >> 10);
    make(old, 3);
    open_it();
    write_bytes(0, 0x11);
    write_bytes(SLICE_SPAN, 0x22);
    OK(vdisk_close(v));
    open_it();
    expect(SLICE_SPAN, 0x22);
    assert_true(fault_add_rule(fault, &late) >= 0);
    vdisk_write(q, v, start, out, CLUSTER + BLOCK, VDISK_REQ_COMPRESSED, 0);
    while (fault_held(fault) == 0)
        assert_int_equal(vdisk_reap(q, &done, 0, 1, NULL), 0);
    if (grow) {
        OK(vdisk_grow(v, old + CLUSTER));
        write_bytes(old, 0x77);
        OK(vdisk_sync(v));
    }
    fault_clear(fault);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, 0);
    for (unsigned again = 0; again < 2; again++) {
        OK(vdisk_pread(v, in, CLUSTER + BLOCK, start));
        assert_memory_equal(in, out, CLUSTER + BLOCK);
        if (grow)
            expect(old, 0x77);
        OK(vdisk_close(v));
        assert_sound();
        open_it();
    }
    free(out);
    free(in);
}

static void compressed_data_ends_where_it_did(void **state)
{
    for (int i = 0; i < 4; i++) {
        one_compressed(i & 1, i & 2);
        if (i < 3)
            teardown(state);
    }
}

static void *grow_it(void *arg)
{
    OK(vdisk_grow(v, *(uint64_t *)arg));
    return NULL;
}

/* Somebody made the image smaller and left what was behind the new end: it is zeroed before the size is shown. */
static void the_size_is_shown_last(void **state)
{
    uint64_t size = 4 * CLUSTER, small = CLUSTER + BLOCK, field = htobe64(small);
    struct fault_rule late = {.kinds = FAULT_KIND(IO_WRITE), .type = "alloc_write", .nth = 1, .what = FAULT_LATE};
    char block[BLOCK] = {0};
    pthread_t thread;

    make(size, 3);
    open_it();
    for (uint64_t at = 0; at < size; at += BLOCK)
        write_bytes(at, 0x33);
    OK(vdisk_close(v));
    OK(memory_backend_write(keeper, SIZE_FIELD, &field, sizeof field));
    open_it();
    assert_int_equal(vdisk_size(v), small);
    assert_true(fault_add_rule(fault, &late) >= 0);
    assert_int_equal(pthread_create(&thread, NULL, grow_it, &size), 0);
    while (fault_held(fault) == 0)
        sched_yield();
    assert_int_equal(vdisk_size(v), small);
    vdisk_write(q, v, small, block, sizeof block, 0, 0);
    struct vdisk_completion done;
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, -EINVAL);
    fault_clear(fault);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(vdisk_size(v), size);
    expect(CLUSTER, 0x33);
    for (uint64_t at = small; at < size; at += BLOCK)
        expect(at, 0);
}

static void *grow_and_fail(void *arg)
{
    return (void *)(intptr_t)vdisk_grow(v, *(uint64_t *)arg);
}

/* It waits for the lock of whoever makes tables. */
static void wait_until_in_line(void)
{
    struct range_locks *structure = &q2_of(v->top)->meta.structure;
    struct vdisk_completion done;
    bool waits = false;

    while (!waits) {
        assert_int_equal(vdisk_reap(q, &done, 0, 0, NULL), 0);
        pthread_mutex_lock(&structure->lock);
        /* Who holds it, and we. */
        waits = !list_empty(&structure->all) && structure->all.next != structure->all.prev;
        pthread_mutex_unlock(&structure->lock);
        sched_yield();
    }
}

/*
 * The header may or may not have a longer L1 table, which lies elsewhere: whoever waited to put an L2 table into
 * the old one fails, and is not told that it is durable what may be gone.
 */
static void nothing_is_entered_in_a_doubtful_table(void **state)
{
    struct fault_rule late = {.kinds = FAULT_KIND(IO_WRITE), .type = "header_commit", .nth = 1,
                              .what = FAULT_LATE};
    struct fault_rule fail = {.kinds = FAULT_KIND(IO_FLUSH), .type = "header_commit", .nth = 1,
                              .what = FAULT_FAIL, .error = EIO};
    uint64_t size = 2ull << 30;
    char block[BLOCK];
    struct vdisk_completion done;
    pthread_t thread;
    void *rc;

    make(1ull << 30, 3);
    open_it();
    assert_true(fault_add_rule(fault, &late) >= 0 && fault_add_rule(fault, &fail) >= 0);
    assert_int_equal(pthread_create(&thread, NULL, grow_and_fail, &size), 0);
    while (fault_held(fault) == 0)
        sched_yield();
    memset(block, 0x77, sizeof block);
    vdisk_write(q, v, 600 << 20, block, sizeof block, 0, 1);
    wait_until_in_line();
    fault_release(fault);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, -EIO);
    assert_int_equal(pthread_join(thread, &rc), 0);
    assert_int_equal((intptr_t)rc, -EIO);
    fault_clear(fault);
}

static struct {
    unsigned count, wrong;
} reads;

/* A block that was written before, with a call that waits, on the thread that grows. */
static int read_in_between(void *arg, uint64_t done, uint64_t total)
{
    char block[BLOCK] = {0};
    int rc = vdisk_pread(v, block, sizeof block, 0);

    reads.count++;
    reads.wrong += rc != 0 || block[0] != 0x5a || block[BLOCK - 1] != 0x5a;
    return 0;
}

/* In a file, whose reads do not end at once. */
static void who_is_told_how_far_it_is_may_read(void **state)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 16 << 20};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};

    for (enum vdisk_prealloc mode = VDISK_PREALLOC_METADATA; mode <= VDISK_PREALLOC_FULL; mode++) {
        struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = mode, .progress = read_in_between};
        char path[] = "grow.XXXXXX";
        int fd = mkstemp(path), rc;
        assert_true(fd >= 0);
        OK(vdisk_create(path, &create));
        OK(vdisk_open(path, &how, &v));
        write_bytes(0, 0x5a);
        memset(&reads, 0, sizeof reads);
        rc = vdisk_resize(v, 200 << 20, &opts);
        assert_true(rc == 0 || rc == -ENOTSUP); /* a file system without fallocate() */
        assert_true(reads.count > 0 || rc < 0);
        assert_int_equal(reads.wrong, 0);
        OK(vdisk_close(v));
        close(fd);
        unlink(path);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_is_behind_the_old_end_stays, teardown),
        cmocka_unit_test_teardown(compressed_data_ends_where_it_did, teardown),
        cmocka_unit_test_teardown(the_size_is_shown_last, teardown),
        cmocka_unit_test_teardown(nothing_is_entered_in_a_doubtful_table, teardown),
        cmocka_unit_test(who_is_told_how_far_it_is_may_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
