/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, numbers, -o lists, names: parsing and printing of values. Pure but for memory. See cli.h. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bits.h"
#include "engine/size.h"
#include "tools/cli.h"

void *cli_calloc(size_t n, size_t size)
{
    void *p = calloc(n, size);

    if (p == NULL) {
        cli_error("out of memory");
        exit(CLI_FAILED);
    }
    return p;
}

char *cli_strdup(const char *text)
{
    size_t len = strlen(text) + 1;

    return memcpy(cli_calloc(1, len), text, len);
}

/* ---- numbers --------------------------------------------------------------------------------------- */

int cli_parse_size(const char *text, uint64_t *ret)
{
    return parse_size(text, ret);
}

int cli_parse_number(const char *text, uint64_t max, uint64_t *ret)
{
    unsigned base = 10;
    uint64_t value = 0;
    int rc;

    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
    } else if (text[0] == '0' && text[1] != '\0') {
        base = 8;
    }
    rc = parse_digits(&text, base, &value);
    if (rc < 0)
        return rc;
    if (*text != '\0')
        return -EINVAL;
    if (value > max)
        return -ERANGE;
    *ret = value;
    return 0;
}

int cli_parse_bool(const char *text, bool *ret)
{
    return parse_bool(text, ret);
}

char *cli_format_size(uint64_t bytes, char *buf, size_t len)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1000.0 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1024.0;
        unit++;
    }
    snprintf(buf, len, "%.3g %sB", value, units[unit]);
    return buf;
}

char *cli_printable(char *text)
{
    for (char *p = text; *p != '\0'; p++) {
        if (iscntrl((unsigned char)*p))
            *p = '?';
    }
    return text;
}

/* ---- -o lists -------------------------------------------------------------------------------------- */

/* One item of a list, up to a single comma or the end; ",," gives a comma. */
static char *next_item(const char **text)
{
    const char *p = *text;
    char *item = cli_calloc(1, strlen(p) + 1);
    size_t n = 0;

    for (; *p != '\0'; p++) {
        if (*p == ',' && *++p != ',')
            break;
        item[n++] = *p;
    }
    *text = p;
    return item;
}

int cli_pairs_add(struct cli_pairs *pairs, const char *text)
{
    do {
        char *item = next_item(&text);
        char *value = strchr(item, '=');
        if (value != NULL)
            *value++ = '\0';
        if (item[0] == '\0') {
            free(item);
            return -EINVAL;
        }
        struct cli_pair *list = reallocarray(pairs->list, pairs->count + 1, sizeof *list);
        if (list == NULL) {
            free(item);
            return -ENOMEM;
        }
        pairs->list = list;
        pairs->list[pairs->count++] = (struct cli_pair){item, value};
    } while (*text != '\0');
    return 0;
}

void cli_pairs_free(struct cli_pairs *pairs)
{
    for (size_t i = 0; i < pairs->count; i++)
        free(pairs->list[i].key); /* the value lies in the same string */
    free(pairs->list);
    *pairs = (struct cli_pairs){NULL, 0};
}

/* ---- names ----------------------------------------------------------------------------------------- */

/* "null:", "json:": a protocol, not a directory (whose colon comes after a slash). */
static bool has_protocol(const char *name)
{
    size_t n = strcspn(name, ":/");

    return name[n] == ':';
}

char *cli_backing_path(const char *image, const char *backing)
{
    const char *slash = strrchr(image, '/');

    if (backing[0] == '\0' || backing[0] == '/' || has_protocol(backing) || slash == NULL)
        return cli_strdup(backing);
    size_t dir = (size_t)(slash - image) + 1;
    char *path = cli_calloc(1, dir + strlen(backing) + 1);
    memcpy(path, image, dir);
    memcpy(path + dir, backing, strlen(backing) + 1);
    return path;
}
