/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options of verbs that serve volumes. Works: what qemu-nbd has under the same names, and what is the server's
 * own. Fails: a wrong one, or two that exclude each other: a usage error.
 */
#include <string.h>

#include "tools/serve.h"
#include "tools/target.h"

void serve_init(struct serve *s, const struct cli_verb *verb, int argc, char **argv)
{
    *s = (struct serve){.verb = verb, .shared = 1, .ready_fd = -1, .signal_fd = -1, .opened_fd = -1,
                        .how = {.size = sizeof s->how, .flags = VDISK_OPEN_HOST_HOLES}};
    cli_parser_init(&s->parser, verb, argc, argv);
}

int serve_add_value(const struct serve *s, struct serve_values *v, const char *value)
{
    if (v->count == SERVE_EXPORTS)
        return cli_usage_error(s->verb, "there are at most %d exports", SERVE_EXPORTS);
    v->list[v->count++] = value;
    return CLI_OK;
}

const char *serve_value_of(const struct serve_values *v, int i)
{
    return v->count == 0 ? NULL : v->list[v->count == 1 ? 0 : i];
}

/* `least` 0: none is as long as it can be. */
static int parse_seconds(const struct serve *s, const char *value, uint64_t least, unsigned *ret_ms)
{
    uint64_t seconds;
    int rc = cli_parse_ranged(s->verb, "time", value, least, 86400, &seconds);

    if (rc == CLI_OK)
        *ret_ms = seconds == 0 ? UINT32_MAX : (unsigned)seconds * 1000;
    return rc;
}

static int parse_limit(struct serve *s, int id, const char *value)
{
    uint64_t number;

    switch (id) {
    case 'e':
        return cli_parse_ranged(s->verb, "number of clients", value, 0, 65536, &s->shared);
    case 'o':
        return cli_parse_ranged(s->verb, "offset", value, 0, INT64_MAX, &s->common.offset);
    case SERVE_THREADS:
        if (cli_parse_ranged(s->verb, "number of threads", value, 1, 64, &number) != CLI_OK)
            return CLI_FAILED;
        s->opts.threads = (unsigned)number;
        return CLI_OK;
    case SERVE_MAX_BYTES:
        return cli_parse_ranged(s->verb, "rate", value, 1, INT64_MAX, &s->opts.bytes_per_s);
    case SERVE_MAX_REQUESTS:
        return cli_parse_ranged(s->verb, "rate", value, 1, 1000000000, &s->opts.requests_per_s);
    case SERVE_HANDSHAKE:
        return parse_seconds(s, value, 1, &s->opts.handshake_ms);
    case SERVE_HANDSHAKE_LIMIT:
        return parse_seconds(s, value, 0, &s->opts.handshake_ms);
    default:
        return parse_seconds(s, value, 1, &s->opts.idle_ms);
    }
}

static int set_cache(struct serve *s, const char *mode)
{
    uint32_t flags;

    if (s->have_cache)
        return cli_usage_error(s->verb, "-n and --cache can only be specified once");
    if (!target_cache_flags(mode, &flags))
        return cli_usage_error(s->verb, "Invalid cache mode '%s'", mode);
    s->have_cache = true;
    s->common.durable = strcmp(mode, "writethrough") == 0 || strcmp(mode, "directsync") == 0;
    s->how.flags |= flags;
    return CLI_OK;
}

static int set_aio(struct serve *s, const char *kind)
{
    s->native = strcmp(kind, "native") == 0;
    s->opts.queue_kind = strcmp(kind, "threads") == 0 ? VDISK_QUEUE_THREADS : VDISK_QUEUE_AUTO;
    if (s->native || s->opts.queue_kind == VDISK_QUEUE_THREADS || strcmp(kind, "io_uring") == 0)
        return CLI_OK;
    return cli_usage_error(s->verb, "--aio takes threads, native or io_uring, not '%s'", kind);
}

static int set_discard(struct serve *s, const char *how)
{
    s->common.no_discard = strcmp(how, "ignore") == 0 || strcmp(how, "off") == 0;
    if (s->common.no_discard || strcmp(how, "unmap") == 0 || strcmp(how, "on") == 0)
        return CLI_OK;
    return cli_usage_error(s->verb, "--discard takes unmap or ignore, not '%s'", how);
}

static int set_zeroes(struct serve *s, const char *how)
{
    static const char *const words[] = {"off", "on", "unmap"};

    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(how, words[i]) == 0) {
            s->common.zeroes = (enum nbd_detect_zeroes)i;
            return CLI_OK;
        }
    }
    return cli_usage_error(s->verb, "--detect-zeroes takes off, on or unmap, not '%s'", how);
}

/* How volumes are used. */
static int parse_manner(struct serve *s, int id, const char *value)
{
    switch (id) {
    case 'n': return set_cache(s, "none");
    case SERVE_CACHE: return set_cache(s, value);
    case SERVE_AIO: return set_aio(s, value);
    case SERVE_DISCARD: return set_discard(s, value);
    case SERVE_DETECT_ZEROES: return set_zeroes(s, value);
    default: return parse_limit(s, id, value);
    }
}

int serve_option(struct serve *s, int id, const char *value)
{
    switch (id) {
    case 'p': s->port = value; return CLI_OK;
    case 'b': s->address = value; return CLI_OK;
    case 'k': s->socket = value; return CLI_OK;
    case 'r': s->read_only = true; return CLI_OK;
    case 'x': return serve_add_value(s, &s->names, value);
    case 'D': return serve_add_value(s, &s->descriptions, value);
    case 't': s->persistent = true; return CLI_OK;
    case SERVE_FORK: s->fork = true; return CLI_OK;
    case SERVE_PID_FILE: s->pid_file = value; return CLI_OK;
    case 'A': return CLI_OK;
    case SERVE_TLS_CREDS: s->tls_creds = value; return CLI_OK;
    case SERVE_TLS_ALLOW: return serve_add_value(s, &s->allowed, value);
    case SERVE_OUTPUT: return cli_parse_output(s->verb, value, &s->json) ? CLI_OK : CLI_FAILED;
    case 'v': s->verbose = true; return CLI_OK;
    case CLI_ERROR: return CLI_FAILED;
    default: return parse_manner(s, id, value);
    }
}

int serve_check(const struct serve *s)
{
    const struct nbd_export_opts *o = &s->common;

    if (s->count == 1 && s->names.count > 1)
        return cli_usage_error(s->verb, "--export-name is given once for each image");
    if (s->descriptions.count > 1 && s->descriptions.count != s->count)
        return cli_usage_error(s->verb, "--description is given once, or once for each image");
    if (s->allowed.count > 0 && !s->tls_creds)
        return cli_usage_error(s->verb, "--tls-allow is for --tls-creds");
    if (s->socket && (s->port || s->address))
        return cli_usage_error(s->verb, "--socket excludes --port and --bind");
    if (s->native && s->how.flags & VDISK_OPEN_BUFFERED)
        return cli_usage_error(s->verb, "--aio=native needs direct I/O: --cache=none or directsync");
    if (o->zeroes == NBD_DETECT_UNMAP && o->no_discard)
        return cli_usage_error(s->verb, "--detect-zeroes=unmap needs --discard=unmap");
    if (serve_passed_fds() < 0)
        return cli_usage_error(s->verb, "LISTEN_FDS is '%s', which is no number of sockets that can be passed on",
                               getenv("LISTEN_FDS"));
    if (s->fork && serve_passed_fds() > 0)
        return cli_usage_error(s->verb, "--fork is not for sockets that are passed on");
    return CLI_OK;
}
