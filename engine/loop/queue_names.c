/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What others ask of queues without using one: whose turn it is on this thread, and what the kinds are called.
 */
#include "engine/loop/queue.h"

_Thread_local const vdisk_queue *queue_current;
_Thread_local const vdisk_queue *queue_outer;

const char *vdisk_queue_kind_name(enum vdisk_queue_kind kind)
{
    switch (kind) {
    case VDISK_QUEUE_AUTO: return "auto";
    case VDISK_QUEUE_URING_DEFER: return "io_uring (defer_taskrun)";
    case VDISK_QUEUE_URING: return "io_uring";
    case VDISK_QUEUE_THREADS: return "threads";
    case VDISK_QUEUE_SIMULATED: return "simulated";
    }
    return "unknown";
}
