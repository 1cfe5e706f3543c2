/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2/meta_cache: bounds, loading, what is evicted and what never is, and readers without a lock. */
#include "tests/unit/op_test.h"
#include "tests/unit/qcow2/meta/slice_race.h"

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "qcow2/format/geometry.h"
#include "qcow2/meta/meta_cache.h"

enum { SLICE = 4096, DISK = 4 << 20 };

/* What wants the lock, with it. */
#define HELD(c, call)                                                                                          \
    ({                                                                                                         \
        pthread_mutex_lock((c)->owner.lock);                                                                   \
        __auto_type held_ret = (call);                                                                         \
        pthread_mutex_unlock((c)->owner.lock);                                                                 \
        held_ret;                                                                                              \
    })
#define HELD_ON(c, s, call)                                                                                    \
    do {                                                                                                       \
        struct q2_slot *on = (s);                                                                              \
        pthread_mutex_lock((c)->owner.lock);                                                                   \
        call;                                                                                                  \
        pthread_mutex_unlock((c)->owner.lock);                                                                 \
    } while (0)
#define q2_cache_find(c, key) HELD(c, q2_cache_find(c, key))
#define q2_cache_install_zero(c, key, host_offset) HELD(c, q2_cache_install_zero(c, key, host_offset))
#define q2_slot_unpin(c, s) HELD_ON(c, s, q2_slot_unpin(c, on))
#define q2_change_begin(c, s) HELD_ON(c, s, q2_change_begin(c, on))
#define q2_change_end(c, s) HELD_ON(c, s, q2_change_end(c, on))
#define q2_slot_copied(c, s) HELD_ON(c, s, q2_slot_copied(c, on))
#define q2_slot_flushed(c, s, rc) HELD_ON(c, s, q2_slot_flushed(c, on, rc))
#define q2_cache_moved(c, key, n, host_offset) HELD_ON(c, NULL, (void)on; q2_cache_moved(c, key, n, host_offset))

static vdisk_queue *queue;

/* A cache, and what it is of. */
struct disk {
    struct q2_cache cache;
    pthread_mutex_t lock;
    struct backend *file; /* a fault backend on memory: each word holds its own offset */
};

/* Room that only a flush could make: no case here gets so far. */
static void make_clean(void *arg, struct op *op)
{
    fail_msg("the cache asks for a flush");
}

static void disk_init(struct disk *d, uint64_t cache_bytes, uint64_t keys)
{
    struct backend *memory;
    uint64_t words[SLICE / 8];

    memset(d, 0, sizeof *d);
    assert_int_equal(memory_backend_create("memory", DISK, &memory), 0);
    for (uint64_t at = 0; at < DISK; at += SLICE) {
        for (uint64_t i = 0; i < SLICE / 8; i++)
            words[i] = htobe64(at + i * 8);
        assert_int_equal(memory_backend_write(memory, at, words, SLICE), 0);
    }
    assert_int_equal(fault_backend_create(memory, &d->file), 0);
    queue_turn(queue); /* this thread's queue from now on */
    pthread_mutex_init(&d->lock, NULL);
    assert_int_equal(q2_cache_init(&d->cache, SLICE, cache_bytes, keys), 0);
    q2_cache_attach(&d->cache,
                    &(struct q2_cache_owner){.lock = &d->lock, .file = d->file, .make_clean = make_clean});
}

static void disk_finish(struct disk *d)
{
    q2_cache_finish(&d->cache);
    pthread_mutex_destroy(&d->lock);
    backend_close(d->file);
}

/* Slice `key` is at key * SLICE here. */
static int load(struct disk *d, uint64_t key)
{
    struct waiter w;

    waiter_init(&w, queue);
    q2_cache_load(&d->cache, key, key * SLICE, &w.op);
    assert_int_equal(w.woken, 0);
    while (!w.woken)
        if (!queue_turn(queue))
            queue_sleep(queue, 1, NULL);
    return w.rc;
}

