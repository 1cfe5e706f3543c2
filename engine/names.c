/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the public headers tell of drivers, their options and servers, and the door to secrets and credentials. */
#include <errno.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/format.h"
#include "engine/chain/layer_name.h"
#include "engine/spec/creds.h"
#include "engine/spec/object.h"
#include "engine/spec/option.h"
#include "engine/spec/secret.h"
#include "engine/vdisk-image.h"
#include "engine/volume.h"

/* The formats, then the backends that are not one, too. */
const char *vdisk_driver_name(unsigned index)
{
    const struct format_driver *const *f = format_drivers;
    const struct backend_driver *b;

    for (; *f; f++)
        if (index-- == 0)
            return (*f)->name;
    for (unsigned i = 0; (b = backend_at(i)); i++)
        if (!format_find(b->name) && index-- == 0)
            return b->name;
    return NULL;
}

static int option_at(const char *driver, unsigned index, const struct option_desc **ret)
{
    const struct format_driver *f = format_find(driver);
    const struct backend_driver *b = f && f->options ? NULL : backend_find(driver);
    const struct option_desc *tables[2] = {b ? b->options : f ? f->options : NULL, common_options};

    if (!tables[0])
        return err_set(ENOENT, "there is no driver '%.100s'", driver);
    for (unsigned i = 0; i < 2; i++)
        for (*ret = tables[i]; (*ret)->name; ++*ret)
            if (index-- == 0)
                return 0;
    return err_set(ENOENT, "driver '%s' has no more options", driver);
}

static int get_driver_option(const char *driver, unsigned index, struct vdisk_driver_option *ret)
{
    const struct option_desc *d = NULL;
    size_t size = ret ? ret->size : 0;
    int rc;

    if (!driver || size < sizeof(size_t) || size > 4096)
        return err_set(EINVAL, "no driver, or a struct of size %zu", size);
    rc = option_at(driver, index, &d);
    if (rc == 0) {
        struct vdisk_driver_option o = {size, d->name, option_type_name(d->type), d->fallback, d->help, d->choices,
                                        d->required};
        memcpy(ret, &o, min_u64(size, sizeof o));
    }
    return rc;
}

int vdisk_get_driver_option(const char *driver, unsigned index, struct vdisk_driver_option *ret_option)
{
    return ERR_CALL(get_driver_option(driver, index, ret_option));
}

int vdisk_object_add(const char *text)
{
    return ERR_CALL(text ? object_add(text) : err_set(EINVAL, "no object is given"));
}

int vdisk_secret_add(const char *id, const void *data, size_t len)
{
    return ERR_CALL(id && (data || len == 0) ? secret_add(id, data ? data : "", len)
                                             : err_set(EINVAL, "a secret without an id or data"));
}

int vdisk_secret_remove(const char *id)
{
    return ERR_CALL(secret_remove(id ? id : ""));
}

static int get_tls_creds(const char *id, struct vdisk_tls_creds *ret)
{
    size_t size = ret ? ret->size : 0;
    struct vdisk_tls_creds known = {.size = size};
    const struct creds *c;

    if (!id || size < offsetof(struct vdisk_tls_creds, reserved))
        return err_set(EINVAL, "TLS credentials: no id, or a struct that is too small");
    c = creds_find(id);
    if (!c)
        return err_set(ENOENT, "there are no TLS credentials '%.*s'", SPEC_SHOWN(id));
    known.dir = c->dir;
    known.username = c->username;
    known.priority = c->priority;
    known.server = c->keys.end == TLS_SERVER;
    known.psk = c->keys.psk;
    known.verify_peer = c->keys.verify_peer;
    memcpy(ret, &known, min_u64(size, sizeof known));
    return 0;
}

int vdisk_get_tls_creds(const char *id, struct vdisk_tls_creds *ret_creds)
{
    return ERR_CALL(get_tls_creds(id, ret_creds));
}

int vdisk_list_exports(const char *name, vdisk_export_fn *fn, void *arg)
{
    return ERR_CALL(name && fn ? backend_list(name, fn, arg) : err_set(EINVAL, "no name, or nobody to be told"));
}
