/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies into targets that are full of something else, and are discarded before: nothing of that is left, whatever
 * a discard leaves; space is given back; and nothing is discarded that is to stay.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/vdisk-backend.h"
#include "tests/jobs/jobs.h"
#include "tests/jobs/volumes.h"

enum { SIZE = (9 << 20) + 3 * 512, BEHIND = 1 << 20, STALE = 0x77, LEFT = 0xdd };

static int run_copy(vdisk *source, vdisk *target, const struct vdisk_copy_opts *opts,
                    struct vdisk_copy_result *ret)
{
    vdisk_job *j;
    int rc;

    CHECK_OK(vdisk_job_copy(&source, 1, target, opts, &j));
    rc = vdisk_job_run(j);
    ret->size = sizeof *ret;
    if (rc == 0)
        CHECK_OK(vdisk_job_get_copy_result(j, ret));
    CHECK_OK(vdisk_job_free(j));
    return rc;
}

static void write_stale(vdisk *v)
{
    uint8_t *junk = vdisk_alloc_buffer(1 << 20);

    memset(junk, STALE, 1 << 20);
    for (uint64_t at = 0, n; at < vdisk_size(v); at += n) {
        n = min_u64(vdisk_size(v) - at, 1 << 20);
        CHECK_OK(vdisk_pwrite(v, junk, n, at, 0));
    }
    CHECK_OK(vdisk_sync(v));
    free(junk);
}

static uint64_t allocated(const char *name, const struct format *f)
{
    char path[4096];
    struct stat st;

    snprintf(path, sizeof path, "%s%s", name, f->data_file ? ".data" : "");
    CHECK(stat(path, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

static vdisk *make_source(uint8_t *model)
{
    vdisk *v;

    memset(model, 0, SIZE);
    make(test_path("a"), &formats[1], SIZE, NULL);
    v = open_as(test_path("a"), &formats[1], true);
    fill(test_rng(), v, model, SIZE);
    return v;
}

/* ---- what is there afterwards ----------------------------------------------------------------------- */

static void into(vdisk *source, const uint8_t *model, const struct format *f, const char *backing, uint32_t flags)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_DISCARD | flags,
                                   .depth = (uint32_t)rng_below(test_rng(), 20)};
    struct vdisk_copy_result r;
    const char *b = test_path("b");
    vdisk *target;

    make(b, f, SIZE + BEHIND, backing);
    target = open_as(b, f, true);
    write_stale(target);
    CHECK_OK(run_copy(source, target, &opts, &r));
    CHECK_INT(r.bytes_written + r.bytes_zeroed + r.bytes_skipped, SIZE);
    CHECK_INT(r.bytes_discarded, SIZE + BEHIND);
    if (f->version != 2 && !backing && !(flags & VDISK_COPY_DENSE))
        CHECK(r.bytes_skipped > 0); /* it is known what the discard has left */
    expect(target, model, SIZE);
    CHECK_OK(vdisk_close(target));
    target = open_as(b, f, false);
    expect(target, model, SIZE);
    CHECK_OK(vdisk_close(target));
}

static void test_formats(void)
{
    static const struct format two = {.format = "qcow2", .version = 2};
    uint8_t *model = test_alloc(SIZE);
    vdisk *source = make_source(model);
    char c[1024];
    vdisk *base;

    snprintf(c, sizeof c, "%s", test_path("c"));
    make(c, &formats[1], SIZE + BEHIND, NULL);
    base = open_as(c, &formats[1], true);
    write_stale(base);
    CHECK_OK(vdisk_close(base));
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        test_note("format %zu", i);
        into(source, model, &formats[i], NULL, 0);
        into(source, model, &formats[i], NULL, VDISK_COPY_DENSE);
        if (i == 1 || i == 4)
            into(source, model, &formats[i], NULL, VDISK_COPY_COMPRESS);
        if (i > 0)
            into(source, model, &formats[i], c, 0);
    }
    into(source, model, &two, NULL, 0);
    into(source, model, &two, c, 0);
    CHECK_OK(vdisk_close(source));
    free(model);
}

/* Of a source without data, in which nothing is even zeroed; and of what is behind its end. */
static void test_space(void)
{
    const char *a = test_path("a"), *b = test_path("b");
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_DISCARD};
    struct vdisk_copy_result r;
    vdisk *source, *target;
    uint64_t full;

    make(a, &formats[1], 8 << 20, NULL);
    source = open_as(a, &formats[1], false);
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct format *f = &formats[i];
        test_note("format %zu", i);
        make(b, f, 16 << 20, NULL);
        target = open_as(b, f, true);
        write_stale(target);
        full = allocated(b, f);
        CHECK_OK(run_copy(source, target, &opts, &r));
        CHECK_INT(r.bytes_zeroed + r.bytes_written, 0);
        CHECK_INT(r.bytes_skipped, 8 << 20);
        CHECK_OK(vdisk_close(target));
        CHECK(allocated(b, f) + (15 << 20) < full);
    }
    CHECK_OK(vdisk_close(source));
}

