/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/foreign/life.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/lab/sim.h"
#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "tests/lib/test.h"

enum { WRITE_MAX = 64 << 10, LIFE_FILE_MAX = 32 << 20 };

void life_say(struct life *l, const char *fmt, ...)
{
    size_t used = strlen(l->text);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(l->text + used, sizeof l->text - used, fmt, ap);
    va_end(ap);
    test_note("%s", l->text);
}

const uint8_t *life_base(void)
{
    static uint8_t base[LIFE_BASE];
    static bool filled;
    struct rng r;

    if (!filled) {
        rng_init(&r, 77);
        rng_fill(&r, base, sizeof base);
        filled = true;
    }
    return base;
}

static int open_base(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    struct life *l = arg;
    struct backend *b;
    int rc;

    if (strcmp(name, "base") != 0)
        return -ENOENT;
    rc = memory_backend_create_with("sim:base", &(struct memory_options){.align = 1}, &b);
    if (rc == 0)
        rc = memory_backend_write(b, 0, life_base(), LIFE_BASE);
    if (rc == 0) {
        b->read_only = true;
        rc = sim_backend_create(l->sim, b, ret_backend);
    }
    return rc;
}

struct backend *life_open(struct life *l, struct memdisk *d, bool read_only)
{
    struct backend *b;

    CHECK_OK(sim_backend_create(l->sim, memdisk_open(d, read_only), &b));
    b->read_only = read_only;
    return b;
}

uint8_t *life_bytes(struct life *l, uint64_t *ret_len)
{
    uint8_t *bytes;

    *ret_len = min_u64(memdisk_size(&l->disk), LIFE_FILE_MAX);
    bytes = test_alloc(*ret_len + 1);
    memdisk_read(&l->disk, 0, bytes, *ret_len);
    return bytes;
}

/* ---- making it ------------------------------------------------------------------------------------------- */

static bool taken(const struct life *l, unsigned step)
{
    return l->steps->keep[step];
}

/* Of the seed of the image: one for each part, so that a part can be left out. */
static uint64_t part_seed(const struct life *l, unsigned step)
{
    return rng_mix(l->seed + 1000003u * (step + 1));
}

static void make_bytes(struct life *l)
{
    struct scribe_image image;
    uint32_t habits = 0;

    if (l->nmade > 0 && l->seed % 4 == 0) {
        const struct life_made *m = &l->made[part_seed(l, 0) % l->nmade];
        life_say(l, "made by %s\n", m->name);
        l->usable = true;
        l->habits = 0;
        l->bytes = test_alloc(m->len);
        memcpy(l->bytes, m->bytes, m->len);
        l->len = l->tail = m->len;
        return;
    }
    for (unsigned i = 0; i < HABITS; i++)
        habits |= (uint32_t)taken(l, i) << i;
    scribe_image(part_seed(l, 0), &habits, &image);
    l->bytes = image.bytes;
    l->len = image.len;
    l->tail = image.tail;
    l->habits = habits;
    l->usable =
        (habits & ~(uint32_t)HABITS_USABLE) == 0 && !(habits >> HABIT_LAZY & habits >> HABIT_NO_COPIED & 1);
    for (unsigned i = 0; i < HABITS; i++)
        if (habits >> i & 1)
            life_say(l, "has %s\n", scribe_habits[i]);
}

static void damage(struct life *l)
{
    unsigned n = (unsigned)(part_seed(l, HABITS) % (LIFE_DAMAGES + 1));
    uint8_t *whole = test_alloc(l->len);
    struct field_damage d;
    struct walk w;

    memcpy(whole, l->bytes, l->len);
    walk_init(&w, whole, l->len, NULL, 0);
    CHECK_MSG(w.usable, "an image cannot be read before it is damaged");
    life_say(l, "version %u, clusters of %" PRIu64 ", %u refcount bits, %" PRIu64 " bytes%s, %u snapshots\n",
             w.version, w.cluster, 1u << w.refcount_order, w.size, w.extended ? ", extended" : "", w.nsnapshots);
    for (unsigned i = 0; i < n; i++) {
        if (!taken(l, HABITS + i))
            continue;
        field_damage(&w, part_seed(l, HABITS + i) ^ 1, l->bytes, &d);
        life_say(l, "%s, at 0x%" PRIx64 ": 0x%" PRIx64 " becomes 0x%" PRIx64 "\n", d.name, d.at, d.old, d.new);
        l->totals->damages++;
        l->usable &= d.old == d.new;
    }
    walk_finish(&w);
    free(whole);
}

/* ---- using it -------------------------------------------------------------------------------------------- */

/* A range of whole sectors among those that are looked at. */
static void some_range(struct life *l, struct rng *r, uint64_t *ret_offset, uint64_t *ret_len)
{
    uint64_t most = rng_chance(r, 10)   ? l->sectors
                    : rng_chance(r, 30) ? 128
                                        : 16,
             first = rng_below(r, l->sectors);

    *ret_offset = first * WALK_SECTOR;
    *ret_len = rng_between(r, 1, min_u64(most, l->sectors - first)) * WALK_SECTOR;
}

static void expect(struct life *l, uint64_t offset, uint64_t len, enum life_state state)
{
    memset(l->state + offset / WALK_SECTOR, (int)state, len / WALK_SECTOR);
}

