/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/secret: how they come in, that they come out as they are, and that no error text has any of one. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/bits.h"
#include "engine/spec/object.h"
#include "engine/spec/secret.h"
#include "engine/vdisk.h"

static char path[64];

static void write_file(const void *data, size_t len)
{
    snprintf(path, sizeof path, "/tmp/test_secret.XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
    close(fd);
}

static void holds(const char *id, const void *data, size_t len)
{
    uint8_t *got = NULL;
    size_t got_len = 0;

    assert_int_equal(secret_get(id, &got, &got_len), 0);
    assert_int_equal(got_len, len);
    assert_memory_equal(got, data, len);
    assert_int_equal(got[len], 0);
    secret_release(got, got_len);
}

static void add(const char *text)
{
    if (object_add(text) < 0)
        fail_msg("%s: %s", text, vdisk_error_text());
}

static void taken(void **state)
{
    static const struct {
        const char *text;
        size_t      len;
        const char *data;
    } cases[] = {
        {"secret,id=s1,data=abc", 3, "abc"},
        {"secret,id=s1,data=a,,b=c,format=raw", 5, "a,b=c"},
        {"qom-type=secret,id=s1,data=", 0, ""},
        {"secret,format=base64,id=s1,data=AAECAw==", 4, "\0\1\2\3"},
        {"secret,id=s1,format=base64,data=YWJj\nZGVm", 6, "abcdef"},
        {"secret,id=s1,format=base64,data=YWI=", 2, "ab"},
        {"secret,id=s1,format=base64,data=", 0, ""},
        {"{\"qom-type\":\"secret\",\"id\":\"s1\",\"data\":\"j\"}", 1, "j"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_false(secret_exists("s1"));
        add(cases[i].text);
        assert_true(secret_exists("s1"));
        holds("s1", cases[i].data, cases[i].len);
        assert_int_equal(secret_remove("s1"), 0);
    }
    assert_int_equal(secret_remove("s1"), -ENOENT);
}

static void from_file(void **state)
{
    char text[128];
    char *large = calloc(1, SECRET_BYTES_MAX + 1);

    write_file("pass\n\0x", 7);
    snprintf(text, sizeof text, "secret,id=f1,file=%s", path);
    add(text);
    holds("f1", "pass\n\0x", 7);
    assert_int_equal(object_add(text), -EINVAL); /* there is one */
    assert_int_equal(secret_remove("f1"), 0);
    unlink(path);
    assert_int_equal(object_add(text), -ENOENT);
    assert_non_null(strstr(vdisk_error_text(), path));

    assert_non_null(large);
    write_file(large, SECRET_BYTES_MAX);
    snprintf(text, sizeof text, "secret,id=f1,file=%s", path);
    add(text);
    holds("f1", large, SECRET_BYTES_MAX);
    assert_int_equal(secret_remove("f1"), 0);
    unlink(path);
    write_file(large, SECRET_BYTES_MAX + 1);
    snprintf(text, sizeof text, "secret,id=f1,file=%s", path);
    assert_int_equal(object_add(text), -EFBIG);
    unlink(path);
    free(large);
}

/* "sEcReT" stands for the secret: no text may have it. */
static void refused(void **state)
{
    static const struct {
        const char *text, *says;
        int         error;
    } cases[] = {
        {"", "not supported", ENOTSUP},
        {"sEcReT", "not supported", ENOTSUP},
        {"tls-creds-anon,id=a", "not supported", ENOTSUP},
        {"secret,data=sEcReT", "has no id", EINVAL},
        {"secret,id=1a,data=sEcReT", "one that is none", EINVAL},
        {"secret,id=a b,data=sEcReT", "one that is none", EINVAL},
        {"secret,id=,data=sEcReT", "has no id", EINVAL},
        {"secret,id=a", "either data or file", EINVAL},
        {"secret,id=a,data=sEcReT,file=/x", "either data or file", EINVAL},
        {"secret,id=a,data=x,sEcReT", "at place 4", EINVAL},
        {"secret,id=a,data=x,sEcReT=y", "at place 4", EINVAL},
        {"secret,id=a,data=x,sEcReT.b=y", "at place 4", EINVAL},
        {"secret,id=a,data=x,data=sEcReT", "cannot be understood", EINVAL},
        {"secret,id=a,data=x,=sEcReT", "cannot be understood", EINVAL},
        {"secret,id=a,data=sEcReT,format=hex", "raw or base64", EINVAL},
        {"secret,id=a,data=sEcReT!,format=base64", "is not base64", EINVAL},
        {"secret,id=a,data=YQ=b,format=base64", "is not base64", EINVAL},
        {"secret,id=a,data=YWJ,format=base64", "is not base64", EINVAL},
        {"secret,id=a,data=Y===,format=base64", "is not base64", EINVAL},
        {"secret,id=a,data=x,keyid=sEcReT", "has: id, data, file, format", EINVAL},
        {"{\"sEcReT", "cannot be understood", EINVAL},
        {"{\"qom-type\":\"secret\",\"id\":\"a\",\"data\":{\"b\":\"sEcReT\"}}", "at place 3", EINVAL},
        {"{\"qom-type\":\"secret\",\"id\":\"a\",\"data\":\"sEcReT\",\"format\":\"x\"}", "raw or base64", EINVAL},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int rc = object_add(cases[i].text);
        if (rc != -cases[i].error || !strstr(vdisk_error_text(), cases[i].says))
            fail_msg("%s: %d %s", cases[i].text, rc, vdisk_error_text());
        assert_null(strstr(vdisk_error_text(), "sEcReT"));
        assert_null(strstr(vdisk_error_hint(), "sEcReT"));
        assert_false(secret_exists("a"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taken),
        cmocka_unit_test(from_file),
        cmocka_unit_test(refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
