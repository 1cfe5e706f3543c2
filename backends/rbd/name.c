/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of images, as QEMU has them: in each part a character after a backslash is not special. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "backends/name.h"
#include "backends/rbd/rbd.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"

char *rbd_token(char **text, char end)
{
    char *start = *text, *p = start;

    while (*p && *p != end)
        p += p[0] == '\\' && p[1] ? 2 : 1;
    *text = *p ? p + 1 : NULL;
    *p = '\0';
    return start;
}

void rbd_unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++) {
        if (from[0] == '\\' && from[1])
            from++;
        *to++ = *from;
    }
    *to = '\0';
}

static int put(const char *name, struct spec *options, const char *key, char *text)
{
    int rc;

    rbd_unescape(text);
    rc = spec_put(options, key, SPEC_TEXT, text);
    return rc < 0 && rc != -ENOMEM ? spec_put_failed(name, key, rc) : rc;
}

static bool has(const char *text, char c)
{
    for (; *text && *text != c; text++)
        if (text[0] == '\\' && text[1])
            text++;
    return *text == c;
}

/* "IMAGE", "NAMESPACE/IMAGE", with "@SNAPSHOT". */
static int put_image(const char *name, struct spec *options, char *text)
{
    char *image = rbd_token(&text, '@'), *space = NULL;
    int rc;

    if (has(image, '/'))
        space = rbd_token(&image, '/');
    if (!image || !image[0] || (text && !text[0]))
        return -EINVAL;
    rc = put(name, options, "image", image);
    if (rc == 0 && space && space[0])
        rc = put(name, options, "namespace", space);
    if (rc == 0 && text)
        rc = put(name, options, "snapshot", text);
    return rc;
}

/* "KEY=VALUE:KEY=VALUE": those that are ours go, and the others stay in `rest`, which is as long, as they are. */
static int put_settings(const char *name, struct spec *options, char *text, char *rest)
{
    size_t used = 0;
    int rc = 0;

    while (text && rc == 0) {
        char *setting = rbd_token(&text, ':');
        if (strncmp(setting, "id=", 3) == 0)
            rc = put(name, options, "user", setting + 3);
        else if (strncmp(setting, "conf=", 5) == 0)
            rc = put(name, options, "conf", setting + 5);
        else if (!has(setting, '=') || setting[0] == '=')
            rc = -EINVAL;
        else {
            size_t len = strlen(setting);
            if (used > 0)
                rest[used++] = ':';
            memcpy(rest + used, setting, len + 1);
            used += len;
        }
    }
    if (rc == 0 && used > 0)
        rc = spec_put(options, "config", SPEC_TEXT, rest);
    return rc;
}

static int parse(const char *name, struct spec *options, char *text, char *rest)
{
    char *pool = rbd_token(&text, '/'), *image;
    int rc;

    if (!text || !pool[0])
        return -EINVAL;
    rc = put(name, options, "pool", pool);
    image = rbd_token(&text, ':');
    if (rc == 0)
        rc = put_image(name, options, image);
    return rc == 0 ? put_settings(name, options, text, rest) : rc;
}

int rbd_parse(const char *name, struct spec *options)
{
    const char *body = name_after(name, "rbd");
    char *text = mem_strdup(body), *rest = mem_alloc(strlen(body) + 1);
    int rc = text && rest ? parse(name, options, text, rest) : -ENOMEM;

    if (rc == -EINVAL) {
        err_set(EINVAL, "%.*s: not the name of an image", SPEC_SHOWN(name));
        rc = err_hint(-EINVAL, "use rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:id=USER][:conf=FILE][:KEY=VALUE], and "
                      "a backslash before ':', '/', '@' and '=' that are part of a name");
    }
    mem_free(text);
    mem_free(rest);
    return rc;
}

char *rbd_base64(const uint8_t *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = mem_alloc((len + 2) / 3 * 4 + 1), *p = out;

    for (size_t i = 0; out && i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)data[i] << 16 | (uint32_t)(n > 1 ? data[i + 1] : 0) << 8 |
                        (uint32_t)(n > 2 ? data[i + 2] : 0);
        for (unsigned k = 0; k < 4; k++)
            *p++ = k <= n ? digits[bits >> (18 - 6 * k) & 63] : '=';
    }
    if (out)
        *p = '\0';
    return out;
}
