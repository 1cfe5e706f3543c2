/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checksums: those that another implementation gives (VECTORS: Python's hashlib.blake2b, over the same bytes); the
 * same for one content, whatever its format and how much is at work at once; blocks are told in order, and make up
 * the whole; known zeros are not read; with a read that fails, or stopped at a step, there is no result.
 */
#include <stdlib.h>
#include <string.h>

#include "backends/lab/vdisk-lab.h"
#include "jobs/order.h"
#include "tests/jobs/jobs.h"

enum { SIZE = (9 << 20) + 1536, MIB = 1 << 20, WHOLE = 5 /* of the vectors: the fills, in SIZE */ };

struct fill {
    int      byte;
    uint64_t offset, len;
};

static const struct fill fills[] = {{3, MIB, MIB}, {7, 4 * MIB - 5, 4101}, {1, 9 * MIB + 100, 900}};

static const struct {
    uint64_t    size;
    unsigned    fills;
    uint32_t    block_size;
    const char *digest;
} vectors[] = {
    {0, 0, 4 * MIB, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"},
    {512, 0, 4 * MIB, "2692d6be4248c04fd4928237463b9d2f7bd5dde255fa2a53a7d5c1eca7260250"},
    {512, 1, 4 * MIB, "736280fe8d9e988e8bef1674517f9e38342a3b23ff7f233708a34b2813b80baf"},
    {8 * MIB, 0, 4 * MIB, "326cb82c7e9485f10456949e3c40f5396c64e9e3703d1d8ed30e2fd0084eef83"},
    {8 * MIB, 2, 4 * MIB, "ebb07945dcc9ecd1c2da55179a0efed72573b897b68ffaedea8a98b6fa4aae98"},
    {SIZE, 3, 4 * MIB, "3f6d6faea82896414522cabf009abe252a45f84290c6d97e67d5fd5bf9f2b58b"},
    {SIZE, 3, 4096, "627ebb89e97e55e805b0e09b00e3215e86e372773c979e5ee13681c8c0f24fe5"},
    {SIZE, 3, 12288, "4ef4ca79be8823c817d7ed9e4d92165f31f9eddb562d6787600dcbe0cf39c630"},
    {SIZE, 3, 64 * MIB, "892933b49f31f637c4168a9179d10bff75bc18b32118652fcdcb6a8f208620be"},
};

static const char *const formats[] = {"raw", "qcow2"};

static vdisk *make(const char *name, const char *format, uint64_t size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = format, .virtual_size = size};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = format};
    vdisk *v;

    CHECK_OK(vdisk_create(name, &opts));
    CHECK_OK(vdisk_open(name, &how, &v));
    return v;
}

static void fill(vdisk *v, int byte, uint64_t offset, uint64_t len)
{
    char *buf = vdisk_alloc_buffer(len);

    memset(buf, byte, len);
    CHECK_OK(vdisk_pwrite(v, buf, len, offset, 0));
    free(buf);
}

static void fill_all(vdisk *v, const struct fill *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fill(v, f[i].byte, f[i].offset, f[i].len);
}

