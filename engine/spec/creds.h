/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Credentials for TLS, known by an id: QEMU's objects tls-creds-x509 and tls-creds-psk. They are loaded when they
 * are added, so that what is wrong with a file is said then, and stay to the end of the process. Any thread.
 */
#ifndef ENGINE_CREDS_H
#define ENGINE_CREDS_H

#include <stdbool.h>

#include "tls/tls.h"

struct spec;
struct creds {
    struct creds    *next;
    char            *id;
    char            *dir, *username, *priority; /* NULL where not given; never dir */
    struct tls_creds keys;
};

/*
 * Objects (object.h): dir=PATH, endpoint=client (default) or server; x509: verify-peer=on (default) or off,
 * psk: username=NAME; priority=TEXT. -EINVAL, -ENOTSUP (there is no GnuTLS), -ENOMEM, and those of the files
 * (tls.h), with text.
 */
int creds_add_x509(const char *id, const struct spec *s);
int creds_add_psk(const char *id, const struct spec *s);

/* NULL: there are none of that id. */
const struct creds *creds_find(const char *id);

/* The same for one end. -ENOENT; -EINVAL: they are the other end's; with text. */
int creds_get(const char *id, enum tls_end end, const struct creds **ret);

#endif
