/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extents of qcow2 images with all kinds of entries, in runs of any length, beside what each entry says by itself;
 * and in how many reads tables get into memory for who goes through an image.
 */
#include <endian.h>

#include "backends/lab/fault.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

#define COPIED     (UINT64_C(1) << 63)
#define COMPRESSED (UINT64_C(1) << 62)
#define OFFSET     UINT64_C(0x00fffffffffffe00)
#define DATA_FROM  (UINT64_C(1) << 40) /* where mapped clusters lie on the host: where tables never do */

enum { LIST = 64, SEEDS = 6 };

struct shape {
    uint32_t cluster_bits;
    bool     extended;
    uint32_t version;
    uint64_t size;
};

/* Of each a few L2 tables at least. */
static const struct shape shapes[] = {
    {9, false, 2, 300 << 10},        {9, false, 3, 1 << 20},         {12, false, 3, 9 << 20},
    {16, false, 2, 1200ull << 20},   {16, false, 3, 4000ull << 20},  {14, true, 3, 70 << 20},
    {16, true, 3, 900ull << 20},     {21, false, 3, 900ull << 30},   {21, true, 3, 20ull << 30},
};

/* What a subcluster is: what is told of it, but for its guest offset. */
struct piece {
    uint32_t flags, depth;
    uint64_t host_offset;
};

/* A layer: its file, and what each of its subclusters is. */
struct image {
    const struct shape *shape;
    uint64_t            size;
    char                path[32];
    int                 fd;
    struct piece       *pieces;
    uint64_t            piece_count;
};

static uint64_t seed;

static uint64_t any(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 33) % below;
}

static uint64_t cluster_of(const struct shape *s)
{
    return UINT64_C(1) << s->cluster_bits;
}

static uint64_t unit_of(const struct shape *s)
{
    return cluster_of(s) / (s->extended ? 32 : 1);
}

static void put(int fd, uint64_t at, const void *bytes, size_t len)
{
    assert_int_equal(pwrite(fd, bytes, len, (off_t)at), (ssize_t)len);
}

/* ---- an image --------------------------------------------------------------------------------------------- */

static void put_header(const struct image *im, uint64_t l1_entries, const char *backing)
{
    struct __attribute__((packed)) {
        uint32_t magic, version;
        uint64_t backing;
        uint32_t backing_len, cluster_bits;
        uint64_t size;
        uint32_t crypt, l1_entries;
        uint64_t l1, reftable;
        uint32_t reftable_clusters, snapshots;
        uint64_t snapshots_offset, incompatible, compatible, autoclear;
        uint32_t refcount_order, length;
        uint32_t format, format_len; /* an extension, then the end of them */
        char     name_of_format[8];
        uint64_t end;
        char     name[32];
    } h = {.magic = htobe32(0x514649fb), .version = htobe32(im->shape->version),
           .cluster_bits = htobe32(im->shape->cluster_bits), .size = htobe64(im->size),
           .l1_entries = htobe32((uint32_t)l1_entries), .l1 = htobe64(2 * cluster_of(im->shape)),
           .reftable = htobe64(cluster_of(im->shape)), .reftable_clusters = htobe32(1),
           .incompatible = htobe64(im->shape->extended ? 1u << 4 : 0), .refcount_order = htobe32(4),
           .length = htobe32(104), .format = htobe32(0xe2792aca), .format_len = htobe32(5),
           .name_of_format = "qcow2"};

    if (backing) {
        h.backing = htobe64(offsetof(__typeof__(h), name));
        h.backing_len = htobe32((uint32_t)strlen(backing));
        snprintf(h.name, sizeof h.name, "%s", backing);
    }
    put(im->fd, 0, &h, sizeof h);
    if (im->shape->version == 2) { /* it ends before the features: what follows is an extension */
        memmove(&h.incompatible, &h.format, 24);
        put(im->fd, 0, &h, sizeof h);
    }
}