static int run_checksum(vdisk *v, const struct vdisk_checksum_opts *opts, struct vdisk_checksum_result *ret)
{
    vdisk_job *j;
    int rc;

    *ret = (struct vdisk_checksum_result){.size = sizeof *ret};
    CHECK_OK(vdisk_job_checksum(v, opts, &j));
    rc = vdisk_job_run(j);
    if (rc == 0)
        CHECK_OK(vdisk_job_get_checksum_result(j, ret));
    else
        CHECK(vdisk_job_get_error_text(j)[0] != '\0');
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static void check_digest(const struct vdisk_checksum_result *r, const char *digest)
{
    char text[2 * VDISK_DIGEST_SIZE + 1];

    for (unsigned i = 0; i < VDISK_DIGEST_SIZE; i++)
        snprintf(text + (size_t)2 * i, 3, "%02x", r->digest[i]);
    CHECK_HAS(text, digest);
}

static struct vdisk_checksum_result expect(vdisk *v, const struct vdisk_checksum_opts *opts, const char *digest)
{
    struct vdisk_checksum_result r;

    CHECK_OK(run_checksum(v, opts, &r));
    check_digest(&r, digest);
    CHECK_INT(r.bytes_read + r.bytes_zero, r.bytes_total);
    CHECK_INT(r.blocks, (r.bytes_total + r.block_size - 1) / r.block_size);
    return r;
}

/* ---- what is told ------------------------------------------------------------------------------------- */

struct told {
    uint64_t blocks, calls;
    uint64_t stop_at; /* that call, with `rc`; 0: none */
    int      rc;
    gcry_md_hd_t all;
};

static int told(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct told *t = arg;

    CHECK_INT(first, t->blocks);
    CHECK(count > 0);
    t->blocks += count;
    for (uint64_t i = 0; i < count; i++)
        gcry_md_write(t->all, digest, VDISK_DIGEST_SIZE);
    return ++t->calls == t->stop_at ? t->rc : 0;
}

/* Of any shape: threads, memory, and where the digests go. */
static void expect_each_way(vdisk *v, uint32_t block_size, const char *digest)
{
    for (uint32_t way = 0; way < 8; way++) {
        struct told t = {0};
        struct vdisk_checksum_opts opts = {.size = sizeof opts, .block_size = block_size, .threads = way % 4,
                                           .memory_max = way < 4 ? 0 : way % 2 ? 1 : 3 * (uint64_t)block_size,
                                           .block_digest = told, .block_digest_arg = &t};
        struct vdisk_checksum_result r;

        CHECK_OK(digest_begin(&t.all));
        r = expect(v, &opts, digest);
        CHECK_INT(t.blocks, r.blocks);
        CHECK(memcmp(gcry_md_read(t.all, GCRY_MD_BLAKE2B_256), r.digest, sizeof r.digest) == 0);
        digest_drop(t.all);
    }
}

static void test_vectors(void)
{
    CHECK_OK(digest_init());
    for (unsigned i = 0; i < 2 * ARRAY_LEN(vectors); i++) {
        static const struct fill all_of_it = {5, 0, 512};
        uint64_t size = vectors[i / 2].size;
        vdisk *v = make(test_path("a"), formats[i % 2], size);

        test_note("vector %u, %s", i / 2, formats[i % 2]);
        fill_all(v, size == 512 ? &all_of_it : fills, vectors[i / 2].fills);
        expect_each_way(v, vectors[i / 2].block_size, vectors[i / 2].digest);
        if (vectors[i / 2].block_size == 4 * MIB)
            expect(v, NULL, vectors[i / 2].digest);
        CHECK_OK(vdisk_close(v));
    }
}

/* ---- one content, in many shapes ---------------------------------------------------------------------- */

/* Data, zeros that are data, and zeros that are known, anywhere. */
static void write_some(vdisk *v, uint64_t size)
{
    for (unsigned i = 0; i < 60; i++) {
        uint64_t at = rng_below(test_rng(), size);
        uint64_t len = 1 + rng_below(test_rng(), jobs_min(size - at, i % 2 ? 300000 : 9000));
        unsigned what = (unsigned)rng_below(test_rng(), 4);
        if (what == 0)
            CHECK_OK(vdisk_pzero(v, len, at, rng_below(test_rng(), 2) ? VDISK_REQ_UNMAP : 0));
        else
            fill(v, what == 1 ? 0 : (int)rng_below(test_rng(), 256), at, len);
    }
}

/* As qcow2, and as raw, where all is data. */
static void test_same(void)
{
    for (unsigned round = 0; round < (test_is_long() ? 40 : 8); round++) {
        uint64_t size = 512 * (1 + rng_below(test_rng(), 30000));
        struct vdisk_checksum_opts opts = {.size = sizeof opts,
                                           .block_size = 4096 * (1 + (uint32_t)rng_below(test_rng(), 60))};
        struct vdisk_checksum_result a, b;
        vdisk *v = make(test_path("a"), "qcow2", size), *w = make(test_path("b"), "raw", size);
        char *buf = vdisk_alloc_buffer(size);

        write_some(v, size);
        CHECK_OK(vdisk_pread(v, buf, size, 0));
        CHECK_OK(vdisk_pwrite(w, buf, size, 0, 0));
        for (uint32_t threads = 0; threads < 4; threads++) {
            opts.threads = threads;
            CHECK_OK(run_checksum(v, &opts, &a));
            CHECK_OK(run_checksum(w, &opts, &b));
            CHECK(memcmp(a.digest, b.digest, sizeof a.digest) == 0);
        }
        fill(v, buf[size - 1] + 1, size - 1, 1);
        CHECK_OK(run_checksum(v, &opts, &a));
        CHECK(memcmp(a.digest, b.digest, sizeof a.digest) != 0);
        free(buf);
        CHECK_OK(vdisk_close(v));
        CHECK_OK(vdisk_close(w));
    }
}

/* Blocks with more zeros between data than are noted; where a block has zeros, the one before it had data. */
static void test_gaps(void)
{
    enum { IN_BLOCK = 4 * MIB / CLUSTER, COUNT = 6 * IN_BLOCK };
    vdisk *v = make(test_path("a"), "qcow2", COUNT * CLUSTER), *w = make(test_path("b"), "raw", COUNT * CLUSTER);

    for (unsigned i = 0; i < COUNT; i++) {
        bool data = (i + i / IN_BLOCK) % 2 > 0;
        if (data)
            fill(v, 1 + (int)i % 255, (uint64_t)i * CLUSTER, CLUSTER);
        fill(w, data ? 1 + (int)i % 255 : 0, (uint64_t)i * CLUSTER, CLUSTER);
    }
    for (uint32_t way = 0; way < 6; way++) {
        struct vdisk_checksum_opts opts = {.size = sizeof opts, .threads = 1 + way % 3,
                                           .memory_max = way < 3 ? 1 : 0};
        struct vdisk_checksum_result a, b;

        CHECK_OK(run_checksum(v, &opts, &a));
        CHECK_OK(run_checksum(w, &opts, &b));
        CHECK_INT(a.bytes_read, COUNT * CLUSTER / 2);
        CHECK_INT(b.bytes_read, COUNT * CLUSTER);
        CHECK(memcmp(a.digest, b.digest, sizeof a.digest) == 0);
    }
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_close(w));
}

