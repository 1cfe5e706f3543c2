/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening, making, locking and closing images.
 *
 * Happy path: a cluster handle is configured (its file, then what the name says) and connected; the image is
 * opened, or made where it is not there and is to be; a writer has its exclusive lock; changes are watched.
 * Failure modes: no cluster within its timeouts, no pool, no image, somebody else writes to it: errors with text,
 * and all that was opened is closed again; an image that was made is removed.
 *
 * Invariants
 *  1. Whatever waits for the cluster while opening or closing does so for a bounded time: with the user's own
 *     timeouts, else ours. Between them I/O waits until the cluster has it, as that of a disk does, unless the
 *     user has set rados_osd_op_timeout: a write that was given up can still be carried out later.
 *  2. Handles are closed in the order image, pool, cluster; nothing is in flight then.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/rbd/rbd.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/spec/option.h"
#include "engine/spec/secret.h"

enum { WATCHERS_MAX = 64, OWNERS_MAX = 8, SERVERS_MAX = 32, AUTH_MAX = 8 };

#define OPEN_SECONDS  "30"
#define CLOSE_SECONDS "5"

#define ZERO_COPY_OFF "rbd_disable_zero_copy_writes"

static bool writes(uint32_t flags)
{
    return flags & (BACKEND_RDWR | BACKEND_CREATE);
}

/* ---- which image it is ------------------------------------------------------------------------------------ */

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (const char *p = text ? text : ""; *p; p++)
        hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
    return (hash ^ 0xff) * UINT64_C(0x100000001b3);
}

/* By what it is called: the cluster is not asked. One that has two names is found out by its lock. */
bool rbd_identify(const struct spec *options, struct backend_id *ret_id)
{
    static const char *const keys[] = {"pool",     "namespace", "image",        "snapshot",
                                       "conf",     "config",    "server.0.host"};
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        hash = hash_text(hash, spec_text(options, keys[i]));
    *ret_id = (struct backend_id){UINT64_MAX - 1, hash}; /* no device of the host's has that number */
    return true;
}

/* ---- the cluster ------------------------------------------------------------------------------------------ */

static int set(const struct rbd_backend *rb, const char *key, const char *value)
{
    int rc = rb->ceph->rados_conf_set(rb->cluster, key, value);

    return rc < 0 ? err_set(rc, "%s: Ceph does not take the setting %s=%.100s: %s", rb->b.name, key,
                            strcmp(key, "key") == 0 ? "..." : value, strerror(-rc)) : 0;
}

static int set_all(const struct rbd_backend *rb, char *text)
{
    int rc = 0;

    while (text && rc == 0) {
        char *value = rbd_token(&text, ':'), *key = rbd_token(&value, '=');
        if (!value || !key[0])
            return err_set(EINVAL, "%s: option 'config': '%.100s' is no KEY=VALUE", rb->b.name, key);
        rbd_unescape(key);
        rbd_unescape(value);
        rc = set(rb, key, value);
    }
    return rc;
}

static int set_config(const struct rbd_backend *rb, const struct spec *options)
{
    const char *config = spec_text(options, "config");
    char *text = config ? mem_strdup(config) : NULL;
    int rc = text ? set_all(rb, text) : 0;

    if (config && !text)
        return err_set(ENOMEM, "%s: out of memory", rb->b.name);
    mem_free(text);
    return rc;
}

/* mon_host of what "server" lists. */
static int set_servers(const struct rbd_backend *rb, const struct spec *options)
{
    const struct spec *list = spec_node(options, "server");
    char hosts[4096] = "";
    size_t used = 0;

    for (unsigned i = 0; list && i < list->count; i++) {
        const struct spec_member *m = &list->members[i];
        const char *host = m->kind == SPEC_NODE ? spec_text(m->node, "host") : NULL;
        const char *port = m->kind == SPEC_NODE ? spec_text(m->node, "port") : NULL;
        bool v6 = host && strchr(host, ':');
        if (!host || i == SERVERS_MAX)
            return err_set(EINVAL, "%s: option 'server': %s", rb->b.name, host ? "too many" : "one has no 'host'");
        used += (size_t)snprintf(hosts + used, sizeof hosts - used, "%s%s%s%s%s%s", i ? ";" : "", v6 ? "[" : "",
                                 host, v6 ? "]" : "", port ? ":" : "", port ? port : "");
        if (used >= sizeof hosts)
            return err_set(EINVAL, "%s: option 'server': too long", rb->b.name);
    }
    return used > 0 ? set(rb, "mon_host", hosts) : 0;
}

