/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new domain in a volume group.
 *
 * Works: the group is made, or renamed, and has a tag that says that it is no domain yet; then its own volumes are
 * made, of which "metadata" is the first extent of the first device, and what is to be zeros in them is written;
 * last, in one write of lvm's metadata, the group gets the pairs of the domain, and the tag of one. Fails: the
 * devices are no good, or too small; what was made goes, a group that was there gets its name back.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/block.h"
#include "tools/domain/lease.h"

enum { DEVICES_MOST = 10, DESCRIPTION_MOST = 50, VERSION = 5, SECTOR = 512, PIECE = 1 << 20, ALIGNMENT = 1 << 20 };

#define METADATA_SIZE (UINT64_C(128) << 20) /* of lvm's own, twice on each device */
#define GROUP_LEAST   (UINT64_C(10) << 30)  /* as Vdsm has it */

struct making {
    struct domain               domain; /* for notes */
    const struct domain_create *o;
    const char *const          *devices;
    const char                 *group;
    struct lvm                 *lvm;
    char                        uuid[DOMAIN_UUID];
    bool                        made, tagged, renamed;
    size_t                      volumes; /* of its own, that were made */
};

/* ---- what can be refused ------------------------------------------------------------------------------ */

static int judge_device(const char *path, uint64_t *total)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), sector = 0, rc = 0;
    uint64_t size = 0;
    struct stat st;

    if (fd < 0)
        return dom_fail_file(errno, path, "opening it");
    if (fstat(fd, &st) != 0 || !S_ISBLK(st.st_mode))
        rc = dom_fail(ENOTBLK, NULL, "%s: is no block device", path);
    else if (ioctl(fd, BLKSSZGET, &sector) != 0 || ioctl(fd, BLKGETSIZE64, &size) != 0)
        rc = dom_fail_file(errno, path, "asking for its size");
    else if (sector != SECTOR)
        rc = dom_fail(ENOTSUP, NULL, "%s: has sectors of %d bytes: a domain in a volume group needs such of %d, "
                      "by which metadata is written", path, sector, SECTOR);
    close(fd);
    *total += size;
    return rc;
}

static int judge_devices(const char *const *devices)
{
    uint64_t total = 0;
    size_t count = 0;
    int rc = 0;

    for (; rc == 0 && devices[count] != NULL; count++)
        rc = judge_device(devices[count], &total);
    if (rc == 0 && (count == 0 || count > DEVICES_MOST))
        rc = dom_fail(EINVAL, NULL, "a volume group for a domain is made of 1 to %d devices, not of %zu",
                      DEVICES_MOST, count);
    if (rc == 0 && total < GROUP_LEAST)
        rc = dom_fail(ENOSPC, NULL, "the devices have %" PRIu64 " bytes: a domain in a volume group has at least %"
                      PRIu64, total, GROUP_LEAST);
    return rc;
}

static int judge_group(const struct lvm_vg *vg)
{
    uint64_t total = 0;
    int rc = 0;

    if (lvm_has_tag(&vg->tags, TEXT_TAG_DOMAIN))
        return dom_fail(EEXIST, NULL, "volume group %s is a storage domain", vg->name);
    if (vg->lv_count > 0)
        return dom_fail(EEXIST, NULL, "volume group %s has %zu volume%s: a domain is made of an empty one",
                        vg->name, vg->lv_count, DOM_S(vg->lv_count));
    if (vg->extent_size != TEXT_EXTENT)
        return dom_fail(EINVAL, "'vgchange --physicalextentsize 128m' changes that",
                        "volume group %s has extents of %" PRIu64 " bytes, a domain has such of %d", vg->name,
                        vg->extent_size, TEXT_EXTENT);
    if (vg->size < GROUP_LEAST)
        return dom_fail(ENOSPC, NULL, "volume group %s has %" PRIu64 " bytes, a domain has at least %" PRIu64,
                        vg->name, vg->size, GROUP_LEAST);
    if (vg->pv_count > DEVICES_MOST)
        return dom_fail(EINVAL, NULL, "volume group %s has %zu devices, a domain has at most %d", vg->name,
                        vg->pv_count, DEVICES_MOST);
    for (size_t i = 0; rc == 0 && i < vg->pv_count; i++)
        rc = judge_device(vg->pvs[i].name, &total);
    return rc;
}

static int judge(struct making *m)
{
    const struct domain_create *o = m->o;
    int rc;

    if (o->version != 0 && o->version != VERSION)
        return dom_fail(EINVAL, NULL, "version %u: a domain in a volume group is made of version %d", o->version,
                        VERSION);
    if (o->description != NULL && strlen(o->description) > DESCRIPTION_MOST)
        return dom_fail(EINVAL, NULL, "the description of a domain in a volume group has at most %d characters",
                        DESCRIPTION_MOST);
    if (!lvm_can_activate())
        return dom_fail(ENOTSUP, NULL, "this kernel has no device-mapper: volumes of a group cannot be used");
    rc = o->uuid != NULL ? dom_check_uuid("domain", o->uuid) : domain_make_uuid(m->uuid);
    if (rc == 0 && o->uuid != NULL)
        memcpy(m->uuid, o->uuid, DOMAIN_UUID);
    return rc == 0 && m->devices != NULL ? judge_devices(m->devices) : rc;
}

