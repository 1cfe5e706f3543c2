/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Digests (blake2b-256, by libgcrypt), and threads that compute them, or something else.
 *
 * Work is given and taken by the job's thread; its data and the struct are the threads' meanwhile. Blocks of zeros
 * are found and not computed. Several of one length are computed side by side (lanes.h), which is faster than one
 * after the other: so work waits until there are so many, or the job says that there will not be.
 *
 * Invariants
 *  1. Work is in one place: waiting, with a thread, or ended.
 *  2. When hashers_finish() returns no thread looks at any work, or at the queue.
 *  3. Without threads nothing waits that could be taken.
 */
#ifndef JOBS_DIGEST_H
#define JOBS_DIGEST_H

#include <gcrypt.h>
#include <pthread.h>

#include "jobs/jobs.h"
#include "jobs/lanes.h"

enum { HASHERS_MOST = 64 };

/* 0 or -ENOTSUP: libgcrypt does not give this digest (FIPS mode). Before all else; any thread. */
int digest_init(void);

/* Any thread. */
void digest_of(const void *data, size_t len, uint8_t ret[VDISK_DIGEST_SIZE]);

/* Of what comes bit by bit. 0 or -ENOMEM; digest_end() gives it, and digest_drop() frees it; NULL is allowed. */
int digest_begin(gcry_md_hd_t *ret);
void digest_end(gcry_md_hd_t d, uint8_t ret[VDISK_DIGEST_SIZE]);
void digest_drop(gcry_md_hd_t d);

struct hash_work {
    struct hash_work *next;
    void            (*prepare)(struct hash_work *w); /* done first, by the thread that has it; or NULL */
    void            (*run)(struct hash_work *w); /* what is to be done; NULL: the digest of: */
    const uint8_t    *data;
    size_t            len;
    const uint8_t    *zeros; /* the digest of that many zeros */
    uint8_t           digest[VDISK_DIGEST_SIZE];
};

struct hashers {
    vdisk_queue      *queue;
    pthread_t         threads[HASHERS_MOST];
    unsigned          count, together;

    pthread_mutex_t   lock; /* of these: */
    pthread_cond_t    given;
    struct hash_work *waiting, **waiting_end, *ended;
    unsigned          waiting_count;
    bool              hurry, stop;
};

/* As many as there can be some use of: one for each processor. */
unsigned hashers_number(void);

/*
 * `threads`: 0 or 1: none, work is done by who gives it. What of them there cannot be are fewer. `together`: 1 to
 * LANES, so many wait for one another, where they can be computed side by side. `q` is woken when something has
 * ended. hashers_finish() drops what waits; of zeroed memory it does nothing.
 */
void hashers_init(struct hashers *h, vdisk_queue *q, unsigned threads, unsigned together);
void hashers_finish(struct hashers *h);

void hashers_give(struct hashers *h, struct hash_work *w);

/* Until all of that is taken, what waits does not wait for more. */
void hashers_hurry(struct hashers *h);

/* All that has ended, as a list, in any order. */
struct hash_work *hashers_take(struct hashers *h);

#endif
