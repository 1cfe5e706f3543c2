/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of Ceph over a librbd that is in memory and does what it is told (fake_ceph.h): names, content, ends of
 * calls in any order, within the call and late, calls that fail, locks, holes; and that all is given back.
 *
 * usage: test_rbd [real NAME]: what an image keeps, of a real cluster
 */
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>

#include "engine/spec.h"
#include "tests/rbd/fake_ceph.h"
#include "tests/unit/backend_test.h"

enum { OBJECT = 64 << 10, SIZE = 4 << 20, STEPS = 1500 };

#define NAME "rbd:pool/image"

static const char *image = NAME;
static vdisk_queue *q;
static fake_handles_fn *handles;
static fake_flushes_fn *flushes;
static fake_exists_fn *exists;
static fake_thick_fn *thick;

static void all_is_given_back(void)
{
    if (handles) /* the fake one tells */
        assert_int_equal(handles(), 0);
}

/* Made, of `size` bytes; with settings. */
static struct backend *make(const char *settings, uint64_t size)
{
    struct backend *b;
    char name[256];

    snprintf(name, sizeof name, "%s%s", image, settings);
    OK(backend_open(name, BACKEND_RDWR | BACKEND_CREATE, &b));
    OK(io_prange(q, b, IO_TRUNCATE, 0, 0));
    OK(io_prange(q, b, IO_TRUNCATE, size, 0));
    return b;
}

static void fails(const char *name, uint32_t flags, int rc, const char *text)
{
    struct backend *b;

    assert_int_equal(backend_open(name, flags, &b), rc);
    if (!strstr(vdisk_error_text(), text))
        fail_msg("'%s' is not in '%s'", text, vdisk_error_text());
    all_is_given_back();
}

/* ---- names ------------------------------------------------------------------------------------------------ */

static void has(const struct spec *s, const char *key, const char *value)
{
    const char *text = spec_text(s, key);

    if (!text != !value || (text && strcmp(text, value) != 0))
        fail_msg("%s is '%s', not '%s'", key, text ? text : "(none)", value ? value : "(none)");
}

static void names_are_parsed(void **state)
{
    static const struct { const char *name, *pool, *space, *image, *snapshot, *user, *conf, *config; } good[] = {
        {"rbd:p/i", "p", NULL, "i", NULL, NULL, NULL, NULL},
        {"rbd:p/n/i@s", "p", "n", "i", "s", NULL, NULL, NULL},
        {"rbd:p//i", "p", NULL, "i", NULL, NULL, NULL, NULL},
        {"rbd:p/i@s:id=u:conf=/a b", "p", NULL, "i", "s", "u", "/a b", NULL},
        {"rbd:p/i:k=v\\:w:id=u:l=a\\=b=c", "p", NULL, "i", NULL, "u", NULL, "k=v\\:w:l=a\\=b=c"},
        {"rbd:a\\/b/c\\/d\\@e\\:f@g\\@h", "a/b", NULL, "c/d@e:f", "g@h", NULL, NULL, NULL},
        {"rbd:p/n\\/m/i\\\\:conf=x\\:y", "p", "n/m", "i\\", NULL, NULL, "x:y", NULL},
        {"rbd:p/i:mail=a@b", "p", NULL, "i", NULL, NULL, NULL, "mail=a@b"},
    };
    static const char *const bad[] = {
        "rbd:", "rbd:p", "rbd:p/", "rbd:/i", "rbd:p/@s", "rbd:p/i@", "rbd:p/i:x", "rbd:p/i:=v", "rbd:p/i:",
        "rbd:p/n/",
    };

    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        struct spec *s = spec_alloc();
        OK(backend_find("rbd")->parse(good[i].name, s));
        has(s, "pool", good[i].pool);
        has(s, "namespace", good[i].space);
        has(s, "image", good[i].image);
        has(s, "snapshot", good[i].snapshot);
        has(s, "user", good[i].user);
        has(s, "conf", good[i].conf);
        has(s, "config", good[i].config);
        spec_free(s);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        fails(bad[i], 0, -EINVAL, bad[i]);
}

