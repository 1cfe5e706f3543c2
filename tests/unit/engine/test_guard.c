/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw volumes whose format was guessed: whatever is written, in whatever pieces, they stay raw. */
#include <errno.h>
#include <string.h>

#include "backends/memory.h"
#include "engine/base/bits.h"
#include "engine/foreign.h"
#include "engine/volume.h"
#include "tests/lib/rng.h"
#include "tests/lib/test.h"

enum { SIZE = 8192 };

struct sample {
    const char *format; /* NULL: raw */
    unsigned    offset, len;
    const char *bytes;
};

#define SAMPLE(format, offset, text) {format, offset, sizeof text - 1, text}

static const struct sample samples[] = {
    SAMPLE("qcow2", 0, "QFI\xfb\0\0\0\3"),
    SAMPLE("qcow2", 0, "QFI\xfb\0\0\0\1"),
    SAMPLE(NULL, 0, "QFI\xfb\0\0\0\0"),
    SAMPLE(NULL, 0, "QFI\xfa\0\0\0\3"),
    SAMPLE("qed", 0, "QED\0"),
    SAMPLE("vmdk", 0, "KDMV"),
    SAMPLE("vmdk", 0, "COWD"),
    SAMPLE("vmdk", 0, "# Disk DescriptorFile\nversion=1\nextent"),
    SAMPLE("vmdk", 0, "version=3\r\n"),
    SAMPLE("vmdk", 0, "#\n#\n  \n \r\nversion=2\n"),
    SAMPLE(NULL, 0, "# Disk DescriptorFile\nversion=4\n"),
    SAMPLE(NULL, 0, "# Disk DescriptorFile\nversion=1"),
    SAMPLE(NULL, 0, "# Disk DescriptorFile\n\nversion=1\n"),
    SAMPLE(NULL, 0, "# Disk DescriptorFile\n #\nversion=1\n"),
    SAMPLE(NULL, 0, " x\nversion=1\n"),
    SAMPLE("vdi", 64, "\x7f\x10\xda\xbe"),
    SAMPLE("vhdx", 0, "vhdxfile"),
    SAMPLE("vpc", 0, "conectix"),
    SAMPLE(NULL, 1, "conectix"),
    SAMPLE("parallels", 0, "WithoutFreeSpace\2\0\0\0"),
    SAMPLE("parallels", 0, "WithouFreSpacExt\2\0\0\0"),
    SAMPLE("luks", 0, "LUKS\xba\xbe\0\1"),
    SAMPLE(NULL, 0, "LUKS\xba\xbe\0\2"),
    SAMPLE("cloop", 0, "#!/bin/sh\n#V2.0 Format\nmodprobe"),
    SAMPLE("bochs", 0, "Bochs Virtual HD Image\0"),
    SAMPLE(NULL, 510, "\x55\xaa"),
};

static const char *format_of(const uint8_t *content)
{
    const char *f = foreign_format(content);

    return f ? f : "raw";
}

static void test_samples(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(samples); i++) {
        const struct sample *s = &samples[i];
        uint8_t head[FOREIGN_HEAD] = {0};
        memcpy(head + s->offset, s->bytes, s->len);
        CHECK_MSG(strcmp(format_of(head), s->format ? s->format : "raw") == 0, "sample %u is %s", i,
                  format_of(head));
        /* Nothing is looked for behind the end of the text. */
        memset(head, '#', sizeof head);
        CHECK(strcmp(format_of(head), "raw") == 0);
        memset(head, ' ', sizeof head);
        CHECK(strcmp(format_of(head), "raw") == 0);
    }
}

static vdisk *open_with(const char *format, struct backend **keeper)
{
    struct memory_options options = {.align = 512};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = format};
    struct backend *b;
    vdisk *v;

    CHECK_OK(memory_backend_create_with("guess", &options, keeper));
    CHECK_OK(memory_backend_share(*keeper, &b));
    CHECK_OK(vdisk_open_backend(b, &opts, &v));
    CHECK_OK(vdisk_grow(v, SIZE));
    return v;
}

/* With the format named all is allowed. */
static void test_named(void)
{
    struct backend *keeper;
    vdisk *v = open_with("raw", &keeper);

    CHECK_OK(vdisk_pwrite(v, samples[0].bytes, samples[0].len, 0, 0));
    CHECK_OK(vdisk_close(v));
    backend_close(keeper);
}

static void test_hint(void)
{
    struct backend *keeper;
    vdisk *v = open_with(NULL, &keeper);

    CHECK_INT(vdisk_pwrite(v, samples[0].bytes, samples[0].len, 0, 0), -EPERM);
    CHECK_MSG(strstr(vdisk_error_hint(), "format raw"), "the hint is: %s", vdisk_error_hint());
    CHECK_OK(vdisk_close(v));
    backend_close(keeper);
}

struct change {
    unsigned offset, len;
    unsigned kind; /* write, writev, zero, discard, and a write with FUA */
    uint8_t  bytes[2 * FOREIGN_HEAD];
};

/* A piece of a header, or zeros, or anything, that ends where the header does, or far behind. */
static struct change random_change(struct rng *rng)
{
    const struct sample *s = &samples[rng_below(rng, ARRAY_LEN(samples))];
    struct change c = {.kind = (unsigned)rng_below(rng, 5)};
    uint8_t whole[2 * FOREIGN_HEAD] = {0};