/* What one entry says of its subclusters. */
static void note(struct image *im, uint64_t cluster, uint64_t word, uint64_t bitmap)
{
    uint64_t per = cluster_of(im->shape) / unit_of(im->shape), host_offset = word & OFFSET;
    bool zero = !im->shape->extended && word & 1;

    for (uint64_t i = 0; i < per && cluster * per + i < im->piece_count; i++) {
        struct piece *p = &im->pieces[cluster * per + i];
        *p = (struct piece){.flags = 0};
        if (word & COMPRESSED) {
            p->flags = VDISK_EXTENT_DATA | VDISK_EXTENT_COMPRESSED | VDISK_EXTENT_ALLOCATED;
            continue;
        }
        if (im->shape->extended ? bitmap >> 32 >> i & 1 : zero)
            p->flags = VDISK_EXTENT_ZERO | VDISK_EXTENT_ALLOCATED | (host_offset ? VDISK_EXTENT_OFFSET : 0);
        else if (host_offset && (!im->shape->extended || bitmap >> i & 1))
            p->flags = VDISK_EXTENT_DATA | VDISK_EXTENT_OFFSET | VDISK_EXTENT_ALLOCATED;
        if (p->flags & VDISK_EXTENT_OFFSET)
            p->host_offset = host_offset + i * unit_of(im->shape);
    }
}

/* A run of entries of one kind. */
struct run {
    uint64_t word, step, bitmap;
    uint64_t left;
};

static void begin_run(const struct shape *s, struct run *r)
{
    uint64_t host_offset = DATA_FROM + any(1 << 20) * cluster_of(s);
    uint32_t some = (uint32_t)any(UINT32_MAX);

    *r = (struct run){.left = 1 + any(UINT64_C(1) << any(12))};
    switch (any(s->version == 2 ? 6 : 9)) {
    case 0:
    case 1: break; /* nothing */
    case 2: r->word = host_offset | COPIED, r->step = cluster_of(s), r->bitmap = UINT32_MAX; break;
    case 3: r->word = host_offset, r->step = cluster_of(s), r->bitmap = UINT32_MAX; break;
    case 4: r->word = COMPRESSED | host_offset; break;
    case 5: /* the bits of an offset end, and what is behind has a bit set that means nothing, and no offset */
        r->left = 2 + any(4);
        r->word = (align_down(OFFSET, cluster_of(s)) - (r->left - 2) * cluster_of(s)) | COPIED;
        r->step = cluster_of(s);
        r->left -= s->extended; /* there that would be damage */
        r->bitmap = UINT32_MAX;
        break;
    case 6: /* zeros, with a place on the host or without */
        r->word = any(2) ? host_offset | COPIED : 0;
        r->step = r->word ? cluster_of(s) : 0;
        r->word |= s->extended ? 0 : 1;
        r->bitmap = (uint64_t)UINT32_MAX << 32;
        break;
    case 7: r->word = host_offset, r->bitmap = UINT32_MAX; break; /* the same host cluster over and over */
    default: /* several kinds in a cluster */
        r->word = host_offset | COPIED;
        r->step = cluster_of(s);
        r->bitmap = some | (uint64_t)(~some & (uint32_t)any(UINT32_MAX)) << 32;
    }
}

static void put_table(struct image *im, uint64_t at, uint64_t first, uint64_t entries)
{
    uint64_t words = im->shape->extended ? 2 : 1, *table = calloc(entries * words, 8);
    struct run r = {.left = 0};

    for (uint64_t i = 0; i < entries; i++, r.left--, r.word += r.step) {
        if (r.left == 0)
            begin_run(im->shape, &r);
        table[i * words] = htobe64(r.word);
        if (im->shape->extended && !(r.word & COMPRESSED))
            table[i * words + 1] = htobe64(r.bitmap);
        note(im, first + i, r.word, r.bitmap);
    }
    put(im->fd, at, table, entries * words * 8);
    free(table);
}

