/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/crash/rig.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "filters/filters.h"
#include "tests/lib/test.h"

enum { DEVICE_FILL = 0x5a };

/* ---- disks ------------------------------------------------------------------------------------------------ */

static struct backend *put_fault(struct rig *r, unsigned disk, struct backend *below)
{
    CHECK_OK(fault_backend_create(below, &r->fault[disk]));
    return r->fault[disk];
}

/* As the volume sees the disk, below what is logged. */
static struct backend *put_filter(const struct rig *r, unsigned disk, struct backend *below)
{
    struct backend *b = below;

    if (r->rotated && disk == RIG_IMAGE)
        CHECK_OK(rotate_backend_create(below, 100, &b));
    return b;
}

/* A logged and simulated handle on a disk. */
static struct backend *wrap(struct rig *r, unsigned disk, bool read_only)
{
    struct backend *b = memdisk_open(&r->disk[disk], read_only), *outer = b;

    if (!r->threads)
        CHECK_OK(sim_backend_create(r->sim, b, &outer));
    outer = put_filter(r, disk, outer);
    if (!r->log)
        return outer;
    b = outer;
    if (r->faults && !r->may_fail)
        b = put_fault(r, disk, b);
    CHECK_OK(crash_backend_create(r->log, disk, b, &outer));
    /* What fails has been done or not, and the log must know: a disk does not change its mind later. */
    return r->faults && r->may_fail ? put_fault(r, disk, outer) : outer;
}

/* By the names that are in the image: "sim:image.data", "sim:base". */
enum rig_disk rig_disk_by_name(const char *name)
{
    return strcmp(name, "base") == 0 ? RIG_BASE : RIG_DATA;
}

static int open_named(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    *ret_backend = wrap(arg, rig_disk_by_name(name), !(flags & BACKEND_RDWR));
    return 0;
}

/* At most: `thin`. */
static uint64_t device_size(const struct rig *r)
{
    uint64_t cluster = r->spec.cluster_size;

    if (r->tight)
        return align_up(r->max_size / 4 * 5 + 32 * cluster, 512);
    return align_up(2 * r->max_size + 16 * cluster + (1 << 20), 512);
}

static void init_disks(struct rig *r)
{
    struct memory_options options = {.align = 512, .fixed = true, .fill = DEVICE_FILL};

    for (unsigned i = 0; i < RIG_DISKS; i++) {
        memdisk_init(&r->disk[i], 512);
        if (!r->fixed || i == RIG_BASE)
            continue;
        backend_close(r->disk[i].keeper);
        options.size = device_size(r);
        if (r->thin && i == RIG_IMAGE)
            options.size = 4 * (uint64_t)r->spec.cluster_size;
        CHECK_OK(memory_backend_create_with("device", &options, &r->disk[i].keeper));
    }
}

void rig_init_empty(struct rig *r, const struct image_spec *spec)
{
    struct sim_options options = {.slow_percent = 20, .open = open_named, .arg = r};

    r->rng = test_rng();
    r->spec = *spec;
    snprintf(r->spec.path, sizeof r->spec.path, "sim:image");
    r->max_size = max_u64(r->max_size, spec->size);
    options.seed = rng_next(r->rng);
    r->unit = rng_chance(r->rng, 30) ? 4096 : 512;
    CHECK_OK(sim_create(&options, &r->sim));
    sim_enter(r->sim);
    init_disks(r);
    test_note("%s%s%s", image_describe(&r->spec), r->fixed ? " on a device" : "", r->rotated ? ", rotated" : "");
}

int rig_create(struct rig *r)
{
    struct backend *b = wrap(r, RIG_IMAGE, false);
    int rc = image_create_on(&r->spec, b);

    backend_close(b);
    return rc;
}

static void extend(struct rig *r, uint64_t size)
{
    memory_backend_extend(r->disk[RIG_IMAGE].keeper, size);
}

