/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `lvm fullreport` says, as JSON.
 *
 * Works: a report has a group, its physical volumes, its volumes and their segments; devices of no group are left
 * out. Fails: what is no such report, a number that is none, a name that is too long.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/lvm/lvm.h"

/* The first thing that is wrong is told. */
struct parse {
    char *why;
    int   rc;
};

static void refuse(struct parse *p, const char *what, const char *text)
{
    if (p->rc != 0)
        return;
    p->rc = -EBADMSG;
    snprintf(p->why, LVM_WHY, "%s: '%.80s'", what, text);
}

static void *make_list(struct parse *p, const json_t *array, size_t size)
{
    void *list = calloc(json_array_size(array) + 1, size);

    if (list == NULL && p->rc == 0)
        p->rc = -ENOMEM;
    return list;
}

/* ---- fields ------------------------------------------------------------------------------------------- */

static const char *field(struct parse *p, const json_t *row, const char *name)
{
    const char *text = json_string_value(json_object_get(row, name));

    if (text == NULL)
        refuse(p, "a report without the field", name);
    return text != NULL ? text : "";
}

static void take_text(struct parse *p, const json_t *row, const char *name, char *ret, size_t room)
{
    const char *text = field(p, row, name);

    if (strlen(text) >= room)
        refuse(p, name, text);
    else
        memcpy(ret, text, strlen(text) + 1);
}

static uint64_t take_number(struct parse *p, const json_t *row, const char *name)
{
    const char *text = field(p, row, name);
    uint64_t n = 0;

    if (text[0] == '\0' || strspn(text, "0123456789") != strlen(text))
        refuse(p, name, text);
    for (const char *at = text; p->rc == 0 && *at != '\0'; at++)
        if (!mul_u64(n, 10, &n) || !add_u64(n, (uint64_t)(*at - '0'), &n))
            refuse(p, name, text);
    return n;
}

/* "a,b": a tag has no comma. */
static void take_tags(struct parse *p, const json_t *row, const char *name, struct lvm_tags *ret)
{
    const char *text = field(p, row, name);
    size_t count = text[0] != '\0', len = strlen(text) + 1;
    char *copy;

    for (const char *at = text; *at != '\0'; at++)
        count += *at == ',';
    if (count == 0)
        return;
    ret->list = malloc(count * sizeof *ret->list + len);
    if (ret->list == NULL) {
        p->rc = p->rc != 0 ? p->rc : -ENOMEM;
        return;
    }
    copy = memcpy(ret->list + count, text, len);
    for (size_t i = 0; i < count; i++) {
        ret->list[i] = copy;
        copy += strcspn(copy, ",");
        *copy++ = '\0';
    }
    ret->count = count;
}

/* ---- rows --------------------------------------------------------------------------------------------- */

static void take_pv(struct parse *p, const json_t *row, struct lvm_pv *ret)
{
    take_text(p, row, "pv_name", ret->name, sizeof ret->name);
    take_text(p, row, "pv_uuid", ret->uuid, sizeof ret->uuid);
    ret->size = take_number(p, row, "dev_size");
    ret->start = take_number(p, row, "pe_start");
    ret->extents = take_number(p, row, "pv_pe_count");
    ret->used_extents = take_number(p, row, "pv_pe_alloc_count");
    ret->metadata_copies = (unsigned)take_number(p, row, "pv_mda_used_count");
}

static void take_lv(struct parse *p, const json_t *row, struct lvm_lv *ret)
{
    const char *active = field(p, row, "lv_active"), *open = field(p, row, "lv_device_open");

    take_text(p, row, "lv_name", ret->name, sizeof ret->name);
    take_text(p, row, "lv_uuid", ret->uuid, sizeof ret->uuid);
    ret->size = take_number(p, row, "lv_size");
    take_tags(p, row, "lv_tags", &ret->tags);
    ret->active = strcmp(active, "active") == 0 ? LVM_ACTIVE :
                  strcmp(active, "unknown") == 0 ? LVM_ACTIVE_UNKNOWN : LVM_INACTIVE;
    ret->open = strcmp(open, "open") == 0;
}

/* "/dev/sda(12)" */
static void take_place(struct parse *p, const json_t *row, struct lvm_segment *ret)
{
    const char *text = field(p, row, "devices"), *number = strrchr(text, '(');
    char *end;

    if (strchr(text, ',') != NULL || number == NULL)
        return; /* on several: no volume of ours */
    ret->extent = strtoull(number + 1, &end, 10);
    if (strcmp(end, ")") != 0 || (size_t)(number - text) >= sizeof ret->device)
        refuse(p, "devices", text);
    else
        memcpy(ret->device, text, (size_t)(number - text));
}

