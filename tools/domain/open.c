/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding domains, and names of volumes.
 *
 * Works: a path is a domain's folder, or has exactly one within. A name is taken apart from its end: what is in
 * front of IMAGE, or of IMAGE/VOLUME, has to be a domain. Fails: no domain is there, or several, or one whose
 * metadata cannot be trusted.
 */
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/lease.h"
#include "tools/domain/nfs.h"

static const struct dom_kind *const kinds[] = {&dom_kind_file, &dom_kind_block};

/* ---- opening ------------------------------------------------------------------------------------------ */

static int judge(struct domain *d)
{
    const char *version = domain_value(d, "VERSION"), *uuid = domain_value(d, "SDUUID");

    if (version == NULL || uuid == NULL || !text_is_uuid(uuid, strlen(uuid)))
        return dom_fail(EBADMSG, NULL, "%s: its metadata has no %s", d->path,
                        version == NULL ? "VERSION" : "SDUUID");
    if (strlen(version) != 1 || version[0] < '3' || version[0] > '5')
        return dom_fail(ENOTSUP, NULL, "%s: is a domain of version %.20s: 3, 4 and 5 are known", d->path, version);
    d->version = (unsigned)(version[0] - '0');
    memcpy(d->uuid, uuid, DOMAIN_UUID);
    return 0;
}

/* A domain at exactly this path. */
static int open_at(const char *path, const struct dom_kind *kind, const struct domain_how *how,
                   struct domain **ret)
{
    struct domain *d = calloc(1, sizeof *d);
    char why[TEXT_WHY], *text = NULL;
    size_t len;
    int rc;

    if (d == NULL || (d->path = strdup(path)) == NULL) {
        free(d);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    d->kind = kind;
    d->process = getpid();
    if (how != NULL)
        d->how = *how;
    rc = d->kind->load(d, &text, &len);
    if (rc == 0) {
        rc = text_domain_parse(text, len, &d->md, why);
        if (rc < 0)
            rc = dom_fail(rc, NULL, "%s: its metadata: %s", path, rc == -EBADMSG ? why : strerror(-rc));
    }
    free(text);
    if (rc == 0)
        rc = judge(d);
    if (rc < 0) {
        struct dom_error error;
        dom_error_keep(&error, rc);
        domain_close(d);
        return dom_error_give(&error);
    }
    *ret = d;
    return 0;
}

/* What a path names itself; NULL: no domain. */
static const struct dom_kind *kind_at(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (kinds[i]->is_at(path))
            return kinds[i];
    return NULL;
}

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* The domains in a folder: names, sorted. */
static int list_within(const char *path, struct domain_names *ret)
{
    struct domain_names names = {0};
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(kinds); i++)
        rc = kinds[i]->list(path, &names);
    if (rc < 0) {
        domain_names_free(&names);
        return rc;
    }
    if (names.count > 0)
        qsort(names.list, names.count, sizeof *names.list, compare);
    *ret = names;
    return 0;
}

static int find_within(const char *path, int (*fn)(void *arg, const char *path), void *arg)
{
    struct domain_names names;
    char name[PATH_MAX];
    int rc;

    if (kind_at(path) != NULL)
        return fn(arg, path);
    rc = list_within(path, &names);
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        snprintf(name, sizeof name, "%s%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/", names.list[i]);
        rc = fn(arg, name);
    }
    domain_names_free(&names);
    return rc;
}

int domain_find(const char *text, int (*fn)(void *arg, const char *path), void *arg)
{
    char *path;
    int rc = nfs_find(text, &path);

    if (rc == 0) {
        rc = find_within(path, fn, arg);
        free(path);
    }
    return rc;
}

static int no_domain(const char *path)
{
    return dom_fail(ENOENT, "a domain is a folder with dom_md/metadata, or one that has such a folder",
                    "%s: there is no storage domain", path);
}

