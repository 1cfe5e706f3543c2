/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection until its handshake is over, for those who shake hands (dial.c) and those who only ask (list.c).
 * Everything blocks, until the deadline; errors are negative errnos, with a reason in `why`.
 */
#ifndef BACKENDS_NBD_TALK_H
#define BACKENDS_NBD_TALK_H

#include <string.h>

#include "backends/nbd/client.h"
#include "engine/vdisk-image.h"

enum { NBD_REPLIES_MAX = 64, NBD_REPLY_BYTES_MAX = 2 * NBD_MAX_STRING + 64 };

struct nbd_talk {
    const struct nbd_place *place;
    struct nbd_terms       *terms;
    struct nbd_socket       socket;
    uint64_t                deadline_ms;
    char                   *why;       /* NBD_WHY_MAX bytes */
    bool                    no_zeroes; /* behind the answer to EXPORT_NAME */
    uint8_t                 data[NBD_REPLY_BYTES_MAX]; /* of the last reply */
};

/* What is agreed on goes to `terms`, nothing as yet. NULL: no memory, which `why` says. */
struct nbd_talk *nbd_talk_new(const struct nbd_place *place, struct nbd_terms *terms, char *why);
/* The connection goes, too, if it is still there. NULL is allowed. */
void nbd_talk_free(struct nbd_talk *t);

int nbd_talk_connect(struct nbd_talk *t);
/* The greeting, and TLS where it is asked for: what follows is for options. */
int nbd_talk_greet(struct nbd_talk *t);

/* `rc`, with its reason. */
int nbd_talk_fail(struct nbd_talk *t, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

int nbd_talk_get(struct nbd_talk *t, void *buf, size_t len);
int nbd_talk_send(struct nbd_talk *t, uint32_t option, const uint8_t *data, size_t len);
/* One reply; its data is in t->data. */
int nbd_talk_reply(struct nbd_talk *t, uint32_t option, struct nbd_option_reply *ret);
/* An option without data: 1: acknowledged, 0: not. */
int nbd_talk_ask(struct nbd_talk *t, uint32_t option);

/* -EPROTO: the answer is wrong, says `what`; and: the server has said no, in a way that ends it. */
int nbd_talk_breach(struct nbd_talk *t, uint32_t option, const char *what);
int nbd_talk_refused(struct nbd_talk *t, uint32_t option, const struct nbd_option_reply *r);

static inline bool nbd_reply_is_error(const struct nbd_option_reply *r)
{
    return r->type & NBD_REP_FLAG_ERROR;
}

static inline struct nbd_string nbd_string_of(const char *text)
{
    return (struct nbd_string){text, (uint32_t)strlen(text)};
}

/* ---- dial.c ---------------------------------------------------------------------------------------------- */

/* From a greeting to an export: what nbd_dial() does on a connection. */
int nbd_talk_agree(struct nbd_talk *t);
/* Extended headers, else structured replies. */
int nbd_talk_forms(struct nbd_talk *t);

/* ---- list.c ---------------------------------------------------------------------------------------------- */

/* From a greeting to the end: what nbd_list() does on a connection. */
int nbd_talk_list(struct nbd_talk *t, vdisk_export_fn *fn, void *arg);

#endif
