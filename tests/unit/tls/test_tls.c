/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS over memory: two ends between which bytes go in pieces of any length; who is let in, and who is not; ends,
 * cuts and bytes that are changed on the way. The certificates are made here.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "tests/lib/rng.h"
#include "tls/tls.h"

static char folder[] = "/tmp/test_tls.XXXXXX";
static struct rng rng;

/* ---- files ------------------------------------------------------------------------------------------------- */

static const char *at(const char *dir, const char *name)
{
    static char path[4][256];
    static unsigned turn;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s%s%s", folder, dir, name[0] != '\0' ? "/" : "", name);
    return path[turn];
}

static void put_file(const char *dir, const char *name, const void *data, size_t len, mode_t mode)
{
    FILE *f = fopen(at(dir, name), "w");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
    assert_int_equal(chmod(at(dir, name), mode), 0);
}

struct pair {
    gnutls_x509_crt_t     cert;
    gnutls_x509_privkey_t key;
};

static struct pair make_pair(const char *name, const char *dns, const struct pair *by)
{
    struct pair p;
    static uint8_t serial;
    time_t now = time(NULL);

    serial++;
    assert_int_equal(gnutls_x509_privkey_init(&p.key), 0);
    assert_int_equal(gnutls_x509_privkey_generate(p.key, GNUTLS_PK_ECDSA,
                                                  GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0), 0);
    assert_int_equal(gnutls_x509_crt_init(&p.cert), 0);
    assert_int_equal(gnutls_x509_crt_set_version(p.cert, 3), 0);
    assert_int_equal(gnutls_x509_crt_set_key(p.cert, p.key), 0);
    assert_int_equal(gnutls_x509_crt_set_dn_by_oid(p.cert, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                                   (unsigned)strlen(name)), 0);
    assert_int_equal(gnutls_x509_crt_set_serial(p.cert, &serial, 1), 0);
    assert_int_equal(gnutls_x509_crt_set_activation_time(p.cert, now - 3600), 0);
    assert_int_equal(gnutls_x509_crt_set_expiration_time(p.cert, now + 86400), 0);
    assert_int_equal(gnutls_x509_crt_set_basic_constraints(p.cert, by == NULL, -1), 0);
    if (by == NULL)
        assert_int_equal(gnutls_x509_crt_set_key_usage(p.cert, GNUTLS_KEY_KEY_CERT_SIGN), 0);
    if (dns != NULL)
        assert_int_equal(gnutls_x509_crt_set_subject_alt_name(p.cert, GNUTLS_SAN_DNSNAME, dns,
                                                              (unsigned)strlen(dns), 0), 0);
    if (by == NULL)
        by = &p;
    assert_int_equal(gnutls_x509_crt_sign2(p.cert, by->cert, by->key, GNUTLS_DIG_SHA256, 0), 0);
    return p;
}

static void put_pair(const char *dir, const char *cert, const char *key, const struct pair *p)
{
    gnutls_datum_t out;

    assert_int_equal(gnutls_x509_crt_export2(p->cert, GNUTLS_X509_FMT_PEM, &out), 0);
    put_file(dir, cert, out.data, out.size, 0644);
    gnutls_free(out.data);
    if (key == NULL)
        return;
    assert_int_equal(gnutls_x509_privkey_export2(p->key, GNUTLS_X509_FMT_PEM, &out), 0);
    put_file(dir, key, out.data, out.size, 0600);
    gnutls_free(out.data);
}

static void free_pair(struct pair *p)
{
    gnutls_x509_crt_deinit(p->cert);
    gnutls_x509_privkey_deinit(p->key);
}

