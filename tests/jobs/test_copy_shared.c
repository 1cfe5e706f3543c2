/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies of which the host does a part: what is aligned and data is asked of it, and nothing else; whatever it
 * answers, and whenever it has enough, the target has what the source has. The host's calls are played here, so
 * that any file system can share blocks, refuse to, or be a server's.
 */
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/jobs/jobs.h"
#include "tests/jobs/volumes.h"

enum { UNIT = 4096, SIZE = (5 << 20) + 3 * 512, MIB = 1 << 20 };

/* ---- the host ----------------------------------------------------------------------------------------- */

static struct {
    bool             shares_all, shares; /* whole files; ranges */
    bool             is_server, is_short; /* it copies ranges; some at a time, and is interrupted */
    _Atomic unsigned calls;              /* for ranges */
    unsigned         fail_at;            /* from that one on they fail, half done; 0: none does */
    int              error;              /* with this; 0: the source has ended */
    _Atomic uint64_t bytes;              /* that it was asked for */
} host;

static void copy_blocks(int to, uint64_t offset, int from, uint64_t from_offset, uint64_t len)
{
    uint8_t *buf = len > 0 ? vdisk_alloc_buffer(len) : NULL;

    CHECK(pread(from, buf, len, (off_t)from_offset) == (ssize_t)len);
    CHECK(pwrite(to, buf, len, (off_t)offset) == (ssize_t)len);
    free(buf);
}

/* Count it; true: it fails. */
static bool fails(uint64_t len)
{
    unsigned call = ++host.calls;

    host.bytes += len;
    return host.fail_at > 0 && call >= host.fail_at;
}

