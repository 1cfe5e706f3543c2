/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that is registered and goes while requests are in flight, as a guest's does: no request uses memory that
 * was there before, none fails because of it, and each removal completes once, when what used it has ended.
 * And the memory that the library gives for I/O.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/loop/queue.h"
#include "tests/callers/callers.h"

enum { DIMM = 1 << 20, DIMMS = 4, WIDE = 1 << 20, REMOVAL = 1000 };

static vdisk *v;
static vdisk_queue *q;

static bool has_ring(void)
{
    return vdisk_queue_get_kind(q) != VDISK_QUEUE_THREADS;
}

/* Is it in the ring's table, where requests find it? */
static bool is_used(const void *base)
{
    return region_find(q->regions, q->regions_count, base, BLOCK) >= 0;
}

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        v = open_rw(make_full_image("image"));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_close(v));
    }
}

/* New pages; at `at`, in place of those that are there. */
static char *map(void *at, size_t len)
{
    char *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static int complete_one(uint64_t user_data)
{
    int results[REMOVAL + 1];

    reap_all(q, 1, results);
    return results[user_data];
}

static void expect(const char *buf, size_t len, char byte)
{
    for (size_t i = 0; i < len; i++)
        CHECK_MSG(buf[i] == byte, "byte %zu is 0x%x, not 0x%x", i, buf[i] & 255, byte & 255);
}

/* ---- one at a time --------------------------------------------------------------------------------------- */

/* It comes, goes with requests unsent and under way, and comes again, with other pages. */
static void plug_and_unplug(void)
{
    char *dimm = map(NULL, DIMM);

    for (unsigned round = 0; round < 6; round++) {
        int results[REMOVAL + 1] = {0};
        CHECK_OK(vdisk_queue_add_memory(q, dimm, DIMM));
        CHECK_INT(is_used(dimm), has_ring());
        for (unsigned i = 0; i < 8; i++)
            vdisk_read(q, v, i * CLUSTER, dimm + i * CLUSTER, CLUSTER, 0, i);
        if (round % 2)
            CHECK_OK(vdisk_submit(q));
        vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
        CHECK(!is_used(dimm));
        CHECK_INT(vdisk_queue_inflight(q), 9);
        vdisk_read(q, v, 8 * CLUSTER, dimm + 8 * CLUSTER, CLUSTER, 0, 8);
        if (round == 3)
            CHECK_OK(vdisk_queue_add_memory(q, dimm, DIMM)); /* at once */
        reap_all(q, 10, results);
        for (unsigned i = 0; i < 9; i++)
            CHECK_MSG(results[i] == 0, "request %u: %s", i, strerror(-results[i]));
        CHECK_INT(results[REMOVAL], 0);
        expect(dimm, 9 * CLUSTER, 0x5a);
        if (round == 3) {
            vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
            CHECK_INT(complete_one(REMOVAL), 0);
        }
        map(dimm, DIMM); /* other pages: the old ones would get what comes now */
        vdisk_read(q, v, 0, dimm, CLUSTER, 0, 0);
        CHECK_INT(complete_one(0), 0);
        expect(dimm, CLUSTER, 0x5a);
    }
    munmap(dimm, DIMM);
}

static void test_plug(void)
{
    each_kind(plug_and_unplug);
}

/* It waits for what uses it, and for nothing else. */
static void waits_for_its_own(void)
{
    struct vdisk_completion c;
    char *one = map(NULL, DIMM), *other = map(NULL, DIMM);
    unsigned reads = 0;

    CHECK_OK(vdisk_queue_add_memory(q, one, DIMM));
    CHECK_OK(vdisk_queue_add_memory(q, other, DIMM));
    CHECK_OK(vdisk_pread(v, other, 1, 0)); /* the mapping is at hand: what comes now is an I/O at once */
    vdisk_read(q, v, 0, other, CLUSTER, 0, 0);
    vdisk_queue_remove_memory(q, one, DIMM, REMOVAL);
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 1); /* nothing is to be waited for */
    CHECK_INT(c.user_data, REMOVAL);
    CHECK_INT(c.result, 0);
    vdisk_queue_remove_memory(q, other, DIMM, REMOVAL);
    caller_wait_begin("reap(2)");
    while (vdisk_queue_inflight(q) > 0) {
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, 0);
        CHECK(c.user_data == 0 || reads == 1 || !has_ring());
        reads += c.user_data == 0;
    }
    caller_wait_end();
    munmap(one, DIMM);
    munmap(other, DIMM);
}

