/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What reaches a queue from other threads: tasks, and what wakes its owner. */
#include "engine/loop/queue.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "engine/base/mutant.h"
#include "engine/base/point.h"
#include "engine/loop/service.h"

void signal_fd(int fd)
{
    uint64_t one = 1;
    assert(fd >= 0);
    ssize_t n = write(fd, &one, sizeof one);

    (void)n; /* EAGAIN: the counter is full, so it is readable */
}

/* Will this thread turn it anyway, once it is done here? Then it needs no waking. */
static bool is_turned_here(const struct service *s)
{
    const vdisk_queue *owner = atomic_load(&s->owner);

    return owner && queue_current == owner && !atomic_load(&s->threaded);
}

/* Invariant 7. Looked at after the task was given away; `found_empty`: by which `remote` was no longer empty. */
static bool is_to_be_woken(vdisk_queue *q, bool found_empty, bool is_end)
{
    uint32_t wanted = atomic_load(&q->posts_wanted);

    while (is_end && wanted >= POSTS_LAST) {
        uint32_t left = wanted == POSTS_LAST ? POSTS_ANY : wanted - 1;
        if (atomic_compare_exchange_weak(&q->posts_wanted, &wanted, left))
            return wanted == POSTS_LAST;
    }
    return (wanted >= POSTS_LAST && !ENGINE_MUTANT(GATHER_DEAF)) || (wanted == POSTS_ANY && found_empty);
}

static void post(vdisk_queue *q, struct task *t, bool is_end)
{
    struct task *head;
    bool wake;
    int fd;

    if (!ENGINE_MUTANT(POST_UNCOUNTED))
        atomic_fetch_add(&q->posters, 1); /* invariant 5 */
    POINT("post: counted in");
    head = atomic_load_explicit(&q->remote, memory_order_relaxed);
    do
        t->next = head;
    while (!atomic_compare_exchange_weak(&q->remote, &head, t));
    POINT("post: given away");
    wake = is_to_be_woken(q, !head, is_end);
    /* After the exchange: an owner that has just changed it looks at `remote` once more. */
    fd = atomic_load(&q->post_fd);
    if (wake && fd >= 0 && !(q->serves && is_turned_here(q->serves)))
        signal_fd(fd);
    assert(!q->host || fd < 0); /* invariant 4 */
    POINT("post: about to count out");
    if (!ENGINE_MUTANT(POST_UNCOUNTED))
        atomic_fetch_sub(&q->posters, 1);
}

void queue_post(vdisk_queue *q, struct task *t)
{
    post(q, t, false);
}

void queue_post_end(vdisk_queue *q, struct task *t)
{
    post(q, t, true);
}

/* A host that cannot for now (no memory, a limit of descriptors that has been lowered) must not end a wait. */
int queue_poll(struct pollfd *fds, unsigned n, const struct timespec *timeout)
{
    static const struct timespec blink = {.tv_nsec = 1000000};
    int rc = ppoll(fds, n, timeout, NULL);

    if (likely(rc > 0))
        return 0;
    if (rc == 0)
        return -ETIME;
    if (errno == EINTR || ENGINE_MUTANT(POLL_REFUSED))
        return -errno;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
    return 0;
}
