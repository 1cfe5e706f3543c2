/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that direct I/O takes anywhere. */
#include <stdlib.h>

#include "engine/vdisk.h"

void *vdisk_alloc_buffer(size_t len)
{
    void *p = NULL;

    return posix_memalign(&p, 4096, len ? len : 1) == 0 ? p : NULL;
}
