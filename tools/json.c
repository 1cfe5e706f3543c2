/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON in QEMU's layout, which differs from the library's where something is empty. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"

/* Bytes of the UTF-8 sequence at `s` when it is valid, else 0. */
static size_t utf8_length(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 :
               s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;

    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Overlong forms, surrogates, and what is past U+10FFFF. */
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return n;
}

json_t *cli_json_string(const char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    char *clean = cli_calloc(3, strlen(text) + 1);
    char *out = clean;

    while (*in != '\0') {
        size_t n = utf8_length(in);
        if (n == 0) {
            memcpy(out, "\xef\xbf\xbd", 3);
            out += 3;
            in++;
        } else {
            memcpy(out, in, n);
            out += n;
            in += n;
        }
    }
    json_t *json = json_string(clean);
    free(clean);
    return json;
}

/* False: memory ran out. */
static bool print_value(json_t *value, int indent);

static void new_line(int indent, bool first)
{
    printf("%s\n%*s", first ? "" : ",", indent, "");
}

static bool print_object(json_t *object, int indent)
{
    bool ok = true, first = true;
    const char *key;
    json_t *value;

    putchar('{');
    json_object_foreach(object, key, value) {
        json_t *name = json_string(key);
        new_line(indent + 4, first);
        ok = ok && print_value(name, 0) && fputs(": ", stdout) >= 0 && print_value(value, indent + 4);
        json_decref(name);
        first = false;
    }
    new_line(indent, true);
    putchar('}');
    return ok;
}

static bool print_array(json_t *array, int indent)
{
    bool ok = true;
    json_t *value;
    size_t i;

    putchar('[');
    json_array_foreach(array, i, value) {
        new_line(indent + 4, i == 0);
        ok = ok && print_value(value, indent + 4);
    }
    new_line(indent, true);
    putchar(']');
    return ok;
}

static bool print_value(json_t *value, int indent)
{
    if (json_is_object(value))
        return print_object(value, indent);
    if (json_is_array(value))
        return print_array(value, indent);
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (text != NULL)
        fputs(text, stdout);
    free(text);
    return text != NULL;
}

int cli_json_print(json_t *json)
{
    bool ok = print_value(json, 0);

    json_decref(json);
    putchar('\n');
    if (!ok)
        cli_no_memory();
    return ok ? CLI_OK : CLI_FAILED;
}
