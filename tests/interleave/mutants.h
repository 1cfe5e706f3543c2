/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_INTERLEAVE_MUTANTS_H
#define TESTS_INTERLEAVE_MUTANTS_H

#include <stdbool.h>

/* Be that mutant of engine/base/mutant.h or qcow2/mutant.h. False: there is none, or not in this build. */
bool mutant_choose(const char *name);

/* Print the names of those that the programs must find. */
void mutants_list(void);

#endif
