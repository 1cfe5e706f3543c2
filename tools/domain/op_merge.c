/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume into its parent (cold): the parent (base) has all of it, then it goes.
 *
 * Works: the volume is marked as merged; the base grows, takes what the volume has, and counts a generation;
 * where the volume has a child that gets the base as its parent, first in its header; then the volume is
 * unpublished, wiped, if it is to be, and removed. Fails, or killed: the image reads as before; the mark stays, as
 * the base alone is no longer what it was: the volume is not deleted. Until the child's header is another one the
 * same call does all of it again; from then on the next operation ends it (mend.c).
 *
 * Invariants:
 *  1. Sizes are those of the volumes; what metadata says of them is mended before.
 *  2. On a full disk, too, the data of the volume goes: nothing is written before, but zeros in its place.
 *  3. What lay on a device before is never to be seen, or taken for data, at any step.
 *  4. What is to be wiped says so as long as it is there: who ends the merge does it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vdisk.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

struct merge {
    struct dom_session         *session;
    struct domain              *domain;
    const char                 *image;
    const struct domain_merge  *o;
    struct domain_volume       *top, *base, *child;
    char                       *top_path, *base_path, *child_path;
};

/* ---- what can be refused -------------------------------------------------------------------------------- */

static int refuse(const struct merge *m, const char *text)
{
    return dom_fail(EINVAL, NULL, "volume %s is not merged: %s", m->top->uuid, text);
}

static int find_child(struct merge *m)
{
    const struct domain_image *image = m->session->image;

    for (size_t i = 0; i < image->count; i++) {
        if (image->list[i].parent != m->top)
            continue;
        if (m->child != NULL)
            return refuse(m, "it has more than one child");
        m->child = &image->list[i];
    }
    return 0;
}

static int judge_legality(const struct domain_volume *v)
{
    return v == NULL || v->meta.legality == DOMAIN_LEGAL ? 0 :
           dom_fail(EINVAL, NULL, "volume %s is %s: only LEGAL volumes are merged", v->uuid,
                    domain_legality_name(v->meta.legality));
}

static int judge(struct merge *m)
{
    int rc;

    m->base = m->top->parent;
    if (m->base == NULL)
        return refuse(m, dom_is_circular(m->session->image, m->top) ? "its chain leads back to itself" :
                         strcmp(m->top->meta.parent, DOMAIN_BLANK) != 0 ? "its parent is not there" :
                         "it has no parent");
    if (m->top->meta.role == DOMAIN_SHARED || m->base->meta.role == DOMAIN_SHARED)
        return refuse(m, "a template (SHARED) is not changed");
    if (m->base->children > 1)
        return refuse(m, "its parent has other children");
    rc = find_child(m);
    if (rc == 0)
        rc = dom_judge_top(m->session, m->top, m->child, "merged");
    if (rc == 0)
        rc = dom_judge_top(m->session, m->base, m->top, "changed");
    if (rc == 0)
        rc = dom_judge_double(m->domain, m->image, m->base, true);
    if (rc == 0 && m->child != NULL)
        rc = dom_judge_double(m->domain, m->image, m->child, true); /* its header */
    if (rc == 0 && m->child == NULL && m->top->meta.role == DOMAIN_INTERNAL)
        rc = refuse(m, "it is INTERNAL, and what lies on it is not there, or not known");
    if (rc == 0)
        rc = judge_legality(m->top);
    if (rc == 0)
        rc = judge_legality(m->base);
    return rc == 0 ? dom_check_chain(m->domain, m->image, m->child != NULL ? m->child : m->top) : rc;
}

/* What the base has when it is to have so many bytes. */
static uint64_t raw_size(const struct merge *m, uint64_t size)
{
    bool fixed = m->domain->extent != 0 && m->base->meta.format == DOMAIN_RAW;

    return fixed ? text_extents(size, m->domain->extent) : size;
}

/* A merge that was ended early has done it: a device cannot be as large as the volume. */
static bool is_grown(const struct merge *m)
{
    return m->domain->extent != 0 && m->base->meta.format == DOMAIN_RAW && dom_is_merged(m->top) &&
           m->base->meta.capacity == raw_size(m, m->top->meta.capacity);
}

