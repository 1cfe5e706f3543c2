/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A whole image: check, open, map, read all, repair, write, zero, discard, grow, shrink, flush, close, check,
 * and read again. On memory, in a simulated machine, so that one input is one run; what is done to it comes from a
 * hash of the input.
 *
 * What must hold of any input: no crash, no wait that never ends, an error has a text. Of one that check calls
 * sound: it stays sound, and reads as an array of bytes does to which the same was done.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "backends/lab/sim.h"
#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/header.h"
#include "qcow2/qcow2.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/damage.h"

enum {
    INPUT_MAX = 256 << 10,
    MODEL_MAX = 1 << 20, /* volumes up to this size are compared byte by byte */
    IO_MAX = 128 << 10,
    READ_MAX = 4 << 20,  /* of one reading of a volume */
    EXTENTS = 64, EXTENT_CALLS = 32,
    CHECK_MEMORY = 64 << 20,
    OPS_MAX = 16,
    OFFSETS_MAX = 1 << 16, /* entries in use that are looked at */
};

struct subject {
    struct rng      rng;
    struct sim     *sim;
    struct backend *keeper;    /* the bytes */
    uint64_t        data_size; /* of an external data file; 0: none */
    bool            sound;     /* no corruption found, and nothing kept us from looking */
    bool            failed;    /* a write has: what it left is undefined */
    bool            shares;    /* two entries in use point to one cluster */
    bool            kept;      /* a repair said that it keeps what seems to be leaked */
    uint64_t        alone;     /* corruptions that are only a flag: nobody shares a cluster any more */
    uint64_t        was_two;   /* leaks of a refcount of 2: likewise, where all refcounts were counted anew */
    uint64_t        end;       /* of the file, at first */
    uint64_t        leaks;
    uint8_t        *model;     /* what the volume reads as, or NULL; MODEL_MAX bytes */
    uint64_t        size;
};

/* What is done, for who looks at one input: VDISK_FUZZ_VERBOSE is set. */
static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *fmt, ...)
{
    static int verbose = -1;
    va_list args;

    if (verbose < 0)
        verbose = getenv("VDISK_FUZZ_VERBOSE") != NULL;
    if (!verbose)
        return;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

static void on_finding(void *arg, enum qcow2_finding kind, const char *text)
{
    struct subject *s = arg;

    note("check: %s", text);
    s->alone += kind == QCOW2_CORRUPTION && strstr(text, "but the refcount is one");
    s->was_two += kind == QCOW2_LEAK && strstr(text, "refcount=2 reference=1");
    s->kept |= strstr(text, "is kept: free it with -r leaks") != NULL;
    FUZZ_CHECK(text[0] != '\0' && !strchr(text, '\n'), "a finding is one line: '%s'", text);
}

static void must_have_text(int rc)
{
    FUZZ_CHECK(rc >= 0 || vdisk_error_text()[0] != '\0', "error %d without a text", rc);
}

static struct backend *open_bytes(struct subject *s, bool read_only)
{
    struct backend *memory, *b;

    FUZZ_CHECK(memory_backend_share(s->keeper, &memory) == 0, "out of memory");
    memory->read_only = read_only;
    FUZZ_CHECK(sim_backend_create(s->sim, memory, &b) == 0, "out of memory");
    b->read_only = read_only;
    return b;
}

/* Open the volume; NULL: refused. */
static vdisk *open_volume(struct subject *s, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags | VDISK_OPEN_NO_BACKING, .format = "qcow2",
                                   .cache_bytes = 1 << 20};
    char data[64];
    vdisk *v;
    int rc;

    snprintf(data, sizeof data, "memory:%llu", (unsigned long long)s->data_size);
    if (s->data_size)
        opts.data_file = data;
    rc = vdisk_open_backend(open_bytes(s, !(flags & VDISK_OPEN_RDWR)), &opts, &v);
    must_have_text(rc);
    note("open %x: %d", flags, rc);
    return rc < 0 ? NULL : v;
}

