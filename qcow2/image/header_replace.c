/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header of an open image, replaced as a whole.
 *
 * Happy path: the new header is made, whole. If all of it is in the first sector that one is written. Else the
 * name of the backing file is written where nothing of either header lies, and flushed; the first sector becomes a
 * header that is whole by itself, without the names of features, and has its name there; then the rest of the new
 * header is written, and its first sector last. Each step is durable before the next, and a sector is there or it
 * is not: at any moment the image has the old header or the new one, and all else that it had. Failure modes: it
 * does not fit: nothing has changed. There is no room for two names: the names of features are left out, which
 * are optional, so that all is in one sector; if that does not do either (long names of data files) the header is
 * written in one piece, which a power cut can tear. An error once the first sector is being written: the old
 * header or the new one is there; the volume takes no more writes. What the old one had behind the new one cannot
 * be cleared: nothing leads there, so that it stays.
 *
 * Invariants.
 *  1. What the first sector on disk leads to is durable, and not written to.
 *  2. Writes are taken only as long as it is known which header is on disk, and that it is whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/image/image.h"
#include "qcow2/mutant.h"

struct replace {
    struct layer           *layer;
    struct q2_meta         *meta;
    vdisk_queue            *queue;
    const struct q2_header *h;          /* what it is to be */
    const char             *doubt;
    uint8_t                *old, *new;  /* the header cluster, as it is and as it is to be */
    uint64_t                size, old_end, new_end; /* of the cluster; of what is used in it */
};

/* What is not zero, and what is but counts: the extension that ends them all. */
static uint64_t used_end(const uint8_t *buf, uint64_t size)
{
    uint64_t end = size, counts = MUTANT(BACKING_ZEROS_UNUSED) ? 0 : q2_header_end(buf, (size_t)size);

    while (end > 0 && buf[end - 1] == 0)
        end--;
    return max_u64(end, counts);
}

/* [from, end) of the new header, or of zeros, to disk; durable. */
static int write_part(const struct replace *s, const uint8_t *buf, uint64_t from, uint64_t end)
{
    int rc = from < end ? io_pwrite(s->queue, s->layer->file, buf + from, end - from, from) : 0;

    assert(from >= Q2_SECTOR_SIZE && end <= s->size && is_aligned(from | end, Q2_SECTOR_SIZE));
    return rc == 0 && from < end && !MUTANT(BACKING_UNSYNCED) ? io_pflush(s->queue, s->layer->file) : rc;
}

static int commit_sector(const struct replace *s, const uint8_t *sector)
{
    struct q2_header_change change = q2_header_change(s->meta);

    assert(get_be32(sector) == Q2_MAGIC && get_be32(sector + 4) == s->h->geo.version);
    change.fields = q2_header_fields_of(s->h);
    change.sector = sector;
    change.doubt = s->doubt;
    return q2_header_commit_sync(s->meta, &change, s->queue);
}

/* Invariant 2: it is not known what the header on disk is. */
static int doubtful(const struct replace *s, int rc)
{
    return rc < 0 && !MUTANT(BACKING_TRUSTED) ? q2_doubt(s->meta, s->doubt) : rc;
}

/* The rest of the cluster: that of the new header, and zeros where the old one had more. */
static int write_rest(const struct replace *s)
{
    uint64_t end = align_up(max_u64(s->old_end, s->new_end), Q2_SECTOR_SIZE);

    assert(end <= s->size && used_end(s->new, s->size) == s->new_end);
    return write_part(s, s->new, Q2_SECTOR_SIZE, min_u64(end, s->size));
}

/* By way of a first sector that stands for itself, whose name lies at `place`. */
static int write_by_way(struct replace *s, uint64_t place, const uint8_t *sector)
{
    size_t len = s->h->backing_file ? strlen(s->h->backing_file) : 0;
    int rc = 0;

    assert(place >= s->old_end && place >= s->new_end && place + len <= s->size); /* invariant 1 */
    if (len > 0) {
        memcpy(s->old + place, s->h->backing_file, len);
        rc = write_part(s, s->old, place, min_u64(s->size, align_up(place + len, Q2_SECTOR_SIZE)));
    }
    if (rc == 0)
        rc = commit_sector(s, sector);
    if (rc < 0)
        return rc;
    rc = write_rest(s);
    if (rc == 0)
        rc = commit_sector(s, s->new);
    if (rc == 0 && len > 0) /* nothing leads there any more, whatever comes of it */
        write_part(s, s->new, place, min_u64(s->size, align_up(place + len, Q2_SECTOR_SIZE)));
    return doubtful(s, rc);
}

static int write_header(struct replace *s)
{
    uint64_t place = align_up(max_u64(s->old_end, s->new_end), Q2_SECTOR_SIZE);
    uint8_t sector[Q2_SECTOR_SIZE];
    int rc;

    if (s->new_end > Q2_SECTOR_SIZE && place + Q2_MAX_BACKING_NAME <= s->size &&
        q2_header_write_sector(s->h, place, sector) == 0)
        return write_by_way(s, place, sector);
    if (s->new_end > Q2_SECTOR_SIZE && q2_header_write_sector(s->h, 0, sector) == 0) {
        memset(s->new, 0, s->size);
        memcpy(s->new, sector, Q2_SECTOR_SIZE);
        s->new_end = used_end(s->new, s->size);
    }
    if (s->new_end <= Q2_SECTOR_SIZE) {
        rc = commit_sector(s, s->new);
        if (rc == 0) /* zeros, behind all of it: it is whole without them */
            write_rest(s);
        return rc;
    }
    rc = io_pwrite(s->queue, s->layer->file, s->new, s->size, 0);
    return doubtful(s, rc == 0 ? commit_sector(s, s->new) : rc);
}

static int replace(struct replace *s)
{
    int rc = io_pread(s->queue, s->layer->file, s->old, s->size, 0);

    if (rc < 0)
        return err_set(rc, "%s: reading the header: %s", s->layer->name, strerror(-rc));
    s->old_end = used_end(s->old, s->size);
    s->new_end = used_end(s->new, s->size);
    assert(s->old_end > 0 && s->new_end > 0 && memcmp(s->old, s->meta->sector, Q2_SECTOR_SIZE) == 0);
    rc = write_header(s);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: writing the header: %s", s->layer->name, strerror(-rc));
    return rc;
}

int q2_header_replace(struct layer *layer, const struct q2_header *h, const char *doubt, bool only_check,
                      vdisk_queue *queue)
{
    struct q2_meta *meta = &q2_of(layer)->meta;
    struct replace s = {.layer = layer, .meta = meta, .queue = queue, .h = h, .doubt = doubt,
                        .size = meta->geo.cluster_size};
    int rc = 0;

    assert(!layer->read_only && layer == layer->volume->top && doubt);
    assert(h->geo.cluster_size == s.size && (h->geo.version >= 3 || (h->incompatible | h->autoclear) == 0));
    s.old = mem_buffer(align_up(s.size, 4096));
    s.new = mem_buffer(align_up(s.size, 4096));
    if (!s.old || !s.new)
        rc = err_set(ENOMEM, "%s: out of memory", layer->name);
    if (rc == 0)
        rc = q2_header_write(h, layer->name, s.new, (size_t)s.size);
    if (rc == 0 && !only_check)
        rc = replace(&s);
    mem_free(s.old);
    mem_free(s.new);
    return rc;
}
