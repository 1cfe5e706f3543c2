/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: the files of a folder are looked at, then GnuTLS reads them. Fails: a file is missing, or shown to
 * others, or not what it should be; nothing is kept.
 *
 * Invariant: what a text says of a key is its file, never what is in it; memory that held a key is overwritten.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tls/library.h"
#include "tls/tls.h"

enum { PSK_FILE = 64 << 10, KEY_HEX = 1024 };

struct file {
    char path[PATH_MAX];
};

/* ---- files ------------------------------------------------------------------------------------------------- */

/*
 * From the root on: keys.psk is read anew for each client, wherever a process has gone by then. Without `dir` the
 * name is a path.
 */
static int name_file(struct file *f, const char *dir, const char *name)
{
    size_t n = 0;

    if ((dir ? dir : name)[0] != '/') {
        if (!getcwd(f->path, sizeof f->path - 1))
            return -errno;
        n = strlen(f->path);
        f->path[n++] = '/';
    }
    n += (size_t)snprintf(f->path + n, sizeof f->path - n, "%s%s%s", dir ? dir : "", dir ? "/" : "", name);
    return n < sizeof f->path ? 0 : -ENAMETOOLONG;
}

static int look(struct file *f, const char *dir, const char *name, bool secret, char why[TLS_WHY])
{
    struct stat st;
    int named = name_file(f, dir, name);

    assert(named < 0 || f->path[0] == '/');
    if (named < 0) {
        snprintf(why, TLS_WHY, "%.64s: %s", dir ? dir : name, strerror(-named));
        return named;
    }
    if (stat(f->path, &st) < 0) {
        int rc = -errno;
        snprintf(why, TLS_WHY, "%.160s: %s", f->path, strerror(-rc));
        return rc;
    }
    if (!S_ISREG(st.st_mode)) {
        snprintf(why, TLS_WHY, "%.160s: is no file", f->path);
        return -EINVAL;
    }
    if (secret && (st.st_mode & 07) != 0) {
        snprintf(why, TLS_WHY, "%.160s: everybody may use the key in it; chmod o= first", f->path);
        return -EACCES;
    }
    return 0;
}

static int refused(const struct tls_library *g, const struct file *f, int rc, char why[TLS_WHY])
{
    snprintf(why, TLS_WHY, "%.160s: %.80s", f->path, g->strerror(rc));
    return rc == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EINVAL;
}

/* ---- certificates ------------------------------------------------------------------------------------------ */

static int load_trust(const struct tls_library *g, gnutls_certificate_credentials_t keys, const char *dir,
                      char why[TLS_WHY])
{
    struct file f;
    int rc = look(&f, dir, "ca-cert.pem", false, why);

    if (rc < 0)
        return rc;
    rc = g->certificate_set_x509_trust_file(keys, f.path, GNUTLS_X509_FMT_PEM);
    if (rc <= 0)
        return refused(g, &f, rc == 0 ? GNUTLS_E_NO_CERTIFICATE_FOUND : rc, why);
    rc = look(&f, dir, "ca-crl.pem", false, why);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    rc = g->certificate_set_x509_crl_file(keys, f.path, GNUTLS_X509_FMT_PEM);
    return rc < 0 ? refused(g, &f, rc, why) : 0;
}

/* Our own; a client may have none. */
static int load_own(const struct tls_library *g, gnutls_certificate_credentials_t keys,
                    const struct tls_opts *opts, char why[TLS_WHY])
{
    bool server = opts->end == TLS_SERVER;
    struct file cert, key;
    int rc = look(&cert, opts->dir, server ? "server-cert.pem" : "client-cert.pem", false, why);

    if (rc == -ENOENT && !server)
        return 0;
    if (rc == 0)
        rc = look(&key, opts->dir, server ? "server-key.pem" : "client-key.pem", true, why);
    if (rc < 0)
        return rc;
    rc = g->certificate_set_x509_key_file(keys, cert.path, key.path, GNUTLS_X509_FMT_PEM);
    return rc < 0 ? refused(g, &cert, rc, why) : 0;
}

static int load_certificates(const struct tls_library *g, struct tls_creds *c, const struct tls_opts *opts,
                             char why[TLS_WHY])
{
    gnutls_certificate_credentials_t keys;
    bool trusts = opts->end == TLS_CLIENT || opts->verify_peer;
    int rc;

    if (g->certificate_allocate_credentials(&keys) < 0) {
        snprintf(why, TLS_WHY, "%s: out of memory", opts->dir);
        return -ENOMEM;
    }
    c->keys = keys;
    rc = trusts ? load_trust(g, keys, opts->dir, why) : 0;
    return rc < 0 ? rc : load_own(g, keys, opts, why);
}

/* ---- keys that both know ----------------------------------------------------------------------------------- */

