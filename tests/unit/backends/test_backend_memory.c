/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of sizes, the null backend, and the memory backend on one queue. */
#include "backends/memory.h"
#include "engine/volume.h"
#include "backends/name.h"
#include "tests/unit/backend_test.h"

enum { CHUNK = 65536 };

static vdisk_queue *q;

static void sizes_are_parsed(void **state)
{
    static const struct { const char *text; uint64_t size; const char *rest; } good[] = {
        {"0", 0, ""}, {"512", 512, ""}, {"1K", 1024, ""}, {"3m", 3u << 20, ""},
        {"2G,zeroes", UINT64_C(2) << 30, ",zeroes"},
        {"5T", UINT64_C(5) << 40, ""}, {"1P", UINT64_C(1) << 50, ""}, {"9223372036854775807", INT64_MAX, ""},
        {"10KB", 10240, "B"},
    };
    static const char *const bad[] = {"", "K", "-1", " 1", "9223372036854775808", "8192P", "99999999999999999999"};
    const char *rest;
    uint64_t size;

    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(name_parse_size(good[i].text, &size, &rest));
        assert_int_equal(size, good[i].size);
        assert_string_equal(rest, good[i].rest);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(name_parse_size(bad[i], &size, &rest));
    assert_string_equal(name_after("null:1K", "null"), "1K");
    assert_null(name_after("nullx:1K", "null"));
    assert_null(name_after("nul", "null"));
}

static void bad_names_are_refused(void **state)
{
    static const char *const bad[] = {
        "null:", "null:x", "null:1K,zeros", "memory:", "memory:1K,zeroes", "memory:2P",
    };
    struct backend *b;

    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_true(backend_open(bad[i], BACKEND_RDWR, &b) < 0);
        assert_non_null(strstr(vdisk_error_text(), bad[i]));
    }
}

static void null_forgets(void **state)
{
    struct backend *b;
    char buf[1000];

    OK(backend_open("null:1M", BACKEND_RDWR, &b));
    assert_int_equal(backend_size(b), 1 << 20);
    memset(buf, 7, sizeof buf);
    OK(io_pwrite(q, b, buf, sizeof buf, 3));
    memset(buf, 9, sizeof buf);
    OK(io_pread(q, b, buf, sizeof buf, 3));
    assert_true(is_filled(buf, 9, sizeof buf));
    OK(io_prange(q, b, IO_TRUNCATE, 5000, 0));
    assert_int_equal(backend_size(b), 5000);
    OK(io_prange(q, b, IO_ZERO, 5000, 1000));
    assert_int_equal(backend_size(b), 6000);
    OK(io_pflush(q, b));
    backend_close(b);

    OK(backend_open("null:1M,zeroes", 0, &b));
    assert_true(b->read_only);
    assert_range(q, b, 77, 100000, 0);
    backend_close(b);
}

static void bytes_come_back(void **state)
{
    static uint8_t in[3 * CHUNK], out[3 * CHUNK];
    const uint64_t at = UINT64_C(123456789012);
    struct backend *b;

    OK(backend_open("memory:1T", BACKEND_RDWR, &b));
    assert_int_equal(backend_size(b), UINT64_C(1) << 40);
    assert_range(q, b, at, sizeof in, 0);
    fill_pattern(in, at, sizeof in, 1);
    OK(io_pwrite(q, b, in, sizeof in, at));
    OK(io_pread(q, b, out, sizeof out, at));
    assert_memory_equal(in, out, sizeof in);
    assert_range(q, b, at - 5000, 5000, 0);
    assert_range(q, b, at + sizeof in, 5000, 0);
    assert_int_equal(b->driver->allocated(b), 4 * CHUNK);

    memset(out, 0, sizeof out);
    memory_backend_read(b, at + 11, out, 100000);
    assert_memory_equal(in + 11, out, 100000);
    OK(memory_backend_write(b, at + 11, "abc", 3));
    OK(io_pread(q, b, out, 3, at + 11));
    assert_memory_equal(out, "abc", 3);
    backend_close(b);
}

