/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block device backend, on loop devices: needs root and losetup, and says so where they are missing. */
#include "tests/unit/backend_test.h"

enum { LEN = 8 << 20 };

static vdisk_queue *q;
static char dir[256];
static char image[300];
static char dev[64];
static uint32_t mode;
static uint32_t sector;

static int attach(void **state)
{
    char command[700];
    FILE *p;
    bool ok;

    snprintf(command, sizeof command, "truncate -s %d %s && losetup -f --show -b %u %s 2>/dev/null", LEN, image,
             sector, image);
    p = popen(command, "r");
    assert_non_null(p);
    ok = fgets(dev, sizeof dev, p) != NULL;
    if (pclose(p) != 0 || !ok)
        return -1;
    dev[strcspn(dev, "\n")] = '\0';
    return 0;
}

static int detach(void **state)
{
    char command[400];

    snprintf(command, sizeof command, "losetup -d %s", dev);
    int rc = system(command);
    unlink(image);
    return rc;
}

static struct backend *open_dev(uint32_t flags)
{
    struct backend *b;

    OK(backend_open(dev, flags | mode, &b));
    assert_string_equal(b->driver->name, "host_device");
    return b;
}

static void properties(void **state)
{
    struct backend *b = open_dev(BACKEND_RDWR);

    assert_int_equal(backend_size(b), LEN);
    assert_false(b->caps & (BACKEND_GROWS | BACKEND_ZERO_NEW | BACKEND_SPARSE));
    assert_int_equal(b->discard_align % sector, 0);
    if (mode & BACKEND_BUFFERED) {
        assert_false(b->direct);
        assert_int_equal(b->align, 1);
    } else {
        assert_true(b->direct);
        assert_int_equal(b->align, sector);
    }
    backend_close(b);
    b = open_dev(0);
    assert_true(b->read_only);
    backend_close(b);
    /* Made new: used as it stands. */
    b = open_dev(BACKEND_CREATE);
    assert_int_equal(backend_size(b), LEN);
    assert_null(b->driver->unlink);
    backend_close(b);
}

static void bytes_come_back(void **state)
{
    struct backend *b = open_dev(BACKEND_RDWR);
    uint8_t *in = malloc(LEN), *out = malloc(LEN);

    fill_pattern(in, 0, LEN, 1);
    OK(io_pwrite(q, b, in, LEN, 0));
    OK(io_pread(q, b, out, LEN, 0));
    assert_memory_equal(in, out, LEN);
    fill_pattern(in + 12345, 0, 9999, 2);
    OK(io_pwrite(q, b, in + 12345, 9999, 12345)); /* ragged */
    OK(io_pflush(q, b));
    OK(io_pread(q, b, out, LEN, 0));
    assert_memory_equal(in, out, LEN);
    backend_close(b);
    free(in);
    free(out);
}

static void the_end_stands(void **state)
{
    struct backend *b = open_dev(BACKEND_RDWR);
    char *buf = vdisk_alloc_buffer(8192);

    memset(buf, 1, 8192);
    OK(io_pwrite(q, b, buf, 4096, LEN - 4096));
    assert_int_equal(io_pwrite(q, b, buf, 8192, LEN - 4096), -ENOSPC);
    assert_int_equal(io_pwrite(q, b, buf, 4096, LEN), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ZERO, LEN, 4096), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ZERO, 0, UINT64_MAX), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_TRUNCATE, LEN * 2, 0), -ENOTSUP);
    assert_int_equal(io_prange(q, b, IO_ALLOCATE, LEN, 4096), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ALLOCATE, 0, 4096), -ENOTSUP);
    OK(io_prange(q, b, IO_DISCARD, LEN, 4096));
    assert_int_equal(backend_size(b), LEN);
    /* Reads on in zeros. */
    memset(buf, 2, 8192);
    OK(io_pread(q, b, buf, 8192, LEN - 4096));
    assert_true(is_filled(buf, 1, 4096) && is_filled(buf + 4096, 0, 4096));
    assert_range(q, b, LEN + 4096, 4096, 0);
    free(buf);
    backend_close(b);
}