/* Of what "auth-client-required" lists any will do. */
static int set_auth(const struct rbd_backend *rb, const struct spec *options)
{
    const struct spec *list = spec_node(options, "auth-client-required");
    char kinds[64] = "";
    size_t used = 0;

    for (unsigned i = 0; list && i < list->count; i++) {
        const struct spec_member *m = &list->members[i];
        bool known = m->kind == SPEC_TEXT && (strcmp(m->text, "cephx") == 0 || strcmp(m->text, "none") == 0);
        if (!known || i == AUTH_MAX)
            return err_set(EINVAL, "%s: option 'auth-client-required': %s", rb->b.name,
                           known ? "too many" : "its items may be cephx and none");
        used += (size_t)snprintf(kinds + used, sizeof kinds - used, "%s%s", i ? ";" : "", m->text);
    }
    assert(used < sizeof kinds);
    return used > 0 ? set(rb, "auth_client_required", kinds) : 0;
}

static int set_key(const struct rbd_backend *rb, const struct spec *options)
{
    const char *id = spec_text(options, "key-secret");
    uint8_t *data;
    char *text;
    size_t len;
    int rc;

    if (!id)
        return 0;
    rc = secret_get(id, &data, &len);
    if (rc < 0)
        return rc;
    text = rbd_base64(data, len);
    secret_release(data, len);
    rc = text ? set(rb, "key", text) : err_set(ENOMEM, "%s: out of memory", rb->b.name);
    if (text)
        explicit_bzero(text, strlen(text));
    mem_free(text);
    return rc;
}

/* Invariant 1. What still has Ceph's default, which is to wait for ever or for minutes, is given ours. */
static int set_timeout(const struct rbd_backend *rb, const char *key, double fallback, bool *ret_ours)
{
    char text[64] = "";

    *ret_ours = rb->ceph->rados_conf_get(rb->cluster, key, text, sizeof text) == 0 &&
                strtod(text, NULL) == fallback;
    return *ret_ours ? set(rb, key, OPEN_SECONDS) : 0;
}

static int set_timeouts(struct rbd_backend *rb)
{
    bool ours;
    int rc = set_timeout(rb, "client_mount_timeout", 300, &ours);

    if (rc == 0)
        rc = set_timeout(rb, "rados_mon_op_timeout", 0, &ours);
    return rc == 0 ? set_timeout(rb, "rados_osd_op_timeout", 0, &rb->own_timeout) : rc;
}

static int read_file(const struct rbd_backend *rb, const char *path)
{
    int rc = 0;

    if (!path)
        rb->ceph->rados_conf_read_file(rb->cluster, NULL); /* wherever it is, if it is there */
    else if (strcmp(path, "none") != 0)
        rc = rb->ceph->rados_conf_read_file(rb->cluster, path);
    return rc < 0 ? err_set(rc, "%s: reading Ceph's settings from %s: %s", rb->b.name, path, strerror(-rc)) : 0;
}

/*
 * Direct I/O: what librbd would keep is acknowledged before the cluster has it, and copied twice. What is written
 * it would copy, too, for those whose buffers change meanwhile; ours stay as they are till the request ends.
 */
static int set_ways(const struct rbd_backend *rb)
{
    bool direct = !(rb->flags & BACKEND_BUFFERED);

    rb->ceph->rados_conf_set(rb->cluster, ZERO_COPY_OFF, direct ? "false" : "true"); /* old versions have none */
    return set(rb, "rbd_cache", direct ? "false" : "true");
}

static int configure(struct rbd_backend *rb, const struct spec *options)
{
    const char *user = spec_text(options, "user");
    int rc = rb->ceph->rados_create(&rb->cluster, user ? user : "admin");

    if (rc < 0) {
        rb->cluster = NULL;
        return err_set(rc, "%s: making a Ceph client: %s", rb->b.name, strerror(-rc));
    }
    rc = read_file(rb, spec_text(options, "conf"));
    if (rc == 0)
        rc = set_ways(rb);
    if (rc == 0)
        rc = set_servers(rb, options);
    if (rc == 0)
        rc = set_auth(rb, options);
    if (rc == 0)
        rc = set_key(rb, options);
    if (rc == 0)
        rc = set_config(rb, options);
    if (rc == 0)
        rc = set_timeouts(rb);
    /* A write that is given up keeps its buffer till its OSD has taken it, or is gone: it would end no earlier. */
    if (rc == 0 && !rb->own_timeout)
        rb->ceph->rados_conf_set(rb->cluster, ZERO_COPY_OFF, "true");
    return rc;
}

