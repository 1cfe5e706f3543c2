/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes to a volume until its standard input ends, then reads all of it and compares: what was acknowledged is
 * there, whatever has happened to the storage meanwhile. Prints how many writes have ended, every 100.
 *
 * usage: rbd_load NAME [FORMAT]
 */
#undef NDEBUG
#include <assert.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vdisk.h>

enum { DEPTH = 16, PLACE = 256 << 10, PLACES = 128, TOLD = 100 };

static struct place {
    uint32_t version; /* of what it holds; 0: zeros */
    uint32_t len;
    bool     busy;
} places[PLACES];

static uint8_t *buffers;
static uint64_t seed = 1;

static uint64_t draw(uint64_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (seed >> 33) % n;
}

static void fill(uint8_t *buf, unsigned place)
{
    for (unsigned i = 0; i < places[place].len; i += 4)
        memcpy(buf + i, &(uint32_t){places[place].version * 2654435761u + place * 977 + i}, 4);
}

/* All of a place is written at a time: bytes that tell which write it was, then zeros. */
static void begin(vdisk_queue *q, vdisk *v)
{
    unsigned place = (unsigned)draw(PLACES);
    uint8_t *buf;

    while (places[place].busy)
        place = (place + 1) % PLACES;
    buf = buffers + (size_t)place * PLACE;
    places[place] = (struct place){places[place].version + 1, (uint32_t)(1 + draw(PLACE / 4096)) * 4096, true};
    memset(buf, 0, PLACE);
    fill(buf, place);
    vdisk_write(q, v, (uint64_t)place * PLACE, buf, PLACE, draw(3) == 0 ? VDISK_REQ_FUA : 0, place);
}

static bool asked_to_stop(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

static void compare(vdisk *v)
{
    uint8_t *got = vdisk_alloc_buffer(PLACE), *want = buffers;

    assert(got);
    for (unsigned i = 0; i < PLACES; i++) {
        memset(want, 0, PLACE);
        if (places[i].version > 0)
            fill(want, i);
        if (vdisk_pread(v, got, PLACE, (uint64_t)i * PLACE) < 0 || memcmp(got, want, PLACE) != 0) {
            fprintf(stderr, "place %u is not as it was written last: %s\n", i, vdisk_error_text());
            exit(1);
        }
    }
    free(got);
}

int main(int argc, char **argv)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    unsigned long long ended = 0, inflight = 0;
    struct vdisk_completion done[DEPTH];
    bool stop = false;
    vdisk_queue *q;
    vdisk *v;

    assert(argc == 2 || argc == 3);
    opts.format = argc == 3 ? argv[2] : opts.format;
    setvbuf(stdout, NULL, _IOLBF, 0);
    buffers = vdisk_alloc_buffer((size_t)PLACES * PLACE);
    if (!buffers || vdisk_open(argv[1], &opts, &v) < 0 || vdisk_queue_create(NULL, &q) < 0) {
        fprintf(stderr, "%s\n", vdisk_error_text());
        return 1;
    }
    assert(vdisk_size(v) >= (uint64_t)PLACES * PLACE);
    while (!stop || inflight > 0) {
        for (; !stop && inflight < DEPTH; inflight++)
            begin(q, v);
        int n = vdisk_reap(q, done, 1, DEPTH, NULL);
        assert(n > 0);
        for (int i = 0; i < n; i++) {
            if (done[i].result < 0) {
                vdisk_explain(q, &done[i]);
                fprintf(stderr, "a write has failed: %s\n", vdisk_error_text());
                return 1;
            }
            places[done[i].user_data].busy = false;
            inflight--;
            if (++ended % TOLD == 0)
                printf("%llu\n", ended);
        }
        stop = stop || asked_to_stop();
    }
    compare(v);
    vdisk_queue_destroy(q);
    if (vdisk_close(v) < 0) {
        fprintf(stderr, "%s\n", vdisk_error_text());
        return 1;
    }
    printf("compared %llu\n", ended);
    return 0;
}