static int open_path(const char *path, const struct domain_how *how, struct domain **ret)
{
    struct domain_names names;
    char name[PATH_MAX];
    int rc;

    if (path[0] == '\0')
        return dom_fail(ENOENT, NULL, "no path of a domain");
    if (kind_at(path) != NULL)
        return open_at(path, kind_at(path), how, ret);
    rc = list_within(path, &names);
    if (rc < 0)
        return rc;
    if (names.count == 0)
        rc = no_domain(path);
    else if (names.count > 1)
        rc = dom_fail(ENOTUNIQ, "add the UUID of one to the path; 'vdisk-io domain list' shows them",
                      "%s: there are %zu storage domains", path, names.count);
    else if (snprintf(name, sizeof name, "%s%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/", names.list[0]) >
             0)
        rc = open_at(name, kind_at(name), how, ret);
    domain_names_free(&names);
    return rc;
}

static int not_mounted(const char *text)
{
    return dom_fail(ENOENT, "mount it: 'mount -t nfs'; Vdsm does below /rhev/data-center/mnt",
                    "%s: is an export that is not mounted here", text);
}

int domain_open(const char *text, const struct domain_how *how, struct domain **ret)
{
    char *path;
    int rc = nfs_find(text, &path);

    if (rc < 0)
        return rc;
    rc = text_is_export(path) && access(path, F_OK) != 0 ? not_mounted(path) : open_path(path, how, ret);
    free(path);
    return rc;
}

void domain_close(struct domain *d)
{
    if (d == NULL)
        return;
    lease_close(d);
    d->kind->close(d);
    text_domain_free(&d->md);
    free(d->path);
    free(d);
}

/* ---- names --------------------------------------------------------------------------------------------- */

/* The last component of *path, which becomes shorter. NULL: there is none. */
static char *take_last(char *path)
{
    char *slash = strrchr(path, '/');

    if (slash == NULL || slash == path)
        return NULL;
    *slash = '\0';
    return slash + 1;
}

/* Is a domain, or a folder with some. */
static bool leads_to_domain(const char *path)
{
    struct domain_names names = {0};
    bool found = kind_at(path) != NULL || (list_within(path, &names) == 0 && names.count > 0);

    domain_names_free(&names);
    return found;
}

static int take_apart(char *path, const char *text, struct domain_name *ret)
{
    char *last, *before;

    if (leads_to_domain(path))
        return 0;
    last = take_last(path);
    if (last == NULL || !text_is_uuid(last, strlen(last)))
        return dom_fail(EINVAL, "DOMAIN is a path, IMAGE and VOLUME are UUIDs",
                        "'%s' is no domain, and no name of an image or volume in one", text);
    if (leads_to_domain(path)) {
        memcpy(ret->image, last, DOMAIN_UUID);
        return 0;
    }
    before = take_last(path);
    if (before == NULL || !text_is_uuid(before, strlen(before)))
        return no_domain(path);
    memcpy(ret->image, before, DOMAIN_UUID);
    memcpy(ret->volume, last, DOMAIN_UUID);
    return 0;
}

static const char prefix[] = "volume:";

bool domain_is_name(const char *text)
{
    return strncmp(text, prefix, sizeof prefix - 1) == 0;
}

int domain_parse_name(const char *text, const struct domain_how *how, struct domain_name *ret)
{
    const char *name = domain_is_name(text) ? text + sizeof prefix - 1 : text;
    struct domain_name found = {0};
    char *path;
    int rc = nfs_find(name, &path);

    if (rc < 0)
        return rc;
    if (text_is_export(path) && access(path, F_OK) != 0) {
        free(path);
        return not_mounted(name);
    }
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = '\0';
    rc = take_apart(path, name, &found);
    if (rc == 0)
        rc = domain_open(path, how, &found.domain);
    free(path);
    if (rc == 0)
        *ret = found;
    return rc;
}

void domain_name_free(struct domain_name *name)
{
    domain_close(name->domain);
    name->domain = NULL;
}

/* ---- what is opened in a volume's place --------------------------------------------------------------- */

struct opened {
    char *path; /* from the root on */
    char  volume[DOMAIN_UUID];
    bool  cow, read_only, device, grows;
    struct domain_growing growing;
    struct domain_use    *use;
};

