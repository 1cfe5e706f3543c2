/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that end inside a block of direct I/O, or inside a sector: what is written at their end, and where they
 * end then. On memory, and on file systems whose devices have sectors of 512 and of 4096 bytes.
 */
#include <sys/resource.h>

#include "backends/memory.h"
#include "tests/unit/backend_test.h"
#include "tests/unit/loop_test.h"

enum { ROOM = 256 << 10, SLOTS = 8 };

static vdisk_queue *q;
static char dir[256];  /* "": memory */
static char path[300];
static uint32_t mode;  /* BACKEND_BUFFERED or 0 */
static uint32_t align; /* of memory */

/* ---- what a write asks of the backend ------------------------------------------------------------------ */

static const struct backend_driver *real_driver;
static struct backend_driver watching;
static uint64_t may_end; /* no write may go past it, nor past the end */

/* Also while it runs: a crash may come before any that would put it right. */
static void watch_submit(struct backend *b, struct io *io)
{
    if (io->kind == IO_WRITE || io->kind == IO_ZERO || io->kind == IO_ALLOCATE)
        assert_true(io->offset + io->len <= may_end || io->offset + io->len <= backend_size(b));
    real_driver->submit(b, io);
}

static void watch(struct backend *b)
{
    real_driver = b->driver;
    watching = *b->driver;
    watching.submit = watch_submit;
    b->driver = &watching;
}

static struct backend *create(void)
{
    struct memory_options options = {.align = align};
    struct backend *b;

    if (dir[0])
        OK(backend_open(path, BACKEND_CREATE | BACKEND_RDWR | mode, &b));
    else
        OK(memory_backend_create_with("ragged", &options, &b));
    OK(io_prange(q, b, IO_TRUNCATE, 0, 0));
    return b;
}

static uint64_t host_size(void)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* ---- one write after another --------------------------------------------------------------------------- */

struct oracle {
    uint8_t  bytes[2 * ROOM];
    uint64_t size;
};

static uint64_t below(uint64_t *seed, uint64_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (*seed >> 33) % n;
}

static void oracle_write(struct oracle *o, uint64_t offset, uint64_t len, const void *bytes)
{
    memcpy(o->bytes + offset, bytes, len);
    o->size = max_u64(o->size, offset + len);
}

static void oracle_truncate(struct oracle *o, uint64_t size)
{
    if (size < o->size)
        memset(o->bytes + size, 0, o->size - size);
    o->size = size;
}

static void assert_same(struct backend *b, const struct oracle *o)
{
    static uint8_t got[2 * ROOM];

    assert_int_equal(backend_size(b), o->size);
    OK(io_pread(q, b, got, sizeof got, 0));
    assert_memory_equal(got, o->bytes, sizeof got);
    if (dir[0]) { /* as another process sees it */
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(host_size(), o->size);
        assert_int_equal(pread(fd, got, sizeof got, 0), o->size);
        assert_memory_equal(got, o->bytes, o->size);
        close(fd);
    }
}

/* Near the end, mostly. */
static uint64_t some_offset(uint64_t *seed, uint64_t size)
{
    uint64_t from = size > 20000 && below(seed, 4) ? size - 20000 : 0;

    return min_u64(from + below(seed, 30000), ROOM);
}

static void the_end_is_where_the_last_write_ends(void **state)
{
    static struct oracle o;
    static uint8_t data[ROOM];
    struct backend *b = create();
    uint64_t seed = 1;

    memset(&o, 0, sizeof o);
    watch(b);
    for (unsigned i = 0; i < 400; i++) {
        uint64_t offset = some_offset(&seed, o.size), len = 1 + below(&seed, i % 3 ? 9000 : 60000);
        if (below(&seed, 3) == 0) {
            offset = align_down(offset, 512);
            len = align_up(len, 512);
        }
        fill_pattern(data, offset, len, i);
        may_end = offset + len;
        switch (below(&seed, 8)) {
        case 0:
            OK(io_prange(q, b, IO_TRUNCATE, offset, 0));
            oracle_truncate(&o, offset);
            break;
        case 1:
            memset(data, 0, len);
            if (io_prange(q, b, IO_ZERO, offset, len) == 0)
                oracle_write(&o, offset, len, data);
            break;
        default:
            OK(io_pwrite(q, b, data, len, offset));
            oracle_write(&o, offset, len, data);
        }
        if (i % 8 == 0)
            assert_same(b, &o);
    }
    assert_same(b, &o);
    OK(io_pflush(q, b));
    b->driver = real_driver;
    backend_close(b);
}