/* ---- the group ---------------------------------------------------------------------------------------- */

static int make_group(struct making *m)
{
    static const char *const tags[] = {TEXT_TAG_UNREADY, NULL};
    const struct lvm_group group = {m->devices, TEXT_EXTENT, METADATA_SIZE, tags};
    int rc = lvm_open(m->uuid, NULL, &m->lvm);

    if (rc == 0)
        rc = lvm_begin(m->lvm);
    if (rc == 0)
        rc = lvm_make_group(m->lvm, &group);
    m->made = rc == 0;
    return rc;
}

static int take_group(struct making *m)
{
    static const char *const tags[] = {TEXT_TAG_UNREADY, NULL};
    struct lvm_report report;
    int rc = lvm_open(m->group, NULL, &m->lvm);

    if (rc == 0)
        rc = lvm_begin(m->lvm);
    if (rc == 0)
        rc = lvm_read(m->lvm, &report);
    if (rc < 0)
        return rc;
    rc = judge_group(&report.vgs[0]);
    lvm_report_free(&report);
    if (rc == 0)
        rc = lvm_retag_group(m->lvm, tags, NULL);
    m->tagged = rc == 0;
    if (rc == 0)
        rc = lvm_never_activate(m->lvm);
    if (rc == 0 && strcmp(m->group, m->uuid) != 0) {
        rc = lvm_rename_group(m->lvm, m->uuid);
        m->renamed = rc == 0;
    }
    return rc;
}

/* ---- its own volumes ---------------------------------------------------------------------------------- */

/* `len` bytes of data at an offset, between zeros; whole sectors, past the page cache. */
static int write_start(const struct making *m, const struct text_special *special, const void *data, size_t at,
                       size_t len)
{
    char path[128];
    char *buf;
    int fd, rc = 0;

    snprintf(path, sizeof path, "/dev/%s/%s", m->uuid, special->name);
    if (posix_memalign((void **)&buf, 4096, special->zeros) != 0)
        return dom_fail(ENOMEM, NULL, "out of memory");
    memset(buf, 0, special->zeros);
    assert(at + len <= special->zeros && special->zeros % SECTOR == 0);
    if (len > 0)
        memcpy(buf + at, data, len);
    fd = open(path, O_WRONLY | O_DIRECT | O_DSYNC | O_CLOEXEC);
    for (uint64_t done = 0; rc == 0 && fd >= 0 && done < special->zeros; done += PIECE) {
        size_t n = (size_t)min_u64(PIECE, special->zeros - done);
        if (pwrite(fd, buf + done, n, (off_t)done) != (ssize_t)n)
            rc = dom_fail_file(errno != 0 ? errno : EIO, path, "writing it");
    }
    if (fd < 0)
        rc = dom_fail_file(errno, path, "opening it");
    else
        close(fd);
    free(buf);
    return rc;
}

/* A file system, as Vdsm has it there when the domain becomes its pool's first. */
static int format_master(const struct making *m)
{
    char path[128];
    const char *const argv[] = {"mke2fs", "-q", "-t", "ext3", "-E", "nodiscard", path, NULL};
    int rc;

    snprintf(path, sizeof path, "/dev/%s/master", m->uuid);
    rc = lvm_run_program(argv);
    if (rc == -ENOENT) {
        dom_note(&m->domain, "%s: has no file system, as there is no mke2fs: Vdsm needs one there", path);
        rc = 0;
    }
    return rc;
}

static int write_special(const struct making *m, const struct text_special *special)
{
    unsigned char *index;
    int rc;

    if (strcmp(special->name, "xleases") != 0) {
        rc = write_start(m, special, NULL, 0, 0);
        return rc == 0 && strcmp(special->name, "master") == 0 ? format_master(m) : rc;
    }
    index = malloc(TEXT_XLEASES_SIZE);
    if (index == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    text_xleases(m->uuid, (uint64_t)time(NULL), index);
    rc = write_start(m, special, index, 1 << 20, TEXT_XLEASES_SIZE); /* it lies in the second slot */
    free(index);
    return rc;
}

/* While they are active. */
static int make_lockspace(const struct making *m)
{
    char ids[64], leases[64];

    snprintf(ids, sizeof ids, "/dev/%s/ids", m->uuid);
    snprintf(leases, sizeof leases, "/dev/%s/leases", m->uuid);
    return lease_format(m->uuid, ids, leases, SECTOR, ALIGNMENT);
}

static int make_specials(struct making *m, const char *first_device)
{
    const char *names[TEXT_SPECIALS];
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < TEXT_SPECIALS; i++) {
        const struct lvm_new o = {.name = text_specials[i].name, .size = text_specials[i].size, .active = true,
                                  .device = i == 0 ? first_device : NULL};
        names[i] = o.name;
        rc = lvm_create(m->lvm, &o);
        if (rc == 0) {
            m->volumes++;
            rc = write_special(m, &text_specials[i]);
        }
    }
    if (rc == 0 && m->o->lockspace)
        rc = make_lockspace(m);
    return rc == 0 ? lvm_deactivate(m->lvm, names, TEXT_SPECIALS) : rc;
}

