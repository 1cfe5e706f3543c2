/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/given.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/error.h"

enum { GIVEN_MAX = 4096 };

static _Thread_local struct {
    const struct vdisk_fd *list;
    uint32_t               count;
    const char            *top;
} given;

int given_check(const struct vdisk_fd *list, uint32_t count, const char *name)
{
    if (count > 0 && !list)
        return err_set(EINVAL, "%s: no descriptors are given, but their number is %u", name, count);
    if (count > GIVEN_MAX)
        return err_set(EINVAL, "%s: %u descriptors are more than %d", name, count, GIVEN_MAX);
    for (uint32_t i = 0; i < count; i++)
        if (list[i].fd < 0)
            return err_set(EINVAL, "%s: descriptor %d is given for %s", name, list[i].fd,
                           list[i].name ? list[i].name : "it");
    return 0;
}

int given_begin(const struct vdisk_fd *list, uint32_t count, const char *name)
{
    int rc = given_check(list, count, name);

    if (rc < 0)
        return rc;
    assert(given.count == 0); /* one opening at a time */
    given.list = list;
    given.count = count;
    given.top = name; /* as it looks at first */
    return 0;
}

void given_end(void)
{
    given.count = 0;
}

void given_set_top(const char *path)
{
    given.top = path;
}

int given_find(const char *path)
{
    for (uint32_t i = 0; i < given.count; i++) {
        const char *of = given.list[i].name ? given.list[i].name : given.top;
        if (of && strcmp(backend_path(of), path) == 0)
            return given.list[i].fd;
    }
    return -1;
}
