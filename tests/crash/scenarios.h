/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is run and then judged: each kind of write alone, on images of random options, and random mixes. */
#ifndef TESTS_CRASH_SCENARIOS_H
#define TESTS_CRASH_SCENARIOS_H

#include <stdbool.h>
#include <stdint.h>

struct crash_scenario {
    const char *name;
    void (*run)(void);
    unsigned repeat, quick, lengthy; /* as in struct test_case */
};

/* repairs.c */
void run_repair_damage(void);
void run_repair_refcounts(void);

/* amends.c */
void run_amend(void);

/* thin.c */
void run_thin(void);

extern const struct crash_scenario crash_scenarios[];
extern const unsigned crash_scenarios_count;

/* threads.c: of two threads, with real queues. */
extern const struct crash_scenario crash_mq_scenarios[];
extern const unsigned crash_mq_scenarios_count;

/* main() of a program: the mixes, or all the others; a complete run makes at least so many images. program.c */
int crash_main(int argc, char **argv, bool mixes, uint64_t least, uint64_t least_long);

#endif
