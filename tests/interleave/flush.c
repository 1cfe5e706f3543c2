/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Three who change an entry each and flush: one leads, who comes then shares the next flush, and the lead goes
 * from one to the other. Who is told that his flush went well has his entry on the disk.
 */
#include <errno.h>
#include <string.h>

#include "tests/interleave/common.h"
#include "tests/interleave/image.h"

enum { THREADS = 3, KEY = 0 };

static struct {
    struct image image;
    vdisk_queue *queue[THREADS];
    unsigned     failed;
} x;

static uint64_t changed(unsigned self)
{
    return IMAGE_WORD(KEY, self) + 100;
}

static void setup(void)
{
    memset(&x, 0, sizeof x);
    image_init(&x.image);
    for (unsigned i = 0; i < THREADS; i++)
        x.queue[i] = quiet_queue(i);
    image_load(&x.image, x.queue[0], KEY);
}

static void setup_failing(void)
{
    setup();
    x.image.disk->fail_flush = 1;
}

static void finish(void)
{
    struct q2 *q = &x.image.q;

    if (x.failed > 0)
        REQUIRE(image_flush(&x.image, x.queue[0]) == 0, "the next flush fails, too");
    for (unsigned i = 0; i < THREADS; i++)
        REQUIRE(image_durable(&x.image, KEY, i) == changed(i), "the disk has not what %c changed", (int)('A' + i));
    REQUIRE(!q->meta.flush_running && list_empty(&q->flush.flush_waiting), "a flush is left");
    REQUIRE(q->meta.l2.dirty_count == 0 && q2_read_settled(image_slot(&x.image, &q->meta.l2, KEY)),
            "the slice is still dirty");
    REQUIRE(x.failed > 0 || x.image.disk->fail_flush == 0, "nobody heard of the flush that failed");
    for (unsigned i = 0; i < THREADS; i++)
        vdisk_queue_destroy(x.queue[i]);
    image_finish(&x.image);
}

/* With the lock free, the list and its count are alike, and the slice is in it if and only if it is dirty. */
static void check(void)
{
    struct q2_cache *c = &x.image.q.meta.l2;
    struct q2_slot *s;
    unsigned n = 0;

    if (x.image.q.meta.lock.__data.__lock != 0)
        return;
    for (struct list *l = c->dirty_list.next; l != &c->dirty_list; l = l->next)
        n++;
    s = image_slot(&x.image, c, KEY);
    REQUIRE(n == c->dirty_count && n == q2_slot_is(s, Q2_DIRTY), "%u slices in the list of dirty ones", n);
}

static void thread(unsigned self)
{
    int rc;

    image_change(&x.image, KEY, self, changed(self));
    rc = image_flush(&x.image, x.queue[self]);
    if (rc < 0) {
        REQUIRE(rc == -EIO && x.image.disk->fail_flush > 0, "a flush fails: %d", rc);
        x.failed++;
        return;
    }
    REQUIRE(image_durable(&x.image, KEY, self) == changed(self),
            "a flush went well, and the disk has not what was changed");
}

const struct program flush_groups = {
    .name = "flush",
    .text = "three change an entry and flush",
    .threads = 3,
    .quiet = "slice:",
    .setup = setup,
    .thread = thread,
    .check = check,
    .finish = finish,
};

const struct program flush_failing = {
    .name = "flush_failing",
    .text = "the same, and the first sync fails",
    .threads = 3,
    .quiet = "slice:",
    .setup = setup_failing,
    .thread = thread,
    .check = check,
    .finish = finish,
};
