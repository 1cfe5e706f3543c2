/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/vm/log_writes.h"

#include <assert.h>
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"

/* All of it little-endian. */
struct disk_super {
    uint64_t magic;
    uint64_t version;
    uint64_t entries;
    uint32_t sector_size;
} __attribute__((packed));

struct disk_entry {
    uint64_t sector; /* of the device, in units of sector_size, as is `sectors` */
    uint64_t sectors;
    uint64_t flags;
    uint64_t data_len; /* of a mark's text, which follows at once */
};

static_assert(sizeof(struct disk_super) == 28, "as on disk");
static_assert(sizeof(struct disk_entry) == 32, "as on disk");

#define LOG_MAGIC UINT64_C(0x6a736677736872)

enum { LOG_VERSION = 1 };

static void read_all(int fd, void *buf, uint64_t len, uint64_t offset)
{
    ssize_t n = pread(fd, buf, len, (off_t)offset);

    CHECK_MSG(n >= 0 && (uint64_t)n == len, "the log ends at %" PRIu64, offset);
}

static void read_entry(const struct log *log, struct log_entry *e, uint64_t at, uint32_t sector_size)
{
    struct disk_entry d;
    uint64_t text;

    read_all(log->fd, &d, sizeof d, at);
    *e = (struct log_entry){
        .offset = le64toh(d.sector) * sector_size,
        .len = le64toh(d.sectors) * sector_size,
        .flags = le64toh(d.flags),
        .data_at = at + sector_size,
    };
    CHECK_MSG(e->flags < 2 * LOG_METADATA, "log entry with flags 0x%" PRIx64, e->flags);
    if (e->flags & LOG_MARK) {
        text = min_u64(le64toh(d.data_len), sizeof e->mark - 1);
        read_all(log->fd, e->mark, text, at + sizeof d);
    }
}

void log_open(struct log *log, const char *path)
{
    struct disk_super super;
    uint32_t sector_size;
    uint64_t at;

    CHECK((log->fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0);
    read_all(log->fd, &super, sizeof super, 0);
    CHECK_MSG(le64toh(super.magic) == LOG_MAGIC && le64toh(super.version) == LOG_VERSION, "%s is not a log", path);
    sector_size = le32toh(super.sector_size);
    CHECK(sector_size >= 512 && is_power_of_two(sector_size) && le64toh(super.entries) < 1u << 24);
    log->n = (unsigned)le64toh(super.entries);
    log->entries = test_alloc((log->n + 1) * sizeof *log->entries);
    at = sector_size;
    for (unsigned i = 0; i < log->n; i++) {
        struct log_entry *e = &log->entries[i];
        read_entry(log, e, at, sector_size);
        at += sector_size + (e->flags & LOG_DISCARD ? 0 : e->len);
    }
}

void log_close(struct log *log)
{
    close(log->fd);
    free(log->entries);
}

void log_content(const struct log *log, const struct log_entry *e, uint64_t skip, void *buf, uint64_t len)
{
    assert(!(e->flags & LOG_DISCARD) && skip + len <= e->len);
    read_all(log->fd, buf, len, e->data_at + skip);
}
