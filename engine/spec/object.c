/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: parse; the type adds it. Fails: what cannot be taken apart is not shown, since nobody knows what part of
 * it is a secret; an unknown type; no id.
 */
#include "engine/spec/object.h"

#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/spec.h"
#include "engine/spec/creds.h"
#include "engine/spec/object_id.h"
#include "engine/spec/secret.h"

static const struct {
    const char *type;
    int (*add)(const char *id, const struct spec *s);
} types[] = {
    {"secret", secret_add_object},
    {"tls-creds-x509", creds_add_x509},
    {"tls-creds-psk", creds_add_psk},
};

static int add(const char *type, const struct spec *s)
{
    const char *id = spec_text(s, "id");

    for (unsigned i = 0; type && i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(type, types[i].type) == 0)
            return id && object_is_id(id) ? types[i].add(id, s) : object_bad_id(types[i].type);
    }
    return err_hint(err_set(ENOTSUP, "an object of this type is not supported"),
                    "there are secret, tls-creds-x509 and tls-creds-psk");
}

int object_add(const char *text)
{
    struct spec *s = NULL;
    int rc = text[0] == '{' ? spec_parse_json("object", text, &s)
                            : spec_parse_opts("object", text, "qom-type", &s);

    if (rc < 0) /* that text has some of this one in it */
        return err_hint(err_set(rc, rc == -ENOMEM ? "out of memory" : "an object cannot be understood"),
                        "write secret,id=NAME,file=PATH");
    rc = add(spec_text(s, "qom-type"), s);
    spec_free(s);
    return rc;
}