static int find_volume(const struct domain_name *name, const struct domain_image *image,
                       struct domain_volume **ret)
{
    struct domain_volume *v;
    int rc = 0;

    v = name->volume[0] != '\0' ? domain_image_volume(image, name->volume) :
        domain_image_leaf(name->domain, image, &rc);
    if (rc < 0)
        return rc;
    if (v == NULL || !v->has_meta)
        return dom_fail(ENOENT, NULL, "image %s has no volume %s", image->uuid, name->volume);
    if (v->why[0] != '\0')
        return dom_fail(EBADMSG, NULL, "volume %s: its metadata: %s", v->uuid, v->why);
    if (v->meta.legality != DOMAIN_LEGAL)
        return dom_fail(EACCES,
                        "'vdisk-io volume update --legality LEGAL' makes it so, where its content is right",
                        "volume %s is %s: only volumes that are LEGAL are opened", v->uuid,
                        domain_legality_name(v->meta.legality));
    *ret = v;
    return dom_check_chain(name->domain, image->uuid, v);
}

/* The name of the volume stays: what lies on it, or below it, is found beside it. */
static int make_absolute(const char *path, char **ret)
{
    const char *slash = strrchr(path, '/');
    char folder[PATH_MAX], *real;
    int n;

    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    real = realpath(folder, NULL);
    if (real == NULL)
        return dom_fail_file(errno, path, "opening it");
    n = asprintf(ret, "%s%s", real, slash);
    free(real);
    return n < 0 ? dom_fail(ENOMEM, NULL, "out of memory") : 0;
}

static bool is_misplaced(const struct domain *d, const struct domain_image *image, const struct domain_volume *v)
{
    for (; v != NULL; v = v->parent)
        if (dom_judge_place(d, image, v) < 0)
            return true;
    return false;
}

/* Read-only where others lie above, or where it is not clear who does, or whose it is. */
static int open_volume(const struct domain_name *name, const struct domain_image *image, struct opened *ret)
{
    struct domain_volume *v = NULL;
    char *path = NULL;
    int rc = find_volume(name, image, &v);

    if (rc == 0)
        rc = dom_data_path(name->domain, image->uuid, v->uuid, &path);
    if (rc < 0)
        return rc;
    ret->cow = v->meta.format == DOMAIN_COW;
    ret->device = name->domain->extent != 0;
    ret->read_only = v->meta.role != DOMAIN_LEAF || v->children > 0 || is_misplaced(name->domain, image, v) ||
                     dom_judge_double(name->domain, image->uuid, v, true) < 0 ||
                     dom_judge_top_of(name->domain, image, v, NULL, "written to") < 0;
    ret->grows = ret->cow && v->meta.allocation == DOMAIN_SPARSE && !ret->read_only &&
                 name->domain->kind->grow != NULL;
    memcpy(ret->volume, v->uuid, DOMAIN_UUID);
    rc = make_absolute(path, &ret->path);
    free(path);
    return rc;
}

static struct domain_use *make_use(const struct domain_name *name, int lock, const struct opened *o)
{
    struct domain_use *use = calloc(1, sizeof *use);

    if (use == NULL)
        return NULL;
    *use = (struct domain_use){.domain = name->domain, .lock = lock, .grows = o->grows,
                                .read_only = o->read_only, .growing = o->growing};
    memcpy(use->image, name->image, DOMAIN_UUID);
    memcpy(use->volume, o->volume, DOMAIN_UUID);
    return use;
}

/* Who changes metadata alone has the lock for a moment only. */
static int take_use(const struct domain_name *name, bool alone, int *ret)
{
    const struct dom_lock_wish wish = {name->image, alone ? DOM_LOCK_ALONE : DOM_LOCK_USE};
    int rc = name->domain->kind->lock(name->domain, &wish, 1, ret);

    for (unsigned ms = 0; rc == -EAGAIN && dom_pause(name->domain, &ms);)
        rc = name->domain->kind->lock(name->domain, &wish, 1, ret);
    return rc;
}

