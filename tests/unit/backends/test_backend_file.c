/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file backend, with O_DIRECT and buffered, on a ring and on threads. */
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <linux/fs.h>

#include "engine/base/bits.h"
#include "tests/unit/backend_test.h"
#include "tests/unit/loop_test.h"

enum { LEN = 1 << 20 };

static vdisk_queue *q;
static char dir[256];
static char path[300];
static uint32_t mode; /* BACKEND_BUFFERED or 0 */

static struct backend *create(void)
{
    struct backend *b;

    unlink(path);
    OK(backend_open(path, BACKEND_CREATE | BACKEND_RDWR | mode, &b));
    assert_string_equal(b->driver->name, "file");
    assert_int_equal(backend_size(b), 0);
    if (mode & BACKEND_BUFFERED)
        assert_false(b->direct);
    return b;
}

static uint64_t host_size(void)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* What is in the file, seen without the backend. */
static void assert_host(uint64_t offset, const void *want, size_t len)
{
    int fd = open(path, O_RDONLY);
    char *buf = malloc(len);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, buf, len, (off_t)offset), len);
    assert_memory_equal(buf, want, len);
    free(buf);
    close(fd);
}

static void bytes_come_back(void **state)
{
    uint8_t *in = malloc(LEN + 100), *out = malloc(LEN + 100);
    struct backend *b = create();

    /* Nothing aligned: the engine sees to that. */
    fill_pattern(in, 0, LEN + 100, 1);
    OK(io_pwrite(q, b, in + 3, LEN - 7, 12345));
    OK(io_pread(q, b, out + 1, LEN - 7, 12345));
    assert_memory_equal(in + 3, out + 1, LEN - 7);
    assert_host(12345, in + 3, LEN - 7);
    assert_range(q, b, 0, 12345, 0);
    OK(io_pflush(q, b));
    assert_int_equal(backend_size(b), host_size());
    assert_true(backend_size(b) >= 12345 + LEN - 7);
    assert_range(q, b, backend_size(b), 100000, 0); /* past the end */
    backend_close(b);

    OK(backend_open(path, mode, &b));
    assert_true(b->read_only);
    memset(out, 0, LEN);
    OK(io_pread(q, b, out + 1, LEN - 7, 12345));
    assert_memory_equal(in + 3, out + 1, LEN - 7);
    backend_close(b);
    free(in);
    free(out);
}

/* The last block is cut: a read of it comes short and must end in zeros. */
static void odd_sizes_read_on_in_zeros(void **state)
{
    struct backend *b = create();
    char buf[1000], *got = vdisk_alloc_buffer(8192);

    memset(buf, 'x', sizeof buf);
    backend_close(b);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, buf, sizeof buf, 4000), sizeof buf);
    close(fd);
    OK(backend_open(path, mode, &b));
    assert_int_equal(backend_size(b), 5000);
    memset(got, 1, 8192);
    OK(io_pread(q, b, got, 8192, 0));
    assert_true(is_filled(got, 0, 4000) && is_filled(got + 4000, 'x', 1000) && is_filled(got + 5000, 0, 3192));
    backend_close(b);
    free(got);
}

static void vectors_come_back(void **state)
{
    struct backend *b = create();
    char *one = vdisk_alloc_buffer(65536), *two = vdisk_alloc_buffer(65536);
    struct iovec iov[] = {{one, 65536}, {two, 65536}};
    struct io io;

    memset(one, 1, 65536);
    memset(two, 2, 65536);
    io_rwv(&io, b, IO_WRITE, 4096, iov, 2, 131072);
    io.flags = IO_FUA;
    OK(io_run(q, &io));
    assert_range(q, b, 4096, 65536, 1);
    assert_range(q, b, 4096 + 65536, 65536, 2);
    free(one);
    free(two);
    backend_close(b);
}

