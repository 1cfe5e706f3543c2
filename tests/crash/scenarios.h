/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is run and then judged: each kind of write alone, on images of random options, and random mixes. */
#ifndef TESTS_CRASH_SCENARIOS_H
#define TESTS_CRASH_SCENARIOS_H

struct crash_scenario {
    const char *name;
    void (*run)(void);
    unsigned repeat, quick, lengthy; /* as in struct test_case */
};

extern const struct crash_scenario crash_scenarios[];
extern const unsigned crash_scenarios_count;

#endif
