/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/base/mutant.h"

#ifdef VDISK_MUTANTS
#include <stdlib.h>
#include <string.h>

#define MUTANT_NAME(name, text) [ENGINE_MUTANT_##name] = #name,

enum engine_mutant engine_mutant;

__attribute__((constructor)) static void take_name(void)
{
    static const char *const names[] = {ENGINE_OTHER_MUTANTS(MUTANT_NAME)};
    const char *name = getenv("VDISK_ENGINE_MUTANT");

    for (unsigned i = 0; name && i < sizeof names / sizeof names[0]; i++)
        if (names[i] && strcmp(names[i], name) == 0)
            engine_mutant = (enum engine_mutant)i;
    if (name && engine_mutant == ENGINE_MUTANT_NONE)
        _Exit(0); /* there is none of that name: the test that should fail does not */
}
#endif
