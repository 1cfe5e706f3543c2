/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * usage: test_interleave [--list] [--program NAME] [--schedule SCHEDULE] [--preemptions N] [--random N] [--seed N]
 *                        [--mutant NAME] [--list-mutants]
 *
 * Runs one program, or all, through its schedules. With --mutant: as the library would be with that rule broken
 * (a build with -Dmutants=true).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/interleave/common.h"
#include "tests/interleave/mutants.h"

enum { RANDOM_RUNS = 5000, LONG_FACTOR = 200 };

static const struct program *const programs[] = {
    &gate_users, &gate_drains, &range_locks, &range_given_up, &slice_change, &slice_failing, &slice_reload,
    &flat_taken,
    &flush_groups, &flush_failing,
    &leases, &leases_back, &post_threads, &post_ring, &post_sleep, &post_gather,
    &service_two, &service_later, &service_refused, &close_busy, &steps_out,
};

enum { PROGRAMS = sizeof programs / sizeof programs[0] };

static struct {
    const char *program, *schedule;
    unsigned    preemptions;
    bool        asked; /* for so many */
    uint64_t    random, seed;
} options = {.preemptions = SCHED_PREEMPTIONS, .random = RANDOM_RUNS, .seed = 1};

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);

    return value && value[0] && strcmp(value, "0") != 0;
}

static uint64_t parse_seed(const char *text)
{
    return strcmp(text, "new") == 0 ? (uint64_t)time(NULL) ^ (uint64_t)getpid() << 20 : strtoull(text, NULL, 0);
}

static _Noreturn void usage(const char *program, int status)
{
    printf("usage: %s [--list] [--program NAME] [--schedule SCHEDULE] [--preemptions N]\n"
           "          [--random N] [--seed N|new] [--mutant NAME] [--list-mutants]\n",
           program);
    exit(status);
}

static void take_option(const char *program, const char *name, const char *value)
{
    if (strcmp(name, "--program") == 0)
        options.program = value;
    else if (strcmp(name, "--schedule") == 0)
        options.schedule = value;
    else if (strcmp(name, "--preemptions") == 0 && (options.asked = true))
        options.preemptions = (unsigned)strtoul(value, NULL, 0);
    else if (strcmp(name, "--random") == 0)
        options.random = strtoull(value, NULL, 0);
    else if (strcmp(name, "--seed") == 0)
        options.seed = parse_seed(value);
    else if (strcmp(name, "--mutant") != 0 || !mutant_choose(value))
        usage(program, 2);
}

static void parse_options(int argc, char **argv)
{
    const char *seed = getenv("VDISK_SEED");

    if (seed)
        options.seed = parse_seed(seed);
    if (is_set("VDISK_TEST_LONG"))
        options.random *= LONG_FACTOR;
    if (is_set("VDISK_TEST_QUICK")) {
        options.random /= 10;
        options.preemptions = SCHED_PREEMPTIONS - 1;
    }
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--list") == 0) {
            for (unsigned k = 0; k < PROGRAMS; k++)
                printf("%-16s %s\n", programs[k]->name, programs[k]->text);
            exit(0);
        }
        if (strcmp(argv[i], "--list-mutants") == 0) {
            mutants_list();
            exit(0);
        }
        if (strcmp(argv[i], "--help") == 0)
            usage(argv[0], 0);
        if (i + 1 == argc)
            usage(argv[0], 2);
        take_option(argv[0], argv[i], argv[i + 1]);
    }
    if (options.preemptions > SCHED_PREEMPTIONS)
        usage(argv[0], 2);
}

/* Up to how many preemptions. */
static unsigned bound(const struct program *p)
{
    if (p->preemptions == 0 || options.asked || is_set("VDISK_TEST_LONG"))
        return options.preemptions;
    return p->preemptions < options.preemptions ? p->preemptions : options.preemptions;
}

static void report(const struct program *p, const struct sched_totals *t)
{
    printf("%-16s %s: ", p->name, p->text);
    for (unsigned i = 0; i <= bound(p); i++)
        printf("%s%" PRIu64, i ? " + " : "", t->schedules[i]);
    printf(" schedules with 0 to %u preemptions, all there are; at most %u steps\n", bound(p),
           t->longest);
    fflush(stdout);
}

static void run_program(const struct program *p)
{
    struct sched_totals totals = {0}, random = {0};
    uint64_t n = 0;

    sched_explore(p, bound(p), &totals);
    report(p, &totals);
    sched_random(p, options.random, options.seed, &random);
    for (unsigned i = 0; i <= SCHED_PREEMPTIONS + 1; i++)
        n += random.schedules[i];
    printf("%-16s %" PRIu64 " random ones (seed %" PRIu64 "), %" PRIu64 " of them with more than %u preemptions\n",
           "", n, options.seed, random.schedules[SCHED_PREEMPTIONS + 1], SCHED_PREEMPTIONS);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bool found = false;

    parse_options(argc, argv);
#ifdef NDEBUG
    printf("skipped: a build without assertions has no points\n");
    return 77;
#endif
    sched_init(argv[0]);
    for (unsigned i = 0; i < PROGRAMS; i++) {
        if (options.program && strcmp(options.program, programs[i]->name) != 0)
            continue;
        found = true;
        if (options.schedule)
            sched_repeat(programs[i], options.schedule);
        else
            run_program(programs[i]);
    }
    if (!found)
        usage(argv[0], 2);
    return 0;
}
