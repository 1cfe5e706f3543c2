/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: quotes as JSON wants them; parse; members with dots become nested ones; then walk down "file" from
 * the format to the protocol, and see that each node has what it must and nothing else.
 */
#include "engine/json_name.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bits.h"
#include "engine/error.h"

enum { NAME_MAX_BYTES = 64 << 10, DEPTH_MAX = 8 };

bool is_json_name(const char *name)
{
    return strncmp(name, "json:", 5) == 0;
}

/* For messages: long enough to know it by. */
#define SHORT(text) (int)strnlen(text, 200), (text)

static int bad_name(const char *name, const char *what)
{
    return err_set(EINVAL, "%.*s: %s", SHORT(name), what);
}

/* ---- text ------------------------------------------------------------------------------------------------ */

/*
 * QEMU takes strings in single quotes too, which spares a shell's user some trouble. Returns JSON, malloc'ed, or
 * NULL: out of memory. *ret_depth: how deep it is nested.
 */
static char *normalise(const char *text, unsigned *ret_depth)
{
    char *out = malloc(2 * strlen(text) + 1), *to = out;
    unsigned depth = 0;
    char quote = 0;

    *ret_depth = 0;
    for (const char *p = text; out && *p; p++) {
        if (*p == '\\' && quote && p[1] != '\0') {
            if (p[1] != '\'') /* needs no backslash in double quotes, and may have none */
                *to++ = *p;
            *to++ = *++p;
        } else if (*p == quote) {
            *to++ = '"';
            quote = 0;
        } else if (!quote && (*p == '"' || *p == '\'')) {
            *to++ = '"';
            quote = *p;
        } else if (quote == '\'' && *p == '"') {
            *to++ = '\\';
            *to++ = '"';
        } else {
            depth += !quote && (*p == '{' || *p == '[');
            depth -= !quote && depth > 0 && (*p == '}' || *p == ']');
            *ret_depth = depth > *ret_depth ? depth : *ret_depth;
            *to++ = *p;
        }
    }
    if (out)
        *to = '\0';
    return out;
}

