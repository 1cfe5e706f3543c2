/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2/space against a model: an array that says how many hold each cluster. After each step every refcount, as
 * it is in memory, must be what holds the cluster: the model's owners, a lease, a list of what waits to be given
 * back, or the metadata itself. There is no image: metadata, space, a flush to make it clean, a file in memory.
 */
#include "tests/unit/op_test.h"

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/loop/service.h"
#include "qcow2/flush/flush.h"
#include "qcow2/space/space.h"
#include "qcow2/space/survey.h"
#include "tests/lib/rng.h"

enum { BITS = 9, CLUSTER = 1 << BITS, CLUSTERS = 1 << 18, BEFORE = 50, STEPS = 1500, ORDER = 6 };

static vdisk_queue *queue;

static struct world {
    struct q2_meta meta;
    struct q2_space space;
    struct q2_flush flush;
    vdisk v;
    struct layer layer;
    struct backend *file;
    struct rng rng;
    uint8_t owners[CLUSTERS];
    uint8_t holders[CLUSTERS]; /* of each cluster, as found last */
    bool fixed;
    unsigned full;
} w;

static struct q2_l1 no_tables;

#define LOCKED(call)                                                                                           \
    do {                                                                                                       \
        pthread_mutex_lock(&w.meta.lock);                                                                      \
        call;                                                                                                  \
        pthread_mutex_unlock(&w.meta.lock);                                                                    \
    } while (0)

/* ---- the world ------------------------------------------------------------------------------------------ */

static void make_clean(struct q2_meta *meta, struct op *op)
{
    q2_flush(&w.flush, op);
}

/* Header, refcount table, one block; behind them clusters that up to three have. */
static void write_disk(void)
{
    uint8_t table[CLUSTER] = {0}, block[CLUSTER] = {0};

    put_be64(table, 2 * CLUSTER);
    for (unsigned i = 0; i < BEFORE; i++) {
        w.owners[i] = i < 3 ? 0 : (uint8_t)rng_below(&w.rng, 4);
        q2_refcount_set(&w.meta.geo, block, i, i < 3 ? 1 : w.owners[i]);
    }
    assert_int_equal(memory_backend_write(w.file, CLUSTER, table, CLUSTER), 0);
    assert_int_equal(memory_backend_write(w.file, 2 * CLUSTER, block, CLUSTER), 0);
}

static void world_init(uint64_t seed, bool fixed)
{
    struct memory_options options = {.size = (fixed ? 200 : BEFORE) * CLUSTER, .fixed = fixed};

    memset(&w, 0, sizeof w);
    rng_init(&w.rng, seed);
    w.fixed = fixed;
    assert_int_equal(memory_backend_create_with("memory", &options, &w.file), 0);
    assert_int_equal(gate_init(&w.v.requests), 0);
    w.v.top = &w.layer;
    w.layer.volume = &w.v;
    w.layer.file = w.layer.data = w.file;
    w.layer.name = strdup("memory");
    w.layer.format_state = &w.meta;
    pthread_mutex_init(&w.v.service_lock, NULL);
    q2_meta_state_init(&w.meta, &w.layer);
    w.meta.make_clean = make_clean;
    q2_geometry_init(&w.meta.geo, 3, BITS, ORDER, false, false);
    w.meta.header = (struct q2_header){ /* its L1 table is out of the way */
        .geo = w.meta.geo, .size = 1 << 20, .l1_offset = UINT64_C(1) << 40,
        .l1_entries = (uint32_t)q2_l1_entries(&w.meta.geo, 1 << 20), .reftable_offset = CLUSTER,
        .reftable_clusters = 1, .nb_snapshots = 2};
    write_disk();
    w.meta.reftable_entries = q2_reftable_entries(&w.meta.geo, 1);
    w.meta.reftable = calloc(w.meta.reftable_entries, sizeof *w.meta.reftable);
    w.meta.reftable[0] = 2 * CLUSTER;
    w.meta.l1 = &no_tables;
    assert_int_equal(q2_table_init(&w.meta.l1_pages, 0, 8, CLUSTER), 0);
    assert_int_equal(q2_table_init(&w.meta.reftable_pages, CLUSTER, CLUSTER, CLUSTER), 0);
    w.meta.reftable_start = CLUSTER;
    w.meta.reftable_end = 2 * CLUSTER;
    assert_int_equal(q2_meta_caches_init(&w.meta, 0), 0);
    q2_space_state_init(&w.space, &w.meta);
    q2_space_state_setup(&w.space);
    q2_flush_state_init(&w.flush, &w.meta, &w.space);
}

