/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mutex for stretches of CPU work that are over in a microsecond: who finds it taken looks again for a while
 * before going to sleep, which costs several.
 */
#ifndef ENGINE_SHORT_LOCK_H
#define ENGINE_SHORT_LOCK_H

#include <pthread.h>

static inline void short_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

#endif
