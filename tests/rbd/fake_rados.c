/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The librados of tests: a client is its settings. */
#undef NDEBUG
#include "tests/rbd/fake_client.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int rados_create(void **cluster, const char *id);
int rados_conf_read_file(void *cluster, const char *path);
int rados_conf_get(void *cluster, const char *key, char *buf, size_t len);
int rados_conf_set(void *cluster, const char *key, const char *value);
int rados_connect(void *cluster);
void rados_shutdown(void *cluster);
int rados_ioctx_create(void *cluster, const char *pool, void **ioctx);
void rados_ioctx_set_namespace(void *ioctx, const char *name);
void rados_ioctx_destroy(void *ioctx);

int rados_create(void **cluster, const char *id)
{
    struct fake_client *c = calloc(1, sizeof *c);

    assert(c && id);
    *cluster = c;
    rados_conf_set(c, "client_mount_timeout", "300");
    rados_conf_set(c, "rados_mon_op_timeout", "0");
    rados_conf_set(c, "rados_osd_op_timeout", "0");
    return 0;
}

int rados_conf_read_file(void *cluster, const char *path)
{
    return path && strcmp(path, "/nonexistent") == 0 ? -ENOENT : 0;
}

int rados_conf_get(void *cluster, const char *key, char *buf, size_t len)
{
    const char *value = fake_setting(cluster, key);

    if (!value)
        return -ENOENT;
    return snprintf(buf, len, "%s", value) < (int)len ? 0 : -ENAMETOOLONG;
}

int rados_conf_set(void *cluster, const char *key, const char *value)
{
    struct fake_client *c = cluster;
    unsigned i = 0;

    if (strcmp(key, "unknown") == 0)
        return -ENOENT;
    while (i < c->count && strcmp(c->settings[i].key, key) != 0)
        i++;
    assert(i < FAKE_SETTINGS && strlen(key) < FAKE_TEXT && strlen(value) < FAKE_TEXT);
    snprintf(c->settings[i].key, FAKE_TEXT, "%s", key);
    snprintf(c->settings[i].value, FAKE_TEXT, "%s", value);
    c->count = i == c->count ? i + 1 : c->count;
    return 0;
}

/* Nothing may wait for ever. */
int rados_connect(void *cluster)
{
    struct fake_client *c = cluster;

    assert(fake_number(c, "client_mount_timeout") > 0 && fake_number(c, "client_mount_timeout") < 300);
    assert(fake_number(c, "rados_mon_op_timeout") > 0 && fake_number(c, "rados_osd_op_timeout") > 0);
    if (fake_fails(c, "rados_connect"))
        return -ETIMEDOUT;
    c->connected = true;
    return 0;
}

void rados_shutdown(void *cluster)
{
    struct fake_client *c = cluster;

    assert(c->pools == 0);
    free(c);
}

int rados_ioctx_create(void *cluster, const char *pool, void **ioctx)
{
    struct fake_client *c = cluster;

    assert(c->connected);
    if (strcmp(pool, "pool") != 0)
        return -ENOENT;
    c->pools++;
    *ioctx = c;
    return 0;
}

void rados_ioctx_set_namespace(void *ioctx, const char *name)
{
    rados_conf_set(ioctx, "namespace", name);
}

void rados_ioctx_destroy(void *ioctx)
{
    struct fake_client *c = ioctx;

    assert(c->pools > 0 && c->images == 0);
    c->pools--;
}