/* One block is read of 1 TiB, and of it the cluster that has data. */
static void test_not_read(void)
{
    vdisk *v = make(test_path("a"), "qcow2", UINT64_C(1) << 40);
    struct vdisk_checksum_result r;

    fill(v, 1, UINT64_C(5) << 30, 1);
    CHECK_OK(run_checksum(v, NULL, &r));
    CHECK_INT(r.bytes_read, 65536);
    CHECK_INT(r.blocks, 1 << 18);
    CHECK_OK(vdisk_close(v));
}

/* As if it were longer, or shorter: as one that is. */
static void test_length(void)
{
    static const uint64_t lengths[] = {0,           512,  2 * MIB,    4 * MIB,  9 * MIB,
                                       SIZE - 512, SIZE, SIZE + 512, 12 * MIB, 40 * MIB};
    struct vdisk_checksum_result a, b;

    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        struct vdisk_checksum_opts opts = {.size = sizeof opts, .flags = VDISK_CHECKSUM_LENGTH,
                                           .length = lengths[i]};
        struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
        vdisk *v = make(test_path("a"), formats[i % 2], SIZE);
        fill_all(v, fills, ARRAY_LEN(fills));
        CHECK_OK(run_checksum(v, &opts, &a));
        CHECK_INT(a.bytes_total, lengths[i]);
        CHECK_OK(vdisk_resize(v, lengths[i], &shrink));
        CHECK_OK(run_checksum(v, NULL, &b));
        CHECK(memcmp(a.digest, b.digest, sizeof a.digest) == 0);
        CHECK_OK(vdisk_close(v));
    }
}

/* ---- how it ends -------------------------------------------------------------------------------------- */

static void refuse(vdisk *v, struct vdisk_checksum_opts opts)
{
    vdisk_job *j;

    CHECK_INT(vdisk_job_checksum(v, &opts, &j), -EINVAL);
}

static void test_refused(void)
{
    const size_t size = sizeof(struct vdisk_checksum_opts);
    struct vdisk_checksum_opts small = {.size = size, .block_size = 4096};
    struct vdisk_checksum_result r;
    vdisk *v = make(test_path("a"), "qcow2", UINT64_C(16) << 40);

    refuse(v, (struct vdisk_checksum_opts){.size = 1});
    refuse(v, (struct vdisk_checksum_opts){.size = size, .flags = 2});
    refuse(v, (struct vdisk_checksum_opts){.size = size, .block_size = 2048});
    refuse(v, (struct vdisk_checksum_opts){.size = size, .block_size = 5000});
    refuse(v, (struct vdisk_checksum_opts){.size = size, .block_size = (64 << 20) + 4096});
    refuse(v, (struct vdisk_checksum_opts){.size = size, .length = 100});
    CHECK_INT(run_checksum(v, &small, &r), -EFBIG);
    CHECK_OK(vdisk_close(v));
}

