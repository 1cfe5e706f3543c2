/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is written on disk in a storage domain, as text and bytes. Pure: no I/O, no state. Whatever comes in is
 * bounded and judged; what was read and not changed is written as it was.
 */
#ifndef TOOLS_DOMAIN_TEXT_H
#define TOOLS_DOMAIN_TEXT_H

#include "tools/domain/domain.h"

enum {
    TEXT_WHY = 160,                /* room for why something was refused */
    TEXT_VOLUME_MAX = 512,         /* bytes of a volume's metadata */
    TEXT_DESCRIPTION_MAX = 210,    /* characters of its description */
    TEXT_DOMAIN_MAX = 64 << 10,    /* bytes of a domain's metadata: of ours, a bound against what is none */
    TEXT_KEYS_MAX = 256,
    TEXT_XLEASES_SIZE = 62 * 4096, /* bytes of the index of external leases */
    TEXT_XLEASES_OWNER = 58,       /* of these: a magic number, a version, and whose it is */
    TEXT_SEAL = 41,                /* a SHA-1 as text, with its end */
};

/* ---- volumes ---------------------------------------------------------------------------------------- */

/*
 * `len` bytes, NULs at their end left out. 0; -ENODATA: the volume has been deleted, by an old program; -EBADMSG:
 * why is in `why`.
 */
int text_volume_parse(const char *text, size_t len, struct domain_meta *ret, char why[TEXT_WHY]);

/* Into `buf`, *ret_len bytes and a NUL. 0, or -EOVERFLOW: more than TEXT_VOLUME_MAX. */
int text_volume_format(const struct domain_meta *meta, char buf[TEXT_VOLUME_MAX + 1], size_t *ret_len);

/* One line of text that can stand in metadata: UTF-8 without control characters. */
bool text_is_line(const char *text);

/* ---- domains ---------------------------------------------------------------------------------------- */

struct text_pair {
    char *key, *value; /* one allocation, the key's */
};

struct text_domain {
    struct text_pair *list; /* sorted as lines are */
    size_t            count;
    bool              sealed; /* a checksum was there, and was right */
};

/* 0, -ENOMEM, or -EBADMSG with why: no text of keys and values, or a checksum that is wrong. */
int text_domain_parse(const char *text, size_t len, struct text_domain *ret, char why[TEXT_WHY]);

/* NULL: there is no such key. */
const char *text_domain_get(const struct text_domain *md, const char *key);

/* 0, -ENOMEM, or -EINVAL: the value is no line. */
int text_domain_set(struct text_domain *md, const char *key, const char *value);

/* With its checksum. *ret is the caller's, to be freed. 0, -ENOMEM. */
int text_domain_format(const struct text_domain *md, char **ret, size_t *ret_len);

/* What vouches for the pairs: SHA-1, as Vdsm computes it. */
void text_domain_seal(const struct text_domain *md, char seal[TEXT_SEAL]);

void text_domain_free(struct text_domain *md);

/* Before all else of libgcrypt. Any thread, any number of times. */
void text_init_gcrypt(void);

/* ---- volume groups ---------------------------------------------------------------------------------- */

enum {
    TEXT_SLOT_SIZE = 512,     /* bytes of a volume's metadata, padded with NULs */
    TEXT_SLOT_LAST = 1947,
    TEXT_TAG_MAX = 1024,      /* characters of a tag */
    TEXT_EXTENT = 128 << 20,  /* of a group that is made for a domain */
    TEXT_SPECIALS = 7,
};

#define TEXT_TAG_DOMAIN    "RHAT_storage_domain"
#define TEXT_TAG_UNREADY   "RHAT_storage_domain_UNREADY"
#define TEXT_TAG_PAIR      "MDT_"
#define TEXT_TAG_HALF_MADE "OVIRT_VOL_INITIALIZING"
#define TEXT_TAG_IMAGE     "IU_"
#define TEXT_TAG_PARENT    "PU_"
#define TEXT_TAG_SLOT      "MD_"
/*
 * Ours, which Vdsm does not look at: a volume that is merged into its parent; one whose image goes, as a whole;
 * one that goes, and is to be overwritten before.
 */
