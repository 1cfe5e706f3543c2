/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What hangs on the header beside the active L1 table: internal snapshots and bitmaps. */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/format/format.h"

enum { FIRST_READ = 64 << 10, TABLE_READ = 1 << 20 };

_Static_assert(TABLE_READ % sizeof(uint64_t) == 0, "in whole entries");

/* The text that a parser has left, without the name of the image in front. */
static const char *parser_text(const struct check *c)
{
    const char *text = vdisk_error_text();
    size_t len = strlen(c->file->name);

    return strncmp(text, c->file->name, len) == 0 && text[len] == ':' ? text + len + 2 : text;
}

/* ---- snapshots -------------------------------------------------------------------------------------- */

/* Read and parse, more and more of it. */
int check_load_snapshots(struct check *c, uint64_t host_offset, struct q2_snapshot_table *ret)
{
    uint64_t left = c->file_size - host_offset, need = min_u64(left, FIRST_READ);

    if (host_offset >= c->file_size)
        return -ENODATA;
    for (;;) {
        uint8_t *buf = check_buffer(c, need);
        uint64_t len = need;
        int rc;

        if (!buf)
            return -ENOMEM;
        rc = check_read(c, buf, len, host_offset);
        if (rc == 0)
            rc = q2_snapshots_parse(&c->header.geo, c->file->name, buf, len, c->header.nb_snapshots, ret, &need);
        mem_free(buf);
        if (rc != -EAGAIN)
            return rc;
        assert(need > len && need <= Q2_MAX_SNAPSHOT_TABLE); /* so this ends */
        if (need > left)
            return -ENODATA;
        need = min_u64(left, max_u64(need, 2 * len));
    }
}

static int check_snapshot(struct check *c, const struct q2_snapshot *s)
{
    const char *misplaced;
    char what[96];

    /* Then the table is longer than it was, or somewhere else: what it refers to is not known. */
    if (s->id[0] == '\0' && s->l1_entries == 0) {
        check_found(c, QCOW2_CORRUPTION, 1, "the snapshot table has an empty entry");
        c->blind = true;
        return 0;
    }
    snprintf(what, sizeof what, "L1 table of snapshot %.40s", s->id);
    if (c->header.geo.version >= 3 && s->extra_size < 16)
        check_found(c, QCOW2_CORRUPTION, 1, "snapshot %.40s: its table entry lacks the fields of version 3",
                    s->id);
    misplaced = check_misplaced_l1(c, s->l1_offset, s->l1_entries);
    if (misplaced) {
        uint64_t len = (uint64_t)s->l1_entries * Q2_L1_ENTRY_SIZE;
        bool past = s->l1_offset >= c->file_size || len > c->file_size - s->l1_offset;

        check_found(c, past ? QCOW2_NOTE : QCOW2_CORRUPTION, 1,
                    "snapshot %.40s (%.60s): its L1 table at host offset 0x%" PRIx64 " is %s", s->id, s->name,
                    s->l1_offset, misplaced);
        c->lost = true;
        return past ? check_claim(c, s->l1_offset, len, Q2_USE_L1, 1) : 0; /* a corruption */
    }
    return check_l1(c, s->l1_offset, s->l1_entries, false, what);
}

/* Why it cannot be read. */
static const char *snapshots_text(const struct check *c, int rc)
{
    if (c->header.snapshots_problem)
        return c->header.snapshots_problem;
    if (rc == -EINVAL || rc == -EFBIG)
        return parser_text(c);
    return rc == -ENODATA ? "it reaches past the end of the file" : strerror(-rc);
}

int check_snapshots(struct check *c)
{
    struct q2_snapshot_table table = {0};
    int rc;

    if (c->header.nb_snapshots == 0 && !c->header.snapshots_problem)
        return 0;
    if (c->header.geo.data_file)
        check_found(c, QCOW2_CORRUPTION, 1, "%" PRIu32 " snapshots in an image with an external data file",
                    c->header.nb_snapshots);
    rc = c->header.snapshots_problem ? -EINVAL : check_load_snapshots(c, c->header.snapshots_offset, &table);
    if (rc == -ENOMEM)
        return rc;
    if (rc < 0) {
        check_found(c, rc == -EINVAL || rc == -EFBIG || rc == -ENODATA ? QCOW2_CORRUPTION : QCOW2_ERROR, 1,
                    "the snapshot table cannot be read: %s", snapshots_text(c, rc));
        c->blind = true;
        return 0;
    }
    assert(table.n == c->header.nb_snapshots && table.size <= Q2_MAX_SNAPSHOT_TABLE);
    c->snapshots_len = table.size;
    rc = check_claim(c, c->header.snapshots_offset, table.size, Q2_USE_SNAPSHOTS, 1);
    for (uint32_t i = 0; i < table.n && rc == 0; i++)
        rc = check_snapshot(c, &table.entries[i]);
    q2_snapshots_free(&table);
    return rc;
}

/* ---- bitmaps ---------------------------------------------------------------------------------------- */

