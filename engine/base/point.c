/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/base/point.h"

#include <stddef.h>

#ifndef NDEBUG
_Atomic(point_fn *) point_hook;
#endif