/* all: both ends'; anybody: a client without; other: signed by somebody else; psk, wrong: keys. */
static int set_up(void **state)
{
    static const char *const folders[] = {"all", "anybody", "other", "psk", "wrong", "bad"};
    struct pair ca, other, server, client, stranger;

    rng_init(&rng, 1);
    if (!mkdtemp(folder))
        return -1;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        assert_int_equal(mkdir(at(folders[i], ""), 0700), 0);
    ca = make_pair("the ca", NULL, NULL);
    other = make_pair("another ca", NULL, NULL);
    server = make_pair("the server", "disks.example", &ca);
    client = make_pair("the client", NULL, &ca);
    stranger = make_pair("a stranger", "disks.example", &other);
    for (size_t i = 0; i < 2; i++)
        put_pair(folders[i], "ca-cert.pem", NULL, &ca);
    put_pair("all", "server-cert.pem", "server-key.pem", &server);
    put_pair("all", "client-cert.pem", "client-key.pem", &client);
    put_pair("other", "ca-cert.pem", NULL, &ca);
    put_pair("other", "server-cert.pem", "server-key.pem", &stranger);
    put_pair("other", "client-cert.pem", "client-key.pem", &stranger);
    put_file("psk", "keys.psk", "bob:00112233445566778899\nqemu:aabbccddeeff0011\n", 47, 0600);
    put_file("wrong", "keys.psk", "qemu:aabbccddeeff0012\n", 22, 0600);
    free_pair(&ca);
    free_pair(&other);
    free_pair(&server);
    free_pair(&client);
    free_pair(&stranger);
    return 0;
}

