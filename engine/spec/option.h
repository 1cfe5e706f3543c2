/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a driver can be told in a name: a table. What is in no table is refused by name, what is there has its type
 * checked, and help is printed from it.
 *
 * Each node of a tree (engine/spec.h) is judged by its driver's table and the common one, once, before anything is
 * opened; afterwards the getters cannot fail.
 */
#ifndef ENGINE_OPTION_H
#define ENGINE_OPTION_H

#include <stdint.h>

#include "engine/spec.h"

enum option_type {
    OPTION_TEXT,   /* not empty */
    OPTION_BOOL,   /* on or off; also yes, no, true, false, y, n */
    OPTION_SIZE,   /* bytes: 4096, 0x1000, 1.5k; below 2^63 */
    OPTION_CHOICE, /* one of `choices` */
    OPTION_SECRET, /* the id of a secret that there is (engine/spec/secret.h) */
    OPTION_NODE,   /* a child: a node of its own */
    OPTION_NODE_OR_NULL, /* or none, although the image names one: null, or "" */
};

struct option_desc {
    const char        *name;     /* dotted: "cache.direct" */
    enum option_type   type;
    bool               required;
    const char        *fallback; /* the default, for help; NULL: none to tell */
    const char        *help;     /* "accepted: ..." where it changes nothing here */
    const char *const *choices;  /* ends with NULL */
};

/* Those of all drivers, ends with a NULL name. */
extern const struct option_desc common_options[];

/*
 * Nothing in `s` but what `own` (ends with a NULL name; may be NULL) and the common table have, and all of it of
 * the right type. Nodes below are not looked into. `shown` is what messages call the name. -EINVAL, with text.
 */
int options_check(const char *shown, const char *driver, const struct option_desc *own, const struct spec *s);

/* Of what has been checked. `fallback`: it is not there. */
bool option_bool(const struct spec *s, const char *path, bool fallback);
uint64_t option_size(const struct spec *s, const char *path, uint64_t fallback);

/* Is it there with this value? For choices. */
bool option_is(const struct spec *s, const char *path, const char *value);

/* The common option discard: ignore or off. */
bool option_keeps_discarded(const struct spec *s);

/* "bool", "size", ...: for help. */
const char *option_type_name(enum option_type type);

#endif
