/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd: serve images to NBD clients, as qemu-nbd. Here are its options and how images are opened; serve.h has the
 * rest. With --list it is a client (nbd_list.c).
 *
 * Works: an image by its name; with --snapshot a temporary one on top of it, which has no name as soon as it is
 * open, and goes with the process. Fails: what qemu-nbd has and this has not is refused by name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/domain/domain.h"
#include "tools/nbd_list.h"
#include "tools/serve.h"
#include "tools/target.h"

enum { OPT_TLS_AUTHZ = SERVE_OWN, OPT_TLS_HOSTNAME };

static const struct cli_option options[] = {
    SERVE_SOCKET_OPTIONS,
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content.\n"
                           "Once for all images, or once for each, in their order"},
    SERVE_EXPORT_OPTIONS,
    {'x', "export-name", "NAME", "what clients ask for (\"\"); once for each image"},
    {'s', "snapshot", NULL, "what clients write goes to a temporary file, and is lost in the end"},
    SERVE_PROCESS_OPTIONS,
    {'L', "list", NULL, "do not serve: print what the server there exports, or the one named"},
    {OPT_TLS_HOSTNAME, "tls-hostname", "NAME", "with --list: whose certificate the server has to show"},
    {'l', "load-snapshot", "SNAPSHOT", "refused: internal snapshots are not read yet"},
    {'B', "bitmap", "NAME", "refused: bitmaps are not served yet"},
    {'c', "connect", "DEVICE", "refused: use nbd-client on a server that listens"},
    {'d', "disconnect", "DEVICE", "refused: nbd-client -d does it"},
    {OPT_TLS_AUTHZ, "tls-authz", "ID", "refused: --tls-allow names clients"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

struct nbd {
    struct serve        serve; /* the first */
    struct serve_values formats;
    bool                snapshot, list;
    const char         *tls_hostname;
};

/* ---- images --------------------------------------------------------------------------------------------- */

/* As a backing file: from the root on, as far as it is a path. Malloc'ed. */
static char *absolute(const char *name)
{
    const char *path = target_path(name);

    return path != NULL ? realpath(path, NULL) : strdup(name);
}

static int format_of(const struct serve *s, const char *name, const char *format, char ret[32])
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = format,
                                  .flags = s->how.flags & ~(uint32_t)VDISK_OPEN_RDWR};
    struct vdisk_info info = {.size = sizeof info};
    vdisk *v;
    int rc = vdisk_open(name, &how, &v);

    if (rc < 0)
        return rc;
    rc = vdisk_get_info(v, &info);
    if (rc == 0)
        snprintf(ret, 32, "%s", info.format);
    vdisk_close(v);
    return rc;
}

/* The file is there, and empty. */
static int open_on_top(const struct serve *s, const char *name, const char *format, const char *top, vdisk **ret)
{
    struct vdisk_open_opts how = s->how;
    char backing_format[32];
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = UINT64_MAX,
                                       .backing_fmt = backing_format};
    int rc = format_of(s, name, format, backing_format);
    char *backing = rc == 0 ? absolute(name) : NULL;

    if (rc < 0)
        return rc;
    if (backing == NULL)
        return vdisk_set_error(-errno, strerror(errno), NULL);
    create.backing_file = backing;
    how.format = "qcow2";
    how.flags |= VDISK_OPEN_RDWR | VDISK_OPEN_UNSAFE | VDISK_OPEN_BUFFERED;
    rc = vdisk_create(top, &create);
    if (rc == 0)
        rc = vdisk_open(top, &how, ret);
    free(backing);
    return rc;
}

static int open_snapshot(const struct serve *s, const char *name, const char *format, vdisk **ret)
{
    const char *folder = getenv("TMPDIR");
    char *path = NULL;
    int fd = -1, rc;

    if (asprintf(&path, "%s/vdisk-io.XXXXXX", folder != NULL && folder[0] != '\0' ? folder : "/var/tmp") < 0)
        path = NULL;
    if (path != NULL)
        fd = mkstemp(path);
    if (fd < 0) {
        cli_error("no temporary file%s%s: %s", path != NULL ? ": " : "", path != NULL ? path : "",
                  strerror(errno));
        free(path);
        return CLI_FAILED;
    }
    close(fd);
    rc = open_on_top(s, name, format, path, ret) < 0 ? cli_library_error() : CLI_OK;
    unlink(path);
    free(path);
    return rc;
}

/* A volume of a domain that is written to: two servers' writes would destroy it, so the use is ours alone. */
static const char *volume_alone(const struct serve *s, const char *operand, const char *format)
{
    const struct domain_use_opts alone = {.alone = true};
    struct domain_use *use;
    const char *name;

    if (format != NULL)
        return cli_image(&s->parser, operand, format); /* says that there is none to be given */
    if (cli_volume_use(operand, &alone, &name, &use) == 0)
        return name;
    cli_library_error();
    return NULL;
}

