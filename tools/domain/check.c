/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is a domain as it should be?
 *
 * Works: each image is locked, what operations can leave is looked for (mend.c), and then what the volumes
 * themselves say is compared with their metadata. With repair what can be mended is, where nobody has one of its
 * volumes open. Fails: an image that somebody works on is skipped, aloud; what cannot be looked at is a finding,
 * and the others are looked at.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/kind.h"

struct check {
    struct domain              *domain;
    const struct domain_check  *o;
    struct dom_mend             mend;
    struct domain_check_result  result;
};

static void tell(void *arg, enum vdisk_finding kind, const char *text)
{
    struct check *c = arg;

    if (c->o->report != NULL)
        c->o->report(c->o->report_arg, kind, text);
}

/* ---- volumes ---------------------------------------------------------------------------------------------- */

/* Of that it is told when what was left is mended. */
static bool is_unpublished(const struct domain_image *image, const char *volume)
{
    const struct domain_volume *v = domain_image_volume(image, volume);

    return v != NULL && !v->has_meta && v->has_intent && v->has_data;
}

static void check_links(struct check *c, const struct domain_image *image, const struct domain_volume *v)
{
    const struct domain_meta *m = &v->meta;

    if (strcmp(m->domain, c->domain->uuid) != 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s: its metadata says that it is of domain %s", image->uuid, v->uuid,
                 m->domain);
    if (strcmp(m->image, image->uuid) != 0 && m->role != DOMAIN_SHARED)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s: its metadata says that it is of image %s",
                 image->uuid, v->uuid, m->image);
    if (dom_is_circular(image, v))
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s: its parent %s leads back to itself: it is no chain", image->uuid, v->uuid,
                 m->parent);
    else if (strcmp(m->parent, DOMAIN_BLANK) != 0 && v->parent == NULL && !is_unpublished(image, m->parent))
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s: its parent %s is not there", image->uuid,
                 v->uuid, m->parent);
    if (m->format == DOMAIN_RAW && strcmp(m->parent, DOMAIN_BLANK) != 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s is raw, and has a parent", image->uuid,
                 v->uuid);
    if (m->role == DOMAIN_SHARED && strcmp(m->parent, DOMAIN_BLANK) != 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s is a template (SHARED), and has a parent, which is not shared with it",
                 image->uuid, v->uuid);
    if (m->role != DOMAIN_SHARED && v->links > 1)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: the data of volume %s has %u names, and it is no template: who writes by one changes "
                 "the other",
                 image->uuid, v->uuid, v->links);
    if (c->domain->version >= 5 && (m->has_size || m->has_mtime || !m->has_capacity))
        dom_tell(&c->mend, VDISK_FOUND_NOTE,
                 "image %s: volume %s: its metadata is not of version 5 yet: 'vdisk-io domain upgrade' goes on",
                 image->uuid, v->uuid);
    if (m->legality != DOMAIN_LEGAL)
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "image %s: volume %s is %s: it is not used before it is made LEGAL",
                 image->uuid, v->uuid, domain_legality_name(m->legality));
}

static void check_capacity(struct check *c, const struct domain_image *image, struct domain_volume *v,
                           uint64_t size)
{
    if (size == v->meta.capacity)
        return;
    dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s has %" PRIu64 " bytes, and its metadata says %"
             PRIu64, image->uuid, v->uuid, size, v->meta.capacity);
    if (!c->mend.repair || size < v->meta.capacity)
        return;
    if (dom_match_capacity(c->domain, image->uuid, v, true) == 0)
        dom_tell(&c->mend, VDISK_FOUND_FIXED, "image %s: the metadata of volume %s says %" PRIu64 " bytes now",
                 image->uuid, v->uuid, size);
}

/* What the parent has behind the end of a volume is hidden, and nobody is to grow or merge it into sight. */
static void check_parent_size(struct check *c, const struct domain_image *image, const struct domain_volume *v,
                              uint64_t size)
{
    struct dom_header header;

    if (v->parent == NULL || !v->parent->has_data ||
        dom_read_header(c->domain, image->uuid, v->parent, &header) < 0 || header.virtual_size <= size)
        return;
    dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
             "image %s: volume %s has %" PRIu64 " bytes, fewer than its parent %s, %" PRIu64, image->uuid, v->uuid,
             size, v->parent->uuid, header.virtual_size);
}

