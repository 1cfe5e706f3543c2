/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/spec/size.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"

static int unit_shift(char c)
{
    static const char units[] = "BKMGTPE";
    _Static_assert((sizeof units - 2) * 10 < 64, "a unit fits in 64 bits");
    const char *at = c != '\0' ? strchr(units, toupper((unsigned char)c)) : NULL;

    return at != NULL ? (int)(at - units) * 10 : -1;
}

int parse_digits(const char **text, unsigned base, uint64_t *ret)
{
    const char *p = *text;
    uint64_t value = 0;

    assert(base == 10 || base == 16);
    for (; isxdigit((unsigned char)*p); p++) {
        unsigned digit = isdigit((unsigned char)*p) ? (unsigned)(*p - '0')
                                                    : (unsigned)(tolower((unsigned char)*p) - 'a') + 10;
        if (digit >= base)
            break;
        if (!mul_u64(value, base, &value) || !add_u64(value, digit, &value))
            return -ERANGE;
    }
    if (p == *text)
        return -EINVAL;
    *text = p;
    *ret = value;
    return 0;
}

/*
 * The digits after the point, as bytes of a unit of 1 << shift. 18 digits are taken, which is finer than a byte of
 * an exbibyte; the rest changes nothing.
 */
static uint64_t parse_fraction(const char **text, int shift)
{
    unsigned __int128 numerator = 0, denominator = 1;
    const char *p = *text;

    for (int n = 0; isdigit((unsigned char)*p); p++, n++) {
        if (n < 18) {
            numerator = numerator * 10 + (unsigned)(*p - '0');
            denominator *= 10;
        }
    }
    *text = p;
    assert(shift >= 0 && shift <= 60 && numerator < denominator); /* so less than the unit, and no overflow */
    return (uint64_t)((numerator << shift) / denominator);
}

int parse_size(const char *text, uint64_t *ret)
{
    const char *p = text;
    uint64_t value = 0, rest = 0;
    int shift, rc;

    unsigned base = p[0] == '0' && (p[1] == 'x' || p[1] == 'X') ? 16 : 10;

    if (base == 16)
        p += 2;
    rc = parse_digits(&p, base, &value);
    if (rc < 0)
        return rc;
    const char *fraction = *p == '.' && base == 10 ? p + 1 : NULL;
    if (fraction != NULL)
        p = fraction + strspn(fraction, "0123456789");
    shift = unit_shift(*p);
    if (*p != '\0' && (shift < 0 || p[1] != '\0'))
        return -EINVAL;
    if (shift < 0)
        shift = 0;
    if (fraction != NULL) {
        if (shift == 0 && strspn(fraction, "0") != (size_t)(p - fraction))
            return -EINVAL; /* no fractions of a byte */
        rest = parse_fraction(&fraction, shift);
    }
    if (!mul_u64(value, UINT64_C(1) << shift, &value) || !add_u64(value, rest, &value))
        return -ERANGE;
    *ret = value;
    return 0;
}

int parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"on", "yes", "true", "y"};
    static const char *const no[] = {"off", "no", "false", "n"};

    _Static_assert(ARRAY_LEN(yes) == ARRAY_LEN(no), "in pairs");
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *ret = strcmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return -EINVAL;
}
