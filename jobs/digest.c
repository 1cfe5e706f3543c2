/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a thread takes the oldest work that waits, a few pieces of it, computes, and puts them with what has
 * ended; the first one there wakes the queue.
 * Failure modes: a thread cannot be had: there are fewer of them, or none.
 */
#include "jobs/digest.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "jobs/zeros.h"

static int available;

/* The program may use libgcrypt, too, and have set it up to its liking. */
static void init_once(void)
{
    if (!gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) {
        gcry_check_version(NULL);
        gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
        gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    }
    available = gcry_md_test_algo(GCRY_MD_BLAKE2B_256) == 0 &&
                gcry_md_get_algo_dlen(GCRY_MD_BLAKE2B_256) == VDISK_DIGEST_SIZE;
}

int digest_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_once);
    return available ? 0 : -ENOTSUP;
}

void digest_of(const void *data, size_t len, uint8_t ret[VDISK_DIGEST_SIZE])
{
    assert(available);
    gcry_md_hash_buffer(GCRY_MD_BLAKE2B_256, ret, data, len);
}

int digest_begin(gcry_md_hd_t *ret)
{
    assert(available);
    return gcry_md_open(ret, GCRY_MD_BLAKE2B_256, 0) == 0 ? 0 : -ENOMEM;
}

void digest_end(gcry_md_hd_t d, uint8_t ret[VDISK_DIGEST_SIZE])
{
    memcpy(ret, gcry_md_read(d, GCRY_MD_BLAKE2B_256), VDISK_DIGEST_SIZE);
}

void digest_drop(gcry_md_hd_t d)
{
    gcry_md_close(d);
}

/* ---- work --------------------------------------------------------------------------------------------- */

/* One length, none all zeros. */
static void compute(struct hash_work *const *list, unsigned count)
{
    uint8_t digests[LANES][LANES_DIGEST];
    const uint8_t *data[LANES];
    enum lanes_kind kind = lanes_best();

    if (count <= 1 || kind == LANES_NONE) {
        for (unsigned i = 0; i < count; i++)
            digest_of(list[i]->data, list[i]->len, list[i]->digest);
        return;
    }
    for (unsigned i = 0; i < LANES; i++)
        data[i] = list[i < count ? i : 0]->data;
    lanes_digest(kind, data, list[0]->len, digests);
    for (unsigned i = 0; i < count; i++)
        memcpy(list[i]->digest, digests[i], VDISK_DIGEST_SIZE);
}

/* A list of up to LANES, of one length. Returns its last. */
static struct hash_work *work_on(struct hash_work *w)
{
    struct hash_work *list[LANES], *last = NULL;
    unsigned count = 0;

    for (; w; w = w->next) {
        last = w;
        if (w->prepare)
            w->prepare(w);
        if (w->run)
            w->run(w);
        else if (zeros_only(w->data, w->len))
            memcpy(w->digest, w->zeros, VDISK_DIGEST_SIZE);
        else
            list[count++] = w;
    }
    compute(list, count);
    return last;
}

/* Locked. */
static bool can_take(const struct hashers *h)
{
    return h->waiting && (h->hurry || h->waiting_count >= h->together);
}

/* Locked. The oldest that waits and what is behind it of its length, as a list; NULL: it has to wait. */
static struct hash_work *take_waiting(struct hashers *h)
{
    struct hash_work *first = h->waiting, *last = first;
    unsigned count = 1;

    if (!can_take(h))
        return NULL;
    while (count < h->together && last->next && last->next->len == first->len) {
        last = last->next;
        count++;
    }
    h->waiting = last->next;
    if (!h->waiting)
        h->waiting_end = &h->waiting;
    last->next = NULL;
    assert(h->waiting_count >= count);
    h->waiting_count -= count;
    h->hurry = h->hurry && h->waiting_count > 0;
    return first;
}

/* Locked. Who takes takes all: so that the first one wakes is enough. */
static void put_ended(struct hashers *h, struct hash_work *first, struct hash_work *last)
{
    if (!h->ended)
        vdisk_queue_wake(h->queue);
    last->next = h->ended;
    h->ended = first;
}

/* ---- threads ------------------------------------------------------------------------------------------ */

static void *hasher(void *arg)
{
    struct hashers *h = arg;

    pthread_mutex_lock(&h->lock);
    while (!h->stop) {
        struct hash_work *first = take_waiting(h), *last;
        if (!first) {
            pthread_cond_wait(&h->given, &h->lock);
            continue;
        }
        if (can_take(h))
            pthread_cond_signal(&h->given);
        pthread_mutex_unlock(&h->lock);
        last = work_on(first);
        pthread_mutex_lock(&h->lock);
        put_ended(h, first, last);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* Locked. Whoever is there to work hears that some can be taken. */
static void call(struct hashers *h)
{
    struct hash_work *first;

    if (h->count > 0 && can_take(h))
        pthread_cond_signal(&h->given);
    while (h->count == 0 && (first = take_waiting(h))) /* invariant 3 */
        put_ended(h, first, work_on(first));
}

unsigned hashers_number(void)
{
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;

    return (unsigned)jobs_min(n, HASHERS_MOST);
}

void hashers_init(struct hashers *h, vdisk_queue *q, unsigned threads, unsigned together)
{
    sigset_t all, before;

    assert(threads <= HASHERS_MOST && together >= 1 && together <= LANES);
    memset(h, 0, sizeof *h);
    h->queue = q;
    h->together = lanes_best() != LANES_NONE ? together : 1;
    h->waiting_end = &h->waiting;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->given, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (threads > 1 && h->count < threads && pthread_create(&h->threads[h->count], NULL, hasher, h) == 0)
        h->count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void hashers_finish(struct hashers *h)
{
    if (!h->queue)
        return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_broadcast(&h->given);
    pthread_mutex_unlock(&h->lock);
    for (unsigned i = 0; i < h->count; i++)
        pthread_join(h->threads[i], NULL); /* invariant 2 */
    pthread_cond_destroy(&h->given);
    pthread_mutex_destroy(&h->lock);
    h->queue = NULL;
}

void hashers_give(struct hashers *h, struct hash_work *w)
{
    w->next = NULL;
    pthread_mutex_lock(&h->lock);
    assert(!h->stop && !*h->waiting_end);
    *h->waiting_end = w;
    h->waiting_end = &w->next;
    h->waiting_count++;
    call(h);
    pthread_mutex_unlock(&h->lock);
}

void hashers_hurry(struct hashers *h)
{
    pthread_mutex_lock(&h->lock);
    h->hurry = h->waiting_count > 0;
    call(h);
    pthread_mutex_unlock(&h->lock);
}

struct hash_work *hashers_take(struct hashers *h)
{
    struct hash_work *all;

    pthread_mutex_lock(&h->lock);
    all = h->ended;
    h->ended = NULL;
    pthread_mutex_unlock(&h->lock);
    return all;
}
