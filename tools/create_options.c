/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One setter for each option; what they set is checked together by vdisk_create(). */
#include "tools/create_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/arith.h"

struct create_option {
    const char *key;
    const char *type;
    const char *text;
    bool        raw_too;
    int (*set)(struct create_options *c, const char *value); /* 0, or -EINVAL and c->why */
};

/* Always -EINVAL, and c->why says what is wrong. */
static int bad_value(struct create_options *c, const char *key, const char *value, const char *expected)
{
    snprintf(c->why, sizeof c->why, "%s: option %s takes %s, not '%s'", c->name, key, expected, value);
    return -EINVAL;
}

static int set_bool(struct create_options *c, const char *key, const char *value, bool *ret)
{
    return cli_parse_bool(value, ret) < 0 ? bad_value(c, key, value, "on or off") : 0;
}

static int set_backing_file(struct create_options *c, const char *value)
{
    c->opts.backing_file = value[0] != '\0' ? value : NULL;
    return 0;
}

static int set_backing_fmt(struct create_options *c, const char *value)
{
    c->opts.backing_fmt = value;
    return 0;
}

static int set_cluster_size(struct create_options *c, const char *value)
{
    uint64_t size;

    if (cli_parse_size(value, &size) < 0 || !is_power_of_two(size) || size < 512 || size > (2u << 20))
        return bad_value(c, "cluster_size", value, "a power of two from 512 to 2M");
    c->opts.cluster_size = (uint32_t)size;
    return 0;
}

static int set_compat(struct create_options *c, const char *value)
{
    if (strcmp(value, "0.10") == 0 || strcmp(value, "v2") == 0)
        c->opts.version = 2;
    else if (strcmp(value, "1.1") == 0 || strcmp(value, "v3") == 0)
        c->opts.version = 3;
    else
        return bad_value(c, "compat", value, "0.10, v2, 1.1 or v3");
    c->compat = value;
    return 0;
}

static int set_compression_type(struct create_options *c, const char *value)
{
    if (strcmp(value, "zlib") != 0 && strcmp(value, "zstd") != 0)
        return bad_value(c, "compression_type", value, "zlib or zstd");
    c->opts.compression_type = value;
    return 0;
}

static int set_data_file(struct create_options *c, const char *value)
{
    c->opts.data_file = value;
    return 0;
}

static int set_data_file_raw(struct create_options *c, const char *value)
{
    c->have_data_file_raw = true;
    return set_bool(c, "data_file_raw", value, &c->opts.data_file_raw);
}

static int set_extent_size_hint(struct create_options *c, const char *value)
{
    if (cli_parse_size(value, &c->extent_size_hint) < 0 || c->extent_size_hint > UINT32_MAX)
        return bad_value(c, "extent_size_hint", value, "bytes, or a number with K, M or G");
    c->have_extent_size_hint = true;
    return 0;
}

static int set_extended_l2(struct create_options *c, const char *value)
{
    return set_bool(c, "extended_l2", value, &c->opts.extended_l2);
}

static int set_lazy_refcounts(struct create_options *c, const char *value)
{
    return set_bool(c, "lazy_refcounts", value, &c->opts.lazy_refcounts);
}

static int set_preallocation(struct create_options *c, const char *value)
{
    static const char *const modes[] = {
        [VDISK_PREALLOC_OFF] = "off", [VDISK_PREALLOC_METADATA] = "metadata",
        [VDISK_PREALLOC_FALLOC] = "falloc", [VDISK_PREALLOC_FULL] = "full",
    };

    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (strcmp(value, modes[i]) == 0 && !(c->raw && i == VDISK_PREALLOC_METADATA)) {
            c->opts.preallocation = (enum vdisk_prealloc)i;
            c->prealloc = value;
            return 0;
        }
    }
    return bad_value(c, "preallocation", value, c->raw ? "off, falloc or full" : "off, metadata, falloc or full");
}

static int set_refcount_bits(struct create_options *c, const char *value)
{
    uint64_t bits;

    if (cli_parse_number(value, 64, &bits) < 0 || !is_power_of_two(bits))
        return bad_value(c, "refcount_bits", value, "1, 2, 4, 8, 16, 32 or 64");
    c->opts.refcount_bits = (uint32_t)bits;
    return 0;
}

