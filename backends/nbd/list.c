/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a connection, greeted; LIST, whose replies are names; of each name INFO, and the contexts that there
 * are, where replies are structured; ABORT. Then the caller is told, one export after the other.
 * Failure modes: those of a connection; a server that gives no list (-EACCES, -EIO); one that has no end, or more
 * than EXPORTS_MAX (-EPROTO). What the server does not tell of an export is not there.
 *
 * A server is not trusted: names, descriptions and contexts are strings of the protocol, so many and of so many
 * bytes in all at most, and only printed by whom we tell.
 */
#include <errno.h>
#include <string.h>

#include "backends/nbd/talk.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/vdisk-image.h"

enum { EXPORTS_MAX = 1024, CONTEXTS_MAX = 64, TEXTS_MAX = 16 << 20 };

struct found {
    struct vdisk_export_info info; /* its strings are ours */
    char *contexts[CONTEXTS_MAX];
};

struct list_of {
    struct nbd_talk *t;
    struct found   **exports;
    unsigned         count;
    uint64_t         texts;   /* bytes of all strings */
    bool             no_info; /* the server knows no INFO */
};

static int no_memory(struct nbd_talk *t)
{
    return nbd_talk_fail(t, -ENOMEM, "out of memory");
}

/* A copy in *ret, in place of what is there; NULL after a failure. */
static int keep(struct list_of *l, uint32_t option, struct nbd_string s, const char **ret)
{
    mem_free(unconst(*ret));
    *ret = NULL;
    l->texts += s.length + UINT64_C(1);
    if (l->texts > TEXTS_MAX)
        return nbd_talk_breach(l->t, option, "its names and descriptions have more than 16 MiB");
    *ret = mem_strndup(s.text, s.length);
    return *ret ? 0 : no_memory(l->t);
}

static void found_free(struct found *f)
{
    if (!f)
        return;
    mem_free(unconst(f->info.name));
    mem_free(unconst(f->info.description));
    for (unsigned i = 0; i < f->info.n_contexts; i++)
        mem_free(f->contexts[i]);
    mem_free(f);
}

/* ---- names ----------------------------------------------------------------------------------------------- */

static int add_export(struct list_of *l, const struct nbd_option_reply *r)
{
    struct nbd_string name, description;
    struct found *f;
    int rc;

    if (r->type != NBD_REP_SERVER || nbd_server_get(l->t->data, r->length, &name, &description) < 0)
        return nbd_talk_breach(l->t, NBD_OPT_LIST, "not an export");
    if (l->count == EXPORTS_MAX)
        return nbd_talk_breach(l->t, NBD_OPT_LIST, "it has more than 1024 exports, or no end");
    f = mem_calloc(1, sizeof *f);
    if (!f)
        return no_memory(l->t);
    l->exports[l->count++] = f;
    f->info.size = sizeof f->info;
    f->info.contexts = (const char *const *)f->contexts;
    rc = keep(l, NBD_OPT_LIST, name, &f->info.name);
    return rc < 0 ? rc : keep(l, NBD_OPT_LIST, description, &f->info.description);
}

static int ask_for_names(struct list_of *l)
{
    struct nbd_option_reply r;
    int rc = nbd_talk_send(l->t, NBD_OPT_LIST, NULL, 0);

    while (rc == 0) {
        rc = nbd_talk_reply(l->t, NBD_OPT_LIST, &r);
        if (rc < 0)
            return rc;
        if (nbd_reply_is_error(&r))
            return nbd_talk_refused(l->t, NBD_OPT_LIST, &r);
        if (r.type == NBD_REP_ACK)
            return 0;
        rc = add_export(l, &r);
    }
    return rc;
}

/* ---- one export ------------------------------------------------------------------------------------------ */

static int take_info(struct list_of *l, const struct nbd_option_reply *r, struct vdisk_export_info *e)
{
    struct nbd_talk *t = l->t;
    struct nbd_info info;

    if (r->type != NBD_REP_INFO || nbd_info_get(t->data, r->length, &info) < 0)
        return nbd_talk_breach(t, NBD_OPT_INFO, "not a piece of information");
    if (info.type == NBD_INFO_EXPORT) {
        e->bytes = info.exported.size;
        e->flags = info.exported.flags;
    } else if (info.type == NBD_INFO_BLOCK_SIZE) {
        if (!nbd_block_size_valid(&info.block))
            return nbd_talk_breach(t, NBD_OPT_INFO, "its sizes of blocks are none");
        e->min_block = info.block.minimum;
        e->preferred_block = info.block.preferred;
        e->max_block = info.block.maximum;
    } else if (info.type == NBD_INFO_DESCRIPTION && !e->description[0]) {
        return keep(l, NBD_OPT_INFO, info.text, &e->description);
    }
    return 0;
}

