/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "jobs/plan.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum { GUESS = 2 << 20 };

int plan_init(struct plan *p, vdisk *const *volumes, unsigned count, uint64_t room)
{
    uint64_t end = 0;

    p->volumes = volumes;
    p->count = count;
    p->sizes = calloc(count, sizeof *p->sizes);
    if (!p->sizes)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        p->sizes[i] = vdisk_size(volumes[i]);
        end = jobs_align_up(p->total, PLAN_SECTOR) + p->sizes[i];
        if (end < p->sizes[i] || end > INT64_MAX)
            return -EFBIG;
        p->total = end;
    }
    end = jobs_align_up(p->total, PLAN_SECTOR);
    if (end <= room)
        p->total = end;
    for (unsigned i = 0; i < 2; i++)
        p->lists[i].extents = (struct vdisk_extents){.list = p->lists[i].list, .max = PLAN_EXTENTS};
    return 0;
}

void plan_cut(struct plan *p, uint64_t offset, uint64_t length)
{
    p->cut = p->offset = jobs_min(offset, p->sizes[0]);
    p->sizes[0] = jobs_min(p->sizes[0], length > 0 && length < UINT64_MAX - p->cut ? p->cut + length : UINT64_MAX);
    p->total = p->sizes[0] - p->cut;
}

void plan_skip(struct plan *p, uint64_t whole, uint64_t unit)
{
    uint64_t at;

    assert(!p->asking && p->handed == 0 && (unit & (unit - 1)) == 0);
    if (whole < p->total) /* so it is in no gap: those begin within a sector */
        whole &= ~((unit > PLAN_SECTOR ? unit : PLAN_SECTOR) - 1);
    p->handed = jobs_min(whole, p->total);
    at = p->handed + p->cut;
    while (p->source < p->count && at > 0 && at >= p->sizes[p->source]) {
        at -= jobs_min(at, jobs_align_up(p->sizes[p->source], PLAN_SECTOR));
        p->start = jobs_align_up(p->start + p->sizes[p->source], PLAN_SECTOR);
        p->source++;
    }
    p->offset = at;
}

void plan_free(struct plan *p)
{
    free(p->sizes);
    p->sizes = NULL;
}

/* To the next volume that has something left. false: there is none. */
static bool find_source(struct plan *p)
{
    while (p->source < p->count && p->offset == p->sizes[p->source]) {
        p->start = jobs_align_up(p->start + p->offset, PLAN_SECTOR);
        p->offset = 0;
        p->source++;
    }
    return p->source < p->count;
}

bool plan_ask(struct plan *p, vdisk_queue *q, uint64_t user_data)
{
    struct plan_list *l = &p->lists[p->filling];

    if (p->asking || l->ready || !find_source(p))
        return false;
    p->asked = jobs_min(PLAN_STRETCH, p->sizes[p->source] - p->offset);
    p->asking = true;
    l->extents.count = 0;
    vdisk_get_extents(q, p->volumes[p->source], p->offset, p->asked, &l->extents, user_data);
    return true;
}

/* Behind the end of a volume, up to the next sector. */
static void add_gap(struct plan *p, struct plan_list *l)
{
    uint64_t size = p->sizes[p->source];
    uint64_t end = jobs_min(p->total + p->cut, jobs_align_up(p->start + size, PLAN_SECTOR));

    if (p->offset == size && end > p->start + size)
        l->list[l->extents.count++] = (struct vdisk_extent){
            .guest_offset = size, .length = end - p->start - size,
            .flags = VDISK_EXTENT_ZERO | VDISK_EXTENT_ALLOCATED};
}

int plan_answer(struct plan *p, int result)
{
    struct plan_list *l = &p->lists[p->filling];

    assert(p->asking);
    p->asking = false;
    if (result < 0 && !p->guess)
        return result;
    if (result < 0) {
        l->list[0] = (struct vdisk_extent){.guest_offset = p->offset, .length = jobs_min(p->asked, GUESS),
                                           .flags = VDISK_EXTENT_DATA | VDISK_EXTENT_ALLOCATED};
        l->extents.count = 1;
    }
    assert(l->extents.count > 0);
    for (unsigned i = 0; i < l->extents.count; i++) {
        assert(l->list[i].guest_offset == p->offset && l->list[i].length > 0); /* invariant 1 */
        p->offset += l->list[i].length;
    }
    l->source = p->source;
    l->start = p->start;
    add_gap(p, l);
    l->next = 0;
    l->used = 0;
    l->ready = true;
    p->filling ^= 1;
    return 0;
}

bool plan_look(const struct plan *p, struct plan_piece *ret)
{
    const struct plan_list *l = &p->lists[p->reading];
    const struct vdisk_extent *x = &l->list[l->next];

    if (!l->ready)
        return false;
    *ret = (struct plan_piece){
        .source = l->source, .offset = x->guest_offset + l->used,
        .whole = l->start + x->guest_offset + l->used - p->cut, .len = x->length - l->used,
        .flags = x->flags, .depth = x->depth};
    assert(ret->whole == p->handed); /* invariant 1 */
    return true;
}

void plan_take(struct plan *p, uint64_t len)
{
    struct plan_list *l = &p->lists[p->reading];

    assert(l->ready && len > 0 && len <= l->list[l->next].length - l->used);
    l->used += len;
    p->handed += len;
    if (l->used < l->list[l->next].length)
        return;
    l->used = 0;
    if (++l->next == l->extents.count) {
        l->ready = false;
        p->reading ^= 1;
    }
}

uint64_t plan_find(const struct plan *p, uint64_t whole, unsigned *ret_source, uint64_t *ret_offset)
{
    uint64_t at = whole + p->cut, end;

    assert(whole < p->total);
    for (unsigned i = 0; i < p->count; i++) {
        end = jobs_align_up(p->sizes[i], PLAN_SECTOR);
        *ret_source = i;
        *ret_offset = at;
        if (at < p->sizes[i])
            return p->sizes[i] - at;
        if (at < end) {
            *ret_source = p->count;
            return end - at;
        }
        at -= end;
    }
    assert(!"the end of a plan is that of its last volume");
    return p->total - whole;
}
