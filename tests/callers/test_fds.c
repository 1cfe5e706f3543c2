/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes on descriptors that the caller gives: the same as by name, locks and identity included, for each file
 * of a chain; also where open(2) is refused. The caller's descriptor stays the caller's.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/callers/callers.h"

static int open_fd(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);

    CHECK_MSG(fd >= 0, "%s: %s", path, strerror(errno));
    return fd;
}

static int open_by(const char *name, const struct vdisk_fd *fds, uint32_t n, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2", .fds = fds,
                                   .fds_count = n};

    return vdisk_open(name, &opts, ret);
}

static void expect(vdisk *v, uint64_t offset, int byte)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    CHECK_OK(vdisk_pread(v, buf, BLOCK, offset));
    CHECK_INT(buf[0], byte);
    CHECK_INT(buf[BLOCK - 1], byte);
    free(buf);
}

static void write_byte(vdisk *v, uint64_t offset, int byte)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    memset(buf, byte, BLOCK);
    CHECK_OK(vdisk_pwrite(v, buf, BLOCK, offset, 0));
    free(buf);
}

/* ---- one file ---------------------------------------------------------------------------------------- */

static void used(int extra)
{
    const char *path = make_full_image("image");
    struct vdisk_fd fd = {.fd = open_fd(path, O_RDWR | extra)};
    struct vdisk_info info = {.size = sizeof info};
    vdisk *v, *other;

    CHECK_OK(open_by("its name", &fd, 1, VDISK_OPEN_RDWR, &v));
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK(!info.direct || extra & O_DIRECT);
    expect(v, CLUSTER, 0x5a);
    write_byte(v, CLUSTER, 1);
    CHECK_INT(vdisk_pread(v, (char[1]){0}, 1, 1u << 30), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "its name");
    /* It is locked as any other, by name and by another descriptor. */
    struct vdisk_fd second = {.fd = open_fd(path, O_RDWR)};
    CHECK_INT(open_by(path, NULL, 0, VDISK_OPEN_RDWR, &other), -EAGAIN);
    CHECK_INT(open_by("x", &second, 1, VDISK_OPEN_RDWR, &other), -EAGAIN);
    CHECK_INT(open_by("x", &fd, 1, VDISK_OPEN_RDWR, &other), -EAGAIN);
    CHECK_HAS(vdisk_error_text(), "x: its descriptor is in use");
    CHECK_INT(open_by("x", &fd, 1, VDISK_OPEN_FORCE_SHARE, &other), -EAGAIN);
    CHECK_OK(vdisk_close(v));
    /* And free again, though the caller's descriptor is still open. */
    CHECK_OK(open_by(path, NULL, 0, VDISK_OPEN_RDWR, &v));
    expect(v, CLUSTER, 1);
    CHECK_OK(vdisk_close(v));
    /* Closed at once, it serves all the same. */
    CHECK_OK(open_by("image", &fd, 1, VDISK_OPEN_RDWR, &v));
    close(fd.fd);
    write_byte(v, CLUSTER, 2);
    CHECK_OK(vdisk_close(v));
    CHECK_OK(open_by("image", &second, 1, 0, &v));
    expect(v, CLUSTER, 2);
    CHECK_OK(vdisk_close(v));
    close(second.fd);
}

static void test_use(void)
{
    used(0);
    used(O_DIRECT);
}

static void test_refused(void)
{
    const char *path = make_full_image("image");
    struct vdisk_fd fd = {.fd = open_fd(path, O_RDONLY)};
    vdisk *v;

    CHECK_INT(open_by("x", &fd, 1, VDISK_OPEN_RDWR, &v), -EACCES);
    CHECK_HAS(vdisk_error_text(), "reading only");
    CHECK_OK(open_by("x", &fd, 1, 0, &v));
    CHECK_OK(vdisk_close(v));
    close(fd.fd);
    CHECK_INT(open_by("x", &fd, 1, 0, &v), -EBADF);
    fd.fd = open_fd(path, O_WRONLY);
    CHECK_INT(open_by("x", &fd, 1, 0, &v), -EACCES);
    close(fd.fd);
    fd.fd = open_fd(path, O_RDWR | O_APPEND);
    CHECK_INT(open_by("x", &fd, 1, VDISK_OPEN_RDWR, &v), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "appending");
    close(fd.fd);
    fd.fd = open_fd(path, O_PATH);
    CHECK_INT(open_by("x", &fd, 1, 0, &v), -EBADF);
    close(fd.fd);
    fd.fd = open_fd("/", O_RDONLY);
    CHECK_INT(open_by("x", &fd, 1, 0, &v), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "directory");
    close(fd.fd);
    fd.fd = -1;
    CHECK_INT(open_by("x", &fd, 1, 0, &v), -EINVAL);
    CHECK_INT(open_by("x", NULL, 1, 0, &v), -EINVAL);
    CHECK_INT(open_by("x", NULL, 0, 0, &v), -ENOENT); /* what was given before is forgotten */
}

