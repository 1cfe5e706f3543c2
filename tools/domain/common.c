/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors, notes, steps, names; metadata of volumes as it is changed; headers of volumes. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

/* ---- errors, notes, steps ------------------------------------------------------------------------------ */

/* What the host says of a domain's files: the library's advice is for who has named an image. NULL: that is it. */
static const char *hint_for_host(int err, const char *text)
{
    static const struct {
        int         err;
        const char *hint;
    } hints[] = {
        {ENOENT, "check the domain's name; what is missing within a domain is to be restored"},
        {ENOTDIR, "check the domain's name; where a domain has a folder is something else: restore that"},
        {EISDIR, "where a domain has a file is a folder: see what it has, and move it away"},
        {ELOOP, "where a domain has a file or a folder is a symbolic link, and none is followed: move it away"},
        {EROFS, "mount the file system for writing: now what only looks works"},
        {EAGAIN, "somebody else has it: try again"},
        {EBUSY, "somebody else uses it: try again"},
    };
    const char *says = strerror(err);
    size_t len = strlen(text), n = strlen(says);

    if (len < n || strcmp(text + len - n, says) != 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(hints); i++)
        if (hints[i].err == err)
            return hints[i].hint;
    return NULL;
}

int dom_fail(int err, const char *hint, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return vdisk_set_error(err, text, hint != NULL ? hint : hint_for_host(abs(err), text));
}

int dom_fail_file(int err, const char *path, const char *doing)
{
    return dom_fail(err, NULL, "%s: %s: %s", path, doing, strerror(abs(err)));
}

void dom_error_keep(struct dom_error *e, int rc)
{
    e->rc = rc;
    snprintf(e->text, sizeof e->text, "%s", vdisk_error_text());
    snprintf(e->hint, sizeof e->hint, "%s", vdisk_error_hint());
}

void dom_error_forget(struct dom_error *e, const char *path)
{
    static const char *const left[] = {" is left empty", " no longer holds what it did", " may be left empty",
                                       " is left longer than it was"};
    char what[sizeof e->text];

    for (size_t i = 0; i < ARRAY_LEN(left); i++) {
        char *at;
        if (snprintf(what, sizeof what, "; %s%s", path, left[i]) >= (int)sizeof what)
            continue;
        at = strstr(e->text, what);
        if (at != NULL)
            memmove(at, at + strlen(what), strlen(at + strlen(what)) + 1);
    }
}

int dom_explain_open(int rc)
{
    struct dom_error error;

    if (rc != -EACCES && rc != -EPERM)
        return rc;
    dom_error_keep(&error, rc);
    return dom_fail(rc, "do it as a user who may write to the domain's files, or check their permissions", "%s",
                    error.text);
}

int dom_error_give(const struct dom_error *e)
{
    return vdisk_set_error(e->rc, e->text, e->hint[0] != '\0' ? e->hint : NULL);
}

int dom_nothing_of_image(struct domain *d, const char *image)
{
    (void)d, (void)image;
    return 0;
}

int dom_nothing_of_volume(struct domain *d, const char *image, const char *volume)
{
    (void)d, (void)image, (void)volume;
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    const struct dom_entry *x = a, *y = b;

    return strcmp(x->volume, y->volume);
}

void dom_sort_entries(struct dom_entries *entries)
{
    if (entries->count > 0)
        qsort(entries->list, entries->count, sizeof *entries->list, compare_entries);
}