/* Tables one behind the other, or in any order with gaps; some are not there. */
static void make_image(struct image *im, const struct shape *s, uint64_t size, const char *name,
                       const char *backing)
{
    uint64_t cluster = cluster_of(s), entries = cluster / (s->extended ? 16 : 8);
    uint64_t tables = div_up(size, cluster * entries), l1[4096], at;
    bool in_order = any(2);

    assert_true(tables > 0 && tables <= 4096);
    *im = (struct image){.shape = s, .size = size, .piece_count = div_up(size, unit_of(s))};
    snprintf(im->path, sizeof im->path, "%s", name);
    im->pieces = calloc(im->piece_count, sizeof *im->pieces);
    im->fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(im->pieces && im->fd >= 0);
    put_header(im, tables, backing);
    at = align_up(2 * cluster + tables * 8, cluster);
    for (uint64_t i = 0; i < tables; i++) {
        l1[i] = any(8) == 0 ? 0 : htobe64((at + (in_order ? i : 2 * (tables - 1 - i)) * cluster) | COPIED);
        if (l1[i])
            put_table(im, be64toh(l1[i]) & OFFSET, i * entries, entries);
    }
    put(im->fd, 2 * cluster, l1, tables * 8);
    assert_int_equal(ftruncate(im->fd, (off_t)(at + 2 * tables * cluster + cluster)), 0);
    close(im->fd);
}

static void drop_image(struct image *im)
{
    unlink(im->path);
    free(im->pieces);
}

/* ---- what is expected ------------------------------------------------------------------------------------- */

/* What the chain says of the subcluster of the top at `offset`. */
static struct piece expected(const struct image *top, const struct image *below, uint64_t offset)
{
    struct piece p = top->pieces[offset / unit_of(top->shape)];

    if (!p.flags && below && offset < below->size)
        p = below->pieces[offset / unit_of(below->shape)];
    if (!top->pieces[offset / unit_of(top->shape)].flags && below)
        p.depth = 1;
    if (!p.flags)
        p.flags = VDISK_EXTENT_ZERO;
    if (p.flags & VDISK_EXTENT_OFFSET)
        p.host_offset += offset % unit_of(p.depth ? below->shape : top->shape);
    return p;
}

/* How far each layer's say is one and the same at least. */
static uint64_t step_of(const struct image *top, const struct image *below)
{
    return below ? min_u64(unit_of(top->shape), unit_of(below->shape)) : unit_of(top->shape);
}

static void check_list(const struct image *top, const struct image *below, const struct vdisk_extents *x)
{
    uint64_t step = step_of(top, below);

    for (unsigned i = 0; i < x->count; i++) {
        const struct vdisk_extent *e = &x->list[i], *last = i > 0 ? e - 1 : NULL;
        for (uint64_t at = e->guest_offset; at < e->guest_offset + e->length; at = align_down(at, step) + step) {
            struct piece p = expected(top, below, at);
            if (e->flags != p.flags || e->depth != p.depth ||
                (p.flags & VDISK_EXTENT_OFFSET && e->host_offset + (at - e->guest_offset) != p.host_offset))
                fail_msg("%s, offset %#jx: flags %#x depth %u host %#jx, not %#x %u %#jx", top->path,
                         (uintmax_t)at, e->flags, e->depth,
                         (uintmax_t)(e->host_offset + (at - e->guest_offset)), p.flags, p.depth,
                         (uintmax_t)p.host_offset);
        }
        if (!last)
            continue;
        assert_int_equal(last->guest_offset + last->length, e->guest_offset);
        /* What is one is told as one. */
        assert_false(last->flags == e->flags && last->depth == e->depth &&
                     (!(e->flags & VDISK_EXTENT_OFFSET) || last->host_offset + last->length == e->host_offset));
    }
}

/* ---- all of it -------------------------------------------------------------------------------------------- */

static void walk(vdisk *v, const struct image *top, const struct image *below, bool in_bits)
{
    struct vdisk_extent list[LIST];

    for (uint64_t at = 0, len; at < top->size;) {
        struct vdisk_extents x = {.list = list, .max = in_bits ? 1 + (unsigned)any(LIST) : LIST};
        len = in_bits ? min_u64(1 + any(top->size / 3), top->size - at) : top->size - at;
        OK(vdisk_pextents(v, len, at, &x));
        assert_true(x.count > 0 && list[0].guest_offset == at);
        check_list(top, below, &x);
        at = list[x.count - 1].guest_offset + list[x.count - 1].length;
    }
}