static void assert_content(struct q2_cache *c, uint64_t key, uint64_t first)
{
    uint32_t seq = 0;
    struct q2_slot *s = q2_read_begin(c, key, &seq);

    assert_non_null(s);
    assert_int_equal(q2_read_be64(c, s, 0), first);
    assert_int_equal(q2_read_be64(c, s, SLICE - 8), first ? first + SLICE - 8 : 0);
    assert_true(q2_read_end(s, seq));
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

static void the_bound_holds(void **state)
{
    static const uint64_t bytes[] = {1 << 20, 3 << 20, 32 << 20, 1ull << 30};
    static const uint64_t keys[] = {1, 31, 33, 1000, 100000, 1ull << 40};
    struct q2_cache c;

    for (size_t i = 0; i < ARRAY_LEN(bytes); i++)
        for (size_t k = 0; k < ARRAY_LEN(keys); k++)
            for (uint32_t slice = 512; slice <= SLICE; slice *= 2) {
                assert_int_equal(q2_cache_init(&c, slice, bytes[i], keys[k]), 0);
                assert_true((uint64_t)c.slots * slice <= bytes[i]);
                assert_int_equal(c.slots % Q2_CACHE_WAYS, 0);
                assert_true(is_power_of_two(c.sets_mask + 1) && (c.sets_mask + 1) * Q2_CACHE_WAYS == c.slots);
                /* All of the image, if the bound allows twice that; no more than needed. */
                assert_true(c.slots >= keys[k] || 2ull * c.slots * slice > bytes[i] || c.slots >= keys[k] / 2);
                assert_true(c.slots <= 2 * max_u64(keys[k], 4 * Q2_CACHE_WAYS));
                q2_cache_finish(&c);
            }
    /* Too small a bound still gives some. */
    assert_int_equal(q2_cache_init(&c, SLICE, 1, 1000), 0);
    assert_true(c.slots > 0);
    q2_cache_finish(&c);
    q2_cache_finish(&c);
}

/* ---- loading ------------------------------------------------------------------------------------------- */

static void loads_and_finds(void **state)
{
    struct disk d;
    uint32_t seq = 0;

    disk_init(&d, 1 << 20, 256);
    assert_null(q2_cache_find(&d.cache, 5));
    assert_null(q2_read_begin(&d.cache, 5, &seq));
    for (uint64_t key = 1; key <= 100; key++) {
        assert_int_equal(load(&d, key), 0);
        assert_content(&d.cache, key, key * SLICE);
        assert_non_null(q2_cache_find(&d.cache, key));
    }
    assert_int_equal(fault_calls(d.file, IO_READ), 100);
    assert_int_equal(load(&d, 7), 0); /* there already */
    assert_int_equal(fault_calls(d.file, IO_READ), 100);
    disk_finish(&d);
}

static void waiters_share_one_read(void **state)
{
    struct waiter w[5];
    struct disk d;

    disk_init(&d, 1 << 20, 256);
    for (int i = 0; i < 5; i++) {
        waiter_init(&w[i], queue);
        q2_cache_load(&d.cache, 9, 9 * SLICE, &w[i].op);
    }
    assert_null(q2_cache_find(&d.cache, 9));
    run_all_ready(queue);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(w[i].woken, 1);
        assert_int_equal(w[i].rc, 0);
    }
    assert_int_equal(fault_calls(d.file, IO_READ), 1);
    disk_finish(&d);
}

static void a_failed_read_leaves_nothing(void **state)
{
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_READ), .type = "slice_load", .error = EIO, .nth = 1};
    struct waiter w[2];
    struct disk d;

    disk_init(&d, 1 << 20, 256);
    assert_true(fault_add_rule(d.file, &rule) >= 0);
    for (int i = 0; i < 2; i++) {
        waiter_init(&w[i], queue);
        q2_cache_load(&d.cache, 3, 3 * SLICE, &w[i].op);
    }
    run_all_ready(queue);
    assert_int_equal(w[0].rc, -EIO);
    assert_int_equal(w[1].rc, -EIO);
    assert_null(q2_cache_find(&d.cache, 3));
    assert_int_equal(load(&d, 3), 0); /* the next try reads again */
    assert_content(&d.cache, 3, 3 * SLICE);
    disk_finish(&d);
}

