/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of this room share: a volume of a group, as it was when it was looked at. */
#ifndef TOOLS_LV_GROUP_H
#define TOOLS_LV_GROUP_H

#include "tools/lv/lv.h"
#include "tools/lvm/lvm.h"

enum { LV_NAME = 2 * LVM_NAME, LV_TEXT = 1024 };

struct lv {
    struct lv_how how;
    struct lvm *lvm;
    char vg[LVM_NAME], lv[LVM_NAME];
    char name[LV_NAME];                 /* VG/LV */
    char path[LV_NAME + 8];             /* /dev/VG/LV */
    char error[LV_TEXT], hint[LV_TEXT]; /* that was kept */
};

/* While the group is looked at, or changed. */
struct lv_session {
    struct lv *lv;
    struct lvm_report report;
    const struct lvm_vg *vg;
    const struct lvm_lv *found; /* the volume; NULL: there is none */
    bool is_writer;
    bool woken; /* it was activated here */
};

/* -|err|, with the text; `hint` may be NULL. */
int lv_fail(int err, const char *hint, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void lv_note(const struct lv *lv, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void lv_step(const char *name);

/* Of a failure, rc < 0: its words are kept while other things are done, and are there again. Both return rc. */
int lv_keep_words(struct lv *lv, int rc);
int lv_give_words(const struct lv *lv, int rc);

/*
 * The group's writer, and what there is. `changes`: a group that is a storage domain is refused. What others have
 * left half-made is told. Failed: nothing is to be ended.
 */
int lv_begin(struct lv *lv, bool changes, struct lv_session *ret);

/* What was activated here is put to rest. Returns rc, whose words stay. */
int lv_end(struct lv_session *s, int rc);

/* Others may change the group meanwhile; then the group is looked at anew. */
void lv_pause(struct lv_session *s);
int lv_resume(struct lv_session *s);

/* It is there, whole, and active now. */
int lv_use(struct lv_session *s);
int lv_judge_found(const struct lv_session *s);
bool lv_is_unfinished(const struct lvm_lv *lv);

/*
 * Run a check, or with `repair` a repair of what is leaked. `opts` has no format yet; ret's size is set.
 */
int lv_run_check(struct lv *lv, bool repair, struct vdisk_check_opts opts, struct vdisk_check_result *ret);

/* Run and free it. */
int lv_run_job(struct lv *lv, vdisk_job *job);

/* The image's header, whoever has it open. `format`: NULL: look. The caller's. */
int lv_load(const struct lv *lv, const char *format, vdisk_image **ret);

/* What the image takes when all of it is written. */
int lv_measure_full(const vdisk_image *image, uint64_t *ret);

/* In whole extents; UINT64_MAX: more than there can be. */
uint64_t lv_round(const struct lvm_vg *vg, uint64_t bytes);

/* So many bytes more are to be had. */
int lv_judge_free(const struct lvm_vg *vg, uint64_t bytes);

#endif