static void trees_are_read(void **state)
{
    struct backend *b;

    backend_close(make("", SIZE));
    OK(backend_open("json:{\"driver\":\"rbd\",\"pool\":\"pool\",\"image\":\"image\",\"conf\":\"none\","
                    "\"server\":[{\"host\":\"192.0.2.1\",\"port\":\"3300\"},{\"host\":\"::1\"}]}", 0, &b));
    assert_int_equal(backend_size(b), SIZE);
    backend_close(b);
    fails("json:{\"driver\":\"rbd\",\"pool\":\"pool\",\"image\":\"image\",\"server\":[{\"port\":\"1\"}]}", 0,
          -EINVAL, "host");
    OK(backend_open("json:{'driver':'rbd','pool':'pool','image':'image',"
                    "'auth-client-required':['cephx','none']}", 0, &b));
    backend_close(b);
    fails("json:{'driver':'rbd','pool':'pool','image':'image','auth-client-required':['some']}", 0, -EINVAL,
          "cephx and none");
    fails("json:{'driver':'rbd','pool':'pool'}", 0, -EINVAL, "image");
    fails("json:{'driver':'rbd','pool':'pool','image':'image','config':'x'}", 0, -EINVAL, "config");
    fails("json:{'driver':'rbd','pool':'pool','image':'image','key-secret':'k'}", 0, -EINVAL, "'k'");
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

static void opening_fails(void **state)
{
    static const char *const calls[] = {"rbd_open", "rbd_stat", "rbd_get_features", "rbd_get_stripe_unit",
                                        "rbd_get_stripe_count", "rbd_update_watch"};
    char name[256];

    backend_close(make("", SIZE));
    for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
        snprintf(name, sizeof name, NAME ":fake_fail=%s", calls[i]);
        fails(name, BACKEND_RDWR, -EIO, NAME);
    }
    fails(NAME ":fake_fail=rados_connect", 0, -ETIMEDOUT, "connecting");
    fails(NAME ":unknown=1", 0, -ENOENT, "unknown=1");
    fails(NAME ":conf=/nonexistent", 0, -ENOENT, "/nonexistent");
    fails("rbd:none/image", 0, -ENOENT, "'none'");
    fails("rbd:pool/none", 0, -ENOENT, "no such image");
    fails(NAME "@snapshot", BACKEND_RDWR, -EROFS, "snapshot");
}

static void what_was_made_is_removed(void **state)
{
    struct backend *b;

    fails("rbd:pool/new:fake_fail=rbd_create", BACKEND_RDWR | BACKEND_CREATE, -EIO, "creating");
    fails("rbd:pool/new:fake_fail=rbd_stat", BACKEND_RDWR | BACKEND_CREATE, -EIO, "new");
    assert_false(exists("new"));
    for (unsigned i = 0; i < 2; i++) { /* as a whole: nothing looks at what is gone */
        struct vdisk_create_opts opts = {.size = sizeof opts, .virtual_size = SIZE, .format = i ? "qcow2" : "raw"};
        assert_int_equal(vdisk_create("rbd:pool/new:fake_fail=rbd_resize", &opts), -EIO);
        assert_false(exists("new"));
        all_is_given_back();
    }
    OK(backend_open("rbd:pool/new", BACKEND_RDWR | BACKEND_CREATE, &b));
    assert_true(b->made && exists("new"));
    OK(b->driver->unlink(b));
    assert_false(exists("new"));
    assert_int_equal(io_pflush(q, b), -ESHUTDOWN);
    assert_int_equal(b->driver->refresh(b), -ESHUTDOWN);
    backend_close(b);
    backend_close(make("", SIZE));
    fails(NAME ":fake_fail=rbd_stat", BACKEND_RDWR | BACKEND_CREATE, -EIO, NAME);
    assert_true(exists("image")); /* it was there */
}

