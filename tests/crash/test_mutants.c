/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash suite can fail: each ordering rule broken on purpose (qcow2/mutant.h) is noticed by one of its
 * scenarios. A mutant that survives them all fails the test.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qcow2/mutant.h"
#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"

enum { ROUNDS = 24, SECONDS = 60 };

struct mutant {
    enum q2_mutant id;
    const char *name, *text;
};

#define MUTANT_ENTRY(name, text) {MUTANT_##name, #name, text},

static const struct mutant mutants[] = {Q2_MUTANTS(MUTANT_ENTRY)};

enum { MUTANTS = sizeof mutants / sizeof mutants[0] };

/* How a child ended that ran the scenario as that mutant. */
static int run_as(enum q2_mutant mutant, const struct crash_scenario *s, const char *output)
{
    uint64_t seed = rng_next(test_rng());
    int status, fd;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid > 0) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        return status;
    }
    fd = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(99);
    alarm(SECONDS);
    rng_init(test_rng(), seed);
    q2_mutant = mutant;
    s->run();
    fflush(NULL);
    _exit(0);
}

/* What it said first. */
static const char *first_line(const char *path)
{
    static char line[400];
    FILE *f = fopen(path, "r");

    line[0] = '\0';
    if (f && fgets(line, sizeof line, f))
        line[strcspn(line, "\n")] = '\0';
    if (f)
        fclose(f);
    return line;
}

/*
 * By a finding of the judge or the oracle, a request, repair or amendment that fails, or an assertion of the
 * library's. All else is the scenario's fault.
 */
static bool is_caught(int status, const char *output)
{
    const char *line = first_line(output);

    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
        return true;
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77)
        return false;
    CHECK_MSG(strstr(line, "judge.c") || strstr(line, "oracle.c") || strstr(line, "rig.c") ||
                  strstr(line, "repairs.c") || strstr(line, "threads.c") || strstr(line, "amends.c"),
              "a scenario itself fails: %s", line);
    return true;
}

static unsigned scenarios_count(void)
{
    return crash_scenarios_count + crash_mq_scenarios_count;
}

static const struct crash_scenario *scenario(unsigned i)
{
    return i < crash_scenarios_count ? &crash_scenarios[i] : &crash_mq_scenarios[i - crash_scenarios_count];
}

static void hunt(const struct mutant *m)
{
    const char *output = test_path("output");
    unsigned runs = 0;

    test_note("mutant %s: %s", m->name, m->text);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < scenarios_count(); i++) {
            int status = run_as(m->id, scenario(i), output);
            runs++;
            if (!is_caught(status, output))
                continue;
            printf("caught %s in run %u, by %s: %s\n", m->name, runs, scenario(i)->name, first_line(output));
            return;
        }
    FAIL("a mutant survives %u runs: %s", runs, m->text);
}

/* Two cases, each a test of the suite, so that two processors share the hunt. */
static void even(void)
{
    hunt(&mutants[2 * test_repetition()]);
}

static void odd(void)
{
    hunt(&mutants[2 * test_repetition() + 1]);
}

/* And no rule broken is no finding. */
static void none(void)
{
    const char *output = test_path("output");

    for (unsigned i = 0; i < scenarios_count(); i++) {
        int status = run_as(MUTANT_NONE, scenario(i), output);
        CHECK_MSG(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77),
                  "%s finds something without a mutant: %s", scenario(i)->name, first_line(output));
    }
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "none", .run = none},
        {.name = "even", .run = even, .repeat = (MUTANTS + 1) / 2},
        {.name = "odd", .run = odd, .repeat = MUTANTS / 2},
    };

    rig_totals_init();
    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
