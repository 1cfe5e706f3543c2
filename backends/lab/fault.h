/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backend around another, for tests: chosen calls fail, come short, or come late.
 *
 *     struct fault_rule rule = {.kinds = FAULT_KIND(IO_WRITE), .state = "AW_DATA_WRITTEN", .nth = 1,
 *                               .what = FAULT_FAIL, .error = EIO};
 *     fault_add_rule(b, &rule);
 *
 * Any thread may add rules and read counters while I/O is on.
 */
#ifndef BACKENDS_FAULT_H
#define BACKENDS_FAULT_H

#include "engine/backend.h"

#define FAULT_KIND(kind) (1u << (kind))
/* All that change something. */
#define FAULT_WRITES                                                                                           \
    (FAULT_KIND(IO_WRITE) | FAULT_KIND(IO_ZERO) | FAULT_KIND(IO_DISCARD) | FAULT_KIND(IO_ALLOCATE) |           \
     FAULT_KIND(IO_TRUNCATE))

enum fault_what {
    FAULT_FAIL,       /* the child never sees it; ends with -error */
    FAULT_FAIL_AFTER, /* carried out, and ends with -error all the same */
    FAULT_SHORT,      /* IO_READ, IO_WRITE: `bytes` are moved; the engine asks for the rest: another call */
    FAULT_LATE,       /* the child sees it late */
    FAULT_LATE_END,   /* carried out at once, ends late */
};

/* Which calls (all that is set must match), and what happens to them. The first rule that matches decides. */
struct fault_rule {
    uint32_t        kinds;       /* FAULT_KIND() of each; 0: any */
    uint64_t        offset, len; /* touches this range; len 0: any. Flushes and truncations touch none. */
    const char     *type;        /* of the op that waits for it; NULL: any, or none. Must stay valid. */
    const char     *state;       /* in which that op awaits it. Same. */
    unsigned        nth;         /* the nth call that matches, from 1; 0: every one */
    unsigned        count;       /* with nth: this many in a row; 0: 1 */
    _Atomic uint64_t *matched;   /* counted here instead, for rules on several backends; NULL, or stays valid */

    enum fault_what what;
    int             error;       /* FAIL, FAIL_AFTER: an errno */
    uint64_t        bytes;       /* SHORT: rounded down to the alignment; 0: half. Shorter calls pass. */
    unsigned        calls;       /* LATE: until so many more came, or none for a while; 0: fault_release() */
};

/* Wrap `child`; it becomes the new backend's, to be closed with it. On failure (-ENOMEM) it stays the caller's. */
int fault_backend_create(struct backend *child, struct backend **ret_backend);

struct backend *fault_backend_child(struct backend *b);

/* Returns the rule's number, for fault_rule_fired(), or -ENOMEM. The rule is copied. */
int fault_add_rule(struct backend *b, const struct fault_rule *rule);

/* Forget all rules, and release what is held. Counters stay. */
void fault_clear(struct backend *b);

/* Let all go on that LATE rules hold, in the order in which it came. */
void fault_release(struct backend *b);

/* How often the rule did something to a call; all rules since the start, also those that are gone. */
unsigned fault_rule_fired(struct backend *b, int number);
uint64_t fault_fired(struct backend *b);

/* Calls seen so far, of one kind and of all. */
uint64_t fault_calls(struct backend *b, unsigned kind);
uint64_t fault_all_calls(struct backend *b);

/* Calls that are held now. */
unsigned fault_held(struct backend *b);

#endif
