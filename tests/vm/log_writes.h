/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log that the kernel's dm-log-writes target keeps: every write, discard and flush of a device, and marks, in
 * an order in which a device with a volatile cache may have made them durable.
 *
 * Source: Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/dm-log-writes.c of Linux. The
 * first sector is a super block; then come entries of one sector each, followed by what was written. A write that
 * was not FUA appears when a later flush ends, after which it is durable; the flush follows what it covers.
 */
#ifndef TESTS_VM_LOG_WRITES_H
#define TESTS_VM_LOG_WRITES_H

#include <stdint.h>

enum log_flags {
    LOG_FLUSH = 1u << 0,   /* before what it brings, if it brings anything */
    LOG_FUA = 1u << 1,
    LOG_DISCARD = 1u << 2, /* has no content */
    LOG_MARK = 1u << 3,
    LOG_METADATA = 1u << 4,
};

struct log_entry {
    uint64_t offset, len; /* on the device */
    uint64_t flags;       /* enum log_flags */
    uint64_t data_at;     /* where in the log its content is */
    char mark[32];        /* the text, of a mark */
};

struct log {
    int fd;
    struct log_entry *entries;
    unsigned n;
};

/* Read the entries of a log, or fail the case. */
void log_open(struct log *log, const char *path);
void log_close(struct log *log);

/* What an entry wrote, from byte `skip` of it on. */
void log_content(const struct log *log, const struct log_entry *e, uint64_t skip, void *buf, uint64_t len);

#endif
