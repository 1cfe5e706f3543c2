/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parse the header and its extensions.
 *
 * An image is untrusted input: nothing is believed before it is checked, memory use is bounded by the cluster
 * size, and every refusal names the file and the field.
 */
#include "qcow2/format/header.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/inflate.h"

enum { MAX_FEATURE_NAMES = 3 * 64 };

struct parser {
    const uint8_t   *buf;
    size_t           len;        /* of what may hold header, extensions and backing name: at most a cluster */
    uint64_t         file_size;
    const char      *name;
    uint32_t         header_length;
    uint64_t         backing_offset;
    uint32_t         backing_size;
    struct q2_header h;
};

static int damaged(int rc)
{
    return err_hint(rc, "restore it from a copy; what is no qcow2 image can be opened as raw");
}

static int foreign(int rc)
{
    return err_hint(rc, "convert it with the program that made it");
}

static int unfinished(const struct parser *p)
{
    err_set(EINVAL, "%s: is an unfinished image: whoever made it was stopped before all was written", p->name);
    return err_hint(-EINVAL, "make it again, over this one; or remove it");
}

static int bad(const struct parser *p, const char *what)
{
    return damaged(err_set(EINVAL, "%s: not a valid qcow2 image: %s", p->name, what));
}

/* A string from the image, fit for a message: `len` bytes, up to the first NUL, no control characters. */
static void printable(char *out, size_t size, const char *in, size_t len)
{
    size_t n = 0;

    for (; n < len && n + 1 < size && in[n] != '\0'; n++)
        out[n] = (unsigned char)in[n] < 0x20 || in[n] == 0x7f ? '?' : in[n];
    assert(n < size);
    out[n] = '\0';
}

size_t q2_header_span(const uint8_t *buf, size_t len)
{
    uint32_t bits;

    if (len < Q2_HEADER_V2_LENGTH)
        return 1u << Q2_MIN_CLUSTER_BITS;
    bits = get_be32(buf + offsetof(struct q2_disk_header, cluster_bits));
    if (bits < Q2_MIN_CLUSTER_BITS || bits > Q2_MAX_CLUSTER_BITS)
        return 1u << Q2_MIN_CLUSTER_BITS;
    return (size_t)1 << bits;
}

/* ---- header extensions --------------------------------------------------------------------------------- */

struct extension_view {
    uint32_t       type;
    uint32_t       len;
    const uint8_t *data;
};

/* The extension at *pos: 1, and *pos moves past it; 0 at the end; or an error. */
static int next_extension(const struct parser *p, size_t *pos, struct extension_view *ret)
{
    size_t end = p->len;

    if (p->backing_offset != 0 && p->backing_offset < end)
        end = (size_t)p->backing_offset;
    if (*pos >= end || end - *pos < sizeof(struct q2_disk_extension))
        return 0;
    ret->type = get_be32(p->buf + *pos);
    ret->len = get_be32(p->buf + *pos + 4);
    *pos += sizeof(struct q2_disk_extension);
    if (ret->len > end - *pos) /* of the one that ends them, too: as for QEMU */
        return damaged(err_set(EINVAL, "%s: not a valid qcow2 image: header extension 0x%08" PRIx32 " of %" PRIu32
                               " bytes does not fit into the first cluster", p->name, ret->type, ret->len));
    if (ret->type == Q2_EXT_END)
        return 0;
    ret->data = p->buf + *pos;
    assert(*pos + ret->len <= p->len);
    *pos += align_up(ret->len, 8);
    return 1;
}

