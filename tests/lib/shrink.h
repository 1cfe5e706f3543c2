/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs made of numbered steps that can be left out: carried out in a process of their own, and cut down to few
 * steps when they fail.
 */
#ifndef TESTS_LIB_SHRINK_H
#define TESTS_LIB_SHRINK_H

#include <stdbool.h>
#include <stddef.h>

/* Which of `n` steps are taken. */
struct steps {
    bool *keep;
    unsigned n;
};

void steps_init(struct steps *s, unsigned n, const char *list); /* as --only-steps; NULL: all */
void steps_finish(struct steps *s);
unsigned steps_count(const struct steps *s);

/* As --only-steps takes it; the caller's to free. */
char *steps_list(const struct steps *s);

/*
 * Leave out as many steps as possible while `fails` says yes: first halves, then less and less, down to single
 * ones. `budget` bounds the calls. On return `s` is the last for which it did. Returns the calls made.
 */
unsigned steps_shrink(struct steps *s, bool (*fails)(const struct steps *, void *), void *arg, unsigned budget);

/* How a run in a process of its own ended. */
struct attempt {
    bool failed;
    char where[200];   /* tells one failure from another: the place of the check or assertion, or the signal */
    char output[8000]; /* the end of it */
};

/* run(steps, arg) in a child, which exits when it returns. `seconds`: then it counts as hanging. */
void attempt_run(struct attempt *a, void (*run)(const struct steps *, void *), const struct steps *s, void *arg,
                 unsigned seconds);

/*
 * The same, and if it fails: shrink it to the fewest steps that fail at the same place, within `budget` runs,
 * print how these fail, with the command that repeats it, and fail the case. A list of --only-steps is run as it
 * is.
 */
void attempt_or_shrink(void (*run)(const struct steps *, void *), void *arg, unsigned nsteps, unsigned seconds,
                       unsigned budget);

#endif