static void vectors_come_back(void **state)
{
    struct backend *b;
    uint8_t in[1000], out[1000];
    struct iovec to[] = {{in, 1}, {in + 1, 0}, {in + 1, 600}, {in + 601, 399}};
    struct iovec from[] = {{out, 500}, {out + 500, 500}};
    struct io io;

    OK(memory_backend_create("memory:0", 0, &b));
    fill_pattern(in, 0, sizeof in, 3);
    io_rwv(&io, b, IO_WRITE, CHUNK - 300, to, 4, 1000);
    OK(io_run(q, &io));
    assert_int_equal(backend_size(b), CHUNK + 700);
    io_rwv(&io, b, IO_READ, CHUNK - 300, from, 2, 1000);
    OK(io_run(q, &io));
    assert_memory_equal(in, out, sizeof in);
    /* over the end: zeros behind it */
    memset(out, 1, sizeof out);
    io_rwv(&io, b, IO_READ, CHUNK + 100, from, 2, 1000);
    OK(io_run(q, &io));
    assert_memory_equal(in + 400, out, 600);
    assert_true(is_filled(out + 600, 0, 400));
    backend_close(b);
}

static void the_end_moves(void **state)
{
    struct backend *b;
    char buf[100];

    memset(buf, 5, sizeof buf);
    OK(memory_backend_create("memory:10", 10, &b));
    OK(io_pwrite(q, b, buf, 100, 1000));
    assert_int_equal(backend_size(b), 1100);
    OK(io_prange(q, b, IO_TRUNCATE, 1050, 0));
    OK(io_prange(q, b, IO_TRUNCATE, 1100, 0));
    assert_range(q, b, 1000, 50, 5);
    assert_range(q, b, 1050, 50, 0);
    OK(io_prange(q, b, IO_ZERO, 1040, 1000));
    assert_int_equal(backend_size(b), 2040);
    assert_range(q, b, 1040, 1000, 0);
    OK(io_prange(q, b, IO_ALLOCATE, 3 * CHUNK, CHUNK));
    assert_int_equal(backend_size(b), 4 * CHUNK);
    assert_int_equal(b->driver->allocated(b), 2 * CHUNK);
    assert_range(q, b, 1000, 40, 5);
    assert_int_equal(io_prange(q, b, IO_TRUNCATE, UINT64_C(2) << 50, 0), -EFBIG);
    assert_int_equal(io_pwrite(q, b, buf, 100, (UINT64_C(1) << 50) - 50), -EFBIG);
    OK(io_pwrite(q, b, buf, 100, (UINT64_C(1) << 50) - 100));
    assert_range(q, b, (UINT64_C(1) << 50) - 100, 100, 5);
    backend_close(b);
}

