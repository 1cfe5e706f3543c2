/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mutex for stretches of CPU work that are over in a microsecond: who finds it taken looks again for a while
 * before going to sleep, which costs several. And, of any mutex: who has it.
 */
#ifndef ENGINE_SHORT_LOCK_H
#define ENGINE_SHORT_LOCK_H

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>

static inline void short_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

/* Does this thread have it? For asserts: where the C library does not tell, yes. */
bool lock_is_mine(const pthread_mutex_t *lock);
bool lock_is_not_mine(const pthread_mutex_t *lock);

#define assert_locked(lock) assert(lock_is_mine(lock))
#define assert_unlocked(lock) assert(lock_is_not_mine(lock))

#endif
