/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Serialise a header: fixed fields, extensions, backing file name, all inside the first cluster. What we did not
 * understand when it was parsed (fields of a longer header, extensions, names of features) goes back as it was.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/format/header.h"

struct writer {
    uint8_t *buf;
    size_t   size;
    size_t   pos;
    bool     full;
};

static void emit(struct writer *w, const void *data, size_t len)
{
    assert(w->pos <= w->size);
    if (w->full || len > w->size - w->pos) {
        w->full = true;
        return;
    }
    if (len > 0)
        memcpy(w->buf + w->pos, data, len);
    w->pos += len;
}

static void emit_extension(struct writer *w, uint32_t type, const void *data, size_t len)
{
    static const uint8_t zeros[8];
    struct q2_disk_extension e = {htobe32(type), htobe32((uint32_t)len)};

    assert(w->full || is_aligned(w->pos, 8));
    assert(len <= UINT32_MAX && (type != Q2_EXT_END || len == 0));
    emit(w, &e, sizeof e);
    emit(w, data, len);
    emit(w, zeros, (size_t)(align_up(len, 8) - len));
}

static void emit_string(struct writer *w, uint32_t type, const char *text)
{
    if (text)
        emit_extension(w, type, text, strlen(text));
}

/* ---- feature name table -------------------------------------------------------------------------------- */

static const struct {
    uint8_t type, bit;
} known_features[] = {
    {Q2_FEATURE_INCOMPATIBLE, 0}, {Q2_FEATURE_INCOMPATIBLE, 1}, {Q2_FEATURE_INCOMPATIBLE, 2},
    {Q2_FEATURE_INCOMPATIBLE, 3}, {Q2_FEATURE_INCOMPATIBLE, 4}, {Q2_FEATURE_COMPATIBLE, 0},
    {Q2_FEATURE_AUTOCLEAR, 0},    {Q2_FEATURE_AUTOCLEAR, 1},
};

static bool is_known(uint8_t type, uint8_t bit)
{
    for (size_t i = 0; i < ARRAY_LEN(known_features); i++)
        if (known_features[i].type == type && known_features[i].bit == bit)
            return true;
    return false;
}

static void emit_name(struct writer *w, uint8_t type, uint8_t bit, const char *name)
{
    struct q2_disk_feature_name d = {.type = type, .bit = bit};

    assert(type <= Q2_FEATURE_AUTOCLEAR && bit < 64);
    memcpy(d.name, name, strnlen(name, sizeof d.name));
    emit(w, &d, sizeof d);
}

