/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layers of an image's chain, gone along by name, with no lock taken or minded. */
#include <stdlib.h>

#include "tools/cli.h"

enum { LAYERS_MOST = 1024 }; /* names may lead in a circle */

static char *copy_of(const char *text)
{
    return text != NULL ? cli_strdup(text) : NULL;
}

unsigned cli_each_layer(const char *name, const char *format, cli_layer_fn *look, void *arg)
{
    char *next = cli_strdup(name), *next_format = copy_of(format);
    unsigned count = 0;

    while (next != NULL && count < LAYERS_MOST) {
        struct vdisk_open_opts how = {.size = sizeof how, .format = next_format,
                                      .flags = VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_BUFFERED};
        struct vdisk_image_info info = {.size = sizeof info};
        vdisk_image *image = NULL;

        if (vdisk_image_load(next, &how, &image) < 0)
            break;
        vdisk_image_get_info(image, &info);
        count++;
        if (look != NULL)
            look(arg, &info);
        free(next);
        free(next_format);
        next = copy_of(info.backing_name);
        next_format = copy_of(info.backing_fmt);
        vdisk_image_free(image);
    }
    free(next);
    free(next_format);
    return count;
}
