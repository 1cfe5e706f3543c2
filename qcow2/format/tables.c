/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parse the snapshot table and the bitmap directory: lists of entries of variable length, each padded to 8 bytes.
 */
#include "qcow2/format/tables.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"

static char *copy_string(const uint8_t *p, size_t len)
{
    return mem_strndup((const char *)p, len);
}

/* ---- "Snapshots" --------------------------------------------------------------------------------------- */

/* The parts of one entry, where it ends and where the next one starts. Needs the fixed part only. */
struct snapshot_span {
    struct q2_disk_snapshot d;
    uint32_t                extra;
    uint32_t                id;
    uint32_t                name;
    uint64_t                end, next;
};

static struct snapshot_span snapshot_span(const uint8_t *buf, uint64_t pos)
{
    struct snapshot_span s;

    memcpy(&s.d, buf + pos, sizeof s.d);
    s.extra = be32toh(s.d.extra_size);
    s.id = be16toh(s.d.id_size);
    s.name = be16toh(s.d.name_size);
    s.end = pos + sizeof s.d + s.extra + s.id + s.name;
    s.next = align_up(s.end, 8);
    assert(s.end >= pos + sizeof s.d && s.next - s.end < 8);
    return s;
}

static int bad_snapshot(const char *name, uint32_t i, const char *what)
{
    return err_hint(err_set(EINVAL, "%s: not a valid qcow2 image: snapshot %" PRIu32 ": %s", name, i + 1, what),
                    "repair it with vdisk-io check -r all");
}

static int too_large(const char *name)
{
    return err_hint(err_set(EFBIG, "%s: snapshot table is larger than 64 MiB", name),
                    "repair it with vdisk-io check -r all");
}

static int check_snapshot(const struct q2_geometry *g, const char *name, uint32_t i, const struct snapshot_span *s)
{
    if (s->extra > Q2_MAX_SNAPSHOT_EXTRA)
        return bad_snapshot(name, i, "more than 1024 bytes of extra data");
    if ((uint64_t)be32toh(s->d.l1_size) * Q2_L1_ENTRY_SIZE > Q2_MAX_L1_SIZE)
        return bad_snapshot(name, i, "L1 table is larger than 32 MiB");
    if (!is_aligned(be64toh(s->d.l1_table_offset), g->cluster_size))
        return bad_snapshot(name, i, "offset of the L1 table is not aligned to a cluster");
    if (be64toh(s->d.l1_table_offset) > Q2_MAX_HOST_OFFSET)
        return bad_snapshot(name, i, "offset of the L1 table is out of range");
    return 0;
}

static int take_snapshot(const uint8_t *p, const struct snapshot_span *s, struct q2_snapshot *ret)
{
    const uint8_t *extra = p + sizeof s->d, *id = extra + s->extra, *name = id + s->id;

    ret->l1_offset = be64toh(s->d.l1_table_offset);
    ret->l1_entries = be32toh(s->d.l1_size);
    ret->date_sec = be32toh(s->d.date_sec);
    ret->date_nsec = be32toh(s->d.date_nsec);
    ret->vm_clock_nsec = be64toh(s->d.vm_clock_nsec);
    ret->vm_state_size = be32toh(s->d.vm_state_size);
    ret->extra_size = s->extra;
    if (s->extra >= 8)
        ret->vm_state_size = get_be64(extra + offsetof(struct q2_disk_snapshot_extra, vm_state_size_large));
    ret->has_disk_size = s->extra >= 16;
    if (ret->has_disk_size)
        ret->disk_size = get_be64(extra + offsetof(struct q2_disk_snapshot_extra, disk_size));
    if (s->extra >= 24)
        ret->icount = get_be64(extra + offsetof(struct q2_disk_snapshot_extra, icount));
    ret->has_icount = s->extra >= 24 && ret->icount != UINT64_MAX;
    ret->id = copy_string(id, s->id);
    ret->name = copy_string(name, s->name);
    return ret->id && ret->name ? 0 : -ENOMEM;
}

