/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who holds a lock on a file. fcntl() does not say it of locks that belong to open files, but /proc/PID/fdinfo
 * shows the locks of each descriptor, and the device and inode of each lock. What we may not look at, or runs on
 * another host, stays unknown.
 *
 * No file is asked about but in /proc: stat() of another process's descriptor can hang on a server that is gone,
 * and gives another device than the locks have where a file system has several (btrfs, overlayfs). Locks have the
 * superblock's, which is also what /proc/self/mountinfo says of ours.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "backends/host/lock.h"

enum { LOOK_MS = 1000 }; /* a machine may have any number of processes and descriptors */

bool lock_parse_line(const char *line, struct lock_line *ret)
{
    char type[16], start[24], end[24];
    const char *p = line;
    unsigned major, minor;

    if (strncmp(p, "lock:", 5) == 0)
        p += 5;
    /* "1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 101"; a waiter has "->" after the colon. */
    if (sscanf(p, " %*u: %*s %*s %15s %*d %x:%x:%" SCNu64 " %23s %23s", type, &major, &minor, &ret->file.node,
               start, end) != 6)
        return false;
    if (!isdigit((unsigned char)start[0]) || (!isdigit((unsigned char)end[0]) && strcmp(end, "EOF") != 0))
        return false;
    ret->file.device = makedev(major, minor);
    ret->write = strcmp(type, "WRITE") == 0;
    ret->start = strtoull(start, NULL, 10);
    ret->end = strcmp(end, "EOF") == 0 ? UINT64_MAX : strtoull(end, NULL, 10);
    return true;
}

bool lock_parse_mount(const char *line, uint64_t *ret_id, uint64_t *ret_device)
{
    unsigned major, minor;

    /* "36 35 98:0 / /mnt rw shared:1 - ext4 /dev/root rw" */
    if (sscanf(line, "%" SCNu64 " %*u %u:%u ", ret_id, &major, &minor) != 3)
        return false;
    *ret_device = makedev(major, minor);
    return true;
}

/* ---- our own file ------------------------------------------------------------------------------------ */

/* The number behind `name` in our fdinfo; false: there is none. */
static bool own_number(int fd, const char *name, uint64_t *ret)
{
    char path[64], line[256];
    bool found = false;
    FILE *f;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    f = fopen(path, "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        found = strncmp(line, name, strlen(name)) == 0;
        if (found)
            *ret = strtoull(line + strlen(name), NULL, 10);
    }
    fclose(f);
    return found;
}

/* The device of the superblock. Lines may be of any length: only their beginning counts. */
static bool mount_device(uint64_t mount, uint64_t *ret)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    bool found = false, at_start = true;
    char line[256];
    uint64_t id;

    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        found = at_start && lock_parse_mount(line, &id, ret) && id == mount;
        at_start = strchr(line, '\n') != NULL;
    }
    fclose(f);
    return found;
}

/* As locks name it. */
static bool own_file(int fd, struct backend_id *ret)
{
    struct stat st;
    uint64_t mount;

    if (fstat(fd, &st) < 0)
        return false;
    *ret = (struct backend_id){.device = st.st_dev, .node = st.st_ino};
    if (own_number(fd, "mnt_id:", &mount))
        mount_device(mount, &ret->device); /* not among our mounts (a detached one): most have that of stat() */
    return true;
}

/* ---- the others' ------------------------------------------------------------------------------------- */

/* Do the locks of this descriptor cover `byte` of the file? Sets *ret_writes if it claims to write. */
static bool fd_holds(const char *fdinfo, const struct backend_id *file, unsigned byte, bool *ret_writes)
{
    const unsigned writes = LOCK_USED_BASE + LOCK_PERM_WRITE;
    FILE *f = fopen(fdinfo, "re");
    struct lock_line l;
    bool found = false;
    char line[256];

    if (!f)
        return false;
    *ret_writes = false;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "lock:", 5) != 0 || !lock_parse_line(line, &l) || l.file.node != file->node ||
            l.file.device != file->device)
            continue;
        if (l.start <= byte && byte <= l.end)
            found = true;
        if (l.write || (l.start <= writes && writes <= l.end))
            *ret_writes = true;
    }
    fclose(f);
    return found;
}

static void read_comm(int pid, char *comm, size_t size)
{
    char path[64];
    FILE *f;

    snprintf(comm, size, "a process");
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    f = fopen(path, "re");
    if (!f)
        return;
    if (fgets(comm, (int)size, f))
        comm[strcspn(comm, "\n")] = '\0';
    fclose(f);
}

/* The number that a name in /proc is; -1: it is none. */
static int number(const char *name)
{
    char *end;
    long n;

    if (!isdigit((unsigned char)name[0]))
        return -1;
    n = strtol(name, &end, 10);
    return *end || n > INT_MAX ? -1 : (int)n;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Look through the descriptors of `pid`, until `until`. `own`: the descriptor of ours to leave out, or -1. */
static bool process_holds(int pid, const struct backend_id *file, int own, unsigned byte, int64_t until,
                          bool *ret_writes)
{
    char path[128];
    struct dirent *e;
    bool found = false;
    DIR *dir;

    snprintf(path, sizeof path, "/proc/%d/fdinfo", pid);
    dir = opendir(path);
    if (!dir)
        return false;
    while (!found && now_ms() < until && (e = readdir(dir))) {
        int fd = number(e->d_name);
        if (fd < 0 || fd == own)
            continue;
        snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", pid, fd);
        found = fd_holds(path, file, byte, ret_writes);
    }
    closedir(dir);
    return found;
}

void lock_find_holder(int fd, unsigned byte, struct lock_holder *ret)
{
    int64_t until = now_ms() + LOOK_MS;
    struct backend_id file;
    struct dirent *e;
    DIR *proc;

    *ret = (struct lock_holder){0};
    if (!own_file(fd, &file) || !(proc = opendir("/proc")))
        return;
    while (ret->pid == 0 && now_ms() < until && (e = readdir(proc))) {
        int pid = number(e->d_name);
        if (pid > 0 && process_holds(pid, &file, pid == getpid() ? fd : -1, byte, until, &ret->writes))
            ret->pid = pid;
    }
    closedir(proc);
    if (ret->pid)
        read_comm(ret->pid, ret->comm, sizeof ret->comm);
    else
        ret->writes = false;
}
