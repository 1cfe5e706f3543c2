/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: options are kept by their number; the action says which it takes, and how many operands. Fails: another
 * one: told, with the action's name.
 */
#include "tools/noun.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/arith.h"

static void print_note(void *arg, const char *text)
{
    const struct noun *n = arg;

    if (!n->quiet)
        cli_note("note: %s", text);
}

int noun_error(const struct noun *n)
{
    (void)n;
    return cli_library_error();
}

/* ---- the action ----------------------------------------------------------------------------------------- */

static bool takes(const struct noun_action *a, int option)
{
    if (option == NOUN_OUTPUT || option == 'q')
        return true;
    for (size_t i = 0; i < NOUN_TAKES && a->takes[i] != 0; i++)
        if (a->takes[i] == option)
            return true;
    return false;
}

static int check_options(const struct noun *n)
{
    for (const struct cli_option *o = n->verb->options; o->id != 0; o++)
        if (n->given[o->id] != NULL && !takes(n->action, o->id))
            return cli_usage_error(n->verb, "%s takes no option --%s", n->action->name, o->name);
    return CLI_OK;
}

static const struct noun_action *find_action(const struct noun_action *actions, const char *name)
{
    for (; actions->name != NULL; actions++)
        if (strcmp(actions->name, name) == 0)
            return actions;
    return NULL;
}

static int wrong_count(const struct noun *n)
{
    const struct noun_action *a = n->action;

    if (a->most > a->least)
        return cli_usage_error(n->verb, "%s takes %d to %d operands", a->name, a->least, a->most);
    return cli_usage_error(n->verb, "%s takes %d operand%s", a->name, a->least, a->least == 1 ? "" : "s");
}

static int run_action(struct noun *n, const struct noun_action *actions, char **operands, int count)
{
    if (count < 1)
        return cli_usage_error(n->verb, "Expecting an action");
    n->action = find_action(actions, operands[0]);
    if (n->action == NULL)
        return cli_usage_error(n->verb, "no action '%s'", operands[0]);
    if (check_options(n) != CLI_OK)
        return CLI_FAILED;
    if (count - 1 < n->action->least || count - 1 > n->action->most)
        return wrong_count(n);
    return n->action->run(n, operands + 1, count - 1);
}

int noun_run(const struct cli_verb *verb, const struct noun_action *actions, int argc, char **argv)
{
    struct noun n = {.verb = verb};
    struct cli_parser p;
    char **operands;
    int count;

    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        if (id == CLI_ERROR)
            return CLI_FAILED;
        n.given[id] = p.value != NULL ? p.value : "";
    }
    if (n.given[NOUN_OUTPUT] != NULL && !cli_parse_output(verb, n.given[NOUN_OUTPUT], &n.json))
        return CLI_FAILED;
    n.quiet = n.given['q'] != NULL;
    n.progress.enabled = n.given['p'] != NULL && !n.quiet;
    n.progress.to_stderr = n.json;
    n.how = (struct domain_how){.wait = n.given[NOUN_WAIT] != NULL, .note = print_note, .note_arg = &n,
                                .run = cli_job_run};
    count = cli_operands(&p, &operands);
    return run_action(&n, actions, operands, count);
}

/* ---- values ---------------------------------------------------------------------------------------------- */

bool noun_size(const struct noun *n, const char *what, const char *text, uint64_t *ret)
{
    if (cli_parse_size(text, ret) == 0 && *ret > 0)
        return true;
    cli_usage_error(n->verb, "%s: '%s' is no size: bytes, or a number with K, M, G, T, P or E", what, text);
    return false;
}

bool noun_number(const struct noun *n, int option, const char *what, uint64_t max, uint64_t *ret)
{
    if (cli_parse_number(n->given[option], max, ret) == 0)
        return true;
    cli_usage_error(n->verb, "%s takes a number up to %" PRIu64 ", not '%s'", what, max, n->given[option]);
    return false;
}

bool noun_word(const struct noun *n, const char *what, const char *text, const char *const *words, int *ret)
{
    char all[64] = "";
    size_t at = 0;

    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret = i;
            return true;
        }
    }
    for (int i = 0; words[i] != NULL && at < sizeof all; i++)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s",
                               i == 0 ? "" : words[i + 1] != NULL ? ", " : " or ", words[i]);
    cli_usage_error(n->verb, "%s takes %s, not '%s'", what, all, text);
    return false;
}

