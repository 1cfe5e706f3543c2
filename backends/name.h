/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names of backends that are no path: "memory:SIZE", "null:SIZE,OPTION". Pure. */
#ifndef BACKENDS_NAME_H
#define BACKENDS_NAME_H

#include <stdbool.h>
#include <stdint.h>

/* What follows "PREFIX:" in `name`, or NULL when it starts otherwise. */
const char *name_after(const char *name, const char *prefix);

/*
 * A number of bytes at the start of `text`: decimal digits and one of K M G T P (either case; powers of 1024), or
 * none. True: *ret_size is set and *ret_rest points behind it.
 */
bool name_parse_size(const char *text, uint64_t *ret_size, const char **ret_rest);

#endif
