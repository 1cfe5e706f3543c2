/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd/mutant.h"

#ifdef VDISK_MUTANTS
#include <stdlib.h>
#include <string.h>

#define NBD_MUTANT_NAME(name, text) [NBD_MUTANT_##name] = #name,

enum nbd_mutant nbd_mutant;

__attribute__((constructor)) static void take_name(void)
{
    static const char *const names[] = {NBD_MUTANTS(NBD_MUTANT_NAME)};
    const char *name = getenv("VDISK_NBD_MUTANT");

    for (unsigned i = 0; name && i < sizeof names / sizeof names[0]; i++)
        if (names[i] && strcmp(names[i], name) == 0)
            nbd_mutant = (enum nbd_mutant)i;
    if (name && nbd_mutant == NBD_MUTANT_NONE)
        _Exit(0); /* there is none of that name: the test that should fail does not */
}
#endif
