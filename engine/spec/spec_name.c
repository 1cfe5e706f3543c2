/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which syntax a name has. */
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/spec.h"

static const char json_prefix[] = "json:", opts_prefix[] = "image-opts:";

static const char *after(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);

    return strncmp(name, prefix, n) == 0 ? name + n : NULL;
}

bool spec_is_json(const char *name)
{
    return after(name, json_prefix) != NULL;
}

bool spec_is_tree(const char *name)
{
    return spec_is_json(name) || after(name, opts_prefix);
}

static int parse_plain(const char *name, struct spec **ret)
{
    struct spec *s = spec_alloc();
    int rc = s ? spec_put(s, SPEC_FILE ".filename", SPEC_TEXT, name) : -ENOMEM;

    if (rc < 0) {
        spec_free(s);
        return spec_put_failed(name, "filename", rc);
    }
    *ret = s;
    return 0;
}

int spec_parse(const char *name, struct spec **ret)
{
    if (!spec_is_tree(name))
        return parse_plain(name, ret);
    if (strnlen(name, SPEC_BYTES_MAX + 1) > SPEC_BYTES_MAX)
        return err_set(EINVAL, "%.*s: too long", SPEC_SHOWN(name));
    if (spec_is_json(name))
        return spec_parse_json(name, after(name, json_prefix), ret);
    return spec_parse_opts(name, after(name, opts_prefix), SPEC_FILE, ret);
}