static int share_range(int fd, const struct file_clone_range *r)
{
    if (!host.shares || ((r->src_offset | r->dest_offset | r->src_length) & (UNIT - 1)) != 0) {
        errno = host.shares ? EINVAL : EOPNOTSUPP;
        return -1;
    }
    if (fails(r->src_length)) {
        copy_blocks(fd, r->dest_offset, (int)r->src_fd, r->src_offset, r->src_length / 2 & ~(uint64_t)(UNIT - 1));
        errno = host.error;
        return -1;
    }
    copy_blocks(fd, r->dest_offset, (int)r->src_fd, r->src_offset, r->src_length);
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (request == FICLONERANGE)
        return share_range(fd, arg);
    if (request == FICLONE && !host.shares_all) {
        errno = EXDEV;
        return -1;
    }
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

ssize_t copy_file_range(int from, off_t *in, int to, off_t *out, size_t len, unsigned flags)
{
    static _Atomic unsigned turn;

    if (host.is_server && fails(len)) {
        errno = host.error;
        return host.error ? -1 : 0;
    }
    if (host.is_short && ++turn % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    if (host.is_short && len > MIB / 4)
        len -= MIB / 8;
    return syscall(SYS_copy_file_range, from, in, to, out, len, flags);
}

int fstatfs(int fd, struct statfs *st)
{
    int rc = (int)syscall(SYS_fstatfs, fd, st);

    if (rc == 0 && host.is_server)
        st->f_type = NFS_SUPER_MAGIC;
    return rc;
}

static void reset_host(bool shares, bool is_server)
{
    memset(&host, 0, sizeof host);
    host.shares = shares;
    host.is_server = is_server;
}

/* ---- copies ------------------------------------------------------------------------------------------- */

static uint8_t *model; /* SIZE bytes */

/* A source of data and holes, of which `model` says what it reads as. */
static vdisk *make_source(uint64_t seed)
{
    const char *path = test_path("source-%llu", (unsigned long long)seed);
    struct rng r;
    vdisk *v;

    rng_init(&r, seed);
    make(path, &formats[0], SIZE, NULL);
    v = open_as(path, &formats[0], true);
    fill(&r, v, model, SIZE);
    return v;
}

/* A target full of something else. */
static vdisk *make_target(uint64_t size)
{
    const char *path = test_path("target");
    uint8_t *junk = vdisk_alloc_buffer(size);
    vdisk *v;

    make(path, &formats[0], size, NULL);
    v = open_as(path, &formats[0], true);
    memset(junk, 0xee, size);
    CHECK_OK(vdisk_pwrite(v, junk, size, 0, 0));
    free(junk);
    return v;
}

static void close_target(vdisk *v)
{
    CHECK_OK(vdisk_close(v));
    unlink(test_path("target"));
}

static int copy(vdisk *const *sources, unsigned n, vdisk *target, const struct vdisk_copy_opts *opts,
                struct vdisk_copy_result *ret)
{
    vdisk_job *j;
    int rc;

    CHECK_OK(vdisk_job_copy(sources, n, target, opts, &j));
    rc = vdisk_job_run(j);
    *ret = (struct vdisk_copy_result){.size = sizeof *ret};
    if (rc == 0)
        CHECK_OK(vdisk_job_get_copy_result(j, ret));
    CHECK_OK(vdisk_job_free(j));
    CHECK(rc < 0 || opts->going_on.start > 0 || ret->bytes_written + ret->bytes_zeroed + ret->bytes_skipped +
                                               ret->bytes_cloned == ret->bytes_total);
    return rc;
}

static const struct vdisk_copy_opts shared = {.size = sizeof shared, .flags = VDISK_COPY_CLONE};

/* Into a longer target: all that is aligned, and nothing that is a hole. */
static void test_longer(void)
{
    struct vdisk_copy_result r;
    vdisk *source, *target;

    for (uint64_t seed = 1; seed <= 6; seed++) {
        memset(model, 0, SIZE);
        reset_host(seed % 2 == 1, seed % 2 == 0);
        host.is_short = host.is_server;
        source = make_source(seed);
        target = make_target(SIZE + MIB);
        CHECK_OK(copy(&source, 1, target, &shared, &r));
        expect(target, model, SIZE);
        CHECK(r.bytes_cloned > 0 && (host.is_server || r.bytes_cloned == host.bytes));
        CHECK_MSG(r.bytes_read < UNIT, "%llu bytes have been read", (unsigned long long)r.bytes_read);
        CHECK(r.bytes_zeroed > 0);
        close_target(target);
        CHECK_OK(vdisk_close(source));
    }
}

/* A part goes to the start: it can be had where both are as far from a block's start. */
static void test_parts(void)
{
    static const uint64_t starts[] = {MIB, 3 * UNIT, MIB + 512, 0};
    struct vdisk_copy_opts opts = shared;
    struct vdisk_copy_result r;
    vdisk *source, *target;

    memset(model, 0, SIZE);
    reset_host(true, false);
    source = make_source(7);
    opts.length = 3 * MIB + 1536;
    for (unsigned i = 0; i < ARRAY_LEN(starts); i++) {
        opts.offset = starts[i];
        target = make_target(4 * MIB);
        CHECK_OK(copy(&source, 1, target, &opts, &r));
        expect(target, model + starts[i], opts.length);
        CHECK((r.bytes_cloned > 0) == (starts[i] % UNIT == 0));
        close_target(target);
    }
    CHECK_OK(vdisk_close(source));
}

static void test_several(void)
{
    uint8_t *both = test_alloc(2 * SIZE);
    struct vdisk_copy_result r;
    vdisk *sources[2], *target = make_target(2 * SIZE);

    memset(model, 0, SIZE);
    reset_host(true, false);
    sources[0] = make_source(8);
    memcpy(both, model, SIZE);
    memset(model, 0, SIZE);
    sources[1] = make_source(9);
    CHECK_OK(copy(sources, 2, target, &shared, &r));
    CHECK(r.bytes_cloned > 0);
    memcpy(both + SIZE, model, SIZE);
    expect(target, both, 2 * SIZE);
    close_target(target);
    CHECK_OK(vdisk_close(sources[0]));
    CHECK_OK(vdisk_close(sources[1]));
    free(both);
}

/* Each of its answers may be the last that is any good. */
static void fail_each(bool is_server, int error)
{
    struct vdisk_copy_result r;
    vdisk *source = make_source(10), *target;
    unsigned calls = 1;

    for (unsigned k = 1; k <= calls; k++) {
        reset_host(!is_server, is_server);
        host.fail_at = k;
        host.error = error;
        target = make_target(SIZE + MIB);
        CHECK_OK(copy(&source, 1, target, &shared, &r));
        expect(target, model, SIZE);
        CHECK(k > 1 || r.bytes_cloned == 0);
        CHECK(r.bytes_read > UNIT || host.calls < k);
        calls = k == 1 ? 4 : calls;
        close_target(target);
    }
    CHECK_OK(vdisk_close(source));
}

static void test_failures(void)
{
    static const int errors[] = {EXDEV, EINVAL, EOPNOTSUPP, ENOSYS, ENOSPC, EIO, EPERM, ETXTBSY};

    for (unsigned i = 0; i < ARRAY_LEN(errors); i++) {
        memset(model, 0, SIZE);
        fail_each(i % 2 == 1, errors[i]);
    }
    memset(model, 0, SIZE);
    fail_each(true, 0);
}

/* Nobody asks for what is to be looked at, or laid out otherwise. */
static void test_not_asked(void)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = "the target"};
    struct vdisk_copy_result r;
    vdisk *source, *target = make_target(SIZE + MIB);

    memset(model, 0, SIZE);
    source = make_source(11);
    for (unsigned i = 0; i < 4; i++) {
        reset_host(true, true);
        opts.flags = i == 0 ? 0 : VDISK_COPY_CLONE;
        opts.flags |= i == 1 ? VDISK_COPY_DENSE : i == 2 ? VDISK_COPY_SALVAGE : 0;
        opts.sparse = i == 3 ? 4096 : 0;
        CHECK_OK(copy(&source, 1, target, &opts, &r));
        CHECK_INT(host.calls, 0);
        CHECK(r.bytes_cloned == 0);
        expect(target, model, SIZE);
    }
    close_target(target);
    CHECK_OK(vdisk_close(source));
}

