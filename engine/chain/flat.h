/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layers below the top of a chain as one table: of each piece of the guest's range which layer has it, and
 * where on the host. So a read through two hundred layers looks at two places, the top's mapping and this.
 *
 * What is known of a piece is one word. Words lie in slots, of 64 neighbours each, and slots in sets; the number
 * of the slot modulo sets picks the set. What is not known is looked for layer by layer, and then it is.
 *
 * Invariants.
 *  1. What lies below the top does not change while it is open (layer.h, invariant 3; follow.c, invariant 2; a
 *     change of the backing file leaves the layers that are open: change.c, invariant 2). So a word that is right
 *     once stays so. It says what the layers below the top have: what is written to the top hides it, and the size
 *     of the top has nothing to do with it.
 *  2. A word is right for all of its piece. Where that cannot be said in one word, it says from which layer on the
 *     others are to be asked: none above has anything of the piece, nor ends within it.
 *  3. A tag is published after its slot's words are this slot's, and taken back before they become another's.
 *  4. `seq` is odd while words become another's. A reader that saw an odd or a changed number has read nothing.
 *  5. No more memory is taken than was asked for when it was made.
 */
#ifndef ENGINE_CHAIN_FLAT_H
#define ENGINE_CHAIN_FLAT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "engine/format.h"

enum { FLAT_WAYS = 4, FLAT_WORDS = 64, FLAT_LAYERS_MIN = 2 };

/* What a word says of its piece. */
enum flat_kind {
    FLAT_UNKNOWN, /* the layers from its number on are to be asked: those above have nothing. 0: not looked at */
    FLAT_DATA,    /* all of it lies in that layer's data, at that offset */
    FLAT_ZERO,    /* all of it reads as zeros */
    FLAT_ASK,     /* the same as UNKNOWN, and that is all that a word can say */
};

struct flat_set {
    _Atomic uint64_t tags[FLAT_WAYS]; /* number of the slot + 1; 0: none */
    _Atomic uint32_t seq[FLAT_WAYS];
    _Atomic uint8_t  referenced[FLAT_WAYS];
    uint8_t          hand;            /* locked: second chance */
} __attribute__((aligned(64)));

struct flat {
    /* Fixed. */
    struct flat_set  *sets;
    _Atomic uint64_t *words;      /* FLAT_WORDS for each way of each set */
    uint64_t          sets_mask;
    uint64_t          end;        /* how far the first layer reaches: all behind is zeros */
    struct layer    **layers;     /* from the first below the top on */
    uint32_t          layer_count;
    uint32_t          piece_bits; /* log2 of what a word is about */
    size_t            mapped;     /* bytes of `sets` and `words` */
    pthread_mutex_t   lock;       /* who puts words in. A leaf */
};

/*
 * A table of the chain that begins with `first` (NULL: there is none), in at most `bytes` (but one set), which
 * costs what is used of it. On success *ret may be NULL: the chain is too short for it to be worth while. -ENOMEM.
 */
int flat_new(struct layer *first, uint64_t bytes, struct flat **ret);
void flat_free(struct flat *f); /* NULL is allowed */

/* As chain_lookup() of `first`, but for flags, and the layer of zeros. Any thread. */
int flat_lookup(struct flat *f, uint64_t guest_offset, uint64_t len, struct extent *ret,
                struct layer **ret_layer);

#endif