/* Walk the table without keeping anything: 0, and *ret_end is its end. */
static int walk_snapshots(const struct q2_geometry *g, const char *name, const uint8_t *buf, size_t len,
                          uint32_t n, uint64_t *ret_end, uint64_t *ret_need)
{
    uint64_t pos = 0, end = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct snapshot_span s;
        int rc;

        if (pos + sizeof s.d > Q2_MAX_SNAPSHOT_TABLE)
            return too_large(name);
        if (pos + sizeof s.d > len) {
            *ret_need = pos + sizeof s.d;
            return -EAGAIN;
        }
        s = snapshot_span(buf, pos);
        rc = check_snapshot(g, name, i, &s);
        if (rc < 0)
            return rc;
        if (s.next > Q2_MAX_SNAPSHOT_TABLE)
            return too_large(name);
        pos = s.next;
        end = s.end;
    }
    /* The last entry's padding need not be there. */
    assert(end <= pos && pos <= Q2_MAX_SNAPSHOT_TABLE && is_aligned(pos, 8));
    if (end > len) {
        *ret_need = end;
        return -EAGAIN;
    }
    *ret_end = pos;
    return 0;
}

int q2_snapshots_parse(const struct q2_geometry *g, const char *name, const uint8_t *buf, size_t len, uint32_t n,
                       struct q2_snapshot_table *ret, uint64_t *ret_need)
{
    struct q2_snapshot_table t = {0};
    uint64_t pos = 0;
    int rc;

    if (n > Q2_MAX_SNAPSHOTS)
        return err_hint(err_set(EFBIG, "%s: more than %d snapshots", name, Q2_MAX_SNAPSHOTS),
                        "repair it with vdisk-io check -r all");
    rc = walk_snapshots(g, name, buf, len, n, &t.size, ret_need);
    if (rc < 0)
        return rc;
    t.entries = mem_calloc(n ? n : 1, sizeof t.entries[0]);
    if (!t.entries)
        return err_set(ENOMEM, "%s: out of memory", name);
    for (; t.n < n; t.n++) {
        struct snapshot_span s = snapshot_span(buf, pos);

        assert(s.end <= len && s.extra <= Q2_MAX_SNAPSHOT_EXTRA);
        if (take_snapshot(buf + pos, &s, &t.entries[t.n]) < 0) {
            t.n++; /* what it has so far is freed too */
            q2_snapshots_free(&t);
            return err_set(ENOMEM, "%s: out of memory", name);
        }
        pos = s.next;
    }
    assert(pos == t.size && t.n == n);
    *ret = t;
    return 0;
}

void q2_snapshots_free(struct q2_snapshot_table *t)
{
    for (uint32_t i = 0; i < t->n; i++) {
        mem_free(t->entries[i].id);
        mem_free(t->entries[i].name);
    }
    mem_free(t->entries);
    memset(t, 0, sizeof *t);
}

/* ---- "Bitmap directory" -------------------------------------------------------------------------------- */

static int bad_bitmap(const char *name, uint32_t i, const char *what)
{
    return err_hint(err_set(EINVAL, "%s: not a valid qcow2 image: bitmap %" PRIu32 ": %s", name, i + 1, what),
                    "open it read-only and copy what it holds");
}

static int check_bitmap(const struct q2_geometry *g, const char *name, uint32_t i, const struct q2_bitmap_entry *b,
                        uint32_t name_size)
{
    if (b->table_offset == 0 || !is_aligned(b->table_offset, g->cluster_size))
        return bad_bitmap(name, i, "offset of its table is not that of a cluster");
    if (b->table_offset > Q2_MAX_HOST_OFFSET)
        return bad_bitmap(name, i, "offset of its table is out of range");
    if (b->table_entries == 0 || b->table_entries > Q2_MAX_BITMAP_TABLE)
        return bad_bitmap(name, i, "its table has no entries, or too many");
    if (b->flags & Q2_BITMAP_FLAGS_RESERVED)
        return bad_bitmap(name, i, "reserved flags are set");
    if (b->type != Q2_BITMAP_TYPE_DIRTY)
        return bad_bitmap(name, i, "its type is not known");
    if (b->granularity_bits < Q2_MIN_BITMAP_GRANULARITY_BITS ||
        b->granularity_bits > Q2_MAX_BITMAP_GRANULARITY_BITS)
        return bad_bitmap(name, i, "its granularity is not between 512 bytes and 2 GiB");
    if (name_size == 0 || name_size > Q2_MAX_BITMAP_NAME)
        return bad_bitmap(name, i, "its name is empty, or longer than 1023 bytes");
    if (b->extra_size != 0)
        return bad_bitmap(name, i, "it has extra data, which nobody defined");
    return 0;
}

