/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new domain in a folder.
 *
 * Works: the storage is asked for its block size, by direct I/O; then a folder of another name gets all that a
 * domain has, and is renamed: so a domain is whole whenever it is there. Fails: what was made is removed. Killed:
 * a folder is left that begins with ".new-", and is no domain. What has that name and is no folder is left alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/domain/file_folder.h"
#include "tools/domain/lease.h"

enum { MAILBOX = 16 << 20, BLOCK_LEAST = 512, BLOCK_MOST = 4096, ALIGNMENT = 1 << 20 };

struct making {
    struct domain                domain; /* for notes */
    const struct domain_create  *o;
    char                         uuid[DOMAIN_UUID];
    char                         path[PATH_MAX - 64]; /* where it is made */
    char                         end[PATH_MAX - 64];  /* and what it is called then */
    char                         remote[PATH_MAX];
    bool                         nfs;
    unsigned                     version, block_size;
    bool                         made; /* the folder, here */
};

/* ---- files ---------------------------------------------------------------------------------------------------
 */

static int make_folder(const struct making *m, const char *name)
{
    char path[PATH_MAX];
    int fd, rc;

    snprintf(path, sizeof path, "%s%s%s", m->path, name[0] != '\0' ? "/" : "", name);
    if (mkdir(path, FILE_MODE_FOLDER) != 0)
        return dom_fail_file(errno, path, "making the folder");
    fd = open(path, FILE_FOLDER);
    rc = fd < 0 ? -errno : file_own(fd, m->o->path, FILE_MODE_FOLDER);
    if (fd >= 0)
        close(fd);
    return rc == 0 ? 0 : dom_fail_file(rc, path, "giving it its owner");
}

static int make_file(const struct making *m, const char *name, const void *data, size_t len, off_t size,
                     mode_t mode)
{
    char path[PATH_MAX];
    int fd, rc = 0;

    snprintf(path, sizeof path, "%s/dom_md/%s", m->path, name);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return dom_fail_file(errno, path, "making it");
    if (file_own(fd, m->o->path, mode) < 0 || (len > 0 && write(fd, data, len) != (ssize_t)len) ||
        (size > 0 && ftruncate(fd, size) != 0) || fsync(fd) != 0)
        rc = dom_fail_file(errno != 0 ? errno : EIO, path, "writing it");
    close(fd);
    return rc;
}

/*
 * No symbolic link is followed: what is removed are the names that a domain has, in this folder and in that
 * within.
 */
static void remove_all(const struct making *m)
{
    static const char *const names[] = {"metadata", "ids", "leases", "inbox", "outbox", "xleases"};
    const int how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int folder = open(m->path, how), within;

    if (folder < 0)
        return;
    within = openat(folder, "dom_md", how);
    for (size_t i = 0; within >= 0 && i < sizeof names / sizeof names[0]; i++)
        unlinkat(within, names[i], 0);
    if (within >= 0)
        close(within);
    unlinkat(folder, "probe", 0);
    unlinkat(folder, "dom_md", AT_REMOVEDIR);
    unlinkat(folder, "images", AT_REMOVEDIR);
    close(folder);
    rmdir(m->path);
}

/* ---- what the storage is -------------------------------------------------------------------------------------
 */

unsigned file_probe_block(int fd)
{
    void *buf = NULL;
    unsigned found = 0;

    if (posix_memalign(&buf, BLOCK_MOST, BLOCK_MOST) != 0)
        return 0;
    memset(buf, 0, BLOCK_MOST);
    for (unsigned size = BLOCK_LEAST; found == 0 && size <= BLOCK_MOST; size *= BLOCK_MOST / BLOCK_LEAST)
        if (pwrite(fd, buf, size, 0) == (ssize_t)size)
            found = size;
    free(buf);
    return found;
}

static int probe(struct making *m)
{
    char path[PATH_MAX];
    int fd;

    snprintf(path, sizeof path, "%s/probe", m->path);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT, 0600);
    if (fd < 0 && errno != EINVAL)
        return dom_fail_file(errno, path, "making it");
    m->block_size = fd >= 0 ? file_probe_block(fd) : 0;
    if (fd >= 0)
        close(fd);
    unlink(path);
    if (m->block_size == 0) {
        dom_note(&m->domain, "%s: its storage takes no direct I/O: blocks of 512 bytes are assumed", m->o->path);
        m->block_size = BLOCK_LEAST;
    }
    return 0;
}

/* What is mounted at the path, as "server:/export"; else the path itself. */
static void find_remote(struct making *m, const char *full)
{
    char line[TEXT_MOUNT_LINE], point[PATH_MAX], source[PATH_MAX];
    FILE *f = fopen("/proc/self/mountinfo", "re");

    snprintf(m->remote, sizeof m->remote, "%s", full);
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (text_parse_mount(line, source, point) && strcmp(point, full) == 0)
            snprintf(m->remote, sizeof m->remote, "%s", source);
    if (f != NULL)
        fclose(f);
}