static void holes_are_told(void **state)
{
    static char buf[CHUNK];
    struct backend *b;

    memset(buf, 5, sizeof buf);
    OK(memory_backend_create("memory:1P", UINT64_C(1) << 50, &b));
    assert_status(q, b, 0, UINT64_C(1) << 50, HOLE, UINT64_C(1) << 50);
    for (int i = 4; i < 8; i++)
        OK(io_pwrite(q, b, buf, CHUNK, (uint64_t)i * CHUNK));
    assert_status(q, b, 100, 1 << 30, HOLE, 4 * CHUNK - 100);
    assert_status(q, b, 4 * CHUNK + 1, 1 << 30, DATA, 4 * CHUNK - 1);
    assert_status(q, b, 4 * CHUNK, 1000, DATA, 1000);

    /* A discard takes whole chunks, a zeroing all that it is told. */
    OK(range_with(q, b, IO_DISCARD, 4 * CHUNK + 1, 2 * CHUNK, 0));
    assert_status(q, b, 4 * CHUNK, 1 << 30, DATA, CHUNK);
    assert_status(q, b, 5 * CHUNK, 1 << 30, HOLE, CHUNK);
    assert_range(q, b, 4 * CHUNK, CHUNK, 5);
    assert_range(q, b, 5 * CHUNK, CHUNK, 0);
    assert_int_equal(b->driver->allocated(b), 3 * CHUNK);
    OK(range_with(q, b, IO_ZERO, 6 * CHUNK - 100, CHUNK + 200, IO_UNMAP));
    assert_range(q, b, 5 * CHUNK, 2 * CHUNK + 100, 0);
    assert_range(q, b, 7 * CHUNK + 100, CHUNK - 100, 5);
    assert_int_equal(b->driver->allocated(b), 2 * CHUNK);
    OK(range_with(q, b, IO_ZERO, 4 * CHUNK, CHUNK, 0));
    assert_int_equal(b->driver->allocated(b), 2 * CHUNK);
    assert_range(q, b, 4 * CHUNK, CHUNK, 0);

    /* What was a hole takes writes again. */
    OK(io_pwrite(q, b, buf, 10, 5 * CHUNK + 50));
    assert_range(q, b, 5 * CHUNK, 50, 0);
    assert_range(q, b, 5 * CHUNK + 50, 10, 5);
    assert_range(q, b, 5 * CHUNK + 60, 1000, 0);
    assert_int_equal(b->driver->allocated(b), 3 * CHUNK);
    backend_close(b);
}

static void a_clone_is_apart(void **state)
{
    struct backend *b, *copy, *shared;
    char buf[100];

    memset(buf, 5, sizeof buf);
    OK(memory_backend_create("memory:1M", 1 << 20, &b));
    OK(io_pwrite(q, b, buf, 100, UINT64_C(1) << 41));
    OK(memory_backend_clone(b, &copy));
    OK(memory_backend_share(b, &shared));
    assert_int_equal(backend_size(copy), (UINT64_C(1) << 41) + 100);
    assert_int_equal(backend_size(shared), (UINT64_C(1) << 41) + 100);
    memset(buf, 6, sizeof buf);
    OK(io_pwrite(q, b, buf, 50, UINT64_C(1) << 41));
    backend_close(b);
    assert_range(q, copy, UINT64_C(1) << 41, 100, 5);
    assert_range(q, shared, UINT64_C(1) << 41, 50, 6);
    assert_range(q, shared, (UINT64_C(1) << 41) + 50, 50, 5);
    backend_close(copy);
    backend_close(shared);
}

static void a_fixed_one_is_like_a_device(void **state)
{
    struct memory_options options = {.size = 1 << 20, .align = 512, .fixed = true, .fill = 0xa5};
    struct backend *b, *copy;
    char *buf = vdisk_alloc_buffer(4096);

    memset(buf, 5, 4096);
    OK(memory_backend_create_with("dev", &options, &b));
    assert_int_equal(b->caps, 0);
    assert_range(q, b, 0, 1 << 20, 0xa5);
    OK(io_pwrite(q, b, buf, 512, (1 << 20) - 512));
    assert_int_equal(io_pwrite(q, b, buf, 1024, (1 << 20) - 512), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ZERO, 1 << 20, 512), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_TRUNCATE, 1 << 21, 0), -ENOTSUP);
    OK(io_prange(q, b, IO_ZERO, 512, 1024));
    OK(io_prange(q, b, IO_DISCARD, 0, 1 << 20));
    assert_range(q, b, 0, 512, 0xa5);
    assert_range(q, b, 512, 1024, 0);
    assert_range(q, b, 1536, 512, 0xa5);
    assert_status(q, b, 0, 1 << 20, DATA, 1 << 20);
    OK(memory_backend_clone(b, &copy));
    assert_int_equal(copy->align, 512);
    assert_range(q, copy, 512, 1024, 0);
    assert_range(q, copy, 1536, 512, 0xa5);
    backend_close(copy);
    backend_close(b);
    free(buf);
}