static int open_locked(struct domain_name *name, bool alone, struct opened *ret)
{
    struct domain_image *image;
    struct dom_error error;
    int lock, rc = take_use(name, alone, &lock);

    if (rc < 0)
        return rc;
    rc = domain_load_image(name->domain, name->image, &image);
    if (rc == 0) {
        rc = open_volume(name, image, ret);
        dom_error_keep(&error, rc);
        domain_image_free(image);
    } else {
        dom_error_keep(&error, rc);
    }
    ret->use = rc == 0 ? make_use(name, lock, ret) : NULL;
    if (ret->use != NULL) {
        name->domain = NULL; /* it is the use's */
        return 0;
    }
    if (rc == 0)
        dom_error_keep(&error, dom_fail(ENOMEM, NULL, "out of memory"));
    name->domain->kind->unlock(name->domain, lock);
    free(ret->path);
    return dom_error_give(&error);
}

void domain_use_end(struct domain_use *use)
{
    if (use == NULL)
        return;
    if (dom_is_of_parent(use->domain))
        close(use->lock);
    else
        use->domain->kind->unlock(use->domain, use->lock);
    domain_close(use->domain);
    free(use);
}

const char *domain_use_image(const struct domain_use *use)
{
    return use->image;
}

const char *domain_use_volume(const struct domain_use *use)
{
    return use->volume;
}

bool domain_use_read_only(const struct domain_use *use)
{
    return use->read_only;
}

static int parse_text(const char *text, const struct domain_how *how, struct domain_name *ret,
                      struct domain_growing *ret_growing)
{
    char *copy = strdup(text);
    int rc = copy != NULL ? dom_take_growing(copy, ret_growing) : dom_fail(ENOMEM, NULL, "out of memory");

    if (rc == 0)
        rc = domain_parse_name(copy, how, ret);
    free(copy);
    return rc;
}

static int open_text(const char *text, const struct domain_use_opts *o, struct opened *ret)
{
    struct domain_name name;
    struct dom_error error;
    int rc = parse_text(text, o != NULL ? o->how : NULL, &name, &ret->growing);

    if (rc < 0)
        return rc;
    rc = name.image[0] != '\0' ? open_locked(&name, o != NULL && o->alone, ret)
                               : dom_fail(EINVAL, "the name of a volume is DOMAIN/IMAGE/VOLUME, or DOMAIN/IMAGE",
                                          "'%s' is a domain", text);
    dom_error_keep(&error, rc);
    domain_name_free(&name);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* As vdisk_open() takes it, with its format. */
static char *name_of(const struct opened *o)
{
    json_t *json = json_pack("{s:s, s:{s:s, s:s}}", "driver", o->cow ? "qcow2" : "raw", "file", "driver",
                             o->device ? "host_device" : "file", "filename", o->path);
    char *text, *name = NULL;

    if (o->read_only)
        json_object_set_new(json, "read-only", json_true());
    text = json != NULL ? json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    json_decref(json);
    if (text == NULL || asprintf(&name, "json:%s", text) < 0)
        name = NULL;
    free(text);
    return name;
}

int domain_open_use(const char *text, const struct domain_use_opts *opts, char **ret, struct domain_use **ret_use)
{
    struct opened o = {0};
    int rc = open_text(text, opts, &o);
    char *name;

    if (rc < 0)
        return rc;
    name = name_of(&o);
    free(o.path);
    if (name == NULL) {
        domain_use_end(o.use);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    *ret = name;
    *ret_use = o.use;
    return 0;
}

int domain_open_name(const char *text, char **ret, struct domain_use **ret_use)
{
    return domain_open_use(text, NULL, ret, ret_use);
}

int domain_open_path(const char *text, char **ret_path, const char **ret_format, struct domain_use **ret_use)
{
    struct opened o = {0};
    int rc = open_text(text, NULL, &o);

    if (rc < 0)
        return rc;
    *ret_path = o.path;
    *ret_format = o.cow ? "qcow2" : "raw";
    *ret_use = o.use;
    return 0;
}