/* ---- discards that leave something --------------------------------------------------------------------- */

/* Storage of which a discard leaves other bytes than were there; asked for before anything is written. */
struct thin {
    uint8_t *bytes;
    uint64_t size, discarded, written, kept; /* `kept`: a discard before it is a failure */
    bool     late;                           /* a discard came after a write */
    int      refuses;                        /* with this a discard ends */
};

static void thin_submit(void *opaque, struct vdisk_backend_io *io)
{
    struct thin *s = opaque;
    uint64_t at = io->offset;
    int rc = 0;

    switch (io->kind) {
    case VDISK_BACKEND_IO_READ:
    case VDISK_BACKEND_IO_WRITE:
        CHECK(io->offset + io->len <= s->size);
        for (uint32_t i = 0; i < io->iovcnt; at += io->iov[i++].iov_len) {
            if (io->kind == VDISK_BACKEND_IO_READ)
                memcpy(io->iov[i].iov_base, s->bytes + at, io->iov[i].iov_len);
            else
                memcpy(s->bytes + at, io->iov[i].iov_base, io->iov[i].iov_len);
        }
        s->written += io->kind == VDISK_BACKEND_IO_WRITE ? io->len : 0;
        break;
    case VDISK_BACKEND_IO_DISCARD:
        CHECK(io->offset >= s->kept && io->offset + io->len <= s->size);
        s->late = s->late || s->written > 0;
        s->discarded += io->len;
        rc = s->refuses;
        if (rc == 0)
            memset(s->bytes + io->offset, LEFT, io->len);
        break;
    case VDISK_BACKEND_IO_FLUSH:
        break;
    case VDISK_BACKEND_IO_ZERO:
    case VDISK_BACKEND_IO_ALLOCATE:
    case VDISK_BACKEND_IO_TRUNCATE:
        rc = -ENOTSUP;
    }
    vdisk_backend_io_done(io, rc);
}

static uint64_t thin_size(void *opaque)
{
    return ((struct thin *)opaque)->size;
}

static vdisk *open_thin(struct thin *s, uint64_t size, uint32_t caps)
{
    const struct vdisk_backend_ops ops = {.size = sizeof ops, .caps = caps, .align = 512, .submit = thin_submit,
                                          .get_size = thin_size};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    vdisk *v;

    *s = (struct thin){.bytes = test_alloc(size), .size = size};
    memset(s->bytes, STALE, size);
    CHECK_OK(vdisk_backend_register("thin", &ops, s));
    CHECK_OK(vdisk_open("user:thin", &how, &v));
    return v;
}

static void close_thin(struct thin *s, vdisk *v)
{
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_backend_unregister("thin"));
    free(s->bytes);
}

static void test_no_promise(void)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_DISCARD};
    uint8_t *model = test_alloc(SIZE);
    vdisk *source = make_source(model), *target;
    struct vdisk_copy_result r;
    struct thin s;

    target = open_thin(&s, SIZE + BEHIND, VDISK_BACKEND_DISCARD);
    CHECK_OK(run_copy(source, target, &opts, &r));
    CHECK_INT(r.bytes_discarded, SIZE + BEHIND);
    CHECK_INT(s.discarded, SIZE + BEHIND);
    CHECK_INT(r.bytes_skipped, 0);
    CHECK(!s.late && s.bytes[SIZE] == LEFT);
    CHECK(memcmp(s.bytes, model, SIZE) == 0);
    close_thin(&s, target);

    /* Refused when it is tried, and known before: the same content, and told. */
    for (unsigned i = 0; i < 2; i++) {
        target = open_thin(&s, SIZE + BEHIND, i == 0 ? VDISK_BACKEND_DISCARD : 0);
        s.refuses = -ENOTSUP;
        CHECK_OK(run_copy(source, target, &opts, &r));
        CHECK_INT(r.bytes_discarded, 0);
        CHECK_INT(r.bytes_skipped, 0);
        CHECK(memcmp(s.bytes, model, SIZE) == 0 && s.bytes[SIZE] == STALE);
        close_thin(&s, target);
    }

    target = open_thin(&s, SIZE + BEHIND, VDISK_BACKEND_DISCARD);
    s.refuses = -EIO;
    CHECK_INT(run_copy(source, target, &opts, &r), -EIO);
    CHECK_INT(s.written, 0);
    close_thin(&s, target);
    CHECK_OK(vdisk_close(source));
    free(model);
}

