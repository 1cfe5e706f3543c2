/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Works: what is mounted is read from the kernel's list. Fails: no memory; what cannot be read is not mounted. */
#include "tools/domain/nfs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/domain/kind.h"

/* How much of the text the export is, to its end or a slash; 0: it is another one. */
static size_t match(const char *text, const char *source)
{
    size_t n = strlen(source);

    while (n > 0 && source[n - 1] == '/')
        n--; /* of "server:/" what is before it */
    return n > 0 && strncmp(text, source, n) == 0 && (text[n] == '\0' || text[n] == '/') ? n : 0;
}

int nfs_find(const char *text, char **ret)
{
    char line[TEXT_MOUNT_LINE], source[TEXT_MOUNT], point[TEXT_MOUNT], found[TEXT_MOUNT] = "";
    size_t best = 0;
    FILE *f = NULL;
    int n;

    if (text_is_export(text) && access(text, F_OK) != 0)
        f = fopen("/proc/self/mountinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (!text_parse_mount(line, source, point) || match(text, source) <= best)
            continue;
        best = match(text, source);
        snprintf(found, sizeof found, "%s", point);
    }
    if (f != NULL)
        fclose(f);
    n = asprintf(ret, "%s%s", found, text + best);
    return n < 0 ? dom_fail(ENOMEM, NULL, "out of memory") : 0;
}
