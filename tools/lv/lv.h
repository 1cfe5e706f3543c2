/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images on logical volumes, without a storage domain: for stacks that keep qcow2 on plain volumes of a group.
 * This is the room's only door.
 *
 * All functions that return int give 0 or -errno, with vdisk_error_text() and vdisk_error_hint(). They block. A
 * struct lv is used by one thread at a time. Sizes are bytes; those of volumes are rounded up to extents.
 *
 * Who changes a group is its only writer meanwhile (tools/lvm/lvm.h); others of ours wait. What is half-made has
 * the tag LV_UNFINISHED: each call that looks at the group tells of such volumes (lv_how.note), and lv_create() or
 * lv_snapshot() of the same name makes it anew. All else is one write of lvm's metadata, and has happened or not.
 */
#ifndef TOOLS_LV_LV_H
#define TOOLS_LV_LV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vdisk-image.h>

#define LV_UNFINISHED "VDISK_UNFINISHED"
#define LV_CHUNK      (UINT64_C(2560) << 20) /* that a thin volume begins with, if it can take so much */

struct lv;

struct lv_how {
    void (*note)(void *arg, const char *text); /* something that is no error; NULL: nobody is told */
    void *note_arg;
    int (*run)(vdisk_job *job); /* NULL: vdisk_job_run() */
};

/* "VG/LV", or "/dev/VG/LV". No process is run. *ret is the caller's, for lv_close(). -EINVAL: no such name. */
int lv_open(const char *name, const struct lv_how *how, struct lv **ret);
void lv_close(struct lv *lv);

const char *lv_name(const struct lv *lv); /* VG/LV */
const char *lv_path(const struct lv *lv); /* /dev/VG/LV */

/* ---- new ones ------------------------------------------------------------------------------------------- */

struct lv_create {
    const struct vdisk_create_opts *image; /* without a backing file, a data file and preallocation */
    bool preallocated;     /* space for all that can be written to it, metadata included; raw always has it */
    bool has_initial_size; /* a thin one begins with that, and with no less than it has to */
    uint64_t initial_size;
    bool dry_run; /* judge it, and change nothing */
};

struct lv_made {
    uint64_t virtual_size; /* of raw: the volume's */
    uint64_t size, extents, extent_size;
    uint64_t required, fully_allocated; /* as vdisk_measure() says */
    bool anew;                          /* a half-made one of that name goes before */
};

/*
 * A volume with an image; it is active afterwards. Failed: it is not there. -EEXIST, -ENOSPC; of vdisk_measure()
 * and vdisk_create(); -EPERM: the group is a storage domain.
 */
int lv_create(struct lv *lv, const struct lv_create *o, struct lv_made *ret);

struct lv_backing {
    const char *format; /* of the volume below: it is not guessed */
    const char *name;   /* by which the image names it; NULL: its path, /dev/VG/LV */
};

/*
 * A qcow2 volume `name` of the same group ("NEW", or as for lv_open()) on an existing one, which may be in use;
 * its virtual size is taken where `o->image` has UINT64_MAX. *ret_lv is the new one's, for lv_close(); it is set
 * also with `dry_run`. Both are active afterwards. -EINVAL: what is below is not of that format, or larger.
 */
int lv_snapshot(struct lv *lv, const char *name, const struct lv_create *o, const struct lv_backing *below,
                struct lv_made *ret, struct lv **ret_lv);

/* ---- space ---------------------------------------------------------------------------------------------- */

struct lv_space {
    uint64_t before, after; /* sizes of the volume; dry_run: as they would be */
    uint64_t asked;         /* before it was rounded up */
    uint64_t extents, extent_size;
};

struct lv_extend {
    const char *format; /* NULL: look */
    uint64_t size;      /* 0: what the image takes when all of it is written; raw has to be given one */
    bool by;            /* larger by `size` */
    bool dry_run;
};

/* Beside who has it open. -EINVAL: it is larger, or would be larger than the image can use; -ENOSPC. */
int lv_extend(struct lv *lv, const struct lv_extend *o, struct lv_space *ret);

struct lv_reduce {
    bool dry_run; /* what is leaked is not freed then, and counts as in use */
    vdisk_progress_fn *progress;
    void *progress_arg;
};

/*
 * A qcow2 volume ends with the extent in which the image does. Nobody has it open, or that is an error (-EAGAIN).
 * -EINVAL: it is raw; -EBADMSG: it is damaged.
 */
int lv_reduce(struct lv *lv, const struct lv_reduce *o, struct lv_space *ret);

/* ---- what there is -------------------------------------------------------------------------------------- */

struct lv_info {
    const char *format; /* static; NULL: it is half-made, and there is no image */
    char *backing;      /* as the image names it; NULL: none */
    uint64_t virtual_size;
    uint64_t allocated;       /* the end of what is used last; raw: all of it */
    uint64_t fully_allocated; /* that it takes when all of it is written */
    uint64_t size, extents, extent_size, used_extents;
    uint8_t *used;        /* a bit for each extent, the lowest of a byte first */
    uint64_t corruptions; /* that were found; with a writer at work they may be none */
    bool active;          /* before it was looked at */
    bool unfinished;
};

/* `format`: NULL: look. It may be in use: then it is what the storage had. For lv_info_free(). */
int lv_info(struct lv *lv, const char *format, struct lv_info *ret);
void lv_info_free(struct lv_info *info);

/* For tests: called at each step, by its name. NULL: nobody is. */
void lv_set_step_hook(void (*fn)(const char *name));

#endif
