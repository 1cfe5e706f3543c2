/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program's own allocator (vdisk_set_allocator()): all of the library's memory comes from there, goes back
 * there, and whichever call for it fails, the call of the library that made it fails or does without: nothing is
 * lost, neither memory nor data.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <vdisk-image.h>

#include "tests/callers/callers.h"

enum { SIZE = 4 << 20, STRIDE_QUICK = 41, STRIDE = 11, REQUESTS = 12, HEAD_MAGIC = 0x6d656d6f };

/* ---- an allocator that counts, fails, and knows what is its own ------------------------------------------ */

struct head {
    void    *base; /* what the C library gave */
    size_t   size;
    uint32_t magic;
};

static struct {
    _Atomic uint64_t calls, live, failed;
    _Atomic uint64_t nth;     /* this call fails, from 1 on; 0: none */
    _Atomic bool     forever; /* and all after it */
} memory;

static void *make(size_t align, size_t size)
{
    uint64_t n = atomic_fetch_add(&memory.calls, 1) + 1, nth = atomic_load(&memory.nth);
    struct head *h;
    char *base;
    void *p;

    if (nth && (n == nth || (n > nth && atomic_load(&memory.forever)))) {
        atomic_fetch_add(&memory.failed, 1);
        return NULL;
    }
    align = max_u64(align, 16);
    base = malloc(sizeof *h + align + size);
    CHECK(base);
    p = (void *)align_up((uintptr_t)base + sizeof *h, align);
    h = (struct head *)p - 1;
    *h = (struct head){base, size, HEAD_MAGIC};
    atomic_fetch_add(&memory.live, 1);
    return p;
}

static struct head *head_of(void *p)
{
    struct head *h = (struct head *)p - 1;

    CHECK_MSG(h->magic == HEAD_MAGIC, "memory comes back that is not from here");
    return h;
}

static void own_free(void *opaque, void *p)
{
    struct head *h = head_of(p);

    CHECK(opaque == &memory);
    h->magic = 0;
    atomic_fetch_sub(&memory.live, 1);
    free(h->base);
}

static void *own_malloc(void *opaque, size_t size)
{
    CHECK(opaque == &memory);
    return make(16, size);
}

static void *own_calloc(void *opaque, size_t n, size_t size)
{
    void *p = own_malloc(opaque, n * size);

    return p ? memset(p, 0, n * size) : NULL;
}

static void *own_realloc(void *opaque, void *p, size_t size)
{
    void *moved = own_malloc(opaque, size);

    if (moved && p) {
        memcpy(moved, p, min_u64(size, head_of(p)->size));
        own_free(opaque, p);
    }
    return moved;
}

static void *own_aligned(void *opaque, size_t align, size_t size)
{
    CHECK(opaque == &memory);
    return make(align, size);
}

static const struct vdisk_allocator own = {
    .size = sizeof own, .opaque = &memory, .malloc = own_malloc, .calloc = own_calloc, .realloc = own_realloc,
    .aligned_alloc = own_aligned, .free = own_free,
};

static void fail_from(uint64_t nth, bool forever)
{
    atomic_store(&memory.calls, 0);
    atomic_store(&memory.failed, 0);
    atomic_store(&memory.forever, forever);
    atomic_store(&memory.nth, nth);
}

/* ---- a life with volumes --------------------------------------------------------------------------------- */

struct life {
    const char *base, *disk, *raw;
    enum vdisk_queue_kind kind;
    uint8_t *data;   /* the C library's */
    int rc;          /* the first error */
    bool wrote[REQUESTS];
    bool flushed, lossy;
};

/* What came of a call: fine, or out of memory. */
static bool fine(struct life *l, int rc, const char *what)
{
    if (rc >= 0)
        return true;
    CHECK_MSG(atomic_load(&memory.failed) > 0, "%s: %s, though no call for memory failed (%s)", what,
              strerror(-rc), vdisk_error_text());
    CHECK_MSG(rc == -ENOMEM, "%s: %s (%s)", what, strerror(-rc), vdisk_error_text());
    if (l->rc == 0)
        l->rc = rc;
    return false;
}

#define FINE(call) fine(l, call, #call)

/* With -ENOMEM it is as it was; after -EIO it is gone, and what was not flushed is lost. */
static void close_volume(struct life *l, vdisk *v)
{
    int rc = vdisk_close(v);

    if (rc == -EIO && atomic_load(&memory.failed) > 0) {
        l->lossy = true;
        l->rc = l->rc ? l->rc : -ENOMEM;
    } else if (!FINE(rc)) {
        CHECK_INT(rc, -ENOMEM);
        atomic_store(&memory.nth, 0);
        CHECK_OK(vdisk_close(v));
    }
}