/* What can be told of zeroing on any file system: it reads as zeros, or says that it cannot. */
static void zeroing(void **state)
{
    static const unsigned flags[] = {0, IO_UNMAP};
    char *buf = vdisk_alloc_buffer(LEN);
    int rc;

    memset(buf, 9, LEN);
    for (unsigned i = 0; i < 2; i++) {
        struct backend *b = create();
        OK(io_pwrite(q, b, buf, LEN, 0));
        for (unsigned again = 0; again < 3; again++) { /* the first learns, the others go to the ring */
            rc = range_with(q, b, IO_ZERO, again * 65536 + 100, 50000, flags[i]);
            if (rc == -ENOTSUP) {
                backend_close(b);
                free(buf);
                SKIP("no fallocate() that zeroes in %s", dir);
            }
            OK(rc);
            assert_range(q, b, again * 65536, 100, 9);
            assert_range(q, b, again * 65536 + 100, 50000, 0);
            assert_range(q, b, again * 65536 + 50100, 65536 - 50100, 9);
        }
        assert_int_equal(backend_size(b), LEN);
        assert_int_equal(host_size(), LEN);

        /* Over the end, and wholly past it: the file grows, exactly. */
        OK(range_with(q, b, IO_ZERO, LEN - 10000, 30001, flags[i]));
        assert_int_equal(backend_size(b), LEN + 20001);
        assert_int_equal(host_size(), LEN + 20001);
        OK(range_with(q, b, IO_ZERO, 3 * LEN, 512, flags[i]));
        assert_int_equal(host_size(), 3 * LEN + 512);
        assert_int_equal(backend_size(b), 3 * LEN + 512);
        assert_range(q, b, LEN - 10000, 2 * LEN + 10000 + 512, 0);
        assert_range(q, b, LEN - 20000, 10000, 9);
        backend_close(b);
    }
    free(buf);
}

static void holes_and_space(void **state)
{
    struct backend *b = create();
    char *buf = vdisk_alloc_buffer(LEN);
    uint64_t len;

    memset(buf, 9, LEN);
    OK(io_prange(q, b, IO_TRUNCATE, 4 * LEN, 0));
    assert_int_equal(host_size(), 4 * LEN);
    assert_int_equal(backend_size(b), 4 * LEN);
    assert_status(q, b, 0, 4 * LEN, HOLE, 4 * LEN);
    OK(io_pwrite(q, b, buf, LEN, LEN));
    OK(io_pflush(q, b));
    assert_true(b->driver->allocated(b) >= LEN);
    if (!is_hole(q, b, 0, 4 * LEN, &len)) { /* a file system that cannot tell */
        backend_close(b);
        free(buf);
        SKIP("no SEEK_HOLE in %s", dir);
    }
    assert_status(q, b, 5, 4 * LEN, HOLE, LEN - 5);
    assert_status(q, b, LEN, 3 * LEN, DATA, LEN);
    assert_status(q, b, LEN + 1, 100, DATA, 100);
    assert_status(q, b, 2 * LEN, 2 * LEN, HOLE, 2 * LEN);
    assert_status(q, b, 5 * LEN, LEN, HOLE, LEN); /* past the end */

    uint64_t before = b->driver->allocated(b);
    for (unsigned i = 0; i < 2; i++) {
        OK(io_prange(q, b, IO_DISCARD, LEN + i * 131072, 131072));
        assert_range(q, b, LEN + i * 131072, 131072, 0);
    }
    assert_true(b->driver->allocated(b) < before);
    OK(io_prange(q, b, IO_DISCARD, 3 * LEN, 100 * LEN)); /* over the end, and past it */
    OK(io_prange(q, b, IO_DISCARD, 300 * LEN, LEN));
    assert_int_equal(host_size(), 4 * LEN);

    before = b->driver->allocated(b);
    OK(io_prange(q, b, IO_ALLOCATE, 2 * LEN, 3 * LEN));
    assert_true(b->driver->allocated(b) >= before + 3 * LEN);
    assert_int_equal(backend_size(b), 5 * LEN);
    assert_int_equal(host_size(), 5 * LEN);
    assert_range(q, b, 2 * LEN - 4096, 4096, 9);
    assert_range(q, b, 2 * LEN, 3 * LEN, 0);
    OK(io_prange(q, b, IO_TRUNCATE, 10, 0));
    assert_int_equal(host_size(), 10);
    assert_int_equal(backend_size(b), 10);
    backend_close(b);
    free(buf);
}

static void create_leaves_what_is_there(void **state)
{
    struct backend *b = create();
    char byte = 1;

    OK(io_pwrite(q, b, &byte, 1, 5000));
    backend_close(b);
    OK(backend_open(path, BACKEND_CREATE | BACKEND_RDWR | mode, &b));
    assert_false(b->made);
    assert_true(host_size() > 5000);
    OK(b->driver->unlink(b)); /* not ours to remove */
    assert_int_equal(access(path, F_OK), 0);
    backend_close(b);
}

static void unlink_removes_what_was_made(void **state)
{
    struct backend *b;

    unlink(path);
    b = create();
    assert_true(b->made);
    OK(b->driver->unlink(b));
    assert_int_equal(access(path, F_OK), -1);

    /* Not if the name has become another file. */
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    OK(b->driver->unlink(b));
    assert_int_equal(access(path, F_OK), 0);
    backend_close(b);
}