static int take_feature_names(struct parser *p, const struct extension_view *e)
{
    size_t n = min_u64(e->len / sizeof(struct q2_disk_feature_name), MAX_FEATURE_NAMES);

    mem_free(p->h.features); /* of two the last counts, as for QEMU */
    p->h.features = NULL;
    p->h.nfeatures = 0;
    if (n == 0)
        return 0;
    p->h.features = mem_calloc(n, sizeof p->h.features[0]);
    if (!p->h.features)
        return err_set(ENOMEM, "%s: out of memory", p->name);
    for (size_t i = 0; i < n; i++) {
        struct q2_disk_feature_name d;
        struct q2_feature_name *f = &p->h.features[p->h.nfeatures];

        memcpy(&d, e->data + i * sizeof d, sizeof d);
        if (d.type > Q2_FEATURE_AUTOCLEAR || d.bit > 63 || d.name[0] == '\0')
            continue;
        f->type = d.type;
        f->bit = d.bit;
        printable(f->name, sizeof f->name, d.name, sizeof d.name);
        p->h.nfeatures++;
    }
    assert(p->h.nfeatures <= n && n <= MAX_FEATURE_NAMES);
    return 0;
}

static int take_string(struct parser *p, const struct extension_view *e, size_t max, const char *what, char **ret)
{
    if (e->len > max)
        return damaged(err_set(EINVAL, "%s: not a valid qcow2 image: %s of %" PRIu32 " bytes is too long", p->name,
                               what, e->len));
    mem_free(*ret); /* of two the last counts, as for QEMU */
    *ret = NULL;
    if (e->len == 0 || e->data[0] == '\0')
        return 0;
    *ret = mem_strndup((const char *)e->data, e->len);
    return *ret ? 0 : err_set(ENOMEM, "%s: out of memory", p->name);
}

static int take_unknown(struct parser *p, const struct extension_view *e)
{
    struct q2_extension *x = mem_realloc(p->h.extensions, (p->h.nextensions + 1) * sizeof *x);

    if (!x)
        return err_set(ENOMEM, "%s: out of memory", p->name);
    p->h.extensions = x;
    x += p->h.nextensions;
    x->type = e->type;
    x->len = e->len;
    x->data = mem_alloc(e->len ? e->len : 1);
    if (!x->data)
        return err_set(ENOMEM, "%s: out of memory", p->name);
    memcpy(x->data, e->data, e->len);
    p->h.nextensions++;
    return 0;
}

static int take_bitmaps(struct parser *p, const struct extension_view *e)
{
    struct q2_header *h = &p->h;
    struct q2_disk_bitmaps d;

    if (h->has_bitmaps || h->bitmaps_stale)
        return bad(p, "two bitmaps extensions");
    if (e->len != sizeof d)
        return bad(p, "bitmaps extension of the wrong length");
    if (!(h->autoclear & Q2_AUTOCLEAR_BITMAPS)) {
        h->bitmaps_stale = true;
        return take_unknown(p, e);
    }
    memcpy(&d, e->data, sizeof d);
    h->has_bitmaps = true;
    h->nb_bitmaps = be32toh(d.nb_bitmaps);
    h->bitmap_directory_size = be64toh(d.bitmap_directory_size);
    h->bitmap_directory_offset = be64toh(d.bitmap_directory_offset);
    if (d.reserved != 0)
        return bad(p, "reserved field of the bitmaps extension is not zero");
    if (h->nb_bitmaps == 0)
        return bad(p, "bitmaps extension with no bitmaps");
    if (h->nb_bitmaps > Q2_MAX_BITMAPS)
        return foreign(err_set(EFBIG, "%s: %" PRIu32 " bitmaps are more than the %d that are supported", p->name,
                               h->nb_bitmaps, Q2_MAX_BITMAPS));
    if (!is_aligned(h->bitmap_directory_offset, h->geo.cluster_size) || h->bitmap_directory_offset == 0)
        return bad(p, "offset of the bitmap directory is not that of a cluster");
    if (h->bitmap_directory_size > Q2_MAX_BITMAP_DIRECTORY ||
        h->bitmap_directory_size < (uint64_t)h->nb_bitmaps * sizeof(struct q2_disk_bitmap))
        return bad(p, "size of the bitmap directory does not fit the number of bitmaps");
    if (h->bitmap_directory_offset > p->file_size ||
        h->bitmap_directory_size > p->file_size - h->bitmap_directory_offset)
        return bad(p, "bitmap directory lies beyond the end of the file");
    return 0;
}

