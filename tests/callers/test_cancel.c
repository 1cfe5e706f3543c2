/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that are taken back: each completes once, with -ECANCELED if vdisk_cancel() said so and as it would
 * have if not, and what was cancelled has changed nothing.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "tests/callers/callers.h"

static vdisk *v;
static vdisk_queue *q;

static vdisk_queue *make_queue(enum vdisk_queue_kind kind)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = kind};
    vdisk_queue *made;

    CHECK_OK(vdisk_queue_create(&opts, &made));
    return made;
}

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        v = open_rw(make_full_image("image"));
        q = make_queue(all_kinds[i]);
        run();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_close(v));
    }
}

static bool has_ring(void)
{
    return vdisk_queue_get_kind(q) != VDISK_QUEUE_THREADS;
}

/* ---- what has not been sent -------------------------------------------------------------------------------- */

enum what {
    READ, READ_PIECES, READ_CROOKED, WRITE, WRITE_CROOKED, WRITE_RAGGED, WRITE_NEW, ZERO, DISCARD, EXTENTS, KINDS
};

static char *memory; /* one cluster for each */
static struct vdisk_extent extent_list[KINDS];
static struct vdisk_extents extents = {.list = extent_list, .max = KINDS};

static uint64_t place(enum what what)
{
    return (what == WRITE_NEW ? 200 : 4 * (uint64_t)what) * CLUSTER;
}

static void enqueue(enum what what)
{
    char *buf = memory + what * 2 * CLUSTER;
    uint64_t at = place(what);

    switch (what) {
    case READ: vdisk_read(q, v, at, buf, BLOCK, 0, what); break;
    case READ_PIECES: vdisk_read(q, v, at, buf, 2 * CLUSTER, 0, what); break; /* from two places */
    case READ_CROOKED: vdisk_read(q, v, at + 1, buf + 1, 1000, 0, what); break;
    case WRITE: vdisk_write(q, v, at, buf, CLUSTER, 0, what); break;
    case WRITE_CROOKED: vdisk_write(q, v, at, buf + 1, BLOCK, 0, what); break;
    case WRITE_RAGGED: vdisk_write(q, v, at + 1, buf + 1, 1000, 0, what); break;
    case WRITE_NEW: vdisk_write(q, v, at, buf, CLUSTER, 0, what); break;
    case ZERO: vdisk_write_zeroes(q, v, at, CLUSTER, 0, what); break;
    case DISCARD: vdisk_discard(q, v, at, CLUSTER, 0, what); break;
    case EXTENTS: vdisk_get_extents(q, v, at, CLUSTER, &extents, what); break;
    case KINDS: break;
    }
}

/* Nothing has changed: it is as make_full_image() left it. */
static void check_unchanged(void)
{
    char *buf = vdisk_alloc_buffer(4 * CLUSTER);

    for (unsigned what = 0; what < KINDS; what++) {
        char want = what == WRITE_NEW ? 0 : 0x5a;
        CHECK_OK(vdisk_pread(v, buf, 4 * CLUSTER, place(what)));
        for (unsigned i = 0; i < 4 * CLUSTER; i++)
            CHECK_MSG(buf[i] == want, "request %u: byte %u is 0x%x", what, i, buf[i] & 255);
    }
    free(buf);
}

/* The mapping of all of it is at hand; in the image the cluster after READ_PIECES' first lies elsewhere. */
static void prepare(void)
{
    memory = vdisk_alloc_buffer(KINDS * 2 * CLUSTER);
    memset(memory, 0x11, KINDS * 2 * CLUSTER);
    CHECK_OK(vdisk_pdiscard(v, CLUSTER, place(READ_PIECES) + CLUSTER));
    CHECK_OK(vdisk_sync(v));
    CHECK_OK(vdisk_trim_space(v));
    CHECK_OK(vdisk_pwrite(v, memory, CLUSTER, 300 * CLUSTER, 0));
    memset(memory, 0x5a, CLUSTER);
    CHECK_OK(vdisk_pwrite(v, memory, CLUSTER, place(READ_PIECES) + CLUSTER, 0));
    memset(memory, 0x11, CLUSTER);
    check_unchanged();
}

