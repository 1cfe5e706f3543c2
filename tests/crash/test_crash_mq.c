/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crash images of what two threads wrote: threads.c. */
#include "engine/base/bits.h"
#include "tests/crash/rig.h"
#include "tests/crash/scenarios.h"
#include "tests/lib/test.h"

enum { CASES = 8 };

int main(int argc, char **argv)
{
    struct test_case cases[CASES];
    int status;

    rig_totals_init();
    for (unsigned i = 0; i < crash_mq_scenarios_count; i++) {
        const struct crash_scenario *s = &crash_mq_scenarios[i];
        cases[i] = (struct test_case){
            .name = s->name, .run = s->run, .repeat = s->repeat, .quick = s->quick, .lengthy = s->lengthy};
    }
    status = test_main(argc, argv, cases, crash_mq_scenarios_count);
    rig_totals_print();
    return status;
}
