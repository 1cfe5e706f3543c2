/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/spec/object_id.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"

bool object_is_id(const char *id)
{
    if (!isalpha((unsigned char)id[0]) || strnlen(id, OBJECT_ID_MAX + 1) > OBJECT_ID_MAX)
        return false;
    for (const char *p = id; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
            return false;
    return true;
}

int object_bad_id(const char *type)
{
    return err_hint(err_set(EINVAL, "%s: has no id, or one that is none", type),
                    "a letter, then letters, digits, '-', '.' and '_', %d at most", OBJECT_ID_MAX);
}