static void test_waits(void)
{
    each_kind(waits_for_its_own);
}

static void what_is_wrong(void)
{
    char *dimm = map(NULL, 3 * DIMM);
    char *many = map(NULL, 2 * 64 * BLOCK);

    CHECK_INT(vdisk_queue_add_memory(NULL, dimm, DIMM), -EINVAL);
    CHECK_INT(vdisk_queue_add_memory(q, NULL, DIMM), -EINVAL);
    CHECK_INT(vdisk_queue_add_memory(q, dimm, 0), -EINVAL);
    CHECK_INT(vdisk_queue_add_memory(q, dimm, SIZE_MAX), -EINVAL);
    if (has_ring()) /* more pieces than there are places, and than 32 bits count */
        for (unsigned bits = 43; bits < 63; bits++)
            CHECK_INT(vdisk_queue_add_memory(q, dimm, (size_t)1 << bits), -ENOSPC);
    CHECK_OK(vdisk_queue_add_memory(q, dimm + DIMM, DIMM));
    CHECK_INT(vdisk_queue_add_memory(q, dimm + DIMM, DIMM), -EEXIST);
    CHECK_INT(vdisk_queue_add_memory(q, dimm, DIMM + 1), -EEXIST);
    CHECK_INT(vdisk_queue_add_memory(q, dimm + 2 * DIMM - 1, DIMM), -EEXIST);
    CHECK_OK(vdisk_queue_add_memory(q, dimm, DIMM));
    vdisk_queue_remove_memory(q, dimm, DIMM - 1, REMOVAL);
    CHECK_INT(complete_one(REMOVAL), -ENOENT);
    vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
    CHECK_INT(vdisk_queue_destroy(q), -EBUSY);
    CHECK_INT(complete_one(REMOVAL), 0);
    vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
    CHECK_INT(complete_one(REMOVAL), -ENOENT);
    for (unsigned i = 0; i < 63; i++)
        CHECK_OK(vdisk_queue_add_memory(q, many + 2 * i * BLOCK, BLOCK));
    CHECK_INT(vdisk_queue_add_memory(q, many + 2 * 63 * BLOCK, BLOCK), -ENOSPC);
    CHECK_HAS(vdisk_error_text(), "64 regions");
    munmap(dimm, 3 * DIMM);
    if (has_ring()) {
        CHECK_INT(vdisk_queue_register_buffers(q, &(struct iovec){many, BLOCK}, 1), 0); /* in place of all */
        CHECK(is_used(many) && !is_used(many + 2 * BLOCK));
        CHECK_INT(vdisk_queue_add_memory(q, dimm, DIMM), -EFAULT); /* nothing is there */
    }
    munmap(many, 2 * 64 * BLOCK);
}

static void test_wrong(void)
{
    each_kind(what_is_wrong);
}

/* More than one place holds: what lies across two of them is read all the same. Address space, few pages of it. */
static void larger_than_a_piece(void)
{
    size_t len = (3ul << 30) + BLOCK;
    int fd = memfd_create("guest", MFD_CLOEXEC);
    char *guest, *edge;

    CHECK(fd >= 0 && ftruncate(fd, (off_t)len) == 0);
    guest = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(guest != MAP_FAILED);
    edge = guest + (1ul << 30);
    if (region_find(&(struct region){(uintptr_t)guest, len, 0}, 1, edge - BLOCK, 2 * BLOCK) != -1 ||
        region_find(&(struct region){(uintptr_t)guest, len, 7}, 1, edge, BLOCK) != 8 ||
        region_find(&(struct region){(uintptr_t)guest, len, 7}, 1, edge - BLOCK, BLOCK) != 7 ||
        region_find(&(struct region){(uintptr_t)guest, len, 7}, 1, guest + (3ul << 30), BLOCK) != 10 ||
        region_find(&(struct region){(uintptr_t)guest, len, 7}, 1, guest + (3ul << 30), 2 * BLOCK) != -1)
        FAIL("a buffer is found where it is not");
    munmap(guest, len);
    close(fd);
}

/* ---- with a load ----------------------------------------------------------------------------------------- */

enum { SLOTS = 12 }; /* of CLUSTER bytes, in each */

