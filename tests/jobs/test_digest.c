/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Digests: several side by side are what libgcrypt gives for each, for any length and place; what is given to
 * threads comes back digested, once, whatever their number, and waits for what is beside it or for a hurry.
 */
#include <stdlib.h>
#include <string.h>

#include "jobs/digest.h"
#include "tests/jobs/jobs.h"

enum { LENGTHS = 1500, SOME = 16411, WORKS = 41 };

static void check_lanes(const uint8_t *const data[LANES], size_t len)
{
    uint8_t digests[LANES][LANES_DIGEST], wanted[VDISK_DIGEST_SIZE];

    for (enum lanes_kind kind = lanes_best(); kind > LANES_NONE; kind--) {
        memset(digests, 0, sizeof digests);
        lanes_digest(kind, data, len, digests);
        for (unsigned i = 0; i < LANES; i++) {
            digest_of(data[i], len, wanted);
            CHECK(memcmp(digests[i], wanted, sizeof wanted) == 0);
        }
    }
}

static void test_lanes(void)
{
    static const size_t more[] = {4095, 4096, 4097, SOME - 3};
    uint8_t *buf = malloc((size_t)LANES * SOME);
    const uint8_t *data[LANES];

    if (lanes_best() == LANES_NONE) {
        free(buf);
        return; /* nothing calls it, and digests are libgcrypt's */
    }
    CHECK_OK(digest_init());
    rng_fill(test_rng(), buf, (size_t)LANES * SOME);
    for (size_t len = 0; len < LENGTHS + ARRAY_LEN(more); len++) {
        for (unsigned i = 0; i < LANES; i++)
            data[i] = buf + (size_t)i * SOME + (i + len) % 3;
        check_lanes(data, len < LENGTHS ? len : more[len - LENGTHS]);
    }
    data[1] = data[3] = data[0]; /* one another's */
    check_lanes(data, LENGTHS);
    memset(buf, 0xff, (size_t)LANES * SOME); /* carries */
    check_lanes(data, LENGTHS);
    free(buf);
}

/* What has been digested is right; returns how many. */
static unsigned take(struct hashers *h, bool seen[WORKS], const struct hash_work *works)
{
    uint8_t wanted[VDISK_DIGEST_SIZE];
    unsigned count = 0;

    for (struct hash_work *w = hashers_take(h); w; w = w->next, count++) {
        CHECK(!seen[w - works]);
        seen[w - works] = true;
        digest_of(w->data, w->len, wanted);
        CHECK(memcmp(w->digest, wanted, sizeof wanted) == 0);
    }
    return count;
}

/* Works of two lengths, a few of them zeros. */
static void make_works(struct hash_work *works, uint8_t *buf, uint8_t *zeros)
{
    memset(buf, 0, SOME);
    digest_of(buf, SOME, zeros);
    digest_of(buf, SOME - 1000, zeros + VDISK_DIGEST_SIZE);
    for (unsigned i = 0; i < WORKS; i++) {
        bool shorter = i % 7 == 5;
        works[i] = (struct hash_work){.data = buf + (size_t)i * SOME, .len = SOME - (shorter ? 1000 : 0),
                                      .zeros = zeros + (shorter ? VDISK_DIGEST_SIZE : 0)};
        if (i % 5 != 3)
            rng_fill(test_rng(), buf + (size_t)i * SOME, SOME);
        else
            memset(buf + (size_t)i * SOME, 0, SOME);
    }
}

static void test_threads(void)
{
    uint8_t *buf = malloc((size_t)WORKS * SOME), zeros[2 * VDISK_DIGEST_SIZE];
    struct vdisk_completion none;
    struct hash_work works[WORKS];
    struct hashers h;
    vdisk_queue *q;

    CHECK_OK(digest_init());
    make_works(works, buf, zeros);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned threads = 0; threads <= 5; threads++)
        for (unsigned together = 1; together <= LANES; together++) {
            bool seen[WORKS] = {false};
            unsigned given = 0, taken = 0;
            hashers_init(&h, q, threads, together);
            while (given < WORKS) {
                hashers_give(&h, &works[given++]);
                taken += take(&h, seen, works);
            }
            hashers_hurry(&h);
            while ((taken += take(&h, seen, works)) < WORKS)
                CHECK(vdisk_wait(q, &none, 1, 1, NULL) == 0); /* who ends one wakes it */
            hashers_finish(&h);
        }
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
}

/* Without threads it is seen when: not before there are so many, and none of another length with them. */
static void test_together(void)
{
    uint8_t *buf = malloc((size_t)WORKS * SOME), zeros[2 * VDISK_DIGEST_SIZE];
    bool seen[WORKS] = {false};
    struct hash_work works[WORKS];
    struct hashers h;
    vdisk_queue *q;

    CHECK_OK(digest_init());
    make_works(works, buf, zeros);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    hashers_init(&h, q, 1, 3);
    for (unsigned i = 0; i < 8; i++) { /* the sixth is shorter */
        static const unsigned wanted[] = {0, 0, 3, 0, 0, 2, 0, 1};
        hashers_give(&h, &works[i]);
        CHECK_INT(take(&h, seen, works), lanes_best() != LANES_NONE ? wanted[i] : 1);
    }
    hashers_hurry(&h);
    CHECK_INT(take(&h, seen, works), lanes_best() != LANES_NONE ? 2 : 0);
    hashers_give(&h, &works[8]);
    CHECK_INT(take(&h, seen, works), lanes_best() != LANES_NONE ? 0 : 1); /* a hurry without work is none later */
    hashers_hurry(&h);
    CHECK_INT(take(&h, seen, works), lanes_best() != LANES_NONE ? 1 : 0);
    hashers_finish(&h);
    CHECK_OK(vdisk_queue_destroy(q));
    free(buf);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "lanes", .run = test_lanes},
        {.name = "threads", .run = test_threads},
        {.name = "together", .run = test_together},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