    memcpy(whole + s->offset, s->bytes, s->len);
    if (rng_below(rng, 4) == 0)
        c.offset = (unsigned)rng_below(rng, s->offset + s->len);
    c.len = 1 + (unsigned)rng_below(rng, rng_below(rng, 2) ? s->offset + s->len : sizeof whole - c.offset);
    if (rng_below(rng, 4) == 0)
        c.len = s->offset + s->len > c.offset ? s->offset + s->len - c.offset : 1;
    memcpy(c.bytes, whole + c.offset, c.len);
    return c;
}

static void enqueue(vdisk_queue *q, vdisk *v, struct change *c, struct iovec iov[3], uint64_t tag)
{
    iov[0] = (struct iovec){c->bytes, c->len / 3};
    iov[1] = (struct iovec){c->bytes + c->len / 3, 0};
    iov[2] = (struct iovec){c->bytes + c->len / 3, c->len - c->len / 3};
    switch (c->kind) {
    case 0: vdisk_write(q, v, c->offset, c->bytes, c->len, 0, tag); break;
    case 1: vdisk_writev(q, v, c->offset, iov, 3, 0, tag); break;
    case 2: vdisk_write_zeroes(q, v, c->offset, c->len, 0, tag); break;
    case 3: vdisk_discard(q, v, c->offset, c->len, 0, tag); break;
    default: vdisk_write(q, v, c->offset, c->bytes, c->len, VDISK_REQ_FUA, tag); break;
    }
}

static void check_raw(vdisk *v)
{
    uint8_t head[FOREIGN_HEAD];

    CHECK_OK(vdisk_pread(v, head, sizeof head, 0));
    CHECK_MSG(!foreign_format(head), "it has become %s", foreign_format(head));
}

/* One after another: each has its effect, or is refused for good reason and has none. */
static void test_one_by_one(void)
{
    struct backend *keeper;
    vdisk *v = open_with(NULL, &keeper);
    uint8_t now[2 * FOREIGN_HEAD] = {0}, then[sizeof now], got[sizeof now];
    struct rng *rng = test_rng();
    unsigned refused = 0;
    vdisk_queue *q;

    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (unsigned i = 0; i < 3000; i++) {
        struct change c = random_change(rng);
        struct vdisk_completion done;
        struct iovec iov[3];
        memcpy(then, now, sizeof now);
        if (c.kind == 2 || c.kind == 3)
            memset(then + c.offset, 0, c.len);
        else
            memcpy(then + c.offset, c.bytes, c.len);
        enqueue(q, v, &c, iov, i);
        CHECK_INT(vdisk_reap(q, &done, 1, 1, NULL), 1);
        if (foreign_format(then)) {
            CHECK_INT(done.result, -EPERM);
            refused++;
        } else {
            CHECK_INT(done.result, 0);
        }
        CHECK_OK(vdisk_pread(v, got, sizeof got, 0));
        /* A discard may leave what was there. */
        if (done.result == 0 && (c.kind != 3 || memcmp(got, now, sizeof got) != 0))
            memcpy(now, then, sizeof now);
        CHECK_MSG(memcmp(got, now, sizeof got) == 0, "change %u: kind %u, %u bytes at %u: %d", i, c.kind, c.len,
                  c.offset, done.result);
    }
    CHECK_MSG(refused > 20, "only %u were refused", refused);
    vdisk_queue_destroy(q);
    CHECK_OK(vdisk_close(v));
    backend_close(keeper);
}

/* Many at once, in two queues, neighbours that are merged among them: in whatever order, it stays raw. */
static void test_at_once(void)
{
    enum { BATCH = 24 };
    static struct change c[BATCH];
    struct backend *keeper;
    vdisk *v = open_with(NULL, &keeper);
    struct rng *rng = test_rng();
    vdisk_queue *q[2];

    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(vdisk_queue_create(NULL, &q[i]));
    for (unsigned round = 0; round < 300; round++) {
        struct iovec iov[BATCH][3];
        unsigned left[2] = {0, 0};
        for (unsigned i = 0; i < BATCH; i++) {
            struct change *before = i > 0 ? &c[i - 1] : NULL;
            unsigned to = (unsigned)rng_below(rng, 2);
            c[i] = random_change(rng);
            if (before && rng_below(rng, 2) && before->offset + before->len + c[i].len < SIZE)
                c[i].offset = before->offset + before->len;
            enqueue(q[to], v, &c[i], iov[i], i);
            left[to]++;
        }
        while (left[0] + left[1] > 0)
            for (unsigned i = 0; i < 2; i++) {
                struct vdisk_completion done[BATCH];
                int n = vdisk_reap(q[i], done, 0, BATCH, NULL);
                CHECK(n >= 0);
                for (int k = 0; k < n; k++)
                    CHECK_MSG(done[k].result == 0 || done[k].result == -EPERM, "result %d", done[k].result);
                left[i] -= (unsigned)n;
            }
        check_raw(v);
    }
    for (unsigned i = 0; i < 2; i++)
        vdisk_queue_destroy(q[i]);
    CHECK_OK(vdisk_close(v));
    backend_close(keeper);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "samples", .run = test_samples}, {.name = "named", .run = test_named},
        {.name = "hint", .run = test_hint},       {.name = "one_by_one", .run = test_one_by_one, .repeat = 4},
        {.name = "at_once", .run = test_at_once, .repeat = 4},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
