/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening and closing an image. Both block.
 *
 * Open, happy path: read and check the header, decide whether we may write it, open the external data file, read
 * L1 and refcount table, set up caches, learn where metadata lies, clear autoclear bits that we do not know.
 * Failure modes: each with one line that names what is wrong; nothing is left open, nothing was written (but for
 * the autoclear bits, which are the last step).
 *
 * Close, happy path: write back, give back all that can be given back (trim.c), release.
 * Failure modes: a failed flush is reported; everything is released all the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/absent.h"
#include "engine/error.h"
#include "engine/json_name.h"
#include "engine/queue.h"
#include "engine/short_lock.h"
#include "qcow2/entry.h"
#include "qcow2/guard.h"
#include "qcow2/lease.h"
#include "qcow2/mutant.h"
#include "qcow2/qcow2.h"
#include "qcow2/repair.h"
#include "qcow2/state.h"
#include "qcow2/tables.h"

enum { CACHE_DEFAULT = 32 << 20, CACHE_MIN = 1 << 20, L1_PAGE = 4096 };

static int q2_probe(const uint8_t *head, size_t len, const char *name)
{
    /* Version 1 has our magic too: better refused by name than taken for raw data. */
    return len >= 8 && get_be32(head) == Q2_MAGIC && get_be32(head + 4) >= 1 ? 100 : 0;
}

int q2_break(struct q2 *q, const char *what)
{
    vdisk *v = q->v;

    if (!atomic_exchange(&q->broken, true)) {
        snprintf(v->trouble, sizeof v->trouble, "%s; no more writes are accepted", what);
        atomic_store_explicit(&v->has_trouble, true, memory_order_release);
        err_set(EIO, "%s: %s", v->name, v->trouble);
    }
    return -EIO;
}

void q2_header_patch(struct q2 *q, uint8_t sector[Q2_SECTOR_SIZE])
{
    struct q2_disk_header *h = (struct q2_disk_header *)(void *)sector;
    const struct q2_header *from = &q->header;

    memcpy(sector, q->sector, Q2_SECTOR_SIZE);
    put_be64(&h->size, from->size);
    put_be32(&h->l1_size, from->l1_entries);
    put_be64(&h->l1_table_offset, from->l1_offset);
    put_be64(&h->refcount_table_offset, from->reftable_offset);
    put_be32(&h->refcount_table_clusters, from->reftable_clusters);
    if (from->geo.version >= 3) {
        put_be64(&h->incompatible_features, from->incompatible);
        put_be64(&h->autoclear_features, from->autoclear);
    }
}

int q2_header_update(struct q2 *q, vdisk_queue *queue)
{
    uint8_t *sector = vdisk_alloc_buffer(Q2_SECTOR_SIZE);
    int rc;

    if (!sector)
        return -ENOMEM;
    pthread_mutex_lock(&q->lock);
    q2_header_patch(q, sector);
    pthread_mutex_unlock(&q->lock);
    rc = io_pwrite(queue, q->v->file, sector, Q2_SECTOR_SIZE, 0);
    if (rc == 0 && !MUTANT(HEADER_UNSYNCED))
        rc = io_pflush(queue, q->v->file);
    if (rc == 0)
        memcpy(q->sector, sector, Q2_SECTOR_SIZE);
    free(sector);
    return rc;
}

/* ---- what the header says ------------------------------------------------------------------------------ */

static int read_header(struct q2 *q, vdisk_queue *queue)
{
    vdisk *v = q->v;
    uint64_t file_size = backend_size(v->file);
    size_t first = min_u64(file_size, 4096);
    uint8_t *buf = vdisk_alloc_buffer(1u << Q2_MAX_CLUSTER_BITS);
    int rc = 0;

    if (!buf)
        return err_set(ENOMEM, "%s: out of memory", v->name);
    memset(buf, 0, 4096);
    if (first > 0)
        rc = io_pread(queue, v->file, buf, first, 0);
    if (rc == 0) {
        size_t span = min_u64(q2_header_span(buf, first), file_size);
        if (span > first)
            rc = io_pread(queue, v->file, buf, span, 0);
        if (rc == 0) {
            rc = q2_header_parse(buf, max_u64(span, first), file_size, v->name, &q->header);
            memcpy(q->sector, buf, Q2_SECTOR_SIZE);
            free(buf);
            return rc;
        }
    }
    free(buf);
    return err_set(rc, "%s: reading the header: %s", v->name, strerror(-rc));
}

