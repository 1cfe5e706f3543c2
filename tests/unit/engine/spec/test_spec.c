/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/spec: the three ways to write a name give equal trees; what is none is refused, bounded, in one line. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "engine/spec.h"
#include "engine/spec/option.h"
#include "engine/vdisk.h"

static struct spec *parse(const char *name)
{
    struct spec *s = NULL;

    if (spec_parse(name, &s) < 0)
        fail_msg("%s: %s", name, vdisk_error_text());
    return s;
}

/* In any order. */
static bool equal(const struct spec *a, const struct spec *b)
{
    if (a->count != b->count)
        return false;
    for (unsigned i = 0; i < a->count; i++) {
        const struct spec_member *m = &a->members[i], *n = spec_get(b, m->key);
        if (!n || n->kind != m->kind || (m->kind == SPEC_TEXT && strcmp(m->text, n->text) != 0))
            return false;
        if (m->kind == SPEC_NODE && !equal(m->node, n->node))
            return false;
    }
    return true;
}

/* Each row: ways to say the same. */
static void same_trees(void **state)
{
    static const char *const rows[][5] = {
        {"/a/b", "json:{\"file\":{\"filename\":\"/a/b\"}}", "json:{'file.filename':'/a/b'}",
         "image-opts:file.filename=/a/b"},
        {"nbd://host/x", "json:{'file.filename':'nbd://host/x'}", "image-opts:file.filename=nbd://host/x"},
        {"json:{'driver':'qcow2','file':{'driver':'file','filename':'a,b'}}",
         "json:{'driver':'qcow2','file.driver':'file','file.filename':'a,b'}",
         "json:{'driver':'qcow2','file.driver':'file','file':{'filename':'a,b'}}",
         "image-opts:driver=qcow2,file.driver=file,file.filename=a,,b"},
        {"json:{'driver':'raw','offset':512,'read-only':true,'cache':{'direct':false},'file':{'filename':'x=y'}}",
         "json:{'cache.direct':'off','driver':'raw','offset':'512','read-only':'on','file.filename':'x=y'}",
         "image-opts:driver=raw,offset=512,read-only,cache.direct=off,file.filename=x=y",
         "image-opts:driver=raw,offset=512,read-only=on,nocache.direct,file.filename=x=y"},
        {"json:{'a':[1,{'b':'c'}]}", "json:{'a.0':1,'a.1.b':'c'}", "image-opts:a.0=1,a.1.b=c"},
        {"json:{'file':'node0','backing':''}", "image-opts:node0,backing="},
        {"json: { 'filename' : 'it\\'s \"x\"' } ", "json:{\"filename\":\"it's \\\"x\\\"\"}",
         "image-opts:filename=it's \"x\""},
        {"json:{}", "image-opts:"},
        {"json:{'filename':'it is {{{{{{{{{{[[[['}", "image-opts:filename=it is {{{{{{{{{{[[[["},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct spec *first = parse(rows[i][0]);
        for (size_t j = 1; rows[i][j]; j++) {
            struct spec *other = parse(rows[i][j]);
            if (!equal(first, other))
                fail_msg("%s and %s", rows[i][0], rows[i][j]);
            spec_free(other);
        }
        /* A copy is equal, and so is what it is printed as. */
        struct spec *copy = spec_clone(first);
        char *text = spec_print(copy);
        struct spec *again = parse(text);
        if (!equal(first, copy) || !equal(first, again))
            fail_msg("%s: %s", rows[i][0], text);
        free(text);
        spec_free(again);
        spec_free(copy);
        spec_free(first);
    }
}

static void members(void **state)
{
    struct spec *s = parse("json:{'driver':'qcow2','backing':null,'file':{'driver':'file','filename':'a'}}");

    assert_string_equal(spec_text(s, "driver"), "qcow2");
    assert_string_equal(spec_text(s, "file.filename"), "a");
    assert_non_null(spec_node(s, "file"));
    assert_null(spec_text(s, "file"));
    assert_null(spec_node(s, "driver"));
    assert_null(spec_text(s, "backing"));
    assert_int_equal(spec_get(s, "backing")->kind, SPEC_NULL);
    assert_null(spec_get(s, "driver.x"));
    assert_null(spec_get(s, "files"));
    assert_null(spec_get(s, ""));
    spec_free(s);
}

