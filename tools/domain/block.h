/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the block kind share: a volume group as it was when it was looked at last. */
#ifndef TOOLS_DOMAIN_BLOCK_H
#define TOOLS_DOMAIN_BLOCK_H

#include <limits.h>

#include "tools/domain/kind.h"
#include "tools/lvm/lvm.h"

#define BLOCK_RUN_DIR "/run/vdisk-io"

/* The metadata of a domain, as tags of its group. */
enum { BLOCK_TAGS = 64 };

struct block_tags {
    char       (*text)[TEXT_TAG_MAX];
    const char  *list[BLOCK_TAGS + 2]; /* ends with NULL; there is room for one more */
    size_t       count;
};

/* ---- block_tags.c: the domain's metadata ----------------------------------------------------------------- */

/* With the checksum. For block_tags_free(), also when it fails. */
int block_tags(const struct text_domain *md, struct block_tags *ret);
void block_tags_free(struct block_tags *tags);

/* In place of those that the group has, by one write of lvm's. */
int block_write_domain(struct domain *d, const char *text, size_t len);

/* A logical volume, beside lvm's own facts. */
struct block_lv {
    const struct lvm_lv *lv;
    struct text_lv       is;
    bool                 asked;              /* its metadata was looked at for */
    char                 below[DOMAIN_UUID]; /* its parent: by its metadata, where that can be read */
};

struct block_state {
    struct lvm       *lvm;
    struct lvm_report report;
    bool              fresh; /* nothing has been changed since */
    bool              known; /* it was there once */
    unsigned          version;
    struct block_lv  *list;  /* sorted by name */
    size_t            count;
    int               slots; /* a descriptor of the volume "metadata"; -1: it is not open */

    /* A volume that is to be made: its intent waits for its data, since tags are of what is there. */
    char   intent_of[DOMAIN_UUID];
    char   intent[TEXT_VOLUME_MAX + 1];
    size_t intent_len;

    unsigned locks;             /* that are held by the domain */
    int      active;            /* a descriptor of the file for locks on what is active; -1 */
    char   (*used)[DOMAIN_UUID]; /* volumes that are to be active */
    size_t   used_count;
};

/* ---- block_state.c: the group -------------------------------------------------------------------------- */

/* The domain's state, made where there is none yet. */
int block_open(struct domain *d);
void block_free(struct domain *d);

/* The group as it is now, unless it is known. */
int block_refresh(struct domain *d);

/* It has been changed. */
void block_stale(struct domain *d);

const struct lvm_vg *block_vg(const struct domain *d);

/* After block_refresh(). NULL: there is none. */
struct block_lv *block_find(const struct domain *d, const char *volume);

/* "_remove_me_IMAGE", or with ZERO_, is what is left of an image that was deleted. Returns IMAGE. */
const char *block_take_apart(const char *image, bool *ret_removed);

/* An image is deleted as a whole as soon as one of its volumes says so. */
bool block_is_going(const struct domain *d, const char *image);

/* Of what is left of it one volume says that it is to be overwritten before it goes: so all of it is. */
bool block_is_wiped(const struct domain *d, const char *image);

/* It is of the image by the name that this has; what is `removed` is of "_remove_me_..." */
bool block_is_of(const struct domain *d, const struct block_lv *b, const char *image, bool removed);

/* It has a slot, and no other volume has the same one. */
bool block_slot_is_own(const struct domain *d, const struct block_lv *b);

/* -ENOTBLK: a file, say, is in the volume's place. *ret_fd stays as it is on failure. */
int block_open_device(const char *path, int flags, int *ret_fd);

/* The folder for locks, and what is of this host alone; `name` may be "". -errno with text. */
int block_run_path(const struct domain *d, const char *name, char ret[PATH_MAX]);

/* ---- block_meta.c: metadata ------------------------------------------------------------------------------ */

