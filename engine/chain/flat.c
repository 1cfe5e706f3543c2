/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: the piece's word is in the table, and says which layer has it.
 * Failure modes: it is not: the layers are asked from the one on that the word names, and what they say is put in.
 * Where metadata is not at hand the caller loads it, and asks again; the word remembers how far that got. What a
 * layer objects to is left to it: who reads that very place gets its error, and nobody else.
 */
#include "engine/chain/flat.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/bits.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/base/point.h"
#include "engine/base/short_lock.h"
#include "engine/chain/layer.h"

/*
 * A word: kind, number of the layer, host offset in units of 512 bytes. A piece is as long as what the format with
 * the smallest clusters (or subclusters) maps by itself, within bounds: smaller ones would take too much memory.
 */
enum {
    KIND_BITS = 2, LAYER_BITS = 15, LAYER_MAX = (1 << LAYER_BITS) - 1, HOST_UNIT_BITS = 9,
    HOST_SHIFT = KIND_BITS + LAYER_BITS, HOST_BITS = 64 - HOST_SHIFT,
    PIECE_BITS_MIN = 12, PIECE_BITS_DEFAULT = 16, PIECE_BITS_MAX = 21,
    SET_BYTES = sizeof(struct flat_set) + FLAT_WAYS * FLAT_WORDS * sizeof(uint64_t),
};

_Static_assert(sizeof(struct flat_set) == 64, "what a reader looks at first is one cache line");

static enum flat_kind word_kind(uint64_t word)
{
    return (enum flat_kind)(word & ((1u << KIND_BITS) - 1));
}

static uint32_t word_layer(uint64_t word)
{
    return (uint32_t)(word >> KIND_BITS) & LAYER_MAX;
}

static uint64_t word_host(uint64_t word)
{
    return word >> HOST_SHIFT << HOST_UNIT_BITS;
}

/* Of a layer too far down the last that a word can name, which is above it. */
static uint64_t make_word(enum flat_kind kind, uint32_t layer, uint64_t host_offset)
{
    assert(kind == FLAT_DATA || host_offset == 0);
    assert(is_aligned(host_offset, 1u << HOST_UNIT_BITS) && host_offset >> HOST_UNIT_BITS >> HOST_BITS == 0);
    return host_offset >> HOST_UNIT_BITS << HOST_SHIFT | min_u64(layer, LAYER_MAX) << KIND_BITS | kind;
}

/* ---- made, and gone ----------------------------------------------------------------------------------- */

static uint32_t piece_bits(const struct layer *first)
{
    uint32_t bits = PIECE_BITS_MAX;
    bool mapped = false;

    for (const struct layer *layer = first; layer; layer = layer->backing)
        if (layer->map_unit > 0) {
            bits = (uint32_t)min_u64(bits, log2_floor(layer->map_unit));
            mapped = true;
        }
    return mapped ? (uint32_t)max_u64(bits, PIECE_BITS_MIN) : PIECE_BITS_DEFAULT;
}

/* As many as there is memory for, a power of two, and no more than there can be slots for. */
static uint64_t count_sets(uint64_t bytes, uint64_t pieces)
{
    uint64_t needed = max_u64(div_up(div_up(pieces, FLAT_WORDS), FLAT_WAYS), 1),
             most = 1ull << log2_floor(max_u64(bytes / SET_BYTES, 1));

    return min_u64(most, 1ull << log2_floor(2 * needed - 1));
}

