/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fault backend over memory: which calls its rules pick, and what becomes of them. */
#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

static vdisk_queue *q;
static struct backend *b;

static int setup(void **state)
{
    struct memory_options options = {.size = 1 << 20, .align = 512};
    struct backend *child;

    OK(memory_backend_create_with("memory", &options, &child));
    OK(fault_backend_create(child, &b));
    assert_ptr_equal(fault_backend_child(b), child);
    return 0;
}

static int teardown(void **state)
{
    backend_close(b);
    return 0;
}

static int add(struct fault_rule rule)
{
    int number = fault_add_rule(b, &rule);

    assert_true(number >= 0);
    return number;
}

/* Block `index` of 512 bytes becomes `byte`. */
static int write_block(unsigned index, uint8_t byte)
{
    char *buf = vdisk_alloc_buffer(512);
    int rc;

    memset(buf, byte, 512);
    rc = io_pwrite(q, b, buf, 512, index * 512);
    free(buf);
    return rc;
}

static void properties_pass_through(void **state)
{
    struct backend *child = fault_backend_child(b);

    assert_int_equal(b->align, 512);
    assert_int_equal(b->caps, child->caps);
    assert_int_equal(backend_size(b), 1 << 20);
    OK(write_block(4096, 1));
    assert_int_equal(backend_size(b), (1 << 21) + 512);
    OK(io_prange(q, b, IO_ZERO, 1 << 21, 4096));
    assert_int_equal(backend_size(b), (1 << 21) + 4096);
    OK(io_prange(q, b, IO_TRUNCATE, 8192, 0));
    assert_int_equal(backend_size(b), 8192);
    assert_int_equal(backend_size(child), 8192);
    OK(io_pflush(q, b));
    assert_status(q, b, 0, 4096, HOLE, 4096);
    assert_int_equal(b->driver->allocated(b), child->driver->allocated(child));
    assert_int_equal(fault_calls(b, IO_WRITE), 1);
    assert_int_equal(fault_calls(b, IO_ZERO), 1);
    assert_int_equal(fault_calls(b, IO_TRUNCATE), 1);
    assert_int_equal(fault_calls(b, IO_FLUSH), 1);
    assert_int_equal(fault_calls(b, IO_READ), 0);
    assert_int_equal(fault_calls(b, IO_STATUS), 1);
    assert_int_equal(fault_all_calls(b), 5);
    assert_int_equal(fault_fired(b), 0);
}

static void the_nth_call_fails(void **state)
{
    int rule = add((struct fault_rule){
        .kinds = FAULT_KIND(IO_WRITE), .nth = 2, .count = 2, .what = FAULT_FAIL, .error = EIO});

    OK(write_block(0, 1));
    assert_range(q, b, 0, 512, 1);
    assert_int_equal(write_block(0, 2), -EIO);
    assert_int_equal(write_block(1, 2), -EIO);
    OK(write_block(2, 2));
    assert_range(q, b, 0, 512, 1);
    assert_range(q, b, 512, 512, 0);
    assert_range(q, b, 1024, 512, 2);
    assert_int_equal(fault_rule_fired(b, rule), 2);
    assert_int_equal(fault_fired(b), 2);
}

static void a_range_fails(void **state)
{
    add((struct fault_rule){.offset = 1000, .len = 30, .what = FAULT_FAIL, .error = ENOSPC});
    OK(write_block(0, 1));
    assert_int_equal(write_block(1, 1), -ENOSPC);
    assert_int_equal(write_block(2, 1), -ENOSPC);
    OK(write_block(3, 1));
    assert_int_equal(io_prange(q, b, IO_DISCARD, 0, 4096), -ENOSPC);
    OK(io_pflush(q, b));
    fault_clear(b);
    OK(write_block(1, 1));
}

/* To whoever asked it is no space; the hint tells of both. */
static void a_used_up_quota_is_no_space(void **state)
{
    struct vdisk_create_opts o = {.size = sizeof o, .format = "raw", .virtual_size = 4096};

    add((struct fault_rule){.kinds = FAULT_WRITES, .what = FAULT_FAIL, .error = EDQUOT});
    assert_int_equal(write_block(1, 1), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ALLOCATE, 0, 4096), -ENOSPC);
    assert_int_equal(create_on(&raw_driver, b, &o, q), -ENOSPC);
    assert_non_null(strstr(vdisk_error_text(), ": No space left on device"));
    assert_non_null(strstr(vdisk_error_hint(), "quota"));
    fault_clear(b);
}

/* What a host calls cancelled has failed: only what was taken back before it was sent is told to be cancelled. */
static void a_host_cancels_nothing(void **state)
{
    add((struct fault_rule){.kinds = FAULT_WRITES, .what = FAULT_FAIL, .error = ECANCELED});
    assert_int_equal(write_block(1, 1), -EIO);
    assert_int_equal(io_prange(q, b, IO_ALLOCATE, 0, 4096), -EIO);
    fault_clear(b);
}

/* A ragged write reads first; the rule names the await of that, and nothing else fails. */
static void a_named_state_fails(void **state)
{
    add((struct fault_rule){.type = "bounce", .state = "BOUNCE_RMW_READ", .what = FAULT_FAIL, .error = EIO});
    OK(write_block(0, 7));
    assert_int_equal(io_pwrite(q, b, "abc", 3, 100), -EIO);
    assert_range(q, b, 0, 512, 7);
    fault_clear(b);
    add((struct fault_rule){.type = "no_such_op", .what = FAULT_FAIL, .error = EIO});
    OK(io_pwrite(q, b, "abc", 3, 100));
}