static void world_finish(void)
{
    w.meta.l1 = NULL;
    q2_space_state_finish(&w.space);
    q2_meta_state_finish(&w.meta);
    service_leave(&w.v);
    pthread_mutex_destroy(&w.v.service_lock);
    gate_finish(&w.v.requests);
    free(w.layer.name);
    backend_close(w.file);
}

static int await(struct waiter *waiter)
{
    while (!waiter->woken)
        if (!queue_turn(queue))
            queue_sleep(queue, 1, NULL);
    return waiter->rc;
}

/* ---- the model ------------------------------------------------------------------------------------------ */

static void hold(uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        assert_true(i < CLUSTERS);
        w.holders[i]++;
    }
}

static void find_holders(void)
{
    const struct q2_meta *m = &w.meta;

    memcpy(w.holders, w.owners, sizeof w.holders);
    hold(0, 1);
    hold(m->header.reftable_offset >> BITS, m->header.reftable_clusters);
    for (uint64_t i = 0; i < m->reftable_entries; i++)
        if (m->reftable[i] != 0)
            hold(m->reftable[i] >> BITS, 1);
    for (unsigned i = 0; i < Q2_LEASES; i++)
        hold(w.space.leases[i].next, w.space.leases[i].end - w.space.leases[i].next);
    for (unsigned i = 0; i < Q2_FREED_STAGES; i++)
        for (size_t k = 0; k < w.space.freed[i].count; k++)
            hold(w.space.freed[i].list[k].cluster_index, w.space.freed[i].list[k].clusters);
}

/* Behind it no cluster can have a refcount. */
static uint64_t reach(void)
{
    uint64_t n = w.meta.reftable_entries;

    while (n > 0 && w.meta.reftable[n - 1] == 0)
        n--;
    return min_u64(CLUSTERS, n << w.meta.geo.refblock_bits);
}

/* As it is in memory, or (`on_disk`) in the file. */
static uint64_t refcount(uint64_t cluster, bool on_disk)
{
    const struct q2_geometry *g = &w.meta.geo;
    uint64_t block = cluster >> g->refblock_bits, mask = (1ull << w.meta.refslice_bits) - 1;
    uint8_t bytes[CLUSTER];
    struct q2_slot *s = NULL;

    if (!on_disk)
        LOCKED(s = q2_cache_find(&w.meta.refcounts, cluster >> w.meta.refslice_bits));
    if (block >= w.meta.reftable_entries || w.meta.reftable[block] == 0)
        return 0;
    if (s)
        return q2_refcount_get(g, (const uint8_t *)q2_slot_data(&w.meta.refcounts, s), cluster & mask);
    memory_backend_read(w.file, w.meta.reftable[block], bytes, CLUSTER);
    return q2_refcount_get(g, bytes, cluster & ((1ull << g->refblock_bits) - 1));
}

/* The content of a cluster that has an owner: it stays until nobody has it. */
static void write_pattern(uint64_t cluster)
{
    uint64_t words[CLUSTER / 8];

    for (unsigned i = 0; i < CLUSTER / 8; i++)
        words[i] = ~cluster;
    assert_int_equal(memory_backend_write(w.file, cluster << BITS, words, CLUSTER), 0);
}

static bool has_pattern(uint64_t cluster)
{
    uint64_t words[CLUSTER / 8];

    memory_backend_read(w.file, cluster << BITS, words, CLUSTER);
    for (unsigned i = 0; i < CLUSTER / 8; i++)
        if (words[i] != ~cluster)
            return false;
    return true;
}

static void check(const char *after)
{
    assert_false(atomic_load(&w.meta.broken));
    find_holders();
    for (uint64_t i = reach(); i < CLUSTERS; i++)
        assert_int_equal(w.holders[i], 0);
    for (uint64_t i = 0; i < reach(); i++) {
        if (refcount(i, false) != w.holders[i])
            fail_msg("after %s: cluster %d has refcount %d, and %d hold it", after, (int)i,
                     (int)refcount(i, false), (int)w.holders[i]);
        if (w.owners[i] > 0 && i >= BEFORE && !has_pattern(i))
            fail_msg("after %s: cluster %d has lost its content", after, (int)i);
    }
}

