/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of exports, as QEMU takes them:
 *
 *     nbd://HOST[:PORT]/[EXPORT]              nbd+tcp:// is the same
 *     nbd+unix:///[EXPORT]?socket=PATH        % and two digits stand for a byte
 *     nbd:unix:PATH[:exportname=NAME]         nothing is escaped
 *     nbd:HOST:PORT[:exportname=NAME]
 *
 * and nodes of the driver nbd with the options of the table below. TLS, as libnbd's names have it:
 *
 *     nbds://[USER@]HOST[:PORT]/[EXPORT]?KEY=VALUE&...        nbds+tcp:// is the same
 *     nbds+unix://[USER@]/[EXPORT]?socket=PATH&KEY=VALUE&...
 *
 * with tls-certificates=FOLDER or tls-psk-file=FILE (whose key is USER's), or tls-creds=ID; tls-hostname=NAME;
 * tls-verify-peer=true.
 *
 * Failure modes: no name of this kind, options that contradict each other, TLS without credentials: -EINVAL. A
 * server that is not verified, bitmaps: -ENOTSUP. Of files of credentials: those of tls.h.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/spec/creds.h"

static const char *const server_types[] = {"inet", "unix", NULL};

const struct option_desc nbd_options[] = {
    {"server.type", OPTION_CHOICE, false, NULL, "how it is reached", server_types},
    {"server.host", OPTION_TEXT, false, NULL, "inet: its name or address", NULL},
    {"server.port", OPTION_TEXT, false, "10809", "inet: its port", NULL},
    {"server.path", OPTION_TEXT, false, NULL, "unix: its socket", NULL},
    {"host", OPTION_TEXT, false, NULL, "as server.host, with server.type=inet", NULL},
    {"port", OPTION_TEXT, false, "10809", "as server.port", NULL},
    {"path", OPTION_TEXT, false, NULL, "as server.path, with server.type=unix", NULL},
    {"export", OPTION_TEXT, false, NULL, "which export; not given: the one without a name", NULL},
    {"reconnect-delay", OPTION_SIZE, false, "0", "seconds that requests wait for a connection that broke", NULL},
    {"open-timeout", OPTION_SIZE, false, "0", "seconds for which opening tries again", NULL},
    {"tls-creds", OPTION_TEXT, false, NULL, "TLS, by the object tls-creds-x509 or -psk of that id", NULL},
    {"tls-hostname", OPTION_TEXT, false, NULL, "whose certificate it has to be; default: inet: the host's", NULL},
    {"tls-certificates", OPTION_TEXT, false, NULL, "TLS, by the files of a folder: as tls-creds-x509's dir", NULL},
    {"tls-psk-file", OPTION_TEXT, false, NULL, "TLS, by a key that both know, in that file", NULL},
    {"tls-username", OPTION_TEXT, false, "qemu", "whose key of that file", NULL},
    {"x-dirty-bitmap", OPTION_TEXT, false, NULL, "refused: bitmaps are not shown as data", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static const char *behind(const char *name, const char *prefix)
{
    while (*prefix && *name == *prefix) {
        name++;
        prefix++;
    }
    return *prefix ? NULL : name;
}

bool nbd_claims(const char *name)
{
    return behind(name, "nbd:") || behind(name, "nbd+") || behind(name, "nbds:") || behind(name, "nbds+");
}

static int bad_name(const char *name, const char *what)
{
    err_set(EINVAL, "%.*s: %s", SPEC_SHOWN(name), what);
    return err_hint(-EINVAL, "use nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbd:unix:PATH or "
                             "nbd:HOST:PORT, the last two with :exportname=NAME behind; for TLS "
                             "nbds://HOST/EXPORT?tls-certificates=FOLDER");
}

/* Put `len` bytes of `text`; an empty one is not there. */
static int put(struct spec *options, const char *key, const char *text, size_t len)
{
    char *copy;
    int rc;

    if (len == 0)
        return 0;
    copy = mem_strndup(text, len);
    rc = copy ? spec_put(options, key, SPEC_TEXT, copy) : -ENOMEM;
    mem_free(copy);
    return rc;
}

/* HOST, HOST:PORT or [HOST]:PORT, `len` bytes. False: none. */
static bool split_host(const char *text, size_t len, size_t *ret_host, size_t *ret_host_len, size_t *ret_port)
{
    const char *close = text[0] == '[' ? memchr(text, ']', len) : NULL;
    const char *colon;

    if (text[0] == '[' && !close)
        return false;
    *ret_host = close != NULL;
    *ret_host_len = close ? (size_t)(close - text) - 1 : len;
    *ret_port = len;
    colon = close ? (close + 1 < text + len ? close + 1 : NULL) : memchr(text, ':', len);
    if (colon && *colon != ':')
        return false;
    if (colon && !close)
        *ret_host_len = (size_t)(colon - text);
    if (colon)
        *ret_port = (size_t)(colon - text) + 1;
    return *ret_host_len > 0 && (!colon || *ret_port < len);
}

static int put_host(const char *name, struct spec *options, const char *text, size_t len)
{
    size_t host, host_len, port;
    int rc;

    if (!split_host(text, len, &host, &host_len, &port))
        return bad_name(name, "not a host and a port");
    rc = spec_put(options, "server.type", SPEC_TEXT, "inet");
    if (rc == 0)
        rc = put(options, "server.host", text + host, host_len);
    return rc == 0 ? put(options, "server.port", text + port, len - port) : rc;
}

static int parse_plain(const char *name, const char *text, struct spec *options)
{
    static const char mark[] = ":exportname=";
    const char *export = strstr(text, mark), *path = behind(text, "unix:");
    size_t len = export ? (size_t)(export - text) : strlen(text);
    int rc;

    if (export && !export[sizeof mark - 1])
        return bad_name(name, "no name behind exportname=");
    if (path && len <= 5)
        return bad_name(name, "no path of a socket");
    if (!path && !memchr(text, ':', len))
        return bad_name(name, "no port");
    if (path) {
        rc = spec_put(options, "server.type", SPEC_TEXT, "unix");
        if (rc == 0)
            rc = put(options, "server.path", path, len - 5);
    } else {
        rc = put_host(name, options, text, len);
    }
    if (rc < 0 || !export)
        return rc;
    export += sizeof mark - 1;
    return put(options, "export", export, strlen(export));
}

/* ---- with slashes ---------------------------------------------------------------------------------------- */

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* What `len` bytes stand for; a NUL cannot be meant. NULL: out of memory, or *ret_bad. */
static char *unescape(const char *text, size_t len, bool *ret_bad)
{
    char *out = mem_alloc(len + 1);
    size_t n = 0;

    for (size_t i = 0; out && i < len; i++) {
        int high, low;
        out[n++] = text[i];
        if (text[i] != '%')
            continue;
        high = i + 1 < len ? digit(text[i + 1]) : -1;
        low = i + 2 < len ? digit(text[i + 2]) : -1;
        if (high < 0 || low < 0 || high + low == 0) {
            *ret_bad = true;
            mem_free(out);
            return NULL;
        }
        out[n - 1] = (char)(high * 16 + low);
        i += 2;
    }
    if (out)
        out[n] = '\0';
    return out;
}

static int put_unescaped(const char *name, struct spec *options, const char *key, const char *text, size_t len)
{
    bool bad = false;
    char *out = unescape(text, len, &bad);
    int rc;

    if (bad)
        return bad_name(name, "a % without two digits behind it");
    rc = out ? put(options, key, out, strlen(out)) : -ENOMEM;
    mem_free(out);
    return rc;
}

/* What may stand behind a '?', and the option that it is; of TLS but for the first. */
static const struct {
    const char *key, *option;
} query_keys[] = {
    {"socket=", "server.path"},
    {"tls-creds=", "tls-creds"},
    {"tls-certificates=", "tls-certificates"},
    {"tls-psk-file=", "tls-psk-file"},
    {"tls-hostname=", "tls-hostname"},
    {"tls-verify-peer=", NULL},
};

/* As libnbd reads it. Nobody who is not verified is spoken to. */
static int judge_verify(const char *name, const char *value, size_t len)
{
    static const char *const yes[] = {"true", "on", "yes", "1"};

    for (unsigned i = 0; i < ARRAY_LEN(yes); i++)
        if (strlen(yes[i]) == len && strncmp(value, yes[i], len) == 0)
            return 0;
    return err_set(ENOTSUP, "%.*s: tls-verify-peer=%.*s is not supported: a server is always verified",
                   SPEC_SHOWN(name), (int)min_u64(len, 32), value);
}

static int put_pair(const char *name, struct spec *options, const char *pair, size_t len, bool is_tls)
{
    for (unsigned i = 0; i < ARRAY_LEN(query_keys); i++) {
        const char *option = query_keys[i].option, *value = behind(pair, query_keys[i].key);
        size_t left = value ? len - (size_t)(value - pair) : 0;
        if (!value || (i > 0 && !is_tls))
            continue;
        if (value > pair + len || left == 0)
            return bad_name(name, "a key without a value behind the '?'");
        if (!option)
            return judge_verify(name, value, left);
        if (spec_text(options, option))
            return bad_name(name, "a key that is there twice behind the '?'");
        return put_unescaped(name, options, option, value, left);
    }
    return bad_name(name, "an unknown key behind the '?'");
}

static int parse_query(const char *name, const char *query, bool is_unix, bool is_tls, struct spec *options)
{
    int rc = is_unix ? spec_put(options, "server.type", SPEC_TEXT, "unix") : 0;

    if (query && !is_unix && !is_tls)
        return bad_name(name, "nothing can stand behind a '?' here");
    while (rc == 0 && query && *query) {
        size_t len = strcspn(query, "&;");
        rc = put_pair(name, options, query, len, is_tls);
        query += len + (query[len] != '\0');
    }
    if (rc == 0 && is_unix != (spec_text(options, "server.path") != NULL))
        return bad_name(name, is_unix ? "takes ?socket=PATH" : "a host, and a socket");
    if (rc == 0 && is_tls && !spec_text(options, "tls-creds") && !spec_text(options, "tls-certificates") &&
        !spec_text(options, "tls-psk-file"))
        return err_hint(err_set(EINVAL, "%.*s: there are no credentials for TLS", SPEC_SHOWN(name)),
                        "behind it: ?tls-certificates=FOLDER with ca-cert.pem in it, ?tls-psk-file=FILE, or "
                        "?tls-creds=ID of an --object");
    return rc;
}

/* USER in front of an '@'; the rest is the host. */
static int take_user(const char *name, const char **text, size_t *len, bool is_tls, struct spec *options)
{
    const char *at = memchr(*text, '@', *len);
    size_t user = at ? (size_t)(at - *text) : 0;
    const char *from = *text;

    if (!at)
        return 0;
    if (!is_tls || user == 0 || memchr(from, ':', user))
        return bad_name(name, is_tls ? "a user has a name, and no password" : "there are no users");
    *text += user + 1;
    *len -= user + 1;
    return put_unescaped(name, options, "tls-username", from, user);
}

/* //HOST/EXPORT?QUERY */
static int parse_uri(const char *name, const char *text, bool is_unix, bool is_tls, struct spec *options)
{
    size_t host_len = strcspn(text, "/?#"), export_len;
    const char *export = text + host_len, *query;
    int rc;

    export += strspn(export, "/");
    export_len = strcspn(export, "?#");
    query = export[export_len] == '?' ? export + export_len + 1 : NULL;
    if (strchr(text, '#'))
        return bad_name(name, "a '#' is written as %23");
    rc = take_user(name, &text, &host_len, is_tls, options);
    if (rc < 0)
        return rc;
    if (is_unix && host_len > 0)
        return bad_name(name, "a socket has no host: three slashes");
    if (!is_unix && host_len == 0)
        return bad_name(name, "no host");
    if (!is_unix)
        rc = put_host(name, options, text, host_len);
    if (rc == 0)
        rc = parse_query(name, query, is_unix, is_tls, options);
    return rc == 0 ? put_unescaped(name, options, "export", export, export_len) : rc;
}

int nbd_parse(const char *name, struct spec *options)
{
    static const struct {
        const char *prefix;
        bool        is_unix, is_tls;
    } uris[] = {
        {"nbd://", false, false},  {"nbd+tcp://", false, false},  {"nbd+unix://", true, false},
        {"nbds://", false, true}, {"nbds+tcp://", false, true}, {"nbds+unix://", true, true},
    };
    const char *text;

    for (unsigned i = 0; i < ARRAY_LEN(uris); i++) {
        text = behind(name, uris[i].prefix);
        if (text)
            return parse_uri(name, text, uris[i].is_unix, uris[i].is_tls, options);
    }
    text = behind(name, "nbd:");
    return text ? parse_plain(name, text, options) : bad_name(name, "not a name of an export");
}

/* ---- options --------------------------------------------------------------------------------------------- */

static int refuse(const char *name, const struct spec *options)
{
    static const char *const refused[] = {"x-dirty-bitmap"};

    for (unsigned i = 0; i < ARRAY_LEN(refused); i++)
        if (spec_text(options, refused[i]))
            return err_set(ENOTSUP, "%.*s: option '%s' of driver 'nbd' is not supported here", SPEC_SHOWN(name),
                           refused[i]);
    return 0;
}

/* A copy of the first that is there. */
static char *copy_of(const char *a, const char *b)
{
    return a || b ? mem_strdup(a ? a : b) : NULL;
}

/* ---- TLS ------------------------------------------------------------------------------------------------- */

static int load_own(const char *name, const struct spec *options, struct nbd_place *place)
{
    const char *folder = spec_text(options, "tls-certificates");
    const struct tls_opts how = {.end = TLS_CLIENT, .dir = folder, .psk = !folder,
                                 .psk_file = spec_text(options, "tls-psk-file"),
                                 .username = spec_text(options, "tls-username"), .verify_peer = true};
    char why[TLS_WHY];
    int rc = tls_creds_load(&place->own_tls, &how, why);

    if (rc < 0)
        return err_set(rc, "%.*s: %s", SPEC_SHOWN(name), why);
    place->tls = &place->own_tls;
    return 0;
}

static int read_tls(const char *name, const struct spec *options, struct nbd_place *place)
{
    static const char *const ways[] = {"tls-creds", "tls-certificates", "tls-psk-file"};
    const char *id = spec_text(options, "tls-creds"), *hostname = spec_text(options, "tls-hostname");
    const struct creds *creds = NULL;
    unsigned given = 0;
    int rc;

    for (unsigned i = 0; i < ARRAY_LEN(ways); i++)
        given += spec_text(options, ways[i]) != NULL;
    if (given > 1)
        return err_set(EINVAL, "%.*s: takes tls-creds, tls-certificates or tls-psk-file, and one of them",
                       SPEC_SHOWN(name));
    if (spec_text(options, "tls-username") && !spec_text(options, "tls-psk-file"))
        return err_set(EINVAL, "%.*s: tls-username is for tls-psk-file", SPEC_SHOWN(name));
    if (given == 0 && hostname) /* who wants to see a certificate is not to go without */
        return err_set(EINVAL, "%.*s: tls-hostname is for TLS: tls-creds is missing", SPEC_SHOWN(name));
    if (given == 0)
        return 0;
    rc = id ? creds_get(id, TLS_CLIENT, &creds) : load_own(name, options, place);
    if (rc < 0)
        return rc;
    if (id)
        place->tls = &creds->keys;
    if (!hostname)
        hostname = place->host;
    assert(place->tls && place->tls->end == TLS_CLIENT);
    place->tls_hostname = hostname ? mem_strdup(hostname) : NULL;
    return hostname && !place->tls_hostname ? err_set(ENOMEM, "out of memory") : 0;
}

int nbd_place_read(const char *name, const struct spec *options, struct nbd_place *ret)
{
    const char *host = spec_text(options, "server.host"), *path = spec_text(options, "server.path");
    const char *export = spec_text(options, "export");
    const char *old_host = spec_text(options, "host"), *old_path = spec_text(options, "path");
    bool has_port = spec_text(options, "server.port") || spec_text(options, "port");
    bool is_new = spec_node(options, "server") != NULL;
    const struct sockaddr_un *address = NULL;
    int rc = refuse(name, options);

    if (rc < 0)
        return rc;
    if (is_new && (old_host || old_path || spec_text(options, "port")))
        return err_set(EINVAL, "%.*s: takes 'server', or 'host', 'port' and 'path', not both", SPEC_SHOWN(name));
    if (!(host || old_host) == !(path || old_path))
        return err_hint(err_set(EINVAL, "%.*s: takes a host or a path", SPEC_SHOWN(name)),
                        "server.type=inet,server.host=HOST or server.type=unix,server.path=PATH");
    if ((path || old_path) && has_port)
        return err_set(EINVAL, "%.*s: a socket of this host has no port", SPEC_SHOWN(name));
    if (is_new && !option_is(options, "server.type", host ? "inet" : "unix"))
        return err_set(EINVAL, "%.*s: server.type is not '%s'", SPEC_SHOWN(name), host ? "inet" : "unix");
    if ((path || old_path) && strlen(path ? path : old_path) >= sizeof address->sun_path)
        return err_set(ENAMETOOLONG, "%.*s: the path of the socket is too long", SPEC_SHOWN(name));
    if (export && strlen(export) > NBD_MAX_STRING)
        return err_set(ENAMETOOLONG, "%.*s: the name of the export is too long", SPEC_SHOWN(name));
    ret->path = copy_of(path, old_path);
    ret->host = copy_of(host, old_host);
    ret->export = mem_strdup(export ? export : "");
    if (ret->host) {
        const char *port = spec_text(options, "server.port");
        ret->port = copy_of(port ? port : spec_text(options, "port"), "10809");
    }
    if (!ret->export || (ret->host ? !ret->port : !ret->path))
        return err_set(ENOMEM, "out of memory");
    ret->reconnect_ms = min_u64(option_size(options, "reconnect-delay", 0), UINT32_MAX) * 1000;
    ret->open_timeout_ms = min_u64(option_size(options, "open-timeout", 0), UINT32_MAX) * 1000;
    return read_tls(name, options, ret);
}

void nbd_place_free(struct nbd_place *place)
{
    mem_free(place->host);
    mem_free(place->port);
    mem_free(place->path);
    mem_free(place->export);
    mem_free(place->tls_hostname);
    tls_creds_free(&place->own_tls);
}