static void prefetch(vdisk *v, uint64_t len)
{
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    struct vdisk_completion done;

    vdisk_prefetch(q, v, 0, len, 0, 0);
    assert_int_equal(vdisk_reap(q, &done, 1, 1, NULL), 1);
    assert_int_equal(done.result, 0);
    vdisk_queue_destroy(q);
}

static void go_through(const struct image *top, const struct image *below)
{
    static const uint64_t caches[] = {0, 1};

    for (unsigned i = 0; i < ARRAY_LEN(caches); i++) {
        struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .cache_bytes = caches[i]};
        vdisk *v;
        OK(vdisk_open(top->path, &how, &v));
        if (any(2))
            prefetch(v, 1 + any(top->size));
        walk(v, top, below, false);
        walk(v, top, below, true);
        OK(vdisk_close(v));
    }
}

static void extents_are_what_entries_say(void **state)
{
    struct image top, below;

    for (unsigned n = 0; n < SEEDS * ARRAY_LEN(shapes); n++) {
        const struct shape *s = &shapes[n % ARRAY_LEN(shapes)];
        seed = n;
        print_message("seed %u: clusters of 2^%u, version %u\n", n, s->cluster_bits, s->version);
        make_image(&below, s, align_down(s->size - any(s->size / 2), 512), "below.qcow2", NULL);
        go_through(&below, NULL);
        make_image(&top, s, s->size, "top.qcow2", "below.qcow2");
        go_through(&top, &below);
        drop_image(&top);
        drop_image(&below);
    }
}

/* ---- reads ------------------------------------------------------------------------------------------------ */

enum { TABLES = 24, CLUSTER = 65536, PER_TABLE = CLUSTER / 8 };

static struct backend *fault;

