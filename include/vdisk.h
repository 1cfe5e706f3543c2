/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The public headers under the names that they are installed with, and nothing beside them: see meson.build. */
#include "../engine/vdisk.h"
