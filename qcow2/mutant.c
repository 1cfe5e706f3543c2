/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/mutant.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef VDISK_MUTANTS
#define MUTANT_NAME(name, text) [MUTANT_##name] = #name,

enum q2_mutant q2_mutant;

__attribute__((constructor)) static void take_name(void)
{
    static const char *const names[] = {Q2_ALL_MUTANTS(MUTANT_NAME)};
    const char *name = getenv("VDISK_MUTANT");

    if (!name)
        return;
    for (unsigned i = 1; i < MUTANTS_END; i++)
        if (strcmp(names[i], name) == 0) {
            q2_mutant = (enum q2_mutant)i;
            return;
        }
    _Exit(0); /* there is none of that name: the test that should fail does not */
}

void q2_mutant_gap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); /* with the timer's slack 50 us */
}
#endif