static int tear_down(void **state)
{
    char command[64];

    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* ---- two ends ---------------------------------------------------------------------------------------------- */

struct ends {
    struct tls_creds creds[2];
    struct tls       tls[2];  /* by enum tls_end */
    uint64_t         moved, change_at; /* the byte that is changed on the way; 0: none */
};

static const char *priority; /* of the next ends; NULL: the default */

static void load(struct tls_creds *c, enum tls_end end, const char *dir, bool psk, bool verify)
{
    char why[TLS_WHY] = "";
    struct tls_opts opts = {.end = end, .dir = at(dir, ""), .psk = psk, .verify_peer = verify,
                            .priority = priority};

    if (tls_creds_load(c, &opts, why) < 0)
        fail_msg("%s", why);
}

static struct ends *begin(const char *server, const char *client, bool psk, bool verify, const char *hostname)
{
    struct ends *e = calloc(1, sizeof *e);

    assert_non_null(e);
    load(&e->creds[TLS_SERVER], TLS_SERVER, server, psk, verify);
    load(&e->creds[TLS_CLIENT], TLS_CLIENT, client, psk, true);
    assert_int_equal(tls_begin(&e->tls[TLS_SERVER], &e->creds[TLS_SERVER], NULL), 0);
    assert_int_equal(tls_begin(&e->tls[TLS_CLIENT], &e->creds[TLS_CLIENT], hostname), 0);
    return e;
}

static void finish(struct ends *e)
{
    for (unsigned i = 0; i < 2; i++) {
        tls_free(&e->tls[i]);
        tls_creds_free(&e->creds[i]);
    }
    free(e);
}

/* A piece of what waits, from one to the other. Did any go? */
static bool move_piece(struct ends *e, enum tls_end from)
{
    size_t len, space;
    const uint8_t *bytes = tls_out(&e->tls[from], &len);
    uint8_t *to = tls_in_room(&e->tls[!from], &space);
    size_t n = len < space ? len : space;

    if (n == 0)
        return false;
    n = rng_below(&rng, 3) == 0 ? 1 : 1 + rng_below(&rng, n);
    memcpy(to, bytes, n);
    if (e->change_at > e->moved && e->change_at <= e->moved + n)
        to[e->change_at - e->moved - 1] ^= (uint8_t)(1 + rng_below(&rng, 255));
    e->moved += n;
    tls_in_add(&e->tls[!from], n);
    tls_out_sent(&e->tls[from], n);
    return true;
}

/* Until both are through, or one has failed and the other has been told. */
static void shake(struct ends *e, int rc[2])
{
    rc[0] = rc[1] = -EAGAIN;
    for (bool went = true; went && (rc[0] == -EAGAIN || rc[1] == -EAGAIN);) {
        for (unsigned i = 0; i < 2; i++)
            if (rc[i] == -EAGAIN)
                rc[i] = tls_handshake(&e->tls[i]);
        went = move_piece(e, TLS_CLIENT);
        went = move_piece(e, TLS_SERVER) || went;
    }
    while (move_piece(e, TLS_CLIENT) || move_piece(e, TLS_SERVER))
        continue;
}

static void shake_well(struct ends *e)
{
    int rc[2];

    shake(e, rc);
    if (rc[0] != 0 || rc[1] != 0)
        fail_msg("%d (%s), %d (%s)", rc[0], e->tls[0].why, rc[1], e->tls[1].why);
}

/* ---- the stream -------------------------------------------------------------------------------------------- */

struct flow {
    uint64_t sent, got, all;
};

static uint8_t byte_of(uint64_t i, enum tls_end from)
{
    return (uint8_t)(i * 0x9e3779b97f4a7c15u >> 56 ^ from);
}

static void send_some(struct ends *e, enum tls_end from, struct flow *f)
{
    static uint8_t buf[70000];
    uint64_t n = 1 + rng_below(&rng, sizeof buf);
    ssize_t rc;

    n = n < f->all - f->sent ? n : f->all - f->sent;
    if (n == 0)
        return;
    for (uint64_t i = 0; i < n; i++)
        buf[i] = byte_of(f->sent + i, from);
    rc = tls_write(&e->tls[from], buf, n);
    assert_true(rc == -EAGAIN || rc > 0);
    f->sent += rc > 0 ? (uint64_t)rc : 0;
}

/* What comes is what was sent. The error, if there is one. */
static int get_some(struct ends *e, enum tls_end from, struct flow *f)
{
    static uint8_t buf[70000];
    ssize_t n = tls_read(&e->tls[!from], buf, 1 + rng_below(&rng, sizeof buf));

    for (ssize_t i = 0; i < n; i++)
        if (buf[i] != byte_of(f->got + (uint64_t)i, from))
            fail_msg("byte %llu is another", (unsigned long long)(f->got + (uint64_t)i));
    f->got += n > 0 ? (uint64_t)n : 0;
    return n > 0 || n == -EAGAIN ? 0 : n == 0 ? -ENODATA : (int)n;
}

static void talk(struct ends *e, uint64_t all)
{
    struct flow f[2] = {{.all = all}, {.all = all}};

    while (f[0].got < all || f[1].got < all)
        for (unsigned i = 0; i < 2; i++) {
            send_some(e, i, &f[i]);
            move_piece(e, i);
            assert_int_equal(get_some(e, i, &f[i]), 0);
        }
}

/* ---- cases ------------------------------------------------------------------------------------------------- */

static void both_ways(void **state)
{
    char name[TLS_NAME];
    struct ends *e = begin("all", "all", false, true, "disks.example");

    shake_well(e);
    assert_int_equal(tls_peer_name(&e->tls[TLS_SERVER], name), 0);
    assert_string_equal(name, "CN=the client");
    assert_int_equal(tls_peer_name(&e->tls[TLS_CLIENT], name), 0);
    assert_string_equal(name, "CN=the server");
    talk(e, 3 << 20);
    finish(e);
}

static void by_a_key(void **state)
{
    char name[TLS_NAME];
    struct ends *e = begin("psk", "psk", true, true, NULL);

    shake_well(e);
    assert_int_equal(tls_peer_name(&e->tls[TLS_SERVER], name), 0);
    assert_string_equal(name, "qemu");
    talk(e, 1 << 20);
    finish(e);
}

static void anybody_where_nobody_is_asked(void **state)
{
    char name[TLS_NAME];
    struct ends *e = begin("all", "anybody", false, false, "disks.example");

    shake_well(e);
    assert_int_equal(tls_peer_name(&e->tls[TLS_SERVER], name), -ENOENT);
    talk(e, 1 << 16);
    finish(e);
}

/* Which end refuses, with what; the other one knows by the alert, at its first look. */
static void strangers(void **state)
{
    static const struct {
        const char *server, *client, *hostname;
        bool        psk, verify;
        enum tls_end by;
        int         rc;
        const char *text;
    } cases[] = {
        {"all", "all", "disk.example", false, true, TLS_CLIENT, -EACCES, "name"},
        {"all", "all", "10.0.0.1", false, true, TLS_CLIENT, -EACCES, "name"},
        {"other", "all", "disks.example", false, true, TLS_CLIENT, -EACCES, "issuer"},
        {"all", "other", "disks.example", false, true, TLS_SERVER, -EACCES, "ertificate"},
        {"all", "anybody", "disks.example", false, true, TLS_SERVER, -EACCES, "ertificate"},
        {"psk", "wrong", NULL, true, true, TLS_SERVER, -EPROTO, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ends *e = begin(cases[i].server, cases[i].client, cases[i].psk, cases[i].verify, cases[i].hostname);
        struct tls *who = &e->tls[cases[i].by];
        int rc[2];
        char buf[8];
        shake(e, rc);
        if (rc[cases[i].by] != cases[i].rc || !strstr(who->why, cases[i].text))
            fail_msg("case %zu: %d, %s; the other: %d, %s", i, rc[cases[i].by], who->why, rc[!cases[i].by],
                     e->tls[!cases[i].by].why);
        if (rc[!cases[i].by] == 0)
            rc[!cases[i].by] = (int)tls_read(&e->tls[!cases[i].by], buf, sizeof buf);
        assert_true(rc[!cases[i].by] < 0);
        finish(e);
    }
}

static void ended_or_cut(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        enum tls_end from = i & 1;
        struct ends *e = begin("all", "all", false, true, "disks.example");
        struct flow f = {.all = 1000};
        shake_well(e);
        while (f.sent < f.all)
            send_some(e, from, &f);
        if (i < 2)
            tls_end(&e->tls[from]);
        while (move_piece(e, from))
            continue;
        tls_in_end(&e->tls[!from]);
        int rc = 0;
        while (rc == 0)
            rc = get_some(e, from, &f);
        assert_int_equal(f.got, 1000);
        assert_int_equal(rc, i < 2 ? -ENODATA : -ECONNRESET);
        finish(e);
    }
}

/* The server takes new keys and wants the client's to be new; both go on, also with much on the way. */
static void new_keys(void **state)
{
    struct ends *e;

    priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3";
    e = begin("all", "all", false, true, "disks.example");
    priority = NULL;
    shake_well(e);
    for (unsigned i = 0; i < 6; i++) { /* GnuTLS takes 8 in a second */
        unsigned from = rng_below(&rng, 2);
        assert_int_equal(gnutls_session_key_update(e->tls[from].session, i & 1 ? GNUTLS_KU_PEER : 0), 0);
        talk(e, 1 + rng_below(&rng, 200000));
    }
    finish(e);
}

/* What comes together with new keys is there at the first look: nobody tells of it again. */
static void behind_new_keys(void **state)
{
    struct ends *e = begin("all", "all", false, true, "disks.example");
    char buf[8];

    shake_well(e);
    assert_int_equal(gnutls_session_key_update(e->tls[TLS_SERVER].session, 0), 0);
    assert_int_equal(tls_write(&e->tls[TLS_SERVER], "behind", 6), 6);
    while (move_piece(e, TLS_SERVER))
        continue;
    assert_int_equal(tls_read(&e->tls[TLS_CLIENT], buf, sizeof buf), 6);
    assert_memory_equal(buf, "behind", 6);
    finish(e);
}

/* A client that is asked for a new handshake goes on without. */
static void another_handshake(void **state)
{
    struct ends *e;

    priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2";
    e = begin("all", "all", false, true, "disks.example");
    priority = NULL;
    shake_well(e);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(gnutls_rehandshake(e->tls[TLS_SERVER].session), 0);
        talk(e, 50000);
    }
    finish(e);
}

