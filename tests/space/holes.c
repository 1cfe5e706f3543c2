/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free clusters that were free when the image was opened, of which one is guest data by the image's mistake: the
 * entry that leads there is in the last of many L2 tables. None of them is taken before all tables have been
 * read, a few with each lease; until then what is taken lies behind all that is in use. Then the free ones are
 * taken, and that one never.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "backends/lab/fault.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/format/entry.h"
#include "qcow2/image/image.h"
#include "tests/lib/memdisk.h"
#include "tests/space/ours.h"

#define MIB(n) ((uint64_t)(n) << 20)

enum {
    CLUSTER = 4096,
    BYTE = 0x5a,   /* of the data without a refcount, */
    OTHER = 0x77,  /* and of what is written elsewhere */
    HOLES = 8,
    STEPS_MIN = 3, /* 256 tables, 64 at once */
    LEASES = 40,   /* MiB that take several */
};

#define MAPPED   MIB(512)
#define MORE     MIB(128)
#define ROOM     MIB(80) /* of a device, behind what is in use at first */
#define DATA_AT  ((uint64_t)1000 * CLUSTER) /* guest offset of the data, before the entries change places */
#define DATA     (MAPPED - CLUSTER)         /* and afterwards */
#define LOW      ((uint64_t)2000 * CLUSTER) /* guest offsets of what becomes free: early on the host, */
#define HIGH     (MAPPED - MIB(2))          /* and shortly before the end of what is in use */

struct world {
    struct memdisk d;
    struct q2_header h;
    uint64_t cluster, mapped;
    uint64_t low, high, table; /* host offsets of holes, and of the last L2 table */
    struct backend *fault;
    vdisk *v;
    uint64_t next; /* guest offset: nothing is mapped from here on */
};

static uint64_t word_at(struct world *w, uint64_t at)
{
    uint8_t buf[8];

    memdisk_read(&w->d, at, buf, 8);
    return get_be64(buf);
}

static void put_word(struct world *w, uint64_t at, uint64_t word)
{
    uint8_t buf[8];

    put_be64(buf, word);
    memdisk_write(&w->d, at, buf, 8);
}

static uint64_t entry_at(struct world *w, uint64_t guest_offset)
{
    uint64_t index = guest_offset / w->cluster, entries = w->cluster / 8;
    uint64_t table = q2_l1_offset(word_at(w, w->h.l1_offset + 8 * (index / entries)));

    CHECK(table != 0);
    return table + 8 * (index % entries);
}

static uint64_t host_of(struct world *w, uint64_t guest_offset)
{
    return word_at(w, entry_at(w, guest_offset)) & Q2_L2_OFFSET;
}

/* Where the refcount table says which block a cluster has. */
static uint64_t block_at(struct world *w, uint64_t host_offset)
{
    return w->h.reftable_offset + 8 * (host_offset / w->cluster / (w->cluster / 2));
}

static void lose_refcount(struct world *w, uint64_t host_offset)
{
    uint64_t cluster = host_offset / CLUSTER, per_block = CLUSTER / 2;
    uint64_t block = word_at(w, block_at(w, host_offset));

    CHECK(block != 0 && host_offset != 0);
    memdisk_write(&w->d, block + 2 * (cluster % per_block), "\0", 2);
}

/* Clusters that nothing leads to: the first one's host offset. */
static uint64_t make_holes(struct world *w, uint64_t guest_offset)
{
    uint64_t first = host_of(w, guest_offset);

    for (unsigned i = 0; i < HOLES; i++, guest_offset += CLUSTER) {
        CHECK_INT(host_of(w, guest_offset), first + (uint64_t)i * CLUSTER);
        lose_refcount(w, host_of(w, guest_offset));
        put_word(w, entry_at(w, guest_offset), 0);
    }
    return first;
}

static void open_it(struct world *w)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};

    CHECK_OK(fault_backend_create(memdisk_open(&w->d, false), &w->fault));
    CHECK_OK(vdisk_open_backend(w->fault, &opts, &w->v));
}