static void it_happens_and_fails_all_the_same(void **state)
{
    add((struct fault_rule){.kinds = FAULT_WRITES, .nth = 1, .what = FAULT_FAIL_AFTER, .error = EIO});
    assert_int_equal(write_block(3, 9), -EIO);
    assert_range(q, b, 3 * 512, 512, 9);
}

static void short_transfers_are_finished(void **state)
{
    enum { LEN = 64 * 512 };
    uint8_t *in = vdisk_alloc_buffer(LEN), *out = vdisk_alloc_buffer(LEN);
    struct iovec halves[] = {{out, LEN / 4}, {out + LEN / 4, 3 * LEN / 4}};
    struct io io;
    int every;

    fill_pattern(in, 0, LEN, 1);
    add((struct fault_rule){.kinds = FAULT_KIND(IO_WRITE), .bytes = 3 * 512 + 1, .nth = 1, .what = FAULT_SHORT});
    OK(io_pwrite(q, b, in, LEN, 0));
    assert_int_equal(fault_calls(b, IO_WRITE), 2);

    every = add((struct fault_rule){.kinds = FAULT_KIND(IO_READ), .what = FAULT_SHORT});
    io_rwv(&io, b, IO_READ, 0, halves, 2, LEN);
    OK(io_run(q, &io));
    assert_memory_equal(in, out, LEN);
    assert_int_equal(fault_rule_fired(b, every), 6); /* 32, 16, ... blocks; the last one passes */
    free(in);
    free(out);
}

static void short_and_then_an_error(void **state)
{
    uint8_t *buf = vdisk_alloc_buffer(2048);

    memset(buf, 3, 2048);
    add((struct fault_rule){.nth = 1, .what = FAULT_SHORT, .bytes = 1024});
    add((struct fault_rule){.nth = 1, .what = FAULT_FAIL, .error = EIO}); /* sees the second call first */
    assert_int_equal(io_pwrite(q, b, buf, 2048, 0), -EIO);
    assert_range(q, b, 0, 1024, 3);
    assert_range(q, b, 1024, 1024, 0);
    free(buf);
}

/* Requests on a raw volume: several in flight, which io_run() has not. */
struct volume {
    vdisk    *v;
    uint8_t  *buf;
    uint64_t  order[8];
    unsigned  ended;
};

static void submit_write(struct volume *vol, unsigned block, uint8_t byte, uint64_t user_data)
{
    memset(vol->buf + user_data * 512, byte, 512);
    vdisk_write(q, vol->v, block * 512, vol->buf + user_data * 512, 512, 0, user_data);
}

static void reap(struct volume *vol, unsigned want)
{
    struct vdisk_completion c[8];

    while (vol->ended < want) {
        int n = vdisk_reap(q, c, 1, 8, NULL);
        OK(n);
        for (int i = 0; i < n; i++) {
            assert_int_equal(c[i].result, 0);
            vol->order[vol->ended++] = c[i].user_data;
        }
    }
}

static void open_volume(struct volume *vol)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};

    memset(vol, 0, sizeof *vol);
    OK(vdisk_open_backend(b, &opts, &vol->v)); /* takes b over */
    vol->buf = vdisk_alloc_buffer(8 * 512);
}

static void close_volume(struct volume *vol)
{
    OK(vdisk_close(vol->v));
    free(vol->buf);
}

static void late_until_further_calls(void **state)
{
    struct volume vol;

    open_volume(&vol);
    add((struct fault_rule){.kinds = FAULT_KIND(IO_WRITE), .nth = 1, .what = FAULT_LATE, .calls = 3});
    for (unsigned i = 0; i < 4; i++)
        submit_write(&vol, 0, (uint8_t)(i + 1), i);
    reap(&vol, 4);
    assert_int_equal(vol.order[3], 0);
    assert_range(q, b, 0, 512, 1); /* the first came last */
    close_volume(&vol);
}

static void late_until_nothing_else_comes(void **state)
{
    struct volume vol;

    open_volume(&vol);
    add((struct fault_rule){.what = FAULT_LATE, .nth = 1, .calls = 1000});
    submit_write(&vol, 0, 5, 0);
    reap(&vol, 1);
    assert_range(q, b, 0, 512, 5);
    close_volume(&vol);
}

static void held_until_released(void **state)
{
    struct volume vol;

    open_volume(&vol);
    add((struct fault_rule){.kinds = FAULT_KIND(IO_WRITE), .nth = 1, .what = FAULT_LATE});
    add((struct fault_rule){.kinds = FAULT_KIND(IO_WRITE), .nth = 1, .what = FAULT_LATE_END});
    submit_write(&vol, 0, 1, 0);
    submit_write(&vol, 1, 2, 1);
    submit_write(&vol, 2, 3, 2);
    reap(&vol, 1);
    assert_int_equal(vol.order[0], 2);
    assert_int_equal(fault_held(b), 2);
    assert_range(q, b, 0, 512, 0); /* not yet seen */
    assert_range(q, b, 512, 512, 2); /* carried out, not ended */
    fault_release(b);
    reap(&vol, 3);
    assert_int_equal(fault_held(b), 0);
    assert_range(q, b, 0, 512, 1);
    close_volume(&vol);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_VOLUME(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(properties_pass_through),
        TEST(the_nth_call_fails),
        TEST(a_range_fails),
        TEST(a_used_up_quota_is_no_space), TEST(a_host_cancels_nothing),
        TEST(a_named_state_fails),
        TEST(it_happens_and_fails_all_the_same),
        TEST(short_transfers_are_finished),
        TEST(short_and_then_an_error),
        TEST_VOLUME(late_until_further_calls),
        TEST_VOLUME(late_until_nothing_else_comes),
        TEST_VOLUME(held_until_released),
    };
    int rc;

    q = test_queue(VDISK_QUEUE_AUTO);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(q);
    return rc;
}