/* By its name the volume keeps what is discarded: a file's holes are known, but there are none. */
static void test_kept(void)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_DISCARD};
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR};
    uint8_t *model = test_alloc(SIZE);
    vdisk *source = make_source(model), *target;
    struct vdisk_copy_result r;
    char name[4096];

    for (size_t i = 0; i < 2; i++) {
        make(test_path("b"), &formats[i], SIZE, NULL);
        snprintf(name, sizeof name, "json:{\"driver\":\"%s\",\"discard\":\"ignore\",\"file\":{\"driver\":\"file\","
                                    "\"filename\":\"%s\"}}", formats[i].format, test_path("b"));
        CHECK_OK(vdisk_open(name, &how, &target));
        write_stale(target);
        CHECK_OK(run_copy(source, target, &opts, &r));
        CHECK_INT(r.bytes_discarded, 0);
        expect(target, model, SIZE);
        CHECK_OK(vdisk_close(target));
    }
    CHECK_OK(vdisk_close(source));
    free(model);
}

/* ---- going on ------------------------------------------------------------------------------------------ */

/* What is before the start is neither discarded nor written; what is behind is new. */
static void test_going_on(void)
{
    static const uint64_t starts[] = {0, 4096, 1 << 20, (5 << 20) + 4096, SIZE - 512, SIZE};
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_DISCARD | VDISK_COPY_SALVAGE};
    uint8_t *model = test_alloc(SIZE), *want = test_alloc(SIZE);
    vdisk *source = make_source(model), *target;
    struct vdisk_copy_result r;
    struct thin s;

    for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
        uint64_t start = starts[i] == SIZE ? SIZE : starts[i] / 4096 * 4096;
        test_note("from %llu", (unsigned long long)starts[i]);
        memset(want, STALE, start);
        memcpy(want + start, model + start, SIZE - start);
        opts.going_on.start = starts[i];
        target = open_thin(&s, SIZE + BEHIND, VDISK_BACKEND_DISCARD);
        s.kept = start;
        CHECK_OK(run_copy(source, target, &opts, &r));
        CHECK_INT(s.discarded, SIZE + BEHIND - start);
        CHECK(memcmp(s.bytes, want, SIZE) == 0);
        close_thin(&s, target);
        for (size_t j = 0; j < 2; j++) {
            make(test_path("b"), &formats[j], SIZE, NULL);
            target = open_as(test_path("b"), &formats[j], true);
            write_stale(target);
            CHECK_OK(run_copy(source, target, &opts, &r));
            expect(target, want, SIZE);
            CHECK_OK(vdisk_close(target));
        }
    }
    CHECK_OK(vdisk_close(source));
    free(model);
    free(want);
}

/* ---- what is refused ---------------------------------------------------------------------------------- */

static void refused(const struct vdisk_copy_opts *opts, vdisk *source, vdisk *target, const char *text)
{
    vdisk_job *j;

    CHECK_INT(vdisk_job_copy(&source, 1, target, opts, &j), -EINVAL);
    CHECK_HAS(vdisk_error_text(), text);
}

/* And all that is found out later costs the target nothing. */
static void test_refused(void)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .flags = VDISK_COPY_DISCARD | VDISK_COPY_TARGET_IS_ZERO};
    uint8_t *model = test_alloc(SIZE);
    vdisk *source = make_source(model), *target;
    struct vdisk_copy_result r;
    struct thin s;

    target = open_thin(&s, 1 << 20, VDISK_BACKEND_DISCARD);
    refused(&opts, source, target, "is not discarded");
    opts.flags = VDISK_COPY_DISCARD;
    opts.backing_depth = 1;
    refused(&opts, source, target, "backing file");
    opts.backing_depth = 0;
    CHECK_INT(run_copy(source, target, &opts, &r), -ENOSPC);
    opts.flags |= VDISK_COPY_COMPRESS;
    opts.length = 65536;
    CHECK_INT(run_copy(source, target, &opts, &r), -ENOTSUP);
    CHECK_INT(s.discarded + s.written, 0);
    close_thin(&s, target);
    CHECK_OK(vdisk_close(source));
    free(model);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "formats", .run = test_formats}, {.name = "space", .run = test_space},
        {.name = "no-promise", .run = test_no_promise}, {.name = "kept", .run = test_kept},
        {.name = "going-on", .run = test_going_on}, {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
