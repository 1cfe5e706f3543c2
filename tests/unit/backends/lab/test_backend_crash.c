/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The crash backend over memory: what a cut may leave after given writes and flushes, exactly. */
#include "backends/lab/crash.h"
#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/loop/queue.h"
#include "tests/unit/backend_test.h"

enum { BLOCK = 512, BLOCKS = 8, MOST = 4096 };

static vdisk_queue *q;
static struct crash_log *the_log;
static struct backend *child, *b;
static uint32_t unit; /* of all_images() */

static int setup(void **state)
{
    struct memory_options options = {.size = BLOCKS * BLOCK, .align = BLOCK};
    uint8_t old[BLOCK];

    unit = BLOCK;
    memset(old, 'o', sizeof old);
    OK(memory_backend_create_with("memory", &options, &child));
    for (unsigned i = 0; i < BLOCKS; i++)
        OK(memory_backend_write(child, i * BLOCK, old, BLOCK));
    OK(fault_backend_create(child, &child));
    OK(crash_log_create(&the_log));
    OK(crash_log_base(the_log, 0, child, q));
    OK(crash_backend_create(the_log, 0, child, &b));
    return 0;
}

static int teardown(void **state)
{
    backend_close(b);
    crash_log_destroy(the_log);
    return 0;
}

static int try_write(unsigned block, unsigned blocks, char byte, uint8_t flags)
{
    char *buf = vdisk_alloc_buffer(blocks * BLOCK);
    struct io io;
    int rc;

    memset(buf, byte, blocks * BLOCK);
    io_rw(&io, b, IO_WRITE, block * BLOCK, buf, blocks * BLOCK);
    io.flags = flags;
    rc = io_run(q, &io);
    free(buf);
    return rc;
}

static void put(unsigned block, unsigned blocks, char byte)
{
    OK(try_write(block, blocks, byte, 0));
}

static void range(enum io_kind kind, unsigned block, unsigned blocks)
{
    OK(io_prange(q, b, kind, block * BLOCK, blocks * BLOCK));
}

/* An image as text: a letter per block, '.' for zeros, '?' for what is mixed. */
static void image_text(const struct crash_image *image, char *text)
{
    uint64_t size = crash_image_size(image, 0);
    uint8_t buf[BLOCK];

    assert_true(size % BLOCK == 0 && size / BLOCK < 4 * BLOCKS);
    for (unsigned i = 0; i < size / BLOCK; i++) {
        crash_image_read(image, 0, i * BLOCK, buf, BLOCK);
        text[i] = buf[0] ? (char)buf[0] : '.';
        for (unsigned k = 1; k < BLOCK; k++)
            if (buf[k] != buf[0])
                text[i] = '?';
    }
    text[size / BLOCK] = '\0';
}

/* All images at the end of the the_log, each once, in alphabetical order, with spaces between. */
static const char *all_images(void)
{
    static char out[MOST];
    char (*texts)[64] = calloc(MOST, sizeof *texts);
    struct crash_event event;
    struct crash_image *image;
    struct crash_walk *w;
    unsigned n = 0;

    OK(crash_walk_create(the_log, unit, &w));
    while (crash_walk_next(w, &event) > 0)
        ;
    for (unsigned i = 0; crash_walk_choose(w, 1, i, MOST); i++) {
        OK(crash_image_make(w, &image));
        image_text(image, texts[n]);
        crash_image_destroy(image);
        unsigned k = 0;
        while (k < n && strcmp(texts[k], texts[n]) != 0)
            k++;
        n += k == n;
    }
    crash_walk_destroy(w);
    qsort(texts, n, sizeof *texts, (int (*)(const void *, const void *))strcmp);
    for (unsigned i = 0, used = 0; i < n && used < sizeof out; i++)
        used += (unsigned)snprintf(out + used, sizeof out - used, "%s%s", i ? " " : "", texts[i]);
    free(texts);
    return out;
}

static void nothing_flushed(void **state)
{
    put(1, 1, 'a');
    put(3, 1, 'b');
    assert_string_equal(all_images(), "oaoboooo oaoooooo oooboooo oooooooo");
}

static void a_write_tears_by_blocks(void **state)
{
    put(0, 2, 'a');
    assert_string_equal(all_images(), "aaoooooo aooooooo oaoooooo oooooooo");
}

static void what_was_flushed_is_there(void **state)
{
    put(1, 1, 'a');
    OK(io_pflush(q, b));
    put(2, 1, 'b');
    assert_string_equal(all_images(), "oabooooo oaoooooo");
}

