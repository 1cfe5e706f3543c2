/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that are not ours: made by others and by another writer of our own, damaged in one to four fields. Each
 * is read, opened for writing, written to, closed, and judged (judge.c). One that fails is cut down to the habits,
 * the damaged fields and the changes that matter, and told in words.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qcow2/mutant.h"
#include "tests/foreign/life.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { BATCH = 1000, SECONDS = 120, SHRINK_RUNS = 200, WAYS_MAX = 12, KEY = 200, CHECK_EVERY = 40, HUNT = 60000 };

/* Shared with the processes that run the images. */
struct shared {
    struct life_totals totals;
    unsigned at; /* the image that runs */
};

static struct shared *shared;

struct batch {
    struct life *life;
    uint64_t seed;
    unsigned first, n;
    enum q2_mutant mutant;
    char way[WAYS_MAX][KEY]; /* in which images failed */
    unsigned times[WAYS_MAX], ways, failures, known;
};

static void run_batch(const struct steps *all, void *arg)
{
    struct batch *b = arg;

    for (unsigned i = b->first; i < b->n; i++) {
        shared->at = i;
        b->life->seed = rng_mix(b->seed + i);
        b->life->peer_checks = i % CHECK_EVERY == 0;
        life_run(all, b->life);
    }
}

static void print_totals(void)
{
    const struct life_totals *t = &shared->totals;

    printf("%" PRIu64 " images, %" PRIu64 " damages: %" PRIu64 " cannot be opened, %" PRIu64 " not for writing; "
           "%" PRIu64 " written, %" PRIu64 " changes failed; %" PRIu64 " not judged, %" PRIu64
           " clusters excepted; %" PRIu64 " repaired, %" PRIu64 " not; %" PRIu64 " amended; %" PRIu64
           " compared with QEMU, %" PRIu64 " it refuses, with %" PRIu64 " it died or hung\n",
           t->images, t->damages, t->unreadable, t->refused, t->written, t->failed, t->unjudged, t->excepted,
           t->repaired, t->unrepaired, t->amended, t->compared, t->peer_refuses, t->peer_lost);
    if (t->peer_lost)
        printf("QEMU was lost, the last time when %s\n", t->peer_why);
}

/* ---- one that fails -------------------------------------------------------------------------------------- */

/* What was said, without the numbers: two images that fail alike fail in one way. */
static void make_key(const struct attempt *a, char *key)
{
    const char *p = strstr(a->output, "FAILED ");
    size_t n = 0;

    p = p ? strstr(p, ".c:") : NULL;
    p = p ? strstr(p, ": ") : NULL;
    for (p = p ? p + 2 : a->where; *p && *p != '\n' && n < KEY - 1;) {
        p += p[0] == '0' && p[1] == 'x' ? 2 + strspn(p + 2, "0123456789abcdef") : 0;
        if (*p && *p != '\n' && (*p < '0' || *p > '9' || p == a->where))
            key[n++] = *p;
        p += *p && *p != '\n';
    }
    key[n] = '\0';
}

/* Ways that are known, and to be mended: a line each, the beginning of the key. */
static bool is_known(const char *key)
{
    const char *holes = getenv("VDISK_FOREIGN_HOLES");
    FILE *f = holes ? fopen(holes, "r") : NULL;
    bool known = false;
    char line[KEY];

    while (f && !known && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        known = line[0] && line[0] != '#' && strncmp(key, line, strlen(line)) == 0;
    }
    if (f)
        fclose(f);
    return known;
}

struct shrinking {
    struct life *life;
    const char *key;
};

static bool fails_alike(const struct steps *s, void *arg)
{
    struct shrinking *sh = arg;
    struct attempt a;
    char key[KEY];

    attempt_run(&a, life_run, s, sh->life, SECONDS);
    make_key(&a, key);
    return a.failed && strcmp(key, sh->key) == 0;
}

static void shrink_and_tell(struct life *l, const char *key)
{
    struct shrinking sh = {.life = l, .key = key};
    struct steps s;
    struct attempt a;
    unsigned runs;

    steps_init(&s, LIFE_STEPS, NULL);
    if (!fails_alike(&s, &sh)) {
        printf("it does not fail alone\n");
        return;
    }
    runs = steps_shrink(&s, fails_alike, &sh, SHRINK_RUNS);
    attempt_run(&a, life_run, &s, l, SECONDS);
    printf("of its steps %u matter (after %u runs):\n%s    again: --case image --seed %" PRIu64
           " --only-steps %s\n\n",
           steps_count(&s), runs, a.output, l->seed, steps_list(&s));
    fflush(stdout);
    steps_finish(&s);
}

static void note_failure(struct batch *b, const struct attempt *a)
{
    char key[KEY];

    make_key(a, key);
    if (is_known(key)) {
        b->known++;
        return;
    }
    b->failures++;
    b->life->seed = rng_mix(b->seed + shared->at);
    for (unsigned i = 0; i < b->ways; i++)
        if (strcmp(b->way[i], key) == 0) {
            b->times[i]++;
            return;
        }
    printf("---- image %u, seed %" PRIu64 ": %s\n", shared->at, b->life->seed, key);
    if (b->ways == WAYS_MAX)
        return;
    memcpy(b->way[b->ways], key, KEY);
    b->times[b->ways++] = 1;
    shrink_and_tell(b->life, key);
}

