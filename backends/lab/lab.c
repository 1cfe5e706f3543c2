/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The laboratory of vdisk-lab.h: names disks in memory, and puts the wrapping backends around them: fault over
 * crash (once armed) over sim over memory.
 *
 * Happy path of a power cut: walk along the log; at each place make the images that it can leave; for each, hand
 * out handles on it under the disks' names, and ask the judge.
 * Failure modes: out of memory; more disks than the log has room for; a judge that objects ends the walk.
 *
 * Invariants.
 *  1. A disk's number is its place in `disk` and its number in the log.
 *  2. While there is an image, names mean its disks; else the memory's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/crash.h"
#include "backends/lab/fault.h"
#include "backends/lab/sim.h"
#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/vdisk.h"

#include "backends/lab/vdisk-lab.h"

enum { LAB_NAME = 64, LAB_ALIGN = 512, LAB_UNIT = 512, LAB_TEXT = 800 };

static_assert((int)VDISK_LAB_DISKS <= (int)CRASH_DISKS, "each has a place in the log");

struct lab_disk {
    char            name[LAB_NAME];
    struct backend *keeper; /* of the bytes */
};

struct vdisk_lab {
    struct vdisk_lab_opts opts;
    struct sim           *sim;
    struct lab_disk       disk[VDISK_LAB_DISKS];
    unsigned              disks;
    struct crash_log     *log;   /* once armed */
    struct crash_image   *image; /* that is being judged */
    bool                  failing, has_failed; /* has_failed: by an earlier rule */
    struct fault_rule     rule;
    _Atomic uint64_t      matched;
};

/* ---- names ------------------------------------------------------------------------------------------- */

static struct lab_disk *find_disk(vdisk_lab *lab, const char *name)
{
    for (unsigned i = 0; i < lab->disks; i++)
        if (strcmp(lab->disk[i].name, name) == 0)
            return &lab->disk[i];
    return NULL;
}

/* In the log it begins as nothing at all. */
static int log_base(vdisk_lab *lab, unsigned number)
{
    struct backend *b;
    vdisk_queue *q;
    int rc = vdisk_queue_create(NULL, &q);

    if (rc < 0)
        return rc;
    rc = memory_backend_share(lab->disk[number].keeper, &b);
    if (rc == 0) {
        rc = crash_log_base(lab->log, number, b, q);
        backend_close(b);
    }
    vdisk_queue_destroy(q);
    return rc;
}

static int make_disk(vdisk_lab *lab, const char *name, struct lab_disk **ret)
{
    struct memory_options options = {.align = lab->opts.align};
    struct lab_disk *d = &lab->disk[lab->disks];
    int rc;

    if (lab->disks == VDISK_LAB_DISKS)
        return err_set(EMFILE, "sim:%s: a laboratory has at most %d disks", name, VDISK_LAB_DISKS);
    if (strlen(name) >= LAB_NAME)
        return err_set(ENAMETOOLONG, "sim:%s: the name is too long", name);
    rc = memory_backend_create_with(name, &options, &d->keeper);
    if (rc < 0)
        return rc;
    snprintf(d->name, sizeof d->name, "%s", name);
    lab->disks++;
    rc = lab->log ? log_base(lab, lab->disks - 1) : 0;
    if (rc == 0)
        *ret = d;
    return rc;
}

/* ---- handles ----------------------------------------------------------------------------------------- */

/* *wrap is around *b now; on failure *b is closed. */
static int wrapped(int rc, struct backend **b, struct backend *const *wrap)
{
    if (rc < 0)
        backend_close(*b);
    else
        *b = *wrap;
    return rc;
}

static int open_disk(vdisk_lab *lab, const struct lab_disk *d, bool read_only, struct backend **ret)
{
    struct backend *b, *outer = NULL;
    int rc = memory_backend_share(d->keeper, &b);

    if (rc < 0)
        return rc;
    b->read_only = read_only;
    rc = wrapped(sim_backend_create(lab->sim, b, &outer), &b, &outer);
    if (rc == 0 && lab->log)
        rc = wrapped(crash_backend_create(lab->log, (unsigned)(d - lab->disk), b, &outer), &b, &outer);
    if (rc == 0 && lab->failing) {
        rc = wrapped(fault_backend_create(b, &outer), &b, &outer);
        if (rc == 0 && fault_add_rule(b, &lab->rule) < 0) {
            backend_close(b);
            rc = -ENOMEM;
        }
    }
    if (rc == 0)
        *ret = b;
    return rc;
}