static int note_position(void *arg, uint64_t position)
{
    *(uint64_t *)arg = position;
    return 0;
}

/* Stopped at any step, while the host shares or has stopped to: from what is told on, the rest is done. */
static void test_going_on(void)
{
    struct vdisk_copy_result r;
    vdisk *source, *target;

    memset(model, 0, SIZE);
    source = make_source(12);
    for (unsigned k = 1, ended = 0; ended < 2; k += k < 12 ? 1 : 5) {
        uint64_t position = 0;
        struct vdisk_copy_opts opts = shared;
        struct stepper s;
        int rc;

        stepper_init(&s, false);
        s.cancel_at = k;
        reset_host(true, false);
        host.fail_at = k % 2 ? 3 : 0;
        host.error = EINVAL;
        opts.depth = 2;
        opts.memory_max = 128 << 10;
        opts.progress = stepper_step;
        opts.progress_arg = &s;
        opts.going_on = (struct vdisk_going_on){0, note_position, &position, .checkpoint_ms = 1};
        target = make_target(SIZE + MIB);
        rc = copy(&source, 1, target, &opts, &r);
        CHECK(rc == 0 || rc == -ECANCELED);
        expect(target, model, position < SIZE ? position : SIZE);
        ended += rc == 0;
        opts.progress = NULL;
        opts.going_on.start = position;
        CHECK_OK(copy(&source, 1, target, &opts, &r));
        expect(target, model, SIZE);
        close_target(target);
    }
    CHECK_OK(vdisk_close(source));
}

/* ---- the call ----------------------------------------------------------------------------------------- */

static int call(vdisk_queue *q, vdisk *v, uint64_t offset, uint64_t len, vdisk *source, uint64_t source_offset,
                uint32_t flags)
{
    int result = 1;

    vdisk_copy_range(q, v, offset, len, source, source_offset, flags, 0);
    reap_all(q, 1, &result);
    return result;
}