static int connect_to(struct rbd_backend *rb, const struct spec *options)
{
    const char *pool = spec_text(options, "pool"), *space = spec_text(options, "namespace");
    int rc = rb->ceph->rados_connect(rb->cluster);

    if (rc < 0) {
        char hosts[256] = "";
        rb->ceph->rados_conf_get(rb->cluster, "mon_host", hosts, sizeof hosts);
        err_set(rc, "%s: connecting to the Ceph cluster (mon_host %s): %s", rb->b.name,
                hosts[0] ? hosts : "is not set", strerror(-rc));
        return err_hint(rc, "see that its monitors run, and conf=, id= and key-secret are right");
    }
    rc = rb->ceph->rados_ioctx_create(rb->cluster, pool, &rb->ioctx);
    if (rc < 0) {
        rb->ioctx = NULL;
        return err_set(rc, "%s: Ceph pool '%.100s': %s", rb->b.name, pool, strerror(-rc));
    }
    if (space)
        rb->ceph->rados_ioctx_set_namespace(rb->ioctx, space);
    return 0;
}

/* ---- locks ------------------------------------------------------------------------------------------------ */

/* Has that client the image open still? One that was killed has its lock, and is watched no more after 30 s. */
static bool is_alive(const struct rbd_backend *rb, const char *address)
{
    struct ceph_watcher watchers[WATCHERS_MAX];
    size_t count = WATCHERS_MAX;
    bool found = false;

    if (rb->ceph->rbd_watchers_list(rb->image, watchers, &count) < 0)
        return true;
    count = min_u64(count, WATCHERS_MAX);
    for (size_t i = 0; i < count; i++)
        found |= strcmp(watchers[i].address, address) == 0;
    rb->ceph->rbd_watchers_list_cleanup(watchers, count);
    return found;
}

/* -EAGAIN, with text: a living client writes to it. */
static int check_owner(const struct rbd_backend *rb)
{
    char *owners[OWNERS_MAX];
    size_t count = OWNERS_MAX;
    int mode, rc = 0;

    if (rb->ceph->rbd_lock_get_owners(rb->image, &mode, owners, &count) < 0)
        return 0; /* there is none */
    count = min_u64(count, OWNERS_MAX);
    for (size_t i = 0; i < count && rc == 0; i++)
        if (is_alive(rb, owners[i]))
            rc = err_hint(err_set(EAGAIN, "%s: in use by the Ceph client at %.100s, which has its lock",
                                  rb->b.name, owners[i]), "see: rbd lock list, rbd status");
    rb->ceph->rbd_lock_get_owners_cleanup(owners, count);
    return rc;
}

/*
 * While we have it librbd refuses to hand it over, and other writers fail. An owner that has gone is kept off by
 * the cluster before we have it. Images without that feature have no such lock.
 */
static int take_lock(struct rbd_backend *rb)
{
    uint64_t features = 0;
    int rc = rb->ceph->rbd_get_features(rb->image, &features);

    if (rc < 0)
        return err_set(rc, "%s: asking for its features: %s", rb->b.name, strerror(-rc));
    if (!(features & CEPH_FEATURE_EXCLUSIVE_LOCK))
        return 0;
    rc = check_owner(rb);
    if (rc < 0)
        return rc;
    rc = rb->ceph->rbd_lock_acquire(rb->image, CEPH_LOCK_EXCLUSIVE);
    rb->locked = rc >= 0;
    if (rc >= 0)
        return 0;
    if (rc == -EROFS && check_owner(rb) < 0) /* another came first */
        return -EAGAIN;
    return err_set(rc == -EROFS ? EAGAIN : rc, "%s: taking its exclusive lock: %s", rb->b.name, strerror(-rc));
}

static bool wants_lock(const struct rbd_backend *rb)
{
    return writes(rb->flags) && !(rb->flags & BACKEND_NO_LOCK);
}

/* ---- the image -------------------------------------------------------------------------------------------- */

static int open_or_make(struct rbd_backend *rb, const char *snapshot)
{
    const struct ceph *c = rb->ceph;
    bool read_only = !writes(rb->flags);
    int order = 0, rc;

    rc = (read_only ? c->rbd_open_read_only : c->rbd_open)(rb->ioctx, rb->image_name, &rb->image, snapshot);
    if (rc == -ENOENT && rb->flags & BACKEND_CREATE) {
        rc = c->rbd_create(rb->ioctx, rb->image_name, 0, &order);
        if (rc < 0 && rc != -EEXIST) /* somebody else was faster */
            return err_set(rc, "%s: creating the image: %s", rb->b.name, strerror(-rc));
        rb->b.made = rc == 0;
        rc = c->rbd_open(rb->ioctx, rb->image_name, &rb->image, NULL);
    }
    if (rc < 0) {
        rb->image = NULL;
        return err_set(rc, "%s: %s", rb->b.name, rc == -ENOENT ? snapshot ? "there is no such image or snapshot"
                                                                          : "there is no such image"
                                                               : strerror(-rc));
    }
    return 0;
}