static void a_writer_is_alone(void **state)
{
    struct backend *b;

    backend_close(make("", SIZE));
    fails(NAME ":fake_owner=live", BACKEND_RDWR, -EAGAIN, "192.0.2.7:0/4242");
    fails(NAME ":fake_fail=rbd_lock_acquire", BACKEND_RDWR, -EAGAIN, "exclusive lock");
    OK(backend_open(NAME ":fake_owner=live", 0, &b));
    backend_close(b);
    OK(backend_open(NAME ":fake_owner=live", BACKEND_RDWR | BACKEND_NO_LOCK, &b));
    backend_close(b);
    OK(backend_open(NAME ":fake_owner=dead", BACKEND_RDWR, &b));
    backend_close(b);
    all_is_given_back();
}

/* ---- content ---------------------------------------------------------------------------------------------- */

static uint64_t seed;

static uint64_t draw(uint64_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (seed >> 33) % n;
}

/* Of the model; the same of the image. */
struct content {
    struct backend *b;
    uint8_t        *bytes; /* SIZE * 2 */
    uint8_t        *buf;
    uint64_t        size;
};

static void step_write(struct content *c, uint64_t offset, uint64_t len)
{
    struct iovec iov[3];
    uint64_t first = draw(len), second = draw(len - first);
    struct io io;

    fill_pattern(c->bytes + offset, offset, len, (unsigned)draw(256));
    memcpy(c->buf, c->bytes + offset, len);
    iov[0] = (struct iovec){c->buf, first};
    iov[1] = (struct iovec){c->buf + first, second};
    iov[2] = (struct iovec){c->buf + first + second, len - first - second};
    io_rwv(&io, c->b, IO_WRITE, offset, iov, 3, len);
    io.flags = draw(4) == 0 ? IO_FUA : 0;
    OK(io_run(q, &io));
    c->size = max_u64(c->size, offset + len);
}

static void step_read(struct content *c, uint64_t offset, uint64_t len)
{
    memset(c->buf, 0xa5, len);
    OK(io_pread(q, c->b, c->buf, len, offset));
    for (uint64_t i = 0; i < len; i++) {
        uint8_t want = offset + i < c->size ? c->bytes[offset + i] : 0;
        if (c->buf[i] != want)
            fail_msg("byte %llu is %02x, not %02x", (unsigned long long)(offset + i), c->buf[i], want);
    }
}

static void step_truncate(struct content *c, uint64_t size)
{
    OK(io_prange(q, c->b, IO_TRUNCATE, size, 0));
    if (size < c->size)
        memset(c->bytes + size, 0, c->size - size);
    c->size = size;
    assert_int_equal(backend_size(c->b), size);
}

/* A discard may do nothing: what it leaves is read. */
static void step_discard(struct content *c, uint64_t offset, uint64_t len)
{
    uint64_t n = offset < c->size ? min_u64(len, c->size - offset) : 0;

    OK(io_prange(q, c->b, IO_DISCARD, offset, len));
    if (n > 0)
        OK(io_pread(q, c->b, c->bytes + offset, n, offset));
}

static void step(struct content *c)
{
    uint64_t offset = draw(SIZE), len = 1 + draw(draw(2) ? 300000 : 5000);

    switch (draw(12)) {
    case 0: case 1: case 2: case 3: step_write(c, offset, len); break;
    case 4: case 5: case 6: case 7: step_read(c, offset, len); break;
    case 8:
    case 9:
        OK(range_with(q, c->b, IO_ZERO, offset, len, draw(2) ? IO_UNMAP : 0));
        memset(c->bytes + offset, 0, len);
        c->size = max_u64(c->size, offset + len);
        break;
    case 10: step_discard(c, offset, len); break;
    default:
        if (draw(4) == 0)
            step_truncate(c, draw(SIZE));
        OK(io_pflush(q, c->b));
    }
    assert_int_equal(backend_size(c->b), c->size);
}

