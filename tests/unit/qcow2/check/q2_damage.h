/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images broken by hand, one kind of damage each, for the tests of check and repair. */
#ifndef TESTS_UNIT_Q2_DAMAGE_H
#define TESTS_UNIT_Q2_DAMAGE_H

#include <stdint.h>

#include "qcow2/format/header.h"

struct damaged {
    int              fd;
    uint64_t         size;
    struct q2_header h;
};

/* What fills clusters that the damage "leaks-beside-what-is-not-ours" has put into the file. */
enum { DAMAGE_NOT_OURS = 0x77 };

enum damage_base { PLAIN, SNAPSHOT, BITMAP, EXTENDED, DATA_FILE, VERSION_2 };

struct damage {
    const char *name;
    enum damage_base base;
    void (*make)(struct damaged *im);
    unsigned    corruptions, leaks, errors;
    int         after_leaks, after_all; /* exit codes of qemu-img check: after repair */
    const char *differs; /* why QEMU says something else; NULL: it says the same */
};

extern const struct damage damages[];
extern const unsigned damages_count;

/* Make an image at `path`, by QEMU, and break it. */
void damage_make(const struct damage *d, const char *path);

/* The two by themselves; the image is the damage's base. */
void damage_make_base(enum damage_base base, const char *path);
void damage_break(const struct damage *d, const char *path);

#endif
