/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The error text is that of the last call: none after a success, whatever failed before it or on its way.
 * (tests/lint/api.py holds every public function to ERR_CALL().)
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/error.h"
#include "engine/vdisk.h"

static vdisk *v;
static vdisk_queue *q;
static uint8_t buf[4096];

static int setup(void **state)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};

    assert_int_equal(vdisk_open("memory:1M", &opts, &v), 0);
    return vdisk_queue_create(NULL, &q);
}

static int teardown(void **state)
{
    vdisk_queue_destroy(q);
    return vdisk_close(v);
}

static void fails(int result, int error)
{
    assert_int_equal(result, -error);
    assert_string_not_equal(vdisk_error_text(), "");
}

/* What came before is a failure with a hint. */
#define SUCCEEDS(call)                                                                                          \
    do {                                                                                                        \
        err_hint(err_set(EIO, "of an earlier call"), "a hint");                                                 \
        assert_true((call) >= 0);                                                                               \
        assert_string_equal(vdisk_error_text(), "");                                                            \
        assert_string_equal(vdisk_error_hint(), "");                                                            \
    } while (0)

static void test_none_after_success(void **state)
{
    struct vdisk_info info = {.size = sizeof info};
    struct vdisk_extent extent;
    struct vdisk_extents extents = {.list = &extent, .max = 1};
    struct vdisk_completion done;
    vdisk_queue *queue;
    vdisk *volume;

    SUCCEEDS(vdisk_open("memory:1M", NULL, &volume));
    SUCCEEDS(vdisk_close(volume));
    SUCCEEDS(vdisk_close(NULL));
    SUCCEEDS(vdisk_queue_create(NULL, &queue));
    SUCCEEDS(vdisk_queue_register_buffers(queue, &(struct iovec){buf, sizeof buf}, 1));
    vdisk_queue_destroy(queue);
    SUCCEEDS(vdisk_get_info(v, &info));
    SUCCEEDS(vdisk_trim_space(v));
    SUCCEEDS(vdisk_grow(v, 2 << 20));
    SUCCEEDS(vdisk_resize(v, 2 << 20, NULL));
    SUCCEEDS(vdisk_pread(v, buf, sizeof buf, 0));
    SUCCEEDS(vdisk_pwrite(v, buf, sizeof buf, 0, 0));
    SUCCEEDS(vdisk_pzero(v, sizeof buf, 0, 0));
    SUCCEEDS(vdisk_pdiscard(v, sizeof buf, 0));
    SUCCEEDS(vdisk_sync(v));
    SUCCEEDS(vdisk_pextents(v, sizeof buf, 0, &extents));
    vdisk_read(q, v, 0, buf, sizeof buf, 0, 1);
    SUCCEEDS(vdisk_submit(q));
    SUCCEEDS(vdisk_reap(q, &done, 1, 1, NULL));
    SUCCEEDS(vdisk_queue_fd(q));
}

static void test_of_this_call(void **state)
{
    fails(vdisk_pread(v, buf, sizeof buf, 1 << 30), EINVAL);
    assert_non_null(strstr(vdisk_error_text(), "memory:1M"));
    fails(vdisk_open("/nonexistent/file", NULL, &v), ENOENT);
    assert_non_null(strstr(vdisk_error_text(), "/nonexistent/file"));
}

/* What of the range is wrong. */
static void test_range(void **state)
{
    fails(vdisk_pwrite(v, buf, sizeof buf, (2 << 20) - 512, 0), EINVAL);
    assert_non_null(strstr(vdisk_error_text(), "4096 bytes at offset 2096640 reach past the end, 2097152"));
    assert_string_not_equal(vdisk_error_hint(), "");
    fails(vdisk_pdiscard(v, UINT64_MAX, 512), EINVAL);
    assert_non_null(strstr(vdisk_error_text(), "at offset 512"));
}

/* A name that is meant for somebody else. */
static void test_protocol(void **state)
{
    static const char *const names[] = {"ssh://host/export", "gluster:pool/image", "https://x?socket=y"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        vdisk *none;
        fails(vdisk_open(names[i], NULL, &none), ENOTSUP);
        assert_non_null(strstr(vdisk_error_text(), "protocol"));
        assert_string_not_equal(vdisk_error_hint(), "");
    }
    fails(vdisk_open("/nonexistent/with:colon", NULL, &v), ENOENT);
    fails(vdisk_open("file:nonexistent", NULL, &v), ENOENT);
}

/* Nothing to name: say so. */
static void test_no_name(void **state)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .virtual_size = 512};

    fails(vdisk_open("", NULL, &v), ENOENT);
    assert_non_null(strstr(vdisk_error_text(), "empty"));
    fails(vdisk_open(NULL, NULL, &v), EINVAL);
    fails(vdisk_create("", &opts), ENOENT);
    fails(vdisk_create(NULL, &opts), EINVAL);
}

/* The library cleans up with its own public functions; what they say is not what failed. */
static void test_nested(void **state)
{
    err_enter();
    err_set(EIO, "what failed");
    assert_int_equal(vdisk_get_info(v, &(struct vdisk_info){.size = sizeof(struct vdisk_info)}), 0);
    assert_int_equal(err_leave(-EIO), -EIO);
    assert_string_equal(vdisk_error_text(), "what failed");
}

static int refuse_rings(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 0;
}

/* Exit status: 0 no text is left, 1 one is, 77 no filter to be had. */
static int without_rings(void)
{
    vdisk_queue *queue;
    vdisk *volume;

    if (refuse_rings() < 0)
        return 77;
    if (vdisk_open("memory:1M", NULL, &volume) < 0 || vdisk_error_text()[0] != '\0')
        return 1;
    if (vdisk_queue_create(NULL, &queue) < 0 || vdisk_error_text()[0] != '\0')
        return 1;
    return vdisk_queue_get_kind(queue) == VDISK_QUEUE_THREADS ? 0 : 1;
}

static void test_fallback(void **state)
{
    int status;
    pid_t child = fork();

    if (child == 0)
        _exit(without_rings());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("no seccomp filter can be set here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none_after_success), cmocka_unit_test(test_of_this_call),
        cmocka_unit_test(test_no_name),            cmocka_unit_test(test_nested),
        cmocka_unit_test(test_range),              cmocka_unit_test(test_protocol),
        cmocka_unit_test(test_fallback),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
