/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/spec/creds: credentials as objects; what is wrong is said when they are added, and is not kept. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/spec/creds.h"
#include "engine/vdisk.h"

static char folder[] = "/tmp/test_creds.XXXXXX", keys[64];

static int set_up(void **state)
{
    FILE *f;

    if (!mkdtemp(folder))
        return -1;
    snprintf(keys, sizeof keys, "%s/keys.psk", folder);
    f = fopen(keys, "w");
    if (!f || fputs("qemu:00112233\nbob:44556677\n", f) < 0 || fclose(f) != 0)
        return -1;
    return chmod(keys, 0600);
}

static int tear_down(void **state)
{
    return unlink(keys) != 0 || rmdir(folder) != 0;
}

static int add(const char *format)
{
    char text[256];

    snprintf(text, sizeof text, format, folder);
    return vdisk_object_add(text);
}

static void taken(void **state)
{
    struct vdisk_tls_creds is = {.size = sizeof is};
    const struct creds *c;

    assert_int_equal(add("tls-creds-psk,id=c1,dir=%s"), 0);
    assert_int_equal(add("tls-creds-psk,id=c2,dir=%s,endpoint=client,username=bob,priority=NORMAL"), 0);
    assert_int_equal(add("{\"qom-type\":\"tls-creds-psk\",\"id\":\"s1\",\"endpoint\":\"server\","
                         "\"dir\":\"%s\"}"), 0);
    assert_int_equal(vdisk_get_tls_creds("c1", &is), 0);
    assert_string_equal(is.dir, folder);
    assert_true(is.psk && !is.server && is.username == NULL && is.priority == NULL);
    assert_int_equal(vdisk_get_tls_creds("c2", &is), 0);
    assert_string_equal(is.username, "bob");
    assert_string_equal(is.priority, "NORMAL");
    assert_int_equal(vdisk_get_tls_creds("s1", &is), 0);
    assert_true(is.server);
    assert_int_equal(creds_get("s1", TLS_SERVER, &c), 0);
    assert_int_equal(creds_get("s1", TLS_CLIENT, &c), -EINVAL);
    assert_non_null(strstr(vdisk_error_text(), "a server's"));
    assert_int_equal(creds_get("c2", TLS_CLIENT, &c), 0);
    assert_string_equal(c->username, "bob");
}

static void refused(void **state)
{
    static const struct {
        const char *text;
        int         rc;
        const char *told;
    } cases[] = {
        {"tls-creds-psk,id=c1,dir=%s", -EINVAL, "of that id"},
        {"tls-creds-psk,id=r1", -EINVAL, "dir=PATH"},
        {"tls-creds-psk,dir=%s", -EINVAL, "has no id"},
        {"tls-creds-psk,id=r1,dir=%s,endpoint=both", -EINVAL, "server or client"},
        {"tls-creds-psk,id=r1,dir=%s,username=eve", -EINVAL, "no key of 'eve'"},
        {"tls-creds-psk,id=r1,dir=%s,verify-peer=on", -EINVAL, "no such option: verify-peer"},
        {"tls-creds-psk,id=r1,dir=%s,priority=NONSENSE", -EINVAL, "NONSENSE"},
        {"tls-creds-psk,id=r1,dir=%s/none", -ENOENT, "none/keys.psk"},
        {"tls-creds-x509,id=r1,dir=%s", -ENOENT, "ca-cert.pem"},
        {"tls-creds-x509,id=r1,dir=%s,verify-peer=perhaps", -EINVAL, "on or off"},
        {"tls-creds-x509,id=r1,dir=%s,username=bob", -EINVAL, "no such option: username"},
        {"tls-creds-anon,id=r1,dir=%s", -ENOTSUP, "not supported"},
    };
    struct vdisk_tls_creds is = {.size = sizeof is};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = add(cases[i].text);
        if (rc != cases[i].rc || !strstr(vdisk_error_text(), cases[i].told))
            fail_msg("%s: %d, %s", cases[i].text, rc, vdisk_error_text());
        assert_int_equal(vdisk_get_tls_creds("r1", &is), -ENOENT);
    }
    is.size = 3;
    assert_int_equal(vdisk_get_tls_creds("c1", &is), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused)};

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