static void take_back_unsent(void)
{
    int results[KINDS];

    prepare();
    for (unsigned what = 0; what < KINDS; what++)
        enqueue((enum what)what);
    for (unsigned what = 0; what < KINDS; what++) {
        int rc = vdisk_cancel(q, what);
        CHECK_MSG(rc == 1 || (rc == -EALREADY && !has_ring()), "request %u: %d", what, rc);
        CHECK_INT(vdisk_cancel(q, what), -EALREADY); /* it is on its way to its end */
        results[what] = rc;
    }
    CHECK_INT(vdisk_queue_inflight(q), KINDS);
    for (unsigned n = 0; n < KINDS; n++) {
        struct vdisk_completion c;
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, results[c.user_data] == 1 ? -ECANCELED : 0);
        CHECK_INT(vdisk_cancel(q, c.user_data), -ENOENT);
        results[c.user_data] = 1;
        if (c.result == -ECANCELED) {
            CHECK_INT(vdisk_explain(q, &c), -ECANCELED);
            CHECK_HAS(vdisk_error_text(), "image");
        }
    }
    CHECK_INT(vdisk_queue_inflight(q), 0);
    if (has_ring())
        check_unchanged();
    free(memory);
}

static void test_unsent(void)
{
    each_kind(take_back_unsent);
}

/* The queue serves on, whatever has been taken back from the middle. */
static void all_but_some(void)
{
    enum { N = 200 };
    char *buf = vdisk_alloc_buffer(N * BLOCK);
    int want[N], results[N];

    CHECK_OK(vdisk_pread(v, buf, 1, 0));
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned i = 0; i < N; i++) {
            bool is_new = round % 2; /* in the plug, more than that holds */
            memset(buf + i * BLOCK, (int)(1 + i % 100 + round), BLOCK);
            vdisk_write(q, v, ((is_new ? 1000 * round : 0) + i % 60) * CLUSTER + i / 60 * BLOCK, buf + i * BLOCK,
                        BLOCK, 0, i);
        }
        for (unsigned i = 0; i < N; i++) {
            int rc = i % 3 == 1 ? vdisk_cancel(q, i) : 0;
            CHECK(rc == 0 || rc == 1 || rc == -EALREADY);
            want[i] = rc == 1 ? -ECANCELED : 0;
        }
        reap_all(q, N, results);
        for (unsigned i = 0; i < N; i++)
            CHECK_INT(results[i], want[i]);
    }
    free(buf);
}

static void test_some(void)
{
    each_kind(all_but_some);
}

static void by_words(void)
{
    char *buf = vdisk_alloc_buffer(4 * CLUSTER);
    struct vdisk_completion c;
    int n;

    CHECK_OK(vdisk_pread(v, buf, 1, 0));
    CHECK_INT(vdisk_cancel(NULL, 0), -EINVAL);
    CHECK_INT(vdisk_cancel(q, 0), -ENOENT);
    CHECK_HAS(vdisk_error_text(), "no request 0");
    for (unsigned i = 0; i < 3; i++) /* of one name */
        vdisk_write(q, v, (100 + i) * CLUSTER, buf, CLUSTER, 0, 7);
    vdisk_write(q, v, 110 * CLUSTER, buf, CLUSTER, 0, 8);
    CHECK_INT(vdisk_cancel(q, 7), 3);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, c.user_data == 7 ? -ECANCELED : 0);
    }
    /* Sent: it goes on. What waits to be reaped has ended. */
    vdisk_read(q, v, 0, buf, CLUSTER, 0, 1);
    CHECK_OK(vdisk_submit(q));
    n = vdisk_cancel(q, 1);
    CHECK(n == -EALREADY || !has_ring());
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    CHECK_INT(c.result, n == 1 ? -ECANCELED : 0);
    vdisk_read(q, v, 1ull << 40, buf, CLUSTER, 0, 2);
    vdisk_read(q, v, 0, buf, 0, 0, 3);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    CHECK_INT(vdisk_cancel(q, c.user_data == 2 ? 3 : 2), -EALREADY);
    CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
    free(buf);
}

