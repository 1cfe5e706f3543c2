/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Long random workloads in simulated worlds: latencies that let calls overtake each other, failures, one and two
 * queues, several volumes; against the model. A run that fails is cut down to few steps.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/bits.h"
#include "engine/filter.h"
#include "tests/lib/test.h"
#include "tests/sim/world.h"

enum { STEPS = 600, SECONDS = 60, SHRINK_RUNS = 300 };

static void print_event(void *arg, const struct sim_event *e)
{
    static const char *const kinds[] = {"read", "write", "zero", "discard", "allocate", "truncate", "flush",
                                        "status"};

    printf("%10.3f us queue %u disk %u %-8s %s  %10" PRIu64 "+%-8" PRIu64
           " flags %x  result %" PRId64 "  data %016" PRIx64 "  %s %s\n",
           (double)e->time_ns / 1000, e->queue, e->backend, kinds[e->kind], e->end ? "end   " : "effect",
           e->offset, e->len, e->flags, e->result, e->data, e->type ? e->type : "", e->state ? e->state : "");
}

static void run_world(const struct steps *steps, void *arg)
{
    struct world *w = test_alloc(sizeof *w);

    *w = *(const struct world *)arg;
    if (getenv("VDISK_TRACE"))
        w->trace = print_event;
    world_run(w, steps);
    free(w);
}

static void run_random(bool faults)
{
    struct world *w = test_alloc(sizeof *w);

    w->seed = rng_next(test_rng());
    w->nsteps = test_steps(test_is_slow() ? STEPS / 3 : STEPS);
    w->faults = faults;
    w->by_qemu = test_repetition() % 8 == 0;
    if (w->by_qemu)
        test_requires("qemu-img");
    attempt_or_shrink(run_world, w, w->nsteps, SECONDS, SHRINK_RUNS);
    free(w);
}

static void test_reorder(void)
{
    run_random(false);
}

static void test_faults(void)
{
    run_random(true);
}

/* ---- one seed is one run ------------------------------------------------------------------------------- */

struct told {
    struct world *w;
    uint64_t *hash; /* shared with the child */
    int fill;
};

/* In a child: what is in fresh memory differs from run to run, and so do addresses. */
static void run_and_tell(const struct steps *steps, void *arg)
{
    struct told *t = arg;
    struct world *w = test_alloc(sizeof *w);
    void *volatile moves = test_alloc(1000 + 5000 * (size_t)t->fill);

    mallopt(M_PERTURB, t->fill);
    *w = *t->w;
    *t->hash = world_run(w, steps);
    free(moves);
    free(w);
}

static uint64_t hash_of(struct world *w, int fill)
{
    uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), hash;
    struct told t = {.w = w, .hash = shared, .fill = fill};
    struct attempt a;
    struct steps s;

    CHECK(shared != MAP_FAILED);
    steps_init(&s, w->nsteps, NULL);
    attempt_run(&a, run_and_tell, &s, &t, SECONDS);
    CHECK_MSG(!a.failed, "%s: %s", a.where, a.output);
    steps_finish(&s);
    hash = *shared;
    munmap(shared, 4096);
    CHECK(hash != 0);
    return hash;
}

static void test_repeats(void)
{
    struct world *w = test_alloc(sizeof *w);
    uint64_t first;

    w->seed = rng_next(test_rng());
    w->nsteps = test_steps(STEPS);
    w->faults = test_repetition() % 2;
    first = hash_of(w, 1);
    CHECK_MSG(hash_of(w, 1) == first, "the same seed gives another run");
    CHECK_MSG(hash_of(w, 2) == first, "the same seed gives another run when memory holds something else");
    w->seed++;
    CHECK_MSG(hash_of(w, 1) != first, "another seed gives the same run");
    free(w);
}

/* ---- a planted bug ------------------------------------------------------------------------------------- */

/* Storage that forgets a write which comes while a flush is on, once. */
struct buggy {
    struct filter w; /* first */
    unsigned flushes;
    bool done;
};

struct buggy_io {
    struct io io;
    struct io *outer;
    struct iovec iov[];
};

static void buggy_done(struct io *io)
{
    struct buggy_io *bi = container_of(io, struct buggy_io, io);
    struct buggy *b = container_of(bi->outer->backend, struct buggy, w.b);
    struct io *outer = bi->outer;
    int64_t res = filter_result(&b->w, io);

    b->flushes -= io->kind == IO_FLUSH;
    free(bi);
    io_end(outer, res);
}