#define TEXT_TAG_MERGED    "VDISK_MERGE"
#define TEXT_TAG_GOING     "VDISK_REMOVE"
#define TEXT_TAG_WIPE      "VDISK_WIPE"

/* Text as it can stand in a tag: "a b" is "a&32&b". -EINVAL: no UTF-8; -EOVERFLOW: it has no room. */
int text_tag_encode(const char *text, char *ret, size_t room);

/* And back. -EBADMSG, -EOVERFLOW. */
int text_tag_decode(const char *tag, char *ret, size_t room);

/* A logical volume, as its name and its tags say. */
struct text_lv {
    bool     special;             /* one of the domain's own: nothing else is set */
    bool     half_made, merged;
    bool     wipe;                /* half-made: it goes, and is overwritten before */
    bool     removed, wiped;      /* of a deleted image; it is to be overwritten before it goes */
    bool     going;               /* with all that is of the same image */
    bool     volume;              /* its name is a UUID */
    char     image[DOMAIN_UUID];  /* "": none is said */
    char     parent[DOMAIN_UUID]; /* "": the same */
    unsigned slot;                /* 0: none */
};

void text_lv_parse(const char *name, char *const *tags, size_t count, unsigned version, struct text_lv *ret);

/* Slots of metadata: the first one, and where one lies in the volume that is called so. */
unsigned text_slot_first(unsigned version);
uint64_t text_slot_offset(unsigned version, unsigned slot);

/* In the order in which they are made. `size` is rounded up to extents by who makes them. */
struct text_special {
    const char *name;
    uint64_t    size;
    uint64_t    zeros; /* bytes at its start that are to be zeros */
};

extern const struct text_special text_specials[TEXT_SPECIALS];

/* Rounded up to extents, which need be no power of two. UINT64_MAX: there are no such sizes. */
uint64_t text_extents(uint64_t size, uint64_t extent);

/* ---- leases ----------------------------------------------------------------------------------------- */

enum { TEXT_HOST_SIZE = 512, TEXT_HOST_NAME = 49 };

/* Is this the first note on a host of a lockspace: so there is one? */
bool text_is_hosts(const unsigned char sector[TEXT_HOST_SIZE]);

/* What a host is called by its note; "": there is none. Printable. */
void text_host_name(const unsigned char sector[TEXT_HOST_SIZE], char ret[TEXT_HOST_NAME]);

/* In a volume group: where in "leases" that of the volume with a slot lies. `align`: bytes. */
uint64_t text_lease_offset(unsigned slot, unsigned align);

/* ---- exports ---------------------------------------------------------------------------------------- */

enum { TEXT_MOUNT = 4096, TEXT_MOUNT_LINE = 3 * TEXT_MOUNT };

/* Does it name an export, "server:/path", "[::1]:/path"? */
bool text_is_export(const char *text);

/* A line of /proc/self/mountinfo: is it of NFS, and what is mounted where? */
bool text_parse_mount(const char *line, char source[TEXT_MOUNT], char point[TEXT_MOUNT]);

/* The folder that Vdsm mounts an export at. -ENAMETOOLONG. */
int text_mount_point(const char *source, char *ret, size_t room);

/* ---- others ----------------------------------------------------------------------------------------- */

/* Lower case, 8-4-4-4-12. */
bool text_is_uuid(const char *text, size_t len);

/* Sixteen random bytes as a UUID of version 4. */
void text_uuid(const unsigned char random[16], char uuid[DOMAIN_UUID]);

/* The formatted index of no external leases; `mtime` in seconds. */
void text_xleases(const char *lockspace, uint64_t mtime, unsigned char ret[TEXT_XLEASES_SIZE]);

#endif
