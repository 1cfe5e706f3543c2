/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Our own metadata in memory is wrong, and the program goes on, as in release builds: nothing of it reaches the
 * disk, it is said once, reads and close work.
 */
#include "backends/memory.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"
#include "tests/unit/backend_test.h"

enum { CLUSTER = 65536, SIZE = 64 << 20, FILE_MOST = 4 << 20 };

static struct backend *keeper, *memory;
static vdisk *v;
static char told[4][300];
static unsigned lines;

static void note(void *arg, enum vdisk_log_level level, const char *volume, const char *text)
{
    if (lines < 4)
        snprintf(told[lines], sizeof told[0], "%s", text);
    lines++;
}

static struct q2_meta *meta(void)
{
    return &q2_of(v->top)->meta;
}

static int setup(void **state)
{
    struct vdisk_create_opts create = {.size = sizeof create, .format = "qcow2", .virtual_size = SIZE};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct memory_options options = {.size = 0};
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    char out[2 * CLUSTER];

    OK(memory_backend_create_with("memory:breach", &options, &keeper));
    OK(memory_backend_share(keeper, &memory));
    OK(create_on(&qcow2_driver, memory, &create, q));
    vdisk_queue_destroy(q);
    OK(vdisk_open_backend(memory, &how, &v));
    memset(out, 0x5a, sizeof out);
    OK(vdisk_pwrite(v, out, sizeof out, CLUSTER, 0));
    OK(vdisk_sync(v));
    lines = 0;
    vdisk_set_log(note, NULL);
#ifndef NDEBUG
    q2_breach_goes_on = true;
#endif
    return 0;
}

static int teardown(void **state)
{
    vdisk_set_log(NULL, NULL);
    backend_close(keeper);
#ifndef NDEBUG
    q2_breach_goes_on = false;
#endif
    return 0;
}

static void *bytes_of(void)
{
    char *bytes = calloc(1, FILE_MOST);
    struct backend *b;

    OK(memory_backend_share(keeper, &b));
    assert_true(bytes && backend_size(b) <= FILE_MOST);
    memory_backend_read(b, 0, bytes, backend_size(b));
    backend_close(b);
    return bytes;
}

static void expect_text(const char *what)
{
    assert_non_null(strstr(vdisk_error_text(), "memory:breach"));
    assert_non_null(strstr(vdisk_error_text(), what));
    assert_non_null(strstr(vdisk_error_text(), "no more writes are accepted"));
}

/* After a breach that has `what` as its text: all that is promised of it. `before`: the file's bytes, ours. */
static void expect_distrust(const char *what, void *before)
{
    struct vdisk_info info = {.size = sizeof info};
    char in[CLUSTER], out[CLUSTER];
    void *after;

    memset(out, 0xa5, sizeof out);
    assert_int_equal(vdisk_pwrite(v, out, sizeof out, 8 * CLUSTER, 0), -EIO); /* new */
    expect_text(what);
    assert_int_equal(vdisk_pwrite(v, out, sizeof out, CLUSTER, 0), -EIO); /* in place */
    assert_int_equal(vdisk_pzero(v, CLUSTER, CLUSTER, 0), -EIO);
    assert_int_equal(vdisk_sync(v), -EIO);
    OK(vdisk_pread(v, in, sizeof in, 2 * CLUSTER));
    for (unsigned i = 0; i < sizeof in; i++)
        assert_int_equal(in[i], 0x5a);
    OK(vdisk_get_info(v, &info));
    assert_non_null(strstr(info.trouble, what));
    assert_int_equal(lines, 1);
    assert_non_null(strstr(told[0], what));
    assert_int_equal(vdisk_close(v), -EIO); /* which is another line */
    after = bytes_of();
    assert_memory_equal(before, after, FILE_MOST);
    free(before);
    free(after);
}

/* A count that a flush would allocate by, and write behind. */
static void dirty_slices_are_miscounted(void **state)
{
    void *before;
    char out[512] = {0};

    OK(vdisk_pwrite(v, out, sizeof out, 16 * CLUSTER, 0));
    before = bytes_of();
    pthread_mutex_lock(&meta()->lock);
    assert_int_equal(meta()->l2.dirty_count, 1);
    meta()->l2.dirty_count = 2;
    pthread_mutex_unlock(&meta()->lock);
    assert_int_equal(vdisk_sync(v), -EIO);
    expect_distrust("what is dirty is not what is counted as dirty", before);
}

/* A slice that would be written over the header. */
static void slice_lies_on_the_header(void **state)
{
    struct q2_slot *s;
    void *before;
    char out[512] = {0};

    OK(vdisk_pwrite(v, out, sizeof out, 16 * CLUSTER, 0));
    before = bytes_of();
    pthread_mutex_lock(&meta()->lock);
    s = q2_slice_find(meta(), 16 * CLUSTER);
    assert_non_null(s);
    s->host_offset = 0;
    pthread_mutex_unlock(&meta()->lock);
    assert_int_equal(vdisk_sync(v), -EIO);
    expect_distrust("two tables in one place, or one on the header", before);
}

/* The cluster of the header is given away. */
static void header_is_freed(void **state)
{
    void *before = bytes_of();

    pthread_mutex_lock(&meta()->lock);
    q2_drop_clusters(&q2_of(v->top)->space, 0, 1);
    pthread_mutex_unlock(&meta()->lock);
    assert_int_equal(q2_of(v->top)->space.freed[Q2_FREED_NOW].count, 0);
    expect_distrust("the header, or no cluster at all, was to be freed", before);
}

/* A header that would lead nowhere. */
static void header_is_not_sound(void **state)
{
    struct q2_header_change change = q2_header_change(meta());
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    void *before = bytes_of();

    change.fields.l1_offset += 512;
    assert_int_equal(q2_header_commit_sync(meta(), &change, q), -EIO);
    vdisk_queue_destroy(q);
    expect_distrust("the header is to point where no table can be", before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(dirty_slices_are_miscounted, setup, teardown),
        cmocka_unit_test_setup_teardown(slice_lies_on_the_header, setup, teardown),
        cmocka_unit_test_setup_teardown(header_is_freed, setup, teardown),
        cmocka_unit_test_setup_teardown(header_is_not_sound, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
