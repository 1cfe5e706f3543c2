/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume of a group: its name, and the group as long as it is worked on.
 *
 * Works: who begins is the group's writer, and reads it; a volume that is not active is activated for as long as
 * it is needed. Fails: the name is none; there is no such group, or it is a storage domain, whose volumes have
 * metadata that this knows nothing of.
 */
#include "tools/lv/group.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"

#define TAG_DOMAIN "RHAT_storage_domain" /* Vdsm's */

/* ---- errors, notes, steps ------------------------------------------------------------------------------ */

int lv_fail(int err, const char *hint, const char *fmt, ...)
{
    char text[LV_TEXT];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return vdisk_set_error(err, text, hint);
}

void lv_note(const struct lv *lv, const char *fmt, ...)
{
    char text[LV_TEXT];
    va_list ap;

    if (lv->how.note == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    lv->how.note(lv->how.note_arg, text);
}

int lv_keep_words(struct lv *lv, int rc)
{
    if (rc < 0) {
        snprintf(lv->error, sizeof lv->error, "%s", vdisk_error_text());
        snprintf(lv->hint, sizeof lv->hint, "%s", vdisk_error_hint());
    }
    return rc;
}

int lv_give_words(const struct lv *lv, int rc)
{
    return rc < 0 ? lv_fail(rc, lv->hint[0] != '\0' ? lv->hint : NULL, "%s", lv->error) : rc;
}

static void (*step_hook)(const char *name);

void lv_set_step_hook(void (*fn)(const char *name))
{
    step_hook = fn;
}

void lv_step(const char *name)
{
    if (step_hook != NULL)
        step_hook(name);
}

/* ---- names ---------------------------------------------------------------------------------------------- */

/* As lvm takes them: so none leads out of /dev/VG. */
static bool is_name(const char *text, size_t len)
{
    if (len == 0 || len >= LVM_NAME || text[0] == '-' ||
        (text[0] == '.' && (len == 1 || (len == 2 && text[1] == '.'))))
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              strchr("+_.-", c) != NULL))
            return false;
    }
    return true;
}

static int parse_name(const char *text, struct lv *lv)
{
    const char *name = strncmp(text, "/dev/", 5) == 0 ? text + 5 : text, *slash = strchr(name, '/');

    if (slash == NULL || !is_name(name, (size_t)(slash - name)) || !is_name(slash + 1, strlen(slash + 1)))
        return lv_fail(EINVAL,
                       "it is VG/LV, or /dev/VG/LV: letters, digits and + _ . - of which none begins with -",
                       "'%.200s' is no name of a logical volume", text);
    memcpy(lv->vg, name, (size_t)(slash - name));
    snprintf(lv->lv, sizeof lv->lv, "%s", slash + 1);
    snprintf(lv->name, sizeof lv->name, "%s/%s", lv->vg, lv->lv);
    snprintf(lv->path, sizeof lv->path, "/dev/%s/%s", lv->vg, lv->lv);
    return 0;
}

int lv_open(const char *name, const struct lv_how *how, struct lv **ret)
{
    struct lv *lv = calloc(1, sizeof *lv);
    int rc;

    if (lv == NULL)
        return lv_fail(ENOMEM, NULL, "out of memory");
    if (how != NULL)
        lv->how = *how;
    rc = parse_name(name, lv);
    if (rc == 0)
        rc = lvm_open(lv->vg, NULL, &lv->lvm);
    if (rc < 0) {
        free(lv);
        return rc;
    }
    *ret = lv;
    return 0;
}

void lv_close(struct lv *lv)
{
    if (lv == NULL)
        return;
    lvm_close(lv->lvm);
    free(lv);
}

const char *lv_name(const struct lv *lv)
{
    return lv->name;
}

const char *lv_path(const struct lv *lv)
{
    return lv->path;
}

/* ---- the group ------------------------------------------------------------------------------------------ */

bool lv_is_unfinished(const struct lvm_lv *lv)
{
    return lvm_has_tag(&lv->tags, LV_UNFINISHED);
}

/* Their makers are not at work: this is the writer now. */
static void tell_unfinished(const struct lv_session *s)
{
    assert(s->is_writer);
    for (size_t i = 0; i < s->vg->lv_count; i++) {
        const struct lvm_lv *lv = &s->vg->lvs[i];
        if (lv_is_unfinished(lv))
            lv_note(s->lv,
                    "%s/%s is half-made: who made it was killed; 'create' or 'snapshot' of it makes it anew, "
                    "lvremove removes it",
                    s->vg->name, lv->name);
    }
}

static int look(struct lv_session *s)
{
    int rc = lvm_read(s->lv->lvm, &s->report);

    if (rc < 0)
        return rc;
    assert(s->report.count == 1 && s->report.vgs[0].extent_size > 0);
    s->vg = &s->report.vgs[0];
    s->found = lvm_find_lv(s->vg, s->lv->lv);
    return 0;
}

static void forget(struct lv_session *s)
{
    lvm_report_free(&s->report);
    s->vg = NULL;
    s->found = NULL;
}

static int judge_group(const struct lv_session *s)
{
    if (!lvm_has_tag(&s->vg->tags, TAG_DOMAIN))
        return 0;
    return lv_fail(EPERM, "'vdisk-io volume' is for its volumes",
                   "volume group %s is a storage domain: its volumes have metadata", s->vg->name);
}

