/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fast path asks for no memory: after a warm-up, aligned reads and rewrites at depth 32 on raw and
 * preallocated qcow2 volumes, on memory and on a file with O_DIRECT, on every kind of queue that this kernel has.
 * And the counter counts: what must allocate is seen to.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/alloc/count.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/test.h"

enum { SIZE = 64 << 20, BLOCK = 4096, DEPTH = 32, REQUESTS = 20000 };

static void require_counting(void)
{
    if (!count_possible())
        test_skip("the allocator cannot be replaced in this build (a sanitizer owns it)");
}

/* ---- the load ------------------------------------------------------------------------------------------ */

enum way { READ, WRITE, READV, WRITEV, WAYS };

struct load {
    vdisk_queue *queue;
    vdisk       *volume;
    uint8_t     *memory; /* DEPTH blocks */
    enum way     way;
    bool         sequential;
    uint64_t     sent;
};

static void send_one(struct load *l, unsigned slot)
{
    uint8_t *buf = l->memory + (size_t)slot * BLOCK;
    struct iovec iov[2] = {{buf, BLOCK / 2}, {buf + BLOCK / 2, BLOCK / 2}};
    uint64_t block = l->sequential ? l->sent : rng_below(test_rng(), SIZE / BLOCK);
    uint64_t offset = block % (SIZE / BLOCK) * BLOCK;

    l->sent++;
    switch (l->way) {
    case READ: vdisk_read(l->queue, l->volume, offset, buf, BLOCK, 0, slot); break;
    case WRITE: vdisk_write(l->queue, l->volume, offset, buf, BLOCK, 0, slot); break;
    case READV: vdisk_readv(l->queue, l->volume, offset, iov, 2, 0, slot); break;
    case WRITEV: vdisk_writev(l->queue, l->volume, offset, iov, 2, 0, slot); break;
    case WAYS: break;
    }
}

/* `n` requests, DEPTH of them in flight; submit and reap as a program would. */
static void run_load(struct load *l, uint64_t n)
{
    struct vdisk_completion done[DEPTH];
    uint64_t reaped = 0;

    l->sent = 0;
    for (unsigned slot = 0; slot < DEPTH; slot++)
        send_one(l, slot);
    while (reaped < n) {
        CHECK_OK(vdisk_submit(l->queue));
        int got = vdisk_reap(l->queue, done, 1, DEPTH, NULL);
        CHECK(got > 0);
        for (int i = 0; i < got; i++) {
            CHECK_INT(done[i].result, 0);
            if (l->sent < n)
                send_one(l, (unsigned)done[i].user_data);
        }
        reaped += (unsigned)got;
    }
    CHECK_INT(vdisk_queue_inflight(l->queue), 0);
}

static void measure(struct load *l, const char *what)
{
    static const char *const ways[] = {"reads", "rewrites", "vector reads", "vector rewrites"};
    uint64_t counted;

    /* Warm up: all metadata in the cache, all of the host's space there, pools as large as they get. */
    l->sequential = true;
    l->way = WRITE;
    run_load(l, SIZE / BLOCK);
    l->way = READ;
    run_load(l, SIZE / BLOCK);
    l->sequential = false;
    for (l->way = READ; l->way < WAYS; l->way++)
        run_load(l, REQUESTS / 10);
    for (l->way = READ; l->way < WAYS; l->way++) {
        count_begin();
        run_load(l, REQUESTS);
        counted = count_end();
        printf("%s: %d %s at depth %d: %llu allocations\n", what, REQUESTS, ways[l->way], DEPTH,
               (unsigned long long)counted);
        CHECK_INT(counted, 0);
    }
}

static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};

static void on_each_queue(vdisk *v, const char *what)
{
    struct load l = {.volume = v, .memory = vdisk_alloc_buffer(DEPTH * BLOCK)};
    unsigned tried = 0;

    CHECK(l.memory);
    memset(l.memory, 0x5a, DEPTH * BLOCK);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kinds[i]};
        char text[200];

        CHECK_OK(vdisk_queue_create(&opts, &l.queue));
        if (vdisk_queue_get_kind(l.queue) == kinds[i]) { /* else the kernel has no such */
            snprintf(text, sizeof text, "%s, %s", what, vdisk_queue_kind_name(kinds[i]));
            measure(&l, text);
            tried++;
        }
        vdisk_queue_destroy(l.queue);
    }
    CHECK(tried > 0);
    free(l.memory);
}

