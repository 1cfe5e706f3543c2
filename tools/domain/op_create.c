/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new volume: the first of an image, a snapshot of a leaf, or what lies on a template.
 *
 * Works: all that can be refused is refused: nothing lies on what is to be below, it is not being written, and has
 * the size that its header says. Then the image's folder, the template shared into it, the intent, the data, the
 * parent's role, and last the volume is published.
 * Fails, or killed: it is unpublished, and gone with the next operation on the image.
 *
 * Invariants:
 *  1. The data of a volume goes only while it is unpublished.
 *  2. Of several, in as many images, that want one name at a time at most one gets it: each looks for it after its
 *     own is there.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { CAPACITY_ALIGN = 4096 };

struct creation {
    struct domain                     *domain;
    const struct domain_volume_create *o;
    struct dom_session                 session;
    struct dom_claims                  claims;   /* nobody writes what is to be below */
    const char                        *image;
    struct domain_meta                 meta;
    char                               uuid[DOMAIN_UUID];
    struct domain_volume              *parent;   /* in the image, NULL: none, or it is to be shared first */
    struct domain_meta                 of_parent;
    char                               below[DOMAIN_UUID]; /* the parent's name */
    bool                               shares;   /* it is another image's */
    struct vdisk_create_opts           data;
    uint64_t                           asked;
    uint64_t                           room;     /* where data has a fixed size: that it is to have */
    bool                               has_data; /* which was made here */
    bool                               published;
};

/* ---- what can be refused -------------------------------------------------------------------------------- */

static int refuse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int refuse(const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return vdisk_set_error(EINVAL, text, NULL);
}

static int judge_initial_size(const struct domain *d, const struct domain_volume_create *o, uint64_t capacity)
{
    if (!o->has_initial_size)
        return 0;
    if (d->extent != 0)
        return o->format == DOMAIN_COW || o->initial_size == 0 ? 0 :
               refuse("an initial size is for qcow2 volumes: a raw volume has space for all of its capacity");
    if (o->format == DOMAIN_COW)
        return o->initial_size == 0 ? 0 :
               refuse("an initial size is for volumes on block devices: a qcow2 volume in a file has none");
    if (o->allocation == DOMAIN_SPARSE)
        return refuse("an initial size is for preallocated volumes: a raw sparse volume has none");
    return o->initial_size <= capacity ? 0 : refuse("the initial size is more than the capacity");
}

static int judge_parent(const struct creation *c, const char *uuid)
{
    const struct domain_meta *p = &c->of_parent;

    if (c->o->format == DOMAIN_RAW)
        return refuse("a raw volume has no parent: what lies on another volume is qcow2");
    if (!c->shares && p->role == DOMAIN_INTERNAL && c->parent->children == 0)
        return refuse("the parent %s is INTERNAL: what lies on it is not there, or not known", uuid);
    if (p->legality != DOMAIN_LEGAL)
        return refuse("the parent %s is %s: only a LEGAL volume can be one", uuid,
                      domain_legality_name(p->legality));
    if (c->shares && p->role != DOMAIN_SHARED)
        return refuse("the parent %s is of another image, and %s: only a SHARED volume (a template) is shared",
                      uuid, domain_role_name(p->role));
    if (c->shares && strcmp(p->parent, DOMAIN_BLANK) != 0)
        return refuse("the parent %s is a template, and has a parent itself: it is not shared without that", uuid);
    if (!c->shares && p->role == DOMAIN_SHARED && strcmp(p->image, c->image) == 0)
        return refuse("the parent %s is a template: what lies on it is of another image", uuid);
    return 0;
}

static int find_own_parent(struct creation *c)
{
    int rc;

    if (c->session.image == NULL)
        return dom_fail(ENOENT, NULL, "domain %s has no image %s", c->domain->uuid, c->image);
    c->parent = dom_session_volume(&c->session, c->o->parent, &rc);
    if (c->parent == NULL)
        return rc;
    memcpy(c->below, c->parent->uuid, DOMAIN_UUID);
    c->of_parent = c->parent->meta;
    if (c->parent->children > 0)
        return refuse("the parent %s has a child already: the volumes of an image are one chain", c->below);
    rc = judge_parent(c, c->below);
    if (rc == 0)
        rc = dom_judge_top(&c->session, c->parent, NULL, "the parent of another one");
    if (rc == 0)
        rc = dom_judge_double(c->domain, c->image, c->parent, false);
    if (rc == 0)
        rc = dom_check_chain(c->domain, c->image, c->parent);
    if (rc == 0)
        rc = dom_claim(c->domain, c->image, c->parent, &c->claims);
    if (rc == 0)
        rc = dom_match_capacity(c->domain, c->image, c->parent, !c->o->dry_run);
    c->of_parent = c->parent->meta;
    return rc;
}