int q2_read_bitmaps(struct q2 *q, vdisk_queue *queue, struct q2_bitmap_directory *ret)
{
    const struct q2_header *h = &q->header;
    uint8_t *buf = vdisk_alloc_buffer(h->bitmap_directory_size);
    int rc;

    if (!buf)
        return err_set(ENOMEM, "%s: out of memory", q->v->name);
    rc = io_pread(queue, q->v->file, buf, h->bitmap_directory_size, h->bitmap_directory_offset);
    if (rc < 0)
        err_set(rc, "%s: reading the bitmap directory: %s", q->v->name, strerror(-rc));
    else
        rc = q2_bitmaps_parse(&q->geo, q->v->name, buf, h->bitmap_directory_size, h->nb_bitmaps, ret);
    free(buf);
    return rc;
}

/* A bitmap that records writes would miss ours. */
static int check_bitmaps(struct q2 *q, vdisk_queue *queue)
{
    struct q2_bitmap_directory d;
    int rc;

    if (!q->header.has_bitmaps || q->header.nb_bitmaps == 0)
        return 0;
    rc = q2_read_bitmaps(q, queue, &d);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < d.n && rc == 0; i++)
        if ((d.entries[i].flags & (Q2_BITMAP_AUTO | Q2_BITMAP_IN_USE)) == Q2_BITMAP_AUTO)
            rc = err_hint(err_set(ENOTSUP, "%s: bitmap '%s' records writes, which we cannot keep up", q->v->name,
                                  d.entries[i].name),
                          "disable or remove the bitmap, or open the image read-only");
    q2_bitmaps_free(&d);
    return rc;
}

/* What writing needs, and reading does not. */
static int check_named_tables(struct q2 *q)
{
    const char *problem = q->header.reftable_problem;

    if (!problem)
        problem = q->header.snapshots_problem;
    if (!problem)
        return 0;
    return err_hint(err_set(EINVAL, "%s: can only be opened read-only: %s", q->v->name, problem),
                    "repair it with vdisk-io check -r all");
}

static int check_writable(struct q2 *q, vdisk_queue *queue)
{
    if (q->header.incompatible & Q2_INCOMPAT_CORRUPT)
        return err_hint(err_set(EACCES, "%s: is marked corrupt and can only be opened read-only", q->v->name),
                        "repair it with vdisk-io check -r all");
    return check_bitmaps(q, queue);
}

/* ---- tables -------------------------------------------------------------------------------------------- */

static int read_table(struct q2 *q, vdisk_queue *queue, const char *what, uint64_t host_offset, uint64_t entries,
                      uint8_t **ret)
{
    uint64_t bytes = max_u64(entries * 8, 8);
    uint8_t *buf = vdisk_alloc_buffer(align_up(bytes, 4096));
    int rc;

    if (!buf)
        return err_set(ENOMEM, "%s: out of memory for the %s", q->v->name, what);
    memset(buf, 0, bytes);
    rc = entries ? io_pread(queue, q->v->file, buf, entries * 8, host_offset) : 0;
    if (rc < 0) {
        free(buf);
        return err_set(rc, "%s: reading the %s: %s", q->v->name, what, strerror(-rc));
    }
    *ret = buf;
    return 0;
}