void rig_init(struct rig *r, const struct image_spec *spec)
{
    rig_init_empty(r, spec);
    if (r->base_size > 0)
        memdisk_write(&r->disk[RIG_BASE], 0, r->initial, r->base_size);
    if (r->made) {
        memdisk_finish(&r->disk[RIG_IMAGE]);
        memdisk_load(&r->disk[RIG_IMAGE], r->made, 512);
    } else {
        int rc;
        while ((rc = rig_create(r)) == -ENOSPC && r->thin)
            extend(r, memdisk_size(&r->disk[RIG_IMAGE]) + 512);
        CHECK_OK(rc);
    }
}

void rig_finish(struct rig *r)
{
    crash_log_destroy(r->log);
    for (unsigned i = 0; i < RIG_DISKS; i++)
        memdisk_finish(&r->disk[i]);
    for (uint32_t i = 0; i < r->versions; i++)
        free(r->version[i].data);
    free(r->initial);
    sim_leave(r->sim);
    sim_destroy(r->sim);
}

void rig_start_log(struct rig *r)
{
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(crash_log_create(&r->log));
    for (unsigned i = 0; i < RIG_DISKS; i++) {
        struct backend *b = put_filter(r, i, memdisk_open(&r->disk[i], true)), *wrapped;
        CHECK_OK(crash_log_base(r->log, i, b, q));
        if (r->thin && i == RIG_IMAGE)
            CHECK_OK(crash_log_extend(r->log, i, device_size(r), DEVICE_FILL));
        CHECK_OK(crash_backend_create(r->log, i, b, &wrapped));
        backend_close(wrapped);
    }
    vdisk_queue_destroy(q);
}

/* What is flushed by now is what the volume had to begin with. */
void rig_restart_log(struct rig *r)
{
    rig_close(r);
    for (uint32_t i = 0; i < r->versions; i++) {
        struct version *v = &r->version[i];
        if (!r->initial)
            r->initial = test_alloc(r->max_size);
        assert(v->kind == VERSION_WRITE);
        memcpy(r->initial + v->offset, v->data, v->len);
        free(v->data);
        memset(v, 0, sizeof *v);
    }
    r->versions = 0;
    crash_log_destroy(r->log);
    r->log = NULL;
    rig_start_log(r);
    rig_open(r, 1);
}

/* ---- open, close ------------------------------------------------------------------------------------------ */

static void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    struct rig *r = arg;

    CHECK(v == r->v && wish->wanted > wish->storage);
    r->wish = wish->number;
    r->wanted = wish->wanted;
}

static void set_grower(struct rig *r)
{
    struct vdisk_grower_opts opts = {.size = sizeof opts};

    opts.chunk = 512 * rng_between(r->rng, 1, 256);
    opts.least_free = rng_between(r->rng, 1, 2 * opts.chunk);
    opts.ahead_ms = 1;
    opts.limit = device_size(r);
    CHECK_OK(vdisk_set_grower(r->v, on_wish, r, &opts));
}

/* By what was asked for, or less; late, or not at first. */
static void answer_wish(struct rig *r)
{
    struct vdisk_watermark mark = {.size = sizeof mark};
    uint64_t size = memdisk_size(&r->disk[RIG_IMAGE]);

    if (r->wish == 0)
        return;
    CHECK_OK(vdisk_get_watermark(r->v, &mark));
    if (mark.parked < r->inflight && rng_chance(r->rng, 70))
        return;
    if (rng_chance(r->rng, 10)) {
        CHECK_OK(vdisk_grown(r->wish, -EIO));
        return; /* and once more */
    }
    if (rng_chance(r->rng, 30))
        r->wanted = size + align_up(rng_between(r->rng, 1, max_u64(r->wanted - min_u64(size, r->wanted), 1)), 512);
    extend(r, min_u64(r->wanted, device_size(r)));
    CHECK_OK(vdisk_grown(r->wish, 0));
    if (mark.wish == r->wish && r->wanted > size)
        r->wish = 0;
}

