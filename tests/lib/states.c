/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/states.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/loop/op.h"
#include "tests/lib/test.h"

static char part[PATH_MAX], whole[PATH_MAX]; /* "" without a directory */

void states_begin(const char *program)
{
    const char *dir = getenv("VDISK_STATES"), *slash = strrchr(program, '/');

    if (!dir || !dir[0])
        return;
    mkdir(dir, 0777);
    snprintf(whole, sizeof whole, "%.3000s/%.200s", dir, slash ? slash + 1 : program);
    snprintf(part, sizeof part, "%.4000s.part", whole);
    unlink(whole);
    unlink(part);
}

/* One line for a state: TYPE STATE BITS. */
void states_add(void)
{
    unsigned count, used = 0, space = 1 << 16;
    const struct op_type *const *types = op_types(&count);
    char *text;
    int fd;

    if (!part[0])
        return;
    text = test_alloc(space);
    for (unsigned i = 0; i < count; i++)
        for (unsigned k = 1; k < types[i]->nstates && used < space - 200; k++)
            if (types[i]->seen[k])
                used += (unsigned)snprintf(text + used, space - used, "%s %s %u\n", types[i]->name,
                                           types[i]->states[k], types[i]->seen[k]);
    fd = open(part, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    CHECK_MSG(fd >= 0 && write(fd, text, used) == (ssize_t)used, "%s: cannot be written", part);
    close(fd);
    free(text);
}

void states_end(bool passed)
{
    if (part[0] && (!passed || rename(part, whole) < 0))
        unlink(part);
}