struct load {
    vdisk_queue *queue;
    struct rng   rng;
    char        *dimm[DIMMS];
    bool         plugged[DIMMS], leaving[DIMMS];
    unsigned     pending[DIMMS]; /* requests in that memory */
    bool         busy[DIMMS][SLOTS];
    unsigned     removals;
};

/* Reads have their place as user data. Two into one would race with each other. */
static void read_into(struct load *l, unsigned i, unsigned slot, uint64_t offset, unsigned len)
{
    l->pending[i]++;
    l->busy[i][slot] = true;
    vdisk_read(l->queue, v, offset, l->dimm[i] + slot * CLUSTER, len, 0, slot * DIMMS + i);
}

static void start_read(struct load *l, unsigned i)
{
    unsigned slot = (unsigned)rng_below(&l->rng, SLOTS), len = BLOCK * (1 + (unsigned)rng_below(&l->rng, 16));

    if (!l->busy[i][slot])
        read_into(l, i, slot, rng_below(&l->rng, CLUSTERS) * CLUSTER, len);
}

static void take(struct load *l, unsigned min)
{
    struct vdisk_completion c[8];
    int n = vdisk_reap(l->queue, c, min, 8, NULL);

    CHECK(n >= 0 || n == -EINTR);
    for (int i = 0; i < n; i++) {
        unsigned of = (unsigned)(c[i].user_data % REMOVAL % DIMMS);
        CHECK_MSG(c[i].result == 0, "%s: %s", c[i].user_data < REMOVAL ? "read" : "removal",
                  strerror(-c[i].result));
        if (c[i].user_data >= REMOVAL) {
            CHECK(l->leaving[of]);
            l->leaving[of] = false;
            l->removals++;
        } else {
            l->pending[of]--;
            l->busy[of][c[i].user_data / DIMMS] = false;
        }
    }
}

/* A DIMM is plugged in, or goes; when nothing reads into it any more its pages are others. */
static void turn_one(struct load *l, unsigned i)
{
    if (l->leaving[i])
        return;
    if (l->plugged[i]) {
        vdisk_queue_remove_memory(l->queue, l->dimm[i], DIMM, REMOVAL + i);
        l->leaving[i] = true;
        l->plugged[i] = false;
    } else {
        while (l->pending[i] > 0)
            take(l, 1);
        map(l->dimm[i], DIMM);
        CHECK_OK(vdisk_queue_add_memory(l->queue, l->dimm[i], DIMM));
        l->plugged[i] = true;
    }
}

/* All that was read has arrived in the memory that is there now. */
static void look(struct load *l)
{
    while (vdisk_queue_inflight(l->queue) > 0)
        take(l, 1);
    for (unsigned i = 0; i < DIMMS; i++) {
        memset(l->dimm[i], 0, DIMM);
        for (unsigned s = 0; s < SLOTS; s++)
            read_into(l, i, s, s * CLUSTER, CLUSTER);
    }
    while (vdisk_queue_inflight(l->queue) > 0)
        take(l, 1);
    for (unsigned i = 0; i < DIMMS; i++)
        expect(l->dimm[i], SLOTS * CLUSTER, 0x5a);
}

static void run_load(struct load *l, unsigned steps)
{
    caller_wait_begin("a load with memory that comes and goes");
    for (unsigned step = 0; step < steps; step++) {
        unsigned i = (unsigned)rng_below(&l->rng, DIMMS);
        if (rng_below(&l->rng, 20) == 0)
            turn_one(l, i);
        else if (vdisk_queue_inflight(l->queue) < 32)
            start_read(l, i);
        if (rng_below(&l->rng, 3) == 0)
            take(l, (unsigned)rng_below(&l->rng, 3));
        if (rng_below(&l->rng, 400) == 0)
            look(l);
    }
    look(l);
    CHECK(l->removals > 0);
    caller_wait_end();
}

static void *loader(void *arg)
{
    struct load *l = arg;

    for (unsigned i = 0; i < DIMMS; i++)
        l->dimm[i] = map(NULL, DIMM);
    run_load(l, test_steps(2000));
    for (unsigned i = 0; i < DIMMS; i++)
        munmap(l->dimm[i], DIMM);
    return NULL;
}

static void one_loader(void)
{
    struct load l = {.queue = q, .rng = *test_rng()};

    loader(&l);
}