static void content_is_kept(void **state)
{
    static const char *const fake[] = {":fake_end=now", ":fake_end=late", ":fake_end=mixed",
                                       ":fake_end=mixed:fake_short=777"};
    static const char *const real[] = {"", ":rbd_cache=true"};
    const char *const *settings = handles ? fake : real;
    unsigned count = handles ? ARRAY_LEN(fake) : ARRAY_LEN(real);
    struct content c = {.bytes = vdisk_alloc_buffer(2 * SIZE), .buf = vdisk_alloc_buffer(2 * SIZE)};

    for (unsigned i = 0; i < count; i++) {
        seed = i + 1;
        c.b = make(settings[i], SIZE / 2);
        c.size = SIZE / 2;
        memset(c.bytes, 0, 2 * SIZE);
        for (unsigned n = 0; n < STEPS; n++)
            step(&c);
        step_read(&c, 0, SIZE);
        backend_close(c.b);
        all_is_given_back();
    }
    free(c.bytes);
    free(c.buf);
}

/* By who does not ask for its lock, as a resize does that the holder is asked for. */
static void another_gives_it_another_size(void **state)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char buf[512] = "x", got[512];
    struct backend *other;
    vdisk *v;

    backend_close(make("", SIZE));
    OK(vdisk_open(NAME, &opts, &v));
    assert_int_equal(vdisk_size(v), SIZE);
    OK(backend_open(NAME, BACKEND_RDWR | BACKEND_NO_LOCK, &other));
    OK(io_prange(q, other, IO_TRUNCATE, 2 * SIZE, 0));
    assert_int_equal(vdisk_size(v), 2 * SIZE);
    OK(vdisk_pwrite(v, buf, sizeof buf, 2 * SIZE - sizeof buf, 0));
    OK(io_pread(q, other, got, sizeof got, 2 * SIZE - sizeof got));
    assert_memory_equal(buf, got, sizeof buf);
    assert_int_equal(vdisk_pwrite(v, buf, sizeof buf, 2 * SIZE, 0), -EINVAL);
    OK(io_prange(q, other, IO_TRUNCATE, SIZE / 2, 0));
    assert_int_equal(vdisk_size(v), SIZE / 2);
    backend_close(other);
    OK(vdisk_close(v));
    all_is_given_back();
}

static void fua_is_a_flush(void **state)
{
    struct backend *b = make(":fake_end=mixed", SIZE);
    char buf[512] = "x";
    int before = flushes();
    struct io io;

    OK(io_pwrite(q, b, buf, sizeof buf, 0));
    assert_int_equal(flushes(), before);
    for (uint64_t at = 0; at <= SIZE; at += SIZE) { /* the second one past the end */
        io_rw(&io, b, IO_WRITE, at, buf, sizeof buf);
        io.flags = IO_FUA;
        OK(io_run(q, &io));
    }
    assert_int_equal(flushes(), before + 2);
    OK(io_pflush(q, b));
    assert_int_equal(flushes(), before + 3);
    backend_close(b);
}

static void zeros_are_as_thick_as_asked(void **state)
{
    struct backend *b = make("", SIZE);
    unsigned long long before = thick();

    OK(range_with(q, b, IO_ZERO, 0, 2 * OBJECT, IO_UNMAP));
    assert_int_equal(thick(), before);
    assert_status(q, b, 0, SIZE, HOLE, SIZE);
    OK(range_with(q, b, IO_ZERO, 0, 2 * OBJECT, 0));
    assert_int_equal(thick(), before + 2 * OBJECT);
    assert_status(q, b, 0, SIZE, DATA, 2 * OBJECT);
    assert_int_equal(io_prange(q, b, IO_ALLOCATE, 0, OBJECT), -ENOTSUP);
    OK(io_prange(q, b, IO_ALLOCATE, SIZE + OBJECT, 4096)); /* how qcow2 moves the end */
    assert_int_equal(backend_size(b), SIZE + OBJECT + 4096);
    assert_status(q, b, SIZE, OBJECT, HOLE, OBJECT);
    backend_close(b);
}

/* ---- failures --------------------------------------------------------------------------------------------- */