static void zeroing(void **state)
{
    static const unsigned flags[] = {0, IO_UNMAP, IO_NO_FALLBACK};
    struct backend *b = open_dev(BACKEND_RDWR);
    char *buf = vdisk_alloc_buffer(LEN);

    memset(buf, 7, LEN);
    OK(io_pwrite(q, b, buf, LEN, 0));
    for (unsigned i = 0; i < 3; i++) {
        if (flags[i] & IO_NO_FALLBACK && !(b->caps & BACKEND_ZERO_FAST))
            continue;
        for (unsigned again = 0; again < 3; again++) { /* the first learns, the others go to the ring */
            uint64_t at = (i * 3 + again) * 65536 + 4096;
            OK(range_with(q, b, IO_ZERO, at, 16384, flags[i]));
            assert_range(q, b, at - 4096, 4096, 7);
            assert_range(q, b, at, 16384, 0);
            assert_range(q, b, at + 16384, 4096, 7);
        }
    }
    assert_int_equal(io_prange(q, b, IO_ZERO, LEN - 8192 + 100, 4096), -ENOTSUP);
    assert_range(q, b, LEN - 8192, 8192, 7);
    free(buf);
    backend_close(b);
}

static void discarding(void **state)
{
    struct backend *b = open_dev(BACKEND_RDWR);
    char *buf = vdisk_alloc_buffer(LEN);

    if (!(b->caps & BACKEND_DISCARD)) {
        backend_close(b);
        free(buf);
        SKIP("the loop device does not discard");
    }
    memset(buf, 7, LEN);
    OK(io_pwrite(q, b, buf, LEN, 0));
    /* Rounded inwards: no byte outside is touched. */
    OK(io_prange(q, b, IO_DISCARD, 100, 1 << 20));
    OK(io_prange(q, b, IO_DISCARD, 2 << 20, 100));
    assert_range(q, b, 0, b->discard_align, 7);
    assert_range(q, b, b->discard_align, (1 << 20) - b->discard_align, 0); /* so loop devices do it */
    assert_range(q, b, 1 << 20, LEN - (1 << 20), 7);
    free(buf);
    backend_close(b);
}

static void set_device_size(uint64_t size)
{
    char command[400];

    assert_int_equal(truncate(image, (off_t)size), 0);
    snprintf(command, sizeof command, "losetup -c %s", dev);
    assert_int_equal(system(command), 0);
}

static void a_device_grows(void **state)
{
    struct backend *b = open_dev(BACKEND_RDWR);
    char *buf = vdisk_alloc_buffer(4096);

    memset(buf, 3, 4096);
    assert_int_equal(io_pwrite(q, b, buf, 4096, LEN), -ENOSPC);
    set_device_size(2 * LEN);
    OK(io_pwrite(q, b, buf, 4096, LEN));
    assert_int_equal(backend_size(b), 2 * LEN);
    assert_range(q, b, LEN, 4096, 3);
    free(buf);
    backend_close(b);
}

static vdisk *open_raw(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "raw", .flags = VDISK_OPEN_RDWR};
    vdisk *v;

    if (mode & BACKEND_BUFFERED)
        opts.flags |= VDISK_OPEN_BUFFERED;
    OK(vdisk_open(dev, &opts, &v));
    return v;
}

