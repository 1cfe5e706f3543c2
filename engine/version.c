/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/vdisk.h"

const char *vdisk_version(void)
{
    return "0.2.0";
}
