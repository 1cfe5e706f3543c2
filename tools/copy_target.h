/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of images where a verb of domains takes them: what it reads, and where it copies to. */
#ifndef TOOLS_COPY_TARGET_H
#define TOOLS_COPY_TARGET_H

#include "tools/noun.h"
#include "tools/target.h"

/* "nbd:...", "rbd:...", "file:...", "json:...": is it certainly no path, and so no domain? */
bool copy_is_name(const char *operand);

/* Open what a verb reads; `format` as for vdisk_open(). CLI_OK, or CLI_FAILED: told. */
int copy_open_source(const struct noun *n, const char *operand, const char *format, vdisk **ret);

struct copy_target {
    const struct noun    *noun;
    const char           *format;  /* of what is made */
    const char           *operand;
    char                 *name;    /* as for vdisk_open() */
    bool                  is_there; /* a volume of a domain, or what options say */
    bool                  said;    /* an error was printed */
    vdisk                *volume;
    struct target         target;
    struct domain_target  how;     /* for the domain */
};

/*
 * By its name; nothing is opened before `how` is called, which makes an image of that format (NULL: raw) anew, as
 * convert does, but for "volume:" and "json:", which are there, and say their format. CLI_OK, or CLI_FAILED: told.
 */
int copy_target_begin(struct copy_target *t, const struct noun *n, const char *operand, const char *format);

/*
 * After the copy, which gave `rc`: the image counts from now on; or it is gone, if it was made. Returns a code of
 * the command line: an error was printed.
 */
int copy_target_end(struct copy_target *t, int rc);

#endif
