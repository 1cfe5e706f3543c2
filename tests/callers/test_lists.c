/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of iovecs of any length, which are the caller's again when the enqueue function has returned. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/bits.h"
#include "tests/lib/test.h"

enum { PIECES_MAX = 3000, IN_FLIGHT = 3 };

static const enum vdisk_queue_kind kinds[] = {VDISK_QUEUE_AUTO, VDISK_QUEUE_URING, VDISK_QUEUE_THREADS};
static const char *const formats[] = {"raw", "qcow2"};

/* `n` pieces of `each` bytes with gaps of as many between them, of a buffer of 2 * n * each. */
static void fill_list(struct iovec *iov, char *buf, unsigned n, size_t each)
{
    for (unsigned i = 0; i < n; i++)
        iov[i] = (struct iovec){buf + 2 * i * each, each};
}

/* Each request in flight has the same memory for its list, which is spoilt as soon as it is enqueued. */
static void write_and_read(vdisk_queue *q, vdisk *v, unsigned n, size_t each)
{
    struct iovec *iov = test_alloc(n * sizeof *iov);
    char *buf = test_alloc(IN_FLIGHT * 2 * n * each), *want = test_alloc(IN_FLIGHT * 2 * n * each);
    struct vdisk_completion c[IN_FLIGHT];
    size_t size = 2 * n * each;

    for (size_t i = 0; i < IN_FLIGHT * size; i++)
        want[i] = i / each % 2 ? 0 : (char)(i / each % 251 + 1);
    memcpy(buf, want, IN_FLIGHT * size);
    for (unsigned reading = 0; reading < 2; reading++) {
        for (unsigned k = 0; k < IN_FLIGHT; k++) {
            fill_list(iov, buf + k * size, n, each);
            if (reading)
                vdisk_readv(q, v, k * n * each, iov, n, 0, k);
            else
                vdisk_writev(q, v, k * n * each, iov, n, 0, k);
            memset(iov, 0xff, n * sizeof *iov);
        }
        for (unsigned k = 0; k < IN_FLIGHT;)
            k += (unsigned)vdisk_reap(q, c + k, IN_FLIGHT - k, 1, NULL);
        for (unsigned k = 0; k < IN_FLIGHT; k++)
            CHECK_INT(c[k].result, 0);
        if (!reading)
            memset(buf, 0, IN_FLIGHT * size);
    }
    CHECK_MSG(memcmp(buf, want, IN_FLIGHT * size) == 0, "%u pieces of %zu bytes come back as others", n, each);
    free(iov);
    free(buf);
    free(want);
}

/* Lengths whose sum is no length, however long the list. */
static void refuse_sums(vdisk_queue *q, vdisk *v)
{
    char buf[512] = {0};
    struct iovec iov[8] = {{buf, sizeof buf}, {buf, SIZE_MAX - 500}};
    struct vdisk_completion c;

    for (unsigned n = 2; n <= ARRAY_LEN(iov); n += 6) {
        vdisk_writev(q, v, 0, iov, n, 0, n);
        CHECK_INT(vdisk_reap(q, &c, 1, 1, NULL), 1);
        CHECK_INT(c.result, -EINVAL);
    }
}

static void use(const char *format, enum vdisk_queue_kind kind)
{
    static const unsigned lengths[] = {VDISK_IOV_INLINE, VDISK_IOV_INLINE + 1, 64, 1024, 1025, PIECES_MAX, 7};
    struct vdisk_create_opts create = {.size = sizeof create, .format = format, .virtual_size = 64 << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = format};
    struct vdisk_queue_opts how = {.size = sizeof how, .kind = kind};
    vdisk_queue *q;
    vdisk *v;

    test_note("%s, queue of kind %s", format, vdisk_queue_kind_name(kind));
    CHECK_OK(vdisk_create(test_path("volume"), &create));
    CHECK_OK(vdisk_open(test_path("volume"), &opts, &v));
    CHECK_OK(vdisk_queue_create(&how, &q));
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        write_and_read(q, v, lengths[i], 512);
        write_and_read(q, v, lengths[i], 100);
    }
    refuse_sums(q, v);
    CHECK_OK(vdisk_queue_destroy(q));
    CHECK_OK(vdisk_close(v));
}

static void test_copied(void)
{
    for (unsigned f = 0; f < ARRAY_LEN(formats); f++)
        for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
            use(formats[f], kinds[k]);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "copied", .run = test_copied},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