void dom_note(const struct domain *d, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    if (d->how.note == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    d->how.note(d->how.note_arg, text);
}

int dom_run_job(const struct domain *d, vdisk_job *job)
{
    struct dom_error error;
    int rc = d->how.run != NULL ? d->how.run(job) : vdisk_job_run(job);

    dom_error_keep(&error, rc);
    vdisk_job_free(job);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static void (*step_hook)(const char *name);

void domain_set_step_hook(void (*fn)(const char *name))
{
    step_hook = fn;
}

void dom_step(const char *name)
{
    if (step_hook != NULL)
        step_hook(name);
}

/* ---- names ---------------------------------------------------------------------------------------------- */

int dom_check_uuid(const char *what, const char *text)
{
    if (text_is_uuid(text, strlen(text)))
        return 0;
    return dom_fail(EINVAL, "a UUID has 32 hexadecimal digits in lower case, as 8-4-4-4-12",
                    "'%.100s' is no name of a %s: it has to be a UUID", text, what);
}

int domain_make_uuid(char ret[DOMAIN_UUID])
{
    unsigned char random[16];

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return dom_fail(EIO, NULL, "no random bytes for a UUID");
    text_uuid(random, ret);
    return 0;
}

bool dom_is_of_parent(const struct domain *d)
{
    return d->process != getpid();
}

int dom_check_process(const struct domain *d)
{
    return dom_is_of_parent(d) ? dom_fail(ECHILD, "open the domain in this process",
                                          "%s: was opened by the parent process", d->path) : 0;
}

const char *domain_path(const struct domain *d)
{
    return d->path;
}

const char *domain_uuid(const struct domain *d)
{
    return d->uuid;
}

const char *domain_kind(const struct domain *d)
{
    return d->kind->name;
}

unsigned domain_version(const struct domain *d)
{
    return d->version;
}

bool domain_pair(const struct domain *d, size_t index, const char **ret_key, const char **ret_value)
{
    if (index >= d->md.count)
        return false;
    *ret_key = d->md.list[index].key;
    *ret_value = d->md.list[index].value;
    return true;
}

const char *domain_value(const struct domain *d, const char *key)
{
    return text_domain_get(&d->md, key);
}

int domain_get_space(const struct domain *d, struct domain_space *ret)
{
    struct domain copy = *d; /* the contract's call changes nothing of it */

    return d->kind->space(&copy, ret);
}

const char *dom_removed_name(char buf[DOM_REMOVED_NAME], const char *image, bool wipe)
{
    snprintf(buf, DOM_REMOVED_NAME, "%s%.36s", wipe ? DOMAIN_REMOVED_WIPE : DOMAIN_REMOVED, image);
    return buf;
}

const char *dom_removed_uuid(const char *name, bool *ret_wipe)
{
    static const char plain[] = DOMAIN_REMOVED, zero[] = DOMAIN_REMOVED_WIPE;
    bool wipe = strncmp(name, zero, sizeof zero - 1) == 0;
    const char *uuid = name + (wipe ? sizeof zero : sizeof plain) - 1;

    if (strncmp(name, plain, sizeof plain - 1) != 0 || !text_is_uuid(uuid, strlen(uuid)))
        return NULL;
    if (ret_wipe != NULL)
        *ret_wipe = wipe;
    return uuid;
}

void domain_names_free(struct domain_names *names)
{
    free(names->list);
    *names = (struct domain_names){0};
}

int dom_check_version(struct domain *d)
{
    struct text_domain md;
    char why[TEXT_WHY], version[2] = {(char)('0' + d->version), '\0'}, *text;
    const char *now;
    size_t len;
    bool same;
    int rc = d->kind->load(d, &text, &len);

    if (rc < 0)
        return rc;
    rc = text_domain_parse(text, len, &md, why);
    free(text);
    if (rc < 0)
        return dom_fail(rc, NULL, "%s: its metadata: %s", d->path, rc == -EBADMSG ? why : strerror(-rc));
    now = text_domain_get(&md, "VERSION");
    same = now != NULL && strcmp(now, version) == 0;
    text_domain_free(&md);
    return same ? 0 : dom_fail(ESTALE, "do it again", "%s: its version has changed meanwhile", d->path);
}

int domain_list_images(struct domain *d, struct domain_names *ret)
{
    return d->kind->list_images(d, ret);
}

int domain_volume_path(struct domain *d, const char *image, const char *volume, char **ret)
{
    char *path = d->kind->data_path(d, image, volume);

    if (path == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    *ret = path;
    return 0;
}

int dom_data_path(struct domain *d, const char *image, const char *volume, char **ret)
{
    int rc = d->kind->activate(d, image);

    return rc == 0 ? domain_volume_path(d, image, volume, ret) : rc;
}

/* ---- metadata of volumes -------------------------------------------------------------------------------- */

int dom_format_meta(const struct domain *d, const struct domain_meta *meta, char buf[TEXT_VOLUME_MAX + 1],
                    size_t *ret_len)
{
    struct domain_meta again;
    char why[TEXT_WHY];

    (void)d;
    if (text_volume_format(meta, buf, ret_len) < 0)
        return dom_fail(EOVERFLOW, "make the description shorter",
                        "the metadata of a volume has at most %d bytes, and would be more", TEXT_VOLUME_MAX);
    if (text_volume_parse(buf, *ret_len, &again, why) < 0)
        return dom_fail(EINVAL, NULL, "the metadata of a volume could not be read again: %s", why);
    return 0;
}

/* Of a template each image that has it has the same metadata, not a copy. */
static int refuse_shared(struct domain *d, const char *image, const struct domain_volume *v)
{
    unsigned others = 0;
    int rc = 0;

    if (v->meta.role == DOMAIN_SHARED && v->links > 1)
        rc = d->kind->count_shares(d, image, v->uuid, false, &others);
    if (rc == 0 && others > 0)
        rc = dom_fail(EBUSY, NULL, "volume %s is shared by %u images: its metadata is not changed", v->uuid,
                      others + 1);
    return rc;
}

int dom_judge_sequence(const struct domain *d)
{
    return d->version >= 5 ? 0 : dom_fail(EINVAL, "'vdisk-io domain upgrade' makes it one of version 5",
                                          "%s: is a domain of version %u: its volumes have no sequence number",
                                          d->path, d->version);
}

int dom_write_meta(struct domain *d, const char *image, struct domain_volume *v, const struct domain_meta *meta)
{
    char buf[TEXT_VOLUME_MAX + 1];
    size_t len = 0;
    int rc;

    assert(v->has_meta && v->why[0] == '\0');
    rc = refuse_shared(d, image, v);
    if (rc == 0)
        rc = dom_format_meta(d, meta, buf, &len);
    if (rc == 0)
        rc = d->kind->write_meta(d, image, v->uuid, buf, len);
    if (rc == 0)
        v->meta = *meta;
    return rc;
}

int dom_set_role(struct domain *d, const char *image, struct domain_volume *v, enum domain_role role)
{
    struct domain_meta meta = v->meta;

    if (meta.role == role || meta.role == DOMAIN_SHARED)
        return 0;
    meta.role = role;
    return dom_write_meta(d, image, v, &meta);
}

/* ---- headers --------------------------------------------------------------------------------------------- */

const char *dom_backing_of(const struct domain_meta *meta)
{
    return strcmp(meta->parent, DOMAIN_BLANK) == 0 ? "" : meta->parent;
}

int dom_read_header(struct domain *d, const char *image, const struct domain_volume *v, struct dom_header *ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_BUFFERED |
                                                                 VDISK_OPEN_NO_NAMES};
    struct vdisk_image_info info = {.size = sizeof info};
    struct vdisk_snapshot_info snapshot = {.size = sizeof snapshot};
    vdisk_image *loaded;
    char *path = NULL;
    int rc = dom_data_path(d, image, v->uuid, &path);

    if (rc < 0)
        return rc;
    how.format = v->meta.format == DOMAIN_COW ? "qcow2" : "raw";
    rc = vdisk_image_load(path, &how, &loaded);
    free(path);
    if (rc < 0)
        return rc;
    vdisk_image_get_info(loaded, &info);
    *ret = (struct dom_header){.virtual_size = info.virtual_size, .corrupt = info.corrupt, .dirty = info.dirty,
                               .data_file = info.data_file != NULL,
                               .snapshots = vdisk_image_get_snapshot(loaded, 0, &snapshot) != -ENOENT,
                               .extended_l2 = info.extended_l2, .cluster_size = info.cluster_size,
                               .refcount_bits = info.refcount_bits, .version = info.version};
    if (info.backing_file != NULL)
        snprintf(ret->backing, sizeof ret->backing, "%s", info.backing_file);
    if (info.backing_fmt != NULL)
        snprintf(ret->backing_format, sizeof ret->backing_format, "%s", info.backing_fmt);
    vdisk_image_free(loaded);
    return 0;
}

static int check_layer(struct domain *d, const char *image, const struct domain_volume *v)
{
    const char *format = v->parent != NULL && v->parent->meta.format == DOMAIN_COW ? "qcow2" : "raw";
    const char *backing = dom_backing_of(&v->meta);
    struct dom_header header;
    int rc = dom_read_header(d, image, v, &header);

    if (rc < 0)
        return rc;
    if (header.data_file)
        return dom_fail(EBADMSG, NULL, "volume %s has an external data file: it is not followed", v->uuid);
    if (strcmp(header.backing, backing) != 0)
        return dom_fail(EBADMSG, "'vdisk-io domain check' tells more",
                        "volume %s: its header says that it lies on '%s', its metadata on '%s'", v->uuid,
                        header.backing, backing);
    if (backing[0] != '\0' && v->parent == NULL)
        return dom_fail(ENOENT, "'vdisk-io domain check' tells more",
                        "volume %s lies on %s, which the image does not have, or which leads back to itself",
                        v->uuid, backing);
    if (backing[0] != '\0' && strcmp(header.backing_format, format) != 0)
        return dom_fail(EBADMSG, NULL, "volume %s: its header says that its parent is '%s', and it is %s", v->uuid,
                        header.backing_format, format);
    return 0;
}

int dom_check_chain(struct domain *d, const char *image, const struct domain_volume *v)
{
    const struct domain_volume *top = v;
    int rc = 0;

    for (; rc == 0 && v != NULL; v = v->parent) {
        if (v != top && v->meta.legality != DOMAIN_LEGAL)
            rc = dom_fail(EACCES, NULL, "volume %s lies on %s, which is %s: only volumes that are LEGAL are used",
                          top->uuid, v->uuid, domain_legality_name(v->meta.legality));
        else if (v->odd)
            rc = dom_fail(EBADMSG, NULL, "image %s: volume %s, or what is beside it, is no regular file", image,
                          v->uuid);
        else
            rc = v->has_data ? check_layer(d, image, v) :
                 dom_fail(ENOENT, NULL, "image %s: volume %s has no data", image, v->uuid);
    }
    return rc;
}

/* A raw volume ends with a sector, as it reads; its metadata is to say how long its file is. */
static int fill_sector(struct domain *d, const char *image, const struct domain_volume *v, uint64_t size)
{
    uint64_t now, allocated;
    int fd, rc;

    if (v->meta.format != DOMAIN_RAW || v->links > 1)
        return 0;
    rc = d->kind->measure(d, image, v->uuid, &now, &allocated);
    if (rc < 0 || now >= size || size - now >= 512)
        return rc;
    rc = d->kind->open_data(d, image, v->uuid, true, &fd);
    if (rc < 0)
        return rc;
    if (ftruncate(fd, (off_t)size) != 0)
        rc = dom_fail(errno, NULL, "volume %s: filling its last sector: %s", v->uuid, strerror(errno));
    close(fd);
    return rc;
}

int dom_match_capacity(struct domain *d, const char *image, struct domain_volume *v, bool change)
{
    struct domain_meta meta = v->meta;
    struct dom_header header;
    int rc = dom_read_header(d, image, v, &header);

    if (rc < 0 || meta.capacity == header.virtual_size)
        return rc;
    if (meta.capacity > header.virtual_size)
        return dom_fail(EBADMSG, "restore the volume, or, where its size is right, CAP in its metadata",
                        "volume %s has %" PRIu64 " bytes, and its metadata says %" PRIu64, v->uuid,
                        header.virtual_size, meta.capacity);
    meta.capacity = header.virtual_size;
    if (change)
        rc = fill_sector(d, image, v, header.virtual_size);
    if (rc == 0 && change)
        rc = dom_write_meta(d, image, v, &meta);
    if (rc == 0 && change)
        dom_note(d, "volume %s: its capacity is %" PRIu64 " bytes, as its metadata says now", v->uuid,
                 meta.capacity);
    if (rc == 0)
        v->meta.capacity = meta.capacity;
    return rc;
}

int dom_open_data(struct domain *d, const char *image, const struct domain_volume *v, uint32_t flags, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags,
                                  .format = v->meta.format == DOMAIN_COW ? "qcow2" : "raw"};
    char *path = NULL;
    int rc = dom_data_path(d, image, v->uuid, &path);

    if (rc == 0)
        rc = vdisk_open(path, &how, ret);
    free(path);
    return flags & VDISK_OPEN_RDWR ? dom_explain_open(rc) : rc;
}
