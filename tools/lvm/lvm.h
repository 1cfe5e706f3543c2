/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volume groups, by the `lvm` command: what there is, and changes of it. This is the room's only door.
 *
 * One process is run for n objects. It gets the devices of the group by --devices, and a configuration that does
 * not depend on what the host filters. Where the kernel has no device-mapper only metadata is changed: nothing can
 * be active then.
 *
 * All functions that return int give 0 or -errno, with vdisk_error_text(): one line, with lvm's own reason.
 * -ENOTSUP: there is no lvm, or, where something is to be active, no device-mapper. They block. A struct lvm is
 * used by one thread at a time. Sizes are bytes.
 */
#ifndef TOOLS_LVM_LVM_H
#define TOOLS_LVM_LVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LVM_NAME = 129, LVM_ID = 40, LVM_PATH = 256, LVM_WHY = 160 };

/* ---- what there is ------------------------------------------------------------------------------------ */

struct lvm_tags {
    char **list; /* one allocation with its texts */
    size_t count;
};

struct lvm_pv {
    char     name[LVM_PATH]; /* of the device; "[unknown]", or the like: it is missing */
    char     uuid[LVM_ID];
    uint64_t size;           /* of the device */
    uint64_t start;          /* of its first extent */
    uint64_t extents, used_extents;
    unsigned metadata_copies; /* that are in use */
};

struct lvm_segment {
    uint64_t start, size;      /* within the volume */
    char     device[LVM_PATH]; /* "": it does not lie on one device */
    uint64_t extent;           /* the first one there */
};

enum lvm_active { LVM_INACTIVE, LVM_ACTIVE, LVM_ACTIVE_UNKNOWN /* there is no device-mapper */ };

struct lvm_lv {
    char                name[LVM_NAME];
    char                uuid[LVM_ID];
    uint64_t            size;
    struct lvm_tags     tags;
    enum lvm_active     active; /* when it was asked for */
    bool                open;   /* by anybody here, whatever name of the device he uses */
    struct lvm_segment *segments; /* by their start */
    size_t              segment_count;
};

struct lvm_vg {
    char            name[LVM_NAME];
    char            uuid[LVM_ID];
    uint64_t        extent_size, size, free;
    struct lvm_tags tags;
    struct lvm_pv  *pvs;
    size_t          pv_count;
    struct lvm_lv  *lvs; /* sorted by name */
    size_t          lv_count;
};

struct lvm_report {
    struct lvm_vg *vgs;
    size_t         count;
};

/* What `lvm fullreport` of ours has printed. 0, -ENOMEM, or -EBADMSG with why. Without I/O, and without text. */
int lvm_report_parse(const char *text, size_t len, struct lvm_report *ret, char why[LVM_WHY]);
void lvm_report_free(struct lvm_report *report);

bool lvm_has_tag(const struct lvm_tags *tags, const char *tag);

/* What follows `prefix` in the first tag that begins with it; NULL: none does. */
const char *lvm_tag_value(const struct lvm_tags *tags, const char *prefix);

/* NULL: there is none. */
const struct lvm_lv *lvm_find_lv(const struct lvm_vg *vg, const char *name);

/* lvm's own reason in what it has printed as errors: one line, without what only warns. `room` >= 1. */
void lvm_reason(const char *errors, char *ret, size_t room);

/* ---- a group ------------------------------------------------------------------------------------------- */

struct lvm;

struct lvm_how {
    const char        *command; /* the program; NULL: "lvm", by PATH */
    const char *const *devices; /* that it may use, ends with NULL; NULL: any, and then those of the group */
    const char        *run_dir; /* for locks; NULL: /run/vdisk-io */
};

/* No process is run. *ret is the caller's, for lvm_close(). `how` may be NULL; it is copied. */
int lvm_open(const char *vg, const struct lvm_how *how, struct lvm **ret);
void lvm_close(struct lvm *l);

/* All groups there are. For lvm_report_free(). */
int lvm_list(const struct lvm_how *how, struct lvm_report *ret);

/* The group as it is now: a report of one. For lvm_report_free(). -ENOENT: there is none of that name. */
int lvm_read(struct lvm *l, struct lvm_report *ret);

/* Does this kernel have a device-mapper? */
bool lvm_can_activate(void);

/* /dev/VG/LV, if that is a device: so it is active, here and now. */
bool lvm_is_active(const struct lvm *l, const char *lv);

/* Its device waits for somebody who is changing it, or was killed while he did. */
bool lvm_is_suspended(const struct lvm *l, const char *lv);

/* What its device has, which may be less than lvm says of it. It is active. */
int lvm_device_size(const struct lvm *l, const char *lv, uint64_t *ret);

/*
 * Who changes a group is its only writer between these two, among programs of ours; lvm's own locks hold off
 * others during each command. Waits. May be nested.
 */
int lvm_begin(struct lvm *l);
void lvm_end(struct lvm *l);
bool lvm_is_writer(const struct lvm *l);

/* ---- changes: between lvm_begin() and lvm_end() --------------------------------------------------------- */

struct lvm_new {
    const char        *name;
    uint64_t           size;   /* rounded up to extents */
    const char *const *tags;   /* ends with NULL; or NULL */
    const char        *device; /* of the group, that it is to lie on; NULL: any */
    bool               active; /* it is to be so afterwards */
};

/* Not zeroed: it holds what was there. -EEXIST, -ENOSPC, or -EIO. */
int lvm_create(struct lvm *l, const struct lvm_new *o);

/* `names`: of volumes, `n` of them. */
int lvm_remove(struct lvm *l, const char *const *names, size_t n);
int lvm_activate(struct lvm *l, const char *const *names, size_t n);
int lvm_deactivate(struct lvm *l, const char *const *names, size_t n); /* -EBUSY: one is open */

/* It has `size` bytes then, rounded up to extents; in use or not. -ENOSPC. */
int lvm_extend(struct lvm *l, const char *name, uint64_t size);
int lvm_reduce(struct lvm *l, const char *name, uint64_t size);

/* The devices of active ones are what lvm says of them, and not suspended. */
int lvm_refresh(struct lvm *l, const char *const *names, size_t n);

/*
 * Lists end with NULL, or are NULL. What is not there need not be removed. Each volume gets all of it at once.
 */
int lvm_retag(struct lvm *l, const char *const *names, size_t n, const char *const *add, const char *const *drop);
int lvm_retag_group(struct lvm *l, const char *const *add, const char *const *drop);

/* A host that starts does not activate its volumes. */
int lvm_never_activate(struct lvm *l);

/* ---- groups as a whole ----------------------------------------------------------------------------------- */

struct lvm_group {
    const char *const *devices;       /* ends with NULL; the first one has the metadata in use */
    uint64_t           extent_size;
    uint64_t           metadata_size; /* of each of the two copies that a device has room for */
    const char *const *tags;
};

/* Devices that have something are refused, as lvm does. Failed: devices are none of lvm's again. */
int lvm_make_group(struct lvm *l, const struct lvm_group *o);

/* With all of its volumes; `devices`: its devices are none of lvm's afterwards. */
int lvm_drop_group(struct lvm *l, bool devices);

/* `l` is the renamed group then. */
int lvm_rename_group(struct lvm *l, const char *name);

/*
 * Any program, found by PATH; argv ends with NULL. -ENOENT: there is none of that name; -EIO: it failed, with its
 * reason.
 */
int lvm_run_program(const char *const *argv);

#endif
