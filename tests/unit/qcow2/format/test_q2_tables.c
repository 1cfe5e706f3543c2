/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/tables: snapshot tables and bitmap directories, good, cut short, and bad in each field. */
#include "tests/unit/op_test.h"

#include "qcow2/format/ondisk.h"
#include "qcow2/format/tables.h"

enum { CLUSTER = 65536, SPACE = 1 << 20 };

static struct q2_geometry geo;
static uint8_t table[SPACE];

/* ---- snapshots ----------------------------------------------------------------------------------------- */

struct snapshot_parts {
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t extra;
    const char *id, *name;
};

static uint64_t put_snapshot(uint64_t pos, const struct snapshot_parts *s)
{
    struct q2_disk_snapshot d = {
        .l1_table_offset = htobe64(s->l1_offset), .l1_size = htobe32(s->l1_entries),
        .id_size = htobe16((uint16_t)strlen(s->id)), .name_size = htobe16((uint16_t)strlen(s->name)),
        .date_sec = htobe32(11), .date_nsec = htobe32(22), .vm_clock_nsec = htobe64(33),
        .vm_state_size = htobe32(44), .extra_size = htobe32(s->extra),
    };
    struct q2_disk_snapshot_extra extra = {htobe64(1ull << 40), htobe64(1ull << 41), htobe64(77)};
    uint8_t *p = table + pos;

    memcpy(p, &d, sizeof d);
    p += sizeof d;
    memset(p, 0, s->extra);
    memcpy(p, &extra, min_u64(s->extra, sizeof extra));
    memcpy(p + s->extra, s->id, strlen(s->id));
    memcpy(p + s->extra + strlen(s->id), s->name, strlen(s->name));
    p += s->extra + strlen(s->id) + strlen(s->name);
    return align_up((uint64_t)(p - table), 8);
}

static int parse_snapshots(uint64_t len, uint32_t n, struct q2_snapshot_table *ret, uint64_t *need)
{
    uint8_t *copy = malloc(len ? len : 1); /* of exact length: sanitizers see a byte too many */
    int rc;

    assert_non_null(copy);
    memcpy(copy, table, len);
    *need = 0;
    rc = q2_snapshots_parse(&geo, "disk", copy, len, n, ret, need);
    free(copy);
    return rc;
}

/* The padding behind the last entry may lie past the end of the file; its name may not. */
static void last_padding(void **state)
{
    struct q2_snapshot_table t;
    uint64_t need, end;

    end = sizeof(struct q2_disk_snapshot) + strlen("id") + strlen("a n");
    put_snapshot(0, &(struct snapshot_parts){3 * CLUSTER, 9, 0, "id", "a n"});
    assert_int_equal(parse_snapshots(end, 1, &t, &need), 0);
    assert_string_equal(t.entries[0].name, "a n");
    q2_snapshots_free(&t);
    assert_int_equal(parse_snapshots(end - 1, 1, &t, &need), -EAGAIN);
    assert_int_equal(need, end);
}

static void fields_by_extra_size(void **state)
{
    static const uint32_t extras[] = {0, 8, 16, 24, 40, 1024};
    struct q2_snapshot_table t;
    uint64_t need;

    for (size_t i = 0; i < ARRAY_LEN(extras); i++) {
        uint64_t end = put_snapshot(0, &(struct snapshot_parts){3 * CLUSTER, 9, extras[i], "id", "a name"});
        const struct q2_snapshot *s;

        assert_int_equal(parse_snapshots(end, 1, &t, &need), 0);
        assert_int_equal(t.n, 1);
        assert_int_equal(t.size, end);
        s = &t.entries[0];
        assert_int_equal(s->l1_offset, 3 * CLUSTER);
        assert_int_equal(s->l1_entries, 9);
        assert_int_equal(s->date_sec, 11);
        assert_int_equal(s->date_nsec, 22);
        assert_int_equal(s->vm_clock_nsec, 33);
        assert_int_equal(s->vm_state_size, extras[i] >= 8 ? 1ull << 40 : 44);
        assert_int_equal(s->has_disk_size, extras[i] >= 16);
        assert_int_equal(s->disk_size, extras[i] >= 16 ? 1ull << 41 : 0);
        assert_int_equal(s->has_icount, extras[i] >= 24);
        assert_string_equal(s->id, "id");
        assert_string_equal(s->name, "a name");
        q2_snapshots_free(&t);
        assert_null(t.entries);
    }
}

static void none_at_all(void **state)
{
    struct q2_snapshot_table t;
    uint64_t need;

    assert_int_equal(parse_snapshots(0, 0, &t, &need), 0);
    assert_int_equal(t.n, 0);
    assert_int_equal(t.size, 0);
    q2_snapshots_free(&t);
}

