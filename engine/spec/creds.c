/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: options are checked, the files loaded, and the object entered. Fails: before it is entered, with nothing
 * kept.
 *
 * Invariant: what is entered does not change, and is freed with the process only.
 */
#include "engine/spec/creds.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/spec.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct creds *first; /* under the lock */

static void creds_free(struct creds *c)
{
    if (!c)
        return;
    tls_creds_free(&c->keys);
    mem_free(c->id);
    mem_free(c->dir);
    mem_free(c->username);
    mem_free(c->priority);
    mem_free(c);
}

/* When the process ends, or the library is unloaded. */
static void __attribute__((destructor)) forget_all(void)
{
    while (first) {
        struct creds *c = first;
        first = c->next;
        creds_free(c);
    }
}

const struct creds *creds_find(const char *id)
{
    const struct creds *c;

    pthread_mutex_lock(&lock);
    for (c = first; c && strcmp(c->id, id) != 0; c = c->next)
        continue;
    pthread_mutex_unlock(&lock);
    return c;
}

int creds_get(const char *id, enum tls_end end, const struct creds **ret)
{
    const struct creds *c = creds_find(id);

    if (!c)
        return err_hint(err_set(ENOENT, "there are no TLS credentials '%.*s'", SPEC_SHOWN(id)),
                        "give them: --object tls-creds-x509,id=%.*s,endpoint=%s,dir=FOLDER", SPEC_SHOWN(id),
                        end == TLS_SERVER ? "server" : "client");
    if (c->keys.end != end)
        return err_set(EINVAL, "the TLS credentials '%.*s' are a %s's", SPEC_SHOWN(id),
                       end == TLS_SERVER ? "client" : "server");
    *ret = c;
    return 0;
}

/* ---- one that is added ------------------------------------------------------------------------------------- */

static bool is_known(const char *key, bool psk)
{
    static const char *const known[] = {"qom-type", "id", "dir", "endpoint", "priority"};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(key, known[i]) == 0)
            return true;
    return strcmp(key, psk ? "username" : "verify-peer") == 0;
}

static int check_members(const char *id, const struct spec *s, bool psk)
{
    for (unsigned i = 0; i < s->count; i++) {
        if (s->members[i].kind != SPEC_TEXT || !is_known(s->members[i].key, psk))
            return err_hint(err_set(EINVAL, "TLS credentials '%s': no such option: %.*s", id,
                                    SPEC_SHOWN(s->members[i].key)),
                            "dir, endpoint, priority, %s", psk ? "username" : "verify-peer");
    }
    if (!spec_text(s, "dir"))
        return err_set(EINVAL, "TLS credentials '%s': no folder is given: dir=PATH", id);
    return 0;
}

static int parse(const char *id, const struct spec *s, struct tls_opts *o)
{
    const char *end = spec_text(s, "endpoint"), *verify = spec_text(s, "verify-peer");

    if (end && strcmp(end, "server") != 0 && strcmp(end, "client") != 0)
        return err_set(EINVAL, "TLS credentials '%s': endpoint is server or client", id);
    if (verify && strcmp(verify, "on") != 0 && strcmp(verify, "off") != 0)
        return err_set(EINVAL, "TLS credentials '%s': verify-peer is on or off", id);
    o->end = end && strcmp(end, "server") == 0 ? TLS_SERVER : TLS_CLIENT;
    o->verify_peer = !verify || strcmp(verify, "on") == 0;
    o->dir = spec_text(s, "dir");
    o->username = spec_text(s, "username");
    o->priority = spec_text(s, "priority");
    return 0;
}

static bool copy(char **ret, const char *text)
{
    *ret = text ? mem_strdup(text) : NULL;
    return !text || *ret;
}

static int enter(struct creds *c)
{
    bool taken = false;

    pthread_mutex_lock(&lock);
    for (const struct creds *other = first; other; other = other->next)
        taken |= strcmp(other->id, c->id) == 0;
    if (!taken) {
        c->next = first;
        first = c;
    }
    pthread_mutex_unlock(&lock);
    return taken ? err_set(EINVAL, "TLS credentials '%s': there are some of that id", c->id) : 0;
}

static int add(const char *id, const struct spec *s, bool psk)
{
    struct tls_opts o = {.psk = psk};
    char why[TLS_WHY];
    struct creds *c;
    int rc = check_members(id, s, psk);

    if (rc == 0)
        rc = parse(id, s, &o);
    if (rc < 0)
        return rc;
    c = mem_calloc(1, sizeof *c);
    if (!c || !copy(&c->id, id) || !copy(&c->dir, o.dir) || !copy(&c->username, o.username) ||
        !copy(&c->priority, o.priority)) {
        creds_free(c);
        return err_set(ENOMEM, "TLS credentials '%s': out of memory", id);
    }
    rc = tls_creds_load(&c->keys, &o, why);
    if (rc < 0)
        rc = err_set(-rc, "TLS credentials '%s': %s", id, why);
    if (rc == 0)
        rc = enter(c);
    if (rc < 0)
        creds_free(c);
    return rc;
}

int creds_add_x509(const char *id, const struct spec *s)
{
    return add(id, s, false);
}

int creds_add_psk(const char *id, const struct spec *s)
{
    return add(id, s, true);
}