/* Entries that are 0 are not written: most of a large table stays memory that is not there. The bytes that are. */
static uint64_t fill_l1(struct q2_l1 *l1, const uint8_t *table)
{
    const uint64_t page = L1_PAGE / sizeof l1->entry[0];
    uint64_t bytes = 0, touched = UINT64_MAX;

    for (uint64_t i = 0; i < l1->entries; i++) {
        uint64_t entry = get_be64(table + 8 * i);
        if (entry == 0)
            continue;
        atomic_init(&l1->entry[i], entry);
        if (i / page != touched)
            bytes += L1_PAGE;
        touched = i / page;
    }
    return bytes;
}

/* `tables_left`: what the layers above leave of the bound for the whole chain; NULL: not one of a chain. */
static int read_l1(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left)
{
    uint64_t entries = q->header.l1_entries, bytes;
    struct q2_l1 *l1 = calloc(1, sizeof *l1 + entries * sizeof l1->entry[0]);
    uint8_t *buf = NULL;
    int rc;

    if (!l1)
        return err_set(ENOMEM, "%s: out of memory for the L1 table", q->v->name);
    rc = read_table(q, queue, "L1 table", q->header.l1_offset, entries, &buf);
    if (rc < 0) {
        free(l1);
        return rc;
    }
    l1->entries = entries;
    bytes = fill_l1(l1, buf);
    atomic_store(&q->l1, l1);
    if (tables_left && bytes > *tables_left)
        rc = err_hint(err_set(EFBIG, "%s: the L1 tables of the backing chain take too much memory", q->v->name),
                      "make the chain shorter (commit or rebase), or the clusters larger");
    else if (tables_left)
        *tables_left -= bytes;
    if (q->header.l1_doubtful && !q2_l1_plausible(buf, entries))
        rc = err_hint(err_set(EINVAL, "%s: not a valid qcow2 image: L1 table and refcount table overlap",
                              q->v->name),
                      "restore it from a copy");
    free(buf);
    return rc;
}

static int read_reftable(struct q2 *q, vdisk_queue *queue)
{
    uint8_t *buf = NULL;
    int rc;

    q->reftable_entries = q2_reftable_entries(&q->geo, q->header.reftable_clusters);
    rc = read_table(q, queue, "refcount table", q->header.reftable_offset, q->reftable_entries, &buf);
    if (rc < 0)
        return rc;
    q->reftable = (uint64_t *)(void *)buf;
    for (uint64_t i = 0; i < q->reftable_entries; i++)
        q->reftable[i] = be64toh(q->reftable[i]);
    return 0;
}

static int setup_tables(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left)
{
    uint32_t page = (uint32_t)min_u64(q->geo.cluster_size, 4096);
    uint64_t l1_bytes = q2_cluster_up(&q->geo, max_u64((uint64_t)q->header.l1_entries * 8, 8));
    uint64_t reftable_bytes = (uint64_t)q->header.reftable_clusters << q->geo.cluster_bits;
    int rc = read_l1(q, queue, tables_left);

    if (rc == 0 && !q->v->read_only)
        rc = read_reftable(q, queue);
    if (rc < 0)
        return rc;
    if (q2_table_init(&q->l1_pages, q->header.l1_offset, l1_bytes, page) < 0 ||
        q2_table_init(&q->reftable_pages, q->header.reftable_offset, reftable_bytes, page) < 0)
        return err_set(ENOMEM, "%s: out of memory", q->v->name);
    q->l1_start = q->header.l1_offset;
    q->l1_end = q->header.l1_offset + (q->header.l1_entries ? l1_bytes : 0);
    q->reftable_start = q->header.reftable_offset;
    q->reftable_end = q->header.reftable_offset + reftable_bytes;
    return 0;
}

