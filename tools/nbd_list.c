/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd --list: what a server exports, as qemu-nbd prints it, or as JSON.
 *
 * Happy path: a name of the server is made of --socket, or of --bind and --port, with the credentials; the library
 * asks; each export is printed. Failures: the library's.
 */
#include "tools/nbd_list.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"

/* By the bits of the protocol; qemu-nbd's words. NULL: that the others mean something. */
static const char *const flag_names[] = {
    NULL, "readonly", "flush", "fua", "rotational", "trim", "zeroes", "df", "multi", "resize", "cache",
    "fast-zero", "block-status-payload",
};

enum { FLAGS = sizeof flag_names / sizeof flag_names[0], HAS_FLAGS = 1 };

struct listing {
    json_t *array; /* NULL: for people, once all are known: */
    char   *text;
    size_t  len;
    FILE   *out;
    unsigned count;
};

/* ---- the server --------------------------------------------------------------------------------------------- */

static void put_member(json_t *object, const char *key, const char *value)
{
    if (value != NULL)
        json_object_set_new(object, key, cli_json_string(value));
}

/* "json:{...}"; the caller frees it. */
static char *server_name(const struct nbd_list_opts *o)
{
    json_t *server = json_object(), *node = json_pack("{s:s}", "driver", "nbd");
    char *text, *name;

    put_member(server, "type", o->socket != NULL ? "unix" : "inet");
    if (o->socket != NULL) {
        put_member(server, "path", o->socket);
    } else {
        put_member(server, "host", o->address != NULL ? o->address : "localhost");
        put_member(server, "port", o->port != NULL ? o->port : "10809");
    }
    json_object_set_new(node, "server", server);
    put_member(node, "tls-creds", o->tls_creds);
    put_member(node, "tls-hostname", o->tls_hostname);
    text = json_dumps(node, JSON_COMPACT);
    json_decref(node);
    if (text == NULL)
        return NULL;
    name = cli_calloc(1, strlen(text) + sizeof "json:");
    snprintf(name, strlen(text) + sizeof "json:", "json:%s", text);
    free(text);
    return name;
}

/* ---- one export --------------------------------------------------------------------------------------------- */

/* What a server says is not the terminal's to obey. */
static void print_text(FILE *out, const char *before, const char *text, const char *after)
{
    char *clean = cli_strdup(text);

    fprintf(out, "%s%s%s\n", before, cli_printable(clean), after);
    free(clean);
}

static void print_human(FILE *out, const struct vdisk_export_info *e)
{
    print_text(out, " export: '", e->name, "'");
    if (e->description[0] != '\0')
        print_text(out, "  description: ", e->description, "");
    if (e->flags & HAS_FLAGS) {
        fprintf(out, "  size:  %" PRIu64 "\n  flags: 0x%x (", e->bytes, e->flags);
        for (unsigned i = 1; i < FLAGS; i++)
            if (e->flags >> i & 1)
                fprintf(out, " %s", flag_names[i]);
        fprintf(out, " )\n");
    }
    if (e->min_block != 0)
        fprintf(out, "  min block: %u\n  opt block: %u\n  max block: %u\n", e->min_block, e->preferred_block,
                e->max_block);
    fprintf(out, "  transaction size: %s-bit\n", e->extended ? "64" : "32");
    if (e->n_contexts > 0)
        fprintf(out, "  available meta contexts: %u\n", e->n_contexts);
    for (uint32_t i = 0; i < e->n_contexts; i++)
        print_text(out, "   ", e->contexts[i], "");
}

static json_t *flags_json(uint32_t flags)
{
    json_t *found = json_array();

    for (unsigned i = 1; i < FLAGS; i++)
        if (flags >> i & 1)
            json_array_append_new(found, json_string(flag_names[i]));
    return found;
}

static json_t *export_json(const struct vdisk_export_info *e)
{
    json_t *object = json_object(), *contexts = json_array();

    put_member(object, "name", e->name);
    if (e->description[0] != '\0')
        put_member(object, "description", e->description);
    if (e->flags & HAS_FLAGS) {
        json_object_set_new(object, "size", json_integer((json_int_t)e->bytes));
        json_object_set_new(object, "flags", flags_json(e->flags));
    }
    if (e->min_block != 0)
        json_object_set_new(object, "block-size", json_pack("{s:I,s:I,s:I}", "minimum", (json_int_t)e->min_block,
                                                            "preferred", (json_int_t)e->preferred_block, "maximum",
                                                            (json_int_t)e->max_block));
    json_object_set_new(object, "extended-headers", json_boolean(e->extended));
    for (uint32_t i = 0; i < e->n_contexts; i++)
        json_array_append_new(contexts, cli_json_string(e->contexts[i]));
    json_object_set_new(object, "contexts", contexts);
    return object;
}

static int add_export(void *arg, const struct vdisk_export_info *e)
{
    struct listing *l = arg;

    l->count++;
    if (l->array != NULL)
        json_array_append_new(l->array, export_json(e));
    else
        print_human(l->out, e);
    return 0;
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

int list_exports(const struct nbd_list_opts *o)
{
    struct listing l = {.array = o->json ? json_array() : NULL};
    char *own = o->name == NULL ? server_name(o) : NULL;
    const char *name = o->name != NULL ? o->name : own;
    int rc = CLI_OK;

    l.out = open_memstream(&l.text, &l.len);
    if (name == NULL || l.out == NULL) {
        cli_no_memory();
        rc = CLI_FAILED;
    } else if (vdisk_list_exports(name, add_export, &l) < 0) {
        rc = cli_library_error();
    }
    if (l.out != NULL)
        fclose(l.out);
    if (rc != CLI_OK) {
        json_decref(l.array);
    } else if (l.array != NULL) {
        rc = cli_json_print(l.array);
    } else {
        printf("exports available: %u\n", l.count);
        fwrite(l.text, 1, l.len, stdout);
    }
    free(l.text);
    free(own);
    return rc;
}
