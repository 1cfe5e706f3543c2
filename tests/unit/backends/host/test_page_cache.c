/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sync of the page cache that fails, told of once, as Linux does it: by a fdatasync() of our own. From then on
 * nothing may be called durable, whoever asks and by whichever way. And large reads through it.
 */
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/backend_test.h"

enum { BLOCK = 4096 };

static char dir[PATH_MAX];
static _Atomic ino_t failing; /* the next sync of this file fails; 0: none does */

int fdatasync(int fd)
{
    struct stat st;

    if (failing && fstat(fd, &st) == 0 && st.st_ino == failing) {
        failing = 0;
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static const char *path_of(const char *name)
{
    static char path[2][PATH_MAX + 16];
    static unsigned turn;

    turn ^= 1;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static void fail_next(const char *name)
{
    struct stat st;

    assert_int_equal(stat(path_of(name), &st), 0);
    failing = st.st_ino;
}

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%s/page-cache-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int teardown(void **state)
{
    unlink(path_of("disk"));
    unlink(path_of("data"));
    return rmdir(dir);
}

static vdisk *make(const char *format, bool data_file, uint32_t flags)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = format, .virtual_size = 1 << 20};
    struct vdisk_open_opts how = {.size = sizeof how, .format = format, .flags = VDISK_OPEN_RDWR | flags};
    char data[PATH_MAX + 16];
    vdisk *v;

    snprintf(data, sizeof data, "%s", path_of("data"));
    create.data_file = data_file ? data : NULL;
    OK(vdisk_create(path_of("disk"), &create));
    OK(vdisk_open(path_of("disk"), &how, &v));
    return v;
}

static void write_block(vdisk *v, char byte, uint32_t flags, int want)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    memset(buf, byte, BLOCK);
    assert_int_equal(vdisk_pwrite(v, buf, BLOCK, 0, flags), want);
    free(buf);
}

/* By synchronous calls, which use the volume's own queue. */
static void once_is_for_good(const char *format, const char *file, uint32_t flags)
{
    bool data_file = strcmp(file, "data") == 0;
    vdisk *v = make(format, data_file, VDISK_OPEN_BUFFERED | flags);
    char byte;

    write_block(v, 1, 0, 0);
    OK(vdisk_sync(v));
    write_block(v, 2, VDISK_REQ_FUA, 0);
    fail_next(file);
    assert_int_equal(vdisk_sync(v), -EIO);
    assert_non_null(strstr(vdisk_error_text(), "disk"));
    assert_non_null(strstr(vdisk_error_hint(), "lost"));
    assert_int_equal(failing, 0);
    /* The host has forgotten; we have not. Reading and plain writing go on. */
    assert_int_equal(vdisk_sync(v), -EIO);
    write_block(v, 3, VDISK_REQ_FUA, -EIO);
    write_block(v, 4, 0, 0);
    OK(vdisk_pread(v, &byte, 1, 0));
    assert_int_equal(byte, 4);
    assert_int_equal(vdisk_grow(v, 2 << 20), -EIO);
    assert_int_equal(vdisk_close(v), -EIO);
    assert_non_null(strstr(vdisk_error_hint(), "lost"));
    v = NULL;
    struct vdisk_open_opts how = {.size = sizeof how, .format = format, .flags = VDISK_OPEN_RDWR};
    OK(vdisk_open(path_of("disk"), &how, &v));
    OK(vdisk_sync(v));
    write_block(v, 5, VDISK_REQ_FUA, 0);
    OK(vdisk_close(v));
    unlink(path_of("disk"));
    unlink(path_of("data"));
}

static void every_file_of_a_volume(void **state)
{
    once_is_for_good("raw", "disk", 0);
    once_is_for_good("qcow2", "disk", 0);
    once_is_for_good("qcow2", "data", 0);
    once_is_for_good("qcow2", "disk", VDISK_OPEN_NO_LOCK);
}

/* The error may be met first by what nobody asked to be durable: closing, growing, a durable write. */
static void whoever_meets_it_first(void **state)
{
    static const char *const formats[] = {"raw", "qcow2"};

    for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
        vdisk *v = make(formats[i], false, VDISK_OPEN_BUFFERED);
        write_block(v, 1, 0, 0);
        fail_next("disk");
        assert_int_equal(vdisk_close(v), -EIO);
        unlink(path_of("disk"));

        v = make(formats[i], false, VDISK_OPEN_BUFFERED);
        write_block(v, 1, 0, 0);
        fail_next("disk");
        assert_int_equal(vdisk_grow(v, 2 << 20), -EIO);
        assert_int_equal(vdisk_sync(v), -EIO);
        vdisk_close(v);
        unlink(path_of("disk"));

        v = make(formats[i], false, VDISK_OPEN_BUFFERED);
        write_block(v, 1, VDISK_REQ_FUA, 0);
        fail_next("disk");
        write_block(v, 2, VDISK_REQ_FUA, -EIO);
        assert_int_equal(vdisk_sync(v), -EIO);
        vdisk_close(v);
        unlink(path_of("disk"));
    }
}

