/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fault/fault_lib.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/lab/sim.h"
#include "engine/base/bits.h"
#include "engine/loop/thread.h"
#include "engine/volume.h"
#include "qcow2/check/check.h"
#include "tests/fault/oom.h"
#include "tests/lib/recycle.h"
#include "tests/lib/test.h"

/* What may run out of memory, and is watched for leaks. */
#define LIBRARY(call) (oom_enter(), (call), oom_leave())

enum { MAX_CALLS = 2000, CLOSE_CALLS = 40, EACH_OF = 16, QEMU_EVERY = 6, QEMU_EVERY_SLOW = 60 };
enum { READ_PART = 256 << 10 };

const struct fault_mode fault_modes[FAULT_MODES] = {
    {.name = "EIO", .what = FAULT_FAIL, .error = EIO},
    {.name = "ENOSPC", .what = FAULT_FAIL, .error = ENOSPC},
    {.name = "EIO, but done", .what = FAULT_FAIL_AFTER, .error = EIO, .sparse = true},
    {.name = "short", .what = FAULT_SHORT, .sparse = true},
    {.name = "late", .what = FAULT_LATE, .sparse = true},
    {.name = "late end", .what = FAULT_LATE_END, .sparse = true},
    {.name = "out of memory once", .error = ENOMEM, .oom = true},
    {.name = "out of memory", .error = ENOMEM, .oom = true, .forever = true, .sparse = true},
};

int mode_arm(const struct fault_mode *m, struct backend *fault, const struct fault_rule *rule)
{
    struct fault_rule r = *rule;
    int number = 0;

    if (r.error == ENOSPC && r.nth % 2)
        r.error = EDQUOT; /* which is to be the same */
    if (m->oom)
        oom_arm(rule->nth, m->forever);
    else
        CHECK_OK(number = fault_add_rule(fault, &r));
    return number;
}

bool mode_disarm(struct backend *fault)
{
    bool fired = oom_disarm() || fault_fired(fault) > 0;

    fault_clear(fault);
    return fired;
}

/* ---- files by name ---------------------------------------------------------------------------------- */

static struct subject *by_name; /* whose they are */

static int open_by_name(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    struct subject *s = by_name;
    enum subject_file file = strcmp(name, "base") == 0    ? SUBJECT_BASE
                             : strcmp(name, "below") == 0 ? SUBJECT_BELOW
                                                          : SUBJECT_DATA;
    struct memdisk *d = file == SUBJECT_BASE ? &s->base : file == SUBJECT_BELOW ? &s->below : &s->data;

    if (file == SUBJECT_DATA && flags & BACKEND_CREATE) {
        if (d->keeper)
            memdisk_finish(d);
        memdisk_init(d, 512);
    }
    if (!d->keeper)
        return -ENOENT;
    oom_leave();
    CHECK_OK(fault_backend_create(memdisk_open(d, !(flags & BACKEND_RDWR)), ret_backend));
    s->faults[file] = *ret_backend;
    if (s->armed && s->target == file)
        s->rule_number = mode_arm(s->mode, *ret_backend, &s->rule);
    oom_enter();
    return 0;
}

/* A layer below the top, of qcow2: `len` bytes from its start are data. */
static void make_layer(struct subject *s, struct memdisk *d, const char *backing, const uint8_t *buf, uint64_t len)
{
    struct image_spec spec = {.qcow2 = true, .size = s->spec.size, .cluster_size = s->spec.cluster_size,
                              .version = 3, .refcount_bits = 16, .backing_format = "qcow2"};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    struct backend *b;
    vdisk *v;

    snprintf(spec.backing, sizeof spec.backing, "%s", backing);
    memdisk_init(d, 512);
    b = memdisk_open(d, false);
    CHECK_OK(image_create_on(&spec, b));
    backend_close(b);
    CHECK_OK(vdisk_open_backend(memdisk_open(d, false), &how, &v));
    CHECK_OK(vdisk_pwrite(v, buf, len, 0, 0));
    CHECK_OK(vdisk_close(v));
}