/* ---- check --------------------------------------------------------------------------------------------- */

/* False: the check could not be made. */
static bool check(struct subject *s, struct qcow2_check_result *ret)
{
    struct vdisk_queue_opts queue_opts = {.size = sizeof queue_opts};
    struct qcow2_check_opts opts = {.report = on_finding, .report_arg = s, .memory_max = CHECK_MEMORY};
    struct backend *b = open_bytes(s, true);
    vdisk_queue *q;
    int rc;

    FUZZ_CHECK(vdisk_queue_create(&queue_opts, &q) == 0, "%s", vdisk_error_text());
    s->alone = s->was_two = 0;
    rc = qcow2_check(b, q, &opts, ret);
    must_have_text(rc);
    vdisk_queue_destroy(q);
    backend_close(b);
    return rc == 0;
}

static void check_before(struct subject *s)
{
    struct qcow2_check_result res;

    s->sound = check(s, &res) && res.corruptions == 0 && res.check_errors == 0;
    if (s->sound)
        s->leaks = res.leaks;
    note("%s, %llu leaks", s->sound ? "sound" : "not sound", (unsigned long long)s->leaks);
}

static uint64_t bytes_end(struct subject *s)
{
    struct backend *b = open_bytes(s, true);
    uint64_t end = backend_size(b);

    backend_close(b);
    return end;
}