static int take_crypto(struct parser *p, const struct extension_view *e)
{
    struct q2_disk_crypto d;

    if (p->h.crypt_method != Q2_CRYPT_LUKS)
        return bad(p, "encryption header in an image that is not encrypted with LUKS");
    if (e->len != sizeof d)
        return bad(p, "encryption header extension of the wrong length");
    memcpy(&d, e->data, sizeof d);
    p->h.crypto_offset = be64toh(d.offset);
    p->h.crypto_length = be64toh(d.length);
    return 0;
}

static int take_extension(struct parser *p, const struct extension_view *e)
{
    switch (e->type) {
    case Q2_EXT_BACKING_FORMAT:
        return take_string(p, e, Q2_MAX_BACKING_FORMAT, "format of the backing file", &p->h.backing_format);
    case Q2_EXT_DATA_FILE:
        return take_string(p, e, Q2_MAX_DATA_FILE_NAME, "name of the data file", &p->h.data_file);
    case Q2_EXT_FEATURE_NAMES:
        return take_feature_names(p, e);
    case Q2_EXT_BITMAPS:
        return take_bitmaps(p, e);
    case Q2_EXT_CRYPTO:
        return take_crypto(p, e);
    default:
        return take_unknown(p, e);
    }
}

static int parse_extensions(struct parser *p)
{
    struct extension_view e;
    size_t pos = p->header_length;
    int rc;

    while ((rc = next_extension(p, &pos, &e)) > 0) {
        rc = take_extension(p, &e);
        if (rc < 0)
            return rc;
    }
    return rc;
}

size_t q2_header_end(const uint8_t *buf, size_t len)
{
    struct q2_disk_header d = {0};
    struct parser p = {.buf = buf, .len = len, .name = ""};
    struct extension_view e;
    size_t pos;
    int rc;

    assert(len >= Q2_HEADER_V2_LENGTH && get_be32(buf) == Q2_MAGIC);
    memcpy(&d, buf, min_u64(len, Q2_HEADER_V3_LENGTH));
    pos = be32toh(d.version) < 3 ? Q2_HEADER_V2_LENGTH : be32toh(d.header_length);
    p.backing_offset = be64toh(d.backing_file_offset);
    while ((rc = next_extension(&p, &pos, &e)) > 0)
        ;
    if (rc < 0 || pos > len || p.backing_offset > len)
        return len;
    return max_u64(pos, p.backing_offset + min_u64(be32toh(d.backing_file_size), len - p.backing_offset));
}

/* ---- features ------------------------------------------------------------------------------------------ */

const char *q2_feature_name(const struct q2_header *h, enum q2_feature_type type, unsigned bit, char buf[64])
{
    static const char *const ours[3][6] = {
        {"dirty bit", "corrupt bit", "external data file", "compression type", "extended L2 entries", NULL},
        {"lazy refcounts", NULL},
        {"bitmaps", "raw external data", NULL},
    };
    static const char *const kinds[] = {"incompatible", "compatible", "autoclear"};

    assert((size_t)type < ARRAY_LEN(kinds) && bit < 64);
    for (size_t i = 0; i < h->nfeatures; i++)
        if (h->features[i].type == type && h->features[i].bit == bit)
            return h->features[i].name;
    if (bit < ARRAY_LEN(ours[0]) && ours[type][bit])
        return ours[type][bit];
    snprintf(buf, 64, "unknown %s feature bit %u", kinds[type], bit);
    return buf;
}

static bool has_name(const struct q2_header *h, enum q2_feature_type type, unsigned bit)
{
    for (size_t i = 0; i < h->nfeatures; i++)
        if (h->features[i].type == type && h->features[i].bit == bit)
            return true;
    return false;
}