static void the_later_write_wins(void **state)
{
    put(0, 1, 'a');
    put(0, 1, 'b');
    assert_string_equal(all_images(), "aooooooo booooooo oooooooo");
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "booooooo");
}

static void fua_is_durable_alone(void **state)
{
    put(1, 1, 'a');
    OK(try_write(0, 1, 'f', IO_FUA));
    assert_string_equal(all_images(), "faoooooo fooooooo");
}

/* An earlier write of the same place cannot come back over a durable one. */
static void durable_buries_what_was_before(void **state)
{
    put(0, 2, 'a');
    OK(try_write(0, 1, 'f', IO_FUA));
    assert_string_equal(all_images(), "faoooooo fooooooo");
}

/* Not even where the disk writes more than that at once. */
static void durable_parts_stay_in_larger_units(void **state)
{
    unit = BLOCKS * BLOCK;
    put(0, BLOCKS, 'a');
    OK(try_write(1, 1, 'f', IO_FUA));
    assert_string_equal(all_images(), "afaaaaaa ofoooooo");
}

static void discard_leaves_old_or_zeros(void **state)
{
    range(IO_DISCARD, 0, 1);
    assert_string_equal(all_images(), ".ooooooo oooooooo");
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), ".ooooooo");
}

static void zeros_are_written(void **state)
{
    range(IO_ZERO, 1, 2);
    assert_string_equal(all_images(), "o..ooooo o.oooooo oo.ooooo oooooooo");
}

static void size_and_content_come_apart(void **state)
{
    put(8, 2, 'n');
    assert_string_equal(all_images(), "oooooooo oooooooo.. oooooooo.n oooooooon oooooooon. oooooooonn");
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "oooooooonn");
}

static void allocate_moves_the_end_only(void **state)
{
    range(IO_ALLOCATE, 8, 1);
    assert_string_equal(all_images(), "oooooooo oooooooo.");
}

static void truncate_is_whole(void **state)
{
    OK(io_prange(q, b, IO_TRUNCATE, 4 * BLOCK, 0));
    assert_string_equal(all_images(), "oooo oooooooo");
    put(4, 1, 'n');
    assert_string_equal(all_images(), "oooo oooo. oooon oooonooo oooooooo");
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "oooon");
}

static bool ended;

static void note_end(struct io *io)
{
    OK(io->res);
    ended = true;
}

/* A flush covers what had ended when it began. */
static void what_is_in_flight_is_not_flushed(void **state)
{
    struct fault_rule late = {.kinds = FAULT_KIND(IO_WRITE), .what = FAULT_LATE_END};
    char *buf = vdisk_alloc_buffer(BLOCK);
    struct io io;

    memset(buf, 'a', BLOCK);
    assert_true(fault_add_rule(child, &late) >= 0);
    io_rw(&io, b, IO_WRITE, 0, buf, BLOCK);
    io.queue = q;
    io.op = NULL;
    io.done = note_end;
    ended = false;
    io_start(&io);
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "aooooooo oooooooo");
    assert_false(ended);
    fault_clear(child);
    queue_run_until(q, &ended);
    assert_string_equal(all_images(), "aooooooo oooooooo");
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "aooooooo");
    free(buf);
}

static void a_failed_flush_flushes_nothing(void **state)
{
    struct fault_rule fail = {.kinds = FAULT_KIND(IO_FLUSH), .nth = 1, .what = FAULT_FAIL, .error = EIO};

    put(0, 1, 'a');
    assert_true(fault_add_rule(child, &fail) >= 0);
    assert_int_equal(io_pflush(q, b), -EIO);
    assert_string_equal(all_images(), "aooooooo oooooooo");
}

static void a_failed_write_may_be_there(void **state)
{
    struct fault_rule fail = {.kinds = FAULT_KIND(IO_WRITE), .nth = 1, .what = FAULT_FAIL_AFTER, .error = EIO};

    assert_true(fault_add_rule(child, &fail) >= 0);
    assert_int_equal(try_write(0, 1, 'a', 0), -EIO);
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "aooooooo oooooooo");
    put(0, 1, 'b');
    OK(io_pflush(q, b));
    assert_string_equal(all_images(), "booooooo");
}