/*
 * What the volume's own tables say, where nobody writes to it: clusters that an operation which was killed took.
 */
static int check_tables(struct check *c, const struct domain_image *image, const struct domain_volume *v,
                        bool repair, struct vdisk_check_result *ret)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .flags = repair ? VDISK_OPEN_NO_LOCK : 0,
                                    .format = "qcow2", .memory_max = UINT64_C(256) << 20};
    vdisk_job *job = NULL;
    char *path;
    int rc = dom_data_path(c->domain, image->uuid, v->uuid, &path);

    if (rc == 0)
        rc = repair ? vdisk_job_repair(path, VDISK_REPAIR_LEAKS, &opts, &job) : vdisk_job_check(path, &opts, &job);
    free(path);
    if (rc < 0)
        return rc;
    rc = c->domain->how.run != NULL ? c->domain->how.run(job) : vdisk_job_run(job);
    if (rc == 0)
        vdisk_job_get_check_result(job, ret);
    vdisk_job_free(job);
    return rc;
}

/* What was found while somebody wrote to it he has taken just now: nobody has it open, from here on. */
static void give_back_leaks(struct check *c, const struct domain_image *image, const struct domain_volume *v,
                            uint64_t leaks)
{
    struct vdisk_check_result result = {.size = sizeof result};
    struct dom_claims claims = {0};
    int rc = dom_claim_alone(c->domain, image->uuid, &v, 1, &claims);

    if (rc == 0)
        rc = check_tables(c, image, v, true, &result);
    if (rc == 0)
        dom_tell(&c->mend, VDISK_FOUND_FIXED, "image %s: volume %s: %" PRIu64 " clusters are given back",
                 image->uuid, v->uuid, leaks);
    else
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "image %s: volume %s is not repaired: %s", image->uuid, v->uuid,
                 vdisk_error_text());
    dom_claims_end(&claims);
}

static void check_clusters(struct check *c, const struct domain_image *image, const struct domain_volume *v)
{
    struct vdisk_check_result result = {.size = sizeof result};
    int rc = check_tables(c, image, v, false, &result);
    uint64_t leaks = result.leaks;

    if (rc < 0) {
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "image %s: volume %s: its tables are not looked at: %s", image->uuid,
                 v->uuid, vdisk_error_text());
        return;
    }
    if (result.corruptions > 0 || result.check_errors > 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s: its tables have %" PRIu64 " fault%s: 'vdisk-io check -r all' repairs them",
                 image->uuid, v->uuid, result.corruptions + result.check_errors,
                 DOM_S(result.corruptions + result.check_errors));
    if (leaks == 0)
        return;
    dom_tell(&c->mend, VDISK_FOUND_LEAK, "image %s: volume %s: %" PRIu64 " cluster%s nobody's", image->uuid,
             v->uuid, leaks, leaks == 1 ? " is" : "s are");
    if (!c->mend.repair || result.corruptions > 0 || result.check_errors > 0 || v->meta.role == DOMAIN_SHARED ||
        v->links > 1)
        return;
    give_back_leaks(c, image, v, leaks);
}

static void check_header(struct check *c, const struct domain_image *image, struct domain_volume *v)
{
    struct dom_header header;
    const char *format = v->parent != NULL && v->parent->meta.format == DOMAIN_RAW ? "raw" : "qcow2";

    if (dom_read_header(c->domain, image->uuid, v, &header) < 0) {
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s: %s", image->uuid, v->uuid,
                 vdisk_error_text());
        return;
    }
    if (strcmp(header.backing, dom_backing_of(&v->meta)) != 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s: its header says that it lies on '%s', its "
                 "metadata on '%s'",
                 image->uuid, v->uuid, header.backing, dom_backing_of(&v->meta));
    else if (v->parent != NULL && strcmp(header.backing_format, format) != 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s: its header says that its parent is '%s', and "
                 "it is %s",
                 image->uuid, v->uuid, header.backing_format, format);
    if (header.data_file)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s has an external data file: it is not followed, and the volume not used",
                 image->uuid, v->uuid);
    if (header.corrupt)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s is marked corrupt: 'vdisk-io check -r all' "
                 "repairs it",
                 image->uuid, v->uuid);
    if (header.dirty)
        dom_tell(&c->mend, VDISK_FOUND_NOTE,
                 "image %s: volume %s was not closed: the next open for writing repairs it", image->uuid, v->uuid);
    check_capacity(c, image, v, header.virtual_size);
    check_parent_size(c, image, v, header.virtual_size);
    if (v->meta.format == DOMAIN_COW && !header.data_file && !header.corrupt)
        check_clusters(c, image, v);
}