/* What the bits are called, those with a name first, as many as fit. */
static void list_features(const struct q2_header *h, uint64_t bits, char *list, size_t size)
{
    enum { ROOM = sizeof ", and 64 more" };
    unsigned left = (unsigned)__builtin_popcountll(bits);
    size_t n = 0;

    for (unsigned i = 0; i < 128; i++) {
        unsigned bit = i % 64;
        char buf[64];
        const char *text;

        if (!(bits >> bit & 1) || has_name(h, Q2_FEATURE_INCOMPATIBLE, bit) != (i < 64))
            continue;
        text = q2_feature_name(h, Q2_FEATURE_INCOMPATIBLE, bit, buf);
        if (n + 2 + strlen(text) + ROOM > size)
            break;
        n += (size_t)snprintf(list + n, size - n, "%s%s", n ? ", " : "", text);
        assert(n + ROOM <= size && left > 0);
        left--;
    }
    if (left > 0)
        snprintf(list + n, size - n, ", and %u more", left);
}

/* Refuse, with the names that the image's own table has for the bits. */
static int refuse_features(struct parser *p, uint64_t unknown)
{
    struct extension_view e;
    size_t pos = p->header_length;
    char list[400];

    /* The rest of the extensions is not ours to judge: only the names matter now. */
    while (next_extension(p, &pos, &e) > 0) {
        if (e.type == Q2_EXT_FEATURE_NAMES && take_feature_names(p, &e) < 0)
            return -ENOMEM;
    }
    list_features(&p->h, unknown, list, sizeof list);
    err_set(ENOTSUP, "%s: the image uses qcow2 features that are not supported: %s", p->name, list);
    return err_hint(-ENOTSUP, "use a newer version, or convert the image with the program that made it");
}

static int check_encryption(const struct parser *p)
{
    if (p->h.crypt_method > Q2_CRYPT_LUKS)
        return foreign(err_set(ENOTSUP, "%s: unknown encryption method %" PRIu32, p->name, p->h.crypt_method));
    return 0;
}

int q2_header_refuse_encrypted(const struct q2_header *h, const char *name)
{
    if (h->crypt_method == Q2_CRYPT_NONE)
        return 0;
    return err_hint(err_set(ENOTSUP, "%s: the image is encrypted (%s), which is not supported", name,
                            h->crypt_method == Q2_CRYPT_LUKS ? "LUKS" : "AES"),
                    "decrypt it with the program that made it: qemu-img convert");
}

static int check_compression(const struct parser *p)
{
    bool bit = (p->h.incompatible & Q2_INCOMPAT_COMPRESSION) != 0;

    if (bit && p->h.compression_type == Q2_COMPRESSION_ZLIB)
        return bad(p, "compression type bit is set, but the type is missing or zlib");
    if (!bit && p->h.compression_type != Q2_COMPRESSION_ZLIB)
        return bad(p, "compression type is not zlib, but its feature bit is not set");
    if (p->h.compression_type > Q2_COMPRESSION_ZSTD)
        return foreign(err_set(ENOTSUP, "%s: compression type %u is not supported", p->name,
                               p->h.compression_type));
    return 0;
}

static int check_data_file(const struct parser *p)
{
    const struct q2_header *h = &p->h;

    if (!h->geo.data_file && (h->autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW))
        return bad(p, "raw external data bit is set without an external data file");
    if (h->geo.data_file && h->nb_snapshots > 0)
        return bad(p, "internal snapshots in an image with an external data file");
    if ((h->autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW) && h->backing_file)
        return bad(p, "backing file in an image with raw external data");
    return 0;
}

/* ---- fixed fields -------------------------------------------------------------------------------------- */

/* Version 3's fields; sets header_length. */
static int parse_v3(struct parser *p, const struct q2_disk_header *d, uint64_t cluster_size)
{
    struct q2_header *h = &p->h;
    const size_t known = offsetof(struct q2_disk_header, compression_type) + 1;

    p->header_length = be32toh(d->header_length);
    if (p->header_length < Q2_HEADER_V3_LENGTH)
        return bad(p, "header is too short");
    if (p->header_length > cluster_size || p->header_length > p->len)
        return bad(p, "header is longer than the first cluster");
    h->incompatible = be64toh(d->incompatible_features);
    h->compatible = be64toh(d->compatible_features);
    h->autoclear = be64toh(d->autoclear_features);
    if (p->header_length < known)
        return 0;
    h->compression_type = p->buf[known - 1];
    assert(p->header_length <= p->len);
    h->tail_len = p->header_length - known;
    h->tail = mem_alloc(h->tail_len);
    if (!h->tail)
        return err_set(ENOMEM, "%s: out of memory", p->name);
    memcpy(h->tail, p->buf + known, h->tail_len);
    return 0;
}

