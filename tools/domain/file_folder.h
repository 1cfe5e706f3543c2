/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Folders of images, and the files in them. Invariant: no symbolic link is followed below the domain's own folder:
 * an image is a folder, and what a volume has are regular files.
 */
#ifndef TOOLS_DOMAIN_FILE_FOLDER_H
#define TOOLS_DOMAIN_FILE_FOLDER_H

#include <fcntl.h>
#include <sys/types.h>

#include "tools/domain/kind.h"

#define FILE_META   ".meta"
#define FILE_DRAFT  ".meta.new"
#define FILE_INTENT ".intent"
#define FILE_WIPE   ".wipe" /* an intent of what is to be wiped */
#define FILE_LEASE  ".lease"

enum { FILE_FOLDER = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, FILE_NAME = DOMAIN_UUID + 16 };

enum { FILE_MODE_DATA = 0660, FILE_MODE_TEXT = 0644, FILE_MODE_FOLDER = 0755 };

int file_no_memory(void);

/* A descriptor of the folder of all images, or of one: -ENOENT: there is none; -ENOTDIR: it is something else. */
int file_open_images(const struct domain *d);
int file_open_folder(const struct domain *d, const char *image);

/*
 * What was made has this mode, whatever the umask is, and, where root has made it, the owner of `like`, a path: as
 * Vdsm, who is not root, is to use it. -errno, without text. Storage that has owners of its own keeps those.
 */
int file_own(int fd, const char *like, mode_t mode);

/* The name of a file of a volume; returns `buf`. */
const char *file_name(char buf[FILE_NAME], const char *volume, const char *suffix);

/* An error of the system about a file of an image; -|err|. */
int file_fail(const struct domain *d, const char *image, const char *name, int err, const char *doing);

/*
 * As renameat(2), with a folder for both names: 0, or -1 with errno. A server of NFS that is asked again, as its
 * answer was lost, finds no such name: it has been done then.
 */
int file_rename(int folder, const char *from, const char *to);

/* A descriptor of a regular file; never waits. -EINVAL: it is something else. */
int file_open_regular(const struct domain *d, int folder, const char *image, const char *name, int flags);

/* The folders of all images that are not deleted, in no order, until `fn` gives something else than 0: that. */
typedef int file_visit_fn(void *arg, int folder, const char *image);
int file_visit(struct domain *d, file_visit_fn *fn, void *arg);

/* In file_create.c: the smallest block that direct I/O on a descriptor takes; 0: it takes none. */
unsigned file_probe_block(int fd);

/* In file_upgrade.c and file_shares.c, for the contract. */
int file_begin_upgrade(struct domain *d, unsigned *ret_block_size);
int file_find_drafts(struct domain *d, bool drop, unsigned *ret);
int file_check_domain(struct domain *d, struct dom_mend *m);
int file_write_domain(struct domain *d, const char *text, size_t len);
int file_write_shared(struct domain *d, const char *image, const char *volume, const char *text, size_t len);
int file_share(struct domain *d, const char *image, const char *volume, const char *to_image);
int file_unshare(struct domain *d, const char *image, const char *volume);
int file_count_shares(struct domain *d, const char *image, const char *volume, bool published, unsigned *ret);

/* In file_data.c, for the contract. */
char *file_data_path(const struct domain *d, const char *image, const char *volume);
int file_open_data(struct domain *d, const char *image, const char *volume, bool write, int *ret_fd);
int file_reserve(struct domain *d, const char *image, const char *volume, uint64_t bytes);
int file_give_back(struct domain *d, const char *image, const char *volume, uint64_t bytes);
int file_measure(struct domain *d, const char *image, const char *volume, uint64_t *ret_size,
                 uint64_t *ret_allocated);

/*
 * In file_mount.c: an export, where Vdsm mounts it. *ret_point is the caller's; it was mounted already unless
 * *ret_mounted.
 */
int file_mount(const char *source, const char *options, char **ret_point, bool *ret_mounted);
void file_unmount(const char *point);

/* In file_lease.c. */
int file_find_lease(struct domain *d, enum dom_lease which, const char *image, const char *volume,
                    struct sanlock_place *ret);
int file_make_lease(struct domain *d, const char *image, const char *volume);
int file_open_leases(struct domain *d, bool open);
int file_read_host(struct domain *d, unsigned host, unsigned char ret[TEXT_HOST_SIZE]);
int file_find_volume(struct domain *d, const char *volume, const char *except, char ret_image[DOMAIN_UUID]);

#endif
