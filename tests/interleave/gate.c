/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * engine/gate as qcow2 uses it: users look a mapping up inside the gate, and use what they found; who replaces a
 * mapping lets go of the old one when the gate says that nobody can use it any more.
 */
#include <string.h>

#include "engine/loop/gate.h"
#include "tests/interleave/common.h"

enum { THREADS = 3, USES = 2 };

static struct {
    struct gate      g;
    vdisk_queue     *queue[THREADS];
    _Atomic unsigned current;    /* the mapping in effect */
    bool             gone[8];    /* mappings that have been let go of */
} x;

static void setup(void)
{
    memset(&x, 0, sizeof x);
    REQUIRE(gate_init(&x.g) == 0, "no gate");
    for (unsigned i = 0; i < THREADS; i++)
        x.queue[i] = quiet_queue(i);
}

static void finish(void)
{
    REQUIRE(!x.g.draining, "the drain has not ended, though everybody has left");
    for (unsigned slot = 0; slot < GATE_SLOTS; slot++)
        for (unsigned parity = 0; parity < 2; parity++)
            REQUIRE(x.g.slots[slot].inside[parity] == 0, "%u are still inside", x.g.slots[slot].inside[parity]);
    for (unsigned i = 0; i < THREADS; i++)
        vdisk_queue_destroy(x.queue[i]);
    gate_finish(&x.g);
}

static void check(void)
{
    for (unsigned slot = 0; slot < GATE_SLOTS; slot += GATE_SLOTS - 1)
        for (unsigned parity = 0; parity < 2; parity++)
            REQUIRE(x.g.slots[slot].inside[parity] << 1 <= THREADS << 1, "more have left than were inside");
}

/* The first slot and the last: a drain looks at one before, at the other after its half-way point. */
static void use(uint32_t queue_id, unsigned mapping, uint8_t parity)
{
    REQUIRE(!x.gone[mapping], "mapping %u is used after the gate had let go of it", mapping);
    gate_leave(&x.g, queue_id, parity);
}

static void look_up_and_use(uint32_t queue_id)
{
    uint8_t parity = gate_enter(&x.g, queue_id);
    unsigned mapping = atomic_load(&x.current);

    sched_point("user: has looked up");
    use(queue_id, mapping, parity);
}

/* A second request begins before the first has ended. */
static void two_at_a_time(uint32_t queue_id)
{
    uint8_t first = gate_enter(&x.g, queue_id), second;
    unsigned found = atomic_load(&x.current), then;

    second = gate_enter(&x.g, queue_id);
    then = atomic_load(&x.current);
    sched_point("user: has looked up twice");
    use(queue_id, found, first);
    use(queue_id, then, second);
}

static void replace_and_wait(unsigned self)
{
    unsigned old = atomic_fetch_add(&x.current, 1);
    struct waiter w;

    waiter_init(&w, x.queue[self]);
    gate_drain(&x.g, &w.op);
    REQUIRE(waiter_await(&w) == 0, "a drain fails");
    x.gone[old] = true;
}

static void replace_and_come_back(void)
{
    unsigned old = atomic_fetch_add(&x.current, 1);
    uint64_t ticket = gate_ticket(&x.g);

    while (!gate_passed(&x.g, ticket))
        sched_others_first("comes back with its ticket");
    x.gone[old] = true;
}

static void users_thread(unsigned self)
{
    if (self < 2)
        for (unsigned i = 0; i < USES; i++)
            look_up_and_use(self == 0 ? 0 : GATE_SLOTS - 1);
    else
        replace_and_wait(self);
}

static void drains_thread(unsigned self)
{
    switch (self) {
    case 0:
        two_at_a_time(GATE_SLOTS - 1);
        break;
    case 1:
        replace_and_wait(self);
        break;
    default:
        replace_and_come_back();
    }
}

const struct program gate_users = {
    .name = "gate",
    .text = "two users and one who drains",
    .threads = 3,
    .setup = setup,
    .thread = users_thread,
    .check = check,
    .finish = finish,
};

const struct program gate_drains = {
    .name = "gate_drains",
    .text = "a user with two requests, one who drains, one who draws a ticket",
    .threads = 3,
    .setup = setup,
    .thread = drains_thread,
    .check = check,
    .finish = finish,
};
