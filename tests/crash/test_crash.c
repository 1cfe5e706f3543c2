/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crash images of each kind of write, and of repair. */
#include "tests/crash/scenarios.h"

enum { IMAGES_LEAST = 10000, IMAGES_LEAST_LONG = 350000 }; /* with those of the mixes: 20,000, a million */

int main(int argc, char **argv)
{
    return crash_main(argc, argv, false, IMAGES_LEAST, IMAGES_LEAST_LONG);
}
