/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sandbox refuses one of io_uring's calls, from the start or later: whatever is called returns, in bounded time,
 * with the right bytes or an errno; kind and reason say what happened.
 */
#include <assert.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/callers/callers.h"

enum { BATCH = 8, SETUP = __NR_io_uring_setup, REGISTER = __NR_io_uring_register, ENTER = __NR_io_uring_enter };

/* The whole process gets -EPERM for `call` from now on; all three calls: -1. */
static void refuse(int call)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (unsigned)(call < 0 ? SETUP : call), 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (unsigned)(call < 0 ? REGISTER : call), 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

    static_assert(SETUP < ENTER && ENTER < REGISTER, "in this order");
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        test_skip("no filters of system calls here: %s", strerror(errno));
}

struct run {
    const char *path;
    int call;
    bool late;
    vdisk *v;
    vdisk_queue *q;
    char *buf;    /* for good: what the kernel had may still come */
    unsigned failed;
};

static void judge(struct run *r, int rc, const char *what)
{
    CHECK_MSG(rc <= 0 && rc > -4096, "%s: %d", what, rc);
    CHECK_MSG(rc == 0 || r->late, "%s: %s, though the queue knew from the start", what, strerror(-rc));
    r->failed += rc < 0;
}

static void expect_bytes(const char *buf, size_t len, char byte)
{
    for (size_t i = 0; i < len; i++)
        CHECK_MSG(buf[i] == byte, "byte %zu is 0x%x, not 0x%x", i, buf[i] & 255, byte & 255);
}

static void enqueue_reads(struct run *r)
{
    r->buf = vdisk_alloc_buffer(BATCH * BLOCK);
    memset(r->buf, 0x11, BATCH * BLOCK);
    for (uint64_t i = 0; i < BATCH; i++)
        vdisk_read(r->q, r->v, i * 5 * CLUSTER, r->buf + i * BLOCK, BLOCK, 0, i);
}

static void take_reads(struct run *r)
{
    int results[BATCH];

    reap_all(r->q, BATCH, results);
    for (unsigned i = 0; i < BATCH; i++) {
        judge(r, results[i], "read");
        if (results[i] == 0)
            expect_bytes(r->buf + i * BLOCK, BLOCK, 0x5a);
    }
}

static void write_and_flush(struct run *r)
{
    char *data = vdisk_alloc_buffer(2 * BLOCK);
    int results[4];

    memset(data, 0x77, 2 * BLOCK);
    vdisk_write(r->q, r->v, 100 * CLUSTER, data, BLOCK, 0, 0);
    vdisk_write(r->q, r->v, 3 * CLUSTER, data, BLOCK, VDISK_REQ_FUA, 1);
    reap_all(r->q, 2, results);
    vdisk_flush(r->q, r->v, 0, 2);
    vdisk_discard(r->q, r->v, 7 * CLUSTER, CLUSTER, 0, 3);
    reap_all(r->q, 2, results);
    for (unsigned i = 0; i < 4; i++)
        judge(r, results[i], "write, flush or discard");
    for (unsigned i = 0; i < 2; i++) {
        vdisk_read(r->q, r->v, i == 0 ? 100 * CLUSTER : 3 * CLUSTER, data + BLOCK, BLOCK, 0, i + 2);
        reap_all(r->q, 1, results);
        judge(r, results[i + 2], "read");
        if (results[i] == 0 && results[i + 2] == 0)
            expect_bytes(data + BLOCK, BLOCK, 0x77);
    }
}

static void *call_synchronously(void *arg)
{
    struct run *r = arg;
    char *buf = vdisk_alloc_buffer(2 * BLOCK);

    caller_wait_begin("synchronous calls");
    for (unsigned i = 0; i < 3; i++) {
        int rc = vdisk_pread(r->v, buf, BLOCK, CLUSTER);
        judge(r, rc, "pread");
        if (rc == 0)
            expect_bytes(buf, BLOCK, 0x5a);
        judge(r, vdisk_pwrite(r->v, buf, BLOCK, (200 + i) * CLUSTER, 0), "pwrite");
        judge(r, vdisk_sync(r->v), "sync");
    }
    judge(r, vdisk_trim_space(r->v), "trim");
    caller_wait_end();
    return NULL;
}

static void say_why(const struct run *r, const vdisk_queue *q)
{
    enum vdisk_queue_kind kind = vdisk_queue_get_kind(q);

    if (kind == VDISK_QUEUE_THREADS)
        CHECK_HAS(vdisk_queue_get_reason(q), "Operation not permitted");
    if (kind == VDISK_QUEUE_URING_DEFER)
        CHECK_MSG(vdisk_queue_get_reason(q)[0] == '\0', "a reason: %s", vdisk_queue_get_reason(q));
    CHECK_MSG(kind == VDISK_QUEUE_THREADS || r->late, "%s, though it was refused", vdisk_queue_kind_name(kind));
    if (r->late && (r->call == ENTER || r->call < 0))
        CHECK_INT(kind, VDISK_QUEUE_THREADS);
}

static void make_queue(struct run *r, enum vdisk_queue_kind kind, bool refused)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 32, .kind = kind};
    int rc = vdisk_queue_create(&opts, &r->q);

    if (rc < 0) { /* it asked for a ring, and none but that */
        CHECK(kind == VDISK_QUEUE_URING || kind == VDISK_QUEUE_URING_DEFER);
        if (refused) {
            CHECK_INT(rc, -EPERM);
            CHECK_HAS(vdisk_error_text(), "Operation not permitted");
        }
        CHECK_OK(vdisk_queue_create(NULL, &r->q));
    }
}

static void finish(struct run *r)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2"};
    pthread_t other;
    vdisk *again;

    call_synchronously(r);
    CHECK(pthread_create(&other, NULL, call_synchronously, r) == 0);
    pthread_join(other, NULL);
    caller_wait_begin("close or open");
    CHECK_OK(vdisk_queue_destroy(r->q));
    judge(r, vdisk_close(r->v), "close");
    CHECK_OK(vdisk_open(r->path, &opts, &again)); /* on a ring that knows by now */
    CHECK_OK(vdisk_close(again));
    caller_wait_end();
}

static void refused(bool late)
{
    static const int calls[] = {SETUP, REGISTER, ENTER, -1};
    unsigned n = test_repetition();
    struct run r = {.path = make_full_image("image"), .call = calls[n % 4], .late = late};
    enum vdisk_queue_kind kind = all_kinds[n / 4 % 4];
    bool asks_fd = n / 16 % 2, warm = n / 32 % 2;

    test_note("system call %d refused, kind %d, %s descriptor, %s", r.call, (int)kind, asks_fd ? "a" : "no",
              warm ? "in use before" : "new");
    if (!late)
        refuse(r.call);
    r.v = open_rw(r.path);
    make_queue(&r, kind, !late);
    if (asks_fd)
        CHECK_OK(vdisk_queue_fd(r.q));
    if (warm) {
        enqueue_reads(&r);
        take_reads(&r);
    }
    enqueue_reads(&r);
    if (rng_chance(test_rng(), 60))
        CHECK_OK(vdisk_submit(r.q));
    if (late)
        refuse(r.call);
    take_reads(&r);
    write_and_flush(&r);
    enqueue_reads(&r);
    take_reads(&r);
    if (kind != VDISK_QUEUE_THREADS)
        say_why(&r, r.q);
    finish(&r);
}

static void test_early(void)
{
    refused(false);
}

static void test_late(void)
{
    refused(true);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "late", .run = test_late, .repeat = 64, .quick = 32},
        {.name = "early", .run = test_early, .repeat = 64, .quick = 16},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