/* ---- many at once -------------------------------------------------------------------------------------- */

struct slot {
    struct io io;
    uint64_t  offset, len;
    uint8_t  *data;
    unsigned  left, *running;
};

static void slot_next(struct slot *s);

static void slot_done(struct io *io)
{
    struct slot *s = container_of(io, struct slot, io);

    assert_int_equal(io->res, 0);
    slot_next(s);
}

/* Each slot has its own bytes and writes them over and over, in blocks that it shares with its neighbours. */
static void slot_next(struct slot *s)
{
    if (s->left == 0) {
        --*s->running;
        return;
    }
    s->left--;
    fill_pattern(s->data, s->offset, s->len, s->left);
    io_rw(&s->io, s->io.backend, IO_WRITE, s->offset, s->data, s->len);
    s->io.done = slot_done;
    s->io.queue = q;
    io_start(&s->io);
}

static void neighbours_at_the_end_do_not_disturb_each_other(void **state)
{
    static const uint64_t starts[SLOTS + 1] = {0, 8192, 12288, 16384, 16896, 20480, 20992, 21504, 22016};
    struct slot slots[SLOTS];
    static struct oracle o;
    struct backend *b = create();
    unsigned running = SLOTS;
    struct io flush;

    memset(&o, 0, sizeof o);
    OK(io_prange(q, b, IO_TRUNCATE, 16384, 0));
    watch(b);
    may_end = starts[SLOTS];
    for (unsigned i = 0; i < SLOTS; i++) {
        slots[i] = (struct slot){.offset = starts[i], .len = starts[i + 1] - starts[i], .left = 300,
                                 .data = vdisk_alloc_buffer(8192), .running = &running};
        slots[i].io.backend = b;
    }
    while (running > 0) {
        for (unsigned i = 0; i < SLOTS; i++)
            if (slots[i].left == 300)
                slot_next(&slots[i]);
        io_range(&flush, b, IO_FLUSH, 0, 0); /* turns the queue; fails if pages could not be dropped */
        OK(io_run(q, &flush));
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        fill_pattern(slots[i].data, slots[i].offset, slots[i].len, 0);
        oracle_write(&o, slots[i].offset, slots[i].len, slots[i].data);
        free(slots[i].data);
    }
    assert_same(b, &o);
    b->driver = real_driver;
    backend_close(b);
}

/* ---- volumes ------------------------------------------------------------------------------------------- */

static vdisk *open_volume(const char *name, const char *format, uint32_t flags)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = format,
                                   .flags = flags | (mode & BACKEND_BUFFERED ? VDISK_OPEN_BUFFERED : 0)};
    vdisk *v;

    OK(vdisk_open(name, &opts, &v));
    return v;
}

static void assert_filled(vdisk *v, uint64_t offset, size_t len, uint8_t byte)
{
    char *buf = vdisk_alloc_buffer(len);

    OK(vdisk_pread(v, buf, len, offset));
    assert_true(is_filled(buf, byte, len));
    free(buf);
}

static void needs_files(void)
{
    if (!dir[0])
        SKIP("on files only");
}

static void a_raw_volume_keeps_its_length(void **state)
{
    static const uint64_t sizes[] = {2097664, 512, 4096 + 3584, 3 << 20, 512};
    struct vdisk_resize_opts shrink = {.size = sizeof shrink, .shrink = true};
    struct backend *b;
    char *buf;
    vdisk *v;

    needs_files();
    buf = vdisk_alloc_buffer(4096);
    b = create();
    OK(io_prange(q, b, IO_TRUNCATE, 2 << 20, 0));
    backend_close(b);
    v = open_volume(path, "raw", VDISK_OPEN_RDWR);
    memset(buf, 7, 4096);
    for (unsigned i = 0; i < 2 * ARRAY_LEN(sizes); i++) {
        uint64_t size = sizes[i / 2];
        OK(vdisk_resize(v, size, &shrink));
        assert_int_equal(host_size(), size);
        OK(vdisk_pwrite(v, buf, 512, size - 512, i % 2 ? VDISK_REQ_FUA : 0));
        assert_filled(v, size - 512, 512, 7);
        OK(vdisk_pzero(v, 512, size - 512, VDISK_REQ_UNMAP));
        assert_filled(v, size - 512, 512, 0);
        OK(vdisk_pwrite(v, buf, min_u64(size, 3072), size - min_u64(size, 3072), 0));
        assert_int_equal(host_size(), size);
        if (i % 2)
            continue;
        OK(vdisk_close(v));
        assert_int_equal(host_size(), size);
        v = open_volume(path, "raw", VDISK_OPEN_RDWR);
        assert_int_equal(vdisk_size(v), size);
        assert_filled(v, size - min_u64(size, 3072), (size_t)min_u64(size, 3072), 7);
    }
    OK(vdisk_close(v));
    free(buf);
}