/* More ways than are asked for: so many, all different, the same again from the same seed. */
static void a_sample_is_one_of_all_different(void **state)
{
    struct crash_event event;
    struct crash_walk *w;
    static char text[2][200][1000];
    unsigned n[2] = {0, 0};

    for (unsigned i = 0; i < 2 * BLOCKS; i++)
        put(i % BLOCKS, 1, (char)('a' + i));
    for (unsigned run = 0; run < 2; run++) {
        OK(crash_walk_create(the_log, BLOCK, &w));
        while (crash_walk_next(w, &event) > 0)
            ;
        assert_true(crash_walk_is_rich(w));
        assert_int_equal(crash_walk_pieces(w), 2 * BLOCKS);
        for (; crash_walk_choose(w, 7, n[run], 200); n[run]++) {
            crash_walk_describe(w, text[run][n[run]], sizeof text[run][0]);
            for (unsigned k = 0; k < n[run]; k++)
                assert_string_not_equal(text[run][k], text[run][n[run]]);
        }
        crash_walk_destroy(w);
    }
    assert_true(n[0] > 100 && n[0] == n[1]);
    assert_memory_equal(text[0], text[1], sizeof text[0]);
}

static void an_image_is_a_disk(void **state)
{
    struct crash_event event;
    struct crash_image *image;
    struct crash_walk *w;
    struct backend *disk;
    char buf[BLOCK];

    put(1, 1, 'a');
    OK(crash_walk_create(the_log, BLOCK, &w));
    while (crash_walk_next(w, &event) > 0)
        ;
    assert_true(crash_walk_choose(w, 1, 1, MOST));
    OK(crash_image_make(w, &image));
    disk = crash_image_open(image, 0, false);
    assert_non_null(disk);
    assert_int_equal(disk->align, BLOCK);
    assert_range(q, disk, BLOCK, BLOCK, 'a');
    memset(buf, 'z', sizeof buf);
    OK(io_pwrite(q, disk, buf, BLOCK, 9 * BLOCK));
    assert_int_equal(backend_size(disk), 10 * BLOCK);
    assert_range(q, disk, 8 * BLOCK, BLOCK, 0);
    assert_range(q, disk, 9 * BLOCK, BLOCK, 'z');
    OK(io_prange(q, disk, IO_TRUNCATE, BLOCK, 0));
    assert_range(q, disk, BLOCK, BLOCK, 0);
    backend_close(disk);
    disk = crash_image_open(image, 0, true);
    assert_int_equal(backend_size(disk), BLOCK);
    backend_close(disk);
    crash_image_destroy(image);
    crash_walk_destroy(w);
    assert_string_equal(all_images(), "oaoooooo oooooooo");
}

static void marks_keep_their_place(void **state)
{
    struct crash_event event;
    struct crash_walk *w;

    OK(crash_mark(the_log, 1, 10));
    put(0, 1, 'a');
    OK(crash_mark(the_log, 2, 20));
    OK(crash_walk_create(the_log, BLOCK, &w));
    assert_int_equal(crash_walk_next(w, &event), 1);
    assert_true(event.kind == CRASH_MARK && event.mark == 1 && event.value == 10);
    assert_int_equal(crash_walk_next(w, &event), 1);
    assert_true(event.kind == CRASH_BEGIN && event.io_kind == IO_WRITE && event.offset == 0);
    assert_int_equal(crash_walk_next(w, &event), 1);
    assert_true(event.kind == CRASH_END && event.res == 0);
    assert_int_equal(crash_walk_next(w, &event), 1);
    assert_true(event.kind == CRASH_MARK && event.mark == 2 && event.value == 20);
    assert_int_equal(crash_walk_next(w, &event), 0);
    crash_walk_destroy(w);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_flushed),
        TEST(a_write_tears_by_blocks),
        TEST(what_was_flushed_is_there),
        TEST(the_later_write_wins),
        TEST(fua_is_durable_alone),
        TEST(durable_buries_what_was_before),
        TEST(durable_parts_stay_in_larger_units),
        TEST(discard_leaves_old_or_zeros),
        TEST(zeros_are_written),
        TEST(size_and_content_come_apart),
        TEST(allocate_moves_the_end_only),
        TEST(truncate_is_whole),
        TEST(what_is_in_flight_is_not_flushed),
        TEST(a_failed_flush_flushes_nothing),
        TEST(a_failed_write_may_be_there),
        TEST(a_sample_is_one_of_all_different),
        TEST(an_image_is_a_disk),
        TEST(marks_keep_their_place),
    };
    int failed;

    q = test_queue(VDISK_QUEUE_AUTO);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    vdisk_queue_destroy(q);
    return failed;
}
