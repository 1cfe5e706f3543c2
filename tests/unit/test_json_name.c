/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/json_name: what is taken, and what is refused with the option's name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/bits.h"
#include "engine/json_name.h"
#include "engine/vdisk.h"

static void same(const char *got, const char *want)
{
    if (want)
        assert_string_equal(got, want);
    else
        assert_null(got);
}

static void taken(void **state)
{
    static const struct {
        const char *name, *file, *backend, *format, *data_file;
    } cases[] = {
        {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/a\"}}", "/a", "file", "qcow2",
         NULL},
        {"json:{'driver':'raw','file':{'driver':'host_device','filename':'/dev/x'}}", "/dev/x", "blockdev", "raw",
         NULL},
        {"json:{'driver':'qcow2','file.driver':'file','file.filename':'b'}", "b", "file", "qcow2", NULL},
        {"json:{'file.filename':'b'}", "b", NULL, NULL, NULL},
        {"json:{'file':{'filename':'file:b'}}", "file:b", NULL, NULL, NULL},
        {"json:{'driver':'file','filename':'memory:1G'}", "file:memory:1G", "file", NULL, NULL},
        {"json:{'driver':'file','filename':'json:{}'}", "file:json:{}", "file", NULL, NULL},
        {"json:{'filename':'x'}", "x", NULL, NULL, NULL},
        {"json:{'driver':'qcow2','file.driver':'raw','file.file.driver':'file','file.file.filename':'c'}", "c",
         "file", "qcow2", NULL},
        {"json:{'driver':'qcow2','file.filename':'c','data-file.driver':'file','data-file':{'filename':'d'}}", "c",
         NULL, "qcow2", "json:{\"driver\":\"file\",\"filename\":\"d\"}"},
        {"json: { 'driver' : 'file', 'filename' : 'it\\'s \"x\"' } ", "it's \"x\"", "file", NULL, NULL},
        {"json:{\"driver\":\"file\",\"filename\":\"it's {{{{{{{{{{\"}", "it's {{{{{{{{{{", "file", NULL, NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json_name n;
        if (json_name_parse(cases[i].name, &n) < 0)
            fail_msg("%s: %s", cases[i].name, vdisk_error_text());
        assert_string_equal(n.file, cases[i].file);
        same(n.backend, cases[i].backend);
        same(n.format, cases[i].format);
        same(n.data_file, cases[i].data_file);
        json_name_free(&n);
    }
}

static void refused(void **state)
{
    static const struct {
        const char *name;
        int error;
        const char *text;
    } cases[] = {
        {"json:", EINVAL, "JSON"},
        {"json:{", EINVAL, "JSON"},
        {"json:[]", EINVAL, "object"},
        {"json:{'driver':'a\\nb'}", ENOTSUP, "driver 'a?b'"},
        {"json:{\n}\x1b[2J", EINVAL, "json:{?}?[2J"},
        {"json:{}", EINVAL, "'file' is missing"},
        {"json:{'driver':'qcow2','driver':'raw'}", EINVAL, "JSON"},
        {"json:{'driver':7}", EINVAL, "'driver' must be a string"},
        {"json:{'driver':'nbd','host':'x'}", ENOTSUP, "driver 'nbd'"},
        {"json:{'driver':'raw','file.driver':'nbd','file.host':'x'}", ENOTSUP, "driver 'nbd' under 'file'"},
        {"json:{'driver':'raw','file.driver':'qcow2','file.file.filename':'x'}", ENOTSUP, "'qcow2' under 'file'"},
        {"json:{'driver':'raw','file':'node0'}", ENOTSUP, "must be an object"},
        {"json:{'driver':'raw','offset':512,'file.filename':'x'}", ENOTSUP, "option 'offset'"},
        {"json:{'driver':'raw','data-file.filename':'y','file.filename':'x'}", ENOTSUP, "option 'data-file'"},
        {"json:{'driver':'qcow2','backing':null,'file.filename':'x'}", ENOTSUP, "option 'backing'"},
        {"json:{'driver':'file','filename':'x','locking':'off'}", ENOTSUP, "option 'locking'"},
        {"json:{'driver':'file'}", EINVAL, "'filename' is missing"},
        {"json:{'driver':'file','filename':''}", EINVAL, "'filename' must be a string"},
        {"json:{'driver':'qcow2','file':{}}", EINVAL, "'driver' is missing under 'file'"},
        {"json:{'driver':'qcow2','file.filename':'x','file':{'filename':'y'}}", EINVAL, "twice"},
        {"json:{'file.filename':'x','file':'y'}", EINVAL, "twice"},
        {"json:{'file.filename':'nbd://host/x'}", ENOTSUP, "protocol of 'nbd://host/x'"},
        {"json:{'driver':'qcow2','file.filename':'x','data-file':{'driver':'qcow2'}}", ENOTSUP,
         "'qcow2' under 'data-file'"},
        {"json:[[[[[[[[[[[[[[[[[[[[", EINVAL, "nested too deeply"},
        {"json:{'a.b.c.d.e.f.g.h.i.j.k.l':1}", EINVAL, "nested too deeply"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json_name n;
        int rc = json_name_parse(cases[i].name, &n);
        assert_null(strchr(vdisk_error_text(), '\n'));
        if (rc != -cases[i].error || !strstr(vdisk_error_text(), cases[i].text))
            fail_msg("%s: %d: %s", cases[i].name, rc, vdisk_error_text());
    }
}

static void too_long(void **state)
{
    enum { LEN = 1 << 20 };
    char *name = malloc(LEN + 1);
    struct json_name n;

    assert_non_null(name);
    memset(name, '[', LEN);
    memcpy(name, "json:", 5);
    name[LEN] = '\0';
    assert_int_equal(json_name_parse(name, &n), -EINVAL);
    assert_non_null(strstr(vdisk_error_text(), "too long"));
    free(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taken),
        cmocka_unit_test(refused),
        cmocka_unit_test(too_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