int lv_begin(struct lv *lv, bool changes, struct lv_session *ret)
{
    struct lv_session s = {.lv = lv};
    int rc = lvm_begin(lv->lvm);

    if (rc < 0)
        return rc;
    s.is_writer = true;
    rc = look(&s);
    if (rc == 0 && changes)
        rc = judge_group(&s);
    if (rc < 0)
        return lv_end(&s, rc);
    tell_unfinished(&s);
    *ret = s;
    return 0;
}

void lv_pause(struct lv_session *s)
{
    assert(s->is_writer && lvm_is_writer(s->lv->lvm));
    lvm_end(s->lv->lvm);
    s->is_writer = false;
    forget(s);
}

int lv_resume(struct lv_session *s)
{
    int rc = lvm_begin(s->lv->lvm);

    if (rc < 0)
        return rc;
    s->is_writer = true;
    rc = look(s);
    return rc == 0 ? lv_judge_found(s) : rc;
}

int lv_end(struct lv_session *s, int rc)
{
    const char *const names[] = {s->lv->lv};

    lv_keep_words(s->lv, rc);
    if (s->woken && !s->is_writer)
        s->is_writer = lvm_begin(s->lv->lvm) == 0;
    if (s->woken && s->is_writer)
        lvm_deactivate(s->lv->lvm, names, 1); /* who has opened it meanwhile has it active */
    if (s->is_writer)
        lvm_end(s->lv->lvm);
    forget(s);
    s->is_writer = s->woken = false;
    return lv_give_words(s->lv, rc);
}

int lv_judge_found(const struct lv_session *s)
{
    if (s->found == NULL)
        return lv_fail(ENOENT, NULL, "volume group %s has no logical volume %s", s->vg->name, s->lv->lv);
    if (lv_is_unfinished(s->found))
        return lv_fail(EBADMSG, "'vdisk-io lv create' or 'snapshot' of it makes it anew, lvremove removes it",
                       "%s is half-made: who made it was killed", s->lv->name);
    return 0;
}

int lv_use(struct lv_session *s)
{
    const char *const names[] = {s->lv->lv};
    int rc = lv_judge_found(s);

    assert(s->is_writer && !s->woken);
    if (rc < 0 || lvm_is_active(s->lv->lvm, s->lv->lv))
        return rc;
    rc = lvm_activate(s->lv->lvm, names, 1);
    s->woken = rc == 0;
    return rc;
}

/* ---- images --------------------------------------------------------------------------------------------- */

int lv_run_job(struct lv *lv, vdisk_job *job)
{
    int rc = lv_keep_words(lv, lv->how.run != NULL ? lv->how.run(job) : vdisk_job_run(job));

    vdisk_job_free(job);
    return lv_give_words(lv, rc);
}

int lv_run_check(struct lv *lv, bool repair, struct vdisk_check_opts opts, struct vdisk_check_result *ret)
{
    vdisk_job *job = NULL;
    int rc;

    opts.size = sizeof opts;
    opts.format = "qcow2";
    rc = repair ? vdisk_job_repair(lv->path, VDISK_REPAIR_LEAKS, &opts, &job)
                : vdisk_job_check(lv->path, &opts, &job);
    if (rc < 0)
        return rc;
    rc = lv_keep_words(lv, lv->how.run != NULL ? lv->how.run(job) : vdisk_job_run(job));
    if (rc == 0)
        vdisk_job_get_check_result(job, ret);
    vdisk_job_free(job);
    return lv_give_words(lv, rc);
}

int lv_load(const struct lv *lv, const char *format, vdisk_image **ret)
{
    struct vdisk_open_opts how = {
        .size = sizeof how, .flags = VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_NO_NAMES, .format = format};

    return vdisk_image_load(lv->path, &how, ret);
}

int lv_measure_full(const vdisk_image *image, uint64_t *ret)
{
    struct vdisk_measure_result size = {.size = sizeof size};
    struct vdisk_image_info info = {.size = sizeof info};
    struct vdisk_create_opts opts;
    int rc;

    vdisk_image_get_info(image, &info);
    opts = (struct vdisk_create_opts){.size = sizeof opts,
                                      .format = info.format,
                                      .virtual_size = info.virtual_size,
                                      .cluster_size = info.cluster_size,
                                      .version = info.version,
                                      .refcount_bits = info.refcount_bits,
                                      .extended_l2 = info.extended_l2};
    rc = vdisk_measure(&opts, NULL, &size);
    *ret = size.fully_allocated;
    return rc;
}

uint64_t lv_round(const struct lvm_vg *vg, uint64_t bytes)
{
    uint64_t extents = bytes / vg->extent_size + (bytes % vg->extent_size > 0), size;

    return mul_u64(extents, vg->extent_size, &size) ? size : UINT64_MAX;
}

int lv_judge_free(const struct lvm_vg *vg, uint64_t bytes)
{
    if (bytes <= vg->free)
        return 0;
    return lv_fail(ENOSPC, NULL,
                   "volume group %s has %" PRIu64 " bytes free: %" PRIu64 " are needed, in extents of %" PRIu64,
                   vg->name, vg->free, bytes, vg->extent_size);
}
