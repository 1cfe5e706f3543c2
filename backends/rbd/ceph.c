/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: dlopen() by the names that their packages give them, dlsym() of all that is in the table.
 * Failure modes: a library is not there, or is so old, or so new, that it lacks a function: -ENOTSUP, and the text
 * says which. Another call tries again.
 *
 * Invariants
 *  1. What is loaded stays: its threads may live longer than the last image.
 */
#include "backends/rbd/ceph.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"

#define PACKAGES "install the Debian packages librbd1 and librados2"

enum ceph_library { RADOS, RBD };

static const char *const sonames[] = {[RADOS] = "librados.so.2", [RBD] = "librbd.so.1"};

static const struct {
    const char       *name;
    size_t            at; /* in struct ceph */
    enum ceph_library library;
    bool              optional;
} functions[] = {
#define ENTRY_RADOS(result, name, arguments) {#name, offsetof(struct ceph, name), RADOS, false},
#define ENTRY_RBD(result, name, arguments) {#name, offsetof(struct ceph, name), RBD, false},
#define ENTRY_OPTIONAL(result, name, arguments) {#name, offsetof(struct ceph, name), RBD, true},
    CEPH_RADOS(ENTRY_RADOS)
    CEPH_RBD(ENTRY_RBD, ENTRY_OPTIONAL)
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ceph table; /* these two under the lock; once it is loaded nothing changes */
static bool loaded;

static int find_functions(const char *name, void *const handles[2])
{
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        void *found = dlsym(handles[functions[i].library], functions[i].name);
        if (!found && !functions[i].optional)
            return err_hint(err_set(ENOTSUP, "%s: %s has no function %s", name, sonames[functions[i].library],
                                    functions[i].name), PACKAGES ", of Ceph 14 or later");
        *(void **)((char *)&table + functions[i].at) = found;
    }
    return 0;
}

static int load(const char *name)
{
    void *handles[2];

    for (unsigned i = RADOS; i <= RBD; i++) {
        handles[i] = dlopen(sonames[i], RTLD_NOW | RTLD_LOCAL);
        if (!handles[i])
            return err_hint(err_set(ENOTSUP, "%s: Ceph's library cannot be loaded: %s", name, dlerror()),
                            PACKAGES);
    }
    return find_functions(name, handles);
}

int ceph_load(const char *name, const struct ceph **ret)
{
    int rc;

    pthread_mutex_lock(&lock);
    rc = loaded ? 0 : load(name);
    loaded = rc == 0;
    pthread_mutex_unlock(&lock);
    *ret = &table;
    return rc;
}