/* ---- eviction ------------------------------------------------------------------------------------------ */

/* Key number i of the first set. */
static uint64_t in_set(const struct q2_cache *c, uint64_t i)
{
    return i * (c->sets_mask + 1);
}

static void the_unused_goes_first(void **state)
{
    struct disk d;
    struct q2_cache *c = &d.cache;

    disk_init(&d, 32 * SLICE, 1 << 20);
    for (uint64_t i = 0; i < Q2_CACHE_WAYS; i++)
        assert_int_equal(load(&d, in_set(c, i)), 0);
    assert_int_equal(load(&d, in_set(c, 8)), 0); /* all were referenced: takes the mark from each, one goes */
    for (uint64_t i = 0; i < Q2_CACHE_WAYS; i++)
        if (i != 5)
            q2_cache_find(c, in_set(c, i));
    /* Whatever is loaded now, 5 is the first to go, unless it went before. */
    assert_int_equal(load(&d, in_set(c, 9)), 0);
    assert_null(q2_cache_find(c, in_set(c, 5)));
    assert_content(c, in_set(c, 9), in_set(c, 9) * SLICE);
    disk_finish(&d);
}

static void dirty_and_pinned_stay(void **state)
{
    struct q2_slot *pinned, *s;
    struct waiter w;
    struct disk d;
    struct q2_cache *c = &d.cache;

    disk_init(&d, 32 * SLICE, 1 << 20);
    for (uint64_t i = 0; i < Q2_CACHE_WAYS - 1; i++) {
        s = q2_cache_install_zero(c, in_set(c, i), i * SLICE);
        assert_non_null(s);
        assert_true(q2_slot_is(s, Q2_DIRTY));
        assert_content(c, in_set(c, i), 0);
        q2_slot_pin(s); /* else it would be flushed, and not waited for */
    }
    assert_int_equal(c->dirty_count, Q2_CACHE_WAYS - 1);
    assert_int_equal(load(&d, in_set(c, 20)), 0);
    pinned = q2_cache_find(c, in_set(c, 20));
    q2_slot_pin(pinned);
    assert_null(q2_cache_install_zero(c, in_set(c, 30), 0));
    /* One that has to be loaded waits until the pin ends. */
    waiter_init(&w, queue);
    q2_cache_load(c, in_set(c, 31), 0, &w.op);
    run_all_ready(queue);
    assert_int_equal(w.woken, 0);
    q2_slot_unpin(c, pinned);
    run_all_ready(queue);
    assert_int_equal(w.woken, 1);
    assert_int_equal(load(&d, in_set(c, 31)), 0);
    assert_null(q2_cache_find(c, in_set(c, 20)));
    for (uint64_t i = 0; i < Q2_CACHE_WAYS - 1; i++)
        assert_non_null(q2_cache_find(c, in_set(c, i)));
    disk_finish(&d);
}

/* Looks for a slice until it has seen it. */
struct seeker {
    struct op     op;
    struct disk *disk;
    uint64_t      key;
    bool          found;
};

enum seeker_state { SEEKER_START = OP_START, SEEKER_LOADED };

static void seeker_step(struct op *op)
{
    struct seeker *s = container_of(op, struct seeker, op);

    OP_BEGIN(enum seeker_state, op)
    while (!q2_cache_find(&s->disk->cache, s->key))
        OP_AWAIT(op, SEEKER_LOADED, q2_cache_load(&s->disk->cache, s->key, s->key * SLICE, op));
    s->found = true;
    return;
    OP_END
}

