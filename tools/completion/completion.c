/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints the bash completion of vdisk-io, from the tables that its options are parsed from. Part of the build. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/cli.h"
#include "tools/create_options.h"

/* What options take, by the name of their argument; others by VERB --OPTION. */
static const struct words {
    const char *verb, *name; /* verb NULL: the name of an argument */
    const char *words;
} known[] = {
    {NULL, "FMT", "raw qcow2"},
    {NULL, "FORM", "human json"},
    {"bench", "rw", "read write rw zero discard randread randwrite randrw randzero randdiscard"},
    {"bench", "queue-kind", "auto uring-defer uring threads"},
    {"bench", "cache", "direct buffered"},
    {"bench", "latency", "all off"},
    {"bench", "aio", "threads native io_uring"},
    {"check", "cache", "none writeback writethrough directsync unsafe"},
    {"bench", "scenario", "first-touch lookup"},
    {"check", "repair", "leaks all"},
    {"resize", "preallocation", "off metadata falloc full"},
    {"convert", "target-cache", "none writeback writethrough directsync unsafe"},
    {"rebase", "cache", "none writeback writethrough directsync unsafe"},
    {"amend", "cache", "none writeback writethrough directsync unsafe"},
    {"rebase", "backing-cache", "none writeback writethrough directsync unsafe"},
    {"checksum", "cache", "none writeback writethrough directsync unsafe"},
    {"volume", "allocation", "sparse preallocated"},
    {"image", "allocation", "sparse preallocated"},
    {"lv", "allocation", "thin preallocated"},
    {"volume", "legality", "LEGAL ILLEGAL"},
    {"domain", "type", "localfs nfs"},
    {"commit", "cache", "none writeback writethrough directsync unsafe"},
    {"compare", "cache", "none writeback writethrough directsync unsafe"},
    {"convert", "source-cache", "none writeback writethrough directsync unsafe"},
    {"nbd", "cache", "none writeback writethrough directsync unsafe"},
    {"nbd", "aio", "threads native io_uring"},
    {"nbd", "discard", "unmap ignore"},
    {"nbd", "detect-zeroes", "off on unmap"},
    {"volume serve", "cache", "none writeback writethrough directsync unsafe"},
    {"volume serve", "aio", "threads native io_uring"},
    {"volume serve", "discard", "unmap ignore"},
    {"volume serve", "detect-zeroes", "off on unmap"},
};

/* NULL: nothing that is known. */
static const char *words_of(const struct cli_verb *verb, const struct cli_option *o)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        const char *name = known[i].verb != NULL ? o->name : o->arg;
        if ((known[i].verb == NULL || strcmp(known[i].verb, verb->name) == 0) && name != NULL &&
            strcmp(known[i].name, name) == 0)
            return known[i].words;
    }
    return NULL;
}

static bool uses(const struct cli_verb *verb, const char *words)
{
    for (const struct cli_option *o = verb->options; o->id != 0; o++)
        if (words_of(verb, o) == words)
            return true;
    return false;
}

/* A name that no verb has any more is a mistake in the table above. */
static void check_known(void)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        bool used = false;
        for (const struct cli_verb *const *v = cli_verbs; *v != NULL; v++)
            used |= uses(*v, known[i].words) || ((*v)->action != NULL && uses((*v)->action, known[i].words));
        if (!used) {
            fprintf(stderr, "completion.c: no verb has the option or argument %s\n", known[i].name);
            exit(1);
        }
    }
}

static void print_names(const struct cli_option *o, const char *between)
{
    if (o->id < CLI_LONG_ONLY)
        printf("-%c%s", o->id, o->name != NULL ? between : "");
    if (o->name != NULL)
        printf("--%s", o->name);
}

static void print_argument(const struct cli_verb *verb, const struct cli_option *o)
{
    const char *words = words_of(verb, o);

    printf("        ");
    print_names(o, "|");
    if (words != NULL)
        printf(") words=\"%s\" ;;\n", words);
    else if (strcmp(o->arg, "FILE") == 0)
        printf(") return ;;\n");
    else if (strcmp(o->arg, "LIST") == 0)
        printf(") words=\"$create_options\" space=-o\\ nospace ;;\n");
    else
        printf(") words= other=+o\\ default ;;\n");
}

static void print_verb(const struct cli_verb *verb)
{
    printf("    \"%s\")\n        words=\"", verb->name);
    for (const struct cli_option *o = verb->options; o->id != 0; o++) {
        print_names(o, " ");
        printf(" ");
    }
    printf("-h --help\"\n        case $previous in\n");
    for (const struct cli_option *o = verb->options; o->id != 0; o++) {
        if (o->arg != NULL)
            print_argument(verb, o);
    }
    printf("        *) [[ $word == -* ]] || return ;;\n        esac ;;\n");
}

static void print_start(void)
{
    printf("# bash completion for vdisk-io; made from its tables of options: tools/completion/completion.c\n"
           "_vdisk_io()\n{\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words= space= other=\n"
           "    local create_options=\"");
    for (size_t i = 0; create_option_key(i) != NULL; i++)
        printf("%s= ", create_option_key(i));
    printf("help\"\n\n"
           "    COMPREPLY=()\n"
           "    # --output=json arrives as three words.\n"
           "    if [[ $word == = ]]; then\n"
           "        word=\n"
           "    elif [[ $previous == = && $COMP_CWORD -gt 2 ]]; then\n"
           "        previous=${COMP_WORDS[COMP_CWORD-2]}\n"
           "    fi\n"
           "    if [[ $COMP_CWORD -eq 1 ]]; then\n"
           "        COMPREPLY=($(compgen -W \"");
    for (const struct cli_verb *const *v = cli_verbs; *v != NULL; v++)
        printf("%s ", (*v)->name);
    printf("--help --version\" -- \"$word\"))\n        return\n    fi\n    local verb=${COMP_WORDS[1]}\n");
    for (const struct cli_verb *const *v = cli_verbs; *v != NULL; v++)
        if ((*v)->action != NULL)
            printf("    [[ $COMP_CWORD -le 2 || \"$verb ${COMP_WORDS[2]}\" != \"%s\" ]] || verb=\"%s\"\n",
                   (*v)->action->name, (*v)->action->name);
    printf("    case $verb in\n");
}

int main(void)
{
    check_known();
    print_start();
    for (const struct cli_verb *const *v = cli_verbs; *v != NULL; v++) {
        print_verb(*v);
        if ((*v)->action != NULL)
            print_verb((*v)->action);
    }
    printf("    esac\n"
           "    # The rest are names of files, which bash knows when nothing is said.\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
           "    [[ -z $space$other ]] || compopt $space $other 2>/dev/null\n"
           "}\n"
           "complete -o bashdefault -o default -F _vdisk_io vdisk-io\n");
    return ferror(stdout) || fflush(stdout) != 0;
}