/* One past the last cluster that somebody holds, by the model. */
static uint64_t last_end(void)
{
    uint64_t end = CLUSTERS;

    find_holders();
    while (w.holders[end - 1] == 0)
        end--;
    return end;
}

/* ---- steps ---------------------------------------------------------------------------------------------- */

/* Clusters that have been given out: nobody has them, and they are zero if it was said so. */
static void own(const struct q2_run *run)
{
    static const uint8_t zeros[CLUSTER];
    uint8_t bytes[CLUSTER];

    for (uint64_t i = run->host_offset >> BITS, end = i + run->clusters; i < end; i++) {
        assert_true(i < CLUSTERS);
        assert_int_equal(w.owners[i], 0);
        memory_backend_read(w.file, i << BITS, bytes, CLUSTER);
        assert_true(!run->zero || memcmp(bytes, zeros, CLUSTER) == 0);
        w.owners[i] = 1;
        write_pattern(i);
    }
}

/* There was no space: then nobody has kept any from us. */
static void expect_full(int rc)
{
    assert_int_equal(rc, -ENOSPC);
    assert_true(w.fixed);
    find_holders();
    for (uint64_t i = 0; i < w.space.limit_clusters; i++)
        assert_true(w.holders[i] > 0);
    w.full++;
}

/* Several at once, some of which are given back unused. */
static void take(void)
{
    enum { AT_ONCE = 3 };
    struct q2_run runs[AT_ONCE];
    struct waiter waiters[AT_ONCE];
    bool exact = rng_chance(&w.rng, 20);
    unsigned n = (unsigned)rng_between(&w.rng, 1, AT_ONCE);

    for (unsigned i = 0; i < n; i++) {
        waiter_init(&waiters[i], queue);
        q2_alloc(&w.space, rng_between(&w.rng, 1, w.fixed ? 12 : 60), exact, &runs[i], &waiters[i].op);
    }
    for (unsigned i = 0; i < n; i++)
        await(&waiters[i]);
    for (unsigned i = 0; i < n; i++) {
        if (waiters[i].rc < 0)
            assert_int_equal(waiters[i].rc, -ENOSPC);
        else if (rng_chance(&w.rng, 15))
            LOCKED(q2_return_run(&w.space, &runs[i]));
        else
            own(&runs[i]);
    }
    if (n == 1 && !exact && waiters[0].rc < 0)
        expect_full(waiters[0].rc);
}

static void take_leased(void)
{
    uint64_t want = rng_between(&w.rng, 1, 12);
    struct waiter waiter;
    struct q2_run run;

    waiter_init(&waiter, queue);
    q2_lease_fill(&w.space, &waiter.op);
    if (await(&waiter) < 0) {
        expect_full(waiter.rc);
        return;
    }
    LOCKED(assert_true(q2_lease_take(&w.space, queue, want, &run)));
    assert_true(run.clusters > 0 && run.clusters <= want);
    own(&run);
}

/* For a table, under the lock of such. */
static void take_for_table(void)
{
    struct range_lock lock;
    struct waiter waiter;
    struct q2_run run;

    assert_true(range_lock_try(&w.meta.structure, &lock, 0, 1));
    waiter_init(&waiter, queue);
    q2_alloc_structure(&w.space, 1, true, Q2_META_L2, &run, &waiter.op);
    if (await(&waiter) == 0 && rng_chance(&w.rng, 50))
        LOCKED(q2_return_structure(&w.space, &run, Q2_META_L2));
    else if (waiter.rc == 0)
        own(&run);
    range_unlock(&w.meta.structure, &lock);
}

/* An owned cluster, by chance; 0: there is none. */
static uint64_t find_owned(void)
{
    uint64_t first = rng_below(&w.rng, last_end());

    for (uint64_t i = first; i > 0; i--)
        if (w.owners[i] > 0)
            return i;
    return 0;
}

