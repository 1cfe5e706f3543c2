/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crash images of each kind of write, and of random mixes. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"

enum { CASES = 64, IMAGES_LEAST = 20000, IMAGES_LEAST_LONG = 1000000 };

/* A run of all of it that made fewer images than it is there for would be a test that shows less than it says. */
static int check_totals(void)
{
    uint64_t least = test_is_long() ? IMAGES_LEAST_LONG : IMAGES_LEAST;

    if (test_is_quick() || rig_totals->images >= least)
        return 0;
    printf("FAILED: fewer than %llu crash images\n", (unsigned long long)least);
    return 1;
}

int main(int argc, char **argv)
{
    struct test_case cases[CASES];
    int status;

    rig_totals_init();
    for (unsigned i = 0; i < crash_scenarios_count; i++) {
        const struct crash_scenario *s = &crash_scenarios[i];
        cases[i] = (struct test_case){
            .name = s->name, .run = s->run, .repeat = s->repeat, .quick = s->quick, .lengthy = s->lengthy};
    }
    status = test_main(argc, argv, cases, crash_scenarios_count);
    rig_totals_print();
    return status == 0 && argc == 1 ? check_totals() : status;
}
