/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One image: made, damaged, read, written to, read again, judged. In a simulated machine, on memory. */
#ifndef TESTS_FOREIGN_LIFE_H
#define TESTS_FOREIGN_LIFE_H

#include "tests/foreign/field.h"
#include "tests/foreign/qemu.h"
#include "tests/foreign/scribe.h"
#include "tests/foreign/walk.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/shrink.h"

enum {
    LIFE_DAMAGES = 4,
    LIFE_CHANGES = 8,
    LIFE_STEPS = HABITS + LIFE_DAMAGES + LIFE_CHANGES, /* what can be left out of one */
    LIFE_READ_MAX = 4 << 20,
    LIFE_BASE = 96 << 10,
};

/* Images that others have made, in memory. */
struct life_made {
    char name[64];
    uint8_t *bytes;
    uint64_t len;
};

enum { LIFE_MADE_MAX = 32 };

/* Fill in up to LIFE_MADE_MAX of them; how many. */
unsigned life_make(struct life_made *made);

/* What was seen, over all images. In memory that processes share. */
struct life_totals {
    _Atomic uint64_t images, damages, unreadable, refused, written, failed, corrupt, unjudged, excepted, repaired,
        unrepaired, amended, compared, peer_refuses, peer_lost;
    char peer_why[QEMU_WHY]; /* how it was lost, the last time */
};

/* What guest sectors read as. */
enum life_state {
    LIFE_UNREAD,  /* could not be read at first, or is not looked at */
    LIFE_FIRM,    /* what `content` says */
    LIFE_OR_ZERO, /* or zero */
    LIFE_LOOSE,   /* anything */
};

struct life {
    uint64_t seed;
    const struct life_made *made;
    unsigned nmade;
    struct life_totals *totals;
    bool verbose;
    const char *peer, *peer_daemon; /* qemu-img and QEMU's storage daemon, or NULL */
    bool peer_checks;               /* ask QEMU's check, too */

    /* Its own. */
    const struct steps *steps;
    struct sim *sim;
    struct memdisk disk;
    uint8_t *bytes; /* as it was before the library saw it */
    uint64_t len, tail;
    uint8_t *opened; /* when it had been opened for writing */
    uint64_t opened_len;
    struct walk walk;         /* of `opened` */
    uint8_t *content, *state; /* by sector */
    uint64_t sectors, size;
    uint8_t *ours;      /* clusters of the file that writes may change: by cluster */
    uint16_t *given_up; /* by how many guest clusters that were written to: by cluster of the file */
    uint8_t *touched;   /* guest clusters that were written to */
    uint64_t guests;
    uint8_t *peer_ok; /* sectors that QEMU could read at first */
    bool leaks_kept; /* a repair has said so */
    uint32_t habits;
    bool usable; /* nothing of it is damaged, and what is odd keeps nobody from writing to it */
    bool opens, writable, was_clean, grew;
    char text[4096];
};

/* The whole of it; fails the case where something is wrong. */
void life_run(const struct steps *steps, void *life);

/* ---- of its parts ------------------------------------------------------------------------------------------ */

/* Add a line to what is printed with a failure. */
void life_say(struct life *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Take the disk's bytes; the caller's to free. */
uint8_t *life_bytes(struct life *l, uint64_t *ret_len);

/* What the base file reads as. */
const uint8_t *life_base(void);

/* A handle on a disk, in the simulation. */
struct backend *life_open(struct life *l, struct memdisk *d, bool read_only);

/* Sectors of the disk into buf; ok: which could be read. False: it cannot be opened. */
bool life_read(struct life *l, struct memdisk *d, uint64_t sectors, uint8_t *buf, uint8_t *ok);

/* repair.c: on a copy. */
void life_repair(struct life *l);

/* What could be read reads the same on that disk, after what is said of it; but for what shows tables. */
void life_compare(struct life *l, struct memdisk *d, const char *after);

/* amend.c: on a copy. */
void life_amend(struct life *l);

/* peer.c: by QEMU on copies. */
void life_peer_look(struct life *l);
void life_peer_end(struct life *l, const uint8_t *after, uint64_t len);

/* judge.c */
void life_look(struct life *l);         /* read all, as it is at first */
void life_judge_opened(struct life *l); /* before the first change */
void life_touch(struct life *l, uint64_t offset, uint64_t len);
void life_watch(struct life *l);     /* after each change */
void life_judge_end(struct life *l); /* closed */

#endif