/* All of its clusters are mapped, or every second one; tables one behind the other. */
static void make_full(struct image *im, const struct shape *s, bool linear)
{
    uint64_t table[PER_TABLE], l1[TABLES], at = 3 * CLUSTER;

    *im = (struct image){.shape = s, .size = s->size, .path = "full.qcow2"};
    im->fd = open(im->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(im->fd >= 0);
    put_header(im, TABLES, NULL);
    for (uint64_t i = 0; i < TABLES; i++, at += CLUSTER) {
        l1[i] = htobe64(at | COPIED);
        for (uint64_t k = 0; k < PER_TABLE; k++)
            table[k] = linear || k % 2 ? htobe64((DATA_FROM + (i * PER_TABLE + k) * CLUSTER) | COPIED) : 0;
        put(im->fd, at, table, sizeof table);
    }
    put(im->fd, 2 * CLUSTER, l1, sizeof l1);
    close(im->fd);
}

static void open_full(struct image *im, bool linear, vdisk **ret)
{
    static const struct shape shape = {16, false, 3, (uint64_t)TABLES * PER_TABLE * CLUSTER};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2"};
    struct backend *b;

    make_full(im, &shape, linear);
    OK(backend_open(im->path, 0, &b));
    OK(fault_backend_create(b, &fault));
    OK(vdisk_open_backend(fault, &how, ret));
}

/* 1.5 MiB of tables. */
static void tables_are_read_in_long_pieces(void **state)
{
    for (unsigned linear = 0; linear < 2; linear++) {
        struct vdisk_extent list[LIST];
        struct image im;
        vdisk *v;

        open_full(&im, linear, &v);
        uint64_t before = fault_calls(fault, IO_READ), at = 0;
        while (at < im.size) {
            struct vdisk_extents x = {.list = list, .max = LIST};
            OK(vdisk_pextents(v, im.size - at, at, &x));
            for (unsigned i = 0; i < x.count; i++) {
                assert_int_equal(list[i].length, linear ? im.size : CLUSTER);
                assert_int_equal(!!(list[i].flags & VDISK_EXTENT_DATA), linear || (at / CLUSTER) % 2);
                at += list[i].length;
            }
        }
        assert_in_range(fault_calls(fault, IO_READ) - before, 1, TABLES);
        OK(vdisk_close(v));
        unlink(im.path);
    }
}

/* Who asks for little has little read. */
static void a_short_question_reads_little(void **state)
{
    struct vdisk_extent list[LIST];
    struct vdisk_extents x = {.list = list, .max = LIST};
    struct vdisk_stats stats = {.size = sizeof stats};
    struct image im;
    vdisk *v;

    open_full(&im, false, &v);
    OK(vdisk_pextents(v, CLUSTER, 5 * CLUSTER, &x));
    OK(vdisk_get_stats(v, &stats));
    assert_int_equal(stats.cache_misses, 1);
    OK(vdisk_close(v));
    unlink(im.path);
}

/* A long read fails: what is asked for is read by itself; the answer fails only where that does. */
static void a_bad_place_matters_where_it_is(void **state)
{
    struct fault_rule once = {.what = FAULT_FAIL, .kinds = FAULT_KIND(IO_READ), .type = "slice_load", .nth = 1,
                              .error = EIO};
    struct fault_rule always = {.what = FAULT_FAIL, .kinds = FAULT_KIND(IO_READ), .type = "slice_load",
                                .error = EIO};
    struct vdisk_extent list[1];
    struct vdisk_extents x = {.list = list, .max = 1};
    struct image im;
    vdisk *v;

    open_full(&im, true, &v);
    assert_true(fault_add_rule(fault, &once) >= 0);
    OK(vdisk_pextents(v, im.size, 0, &x));
    assert_int_equal(list[0].length, im.size);
    fault_clear(fault);
    OK(vdisk_close(v));

    open_full(&im, true, &v);
    assert_true(fault_add_rule(fault, &always) >= 0);
    assert_int_equal(vdisk_pextents(v, im.size, 0, &x), -EIO);
    assert_int_equal(x.count, 0);
    fault_clear(fault);
    OK(vdisk_pextents(v, im.size, 0, &x));
    assert_int_equal(list[0].length, im.size);
    OK(vdisk_close(v));
    unlink(im.path);
}

/* A petabyte over 300 KiB in clusters of 512 bytes: by the length of the large one the small one never ends. */
static void a_small_layer_ends_where_it_does(void **state)
{
    struct vdisk_create_opts base = {.size = sizeof base, .format = "qcow2", .virtual_size = 300 << 10,
                                     .cluster_size = 512};
    struct vdisk_create_opts top = {.size = sizeof top, .format = "qcow2", .virtual_size = UINT64_C(1) << 50,
                                    .cluster_size = 2 << 20, .backing_file = "small", .backing_fmt = "qcow2"};
    struct vdisk_open_opts how = {.size = sizeof how, .format = "qcow2", .flags = VDISK_OPEN_RDWR};
    struct vdisk_extent list[LIST];
    struct vdisk_extents x = {.list = list, .max = LIST};
    vdisk *v;

    OK(vdisk_create("small", &base));
    OK(vdisk_open("small", &how, &v));
    OK(vdisk_pwrite(v, "x", 1, 200 << 10, 0));
    OK(vdisk_close(v));
    OK(vdisk_create("large", &top));
    how.flags = 0;
    OK(vdisk_open("large", &how, &v));
    OK(vdisk_pextents(v, top.virtual_size, 0, &x));
    uint64_t data = 0, all = 0;
    for (unsigned i = 0; i < x.count; i++) {
        all += list[i].length;
        if (list[i].flags & VDISK_EXTENT_DATA)
            data += list[i].length;
    }
    assert_int_equal(data, 512);
    assert_int_equal(all, top.virtual_size);
    OK(vdisk_close(v));
    unlink("small");
    unlink("large");
}

int main(void)
{
    char folder[] = "/tmp/vdisk-walk.XXXXXX";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extents_are_what_entries_say),
        cmocka_unit_test(tables_are_read_in_long_pieces),
        cmocka_unit_test(a_short_question_reads_little),
        cmocka_unit_test(a_bad_place_matters_where_it_is),
        cmocka_unit_test(a_small_layer_ends_where_it_does),
    };

    if (!mkdtemp(folder) || chdir(folder) < 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return chdir("/") < 0 || rmdir(folder) < 0 ? 1 : failed;
}
