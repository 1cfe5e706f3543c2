/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request leaves the gate for a while and comes back, as what waits for room does: who counts the requests of
 * the volume, to close or to change it, sees it at any moment.
 */
#include <string.h>

#include "engine/volume.h"
#include "tests/interleave/common.h"

enum { ROUNDS = 2 };

static struct {
    vdisk             v;
    struct gate_slot *slot;
    uint8_t           parity;
} x;

static void setup(void)
{
    memset(&x, 0, sizeof x);
    REQUIRE(gate_init(&x.v.requests) == 0, "no gate");
    x.slot = gate_slot(&x.v.requests, GATE_SLOTS / 2);
    x.parity = gate_enter_slot(&x.v.requests, x.slot);
}

static void finish(void)
{
    REQUIRE(volume_inside(&x.v) == 1, "%llu are inside in the end", (unsigned long long)volume_inside(&x.v));
    gate_leave_slot(&x.v.requests, x.slot, x.parity);
    gate_finish(&x.v.requests);
}

static void thread(unsigned self)
{
    for (unsigned i = 0; i < ROUNDS && self == 0; i++) {
        volume_count_out(&x.v);
        gate_leave_slot(&x.v.requests, x.slot, x.parity);
        sched_point("request: is outside");
        x.parity = gate_enter_slot(&x.v.requests, x.slot);
        volume_count_in(&x.v);
    }
    if (self == 1)
        REQUIRE(volume_inside(&x.v) > 0, "a request that steps out is in no count");
}

const struct program steps_out = {
    .name = "outside",
    .text = "a request leaves the gate and comes back, another thread counts",
    .threads = 2,
    .setup = setup,
    .thread = thread,
    .finish = finish,
};
