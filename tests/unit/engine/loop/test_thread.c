/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Several queues of a thread, several threads of a volume: nobody waits for who need not call, or is gone. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/lib/test.h"

enum { BLOCK = 4096, CLUSTER = 65536, CLUSTERS = 64, PATIENCE_S = 20 };

static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_URING_DEFER, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};

static vdisk *v;
static vdisk_queue *q;
static char *buf;

/* A new volume, and a queue that nobody has used. False: not of this kind, here. */
static bool begin(enum vdisk_queue_kind kind)
{
    const char *path = test_path("thread-%d.img", (int)kind);
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2",
                                     .virtual_size = (uint64_t)CLUSTERS * CLUSTER};
    struct vdisk_open_opts open_opts = {.size = sizeof open_opts, .flags = VDISK_OPEN_RDWR};
    struct vdisk_queue_opts queue_opts = {.size = sizeof queue_opts, .depth = 4, .kind = kind};

    test_note("%s", vdisk_queue_kind_name(kind));
    if (vdisk_queue_create(&queue_opts, &q) < 0)
        return false;
    buf = vdisk_alloc_buffer(CLUSTER);
    CHECK(buf != NULL);
    memset(buf, 0x5a, CLUSTER);
    CHECK_OK(vdisk_create(path, &opts));
    CHECK_OK(vdisk_open(path, &open_opts, &v));
    return true;
}

static void end(void)
{
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void each_kind(void (*run)(void))
{
    alarm(PATIENCE_S * sizeof kinds / sizeof kinds[0]);
    for (unsigned k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        if (!begin(kinds[k]))
            continue;
        run();
        end();
    }
}

static void take_one(void)
{
    struct vdisk_completion done;

    CHECK_INT(vdisk_reap(q, &done, 1, 1, NULL), 1);
    CHECK_INT(done.result, 0);
}

/* What a change of the whole waits for is on this thread's other queue; it is the thread's first such call. */
static void change_beside_own(void)
{
    vdisk_write(q, v, 0, buf, CLUSTER, 0, 1);
    CHECK_OK(vdisk_submit(q));
    CHECK_OK(vdisk_trim_space(v));
    take_one();
}

static void test_change_beside_own(void)
{
    each_kind(change_beside_own);
}

static void *grow(void *arg)
{
    CHECK_OK(vdisk_grow(v, 2 * (uint64_t)CLUSTERS * CLUSTER));
    return NULL;
}

/* Another thread's call ends while this one, with a flush in flight, does not call the library. */
static void grow_beside_sleeper(void)
{
    pthread_t other;

    vdisk_write(q, v, 0, buf, CLUSTER, 0, 1);
    take_one();
    vdisk_flush(q, v, 0, 2);
    CHECK_OK(vdisk_submit(q));
    CHECK_INT(pthread_create(&other, NULL, grow, NULL), 0);
    pthread_join(other, NULL);
    take_one();
}

static void test_grow_beside_sleeper(void)
{
    each_kind(grow_beside_sleeper);
}

static sem_t done;

static void *use_once(void *arg)
{
    vdisk_read(q, v, 0, buf, BLOCK, 0, 1);
    take_one();
    sem_post(&done);
    return NULL;
}

/* A queue is destroyed when its thread says that it is through with it: the thread may be ending just then. */
static void destroy_while_thread_ends(void)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 4, .kind = vdisk_queue_get_kind(q)};
    pthread_t user;

    for (unsigned i = 0; i < 100; i++) {
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        CHECK_INT(pthread_create(&user, NULL, use_once, NULL), 0);
        sem_wait(&done);
        if (i & 1)
            sched_yield();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        pthread_join(user, NULL);
    }
}

static void test_destroy_while_thread_ends(void)
{
    sem_init(&done, 0, 0);
    each_kind(destroy_while_thread_ends);
}

static void *leave_flush(void *arg)
{
    vdisk_write(q, v, 0, buf, CLUSTER, 0, 1);
    take_one();
    vdisk_flush(q, v, 0, 2);
    CHECK_OK(vdisk_submit(q));
    return NULL;
}

static void *sync_volume(void *arg)
{
    CHECK_OK(vdisk_sync(v));
    return NULL;
}

/* A thread has ended with a flush in flight. The next one may get its memory, and is another all the same. */
static void thread_gone(void)
{
    pthread_t user;

    if (vdisk_queue_get_kind(q) == VDISK_QUEUE_URING_DEFER)
        return; /* nobody else could reap */
    CHECK_INT(pthread_create(&user, NULL, leave_flush, NULL), 0);
    pthread_join(user, NULL);
    CHECK_INT(pthread_create(&user, NULL, sync_volume, NULL), 0);
    pthread_join(user, NULL);
    take_one();
}

static void test_thread_gone(void)
{
    each_kind(thread_gone);
}

static _Atomic bool stop;

static void *ask(void *arg)
{
    struct vdisk_info info = {.size = sizeof info};

    while (!stop) {
        CHECK_OK(vdisk_get_info(v, &info));
        CHECK_INT(info.cluster_size, CLUSTER);
    }
    return NULL;
}

/* A volume that shrinks is read anew: who only asks for its properties is not to notice. */
static void shrink_beside_info(void)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    pthread_t other;

    stop = false;
    CHECK_INT(pthread_create(&other, NULL, ask, NULL), 0);
    for (uint64_t i = CLUSTERS; i-- > CLUSTERS - 8;)
        CHECK_OK(vdisk_resize(v, i * CLUSTER, &opts));
    stop = true;
    pthread_join(other, NULL);
}

static void test_shrink_beside_info(void)
{
    each_kind(shrink_beside_info);
}

static const struct test_case cases[] = {
    {"change_beside_own", test_change_beside_own, 0, 0, 0},
    {"grow_beside_sleeper", test_grow_beside_sleeper, 0, 0, 0},
    {"destroy_while_thread_ends", test_destroy_while_thread_ends, 0, 0, 0},
    {"thread_gone", test_thread_gone, 0, 0, 0},
    {"shrink_beside_info", test_shrink_beside_info, 0, 0, 0},
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
