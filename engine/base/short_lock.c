/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whose a mutex is, as glibc notes it in each: the thread's id. It is asked for once by each thread, since asking
 * is a system call; a child of fork() is another thread.
 */
#include "engine/base/short_lock.h"

#include <sys/types.h>
#include <unistd.h>

#ifdef __GLIBC__

_Static_assert(sizeof ((pthread_mutex_t *)0)->__data.__owner == sizeof(pid_t), "it notes a thread's id");

static _Thread_local pid_t thread_id;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void forget(void)
{
    thread_id = 0;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget);
}

static bool is_owner(const pthread_mutex_t *lock)
{
    if (thread_id == 0) {
        pthread_once(&once, watch_forks);
        thread_id = gettid();
    }
    assert(thread_id > 0); /* 0 is the owner of a mutex that nobody has */
    return __atomic_load_n(&lock->__data.__owner, __ATOMIC_RELAXED) == thread_id;
}

bool lock_is_mine(const pthread_mutex_t *lock)
{
    return is_owner(lock);
}

bool lock_is_not_mine(const pthread_mutex_t *lock)
{
    return !is_owner(lock);
}

#else

bool lock_is_mine(const pthread_mutex_t *lock)
{
    return true;
}

bool lock_is_not_mine(const pthread_mutex_t *lock)
{
    return true;
}

#endif