/* From any length on, reading what is asked for leads to the end; nothing past it is asked for. */
static void read_on_as_told(void **state)
{
    struct q2_snapshot_table t;
    uint64_t end = 0, need, seed = 3;
    char name[300];

    for (int i = 0; i < 20; i++) {
        memset(name, 'a' + i, sizeof name);
        name[xorshift(&seed) % sizeof name] = '\0';
        name[sizeof name - 1] = '\0';
        end = put_snapshot(end, &(struct snapshot_parts){CLUSTER, 1, (uint32_t)(xorshift(&seed) % 60), "", name});
    }
    for (uint64_t start = 0; start < end; start += 1 + start / 50) {
        uint64_t len = start;
        int rounds = 0, rc;

        while ((rc = parse_snapshots(len, 20, &t, &need)) == -EAGAIN) {
            assert_true(need > len && need <= end);
            len = need;
            rounds++;
        }
        assert_int_equal(rc, 0);
        assert_true(rounds <= 41);
        assert_int_equal(t.size, end);
        assert_int_equal(t.n, 20);
        assert_string_equal(t.entries[19].name, name);
        q2_snapshots_free(&t);
    }
}

static void snapshots_refused(uint32_t n, int err, const char *text)
{
    struct q2_snapshot_table t = {.n = 5};
    uint64_t need;

    assert_int_equal(parse_snapshots(4096, n, &t, &need), err);
    assert_int_equal(t.n, 5);
    if (!strstr(vdisk_error_text(), "disk: ") || !strstr(vdisk_error_text(), text))
        fail_msg("the text is: %s", vdisk_error_text());
}

static void bad_snapshots(void **state)
{
    static const struct snapshot_parts good = {CLUSTER, 1, 16, "1", "one"};
    struct snapshot_parts s = good;
    uint64_t pos;

    snapshots_refused(65537, -EFBIG, "snapshots");
    memset(table, 0, 4096);
    s.l1_offset = CLUSTER + 512;
    put_snapshot(0, &s);
    snapshots_refused(1, -EINVAL, "snapshot 1: offset of the L1 table is not aligned");
    s.l1_offset = 1ull << 56;
    put_snapshot(0, &s);
    snapshots_refused(1, -EINVAL, "out of range");
    s = good;
    s.l1_entries = (32 << 20) / 8 + 1;
    pos = put_snapshot(0, &good);
    put_snapshot(pos, &s);
    snapshots_refused(2, -EINVAL, "snapshot 2: L1 table is larger than 32 MiB");
    put_snapshot(0, &good);
    put_be32(table + offsetof(struct q2_disk_snapshot, extra_size), 1025);
    snapshots_refused(1, -EINVAL, "extra data");
    put_be32(table + offsetof(struct q2_disk_snapshot, extra_size), UINT32_MAX);
    snapshots_refused(1, -EINVAL, "extra data");
}

/* 65536 entries that are each too long. */
static void a_table_of_more_than_64_mib(void **state)
{
    enum { EACH = 40 + 1024 + 65535 + 65535 + 2 };
    uint64_t len = 512ull * EACH, need;
    struct q2_snapshot_table t;
    uint8_t *big = calloc(1, len);

    assert_non_null(big);
    for (uint64_t pos = 0; pos + EACH <= len; pos += EACH) {
        struct q2_disk_snapshot d = {.l1_table_offset = htobe64(CLUSTER), .id_size = 0xffff, .name_size = 0xffff,
                                     .extra_size = htobe32(1024)};
        memcpy(big + pos, &d, sizeof d);
    }
    assert_int_equal(q2_snapshots_parse(&geo, "disk", big, len, 65536, &t, &need), -EFBIG);
    assert_non_null(strstr(vdisk_error_text(), "64 MiB"));
    free(big);
}

/* ---- bitmaps ------------------------------------------------------------------------------------------- */

static const struct q2_disk_bitmap *good_bitmap(void)
{
    static struct q2_disk_bitmap d;

    memset(&d, 0, sizeof d);
    d.table_offset = htobe64(4 * CLUSTER);
    d.table_entries = htobe32(3);
    d.flags = htobe32(Q2_BITMAP_AUTO);
    d.type = Q2_BITMAP_TYPE_DIRTY;
    d.granularity_bits = 16;
    return &d;
}

static uint64_t put_bitmap(uint64_t pos, const struct q2_disk_bitmap *from, const char *name, size_t len)
{
    struct q2_disk_bitmap d = *from;

    d.name_size = htobe16((uint16_t)len);
    memset(table + pos, 0, sizeof d + len + 8);
    memcpy(table + pos, &d, sizeof d);
    memcpy(table + pos + sizeof d, name, len);
    return align_up(pos + sizeof d + len, 8);
}

static int parse_bitmaps(uint64_t len, uint32_t n, struct q2_bitmap_directory *ret)
{
    uint8_t *copy = malloc(len ? len : 1);
    int rc;

    assert_non_null(copy);
    memcpy(copy, table, len);
    rc = q2_bitmaps_parse(&geo, "disk", copy, len, n, ret);
    free(copy);
    return rc;
}

