/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes that were enqueued together are served together: calls are counted on a sparse qcow2. */
#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { BLOCK = 4096, BLOCKS = 16, MAX = 256, CLUSTER = 64 << 10, SPREAD = 40 };

static struct backend *fault;
static vdisk_queue *q;
static vdisk *v;

static void make(const struct memory_options *options)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 64 << 20};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct backend *child;

    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory:plug", options, &child));
    OK(create_on(&qcow2_driver, child, &create, q));
    OK(fault_backend_create(child, &fault));
    OK(vdisk_open_backend(fault, &how, &v));
}

static int setup(void **state)
{
    make(&(struct memory_options){.size = 0});
    return 0;
}

static char *block_of(unsigned index)
{
    static char memory[MAX][BLOCK];

    memset(memory[index], (int)index + 1, BLOCK);
    return memory[index];
}

static void write_block(unsigned index, uint32_t flags)
{
    vdisk_write(q, v, (uint64_t)index * BLOCK, block_of(index), BLOCK, flags, index);
}

/* Reap all; how many failed. */
static unsigned reap_all(int32_t *ret_results)
{
    struct vdisk_completion done[MAX];
    unsigned failed = 0;

    while (vdisk_queue_inflight(q) > 0) {
        int n = vdisk_reap(q, done, 1, MAX, NULL);
        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
            failed += done[i].result < 0;
            if (ret_results)
                ret_results[done[i].user_data] = done[i].result;
        }
    }
    return failed;
}

static int teardown(void **state)
{
    fault_clear(fault); /* after a failure something may be held */
    reap_all(NULL);
    OK(vdisk_close(v));
    vdisk_queue_destroy(q);
    return 0;
}

static void read_back(unsigned first, unsigned count)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    for (unsigned i = first; i < first + count; i++) {
        OK(vdisk_pread(v, buf, BLOCK, (uint64_t)i * BLOCK));
        assert_true(is_filled(buf, (uint8_t)(i + 1), BLOCK));
    }
    free(buf);
}

/* Something at the end, so that table and lease are there and only data is counted. */
static void warm_up(void)
{
    OK(vdisk_pwrite(v, block_of(0), BLOCK, 60 << 20, 0));
    OK(vdisk_pwrite(v, block_of(0), BLOCK, 20 << 20, 0));
}

static void neighbours_go_as_one(void **state)
{
    uint64_t before;

    warm_up();
    before = fault_calls(fault, IO_WRITE);
    for (unsigned i = 0; i < BLOCKS; i++)
        write_block(i, 0);
    assert_int_equal(reap_all(NULL), 0);
    assert_int_equal(fault_calls(fault, IO_WRITE) - before, 1);
    read_back(0, BLOCKS);
}

/* Out of order, and with a gap of a block: two runs. */
static void order_does_not_matter(void **state)
{
    uint64_t before;

    warm_up();
    before = fault_calls(fault, IO_WRITE);
    for (unsigned i = 0; i < BLOCKS; i++)
        if (i * 7 % BLOCKS != 5)
            write_block(i * 7 % BLOCKS, 0);
    assert_int_equal(reap_all(NULL), 0);
    /* Both runs lie in one cluster: the second finds it mapped by the first. */
    assert_int_equal(fault_calls(fault, IO_WRITE) - before, 2);
    read_back(0, 5);
    read_back(6, BLOCKS - 6);
}

static void flags_keep_them_apart(void **state)
{
    uint64_t before;

    warm_up();
    OK(vdisk_sync(v));
    before = fault_calls(fault, IO_WRITE);
    write_block(0, 0);
    write_block(1, VDISK_REQ_FUA);
    assert_int_equal(reap_all(NULL), 0);
    /* Two of data, and the flush's of the L2 slice and the refcounts, if these have changed. */
    assert_in_range(fault_calls(fault, IO_WRITE) - before, 3, 4);
    read_back(0, 2);
}

/* More than a plug holds at a time: all are carried out. */
static void a_full_plug_is_released(void **state)
{
    warm_up();
    for (unsigned i = 0; i < 200; i++)
        write_block(i, 0);
    assert_int_equal(reap_all(NULL), 0);
    read_back(0, 200);
}

/* ---- one that fails -------------------------------------------------------------------------------------- */