OP_TYPE(seeker, seeker_step, "START", "SEEKER_LOADED");

/* All but one slot of a set are in use; two queues, whose reads take the same time, both need that one. */
static void two_queues_share_the_last(void **state)
{
    vdisk_queue *queues[2] = {op_test_queue(), op_test_queue()};
    struct seeker seekers[2];
    struct disk d;

    disk_init(&d, 1 << 20, 4096);
    struct q2_cache *c = &d.cache;
    for (uint64_t i = 0; i < Q2_CACHE_WAYS - 1; i++) {
        assert_int_equal(load(&d, in_set(c, i)), 0);
        q2_slot_pin(q2_cache_find(c, in_set(c, i)));
    }
    for (unsigned i = 0; i < 2; i++) {
        seekers[i] = (struct seeker){.disk = &d, .key = in_set(c, Q2_CACHE_WAYS + i)};
        queue_current = queues[i];
        op_init(&seekers[i].op, queues[i], &seeker_type);
        op_start(&seekers[i].op);
    }
    /* Two turns each: a read ends, and who waited for it looks. */
    for (unsigned turn = 0; turn < 1000 && !(seekers[0].found && seekers[1].found); turn++)
        queue_turn(queues[turn / 2 % 2]);
    assert_true(seekers[0].found && seekers[1].found);
    for (uint64_t i = 0; i < Q2_CACHE_WAYS - 1; i++)
        q2_slot_unpin(c, q2_cache_find(c, in_set(c, i)));
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(vdisk_queue_destroy(queues[i]), 0);
    disk_finish(&d);
}

static void tables_that_move(void **state)
{
    struct disk d;
    struct q2_cache *c = &d.cache;

    disk_init(&d, 1 << 20, 256);
    for (uint64_t key = 10; key < 20; key++)
        assert_int_equal(load(&d, key), 0);
    q2_cache_moved(c, 12, 100, 0x700000);
    for (uint64_t key = 10; key < 20; key++)
        assert_int_equal(q2_cache_find(c, key)->host_offset,
                         key < 12 ? key * SLICE : 0x700000 + (key - 12) * SLICE);
    disk_finish(&d);
}

/* ---- linear slices --------------------------------------------------------------------------------------- */

/* On disk, slice `key` maps to host clusters from host_offset on; `odd`: but for the last one. */
static void make_linear(struct disk *d, uint64_t key, uint64_t host_offset, bool odd)
{
    uint64_t words[SLICE / 8];

    for (uint64_t i = 0; i < SLICE / 8; i++)
        words[i] = htobe64(UINT64_C(1) << 63 | (host_offset + (i << 16)));
    if (odd)
        words[SLICE / 8 - 1] = 0;
    assert_int_equal(memory_backend_write(fault_backend_child(d->file), key * SLICE, words, SLICE), 0);
}

static void a_linear_slice_needs_no_slot(void **state)
{
    struct q2_geometry geo = {.cluster_bits = 16, .cluster_size = 65536, .l2_entry_size = 8, .version = 3};
    struct disk d;
    struct q2_cache *c = &d.cache;
    uint64_t host_offset;

    disk_init(&d, 32 * SLICE, 1 << 20);
    assert_int_equal(q2_cache_keep_linear(c, &geo, 8 * 64, 1 << 20), 0);
    assert_int_equal(c->linear_keys, 64); /* the bound */
    make_linear(&d, 4, 1 << 30, false);
    make_linear(&d, 5, 1 << 30, true);
    assert_false(q2_linear_host(c, 4, &host_offset));
    assert_int_equal(load(&d, 4), 0);
    assert_int_equal(load(&d, 5), 0);
    assert_true(q2_linear_host(c, 4, &host_offset));
    assert_int_equal(host_offset, 1 << 30);
    assert_false(q2_linear_host(c, 5, &host_offset));
    assert_false(q2_linear_host(c, 64, &host_offset)); /* past what is kept */
    /* Evicted, it is still known; and again in the cache, it is until it changes. */
    for (uint64_t i = 2; q2_cache_find(c, 4); i++)
        for (uint64_t k = i; k < i + Q2_CACHE_WAYS; k++)
            assert_int_equal(load(&d, 4 + 4 * k), 0);
    assert_true(q2_linear_host(c, 4, &host_offset));
    assert_int_equal(load(&d, 4), 0);
    assert_true(q2_linear_host(c, 4, &host_offset));
    q2_change_begin(c, q2_cache_find(c, 4));
    assert_false(q2_linear_host(c, 4, &host_offset));
    q2_change_end(c, q2_cache_find(c, 4));
    assert_false(q2_linear_host(c, 4, &host_offset));
    disk_finish(&d);
}

