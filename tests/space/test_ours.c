/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is not ours stays as it is: of clusters that had no refcount when the image was opened, and have none
 * when it has been closed, no byte changes and none is cut off, whether they are guest data by the image's
 * mistake, space that somebody has set aside, or bytes that follow the image. Where the build can break rules
 * (qcow2/mutant.h) each broken one is noticed by a case.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/mutant.h"
#include "tests/lib/run.h"
#include "tests/space/ours.h"

#define MIB(n) ((uint64_t)(n) << 20)

enum { GUEST_MIB = 64 };

/* ---- the file as it is ----------------------------------------------------------------------------------- */

uint64_t refcount_at(const struct photo *p, uint64_t cluster)
{
    uint64_t per_block = p->h.geo.cluster_size / 2;
    uint64_t block = get_be64(p->bytes + p->h.reftable_offset + 8 * (cluster / per_block));

    return block && block + p->h.geo.cluster_size <= p->size ? block + 2 * (cluster % per_block) : 0;
}

void take_photo(struct photo *p, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    memset(p, 0, sizeof *p);
    p->size = (uint64_t)st.st_size;
    p->bytes = test_alloc(p->size + 1);
    CHECK(pread(fd, p->bytes, p->size, 0) == (ssize_t)p->size);
    close(fd);
    CHECK_OK(q2_header_parse(p->bytes, min_u64(p->size, 65536), p->size, path, &p->h));
    p->clusters = div_up(p->size, p->h.geo.cluster_size);
    p->refcount = test_alloc((p->clusters + 1) * sizeof *p->refcount);
    CHECK(p->h.geo.refcount_order == 4);
    for (uint64_t i = 0; i < p->clusters; i++)
        p->refcount[i] = refcount_at(p, i) ? get_be16(p->bytes + refcount_at(p, i)) : 0;
}

void drop_photo(struct photo *p)
{
    q2_header_free(&p->h);
    free(p->bytes);
    free(p->refcount);
}

/* The promise. */
static void judge(const struct photo *a, const struct photo *b)
{
    uint64_t size = a->h.geo.cluster_size;

    for (uint64_t i = 0; i < a->clusters; i++) {
        uint64_t at = i * size, len = min_u64(size, a->size - at);
        if (a->refcount[i] != 0 || (i < b->clusters && b->refcount[i] != 0))
            continue;
        CHECK_MSG(at + len <= b->size, "cluster %" PRIu64 " is cut off: %" PRIu64 " of %" PRIu64, i, b->size,
                  a->size);
        CHECK_MSG(memcmp(a->bytes + at, b->bytes + at, len) == 0, "cluster %" PRIu64 " has changed", i);
    }
}

/* ---- images that have something else in them ------------------------------------------------------------- */

void put_at(const char *path, uint64_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    CHECK(fd >= 0 && pwrite(fd, bytes, n, (off_t)at) == (ssize_t)n);
    close(fd);
}

vdisk *open_image(const struct image_spec *spec)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    vdisk *v;

    CHECK_OK(vdisk_open(spec->path, &opts, &v));
    return v;
}

void fill(vdisk *v, uint64_t offset, uint64_t len, int byte)
{
    uint8_t *buf = test_alloc(len);

    memset(buf, byte, len);
    CHECK_OK(vdisk_pwrite(v, buf, len, offset, 0));
    free(buf);
}

static void make(struct rng *r, struct image_spec *spec)
{
    vdisk *v;

    image_default(spec, "ours", MIB(GUEST_MIB));
    spec->cluster_size = 1u << rng_between(r, 12, 16);
    image_create(spec);
    v = open_image(spec);
    for (unsigned i = 0; i < 12; i++)
        fill(v, MIB(i), rng_between(r, 1, 16) << 16, 0x10 + (int)i);
    fill(v, MIB(30), MIB(1), 0x22); /* for a shrink */
    CHECK_OK(vdisk_pdiscard(v, MIB(2), MIB(3)));
    CHECK_OK(vdisk_close(v));
    test_note("%s", image_describe(spec));
}

/* Tables are guard.c's. */
static bool is_table(const struct photo *p, uint64_t cluster)
{
    bool is = refcount_at(p, cluster) / p->h.geo.cluster_size == cluster;

    for (uint64_t i = 0; i < p->h.l1_entries; i++)
        is |= (get_be64(p->bytes + p->h.l1_offset + 8 * i) & Q2_L1_OFFSET) == cluster << p->h.geo.cluster_bits;
    return is;
}

/* The last `n` clusters lose their refcounts. */
static void lose_refcounts(const struct image_spec *spec, uint64_t n)
{
    const uint8_t none[2] = {0};
    struct photo p;

    take_photo(&p, spec->path);
    for (uint64_t i = p.clusters - min_u64(n, p.clusters / 2); i < p.clusters; i++) {
        uint64_t at = refcount_at(&p, i);
        if (at && !is_table(&p, i))
            put_at(spec->path, at, none, 2);
    }
    drop_photo(&p);
}

static void add_bytes(const struct image_spec *spec, struct rng *r)
{
    run_ok("head -c %" PRIu64 " /dev/urandom >>%s", rng_between(r, 1, 3000000), spec->path);
}

static void set_aside(const struct image_spec *spec)
{
    int fd = open(spec->path, O_RDWR | O_CLOEXEC);

    CHECK(fd >= 0);
    if (posix_fallocate(fd, 0, MIB(32)) != 0)
        test_skip("no space can be set aside here");
    close(fd);
}