/* QEMU 10 where it can be had, else the one that is installed: bench/peer tells, once a run. */
static void find_peer(struct life *l)
{
    static char name[4096], daemon[4096 + 32];
    char *end;
    FILE *f;

    if (access(test_shared_path("peer"), R_OK) < 0)
        run_ok("%s >%s || true", getenv("VDISK_PEER") ? getenv("VDISK_PEER") : "command -v qemu-img",
               test_shared_path("peer"));
    f = fopen(test_shared_path("peer"), "r");
    CHECK(f);
    if (fgets(name, sizeof name, f)) {
        name[strcspn(name, "\n")] = '\0';
        l->peer = name;
        end = strrchr(name, '/');
        snprintf(daemon, sizeof daemon, "%.*sqemu-storage-daemon", end ? (int)(end + 1 - name) : 0, name);
        l->peer_daemon = access(daemon, X_OK) == 0 ? daemon : NULL;
    }
    fclose(f);
    if (!l->peer_daemon)
        printf("nothing is compared with QEMU: there is no qemu-storage-daemon\n");
}

static struct life *make_life(void)
{
    static struct life_made made[LIFE_MADE_MAX];
    static struct life life;
    struct life *l = &life;

    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    l->totals = &shared->totals;
    l->made = made;
    l->nmade = life_make(made);
    find_peer(l);
    return l;
}

static void test_images(void)
{
    struct batch b = {.life = make_life(), .seed = rng_next(test_rng()), .n = test_steps(BATCH)};
    struct steps all;
    struct attempt a;

    steps_init(&all, LIFE_STEPS, NULL);
    for (; b.first < b.n; b.first = shared->at + 1) {
        attempt_run(&a, run_batch, &all, &b, 2 * SECONDS);
        if (!a.failed)
            break;
        note_failure(&b, &a);
    }
    steps_finish(&all);
    print_totals();
    if (b.known)
        printf("%u images fail in ways that are known, and to be mended\n", b.known);
    for (unsigned i = 0; i < b.ways; i++)
        printf("%u times: %s\n", b.times[i], b.way[i]);
    CHECK_MSG(b.failures == 0, "%u images of %u", b.failures, b.n);
}

/* One, by the seed that a failure prints. */
static void test_image(void)
{
    struct life *l = make_life();

    l->seed = test_seed();
    l->verbose = l->peer_checks = true;
    attempt_or_shrink(life_run, l, LIFE_STEPS, SECONDS, SHRINK_RUNS);
}

/* Those that failed once, found by long runs. */
static void test_once(void)
{
    static const uint64_t seeds[] = {
        14463568733118939469u, /* an L2 table that a damaged snapshot has, too, and an entry that leads to it */
        3486528122860835550u,  /* a cluster size twice as large, by which the snapshots have no tables */
        17680011945320995140u, /* an L1 entry that a repair drops, and all that tells it from the refcount table */
        10944336456037713537u, /* findings beyond number, before a note of what is kept */
        8608232452949640751u,  /* zeros with a cluster far past the end of the file, which are written to */
    };
    struct life *l = make_life();
    struct steps all;
    struct attempt a;

    steps_init(&all, LIFE_STEPS, NULL);
    for (unsigned i = 0; i < sizeof seeds / sizeof seeds[0]; i++) {
        l->seed = seeds[i];
        attempt_run(&a, life_run, &all, l, SECONDS);
        CHECK_MSG(!a.failed, "seed %" PRIu64 ": %s", seeds[i], a.output);
    }
    steps_finish(&all);
}

/* ---- rules broken on purpose ----------------------------------------------------------------------------- */

#ifdef VDISK_MUTANTS

static void run_mutant(const struct steps *all, void *arg)
{
    struct batch *b = arg;

    q2_mutant = b->mutant;
    run_batch(all, arg);
}

/* Some image fails, by a finding or by an assertion of the library's, that does not without the mutant. */
static void hunt(struct batch *b, enum q2_mutant mutant, const char *name)
{
    struct steps all;
    struct attempt a, plain;
    char key[KEY];

    steps_init(&all, LIFE_STEPS, NULL);
    b->seed = rng_next(test_rng());
    for (b->first = 0; b->first < HUNT; b->first = shared->at + 1) {
        b->n = HUNT;
        b->mutant = mutant;
        attempt_run(&a, run_mutant, &all, b, SECONDS * 2);
        CHECK_MSG(a.failed, "the mutant %s survives %u images", name, b->n);
        b->mutant = MUTANT_NONE;
        b->first = shared->at;
        b->n = b->first + 1;
        attempt_run(&plain, run_mutant, &all, b, SECONDS);
        if (!plain.failed)
            break;
    }
    make_key(&a, key);
    printf("%s is found by image %u: %s\n", name, shared->at, key);
    steps_finish(&all);
}

static void test_mutants(void)
{
    struct batch b = {.life = make_life()};

    b.life->peer_daemon = NULL; /* they are found without it */
#define HUNT_ONE(name, text) hunt(&b, MUTANT_##name, #name);
    /* Of the rules about what belongs to whom those that this can find. */
    HUNT_ONE(CUT_ALL_FREE, "")
    HUNT_ONE(OWN_UNUSED, "")
    HUNT_ONE(TRUST_ENTRIES, "")
    HUNT_ONE(TRUST_REFCOUNTS, "")
    Q2_MUTANTS_FOREIGN(HUNT_ONE)
}
#else
static void test_mutants(void)
{
    test_skip("this build cannot break rules (-Dmutants=true)");
}
#endif

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "images", .run = test_images, .repeat = 20, .quick = 4, .lengthy = 1000},
        {.name = "image", .run = test_image},
        {.name = "once", .run = test_once},
        {.name = "mutants", .run = test_mutants},
    };

    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