/* ---- metadata ------------------------------------------------------------------------------------------------
 */

int dom_fill_pairs(struct text_domain *md, const struct dom_pairs *p)
{
    char block[16], version[2] = {(char)('0' + p->version), '\0'};
    const char *pairs[][2] = {
        {"CLASS", "Data"}, {"DESCRIPTION", p->description != NULL ? p->description : ""},
        {"IOOPTIMEOUTSEC", "10"}, {"LEASERETRIES", "3"}, {"LEASETIMESEC", "60"}, {"LOCKPOLICY", ""},
        {"LOCKRENEWALINTERVALSEC", "5"}, {"POOL_UUID", ""}, {"ROLE", "Regular"}, {"SDUUID", p->uuid},
        {"TYPE", p->type}, {"VERSION", version}, {"ALIGNMENT", "1048576"}, {"BLOCK_SIZE", block},
    };
    size_t count = sizeof pairs / sizeof pairs[0] - (p->version < 5 ? 2 : 0);
    int rc = 0;

    snprintf(block, sizeof block, "%u", p->block_size);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = text_domain_set(md, pairs[i][0], pairs[i][1]);
    return rc == -EINVAL ? dom_fail(EINVAL, NULL, "the description is no line of text") :
           rc < 0 ? dom_fail(ENOMEM, NULL, "out of memory") : 0;
}

static int fill_metadata(const struct making *m, struct text_domain *md)
{
    const struct dom_pairs pairs = {m->nfs ? "NFS" : "LOCALFS", m->uuid, m->o->description, m->version,
                                    m->block_size};
    int rc = text_domain_set(md, "REMOTE_PATH", m->remote);

    if (rc == -EINVAL)
        return dom_fail(EINVAL, NULL, "the path is no line of text");
    return rc < 0 ? dom_fail(ENOMEM, NULL, "out of memory") : dom_fill_pairs(md, &pairs);
}

static int write_metadata(const struct making *m)
{
    struct text_domain md = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = fill_metadata(m, &md);

    if (rc == 0 && text_domain_format(&md, &text, &len) < 0)
        rc = dom_fail(ENOMEM, NULL, "out of memory");
    text_domain_free(&md);
    if (rc == 0)
        rc = make_file(m, "metadata", text, len, 0, FILE_MODE_TEXT);
    free(text);
    return rc;
}

/* External leases: not on local file systems, and not before version 4. */
static int write_xleases(const struct making *m)
{
    unsigned char *index;
    int rc;

    if (!m->nfs || m->version < 4)
        return 0;
    index = malloc(TEXT_XLEASES_SIZE);
    if (index == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    /* It lies in the second slot. */
    unsigned char *file = calloc(1, (1 << 20) + TEXT_XLEASES_SIZE);
    if (file == NULL) {
        free(index);
        return dom_fail(ENOMEM, NULL, "out of memory");
    }
    text_xleases(m->uuid, (uint64_t)time(NULL), index);
    memcpy(file + (1 << 20), index, TEXT_XLEASES_SIZE);
    rc = make_file(m, "xleases", file, (1 << 20) + TEXT_XLEASES_SIZE, 2 << 20, FILE_MODE_DATA);
    free(file);
    free(index);
    return rc;
}

/* Names of these files change when the domain gets its own: sanlock writes, and forgets them. */
static int make_lockspace(const struct making *m)
{
    char ids[PATH_MAX], leases[PATH_MAX];

    snprintf(ids, sizeof ids, "%s/dom_md/ids", m->path);
    snprintf(leases, sizeof leases, "%s/dom_md/leases", m->path);
    return lease_format(m->uuid, ids, leases, m->block_size, ALIGNMENT);
}

/* ---- steps ---------------------------------------------------------------------------------------------------
 */

static int make_parts(struct making *m)
{
    int rc = make_folder(m, "");

    m->made = rc == 0;
    if (rc == 0)
        dom_step("domain create: folder is made");
    if (rc == 0)
        rc = probe(m);
    if (rc == 0)
        rc = make_folder(m, "images");
    if (rc == 0)
        rc = make_folder(m, "dom_md");
    if (rc == 0)
        rc = make_file(m, "ids", NULL, 0, 0, FILE_MODE_DATA);
    if (rc == 0)
        rc = make_file(m, "leases", NULL, 0, 0, FILE_MODE_DATA);
    if (rc == 0)
        rc = make_file(m, "inbox", NULL, 0, MAILBOX, FILE_MODE_DATA);
    if (rc == 0)
        rc = make_file(m, "outbox", NULL, 0, MAILBOX, FILE_MODE_DATA);
    if (rc == 0 && m->o->lockspace)
        rc = make_lockspace(m);
    if (rc == 0)
        rc = write_xleases(m);
    if (rc == 0)
        rc = write_metadata(m);
    if (rc == 0)
        dom_step("domain create: files are made");
    return rc;
}

static int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        rc = dom_fail_file(errno, path, "making it durable");
    if (fd >= 0)
        close(fd);
    return rc;
}

