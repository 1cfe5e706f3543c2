/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage as a program would write it, with the installed headers alone: bytes in memory, requests that end where
 * they begin, on a thread, or on several in any order, or when they are let go; and that fail when told to.
 *
 * It judges what it is asked: a request that its properties do not allow ends the process.
 */
#ifndef TESTS_CALLERS_STORAGE_H
#define TESTS_CALLERS_STORAGE_H

#include <pthread.h>

#include <vdisk-backend.h>

enum storage_way {
    STORAGE_AT_ONCE,  /* within submit() */
    STORAGE_THREAD,   /* on one, in order */
    STORAGE_SHUFFLED, /* on two, in any order */
    STORAGE_WAYS
};

enum { STORAGE_ROOM = 64 << 20, STORAGE_THREADS = 2, STORAGE_KINDS = VDISK_BACKEND_IO_TRUNCATE + 1 };

struct storage {
    /* Set before storage_start(): */
    struct vdisk_backend_ops ops; /* but for the functions */
    enum storage_way way;
    uint64_t size;                /* then under the lock */
    int refuses;                  /* open() says so: -errno */
    /* Or NULL. Called under the lock, after each request: what somebody who is killed then leaves. */
    void (*look)(const struct storage *s);
    void (*sized)(struct storage *s); /* or NULL: in get_size(), without the lock, before it returns */

    /* Under the lock: */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    char *bytes;
    struct vdisk_backend_io *waiting[4096];
    unsigned waiting_count;
    bool held;                    /* nothing that waits is carried out */
    bool was_cut;                 /* storage_resize() has made it shorter */
    bool ending;
    uint64_t seed;
    uint64_t count[STORAGE_KINDS];
    uint64_t fua, opens, writable_opens, closes;
    uint64_t requests;            /* of all kinds, since fail_nth was set; */
    uint64_t fail_nth;            /* this one fails, from 1 on; 0: none */
    int error;                    /* so */
    uint64_t failed;

    pthread_t threads[STORAGE_THREADS];
    unsigned threads_count;
};

/* Zeroed but for what is set before. Makes it known by `id`. */
int storage_start(struct storage *s, const char *id);

/* What waits from here on waits until they are let go. Not with AT_ONCE. */
void storage_hold(struct storage *s, bool held);

/* The nth request from now on fails. */
void storage_fail(struct storage *s, uint64_t nth, int error);

/* How many requests wait. */
unsigned storage_waiting(struct storage *s);

/* It has another size, as a device that is extended or cut. */
void storage_resize(struct storage *s, uint64_t size);

/* Ends its threads, and frees; it is known no more. */
void storage_stop(struct storage *s);

#endif