/* ---- what is done to them -------------------------------------------------------------------------------- */

static void use(vdisk *v, struct rng *r)
{
    uint64_t size = MIB(GUEST_MIB);

    for (unsigned i = 0; i < 12; i++) {
        uint64_t offset = rng_below(r, size >> 12) << 12;
        uint64_t len = min_u64(rng_between(r, 1, 64) << 12, size - offset);
        switch (rng_below(r, 5)) {
        case 0: CHECK_OK(vdisk_pdiscard(v, len, offset % MIB(3))); break; /* of what has refcounts */
        case 1: CHECK_OK(vdisk_trim_space(v)); break;
        case 2: CHECK_OK(vdisk_sync(v)); break;
        default: fill(v, offset % MIB(2) + MIB(13), len, 0x77); break; /* and stays */
        }
    }
}

static void use_and_judge(const struct image_spec *spec, bool shrink)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    struct rng *r = test_rng();
    struct photo before, after;
    vdisk *v;

    take_photo(&before, spec->path);
    v = open_image(spec);
    use(v, r);
    if (shrink)
        CHECK_OK(vdisk_resize(v, MIB(16), &opts));
    CHECK_OK(vdisk_close(v));
    take_photo(&after, spec->path);
    judge(&before, &after);
    drop_photo(&before);
    drop_photo(&after);
}

/* Guest data without refcounts, behind what is discarded. */
static void test_no_refcounts(void)
{
    struct rng *r = test_rng();
    struct image_spec spec;

    make(r, &spec);
    lose_refcounts(&spec, rng_between(r, 1, 20));
    use_and_judge(&spec, false);
}

/* The same at the end, where the next lease lies: most of it is given back unused. */
static void test_lease_over(void)
{
    struct photo before, after;
    struct image_spec spec;
    vdisk *v;

    image_default(&spec, "lease", MIB(GUEST_MIB));
    image_create(&spec);
    v = open_image(&spec);
    fill(v, 0, MIB(2), 0x33);
    CHECK_OK(vdisk_close(v));
    lose_refcounts(&spec, 8);
    take_photo(&before, spec.path);
    v = open_image(&spec);
    fill(v, MIB(40), 4096, 0x44);
    CHECK_OK(vdisk_close(v));
    take_photo(&after, spec.path);
    judge(&before, &after);
    drop_photo(&before);
    drop_photo(&after);
}

static void test_trailing_bytes(void)
{
    struct rng *r = test_rng();
    struct image_spec spec;

    make(r, &spec);
    add_bytes(&spec, r);
    use_and_judge(&spec, rng_chance(r, 50));
}

static void test_set_aside(void)
{
    struct rng *r = test_rng();
    struct image_spec spec;

    make(r, &spec);
    set_aside(&spec);
    if (rng_chance(r, 50))
        add_bytes(&spec, r);
    use_and_judge(&spec, rng_chance(r, 50));
}

/* ---- rules broken on purpose ----------------------------------------------------------------------------- */

enum { CASES_MAX = 32 };

/* All cases of this program. */
static unsigned collect(struct test_case ret[CASES_MAX])
{
    static const struct test_case ours[] = {
        {.name = "no_refcounts", .run = test_no_refcounts, .repeat = 12, .quick = 4},
        {.name = "lease_over", .run = test_lease_over},
        {.name = "trailing_bytes", .run = test_trailing_bytes, .repeat = 12, .quick = 4},
        {.name = "set_aside", .run = test_set_aside, .repeat = 8, .quick = 3},
    };

    unsigned n = ARRAY_LEN(ours);

    memcpy(ret, ours, sizeof ours);
    memcpy(ret + n, guard_cases, guard_cases_count * sizeof *ret);
    n += guard_cases_count;
    memcpy(ret + n, first_cases, first_cases_count * sizeof *ret);
    n += first_cases_count;
    memcpy(ret + n, holes_cases, holes_cases_count * sizeof *ret);
    n += holes_cases_count;
    memcpy(ret + n, twice_cases, twice_cases_count * sizeof *ret);
    return n + twice_cases_count;
}

#ifdef VDISK_MUTANTS

/* Does the case fail, in a process of its own? */
static bool fails_as(enum q2_mutant mutant, const struct test_case *c, uint64_t seed)
{
    int status, fd;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        fd = open(test_path("output"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
            _exit(77);
        rng_init(test_rng(), seed);
        q2_mutant = mutant;
        c->run();
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 77);
}

static void hunt(enum q2_mutant mutant, const char *name)
{
    enum { ROUNDS = 12 };
    struct test_case cases[CASES_MAX];
    unsigned n = collect(cases);

    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < n; i++)
            if (fails_as(mutant, &cases[i], rng_next(test_rng()))) {
                printf("%s is noticed by %s, in round %u\n", name, cases[i].name, round);
                return;
            }
    FAIL("the mutant %s survives", name);
}

static void test_mutants(void)
{
#define HUNT(name, text) hunt(MUTANT_##name, #name);
    Q2_MUTANTS_OURS(HUNT)
}
#else
static void test_mutants(void)
{
    test_skip("this build cannot break rules (-Dmutants=true)");
}
#endif

int main(int argc, char **argv)
{
    struct test_case cases[CASES_MAX + 1];
    unsigned n = collect(cases);

    cases[n++] = (struct test_case){.name = "mutants", .run = test_mutants};
    return test_main(argc, argv, cases, n);
}