static void test_words(void)
{
    each_kind(by_words);
}

/* ---- what waits for others --------------------------------------------------------------------------------- */

/* Turn it: what it has is begun, and nothing is waited for. */
static void turn(vdisk_queue *queue)
{
    struct vdisk_completion c;

    for (unsigned i = 0; i < 8; i++)
        CHECK_INT(vdisk_reap(queue, &c, 0, 0, NULL), 0);
}

/*
 * A write is begun, and holds what others in its place wait for. Its I/O is sent by this, and a queue that is not
 * turned does not see its end: so it holds that for as long as we like.
 */
static void begin(vdisk_queue *queue)
{
    struct vdisk_completion c;

    CHECK_INT(vdisk_reap(queue, &c, 0, 0, NULL), 0);
}

/*
 * Another queue's write is under way and its owner does not reap it; two requests of ours wait for it, one of
 * which is taken back: that ends at once, the other when the first has.
 */
static void behind(uint64_t at, size_t len, unsigned kind)
{
    char *first = vdisk_alloc_buffer(CLUSTER), *second = vdisk_alloc_buffer(CLUSTER);
    char *in = vdisk_alloc_buffer(CLUSTER);
    vdisk_queue *other = make_queue(vdisk_queue_get_kind(q));
    struct vdisk_completion c;

    memset(first, 0x21, CLUSTER);
    memset(second, 0x22, CLUSTER);
    vdisk_write(other, v, at, first, len, 0, 0);
    begin(other);
    if (kind == 0)
        vdisk_write(q, v, at, second, len, 0, 1);
    else if (kind == 1)
        vdisk_write_zeroes(q, v, at, len, 0, 1);
    else
        vdisk_discard(q, v, at, len, 0, 1);
    turn(q);
    vdisk_write(q, v, at, second, len / 2, 0, 2);
    turn(q);
    CHECK_INT(vdisk_queue_inflight(q), 2);
    CHECK_INT(vdisk_cancel(q, 1), 1);
    CHECK_INT(vdisk_cancel(q, 1), -EALREADY);
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 1);
    CHECK_INT(c.user_data, 1);
    CHECK_INT(c.result, -ECANCELED);
    reap_all(other, 1, NULL);
    reap_all(q, 1, NULL);
    CHECK_OK(vdisk_pread(v, in, len, at));
    for (size_t i = 0; i < len; i++)
        CHECK_MSG(in[i] == (i < len / 2 ? 0x22 : 0x21), "byte %zu is 0x%x", i, in[i] & 255);
    CHECK_OK(vdisk_queue_destroy(other));
    free(first);
    free(second);
    free(in);
}

static void check_bytes(uint64_t at, size_t len, char want)
{
    char *in = vdisk_alloc_buffer(len);

    CHECK_OK(vdisk_pread(v, in, len, at));
    for (size_t i = 0; i < len; i++)
        CHECK_MSG(in[i] == want, "byte %zu is 0x%x, not 0x%x", i, in[i] & 255, want & 255);
    free(in);
}

/*
 * The second of ours waits only for the first, which waits for another queue's write: with the first taken back
 * the second could begin, but is taken back by the same call (`ids` 1), or by the next (2).
 */
static void in_line(uint64_t at, size_t step, size_t len, unsigned ids)
{
    char *buf = vdisk_alloc_buffer(2 * CLUSTER);
    vdisk_queue *other = make_queue(vdisk_queue_get_kind(q));
    struct vdisk_completion c[2];

    CHECK_OK(vdisk_pdiscard(v, 2 * CLUSTER, at - at % CLUSTER));
    memset(buf, 0x41, 2 * CLUSTER);
    vdisk_write(other, v, at, buf, len, 0, 0);
    begin(other);
    vdisk_write(q, v, at, buf, step + len, 0, 1);
    turn(q);
    vdisk_write(q, v, at + step, buf, len, 0, ids);
    turn(q);
    CHECK_INT(vdisk_queue_inflight(q), 2);
    CHECK_INT(vdisk_cancel(q, 1), ids == 1 ? 2 : 1);
    if (ids == 2)
        CHECK_INT(vdisk_cancel(q, 2), 1);
    for (unsigned n = 0; n < 2;)
        n += (unsigned)vdisk_reap(q, &c[n], 2 - n, 1, NULL);
    CHECK_INT(c[0].result, -ECANCELED);
    CHECK_INT(c[1].result, -ECANCELED);
    reap_all(other, 1, NULL);
    if (step > 0)
        check_bytes(at + step, len, 0);
    CHECK_OK(vdisk_pwrite(v, buf, step + len, at, 0)); /* others go on */
    CHECK_OK(vdisk_queue_destroy(other));
    free(buf);
}