int block_read_slot(struct domain *d, unsigned slot, char ret[TEXT_SLOT_SIZE]);
int block_write_slot(struct domain *d, unsigned slot, const char *text, size_t len); /* durable; NULs follow */

/* The lowest that no volume has. -ENOSPC. The group's writer calls it, after block_refresh(). */
int block_free_slot(const struct domain *d, unsigned *ret);

/* What a volume lies on; "": nothing of which that is known. */
const char *block_below(struct domain *d, struct block_lv *b);

int block_read_meta(struct domain *d, const char *image, const char *volume, char buf[TEXT_VOLUME_MAX + 1],
                    size_t *ret_len);
int block_write_meta(struct domain *d, const char *image, const char *volume, const char *text, size_t len);

/* The volumes that an image has of others: templates. Calls `fn` for each of its own and of these, once. */
typedef int block_visit_fn(void *arg, struct block_lv *b);
int block_visit_chain(struct domain *d, const char *image, block_visit_fn *fn, void *arg);

/* Tags of parents that are not what metadata says. */
int block_check(struct domain *d, const char *image, struct dom_mend *m);

/* ---- block_shares.c: who else has a volume ---------------------------------------------------------------- */

/* How many images, other than `image`, have a volume that lies on this one. */
unsigned block_count_users(struct domain *d, const struct block_lv *below, const char *image);

int block_count_shares(struct domain *d, const char *image, const char *volume, bool published, unsigned *ret);
int block_share(struct domain *d, const char *image, const char *volume, const char *to_image);
int block_find_volume(struct domain *d, const char *volume, const char *except, char ret_image[DOMAIN_UUID]);

/* ---- block_lock.c: see struct dom_kind ---------------------------------------------------------------------- */

int block_lock(struct domain *d, const struct dom_lock_wish *images, unsigned n, int *ret_lock);
int block_lock_alone(struct domain *d, int lock, const char *image);
int block_lock_domain(struct domain *d, int *ret_lock);
void block_unlock(struct domain *d, int lock);

/* ---- block_lease.c: leases of sanlock ----------------------------------------------------------------------- */

/* Around each change of the group's metadata: lvm_begin(), with the domain's own lease. */
int block_begin(struct domain *d);

/* -EBUSY: an SPM of Vdsm's may change it at any time, and asks for no lease. */
int block_judge_pool(struct domain *d);
void block_end(struct domain *d);

int block_find_lease(struct domain *d, enum dom_lease which, const char *image, const char *volume,
                     struct sanlock_place *ret);
int block_read_host(struct domain *d, unsigned host, unsigned char ret[TEXT_HOST_SIZE]);
int block_open_leases(struct domain *d, bool open);

/* ---- block_upgrade.c ------------------------------------------------------------------------------------- */

int block_begin_upgrade(struct domain *d, unsigned *ret_block_size);
int block_write_next(struct domain *d, const char *image, const char *volume, const char *text, size_t len);
int block_end_upgrade(struct domain *d);

/* ---- block_active.c: who uses what ------------------------------------------------------------------------ */

int block_activate(struct domain *d, const char *image);
int block_keep_active(struct domain *d, const char *image, bool active);

/* Nobody puts it to rest meanwhile: who is about to is waited for. Not as the group's writer. */
int block_use(struct domain *d, const char *volume);

/* A volume that was made active just now. */
int block_note_active(struct domain *d, const char *volume);

/* It is about to go. Was it noted? And: it has not gone; whoever uses it next puts it to rest. */
bool block_drop_note(struct domain *d, const char *volume);
int block_put_note(struct domain *d, const char *volume);

/* It has gone. */
void block_forget_active(struct domain *d, const char *volume);

/* What was activated, and is used by nobody else, is put to rest. */
void block_rest(struct domain *d);

/* ---- block_grow.c ------------------------------------------------------------------------------------------ */

/* See struct dom_kind. */
int block_grow(struct domain *d, const char *image, const char *volume, uint64_t bytes, uint64_t *ret);

#endif