/* It has been extended meanwhile, or not. */
static void a_raw_volume_follows_its_device(void **state)
{
    struct memory_options options = {.size = 1 << 20, .align = 512, .fixed = true, .fill = 0xa5};
    struct vdisk_open_opts open = {.size = sizeof open, .format = "raw", .flags = VDISK_OPEN_RDWR};
    struct vdisk_resize_opts full = {.size = sizeof full, .preallocation = VDISK_PREALLOC_FULL};
    struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
    char *buf = vdisk_alloc_buffer(4096);
    struct backend *b;
    vdisk *v;

    OK(memory_backend_create_with("dev", &options, &b));
    OK(vdisk_open_backend(b, &open, &v));
    OK(vdisk_resize(v, 1 << 20, NULL));
    assert_int_equal(vdisk_grow(v, 2 << 20), -ENOSPC);
    assert_string_equal(vdisk_error_text(), "dev: has 1048576 bytes, 2097152 are asked for");
    assert_string_equal(vdisk_error_hint(), "extend the device first");
    assert_int_equal(vdisk_resize(v, 512, &shrink), -ENOTSUP);
    memory_backend_extend(b, 2 << 20);
    assert_int_equal(vdisk_grow(v, 3 << 20), -ENOSPC);
    assert_int_equal(vdisk_grow(v, 3 << 19), -ENOTSUP);
    assert_string_equal(vdisk_error_hint(), "the device has 2097152 bytes");
    assert_int_equal(vdisk_size(v), 1 << 20);
    assert_int_equal(vdisk_pread(v, buf, 4096, 1 << 20), -EINVAL);
    OK(vdisk_resize(v, 1 << 20, NULL)); /* as it is */
    OK(vdisk_grow(v, 2 << 20));
    assert_int_equal(vdisk_size(v), 2 << 20);
    OK(vdisk_pread(v, buf, 4096, (2 << 20) - 4096));
    assert_true(is_filled(buf, (char)0xa5, 4096));
    OK(vdisk_pwrite(v, buf, 4096, (2 << 20) - 4096, 0));
    memory_backend_extend(b, 3 << 20);
    OK(vdisk_resize(v, 3 << 20, &full));
    OK(vdisk_pread(v, buf, 4096, 2 << 20));
    assert_true(is_filled(buf, 0, 4096));
    free(buf);
    OK(vdisk_close(v));
}

/* The engine does a read-modify-write; the backend asserts that it is asked for whole blocks only. */
static void ragged_writes_are_widened(void **state)
{
    struct memory_options options = {.size = 1 << 20, .align = 4096};
    uint8_t oracle[40000] = {0}, buf[40000];
    struct backend *b;

    OK(memory_backend_create_with("aligned", &options, &b));
    for (unsigned i = 0; i < 50; i++) {
        unsigned offset = i * 397 % 30000, len = 1 + i * 211 % 9000;
        fill_pattern(buf, offset, len, i);
        memcpy(oracle + offset, buf, len);
        OK(io_pwrite(q, b, buf, len, offset));
        OK(io_pread(q, b, buf + 1, len, offset));
        assert_memory_equal(buf + 1, oracle + offset, len);
    }
    memory_backend_read(b, 0, buf, sizeof buf);
    assert_memory_equal(buf, oracle, sizeof oracle);
    backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed),
        cmocka_unit_test(bad_names_are_refused),
        cmocka_unit_test(null_forgets),
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(vectors_come_back),
        cmocka_unit_test(the_end_moves),
        cmocka_unit_test(holes_are_told),
        cmocka_unit_test(a_clone_is_apart),
        cmocka_unit_test(a_fixed_one_is_like_a_device),
        cmocka_unit_test(a_raw_volume_follows_its_device),
        cmocka_unit_test(ragged_writes_are_widened),
    };
    int rc;

    q = test_queue(VDISK_QUEUE_AUTO);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(q);
    return rc;
}