static void behind_clusters(void)
{
    CHECK_OK(vdisk_pwrite(v, "", 1, 399 * CLUSTER, 0)); /* the tables are there */
    for (unsigned ids = 1; ids < 3; ids++)
        in_line((418 + 2 * ids) * CLUSTER, CLUSTER, CLUSTER, ids);
    for (unsigned kind = 0; kind < 3; kind++)
        behind((400 + kind) * CLUSTER, CLUSTER, kind);
}

static void test_clusters(void)
{
    each_kind(behind_clusters);
}

/* On a new raw volume, with each kind of queue. */
static void each_kind_raw(const char *format, void (*run)(void))
{
    const char *path = test_path("plain");
    struct vdisk_create_opts create = {.size = sizeof create, .format = "raw", .virtual_size = 64 << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = format};

    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        test_note("kind %s, format %s", vdisk_queue_kind_name(all_kinds[i]), format ? format : "guessed");
        CHECK_OK(vdisk_create(path, &create));
        CHECK_OK(vdisk_open(path, &opts, &v));
        q = make_queue(all_kinds[i]);
        run();
        CHECK_OK(vdisk_queue_destroy(q));
        CHECK_OK(vdisk_close(v));
    }
}

static void behind_blocks(void)
{
    behind(1 << 20 | 10, 100, 0);
    for (unsigned ids = 1; ids < 3; ids++)
        in_line(2 << 20 | 10, 4096, 100, ids);
}

static void behind_head(void)
{
    behind(0, 512, 0);
    for (unsigned ids = 1; ids < 3; ids++)
        in_line(0, 0, 512, ids);
}

/* The head of its block, the tail, both: alone, and while it waits for another queue's write to end. */
static void ragged_alone(void)
{
    static const struct { unsigned at, len; } ragged[] = {{4096, 1000}, {4196, 3996}, {4196, 100}, {4196, 9000}};
    char *buf = vdisk_alloc_buffer(CLUSTER);
    vdisk_queue *other = make_queue(vdisk_queue_get_kind(q));
    struct vdisk_completion c;

    memset(buf, 0x33, CLUSTER);
    for (unsigned i = 0; i < 2 * ARRAY_LEN(ragged); i++) {
        bool waits = i >= ARRAY_LEN(ragged);
        if (waits)
            vdisk_write(other, v, 1 << 20, buf, CLUSTER, 0, 0);
        vdisk_write(q, v, ragged[i % ARRAY_LEN(ragged)].at, buf, ragged[i % ARRAY_LEN(ragged)].len, 0, i);
        if (waits)
            turn(q);
        CHECK_INT(vdisk_cancel(q, i), 1);
        CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 1);
        CHECK_INT(c.user_data, i);
        CHECK_INT(c.result, -ECANCELED);
        if (waits)
            reap_all(other, 1, NULL);
        check_bytes(0, CLUSTER, 0);
        CHECK_OK(vdisk_pwrite(v, buf, 100, 8 << 20 | 10, 0)); /* others go on */
    }
    CHECK_OK(vdisk_queue_destroy(other));
    free(buf);
}

/* The blocks of a write with ragged ends, and the first sector of what was found to be raw. */
static void test_blocks(void)
{
    each_kind_raw("raw", behind_blocks);
    each_kind_raw("raw", ragged_alone);
    each_kind_raw(NULL, behind_head);
}

