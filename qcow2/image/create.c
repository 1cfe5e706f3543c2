/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Create an image.
 *
 * Happy path
 *  1. options are judged and the layout is planned; all layers of the backing chain are opened, and none of them
 *     is the image or its data file: by their names, and again when the image and its data file are open; there is
 *     room. Nothing has changed so far;
 *  2. the mark of an unfinished image is the first that is written, into what is empty, or over a device's first
 *     block; files get their sizes (engine/create.c); the data area is preallocated;
 *  3. metadata is streamed, then the header cluster that begins as the mark does;
 *  4. one flush;
 *  5. the header's first block with the magic number, and a flush; of an image that is to be filled before it
 *     counts, another number (opts->unfinished): the format's finish() replaces that.
 * Failure modes
 *  - killed before 5: an empty file, or one that is refused as unfinished, by whoever knows that number; a data
 *    file is left as it was, empty, or with zeros in it;
 *  - killed during 5: the rest of the header is on disk since 4, the magic number is in the first sector: the
 *    image is there or it is not;
 *  - an error anywhere: what this call made is removed, what was there before is left empty, and the text says so
 *    (engine/create.c); a device keeps the mark.
 */
#include "qcow2/image/create.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/create.h"
#include "engine/volume.h"
#include "qcow2/format/format.h"
#include "qcow2/mutant.h"
#include "qcow2/qcow2.h"

/* ---- options ------------------------------------------------------------------------------------------- */

static int bad(const char *name, const char *what)
{
    return err_set(EINVAL, "%s: %s", name, what);
}

static int needs_v3(const char *name, const char *what)
{
    err_set(EINVAL, "%s: %s need compatibility level 1.1", name, what);
    return err_hint(-EINVAL, "use compat=1.1");
}

static bool is_zstd(const struct vdisk_create_opts *o)
{
    return o->compression_type && strcmp(o->compression_type, "zstd") == 0;
}

static int check_version(const char *name, const struct vdisk_create_opts *o)
{
    if (o->version != 0 && o->version != 2 && o->version != 3)
        return bad(name, "version must be 2 or 3");
    if (o->version != 2)
        return 0;
    if (o->refcount_bits != 0 && o->refcount_bits != 16)
        return needs_v3(name, "refcounts of other than 16 bits");
    if (o->lazy_refcounts)
        return needs_v3(name, "lazy refcounts");
    if (o->extended_l2)
        return needs_v3(name, "extended L2 entries");
    if (o->data_file)
        return needs_v3(name, "external data files");
    if (is_zstd(o))
        return needs_v3(name, "compression types other than zlib");
    return 0;
}

int q2_create_geometry(const char *name, const struct vdisk_create_opts *o, struct q2_geometry *ret)
{
    uint32_t cluster_size = o->cluster_size ? o->cluster_size : 1u << Q2_DEFAULT_CLUSTER_BITS;
    uint32_t refcount_bits = o->refcount_bits ? o->refcount_bits : 16;
    int rc = check_version(name, o);

    if (rc < 0)
        return rc;
    if (!is_power_of_two(cluster_size) || cluster_size < 1u << Q2_MIN_CLUSTER_BITS ||
        cluster_size > 1u << Q2_MAX_CLUSTER_BITS)
        return bad(name, "cluster size must be a power of two between 512 and 2M");
    if (!is_power_of_two(refcount_bits) || refcount_bits > 64)
        return bad(name, "refcount width must be a power of two and may not exceed 64 bits");
    if (o->extended_l2 && cluster_size < 1u << Q2_MIN_CLUSTER_BITS_EXTENDED) {
        bad(name, "extended L2 entries need clusters of 16 KiB or more");
        return err_hint(-EINVAL, "use cluster_size=16k or more");
    }
    q2_geometry_init(ret, o->version == 2 ? 2 : 3, log2_floor(cluster_size), log2_floor(refcount_bits),
                     o->extended_l2, o->data_file != NULL);
    return 0;
}

/* As layer_name_stored() has it. */
static bool is_typed_only(const char *name)
{
    return name && spec_is_tree(name) && !spec_is_json(name);
}

static int untyped(const char *name)
{
    return err_hint(bad(name, "a name of that kind cannot stand in an image"), "write it as json:{...}");
}

int q2_check_backing(const char *name, const char *file, const char *format)
{
    if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)
        return err_set(EINVAL, "%s: unknown backing format '%s'; known are raw and qcow2", name, format);
    if (file[0] == '\0' || strlen(file) > Q2_MAX_BACKING_NAME)
        return bad(name, "the backing file's name must have 1 to 1023 bytes");
    return is_typed_only(file) ? untyped(name) : 0;
}