static int judge_shared(struct creation *c, const char *image, struct domain_volume *v)
{
    int rc;

    c->of_parent = v->meta;
    rc = judge_parent(c, v->uuid);
    if (rc == 0)
        rc = dom_check_chain(c->domain, image, v);
    if (rc == 0)
        rc = dom_match_capacity(c->domain, image, v, false);
    c->of_parent = v->meta;
    return rc;
}

static int find_shared_parent(struct creation *c)
{
    struct domain_image *image;
    struct domain_volume *v;
    int rc = domain_load_image(c->domain, c->o->parent_image, &image);

    if (rc < 0)
        return rc;
    v = c->o->parent[0] != '\0' ? domain_image_volume(image, c->o->parent) :
        domain_image_leaf(c->domain, image, &rc);
    if (v != NULL)
        memcpy(c->below, v->uuid, DOMAIN_UUID);
    c->shares = true;
    if (rc == 0 && (v == NULL || !v->has_meta || v->why[0] != '\0'))
        rc = dom_fail(ENOENT, NULL, "image %s has no volume %s that can be read", image->uuid, c->o->parent);
    else if (rc == 0)
        rc = judge_shared(c, image->uuid, v);
    domain_image_free(image);
    if (rc == 0 && c->session.image != NULL && c->session.image->count > 0) {
        c->parent = domain_image_volume(c->session.image, c->below);
        if (c->parent == NULL || c->session.image->count > 1)
            return refuse("image %s has volumes: a template's is the first one below them", c->image);
    }
    return rc;
}

static int find_parent(struct creation *c)
{
    if (c->o->parent == NULL)
        return c->session.image == NULL || c->session.image->count == 0 ? 0 :
               refuse("image %s has volumes: a volume without a parent is the first of its image", c->image);
    if (c->o->parent_image == NULL || strcmp(c->o->parent_image, c->image) == 0)
        return find_own_parent(c);
    return find_shared_parent(c);
}

static int judge_capacity(struct creation *c)
{
    uint64_t capacity = c->o->capacity;

    if (capacity == 0 && c->o->parent == NULL)
        return refuse("a volume without a parent needs a capacity");
    if (capacity == 0)
        capacity = c->of_parent.capacity;
    if (capacity > INT64_MAX - CAPACITY_ALIGN)
        return refuse("a capacity of %" PRIu64 " bytes is more than a volume has", capacity);
    capacity = align_up(capacity, CAPACITY_ALIGN);
    if (capacity == 0)
        return refuse("a volume of 0 bytes is none: give it a capacity");
    if (c->o->format == DOMAIN_RAW && c->domain->extent != 0)
        capacity = text_extents(capacity, c->domain->extent); /* it has what its device has */
    if (capacity > INT64_MAX)
        return refuse("a capacity of %" PRIu64 " bytes is more than a volume has", capacity);
    if (c->o->parent != NULL && capacity < c->of_parent.capacity)
        return refuse("a capacity of %" PRIu64 " bytes is less than that of the parent, %" PRIu64, capacity,
                      c->of_parent.capacity);
    c->meta.capacity = capacity;
    return judge_initial_size(c->domain, c->o, capacity);
}

/* ---- metadata -------------------------------------------------------------------------------------------- */

static int64_t next_sequence(const struct creation *c)
{
    uint64_t last = 0;
    bool any = false;

    if (c->o->has_sequence)
        return (int64_t)c->o->sequence;
    for (size_t i = 0; c->session.image != NULL && i < c->session.image->count; i++) {
        const struct domain_volume *v = &c->session.image->list[i];
        if (dom_is_foreign(c->session.image, v))
            continue;
        any = true;
        last = max_u64(last, v->meta.sequence);
    }
    return any ? (int64_t)last + 1 : 0;
}

static int copy_text(char *to, size_t room, const char *what, const char *text)
{
    if (strlen(text) >= room || !text_is_line(text))
        return refuse("the %s is no line of text, or too long", what);
    memcpy(to, text, strlen(text) + 1);
    return 0;
}

