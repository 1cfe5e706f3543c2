/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an NBD server exports, for the verb nbd. */
#ifndef TOOLS_NBD_LIST_H
#define TOOLS_NBD_LIST_H

#include <stdbool.h>

struct nbd_list_opts {
    const char *name;                       /* of the server; NULL: by what follows */
    const char *socket, *address, *port;    /* NULL: not given */
    const char *tls_creds, *tls_hostname;   /* the same; not with a name */
    bool        json;
};

/* Print it: an exit code. */
int list_exports(const struct nbd_list_opts *o);

#endif
