/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image says of itself.
 *
 * Happy path: of an open one the snapshot table and the bitmap directory are read, the rest is in memory. Of an
 * encrypted one, which cannot be opened, its header tells, and the LUKS header inside.
 * Failure modes: a table that is damaged or cannot be read: the reason stands in its place. A file that is not
 * such an image, or cannot be read: the error. A LUKS header that is not to be found where the image says is left
 * out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/image.h"
#include "engine/loop/queue.h"
#include "qcow2/format/format.h"
#include "qcow2/image/image.h"
#include "qcow2/qcow2.h"

/* ---- out of header and tables: no I/O ------------------------------------------------------------------ */

static int fill_header(vdisk_image *im, const struct q2_header *h)
{
    struct vdisk_image_info *info = &im->info;
    int rc;

    info->virtual_size = h->size;
    info->cluster_size = (uint32_t)h->geo.cluster_size;
    info->version = h->geo.version;
    info->refcount_bits = h->geo.refcount_bits;
    info->lazy_refcounts = (h->compatible & Q2_COMPAT_LAZY_REFCOUNTS) != 0;
    info->dirty = (h->incompatible & Q2_INCOMPAT_DIRTY) != 0;
    info->corrupt = (h->incompatible & Q2_INCOMPAT_CORRUPT) != 0;
    info->extended_l2 = h->geo.extended_l2;
    info->data_file_raw = (h->autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW) != 0;
    info->bitmaps_stale = h->bitmaps_stale;
    info->compression_type = h->compression_type == Q2_COMPRESSION_ZSTD ? "zstd" : "zlib";
    rc = image_text(im, h->backing_file, &info->backing_file);
    if (rc == 0)
        rc = image_text(im, h->backing_format, &info->backing_fmt);
    return rc == 0 ? image_text(im, h->data_file, &info->data_file) : rc;
}

static int fill_snapshots(vdisk_image *im, const struct q2_snapshot_table *t)
{
    int rc = 0;

    assert(!im->snapshots && t->n <= Q2_MAX_SNAPSHOTS);
    if (t->n == 0)
        return 0;
    im->snapshots = mem_calloc(t->n, sizeof im->snapshots[0]);
    if (!im->snapshots)
        return err_set(ENOMEM, "out of memory");
    im->snapshots_count = t->n;
    for (uint32_t i = 0; i < t->n && rc == 0; i++) {
        const struct q2_snapshot *s = &t->entries[i];
        struct vdisk_snapshot_info *x = &im->snapshots[i];

        x->vm_state_size = s->vm_state_size;
        x->date_sec = s->date_sec;
        x->date_nsec = s->date_nsec;
        x->vm_clock_nsec = s->vm_clock_nsec;
        x->virtual_size = s->has_disk_size ? s->disk_size : im->info.virtual_size;
        x->icount = s->icount;
        x->has_icount = s->has_icount;
        rc = image_text(im, s->id, &x->id);
        if (rc == 0)
            rc = image_text(im, s->name, &x->name);
    }
    return rc;
}

static int fill_bitmaps(vdisk_image *im, const struct q2_bitmap_directory *t)
{
    int rc = 0;

    assert(!im->bitmaps && t->n <= Q2_MAX_BITMAPS);
    if (t->n == 0)
        return 0;
    im->bitmaps = mem_calloc(t->n, sizeof im->bitmaps[0]);
    if (!im->bitmaps)
        return err_set(ENOMEM, "out of memory");
    im->bitmaps_count = t->n;
    for (uint32_t i = 0; i < t->n && rc == 0; i++) {
        const struct q2_bitmap_entry *b = &t->entries[i];
        struct vdisk_bitmap_info *x = &im->bitmaps[i];

        assert(b->granularity_bits <= Q2_MAX_BITMAP_GRANULARITY_BITS);
        x->granularity = UINT64_C(1) << b->granularity_bits;
        x->in_use = (b->flags & Q2_BITMAP_IN_USE) != 0;
        x->automatic = (b->flags & Q2_BITMAP_AUTO) != 0;
        rc = image_text(im, b->name, &x->name);
    }
    return rc;
}

