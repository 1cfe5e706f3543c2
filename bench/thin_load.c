/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A load that a thin volume of a domain has to grow under; runs in the test machine.
 *
 *     thin-load write|fill|verify VOLUME SIZE BLOCK DEPTH
 *
 * `write` writes the first SIZE bytes once, in order, DEPTH requests of BLOCK bytes in flight, ends with a flush,
 * and prints one object of JSON: how many writes failed, the longest time that one took, what each extension
 * took, and what there was every 50 ms. `fill` does the same to a volume that does not grow. `verify` reads all of
 * it and prints how many blocks do not hold what was written.
 *
 * Works: each 512 bytes begin with their own offset. Fails: what cannot be opened or queued ends it, with a text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <vdisk.h>

#include "tools/domain/domain.h"

enum { SECTOR = 512, TICK_MS = 50, TICKS = 100000, EXTENSIONS = 10000, DEPTH_MOST = 256 };

struct tick {
    uint64_t at_ms, storage, used, longest_us, done;
};

struct request {
    char    *buf;
    uint64_t offset, began_ns;
};

static struct load {
    vdisk         *v;
    vdisk_queue   *q;
    uint64_t       size, block, began_ns, next, failed, wrong, longest_ns;
    unsigned       depth;
    struct request requests[DEPTH_MOST];
    struct tick    ticks[TICKS];
    size_t         tick_count;
    struct extension {
        uint64_t       at_ms;
        struct domain_growth is;
    } extensions[EXTENSIONS]; /* the grower's thread's, until the volume is closed */
    size_t extension_count;
} l;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t now_ms(void)
{
    return (now_ns() - l.began_ns) / 1000000;
}

static void fail(const char *what)
{
    fprintf(stderr, "thin-load: %s: %s\n", what, vdisk_error_text());
    exit(1);
}

/* ---- what is written -------------------------------------------------------------------------------------- */

static void stamp(char *buf, uint64_t offset)
{
    for (uint64_t at = 0; at < l.block; at += SECTOR) {
        uint64_t value = offset + at + 1;
        memcpy(buf + at, &value, sizeof value);
    }
}

static bool is_stamped(const char *buf, uint64_t offset)
{
    for (uint64_t at = 0; at < l.block; at += SECTOR) {
        uint64_t value;
        memcpy(&value, buf + at, sizeof value);
        if (value != offset + at + 1)
            return false;
    }
    return true;
}

/* ---- what is noted ---------------------------------------------------------------------------------------- */

static void on_note(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "thin-load: %s\n", text);
}

static void on_grown(void *arg, const struct domain_growth *g)
{
    (void)arg;
    if (l.extension_count < EXTENSIONS)
        l.extensions[l.extension_count++] = (struct extension){now_ms() - g->nanoseconds / 1000000, *g};
}

/* The tick that it is now; how full the volume is, is looked at when it begins. */
static struct tick *tick(void)
{
    struct vdisk_watermark mark = {.size = sizeof mark};
    uint64_t at = now_ms() / TICK_MS * TICK_MS;

    if ((l.tick_count > 0 && l.ticks[l.tick_count - 1].at_ms == at) || l.tick_count == TICKS)
        return &l.ticks[l.tick_count - 1];
    if (vdisk_get_watermark(l.v, &mark) < 0)
        fail("how full it is");
    l.ticks[l.tick_count] = (struct tick){.at_ms = at, .storage = mark.storage, .used = mark.highest};
    return &l.ticks[l.tick_count++];
}

/* ---- the load --------------------------------------------------------------------------------------------- */

static void begin_one(struct request *r, bool write)
{
    uint64_t tag = (uint64_t)(r - l.requests);

    r->offset = l.next;
    r->began_ns = now_ns();
    l.next += l.block;
    if (write) {
        stamp(r->buf, r->offset);
        vdisk_write(l.q, l.v, r->offset, r->buf, l.block, 0, tag);
    } else {
        vdisk_read(l.q, l.v, r->offset, r->buf, l.block, 0, tag);
    }
}

