/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program that serves a volume by exports/nbd, and changes its size meanwhile, as it is told.
 *
 * usage: resizer FORMAT NAME SOCKET
 *
 * Prints "ready", then for each line of its input, which is a size in bytes, what vdisk_resize() gives, 0 or
 * -errno; ends with its input.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "exports/nbd/nbd_export.h"

static int fail(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    return 1;
}

int main(int argc, char **argv)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR};
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    struct nbd_export_opts export = {.name = "", .multi_conn = true};
    struct nbd_server *server;
    char line[64];

    if (argc != 4)
        return fail("resizer", "FORMAT NAME SOCKET");
    how.format = argv[1];
    if (vdisk_open(argv[2], &how, &export.volume) < 0)
        return fail(argv[2], vdisk_error_text());
    if (nbd_server_create(NULL, &server) < 0 || nbd_server_add_export(server, &export) < 0 ||
        nbd_server_listen_unix(server, argv[3]) < 0 || nbd_server_start(server) < 0)
        return fail(argv[3], nbd_server_error_text());
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        printf("%d\n", vdisk_resize(export.volume, strtoull(line, NULL, 10), &opts));
        fflush(stdout);
    }
    nbd_server_destroy(server);
    return vdisk_close(export.volume) < 0 ? fail(argv[2], vdisk_error_text()) : 0;
}