static void check_volume(struct check *c, const struct domain_image *image, struct domain_volume *v)
{
    c->result.volumes++;
    if (!v->has_meta && v->odd)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s: volume %s, or what is beside it, is no regular file: it is left as it is", image->uuid,
                 v->uuid);
    else if (!v->has_meta && !v->has_intent && (v->has_data || v->has_draft))
        dom_tell(&c->mend, VDISK_FOUND_LEAK,
                 "image %s: volume %s is data without metadata, and nothing says whose: it "
                 "is left as it is",
                 image->uuid, v->uuid);
    if (!v->has_meta)
        return;
    if (v->why[0] != '\0') {
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s: its metadata: %s", image->uuid, v->uuid,
                 v->why);
        return;
    }
    check_links(c, image, v);
    if (v->has_data)
        check_header(c, image, v);
    else
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "image %s: volume %s has no data", image->uuid, v->uuid);
}

/* ---- images ----------------------------------------------------------------------------------------------- */

static void check_leaves(struct check *c, const struct domain_image *image)
{
    size_t leaves = 0;

    for (size_t i = 0; i < image->count; i++)
        leaves += image->list[i].has_meta && image->list[i].children == 0 && !dom_is_replaced(&image->list[i]);
    if (leaves > 1)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION,
                 "image %s has %zu volumes that none lies on: it is no one chain", image->uuid, leaves);
}

static int check_strangers(struct check *c, const char *image)
{
    struct dom_entries entries;
    int rc = c->domain->kind->list_volumes(c->domain, image, &entries);

    if (rc < 0)
        return rc;
    if (entries.stranger[0] != '\0')
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "image %s: '%s' is no file of a volume", image, entries.stranger);
    free(entries.list);
    return 0;
}

static int check_loaded(struct check *c, struct domain_image **image)
{
    int rc = check_strangers(c, (*image)->uuid);
    bool gone;

    if (rc == 0)
        rc = c->domain->kind->check(c->domain, (*image)->uuid, &c->mend);
    if (rc == 0)
        rc = dom_mend(c->domain, image, &c->mend);
    for (size_t i = 0; rc == 0 && i < (*image)->count; i++)
        check_volume(c, *image, &(*image)->list[i]);
    if (rc == 0)
        check_leaves(c, *image);
    return rc == 0 ? dom_mend_empty(c->domain, *image, &c->mend, &gone) : rc;
}

static int lock_for_repair(struct domain *d, int lock, const char *image)
{
    int rc = d->kind->judge_change != NULL ? d->kind->judge_change(d) : 0;

    return rc == 0 ? d->kind->lock_alone(d, lock, image) : rc;
}

static int check_image(struct check *c, const char *name)
{
    bool repair = c->mend.repair;
    const struct dom_lock_wish wish = {name, repair ? DOM_LOCK_BESIDE : DOM_LOCK_READ};
    struct domain_image *image;
    int lock, rc = c->domain->kind->lock(c->domain, &wish, 1, &lock);

    if (rc == -EAGAIN) {
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "image %s is not looked at: %s", name, vdisk_error_text());
        c->result.skipped++;
        return 0;
    }
    if (rc < 0)
        return rc;
    if (repair && lock_for_repair(c->domain, lock, name) < 0) {
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "image %s is looked at only: %s", name, vdisk_error_text());
        c->mend.repair = false;
    }
    rc = domain_load_image(c->domain, name, &image);
    if (rc == 0) {
        c->result.images++;
        rc = check_loaded(c, &image);
        domain_image_free(image);
    }
    c->mend.repair = repair;
    c->domain->kind->unlock(c->domain, lock);
    return rc == -ENOENT ? 0 : rc; /* it has gone */
}

