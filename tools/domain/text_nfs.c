/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exports of NFS servers by their names, the kernel's list of what is mounted, and where Vdsm mounts them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/domain/text.h"

#define POINTS "/rhev/data-center/mnt"

bool text_is_export(const char *text)
{
    const char *colon = text[0] == '[' ? strstr(text, "]:/") : strstr(text, ":/");
    const char *slash = strchr(text, '/');

    if (colon == NULL || colon == text)
        return false;
    return text[0] == '[' ? slash == colon + 2 : slash == colon + 1;
}

/* What has an octal number in place of a space. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *p = text; *p != '\0'; to++) {
        unsigned c;
        if (p[0] == '\\' && strspn(p + 1, "01234567") >= 3 && sscanf(p + 1, "%3o", &c) == 1) {
            *to = (char)c;
            p += 4;
        } else {
            *to = *p++;
        }
    }
    *to = '\0';
}

bool text_parse_mount(const char *line, char source[TEXT_MOUNT], char point[TEXT_MOUNT])
{
    const char *rest = strstr(line, " - ");
    char type[64];

    if (rest == NULL || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 ||
        sscanf(rest, " - %63s %4095s", type, source) != 2 || strncmp(type, "nfs", 3) != 0)
        return false;
    unescape(point);
    unescape(source);
    return true;
}

int text_mount_point(const char *source, char *ret, size_t room)
{
    size_t n = (size_t)snprintf(ret, room, POINTS "/");

    for (; *source != '\0'; source++) {
        if (n + 3 > room)
            return -ENAMETOOLONG;
        ret[n++] = *source == '/' ? '_' : *source;
        if (*source == '_')
            ret[n++] = '_';
    }
    ret[n] = '\0';
    return 0;
}
