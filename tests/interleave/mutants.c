/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/interleave/mutants.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/mutant.h"
#include "qcow2/mutant.h"

#ifdef VDISK_MUTANTS

#define ENGINE_ENTRY(name, text) {#name, ENGINE_MUTANT_##name},
#define Q2_ENTRY(name, text) {#name, MUTANT_##name},

static const struct { const char *name; enum engine_mutant id; } of_engine[] = {ENGINE_MUTANTS(ENGINE_ENTRY)};
static const struct { const char *name; enum q2_mutant id; } of_qcow2[] = {Q2_MUTANTS(Q2_ENTRY)};

enum { OF_ENGINE = sizeof of_engine / sizeof of_engine[0], OF_QCOW2 = sizeof of_qcow2 / sizeof of_qcow2[0] };

/* Of those of qcow2 only what is wrong between threads; the rest is for the crash tests. */
static bool is_between_threads(enum q2_mutant id)
{
    return id == MUTANT_DIRTY_LATE || id == MUTANT_SETTLED_BETWEEN || id == MUTANT_FLUSH_JOINED;
}

bool mutant_choose(const char *name)
{
    for (size_t i = 0; i < OF_ENGINE; i++)
        if (strcmp(name, of_engine[i].name) == 0) {
            engine_mutant = of_engine[i].id;
            return true;
        }
    for (size_t i = 0; i < OF_QCOW2; i++)
        if (strcmp(name, of_qcow2[i].name) == 0) {
            q2_mutant = of_qcow2[i].id;
            return true;
        }
    return false;
}

void mutants_list(void)
{
    for (size_t i = 0; i < OF_ENGINE; i++)
        printf("%s\n", of_engine[i].name);
    for (size_t i = 0; i < OF_QCOW2; i++)
        if (is_between_threads(of_qcow2[i].id))
            printf("%s\n", of_qcow2[i].name);
}

#else

bool mutant_choose(const char *name)
{
    return false;
}

void mutants_list(void)
{
}

#endif
