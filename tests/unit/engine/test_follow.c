/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of what a volume is on moves by somebody else's doing: the backend tells, filters pass it on, a raw
 * volume follows, who listens is told; a format with a size of its own does not.
 */
#include <pthread.h>

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { SIZE = 8 << 20 };

static struct {
    unsigned count;
    uint64_t value;
} seen;

static void on_event(void *arg, vdisk *v, const struct vdisk_event *event)
{
    seen.count += event->kind == VDISK_EVENT_SIZE;
    seen.value = event->kind == VDISK_EVENT_SIZE ? event->value : seen.value;
}

static void look(vdisk *v)
{
    struct vdisk_info info = {.size = sizeof info};

    OK(vdisk_get_info(v, &info));
    assert_int_equal(info.virtual_size, vdisk_size(v));
}

static vdisk *open_raw(struct backend *b)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = "raw", .flags = VDISK_OPEN_RDWR};
    vdisk *v;

    OK(vdisk_open_backend(b, &how, &v));
    look(v); /* that it has a size at all is news of the open */
    memset(&seen, 0, sizeof seen);
    OK(vdisk_set_event_callback(v, on_event, NULL));
    return v;
}

/* A device, and a second handle on it. */
static struct backend *device(struct backend **ret_other)
{
    struct memory_options options = {.align = 512, .fixed = true, .size = SIZE};
    struct backend *b;

    OK(memory_backend_create_with("device", &options, &b));
    OK(memory_backend_share(b, ret_other));
    return b;
}

static void a_device_that_grows(void **state)
{
    uint8_t block[512] = {1};
    struct backend *other, *b = device(&other);
    vdisk *v;

    OK(fault_backend_create(b, &b)); /* through two filters */
    OK(fault_backend_create(b, &b));
    v = open_raw(b);
    look(v);
    assert_int_equal(seen.count, 0);
    memory_backend_extend(other, 2 * SIZE);
    assert_int_equal(vdisk_size(v), SIZE);
    OK(vdisk_pwrite(v, block, sizeof block, SIZE, 0)); /* what would be refused looks */
    assert_true(vdisk_pwrite(v, block, sizeof block, 2 * SIZE, 0) < 0);
    assert_int_equal(vdisk_size(v), 2 * SIZE);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.value, 2 * SIZE);
    OK(vdisk_pwrite(v, block, sizeof block, 2 * SIZE - 512, 0));
    look(v);
    assert_int_equal(seen.count, 1);
    OK(vdisk_close(v));
    backend_close(other);
}

struct beside {
    struct io io;
    bool      ended;
};

static void beside_ended(struct io *io)
{
    container_of(io, struct beside, io)->ended = true;
}

/* A read goes out, the device grows, and then the read is seen to have met the end that there was: at `offset`. */
static void read_beside(uint64_t offset, unsigned growths)
{
    enum { LEN = 8192 };
    size_t same = 0;
    uint8_t *out = aligned_alloc(512, LEN), in[LEN];
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    struct backend *other, *b = device(&other);
    struct beside r = {0};

    memset(out, 1, LEN);
    fill_pattern(in, offset, LEN, 1);
    OK(memory_backend_write(other, offset, in, min_u64(LEN, SIZE - offset)));
    io_rw(&r.io, b, IO_READ, offset, out, LEN);
    r.io.queue = q;
    r.io.op = NULL;
    r.io.done = beside_ended;
    queue_submit(q);
    io_start(&r.io);
    for (unsigned i = 1; !r.ended && i < 20; i++) { /* each turn shows it its end, and sends it out again */
        uint64_t end = i < growths ? offset + i * 512 : 2 * SIZE;
        if (end > SIZE) {
            memory_backend_extend(other, end);
            OK(memory_backend_write(other, offset, in, min_u64(LEN, end - offset)));
        }
        OK(b->driver->refresh(b));
        queue_turn(q);
    }
    assert_true(r.ended);
    OK(r.io.res);
    while (same < LEN && out[same] == in[same])
        same++;
    assert_true(same == LEN || (growths > 1 && same % 512 == 0 && is_filled(out + same, 0, LEN - same)));
    backend_close(b);
    backend_close(other);
    vdisk_queue_destroy(q);
    free(out);
}

static void a_read_beside_the_growth(void **state)
{
    read_beside(SIZE - 512, 1); /* its beginning was there */
    read_beside(SIZE - 4096, 1);
    read_beside(SIZE, 1);
    read_beside(SIZE, 8); /* by and by: as far as it was there */
    read_beside(SIZE - 1024, 8);
}

struct held {
    struct backend *b;
    vdisk          *v;
    struct backend *other;
    int             rc;
    uint64_t        size; /* as it was seen in between */
};

/* While the volume is resized, on the job's thread, on which nothing may be asserted. */
static int in_between(void *arg, uint64_t done, uint64_t total)
{
    struct held *h = arg;

    if (h->size == 0) {
        memory_backend_extend(h->other, 4 * SIZE);
        h->rc = h->b->driver->refresh(h->b);
        h->size = vdisk_size(h->v);
    }
    return 0;
}