static void a_raw_volume_follows_its_device(void **state)
{
    struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
    char *buf = vdisk_alloc_buffer(8192);
    vdisk *v = open_raw();

    memset(buf, 4, 8192);
    assert_int_equal(vdisk_grow(v, 2 * LEN), -ENOSPC);
    assert_non_null(strstr(vdisk_error_hint(), "extend the device"));
    set_device_size(2 * LEN);
    assert_int_equal(vdisk_size(v), LEN);
    OK(vdisk_grow(v, 2 * LEN));
    OK(vdisk_pwrite(v, buf, 8192, 2 * LEN - 8192, VDISK_REQ_FUA));
    OK(vdisk_pread(v, buf, 8192, 2 * LEN - 8192));
    assert_true(is_filled(buf, 4, 8192));
    /* What has been cut off is not zeros. */
    set_device_size(LEN);
    assert_int_equal(vdisk_pread(v, buf, 4096, 2 * LEN - 4096), -EIO);
    assert_int_equal(vdisk_size(v), LEN); /* that has shown where it ends */
    assert_int_equal(vdisk_pread(v, buf, 8192, LEN - 4096), -EINVAL);
    assert_true(vdisk_pwrite(v, buf, 4096, LEN + 4096, 0) < 0);
    assert_int_equal(vdisk_resize(v, 2 * LEN, NULL), -ENOSPC);
    OK(vdisk_resize(v, LEN, &shrink));
    assert_int_equal(vdisk_size(v), LEN);
    assert_int_equal(vdisk_pread(v, buf, 4096, LEN), -EINVAL);
    OK(vdisk_pwrite(v, buf, 4096, LEN - 4096, 0));
    OK(vdisk_close(v));
    free(buf);
}

static void an_external_data_device_is_extended_first(void **state)
{
    struct vdisk_create_opts o = {.size = sizeof o, .format = "qcow2", .virtual_size = LEN, .data_file = dev};
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    char *buf = vdisk_alloc_buffer(4096), name[320];
    vdisk *v;

    snprintf(name, sizeof name, "%s.qcow2", image);
    memset(buf, 4, 4096);
    OK(vdisk_create(name, &o));
    OK(vdisk_open(name, &opts, &v));
    assert_int_equal(vdisk_grow(v, 2 * LEN), -ENOSPC);
    assert_non_null(strstr(vdisk_error_text(), "external data file"));
    assert_int_equal(vdisk_size(v), LEN);
    set_device_size(2 * LEN);
    OK(vdisk_grow(v, 2 * LEN));
    OK(vdisk_pwrite(v, buf, 4096, 2 * LEN - 4096, 0));
    OK(vdisk_close(v));
    unlink(name);
    free(buf);
}

static void two_writers_exclude_each_other(void **state)
{
    struct backend *b = open_dev(BACKEND_RDWR), *other;

    assert_int_equal(backend_open(dev, BACKEND_RDWR | mode, &other), -EAGAIN);
    assert_non_null(strstr(vdisk_error_text(), "locked for writing by this process"));
    backend_close(b);
    b = open_dev(BACKEND_RDWR);
    backend_close(b);
}

static int run_all(const char *what, uint32_t sector_size, uint32_t flags)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, attach, detach)
    const struct CMUnitTest tests[] = {
        TEST(properties), TEST(bytes_come_back), TEST(the_end_stands),
        TEST(zeroing), TEST(discarding), TEST(a_device_grows),
        TEST(two_writers_exclude_each_other), TEST(a_raw_volume_follows_its_device),
        TEST(an_external_data_device_is_extended_first),
    };

    sector = sector_size;
    mode = flags;
    print_message("%s\n", what);
    return cmocka_run_group_tests_name(what, tests, NULL, NULL);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    int rc;

    snprintf(dir, sizeof dir, "%s/vdisk-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return 1;
    snprintf(image, sizeof image, "%s/loop", dir);
    sector = 512;
    if (geteuid() != 0 || attach(NULL) < 0) {
        unlink(image);
        rmdir(dir);
        print_message("skipped: needs root and loop devices\n");
        return 77;
    }
    detach(NULL);
    q = test_queue(VDISK_QUEUE_AUTO);
    rc = run_all("512-byte sectors, direct", 512, 0);
    rc += run_all("512-byte sectors, buffered", 512, BACKEND_BUFFERED);
    rc += run_all("4096-byte sectors, direct", 4096, 0);
    vdisk_queue_destroy(q);
    rmdir(dir);
    return rc != 0;
}