static int setup_caches(struct q2 *q, uint64_t cache_bytes)
{
    uint32_t slice = (uint32_t)min_u64(q->geo.cluster_size, Q2_SLICE_MAX);
    uint64_t bytes = max_u64(cache_bytes ? cache_bytes : CACHE_DEFAULT, CACHE_MIN), slices, linear;

    q->slice_entries_bits = log2_floor(slice / q->geo.l2_entry_size);
    q->slice_guest_bits = q->slice_entries_bits + q->geo.cluster_bits;
    q->refslice_bits = log2_floor((uint64_t)slice * 8 >> q->geo.refcount_order);
    slices = div_up(q->header.size, 1ull << q->slice_guest_bits);
    linear = min_u64(slices * sizeof(uint64_t), bytes / 8);
    /* One refcount slice describes far more than one L2 slice. */
    if (q2_cache_init(&q->l2, slice, bytes - bytes / 8 - linear, slices) < 0 ||
        q2_cache_keep_linear(&q->l2, &q->geo, linear, slices) < 0 ||
        q2_cache_init(&q->refcounts, slice, bytes / 8, q->v->read_only ? 1 : UINT64_MAX / 64) < 0)
        return err_set(ENOMEM, "%s: out of memory for the metadata cache", q->v->name);
    return 0;
}

static void setup_allocator(struct q2 *q)
{
    struct backend *b = q->v->file;
    uint64_t max_clusters = (Q2_MAX_HOST_OFFSET + 1) >> q->geo.cluster_bits;

    q->limit_clusters = b->caps & BACKEND_GROWS ? max_clusters : backend_size(b) >> q->geo.cluster_bits;
    q->zero_new = (b->caps & (BACKEND_GROWS | BACKEND_ZERO_NEW)) == (BACKEND_GROWS | BACKEND_ZERO_NEW);
    q->zero_from = q2_cluster_up(&q->geo, backend_size(b));
    /* Who wrote the file last may not have synced it. The end of a device does not move. */
    q->durable_end = b->caps & BACKEND_GROWS ? 0 : backend_size(b);
    q->appended_from = q->zero_from >> q->geo.cluster_bits; /* the last may be there in part */
}

/* A json: name may say qcow2, which it must not be: its bytes are the guest's. */
static int check_data_name(const char *path)
{
    struct json_name n;
    bool raw;
    int rc = is_json_name(path) ? json_name_parse(path, &n) : 0;

    if (rc < 0 || !is_json_name(path))
        return rc;
    raw = !n.format || strcmp(n.format, "raw") == 0;
    json_name_free(&n);
    return raw ? 0 : err_set(EINVAL, "%.200s: an external data file is raw", path);
}

static int open_data_backend(vdisk *v, const char *path)
{
    struct backend_id id;
    int rc = check_data_name(path);

    if (rc == 0 && backend_identify(path, &id) && backend_is(v->file, &id))
        rc = err_set(EINVAL, "%s: is the image itself", path);
    if (rc == 0)
        rc = backend_open(path, volume_backend_flags(v->open_flags), &v->data);
    if (rc == 0)
        return 0;
    v->data = NULL;
    return err_prefix(rc, "%s: external data file", v->name);
}

static int open_data_file(struct q2 *q, const struct layer_open *how)
{
    vdisk *v = q->v;
    const char *stored = how->data_file ? how->data_file : q->header.data_file;
    char *path;
    int rc;

    v->data = v->file;
    if (!q->geo.data_file)
        return how->data_file ? err_set(EINVAL, "%s: has no external data file", v->name) : 0;
    /* A name that the caller gives is not the image's. */
    if (!how->data_file && v->open_flags & VDISK_OPEN_NO_NAMES && !MUTANT(FOLLOW_NAMES)) {
        v->data = absent_backend("external data file, not opened");
        return v->data ? 0 : err_set(ENOMEM, "%s: out of memory", v->name);
    }
    if (!stored)
        return err_hint(err_set(EINVAL, "%s: the name of its external data file is missing", v->name),
                        "give the data file when opening");
    path = how->data_file ? strdup(stored) : volume_resolve(v->name, stored);
    if (!path)
        return err_set(ENOMEM, "out of memory");
    rc = open_data_backend(v, path);
    free(path);
    return rc;
}

/*
 * Who writes must have all that the image consists of: a hole is filled from below, and a mapping leads somewhere.
 */