/* What is lent stays where it is, whatever is read meanwhile. */
static void lent(void **state)
{
    struct ends *e = begin("all", "all", false, true, "disks.example");
    struct flow f[2] = {{.all = 1 << 20}, {.all = 1 << 20}};
    static uint8_t copy[TLS_BYTES];
    unsigned updates = 0;

    shake_well(e);
    while (f[TLS_SERVER].got < f[TLS_SERVER].all) {
        size_t len;
        const uint8_t *bytes;
        send_some(e, TLS_CLIENT, &f[TLS_CLIENT]);
        bytes = tls_out_lend(&e->tls[TLS_CLIENT], &len);
        memcpy(copy, bytes, len);
        if (updates++ < 4)
            gnutls_session_key_update(e->tls[TLS_SERVER].session, GNUTLS_KU_PEER);
        for (unsigned i = 0; i < 4; i++) {
            send_some(e, TLS_SERVER, &f[TLS_SERVER]);
            move_piece(e, TLS_SERVER);
            assert_int_equal(get_some(e, TLS_SERVER, &f[TLS_SERVER]), 0);
        }
        assert_memory_equal(bytes, copy, len);
        tls_out_sent(&e->tls[TLS_CLIENT], 0);
        while (move_piece(e, TLS_CLIENT))
            assert_int_equal(get_some(e, TLS_CLIENT, &f[TLS_CLIENT]), 0);
    }
    finish(e);
}

