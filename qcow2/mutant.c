/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/mutant.h"

#include <time.h>

enum q2_mutant q2_mutant;

#ifdef VDISK_MUTANTS
void q2_mutant_gap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); /* with the timer's slack 50 us */
}
#endif
