/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated world: memory disks by name, storage with faults and latencies on top, volumes with chains on these,
 * and a random workload on each, by one or two queues. All of it follows from one seed.
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "backends/lab/sim.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/model.h"
#include "tests/lib/shrink.h"
#include "tests/lib/workload.h"

enum { WORLD_VOLUMES = 3, WORLD_QUEUES = 2, WORLD_DISKS = 32, WORLD_NAME = 32 };

struct world_disk {
    char name[WORLD_NAME];
    struct memdisk disk;
};

struct world_volume {
    struct image_spec layers[IMAGE_LAYERS];
    unsigned nlayers;
    struct model model;   /* what it must read as */
    struct model flushed; /* the least that must be there when a flush has failed */
    struct backend *fault; /* around its top layer, while it is open */
    struct memdisk *thin;  /* the top's disk, of which a grower makes more when it is full; or NULL */
    unsigned wishes;
    vdisk *v;
    struct workload w;
};

struct world {
    /* Set by the caller. */
    uint64_t seed;
    unsigned nsteps;
    bool faults; /* some calls fail */
    /* Put around a disk's backend when its volume is opened for the workload; NULL: nothing. */
    struct backend *(*wrap)(struct backend *b);
    bool by_qemu;                /* qemu-img looks at the images, too */
    void (*trace)(void *arg, const struct sim_event *e); /* or NULL; arg is the world */

    /* Its own. */
    struct rng rng;
    struct sim *sim;
    struct world_disk disks[WORLD_DISKS];
    unsigned ndisks;
    uint32_t align; /* of all disks */
    uint32_t max_transfer, max_iov;
    struct world_volume volumes[WORLD_VOLUMES];
    unsigned nvolumes;
    vdisk_queue *queues[WORLD_QUEUES];
    unsigned nqueues;
    struct world_volume *opening; /* its top layer gets faults and `wrap` */
};

/*
 * Make the images, open the volumes, take the steps that `steps` keeps, check what there is to check, close, check
 * again. Fails the case where something is wrong. Returns the hash of all that the storage saw.
 */
uint64_t world_run(struct world *w, const struct steps *steps);

#endif
