/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who holds a lock on a file. fcntl() does not say it of locks that belong to open files, but /proc/PID/fdinfo
 * shows the locks of each descriptor. What we may not look at, or runs on another host, stays unknown.
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
#include <unistd.h>

#include "backends/lock.h"

bool lock_parse_line(const char *line, bool *ret_write, uint64_t *ret_start, uint64_t *ret_end)
{
    char type[16], start[24], end[24];
    const char *p = line;

    if (strncmp(p, "lock:", 5) == 0)
        p += 5;
    /* "1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 101"; a waiter has "->" after the colon. */
    if (sscanf(p, " %*u: %*s %*s %15s %*d %*s %23s %23s", type, start, end) != 3)
        return false;
    if (!isdigit((unsigned char)start[0]) || (!isdigit((unsigned char)end[0]) && strcmp(end, "EOF") != 0))
        return false;
    *ret_write = strcmp(type, "WRITE") == 0;
    *ret_start = strtoull(start, NULL, 10);
    *ret_end = strcmp(end, "EOF") == 0 ? UINT64_MAX : strtoull(end, NULL, 10);
    return true;
}

/* Do the locks of this descriptor cover `byte`? Sets *ret_writes if it claims to write. */
static bool fd_holds(const char *fdinfo, unsigned byte, bool *ret_writes)
{
    FILE *f = fopen(fdinfo, "re");
    bool found = false, write;
    uint64_t start, end;
    char line[256];

    if (!f)
        return false;
    *ret_writes = false;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "lock:", 5) != 0 || !lock_parse_line(line, &write, &start, &end))
            continue;
        if (start <= byte && byte <= end)
            found = true;
        if (write || (start <= LOCK_USED_BASE + LOCK_PERM_WRITE && LOCK_USED_BASE + LOCK_PERM_WRITE <= end))
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

/* Look through the descriptors of `pid` for the file `st`. `own`: the descriptor of ours to leave out, or -1. */
static bool process_holds(int pid, const struct stat *st, int own, unsigned byte, bool *ret_writes)
{
    char path[128];
    struct dirent *e;
    struct stat fst;
    bool found = false;
    DIR *dir;

    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    dir = opendir(path);
    if (!dir)
        return false;
    while (!found && (e = readdir(dir))) {
        int fd = number(e->d_name);
        if (fd < 0 || fd == own)
            continue;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        if (stat(path, &fst) < 0 || fst.st_ino != st->st_ino || fst.st_dev != st->st_dev)
            continue;
        snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", pid, fd);
        found = fd_holds(path, byte, ret_writes);
    }
    closedir(dir);
    return found;
}

void lock_find_holder(int fd, unsigned byte, struct lock_holder *ret)
{
    struct dirent *e;
    struct stat st;
    DIR *proc;

    *ret = (struct lock_holder){0};
    if (fstat(fd, &st) < 0 || !(proc = opendir("/proc")))
        return;
    while (ret->pid == 0 && (e = readdir(proc))) {
        int pid = number(e->d_name);
        if (pid > 0 && process_holds(pid, &st, pid == getpid() ? fd : -1, byte, &ret->writes))
            ret->pid = pid;
    }
    closedir(proc);
    if (ret->pid)
        read_comm(ret->pid, ret->comm, sizeof ret->comm);
    else
        ret->writes = false;
}