bool noun_format(const struct noun *n, enum domain_format *ret)
{
    static const char *const words[] = {"raw", "qcow2", NULL};
    int word = 0;

    if (n->given['f'] == NULL)
        return true;
    if (!noun_word(n, "--format", n->given['f'], words, &word))
        return false;
    *ret = word == 0 ? DOMAIN_RAW : DOMAIN_COW;
    return true;
}

bool noun_allocation(const struct noun *n, enum domain_allocation *ret)
{
    static const char *const words[] = {"preallocated", "sparse", NULL};
    int word = 0;

    if (n->given['a'] == NULL)
        return true;
    if (!noun_word(n, "--allocation", n->given['a'], words, &word))
        return false;
    *ret = word == 0 ? DOMAIN_PREALLOCATED : DOMAIN_SPARSE;
    return true;
}

/* ---- deletions --------------------------------------------------------------------------------------------- */

bool noun_delete(struct noun *n, struct domain_delete *ret)
{
    *ret = (struct domain_delete){.dry_run = n->given[NOUN_DRY_RUN] != NULL,
                                  .wipe = n->given[NOUN_WIPE] != NULL,
                                  .discard = n->given[NOUN_DISCARD] != NULL,
                                  .progress = cli_progress_show,
                                  .progress_arg = &n->progress};
    return n->given['r'] == NULL || noun_size(n, "--rate", n->given['r'], &ret->rate);
}

int noun_deleted(struct noun *n, const char *what, const struct domain_name *name, const struct domain_delete *o,
                 const struct domain_deleted *deleted)
{
    bool volume = strcmp(what, "volume") == 0;
    json_t *json;

    if (!o->dry_run && (o->wipe || o->discard))
        cli_progress_end(&n->progress);
    if (!n->json) {
        if (!n->quiet)
            printf("%s %s %s\n", what, volume ? name->volume : name->image,
                   o->dry_run ? "would be deleted" : "deleted");
        return CLI_OK;
    }
    json = json_pack("{s:s, s:b, s:I, s:I}", "image", name->image, "deleted", !o->dry_run, "wiped",
                     (json_int_t)deleted->wiped, "discarded", (json_int_t)deleted->discarded);
    if (volume)
        json_object_set_new(json, "volume", json_string(name->volume));
    return cli_json_print(json);
}

/* ---- lists ----------------------------------------------------------------------------------------------- */

bool noun_load_listed(const struct noun *n, struct domain *d, const char *name, struct domain_image **ret,
                      int *ret_code)
{
    int rc = domain_load_image(d, name, ret);

    if (rc < 0 && rc != -ENOENT) /* else it has gone */
        *ret_code = noun_error(n);
    return rc == 0;
}

/* ---- names ------------------------------------------------------------------------------------------------ */

int noun_name(const struct noun *n, const char *operand, int need, struct domain_name *ret)
{
    if (domain_parse_name(operand, &n->how, ret) < 0)
        return noun_error(n);
    if (need < 1 || ret->image[0] != '\0')
        return CLI_OK;
    domain_name_free(ret);
    return cli_usage_error(n->verb, "%s: '%s' names no image", n->action->name, operand);
}

int noun_no_volume(const struct noun *n, const char *operand, const struct domain_name *name)
{
    if (name->volume[0] == '\0')
        return CLI_OK;
    return cli_usage_error(n->verb, "%s: '%s' names a volume: 'vdisk-io volume info' shows one", n->action->name,
                           operand);
}

int noun_leaf(const struct noun *n, struct domain_name *name)
{
    struct domain_image *image;
    struct domain_volume *leaf;
    int error = 0;

    if (name->volume[0] != '\0')
        return CLI_OK;
    if (domain_load_image(name->domain, name->image, &image) < 0)
        return noun_error(n);
    leaf = domain_image_leaf(name->domain, image, &error);
    if (leaf != NULL)
        snprintf(name->volume, sizeof name->volume, "%s", leaf->uuid);
    domain_image_free(image);
    return leaf != NULL ? CLI_OK : noun_error(n);
}