static void requests(struct life *l, vdisk *v)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = l->kind, .depth = 32};
    static struct vdisk_extent list[8];
    struct vdisk_extents extents = {.list = list, .max = 8};
    static uint8_t got[100000];
    int results[REQUESTS + 6];
    struct iovec iov[6];
    vdisk_queue *q;

    if (!FINE(vdisk_queue_create(&opts, &q)))
        return;
    for (unsigned i = 0; i < 6; i++)
        iov[i] = (struct iovec){got + i * 1000, 1000};
    for (unsigned i = 0; i < REQUESTS; i++)
        vdisk_write(q, v, i * (SIZE / REQUESTS / 512 * 512) + i % 3 * 100, l->data + i * 1000, 70000,
                    i == 5 ? VDISK_REQ_FUA : 0, i);
    reap_all(q, REQUESTS, results);
    vdisk_read(q, v, 12345, got, sizeof got, 0, REQUESTS);
    vdisk_readv(q, v, SIZE / 2, iov, 6, 0, REQUESTS + 1);
    vdisk_get_extents(q, v, 0, SIZE, &extents, REQUESTS + 2);
    vdisk_write_zeroes(q, v, SIZE - 65536, 65536, VDISK_REQ_UNMAP, REQUESTS + 3);
    vdisk_prefetch(q, v, 0, SIZE, 0, REQUESTS + 4);
    vdisk_flush(q, v, 0, REQUESTS + 5);
    reap_all(q, 6, results);
    for (unsigned i = 0; i < REQUESTS + 6; i++) {
        struct vdisk_completion c = {.user_data = i, .result = results[i]};
        bool ok = fine(l, vdisk_explain(q, &c), "a request");
        if (i < REQUESTS)
            l->wrote[i] = ok;
        else if (i == REQUESTS + 5)
            l->flushed = ok;
    }
    CHECK_OK(vdisk_queue_destroy(q));
}

static void on_disk(struct life *l)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    struct vdisk_resize_opts resize = {.size = sizeof resize};
    struct vdisk_info info = {.size = sizeof info};
    vdisk_image *image;
    vdisk *v;

    if (!FINE(vdisk_open(l->disk, &opts, &v)))
        return;
    requests(l, v);
    FINE(vdisk_pwrite(v, l->data, 1000, 5 << 10, 0));
    FINE(vdisk_get_info(v, &info));
    if (FINE(vdisk_image_of_layer(v, 1, &image)))
        vdisk_image_free(image);
    FINE(vdisk_resize(v, 2 * SIZE, &resize));
    FINE(vdisk_pdiscard(v, 1 << 20, 1 << 20));
    FINE(vdisk_trim_space(v));
    close_volume(l, v);
}

/* The same kinds of work as jobs. */
static void with_jobs(struct life *l)
{
    struct vdisk_open_opts reads = {.size = sizeof reads}, writes = {.size = sizeof writes,
                                                                     .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char name[400];
    vdisk *from, *to;
    vdisk_job *job;

    if (FINE(vdisk_job_check(l->disk, NULL, &job))) {
        FINE(vdisk_job_run(job));
        CHECK_OK(vdisk_job_free(job));
    }
    snprintf(name, sizeof name, "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
             l->disk);
    if (!FINE(vdisk_open(name, &reads, &from)))
        return;
    if (FINE(vdisk_open(l->raw, &writes, &to))) {
        if (FINE(vdisk_job_copy(&from, 1, to, NULL, &job))) {
            FINE(vdisk_job_run(job));
            CHECK_OK(vdisk_job_free(job));
        }
        if (FINE(vdisk_job_compare(from, to, NULL, &job))) {
            FINE(vdisk_job_run(job));
            CHECK_OK(vdisk_job_free(job));
        }
        close_volume(l, to);
    }
    close_volume(l, from);
}

static void create_all(struct life *l)
{
    struct vdisk_create_opts base = {.size = sizeof base, .format = "qcow2", .virtual_size = SIZE};
    struct vdisk_create_opts disk = {.size = sizeof disk, .format = "qcow2", .virtual_size = UINT64_MAX,
                                     .backing_file = l->base, .backing_fmt = "qcow2"};
    struct vdisk_create_opts raw = {.size = sizeof raw, .format = "raw", .virtual_size = 2 * SIZE};

    if (FINE(vdisk_create(l->base, &base)) && FINE(vdisk_create(l->disk, &disk)))
        FINE(vdisk_create(l->raw, &raw));
}

/* On a thread of its own, whose queue goes with it. */
static void *live(void *arg)
{
    struct life *l = arg;

    create_all(l);
    if (l->rc == 0) {
        on_disk(l);
        with_jobs(l);
    }
    return NULL;
}

static void run_life(struct life *l)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, live, l), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