static json_t *load(const char *name, int *ret_rc)
{
    const char *text = name + strlen("json:");
    json_error_t error;
    unsigned depth;
    char *clean;
    json_t *root;

    if (strnlen(text, NAME_MAX_BYTES + 1) > NAME_MAX_BYTES) {
        *ret_rc = bad_name(name, "too long");
        return NULL;
    }
    clean = normalise(text, &depth);
    root = clean && depth <= DEPTH_MAX ? json_loads(clean, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (!clean)
        *ret_rc = err_set(ENOMEM, "out of memory");
    else if (depth > DEPTH_MAX)
        *ret_rc = bad_name(name, "nested too deeply");
    else if (!root)
        *ret_rc = err_set(EINVAL, "%.*s: not valid JSON: %s", SHORT(name), error.text);
    else if (!json_is_object(root))
        *ret_rc = bad_name(name, "not a JSON object");
    free(clean);
    if (root && !json_is_object(root)) {
        json_decref(root);
        return NULL;
    }
    return root;
}

/* ---- members with dots ----------------------------------------------------------------------------------- */

/* Put `value` at `path` below `to`, making objects on the way. -EINVAL: something is there already. */
static int put(json_t *to, const char *path, json_t *value, unsigned depth)
{
    const char *dot = strchr(path, '.');
    json_t *below;
    const char *key;
    int rc = 0;

    if (depth > DEPTH_MAX)
        return -EINVAL;
    if (!dot && !json_is_object(value))
        return json_object_get(to, path) ? -EINVAL : json_object_set(to, path, value) < 0 ? -ENOMEM : 0;
    char *first = dot ? strndup(path, (size_t)(dot - path)) : strdup(path);
    if (!first)
        return -ENOMEM;
    below = json_object_get(to, first);
    if (!below && json_object_set_new(to, first, json_object()) < 0)
        rc = -ENOMEM;
    else if (below && !json_is_object(below))
        rc = -EINVAL;
    below = json_object_get(to, first);
    free(first);
    if (rc < 0)
        return rc;
    if (dot)
        return put(below, dot + 1, value, depth + 1);
    json_t *member;
    json_object_foreach (value, key, member) {
        rc = put(below, key, member, depth + 1);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The same options, nested. NULL and *ret_rc on failure. */
static json_t *nest(const char *name, json_t *root, int *ret_rc)
{
    json_t *out = json_object(), *value;
    const char *key;
    int rc = out ? 0 : -ENOMEM;

    json_object_foreach (root, key, value) {
        if (rc == 0)
            rc = put(out, key, value, 1);
    }
    if (rc == 0)
        return out;
    json_decref(out);
    *ret_rc = rc == -ENOMEM ? err_set(ENOMEM, "out of memory")
                            : bad_name(name, "an option is there twice, or nested too deeply");
    return NULL;
}

/* ---- nodes ----------------------------------------------------------------------------------------------- */

struct walk {
    const char *name; /* for messages */
    const char *where; /* "file", "data-file" */
};

/* A string, NULL when it is not there; it stays the node's. */
static int get_text(const struct walk *w, const json_t *node, const char *key, const char **ret)
{
    const json_t *value = json_object_get(node, key);

    if (value && (!json_is_string(value) || json_string_value(value)[0] == '\0'))
        return err_set(EINVAL, "%.*s: option '%s' must be a string with something in it", SHORT(w->name), key);
    *ret = value ? json_string_value(value) : NULL;
    return 0;
}

/* Nothing but these. */
static int check_keys(const struct walk *w, json_t *node, const char *const *known)
{
    const char *key;
    json_t *value;

    json_object_foreach (node, key, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            return err_set(ENOTSUP, "%.*s: option '%.100s' is not supported", SHORT(w->name), key);
    }
    return 0;
}

static bool has_protocol(const char *path)
{
    return path[strcspn(path, ":/")] == ':';
}

/* A literal path, as a name that no other backend takes. */
static char *path_name(const char *path)
{
    char *out = NULL;

    if (!has_protocol(path))
        return strdup(path);
    return asprintf(&out, "file:%s", path) < 0 ? NULL : out;
}

/* file or host_device; without a driver the file name tells, as if it stood alone. */
static int take_protocol(const struct walk *w, json_t *node, const char *driver, char **ret,
                         const char **ret_backend)
{
    static const char *const known[] = {"driver", "filename", NULL};
    const char *path = NULL;
    int rc = check_keys(w, node, known);

    if (rc == 0)
        rc = get_text(w, node, "filename", &path);
    if (rc < 0)
        return rc;
    if (!path)
        return err_set(EINVAL, "%.*s: option '%s' is missing under '%s'", SHORT(w->name),
                       driver ? "filename" : "driver", w->where);
    if (!driver && has_protocol(path) && strncmp(path, "file:", 5) != 0)
        return err_set(ENOTSUP, "%.*s: the protocol of '%.100s' is not supported", SHORT(w->name), path);
    *ret = driver ? path_name(path) : strdup(path);
    *ret_backend = !driver ? NULL : strcmp(driver, "file") == 0 ? "file" : "blockdev";
    return *ret ? 0 : err_set(ENOMEM, "out of memory");
}

static bool is_protocol(const char *driver)
{
    return driver && (strcmp(driver, "file") == 0 || strcmp(driver, "host_device") == 0);
}

/* The node below, which is there by itself and not by the name of a node. */
static int get_child(const struct walk *w, const json_t *node, const char *key, json_t **ret)
{
    *ret = json_object_get(node, key);
    if (*ret && !json_is_object(*ret))
        return err_set(ENOTSUP, "%.*s: '%s' must be an object: there are no nodes to refer to", SHORT(w->name),
                       key);
    return *ret ? 0 : err_set(EINVAL, "%.*s: option '%s' is missing", SHORT(w->name), key);
}

/* Down to the protocol; on the way nothing but raw, which changes nothing. */
static int take_file(const struct walk *w, json_t *node, char **ret, const char **ret_backend)
{
    static const char *const known[] = {"driver", "file", NULL};
    const char *driver = NULL;
    int rc;

    for (;;) {
        rc = get_text(w, node, "driver", &driver);
        if (rc < 0)
            return rc;
        if (!driver || is_protocol(driver))
            return take_protocol(w, node, driver, ret, ret_backend);
        if (strcmp(driver, "raw") != 0)
            return err_set(ENOTSUP, "%.*s: driver '%.100s' under '%s' is not supported", SHORT(w->name), driver,
                           w->where);
        rc = check_keys(w, node, known);
        if (rc == 0)
            rc = get_child(w, node, "file", &node);
        if (rc < 0)
            return rc;
    }
}

/* The data file, as a json: name of its own; looked at now, so that what is wrong is said now. */
static int take_data_file(const char *name, json_t *node, char **ret)
{
    struct walk w = {name, "data-file"};
    const char *backend;
    char *file = NULL, *text = NULL;
    json_t *child = NULL;
    int rc = get_child(&w, node, "data-file", &child);

    if (rc == 0)
        rc = take_file(&w, child, &file, &backend);
    free(file);
    if (rc < 0)
        return rc;
    text = json_dumps(child, JSON_COMPACT);
    if (!text || asprintf(ret, "json:%s", text) < 0) {
        *ret = NULL;
        rc = err_set(ENOMEM, "out of memory");
    }
    free(text);
    return rc;
}

static int take_format(const char *name, json_t *node, const char *driver, struct json_name *ret)
{
    static const char *const plain[] = {"driver", "file", NULL};
    static const char *const qcow2[] = {"driver", "file", "data-file", NULL};
    struct walk w = {name, "file"};
    bool is_qcow2 = driver && strcmp(driver, "qcow2") == 0;
    json_t *child = NULL;
    int rc = check_keys(&w, node, is_qcow2 ? qcow2 : plain);

    if (rc == 0)
        rc = get_child(&w, node, "file", &child);
    if (rc == 0)
        rc = take_file(&w, child, &ret->file, &ret->backend);
    if (rc < 0)
        return rc;
    ret->format = is_qcow2 ? "qcow2" : driver ? "raw" : NULL;
    return json_object_get(node, "data-file") ? take_data_file(name, node, &ret->data_file) : 0;
}

static int take_root(const char *name, json_t *root, struct json_name *ret)
{
    struct walk w = {name, "file"};
    const char *driver = NULL;
    int rc = get_text(&w, root, "driver", &driver);

    if (rc < 0)
        return rc;
    if (is_protocol(driver) || (!driver && json_object_get(root, "filename")))
        return take_protocol(&w, root, driver, &ret->file, &ret->backend);
    if (driver && strcmp(driver, "raw") != 0 && strcmp(driver, "qcow2") != 0)
        return err_hint(err_set(ENOTSUP, "%.*s: driver '%.100s' is not supported", SHORT(name), driver),
                        "known are raw and qcow2, over file and host_device");
    return take_format(name, root, driver, ret);
}

int json_name_parse(const char *name, struct json_name *ret)
{
    struct json_name n = {0};
    json_t *root, *nested;
    int rc = 0;

    root = load(name, &rc);
    if (!root)
        return rc;
    nested = nest(name, root, &rc);
    json_decref(root);
    if (!nested)
        return rc;
    rc = take_root(name, nested, &n);
    json_decref(nested);
    if (rc < 0)
        json_name_free(&n);
    else
        *ret = n;
    return rc;
}

void json_name_free(struct json_name *n)
{
    free(n->file);
    free(n->data_file);
    memset(n, 0, sizeof *n);
}