static void parse_common(struct parser *p, const struct q2_disk_header *d)
{
    struct q2_header *h = &p->h;

    h->size = be64toh(d->size);
    h->l1_offset = be64toh(d->l1_table_offset);
    h->l1_entries = be32toh(d->l1_size);
    h->reftable_offset = be64toh(d->refcount_table_offset);
    h->reftable_clusters = be32toh(d->refcount_table_clusters);
    h->snapshots_offset = be64toh(d->snapshots_offset);
    h->nb_snapshots = be32toh(d->nb_snapshots);
    p->backing_offset = be64toh(d->backing_file_offset);
    p->backing_size = be32toh(d->backing_file_size);
    h->crypt_method = be32toh(d->crypt_method);
}

static int parse_fixed(struct parser *p)
{
    struct q2_disk_header d = {0};
    uint32_t version, cluster_bits, order = Q2_DEFAULT_REFCOUNT_ORDER;
    uint64_t unknown;
    bool extended;
    int rc;

    if (p->len < Q2_HEADER_V2_LENGTH)
        return bad(p, "the file is shorter than a header");
    memcpy(&d, p->buf, min_u64(p->len, Q2_HEADER_V3_LENGTH));
    version = be32toh(d.version);
    cluster_bits = be32toh(d.cluster_bits);
    if (be32toh(d.magic) == Q2_MAGIC_UNFINISHED)
        return unfinished(p);
    if (be32toh(d.magic) != Q2_MAGIC)
        return bad(p, "no qcow2 magic at its start");
    if (version != 2 && version != 3)
        return foreign(err_set(ENOTSUP, "%s: qcow2 version %" PRIu32 " is not supported", p->name, version));
    if (cluster_bits < Q2_MIN_CLUSTER_BITS || cluster_bits > Q2_MAX_CLUSTER_BITS)
        return foreign(err_set(EINVAL, "%s: cluster size 2^%" PRIu32 " is not supported: 512 bytes to 2 MiB are",
                               p->name, cluster_bits));
    p->len = min_u64(p->len, 1ull << cluster_bits);
    p->header_length = Q2_HEADER_V2_LENGTH;
    parse_common(p, &d);
    if (version == 3) {
        rc = parse_v3(p, &d, 1ull << cluster_bits);
        if (rc < 0)
            return rc;
        order = be32toh(d.refcount_order);
    }
    unknown = p->h.incompatible & ~Q2_INCOMPAT_KNOWN;
    if (unknown)
        return refuse_features(p, unknown);
    if (order > Q2_MAX_REFCOUNT_ORDER)
        return bad(p, "refcounts are wider than 64 bits");
    extended = (p->h.incompatible & Q2_INCOMPAT_EXTENDED_L2) != 0;
    if (extended && cluster_bits < Q2_MIN_CLUSTER_BITS_EXTENDED)
        return bad(p, "extended L2 entries need clusters of 16 KiB or more");
    q2_geometry_init(&p->h.geo, version, cluster_bits, order, extended,
                     (p->h.incompatible & Q2_INCOMPAT_DATA_FILE) != 0);
    return 0;
}

/* ---- tables and names ---------------------------------------------------------------------------------- */

