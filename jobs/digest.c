/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Happy path: a thread takes the oldest work that waits, computes, and puts it with what has ended; the first one
 * there wakes the queue. Failure modes: a thread cannot be had: there are fewer of them, or none.
 */
#include "jobs/digest.h"

#include <assert.h>
#include <errno.h>
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

/* ---- threads ------------------------------------------------------------------------------------------ */

static void work_on(struct hash_work *w)
{
    if (zeros_only(w->data, w->len))
        memcpy(w->digest, w->zeros, VDISK_DIGEST_SIZE);
    else
        digest_of(w->data, w->len, w->digest);
}

/* Locked. Who takes takes all: so that the first one wakes is enough. */
static void put_ended(struct hashers *h, struct hash_work *w)
{
    if (!h->ended)
        vdisk_queue_wake(h->queue);
    w->next = h->ended;
    h->ended = w;
}

static void *hasher(void *arg)
{
    struct hashers *h = arg;

    pthread_mutex_lock(&h->lock);
    for (;;) {
        struct hash_work *w = h->waiting;
        if (h->stop)
            break;
        if (!w) {
            pthread_cond_wait(&h->given, &h->lock);
            continue;
        }
        h->waiting = w->next;
        if (!w->next)
            h->waiting_end = &h->waiting;
        pthread_mutex_unlock(&h->lock);
        work_on(w);
        pthread_mutex_lock(&h->lock);
        put_ended(h, w);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

void hashers_init(struct hashers *h, vdisk_queue *q, unsigned threads)
{
    sigset_t all, before;

    assert(threads <= HASHERS_MOST);
    memset(h, 0, sizeof *h);
    h->queue = q;
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
    if (h->count == 0)
        work_on(w);
    pthread_mutex_lock(&h->lock);
    assert(!h->stop && !*h->waiting_end);
    if (h->count == 0) {
        put_ended(h, w);
    } else {
        *h->waiting_end = w;
        h->waiting_end = &w->next;
        pthread_cond_signal(&h->given);
    }
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