static void drop(void)
{
    uint64_t first = find_owned(), n = 1;

    if (first == 0)
        return;
    while (n < 6 && w.owners[first + n] > 0)
        n++;
    if (rng_chance(&w.rng, 30)) {
        struct q2_mapping m = {
            .type = Q2_CLUSTER_COMPRESSED, .host_offset = (first << BITS) + 7, .compressed_len = 100};
        n = 1;
        if (w.owners[first + 1] > 0 && rng_chance(&w.rng, 50))
            m.compressed_len = CLUSTER, n = 2;
        LOCKED(q2_drop(&w.space, &m));
    } else if (rng_chance(&w.rng, 30)) {
        struct q2_mapping m = {.type = Q2_CLUSTER_NORMAL, .host_offset = first << BITS, .has_host = true};
        n = 1;
        LOCKED(q2_drop(&w.space, &m));
    } else {
        LOCKED(q2_drop_clusters(&w.space, first << BITS, n));
    }
    for (uint64_t i = first; i < first + n; i++)
        w.owners[i]--;
}

static void flush(void)
{
    struct waiter waiter;

    waiter_init(&waiter, queue);
    q2_flush(&w.flush, &waiter.op);
    assert_int_equal(await(&waiter), 0);
    find_holders();
    for (uint64_t i = 0; i < reach(); i++) /* a flush may reclaim, which is for the next one to write */
        assert_true(refcount(i, true) >= w.holders[i]);
}

static void reclaim(void)
{
    for (unsigned i = 0; i < 2; i++) {
        struct waiter waiter;

        flush();
        waiter_init(&waiter, queue);
        q2_reclaim(&w.space, &waiter.op);
        assert_int_equal(await(&waiter), 0);
    }
    assert_int_equal(w.space.freed[Q2_FREED_NOW].count + w.space.freed[Q2_FREED_DURABLE].count, 0);
}

static void return_leases(void)
{
    LOCKED(q2_lease_return_all(&w.space));
}

/* All is given back; the file ends behind what somebody has, if the rest is ours. */
static void cut(void)
{
    uint64_t end;

    assert_int_equal(q2_trim_run(&w.space, queue, rng_chance(&w.rng, 50)), 0);
    assert_int_equal(w.space.freed[Q2_FREED_NOW].count + w.space.freed[Q2_FREED_DURABLE].count, 0);
    end = last_end();
    if (w.fixed)
        assert_int_equal(backend_size(w.file), 200 * CLUSTER);
    else if (end > BEFORE)
        assert_int_equal(backend_size(w.file), end << BITS);
    else
        assert_true(backend_size(w.file) >= end << BITS);
    for (uint64_t i = 0; i < reach(); i++)
        assert_int_equal(refcount(i, true), w.holders[i]);
}

/* What was decided before the piece was placed, that its block is missing, is carried out while it is there. */
static void make_block_late(const struct q2_layout *l)
{
    struct waiter waiter;

    waiter_init(&waiter, queue);
    q2_refblock_make(&w.space, q2_reftable_index(&w.meta.geo, l->first_cluster) + rng_below(&w.rng, l->refblocks),
                     false, rng_chance(&w.rng, 50), &waiter.op);
    assert_int_equal(await(&waiter), 0);
}

static void write_piece(const struct q2_layout *l)
{
    uint8_t buf[CLUSTER];

    for (uint64_t at = l->refblocks_offset; at < l->data_offset; at += CLUSTER) {
        q2_layout_fill(l, at, buf, CLUSTER);
        assert_int_equal(memory_backend_write(w.file, at, buf, CLUSTER), 0);
    }
    for (uint64_t i = l->l2_offset >> BITS; i << BITS < q2_layout_end(l); i++)
        write_pattern(i);
}

static bool find_piece(struct q2_layout *l)
{
    uint64_t block, clusters = rng_between(&w.rng, 1, 300);
    enum q2_append_place place;

    while ((place = q2_append_begin(&w.space, clusters, l, &block)) == Q2_APPEND_NEEDS_TABLE) {
        struct waiter waiter;
        waiter_init(&waiter, queue);
        q2_refblock_make(&w.space, block, true, false, &waiter.op);
        assert_int_equal(await(&waiter), 0);
    }
    return place == Q2_APPEND_PLACED;
}