static int check_names(const char *name, const struct vdisk_create_opts *o)
{
    if (o->backing_fmt && !o->backing_file)
        return bad(name, "backing format without a backing file");
    if (o->backing_file && !o->backing_fmt) {
        bad(name, "backing file without its format");
        return err_hint(-EINVAL, "use -F or backing_fmt=, with raw or qcow2");
    }
    if (o->backing_file && q2_check_backing(name, o->backing_file, o->backing_fmt) < 0)
        return -EINVAL;
    if (o->data_file && (o->data_file[0] == '\0' || strlen(o->data_file) > Q2_MAX_DATA_FILE_NAME))
        return bad(name, "the data file's name must have 1 to 4095 bytes");
    if (is_typed_only(o->data_file))
        return untyped(name);
    if (o->compression_type && strcmp(o->compression_type, "zlib") != 0 && !is_zstd(o))
        return err_set(EINVAL, "%s: unknown compression type '%s'; known are zlib and zstd", name,
                       o->compression_type);
    return 0;
}

static int check_combinations(const char *name, const struct vdisk_create_opts *o)
{
    if (o->data_file_raw && !o->data_file)
        return bad(name, "data_file_raw needs data_file");
    if (o->data_file_raw && o->backing_file)
        return bad(name, "a backing file and data_file_raw cannot be used together");
    if (o->backing_file && o->preallocation != VDISK_PREALLOC_OFF && !o->extended_l2) {
        bad(name, "a backing file and preallocation can be used together with extended L2 entries only");
        return err_hint(-EINVAL, "use extended_l2=on, or no preallocation");
    }
    if (o->virtual_size == UINT64_MAX && (!o->backing_file || o->backing_unchecked)) {
        bad(name, "creating an image needs a size");
        return err_hint(-EINVAL, "give one, or a backing file that has it");
    }
    return 0;
}

/* Do two names stand for one file? */
static bool same_file(const char *a, const char *b)
{
    struct backend_id id_a, id_b;

    /* By what they are, where they are there: one may be a json: name. */
    if (backend_identify(a, &id_a) && backend_identify(b, &id_b))
        return id_a.device == id_b.device && id_a.node == id_b.node;
    char *real_a = mem_realpath(backend_path(a)), *real_b = mem_realpath(backend_path(b));
    bool same = strcmp(backend_path(a), backend_path(b)) == 0 || (real_a && real_b && strcmp(real_a, real_b) == 0);

    mem_free(real_a);
    mem_free(real_b);
    return same;
}

/* Image, backing file and data file are three files. Creating one would destroy the other. */
static int check_distinct(const char *name, const char *backing, const char *data)
{
    if (backing && same_file(name, backing))
        return bad(name, "an image cannot be its own backing file");
    if (data && same_file(name, data))
        return bad(name, "an image cannot be its own data file");
    if (backing && data && same_file(backing, data))
        return bad(name, "the backing file cannot be the data file too");
    return 0;
}

/* Is it a layer of the backing chain, or the data file of one? `name` stands for it, as long as it is not open. */
static int check_outside(const struct q2_create *c, const struct backend *b, const char *name, const char *what)
{
    struct backend_id id = {0};

    if (b)
        id = b->id;
    else if (!backend_identify(name, &id))
        return 0;
    if (!c->chain || !layer_in_chain(c->chain->top, NULL, &id))
        return 0;
    err_set(EINVAL, "%s: %s is in use below it, by backing file %s", name, what, c->plan.opts->backing_file);
    return err_hint(-EINVAL, "give it another name");
}

/* None of the files to be made is another, or lies below: by names, and again when they are open. */
static int check_files(const struct q2_create *c)
{
    int rc = check_distinct(c->plan.name, c->backing_path, c->data_path);

    if (rc == 0 && c->chain)
        rc = check_outside(c, c->file, c->plan.name, "it");
    if (rc == 0 && c->chain && c->data_path)
        rc = check_outside(c, c->file ? c->data : NULL, c->data_path, "the data file");
    return rc;
}