static void calls_fail(void **state)
{
    static const struct { const char *call; enum io_kind kind; } calls[] = {
        {"rbd_aio_readv", IO_READ}, {"rbd_aio_writev", IO_WRITE}, {"rbd_aio_flush", IO_FLUSH},
        {"rbd_aio_discard", IO_DISCARD}, {"rbd_aio_write_zeroes", IO_ZERO}, {"rbd_resize", IO_TRUNCATE},
    };
    char settings[128], buf[512] = "";

    for (unsigned i = 0; i < 3 * ARRAY_LEN(calls); i++) {
        unsigned n = i / 3;
        struct backend *b;
        struct io io;

        backend_close(make("", SIZE));
        snprintf(settings, sizeof settings, NAME ":fake_fail=%s%s:fake_end=%s", calls[n].call,
                 i % 3 && calls[n].kind != IO_TRUNCATE ? ":fake_result=5" : "", i % 3 == 2 ? "late" : "now");
        OK(backend_open(settings, BACKEND_RDWR, &b));
        if (calls[n].kind == IO_READ || calls[n].kind == IO_WRITE)
            io_rw(&io, b, calls[n].kind, 0, buf, sizeof buf);
        else
            io_range(&io, b, calls[n].kind, 0, calls[n].kind == IO_FLUSH ? 0 : SIZE / 2);
        assert_int_equal(io_run(q, &io), -EIO);
        if (calls[n].kind == IO_FLUSH) {
            io_rw(&io, b, IO_WRITE, 0, buf, sizeof buf);
            io.flags = IO_FUA;
            assert_int_equal(io_run(q, &io), -EIO);
        }
        if (calls[n].kind == IO_TRUNCATE)
            assert_int_equal(io_pwrite(q, b, buf, sizeof buf, SIZE), -EIO);
        assert_int_equal(backend_size(b), SIZE);
        backend_close(b);
        all_is_given_back();
    }
}

/* Too late, and shut out: a disk's error, with words that say what it was; another one has none. */
static void the_cluster_says_why(void **state)
{
    static const struct { const char *number, *words; } errors[] = {
        {"110", "rados_osd_op_timeout"}, {"108", "shut this client out"}, {"5", NULL},
    };
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char name[128], buf[512] = "";
    vdisk *v;

    backend_close(make("", SIZE));
    for (unsigned i = 0; i < ARRAY_LEN(errors); i++) {
        snprintf(name, sizeof name, NAME ":fake_fail=rbd_aio_writev:fake_result=%s", errors[i].number);
        OK(vdisk_open(name, &opts, &v));
        assert_int_equal(vdisk_pwrite(v, buf, sizeof buf, 0, 0), -EIO);
        if (errors[i].words && !strstr(vdisk_error_text(), errors[i].words))
            fail_msg("'%s' is not in '%s'", errors[i].words, vdisk_error_text());
        assert_true(errors[i].words || !strstr(vdisk_error_text(), "cluster"));
        OK(vdisk_close(v));
        all_is_given_back();
    }
}

static void too_much_is_an_error(void **state)
{
    struct backend *b = make(":fake_long=1", SIZE);
    char buf[512];

    assert_int_equal(io_pread(q, b, buf, sizeof buf, 0), -EIO);
    backend_close(b);
}

/* ---- holes ------------------------------------------------------------------------------------------------ */

static void holes_are_objects_that_are_not_there(void **state)
{
    struct backend *b = make("", SIZE);
    char buf[512] = "x";

    OK(io_pwrite(q, b, buf, sizeof buf, 3 * OBJECT + 700));
    assert_status(q, b, 0, SIZE, HOLE, 3 * OBJECT);
    assert_status(q, b, 100, SIZE - 100, HOLE, 3 * OBJECT - 100);
    assert_status(q, b, 3 * OBJECT + 10, OBJECT, DATA, OBJECT - 10);
    assert_status(q, b, 4 * OBJECT, SIZE, HOLE, SIZE); /* with what lies behind the end */
    assert_int_equal(b->driver->allocated(b), OBJECT);
    OK(io_prange(q, b, IO_DISCARD, 3 * OBJECT, OBJECT));
    assert_status(q, b, 0, SIZE, HOLE, SIZE);
    backend_close(b);
}