static void an_external_data_file_keeps_its_length(void **state)
{
    char image[320], *buf;
    struct vdisk_create_opts o = {.size = sizeof o, .format = "qcow2", .virtual_size = 1049088, .data_file = path,
                                  .data_file_raw = true};
    vdisk *v;

    needs_files();
    buf = vdisk_alloc_buffer(4096);
    snprintf(image, sizeof image, "%s.qcow2", path);
    OK(vdisk_create(image, &o));
    assert_int_equal(host_size(), 1049088);
    memset(buf, 9, 4096);
    v = open_volume(image, "qcow2", VDISK_OPEN_RDWR);
    OK(vdisk_pwrite(v, buf, 512, 1049088 - 512, 0));
    OK(vdisk_pwrite(v, buf, 1024, 1049088 - 1024, VDISK_REQ_FUA));
    assert_int_equal(host_size(), 1049088);
    OK(vdisk_grow(v, 1050112));
    OK(vdisk_pwrite(v, buf, 512, 1050112 - 512, 0));
    OK(vdisk_close(v));
    assert_int_equal(host_size(), 1050112);
    v = open_volume(path, "raw", 0);
    assert_filled(v, 1050112 - 512, 512, 9);
    assert_filled(v, 1049088, 512, 0);
    OK(vdisk_close(v));
    unlink(image);
    free(buf);
}

/* Whole sectors, as QEMU gives them: what the file has not is zeros, and a write there makes it whole. */
static void the_last_sector_can_be_used_whole(void **state)
{
    static const uint64_t lengths[] = {1, 511, 513, 1000, 4095, 4097, 65536 + 100};
    struct backend *b;
    char *buf;
    vdisk *v;

    needs_files();
    buf = vdisk_alloc_buffer(512);
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        uint64_t len = lengths[i], size = align_up(len, 512), last = size - 512;
        uint8_t in[2] = {5, 5};
        b = create();
        OK(io_pwrite(q, b, in, 1, len - 1));
        backend_close(b);
        v = open_volume(path, "raw", 0);
        assert_int_equal(vdisk_size(v), size);
        OK(vdisk_pread(v, buf, 512, last));
        assert_true(is_filled(buf, 0, len - 1 - last) && buf[len - 1 - last] == 5);
        assert_true(is_filled(buf + (len - last), 0, size - len));
        OK(vdisk_close(v));
        v = open_volume(path, "raw", VDISK_OPEN_RDWR);
        OK(vdisk_pwrite(v, in, 1, len - 1, 0)); /* its last byte: it ends where it did */
        OK(vdisk_pdiscard(v, 512, last));
        assert_int_equal(host_size(), len);
        memset(buf, 6, 512);
        OK(vdisk_pwrite(v, buf, 512, last, 0));
        assert_int_equal(host_size(), size);
        assert_filled(v, last, 512, 6);
        assert_int_equal(vdisk_pwrite(v, buf, 1, size, 0), -EINVAL);
        OK(vdisk_close(v));
        assert_int_equal(host_size(), size);
    }
    free(buf);
}

static void sizing_makes_the_last_sector_whole(void **state)
{
    struct backend *b;
    vdisk *v;

    needs_files();
    b = create();
    OK(io_prange(q, b, IO_TRUNCATE, 1000, 0));
    backend_close(b);
    v = open_volume(path, "raw", VDISK_OPEN_RDWR);
    OK(vdisk_resize(v, 1024, NULL));
    assert_int_equal(host_size(), 1024);
    OK(vdisk_close(v));
}

static void an_overlay_sees_zeros_behind_the_end(void **state)
{
    struct vdisk_create_opts o = {.size = sizeof o, .format = "qcow2", .virtual_size = UINT64_MAX,
                                  .backing_file = path, .backing_fmt = "raw"};
    char image[320], buf[512];
    struct backend *b;
    vdisk *v;

    needs_files();
    memset(buf, 3, sizeof buf);
    snprintf(image, sizeof image, "%s.qcow2", path);
    b = create();
    OK(io_pwrite(q, b, buf, 500, 4600));
    backend_close(b);
    OK(vdisk_create(image, &o));
    v = open_volume(image, "qcow2", VDISK_OPEN_RDWR);
    assert_int_equal(vdisk_size(v), 5120);
    assert_filled(v, 4600, 500, 3);
    assert_filled(v, 5100, 20, 0);
    OK(vdisk_pwrite(v, buf, 512, 0, 0));
    assert_filled(v, 4600, 500, 3);
    assert_filled(v, 5100, 20, 0);
    OK(vdisk_close(v));
    assert_int_equal(host_size(), 5100);
    unlink(image);
}