static int resolve_names(struct q2_create *c)
{
    const struct vdisk_create_opts *o = c->plan.opts;

    c->backing_path = o->backing_file ? layer_resolve(c->plan.name, o->backing_file) : NULL;
    c->data_path = o->data_file ? layer_resolve(c->plan.name, o->data_file) : NULL;
    if ((o->backing_file && !c->backing_path) || (o->data_file && !c->data_path))
        return err_set(ENOMEM, "%s: out of memory", c->plan.name);
    return check_distinct(c->plan.name, c->backing_path, c->data_path);
}

/*
 * Open what is below, to see that it can be, that it is none of the files to be made, and for its size. It may be
 * in use: a machine's disk gets an overlay while it runs.
 */
static int open_chain(struct q2_create *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = c->plan.opts->backing_fmt,
                                  .flags = VDISK_OPEN_FORCE_SHARE};
    int rc;

    if (!c->backing_path || c->plan.opts->backing_unchecked)
        return 0;
    rc = vdisk_open(c->backing_path, &how, &c->chain);
    return rc < 0 ? err_prefix(rc, "%s: backing file", c->plan.name) : 0;
}

static int find_size(const struct q2_create *c, uint64_t *ret_size)
{
    uint64_t size = c->plan.opts->virtual_size;

    assert(size != UINT64_MAX || c->chain != NULL);
    if (size == UINT64_MAX)
        size = vdisk_size(c->chain); /* check_combinations() */
    if (size > Q2_MAX_SIZE)
        return err_set(EFBIG, "%s: the size is too large", c->plan.name);
    assert(align_up(size, 512) >= size);
    *ret_size = align_up(size, 512);
    return 0;
}

/* ---- the plan ------------------------------------------------------------------------------------------ */

void q2_create_place(struct q2_create *c, const struct q2_layout *layout)
{
    struct q2_header *h = &c->header;

    assert(layout->l1_entries <= UINT32_MAX && layout->reftable_clusters <= UINT32_MAX);
    assert(layout->size == c->layout.size && is_aligned(layout->size, Q2_SECTOR_SIZE));
    c->layout = *layout;
    h->l1_offset = layout->l1_offset;
    h->l1_entries = (uint32_t)layout->l1_entries;
    h->reftable_offset = layout->reftable_offset;
    h->reftable_clusters = (uint32_t)layout->reftable_clusters;
}

static int fill_header(struct q2_create *c)
{
    const struct vdisk_create_opts *o = c->plan.opts;
    struct q2_header *h = &c->header;

    h->geo = c->layout.geo;
    h->size = c->layout.size;
    q2_create_place(c, &c->layout);
    if (o->lazy_refcounts)
        h->compatible |= Q2_COMPAT_LAZY_REFCOUNTS;
    if (o->extended_l2)
        h->incompatible |= Q2_INCOMPAT_EXTENDED_L2;
    if (o->data_file)
        h->incompatible |= Q2_INCOMPAT_DATA_FILE;
    if (o->data_file_raw)
        h->autoclear |= Q2_AUTOCLEAR_DATA_FILE_RAW;
    if (is_zstd(o)) {
        h->incompatible |= Q2_INCOMPAT_COMPRESSION;
        h->compression_type = Q2_COMPRESSION_ZSTD;
    }
    h->backing_file = o->backing_file ? mem_strdup(o->backing_file) : NULL;
    h->backing_format = o->backing_fmt ? mem_strdup(o->backing_fmt) : NULL;
    h->data_file = o->data_file ? mem_strdup(o->data_file) : NULL;
    if ((o->backing_file && !h->backing_file) || (o->backing_fmt && !h->backing_format) ||
        (o->data_file && !h->data_file))
        return err_set(ENOMEM, "%s: out of memory", c->plan.name);
    return 0;
}

/* What the L2 entries are to say, as far as the backend's promises go. */
static enum q2_layout_map choose_map(const struct q2_create *c)
{
    if (c->prealloc == VDISK_PREALLOC_OFF)
        return Q2_MAP_NONE;
    if (c->plan.opts->backing_file)
        return Q2_MAP_KEPT;
    /* Old content of a device must not show: by zero entries where the data needs not stand for itself. */
    if (c->data && !q2_create_reads_zero(c->data) && c->prealloc != VDISK_PREALLOC_FULL &&
        !c->plan.opts->data_file_raw && c->layout.geo.version >= 3)
        return Q2_MAP_ZERO;
    return Q2_MAP_NORMAL;
}