/* A piece behind the end: others take and drop clusters meanwhile; then it is entered, or given up. */
static void append(void)
{
    struct q2_layout l;

    if (!find_piece(&l))
        return;
    check("a piece was placed");
    for (uint64_t n = rng_below(&w.rng, 4); n > 0; n--) {
        make_block_late(&l);
        take();
        take_leased();
        drop();
        check("others beside a piece");
    }
    if (rng_chance(&w.rng, 30)) {
        LOCKED(q2_append_give_up(&w.space, &l, true));
        return;
    }
    write_piece(&l);
    LOCKED(q2_append_enter(&w.space, &l));
    for (uint64_t i = l.l2_offset >> BITS; i << BITS < q2_layout_end(&l); i++) {
        assert_int_equal(w.owners[i], 0);
        w.owners[i] = 1;
    }
}

static void look_at_end(void)
{
    uint64_t end = 0;

    assert_int_equal(q2_highest(&w.space, queue, &end), 0);
    assert_int_equal(end, last_end() << BITS);
}

static const struct step {
    const char *name;
    void (*run)(void);
    unsigned weight;
} steps[] = {
    {"take", take, 30},          {"lease", take_leased, 30}, {"table", take_for_table, 5}, {"drop", drop, 45},
    {"flush", flush, 5},         {"reclaim", reclaim, 5},    {"return", return_leases, 2}, {"cut", cut, 3},
    {"highest", look_at_end, 2}, {"append", append, 1},
};

static void run_steps(uint64_t seed, bool fixed)
{
    unsigned all = 0;

    world_init(seed, fixed);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        all += steps[i].weight;
    check("nothing");
    for (unsigned n = 0; n < STEPS; n++) {
        const struct step *s = steps;
        unsigned at = (unsigned)rng_below(&w.rng, all);
        for (; at >= s->weight; s++)
            at -= s->weight;
        s->run();
        check(s->name);
    }
    cut();
    check("the last cut");
    print_message("seed %d: %d clusters at the end, table of %d clusters, %d times full\n", (int)seed,
                  (int)last_end(), (int)w.meta.header.reftable_clusters, (int)w.full);
}

static void a_file_that_grows(void **state)
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        run_steps(seed, false);
        assert_true(w.meta.header.reftable_clusters > 1); /* it has moved */
        world_finish();
    }
}

static void a_device_that_is_full(void **state)
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        run_steps(seed, true);
        assert_true(w.full > 0);
        world_finish();
    }
}

/* ---- leases and entries that are read ------------------------------------------------------------------- */

static const struct q2_lease *fill_lease(void)
{
    struct waiter waiter;

    waiter_init(&waiter, queue);
    q2_lease_fill(&w.space, &waiter.op);
    assert_int_equal(await(&waiter), 0);
    return &w.space.leases[queue->id % Q2_LEASES];
}

/* From now on leases lie behind all that is in use. */
static void pass_holes(void)
{
    struct q2_run run;

    do {
        fill_lease();
        LOCKED(assert_true(q2_lease_take(&w.space, queue, CLUSTERS, &run)));
        own(&run);
    } while (run.host_offset >> BITS < BEFORE);
}

/* There are no tables: what an entry led to is noted beforehand. */
static void survey(void)
{
    struct waiter waiter;

    w.space.tables_read = false;
    waiter_init(&waiter, queue);
    q2_survey(&w.space, false, &waiter.op);
    assert_int_equal(await(&waiter), 0);
    assert_true(w.space.tables_read);
}

/* A lease goes back when an entry leads there; not when one led there before the clusters came free. */
static void a_lease_that_is_in_use(void **state)
{
    const struct q2_lease *l;
    struct q2_lease other;
    uint64_t first;

    world_init(1, false);
    pass_holes();
    l = fill_lease();
    first = l->next;
    assert_true(l->end > first + 2);
    w.meta.guarded = true;
    LOCKED(q2_cluster_set_add(&w.meta.mapped, first, 2));
    LOCKED(q2_cluster_set_add(&w.meta.own_freed, first, 2));
    survey();
    assert_int_equal(l->next, first);
    w.space.leases[(queue->id + 1) % Q2_LEASES].next = l->end - 1; /* somebody else's */
    w.space.leases[(queue->id + 1) % Q2_LEASES].end = l->end;
    w.space.leases[queue->id % Q2_LEASES].end--;
    other = w.space.leases[(queue->id + 1) % Q2_LEASES];
    LOCKED(q2_cluster_set_add(&w.meta.mapped, first + 2, 1));
    survey();
    assert_int_equal(l->next, l->end);
    assert_memory_equal(&other, &w.space.leases[(queue->id + 1) % Q2_LEASES], sizeof other);
    check("the survey");
    return_leases();
    world_finish();
}

