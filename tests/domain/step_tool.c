/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vdisk-io, as a test has it: VDISK_TEST_STEPS is a file to which the steps that operations on domains, or on
 * logical volumes, go through are added; at the one that VDISK_TEST_KILL names it is killed (where it comes again:
 * after VDISK_TEST_AFTER times more), at VDISK_TEST_STOP it stops, after VDISK_TEST_EIO nothing gets to the disk
 * any more. Where VDISK_TEST_FALLOCATE is "none" no space can be reserved, as on NFS 3; where it is "longer" a
 * file gets longer with it, as on NFS 4.2.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/cli.h"
#include "tools/domain/domain.h"
#include "tools/lv/lv.h"

static bool broken;

/* In place of the C library's. */
int fsync(int fd)
{
    if (!broken)
        return (int)syscall(SYS_fsync, fd);
    errno = EIO;
    return -1;
}

int fchmod(int fd, mode_t mode)
{
    if (!broken)
        return (int)syscall(SYS_fchmod, fd, mode);
    errno = EIO;
    return -1;
}

static bool is_named(const char *variable, const char *name);

int fallocate(int fd, int mode, off_t at, off_t length)
{
    if (!is_named("VDISK_TEST_FALLOCATE", "none") && (mode == 0 || !is_named("VDISK_TEST_FALLOCATE", "longer")))
        return (int)syscall(SYS_fallocate, fd, mode, at, length);
    errno = EOPNOTSUPP;
    return -1;
}

static bool is_named(const char *variable, const char *name)
{
    const char *value = getenv(variable);

    return value != NULL && strcmp(value, name) == 0;
}

static int after(void)
{
    const char *value = getenv("VDISK_TEST_AFTER");

    return value != NULL ? (int)strtoul(value, NULL, 10) : 0;
}

static void at_step(const char *name)
{
    static int times;
    const char *path = getenv("VDISK_TEST_STEPS");
    FILE *f = path != NULL ? fopen(path, "ae") : NULL;

    if (f != NULL) {
        fprintf(f, "%s\n", name);
        fclose(f);
    }
    if (is_named("VDISK_TEST_KILL", name) && times++ >= after())
        raise(SIGKILL);
    if (is_named("VDISK_TEST_STOP", name))
        raise(SIGSTOP);
    broken = broken || is_named("VDISK_TEST_EIO", name);
}

int main(int argc, char **argv)
{
    domain_set_step_hook(at_step);
    lv_set_step_hook(at_step);
    for (const struct cli_verb *const *v = cli_verbs; argc > 1 && *v != NULL; v++)
        if (strcmp(argv[1], (*v)->name) == 0)
            return cli_finish((*v)->run(*v, argc - 1, argv + 1));
    return 99;
}
