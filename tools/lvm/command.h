/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command of lvm's: its arguments, and what came of it. */
#ifndef TOOLS_LVM_COMMAND_H
#define TOOLS_LVM_COMMAND_H

#include <stdarg.h>

#include "tools/lvm/lvm.h"
#include "tools/lvm/run.h"

struct lvm {
    char  *command, *run_dir;
    char **devices; /* ends with NULL; NULL: any */
    bool   given;   /* the devices were: they stay */
    char   vg[LVM_NAME];
    int    writer;  /* the lock's descriptor; -1: it is not held */
    int    depth;   /* of lvm_begin() */
};

/* From now on commands get these; -ENOMEM. */
int lvm_keep_devices(struct lvm *l, const char *const *devices);

struct lvm_command {
    char **list; /* ends with NULL; each its own */
    size_t count;
    bool   failed; /* out of memory */
    int    lock;   /* the writer's, which it keeps to its end, whatever becomes of us; -1 */
};

/* -|err|, with the text. */
int lvm_fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void command_add(struct lvm_command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void command_add_each(struct lvm_command *c, const char *option, const char *const *list); /* `list` may be NULL */

/* "lvm NAME", and what each command of ours has. `devices`: that it may use, or NULL. */
void command_begin(struct lvm_command *c, const struct lvm *l, const char *name, char *const *devices);

/* Runs it; it is freed. `doing` is for the text of an error. ret may be NULL: then only its success counts. */
int command_end(struct lvm_command *c, struct run_result *ret, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