/* The run ends in a cluster that cannot be written: what lies before it has succeeded. */
static void a_failure_is_told_to_those_it_concerns(void **state)
{
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_WRITE), .what = FAULT_FAIL, .error = EIO, .len = CLUSTER};
    char *buf = vdisk_alloc_buffer(2 * CLUSTER);
    int32_t results[MAX] = {0};
    struct extent e;

    warm_up();
    /* The second cluster is mapped: a span of its own, in place. The merged run begins in the first, a new one. */
    memset(buf, 99, 2 * CLUSTER);
    OK(vdisk_pwrite(v, buf, CLUSTER, CLUSTER, 0));
    OK(v->top->format->lookup(v->top, CLUSTER, BLOCK, &e));
    rule.offset = e.host_offset;
    assert_true(fault_add_rule(fault, &rule) >= 0);
    vdisk_write(q, v, 0, block_of(0), BLOCK, 0, 0);
    vdisk_write(q, v, BLOCK, buf, 2 * CLUSTER - BLOCK, 0, 1);
    assert_int_equal(reap_all(results), 1);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], -EIO);
    fault_clear(fault);
    read_back(0, 1);
    free(buf);
}

/* Neighbours on one new run of clusters, written as one: the one that fails does so alone. */
static void no_error_is_shared(void **state)
{
    static const int errors[] = {EFAULT, EIO, ENXIO};

    warm_up();
    for (unsigned i = 0; i < ARRAY_LEN(errors); i++) {
        /* The write of all; then that of the second of three, which are sent in order. */
        struct fault_rule rule = {.kinds = FAULT_KIND(IO_WRITE), .state = "AW_WRITTEN", .nth = 1,
                                  .what = FAULT_FAIL, .error = errors[i]};
        int32_t results[MAX] = {0};
        assert_true(fault_add_rule(fault, &rule) >= 0);
        rule.nth = 2;
        assert_true(fault_add_rule(fault, &rule) >= 0);
        for (unsigned k = 0; k < 3; k++)
            vdisk_write(q, v, (uint64_t)(4 * i + k) * CLUSTER, block_of(k), BLOCK * 16, 0, k);
        assert_int_equal(reap_all(results), 1);
        assert_int_equal(results[1], -errors[i]);
        fault_clear(fault);
    }
}

/* How many clusters of data the image takes, one write after the other. */
static unsigned fill_up(unsigned most)
{
    unsigned n = 0;

    while (n < most && vdisk_pwrite(v, block_of(0), BLOCK, (uint64_t)n * CLUSTER, 0) == 0)
        n++;
    return n;
}

static void the_first_takes_what_space_there_is(void **state)
{
    struct memory_options options = {.size = 24 * CLUSTER, .fixed = true};
    int32_t results[MAX] = {0};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    unsigned room;

    memset(buf, 7, CLUSTER);
    make(&options);
    room = fill_up(MAX);
    assert_in_range(room, 2, 24);
    teardown(NULL);
    make(&options);
    assert_int_equal(fill_up(room - 1), room - 1);
    for (unsigned k = 0; k < 3; k++)
        vdisk_write(q, v, (uint64_t)(room + k) * CLUSTER, buf, CLUSTER, 0, k);
    assert_int_equal(reap_all(results), 2);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], -ENOSPC);
    free(buf);
}

/* A buffer that cannot be read, given to the kernel. */
static void a_bad_buffer_is_its_owners(enum vdisk_queue_kind kind)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 64 << 20};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    void *bad = mmap(NULL, CLUSTER, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *good = vdisk_alloc_buffer(CLUSTER);
    int32_t results[MAX] = {0};
    const char *tmp = getenv("TMPDIR");
    char name[PATH_MAX];
    int fd;

    snprintf(name, sizeof name, "%s/plug-XXXXXX", tmp ? tmp : "/tmp");
    fd = mkstemp(name);
    assert_true(fd >= 0 && bad != MAP_FAILED);
    close(fd);
    memset(good, 5, CLUSTER);
    OK(vdisk_create(name, &create));
    OK(vdisk_open(name, &how, &v));
    q = test_queue(kind);
    vdisk_write(q, v, 0, good, CLUSTER, 0, 0);
    vdisk_write(q, v, CLUSTER, bad, CLUSTER, 0, 1);
    vdisk_write(q, v, 2 * CLUSTER, good, CLUSTER, 0, 2);
    assert_int_equal(reap_all(results), 1);
    assert_int_equal(results[1], -EFAULT);
    vdisk_queue_destroy(q);
    OK(vdisk_close(v));
    unlink(name);
    munmap(bad, CLUSTER);
    free(good);
}

