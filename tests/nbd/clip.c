/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For LD_PRELOAD: a host whose net.core.wmem_max is CLIP_SNDBUF bytes, and who has no right to more than that.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    int (*real)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    const char *text = getenv("CLIP_SNDBUF");
    int limit = text ? (int)strtol(text, NULL, 10) : 0;

    if (limit && level == SOL_SOCKET && name == SO_SNDBUFFORCE) {
        errno = EPERM;
        return -1;
    }
    if (limit && level == SOL_SOCKET && name == SO_SNDBUF && limit < *(const int *)value)
        return real(fd, level, name, &limit, sizeof limit);
    return real(fd, level, name, value, len);
}