static int check_removed(struct check *c, const char *name)
{
    struct dom_clear clear = {0};
    const char *image = dom_removed_uuid(name, &clear.wipe);
    const struct dom_lock_wish wish = {image, DOM_LOCK_CHANGE};
    int lock, rc;

    dom_tell(&c->mend, VDISK_FOUND_LEAK, "image %s is deleted, and its files are still there%s", image,
             clear.wipe ? ": they are to be wiped" : "");
    if (!c->o->repair)
        return 0;
    rc = c->domain->kind->lock(c->domain, &wish, 1, &lock);
    if (rc < 0)
        return rc;
    rc = dom_purge_removed(c->domain, name, &clear);
    c->domain->kind->unlock(c->domain, lock);
    if (rc == 0)
        dom_tell(&c->mend, VDISK_FOUND_FIXED, "image %s: its files are removed", image);
    return rc;
}

/* ---- the domain -------------------------------------------------------------------------------------------- */

static void check_domain(struct check *c)
{
    const struct domain *d = c->domain;
    const char *folder = strrchr(d->path, '/') != NULL ? strrchr(d->path, '/') + 1 : d->path;

    if (text_is_uuid(folder, strlen(folder)) && strcmp(folder, d->uuid) != 0)
        dom_tell(&c->mend, VDISK_FOUND_CORRUPTION, "the domain's folder is %s, and its metadata says %s", folder,
                 d->uuid);
    if (!d->md.sealed)
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "the domain's metadata has no checksum");
}

/* Who upgrades has all of the domain. */
static int mend_drafts(struct check *c)
{
    struct domain *d = c->domain;
    unsigned count;
    int lock, rc = d->kind->lock_domain(d, &lock);

    if (rc == -EAGAIN) {
        dom_tell(&c->mend, VDISK_FOUND_NOTE, "the domain is looked at only: %s", vdisk_error_text());
        return 0;
    }
    if (rc < 0)
        return rc;
    rc = d->kind->find_drafts(d, true, &count);
    d->kind->unlock(d, lock);
    if (rc == 0)
        dom_tell(&c->mend, VDISK_FOUND_FIXED, "what an upgrade was writing when it ended is removed");
    return rc;
}

static int check_drafts(struct check *c)
{
    struct domain *d = c->domain;
    unsigned count = 0;
    int lock, rc = d->kind->lock(d, NULL, 0, &lock);

    if (rc == -EAGAIN)
        return 0; /* an upgrade goes on */
    if (rc < 0)
        return rc;
    rc = d->kind->find_drafts(d, false, &count);
    d->kind->unlock(d, lock);
    if (rc < 0 || count == 0)
        return rc;
    dom_tell(&c->mend, VDISK_FOUND_LEAK, "%u file%s of dom_md %s what an upgrade was writing when it ended",
             count, DOM_S(count), count == 1 ? "is" : "are");
    return c->mend.repair ? mend_drafts(c) : 0;
}

int domain_check(struct domain *d, const struct domain_check *o, struct domain_check_result *ret)
{
    struct check c = {.domain = d, .o = o, .mend = {.repair = o->repair, .tell = tell, .arg = &c}};
    struct domain_names names;
    int rc = d->kind->list_images(d, &names);

    if (rc < 0)
        return rc;
    check_domain(&c);
    if (d->kind->check_domain(d, &c.mend) < 0 || check_drafts(&c) < 0)
        dom_tell(&c.mend, VDISK_FOUND_ERROR, "the domain: %s", vdisk_error_text());
    for (size_t i = 0; i < names.count; i++) {
        const char *name = names.list[i];
        if (dom_removed_uuid(name, NULL) != NULL)
            rc = check_removed(&c, name);
        else
            rc = check_image(&c, name);
        if (rc < 0)
            dom_tell(&c.mend, VDISK_FOUND_ERROR, "image %s: %s", name, vdisk_error_text());
    }
    domain_names_free(&names);
    c.result.faults = c.mend.faults;
    c.result.mended = c.mend.mended;
    *ret = c.result;
    return 0;
}