int create_options_set_size(struct create_options *c, const char *value)
{
    if (cli_parse_size(value, &c->opts.virtual_size) < 0 || c->opts.virtual_size > INT64_MAX)
        return bad_value(c, "size", value, "bytes, or a number with K, M, G, T, P or E");
    c->have_size = true;
    return 0;
}

static const struct create_option create_options[] = {
    {"backing_file", "<str>", "the image that what is not written here is read from", false, set_backing_file},
    {"backing_fmt", "<str>", "its format: raw or qcow2", false, set_backing_fmt},
    {"cluster_size", "<size>", "512 to 2M, a power of two (65536)", false, set_cluster_size},
    {"compat", "<str>", "version of the format: 0.10 or v2, 1.1 or v3 (1.1)", false, set_compat},
    {"compression_type", "<str>", "for compressed clusters: zlib or zstd (zlib)", false, set_compression_type},
    {"data_file", "<str>", "keep guest data in this raw file, made anew", false, set_data_file},
    {"data_file_raw", "<bool>", "the data file always reads as a raw image (off)", false, set_data_file_raw},
    {"extended_l2", "<bool>", "subclusters: 32 to a cluster; needs cluster_size 16K or more (off)", false,
     set_extended_l2},
    {"extent_size_hint", "<size>", "accepted: the file gets no such hint", true, set_extent_size_hint},
    {"lazy_refcounts", "<bool>", "postpone refcounts, repair after a crash (off)", false, set_lazy_refcounts},
    {"preallocation", "<str>", "off, metadata (not raw), falloc or full (off)", true, set_preallocation},
    {"refcount_bits", "<num>", "1 to 64, a power of two (16)", false, set_refcount_bits},
    {"size", "<size>", "virtual size, instead of the SIZE argument", true, create_options_set_size},
};

int create_options_print(bool raw)
{
    printf("Supported %s options:\n", raw ? "raw" : "qcow2");
    for (size_t i = 0; i < ARRAY_LEN(create_options); i++) {
        const struct create_option *o = &create_options[i];
        char left[40];

        if (raw && !o->raw_too)
            continue;
        snprintf(left, sizeof left, "%s=%s", o->key, o->type);
        printf("  %-22s - %s\n", left, o->text);
    }
    return CLI_OK;
}

const char *create_option_key(size_t i)
{
    return i < ARRAY_LEN(create_options) ? create_options[i].key : NULL;
}

/* A key without a value is on, "noKEY" is off, where KEY is an on/off option. */
static const struct create_option *find_option(const struct cli_pair *pair, const char **ret_value)
{
    for (size_t i = 0; i < ARRAY_LEN(create_options); i++) {
        const struct create_option *o = &create_options[i];
        bool is_switch = strcmp(o->type, "<bool>") == 0;

        if (strcmp(pair->key, o->key) == 0) {
            *ret_value = pair->value != NULL ? pair->value : is_switch ? "on" : NULL;
            return o;
        }
        if (is_switch && pair->value == NULL && strncmp(pair->key, "no", 2) == 0 &&
            strcmp(pair->key + 2, o->key) == 0) {
            *ret_value = "off";
            return o;
        }
    }
    return NULL;
}

static int apply_pair(struct create_options *c, const struct cli_pair *pair)
{
    const char *value = NULL;
    const struct create_option *o = find_option(pair, &value);

    if (strncmp(pair->key, "encrypt", strlen("encrypt")) == 0 && !c->raw) {
        snprintf(c->why, sizeof c->why, "%s: option %s: images cannot be encrypted yet", c->name, pair->key);
        return -EINVAL;
    }
    if (o == NULL || (c->raw && !o->raw_too)) {
        snprintf(c->why, sizeof c->why, "%s: format %s has no option '%s'; '-%c %s -o help' lists them", c->name,
                 c->opts.format, pair->key, c->is_target ? 'O' : 'f', c->opts.format);
        return -EINVAL;
    }
    if (value == NULL) {
        snprintf(c->why, sizeof c->why, "%s: option %s needs a value", c->name, o->key);
        return -EINVAL;
    }
    return o->set(c, value);
}

int create_options_apply(struct create_options *c, const struct cli_pairs *pairs)
{
    int rc = 0;

    for (size_t i = 0; i < pairs->count && rc == 0; i++)
        rc = apply_pair(c, &pairs->list[i]);
    return rc;
}
