/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The per-thread error text that the public API hands out. */
#ifndef ENGINE_ERROR_H
#define ENGINE_ERROR_H

#include <assert.h>
#include <stdbool.h>

#include "engine/base/bits.h"
#include "engine/loop/after.h"

/* One line, and nothing that moves a terminal's cursor: names out of images and from users are in it. */
void err_make_printable(char *text);

/*
 * Set the text (one line: the file, the thing, what is wrong) and clear the hint; returns -|err|, so that a
 * failing function reads `return err_set(EINVAL, "%s: ...", name);`.
 */
int err_set(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Add what to do about it to the error just set. Returns err unchanged. */
int err_hint(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "PREFIX: " before the text just set (when a caller knows better whom it concerns). Returns err. */
int err_prefix(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Add to the text just set (what a failure has left behind, say). */
void err_append(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * What one can do about an errno, as the hint of an error that has none. Returns err. The second is for errors
 * that are certainly the host's.
 */
int err_advise(int err);
const char *err_advice(int err); /* the words alone; "": none */
int err_advise_host(int err);

void err_clear(void);

/* Text and hint are put aside, and come back. */
struct err_saved {
    char text[1024], hint[512];
    bool is_set;
};

void err_save(struct err_saved *ret);
void err_restore(const struct err_saved *saved);

/*
 * Every public function that returns int wraps its work in ERR_CALL(): afterwards there is the text of this call
 * if it failed, and none if it did not, whatever was tried on the way. The library calls public functions itself,
 * when it cleans up too: those within another leave the text alone.
 */
struct err_state {
    unsigned depth;  /* public calls within one another */
    bool     is_set; /* there is a text or a hint */
    bool     is_due; /* the host program is to be told something: engine/loop/after.h */
    bool     is_urgent; /* and who waits returns for that */
};

extern HIDDEN _Thread_local struct err_state err_state;

static inline void err_enter(void)
{
    if (err_state.depth++ == 0 && err_state.is_set)
        err_clear();
}

static inline int err_leave(int rc)
{
    assert(err_state.depth > 0);
    if (--err_state.depth > 0)
        return rc;
    assert(rc >= 0 || err_state.is_set); /* who fails says why */
    if (rc >= 0 && err_state.is_set)
        err_clear();
    if (__builtin_expect(err_state.is_due, 0))
        after_run();
    return rc;
}

#define ERR_CALL(result) (err_enter(), err_leave(result))

/* The same for what is called to clean up after a failure: success leaves the text of that as it was. */
#define ERR_KEEP(result) (result)

#endif
