/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is used of librados and librbd: they are loaded when the first image is opened, so that who has no Ceph
 * needs neither. Names and meanings are theirs; the types are said here in C's own, as their ABI has them.
 */
#ifndef BACKENDS_RBD_CEPH_H
#define BACKENDS_RBD_CEPH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef void ceph_done_fn(void *completion, void *arg);
typedef void ceph_changed_fn(void *arg);
typedef int ceph_extent_fn(uint64_t offset, size_t len, int exists, void *arg);

struct ceph_watcher {
    char    *address;
    int64_t  id;
    uint64_t cookie;
};

enum {
    CEPH_FEATURE_EXCLUSIVE_LOCK = 1u << 2,
    CEPH_FEATURE_FAST_DIFF      = 1u << 4,
    CEPH_FLAG_FAST_DIFF_INVALID = 1u << 1,
    CEPH_LOCK_EXCLUSIVE         = 0,
    CEPH_ZEROES_THICK           = 1u << 0,
    CEPH_BLOCKLISTED            = 108, /* an error: the number that is ESHUTDOWN here */
};

/* R(result, name, arguments): must be there. O(): NULL in old versions. */
#define CEPH_RADOS(R)                                                                                          \
    R(int, rados_create, (void **cluster, const char *id))                                                     \
    R(int, rados_conf_read_file, (void *cluster, const char *path))                                            \
    R(int, rados_conf_get, (void *cluster, const char *key, char *buf, size_t len))                            \
    R(int, rados_conf_set, (void *cluster, const char *key, const char *value))                                \
    R(int, rados_connect, (void *cluster))                                                                     \
    R(void, rados_shutdown, (void *cluster))                                                                   \
    R(int, rados_ioctx_create, (void *cluster, const char *pool, void **ioctx))                                \
    R(void, rados_ioctx_set_namespace, (void *ioctx, const char *name))                                        \
    R(void, rados_ioctx_destroy, (void *ioctx))

#define CEPH_RBD(R, O)                                                                                         \
    R(int, rbd_create, (void *ioctx, const char *name, uint64_t size, int *order))                             \
    R(int, rbd_remove, (void *ioctx, const char *name))                                                        \
    R(int, rbd_open, (void *ioctx, const char *name, void **image, const char *snapshot))                      \
    R(int, rbd_open_read_only, (void *ioctx, const char *name, void **image, const char *snapshot))            \
    R(int, rbd_close, (void *image))                                                                           \
    R(int, rbd_get_size, (void *image, uint64_t *size))                                                        \
    R(int, rbd_get_features, (void *image, uint64_t *features))                                                \
    R(int, rbd_get_flags, (void *image, uint64_t *flags))                                                      \
    R(int, rbd_get_overlap, (void *image, uint64_t *overlap))                                                  \
    R(int, rbd_get_stripe_unit, (void *image, uint64_t *unit))                                                 \
    R(int, rbd_get_stripe_count, (void *image, uint64_t *count))                                               \
    R(int, rbd_stat, (void *image, void *info, size_t len))                                                    \
    R(int, rbd_resize, (void *image, uint64_t size))                                                           \
    R(int, rbd_diff_iterate2, (void *image, const char *from, uint64_t offset, uint64_t len,                   \
                               uint8_t include_parent, uint8_t whole_object, ceph_extent_fn *fn, void *arg))   \
    R(int, rbd_lock_acquire, (void *image, int mode))                                                          \
    R(int, rbd_lock_release, (void *image))                                                                    \
    R(int, rbd_lock_get_owners, (void *image, int *mode, char **owners, size_t *count))                        \
    R(void, rbd_lock_get_owners_cleanup, (char **owners, size_t count))                                        \
    R(int, rbd_watchers_list, (void *image, struct ceph_watcher *watchers, size_t *count))                     \
    R(int, rbd_update_watch, (void *image, uint64_t *handle, ceph_changed_fn *fn, void *arg))                  \
    R(int, rbd_update_unwatch, (void *image, uint64_t handle))                                                 \
    R(void, rbd_watchers_list_cleanup, (struct ceph_watcher *watchers, size_t count))                          \
    R(int, rbd_aio_create_completion, (void *arg, ceph_done_fn *fn, void **completion))                        \
    R(int, rbd_aio_wait_for_complete, (void *completion))                                                      \
    R(ssize_t, rbd_aio_get_return_value, (void *completion))                                                   \
    R(void, rbd_aio_release, (void *completion))                                                               \
    R(int, rbd_aio_readv, (void *image, const struct iovec *iov, int iovcnt, uint64_t offset, void *completion)) \
    R(int, rbd_aio_writev, (void *image, const struct iovec *iov, int iovcnt, uint64_t offset,                 \
                            void *completion))                                                                 \
    R(int, rbd_aio_discard, (void *image, uint64_t offset, uint64_t len, void *completion))                    \
    R(int, rbd_aio_flush, (void *image, void *completion))                                                     \
    O(int, rbd_aio_write_zeroes, (void *image, uint64_t offset, size_t len, void *completion, int zero_flags,  \
                                  int op_flags))

#define CEPH_MEMBER(result, name, arguments) result(*name) arguments;

struct ceph {
    CEPH_RADOS(CEPH_MEMBER)
    CEPH_RBD(CEPH_MEMBER, CEPH_MEMBER)
};

/* What rbd_stat() begins with. It writes as much as it is told there is room for. */
struct ceph_stat {
    uint64_t size, object_size, object_count;
    char     rest[256];
};

/*
 * Loads both, once in the process; they stay. -ENOTSUP, with a text that begins with `name` and says what to
 * install. Any thread; may block for some 100 ms.
 */
int ceph_load(const char *name, const struct ceph **ret);

#endif