/* Neighbours that wait as one write are left alone, the first and the others; before that each is its own. */
static void merged_writes(void)
{
    char *buf = vdisk_alloc_buffer(3 * CLUSTER);
    vdisk_queue *other = make_queue(vdisk_queue_get_kind(q));
    struct vdisk_completion c;
    uint64_t at = 420 * CLUSTER;

    CHECK_OK(vdisk_pwrite(v, "", 1, 399 * CLUSTER, 0));
    memset(buf, 0x44, 3 * CLUSTER);
    vdisk_write(other, v, at, buf, CLUSTER, 0, 0);
    begin(other);
    memset(buf, 0x45, 3 * CLUSTER);
    for (unsigned i = 0; i < 3; i++)
        vdisk_write(q, v, at + i * CLUSTER, buf + i * CLUSTER, CLUSTER, 0, i);
    turn(q);
    for (unsigned i = 0; i < 3; i++)
        CHECK_INT(vdisk_cancel(q, i), -EALREADY);
    reap_all(other, 1, NULL);
    reap_all(q, 3, NULL);
    check_bytes(at, 3 * CLUSTER, 0x45);
    at += 4 * CLUSTER;
    for (unsigned i = 0; i < 3; i++)
        vdisk_write(q, v, at + i * CLUSTER, buf + i * CLUSTER, CLUSTER, 0, i);
    vdisk_read(q, v, 0, NULL, 0, 0, 3); /* ends in the turn that makes them one, which is the only one then */
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 1);
    CHECK_INT(c.user_data, 3);
    for (unsigned i = 0; i < 3; i++)
        CHECK_INT(vdisk_cancel(q, i), -EALREADY);
    reap_all(q, 3, NULL);
    check_bytes(at, 3 * CLUSTER, 0x45);
    for (unsigned gone = 0; gone < 3; gone++) {
        at += 4 * CLUSTER;
        for (unsigned i = 0; i < 3; i++)
            vdisk_write(q, v, at + i * CLUSTER, buf + i * CLUSTER, CLUSTER, 0, i);
        CHECK_INT(vdisk_cancel(q, gone), 1);
        for (unsigned i = 0; i < 3; i++) {
            CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
            CHECK_INT(c.result, c.user_data == gone ? -ECANCELED : 0);
        }
        for (unsigned i = 0; i < 3; i++)
            check_bytes(at + i * CLUSTER, CLUSTER, i == gone ? 0 : 0x45);
    }
    CHECK_OK(vdisk_queue_destroy(other));
    free(buf);
}

static void test_merged(void)
{
    each_kind(merged_writes);
}

