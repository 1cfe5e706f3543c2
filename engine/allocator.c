/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host program's allocator in place of the C library's. */
#include <errno.h>
#include <jansson.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/vdisk.h"

static void *json_alloc(size_t size)
{
    void *p = mem_alloc(size);

    if (!p)
        errno = ENOMEM; /* as malloc() does: jansson does not tell by itself */
    return p;
}

static void json_free(void *p)
{
    mem_free(p);
}

static int set_allocator(const struct vdisk_allocator *a)
{
    struct mem_functions f;

    if (!a || a->size < sizeof *a || a->size > 4096 || !a->malloc || !a->calloc || !a->realloc ||
        !a->aligned_alloc || !a->free)
        return err_set(EINVAL, "an allocator has all five functions");
    f = (struct mem_functions){.malloc = a->malloc, .calloc = a->calloc, .realloc = a->realloc,
                               .aligned_alloc = a->aligned_alloc, .free = a->free, .opaque = a->opaque};
    if (!mem_give(&f))
        return err_hint(err_set(EBUSY, "the library has asked for memory by now"),
                        "set the allocator before anything else of it is called");
    json_set_alloc_funcs(json_alloc, json_free);
    return 0;
}

int vdisk_set_allocator(const struct vdisk_allocator *allocator)
{
    return ERR_CALL(set_allocator(allocator));
}
