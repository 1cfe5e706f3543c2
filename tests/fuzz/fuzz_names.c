/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What users type and images hold: sizes, numbers, -o lists and what they mean to create, names as trees, objects.
 * The first byte chooses.
 */
#include <string.h>

#include "backends/name.h"
#include "engine/base/bits.h"
#include "engine/chain/layer_name.h"
#include "engine/spec.h"
#include "engine/spec/object.h"
#include "engine/spec/secret.h"
#include "engine/vdisk.h"
#include "tests/fuzz/fuzz.h"
#include "tools/cli.h"
#include "tools/create_options.h"

enum { INPUT_MAX = 4096 };

static void size_text(const char *text)
{
    char buf[32];
    const char *rest;
    uint64_t size;

    if (cli_parse_size(text, &size) == 0)
        FUZZ_CHECK(strlen(cli_format_size(size, buf, sizeof buf)) < sizeof buf - 1, "cut off");
    if (name_parse_size(text, &size, &rest))
        FUZZ_CHECK(size <= INT64_MAX && rest > text, "%s", text);
}

static void number_text(const char *text)
{
    uint64_t number;
    bool yes;

    if (cli_parse_number(text, 1000, &number) == 0)
        FUZZ_CHECK(number <= 1000, "%s", text);
    (void)cli_parse_bool(text, &yes);
}

static void list_text(const char *text)
{
    struct cli_pairs pairs = {0};

    if (cli_pairs_add(&pairs, text) == 0)
        for (size_t i = 0; i < pairs.count; i++)
            FUZZ_CHECK(pairs.list[i].key[0] != '\0', "an empty key in '%s'", text);
    cli_pairs_free(&pairs);
}

static void create_text(const char *text, bool raw)
{
    struct create_options c = {.opts = {.size = sizeof c.opts, .format = raw ? "raw" : "qcow2"}, .name = "image",
                               .raw = raw};
    struct cli_pairs pairs = {0};

    if (cli_pairs_add(&pairs, text) == 0) {
        if (create_options_apply(&c, &pairs) < 0)
            FUZZ_CHECK(c.why[0] != '\0', "no reason for '%s'", text);
        else
            FUZZ_CHECK(c.opts.virtual_size <= INT64_MAX && c.opts.refcount_bits <= 64 &&
                       (c.opts.cluster_size == 0 || is_power_of_two(c.opts.cluster_size)), "%s", text);
    }
    cli_pairs_free(&pairs);
}

static void name_text(const char *text)
{
    char *path = cli_backing_path("dir/image", text), *copy = cli_strdup(text);
    json_t *json = cli_json_string(cli_printable(copy));

    FUZZ_CHECK(json && path, "not a string");
    json_decref(json);
    free(copy);
    free(path);
}

/* A tree that was taken is printed so that it gives itself, in which order ever. */
static void print_again(const struct spec *s)
{
    char *text = spec_print(s), *second = NULL;
    struct spec *again = NULL;

    FUZZ_CHECK(text, "no memory");
    if (spec_parse(text, &again) == 0) { /* it may have become too long: escapes */
        second = spec_print(again);
        FUZZ_CHECK(second && strcmp(text, second) == 0, "%s", text);
    }
    free(second);
    free(text);
    spec_free(again);
}

static void spec_text_of(const char *prefix, const char *text)
{
    char name[INPUT_MAX + 16];
    struct layer_name n;
    struct spec *s;

    snprintf(name, sizeof name, "%s%s", prefix, text);
    if (spec_parse(name, &s) < 0) {
        FUZZ_CHECK(vdisk_error_text()[0] != '\0' && !strchr(vdisk_error_text(), '\n'), "no line for the error");
        return;
    }
    FUZZ_CHECK(s->total <= SPEC_MEMBERS_MAX, "%u members", s->total);
    print_again(s);
    spec_free(s);
    if (layer_name_parse(name, NULL, NULL, 0, &n) < 0) {
        FUZZ_CHECK(vdisk_error_text()[0] != '\0' && !strchr(vdisk_error_text(), '\n'), "no line for the error");
        return;
    }
    FUZZ_CHECK(n.file && n.root && n.name[0] != '\0', "%s", name);
    layer_name_free(&n);
}

/* Whatever follows the secret, no error repeats it. (What is given as an id or a path is shown.) */
static void object_text(const char *text)
{
    static const char secret[] = "sEcReT";
    char object[INPUT_MAX + 64];

    if (text[0] == '{')
        snprintf(object, sizeof object, "{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"%s%s", secret, text + 1);
    else
        snprintf(object, sizeof object, "secret,id=s,data=%s%s", secret, text);
    if (object_add(object) < 0)
        FUZZ_CHECK(!strstr(vdisk_error_text(), secret) && !strstr(vdisk_error_hint(), secret), "%s",
                   vdisk_error_text());
    if (secret_exists("s"))
        secret_remove("s");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[INPUT_MAX + 1];

    if (size < 1 || size > INPUT_MAX)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 7) {
    case 0: size_text(text); break;
    case 1: number_text(text); break;
    case 2:
        list_text(text);
        create_text(text, false);
        create_text(text, true);
        break;
    case 3: name_text(text); break;
    case 4: spec_text_of("json:", text); break;
    case 5: spec_text_of("image-opts:", text); break;
    default: object_text(text); break;
    }
    return 0;
}