/* Whatever way the format is named in: it is the descriptor that counts, and not what lies under the name now. */
static void test_formats(void)
{
    static const char *const raw_names[] = {
        "volume", "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"volume\"}}",
        "image-opts:driver=raw,file.driver=file,file.filename=volume",
    };
    struct vdisk_create_opts create = {.size = sizeof create, .format = "raw", .virtual_size = CLUSTER};
    struct vdisk_fd fd = {.fd = -1};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .fds = &fd, .fds_count = 1};
    vdisk *v;

    CHECK_INT(chdir(test_dir()), 0);
    for (unsigned i = 0; i < ARRAY_LEN(raw_names); i++) {
        CHECK_OK(vdisk_create("given", &create));
        CHECK_OK(vdisk_create("volume", &create));
        fd.fd = open_fd("given", O_RDWR);
        opts.format = i == 0 ? "raw" : NULL;
        CHECK_OK(vdisk_open(raw_names[i], &opts, &v));
        write_byte(v, 0, 0x77);
        CHECK_OK(vdisk_close(v));
        close(fd.fd);
        for (unsigned is_given = 0; is_given < 2; is_given++) {
            struct vdisk_open_opts plain = {.size = sizeof plain, .format = "raw"};
            CHECK_OK(vdisk_open(is_given ? "given" : "volume", &plain, &v));
            expect(v, 0, is_given ? 0x77 : 0);
            CHECK_OK(vdisk_close(v));
        }
        unlink("volume");
        unlink("given");
        fd.fd = open_fd(".", O_RDONLY);
        CHECK_INT(vdisk_open(raw_names[i], &opts, &v), -EINVAL);
        close(fd.fd);
    }
}

/* ---- a chain, without open(2) ------------------------------------------------------------------------ */

static void refuse_open(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
        test_skip("no filters of system calls here: %s", strerror(errno));
}

/* top -> base, with an external data file of top's; the base is named relative to top. */
static void test_chain(void)
{
    char *top = strdup(test_path("top")), *data = strdup(test_path("top.data")), *base;
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .backing_file = "base",
                                     .backing_fmt = "qcow2", .virtual_size = UINT64_MAX, .data_file = "top.data"};
    vdisk *v;

    base = strdup(make_full_image("base"));
    CHECK_OK(vdisk_create(top, &opts));
    struct vdisk_fd fds[] = {
        {.name = base, .fd = open_fd(base, O_RDONLY)},
        {.fd = open_fd(top, O_RDWR)},
        {.name = data, .fd = open_fd(data, O_RDWR)},
    };
    char *moved = strdup(test_path("moved"));
    CHECK(rename(base, moved) == 0); /* only the descriptors lead there */
    refuse_open();
    CHECK_INT(open_by(top, fds, 2, VDISK_OPEN_RDWR, &v), -EPERM);
    CHECK_OK(open_by(top, fds, 3, VDISK_OPEN_RDWR, &v));
    expect(v, CLUSTER, 0x5a);
    write_byte(v, CLUSTER, 3);
    CHECK_OK(vdisk_sync(v));
    expect(v, CLUSTER, 3);
    CHECK_OK(vdisk_close(v));
    for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
        close(fds[i].fd);
    free(top);
    free(data);
    free(base);
    free(moved);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "use", .run = test_use},
        {.name = "refused", .run = test_refused},
        {.name = "formats", .run = test_formats},
        {.name = "chain", .run = test_chain},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