/* (1) What the base has behind the end of the volume is not to come to light. */
static int match_sizes(struct merge *m)
{
    int rc = dom_match_capacity(m->domain, m->image, m->top, !m->o->dry_run);

    if (rc == 0)
        rc = dom_match_capacity(m->domain, m->image, m->base, !m->o->dry_run);
    if (rc == 0 && m->top->meta.capacity < m->base->meta.capacity && !is_grown(m))
        rc = dom_fail(EINVAL, "copy the image into one volume",
                      "volume %s is not merged: it has %" PRIu64 " bytes, fewer than its parent %s, %" PRIu64,
                      m->top->uuid, m->top->meta.capacity, m->base->uuid, m->base->meta.capacity);
    if (rc == 0 && m->child != NULL && m->top->meta.capacity > m->base->meta.capacity &&
        raw_size(m, m->top->meta.capacity) > m->child->meta.capacity)
        rc = dom_fail(EINVAL, "merge the volumes above it first",
                      "volume %s is not merged: its parent would have %" PRIu64 " bytes then, more than %s, which "
                      "would lie on that", m->top->uuid, raw_size(m, m->top->meta.capacity), m->child->uuid);
    return rc;
}

/* Nobody has one of them open. They are opened again, one after the other. */
static int see_that_none_is_used(const struct merge *m)
{
    const struct domain_volume *const list[] = {m->base, m->top, m->child};
    struct dom_claims claims = {0};
    struct dom_error error;
    int rc = dom_claim_alone(m->domain, m->image, list, m->child != NULL ? 3 : 2, &claims);

    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* All that will be written of the base and of the child is to have room, before anything is. */
static int judge_texts(const struct merge *m)
{
    struct domain_meta base = m->base->meta;
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc;

    base.capacity = m->top->meta.capacity > base.capacity ? m->top->meta.capacity : base.capacity;
    rc = dom_format_meta(m->domain, &base, text, &len);
    base.generation = (base.generation + 1) % DOMAIN_GENERATIONS;
    if (rc == 0)
        rc = dom_format_meta(m->domain, &base, text, &len);
    if (rc == 0 && m->child != NULL)
        rc = dom_format_meta(m->domain, &m->child->meta, text, &len);
    return rc == 0 ? dom_format_meta(m->domain, &m->top->meta, text, &len) : rc;
}

/* ---- the base ------------------------------------------------------------------------------------------- */

/*
 * So that the base, which gets what the volume has, is not taken for what it was; and that a child whose header
 * names the base, and its metadata the volume, is known for what it is. One that is there is not written anew: a
 * kill, or a full disk, amid that would leave none, and the base has some of the volume already.
 */
static int mark(struct merge *m)
{
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc = dom_format_meta(m->domain, &m->top->meta, text, &len);

    if (rc == 0 && !dom_is_merged(m->top))
        rc = m->domain->kind->set_intent(m->domain, m->image, m->top->uuid, text, len);
    if (rc == 0 && m->o->wipe && !m->top->wipe) { /* (4) */
        rc = m->domain->kind->keep_wipe(m->domain, m->image, m->top->uuid);
        m->top->wipe = rc == 0;
    }
    if (rc == 0)
        rc = m->domain->kind->sync(m->domain, m->image);
    if (rc == 0)
        dom_step("merge: volume is marked");
    return rc;
}

/*
 * Where data has a fixed size all that is in either is to fit; what is not needed can be given back afterwards.
 * With other clusters the same data takes another space.
 */
static int make_room(struct merge *m)
{
    struct dom_header base, top;
    uint64_t full, more;
    int rc;

    if (m->domain->extent == 0 || m->base->meta.format == DOMAIN_RAW)
        return 0;
    rc = dom_measure_full(m->domain, m->image, m->base, m->top->meta.capacity, &full);
    if (rc == 0)
        rc = dom_read_header(m->domain, m->image, m->base, &base);
    if (rc == 0)
        rc = dom_read_header(m->domain, m->image, m->top, &top);
    if (rc < 0)
        return rc;
    more = base.cluster_size == top.cluster_size && base.extended_l2 == top.extended_l2 &&
                   base.refcount_bits == top.refcount_bits ? min_u64(m->top->size, full) : full;
    more += m->base->size;
    return m->domain->kind->make_room(m->domain, m->image, m->base->uuid,
                                      base.snapshots ? more : min_u64(more, full));
}

/* Space for zeros in place of nothing: entries, where there are zero clusters, of 16 bytes at most. */
static int make_room_for_zeros(struct merge *m, uint64_t bytes)
{
    struct dom_header top;
    int rc = dom_read_header(m->domain, m->image, m->top, &top);

    if (rc < 0)
        return rc;
    if (top.version >= 3)
        bytes = bytes / top.cluster_size * 16;
    return m->domain->kind->make_room(m->domain, m->image, m->top->uuid,
                                      m->top->size + bytes + bytes / 64 + 4 * top.cluster_size);
}

static int zero_unwritten(vdisk *top, uint64_t begin, uint64_t end)
{
    struct vdisk_extent list[64];
    struct vdisk_extents found = {.list = list, .max = ARRAY_LEN(list)};
    int rc = 0;

    while (rc == 0 && begin < end) {
        rc = vdisk_pextents(top, end - begin, begin, &found);
        for (unsigned i = 0; rc == 0 && i < found.count; i++) {
            begin = list[i].guest_offset + list[i].length;
            if (!(list[i].flags & VDISK_EXTENT_DATA))
                rc = vdisk_pzero(top, list[i].length, list[i].guest_offset, VDISK_REQ_EXPLICIT);
        }
    }
    return rc;
}

/*
 * (3) Of a device that becomes larger the new part holds what was there. The volume reads zeros there so far where
 * it has nothing itself; it is to say so itself before.
 */
static int hide_new_part(struct merge *m)
{
    uint64_t begin = m->base->meta.capacity, end = m->top->meta.capacity;
    struct dom_error error;
    vdisk *top = NULL;
    int rc = make_room_for_zeros(m, end - begin);

    if (rc == 0)
        rc = dom_open_data(m->domain, m->image, m->top, VDISK_OPEN_RDWR, &top);
    if (rc < 0)
        return rc;
    rc = zero_unwritten(top, begin, end);
    if (rc == 0)
        rc = vdisk_sync(top);
    dom_error_keep(&error, rc);
    if (rc < 0) {
        vdisk_close(top);
        return dom_error_give(&error);
    }
    rc = vdisk_close(top);
    if (rc == 0)
        dom_step("merge: volume has zeros behind the base's end");
    return rc;
}

/* (3) Behind the volume's end, where nobody sees it before the volume has gone. */
static int zero_rest(struct merge *m, uint64_t begin, uint64_t end)
{
    struct dom_error error;
    vdisk *base = NULL;
    int rc = dom_open_data(m->domain, m->image, m->base, VDISK_OPEN_RDWR, &base);

    if (rc < 0)
        return rc;
    rc = vdisk_pzero(base, end - begin, begin, VDISK_REQ_FUA);
    dom_error_keep(&error, rc);
    if (rc == 0)
        return vdisk_close(base);
    vdisk_close(base);
    return dom_error_give(&error);
}

static int grow_data(struct merge *m)
{
    uint64_t wanted = m->top->meta.capacity, size = raw_size(m, wanted);
    bool fixed = m->domain->extent != 0 && m->base->meta.format == DOMAIN_RAW;
    int rc = 0;

    if (fixed && wanted > m->base->meta.capacity)
        rc = hide_new_part(m);
    if (rc == 0 && wanted > m->base->meta.capacity)
        rc = dom_grow_data(m->domain, m->image, m->base, wanted, NULL, NULL);
    return rc == 0 && fixed && size > wanted ? zero_rest(m, wanted, size) : rc;
}

static int grow_base(struct merge *m)
{
    struct domain_meta meta = m->base->meta;
    int rc = make_room(m);

    if (rc < 0 || (m->top->meta.capacity <= meta.capacity && !is_grown(m)))
        return rc;
    rc = grow_data(m);
    if (rc < 0)
        return rc;
    dom_step("merge: base is larger");
    meta.capacity = raw_size(m, m->top->meta.capacity);
    rc = dom_write_meta(m->domain, m->image, m->base, &meta);
    if (rc == 0)
        dom_step("merge: base's capacity is noted");
    return rc;
}

static int copy_down(struct merge *m)
{
    struct vdisk_commit_opts opts = {.size = sizeof opts, .flags = VDISK_COMMIT_KEEP, .format = "qcow2",
                                     .rate = m->o->rate, .progress = m->o->progress,
                                     .progress_arg = m->o->progress_arg};
    vdisk_job *job;
    int rc = vdisk_job_commit(m->top_path, &opts, &job);

    if (rc == 0)
        rc = dom_run_job(m->domain, job);
    if (rc == 0)
        dom_step("merge: base has the data");
    return rc;
}

static int count_generation(struct merge *m)
{
    struct domain_meta meta = m->base->meta;
    int rc;

    meta.generation = (meta.generation + 1) % DOMAIN_GENERATIONS;
    rc = dom_write_meta(m->domain, m->image, m->base, &meta);
    if (rc == 0)
        dom_step("merge: generation is counted");
    return rc;
}

/* ---- the child, and the end ------------------------------------------------------------------------------ */

static int set_header(struct merge *m)
{
    struct vdisk_rebase_opts opts = {.size = sizeof opts, .flags = VDISK_REBASE_UNSAFE, .format = "qcow2",
                                     .backing_file = m->base->uuid,
                                     .backing_fmt = m->base->meta.format == DOMAIN_COW ? "qcow2" : "raw"};
    vdisk_job *job;
    int rc = vdisk_job_rebase(m->child_path, &opts, &job);

    return rc == 0 ? dom_run_job(m->domain, job) : rc;
}

static int move_child(struct merge *m)
{
    struct domain_meta meta = m->child->meta;
    int rc = set_header(m);

    if (rc < 0)
        return rc;
    dom_step("merge: child's header names the base");
    memcpy(meta.parent, m->base->uuid, DOMAIN_UUID);
    rc = dom_write_meta(m->domain, m->image, m->child, &meta);
    if (rc == 0)
        rc = m->domain->kind->sync(m->domain, m->image);
    if (rc == 0)
        dom_step("merge: child's parent is the base");
    return rc;
}

/* What it held is in the base, and on the disk a second time. */
static int wipe_top(struct merge *m)
{
    struct dom_clear clear = {.wipe = m->top->wipe, .rate = m->o->rate};
    int rc;

    if (!clear.wipe)
        return 0;
    dom_clear_add(&clear, m->top);
    rc = dom_clear(m->domain, m->image, m->top, &clear);
    if (rc == 0)
        dom_step("merge: data is cleared");
    return rc;
}

static int remove_top(struct merge *m)
{
    const struct dom_kind *kind = m->domain->kind;
    int rc = kind->unpublish(m->domain, m->image, m->top->uuid, m->top->wipe);

    if (rc == 0)
        rc = kind->sync(m->domain, m->image);
    if (rc < 0)
        return rc;
    dom_step("merge: volume is unpublished");
    rc = wipe_top(m);
    if (rc == 0)
        rc = kind->purge(m->domain, m->image, m->top->uuid); /* (2) */
    if (rc < 0)
        return rc;
    dom_step("merge: volume is removed");
    rc = m->child == NULL ? dom_set_role(m->domain, m->image, m->base, DOMAIN_LEAF) : 0;
    if (rc == 0)
        dom_step("merge: base's role is noted");
    return rc == 0 ? kind->sync(m->domain, m->image) : rc;
}

static int merge(struct merge *m)
{
    int rc = dom_data_path(m->domain, m->image, m->top->uuid, &m->top_path);

    if (rc == 0)
        rc = dom_data_path(m->domain, m->image, m->base->uuid, &m->base_path);
    if (rc == 0 && m->child != NULL)
        rc = dom_data_path(m->domain, m->image, m->child->uuid, &m->child_path);
    if (rc == 0)
        rc = mark(m);
    if (rc == 0)
        rc = grow_base(m);
    if (rc == 0)
        rc = copy_down(m);
    if (rc == 0)
        rc = count_generation(m);
    if (rc == 0 && m->child != NULL)
        rc = move_child(m);
    return rc == 0 ? remove_top(m) : rc;
}

int domain_volume_merge(struct domain *d, const char *image, const char *volume, const struct domain_merge *o)
{
    struct dom_want want = {.image = image, .dry_run = o->dry_run, .lock = -1};
    struct dom_session s;
    struct merge m = {.session = &s, .domain = d, .image = image, .o = o};
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    m.top = dom_session_volume(&s, volume, &rc);
    if (m.top != NULL)
        rc = judge(&m);
    if (rc == 0)
        rc = see_that_none_is_used(&m);
    if (rc == 0)
        rc = match_sizes(&m);
    if (rc == 0)
        rc = judge_texts(&m);
    if (rc == 0 && !o->dry_run)
        rc = merge(&m);
    dom_error_keep(&error, rc);
    free(m.top_path);
    free(m.base_path);
    free(m.child_path);
    dom_end(&s);
    return rc < 0 ? dom_error_give(&error) : 0;
}
