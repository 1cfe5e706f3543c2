/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Verbs that are nouns: domain, image, volume. What is done with one is an action, the first operand; which
 * options an action takes stands with it.
 */
#ifndef TOOLS_NOUN_H
#define TOOLS_NOUN_H

#include "tools/cli.h"
#include "tools/domain/domain.h"

/* Options of all nouns, by number; those with a letter have that. */
enum noun_option {
    NOUN_OUTPUT = CLI_LONG_ONLY + 1,
    NOUN_WAIT, NOUN_DRY_RUN, NOUN_REPAIR, NOUN_TYPE, NOUN_DESCRIPTION, NOUN_UUID, NOUN_REMOTE_PATH,
    NOUN_DOMAIN_VERSION, NOUN_IMAGE, NOUN_PARENT, NOUN_DISK_TYPE, NOUN_INITIAL_SIZE, NOUN_ILLEGAL, NOUN_SEQUENCE,
    NOUN_LEGALITY, NOUN_SHARED, NOUN_GENERATION, NOUN_DIGEST, NOUN_VG, NOUN_VOLUMES, NOUN_WIPE,
    NOUN_DISCARD,
    NOUN_LOCKSPACE, NOUN_HOST_ID, NOUN_MOUNT_OPTIONS, NOUN_SOURCE_FORMAT,
    NOUN_OPTIONS,
};

enum { NOUN_TAKES = 16 };

#define NOUN_OUTPUT_OPTION {NOUN_OUTPUT, "output", "FORM", "human (default) or json"}
#define NOUN_WAIT_OPTION   {NOUN_WAIT, "wait", NULL, "for who works on the same image; otherwise it is an error"}
#define NOUN_WIPE_OPTION   {NOUN_WIPE, "wipe", NULL, "delete: zeros are written over the data before it goes"}
#define NOUN_DISCARD_OPTION {NOUN_DISCARD, "discard", NULL, "delete: its space is given back before it goes"}
#define NOUN_QUIET_OPTION  {'q', "quiet", NULL, "print nothing but errors"}

struct noun;

struct noun_action {
    const char *name;
    int         least, most;       /* operands */
    int         takes[NOUN_TAKES]; /* options besides --output and -q; ends with 0 */
    int (*run)(struct noun *n, char **operands, int count);
};

struct noun {
    const struct cli_verb    *verb;
    const struct noun_action *action;
    const char *given[NOUN_OPTIONS]; /* by option: its value, "" where it takes none; NULL: not given */
    bool                      json, quiet;
    struct cli_progress       progress;
    struct domain_how         how;
};

/* Parse, find the action, run it. `actions` ends with a NULL name. */
int noun_run(const struct cli_verb *verb, const struct noun_action *actions, int argc, char **argv);

/* The library's error; what was noted before stays. Returns CLI_FAILED. */
int noun_error(const struct noun *n);

/* Values of options that were given. false: an error was printed. */
bool noun_size(const struct noun *n, const char *what, const char *text, uint64_t *ret);
bool noun_number(const struct noun *n, int option, const char *what, uint64_t max, uint64_t *ret);

/* One of the words, as a number. */
bool noun_word(const struct noun *n, const char *what, const char *text, const char *const *words, int *ret);

/* --format and --allocation, where they were given: else these stay as they are. */
bool noun_format(const struct noun *n, enum domain_format *ret);
bool noun_allocation(const struct noun *n, enum domain_allocation *ret);

/* An operand as a name. `need`: 0: a domain at least; 1: an image. CLI_OK, or CLI_FAILED: told. */
int noun_name(const struct noun *n, const char *operand, int need, struct domain_name *ret);

/* Of an action on whole images: the name, as the operand has it, ends before a volume. */
int noun_no_volume(const struct noun *n, const char *operand, const struct domain_name *name);

/* --wipe, --discard, --rate, --dry-run and the progress of a deletion. false: an error was printed. */
bool noun_delete(struct noun *n, struct domain_delete *ret);

/* What was deleted: "image" or "volume". Returns a code of the command line. */
int noun_deleted(struct noun *n, const char *what, const struct domain_name *name,
                 const struct domain_delete *o, const struct domain_deleted *deleted);

/* The volume of a name that may have left it out: the leaf. */
int noun_leaf(const struct noun *n, struct domain_name *name);

/* The next one of a list. false: it has gone meanwhile; or an error was printed, and *ret_code says so. */
bool noun_load_listed(const struct noun *n, struct domain *d, const char *name, struct domain_image **ret,
                      int *ret_code);

/* ---- showing: noun_show.c ------------------------------------------------------------------------------ */

/* Of a volume whose metadata has been read: as options take it. */
const char *noun_format_word(const struct domain_volume *v);
const char *noun_allocation_word(const struct domain_volume *v);

json_t *noun_volume_json(const struct domain_image *image, const struct domain_volume *v);
json_t *noun_image_json(const struct domain_image *image);
/* The end of a list of which some may not have been read: the others are printed. NULL: they have been. */
int noun_print_list(json_t *list, int rc);

void noun_print_trouble(const struct domain_image *image, const struct domain_volume *v);
void noun_print_volume(const struct domain_image *image, const struct domain_volume *v);
void noun_print_tree(const struct domain_image *image);

/* The sum of what the volumes of an image occupy, those that it shares left out. */
uint64_t noun_image_allocated(const struct domain_image *image);

/* The capacity of the image's leaf; 0: there is none. */
uint64_t noun_image_capacity(const struct domain_image *image);

#endif