static int give_name(const struct making *m)
{
    char path[PATH_MAX];
    int rc;

    snprintf(path, sizeof path, "%s/dom_md", m->path);
    rc = sync_path(path);
    if (rc == 0)
        rc = sync_path(m->path);
    if (rc == 0 && rename(m->path, m->end) != 0)
        rc = dom_fail_file(errno, m->end, "naming the domain");
    if (rc == 0)
        rc = sync_path(m->o->path);
    if (rc == 0)
        dom_step("domain create: domain is named");
    return rc;
}

static int judge(struct making *m)
{
    const struct domain_create *o = m->o;
    char full[PATH_MAX];
    struct stat st;
    int rc = 0;

    m->nfs = strcmp(o->type, "NFS") == 0;
    m->version = o->version != 0 ? o->version : 5;
    if (!m->nfs && strcmp(o->type, "LOCALFS") != 0)
        return dom_fail(EINVAL, NULL, "'%.40s' is no type of a domain in files: LOCALFS or NFS", o->type);
    if (!m->nfs && o->lockspace)
        return dom_fail(EINVAL, NULL, "a local domain has no lockspace: only this host uses it");
    if (m->version < 3 || m->version > 5)
        return dom_fail(EINVAL, NULL, "version %u: domains of version 3, 4 and 5 are made", m->version);
    if (realpath(o->path, full) == NULL)
        return dom_fail_file(errno, o->path, "looking for the folder");
    if (o->remote_path != NULL)
        snprintf(m->remote, sizeof m->remote, "%s", o->remote_path);
    else
        find_remote(m, full);
    rc = o->uuid != NULL ? dom_check_uuid("domain", o->uuid) : domain_make_uuid(m->uuid);
    if (rc == 0 && o->uuid != NULL)
        memcpy(m->uuid, o->uuid, DOMAIN_UUID);
    if (rc < 0)
        return rc;
    if (snprintf(m->path, sizeof m->path, "%s/.new-%s", full, m->uuid) >= (int)sizeof m->path ||
        snprintf(m->end, sizeof m->end, "%s/%s", full, m->uuid) >= (int)sizeof m->end)
        return dom_fail(ENAMETOOLONG, NULL, "%s: is too long a path", o->path);
    if (lstat(m->end, &st) == 0)
        return dom_fail(EEXIST, NULL, "%s: is there already", m->end);
    return 0;
}

static int create_at(const struct domain_create *o, const struct domain_how *how, char ret_uuid[DOMAIN_UUID])
{
    struct making m = {.o = o};
    struct dom_error error;
    int rc;

    if (how != NULL)
        m.domain.how = *how;
    rc = judge(&m);
    if (rc < 0)
        return rc;
    remove_all(&m); /* of one that was killed, with the same name */
    rc = make_parts(&m);
    if (rc == 0)
        rc = give_name(&m);
    if (rc < 0) {
        dom_error_keep(&error, rc);
        if (m.made)
            remove_all(&m);
        return dom_error_give(&error);
    }
    if (m.nfs && !o->lockspace)
        dom_note(&m.domain, "%s: has no lockspace, which Vdsm needs: --lockspace has sanlock make one", m.end);
    memcpy(ret_uuid, m.uuid, DOMAIN_UUID);
    return 0;
}

/* What is mounted for it stays mounted, unless there is no domain then. */
int domain_create(const struct domain_create *o, const struct domain_how *how, char ret_uuid[DOMAIN_UUID])
{
    struct domain_create at = *o;
    struct dom_error error;
    char *point = NULL;
    bool mounted;
    int rc;

    if (o->type == NULL || strcmp(o->type, "NFS") != 0 || !text_is_export(o->path))
        return create_at(o, how, ret_uuid);
    rc = file_mount(o->path, o->mount_options, &point, &mounted);
    if (rc < 0)
        return rc;
    at.path = point;
    if (at.remote_path == NULL)
        at.remote_path = o->path;
    rc = create_at(&at, how, ret_uuid);
    dom_error_keep(&error, rc);
    if (rc < 0 && mounted)
        file_unmount(point);
    free(point);
    return rc < 0 ? dom_error_give(&error) : 0;
}