static int fill_texts(struct creation *c)
{
    bool child = c->o->parent != NULL && !c->shares;
    const char *description = c->o->description != NULL ? c->o->description
                              : child                   ? c->of_parent.description
                                                        : "";
    const char *type = c->o->disk_type != NULL ? c->o->disk_type : child ? c->of_parent.disk_type : "DATA";
    int rc = 0;

    if (c->o->description == NULL || c->o->same_description) /* what others have written is no new fault */
        snprintf(c->meta.description, sizeof c->meta.description, "%s", description);
    else
        rc = copy_text(c->meta.description, sizeof c->meta.description, "description", description);
    if (rc == 0 && !domain_is_disk_type(type))
        rc = refuse("'%.40s' is no type of a disk: DATA, OVFS, MEMD, MEMM, ISOF, HEVD, HESD, HEMD, HECI, SCRD",
                    type);
    return rc == 0 ? copy_text(c->meta.disk_type, sizeof c->meta.disk_type, "disk type", type) : rc;
}

static void fill_meta(struct creation *c)
{
    struct domain_meta *m = &c->meta;
    bool five = c->domain->version >= 5;

    m->format = c->o->format;
    m->allocation = c->o->allocation;
    m->role = DOMAIN_LEAF;
    m->legality = c->o->illegal ? DOMAIN_ILLEGAL : DOMAIN_LEGAL;
    m->ctime = (uint64_t)time(NULL);
    m->sequence = (uint64_t)next_sequence(c);
    m->has_capacity = m->has_sequence = five;
    m->has_size = m->has_mtime = !five;
    memcpy(m->domain, c->domain->uuid, DOMAIN_UUID);
    memcpy(m->image, c->image, DOMAIN_UUID);
    memcpy(m->parent, c->o->parent != NULL ? c->below : DOMAIN_BLANK, DOMAIN_UUID);
}

static int judge_name(const struct creation *c, const char *uuid, const char *except)
{
    char image[DOMAIN_UUID];
    int rc = c->domain->kind->find_volume(c->domain, uuid, except, image);

    if (rc == 0 && image[0] != '\0')
        rc = dom_fail(EEXIST, NULL, "image %s has a volume %s, or data of that name", image, uuid);
    return rc;
}

static int choose_name(struct creation *c)
{
    int rc;

    if (c->o->uuid == NULL)
        return domain_make_uuid(c->uuid);
    rc = dom_check_uuid("volume", c->o->uuid);
    if (rc == 0)
        rc = judge_name(c, c->o->uuid, "");
    if (rc == 0)
        memcpy(c->uuid, c->o->uuid, DOMAIN_UUID);
    return rc;
}

/* An order of volumes: what has no number after the largest is not made. */
static int judge_sequence(const struct creation *c)
{
    if (c->meta.sequence <= UINT32_MAX)
        return 0;
    return dom_fail(EOVERFLOW, "give it one with --sequence, or a volume of the image a smaller one",
                    "a volume of image %s has the largest sequence number there is: the next one is none",
                    c->image);
}

/* A device has all of its space: what is raw is as large as that. */
static int judge_kind(const struct creation *c)
{
    return c->domain->extent != 0 && c->o->format == DOMAIN_RAW && c->o->allocation == DOMAIN_SPARSE ?
               refuse("a raw volume in a volume group is preallocated, not sparse: a device has no holes; sparse "
                      "there is qcow2") : 0;
}

static int plan(struct creation *c)
{
    int rc = judge_kind(c);

    if (rc == 0 && c->o->has_sequence)
        rc = dom_judge_sequence(c->domain);
    if (rc == 0)
        rc = find_parent(c);
    if (rc == 0)
        rc = judge_capacity(c);
    if (rc == 0)
        rc = choose_name(c);
    if (rc == 0)
        rc = fill_texts(c);
    if (rc == 0) {
        fill_meta(c);
        rc = judge_sequence(c);
    }
    return rc;
}

/* ---- data ------------------------------------------------------------------------------------------------ */

static int plan_room(struct creation *c, const struct vdisk_measure_result *size)
{
    const struct domain_volume_create *o = c->o;
    uint64_t most = size->fully_allocated, first = o->has_initial_size ? o->initial_size : DOM_CHUNK;

    if (c->domain->extent == 0)
        return 0;
    if (o->has_initial_size && first > most)
        return refuse("the initial size is more than the volume can ever take, %" PRIu64, most);
    if (c->meta.format == DOMAIN_RAW || c->asked > 0 || (o->fill != NULL && !o->has_initial_size))
        first = most; /* nobody knows how much it is that comes */
    c->room = min_u64(max_u64(first, size->required), most);
    return 0;
}

