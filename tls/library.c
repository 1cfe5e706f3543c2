/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Works: the library is loaded once. Fails: it is not there, or too old, and is looked for again the next time. */
#include "tls/library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "tls/tls.h"

#define SONAME "libgnutls.so.30"

static struct {
    pthread_mutex_t    lock;
    bool               loaded;
    struct tls_library it;
} the = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const struct {
    const char *name;
    size_t      at;
} names[] = {
#define TLS_NAMED(name) {"gnutls_" #name, offsetof(struct tls_library, name)},
    TLS_FUNCTIONS(TLS_NAMED)
#undef TLS_NAMED
    {"gnutls_free", offsetof(struct tls_library, free_at)},
};

static bool load(char why[])
{
    void *library = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL) {
        snprintf(why, TLS_WHY, "TLS needs GnuTLS (package libgnutls30): %s", dlerror());
        return false;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *symbol = dlsym(library, names[i].name);
        if (symbol == NULL) {
            snprintf(why, TLS_WHY, SONAME " has no %s: it is too old", names[i].name);
            dlclose(library);
            return false;
        }
        memcpy((char *)&the.it + names[i].at, &symbol, sizeof symbol);
    }
    return true;
}

const struct tls_library *tls_library(char why[])
{
    bool there;

    pthread_mutex_lock(&the.lock);
    the.loaded = there = the.loaded || load(why);
    pthread_mutex_unlock(&the.lock);
    return there ? &the.it : NULL;
}