void rig_open(struct rig *r, unsigned queues)
{
    struct vdisk_open_opts opts = {
        .size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2", .cache_bytes = 1};

    assert(queues <= RIG_QUEUES);
    if (vdisk_open_backend(wrap(r, RIG_IMAGE, false), &opts, &r->v) < 0)
        FAIL("the image cannot be opened: %s", vdisk_error_text());
    r->wish = 0;
    if (r->thin)
        set_grower(r);
    r->queues = queues;
    for (unsigned i = 0; i < queues; i++)
        CHECK_OK(vdisk_queue_create(NULL, &r->q[i]));
}

void rig_close(struct rig *r)
{
    int rc;

    rig_wait(r, 0);
    for (unsigned i = 0; i < r->queues; i++)
        vdisk_queue_destroy(r->q[i]);
    r->queues = 0;
    /* It flushes all. */
    CHECK_OK(crash_mark(r->log, MARK_FLUSH_BEGIN, r->flushes));
    rc = vdisk_close(r->v);
    CHECK_MSG(rc == 0 || r->may_fail, "closing: %s", vdisk_error_text());
    CHECK_OK(rc == 0 ? crash_mark(r->log, MARK_FLUSH_END, r->flushes) : crash_mark(r->log, MARK_LOST, 0));
    r->flushes++;
    r->v = NULL;
    memset(r->fault, 0, sizeof r->fault);
}

void rig_cut(struct rig *r)
{
    CHECK_OK(crash_mark(r->log, MARK_CUT, 0));
    rig_close(r); /* of no consequence for the images */
}

/* ---- requests --------------------------------------------------------------------------------------------- */

bool rig_is_busy(const struct rig *r, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < RIG_SLOTS; i++) {
        const struct rig_slot *s = &r->slot[i];
        if (s->used && s->changes && s->offset < offset + len && offset < s->offset + s->len)
            return true;
    }
    return false;
}

static struct rig_slot *take_slot(struct rig *r, uint64_t offset, uint64_t len)
{
    struct rig_slot *s = r->slot;

    rig_wait(r, RIG_SLOTS - 1);
    while (s->used)
        s++;
    *s = (struct rig_slot){.used = true, .offset = offset, .len = len};
    r->inflight++;
    return s;
}

static struct version *begin_version(struct rig *r, enum version_kind kind, uint64_t offset, uint64_t len,
                                     uint32_t flags, struct rig_slot **ret_slot)
{
    struct version *v = &r->version[r->versions];

    assert(!rig_is_busy(r, offset, len) && len > 0);
    CHECK_MSG(r->versions < RIG_VERSIONS, "too many requests for one run");
    *v = (struct version){.kind = kind, .offset = offset, .len = len, .fua = flags & VDISK_REQ_FUA};
    *ret_slot = take_slot(r, offset, len);
    (*ret_slot)->changes = true;
    (*ret_slot)->id = r->versions++;
    CHECK_OK(crash_mark(r->log, MARK_BEGIN, (*ret_slot)->id));
    return v;
}

/* The queue for the slot's request. */
static vdisk_queue *next_queue(struct rig *r, struct rig_slot *s)
{
    s->queue = r->turn++ % r->queues;
    r->on_queue[s->queue]++;
    return r->q[s->queue];
}

/* Random bytes, most of which shall become shorter: more of them here, fewer there. */
static void repeat(struct rig *r, uint8_t *data, uint64_t len)
{
    for (uint64_t at = 0; at < len; at += r->spec.cluster_size) {
        uint64_t n = min_u64(len - at, r->spec.cluster_size), own = rng_below(r->rng, n + 1);
        for (uint64_t i = max_u64(own, 16); i < n; i++)
            data[at + i] = data[at + i - 16];
    }
}

