/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The words of a request that failed: each completion has its own, on whichever thread they are asked for; they
 * name the volume, and the file and place where an I/O failed.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "backends/lab/vdisk-lab.h"
#include "tests/callers/callers.h"

enum { KEPT = 128 };

static vdisk_queue *q;

static void each_kind(void (*run)(void))
{
    for (unsigned i = 0; i < ARRAY_LEN(all_kinds); i++) {
        struct vdisk_queue_opts opts = {.size = sizeof opts, .kind = all_kinds[i]};
        test_note("kind %s", vdisk_queue_kind_name(all_kinds[i]));
        CHECK_OK(vdisk_queue_create(&opts, &q));
        run();
        CHECK_OK(vdisk_queue_destroy(q));
    }
}

/* `n` completions, by user_data. */
static void reap_into(struct vdisk_completion *done, unsigned n)
{
    struct vdisk_completion c;

    caller_wait_begin("reap(1)");
    while (n > 0) {
        int got = vdisk_reap(q, &c, 1, 1, NULL);
        if (got == -EINTR)
            continue;
        CHECK_OK(got);
        done[c.user_data] = c;
        n -= (unsigned)got;
    }
    caller_wait_end();
}

static void expect(const struct vdisk_completion *c, int result, const char *text, const char *hint)
{
    CHECK_INT(c->result, result);
    CHECK_INT(vdisk_explain(q, c), result);
    CHECK_HAS(vdisk_error_text(), text);
    CHECK_HAS(vdisk_error_hint(), hint);
}

/* ---- misuse ------------------------------------------------------------------------------------------ */

static void misused(void)
{
    struct vdisk_completion done[7];
    vdisk *v = open_rw(make_full_image("image")), *reader;
    char *buf = vdisk_alloc_buffer(BLOCK);

    CHECK_OK(vdisk_open("null:1M", NULL, &reader));
    vdisk_read(q, v, (1u << 30) - 512, buf, BLOCK, 0, 0);
    vdisk_write(q, reader, 0, buf, BLOCK, 0, 1);
    vdisk_read(q, v, 0, buf, BLOCK, VDISK_REQ_FUA, 2);
    vdisk_read(q, v, 0, NULL, BLOCK, 0, 3);
    vdisk_write_zeroes(q, v, 100, 100, VDISK_REQ_NO_FALLBACK, 4);
    vdisk_read(q, v, 0, buf, BLOCK, 0, 5);
    vdisk_read(q, NULL, 0, buf, BLOCK, 0, 6);
    reap_into(done, 7);
    CHECK_OK(vdisk_close(reader)); /* its words stay */
    expect(&done[0], -EINVAL, "image: read: 4096 bytes at offset 1073741312 reach past the end", "size");
    expect(&done[1], -EACCES, "null:1M: write: it is open read-only", "writing");
    expect(&done[2], -EINVAL, "image: read: unknown flags", "");
    expect(&done[3], -EINVAL, "image: read: no memory is given", "");
    expect(&done[4], -ENOTSUP, "image: write zeroes: zeros would have to be written", "");
    CHECK_INT(done[5].error, 0);
    CHECK_INT(vdisk_explain(q, &done[5]), 0);
    CHECK(vdisk_error_text()[0] == '\0');
    expect(&done[6], -EINVAL, "Invalid argument", "");
    CHECK_INT(vdisk_explain(NULL, &done[0]), -EINVAL);
    CHECK_INT(vdisk_explain(q, NULL), -EINVAL);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void test_misuse(void)
{
    each_kind(misused);
}

/* ---- the host ---------------------------------------------------------------------------------------- */

static struct vdisk_completion asked;

static void *ask(void *arg)
{
    expect(&asked, -EFBIG, "raw: write: File too large (writing 4096 bytes at 2097152 of ", "ulimit -f");
    return NULL;
}

static void past_the_limit(void)
{
    const char *path = test_path("raw");
    struct vdisk_create_opts create = {.size = sizeof create, .format = "raw", .virtual_size = 8 << 20};
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct rlimit limit, old;
    char *buf = vdisk_alloc_buffer(BLOCK);
    pthread_t thread;
    vdisk *v;

    memset(buf, 1, BLOCK);
    CHECK_OK(vdisk_create(path, &create));
    CHECK_OK(vdisk_open(path, &opts, &v));
    CHECK(sigaction(SIGXFSZ, &ignore, NULL) == 0);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    limit = old;
    limit.rlim_cur = 1 << 20;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    vdisk_write(q, v, 2 << 20, buf, BLOCK, 0, 0);
    reap_into(&asked, 1);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK(pthread_create(&thread, NULL, ask, NULL) == 0); /* any thread */
    pthread_join(thread, NULL);
    ask(NULL);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void test_host(void)
{
    each_kind(past_the_limit);
}

/* ---- another layer ----------------------------------------------------------------------------------- */

static void make_disk(const char *name, const char *base)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .backing_file = base,
                                     .backing_fmt = base ? "qcow2" : NULL,
                                     .virtual_size = base ? UINT64_MAX : 1 << 20};

    CHECK_OK(vdisk_create(name, &opts));
}

