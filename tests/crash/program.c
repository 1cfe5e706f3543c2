/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A program of some of the scenarios: there are two, so that two cores are used. */
#include <stdio.h>
#include <string.h>

#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"

enum { CASES = 64 };

/* A run of all of it that made fewer images than it is there for would be a test that shows less than it says. */
static int check_totals(uint64_t least)
{
    if (test_is_quick() || rig_totals->images >= least)
        return 0;
    printf("FAILED: fewer than %llu crash images\n", (unsigned long long)least);
    return 1;
}

int crash_main(int argc, char **argv, bool mixes, uint64_t least, uint64_t least_long)
{
    struct test_case cases[CASES];
    unsigned n = 0;
    int status;

    rig_totals_init();
    for (unsigned i = 0; i < crash_scenarios_count; i++) {
        const struct crash_scenario *s = &crash_scenarios[i];
        if ((strncmp(s->name, "mix", 3) == 0) == mixes)
            cases[n++] = (struct test_case){
                .name = s->name, .run = s->run, .repeat = s->repeat, .quick = s->quick, .lengthy = s->lengthy};
    }
    status = test_main(argc, argv, cases, n);
    rig_totals_print();
    return status == 0 && argc == 1 ? check_totals(test_is_long() ? least_long : least) : status;
}
