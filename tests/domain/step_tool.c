/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vdisk-io, as a test has it: VDISK_TEST_STEPS is a file to which the steps that operations on domains, or on
 * logical volumes, go through are added; at the one that VDISK_TEST_KILL names it is killed (where it comes again:
 * after VDISK_TEST_AFTER times more), at VDISK_TEST_STOP it stops, after VDISK_TEST_EIO nothing gets to the disk
 * any more. Where VDISK_TEST_FALLOCATE is "none" no space can be reserved, as on NFS 3; where it is "longer" a
 * file gets longer with it, as on NFS 4.2. With VDISK_TEST_NFS=names a file that is open when its name goes gets
 * another one, .nfs and a number, until it is closed, as on NFS; with VDISK_TEST_NFS=answers what renames, or
 * removes a name, is not told so by the server, which is asked once more. With VDISK_TEST_REAPS it waits for all
 * children, whoever has made them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

/* ---- names on NFS ------------------------------------------------------------------------------------------ */

static struct renamed {
    char  path[4096]; /* "": it has gone */
    ino_t inode;
} renamed[64];
static unsigned renamed_count;

static bool is_open(ino_t inode)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    bool found = false;
    struct stat st;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        found = found || (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
                          st.st_ino == inode);
    if (dir != NULL)
        closedir(dir);
    return found;
}

/* The client's, which a server does not know of: a folder that has one is not empty. */
static int rename_open(int folder, const char *name, ino_t inode)
{
    struct renamed *r = &renamed[renamed_count];
    char link[64], other[32];
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    n = readlink(link, r->path, sizeof r->path - sizeof other);
    if (n < 0 || renamed_count >= sizeof renamed / sizeof renamed[0])
        abort();
    snprintf(other, sizeof other, "/.nfs%08x", renamed_count++);
    snprintf(r->path + n, sizeof other, "%s", other);
    r->inode = inode;
    return (int)syscall(SYS_renameat, folder, name, folder, other + 1);
}

/* The answer is lost, and the server asked again. */
static int again(int rc)
{
    if (rc != 0 || !is_named("VDISK_TEST_NFS", "answers"))
        return rc;
    errno = ENOENT;
    return -1;
}

int renameat(int from, const char *name, int to, const char *as)
{
    return again((int)syscall(SYS_renameat, from, name, to, as));
}

int unlinkat(int folder, const char *name, int flags)
{
    struct stat st;

    if (flags != 0 || !is_named("VDISK_TEST_NFS", "names") ||
        fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) || !is_open(st.st_ino))
        return again((int)syscall(SYS_unlinkat, folder, name, flags));
    if (strncmp(name, ".nfs", 4) != 0)
        return rename_open(folder, name, st.st_ino);
    errno = EBUSY;
    return -1;
}

int close(int fd)
{
    int rc = (int)syscall(SYS_close, fd), err = errno;

    for (unsigned i = 0; i < renamed_count; i++) {
        if (renamed[i].path[0] == '\0' || is_open(renamed[i].inode))
            continue;
        syscall(SYS_unlinkat, AT_FDCWD, renamed[i].path, 0);
        renamed[i].path[0] = '\0';
    }
    errno = err;
    return rc;
}

/* ---- steps ------------------------------------------------------------------------------------------------- */

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

/* As soon as there are any: before who has made them, as a rule. */
static void *reap(void *arg)
{
    (void)arg;
    for (;;)
        if (waitpid(-1, NULL, 0) < 0)
            sched_yield();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;

    if (is_named("VDISK_TEST_REAPS", "all") && pthread_create(&thread, NULL, reap, NULL) != 0)
        return 98;
    domain_set_step_hook(at_step);
    lv_set_step_hook(at_step);
    for (const struct cli_verb *const *v = cli_verbs; argc > 1 && *v != NULL; v++)
        if (strcmp(argv[1], (*v)->name) == 0)
            return cli_finish((*v)->run(*v, argc - 1, argv + 1));
    return 99;
}
