/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header of an image with its extensions: parse with every check, and serialise. Pure: memory in, memory out.
 */
#ifndef QCOW2_HEADER_H
#define QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qcow2/format/geometry.h"

/* A header extension that we don't know: kept as it is. */
struct q2_extension {
    uint32_t type;
    uint32_t len;
    uint8_t *data;
};

/* A line of the feature name table about a bit that we don't know: kept too. */
struct q2_feature_name {
    uint8_t type; /* enum q2_feature_type */
    uint8_t bit;
    char    name[47];
};

/* Host byte order. Strings and arrays are the struct's own; q2_header_free() gives them back. */
struct q2_header {
    struct q2_geometry geo;     /* version, cluster size, refcount width, extended L2, data file */
    uint64_t size;              /* virtual size */
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t reftable_clusters;
    uint64_t reftable_offset;
    uint64_t snapshots_offset;
    uint32_t nb_snapshots;
    char    *reftable_problem;  /* why the refcount table that the header names cannot be one; its offset and
                                 * length are 0 here then; NULL: nothing seen */
    bool     l1_doubtful;       /* the two overlap, says the header: see q2_l1_plausible() */
    char    *snapshots_problem; /* the same of the snapshot table, whose fields stay as they are */
    uint8_t  compression_type;  /* enum q2_compression */
    uint64_t incompatible;      /* Q2_INCOMPAT_*; version 2: these three are 0 */
    uint64_t compatible;
    uint32_t crypt_method;      /* enum q2_crypt_method: see q2_header_refuse_encrypted() */
    uint64_t crypto_offset;     /* of the LUKS header */
    uint64_t crypto_length;
    uint64_t autoclear;         /* with the unknown ones: who writes clears them first */

    char    *backing_file;      /* as stored; NULL: none */
    char    *backing_format;    /* NULL: not given */
    char    *data_file;         /* NULL: no such extension, though geo.data_file may be set */

    bool     has_bitmaps;       /* the bitmaps extension is there and, says its autoclear bit, consistent */
    bool     bitmaps_stale;     /* it is there, but not to be trusted; kept among the extensions */
    uint32_t nb_bitmaps;
    uint64_t bitmap_directory_size;
    uint64_t bitmap_directory_offset;

    uint8_t *tail;              /* header bytes past compression_type, up to header_length: fields unknown to us */
    size_t   tail_len;
    struct q2_extension *extensions;
    size_t   nextensions;
    struct q2_feature_name *features;
    size_t   nfeatures;
};

/*
 * How many bytes from the start of the file q2_header_parse() wants, judging from the first `len` (72 or more are
 * enough) of them: one cluster. At least 512 and at most 2 MiB, whatever the content.
 */
size_t q2_header_span(const uint8_t *buf, size_t len);

/*
 * Parse. `buf` holds the first `len` bytes of the file: min(file_size, q2_header_span()) or more. `name` is for
 * messages. On success *ret is filled in, for q2_header_free(); on failure it is untouched and the error text says
 * what is wrong: -EINVAL damaged, -ENOTSUP a feature we lack, -EFBIG too large for us, -ENOMEM.
 * Afterwards: offsets are aligned to clusters, tables have bounded sizes, do not overlap the header or each other,
 * and (L1 table: all of it, refcount table: its start) lie inside the file; l1_entries cover `size`. What is wrong
 * with the fields of refcount table and snapshot table is no failure, but a problem noted: guest data can be read
 * without them, and repaired.
 * The dirty and corrupt bits are the caller's to honour, and that guest data may be encrypted.
 */
int q2_header_parse(const uint8_t *buf, size_t len, uint64_t file_size, const char *name, struct q2_header *ret);

/* 0, or -ENOTSUP with a text when guest data is encrypted: we cannot read it. */
int q2_header_refuse_encrypted(const struct q2_header *h, const char *name);

/* Leaves *h zeroed. A zeroed struct is allowed. */
void q2_header_free(struct q2_header *h);

/*
 * Serialise into `buf` of one cluster, all of which is set: header, extensions, feature names (left out when they
 * don't fit: they are optional), backing file name. -ENOSPC with an error text when the rest doesn't fit.
 */
int q2_header_write(const struct q2_header *h, const char *name, uint8_t *buf, size_t cluster_size);

/*
 * The same without names of features, in one sector; the backing file's name is at `backing_offset`, of which
 * nothing is written; 0: in the sector, too. -ENOSPC, without a text: it does not fit.
 */
int q2_header_write_sector(const struct q2_header *h, uint64_t backing_offset, uint8_t sector[Q2_SECTOR_SIZE]);

/*
 * Up to where it reaches, of a header that can be parsed: the extension that ends them, which is nothing but
 * zeros, and the backing file's name are in it. `len`: of buf, at most a cluster.
 */
size_t q2_header_end(const uint8_t *buf, size_t len);

/* What of the first sector changes while an image lives. Host byte order; version 2 has no feature bits: 0. */
struct q2_header_fields {
    uint64_t size;
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t reftable_clusters;
    uint64_t reftable_offset;
    uint64_t snapshots_offset;
    uint32_t nb_snapshots;
    uint64_t incompatible;
    uint64_t autoclear;
};

/* Out of a sector, and into one, all else of which stays. */
struct q2_header_fields q2_header_fields_get(const uint8_t sector[Q2_SECTOR_SIZE]);
void q2_header_fields_put(uint8_t sector[Q2_SECTOR_SIZE], const struct q2_header_fields *fields);

/* The same of a header that was parsed. */
struct q2_header_fields q2_header_fields_of(const struct q2_header *h);
void q2_header_fields_adopt(struct q2_header *h, const struct q2_header_fields *fields);

/* Name of a bit: from the image's feature name table, else ours, else "unknown ... feature bit N" in `buf`. */
const char *q2_feature_name(const struct q2_header *h, enum q2_feature_type type, unsigned bit, char buf[64]);

#endif