/* What vdisk_create() is to be given, and how much space that takes. */
static int plan_data(struct creation *c)
{
    struct vdisk_measure_result size = {.size = sizeof size};
    bool cow = c->meta.format == DOMAIN_COW, full = c->meta.allocation == DOMAIN_PREALLOCATED;
    int rc;

    c->data = (struct vdisk_create_opts){.size = sizeof c->data, .format = cow ? "qcow2" : "raw",
                                         .virtual_size = c->meta.capacity};
    if (c->o->fill == NULL) { /* else it is the filling's */
        c->data.progress = c->o->progress;
        c->data.progress_arg = c->o->progress_arg;
    }
    if (c->o->parent != NULL) {
        c->data.backing_file = c->meta.parent;
        c->data.backing_fmt = c->of_parent.format == DOMAIN_COW ? "qcow2" : "raw";
        c->data.backing_unchecked = true;
    }
    if (cow && c->domain->version < 4)
        c->data.version = 2;
    rc = vdisk_measure(&c->data, NULL, &size);
    if (rc < 0)
        return rc;
    if (full)
        c->asked = size.fully_allocated;
    if (full && c->o->parent == NULL && c->domain->extent == 0)
        c->data.preallocation = VDISK_PREALLOC_FALLOC;
    return plan_room(c, &size);
}

static int run_create(struct creation *c, const char *path)
{
    vdisk_job *job;
    int rc = vdisk_job_create(path, &c->data, &job);

    return rc == 0 ? dom_run_job(c->domain, job) : rc;
}

/* As QEMU does: who looks for the alignment that direct I/O has to have needs a block that is allocated. */
static int write_first_block(const char *path)
{
    static const char zeros[CAPACITY_ALIGN];
    int fd = open(path, O_WRONLY | O_CLOEXEC), rc = 0;

    if (fd < 0 || pwrite(fd, zeros, sizeof zeros, 0) != (ssize_t)sizeof zeros)
        rc = dom_fail_file(fd < 0 || errno != 0 ? errno : EIO, path, "writing its first block");
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Behind the end of what is nobody's yet, as bytes. */
static int write_zeros_behind(const struct creation *c)
{
    const struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR | VDISK_OPEN_NO_NAMES,
                                        .format = "raw"};
    const struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = VDISK_PREALLOC_FULL,
                                           .progress = c->data.progress, .progress_arg = c->data.progress_arg};
    struct dom_error error;
    vdisk_job *job = NULL;
    vdisk *file = NULL;
    char *path = NULL;
    int rc = dom_data_path(c->domain, c->image, c->uuid, &path);

    if (rc == 0)
        rc = vdisk_open(path, &how, &file);
    free(path);
    if (rc < 0)
        return rc;
    if (vdisk_size(file) < c->asked)
        rc = vdisk_job_resize(file, c->asked, &opts, &job);
    if (rc == 0 && vdisk_size(file) < c->asked)
        rc = dom_run_job(c->domain, job);
    dom_error_keep(&error, rc);
    if (rc == 0)
        return vdisk_close(file);
    vdisk_close(file);
    return dom_error_give(&error);
}

/* Of what lies on another volume there are no clusters yet. A device has its room from the first. */
static int reserve_data(const struct creation *c)
{
    int rc;

    if (c->asked == 0 || c->o->parent == NULL || c->domain->extent != 0)
        return 0;
    rc = c->domain->kind->reserve(c->domain, c->image, c->uuid, c->asked);
    if (rc != -ENOTSUP)
        return rc;
    dom_note(c->domain, "volume %s: its file system reserves no space: zeros are written", c->uuid);
    return write_zeros_behind(c);
}