/* The base: all of it data, but for its end; or a little, the rest is below. */
static void make_base(struct subject *s)
{
    uint64_t size = s->spec.size - s->spec.size / 8;
    uint8_t *buf = test_alloc(size);

    image_pattern_bytes(99, buf, size);
    if (strcmp(s->spec.backing_format, "qcow2") == 0) {
        make_layer(s, &s->below, "", buf, size);
        image_pattern_bytes(98, buf, s->spec.cluster_size);
        make_layer(s, &s->base, "sim:below", buf, s->spec.cluster_size);
    } else {
        memdisk_init(&s->base, 512);
        memdisk_write(&s->base, 0, buf, size);
    }
    model_write(&s->now, 0, buf, size);
    free(buf);
}

/* ---- the volume ------------------------------------------------------------------------------------- */

int subject_open(struct subject *s, uint32_t flags, bool armed)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .cache_bytes = s->cache_bytes};
    int rc;

    opts.format = s->spec.qcow2 ? "qcow2" : s->spec.guessed ? NULL : "raw";
    memset(s->faults, 0, sizeof s->faults);
    CHECK_OK(fault_backend_create(memdisk_open(&s->disk, !(flags & VDISK_OPEN_RDWR)), &s->fault));
    s->faults[SUBJECT_TOP] = s->fault;
    by_name = s;
    s->armed = false;
    if (armed)
        subject_arm(s);
    s->v = NULL;
    LIBRARY(rc = vdisk_open_backend(s->fault, &opts, &s->v));
    if (rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "open failed (%s) without a text", strerror(-rc));
    return rc;
}

void subject_arm(struct subject *s)
{
    s->armed = true;
    if (s->faults[s->target]) /* else as soon as it is opened */
        s->rule_number = mode_arm(s->mode, s->faults[s->target], &s->rule);
}

static void need_text(int rc, const char *what)
{
    if (rc < 0)
        CHECK_MSG(vdisk_error_text()[0], "%s failed (%s) without a text", what, strerror(-rc));
    CHECK(rc != -EDQUOT);
}

int subject_write(struct subject *s, unsigned pattern, uint64_t offset, uint64_t len, uint32_t flags)
{
    uint8_t *buf = test_alloc(len);
    int rc;

    image_pattern_bytes(pattern, buf, len);
    if (flags & VDISK_REQ_COMPRESSED) /* which most of it can be */
        memset(buf + len / 8, (int)pattern, len / 2);
    LIBRARY(rc = vdisk_pwrite(s->v, buf, len, offset, flags));
    need_text(rc, "write");
    if (rc == 0)
        model_write(&s->now, offset, buf, len);
    else
        model_maybe_write(&s->now, offset, buf, len);
    free(buf);
    return rc;
}

int subject_read(struct subject *s, uint64_t offset, uint64_t len)
{
    uint8_t *buf = recycle_take(len);
    int rc;

    memset(buf, 0xa5, len); /* not what an earlier read found */
    LIBRARY(rc = vdisk_pread(s->v, buf, len, offset));
    need_text(rc, "read");
    if (rc == 0) {
        uint64_t wrong = model_find_wrong(&s->now, offset, buf, len);
        CHECK_MSG(wrong == UINT64_MAX, "byte %" PRIu64 " reads wrong", wrong);
    }
    recycle_give(buf);
    return rc;
}

/* In parts that a processor's cache holds. */
static void read_all(struct subject *s)
{
    for (uint64_t at = 0; at < s->now.size; at += READ_PART)
        CHECK_OK(subject_read(s, at, min_u64(READ_PART, s->now.size - at)));
}

int subject_zero(struct subject *s, uint64_t offset, uint64_t len, uint32_t flags)
{
    int rc;

    LIBRARY(rc = vdisk_pzero(s->v, len, offset, flags));
    need_text(rc, "zero");
    if (rc == 0)
        model_zero(&s->now, offset, len);
    else
        model_maybe_write(&s->now, offset, NULL, len);
    return rc;
}

int subject_discard(struct subject *s, uint64_t offset, uint64_t len)
{
    int rc;

    LIBRARY(rc = vdisk_pdiscard(s->v, len, offset));
    need_text(rc, "discard");
    model_discard(&s->now, offset, len);
    return rc;
}

int subject_flush(struct subject *s)
{
    int rc;

    LIBRARY(rc = vdisk_sync(s->v));
    need_text(rc, "flush");
    if (rc == 0)
        model_copy(&s->flushed, &s->now);
    return rc;
}