static int check_l1(const struct parser *p)
{
    const struct q2_header *h = &p->h;
    uint64_t bytes = (uint64_t)h->l1_entries * Q2_L1_ENTRY_SIZE;

    if (h->size > q2_max_size(&h->geo))
        return damaged(err_set(EFBIG, "%s: a virtual size of %" PRIu64 " bytes is too large for its cluster size",
                               p->name, h->size));
    if (bytes > Q2_MAX_L1_SIZE)
        return damaged(err_set(EFBIG, "%s: L1 table of %" PRIu64 " bytes is larger than 32 MiB", p->name, bytes));
    if (!is_aligned(h->l1_offset, h->geo.cluster_size))
        return bad(p, "offset of the L1 table is not aligned to a cluster");
    if (h->l1_entries < q2_l1_entries(&h->geo, h->size))
        return bad(p, "L1 table is too small for the virtual size");
    if (bytes == 0)
        return 0;
    if (h->l1_offset == 0)
        return bad(p, "L1 table overlaps the header");
    if (h->l1_offset > p->file_size || bytes > p->file_size - h->l1_offset)
        return bad(p, "L1 table lies beyond the end of the file: is it truncated?");
    return 0;
}

/* A problem of a table that reading guest data does not take. */
static int note_problem(const struct parser *p, char **ret, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = mem_vasprintf(ret, fmt, ap);
    va_end(ap);
    if (n >= 0)
        return 0;
    *ret = NULL;
    return err_set(ENOMEM, "%s: out of memory", p->name);
}

static const char *reftable_problem(struct parser *p)
{
    struct q2_header *h = &p->h;
    uint64_t bytes = (uint64_t)h->reftable_clusters << h->geo.cluster_bits;
    uint64_t l1_bytes = (uint64_t)h->l1_entries * Q2_L1_ENTRY_SIZE;

    if (h->reftable_clusters == 0)
        return "there is none";
    if (bytes > Q2_MAX_REFTABLE_SIZE)
        return "it is larger than 8 MiB";
    if (!is_aligned(h->reftable_offset, h->geo.cluster_size))
        return "its offset is not aligned to a cluster";
    if (h->reftable_offset == 0)
        return "it overlaps the header";
    if (h->reftable_offset >= p->file_size)
        return "it lies beyond the end of the file: is it truncated?";
    /* Neither sum overflows: both tables start inside the file, and are small. */
    h->l1_doubtful = l1_bytes > 0 && h->l1_offset < h->reftable_offset + bytes &&
                     h->reftable_offset < h->l1_offset + l1_bytes;
    return h->l1_doubtful ? "it overlaps the L1 table" : NULL;
}

static int check_reftable(struct parser *p)
{
    const char *problem = reftable_problem(p);
    struct q2_header *h = &p->h;
    int rc;

    if (!problem)
        return 0;
    rc = note_problem(p, &h->reftable_problem, "refcount table of %" PRIu32 " clusters at host offset 0x%" PRIx64
                      ": %s", h->reftable_clusters, h->reftable_offset, problem);
    h->reftable_offset = 0;
    h->reftable_clusters = 0;
    return rc;
}

static int check_snapshots(struct parser *p)
{
    struct q2_header *h = &p->h;
    const char *problem = NULL;

    if (h->nb_snapshots > Q2_MAX_SNAPSHOTS)
        problem = "more than 65536 snapshots are not supported";
    else if (!is_aligned(h->snapshots_offset, h->geo.cluster_size))
        problem = "its offset is not aligned to a cluster";
    else if (h->snapshots_offset > INT64_MAX)
        problem = "no file is so long";
    else if (h->nb_snapshots > 0 && h->snapshots_offset == 0)
        problem = "it overlaps the header";
    else if (h->nb_snapshots > 0 && h->snapshots_offset >= p->file_size)
        problem = "it lies beyond the end of the file: is it truncated?";
    return problem ? note_problem(p, &h->snapshots_problem, "snapshot table of %" PRIu32
                                  " entries at host offset 0x%" PRIx64 ": %s", h->nb_snapshots,
                                  h->snapshots_offset, problem)
                   : 0;
}