static int open_named(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    vdisk_lab *lab = arg;
    struct lab_disk *d = find_disk(lab, name);
    bool read_only = !(flags & (BACKEND_RDWR | BACKEND_CREATE));
    int rc = 0;

    if (!d && (lab->image || !(flags & BACKEND_CREATE)))
        return err_set(ENOENT, "sim:%s: %s", name, strerror(ENOENT));
    if (!d)
        rc = make_disk(lab, name, &d);
    if (rc < 0)
        return rc;
    if (lab->image) {
        *ret_backend = crash_image_open(lab->image, (unsigned)(d - lab->disk), read_only);
        return *ret_backend ? 0 : err_set(ENOMEM, "sim:%s: out of memory", name);
    }
    rc = open_disk(lab, d, read_only, ret_backend);
    return rc < 0 ? err_set(rc, "sim:%s: %s", name, strerror(-rc)) : 0;
}

/* ---- the laboratory ---------------------------------------------------------------------------------- */

static int check_opts(const struct vdisk_lab_opts *user, struct vdisk_lab_opts *ret)
{
    memset(ret, 0, sizeof *ret);
    if (user) {
        if (user->size < sizeof(size_t) || user->size > 4096)
            return err_set(EINVAL, "laboratory: options of size %zu", user->size);
        memcpy(ret, user, min_u64(user->size, sizeof *ret));
    }
    if (ret->align == 0)
        ret->align = LAB_ALIGN;
    if (ret->align > 4096 || (ret->align & (ret->align - 1)) != 0)
        return err_set(EINVAL, "laboratory: an alignment of %u; it is a power of two up to 4096", ret->align);
    return 0;
}

static int make_lab(const struct vdisk_lab_opts *user_opts, vdisk_lab **ret_lab)
{
    struct sim_options options = {.slow_percent = 10, .open = open_named};
    vdisk_lab *lab = mem_calloc(1, sizeof *lab);
    int rc;

    if (!lab)
        return err_set(ENOMEM, "laboratory: out of memory");
    rc = check_opts(user_opts, &lab->opts);
    if (rc == 0) {
        options.seed = lab->opts.seed;
        options.latency_ns = lab->opts.latency_ns;
        options.arg = lab;
        rc = sim_create(&options, &lab->sim);
        if (rc < 0)
            err_set(rc, "laboratory: out of memory");
    }
    if (rc < 0) {
        mem_free(lab);
        return rc;
    }
    sim_enter(lab->sim);
    *ret_lab = lab;
    return 0;
}

int vdisk_lab_create(const struct vdisk_lab_opts *user_opts, vdisk_lab **ret_lab)
{
    return ERR_CALL(make_lab(user_opts, ret_lab));
}

void vdisk_lab_destroy(vdisk_lab *lab)
{
    if (!lab)
        return;
    crash_log_destroy(lab->log);
    for (unsigned i = 0; i < lab->disks; i++)
        backend_close(lab->disk[i].keeper);
    sim_leave(lab->sim);
    sim_destroy(lab->sim);
    mem_free(lab);
}

/* ---- failures ---------------------------------------------------------------------------------------- */

static int set_fault(vdisk_lab *lab, const struct vdisk_lab_fault *user)
{
    struct vdisk_lab_fault fault = {0};
    uint32_t kinds = 0;

    lab->has_failed |= vdisk_lab_has_failed(lab);
    lab->failing = false;
    atomic_store(&lab->matched, 0);
    if (!user)
        return 0;
    if (user->size < sizeof(size_t) || user->size > 4096)
        return err_set(EINVAL, "laboratory: a fault of size %zu", user->size);
    memcpy(&fault, user, min_u64(user->size, sizeof fault));
    if (fault.nth > UINT32_MAX || fault.error < 0)
        return err_set(EINVAL, "laboratory: call %" PRIu64 " cannot fail with %d", fault.nth, fault.error);
    kinds |= fault.calls & VDISK_LAB_READS ? FAULT_KIND(IO_READ) : 0;
    kinds |= fault.calls & VDISK_LAB_WRITES ? FAULT_WRITES : 0;
    kinds |= fault.calls & VDISK_LAB_FLUSHES ? FAULT_KIND(IO_FLUSH) : 0;
    lab->rule = (struct fault_rule){.kinds = kinds, .nth = (unsigned)fault.nth, .matched = &lab->matched,
                                    .what = FAULT_FAIL, .error = fault.error ? fault.error : EIO};
    lab->failing = true;
    return 0;
}

int vdisk_lab_fail(vdisk_lab *lab, const struct vdisk_lab_fault *user)
{
    return ERR_CALL(set_fault(lab, user));
}

bool vdisk_lab_has_failed(const vdisk_lab *lab)
{
    uint64_t matched = atomic_load(&lab->matched);

    return matched > 0 && matched >= lab->rule.nth;
}