static int compare_offsets(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

struct offsets {
    uint64_t at[OFFSETS_MAX];
    unsigned n;
};

static bool one_is_twice(struct offsets *o)
{
    qsort(o->at, o->n, sizeof o->at[0], compare_offsets);
    for (unsigned i = 1; i < o->n; i++)
        if (o->at[i] == o->at[i - 1])
            return true;
    return o->n == OFFSETS_MAX; /* there may be more: not known */
}

/* Where the entries of a table point to. */
static void add_offsets(struct subject *s, uint64_t table, uint64_t entries, uint64_t step, uint64_t mask,
                        struct offsets *o)
{
    uint8_t piece[4096];

    for (uint64_t i = 0, at = sizeof piece; i < entries; i++, at += step) {
        if (at == sizeof piece) {
            memory_backend_read(s->keeper, table + i * step, piece, sizeof piece);
            at = 0;
        }
        uint64_t entry = get_be64(piece + at);
        if (entry & Q2_COMPRESSED && mask == Q2_L2_OFFSET)
            continue;
        if (entry & mask && o->n < OFFSETS_MAX)
            o->at[o->n++] = entry & mask;
    }
}

/*
 * QEMU makes no image in which two entries of the active tables point to one cluster. A repair may: there was no
 * room for a second one; or what is pointed to is an L2 table. Of a sound one all refcounts and flags are right,
 * but when one of the two goes its own way, nobody looks for the other, to flag that it is now alone: it is taken
 * for shared, which costs a copy, and check calls it wrong. A shrink, which counts all anew, leaves it a refcount
 * of 2 for its flag's sake: a leak.
 */
static void look_for_sharing(struct subject *s)
{
    static struct offsets tables, data;
    static uint8_t head[INPUT_MAX];
    uint64_t size = bytes_end(s);
    struct q2_header h;

    memory_backend_read(s->keeper, 0, head, min_u64(size, sizeof head));
    if (q2_header_parse(head, min_u64(size, sizeof head), size, "image", &h) < 0)
        return;
    tables.n = data.n = 0;
    add_offsets(s, h.l1_offset, h.l1_entries, Q2_L1_ENTRY_SIZE, Q2_L1_OFFSET, &tables);
    s->shares = one_is_twice(&tables);
    for (unsigned i = 0; i < tables.n && !s->shares && !h.geo.data_file; i++)
        add_offsets(s, tables.at[i], q2_l2_entries(&h.geo), h.geo.cluster_size >> h.geo.l2_bits, Q2_L2_OFFSET,
                    &data);
    s->shares |= one_is_twice(&data);
    q2_header_free(&h);
}

static void check_after(struct subject *s)
{
    struct qcow2_check_result res;
    bool checked = check(s, &res);

    if (!s->sound)
        return;
    FUZZ_CHECK(checked, "a sound image cannot be checked any more: %s", vdisk_error_text());
    FUZZ_CHECK(res.corruptions == (s->shares ? s->alone : 0) && res.check_errors == 0,
               "a sound image has %llu corruptions, %llu errors",
               (unsigned long long)res.corruptions, (unsigned long long)res.check_errors);
    /* Refcounts past the end of the file are nobody's business until the file has grown over them. */
    FUZZ_CHECK(s->failed || bytes_end(s) > s->end || res.leaks <= s->leaks + (s->shares ? s->was_two : 0),
               "%llu leaks became %llu",
               (unsigned long long)s->leaks, (unsigned long long)res.leaks);
}

/* What a repair says is left must be what a check then finds; and once is enough. */
static void repair(struct subject *s)
{
    struct vdisk_queue_opts queue_opts = {.size = sizeof queue_opts};
    struct qcow2_check_opts opts = {.report = on_finding, .report_arg = s, .memory_max = CHECK_MEMORY};
    enum qcow2_repair_what what = rng_chance(&s->rng, 70) ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS;
    struct qcow2_repair_result res;
    struct qcow2_check_result again;
    struct backend *b = open_bytes(s, false);
    vdisk_queue *q;
    int rc;

    FUZZ_CHECK(vdisk_queue_create(&queue_opts, &q) == 0, "%s", vdisk_error_text());
    s->kept = false;
    rc = qcow2_repair(b, q, what, &opts, &res);
    must_have_text(rc);
    note("repair %d: %d", (int)what, rc);
    vdisk_queue_destroy(q);
    backend_close(b);
    if (rc < 0)
        return;
    FUZZ_CHECK(check(s, &again), "a repaired image cannot be checked: %s", vdisk_error_text());
    FUZZ_CHECK(again.corruptions == res.check.corruptions && again.leaks == res.check.leaks &&
               again.check_errors == res.check.check_errors, "%llu corruptions, not %llu; %llu leaks, not %llu",
               (unsigned long long)again.corruptions, (unsigned long long)res.check.corruptions,
               (unsigned long long)again.leaks, (unsigned long long)res.check.leaks);
    FUZZ_CHECK(again.leaks == 0 || again.corruptions > 0 || again.check_errors > 0 || s->kept, "leaks are left");
    s->leaks = again.leaks;
    s->sound = again.corruptions == 0 && again.check_errors == 0; /* and fully usable, if so */
    s->end = bytes_end(s);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Where something may be: the start, the end, a boundary of some table, anywhere. */
static uint64_t some_offset(struct subject *s)
{
    struct rng *r = &s->rng;
    uint64_t size = s->size, unit = 512ull << rng_below(r, 20), at;

    switch (rng_below(r, 5)) {
    case 0: at = rng_below(r, 2 * unit); break;
    case 1: at = size - min_u64(size, rng_below(r, 2 * unit)); break;
    case 2: at = rng_below(r, size / unit + 1) * unit; break;
    case 3: at = rng_below(r, min_u64(size, 2 << 20)); break;
    default: at = rng_below(r, size); break;
    }
    return min_u64(rng_chance(r, 50) ? align_down(at, 512) : at, size - 1);
}

static uint64_t some_length(struct subject *s, uint64_t offset, uint64_t max)
{
    uint64_t len = rng_chance(&s->rng, 50) ? 512 * rng_between(&s->rng, 1, 256) : rng_between(&s->rng, 1, IO_MAX);

    return min_u64(min_u64(len, max), s->size - offset);
}

static void read_extents(struct subject *s, vdisk *v)
{
    struct vdisk_extent list[EXTENTS];
    uint64_t at = 0;

    for (int i = 0; i < EXTENT_CALLS && at < s->size; i++) {
        struct vdisk_extents e = {.list = list, .max = EXTENTS};
        if (vdisk_pextents(v, s->size - at, at, &e) < 0)
            return;
        FUZZ_CHECK(e.count > 0, "no extents at %llu", (unsigned long long)at);
        for (unsigned k = 0; k < e.count; k++) {
            FUZZ_CHECK(list[k].guest_offset == at && list[k].length > 0 && list[k].length <= s->size - at,
                       "extents have a hole at %llu", (unsigned long long)at);
            at += list[k].length;
        }
    }
}

/* All of it where it is small, samples where not. The model's bytes where there is one. */
static void read_volume(struct subject *s, vdisk *v, uint8_t *buf)
{
    bool all = s->size <= READ_MAX;
    uint64_t done = 0, at = 0, len;

    for (int i = 0; s->size > 0 && (all ? done < s->size : i < 24); i++, done += len) {
        at = all ? done : some_offset(s);
        len = all ? min_u64(IO_MAX, s->size - done) : some_length(s, at, IO_MAX);
        int rc = vdisk_pread(v, buf, len, at);
        if (!s->model || s->failed)
            continue;
        FUZZ_CHECK(rc == 0, "reading at %llu: error %d", (unsigned long long)at, rc);
        FUZZ_CHECK(memcmp(buf, s->model + at, len) == 0, "other bytes than were written, from %llu on",
                   (unsigned long long)at);
    }
}

/* The first reading makes the model; an image whose compressed data is damaged gets none. */
static void learn(struct subject *s, vdisk *v)
{
    if (!s->sound || s->data_size || s->size > MODEL_MAX || s->size == 0)
        return;
    s->model = calloc(1, MODEL_MAX);
    FUZZ_CHECK(s->model, "out of memory");
    if (vdisk_pread(v, s->model, s->size, 0) < 0) {
        free(s->model);
        s->model = NULL;
    }
}

static void look(struct subject *s, uint8_t *buf)
{
    vdisk *v = open_volume(s, 0);
    vdisk_image *im;

    if (!v)
        return;
    s->size = vdisk_size(v);
    if (vdisk_image_of_layer(v, 0, &im) == 0)
        vdisk_image_free(im);
    if (!s->model)
        learn(s, v);
    read_extents(s, v);
    read_volume(s, v, buf);
    FUZZ_CHECK(vdisk_close(v) == 0, "closing what was only read: %s", vdisk_error_text());
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* A change has ended. A sound image may be full, or too small for what is asked of it, but never damaged. */
static void ended(struct subject *s, int rc)
{
    note("    %d", rc);
    if (rc == 0)
        return;
    FUZZ_CHECK(!s->model || rc == -ENOSPC || rc == -EFBIG || rc == -ENOTSUP, "a sound image gives error %d: %s",
               rc, vdisk_error_text());
    s->failed = true;
}

static void do_write(struct subject *s, vdisk *v, uint8_t *buf)
{
    uint64_t at = some_offset(s), len = some_length(s, at, IO_MAX);

    note("write %llu %llu", (unsigned long long)at, (unsigned long long)len);
    rng_fill(&s->rng, buf, len);
    ended(s, vdisk_pwrite(v, buf, len, at, rng_chance(&s->rng, 20) ? VDISK_REQ_FUA : 0));
    if (s->model && !s->failed)
        memcpy(s->model + at, buf, len);
}

static void do_zero(struct subject *s, vdisk *v)
{
    uint64_t at = some_offset(s), len = some_length(s, at, rng_chance(&s->rng, 20) ? UINT64_MAX : IO_MAX);

    if (rng_chance(&s->rng, 10))
        len = s->size - at;
    note("zero %llu %llu", (unsigned long long)at, (unsigned long long)len);
    ended(s, vdisk_pzero(v, len, at, rng_chance(&s->rng, 50) ? VDISK_REQ_UNMAP : 0));
    if (s->model && !s->failed)
        memset(s->model + at, 0, len);
}

/* Each byte of a discarded range reads as before or as zero. */
static void do_discard(struct subject *s, vdisk *v, uint8_t *buf)
{
    uint64_t at = some_offset(s), len = some_length(s, at, IO_MAX);

    note("discard %llu %llu", (unsigned long long)at, (unsigned long long)len);
    ended(s, vdisk_pdiscard(v, len, at));
    if (!s->model || s->failed)
        return;
    FUZZ_CHECK(vdisk_pread(v, buf, len, at) == 0, "reading what was discarded: %s", vdisk_error_text());
    for (uint64_t i = 0; i < len; i++) {
        FUZZ_CHECK(buf[i] == 0 || buf[i] == s->model[at + i], "discarded byte %llu", (unsigned long long)(at + i));
        s->model[at + i] = buf[i];
    }
}

/* An image can be one that is not shrunk: it stays as it is. */
static void do_shrink(struct subject *s, vdisk *v, uint64_t size)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    int rc = vdisk_resize(v, size, &opts);

    note("shrink %llu: %d", (unsigned long long)size, rc);
    must_have_text(rc);
    FUZZ_CHECK(rc < 0 || vdisk_size(v) == align_up(size, 512), "shrunk to another size");
    if (rc < 0 && rc != -ENOTSUP)
        s->failed = true;
    s->size = vdisk_size(v);
    if (s->model)
        memset(s->model + s->size, 0, MODEL_MAX - s->size); /* as it reads when it has grown again */
}

static void do_grow(struct subject *s, vdisk *v)
{
    uint64_t size = s->size + rng_below(&s->rng, rng_chance(&s->rng, 80) ? 256 << 10 : 1ull << 42);
    int rc;

    if (size % 4 == 0) { /* so that inputs from before do what they did */
        do_shrink(s, v, size % s->size);
        return;
    }
    if (s->model && size > MODEL_MAX - 512)
        return;
    rc = vdisk_grow(v, size);
    note("grow %llu: %d", (unsigned long long)size, rc);
    must_have_text(rc);
    if (rc < 0)
        s->failed = true;
    s->size = vdisk_size(v);
}

/* Several at once, in ranges of their own. */
static void do_batch(struct subject *s, vdisk *v, uint8_t *buf)
{
    enum { AT_ONCE = 6 };
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = AT_ONCE};
    struct vdisk_completion done[AT_ONCE];
    uint64_t at = some_offset(s), part = min_u64((s->size - at) / AT_ONCE, IO_MAX / AT_ONCE);
    vdisk_queue *q;

    if (part == 0)
        return;
    FUZZ_CHECK(vdisk_queue_create(&opts, &q) == 0, "%s", vdisk_error_text());
    note("batch %llu %llu", (unsigned long long)at, (unsigned long long)part);
    rng_fill(&s->rng, buf, part * AT_ONCE);
    for (unsigned i = 0; i < AT_ONCE; i++)
        if (i % 3 == 2)
            vdisk_write_zeroes(q, v, at + i * part, part, 0, i);
        else
            vdisk_write(q, v, at + i * part, buf + i * part, part, 0, i);
    for (int n = 0, got; n < AT_ONCE; n += got) {
        got = vdisk_reap(q, done + n, 1, (unsigned)(AT_ONCE - n), NULL);
        FUZZ_CHECK(got > 0, "reaping: %d", got);
    }
    for (unsigned i = 0; i < AT_ONCE; i++)
        ended(s, done[i].result);
    for (unsigned i = 2; i < AT_ONCE; i += 3)
        memset(buf + i * part, 0, part);
    if (s->model && !s->failed)
        memcpy(s->model + at, buf, part * AT_ONCE);
    vdisk_queue_destroy(q);
}

static void change(struct subject *s, vdisk *v, uint8_t *buf)
{
    for (uint64_t n = rng_between(&s->rng, 1, OPS_MAX); n > 0 && s->size > 0; n--)
        switch (rng_below(&s->rng, 10)) {
        case 0: do_zero(s, v); break;
        case 1: do_discard(s, v, buf); break;
        case 2: do_batch(s, v, buf); break;
        case 3: ended(s, vdisk_sync(v)); break;
        case 4: read_volume(s, v, buf); break;
        case 5: do_grow(s, v); break;
        default: do_write(s, v, buf); break;
        }
}

static void work(struct subject *s, uint8_t *buf)
{
    vdisk *v = open_volume(s, VDISK_OPEN_RDWR);
    int rc;

    if (!v)
        return;
    s->size = vdisk_size(v);
    change(s, v, buf);
    read_extents(s, v);
    read_volume(s, v, buf);
    rc = vdisk_close(v);
    must_have_text(rc);
    FUZZ_CHECK(rc == 0 || !s->model || s->failed, "closing a sound image: %s", vdisk_error_text());
    s->failed |= rc < 0;
}

/* ---- the input ----------------------------------------------------------------------------------------- */

static uint64_t hash(const uint8_t *data, size_t size)
{
    uint64_t h = rng_mix(size);

    for (size_t i = 0; i < size; i++)
        h = (h ^ data[i]) * 0x100000001b3u;
    return rng_mix(h);
}

static void load(struct subject *s, const uint8_t *data, size_t size)
{
    static const uint64_t ends[] = {1 << 20, 1 << 21, 1 << 22, 1 << 23, (1ull << 49) + 512};
    struct memory_options opts = {.align = 1};
    struct q2_header h;
    uint64_t end = size;

    if (rng_chance(&s->rng, 20))
        end = max_u64(size, ends[rng_below(&s->rng, ARRAY_LEN(ends))]); /* a hole follows */
    else if (rng_chance(&s->rng, 20))
        opts = (struct memory_options){.align = 512, .fixed = true, .size = align_up(size, 4096)};
    FUZZ_CHECK(memory_backend_create_with("image", &opts, &s->keeper) == 0, "out of memory");
    FUZZ_CHECK(memory_backend_write(s->keeper, 0, data, size) == 0, "out of memory");
    if (end > size)
        FUZZ_CHECK(memory_backend_write(s->keeper, end - 1, "", 1) == 0, "out of memory");
    s->end = end;
    if (q2_header_parse(data, size, end, "image", &h) < 0)
        return;
    if (h.geo.data_file)
        s->data_size = align_up(min_u64(max_u64(h.size, 512), 1ull << 48), 512);
    q2_header_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[IO_MAX];
    struct subject s = {0};
    struct sim_options options = {.slow_percent = 10};

    if (size < 104 || size > INPUT_MAX)
        return 0;
    options.seed = hash(data, size);
    rng_init(&s.rng, options.seed);
    FUZZ_CHECK(sim_create(&options, &s.sim) == 0, "out of memory");
    sim_enter(s.sim);
    load(&s, data, size);
    check_before(&s);
    look(&s, buf);
    if (rng_chance(&s.rng, s.sound ? 20 : 50))
        repair(&s);
    look(&s, buf);
    if (s.sound)
        look_for_sharing(&s);
    work(&s, buf);
    check_after(&s);
    look(&s, buf);
    free(s.model);
    backend_close(s.keeper);
    sim_leave(s.sim);
    sim_destroy(s.sim);
    return 0;
}

/* Half the time as libFuzzer likes, half where an image has its tables. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct rng r;

    rng_init(&r, seed);
    if (size < 104 || rng_chance(&r, 30))
        return LLVMFuzzerMutate(data, size, max);
    damage_image(&r, data, size, (unsigned)rng_between(&r, 1, 4));
    return size;
}
