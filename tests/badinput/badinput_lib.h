/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tool on a damaged image, and what it must keep to; and the knife that damages. */
#ifndef TESTS_BADINPUT_BADINPUT_LIB_H
#define TESTS_BADINPUT_BADINPUT_LIB_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/format/header.h"
#include "tests/lib/test.h"

enum bad_verb {
    BAD_INFO, BAD_MAP, BAD_CHECK, BAD_READ, BAD_WRITE, BAD_VERBS,
    BAD_LENGTH = BAD_VERBS, BAD_GROW, BAD_GROW_FULL, BAD_SHRINK, BAD_MEND_LEAKS, BAD_MEND, BAD_VERBS_ALL
};

/* What a verb's run must come to. */
enum bad_want {
    BAD_ANY,     /* accepted or refused */
    BAD_REFUSED, /* exit code 1 and one line that names the file */
    BAD_GOOD,    /* exit code 0 */
};

/*
 * Run one verb on an image. In any case: it ends by itself within 10 s with an exit code that the manual has for
 * it, without a word from a sanitizer; a refusal is one line on stderr (hints apart) that names the file; and it
 * needs less than 256 MiB. `text`: the refusal contains it (NULL: any). Returns the exit code.
 */
int bad_run(enum bad_verb verb, const char *path, enum bad_want want, const char *text);

/* info, map, check and read; and, at last, write, since that changes the image. */
void bad_run_readers(const char *path);
void bad_run_all(const char *path);

/* Whether this one of several similar runs is left out. */
bool bad_left_out(void);

/* All verbs refuse it, and check does with `text`, if not NULL. */
void bad_refused(const char *path, const char *text);

/* How many runs there were so far. */
unsigned bad_runs(void);

/* ---- the knife ------------------------------------------------------------------------------------------- */

struct bad_image {
    char             path[4096];
    int              fd;
    uint64_t         size;
    struct q2_header h; /* as it was when it was opened */
};

void     bad_open(struct bad_image *im, const char *path);
void     bad_close(struct bad_image *im);
uint64_t bad_get(const struct bad_image *im, uint64_t at, unsigned width);
void     bad_put(struct bad_image *im, uint64_t at, unsigned width, uint64_t value); /* big-endian; 1 to 8 bytes */
void     bad_truncate(struct bad_image *im, uint64_t size);
void     bad_copy(const char *from, const char *to);

/* Host offset of the first L2 table. */
uint64_t bad_l2(const struct bad_image *im);

#define BAD_FIELD(name) offsetof(struct q2_disk_header, name), sizeof(((struct q2_disk_header *)0)->name)

#endif