static void buggy_submit(struct backend *backend, struct io *outer)
{
    struct buggy *b = container_of(backend, struct buggy, w.b);
    struct buggy_io *bi;

    if (outer->kind == IO_WRITE && b->flushes > 0 && !outer->op && !b->done) {
        b->done = true;
        io_end_later(outer, (int64_t)(outer->len - outer->moved));
        return;
    }
    b->flushes += outer->kind == IO_FLUSH;
    bi = test_alloc(sizeof *bi + outer->iovcnt * sizeof bi->iov[0]);
    bi->outer = outer;
    filter_fill_io(&b->w, &bi->io, outer, bi->iov, UINT64_MAX);
    bi->io.done = buggy_done;
    io_start(&bi->io);
}

static void buggy_close(struct backend *b)
{
    backend_close(filter_of(b)->below);
}

static struct backend *wrap_buggy(struct backend *child)
{
    static const struct backend_driver driver = {
        .name = "buggy", .close = buggy_close, .submit = buggy_submit,
        .allocated = filter_allocated, .relock = filter_relock};
    struct buggy *b = backend_alloc(&driver, child->name, sizeof *b);

    CHECK(b);
    filter_init(&b->w, child);
    return &b->w.b;
}

/* Fails with 17 and 203, if at all; each call counts. */
static bool needs_two(const struct steps *s, void *arg)
{
    ++*(unsigned *)arg;
    return s->keep[17] && s->keep[203];
}

static void test_shrink(void)
{
    struct steps s, again;
    unsigned calls = 0;
    char *list;

    steps_init(&s, 400, NULL);
    CHECK_INT(steps_shrink(&s, needs_two, &calls, 1000), calls);
    CHECK_INT(steps_count(&s), 2);
    CHECK(s.keep[17] && s.keep[203] && calls < 100);
    for (unsigned i = 20; i < 30; i++)
        s.keep[i] = true;
    list = steps_list(&s);
    CHECK(strcmp(list, "17,20-29,203") == 0);
    steps_init(&again, 400, list);
    CHECK(memcmp(s.keep, again.keep, 400) == 0);
    steps_finish(&again);
    steps_finish(&s);
    steps_init(&s, 400, NULL);
    CHECK_INT(steps_shrink(&s, needs_two, &calls, 3), 3); /* as far as it got */
    CHECK(needs_two(&s, &calls) && steps_count(&s) < 400);
    steps_finish(&s);
    steps_init(&s, 5, "none");
    CHECK_INT(steps_count(&s), 0);
    steps_finish(&s);
    free(list);
}

struct looking {
    struct world *w;
    char where[200];
};

static bool fails_at(const struct steps *s, void *arg)
{
    struct looking *l = arg;
    struct attempt a;

    attempt_run(&a, run_world, s, l->w, SECONDS);
    return a.failed && strcmp(a.where, l->where) == 0;
}

/* It is found, cut down to a few steps, and the list of these repeats it. */
static void test_planted(void)
{
    struct looking l = {.w = test_alloc(sizeof *l.w)};
    struct steps s, again;
    struct attempt a;
    unsigned tries = 0, calls;
    char *list;

    l.w->nsteps = STEPS;
    l.w->wrap = wrap_buggy;
    steps_init(&s, STEPS, NULL);
    do {
        CHECK_MSG(++tries < 30, "the planted bug is not found");
        l.w->seed = rng_next(test_rng());
        attempt_run(&a, run_world, &s, l.w, SECONDS);
    } while (!a.failed);
    memcpy(l.where, a.where, sizeof l.where);
    calls = steps_shrink(&s, fails_at, &l, SHRINK_RUNS);
    list = steps_list(&s);
    printf("found by world %u, '%s'; %u runs cut it from %d to %u steps: %s\n", tries, l.where, calls, STEPS,
           steps_count(&s), list);
    CHECK_MSG(steps_count(&s) <= STEPS / 10, "%u steps are left", steps_count(&s));
    steps_init(&again, STEPS, list);
    CHECK(fails_at(&again, &l));
    /* Without the bug the same steps pass. */
    l.w->wrap = NULL;
    attempt_run(&a, run_world, &again, l.w, SECONDS);
    CHECK_MSG(!a.failed, "%s: %s", a.where, a.output);
    steps_finish(&again);
    steps_finish(&s);
    free(list);
    free(l.w);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "repeats", .run = test_repeats, .repeat = 6, .quick = 2},
        {.name = "shrink", .run = test_shrink},
        {.name = "planted", .run = test_planted},
        {.name = "reorder", .run = test_reorder, .repeat = 120, .quick = 30, .lengthy = 8000},
        {.name = "faults", .run = test_faults, .repeat = 120, .quick = 30, .lengthy = 8000},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