/* What was said to be written is there, and the image is whole. */
static void judge(const struct life *l)
{
    struct vdisk_check_opts opts = {.size = sizeof opts};
    struct vdisk_check_result result = {.size = sizeof result};
    static uint8_t got[70000];
    vdisk_job *job;
    vdisk *v;

    if (vdisk_open(l->disk, NULL, &v) < 0) {
        CHECK(l->rc < 0); /* it was not made */
        return;
    }
    for (unsigned i = 3; i < REQUESTS - 1; i++) { /* the first and the last were written over, or dropped */
        if (!l->wrote[i] || (l->lossy && !l->flushed) || i * (SIZE / REQUESTS) + sizeof got > SIZE - 65536)
            continue;
        uint64_t at = i * (SIZE / REQUESTS / 512 * 512) + i % 3 * 100;
        if (at + sizeof got > 1 << 20 && at < 2 << 20)
            continue; /* discarded */
        CHECK_OK(vdisk_pread(v, got, sizeof got, at));
        CHECK_MSG(memcmp(got, l->data + i * 1000, sizeof got) == 0, "request %u is not there", i);
    }
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_job_check(l->disk, &opts, &job));
    CHECK_OK(vdisk_job_run(job));
    CHECK_OK(vdisk_job_get_check_result(job, &result));
    CHECK_INT(result.corruptions, 0);
    CHECK_OK(vdisk_job_free(job));
}

static void *judge_thread(void *arg)
{
    judge(arg);
    return NULL;
}

static struct life new_life(enum vdisk_queue_kind kind, unsigned number)
{
    struct life l = {.kind = kind, .data = test_alloc(100000)};
    static char names[3][300];

    snprintf(names[0], sizeof names[0], "%s/base%u", test_dir(), number);
    snprintf(names[1], sizeof names[1], "%s/disk%u", test_dir(), number);
    snprintf(names[2], sizeof names[2], "%s/raw%u", test_dir(), number);
    l.base = names[0];
    l.disk = names[1];
    l.raw = names[2];
    for (size_t i = 0; i < 100000; i++)
        l.data[i] = (uint8_t)rng_next(test_rng());
    return l;
}

