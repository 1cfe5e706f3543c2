/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage domains: a folder with images of one or more volumes, in Vdsm's layout of versions 3 to 5. This is the
 * room's only door.
 */
#ifndef TOOLS_DOMAIN_DOMAIN_H
#define TOOLS_DOMAIN_DOMAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vdisk-image.h>

enum {
    DOMAIN_UUID = 37, /* with the NUL */
    DOMAIN_GENERATIONS = 1000,
    DOMAIN_TEXT = 512,
};

#define DOMAIN_BLANK "00000000-0000-0000-0000-000000000000" /* no parent */

enum domain_format { DOMAIN_RAW, DOMAIN_COW };
enum domain_allocation { DOMAIN_PREALLOCATED, DOMAIN_SPARSE };
enum domain_role { DOMAIN_LEAF, DOMAIN_INTERNAL, DOMAIN_SHARED };
enum domain_legality { DOMAIN_LEGAL, DOMAIN_ILLEGAL, DOMAIN_FAKE };

/* What the metadata of a volume says. */
struct domain_meta {
    enum domain_format     format;
    enum domain_allocation allocation;
    enum domain_role       role;
    enum domain_legality   legality;
    uint64_t               capacity;
    uint64_t               ctime;      /* seconds since 1970 */
    uint64_t               mtime;
    uint64_t               sequence;
    unsigned               generation; /* below DOMAIN_GENERATIONS */
    bool                   has_capacity, has_size, has_mtime, has_sequence; /* keys that are written: by version */
    char                   disk_type[8];
    char                   domain[DOMAIN_UUID];
    char                   image[DOMAIN_UUID]; /* of a shared volume: that of the template */
    char                   parent[DOMAIN_UUID];
    char                   description[DOMAIN_TEXT + 1];
    char                   extra[DOMAIN_TEXT + 1]; /* keys that we do not know, a line each */
};

/* As in metadata. Static. */
const char *domain_format_name(enum domain_format f);
const char *domain_allocation_name(enum domain_allocation a);
const char *domain_role_name(enum domain_role r);
const char *domain_legality_name(enum domain_legality l);

/* What DISKTYPE may be. */
bool domain_is_disk_type(const char *text);

#endif