int subject_grow(struct subject *s, uint64_t size)
{
    int rc;

    LIBRARY(rc = vdisk_grow(s->v, size));
    need_text(rc, "grow");
    if (rc == 0) {
        model_resize(&s->now, size);
        model_resize(&s->flushed, size);
    }
    return rc;
}

int subject_resize(struct subject *s, uint64_t size, enum vdisk_prealloc preallocation)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true, .preallocation = preallocation};
    int rc = vdisk_resize(s->v, size, &opts);

    need_text(rc, "resize");
    if (rc < 0)
        s->maybe_size = size;
    if (vdisk_size(s->v) == size) { /* what came after it may have failed */
        model_resize(&s->now, size);
        model_resize(&s->flushed, size);
    }
    return rc;
}

int subject_close(struct subject *s)
{
    int rc;

    LIBRARY(rc = vdisk_close(s->v));
    need_text(rc, "close");
    if (rc == 0)
        model_copy(&s->flushed, &s->now);
    s->v = NULL;
    s->fault = NULL;
    memset(s->faults, 0, sizeof s->faults);
    return rc;
}

/* ---- judging ---------------------------------------------------------------------------------------- */

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    if (kind == QCOW2_CORRUPTION || kind == QCOW2_ERROR)
        snprintf(arg, 512, "%s", text);
}

void subject_check_image(struct subject *s, bool by_qemu)
{
    char finding[512] = "";
    struct qcow2_check_opts opts = {.report = report, .report_arg = finding};
    struct qcow2_check_result result = {.corruptions = 0};
    struct backend *b;
    vdisk_queue *q;

    if (!s->spec.qcow2)
        return;
    b = memdisk_open(&s->disk, true);
    CHECK_OK(vdisk_queue_create(NULL, &q));
    CHECK_OK(qcow2_check(b, q, &opts, &result));
    vdisk_queue_destroy(q);
    backend_close(b);
    CHECK_MSG(result.corruptions == 0 && result.check_errors == 0,
              "check finds %" PRIu64 " corruptions, %" PRIu64 " errors, as: %s", result.corruptions,
              result.check_errors, finding);
    if (by_qemu && !s->spec.backing[0] && !s->spec.data_file) { /* it knows no names of ours */
        memdisk_save(&s->disk, test_path("saved"));
        image_check(test_path("saved"), true);
        unlink(test_path("saved"));
    }
}

void subject_check_content(struct subject *s)
{
    model_loosen(&s->now, &s->flushed);
    if (subject_open(s, VDISK_OPEN_RDWR, false) < 0)
        FAIL("cannot be opened any more: %s", vdisk_error_text());
    if (vdisk_size(s->v) != s->now.size) { /* a change that failed may have come all the way */
        CHECK(vdisk_size(s->v) > s->now.size || vdisk_size(s->v) == s->maybe_size);
        model_resize(&s->now, vdisk_size(s->v));
    }
    read_all(s);
    CHECK_OK(vdisk_close(s->v));
}

/* ---- the subject ------------------------------------------------------------------------------------ */

/* Clusters of every kind in the first half: data, zero, partly written, discarded, never touched. */
static void fill(struct subject *s)
{
    uint64_t unit = s->spec.qcow2 ? s->spec.cluster_size : 4096, half = s->spec.size / 2;
    unsigned kind = 0;

    for (uint64_t at = 0; at + 8 * unit <= half && kind < 24; at += 8 * unit, kind += 6) {
        CHECK_OK(subject_write(s, kind, at, 2 * unit, 0));
        CHECK_OK(subject_write(s, kind + 1, at + 2 * unit + unit / 4, unit / 2, 0));
        CHECK_OK(subject_zero(s, at + 4 * unit, unit, 0));
        CHECK_OK(subject_write(s, kind + 2, at + 5 * unit, unit, 0));
        CHECK_OK(subject_zero(s, at + 5 * unit, unit, VDISK_REQ_UNMAP));
    }
}

void subject_init(struct subject *s, const struct image_spec *spec)
{
    subject_init_on(s, spec, 0, 512);
}

