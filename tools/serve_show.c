/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server of volumes prints: addresses of what it serves, as clients take them (NBD URIs); what there was.
 *
 * Works: names and paths are written with %XX where a URI has no such character. Fails: sockets that were passed
 * on have no address that is known here: none is printed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/serve.h"

static void put_escaped(FILE *f, const char *text, const char *as_they_are)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; *text != '\0'; text++) {
        if (strchr(plain, *text) != NULL || strchr(as_they_are, *text) != NULL)
            fputc(*text, f);
        else
            fprintf(f, "%%%02X", (unsigned char)*text);
    }
}

/* An address of IPv6 stands in brackets. */
static void put_host(FILE *f, const struct serve *s)
{
    const char *host = s->address != NULL ? s->address : "localhost";
    bool brackets = strchr(host, ':') != NULL;

    fprintf(f, "%s", brackets ? "[" : "");
    put_escaped(f, host, ":");
    fprintf(f, "%s:%u", brackets ? "]" : "", s->got_port);
}

/* Malloc'ed; NULL: it has none, or there is no memory. */
static char *uri_of(const struct serve *s, const char *name)
{
    char *text = NULL;
    size_t size;
    FILE *f = serve_passed_fds() > 0 ? NULL : open_memstream(&text, &size);

    if (f == NULL)
        return NULL;
    fprintf(f, "nbd%s%s://", s->tls_creds != NULL ? "s" : "", s->socket != NULL ? "+unix" : "");
    if (s->socket == NULL)
        put_host(f, s);
    fputc('/', f);
    put_escaped(f, name, "/");
    if (s->socket != NULL) {
        fprintf(f, "?socket=");
        put_escaped(f, s->socket, "/");
    }
    if (fclose(f) == 0)
        return text;
    free(text);
    return NULL;
}

static const char *name_of(const struct serve *s, int i)
{
    const char *name = serve_value_of(&s->names, i), *own = s->opened[i].name;

    return name != NULL ? name : own != NULL ? own : "";
}

static json_t *export_json(const struct serve *s, int i)
{
    const struct serve_opened *o = &s->opened[i];
    char *uri = uri_of(s, name_of(s, i));
    json_t *json = json_pack("{s:o, s:o, s:I, s:b}", "image",
                             cli_json_string(o->image != NULL ? o->image : s->operands[i]), "name",
                             cli_json_string(name_of(s, i)), "size",
                             (json_int_t)(vdisk_size(o->volume) - s->common.offset), "read-only", s->read_only);

    if (o->of_image != NULL)
        json_object_set_new(json, "volume", cli_json_string(o->of_image));
    if (uri != NULL)
        json_object_set_new(json, "uri", cli_json_string(uri));
    free(uri);
    return json;
}

static int show_json(const struct serve *s)
{
    json_t *list = json_array(), *json = json_pack("{s:i}", "pid", (int)getpid());

    if (s->socket != NULL)
        json_object_set_new(json, "socket", cli_json_string(s->socket));
    else if (s->got_port != 0)
        json_object_set_new(json, "port", json_integer(s->got_port));
    for (int i = 0; i < s->count; i++)
        json_array_append_new(list, export_json(s, i));
    json_object_set_new(json, "exports", list);
    return cli_json_print(json);
}

/* Once, before the first client: what this host could be set to, so that serving is faster. */
static void tell_hint(const struct serve *s)
{
    struct nbd_server_stats t;

    nbd_server_get_stats(s->server, &t);
    if (t.send_buffer != 0 && t.send_buffer < NBD_SERVER_SOCKET_BYTES)
        cli_note("note: unix sockets hold %u KiB here, not the %d KiB asked for, and reads are slower: "
                 "sysctl -w net.core.wmem_max=%d",
                 t.send_buffer >> 10, NBD_SERVER_SOCKET_BYTES >> 10, NBD_SERVER_SOCKET_BYTES);
}

int serve_show_begin(const struct serve *s)
{
    tell_hint(s);
    if (s->json)
        return show_json(s);
    if (s->verbose && s->socket != NULL)
        printf("listening on %s\n", s->socket);
    else if (s->got_port != 0 && (s->verbose || (s->port != NULL && strcmp(s->port, "0") == 0)))
        printf("listening on port %u\n", s->got_port);
    for (int i = 0; s->tells && i < s->count; i++) {
        char *uri = uri_of(s, name_of(s, i));
        if (uri != NULL)
            printf("%s\n", uri);
        free(uri);
    }
    return CLI_OK;
}

int serve_show_end(const struct serve *s)
{
    struct nbd_server_stats t;

    nbd_server_get_stats(s->server, &t);
    if (s->json)
        return cli_json_print(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "connections", (json_int_t)t.connections,
                                        "requests", (json_int_t)t.requests, "errors", (json_int_t)t.errors,
                                        "refused", (json_int_t)t.refused, "receives", (json_int_t)t.receives,
                                        "sends", (json_int_t)t.sends));
    printf("%" PRIu64 " connections, %" PRIu64 " requests, %" PRIu64 " errors, %" PRIu64 " clients refused\n"
           "%" PRIu64 " receives, %" PRIu64 " sends\n",
           t.connections, t.requests, t.errors, t.refused, t.receives, t.sends);
    return CLI_OK;
}
