/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A raw volume with requests of one thread in flight, which another closes: that is refused for as long as
 * something is in flight, and when it is done nobody touches the volume any more.
 */
#include <errno.h>
#include <string.h>

#include "engine/loop/after.h"
#include "engine/loop/thread.h"
#include "engine/volume.h"
#include "tests/interleave/common.h"
#include "tests/interleave/image.h"

enum { READS = 2, LEN = 512 };

static struct {
    vdisk       *v;
    vdisk_queue *queue;
    uint8_t      buf[READS][LEN];
    bool         begun;
} x;

static void setup(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "raw", .flags = VDISK_OPEN_RDWR};
    struct disk *disk;

    memset(&x, 0, sizeof x);
    disk_create(&disk);
    x.queue = quiet_queue(0);
    REQUIRE(vdisk_open_backend(&disk->b, &opts, &x.v) == 0, "%s", vdisk_error_text());
    after_run(); /* what a call of the library's does on its way out: the volume's first size has been told */
}

static void finish(void)
{
    vdisk_queue_destroy(x.queue);
    thread_release();
}

static void user(void)
{
    struct vdisk_completion c;

    for (unsigned i = 0; i < READS; i++)
        vdisk_read(x.queue, x.v, i * LEN, x.buf[i], LEN, 0, i);
    x.begun = true;
    gate_ticket(&x.v->requests); /* a drain, as of a flush that has freed clusters: nobody waits for it */
    for (unsigned i = 0; i < READS; i++)
        REQUIRE(vdisk_reap(x.queue, &c, 1, 1, NULL) == 1 && c.result == 0, "a read fails");
}

static bool has_begun(void *arg)
{
    return x.begun;
}

static void closer(void)
{
    int rc;

    sched_wait("waits for requests", has_begun, NULL);
    while ((rc = vdisk_close(x.v)) == -EBUSY)
        sched_others_first("comes back to close");
    REQUIRE(rc == 0, "closing fails: %s", vdisk_error_text());
    thread_release();
}

static void thread(unsigned self)
{
    if (self == 0)
        user();
    else
        closer();
}

const struct program close_busy = {
    .name = "close",
    .text = "a volume is closed while requests are in flight",
    .threads = 2,
    .setup = setup,
    .thread = thread,
    .finish = finish,
};