void subject_init_on(struct subject *s, const struct image_spec *spec, uint64_t device, uint32_t align)
{
    struct backend *b;

    memset(s, 0, sizeof *s);
    by_name = s;
    s->spec = *spec;
    if (spec->data_file)
        snprintf(s->spec.path, sizeof s->spec.path, "sim:top");
    if (device)
        memdisk_init_fixed(&s->disk, align, device);
    else
        memdisk_init(&s->disk, align);
    model_init(&s->now, 0, spec->size);
    model_init(&s->flushed, 0, spec->size);
    if (spec->backing[0])
        make_base(s);
    b = memdisk_open(&s->disk, false);
    CHECK_OK(image_create_on(&s->spec, b));
    backend_close(b);
    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    fill(s);
    CHECK_OK(subject_close(s));
}

void subject_copy(struct subject *to, struct subject *from)
{
    *to = *from;
    memdisk_clone(&to->disk, &from->disk);
    if (from->base.keeper)
        memdisk_clone(&to->base, &from->base);
    if (from->below.keeper)
        memdisk_clone(&to->below, &from->below);
    if (from->data.keeper)
        memdisk_clone(&to->data, &from->data);
    model_init_copy(&to->now, &from->now);
    model_init_copy(&to->flushed, &from->flushed);
}

void subject_finish(struct subject *s)
{
    memdisk_finish(&s->disk);
    if (s->base.keeper)
        memdisk_finish(&s->base);
    if (s->below.keeper)
        memdisk_finish(&s->below);
    if (s->data.keeper)
        memdisk_finish(&s->data);
    model_finish(&s->now);
    model_finish(&s->flushed);
}

/* ---- scenarios -------------------------------------------------------------------------------------- */

/* The volume after a failure, with the faults gone: all reads right; writes right, or refused with a reason. */
static void works_on(struct subject *s)
{
    uint64_t unit = s->spec.qcow2 ? s->spec.cluster_size : 4096;
    int rc;

    read_all(s);
    rc = subject_write(s, 77, s->now.size - 3 * unit, 2 * unit, 0);
    if (rc == 0)
        rc = subject_write(s, 78, unit / 2, 2 * unit, 0);
    if (rc == 0)
        rc = subject_flush(s);
    if (rc < 0)
        CHECK_MSG(strlen(vdisk_error_text()) > 10, "writing fails for good (%s), and why is: '%s'", strerror(-rc),
                  vdisk_error_text());
    read_all(s);
}

/* With the fault on: 0, or the error that came out. */
static int act(const struct scenario *sc, struct subject *s)
{
    int rc = sc->act(s), flush_rc = 0;

    if (s->v && (!sc->opens || rc == 0))
        flush_rc = subject_flush(s);
    return rc < 0 ? rc : flush_rc;
}

/* Ready for what may fail. */
static void open_and_prepare(const struct scenario *sc, struct subject *s)
{
    CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    if (sc->prepare)
        sc->prepare(s);
    if (sc->cold) {
        CHECK_OK(subject_close(s));
        CHECK_OK(subject_open(s, VDISK_OPEN_RDWR, false));
    }
    subject_arm(s);
}

/* Was there an nth call? The counters of a closed volume are gone with it. */
static bool has_fired(const struct scenario *sc, struct subject *s)
{
    if (s->mode->oom)
        return oom_disarm();
    if (s->v)
        return fault_rule_fired(s->faults[s->target], s->rule_number) > 0;
    return !sc->closes || s->rule.nth < CLOSE_CALLS;
}

/* One run with the nth call failing; false if there was no nth call. */
static bool run_once(const struct scenario *sc, const struct fault_mode *mode, struct subject *template,
                     unsigned nth, bool by_qemu)
{
    struct subject s;
    bool fired;
    int rc;

    thread_release();
    oom_watch();
    subject_copy(&s, template);
    if (sc->damage)
        sc->damage(&s);
    s.mode = mode;
    s.target = sc->target;
    s.rule = (struct fault_rule){.nth = nth, .what = mode->what, .error = mode->error, .calls = 2};
    if (mode->what == FAULT_SHORT)
        s.rule.kinds = FAULT_KIND(IO_READ) | FAULT_KIND(IO_WRITE);
    if (!sc->opens)
        open_and_prepare(sc, &s);
    rc = act(sc, &s);
    if (mode->error == 0)
        CHECK_MSG(rc == 0, "a call that is only %s makes it fail: %s", mode->name, vdisk_error_text());
    fired = has_fired(sc, &s);
    if (!fired)
        CHECK_OK(rc);
    if (s.v) {
        for (unsigned i = 0; i < SUBJECT_FILES; i++)
            if (s.faults[i])
                fault_clear(s.faults[i]);
        works_on(&s);
        subject_close(&s); /* may fail where writing is refused; what was flushed is there all the same */
    }
    if (sc->damage) { /* what could not be repaired can be the next time */
        CHECK_OK(subject_open(&s, VDISK_OPEN_RDWR, false));
        CHECK_OK(subject_close(&s));
    }
    subject_check_image(&s, by_qemu);
    subject_check_content(&s);
    subject_finish(&s);
    thread_release();
    CHECK_MSG(oom_live() == 0, "%u pieces of memory are never given back", oom_live());
    return fired;
}