static void test_told_stops(void)
{
    vdisk *v = make(test_path("a"), "qcow2", SIZE);
    struct vdisk_checksum_result r;

    CHECK_OK(digest_init());
    fill_all(v, fills, ARRAY_LEN(fills));
    for (uint64_t at = 1; at < 4; at++) {
        for (unsigned i = 0; i < 2; i++) {
            struct told t = {.stop_at = at, .rc = i ? 1 : -ENOSPC};
            struct vdisk_checksum_opts opts = {.size = sizeof opts, .block_digest = told, .block_digest_arg = &t};
            CHECK_OK(digest_begin(&t.all));
            CHECK_INT(run_checksum(v, &opts, &r), i ? -ECANCELED : -ENOSPC);
            CHECK_INT(t.calls, at);
            digest_drop(t.all);
        }
    }
    CHECK_OK(vdisk_close(v));
}

static void test_stops(void)
{
    vdisk *v = make(test_path("a"), "qcow2", 48 * MIB);
    struct vdisk_checksum_result r;
    struct stepper s;
    unsigned stopped = 0;

    fill(v, 1, 5 * MIB, 30 * MIB);
    for (unsigned i = 1; i < 12; i++) {
        struct vdisk_checksum_opts opts = {.size = sizeof opts, .threads = i % 4, .progress = stepper_step,
                                           .progress_arg = &s, .memory_max = i % 3 * 4 * MIB};
        int rc;
        stepper_init(&s, false);
        s.cancel_at = i;
        rc = run_checksum(v, &opts, &r);
        CHECK(rc == 0 || rc == -ECANCELED);
        stopped += rc != 0;
    }
    CHECK(stopped > 1);
    CHECK_OK(vdisk_close(v));
}

/* With one read failing: an error, or the right digest. */
static int lab_scenario(void *arg, vdisk_lab *lab)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = SIZE};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct vdisk_checksum_opts inline_only = {.size = sizeof inline_only, .threads = 1};
    vdisk *v = NULL;
    struct vdisk_checksum_result r;
    int rc = vdisk_create("sim:a", &opts);

    if (rc == 0)
        rc = vdisk_open("sim:a", &how, &v);
    for (unsigned i = 0; i < ARRAY_LEN(fills) && rc == 0; i++) {
        uint8_t *buf = vdisk_alloc_buffer(fills[i].len);
        memset(buf, fills[i].byte, fills[i].len);
        rc = vdisk_pwrite(v, buf, fills[i].len, fills[i].offset, 0);
        free(buf);
    }
    if (vdisk_close(v) < 0 || rc < 0)
        return rc;
    v = NULL;
    how.flags = 0; /* with nothing in memory */
    rc = vdisk_open("sim:a", &how, &v);
    if (rc == 0 && run_checksum(v, &inline_only, &r) == 0) {
        check_digest(&r, vectors[WHOLE].digest);
        ++*(unsigned *)arg;
    }
    vdisk_close(v);
    (void)lab;
    return 0;
}

static void test_failures(void)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_READS};
    unsigned right = 0;
    uint64_t runs = 0;

    CHECK_OK(vdisk_lab_each_failure(NULL, &fault, lab_scenario, &right, &runs));
    CHECK(runs > 5 && right >= 1 && right < runs);
}

/* ---- the order ---------------------------------------------------------------------------------------- */

/* As many as there is room for, known from the last to the first. */
static void test_order(void)
{
    struct told t = {0};
    struct order *o = calloc(1, sizeof *o);
    uint8_t digest[VDISK_DIGEST_SIZE] = {1};
    uint64_t rounds = 0;

    CHECK_OK(digest_init());
    CHECK_OK(digest_begin(&t.all));
    CHECK_OK(order_init(o, told, &t));
    order_enter_zeros(o, 1000000, digest);
    order_enter_zeros(o, 7, digest); /* the same run */
    while (!order_is_full(o))
        CHECK_INT(order_enter(o), t.blocks + o->end - 1);
    for (uint64_t i = o->end - 1; i > 0; i--)
        order_set(o, i, digest);
    while (order_tell(o) == 1)
        rounds++;
    CHECK(order_is_empty(o) && rounds > 10);
    CHECK_INT(t.blocks, 1000007 + ORDER_ENTRIES - 1);
    order_free(o);
    digest_drop(t.all);
    free(o);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "vectors", .run = test_vectors},
        {.name = "same", .run = test_same},
        {.name = "gaps", .run = test_gaps},
        {.name = "not-read", .run = test_not_read},
        {.name = "length", .run = test_length},
        {.name = "refused", .run = test_refused},
        {.name = "told-stops", .run = test_told_stops},
        {.name = "stops", .run = test_stops},
        {.name = "failures", .run = test_failures},
        {.name = "order", .run = test_order},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