/* Reads fail from the nth on: of what is opened and of a request. The text of the request that fails. */
static bool read_fails(vdisk_lab *lab, uint64_t nth, char *text, size_t size)
{
    struct vdisk_lab_fault fault = {.size = sizeof fault, .calls = VDISK_LAB_READS, .nth = nth};
    struct vdisk_completion done;
    char buf[512];
    bool failed = false;
    vdisk *v;

    CHECK_OK(vdisk_lab_fail(lab, &fault));
    if (vdisk_open("sim:top", NULL, &v) < 0)
        return false;
    vdisk_read(q, v, 0, buf, sizeof buf, 0, 0);
    reap_into(&done, 1);
    if (done.result < 0) {
        CHECK_INT(vdisk_explain(q, &done), -EIO);
        snprintf(text, size, "%s", vdisk_error_text());
        failed = true;
    }
    CHECK_OK(vdisk_close(v));
    return failed;
}

static void test_layer(void)
{
    unsigned in_top = 0, in_base = 0;
    char text[512], data[512];
    vdisk_lab *lab;
    vdisk *v;
    struct vdisk_open_opts rw = {.size = sizeof rw, .flags = VDISK_OPEN_RDWR};

    CHECK_OK(vdisk_lab_create(NULL, &lab));
    make_disk("sim:base", NULL);
    memset(data, 7, sizeof data);
    CHECK_OK(vdisk_open("sim:base", &rw, &v));
    CHECK_OK(vdisk_pwrite(v, data, sizeof data, 0, 0));
    CHECK_OK(vdisk_close(v));
    make_disk("sim:top", "sim:base");
    CHECK_OK(vdisk_open("sim:top", &rw, &v)); /* an L2 table of its own */
    CHECK_OK(vdisk_pwrite(v, data, sizeof data, 512 << 10, 0));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_queue_create(NULL, &q));
    for (uint64_t nth = 1; nth < 40; nth++) {
        if (!read_fails(lab, nth, text, sizeof text))
            continue;
        CHECK_HAS(text, "top: read: Input/output error (reading ");
        in_top += strstr(text, " of top)") != NULL;
        in_base += strstr(text, " of base)") != NULL;
    }
    CHECK_MSG(in_top >= 1 && in_base >= 2, "%u failed in the top layer, %u in the base", in_top, in_base);
    CHECK_OK(vdisk_lab_fail(lab, NULL));
    CHECK_OK(vdisk_queue_destroy(q));
    vdisk_lab_destroy(lab);
}

/* ---- how many ---------------------------------------------------------------------------------------- */

static void many(void)
{
    struct vdisk_completion done[KEPT + 10];
    vdisk *v = open_rw(make_full_image("image"));
    char text[64], *buf = vdisk_alloc_buffer(BLOCK);

    for (unsigned i = 0; i < ARRAY_LEN(done); i++)
        vdisk_read(q, v, (1u << 30) + i, buf, BLOCK, 0, i);
    reap_into(done, ARRAY_LEN(done));
    for (unsigned i = 10; i < ARRAY_LEN(done); i++) {
        snprintf(text, sizeof text, "at offset %u reach past", (1u << 30) + i);
        expect(&done[i], -EINVAL, text, "");
    }
    expect(&done[0], -EINVAL, "Invalid argument", ""); /* its words have made room */
    /* The synchronous calls have the same words. */
    CHECK_INT(vdisk_pread(v, buf, BLOCK, 1u << 30), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "image: read: 4096 bytes at offset 1073741824 reach past the end");
    CHECK_OK(vdisk_close(v));
    free(buf);
}

static void test_many(void)
{
    each_kind(many);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "misuse", .run = test_misuse},
        {.name = "host", .run = test_host},
        {.name = "layer", .run = test_layer},
        {.name = "many", .run = test_many},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