/* Takes all of it back when it doesn't fit, or leaves less than `reserve` bytes. */
static void emit_feature_names(struct writer *w, const struct q2_header *h, size_t reserve)
{
    static const struct q2_header no_names;
    struct q2_disk_extension e = {.type = htobe32(Q2_EXT_FEATURE_NAMES)};
    struct writer before = *w;
    char buf[64];

    emit(w, &e, sizeof e);
    for (size_t i = 0; i < ARRAY_LEN(known_features); i++)
        emit_name(w, known_features[i].type, known_features[i].bit,
                  q2_feature_name(&no_names, (enum q2_feature_type)known_features[i].type, known_features[i].bit,
                                  buf));
    for (size_t i = 0; i < h->nfeatures; i++)
        if (!is_known(h->features[i].type, h->features[i].bit))
            emit_name(w, h->features[i].type, h->features[i].bit, h->features[i].name);
    if (w->full || w->size - w->pos < reserve) {
        memset(before.buf + before.pos, 0, before.size - before.pos);
        *w = before;
        return;
    }
    e.length = htobe32((uint32_t)(w->pos - before.pos - sizeof e));
    memcpy(w->buf + before.pos, &e, sizeof e);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static void fill_fixed(const struct q2_header *h, struct q2_disk_header *d)
{
    memset(d, 0, sizeof *d);
    d->magic = htobe32(Q2_MAGIC);
    d->version = htobe32(h->geo.version);
    d->cluster_bits = htobe32(h->geo.cluster_bits);
    d->size = htobe64(h->size);
    d->crypt_method = htobe32(Q2_CRYPT_NONE);
    d->l1_size = htobe32(h->l1_entries);
    d->l1_table_offset = htobe64(h->l1_offset);
    d->refcount_table_offset = htobe64(h->reftable_offset);
    d->refcount_table_clusters = htobe32(h->reftable_clusters);
    d->nb_snapshots = htobe32(h->nb_snapshots);
    d->snapshots_offset = htobe64(h->snapshots_offset);
    if (h->geo.version == 2)
        return;
    d->incompatible_features = htobe64(h->incompatible);
    d->compatible_features = htobe64(h->compatible);
    d->autoclear_features = htobe64(h->autoclear);
    d->refcount_order = htobe32(h->geo.refcount_order);
    d->compression_type = h->compression_type;
}

/* The fixed part, in one piece; the caller patches in where the backing name is. */
static void emit_fixed(struct writer *w, const struct q2_header *h, struct q2_disk_header *d)
{
    static const uint8_t zeros[8];
    const size_t known = offsetof(struct q2_disk_header, compression_type) + 1;

    assert(w->pos == 0);
    fill_fixed(h, d);
    if (h->geo.version == 2) {
        emit(w, d, Q2_HEADER_V2_LENGTH);
        return;
    }
    d->header_length = htobe32((uint32_t)max_u64(Q2_HEADER_LENGTH, align_up(known + h->tail_len, 8)));
    emit(w, d, known);
    emit(w, h->tail, h->tail_len);
    emit(w, zeros, (size_t)(be32toh(d->header_length) - known - h->tail_len));
    assert(w->full || w->pos == be32toh(d->header_length));
}

/* Fixed part and extensions, up to the end of those. */
static void emit_all(struct writer *w, const struct q2_header *h, struct q2_disk_header *d, bool names,
                     size_t backing_len)
{
    assert(h->geo.version >= 3 || (h->incompatible | h->compatible | h->autoclear) == 0);
    memset(w->buf, 0, w->size);
    emit_fixed(w, h, d);
    emit_string(w, Q2_EXT_BACKING_FORMAT, h->backing_format);
    emit_string(w, Q2_EXT_DATA_FILE, h->data_file);
    if (h->has_bitmaps) {
        struct q2_disk_bitmaps b = {.nb_bitmaps = htobe32(h->nb_bitmaps),
                                    .bitmap_directory_size = htobe64(h->bitmap_directory_size),
                                    .bitmap_directory_offset = htobe64(h->bitmap_directory_offset)};

        emit_extension(w, Q2_EXT_BITMAPS, &b, sizeof b);
    }
    for (size_t i = 0; i < h->nextensions; i++)
        emit_extension(w, h->extensions[i].type, h->extensions[i].data, h->extensions[i].len);
    if (names && h->geo.version >= 3)
        emit_feature_names(w, h, sizeof(struct q2_disk_extension) + backing_len);
    emit_extension(w, Q2_EXT_END, NULL, 0);
}

/* Where the backing file's name is. */
static void put_backing(uint8_t *buf, struct q2_disk_header *d, uint64_t offset, size_t len)
{
    d->backing_file_offset = htobe64(len > 0 ? offset : 0);
    d->backing_file_size = htobe32((uint32_t)len);
    memcpy(buf, d, offsetof(struct q2_disk_header, cluster_bits));
}

int q2_header_write_sector(const struct q2_header *h, uint64_t backing_offset, uint8_t sector[Q2_SECTOR_SIZE])
{
    struct writer w = {.buf = sector, .size = Q2_SECTOR_SIZE};
    size_t backing_len = h->backing_file ? strlen(h->backing_file) : 0;
    struct q2_disk_header d;

    emit_all(&w, h, &d, false, backing_len);
    put_backing(sector, &d, backing_offset ? backing_offset : w.pos, backing_len);
    if (backing_offset == 0)
        emit(&w, h->backing_file, backing_len);
    return w.full ? -ENOSPC : 0;
}

int q2_header_write(const struct q2_header *h, const char *name, uint8_t *buf, size_t cluster_size)
{
    struct writer w = {.buf = buf, .size = cluster_size};
    size_t backing_len = h->backing_file ? strlen(h->backing_file) : 0;
    struct q2_disk_header d;

    assert(cluster_size == h->geo.cluster_size);
    emit_all(&w, h, &d, true, backing_len);
    if (backing_len > 0 && !w.full) {
        put_backing(buf, &d, w.pos, backing_len);
        emit(&w, h->backing_file, backing_len);
    }
    if (w.full || backing_len > Q2_MAX_BACKING_NAME)
        return err_hint(err_set(ENOSPC, "%s: the header with its names does not fit into one cluster of %zu bytes",
                                name, cluster_size),
                        "use shorter names, or larger clusters");
    return 0;
}

/* ---- fields of the first sector ------------------------------------------------------------------------ */

struct q2_header_fields q2_header_fields_get(const uint8_t sector[Q2_SECTOR_SIZE])
{
    struct q2_disk_header copy; /* a sector in memory has any alignment */
    const struct q2_disk_header *h = &copy;
    bool bits;

    memcpy(&copy, sector, sizeof(copy));
    bits = get_be32(&h->version) >= 3;
    return (struct q2_header_fields){
        .size = get_be64(&h->size),
        .l1_offset = get_be64(&h->l1_table_offset),
        .l1_entries = get_be32(&h->l1_size),
        .reftable_clusters = get_be32(&h->refcount_table_clusters),
        .reftable_offset = get_be64(&h->refcount_table_offset),
        .snapshots_offset = get_be64(&h->snapshots_offset),
        .nb_snapshots = get_be32(&h->nb_snapshots),
        .incompatible = bits ? get_be64(&h->incompatible_features) : 0,
        .autoclear = bits ? get_be64(&h->autoclear_features) : 0,
    };
}

void q2_header_fields_put(uint8_t sector[Q2_SECTOR_SIZE], const struct q2_header_fields *f)
{
    struct q2_disk_header copy;
    struct q2_disk_header *h = &copy;
    bool bits;

    memcpy(&copy, sector, sizeof(copy));
    bits = get_be32(&h->version) >= 3;
    assert(bits || (f->incompatible == 0 && f->autoclear == 0));
    put_be64(&h->size, f->size);
    put_be64(&h->l1_table_offset, f->l1_offset);
    put_be32(&h->l1_size, f->l1_entries);
    put_be32(&h->refcount_table_clusters, f->reftable_clusters);
    put_be64(&h->refcount_table_offset, f->reftable_offset);
    put_be64(&h->snapshots_offset, f->snapshots_offset);
    put_be32(&h->nb_snapshots, f->nb_snapshots);
    if (bits) {
        put_be64(&h->incompatible_features, f->incompatible);
        put_be64(&h->autoclear_features, f->autoclear);
    }
    memcpy(sector, &copy, sizeof(copy));
}

struct q2_header_fields q2_header_fields_of(const struct q2_header *h)
{
    return (struct q2_header_fields){
        .size = h->size,
        .l1_offset = h->l1_offset,
        .l1_entries = h->l1_entries,
        .reftable_clusters = h->reftable_clusters,
        .reftable_offset = h->reftable_offset,
        .snapshots_offset = h->snapshots_offset,
        .nb_snapshots = h->nb_snapshots,
        .incompatible = h->incompatible,
        .autoclear = h->autoclear,
    };
}

void q2_header_fields_adopt(struct q2_header *h, const struct q2_header_fields *f)
{
    assert(h->geo.version >= 3 || (f->incompatible == 0 && f->autoclear == 0));
    assert(q2_l1_entries(&h->geo, f->size) <= f->l1_entries);
    h->size = f->size;
    h->l1_offset = f->l1_offset;
    h->l1_entries = f->l1_entries;
    h->reftable_clusters = f->reftable_clusters;
    h->reftable_offset = f->reftable_offset;
    h->snapshots_offset = f->snapshots_offset;
    h->nb_snapshots = f->nb_snapshots;
    h->incompatible = f->incompatible;
    h->autoclear = f->autoclear;
}
