/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a read through a chain loads and asks, counted in a laboratory: nothing that it does not need, and of that
 * nothing is said either.
 */
#include "backends/lab/fault.h"
#include "backends/lab/vdisk-lab.h"
#include "engine/chain/flat.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { SMALL = 4096, CLUSTER = 65536, L1_OFFSET_AT = 40 };

static vdisk_lab *lab;
static vdisk_queue *q;
static vdisk *opened; /* there is one at a time */
static unsigned corrupt_events;

static int setup(void **state)
{
    /* No call fails, but all are counted. */
    struct vdisk_lab_fault fault = {.size = sizeof fault, .nth = UINT32_MAX};
    int rc = vdisk_lab_create(NULL, &lab);

    if (rc == 0)
        rc = vdisk_lab_fail(lab, &fault);
    corrupt_events = 0;
    return rc < 0 ? rc : vdisk_queue_create(NULL, &q);
}

static int teardown(void **state)
{
    int rc;

    vdisk_close(opened); /* a test has failed */
    opened = NULL;
    rc = vdisk_queue_destroy(q);
    vdisk_lab_destroy(lab);
    return rc;
}

static void add_layer(const char *name, const char *below, uint64_t size, uint32_t cluster_size)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = size,
                                     .cluster_size = cluster_size, .backing_file = below,
                                     .backing_fmt = below ? "qcow2" : NULL};

    OK(vdisk_create(name, &opts));
}

static void on_event(void *arg, vdisk *v, const struct vdisk_event *event)
{
    if (event->kind == VDISK_EVENT_CORRUPT)
        corrupt_events++;
}

static vdisk *open_as(const char *name, const char *format, uint32_t flags)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = flags, .format = format};
    vdisk *v;

    OK(vdisk_open(name, &how, &v));
    OK(vdisk_set_event_callback(v, on_event, NULL));
    opened = v;
    return v;
}

static void shut(vdisk *v)
{
    assert_ptr_equal(v, opened);
    opened = NULL;
    OK(vdisk_close(v));
}

static void write_at(const char *name, uint64_t at, uint8_t byte, uint64_t len, uint32_t flags)
{
    vdisk *v = open_as(name, "qcow2", VDISK_OPEN_RDWR);
    uint8_t *buf = vdisk_alloc_buffer(len);

    memset(buf, byte, len);
    OK(vdisk_pwrite(v, buf, len, at, flags));
    shut(v);
    free(buf);
}

static void expect_byte(vdisk *v, uint64_t at, uint64_t len, uint8_t byte)
{
    uint8_t *buf = vdisk_alloc_buffer(len);

    OK(vdisk_pread(v, buf, len, at));
    assert_true(is_filled(buf, byte, len));
    free(buf);
}

/* ---- damage that nobody sees ---------------------------------------------------------------------------- */

/* A reserved bit of the first L1 entry. */
static void damage_l1(const char *name)
{
    vdisk *v = open_as(name, "raw", VDISK_OPEN_RDWR);
    uint8_t at[8], entry[8];
    uint64_t offset = 0;

    OK(vdisk_pread(v, at, sizeof at, L1_OFFSET_AT));
    for (unsigned i = 0; i < sizeof at; i++)
        offset = offset << 8 | at[i];
    OK(vdisk_pread(v, entry, sizeof entry, offset));
    assert_true(entry[4] != 0 || entry[5] != 0); /* there is a table */
    entry[6] |= 2; /* bit 9 */
    OK(vdisk_pwrite(v, entry, sizeof entry, offset, 0));
    shut(v);
}

/* The damaged layer is loaded ahead, beside the one that hides it. */
static void hidden_damage(uint32_t flags)
{
    uint8_t buf[SMALL];
    vdisk *v = open_as("sim:l3", "qcow2", flags);

    expect_byte(v, 0, SMALL, 1);
    assert_int_equal(corrupt_events, 0);
    for (struct layer *layer = v->top; layer; layer = layer->backing)
        assert_false(atomic_load(&layer->has_trouble));
    /* Where it does matter, it is told, and that not more than once. */
    assert_int_equal(vdisk_pread(v, buf, sizeof buf, 2 * CLUSTER), -EIO);
    assert_int_equal(vdisk_pread(v, buf, sizeof buf, 2 * CLUSTER), -EIO);
    assert_int_equal(corrupt_events, 1);
    expect_byte(v, 0, SMALL, 1);
    shut(v);
    corrupt_events = 0;
}

static void what_is_hidden_may_be_damaged(void **state)
{
    add_layer("sim:l0", NULL, 1 << 20, CLUSTER);
    add_layer("sim:l1", "sim:l0", 1 << 20, CLUSTER);
    add_layer("sim:l2", "sim:l1", 1 << 20, CLUSTER);
    add_layer("sim:l3", "sim:l2", 1 << 20, CLUSTER);
    write_at("sim:l0", 0, 4, SMALL, 0);
    write_at("sim:l1", 0, 2, SMALL, 0);
    write_at("sim:l2", 0, 1, CLUSTER, 0);
    damage_l1("sim:l1");
    hidden_damage(0);
    hidden_damage(VDISK_OPEN_RDWR);
}

/* ---- what is compressed below small clusters --------------------------------------------------------------- */

