/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, numbers, -o lists, names, histograms: the pure part of the tool. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/arith.h"
#include "tools/cli.h"
#include "tools/histogram.h"

static void sizes_are_read(void **state)
{
    static const struct {
        const char *text;
        uint64_t    value;
    } good[] = {
        {"0", 0}, {"1", 1}, {"010", 10}, {"1b", 1}, {"3B", 3}, {"1k", 1024}, {"1K", 1024}, {"5M", 5u << 20},
        {"2g", UINT64_C(2) << 30}, {"1T", UINT64_C(1) << 40}, {"1P", UINT64_C(1) << 50}, {"1e", UINT64_C(1) << 60},
        {"15E", UINT64_C(15) << 60}, {"1.", 1}, {"1.0", 1}, {"1.0b", 1}, {"1.5k", 1536}, {"1.9999k", 2047},
        {"0.5G", UINT64_C(512) << 20}, {"1.0001k", 1024}, {"0x10", 16}, {"0XfF", 255}, {"0x10k", 16384},
        {"18446744073709551615", UINT64_MAX}, {"15.99999999999999999999E", UINT64_MAX - 1},
        {"0.000000000000000001E", 1},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t value = 77;
        int rc = cli_parse_size(good[i].text, &value);
        if (rc != 0 || value != good[i].value)
            fail_msg("%s: rc %d, value %llu", good[i].text, rc, (unsigned long long)value);
    }
}

static void bad_sizes_are_refused(void **state)
{
    static const char *const bad[] = {
        "", "x", "k", ".5k", "1.5", "1.5b", "1x", "1kb", "1KiB", "1 k", " 1", "-1", "+1", "1e1", "0x", "0xg",
        "1..5k", "0x1.5k", "1k ", "1.5.5k",
    };
    static const char *const large[] = {
        "16E", "18446744073709551616", "99999999999999999999999", "0x10000000000000000",
    };
    uint64_t value;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (cli_parse_size(bad[i], &value) != -EINVAL)
            fail_msg("'%s' was taken", bad[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(large); i++)
        assert_int_equal(cli_parse_size(large[i], &value), -ERANGE);
}

static void numbers_are_read(void **state)
{
    uint64_t value = 0;
    (void)state;

    assert_int_equal(cli_parse_number("171", 255, &value), 0);
    assert_int_equal(value, 171);
    assert_int_equal(cli_parse_number("0xab", 255, &value), 0);
    assert_int_equal(value, 0xab);
    assert_int_equal(cli_parse_number("0253", 255, &value), 0);
    assert_int_equal(value, 0253);
    assert_int_equal(cli_parse_number("0", 255, &value), 0);
    assert_int_equal(value, 0);
    assert_int_equal(cli_parse_number("256", 255, &value), -ERANGE);
    assert_int_equal(cli_parse_number("08", 255, &value), -EINVAL);
    assert_int_equal(cli_parse_number("", 255, &value), -EINVAL);
    assert_int_equal(cli_parse_number("1k", 5000, &value), -EINVAL);
    assert_int_equal(cli_parse_number("-1", 5000, &value), -EINVAL);
}

static void sizes_are_printed_as_qemu_prints_them(void **state)
{
    static const struct {
        uint64_t    bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"}, {999, "999 B"}, {1000, "0.977 KiB"}, {1024, "1 KiB"}, {1536, "1.5 KiB"}, {200704, "196 KiB"},
        {1023999, "1e+03 KiB"}, {1024000, "0.977 MiB"}, {UINT64_C(1) << 30, "1 GiB"}, {UINT64_MAX, "16 EiB"},
    };
    char buf[32];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_string_equal(cli_format_size(cases[i].bytes, buf, sizeof buf), cases[i].text);
}

static void lists_are_split(void **state)
{
    struct cli_pairs pairs = {NULL, 0};
    (void)state;

    assert_int_equal(cli_pairs_add(&pairs, "a=1,b,c=x,,y=z,,"), 0);
    assert_int_equal(cli_pairs_add(&pairs, "d="), 0);
    assert_int_equal(pairs.count, 4);
    assert_string_equal(pairs.list[0].key, "a");
    assert_string_equal(pairs.list[0].value, "1");
    assert_string_equal(pairs.list[1].key, "b");
    assert_null(pairs.list[1].value);
    assert_string_equal(pairs.list[2].key, "c");
    assert_string_equal(pairs.list[2].value, "x,y=z,");
    assert_string_equal(pairs.list[3].key, "d");
    assert_string_equal(pairs.list[3].value, "");
    cli_pairs_free(&pairs);
    assert_int_equal(cli_pairs_add(&pairs, "=x"), -EINVAL);
    assert_int_equal(cli_pairs_add(&pairs, ""), -EINVAL);
    assert_int_equal(cli_pairs_add(&pairs, "a=1,=x"), -EINVAL);
    cli_pairs_free(&pairs);
}

static void backing_names_are_joined(void **state)
{
    static const struct {
        const char *image, *backing, *path;
    } cases[] = {
        {"a", "b", "b"}, {"d/a", "b", "d/b"}, {"d/a", "../b", "d/../b"}, {"/x/y/a", "b", "/x/y/b"},
        {"d/a", "/b", "/b"}, {"d/a", "nbd:unix:x", "nbd:unix:x"}, {"d/a", "./b:c", "d/./b:c"}, {"d/a", "", ""},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *path = cli_backing_path(cases[i].image, cases[i].backing);
        assert_string_equal(path, cases[i].path);
        free(path);
    }
}

static void invalid_text_becomes_valid_json(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"}, {"\xc3\xa9", "\xc3\xa9"}, {"\xff", "\xef\xbf\xbd"}, {"a\xc3", "a\xef\xbf\xbd"},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"}, {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}, {"", ""},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *json = cli_json_string(cases[i].in);
        assert_non_null(json);
        assert_string_equal(json_string_value(json), cases[i].out);
        json_decref(json);
    }
}