static int check_whole(struct q2 *q, const struct layer_open *how)
{
    uint32_t flags = q->v->open_flags;
    bool no_backing = flags & (VDISK_OPEN_NO_BACKING | VDISK_OPEN_NO_NAMES);

    if (q->v->read_only || flags & VDISK_OPEN_CHECK)
        return 0;
    if (no_backing && !MUTANT(HIDE_BACKING) && q->header.backing_file && q->header.backing_file[0] != '\0')
        err_set(EINVAL, "%s: cannot be written without its backing file", q->v->name);
    else if (flags & VDISK_OPEN_NO_NAMES && q->geo.data_file && !how->data_file)
        err_set(EINVAL, "%s: cannot be written without its external data file", q->v->name);
    else
        return 0;
    return err_hint(-EINVAL, "open it read-only, or with all of its files");
}

static char *dup_or_null(const char *s)
{
    return s ? strdup(s) : NULL;
}

/* ---- open, close --------------------------------------------------------------------------------------- */

static void free_l1(struct q2_l1 *l1)
{
    while (l1) {
        struct q2_l1 *next = l1->next;
        free(l1);
        l1 = next;
    }
}

static void q2_release(struct q2 *q)
{
    q2_cache_finish(&q->l2);
    q2_cache_finish(&q->refcounts);
    q2_table_finish(&q->l1_pages);
    q2_table_finish(&q->reftable_pages);
    free_l1(atomic_load(&q->l1));
    free_l1(q->l1_retired);
    free(q->reftable);
    for (int i = 0; i < Q2_FREED_STAGES; i++)
        free(q->freed[i].list);
    q2_packed_finish(&q->packed);
    q2_cluster_set_finish(&q->own_freed);
    q2_cluster_set_finish(&q->mapped);
    q2_cluster_set_finish(&q->targets);
    q2_meta_finish(&q->meta);
    for (int i = 0; i < Q2_ZONES; i++)
        range_locks_finish(&q->guest_ranges[i]);
    range_locks_finish(&q->structure);
    pthread_mutex_destroy(&q->lock);
    q2_header_free(&q->header);
    free(q);
}

static struct q2 *q2_alloc_state(vdisk *v)
{
    struct q2 *q = calloc(1, sizeof *q);

    if (!q)
        return NULL;
    q->v = v;
    short_lock_init(&q->lock);
    for (int i = 0; i < Q2_ZONES; i++)
        range_locks_init(&q->guest_ranges[i]);
    range_locks_init(&q->structure);
    q2_packed_init(&q->packed);
    list_init(&q->flush_waiting);
    list_init(&q->reclaim_waiting);
    list_init(&q->trim_waiting);
    list_init(&q->l2_making);
    q2_leases_init(q);
    return q;
}

/* Bits that say what other writers must know, and we do not. */
static int clear_autoclear(struct q2 *q, vdisk_queue *queue)
{
    int rc;

    if (q->v->read_only || q->v->open_flags & VDISK_OPEN_CHECK || (q->header.autoclear & ~Q2_AUTOCLEAR_KNOWN) == 0)
        return 0;
    q->header.autoclear &= Q2_AUTOCLEAR_KNOWN;
    rc = q2_header_update(q, queue);
    return rc < 0 ? err_set(rc, "%s: writing the header: %s", q->v->name, strerror(-rc)) : 0;
}

/* Before any table is in memory. */
static int prepare_writing(struct q2 *q, vdisk_queue *queue)
{
    int rc;

    if (q->v->read_only)
        return 0;
    rc = check_named_tables(q);
    if (rc < 0 || q->v->open_flags & VDISK_OPEN_CHECK)
        return rc;
    rc = check_writable(q, queue);
    if (rc == 0 && q->header.incompatible & Q2_INCOMPAT_DIRTY)
        rc = q2_repair_refcounts(q, queue);
    return rc;
}

/* The header, and what follows from it. */
static int read_state(struct q2 *q, vdisk_queue *queue)
{
    int rc = read_header(q, queue);

    if (rc == 0)
        rc = q2_header_refuse_encrypted(&q->header, q->v->name);
    if (rc < 0)
        return rc;
    q->geo = q->header.geo;
    q->compression = (enum q2_compression)q->header.compression_type;
    q->data_file = q->geo.data_file;
    q->data_file_raw = q->data_file && q->header.autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW;
    return 0;
}