static void test_load(void)
{
    each_kind(one_loader);
}

/* Each thread has a queue, in all kinds, and memory of its own. */
static void test_several(void)
{
    struct load l[ARRAY_LEN(all_kinds)] = {{.queue = NULL}};
    pthread_t threads[ARRAY_LEN(all_kinds)];

    v = open_rw(make_full_image("image"));
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        rng_init(&l[i].rng, test_seed() + i);
        CHECK_OK(vdisk_queue_create(&opts, &l[i].queue));
        CHECK(pthread_create(&threads[i], NULL, loader, &l[i]) == 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        pthread_join(threads[i], NULL);
        CHECK_OK(vdisk_queue_destroy(l[i].queue));
    }
    CHECK_OK(vdisk_close(v));
}

/* ---- the page cache -------------------------------------------------------------------------------------- */

/* Large reads go to threads of the kernel, which look the place up late. */
static void beside_the_cache(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "raw", .flags = VDISK_OPEN_BUFFERED};
    const char *path = test_path("plain");
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), results[REMOVAL + 1] = {0};
    char *dimm = map(NULL, 8 * WIDE);
    vdisk *plain;

    memset(dimm, 0x33, WIDE);
    for (unsigned i = 0; i < 8; i++)
        CHECK(write(fd, dimm, WIDE) == WIDE);
    close(fd);
    CHECK_OK(vdisk_open(path, &opts, &plain));
    for (unsigned round = 0; round < 20; round++) {
        map(dimm, 8 * WIDE);
        CHECK_OK(vdisk_queue_add_memory(q, dimm, 8 * WIDE));
        for (unsigned i = 0; i < 8; i++)
            vdisk_read(q, plain, i * WIDE, dimm + i * WIDE, WIDE, 0, i);
        CHECK_OK(vdisk_submit(q));
        vdisk_queue_remove_memory(q, dimm, 8 * WIDE, REMOVAL);
        reap_all(q, 9, results);
        for (unsigned i = 0; i <= 8; i++)
            CHECK_INT(results[i < 8 ? i : REMOVAL], 0);
        expect(dimm, 8 * WIDE, 0x33);
    }
    CHECK_OK(vdisk_close(plain));
    munmap(dimm, 8 * WIDE);
}

static void test_cache(void)
{
    each_kind(beside_the_cache);
}

/* ---- kernels and limits ---------------------------------------------------------------------------------- */

/* io_uring_register() with this operation answers so from now on. */
static void answer(unsigned op, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_register, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, op, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        test_skip("no filters of system calls here: %s", strerror(errno));
}

/* A kernel without tables that can be changed: all of it works, by plain addresses; and all at once as ever. */
static void old_kernel(void)
{
    char *dimm = map(NULL, 2 * DIMM);
    struct iovec region = {dimm, DIMM};

    for (unsigned i = 0; i < 2; i++) {
        CHECK_OK(vdisk_queue_add_memory(q, dimm + DIMM, DIMM));
        CHECK(!is_used(dimm + DIMM));
        vdisk_read(q, v, 0, dimm + DIMM, CLUSTER, 0, 0);
        vdisk_read(q, v, 0, dimm, CLUSTER, 0, 1);
        vdisk_queue_remove_memory(q, dimm + DIMM, DIMM, 2);
        reap_all(q, 3, NULL);
        expect(dimm + DIMM, CLUSTER, 0x5a);
        if (has_ring() && i == 0) {
            CHECK_OK(vdisk_queue_register_buffers(q, &region, 1));
            CHECK(is_used(dimm));
        }
    }
    expect(dimm, CLUSTER, 0x5a);
    munmap(dimm, 2 * DIMM);
}

static void test_old_kernel(void)
{
    answer(IORING_REGISTER_BUFFERS2, EINVAL);
    each_kind(old_kernel);
}

/* The kernel gives nothing back: it says so, no request uses it, and the queue goes with all. */
static void nothing_back(void)
{
    char *dimm = map(NULL, DIMM);
    int rc;

    rc = vdisk_queue_add_memory(q, dimm, DIMM);
    CHECK_INT(rc, has_ring() ? -EIO : 0);
    CHECK(!is_used(dimm));
    vdisk_read(q, v, 0, dimm, CLUSTER, 0, 0);
    CHECK_INT(complete_one(0), 0);
    expect(dimm, CLUSTER, 0x5a);
    vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
    CHECK_INT(complete_one(REMOVAL), has_ring() ? -ENOENT : 0);
    munmap(dimm, DIMM);
}