/* Each bucket takes the values from just past the end of the one before: no gaps, no overlaps, to 2^64 - 1. */
static void buckets_cover_all_values(void **state)
{
    unsigned last = 0;
    (void)state;

    for (uint64_t value = 0; value < HISTOGRAM_SUB; value++) {
        last = histogram_bucket(value);
        assert_int_equal(last, value);
    }
    for (unsigned shift = HISTOGRAM_SUB_BITS; shift < 64; shift++) {
        for (uint64_t part = 0; part < HISTOGRAM_SUB; part++) {
            uint64_t first = (UINT64_C(1) << shift) + (part << (shift - HISTOGRAM_SUB_BITS));
            assert_int_equal(histogram_bucket(first - 1), last);
            assert_int_equal(histogram_bucket(first), last + 1);
            last++;
        }
    }
    assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

static void percentiles_are_close(void **state)
{
    struct histogram *h = malloc(sizeof *h), *sum = malloc(sizeof *sum);
    static const double ranks[] = {0.0, 0.01, 0.5, 0.9, 0.99, 0.999};
    (void)state;

    assert_non_null(h);
    assert_non_null(sum);
    histogram_init(h);
    histogram_init(sum);
    assert_int_equal(histogram_percentile(h, 0.5), 0);
    for (uint64_t i = 1; i <= 100000; i++)
        histogram_add(h, i * 17);
    histogram_merge(sum, h);
    histogram_merge(sum, h);
    assert_int_equal(sum->count, 200000);
    assert_int_equal(sum->min, 17);
    assert_int_equal(sum->max, 1700000);
    assert_true(histogram_mean(sum) > 850008 && histogram_mean(sum) < 850009);
    for (size_t i = 0; i < ARRAY_LEN(ranks); i++) {
        double want = (ranks[i] * 100000 + 1) * 17, got = (double)histogram_percentile(sum, ranks[i]);
        assert_true(got >= want * 0.999 && got <= want * 1.04);
    }
    assert_int_equal(histogram_percentile(sum, 1.0), 1700000);
    histogram_add(sum, UINT64_MAX);
    assert_true(histogram_percentile(sum, 1.0) == UINT64_MAX);
    free(h);
    free(sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read),
        cmocka_unit_test(bad_sizes_are_refused),
        cmocka_unit_test(numbers_are_read),
        cmocka_unit_test(sizes_are_printed_as_qemu_prints_them),
        cmocka_unit_test(lists_are_split),
        cmocka_unit_test(backing_names_are_joined),
        cmocka_unit_test(invalid_text_becomes_valid_json),
        cmocka_unit_test(buckets_cover_all_values),
        cmocka_unit_test(percentiles_are_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