/* Until nothing fits any more. */
static void fill_up(struct world *w)
{
    static char buf[MIB(1)];

    for (uint64_t n = sizeof buf; n >= CLUSTER; n /= 2)
        while (vdisk_pwrite(w->v, buf, n, w->next, 0) == 0)
            w->next += n;
    CHECK(w->next < w->mapped + MORE);
}

static void create(struct world *w, uint64_t device, uint64_t mapped, uint32_t cluster)
{
    struct image_spec spec;
    struct backend *b;

    memset(w, 0, sizeof *w);
    w->cluster = cluster;
    w->mapped = w->next = mapped;
    image_default(&spec, "holes", mapped);
    spec.cluster_size = cluster;
    spec.preallocation = VDISK_PREALLOC_METADATA;
    if (device)
        memdisk_init_fixed(&w->d, 512, device);
    else
        memdisk_init(&w->d, 512);
    b = memdisk_open(&w->d, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    open_it(w);
}

static void close_it(struct world *w)
{
    uint8_t head[CLUSTER];

    CHECK_OK(vdisk_close(w->v));
    memdisk_read(&w->d, 0, head, sizeof head);
    CHECK_OK(q2_header_parse(head, sizeof head, memdisk_size(&w->d), "image", &w->h));
    CHECK_INT(w->h.geo.refcount_order, 4);
}

/* `device`: its size; 0: a file. */
static void make(struct world *w, uint64_t device, bool full)
{
    uint64_t data, word;

    create(w, device, MAPPED, CLUSTER);
    CHECK_OK(vdisk_grow(w->v, MAPPED + MORE));
    fill(w->v, DATA_AT, CLUSTER, BYTE);
    if (full)
        fill_up(w);
    close_it(w);
    data = host_of(w, DATA_AT);
    word = word_at(w, entry_at(w, DATA_AT));
    put_word(w, entry_at(w, DATA_AT), word_at(w, entry_at(w, DATA)));
    put_word(w, entry_at(w, DATA), word);
    lose_refcount(w, data);
    w->low = make_holes(w, LOW);
    w->high = make_holes(w, HIGH);
    w->table = align_down(entry_at(w, DATA), CLUSTER);
    CHECK(data < w->low && w->low < w->high);
    open_it(w);
}

static void finish(struct world *w)
{
    CHECK_OK(vdisk_close(w->v));
    q2_header_free(&w->h);
    memdisk_finish(&w->d);
}

static bool is_survey_over(const struct world *w)
{
    struct q2 *q = w->v->top->format_state;
    bool over;

    pthread_mutex_lock(&q->meta.lock);
    over = q->space.tables_read;
    pthread_mutex_unlock(&q->meta.lock);
    return over;
}

/* How many of the holes at a place have been written to. */
static unsigned count_used(struct world *w, uint64_t host_offset)
{
    unsigned n = 0;
    uint8_t byte;

    for (unsigned i = 0; i < HOLES; i++) {
        memdisk_read(&w->d, host_offset + (uint64_t)i * CLUSTER, &byte, 1);
        n += byte == OTHER;
    }
    return n;
}

static void check_data_at(struct world *w, uint64_t guest_offset)
{
    uint8_t buf[CLUSTER];
    vdisk *v;
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2"};

    CHECK_OK(vdisk_open_backend(memdisk_open(&w->d, true), &opts, &v)); /* w->v is not to read that entry */
    CHECK_OK(vdisk_pread(v, buf, CLUSTER, guest_offset));
    CHECK_OK(vdisk_close(v));
    CHECK_MSG(buf[0] == BYTE && memcmp(buf, buf + 1, CLUSTER - 1) == 0, "what had no refcount is 0x%02x", buf[0]);
}

static void check_data(struct world *w)
{
    check_data_at(w, DATA);
}

static int write_more(struct world *w, uint64_t len)
{
    static uint8_t buf[MIB(1)];
    int rc;

    memset(buf, OTHER, sizeof buf);
    rc = vdisk_pwrite(w->v, buf, len, w->next, 0);
    w->next += rc == 0 ? len : 0;
    return rc;
}

/* Where there is a tail. */
static void use_tail(uint64_t device)
{
    struct world w;
    unsigned steps = 0;

    make(&w, device, false);
    CHECK_OK(write_more(&w, CLUSTER));
    CHECK_MSG(!is_survey_over(&w), "the first allocation reads all tables");
    while (!is_survey_over(&w)) {
        CHECK_MSG(count_used(&w, w.low) + count_used(&w, w.high) == 0, "a hole is used after %u writes", steps);
        check_data(&w);
        CHECK(w.next < MAPPED + MORE);
        CHECK_OK(write_more(&w, MIB(1)));
        steps++;
    }
    CHECK_MSG(steps >= STEPS_MIN, "all tables are read after %u writes", steps);
    while (count_used(&w, w.low) < HOLES || count_used(&w, w.high) < HOLES) {
        CHECK_MSG(w.next < MAPPED + MORE, "of holes %u and %u are found", count_used(&w, w.low),
                  count_used(&w, w.high));
        CHECK_OK(write_more(&w, MIB(1)));
    }
    check_data(&w);
    finish(&w);
}

static void test_holes_in_file(void)
{
    use_tail(0);
}

static void test_holes_on_device(void)
{
    use_tail(MAPPED + MAPPED / 128 + ROOM);
}

/* Little more than the holes is left. Of those new L2 tables take some. */
static void test_holes_of_full(void)
{
    struct world w;

    make(&w, MAPPED + MIB(16), true);
    while (write_more(&w, CLUSTER) == 0)
        ;
    CHECK_MSG(count_used(&w, w.low) + count_used(&w, w.high) >= HOLES, "of holes %u and %u are found",
              count_used(&w, w.low), count_used(&w, w.high));
    check_data(&w);
    finish(&w);
}

static int spoil_table(struct world *w)
{
    int rule = fault_add_rule(w->fault, &(struct fault_rule){.kinds = FAULT_KIND(IO_READ), .offset = w->table,
                                                             .len = CLUSTER, .what = FAULT_FAIL, .error = EIO});

    CHECK(rule >= 0);
    return rule;
}

/* One table cannot be read: it is the tail for ever, and where there is none that error, until the table can. */
static void test_holes_unreadable(void)
{
    struct world w;
    int rule;

    make(&w, 0, false);
    rule = spoil_table(&w);
    for (unsigned i = 0; i < LEASES; i++)
        CHECK_OK(write_more(&w, MIB(1)));
    CHECK_INT(fault_rule_fired(w.fault, rule), 1); /* the tail does not need it */
    CHECK(!is_survey_over(&w) && count_used(&w, w.low) + count_used(&w, w.high) == 0);
    check_data(&w);
    finish(&w);

    make(&w, MAPPED + MIB(16), true);
    spoil_table(&w);
    CHECK_INT(write_more(&w, CLUSTER), -EIO);
    CHECK_MSG(strstr(vdisk_error_text(), "read"), "%s", vdisk_error_text());
    fault_clear(w.fault);
    CHECK_OK(write_more(&w, CLUSTER)); /* to where the L1 table was before it grew; */
    CHECK_OK(write_more(&w, CLUSTER));
    CHECK_INT(count_used(&w, w.low), 1);
    check_data(&w);
    finish(&w);
}

/* And then what was freed here can be had, though it lies behind such a hole. */
static void test_holes_own(void)
{
    struct world w;

    make(&w, MAPPED + MIB(16), true);
    spoil_table(&w);
    CHECK_OK(vdisk_pdiscard(w.v, (uint64_t)HOLES * CLUSTER, LOW + (uint64_t)HOLES * CLUSTER));
    for (unsigned i = 0; i < HOLES; i++) {
        CHECK_OK(vdisk_sync(w.v));
        fill(w.v, LOW + (uint64_t)(HOLES + i) * CLUSTER, CLUSTER, OTHER);
    }
    CHECK(!is_survey_over(&w));
    CHECK_INT(count_used(&w, w.low), 0);
    CHECK_INT(count_used(&w, w.low + (uint64_t)HOLES * CLUSTER), HOLES);
    check_data(&w);
    finish(&w);
}

/* A table that is larger than what is read at once is few enough all the same. */
static void test_holes_of_large(void)
{
    uint64_t large = MIB(2), size = 8 * large;
    struct world w;

    create(&w, 0, size, (uint32_t)large);
    close_it(&w);
    put_word(&w, entry_at(&w, size - large), 0);
    open_it(&w);
    fill(w.v, size - large, CLUSTER, OTHER);
    CHECK_MSG(is_survey_over(&w), "the only L2 table has not been read");
    finish(&w);
}

/* What was at the end has come free, some of it is written, and the rest goes back, with nothing behind it. */
static void test_end_of_file(void)
{
    uint64_t size = MIB(16) - (uint64_t)13 * CLUSTER; /* with the metadata whole units of what can be punched */
    struct world w;

    create(&w, 0, size, CLUSTER);
    close_it(&w);
    CHECK_INT(memdisk_size(&w.d), MIB(16));
    open_it(&w);
    for (uint64_t n = 0; n < 2; n++) {
        CHECK_OK(vdisk_pdiscard(w.v, size - MIB(15), MIB(15)));
        CHECK_OK(vdisk_sync(w.v));
        CHECK_OK(vdisk_sync(w.v));
        fill(w.v, MIB(15), 16 * CLUSTER, OTHER); /* the first of them are no whole unit */
    }
    finish(&w);
}

/*
 * The last refcount block is gone from the table: a new one would lie in the first cluster that it is to describe,
 * which has guest data. It lies behind the end of the file, or, if that is too far away for the block's first
 * slice, where nothing is, when all tables have been read.
 */
static void lose_block(uint64_t mapped, uint32_t cluster, bool far)
{
    uint64_t described = (uint64_t)cluster / 2 * cluster, from, data = mapped, host;
    struct world w;

    create(&w, 0, mapped, cluster);
    close_it(&w);
    from = align_down(memdisk_size(&w.d), described);
    do {
        data -= cluster;
        host = host_of(&w, data);
    } while (data > MORE && host != from);
    for (w.next = MIB(LEASES); w.next > 0; w.next -= cluster)
        put_word(&w, entry_at(&w, w.next - cluster), 0); /* to be written to */
    put_word(&w, entry_at(&w, data + cluster), 0);       /* the place */
    CHECK(data > MORE && (memdisk_size(&w.d) - from > described / (cluster / 4096)) == far);
    open_it(&w);
    fill(w.v, data, CLUSTER, BYTE);
    CHECK_OK(vdisk_close(w.v));
    put_word(&w, block_at(&w, from), 0);
    open_it(&w);
    for (unsigned i = 0; i < LEASES; i++)
        CHECK_OK(write_more(&w, MIB(1)));
    CHECK(is_survey_over(&w) || !far);
    check_data_at(&w, data);
    finish(&w);
}

static void test_block_lost(void)
{
    lose_block(MIB(510), CLUSTER, false);
}

static void test_block_lost_far(void)
{
    lose_block(MIB(17) << 10, 64 << 10, true);
}

const struct test_case holes_cases[] = {
    {.name = "holes_in_file", .run = test_holes_in_file},
    {.name = "holes_on_device", .run = test_holes_on_device},
    {.name = "holes_of_full", .run = test_holes_of_full},
    {.name = "holes_unreadable", .run = test_holes_unreadable},
    {.name = "holes_own", .run = test_holes_own},
    {.name = "holes_of_large", .run = test_holes_of_large},
    {.name = "end_of_file", .run = test_end_of_file},
    {.name = "block_lost", .run = test_block_lost},
    {.name = "block_lost_far", .run = test_block_lost_far},
};

const unsigned holes_cases_count = ARRAY_LEN(holes_cases);