/* Untouched pages cost nothing, so a bound is not a size. */
static bool map_sets(struct flat *f, uint64_t sets)
{
    void *p;

    f->mapped = (size_t)(sets * SET_BYTES);
    p = mmap(NULL, f->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    f->sets = p;
    f->words = (_Atomic uint64_t *)(f->sets + sets);
    f->sets_mask = sets - 1;
    assert(is_power_of_two(sets) && is_aligned((uintptr_t)f->words, 64));
    return true;
}

int flat_new(struct layer *first, uint64_t bytes, struct flat **ret)
{
    uint32_t count = 0;
    struct flat *f;

    *ret = NULL;
    for (const struct layer *layer = first; layer; layer = layer->backing)
        count++;
    if (count < FLAT_LAYERS_MIN)
        return 0;
    f = mem_calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    short_lock_init(&f->lock);
    f->piece_bits = piece_bits(first);
    f->end = atomic_load(&first->reach);
    f->layers = mem_reallocarray(NULL, count, sizeof *f->layers);
    if (!f->layers || !map_sets(f, count_sets(bytes, div_up(f->end, 1ull << f->piece_bits)))) {
        flat_free(f);
        return -ENOMEM;
    }
    for (struct layer *layer = first; layer; layer = layer->backing) {
        assert(layer->read_only); /* invariant 1 */
        f->layers[f->layer_count++] = layer;
    }
    assert(f->layer_count == count);
    *ret = f;
    return 0;
}

void flat_free(struct flat *f)
{
    if (!f)
        return;
    if (f->sets)
        munmap(f->sets, f->mapped);
    mem_free(f->layers);
    pthread_mutex_destroy(&f->lock);
    mem_free(f);
}

/* ---- words are read, and put in --------------------------------------------------------------------------- */

static inline struct flat_set *set_of(const struct flat *f, uint64_t piece)
{
    return &f->sets[piece / FLAT_WORDS & f->sets_mask];
}

static inline _Atomic uint64_t *words_of(const struct flat *f, const struct flat_set *set, unsigned way)
{
    return &f->words[((uint64_t)(set - f->sets) * FLAT_WAYS + way) * FLAT_WORDS];
}

/* Without a lock. 0: nothing is known. */
static uint64_t get(const struct flat *f, uint64_t piece)
{
    struct flat_set *set = set_of(f, piece);
    uint64_t tag = piece / FLAT_WORDS + 1, word;
    uint32_t seq;

    for (unsigned way = 0; way < FLAT_WAYS; way++) {
        if (atomic_load_explicit(&set->tags[way], memory_order_acquire) != tag)
            continue;
        POINT("flat: tag found");
        seq = atomic_load_explicit(&set->seq[way], memory_order_acquire);
        POINT("flat: number read");
        /*
         * The tag again: the number read belongs to these words only if it was still there. It may be there anew:
         * then what is read from here on must be no older, else the number does not tell.
         */
        if (unlikely(seq & 1) || unlikely(atomic_load_explicit(&set->tags[way], memory_order_acquire) != tag &&
                                          !ENGINE_MUTANT(FLAT_TAG_ONCE)))
            return 0;
        POINT("flat: tag seen again");
        word = atomic_load_explicit(&words_of(f, set, way)[piece % FLAT_WORDS], memory_order_acquire);
        POINT("flat: word read");
        if (unlikely(atomic_load_explicit(&set->seq[way], memory_order_relaxed) != seq &&
                     !ENGINE_MUTANT(FLAT_NUMBER_ONCE)))
            return 0;
        if (!atomic_load_explicit(&set->referenced[way], memory_order_relaxed))
            atomic_store_explicit(&set->referenced[way], 1, memory_order_relaxed);
        return word;
    }
    return 0;
}

/* A way that nobody has, or that has not been looked at for longest: by second chance. */
static unsigned choose_way(struct flat_set *set)
{
    for (unsigned way = 0; way < FLAT_WAYS; way++)
        if (atomic_load_explicit(&set->tags[way], memory_order_relaxed) == 0)
            return way;
    for (unsigned i = 0;; i++) {
        unsigned way = set->hand++ % FLAT_WAYS;
        if (!atomic_exchange_explicit(&set->referenced[way], 0, memory_order_relaxed) || i >= FLAT_WAYS)
            return way;
    }
}

/* A slot is made that of `tag`, with nothing known: invariants 3 and 4. */
static unsigned claim(const struct flat *f, struct flat_set *set, uint64_t tag)
{
    unsigned way = choose_way(set);
    _Atomic uint64_t *words = words_of(f, set, way);
    uint32_t seq = atomic_load_explicit(&set->seq[way], memory_order_relaxed);

    assert_locked(&f->lock);
    assert((seq & 1) == 0);
    atomic_store_explicit(&set->tags[way], 0, memory_order_release);
    POINT("flat: tag taken back");
    /* An exchange, so that the stores to come are not seen before it. */
    atomic_exchange_explicit(&set->seq[way], seq + 1, memory_order_acq_rel);
    POINT("flat: number odd");
    for (unsigned i = 0; i < FLAT_WORDS; i++)
        if (!ENGINE_MUTANT(FLAT_WORDS_KEPT))
            atomic_store_explicit(&words[i], 0, memory_order_release);
    atomic_store_explicit(&set->seq[way], seq + 2, memory_order_release);
    atomic_store_explicit(&set->referenced[way], 1, memory_order_relaxed);
    atomic_store_explicit(&set->tags[way], tag, memory_order_release);
    POINT("flat: tag published");
    return way;
}

/* Of the pieces of a slot what is more than was known. */
static void put_slot(struct flat *f, uint64_t first, const uint64_t words[FLAT_WORDS])
{
    struct flat_set *set = set_of(f, first);
    uint64_t tag = first / FLAT_WORDS + 1;
    _Atomic uint64_t *at;
    unsigned way = 0;

    assert(first % FLAT_WORDS == 0);
    pthread_mutex_lock(&f->lock);
    while (way < FLAT_WAYS && atomic_load_explicit(&set->tags[way], memory_order_relaxed) != tag)
        way++;
    if (way == FLAT_WAYS)
        way = claim(f, set, tag);
    at = words_of(f, set, way);
    for (unsigned i = 0; i < FLAT_WORDS; i++) {
        uint64_t old = atomic_load_explicit(&at[i], memory_order_relaxed);
        if (word_kind(old) == FLAT_UNKNOWN &&
            (word_kind(words[i]) != FLAT_UNKNOWN || word_layer(words[i]) > word_layer(old)))
            atomic_store_explicit(&at[i], words[i], memory_order_release);
    }
    pthread_mutex_unlock(&f->lock);
}

/* ---- a lookup ------------------------------------------------------------------------------------------- */

/* What layer `i` says of a piece all of which is in `e`; FLAT_UNKNOWN: the next one is to be asked. */
static uint64_t word_of(const struct flat *f, uint32_t i, const struct extent *e)
{
    switch ((enum extent_kind)e->kind) {
    case EXTENT_UNALLOCATED:
        return f->layers[i]->backing ? make_word(FLAT_UNKNOWN, i + 1, 0) : make_word(FLAT_ZERO, i, 0);
    case EXTENT_ZERO:
        return make_word(FLAT_ZERO, i, 0);
    case EXTENT_DATA:
        if (is_aligned(e->host_offset, 1u << HOST_UNIT_BITS) &&
            e->host_offset >> HOST_UNIT_BITS >> HOST_BITS == 0)
            return make_word(FLAT_DATA, i, e->host_offset);
        break;
    case EXTENT_COMPRESSED:
        break;
    }
    return make_word(FLAT_ASK, i, 0);
}

/*
 * Layer `i` is asked for the first of `n` pieces at `start`, and as many more as are in the same extent: how many
 * those are. FLAT_UNKNOWN of the same layer: it has to load.
 */
static unsigned ask_layer(const struct flat *f, uint32_t i, uint64_t start, unsigned n, uint64_t words[])
{
    struct layer *layer = f->layers[i];
    uint64_t piece = 1ull << f->piece_bits, reach = atomic_load_explicit(&layer->reach, memory_order_acquire);
    unsigned got = 1;
    struct extent e;

    if (start >= reach) {
        words[0] = make_word(FLAT_ZERO, i, 0);
    } else if (layer->format->lookup(layer, start, min_u64(n * piece, reach - start), &e) < 0) {
        words[0] = make_word(FLAT_UNKNOWN, i, 0);
    } else if (e.len < piece && !ENGINE_MUTANT(FLAT_PART_FOR_ALL)) {
        words[0] = make_word(FLAT_ASK, i, 0); /* several extents, or the layer ends */
    } else {
        assert(e.len > 0 && e.len <= n * piece);
        got = (unsigned)max_u64(e.len >> f->piece_bits, 1);
        for (unsigned k = 0; k < got; k++, e.host_offset += e.kind == EXTENT_DATA ? piece : 0)
            words[k] = word_of(f, i, &e);
    }
    assert(got > 0 && got <= n);
    return got;
}

/* Whose turn it is: a piece that is still looked for, and has come to layer `i`. */
static bool is_due(uint64_t word, uint32_t i)
{
    return word_kind(word) == FLAT_UNKNOWN && word_layer(word) == i;
}

/* All pieces of the slot that have come to layer `i` are asked for. False: none had, or goes further. */
static bool ask_slot(const struct flat *f, uint32_t i, uint64_t first, uint64_t words[FLAT_WORDS])
{
    bool further = false;

    for (unsigned k = 0, n; k < FLAT_WORDS; k += n) {
        n = 0;
        while (k + n < FLAT_WORDS && is_due(words[k + n], i))
            n++;
        if (n == 0)
            n = 1;
        else
            n = ask_layer(f, i, (first + k) << f->piece_bits, n, &words[k]);
        further |= word_kind(words[k]) == FLAT_UNKNOWN && word_layer(words[k]) > i;
    }
    return further;
}

/*
 * A piece of which only `word` is known: as much more as is at hand, and of its neighbours in the slot, whose
 * entries in the layers' tables lie beside its own: to come to a layer's table costs more than to read on there.
 */
static __attribute__((noinline)) uint64_t fill(struct flat *f, uint64_t piece, uint64_t word)
{
    uint64_t words[FLAT_WORDS], first = align_down(piece, FLAT_WORDS), before = word;
    uint32_t i = word_layer(word);

    assert(word_kind(word) == FLAT_UNKNOWN && i < f->layer_count);
    for (unsigned k = 0; k < FLAT_WORDS; k++)
        words[k] = get(f, first + k);
    words[piece - first] = word;
    while (ask_slot(f, i, first, words) && i < LAYER_MAX)
        i++;
    word = words[piece - first];
    if (is_due(word, LAYER_MAX)) /* no word leads further down */
        words[piece - first] = word = make_word(FLAT_ASK, LAYER_MAX, 0);
    if (word != before)
        put_slot(f, first, words);
    return word;
}

/* The same as an extent, from guest_offset on, of at most `len`. */
static int show(struct flat *f, uint64_t word, uint64_t guest_offset, uint64_t len, struct extent *ret,
                struct layer **ret_layer)
{
    uint64_t in_piece = guest_offset & ((1ull << f->piece_bits) - 1);

    len = min_u64(len, (1ull << f->piece_bits) - in_piece);
    *ret_layer = f->layers[word_layer(word)];
    if (word_kind(word) == FLAT_UNKNOWN || word_kind(word) == FLAT_ASK)
        return chain_lookup(*ret_layer, guest_offset, len, ret, ret_layer);
    ret->kind = word_kind(word) == FLAT_DATA ? EXTENT_DATA : EXTENT_ZERO;
    ret->flags = 0;
    ret->host_offset = word_host(word) + in_piece;
    ret->len = len;
    return 0;
}

/* The word at guest_offset, looked for if it is not there. */
static uint64_t find(struct flat *f, uint64_t guest_offset)
{
    uint64_t piece = guest_offset >> f->piece_bits, word = get(f, piece);

    return unlikely(word_kind(word) == FLAT_UNKNOWN) ? fill(f, piece, word) : word;
}

/* From the end of the extent on, over pieces that go on with it. */
static void extend(struct flat *f, uint64_t guest_offset, uint64_t len, struct extent *ret,
                   const struct layer *layer)
{
    while (ret->len < len) {
        uint64_t word = find(f, guest_offset + ret->len);
        bool same = ret->kind == EXTENT_DATA
                        ? word_kind(word) == FLAT_DATA && f->layers[word_layer(word)] == layer &&
                              word_host(word) == ret->host_offset + ret->len
                        : word_kind(word) == FLAT_ZERO;
        if (!same)
            return;
        ret->len = min_u64(len, ret->len + (1ull << f->piece_bits));
    }
}

/* How far, at most to `len`, words say no more than that layer `i` is to be asked. */
static uint64_t count_asked(struct flat *f, uint32_t i, uint64_t guest_offset, uint64_t len)
{
    uint64_t piece = 1ull << f->piece_bits, got = piece - (guest_offset & (piece - 1));

    for (; got < len; got += piece) {
        uint64_t word = find(f, guest_offset + got);
        if (word_kind(word) != FLAT_ASK || word_layer(word) != i)
            break;
    }
    return min_u64(got, len);
}

/*
 * A compressed cluster is decompressed as a whole, however small the pieces are: as far as none of its pieces has
 * anything above layer `i`, that one is asked for all of it.
 */
static int join_cluster(struct flat *f, uint32_t i, uint64_t guest_offset, uint64_t len, struct extent *ret,
                        struct layer **ret_layer)
{
    uint64_t cluster = (*ret_layer)->cluster_size;

    assert(is_power_of_two(cluster));
    len = count_asked(f, i, guest_offset, min_u64(len, cluster - (guest_offset & (cluster - 1))));
    return len > ret->len ? chain_lookup(f->layers[i], guest_offset, len, ret, ret_layer) : 0;
}

int flat_lookup(struct flat *f, uint64_t guest_offset, uint64_t len, struct extent *ret,
                struct layer **ret_layer)
{
    uint64_t word;
    int rc;

    assert(len > 0);
    if (unlikely(guest_offset >= f->end)) {
        *ret_layer = f->layers[0];
        *ret = (struct extent){.kind = EXTENT_ZERO, .len = len};
        return 0;
    }
    len = min_u64(len, f->end - guest_offset);
    word = find(f, guest_offset);
    rc = show(f, word, guest_offset, len, ret, ret_layer);
    if (likely(rc < 0 || ret->len == len))
        return rc;
    if (word_kind(word) == FLAT_DATA || word_kind(word) == FLAT_ZERO)
        extend(f, guest_offset, len, ret, *ret_layer);
    else if (word_kind(word) == FLAT_ASK && ret->kind == EXTENT_COMPRESSED)
        return join_cluster(f, word_layer(word), guest_offset, len, ret, ret_layer);
    return 0;
}