/* A slice that became linear by changes is known as such once it is clean and gone, not before. */
static void what_is_not_on_disk_is_not_linear(void **state)
{
    struct q2_geometry geo = {.cluster_bits = 16, .cluster_size = 65536, .l2_entry_size = 8, .version = 3};
    struct disk d;
    struct q2_cache *c = &d.cache;
    uint64_t host_offset;
    struct q2_slot *s;

    disk_init(&d, 32 * SLICE, 1 << 20);
    assert_int_equal(q2_cache_keep_linear(c, &geo, 8 * 64, 64), 0);
    make_linear(&d, 4, 1 << 30, true);
    assert_int_equal(load(&d, 4), 0);
    s = q2_cache_find(c, 4);
    q2_change_begin(c, s);
    q2_slot_put_be64(c, s, SLICE - 8, UINT64_C(1) << 63 | ((1 << 30) + ((SLICE / 8 - 1) << 16)));
    q2_change_end(c, s);
    assert_false(q2_linear_host(c, 4, &host_offset));
    /* Flushed, as far as the cache can tell. */
    q2_slot_copied(c, s);
    q2_slot_flushed(c, s, 0);
    for (uint64_t i = 2; q2_cache_find(c, 4); i++)
        for (uint64_t k = i; k < i + Q2_CACHE_WAYS; k++)
            assert_int_equal(load(&d, 4 + 4 * k), 0);
    assert_true(q2_linear_host(c, 4, &host_offset));
    disk_finish(&d);
}

/* ---- readers without a lock ------------------------------------------------------------------------------ */

static void a_reader_notices_changes(void **state)
{
    struct q2_slot *s, *seen;
    struct disk d;
    struct q2_cache *c = &d.cache;
    uint32_t seq = 0;

    disk_init(&d, 32 * SLICE, 1 << 20);
    assert_int_equal(load(&d, 0), 0);
    s = q2_cache_find(c, 0);
    seen = q2_read_begin(c, 0, &seq);
    assert_ptr_equal(seen, s);
    assert_true(q2_read_settled(s));
    q2_change_begin(c, s);
    assert_false(q2_read_settled(s)); /* before there is anything new to be seen */
    assert_false(q2_read_end(seen, seq));
    assert_null(q2_read_begin(c, 0, &seq));
    q2_slot_put_be64(c, s, 8, 0x1122334455667788ull);
    q2_change_end(c, s);
    assert_true(q2_slot_is(s, Q2_DIRTY));
    assert_int_equal(c->dirty_count, 1);
    seen = q2_read_begin(c, 0, &seq);
    assert_int_equal(q2_read_be64(c, seen, 8), 0x1122334455667788ull);
    assert_true(q2_read_end(seen, seq));
    /* Eviction, too: the slot has other content then. */
    assert_int_equal(load(&d, in_set(c, 1)), 0);
    seen = q2_read_begin(c, in_set(c, 1), &seq);
    for (uint64_t i = 2; q2_cache_find(c, in_set(c, 1)); i++)
        for (uint64_t k = i; k < i + Q2_CACHE_WAYS; k++)
            assert_int_equal(load(&d, in_set(c, k)), 0);
    assert_false(q2_read_end(seen, seq));
    disk_finish(&d);
}