static int fill_luks(vdisk_image *im, const struct luks_info *l)
{
    struct vdisk_encryption_info *e = &im->encryption;
    const struct {
        const char  *text;
        const char **to;
    } words[] = {
        {l->cipher, &e->cipher}, {l->cipher_mode, &e->cipher_mode}, {l->ivgen, &e->ivgen},
        {l->ivgen_hash[0] != '\0' ? l->ivgen_hash : NULL, &e->ivgen_hash}, {l->hash, &e->hash},
        {l->uuid, &e->uuid},
    };
    int rc = 0;

    assert(!im->key_slots);
    e->payload_offset = l->payload_offset;
    e->master_key_iterations = l->master_key_iterations;
    im->key_slots = mem_calloc(LUKS_SLOTS, sizeof im->key_slots[0]);
    if (!im->key_slots)
        return err_set(ENOMEM, "out of memory");
    im->key_slots_count = LUKS_SLOTS;
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *s = &l->slots[i];
        im->key_slots[i] = (struct vdisk_key_slot_info){.active = s->active, .iterations = s->iterations,
                                                        .stripes = s->stripes, .key_offset = s->key_offset};
    }
    for (size_t i = 0; i < ARRAY_LEN(words) && rc == 0; i++)
        rc = image_text(im, words[i].text, words[i].to);
    return rc;
}

/* ---- of an open volume --------------------------------------------------------------------------------- */

static int describe_snapshots(struct layer *layer, vdisk_image *im, vdisk_queue *queue)
{
    struct q2_meta *meta = &q2_of(layer)->meta;
    struct q2_snapshot_table table = {0};
    int rc = 0;

    if (meta->header.snapshots_problem)
        rc = err_hint(err_set(EINVAL, "%s: %s", layer->name, meta->header.snapshots_problem),
                      "repair it with vdisk-io check -r all");
    else if (meta->header.nb_snapshots > 0)
        rc = q2_read_snapshots(meta, queue, &table);
    rc = rc < 0 ? image_problem(im, rc, &im->snapshots_problem) : fill_snapshots(im, &table);
    q2_snapshots_free(&table);
    return rc;
}

static int describe_bitmaps(struct layer *layer, vdisk_image *im, vdisk_queue *queue)
{
    struct q2_meta *meta = &q2_of(layer)->meta;
    struct q2_bitmap_directory directory = {0};
    int rc = 0;

    if (meta->header.has_bitmaps && meta->header.nb_bitmaps > 0)
        rc = q2_read_bitmaps(meta, queue, &directory);
    rc = rc < 0 ? image_problem(im, rc, &im->bitmaps_problem) : fill_bitmaps(im, &directory);
    q2_bitmaps_free(&directory);
    return rc;
}

int q2_describe(struct layer *layer, vdisk_image *im, vdisk_queue *queue)
{
    struct q2_meta *meta = &q2_of(layer)->meta;
    int rc;

    pthread_mutex_lock(&meta->lock);
    rc = fill_header(im, &meta->header);
    pthread_mutex_unlock(&meta->lock);
    if (rc == 0)
        rc = describe_snapshots(layer, im, queue);
    return rc == 0 ? describe_bitmaps(layer, im, queue) : rc;
}

/* ---- of one that is encrypted -------------------------------------------------------------------------- */

_Static_assert(LUKS_HEADER_LENGTH <= 4096, "what is read of it");

static int read_luks(struct backend *b, vdisk_queue *q, const struct q2_header *h, vdisk_image *im)
{
    uint8_t *buf = mem_buffer(4096);
    struct luks_info luks;
    int rc = buf ? 0 : -ENOMEM;

    if (rc == 0 && is_aligned(h->crypto_offset, Q2_SECTOR_SIZE) && h->crypto_length >= LUKS_HEADER_LENGTH &&
        h->crypto_offset < backend_size(b) && backend_size(b) - h->crypto_offset >= 4096)
        rc = io_pread(q, b, buf, 4096, h->crypto_offset);
    else if (rc == 0)
        memset(buf, 0, 4096);
    if (rc == 0 && luks_parse(buf, &luks))
        rc = fill_luks(im, &luks);
    mem_free(buf);
    return rc;
}

int q2_describe_encrypted(struct backend *b, vdisk_image *im, vdisk_queue *q)
{
    uint8_t first[Q2_SECTOR_SIZE];
    struct q2_header h;
    int rc = q2_header_load(b, q, &h, first);

    if (rc < 0)
        return rc;
    rc = h.crypt_method == Q2_CRYPT_NONE ? -ENOTSUP : fill_header(im, &h);
    if (rc == 0) {
        im->encryption.format = h.crypt_method == Q2_CRYPT_LUKS ? "luks" : "aes";
        rc = h.crypt_method == Q2_CRYPT_LUKS ? read_luks(b, q, &h, im) : 0;
    }
    q2_header_free(&h);
    return rc;
}