static int setup(struct q2 *q, vdisk_queue *queue, uint64_t *tables_left)
{
    int rc = setup_tables(q, queue, tables_left);

    if (rc == 0)
        rc = setup_caches(q, q->cache_bytes);
    if (rc == 0)
        setup_allocator(q);
    if (rc == 0 && !q->v->read_only && !(q->v->open_flags & VDISK_OPEN_CHECK))
        rc = q2_guard_init(q, queue);
    return rc;
}

int q2_reload(vdisk *v, vdisk_queue *queue)
{
    struct q2 *q = q2_alloc_state(v), *old = q2_of(v);
    int rc;

    assert(old->l2.dirty_count == 0 && old->refcounts.dirty_count == 0);
    if (!q)
        return err_set(ENOMEM, "%s: out of memory", v->name);
    q->cache_bytes = old->cache_bytes;
    rc = read_state(q, queue);
    if (rc == 0)
        rc = setup(q, queue, NULL);
    if (rc < 0) {
        q2_release(q);
        atomic_store(&old->broken, true);
        return rc;
    }
    v->format_state = q;
    volume_set_size(v, q->header.size);
    q2_release(old);
    return 0;
}

static int q2_open(vdisk *v, const struct layer_open *how, vdisk_queue *queue)
{
    struct q2 *q = q2_alloc_state(v);
    int rc;

    if (!q)
        return err_set(ENOMEM, "%s: out of memory", v->name);
    v->format_state = q;
    q->cache_bytes = how->cache_bytes;
    rc = read_state(q, queue);
    if (rc == 0)
        rc = check_whole(q, how);
    if (rc == 0)
        rc = open_data_file(q, how);
    if (rc == 0)
        rc = prepare_writing(q, queue);
    if (rc == 0)
        rc = setup(q, queue, how->tables_left);
    if (rc < 0)
        goto fail;
    volume_set_size(v, q->header.size);
    v->cluster_size = q->geo.cluster_size;
    v->backing_name = dup_or_null(q->header.backing_file);
    v->backing_format = dup_or_null(q->header.backing_format);
    if ((q->header.backing_file && !v->backing_name) || (q->header.backing_format && !v->backing_format)) {
        rc = err_set(ENOMEM, "%s: out of memory", v->name);
        goto fail;
    }
    rc = clear_autoclear(q, queue);
    if (rc < 0)
        goto fail;
    v->writes_in_place = true;
    return 0;

fail:
    q2_release(q);
    v->format_state = NULL;
    return rc;
}

struct flush_sync {
    struct op  op;
    struct q2 *q;
    bool       done;
};

enum flush_sync_state { FLUSH_SYNC_START = OP_START, FLUSH_SYNC_FLUSHED };

static void flush_sync_step(struct op *op)
{
    struct flush_sync *s = container_of(op, struct flush_sync, op);

    OP_BEGIN(enum flush_sync_state, op)
    OP_AWAIT(op, FLUSH_SYNC_FLUSHED, q2_flush(s->q, op));
    s->done = true;
    return;
    OP_END
}

OP_TYPE(flush_sync, flush_sync_step, "START", "FLUSH_SYNC_FLUSHED");

int q2_flush_sync(struct q2 *q, vdisk_queue *queue)
{
    struct flush_sync s = {.q = q};

    queue_current = queue;
    op_init(&s.op, queue, &flush_sync_type);
    op_start_later(&s.op);
    queue_run_until(queue, &s.done);
    return s.op.rc;
}

static int q2_close(vdisk *v, vdisk_queue *queue)
{
    struct q2 *q = q2_of(v);
    int rc = 0;

    if (!v->read_only && !(v->open_flags & VDISK_OPEN_CHECK))
        rc = q2_trim_run(q, queue, true);
    q2_release(q);
    v->format_state = NULL;
    return rc;
}