static void stuck(void *arg)
{
    FAIL("a queue waits for what can never come");
}

unsigned mode_stride(const struct fault_mode *mode, unsigned nth)
{
    if (!mode->sparse || test_is_long() || nth < EACH_OF)
        return 1;
    return (nth + (unsigned)(mode - fault_modes)) % 2 ? 1 : 2;
}

/*
 * From the call that fails to the next that does. Sparse modes fail of many each second one, but in a long run;
 * quick runs with sanitizers take one in three.
 */
static unsigned stride(const struct scenario *sc, const struct fault_mode *mode, unsigned nth)
{
    unsigned each = sc->stride ? sc->stride : 1;

    if (test_is_quick() && test_is_slow())
        return (1 + (unsigned)rng_below(test_rng(), 5)) * each;
    return each > 1 ? each : mode_stride(mode, nth);
}

void scenario_run(const struct scenario *sc, const struct fault_mode *mode)
{
    struct sim_options options = {.seed = 1, .open = open_by_name, .stuck = stuck};
    struct subject template;
    unsigned runs = 0, nth = 1, failed, qemu_every = test_is_slow() ? QEMU_EVERY_SLOW : QEMU_EVERY;
    struct sim *sim;

    /* A quick run takes a third of them, by its seed. */
    if (test_is_quick() && (test_repetition() + (uint64_t)(mode - fault_modes) + test_seed()) % 3 != 0)
        return;
    CHECK_OK(sim_create(&options, &sim));
    sim_enter(sim);
    subject_init_on(&template, &sc->spec, sc->device, sc->align ? sc->align : 512);
    template.cache_bytes = sc->cache_bytes;
    if (sc->make)
        sc->make(&template);
    do {
        failed = nth;
        CHECK_MSG(++runs < MAX_CALLS, "no end to the calls");
        test_note("call %u of '%s': %s; %s", nth, sc->name, mode->name, image_describe(&sc->spec));
        nth += stride(sc, mode, nth);
    } while (run_once(sc, mode, &template, failed, runs % qemu_every == 0));
    CHECK_MSG(failed > 1 || (sc->no_data && mode->what == FAULT_SHORT), "the scenario makes no call");
    subject_finish(&template);
    sim_leave(sim);
    sim_destroy(sim);
}

/* ---- a program of them --------------------------------------------------------------------------------- */

static struct {
    const struct scenario *scenarios;
    const char *const *requires;
    unsigned n;
} program;

static void run_mode(unsigned mode)
{
    for (const char *const *command = program.requires; *command; command++)
        test_requires(*command);
    scenario_run(&program.scenarios[test_repetition() % program.n], &fault_modes[mode]);
}

#define MODE(n)                    \
    static void test_mode_##n(void) \
    {                              \
        run_mode(n);               \
    }

MODE(0) MODE(1) MODE(2) MODE(3) MODE(4) MODE(5) MODE(6) MODE(7)

int scenario_main(int argc, char **argv, const struct scenario *scenarios, unsigned n,
                  const char *const requires[])
{
    struct test_case cases[FAULT_MODES] = {
        {.name = "eio", .run = test_mode_0},     {.name = "enospc", .run = test_mode_1},
        {.name = "eio_done", .run = test_mode_2}, {.name = "short", .run = test_mode_3},
        {.name = "late", .run = test_mode_4},    {.name = "late_end", .run = test_mode_5},
        {.name = "oom", .run = test_mode_6},     {.name = "oom_forever", .run = test_mode_7},
    };

    program.scenarios = scenarios;
    program.requires = requires;
    program.n = n;
    for (unsigned i = 0; i < FAULT_MODES; i++)
        cases[i].repeat = n;
    return test_main(argc, argv, cases, FAULT_MODES);
}
