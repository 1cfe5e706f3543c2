/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The name of a volume as a tree: nodes with a driver, options, and children, which are nodes again.
 *
 *     /images/a.qcow2                                                           a path
 *     json:{"driver":"qcow2","file":{"driver":"file","filename":"/images/a"}}    nested, or with dots:
 *     json:{'driver':'qcow2','file.driver':'file','file.filename':'/images/a'}
 *     image-opts:driver=qcow2,file.driver=file,file.filename=/images/a          a comma in a value is doubled
 *
 * All of them give the same kind of tree; a path, or any other plain name, is {"file": {"filename": NAME}}. What
 * the members mean is for the drivers to say (engine/spec/option.h); here a member is a text, nothing (JSON's
 * null), or a node. Numbers and truth values of JSON are texts, too: "512", "on". Items of a list are called "0",
 * "1", ...
 *
 * Names come from images, too: the length of a name, the depth of its tree and the number of members are bounded.
 */
#ifndef ENGINE_SPEC_H
#define ENGINE_SPEC_H

#include <stdbool.h>
#include <stddef.h>

enum {
    SPEC_BYTES_MAX = 64 << 10, /* of a name */
    SPEC_DEPTH_MAX = 32,
    SPEC_MEMBERS_MAX = 1024,   /* in all of a tree */
    SPEC_PATH_MAX = 1024,      /* bytes of "a.b.c" */
};

/* The key of the child that a format's bytes are in. */
#define SPEC_FILE "file"

enum spec_kind { SPEC_NULL, SPEC_TEXT, SPEC_NODE };

struct spec_member {
    char          *key;
    enum spec_kind kind;
    char          *text; /* TEXT */
    struct spec   *node; /* NODE */
};

/* A node. */
struct spec {
    struct spec_member *members; /* no two of one key */
    unsigned            count;
    unsigned            total;   /* of the root: members in all of the tree */
};

/* "json:" or "image-opts:" stands before it: a tree is written out. */
bool spec_is_tree(const char *name);

/* "json:" alone: what QEMU knows as a name, and so what may stand in an image. */
bool spec_is_json(const char *name);

/*
 * Any name. On success *ret is the caller's, for spec_free(). -EINVAL, with text; -ENOMEM. Pure: nothing is
 * opened, no driver is asked.
 */
int spec_parse(const char *name, struct spec **ret);

/*
 * "key=value,..." alone. A first word without "=" is the value of `implied`, a later one is on, or off if it
 * begins with "no". `shown` is what messages call it.
 */
int spec_parse_opts(const char *shown, const char *text, const char *implied, struct spec **ret);

/* {...} alone. */
int spec_parse_json(const char *shown, const char *text, struct spec **ret);

/* NULL is allowed. Texts are wiped. */
void spec_free(struct spec *s);

/* A copy of all below it. NULL: out of memory. */
struct spec *spec_clone(const struct spec *s);

/* ---- members: `path` may have dots. NULL: there is none, or it is of another kind. They stay the tree's. ---- */

const struct spec_member *spec_get(const struct spec *s, const char *path);
const char *spec_text(const struct spec *s, const char *path);
const struct spec *spec_node(const struct spec *s, const char *path);

/*
 * Add a member at `path` below `root`, making nodes on the way. `text` for TEXT only; it is copied. -EEXIST:
 * something is there; -EINVAL: a part of the path is empty; -E2BIG: too deep, too long, or too many; -ENOMEM. No
 * text.
 */
int spec_put(struct spec *root, const char *path, enum spec_kind kind, const char *text);

/* A member of another tree, with all below it, by its own key. Errors as spec_put()'s. */
int spec_copy(struct spec *root, const struct spec_member *m);

/* An empty one; NULL: out of memory. */
struct spec *spec_alloc(void);

/* The text for an error of spec_put(). Returns rc. */
int spec_put_failed(const char *shown, const char *path, int rc);

/* "json:{...}" of a tree, as QEMU writes it; malloc'ed. NULL: out of memory. */
char *spec_print(const struct spec *s);

/* For messages: a name is long enough to know it by. */
#define SPEC_SHOWN(text) (int)strnlen(text, 200), (text)

#endif