/* The same while the file is made longer for it. */
static void a_fill_of_what_is_in_use(void **state)
{
    const struct q2_lease *l = &w.space.leases[queue->id % Q2_LEASES];
    uint64_t led_to = 0, end;
    struct waiter waiter;

    world_init(1, false);
    pass_holes();
    w.meta.guarded = true;
    end = w.space.zero_from;
    waiter_init(&waiter, queue);
    q2_lease_fill(&w.space, &waiter.op);
    while (!waiter.woken) {
        pthread_mutex_lock(&w.meta.lock);
        if (led_to == 0 && /* more than the new blocks */ w.space.zero_from > end + 20 * CLUSTER) {
            led_to = (w.space.zero_from >> BITS) - 1;
            q2_cluster_set_add(&w.meta.mapped, led_to, 1);
        }
        pthread_mutex_unlock(&w.meta.lock);
        if (!queue_turn(queue))
            queue_sleep(queue, 1, NULL);
    }
    assert_int_equal(waiter.rc, 0);
    assert_true(led_to > 0);
    assert_int_equal(l->next, l->end);
    check("a fill in vain");
    l = fill_lease();
    assert_true(l->next < l->end && (led_to < l->next || led_to >= l->end));
    check("a fill");
    world_finish();
}

/* ---- a survey that cannot be waited for ----------------------------------------------------------------- */

static void a_survey_on_another_queue(void **state)
{
    vdisk_queue *other = op_test_queue();
    struct waiter waiter;

    world_init(1, false);
    w.meta.guarded = true;
    w.space.surveying = true;
    w.space.survey_queue = other;
    waiter_init(&waiter, queue);
    q2_survey(&w.space, false, &waiter.op);
    assert_int_equal(await(&waiter), 0);
    assert_false(w.space.tables_read); /* it goes on without */
    waiter_init(&waiter, queue);
    q2_survey(&w.space, true, &waiter.op);
    assert_int_equal(await(&waiter), 0);
    assert_true(w.space.tables_read && w.space.surveying);
    w.space.surveying = false;
    world_finish();
    vdisk_queue_destroy(other);
}

/* Take some until an extension of the file has found no space, or (`full` is false) some. */
static bool take_until(bool full)
{
    for (unsigned i = 0; i < 2000; i++) {
        struct waiter waiter;
        struct q2_run run;
        waiter_init(&waiter, queue);
        q2_lease_fill(&w.space, &waiter.op);
        assert_int_equal(await(&waiter), 0);
        if (atomic_load(&w.space.host_full) == full)
            return true;
        LOCKED(assert_true(q2_lease_take(&w.space, queue, 12, &run)));
    }
    return false;
}

/* A host that is full has room again: then holes are not what is looked for first. */
static void full_for_a_while(void **state)
{
    struct fault_rule full = {.kinds = FAULT_KIND(IO_ALLOCATE), .what = FAULT_FAIL, .error = ENOSPC};
    struct backend *fault;

    world_init(7, false);
    assert_int_equal(fault_backend_create(w.file, &fault), 0);
    w.file = w.layer.file = w.layer.data = fault;
    assert_false(atomic_load(&w.space.host_full));
    assert_true(fault_add_rule(fault, &full) >= 0);
    assert_true(take_until(true));
    fault_clear(fault);
    assert_true(take_until(false));
    world_finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_for_a_while),
        cmocka_unit_test(a_file_that_grows),
        cmocka_unit_test(a_device_that_is_full),
        cmocka_unit_test(a_lease_that_is_in_use),
        cmocka_unit_test(a_fill_of_what_is_in_use),
        cmocka_unit_test(a_survey_on_another_queue),
    };
    int rc;

    queue = op_test_queue();
    queue_turn(queue);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(queue);
    return rc;
}