/* What a resize has not made zeros yet is not to be seen; what it does not see to is followed then. */
static void not_while_it_is_resized(void **state)
{
    struct held h = {0};
    struct vdisk_resize_opts opts = {.size = sizeof opts, .preallocation = VDISK_PREALLOC_FULL,
                                     .progress = in_between, .progress_arg = &h};

    h.b = device(&h.other);
    h.v = open_raw(h.b);
    memory_backend_extend(h.other, 2 * SIZE);
    OK(vdisk_resize(h.v, 2 * SIZE, &opts));
    OK(h.rc);
    assert_int_equal(h.size, SIZE);
    assert_int_equal(vdisk_size(h.v), 4 * SIZE);
    assert_int_equal(seen.value, 4 * SIZE);
    OK(vdisk_close(h.v));
    backend_close(h.other);
}

static void a_file_that_is_cut(void **state)
{
    static uint8_t bytes[SIZE];
    char path[] = "follow.XXXXXX";
    int fd = mkstemp(path);
    struct backend *b;
    vdisk *v;

    assert_true(fd >= 0);
    memset(bytes, 7, SIZE);
    assert_int_equal(write(fd, bytes, SIZE), SIZE);
    OK(backend_open(path, BACKEND_RDWR, &b));
    OK(fault_backend_create(b, &b));
    v = open_raw(b);
    assert_int_equal(ftruncate(fd, SIZE / 2 + 100), 0);
    OK(vdisk_pread(v, bytes, SIZE, 0)); /* it was let in: what is there, and zeros */
    assert_true(is_filled(bytes, 7, SIZE / 2 + 100));
    assert_true(is_filled(bytes + SIZE / 2 + 100, 0, SIZE / 2 - 100));
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.value, SIZE / 2 + 512);
    assert_int_equal(vdisk_size(v), SIZE / 2 + 512);
    assert_true(vdisk_pread(v, bytes, 512, SIZE / 2 + 512) < 0);

    assert_int_equal(ftruncate(fd, 4096), 0); /* or when somebody asks */
    look(v);
    assert_int_equal(seen.count, 2);
    assert_int_equal(vdisk_size(v), 4096);
    assert_int_equal(ftruncate(fd, SIZE), 0); /* what others add is theirs */
    look(v);
    assert_int_equal(vdisk_size(v), 4096);
    OK(vdisk_resize(v, SIZE, NULL));
    assert_int_equal(vdisk_size(v), SIZE);
    OK(vdisk_close(v));
    close(fd);
    unlink(path);
}

/* Of what writers add meanwhile the end is not lost: it is behind what each has written, when he has ended. */
static _Atomic bool stop;

static void *cut_again(void *arg)
{
    struct backend *b = arg;

    intptr_t rc = 0;

    while (!atomic_load(&stop) && rc == 0)
        rc = b->driver->refresh(b);
    return (void *)rc;
}

static void writers_beside(void **state)
{
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    char path[] = "follow.XXXXXX", *buf = vdisk_alloc_buffer(4096);
    int fd = mkstemp(path);
    struct backend *b;
    pthread_t thread;
    void *rc;

    memset(buf, 1, 4096);
    OK(backend_open(path, BACKEND_RDWR | BACKEND_BUFFERED, &b));
    assert_int_equal(pthread_create(&thread, NULL, cut_again, b), 0);
    for (uint64_t i = 1; i < 300; i++) {
        if (i % 10 == 0)
            assert_int_equal(ftruncate(fd, (off_t)(i * 2048)), 0);
        OK(io_pwrite(q, b, buf, 4096, i * 4096));
        assert_true(backend_size(b) >= (i + 1) * 4096);
    }
    atomic_store(&stop, true);
    pthread_join(thread, &rc);
    OK((intptr_t)rc);
    backend_close(b);
    free(buf);
    vdisk_queue_destroy(q);
    close(fd);
    unlink(path);
}

/* qcow2 has its size in its header. */
static void a_format_with_a_size_of_its_own(void **state)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = SIZE};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    char path[] = "follow.XXXXXX";
    int fd = mkstemp(path);
    vdisk *v;

    OK(vdisk_create(path, &create));
    OK(vdisk_open(path, &how, &v));
    memset(&seen, 0, sizeof seen);
    OK(vdisk_set_event_callback(v, on_event, NULL));
    assert_int_equal(ftruncate(fd, 256 << 10), 0);
    look(v);
    assert_int_equal(vdisk_size(v), SIZE);
    assert_int_equal(seen.count, 0);
    OK(vdisk_close(v));
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_that_grows),
        cmocka_unit_test(a_read_beside_the_growth),
        cmocka_unit_test(not_while_it_is_resized),
        cmocka_unit_test(a_file_that_is_cut),
        cmocka_unit_test(writers_beside),
        cmocka_unit_test(a_format_with_a_size_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
