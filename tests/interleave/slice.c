/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A reader without a lock beside who changes, flushes and reloads an L2 slice. What it reads belongs to its slice,
 * is what was there at one time, and is durable if it is told so.
 */
#include <errno.h>
#include <string.h>

#include "tests/interleave/common.h"
#include "tests/interleave/image.h"

enum { THREADS = 3, KEY = 0, ENTRY = 0, READS = 2, SETS = 4 };

static struct {
    struct image image;
    vdisk_queue *queue[THREADS];
    unsigned     last; /* version that the reader saw */
} x;

/* What the entry is after `n` changes. */
static uint64_t version(unsigned n)
{
    return IMAGE_WORD(KEY, ENTRY) + n;
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

/* All places that KEY can have are taken, and KEY's is the first to be given to another. */
static void setup_full(void)
{
    setup();
    for (uint64_t i = 1; i < Q2_CACHE_WAYS; i++)
        image_load(&x.image, x.queue[0], KEY + i * SETS);
    image_slot(&x.image, &x.image.q.meta.l2, KEY)->referenced = 0;
    x.image.q.meta.l2.hand = 0;
}

static void finish(void)
{
    for (unsigned i = 0; i < THREADS; i++)
        vdisk_queue_destroy(x.queue[i]);
    image_finish(&x.image);
}

static void read_once(void)
{
    uint64_t value;
    bool settled;

    if (!image_read(&x.image, KEY, ENTRY, &value, &settled))
        return;
    REQUIRE(value >> 32 == KEY, "the entry is %llx, of another slice", (unsigned long long)value);
    REQUIRE(value >= version(x.last), "the entry was %u before, and is %llx", x.last, (unsigned long long)value);
    x.last = (unsigned)(value - version(0));
    REQUIRE(!settled || image_durable(&x.image, KEY, ENTRY) >= value,
            "version %u of the entry counts as durable, the disk has %u", x.last,
            (unsigned)(image_durable(&x.image, KEY, ENTRY) - version(0)));
}

static void reader(unsigned reads)
{
    for (unsigned i = 0; i < reads; i++)
        read_once();
}

static void change_thread(unsigned self)
{
    switch (self) {
    case 0:
        image_change(&x.image, KEY, ENTRY, version(1));
        image_change(&x.image, KEY, ENTRY, version(2));
        break;
    case 1:
        REQUIRE(image_flush(&x.image, x.queue[self]) == 0, "a flush fails");
        break;
    default:
        reader(1);
    }
}

static void failing_thread(unsigned self)
{
    if (self == 1) {
        reader(READS);
        return;
    }
    image_change(&x.image, KEY, ENTRY, version(1));
    REQUIRE(image_flush(&x.image, x.queue[self]) == -EIO, "a flush does not fail");
    REQUIRE(image_flush(&x.image, x.queue[self]) == 0, "a flush fails");
    REQUIRE(image_durable(&x.image, KEY, ENTRY) == version(1), "not durable after a flush");
}

static void reload_thread(unsigned self)
{
    if (self == 1) {
        reader(READS);
        return;
    }
    image_load(&x.image, x.queue[self], KEY + Q2_CACHE_WAYS * SETS);
    REQUIRE(!image_slot(&x.image, &x.image.q.meta.l2, KEY), "the slot has not been taken");
    image_load(&x.image, x.queue[self], KEY);
}

const struct program slice_change = {
    .name = "slice",
    .text = "an L2 slice is changed twice, beside a flush and a reader",
    .threads = 3,
    .setup = setup,
    .thread = change_thread,
    .finish = finish,
};

const struct program slice_failing = {
    .name = "slice_failing",
    .text = "an L2 slice is changed, a flush fails, the next does not, beside a reader",
    .threads = 2,
    .setup = setup_failing,
    .thread = failing_thread,
    .finish = finish,
};

const struct program slice_reload = {
    .name = "slice_reload",
    .text = "a slot is given to another L2 slice, beside a reader of the first",
    .threads = 2,
    .setup = setup_full,
    .thread = reload_thread,
    .finish = finish,
};
