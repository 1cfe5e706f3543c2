/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A filter: bytes come back through it, lie turned below it, and all else is as it is below. */
#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/volume.h"
#include "filters/filters.h"
#include "tests/unit/backend_test.h"

enum { LEN = 3 << 20, KEY = 13 };

static vdisk_queue *q;
static uint8_t in[LEN + 4096], out[LEN + 4096], raw[LEN + 4096];

static int setup(void **state)
{
    q = test_queue(VDISK_QUEUE_AUTO);
    return 0;
}

static int teardown(void **state)
{
    vdisk_queue_destroy(q);
    return 0;
}

/* On memory that wants `align`; *ret_below is a second handle on what lies below. */
static struct backend *on_memory(uint32_t align, struct backend **ret_below)
{
    struct backend *memory, *b;

    OK(memory_backend_create_with("rotated", &(struct memory_options){.align = align}, &memory));
    OK(memory_backend_share(memory, ret_below));
    OK(rotate_backend_create(memory, KEY, &b));
    return b;
}

static void assert_turned(const uint8_t *plain, const uint8_t *stored, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++)
        assert_int_equal(stored[i], plain[i] ? (plain[i] - 1 + KEY) % 255 + 1 : 0);
}

static void bytes_come_back_and_lie_turned(void **state)
{
    static const uint32_t aligns[] = {1, 512, 4096};

    for (unsigned i = 0; i < ARRAY_LEN(aligns); i++) {
        struct backend *below, *b = on_memory(aligns[i], &below);
        uint64_t len = LEN, at = 0;

        for (unsigned round = 0; round < 3; round++) { /* whole, then ragged ones of odd lengths within */
            fill_pattern(in + at, at, len, round);
            memcpy(raw, in, sizeof in);
            OK(io_pwrite(q, b, in + at, len, at));
            assert_memory_equal(raw, in, sizeof in); /* the caller's memory is as it was */
            OK(io_pread(q, b, out, LEN, 0));
            assert_memory_equal(in, out, LEN);
            OK(io_pread(q, b, out + 77, 4321, 77));
            assert_memory_equal(in, out, LEN);
            memory_backend_read(below, 0, raw, LEN);
            assert_turned(in, raw, LEN);
            at = 12345 * (round + 1);
            len = 1234567;
        }
        backend_close(b);
        backend_close(below);
    }
}

static void several_buffers(void **state)
{
    struct backend *below, *b = on_memory(1, &below);
    struct iovec iov[3] = {{in, 1000001}, {in + 1000001, 7}, {in + 1000008, LEN - 1000008}};
    struct io io;

    fill_pattern(in, 0, LEN, 5);
    io_rwv(&io, b, IO_WRITE, 4096, iov, 3, LEN);
    OK(io_run(q, &io));
    for (unsigned i = 0; i < 3; i++)
        iov[i].iov_base = out + ((uint8_t *)iov[i].iov_base - in);
    io_rwv(&io, b, IO_READ, 4096, iov, 3, LEN);
    OK(io_run(q, &io));
    assert_memory_equal(in, out, LEN);
    backend_close(b);
    backend_close(below);
}

/* Zeros, holes and ends are what they are below. */
static void what_is_zero_is_zero(void **state)
{
    struct backend *below, *b = on_memory(512, &below);

    memset(in, 1, LEN);
    OK(io_pwrite(q, b, in, 1 << 20, 0));
    assert_range(q, b, 1 << 20, 4096, 0); /* past the end */
    OK(io_prange(q, b, IO_TRUNCATE, LEN, 0));
    assert_int_equal(backend_size(b), LEN);
    assert_range(q, b, 1 << 20, LEN - (1 << 20), 0);
    assert_status(q, b, 0, LEN, DATA, 1 << 20);
    assert_status(q, b, 1 << 20, LEN, HOLE, LEN);
    OK(io_prange(q, b, IO_ZERO, 4096, 8192));
    assert_range(q, b, 4096, 8192, 0);
    OK(io_prange(q, b, IO_DISCARD, 0, 65536));
    assert_range(q, b, 0, 65536, 0);
    assert_range(q, b, 65536, (1 << 20) - 65536, 1);
    OK(io_pflush(q, b));
    backend_close(b);
    backend_close(below);
}

/* A short transfer goes on where it was, and an error is passed on. */
static void short_and_failed(void **state)
{
    struct fault_rule cut = {.kinds = FAULT_KIND(IO_READ) | FAULT_KIND(IO_WRITE), .what = FAULT_SHORT,
                             .bytes = 4096};
    struct fault_rule fail = {.kinds = FAULT_KIND(IO_WRITE), .what = FAULT_FAIL, .error = ENOSPC};
    struct backend *memory, *fault, *b;

    OK(memory_backend_create("memory:1M", 0, &memory));
    OK(fault_backend_create(memory, &fault));
    OK(rotate_backend_create(fault, KEY, &b));
    fill_pattern(in, 0, 100000, 9);
    assert_true(fault_add_rule(fault, &cut) >= 0);
    OK(io_pwrite(q, b, in, 100000, 0));
    OK(io_pread(q, b, out, 100000, 0));
    assert_memory_equal(in, out, 100000);
    fault_clear(fault);
    assert_true(fault_add_rule(fault, &fail) >= 0);
    assert_int_equal(io_pwrite(q, b, in, 4096, 0), -ENOSPC);
    backend_close(b);
}

/* All of a file, as the filter stores it. */
static void turn_file(int fd)
{
    ssize_t n = pread(fd, raw, sizeof raw, 0);

    assert_true(n > 0);
    for (ssize_t i = 0; i < n; i++)
        raw[i] = (uint8_t)(raw[i] ? (raw[i] - 1 + KEY) % 255 + 1 : 0);
    assert_int_equal(pwrite(fd, raw, (size_t)n, 0), n);
}

/* Under a format, by a name that says all of it. */
static void by_name(void **state)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = 64 << 20};
    struct vdisk_open_opts rw = {.size = sizeof rw, .flags = VDISK_OPEN_RDWR};
    char path[] = "rotate.XXXXXX", name[300];
    int fd = mkstemp(path);
    vdisk *v;

    assert_true(fd >= 0);
    OK(vdisk_create(path, &opts));
    turn_file(fd);
    snprintf(name, sizeof name, "json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"rotate\", \"key\": %d, "
             "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}}", KEY, path);
    OK(vdisk_open(name, &rw, &v));
    fill_pattern(in, 0, LEN, 3);
    OK(vdisk_pwrite(v, in, LEN, 1000, 0));
    OK(vdisk_close(v));
    OK(vdisk_open(name, NULL, &v));
    OK(vdisk_pread(v, out, LEN, 1000));
    assert_memory_equal(in, out, LEN);
    OK(vdisk_close(v));

    snprintf(name, sizeof name, "json:{\"driver\": \"rotate\", \"file.driver\": \"file\", "
             "\"file.filename\": \"%s\"}", path);
    OK(vdisk_open(name, NULL, &v)); /* alone: the bytes of the image, by the usual key */
    OK(vdisk_pread(v, out, 512, 0));
    assert_memory_equal(out, "QFI\xfb", 4);
    OK(vdisk_close(v));
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_back_and_lie_turned),
        cmocka_unit_test(several_buffers),
        cmocka_unit_test(what_is_zero_is_zero),
        cmocka_unit_test(short_and_failed),
        cmocka_unit_test(by_name),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
