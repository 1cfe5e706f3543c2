/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vdisk-io, killed at a random time; and what must be true of the image afterwards. */
#ifndef TESTS_KILL_KILL_LIB_H
#define TESTS_KILL_KILL_LIB_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/history.h"
#include "tests/lib/image.h"

/* A random volume, up to 8 MiB, on a random image; its history, with what kill_content() says. */
struct kill_subject {
    struct image_spec spec;
    struct history h;
    uint8_t *base; /* the backing file's bytes, as long as the volume; or NULL */
    char base_path[PATH_MAX];
};

/* `limits`: enum image_limits. */
void kill_init(struct kill_subject *s, unsigned limits);
void kill_finish(struct kill_subject *s);

/* The byte that write number `version` consists of; neighbours do not share it. */
uint8_t kill_pattern(uint32_t version);

/* history_content_fn: `arg` is the subject. */
void kill_content(void *arg, uint32_t version, uint64_t offset, uint8_t *buf);

/*
 * Run `vdisk-io ARGUMENTS`, a shell's words, and let it come to its end; how long that took, in nanoseconds.
 * Fails the case if it fails.
 */
uint64_t kill_run_whole(const char *arguments);

/*
 * Run it, and kill it at a random time between its start and a little after `whole_ns`. Whether it was still
 * there to be killed; if not, it must have succeeded.
 */
bool kill_run(const char *arguments, uint64_t whole_ns);

/*
 * Wait until nobody holds locks on the image's files, if they are there: until the last of the killed process is
 * gone.
 */
void kill_wait_image(const struct image_spec *spec);

/* Neither our check nor QEMU's finds corruption. Leaks are fine. */
void kill_check(const struct image_spec *spec);

/*
 * Both; and all of the volume is as the history allows, except a gap, which need only be readable; and the
 * backing file is what it was. What is seen becomes the history's start.
 */
void kill_judge(struct kill_subject *s, uint64_t gap, uint64_t gap_len);

/* Print how many runs of the case were killed before their end. */
void kill_summary(void);

#endif
