/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growers beside other threads: some write, one answers, one closes; storage whose size says nothing of its room;
 * and what is refused.
 */
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "backends/lab/fault.h"
#include "tests/callers/grower.h"

/* ---- two queues, each with its thread; and a third that answers -------------------------------------- */

static _Atomic bool done;

static void *answer_on(void *arg)
{
    struct vdisk_wish wish = {0};

    (void)arg;
    while (!atomic_load(&done)) {
        pthread_mutex_lock(&place.lock);
        bool is_new = place.wish.number != wish.number;
        wish = place.wish;
        pthread_mutex_unlock(&place.lock);
        if (is_new) {
            extend_to(wish.storage + (wish.wanted - wish.storage) / (wish.number % 2 + 1));
            vdisk_grown(wish.number, 0);
        }
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return NULL;
}

static void *write_on(void *arg)
{
    struct writer *w = arg;

    CHECK_OK(vdisk_queue_create(NULL, &w->q));
    write_clusters(w);
    CHECK_OK(vdisk_queue_destroy(w->q));
    return NULL;
}

static void test_threads(void)
{
    struct writer w[2] = {{NULL, 0, 25 * 16, 12}, {NULL, 25 * 16, 25 * 16, 12}};
    pthread_t thread[3];
    vdisk_queue *q;

    open_place(CLUSTER);
    atomic_store(&done, false);
    set_grower();
    CHECK(pthread_create(&thread[2], NULL, answer_on, NULL) == 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, write_on, &w[i]) == 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    atomic_store(&done, true);
    pthread_join(thread[2], NULL);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    verify_clusters(q, 50 * 16);
    CHECK_OK(vdisk_queue_destroy(q));
    close_place();
}

/* It is closed, and its grower set anew, while answers to it are on their way. */
static void *answer_always(void *arg)
{
    (void)arg;
    while (!atomic_load(&done)) {
        pthread_mutex_lock(&place.lock);
        uint64_t number = place.wish.number;
        pthread_mutex_unlock(&place.lock);
        int rc = vdisk_grown(number, number % 3 == 0 ? -EIO : 0);
        CHECK(rc == 0 || rc == -ENOENT);
    }
    return NULL;
}

static void test_closed_beside(void)
{
    unsigned rounds = test_is_quick() ? 10 : 40;
    pthread_t thread;
    char *buf = filled(3);

    memset(&place, 0, sizeof place);
    pthread_mutex_init(&place.lock, NULL);
    atomic_store(&done, false);
    CHECK(pthread_create(&thread, NULL, answer_always, NULL) == 0);
    for (unsigned i = 0; i < rounds; i++) {
        const char *path = test_path("thin%u", i);
        struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = 1u << 30};
        struct vdisk_grower_opts opts = {.size = sizeof opts, .chunk = CHUNK, .retry_ms = 1};
        CHECK_OK(vdisk_create(path, &create));
        vdisk *v = open_rw(path);
        CHECK_OK(vdisk_set_grower(v, on_wish, &place, &opts));
        pthread_mutex_lock(&place.lock);
        place.wish.number = (v->number << 24) + 1;
        pthread_mutex_unlock(&place.lock);
        CHECK_OK(vdisk_pwrite(v, buf, CLUSTER, 0, 0));
        if (i % 2)
            CHECK_OK(vdisk_set_grower(v, NULL, NULL, NULL));
        CHECK_OK(vdisk_close(v));
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    free(buf);
}

/* A child is forked off while another thread answers: there too an answer ends. */
static int answer_in_child(uint64_t wish)
{
    alarm(60); /* if it does not */
    if (vdisk_grown(wish, 0) != -ECHILD || vdisk_grown(UINT64_MAX, 0) != -ENOENT || vdisk_grown(0, 0) != -ENOENT)
        return 1;
    return vdisk_set_grower(place.v, NULL, NULL, NULL) == -ECHILD && vdisk_close(place.v) == -ECHILD ? 0 : 2;
}

static void test_forked_beside(void)
{
    pthread_t thread;

    open_place(CLUSTER);
    place.opts.least_free = 64 * MIB;
    atomic_store(&done, false);
    set_grower();
    wait_for_wish();
    CHECK(pthread_create(&thread, NULL, answer_always, NULL) == 0);
    for (unsigned i = 0; i < (test_is_quick() ? 20 : 100); i++) {
        int status = -1;
        pthread_mutex_lock(&place.lock);
        uint64_t wish = place.wish.number;
        pthread_mutex_unlock(&place.lock);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
            _exit(answer_in_child(wish));
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %u ended with 0x%x", i, (unsigned)status);
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    close_place();
}

/* The device is extended, and that is answered, while another thread changes the image as a whole. */
static void *extend_on(void *arg)
{
    (void)arg;
    while (!atomic_load(&done) && device_size() < 40 * MIB) {
        extend_to(device_size() + 4096);
        pthread_mutex_lock(&place.lock);
        uint64_t number = place.wish.number;
        pthread_mutex_unlock(&place.lock);
        CHECK_OK(vdisk_grown(number, 0));
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return NULL;
}

static void test_changed_beside(void)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    unsigned rounds = test_is_quick() ? 100 : 400;
    pthread_t thread;

    open_place(CLUSTER);
    place.opts.least_free = 1ull << 40;
    atomic_store(&done, false);
    set_grower();
    wait_for_wish();
    CHECK(pthread_create(&thread, NULL, extend_on, NULL) == 0);
    for (unsigned i = 0; i < rounds; i++)
        CHECK_OK(vdisk_resize(place.v, (uint64_t)(GUEST_MIB - 1 - i % 2) * MIB, &opts));
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    close_place();
}

/* A synchronous write waits for room. */
static void *sync_write(void *arg)
{
    char *buf = filled(2);

    for (uint64_t i = 0; i < 8 * 16; i++)
        CHECK_OK(vdisk_pwrite(place.v, buf, CLUSTER, i * CLUSTER, 0));
    CHECK_OK(vdisk_sync(place.v));
    free(buf);
    return arg;
}

static void test_sync(void)
{
    pthread_t thread;

    open_place(CLUSTER);
    set_grower();
    CHECK(pthread_create(&thread, NULL, sync_write, NULL) == 0);
    while (mark_of(place.v).parked == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    wait_for_wish();
    extend_to(device_size() + 16 * MIB);
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    pthread_join(thread, NULL);
    close_place();
}

/* It writes to the volume itself, for which there is no space, before it makes any. */
static void write_within(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    char *buf = filled(3);
    int rc = 0;

    for (uint64_t i = 0; i < 2 * DEVICE / CLUSTER && rc == 0; i++)
        rc = vdisk_pwrite(v, buf, CLUSTER, i * CLUSTER, 0);
    CHECK_INT(rc, -ENOSPC);
    free(buf);
    on_wish(arg, v, wish);
}

static void within(uint32_t flags)
{
    char *buf = filled(4);

    open_place(CLUSTER);
    place.opts.flags = flags;
    place.opts.least_free = 64 * MIB;
    CHECK_OK(vdisk_set_grower(place.v, write_within, &place, &place.opts));
    wait_for_wish();
    CHECK_OK(vdisk_set_grower(place.v, NULL, NULL, NULL));
    CHECK_OK(vdisk_pwrite(place.v, buf, CLUSTER, 0, 0));
    close_place();
    free(buf);
}

static void test_within(void)
{
    within(0);
    within(VDISK_GROWER_NO_THREAD);
}

static _Atomic bool waits;

static void wait_within(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    CHECK(arg == &place && wish->number != 0);
    while (mark_of(v).parked == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    atomic_store(&waits, true);
    while (mark_of(v).parked > 0) /* badly behaved: only an answer, or no grower, ends that */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void *write_till_full(void *arg)
{
    char *buf = filled(3);
    int rc = 0;

    for (uint64_t i = 0; i < 2 * DEVICE / CLUSTER && rc == 0; i++)
        rc = vdisk_pwrite(place.v, buf, CLUSTER, i * CLUSTER, 0);
    CHECK_INT(rc, -ENOSPC);
    free(buf);
    return arg;
}

/* Set to none, while it waits for what is parked. */
static void test_unset_within(void)
{
    pthread_t thread;

    open_place(CLUSTER);
    place.opts.retry_ms = 10000000;
    atomic_store(&waits, false);
    CHECK_OK(vdisk_set_grower(place.v, wait_within, &place, &place.opts));
    CHECK(pthread_create(&thread, NULL, write_till_full, NULL) == 0);
    while (!atomic_load(&waits))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    CHECK_OK(vdisk_set_grower(place.v, NULL, NULL, NULL));
    pthread_join(thread, NULL);
    close_place();
}

/* A job whose writes wait for room is told to stop. */
static void cancel_parked(vdisk_job *j)
{
    struct vdisk_completion c;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(vdisk_job_start(j, q, 1));
    while (mark_of(place.v).parked == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    vdisk_job_cancel(j);
    caller_wait_begin("reap of a job that is cancelled");
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    caller_wait_end();
    CHECK_INT(c.result, -ECANCELED);
    CHECK_OK(vdisk_job_free(j));
    CHECK_OK(vdisk_queue_destroy(q));
}

static void cancelled(uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char *buf = filled(7);
    struct memdisk disk;
    vdisk *source;
    vdisk_job *j;

    open_place(CLUSTER);
    place.opts.flags = flags;
    set_grower();
    memdisk_init_fixed(&disk, 512, 2 * DEVICE);
    CHECK_OK(vdisk_open_backend(memdisk_open(&disk, false), &opts, &source));
    for (uint64_t i = 0; i < 2 * DEVICE / CLUSTER; i++)
        CHECK_OK(vdisk_pwrite(source, buf, CLUSTER, i * CLUSTER, 0));
    CHECK_OK(vdisk_job_copy(&source, 1, place.v, NULL, &j));
    cancel_parked(j);
    CHECK_OK(vdisk_close(source));
    memdisk_finish(&disk);
    close_place();
    free(buf);
}

static int64_t sevens(void *arg, void *buf, size_t len)
{
    CHECK(arg == &place);
    memset(buf, 7, len);
    return (int64_t)len;
}

static void fill_cancelled(uint32_t flags)
{
    vdisk_job *j;

    open_place(CLUSTER);
    place.opts.flags = flags;
    set_grower();
    CHECK_OK(vdisk_job_fill(place.v, sevens, &place, NULL, &j));
    cancel_parked(j);
    close_place();
}

static void test_job_cancelled(void)
{
    for (unsigned flags = 0; flags <= VDISK_GROWER_NO_THREAD; flags++) {
        cancelled(flags);
        fill_cancelled(flags);
    }
}

/* An event callback that the grower's thread runs, after a call of the grower. */
static _Atomic unsigned events;

static void on_event(void *arg, vdisk *v, const struct vdisk_event *event)
{
    CHECK(arg == &place && event->kind == VDISK_EVENT_WATERMARK);
    CHECK_INT(vdisk_set_grower(v, NULL, NULL, NULL), -EDEADLK);
    CHECK_INT(vdisk_set_grower(v, on_wish, &place, &place.opts), -EDEADLK);
    CHECK_INT(vdisk_close(v), -EDEADLK);
    atomic_fetch_add(&events, 1);
}

static void set_mark(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    on_wish(arg, v, wish);
    CHECK_OK(vdisk_set_watermark(v, wish->allocated_end / 2));
}

static void test_event_there(void)
{
    open_place(CLUSTER);
    place.opts.least_free = 64 * MIB;
    atomic_store(&events, 0);
    CHECK_OK(vdisk_set_event_callback(place.v, on_event, &place));
    CHECK_OK(vdisk_set_grower(place.v, set_mark, &place, &place.opts));
    wait_for_wish();
    while (atomic_load(&events) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    close_place();
}

static void full_storage(bool qcow2, bool fixed)
{
    char *buf = filled(4), *back = filled(0);
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    open_full(qcow2, fixed);
    place.answers = fixed; /* and the volume follows the device */
    set_grower();
    CHECK_INT(place.wishes, 0);
    uint64_t sent = fixed ? 64 : write_until_parked(q, 0, 2, buf);
    vdisk_write_zeroes(q, place.v, 0, CLUSTER, 0, 0);
    vdisk_write(q, place.v, 0, buf, CLUSTER, VDISK_REQ_FUA, 0); /* in place, or again */
    for (unsigned i = 0; fixed && i < sent; i++)
        vdisk_write(q, place.v, i * CLUSTER, buf, CLUSTER, VDISK_REQ_FUA, 0);
    CHECK_OK(vdisk_submit(q));
    if (!fixed)
        memdisk_set_space(&place.disk, UINT64_MAX);
    if (!fixed)
        wait_for_wish();
    if (!fixed)
        CHECK_OK(vdisk_grown(place.wish.number, 0));
    reap_all(q, vdisk_queue_inflight(q), NULL);
    vdisk_read(q, place.v, (sent - 1) * CLUSTER, back, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    CHECK(memcmp(buf, back, CLUSTER) == 0);
    CHECK_MSG(!fixed || vdisk_size(place.v) > 16 * MIB, "the volume has not followed its device");
    CHECK_OK(vdisk_close(place.v));
    memdisk_finish(&place.disk);
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
    free(back);
}

static void expect_full(vdisk_queue *q)
{
    struct vdisk_completion c;

    caller_wait_begin("reap");
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    caller_wait_end();
    CHECK_INT(c.result, -ENOSPC);
}

/* The file has grown by being written to: that is no doing of the grower, which says that there is no more. */
static void test_by_itself(void)
{
    char *buf = filled(4);
    uint64_t sent;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    open_full(true, false);
    set_grower();
    sent = write_until_parked(q, 0, 1, buf);
    wait_for_wish();
    memdisk_set_space(&place.disk, memdisk_occupied(&place.disk) + 8 * MIB); /* it tries again from time to time */
    reap_all(q, 1, NULL);
    sent += write_until_parked(q, sent, 1, buf);
    CHECK_INT(place.wishes, 1);
    CHECK(device_size() > place.wish.storage);
    CHECK_OK(vdisk_grown(place.wish.number, -ENOSPC));
    expect_full(q);
    vdisk_write(q, place.v, (sent + 16) * CLUSTER, buf, CLUSTER, 0, 0);
    expect_full(q);
    memdisk_set_space(&place.disk, UINT64_MAX);
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    vdisk_write(q, place.v, (sent + 16) * CLUSTER, buf, CLUSTER, 0, 0);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_close(place.v));
    memdisk_finish(&place.disk);
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
}

static void add_rule(struct backend *fault, uint64_t offset, enum fault_what what)
{
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_WRITE), .offset = offset, .len = 1, .nth = 1, .what = what,
                              .error = ENOSPC};

    CHECK_OK(fault_add_rule(fault, &rule));
}

/* Room comes, the last there is, while a write is about to hear that there was none: it tries again. */
static void test_missed(void)
{
    char *buf = filled(1);
    struct backend *fails, *late;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    reset_place();
    place.opts.limit = 17 * MIB;
    memdisk_init_fixed(&place.disk, 512, 16 * MIB);
    CHECK_OK(fault_backend_create(memdisk_open(&place.disk, false), &fails));
    CHECK_OK(fault_backend_create(fails, &late));
    CHECK_OK(vdisk_open_backend(late, &(struct vdisk_open_opts){.size = sizeof(struct vdisk_open_opts),
                                                                .flags = VDISK_OPEN_RDWR, .format = "raw"},
                                &place.v));
    set_grower();
    add_rule(fails, 0, FAULT_FAIL);
    add_rule(fails, CLUSTER, FAULT_FAIL);
    add_rule(late, CLUSTER, FAULT_LATE_END);
    vdisk_write(q, place.v, 0, buf, BLOCK, 0, 0);
    vdisk_write(q, place.v, CLUSTER, buf, BLOCK, 0, 0);
    while (mark_of(place.v).parked == 0)
        CHECK_INT(vdisk_reap(q, NULL, 1, 0, &(struct timespec){.tv_nsec = 1000000}), 0);
    wait_for_wish();
    CHECK_INT(fault_held(late), 1);
    extend_to(17 * MIB);
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    reap_all(q, 1, NULL);
    fault_release(late);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_close(place.v));
    CHECK_OK(vdisk_queue_destroy(q));
    memdisk_finish(&place.disk);
    free(buf);
}

/* Others park, and are cancelled, all the time: what waits tries again all the same. */
static void test_crowded(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct fault_rule always = {.kinds = FAULT_KIND(IO_WRITE), .offset = CLUSTER, .len = 1, .what = FAULT_FAIL,
                                .error = ENOSPC};
    bool first = true, second = false;
    struct vdisk_completion c;
    char *buf = filled(1);
    struct backend *b;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    reset_place();
    place.opts.retry_ms = 1000;
    memdisk_init_fixed(&place.disk, 512, 16 * MIB);
    CHECK_OK(fault_backend_create(memdisk_open(&place.disk, false), &b));
    CHECK_OK(vdisk_open_backend(b, &opts, &place.v));
    set_grower();
    add_rule(b, 0, FAULT_FAIL);
    CHECK_OK(fault_add_rule(b, &always));
    vdisk_write(q, place.v, 0, buf, BLOCK, 0, 1);
    while (first || second) {
        if (first && !second)
            vdisk_write(q, place.v, CLUSTER, buf, BLOCK, 0, 2);
        second |= first;
        int n = vdisk_reap(q, &c, 1, 1, &(struct timespec){.tv_nsec = 1000000});
        if (n == 0)
            (void)vdisk_cancel(q, 2); /* unless it is on its way */
        else if (c.user_data == 1)
            first = c.result < 0;
        else
            second = c.result != -ECANCELED;
        CHECK(n == 0 || (n == 1 && !(c.user_data == 1 ? first : second)));
    }
    CHECK_OK(vdisk_close(place.v));
    CHECK_OK(vdisk_queue_destroy(q));
    memdisk_finish(&place.disk);
    free(buf);
}

/* What is asked to be durable, of the first bytes, is that when it begins anew. */
static struct backend_driver spied;
static void (*spied_submit)(struct backend *b, struct io *io);
static unsigned durable, plain;

static void spy(struct backend *b, struct io *io)
{
    if (io->kind == IO_WRITE)
        *(io->flags & IO_FUA ? &durable : &plain) += 1;
    spied_submit(b, io);
}

static void test_durable(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR};
    char *buf = filled(1);
    struct backend *b;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    reset_place();
    memdisk_init_fixed(&place.disk, 512, 16 * MIB);
    CHECK_OK(fault_backend_create(memdisk_open(&place.disk, false), &b));
    spied = *b->driver;
    spied_submit = spied.submit;
    spied.submit = spy;
    b->driver = &spied;
    durable = plain = 0;
    CHECK_OK(vdisk_open_backend(b, &opts, &place.v));
    set_grower();
    add_rule(b, 0, FAULT_FAIL);
    vdisk_write(q, place.v, 0, buf, BLOCK, VDISK_REQ_FUA, 0);
    while (mark_of(place.v).parked == 0)
        CHECK_INT(vdisk_reap(q, NULL, 1, 0, &(struct timespec){.tv_nsec = 1000000}), 0);
    wait_for_wish();
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    reap_all(q, 1, NULL);
    CHECK_INT(durable, 2);
    CHECK_INT(plain, 0);
    CHECK_OK(vdisk_close(place.v));
    CHECK_OK(vdisk_queue_destroy(q));
    memdisk_finish(&place.disk);
    free(buf);
}

/* A compressed write up to the end waits for room; when it begins anew the volume is longer. */
static void test_longer(void)
{
    char *buf = filled(7), *back = filled(0);
    struct image_spec spec;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    reset_place();
    memdisk_init(&place.disk, 512);
    image_default(&spec, "tail", 16 * MIB + BLOCK);
    make_volume(&spec);
    memdisk_set_space(&place.disk, memdisk_occupied(&place.disk));
    place.opts.retry_ms = 10000000;
    set_grower();
    vdisk_write(q, place.v, 16 * MIB, buf, BLOCK, VDISK_REQ_COMPRESSED, 0);
    while (mark_of(place.v).parked == 0)
        CHECK_INT(vdisk_reap(q, NULL, 1, 0, &(struct timespec){.tv_nsec = 1000000}), 0);
    wait_for_wish();
    CHECK_OK(vdisk_resize(place.v, 24 * MIB, NULL));
    memdisk_set_space(&place.disk, UINT64_MAX);
    CHECK_OK(vdisk_grown(place.wish.number, 0));
    reap_all(q, 1, NULL);
    vdisk_read(q, place.v, 16 * MIB, back, BLOCK, 0, 0);
    reap_all(q, 1, NULL);
    CHECK(memcmp(buf, back, BLOCK) == 0);
    close_place();
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
    free(back);
}

static void test_full(void)
{
    full_storage(true, false);
    full_storage(false, false);
    full_storage(false, true);
}

static void test_refused(void)
{
    struct vdisk_grower_opts opts = {.size = sizeof opts, .flags = 1u << 31};
    vdisk *v;

    CHECK_OK(vdisk_open(make_full_image("image"), NULL, &v));
    CHECK_INT(vdisk_set_grower(v, on_wish, NULL, NULL), -EACCES);
    CHECK_HAS(vdisk_error_text(), "read-only");
    CHECK_INT(vdisk_set_grower(v, on_wish, NULL, &opts), -EINVAL);
    opts.size = 1;
    CHECK_INT(vdisk_set_grower(v, on_wish, NULL, &opts), -EINVAL);
    CHECK_OK(vdisk_set_grower(v, NULL, NULL, NULL));
    CHECK_INT(vdisk_set_grower(NULL, on_wish, NULL, NULL), -EINVAL);
    CHECK_INT(vdisk_grown(0, 0), -ENOENT);
    CHECK_INT(vdisk_grown(1, 1), -EINVAL);
    CHECK_OK(vdisk_close(v));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "threads", .run = test_threads, .repeat = 4, .quick = 1},
        {.name = "closed_beside", .run = test_closed_beside},
        {.name = "forked_beside", .run = test_forked_beside},
        {.name = "changed_beside", .run = test_changed_beside},
        {.name = "sync", .run = test_sync},
        {.name = "within", .run = test_within},
        {.name = "unset_within", .run = test_unset_within},
        {.name = "job_cancelled", .run = test_job_cancelled},
        {.name = "event_there", .run = test_event_there},
        {.name = "full", .run = test_full},
        {.name = "by_itself", .run = test_by_itself},
        {.name = "crowded", .run = test_crowded},
        {.name = "durable", .run = test_durable},
        {.name = "longer", .run = test_longer},
        {.name = "missed", .run = test_missed},
        {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