static bool is_readable(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

/* Who sleeps on the descriptor after he has cancelled is woken by that, though nothing else happens. */
static void by_descriptor(void)
{
    char *buf = vdisk_alloc_buffer(CLUSTER);
    vdisk_queue *other = make_queue(vdisk_queue_get_kind(q));
    struct vdisk_completion c;
    int fd = vdisk_queue_fd(q);

    CHECK_OK(fd);
    CHECK_OK(vdisk_pwrite(v, "", 1, 399 * CLUSTER, 0));
    memset(buf, 0x21, CLUSTER);
    vdisk_write(other, v, 440 * CLUSTER, buf, CLUSTER, 0, 0);
    begin(other);
    vdisk_write(q, v, 440 * CLUSTER, buf, CLUSTER, 0, 1);
    do
        turn(q);
    while (is_readable(fd));
    CHECK_INT(vdisk_cancel(q, 1), 1);
    CHECK(is_readable(fd));
    CHECK_INT(vdisk_reap(q, &c, 0, 1, NULL), 1);
    CHECK_INT(c.result, -ECANCELED);
    reap_all(other, 1, NULL);
    CHECK_OK(vdisk_queue_destroy(other));
    free(buf);
}

static void test_descriptor(void)
{
    each_kind(by_descriptor);
}

/* ---- with a load ------------------------------------------------------------------------------------------- */

enum { PLACES = 40, OTHERS = 4 };

struct load {
    vdisk_queue *queue;
    struct rng   rng;
    uint64_t     first;
    char        *buf, *in;
    uint8_t      has[PLACES], comes[PLACES], next;
    bool         busy[PLACES], cancelled[PLACES];
    unsigned     done, taken;
};

static void start(struct load *l, unsigned i)
{
    uint64_t at = l->first + i * (CLUSTER / 2);

    l->busy[i] = true;
    l->cancelled[i] = false;
    l->comes[i] = ++l->next;
    if (rng_below(&l->rng, 6) == 0) {
        l->comes[i] = 0;
        vdisk_write_zeroes(l->queue, v, at, CLUSTER / 2, 0, i);
        return;
    }
    memset(l->buf + i * CLUSTER, l->comes[i], CLUSTER / 2);
    vdisk_write(l->queue, v, at, l->buf + i * CLUSTER, CLUSTER / 2, rng_below(&l->rng, 8) ? 0 : VDISK_REQ_FUA, i);
}

static void take(struct load *l, unsigned min)
{
    struct vdisk_completion c[8];
    int n = vdisk_reap(l->queue, c, min, 8, NULL);

    CHECK(n >= 0 || n == -EINTR);
    for (int k = 0; k < n; k++) {
        unsigned i = (unsigned)c[k].user_data;
        CHECK(l->busy[i]);
        CHECK_INT(c[k].result, l->cancelled[i] ? -ECANCELED : 0);
        l->busy[i] = false;
        if (c[k].result == 0)
            l->has[i] = l->comes[i];
        l->done++;
    }
}

static void *loader(void *arg)
{
    struct load *l = arg;

    l->buf = vdisk_alloc_buffer(PLACES * CLUSTER);
    l->in = vdisk_alloc_buffer(CLUSTER / 2);
    caller_wait_begin("a load that takes back");
    for (unsigned step = 0; step < test_steps(3000); step++) {
        unsigned i = (unsigned)rng_below(&l->rng, PLACES);
        if (!l->busy[i]) {
            start(l, i);
        } else if (!l->cancelled[i] && rng_below(&l->rng, 2)) {
            int rc = vdisk_cancel(l->queue, i);
            CHECK(rc == 1 || rc == -EALREADY);
            l->cancelled[i] = rc == 1;
            l->taken += rc == 1;
        }
        if (rng_below(&l->rng, 4) == 0)
            take(l, (unsigned)rng_below(&l->rng, 3));
    }
    while (vdisk_queue_inflight(l->queue) > 0)
        take(l, 1);
    caller_wait_end();
    for (unsigned i = 0; i < PLACES; i++) {
        CHECK_OK(vdisk_pread(v, l->in, CLUSTER / 2, l->first + i * (CLUSTER / 2)));
        for (unsigned k = 0; k < CLUSTER / 2; k++)
            CHECK_MSG(l->in[k] == (char)l->has[i], "place %u, byte %u is 0x%x, not 0x%x", i, k, l->in[k] & 255,
                      l->has[i]);
    }
    CHECK(l->taken > 0 && l->done > l->taken);
    free(l->buf);
    free(l->in);
    return NULL;
}

/* Threads with a queue each, whose places share clusters. */
static void test_load(void)
{
    struct load l[OTHERS] = {{.queue = NULL}};
    pthread_t threads[OTHERS];

    v = open_rw(make_full_image("image"));
    for (unsigned i = 0; i < OTHERS; i++) {
        rng_init(&l[i].rng, test_seed() + i);
        l[i].queue = make_queue(all_kinds[i % ARRAY_LEN(all_kinds)]);
        l[i].first = 512 * CLUSTER + i * (PLACES * CLUSTER / 2);
        CHECK(pthread_create(&threads[i], NULL, loader, &l[i]) == 0);
    }
    for (unsigned i = 0; i < OTHERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_OK(vdisk_queue_destroy(l[i].queue));
    }
    CHECK_OK(vdisk_close(v));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "unsent", .run = test_unsent},
        {.name = "some", .run = test_some},
        {.name = "words", .run = test_words},
        {.name = "clusters", .run = test_clusters},
        {.name = "blocks", .run = test_blocks},
        {.name = "merged", .run = test_merged},
        {.name = "descriptor", .run = test_descriptor},
        {.name = "load", .run = test_load, .repeat = 3},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