/* One entry at `buf`, of which `left` bytes are there. Returns its length with padding, or an error. */
static int64_t take_bitmap(const struct q2_geometry *g, const char *name, uint32_t i, const uint8_t *buf,
                           size_t left, struct q2_bitmap_entry *ret)
{
    struct q2_disk_bitmap d;
    uint32_t name_size;
    int rc;

    if (left < sizeof d)
        return bad_bitmap(name, i, "it lies beyond the end of the directory");
    memcpy(&d, buf, sizeof d);
    ret->table_offset = be64toh(d.table_offset);
    ret->table_entries = be32toh(d.table_entries);
    ret->flags = be32toh(d.flags);
    ret->type = d.type;
    ret->granularity_bits = d.granularity_bits;
    ret->extra_size = be32toh(d.extra_size);
    name_size = be16toh(d.name_size);
    rc = check_bitmap(g, name, i, ret, name_size);
    if (rc < 0)
        return rc;
    if (left - sizeof d < name_size)
        return bad_bitmap(name, i, "its name goes beyond the end of the directory");
    if (memchr(buf + sizeof d, '\0', name_size))
        return bad_bitmap(name, i, "its name has a zero byte");
    ret->name = copy_string(buf + sizeof d, name_size);
    if (!ret->name)
        return err_set(ENOMEM, "%s: out of memory", name);
    return (int64_t)align_up(sizeof d + name_size, 8);
}

static int bad_directory(const char *name, const char *what)
{
    return err_hint(err_set(EINVAL, "%s: not a valid qcow2 image: %s", name, what),
                    "open it read-only and copy what it holds");
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names are unique, says the specification. Sorted, because there may be many. */
static int check_names(const char *name, const struct q2_bitmap_directory *d)
{
    char **names = mem_alloc(d->n * sizeof names[0]);
    bool twice = false;

    assert(d->n > 0 && d->n <= Q2_MAX_BITMAPS);
    if (!names)
        return err_set(ENOMEM, "%s: out of memory", name);
    for (uint32_t i = 0; i < d->n; i++)
        names[i] = d->entries[i].name;
    qsort(names, d->n, sizeof names[0], compare_names);
    for (uint32_t i = 1; i < d->n; i++)
        twice = twice || strcmp(names[i - 1], names[i]) == 0;
    mem_free(names);
    return twice ? bad_directory(name, "two bitmaps have the same name") : 0;
}

int q2_bitmaps_parse(const struct q2_geometry *g, const char *name, const uint8_t *buf, size_t len, uint32_t n,
                     struct q2_bitmap_directory *ret)
{
    struct q2_bitmap_directory d = {0};
    size_t pos = 0;
    int rc = 0;

    if (n == 0 || n > Q2_MAX_BITMAPS || len / sizeof(struct q2_disk_bitmap) < n)
        return err_hint(err_set(EINVAL,
                                "%s: not a valid qcow2 image: %" PRIu32 " bitmaps in a directory of %zu bytes",
                                name, n, len),
                        "open it read-only and copy what it holds");
    d.entries = mem_calloc(n, sizeof d.entries[0]);
    if (!d.entries)
        return err_set(ENOMEM, "%s: out of memory", name);
    for (; d.n < n; d.n++) {
        int64_t size = take_bitmap(g, name, d.n, buf + pos, len - pos, &d.entries[d.n]);

        if (size < 0) {
            rc = (int)size;
            break;
        }
        pos = min_u64(pos + (uint64_t)size, len);
        assert(is_aligned(pos, 8) || pos == len);
    }
    if (rc == 0 && pos != len)
        rc = bad_directory(name, "bitmap directory is longer than its entries");
    if (rc == 0)
        rc = check_names(name, &d);
    if (rc < 0) {
        q2_bitmaps_free(&d);
        return rc;
    }
    *ret = d;
    return 0;
}

void q2_bitmaps_free(struct q2_bitmap_directory *d)
{
    for (uint32_t i = 0; i < d->n; i++)
        mem_free(d->entries[i].name);
    mem_free(d->entries);
    memset(d, 0, sizeof *d);
}