void q2_submit(vdisk *v, struct request *r)
{
    struct q2 *q = q2_of(v);

    if (r->kind != REQ_FLUSH && atomic_load_explicit(&q->broken, memory_order_relaxed)) {
        request_refuse(r, -EIO);
        return;
    }
    switch ((enum request_kind)r->kind) {
    case REQ_WRITE:
        q2_alloc_write_start(q, r);
        break;
    case REQ_ZERO:
    case REQ_DISCARD:
        q2_clear_start(q, r);
        break;
    case REQ_FLUSH:
        q2_flush_start(q, r);
        break;
    case REQ_READ:
    case REQ_EXTENTS:
        assert(!"reads are the engine's");
    }
}

/* ---- details for info ---------------------------------------------------------------------------------- */

int q2_read_snapshots(struct q2 *q, vdisk_queue *queue, struct q2_snapshot_table *ret)
{
    uint64_t left = backend_size(q->v->file) - min_u64(q->header.snapshots_offset, backend_size(q->v->file));
    uint64_t want = min_u64(left, q->geo.cluster_size);

    for (;;) {
        uint64_t need = 0;
        uint8_t *buf = vdisk_alloc_buffer(want);
        int rc;
        if (!buf)
            return err_set(ENOMEM, "%s: out of memory for the snapshot table", q->v->name);
        rc = want ? io_pread(queue, q->v->file, buf, want, q->header.snapshots_offset) : 0;
        if (rc < 0)
            err_set(rc, "%s: reading the snapshot table: %s", q->v->name, strerror(-rc));
        else
            rc = q2_snapshots_parse(&q->geo, q->v->name, buf, want, q->header.nb_snapshots, ret, &need);
        free(buf);
        if (rc != -EAGAIN)
            return rc;
        if (need > left)
            return err_set(EINVAL, "%s: the snapshot table reaches past the end of the file", q->v->name);
        want = min_u64(left, min_u64(max_u64(need, 2 * want), Q2_MAX_SNAPSHOT_TABLE));
    }
}

int qcow2_get_details(vdisk *v, struct qcow2_details *ret)
{
    struct q2_snapshot_table snapshots = {0};
    struct q2_bitmap_directory bitmaps = {0};
    vdisk_queue *queue;
    struct q2 *q;
    int rc = 0;

    if (v->format != &qcow2_driver)
        return err_set(EINVAL, "%s: is not qcow2", v->name);
    rc = volume_manage(v, &queue);
    if (rc < 0)
        return rc;
    q = q2_of(v); /* until volume_manage_done(): who shrinks the volume replaces it */
    if (q->header.snapshots_problem)
        rc = err_hint(err_set(EINVAL, "%s: %s", v->name, q->header.snapshots_problem),
                      "repair it with vdisk-io check -r all");
    else if (q->header.nb_snapshots > 0)
        rc = q2_read_snapshots(q, queue, &snapshots);
    if (rc == 0 && q->header.has_bitmaps && q->header.nb_bitmaps > 0)
        rc = q2_read_bitmaps(q, queue, &bitmaps);
    if (rc == 0) {
        pthread_mutex_lock(&q->lock);
        rc = q2_details_fill(&q->header, &snapshots, &bitmaps, ret);
        pthread_mutex_unlock(&q->lock);
        if (rc < 0)
            err_set(ENOMEM, "%s: out of memory", v->name);
    }
    volume_manage_done(v);
    q2_snapshots_free(&snapshots);
    q2_bitmaps_free(&bitmaps);
    return rc;
}

const struct format_driver qcow2_driver = {
    .name = "qcow2",
    .probe = q2_probe,
    .open = q2_open,
    .close = q2_close,
    .lookup = q2_lookup,
    .load = q2_load,
    .read_packed = q2_read_packed,
    .submit = q2_submit,
    .check_create = qcow2_check_create,
    .create = qcow2_create,
    .resize = q2_resize,
    .trim = q2_trim,
};