static int parse_backing(struct parser *p)
{
    const char *text;

    if (p->backing_offset == 0)
        return 0;
    if (p->backing_offset < p->header_length)
        return bad(p, "name of the backing file overlaps the header");
    if (p->backing_offset > p->h.geo.cluster_size ||
        p->backing_size > p->h.geo.cluster_size - p->backing_offset)
        return bad(p, "name of the backing file is not in the first cluster");
    if (p->backing_size > Q2_MAX_BACKING_NAME)
        return bad(p, "name of the backing file is longer than 1023 bytes");
    if (p->backing_offset + p->backing_size > p->len)
        return bad(p, "name of the backing file lies beyond the end of the file");
    text = (const char *)p->buf + p->backing_offset;
    if (p->backing_size == 0 || *text == '\0')
        return 0;
    p->h.backing_file = mem_strndup(text, p->backing_size);
    return p->h.backing_file ? 0 : err_set(ENOMEM, "%s: out of memory", p->name);
}

static int parse(struct parser *p)
{
    int rc = parse_fixed(p);

    if (rc == 0)
        rc = check_encryption(p);
    if (rc == 0)
        rc = check_compression(p);
    if (rc == 0)
        rc = parse_backing(p);
    if (rc == 0)
        rc = parse_extensions(p);
    if (rc == 0)
        rc = check_data_file(p);
    if (rc == 0)
        rc = check_l1(p);
    if (rc == 0)
        rc = check_reftable(p);
    if (rc == 0)
        rc = check_snapshots(p);
    return rc;
}

/* What header.h promises of a header that was parsed. */
static void header_assert(const struct q2_header *h, uint64_t file_size)
{
    assert((h->incompatible & ~Q2_INCOMPAT_KNOWN) == 0);
    assert(h->geo.version >= 3 || (h->incompatible | h->compatible | h->autoclear) == 0);
    assert(h->geo.data_file == ((h->incompatible & Q2_INCOMPAT_DATA_FILE) != 0));
    assert(h->geo.extended_l2 == ((h->incompatible & Q2_INCOMPAT_EXTENDED_L2) != 0));
    assert(q2_l1_entries(&h->geo, h->size) <= h->l1_entries && h->l1_entries <= Q2_MAX_L1_SIZE / Q2_L1_ENTRY_SIZE);
    assert(is_aligned(h->l1_offset | h->reftable_offset, h->geo.cluster_size));
    assert(h->l1_entries == 0 || h->l1_offset >= h->geo.cluster_size);
    assert(h->l1_entries == 0 || h->l1_offset + (uint64_t)h->l1_entries * Q2_L1_ENTRY_SIZE <= file_size);
    assert((h->reftable_clusters == 0) == (h->reftable_problem != NULL));
    assert(h->reftable_problem || (h->reftable_offset > 0 && h->reftable_offset < file_size));
    assert(!h->l1_doubtful || h->reftable_problem);
    assert(h->nb_snapshots <= Q2_MAX_SNAPSHOTS || h->snapshots_problem);
    assert(!h->has_bitmaps || (!h->bitmaps_stale && h->nb_bitmaps > 0 && h->nb_bitmaps <= Q2_MAX_BITMAPS));
}

int q2_header_parse(const uint8_t *buf, size_t len, uint64_t file_size, const char *name, struct q2_header *ret)
{
    struct parser p = {.buf = buf, .len = min_u64(len, file_size), .file_size = file_size, .name = name};
    int rc = parse(&p);

    if (rc < 0) {
        q2_header_free(&p.h);
        return rc;
    }
    header_assert(&p.h, file_size);
    *ret = p.h;
    return 0;
}

void q2_header_free(struct q2_header *h)
{
    for (size_t i = 0; i < h->nextensions; i++)
        mem_free(h->extensions[i].data);
    mem_free(h->extensions);
    mem_free(h->features);
    mem_free(h->tail);
    mem_free(h->backing_file);
    mem_free(h->backing_format);
    mem_free(h->data_file);
    mem_free(h->reftable_problem);
    mem_free(h->snapshots_problem);
    memset(h, 0, sizeof *h);
}