/* ---- the domain's pairs ------------------------------------------------------------------------------- */

static int set_mapping(struct text_domain *md, const struct lvm_vg *vg)
{
    uint64_t offset = 0;
    int rc = text_domain_set(md, "VGUUID", vg->uuid);

    for (size_t i = 0; rc == 0 && i < vg->pv_count; i++) {
        const struct lvm_pv *pv = &vg->pvs[i];
        const char *slash = strrchr(pv->name, '/');
        char key[32], value[512];
        snprintf(key, sizeof key, "PV%zu", i);
        snprintf(value, sizeof value, "pv:%s,uuid:%s,pestart:0,pecount:%" PRIu64 ",mapoffset:%" PRIu64,
                 slash != NULL ? slash + 1 : pv->name, pv->uuid, pv->extents, offset);
        offset += pv->extents;
        rc = text_domain_set(md, key, value);
    }
    return rc < 0 ? dom_fail(rc, NULL, "what lvm says of the devices is no text") : 0;
}

/* It is a domain from here on. */
static int tag_group(struct making *m, const struct text_domain *md)
{
    static const char *const drop[] = {TEXT_TAG_UNREADY, NULL};
    struct block_tags tags;
    int rc = block_tags(md, &tags);

    if (rc == 0) {
        tags.list[tags.count] = TEXT_TAG_DOMAIN;
        rc = lvm_retag_group(m->lvm, tags.list, drop);
    }
    block_tags_free(&tags);
    return rc;
}

/* Where lvm has its own metadata, of which Vdsm expects "metadata" to be the neighbour. */
static const char *first_device(const struct lvm_vg *vg)
{
    for (size_t i = 0; i < vg->pv_count; i++)
        if (vg->pvs[i].metadata_copies > 0)
            return vg->pvs[i].name;
    return vg->pvs[0].name;
}

static int describe(struct making *m, const struct lvm_vg *vg)
{
    const struct dom_pairs pairs = {"FCP", m->uuid, m->o->description, VERSION, SECTOR};
    const struct lvm_lv *metadata = lvm_find_lv(vg, text_specials[0].name);
    struct text_domain md = {0};
    int rc;

    if (metadata == NULL || metadata->segment_count != 1 || metadata->segments[0].extent != 0 ||
        strcmp(metadata->segments[0].device, first_device(vg)) != 0)
        return dom_fail(EIO, NULL, "volume group %s: 'metadata' is not the first extent of its first device",
                        vg->name);
    rc = dom_fill_pairs(&md, &pairs);
    if (rc == 0)
        rc = set_mapping(&md, vg);
    if (rc == 0)
        rc = tag_group(m, &md);
    text_domain_free(&md);
    return rc;
}

static int fill_group(struct making *m)
{
    struct lvm_report report;
    int rc = lvm_read(m->lvm, &report);

    if (rc < 0)
        return rc;
    rc = make_specials(m, first_device(&report.vgs[0]));
    lvm_report_free(&report);
    if (rc == 0)
        rc = lvm_read(m->lvm, &report);
    if (rc < 0)
        return rc;
    rc = describe(m, &report.vgs[0]);
    lvm_report_free(&report);
    return rc;
}

/* ---- all of it ---------------------------------------------------------------------------------------- */

static void undo(struct making *m)
{
    static const char *const drop[] = {TEXT_TAG_UNREADY, NULL};
    const char *names[TEXT_SPECIALS];

    if (m->made) {
        lvm_drop_group(m->lvm, true);
        return;
    }
    for (size_t i = 0; i < m->volumes; i++)
        names[i] = text_specials[i].name;
    lvm_remove(m->lvm, names, m->volumes);
    if (m->renamed)
        lvm_rename_group(m->lvm, m->group);
    if (m->tagged)
        lvm_retag_group(m->lvm, NULL, drop);
}

int domain_create_block(const struct domain_create *o, const char *const *devices, const char *group,
                        const struct domain_how *how, char ret_uuid[DOMAIN_UUID])
{
    struct making m = {.o = o, .devices = devices, .group = group};
    struct dom_error error;
    bool begun;
    int rc;

    if (how != NULL)
        m.domain.how = *how;
    rc = judge(&m);
    if (rc < 0)
        return rc;
    rc = devices != NULL ? make_group(&m) : take_group(&m);
    begun = rc == 0;
    if (rc == 0)
        rc = fill_group(&m);
    dom_error_keep(&error, rc);
    if (rc < 0 && (begun || m.tagged))
        undo(&m);
    if (m.lvm != NULL && lvm_is_writer(m.lvm))
        lvm_end(m.lvm);
    lvm_close(m.lvm);
    if (rc < 0)
        return dom_error_give(&error);
    if (!o->lockspace)
        dom_note(&m.domain, "%s: has no lockspace, which Vdsm needs: --lockspace has sanlock make one", m.uuid);
    memcpy(ret_uuid, m.uuid, DOMAIN_UUID);
    return 0;
}