static int read_properties(struct rbd_backend *rb)
{
    struct ceph_stat st = {0};
    uint64_t unit = 0, count = 0;
    const struct ceph *c = rb->ceph;
    int rc = c->rbd_stat(rb->image, &st, sizeof st);

    if (rc >= 0)
        rc = c->rbd_get_stripe_count(rb->image, &count);
    if (rc >= 0)
        rc = c->rbd_get_stripe_unit(rb->image, &unit);
    if (rc < 0)
        return err_set(rc, "%s: asking what it is like: %s", rb->b.name, strerror(-rc));
    if (st.size > INT64_MAX || !is_power_of_two(st.object_size) || st.object_size > UINT64_C(1) << 32)
        return err_set(EIO, "%s: librbd says that it has %llu bytes, in objects of %llu", rb->b.name,
                       (unsigned long long)st.size, (unsigned long long)st.object_size);
    rb->object_size = st.object_size;
    rb->striped = count != 1 || unit != st.object_size;
    atomic_init(&rb->b.size, st.size);
    return 0;
}

static void set_capabilities(struct rbd_backend *rb)
{
    struct backend *b = &rb->b;

    b->caps = BACKEND_GROWS | BACKEND_ZERO_NEW | BACKEND_DISCARD | BACKEND_SPARSE |
              (rb->ceph->rbd_aio_write_zeroes ? BACKEND_ZERO_FAST : 0u);
    b->discard_align = (uint32_t)min_u64(rb->object_size, 64 << 10); /* less librbd does not pass on */
    b->preferred = (uint32_t)min_u64(rb->object_size, 32 << 20);
    b->max_transfer = 256 << 20;
    b->read_only = !writes(rb->flags);
    b->direct = !(rb->flags & BACKEND_BUFFERED);
}

static void bound_waiting(const struct rbd_backend *rb, const char *seconds)
{
    if (rb->own_timeout)
        rb->ceph->rados_conf_set(rb->cluster, "rados_osd_op_timeout", seconds);
}

/* Invariant 2. */
static void close_handles(struct rbd_backend *rb)
{
    if (rb->image) {
        rbd_unwatch(rb);
        if (rb->locked)
            rb->ceph->rbd_lock_release(rb->image);
        rb->ceph->rbd_close(rb->image);
    }
    if (rb->ioctx)
        rb->ceph->rados_ioctx_destroy(rb->ioctx);
    if (rb->cluster)
        rb->ceph->rados_shutdown(rb->cluster);
    rb->image = rb->ioctx = rb->cluster = NULL;
    mem_free(rb->image_name);
    pthread_mutex_destroy(&rb->resizing);
}

static int open_all(struct rbd_backend *rb, const struct spec *options)
{
    const char *snapshot = spec_text(options, "snapshot");
    int rc;

    rb->is_snapshot = snapshot != NULL;
    if (snapshot && writes(rb->flags))
        return err_hint(err_set(EROFS, "%s: is a snapshot", rb->b.name), "open it read-only");
    rb->image_name = mem_strdup(spec_text(options, "image"));
    if (!rb->image_name)
        return err_set(ENOMEM, "%s: out of memory", rb->b.name);
    rc = configure(rb, options);
    if (rc == 0)
        rc = connect_to(rb, options);
    if (rc == 0)
        rc = open_or_make(rb, snapshot);
    if (rc == 0 && wants_lock(rb))
        rc = take_lock(rb);
    if (rc == 0)
        rc = read_properties(rb);
    if (rc == 0)
        rc = rbd_watch(rb);
    if (rc < 0 && rb->b.made)
        rbd_unlink(&rb->b);
    return rc;
}

int rbd_open_image(struct rbd_backend *rb, const struct spec *options, uint32_t flags)
{
    int rc;

    rb->flags = flags;
    pthread_mutex_init(&rb->resizing, NULL);
    rbd_identify(options, &rb->b.id);
    rc = open_all(rb, options);
    if (rc < 0) {
        bound_waiting(rb, CLOSE_SECONDS);
        close_handles(rb);
        return rc;
    }
    set_capabilities(rb);
    bound_waiting(rb, "0");
    return 0;
}

void rbd_close_image(struct backend *b)
{
    struct rbd_backend *rb = rbd_backend_of(b);

    bound_waiting(rb, CLOSE_SECONDS);
    close_handles(rb);
}

/* An image that is open cannot be removed; nobody needs it any more. */
int rbd_unlink(struct backend *b)
{
    struct rbd_backend *rb = rbd_backend_of(b);

    assert(b->made);
    if (rb->image) {
        bound_waiting(rb, OPEN_SECONDS);
        rbd_unwatch(rb);
        if (rb->locked)
            rb->ceph->rbd_lock_release(rb->image);
        rb->ceph->rbd_close(rb->image);
    }
    rb->image = NULL;
    rb->locked = false;
    return rb->ceph->rbd_remove(rb->ioctx, rb->image_name);
}