/* Nothing that was changed on the way is handed out, wherever it was; get_some() looks. */
static void changed_on_the_way(void **state)
{
    unsigned seen = 0;

    for (unsigned i = 0; i < 150; i++) {
        struct ends *e = begin("all", "all", false, true, "disks.example");
        struct flow f = {.all = 20000};
        int rc[2], end = 0;
        e->change_at = 1 + rng_below(&rng, 24000);
        shake(e, rc);
        if (rc[0] != 0 || rc[1] != 0)
            end = -EPROTO;
        for (unsigned turns = 0; turns < 100000 && end == 0 && f.got < f.all; turns++) {
            send_some(e, TLS_CLIENT, &f);
            move_piece(e, TLS_CLIENT);
            end = get_some(e, TLS_CLIENT, &f);
        }
        assert_true(end != -ENODATA);
        seen += f.got < f.all;
        finish(e);
    }
    assert_true(seen > 100);
}

static void no_credentials(void **state)
{
    static const struct {
        const char *name, *data;
        mode_t      mode;
        bool        psk;
        enum tls_end end;
        int         rc;
    } cases[] = {
        {NULL, NULL, 0, false, TLS_SERVER, -ENOENT},
        {NULL, NULL, 0, true, TLS_SERVER, -ENOENT},
        {NULL, NULL, 0, true, TLS_CLIENT, -ENOENT},
        {"ca-cert.pem", "", 0644, false, TLS_CLIENT, -EINVAL},
        {"ca-cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0644, false,
         TLS_CLIENT, -EINVAL},
        {"keys.psk", "bob:00\n", 0600, true, TLS_CLIENT, -EINVAL},
        {"keys.psk", "qemu:\n", 0600, true, TLS_CLIENT, -EINVAL},
        {"keys.psk", "qemu:xyz\n", 0600, true, TLS_CLIENT, -EINVAL},
        {"keys.psk", "qemu:00\n", 0604, true, TLS_CLIENT, -EACCES},
        {"keys.psk", "qemu:00\n", 0604, true, TLS_SERVER, -EACCES},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char why[TLS_WHY] = "";
        struct tls_creds c;
        struct tls_opts opts = {.end = cases[i].end, .dir = at("bad", ""), .psk = cases[i].psk,
                                .verify_peer = true};
        if (cases[i].name != NULL)
            put_file("bad", cases[i].name, cases[i].data, strlen(cases[i].data), cases[i].mode);
        int rc = tls_creds_load(&c, &opts, why);
        if (rc != cases[i].rc || !strstr(why, "bad/"))
            fail_msg("case %zu: %d, %s", i, rc, why);
        if (cases[i].name != NULL)
            unlink(at("bad", cases[i].name));
    }
}

static void no_priority(void **state)
{
    char why[TLS_WHY] = "";
    struct tls_creds c;
    struct tls_opts opts = {.end = TLS_CLIENT, .dir = at("all", ""), .priority = "ABNORMAL"};

    assert_int_equal(tls_creds_load(&c, &opts, why), -EINVAL);
    assert_non_null(strstr(why, "ABNORMAL"));
    opts.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2";
    assert_int_equal(tls_creds_load(&c, &opts, why), 0);
    tls_creds_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways),       cmocka_unit_test(by_a_key),
        cmocka_unit_test(anybody_where_nobody_is_asked),
        cmocka_unit_test(strangers),       cmocka_unit_test(ended_or_cut),
        cmocka_unit_test(new_keys),        cmocka_unit_test(another_handshake),
        cmocka_unit_test(behind_new_keys), cmocka_unit_test(lent),
        cmocka_unit_test(changed_on_the_way), cmocka_unit_test(no_credentials),
        cmocka_unit_test(no_priority),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
