/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crash images of random mixes. */
#include "tests/crash/scenarios.h"

enum { IMAGES_LEAST = 10000, IMAGES_LEAST_LONG = 650000 };

int main(int argc, char **argv)
{
    return crash_main(argc, argv, true, IMAGES_LEAST, IMAGES_LEAST_LONG);
}