/* Does the header fit? And the L1 table needs no look: the layout's sizes are in the limits. */
static int try_header(const struct q2_create *c)
{
    size_t size = (size_t)c->layout.geo.cluster_size;
    uint8_t *buf = mem_alloc(size);
    int rc = buf ? q2_header_write(&c->header, c->plan.name, buf, size) : -ENOMEM;

    mem_free(buf);
    return rc == -ENOMEM ? err_set(ENOMEM, "%s: out of memory", c->plan.name) : rc;
}

/* c->plan is set. Afterwards header and layout are too, for what is known before a file is open. */
static int make_plan(struct q2_create *c)
{
    const struct vdisk_create_opts *o = c->plan.opts;
    struct q2_geometry geo = {0};
    uint64_t size = 0;
    int rc = q2_create_geometry(c->plan.name, o, &geo);

    assert(!c->file && !c->data && !c->chain);
    if (rc == 0)
        rc = check_names(c->plan.name, o);
    if (rc == 0)
        rc = check_combinations(c->plan.name, o);
    if (rc == 0)
        rc = resolve_names(c);
    if (rc == 0)
        rc = open_chain(c);
    if (rc == 0)
        rc = check_files(c);
    if (rc == 0)
        rc = find_size(c, &size);
    if (rc < 0)
        return rc;
    c->prealloc = o->preallocation;
    /* Whoever reads the data file alone knows nothing of unallocated clusters: all are allocated. */
    if (o->data_file_raw && c->prealloc == VDISK_PREALLOC_OFF)
        c->prealloc = VDISK_PREALLOC_METADATA;
    c->layout.geo = geo;
    rc = q2_layout_plan(&geo, size, choose_map(c), c->plan.name, &c->layout);
    if (rc == 0)
        rc = fill_header(c);
    if (rc == 0)
        rc = try_header(c);
    return rc;
}

void q2_create_drop(struct create_plan *plan)
{
    struct q2_create *c = container_of(plan, struct q2_create, plan);

    if (c->chain)
        vdisk_close(c->chain);
    mem_free(c->backing_path);
    mem_free(c->data_path);
    q2_header_free(&c->header);
    mem_free(c);
}

int q2_create_plan(const char *name, struct vdisk_create_opts *opts, struct create_plan **ret_plan)
{
    struct q2_create *c = mem_calloc(1, sizeof *c);
    int rc;

    if (!c)
        return err_set(ENOMEM, "%s: out of memory", name);
    c->plan.name = name;
    c->plan.opts = opts;
    rc = make_plan(c);
    if (rc < 0) {
        q2_create_drop(&c->plan);
        return rc;
    }
    opts->virtual_size = c->layout.size;
    *ret_plan = &c->plan;
    return 0;
}

/* ---- the work ------------------------------------------------------------------------------------------ */

static int open_data_file(struct q2_create *c)
{
    uint32_t flags = BACKEND_RDWR | BACKEND_CREATE | (c->plan.opts->buffered ? BACKEND_BUFFERED : 0);
    int rc;

    if (!c->data_path)
        return 0;
    rc = backend_open(c->data_path, flags, &c->data);
    return rc < 0 ? err_prefix(rc, "%s: data file", c->plan.name) : 0;
}

/* What the plan could not know before the files were open. */
static int end_plan(struct q2_create *c)
{
    int rc = check_files(c);

    assert((choose_map(c) == Q2_MAP_NONE) == (c->layout.map == Q2_MAP_NONE));
    if (c->chain)
        vdisk_close(c->chain);
    c->chain = NULL;
    c->layout.map = choose_map(c); /* of another kind it takes the same clusters */
    return rc;
}

/* The first block of the header cluster: what is written last. */
static uint64_t first_block(const struct q2_create *c)
{
    assert(is_power_of_two(c->file->align));
    return min_u64(c->layout.geo.cluster_size, max_u64(4096, c->file->align));
}

/* Magic number and version, and what they are followed by up to the clusters' size. */
enum { HEADER_BEGIN = 24 };

/*
 * What stands at the start of a file or device till then: the number of an unfinished image, and its version; and
 * no clusters, so that not even who goes on with unfinished images goes on with this one.
 */
static int make_mark(struct q2_create *c)
{
    c->mark = mem_buffer(first_block(c));
    if (!c->mark)
        return q2_create_failed(c, -ENOMEM, c->plan.name, "marking it as unfinished");
    memset(c->mark, 0, first_block(c));
    put_be32(c->mark, Q2_MAGIC_UNFINISHED);
    put_be32(c->mark + 4, c->layout.geo.version);
    return 0;
}