/* The key behind "NAME:" in the file's text: hexadecimal digits to the end of the line. */
static const char *find_key(char *text, const char *name)
{
    size_t n = strlen(name);

    for (char *line = text, *next; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        if (strncmp(line, name, n) == 0 && line[n] == ':') {
            char *key = line + n + 1;
            key[strcspn(key, "\r \t")] = '\0';
            return key;
        }
    }
    return NULL;
}

static int set_key(const struct tls_library *g, gnutls_psk_client_credentials_t keys, const struct file *f,
                   char *text, const char *name, char why[TLS_WHY])
{
    const char *key = find_key(text, name);
    gnutls_datum_t datum;
    int rc;

    if (key == NULL || key[0] == '\0' || strlen(key) > KEY_HEX) {
        snprintf(why, TLS_WHY, "%.160s: has no key of '%.32s'", f->path, name);
        return -EINVAL;
    }
    datum = (gnutls_datum_t){(unsigned char *)(uintptr_t)key, (unsigned)strlen(key)};
    rc = g->psk_set_client_credentials(keys, name, &datum, GNUTLS_PSK_KEY_HEX);
    return rc < 0 ? refused(g, f, rc, why) : 0;
}

static int read_key(const struct tls_library *g, gnutls_psk_client_credentials_t keys, const struct file *f,
                    const char *name, char why[TLS_WHY])
{
    char text[PSK_FILE + 1];
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : -1;
    int rc = n < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    if (rc < 0) {
        snprintf(why, TLS_WHY, "%.160s: %s", f->path, strerror(-rc));
        return rc;
    }
    if (n > PSK_FILE) {
        snprintf(why, TLS_WHY, "%.160s: is too long", f->path);
        rc = -EFBIG;
    } else {
        text[n] = '\0';
        rc = set_key(g, keys, f, text, name, why);
    }
    explicit_bzero(text, sizeof text);
    return rc;
}

static int load_keys(const struct tls_library *g, struct tls_creds *c, const struct tls_opts *opts,
                     char why[TLS_WHY])
{
    struct file f;
    const char *path = opts->psk_file;
    int rc = look(&f, path ? NULL : opts->dir, path ? path : "keys.psk", true, why);

    if (rc < 0)
        return rc;
    if (opts->end == TLS_SERVER) {
        gnutls_psk_server_credentials_t keys;
        if (g->psk_allocate_server_credentials(&keys) < 0)
            return refused(g, &f, GNUTLS_E_MEMORY_ERROR, why);
        c->keys = keys;
        rc = g->psk_set_server_credentials_file(keys, f.path);
        return rc < 0 ? refused(g, &f, rc, why) : 0;
    }
    gnutls_psk_client_credentials_t keys;
    if (g->psk_allocate_client_credentials(&keys) < 0)
        return refused(g, &f, GNUTLS_E_MEMORY_ERROR, why);
    c->keys = keys;
    return read_key(g, keys, &f, opts->username != NULL ? opts->username : "qemu", why);
}

/* ---- all of it --------------------------------------------------------------------------------------------- */

static int set_priority(const struct tls_library *g, struct tls_creds *c, const struct tls_opts *opts,
                        char why[TLS_WHY])
{
    const char *priority = opts->priority != NULL ? opts->priority : "NORMAL", *at;
    int n = snprintf(c->priority, sizeof c->priority, "%s%s", priority,
                     opts->psk ? ":+ECDHE-PSK:+DHE-PSK:+PSK" : "");
    gnutls_priority_t parsed;

    if (n >= (int)sizeof c->priority || g->priority_init(&parsed, c->priority, &at) < 0) {
        snprintf(why, TLS_WHY, "'%.64s' is no priority of GnuTLS's", priority);
        return -EINVAL;
    }
    g->priority_deinit(parsed);
    return 0;
}

int tls_creds_load(struct tls_creds *c, const struct tls_opts *opts, char why[TLS_WHY])
{
    const struct tls_library *g = tls_library(why);
    int rc;

    *c = (struct tls_creds){.end = opts->end, .psk = opts->psk, .verify_peer = opts->verify_peer};
    if (g == NULL)
        return -ENOTSUP;
    rc = set_priority(g, c, opts, why);
    if (rc == 0)
        rc = opts->psk ? load_keys(g, c, opts, why) : load_certificates(g, c, opts, why);
    if (rc < 0)
        tls_creds_free(c);
    return rc;
}

void tls_creds_free(struct tls_creds *c)
{
    char why[TLS_WHY];
    const struct tls_library *g = c->keys != NULL ? tls_library(why) : NULL;

    if (g == NULL)
        return;
    if (!c->psk)
        g->certificate_free_credentials(c->keys);
    else if (c->end == TLS_SERVER)
        g->psk_free_server_credentials(c->keys);
    else
        g->psk_free_client_credentials(c->keys);
    c->keys = NULL;
}