/* A link to nothing is followed, the file it leads to is made, and removed; the link stays. */
static void links_are_followed(void **state)
{
    char link[320], second[320];
    struct backend *b;
    struct stat st;

    unlink(path);
    snprintf(link, sizeof link, "%s/link", dir);
    snprintf(second, sizeof second, "%s/second", dir);
    assert_int_equal(symlink(strrchr(path, '/') + 1, link), 0); /* relative to the link */
    assert_int_equal(symlink(link, second), 0);
    OK(backend_open(second, BACKEND_CREATE | BACKEND_RDWR | mode, &b));
    assert_true(b->made);
    assert_int_equal(host_size(), 0);
    OK(b->driver->unlink(b));
    backend_close(b);
    assert_int_equal(access(path, F_OK), -1);
    assert_true(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    assert_true(lstat(second, &st) == 0 && S_ISLNK(st.st_mode));
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink(second, link), 0);
    assert_int_equal(backend_open(second, BACKEND_CREATE | mode, &b), -ELOOP);
    unlink(link);
    unlink(second);
}

/* The backend's descriptor. */
static int find_fd(void)
{
    char link[64], target[300];

    for (int fd = 3; fd < 100; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        if (n > 0 && (target[n] = '\0', strcmp(target, path) == 0))
            return fd;
    }
    fail_msg("no descriptor of %s", path);
    return -1;
}

/* As a ring does: it lets go of the files of its requests some time after it has completed them. */
static void close_unlocks_whoever_has_the_file(void **state)
{
    struct backend *b = create();
    int other = dup(find_fd());

    assert_true(other >= 0);
    backend_close(b);
    OK(backend_open(path, BACKEND_RDWR | mode, &b));
    backend_close(b);
    close(other);
}

/* Nothing can be flushed to a pipe's or a full device's like; of this it can be told that no fsync was made. */
static void unsafe_does_not_flush(void **state)
{
    struct backend *b;

    backend_close(create());
    OK(backend_open(path, BACKEND_RDWR | BACKEND_UNSAFE | mode, &b));
    /* A closed descriptor would make fdatasync() fail. */
    int fd = find_fd();
    int null = open("/dev/null", O_RDWR), spare = dup(fd);
    assert_true(null >= 0 && spare >= 0);
    dup2(null, fd); /* fdatasync() of it is -EINVAL */
    OK(io_pflush(q, b));
    dup2(spare, fd);
    close(spare);
    close(null);
    backend_close(b);
}

static void refused(const char *name, uint32_t flags, int err, const char *text)
{
    struct backend *b;

    assert_int_equal(backend_open(name, flags | mode, &b), err);
    if (!strstr(vdisk_error_text(), name) || !strstr(vdisk_error_text(), text))
        fail_msg("the text is: %s", vdisk_error_text());
}

static void what_is_no_file_is_refused(void **state)
{
    char other[320];

    refused(dir, 0, -EINVAL, "a directory");
    refused("/dev/null", BACKEND_RDWR, -EINVAL, "a character device");
    snprintf(other, sizeof other, "%s/pipe", dir);
    assert_int_equal(mkfifo(other, 0600), 0);
    refused(other, 0, -EINVAL, "a pipe");
    unlink(other);
    snprintf(other, sizeof other, "%s/missing", dir);
    refused(other, BACKEND_RDWR, -ENOENT, "No such file");
    snprintf(other, sizeof other, "%s/missing/x", dir);
    refused(other, BACKEND_RDWR | BACKEND_CREATE, -ENOENT, "No such file");
    assert_non_null(strstr(vdisk_error_hint(), "directory"));
    refused("", 0, -ENOENT, "No such file");
}

static void odd_names(void **state)
{
    char cwd[300], name[] = "file:null:1K";
    struct backend *b;

    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(chdir(dir), 0);
    OK(backend_open(name, BACKEND_CREATE | mode, &b));
    assert_int_equal(access("null:1K", F_OK), 0);
    b->driver->unlink(b);
    assert_int_equal(access("null:1K", F_OK), -1);
    backend_close(b);
    assert_int_equal(chdir(cwd), 0);
}