static void bad_buffers(void **state)
{
    a_bad_buffer_is_its_owners(VDISK_QUEUE_AUTO);
    a_bad_buffer_is_its_owners(VDISK_QUEUE_THREADS);
}

/* ---- neighbouring clusters ------------------------------------------------------------------------------- */

/* A block in each of SPREAD successive clusters, in any order, at once. */
static void write_spread(void)
{
    for (unsigned i = 0; i < SPREAD; i++) {
        unsigned n = i * 7 % SPREAD;
        vdisk_write(q, v, (uint64_t)n * CLUSTER + BLOCK, block_of(n), BLOCK, 0, n);
    }
    assert_int_equal(reap_all(NULL), 0);
}

static void check_spread(void)
{
    char *buf = vdisk_alloc_buffer(BLOCK);
    uint64_t first = 0;

    for (unsigned i = 0; i < SPREAD; i++) {
        uint64_t guest = (uint64_t)i * CLUSTER + BLOCK;
        struct extent e;
        OK(v->top->format->lookup(v->top, guest, BLOCK, &e));
        assert_int_equal(e.kind, EXTENT_DATA);
        first = i == 0 ? e.host_offset : first;
        assert_int_equal(e.host_offset - first, (uint64_t)i * CLUSTER);
        OK(vdisk_pread(v, buf, BLOCK, guest));
        assert_true(is_filled(buf, (uint8_t)(i + 1), BLOCK));
    }
    free(buf);
}

/* What is left of the lease does not do for them: it is filled again on the way. */
static void neighbours_on_the_host_too(void **state)
{
    uint64_t before;

    warm_up();
    OK(vdisk_sync(v));
    before = fault_calls(fault, IO_WRITE);
    write_spread();
    assert_int_equal(fault_calls(fault, IO_WRITE) - before, SPREAD);
    check_spread();
    /* And then one L2 slice and one refcount slice. */
    before = fault_calls(fault, IO_WRITE);
    OK(vdisk_sync(v));
    assert_int_equal(fault_calls(fault, IO_WRITE) - before, 2);
}

/* All of them wait for an L2 table, and then for a lease. */
static void neighbours_when_nothing_is_there(void **state)
{
    write_spread();
    check_spread();
}

/* ---- one new cluster ------------------------------------------------------------------------------------- */

static void turn_some(void)
{
    struct vdisk_completion done[MAX];

    for (int i = 0; i < 4 * BLOCKS; i++)
        assert_true(vdisk_reap(q, done, 0, MAX, NULL) >= 0);
}

/* The first takes it; the others wait for that and no longer: then all of them are under way at once. */
static void one_cluster_is_taken_once(void **state)
{
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_WRITE), .what = FAULT_LATE};
    struct extent e, next;

    warm_up();
    assert_true(fault_add_rule(fault, &rule) >= 0);
    for (unsigned i = 0; i < BLOCKS; i += 2)
        write_block(i, 0);
    turn_some();
    assert_int_equal(fault_held(fault), 1);
    fault_release(fault);
    turn_some();
    assert_int_equal(fault_held(fault), BLOCKS / 2 - 1);
    fault_clear(fault);
    assert_int_equal(reap_all(NULL), 0);
    write_block(BLOCKS, 0);
    assert_int_equal(reap_all(NULL), 0);
    OK(v->top->format->lookup(v->top, 0, BLOCK, &e));
    OK(v->top->format->lookup(v->top, CLUSTER, BLOCK, &next));
    assert_int_equal(next.host_offset - e.host_offset, CLUSTER);
    for (unsigned i = 0; i < BLOCKS; i += 2)
        read_back(i, 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(neighbours_go_as_one, setup, teardown),
        cmocka_unit_test_setup_teardown(order_does_not_matter, setup, teardown),
        cmocka_unit_test_setup_teardown(flags_keep_them_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_plug_is_released, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failure_is_told_to_those_it_concerns, setup, teardown),
        cmocka_unit_test_setup_teardown(no_error_is_shared, setup, teardown),
        cmocka_unit_test_teardown(the_first_takes_what_space_there_is, teardown),
        cmocka_unit_test(bad_buffers),
        cmocka_unit_test_setup_teardown(neighbours_on_the_host_too, setup, teardown),
        cmocka_unit_test_setup_teardown(neighbours_when_nothing_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(one_cluster_is_taken_once, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
