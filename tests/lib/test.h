/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The runner of the bigger tests: a program is a table of cases; each case, and each repetition of one, runs in a
 * process of its own, so that a crash, a hang or a leak is one case's.
 *
 * One seed, one run: all randomness comes from test_rng(). The seed is VDISK_SEED or --seed, or else always the
 * same, so that a commit passes or fails by what it is and not by luck; VDISK_SEED=new and long runs take a new
 * one. A failure prints the command that runs the same case again.
 *
 * Exit status of a program: 0 all passed, 1 some failed, 77 nothing ran (the reason is printed).
 */
#ifndef TESTS_LIB_TEST_H
#define TESTS_LIB_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/vdisk.h"
#include "tests/lib/rng.h"

struct test_case {
    const char *name;
    void (*run)(void);
    unsigned repeat; /* runs, each with a seed of its own: "name#0", "name#1", ...; 0: once */
    unsigned quick;  /* runs where VDISK_TEST_QUICK is set; 0: as repeat */
    unsigned lengthy; /* runs where VDISK_TEST_LONG is set; 0: as repeat */
};

/* Runs what the command line asks for (--help tells); returns the exit status. */
int test_main(int argc, char **argv, const struct test_case *cases, unsigned n);

/* ---- for use inside a case -------------------------------------------------------------------------- */

/* The case's own generator. */
struct rng *test_rng(void);

/* The run's: for what cases share. */
uint64_t test_seed(void);

/* Which repetition this is, from 0. */
unsigned test_repetition(void);

/* `n` steps, or what --steps says, or a fifth of it in a quick run. */
unsigned test_steps(unsigned n);

/* What --only-steps says ("3,17,40-52"), for cases whose steps can be left out; NULL: all. */
const char *test_only_steps(void);

/* From here on a failure's command says --only-steps `list`. */
void test_set_only_steps(const char *list);

/* More of what is random: VDISK_TEST_LONG is set. */
bool test_is_long(void);

/* The same of VDISK_TEST_QUICK. */
bool test_is_quick(void);

/* Whether this program was built with a sanitizer that makes it several times slower. */
bool test_is_slow(void);

/*
 * Of scenes that differ in what one thread does, each `n`th under ThreadSanitizer, by the seed which: what it
 * looks for is how threads meet, which is the same in all of them. Every other build runs all. For loops:
 * for (i = test_share_first(n); i < all; i += test_every(n)).
 */
unsigned test_every(unsigned n);
unsigned test_share_first(unsigned n);

/* Where two pieces of memory differ first; UINT64_MAX: nowhere. Sanitizers make a loop over bytes expensive. */
uint64_t test_difference(const void *a, const void *b, uint64_t len);

/* A directory for this case's files, on a file system with O_DIRECT where TMPDIR is; removed afterwards. */
const char *test_dir(void);

/* "DIR/NAME" in a static ring of buffers: good for a few more calls. */
const char *test_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The same in a directory that all cases of this run share. */
const char *test_shared_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* What the case is at (an image's options, say): printed if it fails. Replaces the note before. */
void test_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* End the case: skipped, because ... */
_Noreturn void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Skip unless the program is installed. */
void test_requires(const char *program);

/* End the case: failed. Any thread. */
_Noreturn void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(cond)            \
    do {                       \
        if (!(cond))           \
            FAIL("%s", #cond); \
    } while (0)

#define CHECK_MSG(cond, ...)   \
    do {                       \
        if (!(cond))           \
            FAIL(__VA_ARGS__); \
    } while (0)

#define CHECK_INT(got, want)                                          \
    do {                                                              \
        long long got_ = (long long)(got), want_ = (long long)(want); \
        if (got_ != want_)                                            \
            FAIL("%s is %lld, not %lld", #got, got_, want_);          \
    } while (0)

/* A call that must succeed: not negative. */
#define CHECK_OK(call)                                                           \
    do {                                                                         \
        long long rc_ = (long long)(call);                                       \
        if (rc_ < 0)                                                             \
            FAIL("%s: %s (%s)", #call, strerror((int)-rc_), vdisk_error_text()); \
    } while (0)

/* A text contains another. */
#define CHECK_HAS(text, part)                      \
    do {                                           \
        const char *text_ = (text);                \
        if (!strstr(text_, (part)))                \
            FAIL("no '%s' in: %s", (part), text_); \
    } while (0)

/* malloc that ends the case rather than return NULL. Zeroed. */
void *test_alloc(size_t size);

#endif
