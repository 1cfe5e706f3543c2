/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qcow2/meta/meta_cache.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/io.h"
#include "engine/loop/queue.h"
#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

_Static_assert(offsetof(struct q2_cache, dirty_list) == 64, "what lookups read has a cache line of its own");

/* Or nobody else changes it. */
#define assert_held(c) assert(!(c)->owner.lock || lock_is_mine((c)->owner.lock))

int q2_cache_init(struct q2_cache *c, uint32_t slice_size, uint64_t bytes, uint64_t keys)
{
    uint64_t slots = max_u64(min_u64(div_up(keys, Q2_CACHE_WAYS) * Q2_CACHE_WAYS, bytes / slice_size), 1);
    uint64_t sets = max_u64(1ull << log2_floor(max_u64(slots / Q2_CACHE_WAYS, 1)), 4);

    /* Round up when the whole image fits that way. */
    if (sets * Q2_CACHE_WAYS < keys && 2 * sets * Q2_CACHE_WAYS * slice_size <= bytes)
        sets *= 2;
    memset(c, 0, sizeof *c);
    c->slice_size = slice_size;
    c->slots = (uint32_t)(sets * Q2_CACHE_WAYS);
    c->sets_mask = sets - 1;
    list_init(&c->dirty_list);
    list_init(&c->room);
    c->tags = mem_aligned(64, c->slots * sizeof *c->tags);
    c->slot = mem_calloc(c->slots, sizeof *c->slot);
    /* Untouched pages cost nothing, so a bound is not a size. */
    c->memory = mmap(NULL, (size_t)c->slots * slice_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
    if (c->memory == MAP_FAILED)
        c->memory = NULL;
    if (!c->tags || !c->slot || !c->memory) {
        q2_cache_finish(c);
        return -ENOMEM;
    }
    memset(c->tags, 0, c->slots * sizeof *c->tags);
    for (uint32_t i = 0; i < c->slots; i++) {
        list_init(&c->slot[i].loads);
        list_init(&c->slot[i].dirty_node);
    }
    return 0;
}

void q2_cache_attach(struct q2_cache *c, const struct q2_cache_owner *owner)
{
    c->owner = *owner;
}

int q2_cache_keep_linear(struct q2_cache *c, const struct q2_geometry *geo, uint64_t bytes, uint64_t keys)
{
    uint64_t n = min_u64(keys, bytes / sizeof *c->linear);
    void *p;

    if (n == 0)
        return 0;
    p = mmap(NULL, n * sizeof *c->linear, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    c->linear = p;
    c->linear_keys = n;
    c->geo = geo;
    return 0;
}

void q2_cache_finish(struct q2_cache *c)
{
    if (c->linear)
        munmap(c->linear, c->linear_keys * sizeof *c->linear);
    c->linear = NULL;
    c->linear_keys = 0;
    if (c->memory)
        munmap(c->memory, (size_t)c->slots * c->slice_size);
    mem_free(c->slot);
    mem_free(c->tags);
    c->memory = NULL;
    c->slot = NULL;
    c->tags = NULL;
}

static struct q2_slot *find_any(struct q2_cache *c, uint64_t key)
{
    struct q2_slot *s = &c->slot[(key & c->sets_mask) * Q2_CACHE_WAYS];

    for (int i = 0; i < Q2_CACHE_WAYS; i++, s++)
        if (s->state != Q2_SLOT_EMPTY && s->key == key)
            return s;
    return NULL;
}

struct q2_slot *q2_cache_find(struct q2_cache *c, uint64_t key)
{
    struct q2_slot *s = find_any(c, key);

    assert_held(c);
    if (!s || s->state != Q2_SLOT_VALID)
        return NULL;
    atomic_store_explicit(&s->referenced, 1, memory_order_relaxed);
    return s;
}

static _Atomic uint64_t *tag_of(struct q2_cache *c, const struct q2_slot *s)
{
    return &c->tags[s - c->slot];
}

/* The slot's content, or what has been read for it, is what the disk has: invariant 6. */
static bool enter_linear(struct q2_cache *c, const struct q2_slot *s, const char *content)
{
    uint64_t host_offset;

    if (s->key >= c->linear_keys || atomic_load_explicit(&s->suspect, memory_order_relaxed) ||
        !q2_slice_linear(c->geo, content, c->slice_size, &host_offset))
        return false;
    atomic_store_explicit(&c->linear[s->key], host_offset | Q2_LINEAR, memory_order_release);
    return true;
}

/* Invariant 1: readers cannot find it any more, and those who had found it will notice. */
static void retract(struct q2_cache *c, struct q2_slot *s)
{
    assert(q2_read_settled(s) && s->pins == 0 && s->state != Q2_SLOT_LOADING);
    enter_linear(c, s, q2_slot_data(c, s));
    atomic_store_explicit(tag_of(c, s), 0, memory_order_release);
    POINT("slice: tag taken back");
    s->state = Q2_SLOT_EMPTY;
}

static void publish(struct q2_cache *c, struct q2_slot *s)
{
    s->state = Q2_SLOT_VALID;
    atomic_store_explicit(&s->referenced, 1, memory_order_relaxed);
    atomic_store_explicit(tag_of(c, s), s->key + 1, memory_order_release);
}

/* An empty slot for `key`: one that nobody needs, by second chance. NULL: all are dirty or in use. */
static struct q2_slot *claim(struct q2_cache *c, uint64_t key)
{
    struct q2_slot *set = &c->slot[(key & c->sets_mask) * Q2_CACHE_WAYS];

    assert_held(c);
    for (int i = 0; i < Q2_CACHE_WAYS; i++)
        if (set[i].state == Q2_SLOT_EMPTY)
            return &set[i];
    for (int i = 0; i < 2 * Q2_CACHE_WAYS; i++) {
        struct q2_slot *s = &set[c->hand++ % Q2_CACHE_WAYS];
        if (s->state == Q2_SLOT_LOADING || s->pins > 0 || !q2_read_settled(s))
            continue;
        if (atomic_exchange_explicit(&s->referenced, 0, memory_order_relaxed) && i < Q2_CACHE_WAYS)
            continue;
        retract(c, s);
        return s;
    }
    return NULL;
}

static void begin_change(struct q2_slot *s)
{
    uint32_t seq = atomic_load_explicit(&s->seq, memory_order_relaxed);

    assert((seq & 1) == 0);
    /* An exchange, so that the stores to come are not seen before it. */
    atomic_exchange_explicit(&s->seq, seq + 1, memory_order_acq_rel);
    POINT("slice: number odd");
}

/* Fill a slot's memory; word by word and atomic, since a late reader may look at what was there before. */
static void fill(struct q2_cache *c, struct q2_slot *s, const char *from)
{
    _Atomic uint64_t *to = (_Atomic uint64_t *)(void *)q2_slot_data(c, s);

    if (!ENGINE_MUTANT(SLOT_QUIET_FILL))
        begin_change(s);
    for (uint32_t i = 0; i < c->slice_size / 8; i++) {
        uint64_t word = 0;
        if (i == 1)
            POINT("slice: filled in part");
        if (from)
            memcpy(&word, from + 8 * (size_t)i, 8);
        atomic_store_explicit(&to[i], word, memory_order_release);
    }
    if (!ENGINE_MUTANT(SLOT_QUIET_FILL))
        atomic_store_explicit(&s->seq, atomic_load_explicit(&s->seq, memory_order_relaxed) + 1,
                              memory_order_release);
    POINT("slice: filled");
}

static void set_unsettled(struct q2_slot *s, unsigned what)
{
    atomic_store_explicit(&s->unsettled, (uint8_t)what, memory_order_release);
}

void q2_slot_mark_dirty(struct q2_cache *c, struct q2_slot *s)
{
    assert_held(c);
    if (q2_slot_is(s, Q2_DIRTY))
        return;
    set_unsettled(s, s->unsettled | Q2_DIRTY);
    list_add_tail(&c->dirty_list, &s->dirty_node);
    c->dirty_count++;
}

void q2_change_begin(struct q2_cache *c, struct q2_slot *s)
{
    assert_held(c);
    assert(s->state == Q2_SLOT_VALID);
    if (s->key < c->linear_keys)
        atomic_store_explicit(&c->linear[s->key], 0, memory_order_relaxed);
    if (!MUTANT(DIRTY_LATE))
        q2_slot_mark_dirty(c, s);
    POINT("slice: marked dirty");
    begin_change(s);
}

void q2_change_end(struct q2_cache *c, struct q2_slot *s)
{
    uint32_t seq = atomic_load_explicit(&s->seq, memory_order_relaxed);

    assert_held(c);
    assert(seq & 1);
    assert(q2_slot_is(s, Q2_DIRTY) || MUTANT(DIRTY_LATE)); /* invariant 5 */
    POINT("slice: changed");
    atomic_store_explicit(&s->seq, seq + 1, memory_order_release);
    POINT("slice: number even");
    if (MUTANT(DIRTY_LATE)) {
        q2_mutant_gap();
        q2_slot_mark_dirty(c, s);
    }
}

void q2_slot_copied(struct q2_cache *c, struct q2_slot *s)
{
    assert_held(c);
    assert(s->unsettled == Q2_DIRTY); /* one flush at a time */
    list_del(&s->dirty_node);
    c->dirty_count--;
    if (MUTANT(SETTLED_BETWEEN)) {
        set_unsettled(s, 0);
        q2_mutant_gap();
    }
    set_unsettled(s, Q2_FLUSHING);
}

void q2_slot_flushed(struct q2_cache *c, struct q2_slot *s, int rc)
{
    bool listed = q2_slot_is(s, Q2_DIRTY);

    assert_held(c);
    assert(q2_slot_is(s, Q2_FLUSHING));
    if (MUTANT(SETTLED_BETWEEN) && rc < 0 && !listed) {
        set_unsettled(s, 0);
        q2_mutant_gap();
    }
    set_unsettled(s, listed || rc < 0 ? Q2_DIRTY : 0);
    if (rc < 0 && !listed) {
        list_add_tail(&c->dirty_list, &s->dirty_node);
        c->dirty_count++;
    }
}

static struct q2_slot *install(struct q2_cache *c, uint64_t key, uint64_t host_offset, bool dirty)
{
    struct q2_slot *s;

    assert_held(c);
    assert(!find_any(c, key));
    s = claim(c, key);
    if (!s)
        return NULL;
    s->key = key;
    s->host_offset = host_offset;
    atomic_store_explicit(&s->suspect, false, memory_order_relaxed);
    if (dirty)
        q2_slot_mark_dirty(c, s);
    fill(c, s, NULL);
    publish(c, s);
    return s;
}

struct q2_slot *q2_cache_install_zero(struct q2_cache *c, uint64_t key, uint64_t host_offset)
{
    return install(c, key, host_offset, true);
}

void q2_cache_install_written(struct q2_cache *c, uint64_t key, uint64_t host_offset)
{
    assert_held(c);
    if (!find_any(c, key))
        install(c, key, host_offset, false);
}

void q2_slot_pin(struct q2_slot *s)
{
    assert(s->state == Q2_SLOT_VALID);
    s->pins++;
}

void q2_slot_unpin(struct q2_cache *c, struct q2_slot *s)
{
    assert_held(c);
    assert(s->pins > 0);
    if (--s->pins == 0)
        op_wake_all(&c->room, 0);
}

void q2_cache_moved(struct q2_cache *c, uint64_t first_key, uint64_t n, uint64_t host_offset)
{
    assert_held(c);
    for (uint64_t i = 0; i < n; i++) {
        struct q2_slot *s = find_any(c, first_key + i);
        if (s)
            s->host_offset = host_offset + i * c->slice_size;
    }
}

/* ---- loading ----------------------------------------------------------------------------------------- */

/* Of a load the part that is one slice. */
struct load_part {
    struct slice_load *load;
    struct q2_slot    *slot; /* NULL: another load has filled it, or it was taken for another slice */
    struct list        node; /* of slot->loads */
};

/* One I/O for one slice, or a run of them. */
struct slice_load {
    struct op op;
    struct q2_cache *cache;
    struct list      waiters; /* ops, by op.wait: they look again */
    uint64_t         host_offset;
    struct io        io;
    char            *buffer;
    size_t           size;    /* of this struct, with what is behind it */
    uint32_t         count;
    struct load_part part[];
};

enum slice_load_state { SLICE_START = OP_START, SLICE_READ };

/* A single one has its buffer behind it, with room to align that; not zeroed. */
enum { ONE_HEAD = sizeof(struct slice_load) + sizeof(struct load_part), ONE_SIZE = ONE_HEAD + 2 * Q2_SLICE_MAX };

static bool is_run(const struct slice_load *l)
{
    return l->op.parent != NULL;
}

static void start_read(struct slice_load *l, struct op *op)
{
    io_rw(&l->io, l->cache->owner.file, IO_READ, l->host_offset, l->buffer,
          (uint64_t)l->count * l->cache->slice_size);
    op_io(op, &l->io);
}

/* Readers have to look at each entry, and writers ask again. */
static bool is_suspect(const struct q2_cache *c, const struct q2_slot *s, const char *content)
{
    return c->owner.is_suspect && c->owner.is_suspect(c->owner.arg, s, content);
}

/* With the lock held: those that still read it come too late. */
static void detach_loads(struct q2_slot *s)
{
    struct list *node;

    while ((node = list_pop(&s->loads)))
        container_of(node, struct load_part, node)->slot = NULL;
}

/*
 * What has been read becomes the slot's content; of a run only if one word does not say as much: who goes through
 * an image would put out of the cache what others use.
 */
static void settle(struct q2_cache *c, struct q2_slot *s, const char *content, bool in_run)
{
    bool linear;

    assert_held(c);
    assert(s->state == Q2_SLOT_LOADING);
    atomic_store_explicit(&s->suspect, is_suspect(c, s, content), memory_order_relaxed);
    linear = enter_linear(c, s, content);
    if (linear && in_run) {
        s->state = Q2_SLOT_EMPTY;
    } else {
        fill(c, s, content);
        publish(c, s);
        if (linear) /* it goes first when room is needed */
            atomic_store_explicit(&s->referenced, 0, memory_order_relaxed);
    }
    detach_loads(s);
}

static void end_part(struct slice_load *l, uint32_t i)
{
    struct load_part *p = &l->part[i];

    if (!p->slot)
        return;
    list_del(&p->node);
    if (l->op.rc == 0)
        settle(l->cache, p->slot, l->buffer + (size_t)i * l->cache->slice_size, is_run(l));
    else if (list_empty(&p->slot->loads))
        p->slot->state = Q2_SLOT_EMPTY;
}

static void end_load(struct slice_load *l)
{
    int rc;

    pthread_mutex_lock(l->cache->owner.lock);
    /* 0: they look again. Of a run that failed nobody knows which slice did; its parent is told. */
    rc = l->part[0].slot && !is_run(l) ? l->op.rc : 0;
    if (l->cache->owner.loads)
        stat_add(l->cache->owner.loads, l->count);
    for (uint32_t i = 0; i < l->count; i++)
        end_part(l, i);
    op_wake_all(&l->waiters, rc);
    op_wake_all(&l->cache->room, 0);
    pthread_mutex_unlock(l->cache->owner.lock);
}

static void slice_load_step(struct op *op)
{
    struct slice_load *l = container_of(op, struct slice_load, op);

    OP_BEGIN(enum slice_load_state, op)
    OP_AWAIT(op, SLICE_READ, start_read(l, op));
    end_load(l);
    if (is_run(l))
        mem_free(l->buffer);
    op_end(op, l->size, op->rc);
    return;
    OP_END
}

OP_TYPE(slice_load, slice_load_step, "START", "SLICE_READ");

/* With the lock held: a load of the slot that an op of `queue` may wait for (invariant 7). */
static struct slice_load *find_load(struct q2_slot *s, const vdisk_queue *queue)
{
    for (struct list *n = s->loads.next; n != &s->loads; n = n->next) {
        struct slice_load *l = container_of(n, struct load_part, node)->load;
        if (l->op.queue == queue || l->op.queue->always_turned)
            return l;
    }
    return NULL;
}

/*
 * Full, but a load that may be waited for is about to end; or pins are, and nothing is dirty, which a flush could
 * clean without waiting for who has the pins.
 */
static bool will_have_room(struct q2_cache *c, uint64_t key, const vdisk_queue *queue)
{
    struct q2_slot *set = &c->slot[(key & c->sets_mask) * Q2_CACHE_WAYS];
    bool idle = false;

    assert_held(c);
    for (struct q2_slot *s = set; s < set + Q2_CACHE_WAYS; s++) {
        if (s->state == Q2_SLOT_LOADING && find_load(s, queue))
            return true;
        idle |= s->state != Q2_SLOT_LOADING && s->pins == 0;
    }
    return !idle;
}

/* A slot of the set that only other queues are loading, taken from them (invariant 8). */
static struct q2_slot *take_loading(struct q2_cache *c, uint64_t key, const vdisk_queue *queue)
{
    struct q2_slot *set = &c->slot[(key & c->sets_mask) * Q2_CACHE_WAYS];

    assert_held(c);
    for (struct q2_slot *s = set; s < set + Q2_CACHE_WAYS; s++) {
        if (s->state != Q2_SLOT_LOADING || find_load(s, queue))
            continue;
        if (s->takes >= Q2_TAKES_MAX && !MUTANT(TAKE_FOR_EVER))
            continue;
        s->takes++;
        detach_loads(s);
        s->state = Q2_SLOT_EMPTY;
        return s;
    }
    return NULL;
}

/* Memory of an op that loads, with `head` bytes of it in use. NULL: there is none. */
static struct slice_load *new_load(struct q2_cache *c, size_t size, size_t head, uint64_t host_offset,
                                   vdisk_queue *queue)
{
    struct slice_load *l = op_alloc_head(queue, &slice_load_type, size, head);

    if (!l)
        return NULL;
    l->cache = c;
    l->host_offset = host_offset;
    l->size = size;
    list_init(&l->waiters);
    return l;
}

/* The slot becomes that of slice `key`, which is the load's next. */
static void add_part(struct slice_load *l, struct q2_slot *s, uint64_t key)
{
    struct load_part *p = &l->part[l->count];

    assert_held(l->cache);
    s->state = Q2_SLOT_LOADING;
    s->key = key;
    s->host_offset = l->host_offset + (uint64_t)l->count * l->cache->slice_size;
    p->load = l;
    p->slot = s;
    list_add_tail(&s->loads, &p->node);
    l->count++;
}

/*
 * The op to fill a slot in LOADING, waited for by `op`; NULL: the await has been ended or goes
 * on, or (*ret_full) there is no slot before a flush.
 */
static struct slice_load *begin_load(struct q2_cache *c, uint64_t key, uint64_t host_offset, struct op *op,
                                     bool *ret_full)
{
    struct q2_slot *s = find_any(c, key);
    struct slice_load *l = s ? find_load(s, op->queue) : NULL;

    assert_held(c);
    if (s && s->state == Q2_SLOT_VALID) {
        op_wake(op, 0);
        return NULL;
    }
    if (l) {
        list_add_tail(&l->waiters, &op->wait);
        return NULL;
    }
    if (!s) {
        s = claim(c, key);
        if (s)
            s->takes = 0;
    }
    if (!s)
        s = take_loading(c, key, op->queue);
    if (!s) {
        *ret_full = !will_have_room(c, key, op->queue);
        if (!*ret_full)
            list_add_tail(&c->room, &op->wait);
        return NULL;
    }
    l = new_load(c, ONE_SIZE, ONE_HEAD, host_offset, op->queue);
    if (!l) {
        op_wake(op, -ENOMEM);
        return NULL;
    }
    l->buffer = (char *)align_up((uintptr_t)l + ONE_HEAD, Q2_SLICE_MAX);
    add_part(l, s, key);
    list_add_tail(&l->waiters, &op->wait);
    return l;
}

void q2_cache_load(struct q2_cache *c, uint64_t key, uint64_t host_offset, struct op *op)
{
    struct slice_load *l;
    bool full = false;

    pthread_mutex_lock(c->owner.lock);
    q2_cache_assert(c);
    l = begin_load(c, key, host_offset, op, &full);
    pthread_mutex_unlock(c->owner.lock);
    if (l)
        op_start(&l->op);
    else if (full)
        c->owner.make_clean(c->owner.arg, op); /* makes room: what is dirty becomes clean */
}

struct op *q2_cache_run(struct q2_cache *c, uint64_t key, uint32_t n, uint64_t host_offset, vdisk_queue *queue)
{
    size_t size = sizeof(struct slice_load) + n * sizeof(struct load_part);
    struct slice_load *l = new_load(c, size, size, host_offset, queue);
    struct q2_slot *s;

    assert_held(c);
    assert(n > 0 && n <= Q2_RUN_MAX);
    if (!l)
        return NULL;
    l->buffer = mem_aligned(Q2_SLICE_MAX, (size_t)n * c->slice_size);
    while (l->buffer && l->count < n && !find_any(c, key + l->count) && (s = claim(c, key + l->count))) {
        s->takes = 0;
        add_part(l, s, key + l->count);
    }
    if (l->count > 0)
        return &l->op;
    mem_free(l->buffer);
    op_free(&l->op, l->size);
    return NULL;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

#ifndef NDEBUG

static void assert_slot(struct q2_cache *c, uint64_t set, const struct q2_slot *s)
{
    uint64_t tag = atomic_load_explicit(tag_of(c, s), memory_order_relaxed);
    bool listed = !list_empty(&s->dirty_node);

    assert(s->state <= Q2_SLOT_VALID);
    assert(tag == (s->state == Q2_SLOT_VALID ? s->key + 1 : 0)); /* invariant 1 */
    assert(!(s->seq & 1)); /* invariant 2 */
    assert(listed == q2_slot_is(s, Q2_DIRTY)); /* invariant 4 */
    assert(s->state == Q2_SLOT_VALID || (s->pins == 0 && s->unsettled == 0)); /* invariant 3 */
    assert((s->state == Q2_SLOT_LOADING) == !list_empty(&s->loads));
    assert(s->state == Q2_SLOT_EMPTY || (s->key & c->sets_mask) == set);
    assert(s->takes <= Q2_TAKES_MAX || MUTANT(TAKE_FOR_EVER)); /* invariant 8 */
    if (s->state == Q2_SLOT_VALID && s->key < c->linear_keys && q2_slot_is(s, Q2_DIRTY)) /* invariant 6 */
        assert(atomic_load_explicit(&c->linear[s->key], memory_order_relaxed) == 0);
}

void q2_cache_assert(struct q2_cache *c)
{
    uint64_t set = c->asserted++ & c->sets_mask;
    struct q2_slot *first = &c->slot[set * Q2_CACHE_WAYS];

    assert_held(c);
    assert(c->dirty_count <= c->slots);
    assert(list_empty(&c->dirty_list) == (c->dirty_count == 0));
    for (struct q2_slot *s = first; s < first + Q2_CACHE_WAYS; s++) {
        assert_slot(c, set, s);
        assert(s->state == Q2_SLOT_EMPTY || find_any(c, s->key) == s); /* no slice is there twice */
    }
}

#endif
