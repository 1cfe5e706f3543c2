/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What backends on a file descriptor share: opening, direct I/O, locks, fallocate(). */
#ifndef BACKENDS_FD_H
#define BACKENDS_FD_H

#include <pthread.h>
#include <sys/stat.h>

#include "backends/host/lock.h"
#include "engine/backend.h"
#include "engine/spec/option.h"

struct fd_backend {
    struct backend    b; /* first */
    int               fd;
    char             *made;    /* the name of what b.made says was made: links followed */
    _Atomic int       exact_fd; /* the same file without O_DIRECT, for IO_EXACT; -1: not opened yet */
    bool              unsafe;  /* flushes do nothing */
    pthread_mutex_t   sync_lock; /* of the page cache: one at a time */
    _Atomic uint64_t  limit;   /* files: the process may not write past it (RLIMIT_FSIZE) */
    uint32_t          block_size; /* devices: the logical block */
    struct image_lock lock;
    bool              unlocked;   /* its name says locking=off */
    bool              given;   /* fd is a duplicate of the caller's: its flags and locks are, too */
    struct list       given_node; /* of all that are: fd.c */
    _Atomic uint32_t  refused; /* enum fd_call: the host has said that it cannot */
    _Atomic uint32_t  works;   /* has worked at least once */
};

enum fd_call {
    FD_PUNCH    = 1u << 0, /* fallocate(PUNCH_HOLE | KEEP_SIZE) */
    FD_ZERO     = 1u << 1, /* fallocate(ZERO_RANGE), KEEP_SIZE on devices */
    FD_ALLOCATE = 1u << 2, /* fallocate(0) */
    FD_DISCARD  = 1u << 3, /* BLKDISCARD */
    FD_ZEROOUT  = 1u << 4, /* BLKZEROOUT */
};

/*
 * Open the path that the options say as `flags` (enum backend_open_flags) say, with `extra` flags of open(2), and
 * lock it; BACKEND_CREATE with O_CREAT in `extra`: make it if it is not there. Never waits for the other end of a
 * pipe. On success *ret is a backend with fd, direct, read_only, unsafe, lock, align and mem_align set, and
 * *ret_stat filled in. Errors: with text.
 */
int fd_backend_open(const struct backend_driver *driver, const char *name, const struct spec *options,
                    uint32_t flags, int extra, struct fd_backend **ret, struct stat *ret_stat);

/* stat(), or fstat() of the descriptor that the caller has given for `path`. 0 or -1 with errno. */
int fd_stat(const char *path, struct stat *ret);

/* For drivers as they are. */
extern const struct option_desc fd_options[];
int  fd_backend_parse(const char *name, struct spec *options);
bool fd_backend_identify(const struct spec *options, struct backend_id *ret_id);
void fd_backend_prefetch(struct backend *b, uint64_t offset, uint64_t len);
void fd_backend_close(struct backend *b);
int  fd_backend_relock(struct backend *b, uint32_t flags);

/* Remove what was made; 0 or -errno. */
int fd_backend_unlink(struct backend *b);

/* Give back a backend whose open failed later; what was made is removed. Returns rc. */
int fd_backend_undo(struct fd_backend *f, int rc);

/* Open exact_fd, if it is not. 0 or -errno. Blocks; any thread. */
int fd_prepare_exact(struct fd_backend *f);

/* IO_WRITE with IO_EXACT. */
void fd_submit_exact(struct io *io);

/* IO_READ, IO_WRITE, IO_FLUSH. */
void fd_submit_basic(struct fd_backend *f, struct io *io);

static inline bool fd_refused(struct fd_backend *f, enum fd_call call)
{
    return atomic_load_explicit(&f->refused, memory_order_relaxed) & call;
}

static inline bool fd_works(struct fd_backend *f, enum fd_call call)
{
    return atomic_load_explicit(&f->works, memory_order_relaxed) & call;
}

/* Note how a call ended: what the host cannot do gives -ENOTSUP, now and from then on. Returns 0 or -errno. */
int fd_learn(struct fd_backend *f, enum fd_call call, int rc);

/* fallocate(), learning. Blocks. */
int fd_fallocate(struct fd_backend *f, enum fd_call call, int mode, uint64_t offset, uint64_t len);

#endif
