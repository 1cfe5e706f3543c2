/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that direct I/O takes anywhere. */
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/vdisk.h"

/* 64 KiB in 16 pages that lie anywhere are 16 pieces for the device; in a huge page they are one. */
void *vdisk_alloc_buffer(size_t len)
{
    void *p = NULL;

    if (posix_memalign(&p, len >= MEM_HUGE ? MEM_HUGE : 4096, len ? len : 1) != 0)
        return NULL;
    mem_prefer_huge(p, len);
    return p;
}