static void test_nothing_back(void)
{
    answer(IORING_REGISTER_BUFFERS_UPDATE, EIO);
    each_kind(nothing_back);
}

/* Too little memory may be locked: refused, and all goes on. */
static void test_limit(void)
{
    struct rlimit few = {.rlim_cur = 8 << 20, .rlim_max = 8 << 20};
    char *dimm = map(NULL, 64ul << 20);

    v = open_rw(make_full_image("image"));
    if (geteuid() == 0 && (prctl(PR_CAPBSET_DROP, 14 /* CAP_IPC_LOCK */, 0, 0, 0) != 0 || setuid(65534) != 0))
        test_skip("cannot become somebody else");
    CHECK(setrlimit(RLIMIT_MEMLOCK, &few) == 0);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    if (has_ring()) {
        CHECK_INT(vdisk_queue_add_memory(q, dimm, 64ul << 20), -ENOMEM);
        CHECK_HAS(vdisk_error_hint(), "ulimit -l");
        for (unsigned i = 0; i < 100; i++) { /* what has gone counts no more */
            CHECK_OK(vdisk_queue_add_memory(q, dimm, DIMM));
            vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
            CHECK_INT(complete_one(REMOVAL), 0);
        }
    }
    vdisk_read(q, v, 0, dimm, CLUSTER, 0, 0);
    CHECK_INT(complete_one(0), 0);
    expect(dimm, CLUSTER, 0x5a);
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
}

/* io_uring is refused while a removal waits: it completes, and the queue goes on with threads. */
static void ring_stops(void)
{
    char *dimm = map(NULL, DIMM);
    int results[REMOVAL + 1] = {0};

    CHECK_OK(vdisk_queue_add_memory(q, dimm, DIMM));
    vdisk_read(q, v, 0, dimm, CLUSTER, 0, 0);
    vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
    CHECK_OK(vdisk_queue_add_memory(q, dimm, DIMM));
    if (has_ring())
        ring_stop(q, -EPERM);
    reap_all(q, 2, results);
    CHECK_INT(results[REMOVAL] | results[0], 0);
    expect(dimm, CLUSTER, 0x5a);
    CHECK(!is_used(dimm));
    vdisk_queue_remove_memory(q, dimm, DIMM, REMOVAL);
    CHECK_INT(complete_one(REMOVAL), 0);
    munmap(dimm, DIMM);
}

static void test_ring_stops(void)
{
    each_kind(ring_stops);
}

/* What the kernel has been told of the memory at `p`: " hg" is that huge pages are wished for. */
static bool is_told(const void *p, const char *flag)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    uintptr_t start, end;
    bool inside = false, found = false;
    char line[512];

    CHECK(f);
    while (!found && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
            inside = start <= (uintptr_t)p && (uintptr_t)p < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, flag) != NULL;
    }
    fclose(f);
    return found;
}

/* Memory for I/O: where it is long, in huge pages if there are any. */
static void test_huge(void)
{
    size_t huge = 2 << 20;
    char *small = vdisk_alloc_buffer(BLOCK), *large = vdisk_alloc_buffer(3 * huge);

    CHECK(small && large);
    CHECK_INT((uintptr_t)small % 4096, 0);
    CHECK_INT((uintptr_t)large % huge, 0);
    memset(large, 1, 3 * huge);
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) != 0)
        printf("note: a kernel without huge pages\n");
    else
        CHECK(is_told(large, " hg") && is_told(large + 3 * huge - 1, " hg"));
    free(small);
    free(large);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "plug", .run = test_plug},
        {.name = "waits", .run = test_waits},
        {.name = "wrong", .run = test_wrong},
        {.name = "large", .run = larger_than_a_piece},
        {.name = "load", .run = test_load},
        {.name = "several", .run = test_several},
        {.name = "cache", .run = test_cache},
        {.name = "old-kernel", .run = test_old_kernel},
        {.name = "nothing-back", .run = test_nothing_back},
        {.name = "limit", .run = test_limit},
        {.name = "ring-stops", .run = test_ring_stops},
        {.name = "huge", .run = test_huge},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