static int flush(struct q2_create *c)
{
    int rc = c->data != c->file ? io_pflush(c->q, c->data) : 0;

    return rc == 0 ? io_pflush(c->q, c->file) : rc;
}

/* Steps 3 (its end) to 5. */
static int write_header(struct q2_create *c)
{
    size_t size = (size_t)c->layout.geo.cluster_size;
    uint8_t *buf = mem_buffer(size);
    uint8_t begin[HEADER_BEGIN];
    int rc;

    if (!buf)
        return q2_create_failed(c, -ENOMEM, c->plan.name, "writing the header");
    rc = q2_header_write(&c->header, c->plan.name, buf, size);
    if (rc < 0) {
        mem_free(buf);
        return rc;
    }
    assert(get_be32(buf) == Q2_MAGIC && first_block(c) <= size);
    memcpy(begin, buf, HEADER_BEGIN);
    memcpy(buf, c->mark, HEADER_BEGIN);
    rc = io_pwrite(c->q, c->file, buf, size, 0);
    if (rc == 0 && !MUTANT(CREATE_UNFLUSHED))
        rc = flush(c);
    memcpy(buf, begin, HEADER_BEGIN);
    if (c->plan.opts->unfinished && !MUTANT(FINISHED_AT_ONCE))
        put_be32(buf, Q2_MAGIC_UNFINISHED);
    if (rc == 0)
        rc = io_pwrite(c->q, c->file, buf, first_block(c), 0);
    if (rc == 0)
        rc = io_pflush(c->q, c->file);
    mem_free(buf);
    return rc < 0 ? q2_create_failed(c, rc, c->plan.name, "writing the header") : 0;
}

static int write_image(struct q2_create *c)
{
    int rc;

    assert(c->progress_done == 0 && c->layout.data_offset > c->layout.geo.cluster_size);
    /* An L1 table of zeros too: it has space on the host then, and no flush to come fails for lack of that. */
    c->progress_total = c->layout.data_offset - c->layout.geo.cluster_size;
    if (c->prealloc == VDISK_PREALLOC_FULL)
        c->progress_total += q2_create_data_len(c);
    rc = q2_prealloc_data(c);
    if (rc == 0)
        rc = q2_prealloc_metadata(c);
    if (rc == 0)
        rc = write_header(c);
    if (rc == 0 && c->plan.opts->progress)
        c->plan.opts->progress(c->plan.opts->progress_arg, c->progress_total, c->progress_total);
    return rc;
}

/* What image and data file need, for engine/create.c. */
static void fill_target(const struct q2_create *c, struct create_target *t, struct backend *b)
{
    bool fills = c->prealloc == VDISK_PREALLOC_FALLOC || c->prealloc == VDISK_PREALLOC_FULL;

    assert(b == c->file || b == c->data);
    t->size = b == c->file ? q2_layout_end(&c->layout) : c->layout.size;
    t->need = b == c->file ? c->layout.data_offset : 0;
    t->why = b == c->data && fills ? "preallocation" : "the metadata";
    t->mark = b == c->file ? c->mark : NULL;
    t->mark_len = (size_t)first_block(c);
    if (b != c->data || !fills)
        return;
    t->need += q2_create_data_len(c);
    t->reserves = c->prealloc == VDISK_PREALLOC_FALLOC && q2_create_data_len(c) > 0;
}

static int make_image(struct q2_create *c, struct create_target *targets, unsigned n)
{
    int rc = make_mark(c);

    for (unsigned i = 0; i < n; i++)
        fill_target(c, &targets[i], targets[i].b);
    if (rc == 0)
        rc = create_check(targets, n, c->q);
    if (rc == 0)
        rc = create_take(targets, n, c->q);
    return rc < 0 ? rc : write_image(c);
}

int q2_create(struct create_plan *plan, struct backend *b, vdisk_queue *q)
{
    struct q2_create *c = container_of(plan, struct q2_create, plan);
    struct create_target targets[2] = {{.b = b}};
    unsigned n;
    int rc;

    assert(!c->file && !b->read_only && c->layout.total_clusters > 0);
    c->q = q;
    c->file = c->data = b;
    rc = open_data_file(c);
    targets[1].b = c->data;
    n = c->data == b ? 1 : 2;
    if (rc == 0)
        rc = end_plan(c);
    if (rc == 0)
        rc = make_image(c, targets, n);
    create_end(targets, n, q, rc);
    if (n > 1)
        backend_close(c->data);
    mem_free(c->mark);
    c->mark = NULL;
    return rc;
}