/* Several at once, on both kinds of queue: the one that hears of it is the first of those that fail. */
static void of_several_at_once(void **state)
{
    static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_AUTO, VDISK_QUEUE_THREADS};
    struct vdisk_completion done;
    unsigned failed = 0;

    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        vdisk_queue *q = test_queue(kinds[i]);
        vdisk *v = make("raw", false, VDISK_OPEN_BUFFERED);
        write_block(v, 1, 0, 0);
        fail_next("disk");
        for (unsigned k = 0; k < 8; k++)
            vdisk_flush(q, v, 0, k);
        failed = 0;
        for (unsigned k = 0; k < 8; k++) {
            assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
            failed += done.result == -EIO;
        }
        assert_int_equal(failed, 8);
        vdisk_close(v);
        vdisk_queue_destroy(q);
        unlink(path_of("disk"));
    }
}

/* Direct I/O has no pages to forget: what failed may succeed later. */
static void direct_io_may_recover(void **state)
{
    vdisk_queue *q = test_queue(VDISK_QUEUE_THREADS);
    vdisk *v = make("raw", false, 0);
    struct vdisk_info info = {.size = sizeof info};
    struct vdisk_completion done;

    OK(vdisk_get_info(v, &info));
    fail_next("disk");
    for (int k = 0; k < 2; k++) {
        vdisk_flush(q, v, 0, 0);
        assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
        assert_int_equal(done.result, k == 0 || !info.direct ? -EIO : 0);
    }
    if (info.direct)
        OK(vdisk_close(v));
    else
        assert_int_equal(vdisk_close(v), -EIO);
    vdisk_queue_destroy(q);
    unlink(path_of("disk"));
}

enum { LARGE = 512 << 10, LARGE_COUNT = 16, LARGE_END = 12345 };

static vdisk *open_large(void)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "raw", .flags = VDISK_OPEN_BUFFERED};
    vdisk *v = NULL;

    OK(vdisk_open(path_of("disk"), &how, &v));
    return v;
}

/* Several large reads at once, the last to behind the end; each byte is where it belongs. */
static bool reads_large(vdisk *v, enum vdisk_queue_kind kind, char *buf)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};
    struct vdisk_completion done;
    bool right = true;
    vdisk_queue *q;

    if (vdisk_queue_create(&opts, &q) < 0)
        return kind == VDISK_QUEUE_URING_DEFER || kind == VDISK_QUEUE_URING;
    memset(buf, 0xee, LARGE * LARGE_COUNT);
    for (unsigned i = 0; i < LARGE_COUNT; i++)
        vdisk_read(q, v, i * LARGE, buf + i * LARGE, LARGE, 0, i);
    for (unsigned i = 0; i < LARGE_COUNT; i++)
        right &= vdisk_reap(q, &done, 1, 1, NULL) == 1 && done.result == 0;
    for (uint64_t i = 0; right && i < LARGE * LARGE_COUNT; i++) {
        char want;
        fill_pattern(&want, i, 1, 7);
        right = buf[i] == (i < LARGE * (LARGE_COUNT - 1) + LARGE_END ? want : 0);
    }
    vdisk_queue_destroy(q);
    return right;
}

/* The same by a user who may have no more threads, nor the kernel for him. */
static void reads_large_alone(enum vdisk_queue_kind kind, char *buf)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        const struct rlimit none = {0};
        vdisk *v = open_large();
        if (setrlimit(RLIMIT_NPROC, &none) < 0 || (geteuid() == 0 && setuid(65534) < 0))
            _exit(0);
        _exit(reads_large(v, kind, buf) ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void large_reads(void **state)
{
    static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING,
                                                  VDISK_QUEUE_THREADS};
    size_t len = LARGE * (LARGE_COUNT - 1) + LARGE_END;
    char *buf = vdisk_alloc_buffer(LARGE * LARGE_COUNT);
    int fd = open(path_of("disk"), O_CREAT | O_WRONLY, 0600);

    fill_pattern(buf, 0, len, 7);
    assert_int_equal(write(fd, buf, len), len);
    assert_int_equal(ftruncate(fd, LARGE * LARGE_COUNT), 0);
    close(fd);
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        vdisk *v = open_large();
        assert_true(reads_large(v, kinds[i], buf));
        OK(vdisk_close(v));
        if (kinds[i] != VDISK_QUEUE_THREADS)
            reads_large_alone(kinds[i], buf);
    }
    free(buf);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_file_of_a_volume, setup, teardown),
        cmocka_unit_test_setup_teardown(whoever_meets_it_first, setup, teardown),
        cmocka_unit_test_setup_teardown(of_several_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(direct_io_may_recover, setup, teardown),
        cmocka_unit_test_setup_teardown(large_reads, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