static int open_image(struct serve *s, int i, struct serve_opened *ret)
{
    struct nbd *n = (struct nbd *)s;
    struct vdisk_open_opts how = s->how;
    const char *name;

    how.format = serve_value_of(&n->formats, i);
    if (!s->read_only && !n->snapshot && !s->parser.image_opts && cli_is_volume(s->operands[i]))
        name = volume_alone(s, s->operands[i], how.format);
    else
        name = cli_image(&s->parser, s->operands[i], how.format);
    if (!name)
        return CLI_FAILED;
    if (n->snapshot)
        return open_snapshot(s, name, how.format, &ret->volume);
    return cli_open(name, &how, &ret->volume) < 0 ? cli_library_error() : CLI_OK;
}

/* ---- options -------------------------------------------------------------------------------------------- */

/* What qemu-nbd has and this has not; NULL: it is none of that. */
static const char *refusal(int id)
{
    switch (id) {
    case 'l': return "--load-snapshot: internal snapshots are not read yet";
    case 'B': return "--bitmap: bitmaps are not served yet";
    case 'c': return "--connect: devices of the kernel are not connected: use nbd-client on a server that listens";
    case 'd': return "--disconnect: devices of the kernel are not disconnected: 'nbd-client -d' does it";
    case OPT_TLS_AUTHZ: return "--tls-authz: objects of that kind are not known: --tls-allow names clients";
    default: return NULL;
    }
}

static int parse_option(struct nbd *n, int id, const char *value)
{
    if (refusal(id) != NULL) {
        cli_error("nbd: %s", refusal(id));
        return CLI_FAILED;
    }
    switch (id) {
    case 'f': return serve_add_value(&n->serve, &n->formats, value);
    case 's': n->snapshot = true; return CLI_OK;
    case 'L': n->list = true; return CLI_OK;
    case OPT_TLS_HOSTNAME: n->tls_hostname = value; return CLI_OK;
    default: return serve_option(&n->serve, id, value);
    }
}

/* What is for a server that is served is not looked at, but for what could be meant for this one. */
static int check_list(const struct nbd *n)
{
    const struct serve *s = &n->serve;

    if (s->count > 1)
        return cli_usage_error(s->verb, "--list takes the name of one server");
    if (s->count == 1 && (s->socket || s->port || s->address || s->tls_creds || n->tls_hostname))
        return cli_usage_error(s->verb, "--list takes a name, or --socket, --bind, --port and --tls-creds");
    if (s->fork || s->pid_file || n->snapshot || s->names.count > 0 || s->allowed.count > 0)
        return cli_usage_error(s->verb, "--list serves nothing: --fork, --pid-file, --snapshot, --export-name and "
                               "--tls-allow do not go with it");
    if (s->socket && (s->port || s->address))
        return cli_usage_error(s->verb, "--socket excludes --port and --bind");
    return CLI_OK;
}

static int check_options(const struct nbd *n)
{
    const struct serve *s = &n->serve;

    if (n->list)
        return check_list(n);
    if (n->tls_hostname)
        return cli_usage_error(s->verb, "--tls-hostname is for --list");
    if (s->count < 1 || s->count > SERVE_EXPORTS)
        return cli_usage_error(s->verb, "takes the names of 1 to %d images", SERVE_EXPORTS);
    if (s->count > 1 && s->names.count != s->count)
        return cli_usage_error(s->verb, "needs --export-name for each of several images");
    if (n->formats.count > 1 && n->formats.count != s->count)
        return cli_usage_error(s->verb, "--format is given once, or once for each image");
    if (n->snapshot && s->parser.image_opts)
        return cli_usage_error(s->verb, "--snapshot is not for --image-opts");
    return serve_check(s);
}

static int parse(struct nbd *n)
{
    struct serve *s = &n->serve;

    for (int id; (id = cli_parser_next(&s->parser)) != CLI_END;)
        if (parse_option(n, id, s->parser.value) != CLI_OK)
            return CLI_FAILED;
    s->count = cli_operands(&s->parser, &s->operands);
    return check_options(n);
}

static int list(struct nbd *n)
{
    struct serve *s = &n->serve;
    const struct nbd_list_opts opts = {
        .name = s->count == 1 ? cli_image(&s->parser, s->operands[0], NULL) : NULL, .socket = s->socket,
        .address = s->address, .port = s->port, .tls_creds = s->tls_creds, .tls_hostname = n->tls_hostname,
        .json = s->json,
    };

    return list_exports(&opts);
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct nbd *n = cli_calloc(1, sizeof *n);
    int rc;

    serve_init(&n->serve, verb, argc, argv);
    n->serve.open = open_image;
    rc = parse(n);
    if (rc == CLI_OK)
        rc = n->list ? list(n) : serve_run(&n->serve);
    free(n);
    return rc;
}

const struct cli_verb cli_nbd = {
    .name = "nbd",
    .summary = "Serve images to NBD clients, or list what a server exports.",
    .usage = "[OPTION]... NAME... | --list [OPTION]... [SERVER]",
    .options = options,
    .notes = "Clients are served until SIGTERM or SIGINT, or until the last one has gone (without --persistent).\n"
             "What is in flight is finished then. Sockets that systemd passes on (LISTEN_FDS) are listened on in\n"
             "place of --port and --socket.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