/* The process may not write so far. Who tries is sent SIGXFSZ, of which this test would die. */
static void the_host_says_no(void **state)
{
    struct backend *b = create();
    struct rlimit old, limit;
    char *buf = vdisk_alloc_buffer(8192);

    memset(buf, 1, 8192);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 1 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    OK(io_pwrite(q, b, buf, 8192, (1 << 20) - 8192));
    int write_rc = io_pwrite(q, b, buf, 8192, 1 << 20);
    int truncate_rc = io_prange(q, b, IO_TRUNCATE, 1 << 21, 0);
    int allocate_rc = io_prange(q, b, IO_ALLOCATE, 1 << 20, 8192);
    int cross_rc = io_pwrite(q, b, buf, 8192, (1 << 20) - 4096);
    int zero_rc = io_prange(q, b, IO_ZERO, 1 << 20, 8192);
    int far_rc = io_pwrite(q, b, buf, 8192, UINT64_C(1) << 55);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(write_rc, -EFBIG);
    assert_int_equal(truncate_rc, -EFBIG);
    assert_true(allocate_rc == -EFBIG || allocate_rc == -ENOTSUP);
    assert_int_equal(cross_rc, -EFBIG);
    assert_int_equal(zero_rc, -EFBIG);
    assert_int_equal(far_rc, -EFBIG);
    assert_int_equal(backend_size(b), 1 << 20);
    /* Nor inside a file that is longer already. */
    OK(io_prange(q, b, IO_TRUNCATE, 1 << 21, 0));
    backend_close(b);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    OK(backend_open(path, BACKEND_RDWR | mode, &b));
    write_rc = io_pwrite(q, b, buf, 8192, (1 << 20) + 8192);
    OK(io_prange(q, b, IO_TRUNCATE, 1 << 19, 0)); /* shorter is not further */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(write_rc, -EFBIG);
    free(buf);
    backend_close(b);
}

static int run_all(const char *what, enum vdisk_queue_kind kind, uint32_t flags)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(odd_sizes_read_on_in_zeros),
        cmocka_unit_test(vectors_come_back),
        cmocka_unit_test(zeroing),
        cmocka_unit_test(holes_and_space),
        cmocka_unit_test(create_leaves_what_is_there), cmocka_unit_test(unlink_removes_what_was_made),
        cmocka_unit_test(links_are_followed),
        cmocka_unit_test(close_unlocks_whoever_has_the_file),
        cmocka_unit_test(unsafe_does_not_flush),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(odd_names),
        cmocka_unit_test(the_host_says_no),
    };
    int rc;

    print_message("%s, in %s\n", what, dir);
    mode = flags;
    q = test_queue(kind);
    rc = cmocka_run_group_tests_name(what, tests, NULL, NULL);
    vdisk_queue_destroy(q);
    unlink(path);
    return rc;
}

/* On TMPDIR's file system, and on a tmpfs, which knows less. */
static int run_in(const char *where)
{
    int rc;

    snprintf(dir, sizeof dir, "%s/vdisk-test-XXXXXX", where);
    if (!mkdtemp(dir)) {
        print_message("skipped: cannot write to %s\n", where);
        return 0;
    }
    snprintf(path, sizeof path, "%s/disk", dir);
    rc = run_all("direct", VDISK_QUEUE_AUTO, 0);
    rc += run_all("buffered", VDISK_QUEUE_AUTO, BACKEND_BUFFERED);
    rc += run_all("direct, threads", VDISK_QUEUE_THREADS, 0);
    rmdir(dir);
    return rc;
}

/* With its checksums, direct writes go one by one there, and reads can fail: that is not asked for. */
static void btrfs_is_direct_without_checksums(void **state)
{
    struct backend *b = create();
    int flags = FS_NOCOW_FL, fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char buf[100];

    assert_false(b->direct);
    assert_int_equal(b->align, 1);
    backend_close(b);
    assert_int_equal(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0); /* for new files */
    close(fd);
    b = create();
    assert_true(b->direct);
    assert_int_equal(b->align, 4096);
    memset(buf, 8, sizeof buf);
    OK(io_pwrite(q, b, buf, sizeof buf, 10000));
    assert_int_equal(host_size(), 10100);
    assert_range(q, b, 10000, 100, 8);
    backend_close(b);
    unlink(path);
}

static int run_on_btrfs(const char *top)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(btrfs_is_direct_without_checksums),
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(zeroing),
    };
    char image[300];
    struct loop l;
    int rc;

    snprintf(image, sizeof image, "%s/vdisk-test-loop-%d", top, (int)getpid());
    if (!loop_mount(&l, image, 256 << 20, 512, "btrfs")) {
        print_message("skipped: no btrfs on a loop device here\n");
        return 0;
    }
    snprintf(dir, sizeof dir, "%.250s", l.where);
    snprintf(path, sizeof path, "%s/disk", dir);
    mode = 0;
    q = test_queue(VDISK_QUEUE_AUTO);
    rc = cmocka_run_group_tests_name("btrfs", tests, NULL, NULL);
    vdisk_queue_destroy(q);
    unlink(path);
    loop_unmount(&l);
    return rc;
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    int rc = run_in(tmp ? tmp : "/tmp");

    rc += run_in("/dev/shm");
    rc += run_on_btrfs(tmp ? tmp : "/tmp");
    return rc != 0;
}
