/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a bulk verb works beside others: --idle, --max-memory. */
#include <inttypes.h>
#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/cli.h"

enum { BUFFER_LEAST = 128 << 10 };

enum { IOPRIO_WHO_PROCESS = 1, IOPRIO_CLASS_IDLE = 3, IOPRIO_CLASS_SHIFT = 13, NICEST = 19 };

#define MIB           (UINT64_C(1) << 20)
#define MEMORY        (256 * MIB)
#define PROCESS       (16 * MIB) /* what takes none of the bound's caches and buffers: the program itself, plans */
#define CACHE_LEAST   MIB        /* of vdisk_open_opts */
#define CACHE_DEFAULT (32 * MIB)

void cli_be_idle(void)
{
    struct sched_param none = {.sched_priority = 0};

    /* Threads that come later have the same. What is refused is no reason not to do the work. */
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT);
    if (sched_setscheduler(0, SCHED_IDLE, &none) != 0)
        setpriority(PRIO_PROCESS, 0, NICEST);
}

unsigned cli_count_layers(const char *name, const char *format)
{
    unsigned count = cli_each_layer(name, format, NULL, NULL);

    return count > 0 ? count : 1;
}

/*
 * What is given back goes back to the host. The C library, left to itself, takes a buffer of some MiB that comes
 * and goes for a reason to keep such in its heap. There the next one often does not fit where the last one was, so
 * that a process grows to a multiple of what it uses.
 */
static void keep_no_more(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, BUFFER_LEAST);
#endif
}

int cli_memory_share(const struct cli_parser *p, unsigned layers, unsigned written, uint64_t buffers,
                     uint64_t least, struct cli_memory *ret)
{
    uint64_t all = p->max_memory > 0 ? p->max_memory : MEMORY;
    uint64_t shares = (uint64_t)layers + written; /* a flush has copies of what it writes */
    uint64_t needed = PROCESS + least + shares * CACHE_LEAST;
    char given[32], want[32];

    if (p->max_memory > 0)
        keep_no_more();
    if (all < needed && p->max_memory > 0)
        return cli_usage_error(p->verb, "--max-memory: %s is too little for %u layers: it takes %s",
                               cli_format_size(all, given, sizeof given), layers,
                               cli_format_size(needed, want, sizeof want));
    if (all < needed)
        all = needed; /* nobody has asked for a bound */
    ret->buffers = (all - PROCESS) / 2;
    if (ret->buffers > all - PROCESS - shares * CACHE_LEAST)
        ret->buffers = all - PROCESS - shares * CACHE_LEAST;
    if (ret->buffers < least)
        ret->buffers = least;
    if (ret->buffers > buffers)
        ret->buffers = buffers;
    ret->cache = (all - PROCESS - ret->buffers) / shares;
    if (ret->cache > CACHE_DEFAULT)
        ret->cache = CACHE_DEFAULT;
    return CLI_OK;
}
