/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/loop/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/list.h"
#include "engine/base/mem.h"
#include "engine/loop/after.h"

enum { LINE_MAX_BYTES = 512 };

struct log_line {
    struct after        after;
    enum vdisk_log_level level;
    bool                has_volume;
    char                text[LINE_MAX_BYTES];
    char                volume[];
};

static struct hook hook = {.lock = PTHREAD_MUTEX_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};
static _Atomic bool somebody_listens;

static void tell(struct after *a)
{
    struct log_line *line = container_of(a, struct log_line, after);
    void (*fn)(void);
    void *arg;

    if (hook_enter(&hook, &fn, &arg)) {
        ((vdisk_log_fn *)fn)(arg, line->level, line->has_volume ? line->volume : NULL, line->text);
        hook_leave(&hook);
    }
    mem_free(line);
}

void log_add(enum vdisk_log_level level, const char *volume, const char *fmt, ...)
{
    size_t len = volume ? strlen(volume) : 0;
    struct log_line *line;
    va_list ap;

    if (!atomic_load_explicit(&somebody_listens, memory_order_relaxed))
        return;
    line = mem_alloc(sizeof *line + len + 1);
    if (!line)
        return;
    line->after.run = tell;
    line->level = level;
    line->has_volume = volume != NULL;
    memcpy(line->volume, volume ? volume : "", len + 1);
    va_start(ap, fmt);
    vsnprintf(line->text, sizeof line->text, fmt, ap);
    va_end(ap);
    for (char *c = line->text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?'; /* names out of images are in it */
    after_add(&line->after);
}

void vdisk_set_log(vdisk_log_fn *fn, void *arg)
{
    atomic_store(&somebody_listens, fn != NULL);
    hook_set(&hook, (void (*)(void))fn, arg);
}