static int ask_for_info(struct list_of *l, struct vdisk_export_info *e)
{
    static const uint16_t types[] = {NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE};
    struct nbd_talk *t = l->t;
    uint8_t data[NBD_MAX_STRING + 64];
    size_t len = nbd_info_request_put(data, sizeof data, nbd_string_of(e->name), types, ARRAY_LEN(types));
    struct nbd_option_reply r;
    int rc = nbd_talk_send(t, NBD_OPT_INFO, data, len);

    assert(len > 0);
    for (unsigned i = 0; rc == 0 && i < NBD_REPLIES_MAX; i++) {
        rc = nbd_talk_reply(t, NBD_OPT_INFO, &r);
        if (rc < 0)
            return rc;
        l->no_info |= r.type == NBD_REP_ERR_UNSUP;
        if (nbd_reply_is_error(&r) || r.type == NBD_REP_ACK) /* an export that cannot be had has a name */
            return 0;
        rc = take_info(l, &r, e);
    }
    return rc < 0 ? rc : nbd_talk_breach(t, NBD_OPT_INFO, "it has no end");
}

static int take_context(struct list_of *l, const struct nbd_option_reply *r, struct found *f)
{
    struct nbd_string name;
    const char *text = NULL;
    uint32_t id;
    int rc;

    if (r->type != NBD_REP_META_CONTEXT || nbd_meta_get(l->t->data, r->length, &id, &name) < 0)
        return nbd_talk_breach(l->t, NBD_OPT_LIST_META_CONTEXT, "not a context");
    if (f->info.n_contexts == CONTEXTS_MAX)
        return 0; /* a few hundred bitmaps, say */
    rc = keep(l, NBD_OPT_LIST_META_CONTEXT, name, &text);
    if (rc == 0)
        f->contexts[f->info.n_contexts++] = unconst(text);
    return rc;
}

static int ask_for_contexts(struct list_of *l, struct found *f)
{
    struct nbd_talk *t = l->t;
    uint8_t data[NBD_MAX_STRING + 64];
    size_t len = nbd_meta_request_put(data, sizeof data, nbd_string_of(f->info.name), NULL, 0);
    struct nbd_option_reply r;
    int rc = nbd_talk_send(t, NBD_OPT_LIST_META_CONTEXT, data, len);

    assert(len > 0);
    for (unsigned i = 0; rc == 0 && i < EXPORTS_MAX; i++) {
        rc = nbd_talk_reply(t, NBD_OPT_LIST_META_CONTEXT, &r);
        if (rc < 0 || nbd_reply_is_error(&r) || r.type == NBD_REP_ACK)
            return rc;
        rc = take_context(l, &r, f);
    }
    return rc < 0 ? rc : nbd_talk_breach(t, NBD_OPT_LIST_META_CONTEXT, "it has no end");
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static int ask(struct list_of *l)
{
    struct nbd_talk *t = l->t;
    int rc = nbd_talk_forms(t);

    if (rc == 0)
        rc = ask_for_names(l);
    for (unsigned i = 0; rc == 0 && i < l->count && !l->no_info; i++) {
        struct found *f = l->exports[i];
        f->info.extended = t->terms->extended;
        rc = ask_for_info(l, &f->info);
        if (rc == 0 && t->terms->structured && f->info.flags)
            rc = ask_for_contexts(l, f);
    }
    if (rc == 0 && nbd_talk_send(t, NBD_OPT_ABORT, NULL, 0) < 0)
        return 0; /* all has been told */
    return rc;
}

static int tell(const struct list_of *l, vdisk_export_fn *fn, void *arg)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < l->count; i++)
        rc = fn(arg, &l->exports[i]->info);
    return rc;
}

int nbd_talk_list(struct nbd_talk *t, vdisk_export_fn *fn, void *arg)
{
    struct list_of l = {.t = t, .exports = mem_calloc(EXPORTS_MAX, sizeof *l.exports)};
    int rc = l.exports ? ask(&l) : no_memory(t);

    assert(l.count <= EXPORTS_MAX && (rc < 0 || !t->place->tls == !t->socket.tls));
    if (rc == 0)
        rc = tell(&l, fn, arg);
    for (unsigned i = 0; i < l.count; i++)
        found_free(l.exports[i]);
    mem_free(l.exports);
    return rc;
}

int nbd_list(const char *name, const struct spec *options, vdisk_export_fn *fn, void *arg)
{
    struct nbd_place place = {.tls = NULL};
    struct nbd_terms terms;
    struct nbd_talk *t = NULL;
    char why[NBD_WHY_MAX] = "";
    int rc = nbd_place_read(name, options, &place);

    if (rc == 0) {
        t = nbd_talk_new(&place, &terms, why);
        rc = t ? nbd_talk_connect(t) : -ENOMEM;
        if (rc == 0)
            rc = nbd_talk_greet(t);
        if (rc == 0)
            rc = nbd_talk_list(t, fn, arg);
        if (rc < 0 && why[0])
            err_set(rc, "%s: %s", name, why);
    }
    nbd_talk_free(t);
    nbd_place_free(&place);
    return rc;
}