static void outcome(struct life *l, const char *what, uint64_t offset, uint64_t len, int rc)
{
    life_say(l, "%s 0x%" PRIx64 "+0x%" PRIx64 ": %s\n", what, offset, len, rc < 0 ? vdisk_error_text() : "done");
    CHECK_MSG(rc == 0 || rc == -EIO || rc == -ENOSPC || rc == -EFBIG || rc == -ENOTSUP || rc == -EACCES ||
                  rc == -ENOMEM || rc == -EINVAL,
              "%s gives the error %d", what, rc);
    CHECK_MSG(rc == 0 || !l->usable, "%s gives the error %d, though nothing is damaged", what, rc);
    if (rc < 0) {
        l->totals->failed++;
        expect(l, offset, len, LIFE_LOOSE);
    }
}

static void do_write(struct life *l, vdisk *v, struct rng *r)
{
    static uint8_t buf[WRITE_MAX];
    uint64_t offset, len;
    int rc;

    some_range(l, r, &offset, &len);
    len = min_u64(len, WRITE_MAX);
    rng_fill(r, buf, len);
    life_touch(l, offset, len);
    rc = vdisk_pwrite(v, buf, len, offset, rng_chance(r, 20) ? VDISK_REQ_FUA : 0);
    memcpy(l->content + offset, buf, len);
    expect(l, offset, len, LIFE_FIRM);
    outcome(l, "write", offset, len, rc);
}

static void do_zero(struct life *l, vdisk *v, struct rng *r)
{
    uint64_t offset, len;
    int rc;

    some_range(l, r, &offset, &len);
    life_touch(l, offset, len);
    rc = vdisk_pzero(v, len, offset, rng_chance(r, 50) ? VDISK_REQ_UNMAP : 0);
    memset(l->content + offset, 0, len);
    expect(l, offset, len, LIFE_FIRM);
    outcome(l, "zero", offset, len, rc);
}

static void do_discard(struct life *l, vdisk *v, struct rng *r)
{
    uint64_t offset, len;
    int rc;

    some_range(l, r, &offset, &len);
    life_touch(l, offset, len);
    rc = vdisk_pdiscard(v, len, offset);
    for (uint64_t i = offset / WALK_SECTOR; i < (offset + len) / WALK_SECTOR; i++)
        l->state[i] = l->state[i] == LIFE_FIRM || l->state[i] == LIFE_OR_ZERO ? LIFE_OR_ZERO : LIFE_LOOSE;
    outcome(l, "discard", offset, len, rc);
}

static void do_grow(struct life *l, vdisk *v, struct rng *r)
{
    uint64_t old = vdisk_size(v),
             size = old + rng_between(r, 1, 600) * WALK_SECTOR * (rng_chance(r, 10) ? 1000 : 1);
    int rc;

    life_touch(l, old, min_u64(size - old, LIFE_READ_MAX)); /* what was behind the end becomes zeros */
    rc = vdisk_grow(v, size);
    life_say(l, "grow to 0x%" PRIx64 ": %s\n", size, rc < 0 ? vdisk_error_text() : "done");
    l->grew |= rc == 0;
}

static void change(struct life *l, vdisk *v, unsigned step)
{
    struct rng r;

    rng_init(&r, part_seed(l, step));
    switch (l->sectors > 0 ? rng_below(&r, 12) : 11) {
    case 0:
        do_zero(l, v, &r);
        break;
    case 1:
    case 2:
        do_discard(l, v, &r);
        break;
    case 3:
        life_say(l, "flush: %d\n", vdisk_sync(v));
        break;
    case 4:
        life_say(l, "trim: %d\n", vdisk_trim_space(v));
        break;
    case 11:
        do_grow(l, v, &r);
        break;
    default:
        do_write(l, v, &r);
        break;
    }
}

static void use(struct life *l)
{
    struct vdisk_open_opts opts = {
        .size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "qcow2", .cache_bytes = 1 << 20};
    unsigned n = 1 + (unsigned)(part_seed(l, HABITS + LIFE_DAMAGES) % LIFE_CHANGES);
    vdisk *v;
    int rc;

    rc = vdisk_open_backend(life_open(l, &l->disk, false), &opts, &v);
    life_say(l, "open for writing: %s\n", rc < 0 ? vdisk_error_text() : "done");
    l->opened = life_bytes(l, &l->opened_len);
    l->writable = rc == 0;
    life_judge_opened(l);
    if (rc < 0) {
        l->totals->refused++;
        return;
    }
    for (unsigned i = 0; i < n; i++)
        if (taken(l, HABITS + LIFE_DAMAGES + i)) {
            change(l, v, HABITS + LIFE_DAMAGES + i);
            life_watch(l);
        }
    rc = vdisk_close(v);
    life_say(l, "close: %s\n", rc < 0 ? vdisk_error_text() : "done");
    l->totals->written++;
}

void life_run(const struct steps *steps, void *arg)
{
    struct life *l = arg;
    struct sim_options options = {.seed = l->seed, .open = open_base, .arg = l};

    l->steps = steps;
    l->text[0] = '\0';
    l->len = l->sectors = 0;
    l->opens = l->writable = l->was_clean = l->grew = false;
    make_bytes(l);
    damage(l);
    CHECK_OK(sim_create(&options, &l->sim));
    sim_enter(l->sim);
    memdisk_init(&l->disk, l->seed % 3 ? 512 : 1);
    memdisk_write(&l->disk, 0, l->bytes, l->len);
    life_look(l);
    life_peer_look(l);
    if (l->seed % 3 == 0)
        life_repair(l);
    if (l->seed % 3 == 1)
        life_amend(l);
    use(l);
    life_judge_end(l);
    memdisk_finish(&l->disk);
    sim_leave(l->sim);
    sim_destroy(l->sim);
    l->totals->images++;
    if (l->verbose)
        printf("%s\n", l->text);
}