static void test_call(void)
{
    vdisk *source, *target, *reader, *qcow2;
    struct vdisk_completion c;
    vdisk_queue *q;

    memset(model, 0, SIZE);
    reset_host(false, false);
    source = make_source(13);
    target = make_target(SIZE + MIB);
    make(test_path("q"), &formats[1], SIZE, NULL);
    qcow2 = open_as(test_path("q"), &formats[1], true);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_INT(call(q, target, 0, MIB, source, 2 * MIB, VDISK_REQ_NO_FALLBACK), -ENOTSUP);
    CHECK_OK(call(q, target, 0, MIB, source, 2 * MIB, 0)); /* by the kernel of the machine */
    expect(target, model + 2 * MIB, MIB);
    CHECK_OK(call(q, target, 0, 0, source, 0, 0));
    CHECK_INT(call(q, target, 0, MIB, NULL, 0, 0), -EINVAL);
    CHECK_INT(call(q, target, 0, MIB, target, MIB, 0), -EINVAL);
    CHECK_INT(call(q, target, 0, MIB, source, 0, VDISK_REQ_FUA), -EINVAL);
    CHECK_INT(call(q, target, SIZE, 2 * MIB, source, 0, 0), -EINVAL);
    CHECK_INT(call(q, target, 0, MIB, source, SIZE - 512, 0), -EINVAL);
    CHECK_INT(call(q, target, 0, MIB, source, UINT64_MAX - 512, 0), -EINVAL);
    CHECK_INT(call(q, qcow2, 0, MIB, source, 0, 0), -ENOTSUP);
    CHECK_INT(call(q, target, 0, MIB, qcow2, 0, 0), -ENOTSUP);
    vdisk_copy_range(q, target, 0, MIB, qcow2, 0, 0, 0);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    vdisk_explain(q, &c);
    CHECK_HAS(vdisk_error_text(), "the host cannot copy it");

    /* It is in flight in both. */
    vdisk_copy_range(q, target, 0, MIB, source, 0, 0, 0);
    CHECK_INT(vdisk_close(source), -EBUSY);
    CHECK_INT(vdisk_close(target), -EBUSY);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    CHECK_OK(c.result);
    CHECK_OK(vdisk_close(source));
    reader = open_as(test_path("source-13"), &formats[0], false);
    CHECK_INT(call(q, reader, 0, MIB, target, 0, 0), -EACCES);
    CHECK_OK(vdisk_close(reader));
    CHECK_OK(vdisk_close(qcow2));
    close_target(target);
    CHECK_OK(vdisk_queue_destroy(q));
}

/* A file that ends within a sector ends there ever after. */
static void test_ragged_end(void)
{
    const char *path = test_path("target");
    vdisk *source, *target;
    struct stat st;
    vdisk_queue *q;

    memset(model, 0, SIZE);
    reset_host(false, false);
    source = make_source(15);
    CHECK_OK(vdisk_close(make_target(2 * MIB)));
    CHECK_OK(truncate(path, 2 * MIB - 100));
    target = open_as(path, &formats[0], true);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(call(q, target, MIB, MIB - UNIT, source, 0, 0));
    CHECK_INT(call(q, target, 2 * MIB - UNIT, UNIT, source, 0, 0), -ENOTSUP);
    CHECK_OK(stat(path, &st));
    CHECK(st.st_size == 2 * MIB - 100);
    close_target(target);
    CHECK_OK(vdisk_close(source));
    CHECK_OK(vdisk_queue_destroy(q));
}

/* What another handle has in the page cache, and not on disk yet, counts; also where it is the target's. */
static void test_page_cache(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "raw",
                                   .flags = VDISK_OPEN_RDWR | VDISK_OPEN_BUFFERED | VDISK_OPEN_NO_LOCK};
    uint8_t *news = test_alloc(MIB);
    vdisk *source, *target, *beside[2];
    vdisk_queue *q;

    memset(model, 0, SIZE);
    reset_host(false, false);
    source = make_source(14);
    target = make_target(SIZE + MIB);
    CHECK_OK(vdisk_open(test_path("source-14"), &opts, &beside[0]));
    CHECK_OK(vdisk_open(test_path("target"), &opts, &beside[1]));
    memset(news, 0x77, MIB);
    CHECK_OK(vdisk_pwrite(beside[0], news, MIB, MIB, 0));
    CHECK_OK(vdisk_pwrite(beside[1], news, 512, 512, 0));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(call(q, target, 0, 2 * MIB, source, 0, 0));
    expect(target, model, MIB);
    CHECK_OK(vdisk_pread(target, news, MIB, MIB));
    for (unsigned i = 0; i < MIB; i++)
        CHECK(news[i] == 0x77);
    expect(beside[1], model, MIB);
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(vdisk_close(beside[i]));
    CHECK_OK(vdisk_close(source));
    close_target(target);
    CHECK_OK(vdisk_queue_destroy(q));
    free(news);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "longer", .run = test_longer},
        {.name = "parts", .run = test_parts},
        {.name = "several", .run = test_several},
        {.name = "failures", .run = test_failures},
        {.name = "not-asked", .run = test_not_asked},
        {.name = "going-on", .run = test_going_on},
        {.name = "call", .run = test_call},
        {.name = "ragged-end", .run = test_ragged_end},
        {.name = "page-cache", .run = test_page_cache},
    };

    model = test_alloc(SIZE);
    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
