/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * volume serve: volumes of storage domains to NBD clients; serve.h has what `nbd` does, too.
 *
 * Works: the image is locked, so that nobody else opens one of its volumes by name meanwhile, or, if it is only
 * read, with others who do; in a volume group its volumes are active until the end, if they were not before; a
 * thin one grows. Fails: somebody has the image: who, or, with --wait, it is tried again until a signal comes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/domain.h"
#include "tools/serve.h"

enum { OPT_WAIT = SERVE_OWN, AGAIN_MS = 200 };

static const struct cli_option options[] = {
    SERVE_SOCKET_OPTIONS,
    SERVE_EXPORT_OPTIONS,
    {'x', "export-name", "NAME", "what clients ask for, once for each volume; otherwise \"\",\n"
                                 "or, of several, IMAGE/VOLUME"},
    SERVE_PROCESS_OPTIONS,
    {OPT_WAIT, "wait", NULL, "for who works on the same image, or has it open; otherwise it is\nan error"},
    {'q', "quiet", NULL, "print nothing but errors"},
    CLI_OBJECT_OPTION,
    {0, NULL, NULL, NULL},
};

struct volume_serve {
    struct serve serve; /* the first */
    bool         wait, quiet;
};

/* ---- opening -------------------------------------------------------------------------------------------- */

static void print_note(void *arg, const char *text)
{
    (void)arg;
    cli_note("note: %s", text);
}

/* After -EAGAIN: is it to be tried once more? Otherwise it has been told why not. */
static bool again(const struct serve *s, int i)
{
    const struct volume_serve *v = (const struct volume_serve *)s;

    if (!v->wait) {
        cli_library_error();
        return false;
    }
    if (!serve_pause(s, AGAIN_MS))
        return true;
    cli_error("volume serve: told to end while it waited for '%s'", s->operands[i]);
    return false;
}

static int take_use(const struct serve *s, int i, const char **ret_name, struct domain_use **ret_use)
{
    const struct volume_serve *v = (const struct volume_serve *)s;
    const struct domain_how how = {.note = v->quiet ? NULL : print_note};
    const struct domain_use_opts o = {.how = &how, .alone = !s->read_only};
    int rc;

    while ((rc = cli_volume_use(s->operands[i], &o, ret_name, ret_use)) == -EAGAIN)
        if (!again(s, i))
            return CLI_FAILED;
    return rc < 0 ? cli_library_error() : CLI_OK;
}

static char *name_of(const struct domain_use *use)
{
    size_t size = 2 * DOMAIN_UUID + 1;
    char *name = cli_calloc(1, size);

    snprintf(name, size, "%s/%s", domain_use_image(use), domain_use_volume(use));
    return name;
}

/* Who has it open by its path holds it as well. */
static int open_volume(struct serve *s, int i, struct serve_opened *ret)
{
    struct domain_use *use;
    const char *name;
    int rc;

    if (take_use(s, i, &name, &use) != CLI_OK)
        return CLI_FAILED;
    if (domain_use_read_only(use) && !s->read_only) {
        cli_error("'%s': volume %s of image %s is not written to: it is served with --read-only", s->operands[i],
                  domain_use_volume(use), domain_use_image(use));
        return CLI_FAILED;
    }
    while ((rc = cli_open(name, &s->how, &ret->volume)) == -EAGAIN)
        if (!again(s, i))
            return CLI_FAILED;
    if (rc < 0)
        return cli_library_error();
    ret->image = domain_use_image(use);
    ret->of_image = domain_use_volume(use);
    ret->name = s->count > 1 ? name_of(use) : NULL;
    return CLI_OK;
}

/* ---- command line --------------------------------------------------------------------------------------- */

static int parse(struct volume_serve *v)
{
    struct serve *s = &v->serve;
    int rc;

    for (int id; (id = cli_parser_next(&s->parser)) != CLI_END;) {
        rc = CLI_OK;
        if (id == OPT_WAIT)
            v->wait = true;
        else if (id == 'q')
            v->quiet = true;
        else
            rc = serve_option(s, id, s->parser.value);
        if (rc != CLI_OK)
            return rc;
    }
    s->count = cli_operands(&s->parser, &s->operands);
    if (s->count < 1 || s->count > SERVE_EXPORTS)
        return cli_usage_error(s->verb, "takes the names of 1 to %d volumes", SERVE_EXPORTS);
    if (s->names.count > 0 && s->names.count != s->count)
        return cli_usage_error(s->verb, "--export-name is given once for each volume");
    s->tells = !v->quiet;
    return serve_check(s);
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct volume_serve *v = cli_calloc(1, sizeof *v);
    int rc;

    serve_init(&v->serve, verb, argc, argv);
    v->serve.open = open_volume;
    rc = parse(v);
    if (rc == CLI_OK)
        rc = serve_run(&v->serve);
    free(v);
    return rc;
}

const struct cli_verb cli_volume_serve = {
    .name = "volume serve",
    .summary = "Serve volumes of storage domains to NBD clients.",
    .usage = "[OPTION]... NAME...",
    .options = options,
    .notes = "NAME: DOMAIN/IMAGE/VOLUME, or DOMAIN/IMAGE for its leaf. When clients can connect the address of\n"
             "each is printed. Unless they are only read, nobody else opens the image's volumes by name\n"
             "meanwhile.\n"
             "Clients are served until SIGTERM or SIGINT, or until the last one has gone (without --persistent).\n"
             "What is in flight is finished then, and the volumes are as they were before: put to rest, if they\n"
             "were not active. A thin volume in a volume group grows while clients write to it.\n"
             "Exit code: 0, or 1.\n",
    .run = run,
};