/* A file system that reserves nothing is written to. */
static int fill_data(struct creation *c)
{
    char *path = NULL;
    int rc;

    if (c->meta.format == DOMAIN_RAW && c->domain->extent != 0)
        return 0; /* it is what its device holds, as Vdsm has it */
    rc = dom_data_path(c->domain, c->image, c->uuid, &path);
    if (rc < 0)
        return rc;
    rc = run_create(c, path);
    if (rc == -ENOTSUP && c->data.preallocation == VDISK_PREALLOC_FALLOC) {
        dom_note(c->domain, "volume %s: its file system reserves no space: zeros are written", c->uuid);
        c->data.preallocation = VDISK_PREALLOC_FULL;
        rc = run_create(c, path);
    }
    if (rc == 0 && c->meta.format == DOMAIN_RAW && c->asked == 0)
        rc = write_first_block(path);
    free(path);
    return rc == 0 ? reserve_data(c) : rc;
}

/* What the caller has for it. */
static int call_fill(struct creation *c)
{
    struct domain_new n = {.format = c->data.format,
                           .backing = c->o->parent != NULL ? c->data.backing_file : "",
                           .backing_format = c->o->parent != NULL ? c->data.backing_fmt : "",
                           .capacity = c->meta.capacity,
                           .zero = c->domain->extent == 0 || c->meta.format == DOMAIN_COW};
    char *path = NULL;
    int rc = c->o->fill != NULL ? dom_data_path(c->domain, c->image, c->uuid, &path) : 0;

    n.path = path;
    if (rc == 0 && c->o->fill != NULL)
        rc = c->o->fill(c->o->fill_arg, &n);
    free(path);
    return rc;
}