static struct layer *layer_below(vdisk *v, unsigned n)
{
    struct layer *layer = v->top;

    while (n-- > 0)
        layer = layer->backing;
    return layer;
}

static uint64_t reads_of(vdisk *v, unsigned n)
{
    return fault_calls(layer_below(v, n)->file, IO_READ);
}

/* Compressed clusters are read several at a time, whatever lies above them. */
static void compressed_base_is_read_in_runs(void **state)
{
    enum { RUN = 16 };
    uint64_t before;
    vdisk *v;

    add_layer("sim:l0", NULL, RUN * CLUSTER, CLUSTER);
    add_layer("sim:l1", "sim:l0", RUN * CLUSTER, SMALL);
    add_layer("sim:l2", "sim:l1", RUN * CLUSTER, CLUSTER);
    write_at("sim:l0", 0, 7, RUN * CLUSTER, VDISK_REQ_COMPRESSED);
    v = open_as("sim:l2", "qcow2", 0);
    expect_byte(v, 0, SMALL, 7); /* the metadata is there */
    before = reads_of(v, 2);
    expect_byte(v, 0, RUN * CLUSTER, 7);
    assert_in_range(reads_of(v, 2) - before, 1, RUN / 2);
    before = reads_of(v, 2);
    expect_byte(v, 3 * CLUSTER, CLUSTER, 7);
    assert_int_equal(reads_of(v, 2) - before, 1);
    shut(v);
}

/* ---- prefetch ----------------------------------------------------------------------------------------- */

static unsigned slots_in_use(const struct flat *f)
{
    unsigned n = 0;

    for (uint64_t i = 0; i <= f->sets_mask; i++)
        for (unsigned way = 0; way < FLAT_WAYS; way++)
            n += atomic_load(&f->sets[i].tags[way]) != 0;
    return n;
}

/* However large the range, what reads have learned stays: nothing of it is gone over piece by piece. */
static void prefetch_leaves_the_table(void **state)
{
    uint64_t size = 64ull << 30;
    struct vdisk_completion done;
    unsigned slots;
    vdisk *v;

    add_layer("sim:l0", NULL, size, CLUSTER);
    add_layer("sim:l1", "sim:l0", size, CLUSTER);
    add_layer("sim:l2", "sim:l1", size, CLUSTER);
    write_at("sim:l0", 0, 9, SMALL, 0);
    v = open_as("sim:l2", "qcow2", 0);
    expect_byte(v, 0, SMALL, 9);
    slots = slots_in_use(v->top->flat);
    assert_int_equal(slots, 1);
    vdisk_prefetch(q, v, 0, size, 0, 0);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, 0);
    assert_int_equal(slots_in_use(v->top->flat), slots);
    shut(v);
}

/* ---- what is known of the layers below ------------------------------------------------------------------ */

/* So many places, each in another slice of each layer, that the smallest caches do not hold them all. */
enum { PLACES = 400, SLICE = 2 << 20 };

static uint64_t place_at(unsigned i)
{
    return (uint64_t)i * SLICE + (i + i / 32) % 8 * (SLICE / 8);
}

/* In each slice of the layer something, beside the places. */
static void fill_slices(const char *name, unsigned beside, uint8_t byte)
{
    vdisk *v = open_as(name, "qcow2", VDISK_OPEN_RDWR);
    uint8_t *buf = vdisk_alloc_buffer(SMALL);

    memset(buf, byte, SMALL);
    for (unsigned i = 0; i < PLACES; i++)
        OK(vdisk_pwrite(v, buf, SMALL, place_at(i) + beside * SMALL, 0));
    shut(v);
    free(buf);
}

/* A place that was found once needs the top's metadata, and no other's, when the caches have none any more. */
static void known_place_needs_the_top_only(void **state)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .cache_bytes = 1 << 20};
    uint64_t before[3];
    vdisk *v;

    add_layer("sim:l0", NULL, (uint64_t)PLACES * SLICE, SMALL);
    add_layer("sim:l1", "sim:l0", (uint64_t)PLACES * SLICE, SMALL);
    add_layer("sim:l2", "sim:l1", (uint64_t)PLACES * SLICE, SMALL);
    fill_slices("sim:l0", 0, 3);
    fill_slices("sim:l1", 20, 4);
    fill_slices("sim:l2", 30, 5);
    OK(vdisk_open("sim:l2", &how, &v));
    opened = v;
    for (unsigned i = 0; i < PLACES; i++)
        expect_byte(v, place_at(i), SMALL, 3);
    for (unsigned n = 0; n < 3; n++)
        before[n] = reads_of(v, n);
    for (unsigned i = 0; i < PLACES; i++)
        expect_byte(v, place_at(i), SMALL, 3);
    assert_in_range(reads_of(v, 0) - before[0], PLACES / 4, PLACES); /* else nothing is shown */
    assert_int_equal(reads_of(v, 1) - before[1], 0);
    assert_int_equal(reads_of(v, 2) - before[2], PLACES); /* the data */
    shut(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_hidden_may_be_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(compressed_base_is_read_in_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(prefetch_leaves_the_table, setup, teardown),
        cmocka_unit_test_setup_teardown(known_place_needs_the_top_only, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