static void end_life(struct life *l)
{
    pthread_t thread;

    CHECK_MSG(atomic_load(&memory.live) == 0, "%d pieces of memory are lost", (int)atomic_load(&memory.live));
    fail_from(0, false);
    CHECK_INT(pthread_create(&thread, NULL, judge_thread, l), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(atomic_load(&memory.live), 0);
    remove(l->base);
    remove(l->disk);
    remove(l->raw);
    free(l->data);
}

/* ---- cases ----------------------------------------------------------------------------------------------- */

static void test_all_of_it(void)
{
    CHECK_OK(vdisk_set_allocator(&own));
    for (unsigned k = 0; k < ARRAY_LEN(all_kinds); k++) {
        struct life l = new_life(all_kinds[k], k);
        fail_from(0, false);
        run_life(&l);
        CHECK_INT(l.rc, 0);
        CHECK(atomic_load(&memory.calls) > 100);
        end_life(&l);
    }
}

/* Every `stride`th call, from one on that the repetition says. */
static void sweep(enum vdisk_queue_kind kind, bool forever)
{
    unsigned stride = test_is_long() ? 1 : test_is_quick() || test_is_slow() ? STRIDE_QUICK : STRIDE, runs = 0;

    CHECK_OK(vdisk_set_allocator(&own));
    for (uint64_t nth = 1 + rng_below(test_rng(), stride);; nth += stride) {
        struct life l = new_life(kind, 0);
        uint64_t failed;
        test_note("%scall %d fails", forever ? "from there on: " : "", (int)nth);
        fail_from(nth, forever);
        run_life(&l);
        failed = atomic_load(&memory.failed);
        end_life(&l);
        runs++;
        if (failed == 0)
            break;
    }
    CHECK(runs > 10);
    printf("%u runs\n", runs);
}

static void test_once(void)
{
    sweep(all_kinds[test_repetition() % ARRAY_LEN(all_kinds)], false);
}

static void test_from_there_on(void)
{
    sweep(all_kinds[test_repetition() % ARRAY_LEN(all_kinds)], true);
}

/* ---- what changes an image as a whole -------------------------------------------------------------------- */

enum change { EMPTIED, SHRUNK, CHANGES };

enum { PART = 4 * CLUSTER };

/* What was written last is there, whatever was before. */
static void expect_kept(const char *path, const char *want)
{
    char *got = vdisk_alloc_buffer(CLUSTER);
    vdisk *v = open_rw(path);

    CHECK_OK(vdisk_pread(v, got, CLUSTER, 0));
    CHECK_MSG(memcmp(got, want, CLUSTER) == 0, "what was written after the failure is not there");
    CHECK_OK(vdisk_close(v));
    free(got);
}

/* The n-th call for memory of the change fails; then something is written. true: that was more than there are. */
static bool change_and_write(enum change change, uint64_t n, unsigned *refused)
{
    struct vdisk_resize_opts smaller = {.size = sizeof smaller, .shrink = true};
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = PART,
                                       .cluster_size = BLOCK, .backing_file = test_path("lower"),
                                       .backing_fmt = "raw"};
    const char *path = test_path("upper");
    char *data = vdisk_alloc_buffer(CLUSTER);
    vdisk *v;
    int rc;

    remove(path);
    memset(data, 0x5a, CLUSTER);
    CHECK_OK(vdisk_create(path, &create));
    v = open_rw(path);
    for (uint64_t at = 0; at < PART; at += CLUSTER)
        CHECK_OK(vdisk_pwrite(v, data, CLUSTER, at, 0));
    CHECK_OK(vdisk_sync(v));
    fail_from(n, false);
    rc = change == EMPTIED ? vdisk_make_empty(v, NULL, NULL) : vdisk_resize(v, PART / 2, &smaller);
    CHECK(rc == 0 || (atomic_load(&memory.failed) > 0 && vdisk_error_text()[0]));
    atomic_store(&memory.nth, 0);
    memset(data, 0x77, CLUSTER);
    rc = vdisk_pwrite(v, data, CLUSTER, 0, 0);
    if (rc == 0)
        rc = vdisk_sync(v);
    *refused += rc < 0;
    CHECK(rc == 0 || rc == -EIO);
    vdisk_close(v);
    if (rc == 0)
        expect_kept(path, data);
    free(data);
    return atomic_load(&memory.failed) == 0;
}

/* What changes tables on disk and cannot read them again takes no more writes, or keeps them. */
static void test_changes(void)
{
    struct vdisk_create_opts lower = {.size = sizeof lower, .format = "raw", .virtual_size = PART};

    CHECK_OK(vdisk_set_allocator(&own));
    CHECK_OK(vdisk_create(test_path("lower"), &lower));
    for (enum change c = 0; c < CHANGES; c++) {
        unsigned refused = 0;
        uint64_t n = 1;

        test_note("%s", c == EMPTIED ? "emptied" : "shrunk");
        while (!change_and_write(c, n, &refused))
            n++;
        CHECK(n > 10 && refused > 0);
    }
}

static void test_misuse(void)
{
    struct vdisk_allocator bad = own;

    CHECK_INT(vdisk_set_allocator(NULL), -EINVAL);
    bad.free = NULL;
    CHECK_INT(vdisk_set_allocator(&bad), -EINVAL);
    bad = own;
    bad.size = sizeof(size_t);
    CHECK_INT(vdisk_set_allocator(&bad), -EINVAL);
    CHECK_OK(vdisk_set_allocator(&own));
    CHECK_INT(vdisk_set_allocator(&own), -EBUSY);
    free(vdisk_alloc_buffer(4096)); /* the C library's all the same */
    CHECK_INT(atomic_load(&memory.calls), 0);
}

static void test_too_late(void)
{
    vdisk *v;

    CHECK_OK(vdisk_open("null:1M", NULL, &v));
    CHECK_INT(vdisk_set_allocator(&own), -EBUSY);
    CHECK_HAS(vdisk_error_hint(), "before anything else");
    CHECK_OK(vdisk_close(v));
    CHECK_INT(atomic_load(&memory.calls), 0);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "misuse", .run = test_misuse},
        {.name = "too-late", .run = test_too_late},
        {.name = "changes", .run = test_changes},
        {.name = "all-of-it", .run = test_all_of_it},
        {.name = "once", .run = test_once, .repeat = 4, .quick = 1},
        {.name = "from-there-on", .run = test_from_there_on, .repeat = 4, .quick = 1},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