/* Is there what was asked for? The volume is made: it is only told. */
static void look_at_space(struct creation *c, struct domain_volume_result *ret)
{
    uint64_t size;

    ret->asked = c->asked;
    if (c->domain->kind->measure(c->domain, c->image, c->uuid, &size, &ret->allocated) < 0)
        dom_note(c->domain, "volume %s: what it occupies is not known: %s", c->uuid, vdisk_error_text());
    else if (ret->allocated < c->asked)
        dom_note(c->domain,
                 "volume %s: of %" PRIu64 " bytes that were to be preallocated the storage has allocated %" PRIu64
                 ": it compresses or deduplicates, or cannot allocate",
                 c->uuid, c->asked, ret->allocated);
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

/* Unpublished: its intent, and its data. */
static int make_unpublished(struct creation *c, const char *meta, size_t len)
{
    const struct dom_kind *kind = c->domain->kind;
    int rc = kind->set_intent(c->domain, c->image, c->uuid, meta, len);

    if (rc == 0) {
        dom_step("create: metadata is noted");
        rc = judge_name(c, c->uuid, c->image); /* (2) */
    }
    if (rc == 0)
        rc = kind->make_data(c->domain, c->image, c->uuid, c->room);
    if (rc == 0) {
        c->has_data = true;
        dom_step("create: data file is made");
        rc = fill_data(c);
    }
    if (rc == 0)
        rc = call_fill(c);
    if (rc == 0 && c->o->fill != NULL)
        rc = reserve_data(c); /* a file that became longer, and shorter again, has lost some */
    if (rc == 0)
        dom_step("create: data is written");
    return rc;
}

static int make_volume(struct creation *c, const char *meta, size_t len)
{
    const struct dom_kind *kind = c->domain->kind;
    int rc = make_unpublished(c, meta, len);

    if (rc == 0)
        rc = c->parent != NULL ? dom_set_role(c->domain, c->image, c->parent, DOMAIN_INTERNAL) : 0;
    if (rc == 0) {
        dom_step("create: parent is internal");
        rc = kind->publish(c->domain, c->image, c->uuid);
    }
    if (rc == 0) {
        c->published = true;
        dom_step("create: volume is published");
        rc = kind->sync(c->domain, c->image);
    }
    return rc;
}

static int make_all(struct creation *c)
{
    const struct dom_kind *kind = c->domain->kind;
    char meta[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc = dom_format_meta(c->domain, &c->meta, meta, &len);

    if (rc == 0)
        rc = plan_data(c);
    if (rc == 0)
        rc = kind->make_image(c->domain, c->image);
    if (rc == 0) {
        dom_step("create: image folder is made");
        if (c->shares && c->parent == NULL)
            rc = kind->share(c->domain, c->o->parent_image, c->below, c->image);
    }
    if (rc == 0) {
        dom_step("create: template is shared");
        rc = make_volume(c, meta, len);
    }
    return rc;
}

/* All that is judged on the way. */
static int judge_made(struct creation *c, struct domain_volume_result *ret)
{
    char meta[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc = dom_format_meta(c->domain, &c->meta, meta, &len);

    if (rc == 0)
        rc = plan_data(c);
    ret->asked = c->asked;
    return rc;
}

/* (1) */
static void drop_unpublished(const struct creation *c, struct dom_error *error)
{
    char *path;

    if (!c->has_data) {
        c->domain->kind->drop_intent(c->domain, c->image, c->uuid);
    } else if (c->domain->kind->purge(c->domain, c->image, c->uuid) == 0) {
        path = c->domain->kind->data_path(c->domain, c->image, c->uuid);
        if (path != NULL)
            dom_error_forget(error, path);
        free(path);
    }
}

/* What was made goes; what is left is for the next operation. */
static void undo(struct creation *c, struct dom_error *error)
{
    const struct dom_kind *kind = c->domain->kind;

    if (c->published && kind->unpublish(c->domain, c->image, c->uuid, false) < 0)
        return;
    drop_unpublished(c, error);
    if (c->parent != NULL && c->parent->children == 0)
        dom_set_role(c->domain, c->image, c->parent, DOMAIN_LEAF);
    if (c->shares && c->parent == NULL)
        kind->unshare(c->domain, c->image, c->below);
    kind->drop_image(c->domain, c->image);
}

static int judge_names(const struct domain_volume_create *o)
{
    int rc = 0;

    if (o->parent != NULL && o->parent[0] != '\0')
        rc = dom_check_uuid("volume", o->parent);
    if (rc == 0 && o->parent_image != NULL)
        rc = dom_check_uuid("image", o->parent_image);
    return rc;
}

int dom_create_volume(struct domain *d, const char *image, const struct domain_volume_create *o, int lock,
                      struct domain_volume_result *ret)
{
    struct dom_want want = {.image = image, .shared_image = o->parent_image, .may_lack = true,
                            .dry_run = o->dry_run, .lock = lock};
    struct creation c = {.domain = d, .o = o, .image = image};
    struct domain_volume_result result = {0};
    struct dom_error error;
    int rc = dom_begin(d, &want, &c.session);

    if (rc < 0)
        return rc;
    rc = plan(&c);
    if (rc == 0 && o->dry_run) {
        rc = judge_made(&c, &result);
        dom_error_keep(&error, rc);
    } else if (rc == 0) {
        rc = make_all(&c);
        dom_error_keep(&error, rc);
        if (rc < 0)
            undo(&c, &error);
        else
            look_at_space(&c, &result);
    } else {
        dom_error_keep(&error, rc);
    }
    dom_claims_end(&c.claims);
    dom_end(&c.session);
    if (rc < 0)
        return dom_error_give(&error);
    memcpy(result.uuid, c.uuid, DOMAIN_UUID);
    result.capacity = c.meta.capacity;
    *ret = result;
    return 0;
}

int domain_volume_create(struct domain *d, const char *image, const struct domain_volume_create *o,
                         struct domain_volume_result *ret)
{
    int rc = judge_names(o);

    return rc == 0 ? dom_create_volume(d, image, o, -1, ret) : rc;
}

/* ---- for a copy of several ------------------------------------------------------------------------------- */

int dom_make_unpublished(struct domain *d, const char *image, const struct dom_unpublished *u,
                         struct domain_volume_result *ret)
{
    struct domain_volume_create o = {.parent = dom_backing_of(u->meta)[0] != '\0' ? u->meta->parent : NULL,
                                     .fill = u->fill, .fill_arg = u->fill_arg,
                                     .has_initial_size = u->room != 0, .initial_size = u->room};
    struct creation c = {.domain = d, .o = &o, .image = image, .meta = *u->meta};
    struct domain_volume_result result = {.capacity = u->meta->capacity};
    char meta[TEXT_VOLUME_MAX + 1];
    struct dom_error error;
    size_t len;
    int rc = dom_format_meta(d, u->meta, meta, &len);

    memcpy(c.uuid, u->uuid, DOMAIN_UUID);
    memcpy(result.uuid, u->uuid, DOMAIN_UUID);
    c.of_parent.format = u->of_parent;
    if (rc == 0)
        rc = plan_data(&c);
    if (rc < 0)
        return rc;
    rc = make_unpublished(&c, meta, len);
    if (rc < 0) {
        dom_error_keep(&error, rc);
        drop_unpublished(&c, &error);
        return dom_error_give(&error);
    }
    look_at_space(&c, &result);
    *ret = result;
    return 0;
}