static void one_answer_has_many_runs(void **state)
{
    enum { RUNS = 20 };
    struct block_status s = {.max = RUNS};
    struct backend *b = make("", SIZE);
    struct io io;
    char buf[512] = "x";

    for (uint64_t at = OBJECT; at < SIZE; at += 2 * OBJECT)
        OK(io_pwrite(q, b, buf, sizeof buf, at));
    io_status(&io, b, 0, SIZE, &s);
    OK(io_run(q, &io));
    assert_int_equal(s.count, RUNS);
    assert_true(s.hole_first);
    for (unsigned i = 0; i < RUNS; i++)
        assert_int_equal(s.ends[i], (i + 1) * OBJECT);
    backend_close(b);
}

/* What makes no sense, or is not told, is data. */
static void doubtful_is_data(void **state)
{
    static const char *const settings[] = {":fake_extents=back", ":fake_extents=odd", ":fake_overlap=4096",
                                           ":fake_fail=rbd_diff_iterate2", ":fake_fail=rbd_get_overlap"};
    struct block_status s = {.max = STATUS_RUNS_MAX};
    char buf[512] = "x", name[128];
    struct backend *b = make("", SIZE);
    struct io io;

    OK(io_pwrite(q, b, buf, sizeof buf, OBJECT));
    OK(io_pwrite(q, b, buf, sizeof buf, 5 * OBJECT));
    backend_close(b);
    for (unsigned i = 0; i < ARRAY_LEN(settings); i++) {
        snprintf(name, sizeof name, NAME "%s", settings[i]);
        OK(backend_open(name, 0, &b));
        io_status(&io, b, 0, SIZE, &s);
        OK(io_run(q, &io));
        if (s.count != 1 || s.hole_first || s.ends[0] != SIZE)
            fail_msg("%s: %u runs, the first is %s", settings[i], s.count, s.hole_first ? "a hole" : "data");
        backend_close(b);
    }
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

static struct backend *shared;

/* Each in a part of its own, past the end as well. */
static void *beside(void *arg)
{
    uint64_t part = *(const unsigned *)arg, at;
    vdisk_queue *mine = test_queue(VDISK_QUEUE_AUTO);
    char buf[3000], got[3000];

    for (unsigned i = 0; i < 300; i++) {
        at = part * OBJECT + i * 4096;
        fill_pattern(buf, at, sizeof buf, (unsigned)part);
        OK(io_pwrite(mine, shared, buf, sizeof buf, at));
        OK(io_pread(mine, shared, got, sizeof got, at));
        assert_memory_equal(buf, got, sizeof buf);
    }
    vdisk_queue_destroy(mine);
    return NULL;
}

static void queues_work_beside_each_other(void **state)
{
    enum { THREADS = 3 };
    static const unsigned parts[THREADS] = {0, 100, 200};
    pthread_t threads[THREADS];

    shared = make(handles ? ":fake_end=mixed" : "", 0);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, beside, (void *)(uintptr_t)&parts[i]), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    backend_close(shared);
    all_is_given_back();
}

/* ---- without the library ---------------------------------------------------------------------------------- */

static const char *program;

/* The first librados.so.2 that is found is none: as if there were none. */
static int try_without(void)
{
    struct backend *b;
    int rc = backend_open(NAME, 0, &b);

    if (rc == -ENOTSUP && strstr(vdisk_error_text(), "librados.so.2") && strstr(vdisk_error_hint(), "librbd1"))
        return 0;
    fprintf(stderr, "%d: %s (%s)\n", rc, vdisk_error_text(), vdisk_error_hint());
    return 1;
}