static int compare_segments(const void *a, const void *b)
{
    const struct lvm_segment *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static void take_segment(struct parse *p, const json_t *row, struct lvm_vg *vg)
{
    const char *name = field(p, row, "lv_name");
    struct lvm_lv *lv = (struct lvm_lv *)(uintptr_t)lvm_find_lv(vg, name);
    struct lvm_segment *list;

    if (lv == NULL)
        return; /* of a part of a volume that is not listed: of mirrors, pools */
    list = reallocarray(lv->segments, lv->segment_count + 1, sizeof *list);
    if (list == NULL) {
        p->rc = p->rc != 0 ? p->rc : -ENOMEM;
        return;
    }
    lv->segments = list;
    list[lv->segment_count] = (struct lvm_segment){0};
    list[lv->segment_count].start = take_number(p, row, "seg_start");
    list[lv->segment_count].size = take_number(p, row, "seg_size");
    take_place(p, row, &list[lv->segment_count]);
    lv->segment_count++;
}

/* ---- a group ------------------------------------------------------------------------------------------ */

static int compare_lvs(const void *a, const void *b)
{
    const struct lvm_lv *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static void take_group(struct parse *p, const json_t *part, struct lvm_vg *vg)
{
    const json_t *head = json_array_get(json_object_get(part, "vg"), 0), *pvs = json_object_get(part, "pv"),
                 *lvs = json_object_get(part, "lv"), *segments = json_object_get(part, "seg");

    take_text(p, head, "vg_name", vg->name, sizeof vg->name);
    take_text(p, head, "vg_uuid", vg->uuid, sizeof vg->uuid);
    vg->extent_size = take_number(p, head, "vg_extent_size");
    vg->size = take_number(p, head, "vg_size");
    vg->free = take_number(p, head, "vg_free");
    take_tags(p, head, "vg_tags", &vg->tags);
    vg->pvs = make_list(p, pvs, sizeof *vg->pvs);
    vg->lvs = make_list(p, lvs, sizeof *vg->lvs);
    for (size_t i = 0; p->rc == 0 && i < json_array_size(pvs); i++)
        take_pv(p, json_array_get(pvs, i), &vg->pvs[vg->pv_count++]);
    for (size_t i = 0; p->rc == 0 && i < json_array_size(lvs); i++)
        take_lv(p, json_array_get(lvs, i), &vg->lvs[vg->lv_count++]);
    if (vg->lv_count > 0)
        qsort(vg->lvs, vg->lv_count, sizeof *vg->lvs, compare_lvs);
    for (size_t i = 0; p->rc == 0 && i < json_array_size(segments); i++)
        take_segment(p, json_array_get(segments, i), vg);
    for (size_t i = 0; i < vg->lv_count; i++)
        if (vg->lvs[i].segment_count > 0)
            qsort(vg->lvs[i].segments, vg->lvs[i].segment_count, sizeof *vg->lvs[i].segments, compare_segments);
}

/* Devices of no group are a part without one. */
static void take_report(struct parse *p, const json_t *root, struct lvm_report *ret)
{
    const json_t *parts = json_object_get(root, "report");

    if (!json_is_array(parts))
        refuse(p, "no report of lvm", "");
    ret->vgs = make_list(p, parts, sizeof *ret->vgs);
    for (size_t i = 0; p->rc == 0 && i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        if (json_array_size(json_object_get(part, "vg")) > 0)
            take_group(p, part, &ret->vgs[ret->count++]);
    }
}

int lvm_report_parse(const char *text, size_t len, struct lvm_report *ret, char why[LVM_WHY])
{
    struct lvm_report report = {0};
    struct parse p = {.why = why};
    json_error_t error;
    json_t *root = json_loadb(text, len, 0, &error);

    why[0] = '\0';
    if (root == NULL)
        refuse(&p, "no JSON", error.text);
    else
        take_report(&p, root, &report);
    json_decref(root);
    if (p.rc < 0)
        lvm_report_free(&report);
    else
        *ret = report;
    return p.rc;
}

void lvm_report_free(struct lvm_report *report)
{
    for (size_t i = 0; i < report->count; i++) {
        struct lvm_vg *vg = &report->vgs[i];
        for (size_t j = 0; j < vg->lv_count; j++) {
            free(vg->lvs[j].tags.list);
            free(vg->lvs[j].segments);
        }
        free(vg->tags.list);
        free(vg->pvs);
        free(vg->lvs);
    }
    free(report->vgs);
    *report = (struct lvm_report){0};
}

/* ---- looking ------------------------------------------------------------------------------------------ */

bool lvm_has_tag(const struct lvm_tags *tags, const char *tag)
{
    for (size_t i = 0; i < tags->count; i++)
        if (strcmp(tags->list[i], tag) == 0)
            return true;
    return false;
}

const char *lvm_tag_value(const struct lvm_tags *tags, const char *prefix)
{
    size_t len = strlen(prefix);

    for (size_t i = 0; i < tags->count; i++)
        if (strncmp(tags->list[i], prefix, len) == 0)
            return tags->list[i] + len;
    return NULL;
}

static int compare_name(const void *name, const void *lv)
{
    return strcmp(name, ((const struct lvm_lv *)lv)->name);
}

const struct lvm_lv *lvm_find_lv(const struct lvm_vg *vg, const char *name)
{
    return vg->lv_count > 0 ? bsearch(name, vg->lvs, vg->lv_count, sizeof *vg->lvs, compare_name) : NULL;
}

/* The first line that is no warning; if there are only such, the first. */
void lvm_reason(const char *errors, char *ret, size_t room)
{
    const char *found = "", *end;
    size_t found_len = 0;

    for (const char *at = errors; *at != '\0'; at = *end != '\0' ? end + 1 : end) {
        end = at + strcspn(at, "\n");
        at += strspn(at, " \t");
        if (at >= end)
            continue;
        if (strncmp(at, "WARNING:", 8) != 0) {
            found = at;
            found_len = (size_t)(end - at);
            break;
        }
        if (found_len == 0) {
            found = at;
            found_len = (size_t)(end - at);
        }
    }
    snprintf(ret, room, "%.*s", (int)(found_len < room ? found_len : room - 1), found);
    for (size_t n = strlen(ret); n > 0 && (ret[n - 1] == '.' || ret[n - 1] == ' '); n--)
        ret[n - 1] = '\0';
}