int vdisk_lab_each_failure(const struct vdisk_lab_opts *opts, const struct vdisk_lab_fault *fault,
                           vdisk_lab_scenario_fn *scenario, void *arg, uint64_t *ret_runs)
{
    struct vdisk_lab_fault one = {0};
    bool failed;
    uint64_t runs = 0;
    int rc, verdict;

    err_clear();
    if (fault->size < sizeof(size_t) || fault->size > 4096)
        return err_set(EINVAL, "laboratory: a fault of size %zu", fault->size);
    memcpy(&one, fault, min_u64(fault->size, sizeof one));
    one.size = sizeof one;
    do {
        vdisk_lab *lab;
        rc = vdisk_lab_create(opts, &lab);
        if (rc < 0)
            return rc;
        one.nth = ++runs;
        rc = vdisk_lab_fail(lab, &one);
        verdict = rc == 0 ? scenario(arg, lab) : 0;
        failed = lab->has_failed || vdisk_lab_has_failed(lab);
        vdisk_lab_destroy(lab);
    } while (rc == 0 && verdict <= 0 && failed);
    if (ret_runs)
        *ret_runs = runs;
    return rc < 0 ? rc : verdict > 0 ? verdict : 0;
}

/* ---- power cuts ---------------------------------------------------------------------------------------- */

static int arm(vdisk_lab *lab)
{
    int rc;

    if (lab->log)
        return err_set(EBUSY, "laboratory: it is armed already");
    rc = crash_log_create(&lab->log);
    for (unsigned i = 0; i < lab->disks && rc == 0; i++)
        rc = log_base(lab, i);
    return rc < 0 ? err_set(rc, "laboratory: %s", strerror(-rc)) : 0;
}

int vdisk_lab_arm(vdisk_lab *lab)
{
    return ERR_CALL(arm(lab));
}

static int mark(vdisk_lab *lab, uint64_t value)
{
    int rc = lab->log ? crash_mark(lab->log, 0, value) : -EINVAL;

    return rc < 0 ? err_set(rc, "laboratory: %s", lab->log ? strerror(-rc) : "it is not armed") : 0;
}

int vdisk_lab_mark(vdisk_lab *lab, uint64_t value)
{
    return ERR_CALL(mark(lab, value));
}

struct cut_power {
    vdisk_lab               *lab;
    struct crash_walk       *walk;
    unsigned                 most;
    vdisk_lab_judge_fn      *judge;
    void                    *arg;
    uint64_t                 mark;
    struct vdisk_lab_crashes crashes;
};

/* The image that has been chosen. 0, -errno, or the judge's objection. */
static int judge_image(struct cut_power *c, unsigned number)
{
    char text[LAB_TEXT];
    int rc = crash_image_make(c->walk, &c->lab->image);

    if (rc < 0)
        return err_set(rc, "laboratory: out of memory for a crash image");
    rc = c->judge(c->arg, c->mark);
    crash_image_destroy(c->lab->image);
    c->lab->image = NULL;
    c->crashes.images++;
    if (rc != 0) {
        crash_walk_describe(c->walk, text, sizeof text);
        err_set(EIO, "laboratory, seed %" PRIu64 ": power cut before event %" PRIu64 ", image %u: %s",
                c->lab->opts.seed, crash_walk_position(c->walk), number, text);
    }
    return rc;
}

static int judge_place(struct cut_power *c)
{
    unsigned n = 0;
    int rc = 0;

    while (rc == 0 && crash_walk_choose(c->walk, c->lab->opts.seed, n, c->most))
        rc = judge_image(c, n++);
    c->crashes.places += n > 0;
    return rc;
}

static int walk(struct cut_power *c)
{
    struct crash_event event = {.kind = CRASH_BEGIN};
    int rc = 0, more;

    do {
        if (event.kind == CRASH_MARK)
            c->mark = event.value;
        if (crash_walk_is_rich(c->walk))
            rc = judge_place(c);
        if (rc != 0)
            return rc;
        more = crash_walk_next(c->walk, &event);
    } while (more > 0);
    return more < 0 ? err_set(more, "laboratory: out of memory") : 0;
}

int vdisk_lab_cut_power(vdisk_lab *lab, unsigned images_per_place, vdisk_lab_judge_fn *judge, void *arg,
                        struct vdisk_lab_crashes *ret_crashes)
{
    struct cut_power c = {.lab = lab, .most = images_per_place, .judge = judge, .arg = arg};
    int rc;

    err_clear();
    if (!lab->log || images_per_place == 0)
        return err_set(EINVAL, "laboratory: %s", lab->log ? "no images asked for" : "it is not armed");
    rc = crash_walk_create(lab->log, LAB_UNIT, &c.walk);
    if (rc < 0)
        return err_set(rc, "laboratory: out of memory");
    rc = walk(&c);
    crash_walk_destroy(c.walk);
    if (ret_crashes) {
        c.crashes.size = ret_crashes->size;
        memcpy(ret_crashes, &c.crashes, min_u64(ret_crashes->size, sizeof c.crashes));
    }
    return rc;
}
