/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/mutant.h"

#ifdef VDISK_MUTANTS
enum engine_mutant engine_mutant;
#endif