static void the_package_is_named(void **state)
{
    char folder[] = "/tmp/vdisk-rbd-XXXXXX", path[64];
    int fd, status;
    pid_t pid;

    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/librados.so.2", folder);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "none", 4), 4);
    close(fd);
    pid = fork();
    if (pid == 0) {
        setenv("LD_LIBRARY_PATH", folder, 1);
        execl(program, program, "without", (char *)NULL);
        _exit(2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    unlink(path);
    rmdir(folder);
    assert_int_equal(status, 0);
}

/* Of any size that objects have. */
static void real_holes_are_told(void **state)
{
    enum { LONG = 64 << 20 };
    struct backend *b = make("", LONG);
    uint64_t object = b->preferred;
    char buf[512] = "x";

    assert_in_range(object, 4096, LONG / 8);
    OK(io_pwrite(q, b, buf, sizeof buf, 3 * object + 700));
    assert_status(q, b, 100, LONG - 100, HOLE, 3 * object - 100);
    assert_status(q, b, 3 * object + 10, object, DATA, object - 10);
    assert_status(q, b, 4 * object, LONG, HOLE, LONG);
    assert_int_equal(b->driver->allocated(b), object);
    OK(io_prange(q, b, IO_DISCARD, 3 * object, object));
    assert_status(q, b, 0, LONG, HOLE, LONG);
    OK(range_with(q, b, IO_ZERO, object, object, 0)); /* thick */
    assert_status(q, b, object, object, DATA, object);
    OK(range_with(q, b, IO_ZERO, object, object, IO_UNMAP));
    assert_status(q, b, 0, LONG, HOLE, LONG);
    backend_close(b);
}

static void real_writers_are_told(void **state)
{
    struct backend *a = make("", SIZE), *b;

    assert_int_equal(backend_open(image, BACKEND_RDWR, &b), -EAGAIN);
    assert_non_null(strstr(vdisk_error_text(), "in use by the Ceph client at 127.0.0.1:"));
    OK(backend_open(image, 0, &b));
    backend_close(b);
    OK(a->driver->unlink((a->made = true, a)));
    backend_close(a);
    assert_int_equal(backend_open(image, 0, &b), -ENOENT);
}

static int setup(void **state)
{
    void *fake = dlopen("librbd.so.1", RTLD_NOW | RTLD_LOCAL);

    if (!fake || !dlsym(fake, "fake_handles"))
        fail_msg("librbd.so.1 is not the fake one: set LD_LIBRARY_PATH");
    handles = (fake_handles_fn *)dlsym(fake, "fake_handles");
    flushes = (fake_flushes_fn *)dlsym(fake, "fake_flushes");
    exists = (fake_exists_fn *)dlsym(fake, "fake_exists");
    thick = (fake_thick_fn *)dlsym(fake, "fake_thick");
    q = test_queue(VDISK_QUEUE_AUTO);
    return 0;
}

static int teardown(void **state)
{
    backend_close(make("", 0));
    vdisk_queue_destroy(q);
    return 0;
}

static int setup_real(void **state)
{
    q = test_queue(VDISK_QUEUE_AUTO);
    return 0;
}

static int teardown_real(void **state)
{
    vdisk_queue_destroy(q);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest real[] = {
        cmocka_unit_test(content_is_kept), cmocka_unit_test(queues_work_beside_each_other),
        cmocka_unit_test(real_holes_are_told), cmocka_unit_test(real_writers_are_told),
    };
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_parsed), cmocka_unit_test(trees_are_read), cmocka_unit_test(opening_fails),
        cmocka_unit_test(what_was_made_is_removed), cmocka_unit_test(a_writer_is_alone),
        cmocka_unit_test(content_is_kept), cmocka_unit_test(another_gives_it_another_size),
        cmocka_unit_test(fua_is_a_flush), cmocka_unit_test(zeros_are_as_thick_as_asked),
        cmocka_unit_test(calls_fail), cmocka_unit_test(the_cluster_says_why),
        cmocka_unit_test(too_much_is_an_error), cmocka_unit_test(holes_are_objects_that_are_not_there),
        cmocka_unit_test(one_answer_has_many_runs), cmocka_unit_test(doubtful_is_data),
        cmocka_unit_test(queues_work_beside_each_other), cmocka_unit_test(the_package_is_named),
    };

    program = argv[0];
    if (argc == 3 && strcmp(argv[1], "real") == 0) {
        image = argv[2];
        return cmocka_run_group_tests_name("real", real, setup_real, teardown_real);
    }
    if (argc > 1)
        return try_without();
    return cmocka_run_group_tests(tests, setup, teardown);
}