static void end_one(const struct vdisk_completion *c, bool write)
{
    struct request *r = &l.requests[c->user_data];
    uint64_t took = now_ns() - r->began_ns;
    struct tick *t;

    l.failed += c->result < 0;
    if (!write) {
        l.wrong += c->result >= 0 && !is_stamped(r->buf, r->offset);
    } else {
        t = tick();
        t->done++;
        t->longest_us = took / 1000 > t->longest_us ? took / 1000 : t->longest_us;
        l.longest_ns = took > l.longest_ns ? took : l.longest_ns;
    }
    if (l.next < l.size)
        begin_one(r, write);
}

static void run(bool write)
{
    struct vdisk_completion done[DEPTH_MOST];

    l.began_ns = now_ns();
    for (unsigned i = 0; i < l.depth && l.next < l.size; i++)
        begin_one(&l.requests[i], write);
    while (vdisk_queue_inflight(l.q) > 0) {
        int n = vdisk_reap(l.q, done, 1, l.depth, NULL);
        for (int i = 0; i < n; i++)
            end_one(&done[i], write);
    }
    if (!write)
        return;
    vdisk_flush(l.q, l.v, 0, 0);
    if (vdisk_reap(l.q, done, 1, 1, NULL) != 1 || done[0].result < 0)
        fail("flush");
}

/* ---- what is printed -------------------------------------------------------------------------------------- */

static void print(uint64_t took_ns)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\": %.3f, \"cpu\": %.3f, \"rss\": %" PRIu64 ", \"failed\": %" PRIu64
           ", \"stall_ms\": %.3f, \"extensions\": [", (double)took_ns / 1e9,
           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
           (uint64_t)usage.ru_maxrss << 10, l.failed, (double)l.longest_ns / 1e6);
    for (size_t i = 0; i < l.extension_count; i++)
        printf("%s[%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %.3f, %" PRIu64 ", %d]", i > 0 ? ", " : "",
               l.extensions[i].at_ms, l.extensions[i].is.before, l.extensions[i].is.after,
               (double)l.extensions[i].is.nanoseconds / 1e6, l.extensions[i].is.parked, l.extensions[i].is.result);
    printf("], \"trace\": [");
    for (size_t i = 0; i < l.tick_count; i++)
        printf("%s[%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64 "]", i > 0 ? ", " : "",
               l.ticks[i].at_ms, l.ticks[i].storage, l.ticks[i].used, l.ticks[i].longest_us, l.ticks[i].done);
    printf("]}\n");
}

static void open_all(const char *name, bool write, bool grows, struct domain_use **ret_use)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = write ? VDISK_OPEN_RDWR : 0};
    const struct domain_grow grow = {.note = on_note, .grown = on_grown};
    char *found;

    if (domain_open_name(name, &found, ret_use) < 0 || vdisk_open(found, &how, &l.v) < 0)
        fail(name);
    free(found);
    if (grows && domain_use_grow(*ret_use, l.v, &grow) < 0)
        fail(name);
    if (vdisk_queue_create(NULL, &l.q) < 0)
        fail("a queue");
    for (unsigned i = 0; i < l.depth; i++) {
        l.requests[i].buf = vdisk_alloc_buffer(l.block);
        if (l.requests[i].buf == NULL)
            fail("buffers");
        memset(l.requests[i].buf, 'x', l.block);
    }
}

int main(int argc, char **argv)
{
    bool grows = argc == 6 && strcmp(argv[1], "write") == 0;
    bool write = grows || (argc == 6 && strcmp(argv[1], "fill") == 0);
    struct domain_use *use;
    uint64_t took;

    if (argc != 6 || (!write && strcmp(argv[1], "verify") != 0))
        return 2;
    l.size = strtoull(argv[3], NULL, 10);
    l.block = strtoull(argv[4], NULL, 10);
    l.depth = (unsigned)strtoul(argv[5], NULL, 10);
    if (l.block == 0 || l.block % SECTOR != 0 || l.size % l.block != 0 || l.depth == 0 || l.depth > DEPTH_MOST)
        return 2;
    open_all(argv[2], write, grows, &use);
    run(write);
    took = now_ns() - l.began_ns;
    vdisk_queue_destroy(l.q);
    if (vdisk_close(l.v) < 0)
        fail("close");
    domain_use_end(use);
    if (write)
        print(took);
    else
        printf("{\"lost\": %" PRIu64 "}\n", l.failed + l.wrong);
    return 0;
}