void rig_write_compressed(struct rig *r, uint64_t offset, uint64_t len, uint32_t flags)
{
    uint64_t unit = r->spec.cluster_size, size = vdisk_size(r->v);

    offset = align_down(offset, unit);
    len = min_u64(align_up(len, unit), size - offset);
    while (rig_is_busy(r, offset, len))
        rig_wait(r, r->inflight - 1);
    rig_write(r, offset, len, flags | (r->spec.data_file ? 0 : VDISK_REQ_COMPRESSED));
}

void rig_write(struct rig *r, uint64_t offset, uint64_t len, uint32_t flags)
{
    struct rig_slot *s;
    struct version *v = begin_version(r, VERSION_WRITE, offset, len, flags, &s);

    v->data = test_alloc(len);
    rng_fill(r->rng, v->data, len);
    if (flags & VDISK_REQ_COMPRESSED)
        repeat(r, v->data, len);
    vdisk_write(next_queue(r, s), r->v, offset, v->data, len, flags, (uint64_t)(s - r->slot));
}

void rig_zero(struct rig *r, uint64_t offset, uint64_t len, uint32_t flags)
{
    struct rig_slot *s;

    begin_version(r, VERSION_ZERO, offset, len, flags, &s);
    vdisk_write_zeroes(next_queue(r, s), r->v, offset, len, flags, (uint64_t)(s - r->slot));
}

void rig_discard(struct rig *r, uint64_t offset, uint64_t len)
{
    struct rig_slot *s;

    begin_version(r, VERSION_DISCARD, offset, len, 0, &s);
    vdisk_discard(next_queue(r, s), r->v, offset, len, 0, (uint64_t)(s - r->slot));
}

void rig_flush(struct rig *r)
{
    struct rig_slot *s = take_slot(r, 0, 0);

    s->is_flush = true;
    s->id = r->flushes++;
    CHECK_OK(crash_mark(r->log, MARK_FLUSH_BEGIN, s->id));
    vdisk_flush(next_queue(r, s), r->v, 0, (uint64_t)(s - r->slot));
}

static void end_slot(struct rig *r, const struct vdisk_completion *c)
{
    struct rig_slot *s = &r->slot[c->user_data];

    CHECK(c->user_data < RIG_SLOTS && s->used);
    CHECK_MSG(c->result == 0 || r->may_fail, "a request at %" PRIu64 "+%" PRIu64 ": %s", s->offset, s->len,
              strerror(-c->result));
    if (c->result == 0)
        CHECK_OK(crash_mark(r->log, s->is_flush ? MARK_FLUSH_END : MARK_END, s->id));
    else if (!s->is_flush)
        CHECK_OK(crash_mark(r->log, MARK_FAILED, s->id));
    s->used = false;
    r->inflight--;
    r->on_queue[s->queue]--;
}

/* Wait for one request at least; others may end with it. */
static void wait_one(struct rig *r)
{
    struct vdisk_completion c[RIG_SLOTS];
    unsigned first = (unsigned)rng_below(r->rng, r->queues);

    answer_wish(r);
    for (unsigned i = 0; i < r->queues; i++) {
        unsigned queue = (first + i) % r->queues;
        int n = vdisk_reap(r->q[queue], c, i == 0 && r->on_queue[queue] > 0, RIG_SLOTS,
                           r->thin ? &(struct timespec){.tv_nsec = 1000000} : NULL);
        CHECK_OK(n);
        for (int k = 0; k < n; k++)
            end_slot(r, &c[k]);
    }
}

void rig_wait(struct rig *r, unsigned most)
{
    while (r->inflight > most)
        wait_one(r);
}

void rig_settle(struct rig *r)
{
    rig_wait(r, 0);
    rig_flush(r);
    rig_wait(r, 0);
}

