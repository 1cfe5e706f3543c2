/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/mutant.h"

enum q2_mutant q2_mutant;
