/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, numbers, -o lists, names: parsing and printing of values. Pure but for memory. See cli.h. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"

void *cli_calloc(size_t n, size_t size)
{
    void *p = calloc(n, size);

    if (p == NULL) {
        cli_no_memory();
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

/* Digits of `base` at *text, which moves behind them. 0, -EINVAL: there are none; -ERANGE. */
static int parse_digits(const char **text, unsigned base, uint64_t *ret)
{
    char *end;
    uint64_t value;
    size_t digits = strspn(*text, base == 16 ? "0123456789abcdefABCDEF" : base == 10 ? "0123456789" : "01234567");

    if (digits == 0)
        return -EINVAL;
    errno = 0;
    value = strtoull(*text, &end, (int)base);
    if (errno == ERANGE)
        return -ERANGE;
    *text += digits;
    *ret = value;
    return 0;
}

/* What a suffix stands for, as a power of two; -1: it is none. */
static int unit_shift(char c)
{
    static const char units[] = "bkmgtpe";
    const char *at = c != '\0' ? strchr(units, tolower((unsigned char)c)) : NULL;

    return at != NULL ? (int)(at - units) * 10 : -1;
}

/* "0.DIGITS" of 2^shift, in whole bytes. 18 digits are finer than a byte of an exbibyte. */
static uint64_t fraction_bytes(const char *digits, size_t n, int shift)
{
    unsigned __int128 part = 0, whole = 1;

    for (size_t i = 0; i < n && i < 18; i++) {
        part = part * 10 + (unsigned)(digits[i] - '0');
        whole *= 10;
    }
    return (uint64_t)((part << shift) / whole);
}

int cli_parse_size(const char *text, uint64_t *ret)
{
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *fraction = NULL;
    uint64_t value;
    size_t digits = 0;
    int shift, rc;

    text += hex ? 2 : 0;
    rc = parse_digits(&text, hex ? 16 : 10, &value);
    if (rc < 0)
        return rc;
    if (*text == '.' && !hex) {
        fraction = text + 1;
        digits = strspn(fraction, "0123456789");
        text = fraction + digits;
    }
    shift = unit_shift(*text);
    if (*text != '\0' && (shift < 0 || text[1] != '\0'))
        return -EINVAL;
    if (fraction != NULL && shift <= 0 && strspn(fraction, "0") != digits)
        return -EINVAL; /* there are no fractions of a byte */
    shift = shift < 0 ? 0 : shift;
    if (!mul_u64(value, UINT64_C(1) << shift, &value) ||
        !add_u64(value, fraction_bytes(fraction, digits, shift), &value))
        return -ERANGE;
    *ret = value;
    return 0;
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
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true", "n", "y"};

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret = i % 2 != 0;
            return 0;
        }
    }
    return -EINVAL;
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