/* A name with `n` times `piece` in it. */
static char *repeated(const char *head, const char *piece, unsigned n, const char *tail)
{
    size_t room = strlen(head) + n * (strlen(piece) + 8) + strlen(tail) + 1, used = strlen(head);
    char *out = malloc(room);

    assert_non_null(out);
    memcpy(out, head, used);
    for (unsigned i = 0; i < n; i++) /* %u of a piece is its number */
        used += (size_t)snprintf(out + used, room - used, piece, i);
    snprintf(out + used, room - used, "%s", tail);
    return out;
}

static void refuse(const char *name, const char *text)
{
    struct spec *s = NULL;

    assert_int_equal(spec_parse(name, &s), -EINVAL);
    assert_null(s);
    assert_null(strchr(vdisk_error_text(), '\n'));
    if (!strstr(vdisk_error_text(), text))
        fail_msg("%.200s: %s", name, vdisk_error_text());
}

static void refused(void **state)
{
    static const struct {
        const char *name, *text;
    } cases[] = {
        {"json:", "JSON"},
        {"json:{", "JSON"},
        {"json:[]", "object"},
        {"json:{\n}\x1b[2J", "json:{?}?[2J"},
        {"json:{'driver':'qcow2','driver':'raw'}", "JSON"},
        {"json:{'file.filename':'x','file':{'filename':'y'}}", "'file.filename' is there twice"},
        {"json:{'file.filename':'x','file':'y'}", "'file' is there twice"},
        {"json:{'file':'y','file.filename':'x'}", "'file.filename' is there twice"},
        {"json:{'backing':null,'backing.driver':'x'}", "twice"},
        {"json:{'offset':1.5}", "'offset' has a number with a fraction"},
        {"json:{'':1}", "without a name"},
        {"json:{'a..b':1}", "without a name"},
        {"json:{'a.':1}", "without a name"},
        {"json:{'a':{'':1}}", "without a name"},
        {"image-opts:=x", "without a name"},
        {"image-opts:a=1,a=2", "'a' is there twice"},
        {"image-opts:a=1,,,b=2,=3", "without a name"},
        {"image-opts:a,no", "without a name"},
        {"image-opts:file.filename=a,file=b", "'file' is there twice"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        refuse(cases[i].name, cases[i].text);
}

static void bounded(void **state)
{
    static const struct {
        const char *head, *piece, *tail;
        unsigned    most;
        const char *text;
    } cases[] = {
        {"json:{'a", ".a", "':1}", SPEC_DEPTH_MAX - 1, "nested too deeply"},
        {"image-opts:a", ".a", "=1", SPEC_DEPTH_MAX - 1, "nested too deeply"},
        {"json:{", "'k%u':1,", "'z':1}", SPEC_MEMBERS_MAX - 1, "too many options"},
        {"image-opts:", "k%u=1,", "z=1", SPEC_MEMBERS_MAX - 1, "too many options"},
        {"json:{'", "k", "':1}", SPEC_PATH_MAX - 1, "nested too deeply, or too many"},
        {"image-opts:", "k", "=1", SPEC_PATH_MAX - 1, "nested too deeply, or too many"},
        {"json:{'a':'", "x", "'}", SPEC_BYTES_MAX - 13, "too long"},
        {"image-opts:a=", "x", "", SPEC_BYTES_MAX - 13, "too long"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *name = repeated(cases[i].head, cases[i].piece, cases[i].most, cases[i].tail);
        spec_free(parse(name));
        free(name);
        name = repeated(cases[i].head, cases[i].piece, cases[i].most + 1, cases[i].tail);
        refuse(name, cases[i].text);
        free(name);
    }
    char *deep = repeated("json:{'a':", "[", 1 << 20, "");
    refuse(deep, "too long");
    free(deep);
    deep = repeated("json:{'a':", "[", SPEC_DEPTH_MAX, "");
    refuse(deep, "nested too deeply");
    free(deep);
}

/* ---- tables ---------------------------------------------------------------------------------------------- */

static const char *const colours[] = {"red", "green", NULL};
static const struct option_desc table[] = {
    {"filename", OPTION_TEXT, true, NULL, "", NULL},
    {"colour", OPTION_CHOICE, false, NULL, "", colours},
    {"offset", OPTION_SIZE, false, NULL, "", NULL},
    {"deep.in.it", OPTION_BOOL, false, NULL, "", NULL},
    {"key-secret", OPTION_SECRET, false, NULL, "", NULL},
    {"child", OPTION_NODE, false, NULL, "", NULL},
    {"backing", OPTION_NODE_OR_NULL, false, NULL, "", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static void checked(void **state)
{
    static const struct {
        const char *name, *text; /* NULL: it is all right */
    } cases[] = {
        {"json:{'filename':'x'}", NULL},
        {"json:{'filename':'x','driver':'d','node-name':'n','read-only':true,'discard':'unmap'}", NULL},
        {"json:{'filename':'x','colour':'green','offset':'1.5k','deep.in.it':'y','cache':{'direct':true}}", NULL},
        {"json:{'filename':'x','child':{'whatever':1},'backing':null}", NULL},
        {"json:{'filename':'x','backing':'','child':{}}", NULL},
        {"json:{'filename':'x','offset':9223372036854775807}", NULL},
        {"json:{}", "option 'filename' is missing (driver 'd')"},
        {"json:{'filename':'x','y':1}",
         "driver 'd' has no option 'y'; it has: filename, colour, offset, deep.in.it, key-secret, child, backing, "
         "driver, node-name"},
        {"json:{'filename':'x','deep.in':1}", "no option 'deep.in'"},
        {"json:{'filename':'x','deep.in.it.not':1}", "'deep.in.it' of driver 'd' takes bool"},
        {"json:{'filename':'x','deep':{}}", "no option 'deep'"},
        {"json:{'filename':'x','cache.indirect':1}", "no option 'cache.indirect'"},
        {"json:{'filename':''}", "something in it"},
        {"json:{'filename':null}", "takes text, not 'null'"},
        {"json:{'filename':{'a':1}}", "takes text, not '{...}'"},
        {"json:{'filename':'x','colour':'blue'}", "'colour' of driver 'd' takes one of red, green, not 'blue'"},
        {"json:{'filename':'x','offset':-1}", "takes bytes"},
        {"json:{'filename':'x','offset':'9223372036854775808'}", "takes bytes"},
        {"json:{'filename':'x','offset':true}", "takes bytes"},
        {"json:{'filename':'x','read-only':1}", "takes on or off, not '1'"},
        {"json:{'filename':'x','key-secret':'sec0'}", "there is no secret 'sec0'"},
        {"json:{'filename':'x','child':'n'}", "no nodes to refer to"},
        {"json:{'filename':'x','child':null}", "takes node, not 'null'"},
        {"json:{'filename':'x','backing':'n'}", "no nodes to refer to"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct spec *s = parse(cases[i].name);
        int rc = options_check("it", "d", table, s);
        if (cases[i].text ? rc != -EINVAL || !strstr(vdisk_error_text(), cases[i].text) : rc != 0)
            fail_msg("%s: %d %s", cases[i].name, rc, vdisk_error_text());
        spec_free(s);
    }
}

static void values(void **state)
{
    struct spec *s = parse("image-opts:offset=1.5k,colour=red,read-only=no,cache.direct=true");

    assert_int_equal(option_size(s, "offset", 7), 1536);
    assert_int_equal(option_size(s, "size", 7), 7);
    assert_false(option_bool(s, "read-only", true));
    assert_true(option_bool(s, "cache.direct", false));
    assert_true(option_bool(s, "force-share", true));
    assert_true(option_is(s, "colour", "red"));
    assert_false(option_is(s, "colour", "green"));
    assert_false(option_is(s, "discard", "green"));
    spec_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_trees), cmocka_unit_test(members), cmocka_unit_test(refused),
        cmocka_unit_test(bounded),    cmocka_unit_test(checked), cmocka_unit_test(values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