/* ---- volumes ------------------------------------------------------------------------------------------- */

static void describe(struct image_spec *spec, bool qcow2)
{
    image_default(spec, "disk", SIZE);
    spec->qcow2 = qcow2;
    spec->preallocation = qcow2 ? VDISK_PREALLOC_METADATA : VDISK_PREALLOC_OFF;
}

static void on_memory(bool qcow2, const char *what)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    struct image_spec spec;
    struct memdisk disk;
    struct backend *b;
    vdisk *v;

    require_counting();
    opts.format = qcow2 ? "qcow2" : "raw";
    describe(&spec, qcow2);
    memdisk_init(&disk, 512);
    b = memdisk_open(&disk, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    CHECK_OK(vdisk_open_backend(memdisk_open(&disk, false), &opts, &v));
    CHECK_INT(vdisk_size(v), SIZE);
    on_each_queue(v, what);
    CHECK_OK(vdisk_close(v));
    memdisk_finish(&disk);
}

static void on_file(bool qcow2, const char *what)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    struct vdisk_info info = {.size = sizeof info};
    struct image_spec spec;
    vdisk *v;

    require_counting();
    opts.format = qcow2 ? "qcow2" : "raw";
    describe(&spec, qcow2);
    image_create(&spec);
    CHECK_OK(vdisk_open(spec.path, &opts, &v));
    CHECK_OK(vdisk_get_info(v, &info));
    if (!info.direct)
        test_skip("no O_DIRECT on the file system of %s: set TMPDIR to one that has it", test_dir());
    on_each_queue(v, what);
    CHECK_OK(vdisk_close(v));
}

static void raw_on_memory(void)
{
    on_memory(false, "raw on memory");
}

static void qcow2_on_memory(void)
{
    on_memory(true, "qcow2 on memory");
}

static void raw_on_file(void)
{
    on_file(false, "raw, O_DIRECT");
}

static void qcow2_on_file(void)
{
    on_file(true, "qcow2, O_DIRECT");
}

/* ---- the counter --------------------------------------------------------------------------------------- */

static void *volatile kept; /* else the compiler drops a pair of malloc() and free() */

static void keep(void *p)
{
    CHECK(p);
    kept = p;
    free(kept);
}

static void the_counter_counts(void)
{
    void *p = NULL;
    int rc;

    require_counting();
    count_begin();
    keep(malloc(10));
    keep(calloc(3, 5));
    keep(realloc(NULL, 7));
    keep(aligned_alloc(64, 128));
    rc = posix_memalign(&p, 4096, 4096);
    CHECK_INT(count_end(), 5);
    CHECK_INT(rc, 0);
    keep(p);
    count_begin();
    char *text = strdup("of the C library's own"); /* shared libraries are seen as well */
    CHECK_INT(count_end(), 1);
    keep(text);
    keep(malloc(1)); /* not counted: it has ended */
    CHECK_INT(count_end(), 1);
}

/* What is not the fast path on a new queue needs memory for its op, and the engine's calls are seen. */
static void an_op_is_counted(void)
{
    struct image_spec spec;
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    struct vdisk_completion done;
    uint64_t counted;
    uint8_t *buf = test_alloc(BLOCK);
    vdisk_queue *q;
    vdisk *v;

    require_counting();
    describe(&spec, true);
    spec.preallocation = VDISK_PREALLOC_OFF;
    image_create(&spec);
    CHECK_OK(vdisk_open(spec.path, &opts, &v));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    count_begin();
    vdisk_write(q, v, 100, buf, 1000, 0, 1);
    CHECK_INT(vdisk_reap(q, &done, 1, 1, NULL), 1);
    counted = count_end();
    printf("an allocating write on a new queue: %llu allocations\n", (unsigned long long)counted);
    CHECK_INT(done.result, 0);
    CHECK(counted > 0);
    vdisk_queue_destroy(q);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "the-counter-counts", .run = the_counter_counts},
        {.name = "an-op-is-counted", .run = an_op_is_counted},
        {.name = "raw-on-memory", .run = raw_on_memory},
        {.name = "qcow2-on-memory", .run = qcow2_on_memory},
        {.name = "raw-on-file", .run = raw_on_file},
        {.name = "qcow2-on-file", .run = qcow2_on_file},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