enum { READERS = 2, KEYS = 64, CHANGES = 20000 };

static struct {
    struct disk disk;
    _Atomic bool     stop;
    _Atomic uint64_t hits, wrong;
} shared;

/* All words of a slice say the same, key in the upper half: else a reader was let through too early. */
static void *read_without_lock(void *arg)
{
    struct q2_cache *c = &shared.disk.cache;
    uint64_t seed = 1 + (uintptr_t)arg;

    while (!atomic_load(&shared.stop)) {
        uint64_t key = xorshift(&seed) % KEYS, a, b;
        uint32_t seq = 0;
        struct q2_slot *s = q2_read_begin(c, key, &seq);

        if (!s)
            continue;
        a = q2_read_be64(c, s, 0);
        b = q2_read_be64(c, s, SLICE - 8);
        if (!q2_read_end(s, seq))
            continue;
        atomic_fetch_add(&shared.hits, 1);
        if (a != b || (a != 0 && a >> 32 != key))
            atomic_fetch_add(&shared.wrong, 1);
    }
    return NULL;
}

/* Change a slice, or drop all changes so that slices can be evicted. */
static void change_one(struct q2_cache *c, uint64_t key, uint64_t n)
{
    struct q2_slot *s = q2_cache_find(c, key);

    if (!s)
        s = q2_cache_install_zero(c, key, key * SLICE);
    if (s) {
        q2_change_begin(c, s);
        q2_slot_put_be64(c, s, 0, key << 32 | n);
        q2_slot_put_be64(c, s, SLICE - 8, key << 32 | n);
        q2_change_end(c, s);
        return;
    }
    while (!list_empty(&c->dirty_list)) {
        s = container_of(c->dirty_list.next, struct q2_slot, dirty_node);
        q2_slot_copied(c, s);
        q2_slot_flushed(c, s, 0);
    }
}

static void readers_see_whole_slices(void **state)
{
    pthread_t threads[READERS];
    uint64_t seed = 31, n = 0;

    disk_init(&shared.disk, 32 * SLICE, 1 << 20); /* half of the keys fit */
    for (uintptr_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_without_lock, (void *)i), 0);
    while (n < CHANGES || atomic_load(&shared.hits) < CHANGES)
        change_one(&shared.disk.cache, xorshift(&seed) % KEYS, ++n & 0xffffffff);
    atomic_store(&shared.stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    print_message("%llu changes, %llu hits\n", (unsigned long long)n, (unsigned long long)shared.hits);
    assert_int_equal(shared.wrong, 0);
    disk_finish(&shared.disk);
}

/* One thread changes and flushes, another asks whether what it reads is on disk. */
static void unsettled_at_every_moment(void **state)
{
    struct slice_race race = slice_race_run(CHANGES);

    print_message("%llu looks, %llu on disk\n", (unsigned long long)race.looks, (unsigned long long)race.settled);
    assert_int_equal(race.lies, 0);
    assert_true(race.settled > 0 && race.settled < race.looks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bound_holds),
        cmocka_unit_test(loads_and_finds),
        cmocka_unit_test(waiters_share_one_read),
        cmocka_unit_test(a_failed_read_leaves_nothing),
        cmocka_unit_test(the_unused_goes_first),
        cmocka_unit_test(dirty_and_pinned_stay),
        cmocka_unit_test(two_queues_share_the_last),
        cmocka_unit_test(tables_that_move),
        cmocka_unit_test(a_linear_slice_needs_no_slot),
        cmocka_unit_test(what_is_not_on_disk_is_not_linear),
        cmocka_unit_test(a_reader_notices_changes),
        cmocka_unit_test(readers_see_whole_slices),
        cmocka_unit_test(unsettled_at_every_moment),
    };
    int rc;

    queue = op_test_queue();
    queue_turn(queue);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(queue);
    return rc;
}