static void resize(struct rig *r, uint64_t size)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = size < vdisk_size(r->v)};

    if (!opts.shrink && (r->preallocates || rng_chance(r->rng, 30)))
        opts.preallocation = (enum vdisk_prealloc)(1 + rng_below(r->rng, VDISK_PREALLOC_FULL));
    rig_wait(r, 0);
    CHECK_OK(crash_mark(r->log, MARK_SIZE_BEGIN, size));
    CHECK_OK(vdisk_resize(r->v, size, &opts));
    CHECK_OK(crash_mark(r->log, MARK_SIZE_END, size));
}

void rig_grow(struct rig *r, uint64_t size)
{
    assert(size >= vdisk_size(r->v) && size <= r->max_size);
    resize(r, size);
}

void rig_shrink(struct rig *r, uint64_t size)
{
    assert(size < vdisk_size(r->v));
    resize(r, size);
}

void rig_trim(struct rig *r)
{
    CHECK_OK(vdisk_trim_space(r->v));
}

void rig_repair(struct rig *r, enum qcow2_repair_what what)
{
    struct backend *b = wrap(r, RIG_IMAGE, false);
    struct qcow2_repair_result res;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(qcow2_repair(b, q, what, NULL, &res));
    CHECK(res.check.leaks == 0 && res.check.corruptions == 0 && res.check.check_errors == 0);
    vdisk_queue_destroy(q);
    backend_close(b);
}

/* ---- a random mix ------------------------------------------------------------------------------------------ */

/* Around the same few clusters again and again, and sometimes anywhere. */
static void random_range(struct rig *r, uint64_t *ret_offset, uint64_t *ret_len)
{
    uint64_t size = vdisk_size(r->v), unit = r->spec.cluster_size, offset, len;

    offset = rng_chance(r->rng, 70) ? rng_below(r->rng, min_u64(size, 12 * unit)) : rng_below(r->rng, size);
    offset = align_down(offset, (const uint64_t[]){unit, unit, 512, 4096, 1}[rng_below(r->rng, 5)]);
    switch (rng_below(r->rng, 6)) {
    case 0: len = rng_between(r->rng, 1, 700); break;
    case 1: len = 512 * rng_between(r->rng, 1, 8); break;
    case 2: len = unit; break;
    case 3: len = unit * rng_between(r->rng, 1, 5); break;
    case 4: len = max_u64(1, unit / 32) * rng_between(r->rng, 1, 40); break;
    default: len = rng_between(r->rng, 1, unit); break;
    }
    *ret_offset = offset;
    *ret_len = min_u64(len, size - offset);
}

static void mix_step(struct rig *r)
{
    uint64_t what = rng_below(r->rng, 100), offset, len;
    uint32_t fua = rng_chance(r->rng, 12) ? VDISK_REQ_FUA : 0;

    if (what < 14) {
        rig_flush(r);
        return;
    }
    random_range(r, &offset, &len);
    while (rig_is_busy(r, offset, len))
        rig_wait(r, r->inflight - 1);
    if (what < 34)
        rig_write_compressed(r, offset, len, fua);
    else if (what < 64)
        rig_write(r, offset, len, fua);
    else if (what < 80)
        rig_zero(r, offset, len, fua | (rng_chance(r->rng, 60) ? VDISK_REQ_UNMAP : 0));
    else
        rig_discard(r, offset, len);
}

void rig_mix(struct rig *r, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        mix_step(r);
        if (rng_chance(r->rng, 30))
            rig_wait(r, (unsigned)rng_below(r->rng, RIG_SLOTS));
        if (rng_chance(r->rng, 8))
            rig_wait(r, 0);
        if (!r->thin && rng_chance(r->rng, 3) && vdisk_size(r->v) < r->max_size)
            rig_grow(r, min_u64(r->max_size, vdisk_size(r->v) + 512 * rng_between(r->rng, 1, r->max_size / 1024)));
        if (rng_chance(r->rng, 3)) {
            unsigned queues = r->queues;
            rig_close(r);
            rig_open(r, queues);
        }
    }
}