static int check_bitmap_entry(struct check *c, uint64_t entry, uint64_t index, const char *name)
{
    uint64_t host_offset = entry & Q2_BITMAP_ENTRY_OFFSET;
    const char *problem = NULL;

    assert(entry != 0);
    if (entry & Q2_BITMAP_ENTRY_RESERVED)
        problem = "reserved bits are set";
    else if (host_offset != 0 && (entry & Q2_BITMAP_ENTRY_ALL_ONES))
        problem = "a cluster that is there is flagged as one of ones";
    else if (!is_aligned(host_offset, c->header.geo.cluster_size))
        problem = "offset is not aligned to a cluster";
    if (problem) {
        check_found(c, QCOW2_CORRUPTION, 1, "bitmap %.60s: table entry %" PRIu64 " (0x%016" PRIx64 "): %s", name,
                    index, entry, problem);
        c->lost = true;
        return 0;
    }
    return host_offset == 0 ? 0 : check_claim(c, host_offset, c->header.geo.cluster_size, Q2_USE_BITMAPS, 1);
}

static int read_bitmap_table(struct check *c, const struct q2_bitmap_entry *b, uint8_t *buf)
{
    uint64_t len = (uint64_t)b->table_entries * 8, n;
    int rc = 0;

    for (uint64_t pos = 0; pos < len && rc == 0; pos += n) {
        n = min_u64(len - pos, TABLE_READ);
        rc = check_read(c, buf, n, b->table_offset + pos);
        if (rc < 0) {
            check_found(c, QCOW2_ERROR, 1, "bitmap %.60s: its table cannot be read: %s", b->name, strerror(-rc));
            c->blind = true;
            return 0;
        }
        for (uint64_t i = 0; i < n && rc == 0; i += 8) {
            uint64_t entry = get_be64(buf + i);
            if (entry != 0)
                rc = check_bitmap_entry(c, entry, (pos + i) / 8, b->name);
        }
    }
    return rc;
}

/* Entries that a bitmap of this granularity needs. */
static uint64_t bitmap_table_entries(const struct check *c, const struct q2_bitmap_entry *b)
{
    uint64_t bits = div_up(c->header.size, 1ull << b->granularity_bits);

    return q2_clusters(&c->header.geo, div_up(bits, 8));
}

static int check_bitmap(struct check *c, const struct q2_bitmap_entry *b)
{
    uint64_t len = (uint64_t)b->table_entries * 8;
    char what[96];
    uint8_t *buf;
    int rc = check_claim(c, b->table_offset, len, Q2_USE_BITMAPS, 1);

    assert(b->table_entries > 0 && b->table_offset > 0 && is_aligned(b->table_offset, c->header.geo.cluster_size));
    snprintf(what, sizeof what, "table of bitmap %.60s", b->name);
    if (rc < 0 || !check_table_bytes(c, len, what))
        return rc;
    if (b->flags & Q2_BITMAP_IN_USE)
        check_found(c, QCOW2_NOTE, 1, "bitmap %.60s was not saved properly and cannot be used", b->name);
    else if (b->table_entries != bitmap_table_entries(c, b))
        check_found(c, QCOW2_CORRUPTION, 1, "bitmap %.60s: a table of %" PRIu32 " entries does not fit the disk",
                    b->name, b->table_entries);
    buf = check_buffer(c, min_u64(len, TABLE_READ));
    if (!buf)
        return -ENOMEM;
    rc = read_bitmap_table(c, b, buf);
    mem_free(buf);
    return rc;
}

static int load_bitmaps(struct check *c, struct q2_bitmap_directory *ret)
{
    uint64_t len = c->header.bitmap_directory_size;
    uint8_t *buf;
    int rc;

    assert(c->header.has_bitmaps && len >= c->header.nb_bitmaps * sizeof(struct q2_disk_bitmap));
    if (len > Q2_MAX_BITMAP_DIRECTORY)
        return -EFBIG;
    if (c->header.bitmap_directory_offset >= c->file_size ||
        len > c->file_size - c->header.bitmap_directory_offset)
        return -ENODATA;
    buf = check_buffer(c, len);
    if (!buf)
        return -ENOMEM;
    rc = check_read(c, buf, len, c->header.bitmap_directory_offset);
    if (rc == 0)
        rc = q2_bitmaps_parse(&c->header.geo, c->file->name, buf, len, c->header.nb_bitmaps, ret);
    mem_free(buf);
    return rc;
}

int check_bitmaps(struct check *c)
{
    struct q2_bitmap_directory directory = {0};
    int rc;

    if (c->header.bitmaps_stale)
        check_found(c, QCOW2_NOTE, 1,
                    "a program that does not know bitmaps has changed the image: its bitmaps are lost, and their "
                    "clusters count as leaked");
    if (!c->header.has_bitmaps)
        return 0;
    rc = check_claim(c, c->header.bitmap_directory_offset, c->header.bitmap_directory_size, Q2_USE_BITMAPS, 1);
    if (rc == 0)
        rc = load_bitmaps(c, &directory);
    if (rc == -ENOMEM)
        return rc;
    if (rc < 0) {
        check_found(c, rc == -EINVAL || rc == -EFBIG || rc == -ENODATA ? QCOW2_CORRUPTION : QCOW2_ERROR, 1,
                    "the bitmap directory cannot be read: %s",
                    rc == -EINVAL    ? parser_text(c)
                    : rc == -ENODATA ? "it reaches past the end of the file"
                                     : strerror(-rc));
        c->blind = true;
        return 0;
    }
    assert(directory.n == c->header.nb_bitmaps);
    for (uint32_t i = 0; i < directory.n && rc == 0; i++)
        rc = check_bitmap(c, &directory.entries[i]);
    q2_bitmaps_free(&directory);
    return rc;
}