/* What is needed for the last block is had before something is changed. */
static void without_descriptors_nothing_changes(void **state)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "raw", .flags = VDISK_OPEN_RDWR};
    struct rlimit old, few;
    bool exact;
    struct backend *b;
    vdisk *v = NULL;

    needs_files();
    if (mode & BACKEND_BUFFERED)
        SKIP("with direct I/O only");
    unlink(path); /* a ragged one has what it needs when it is opened */
    b = create();
    OK(io_prange(q, b, IO_TRUNCATE, 8192, 0));
    exact = b->align > 512;
    if (!exact) {
        backend_close(b);
        SKIP("blocks are no larger than sectors here");
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    few = old;
    few.rlim_cur = (rlim_t)dup(0);
    close((int)few.rlim_cur);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int rc = io_prange(q, b, IO_TRUNCATE, 4608, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(rc, -EMFILE);
    assert_int_equal(host_size(), 8192);
    OK(io_prange(q, b, IO_TRUNCATE, 4608, 0));
    backend_close(b);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    rc = vdisk_open(path, &opts, &v);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(rc, -EMFILE);
    assert_non_null(strstr(vdisk_error_hint(), "ulimit -n"));
    assert_int_equal(host_size(), 4608);
}

/* ---- where --------------------------------------------------------------------------------------------- */

static int run_all(const char *what, uint32_t flags)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_end_is_where_the_last_write_ends),
        cmocka_unit_test(neighbours_at_the_end_do_not_disturb_each_other),
        cmocka_unit_test(a_raw_volume_keeps_its_length),
        cmocka_unit_test(an_external_data_file_keeps_its_length),
        cmocka_unit_test(the_last_sector_can_be_used_whole),
        cmocka_unit_test(sizing_makes_the_last_sector_whole),
        cmocka_unit_test(an_overlay_sees_zeros_behind_the_end),
        cmocka_unit_test(without_descriptors_nothing_changes),
    };
    int rc;

    print_message("%s, in %s\n", what, dir[0] ? dir : "memory");
    mode = flags;
    snprintf(path, sizeof path, "%s/disk", dir);
    rc = cmocka_run_group_tests_name(what, tests, NULL, NULL);
    if (dir[0])
        unlink(path);
    return rc;
}

/* Only there btrfs has direct I/O. */
static bool without_checksums(const char *folder)
{
    char command[400];

    snprintf(command, sizeof command, "chattr +C %s", folder);
    return system(command) == 0;
}

static int run_on_loops(const char *top)
{
    static const struct { const char *type; unsigned sector; unsigned mib; bool nocow; } places[] = {
        {"ext4", 512, 64, false}, {"ext4", 4096, 64, false}, {"xfs", 4096, 512, false},
        {"btrfs", 4096, 256, false}, {"btrfs", 4096, 256, true}};
    int rc = 0;

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        struct loop l;
        char image[300], what[100];
        snprintf(image, sizeof image, "%s/loop", top);
        snprintf(what, sizeof what, "direct, %s on sectors of %u", places[i].type, places[i].sector);
        if (!loop_mount(&l, image, (uint64_t)places[i].mib << 20, places[i].sector, places[i].type)) {
            print_message("skipped: no %s on a loop device here\n", places[i].type);
            continue;
        }
        snprintf(dir, sizeof dir, "%.250s", l.where);
        if (places[i].nocow && !without_checksums(dir))
            print_message("chattr +C does not work here\n");
        rc += run_all(what, 0);
        if (places[i].sector == 4096 && strcmp(places[i].type, "ext4") == 0)
            rc += run_all("buffered", BACKEND_BUFFERED);
        loop_unmount(&l);
    }
    return rc;
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    char top[256];
    int rc = 0;

    q = test_queue(VDISK_QUEUE_AUTO);
    for (align = 512; align <= 4096; align *= 8)
        rc += run_all("memory", 0);
    snprintf(top, sizeof top, "%s/vdisk-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(top))
        return 1;
    memcpy(dir, top, sizeof dir);
    rc += run_all("direct", 0);
    rc += run_on_loops(top);
    vdisk_queue_destroy(q);
    rmdir(top);
    return rc != 0;
}