static void good_bitmaps(void **state)
{
    struct q2_bitmap_directory d;
    uint64_t end = 0;
    char name[1024];

    for (int i = 0; i < 100; i++) {
        memset(name, 'x', sizeof name);
        name[0] = (char)('!' + i);
        end = put_bitmap(end, good_bitmap(), name, i == 0 ? 1023 : 1 + (size_t)i);
    }
    assert_int_equal(parse_bitmaps(end, 100, &d), 0);
    assert_int_equal(d.n, 100);
    assert_int_equal(strlen(d.entries[0].name), 1023);
    for (uint32_t i = 1; i < 100; i++) {
        assert_int_equal(strlen(d.entries[i].name), 1 + i);
        assert_int_equal(d.entries[i].table_offset, 4 * CLUSTER);
        assert_int_equal(d.entries[i].table_entries, 3);
        assert_int_equal(d.entries[i].flags, Q2_BITMAP_AUTO);
        assert_int_equal(d.entries[i].granularity_bits, 16);
    }
    q2_bitmaps_free(&d);
}

static void bitmaps_refused(uint64_t len, uint32_t n, const char *text)
{
    struct q2_bitmap_directory d = {.n = 5};

    assert_int_equal(parse_bitmaps(len, n, &d), -EINVAL);
    assert_int_equal(d.n, 5);
    if (!strstr(vdisk_error_text(), "disk: ") || !strstr(vdisk_error_text(), text))
        fail_msg("the text is: %s", vdisk_error_text());
}

static void bad_bitmap_fields(void **state)
{
    struct q2_disk_bitmap d;

#define BAD(field, value, text)                              \
    do {                                                     \
        d = *good_bitmap();                                  \
        d.field = value;                                     \
        bitmaps_refused(put_bitmap(0, &d, "name", 4), 1, text); \
    } while (0)
    BAD(table_offset, 0, "offset of its table is not");
    BAD(table_offset, htobe64(CLUSTER + 8), "offset of its table is not");
    BAD(table_offset, htobe64(1ull << 56), "out of range");
    BAD(table_entries, 0, "no entries, or too many");
    BAD(table_entries, htobe32(0x8000001), "no entries, or too many");
    BAD(flags, htobe32(8), "reserved flags");
    BAD(type, 0, "type");
    BAD(type, 2, "type");
    BAD(granularity_bits, 8, "granularity");
    BAD(granularity_bits, 32, "granularity");
    BAD(extra_size, htobe32(1), "extra data");
#undef BAD
}

static void bad_bitmap_directories(void **state)
{
    char name[1100];
    uint64_t end;

    memset(name, 'n', sizeof name);
    bitmaps_refused(put_bitmap(0, good_bitmap(), name, 0), 1, "name is empty");
    bitmaps_refused(put_bitmap(0, good_bitmap(), name, 1024), 1, "1023");
    bitmaps_refused(put_bitmap(0, good_bitmap(), "a\0b", 3), 1, "zero byte");
    end = put_bitmap(0, good_bitmap(), "same", 4);
    end = put_bitmap(end, good_bitmap(), "other", 5);
    end = put_bitmap(end, good_bitmap(), "same", 4);
    bitmaps_refused(end, 3, "same name");
    bitmaps_refused(end, 2, "longer than its entries");
    bitmaps_refused(end, 4, "bitmap");
    bitmaps_refused(end, 0, "0 bitmaps");
    bitmaps_refused(end, UINT32_MAX, "4294967295 bitmaps");
    bitmaps_refused(0, 1, "directory of 0 bytes");
    end = put_bitmap(0, good_bitmap(), name, 100);
    for (uint64_t len = 0; len < end - 8; len++)
        bitmaps_refused(len, 1, "");
}

/* No sequence of bytes does harm (the sanitizers see it); what is accepted is within the limits. */
static void random_bytes(void **state)
{
    uint64_t seed = 0xfeedbeef, end, need;
    unsigned accepted = 0;

    for (int i = 0; i < 100000; i++) {
        struct q2_snapshot_table t;
        struct q2_bitmap_directory d;

        end = 0;
        for (int k = 0; k < 3; k++)
            end = put_snapshot(end, &(struct snapshot_parts){CLUSTER, 1, 16, "1", "one"});
        table[xorshift(&seed) % end] = (uint8_t)xorshift(&seed);
        if (parse_snapshots(end, 3, &t, &need) == 0) {
            accepted++;
            q2_snapshots_free(&t);
        }
        end = put_bitmap(0, good_bitmap(), "one", 3);
        end = put_bitmap(end, good_bitmap(), "two", 3);
        table[xorshift(&seed) % end] = (uint8_t)xorshift(&seed);
        if (parse_bitmaps(end, 2, &d) == 0) {
            accepted++;
            q2_bitmaps_free(&d);
        }
    }
    print_message("%u of 200000 accepted\n", accepted);
    assert_true(accepted > 1000 && accepted < 199000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_padding),
        cmocka_unit_test(fields_by_extra_size),
        cmocka_unit_test(none_at_all),
        cmocka_unit_test(read_on_as_told),
        cmocka_unit_test(bad_snapshots),
        cmocka_unit_test(a_table_of_more_than_64_mib),
        cmocka_unit_test(good_bitmaps),
        cmocka_unit_test(bad_bitmap_fields),
        cmocka_unit_test(bad_bitmap_directories),
        cmocka_unit_test(random_bytes),
    };

    q2_geometry_init(&geo, 3, 16, 4, false, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
