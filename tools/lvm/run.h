/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running a command. */
#ifndef TOOLS_LVM_RUN_H
#define TOOLS_LVM_RUN_H

#include <stddef.h>

struct run_result {
    int    status;  /* what it exited with; 128 + n: it was ended by signal n */
    char  *output;  /* with a NUL at the end; the caller's, both of them */
    size_t output_len;
    char  *errors;
};

/*
 * argv[0] is found by PATH; `input` is its input, or it has none (-1). -errno, without text: it could not be run.
 * -ENOENT: there is none.
 */
int run_command(const char *const *argv, int input, struct run_result *ret);
void run_result_free(struct run_result *r);

#endif
