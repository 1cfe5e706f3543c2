/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another backing file, by name, in the header.
 *
 * Happy path: the new header is made, whole. If all of it is in the first sector that one is written. Else the
 * name is written where nothing of either header lies, and flushed; the first sector becomes a header that is
 * whole by itself, without the names of features, and has its name there; then the rest of the new header is
 * written, and its first sector last. Each step is durable before the next, and a sector is there or it is not: at
 * any moment the image has the old backing file or the new one, and all else that it had. Failure modes: the name
 * does not fit: nothing has changed. There is no room for two names: the names of features are left out, which are
 * optional, so that all is in one sector; if that does not do either (long names of data files) the header is
 * written in one piece, which a power cut can tear. An error once the first sector is being written: the old
 * header or the new one is there; the volume takes no more writes. What the old one had behind the new one cannot
 * be cleared: nothing leads there, so that it stays.
 *
 * Invariants.
 *  1. What the first sector on disk leads to is durable, and not written to.
 *  2. Writes are taken only as long as the header on disk is the old one, whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/format/format.h"
#include "qcow2/image/create.h"
#include "qcow2/image/image.h"
#include "qcow2/mutant.h"

struct set_backing {
    struct layer    *layer;
    struct q2_meta  *meta;
    vdisk_queue     *queue;
    struct q2_header h;         /* what it is to be; its names are ours, all else is the image's own */
    uint8_t         *old, *new; /* the header cluster, as it is and as it is to be */
    uint64_t         size, old_end, new_end; /* of the cluster; of what is used in it */
};

static const char doubt[] = "the header could not be written while it got another backing file";

static uint64_t used_end(const uint8_t *buf, uint64_t size)
{
    while (size > 0 && buf[size - 1] == 0)
        size--;
    return size;
}

/* [from, end) of the new header, or of zeros, to disk; durable. */
static int write_part(const struct set_backing *s, const uint8_t *buf, uint64_t from, uint64_t end)
{
    int rc = from < end ? io_pwrite(s->queue, s->layer->file, buf + from, end - from, from) : 0;

    assert(from >= Q2_SECTOR_SIZE && end <= s->size && is_aligned(from | end, Q2_SECTOR_SIZE));
    return rc == 0 && from < end && !MUTANT(BACKING_UNSYNCED) ? io_pflush(s->queue, s->layer->file) : rc;
}

static int commit_sector(const struct set_backing *s, const uint8_t *sector)
{
    struct q2_header_change change = q2_header_change(s->meta);

    assert(get_be32(sector) == Q2_MAGIC && get_be32(sector + 4) == s->meta->geo.version);
    change.sector = sector;
    change.doubt = doubt;
    return q2_header_commit_sync(s->meta, &change, s->queue);
}

/* Invariant 2: it is not known what the header on disk is. */
static int doubtful(const struct set_backing *s, int rc)
{
    return rc < 0 && !MUTANT(BACKING_TRUSTED) ? q2_doubt(s->meta, doubt) : rc;
}

/* The rest of the cluster: that of the new header, and zeros where the old one had more. */
static int write_rest(const struct set_backing *s)
{
    uint64_t end = align_up(max_u64(s->old_end, s->new_end), Q2_SECTOR_SIZE);

    assert(end <= s->size && used_end(s->new, s->size) == s->new_end);
    return write_part(s, s->new, Q2_SECTOR_SIZE, min_u64(end, s->size));
}

/* By way of a first sector that stands for itself, whose name lies at `place`. */
static int write_by_way(struct set_backing *s, uint64_t place, const uint8_t *sector)
{
    size_t len = s->h.backing_file ? strlen(s->h.backing_file) : 0;
    int rc = 0;

    assert(place >= s->old_end && place >= s->new_end && place + len <= s->size); /* invariant 1 */
    if (len > 0) {
        memcpy(s->old + place, s->h.backing_file, len);
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

static int write_header(struct set_backing *s)
{
    uint64_t place = align_up(max_u64(s->old_end, s->new_end), Q2_SECTOR_SIZE);
    uint8_t sector[Q2_SECTOR_SIZE];
    int rc;

    if (s->new_end > Q2_SECTOR_SIZE && place + Q2_MAX_BACKING_NAME <= s->size &&
        q2_header_write_sector(&s->h, place, sector) == 0)
        return write_by_way(s, place, sector);
    if (s->new_end > Q2_SECTOR_SIZE && q2_header_write_sector(&s->h, 0, sector) == 0) {
        memset(s->new, 0, s->size);
        memcpy(s->new, sector, Q2_SECTOR_SIZE);
        s->new_end = used_end(s->new, s->size);
    }
    if (s->new_end <= Q2_SECTOR_SIZE) {
        rc = commit_sector(s, s->new);
        if (rc == 0) /* zeros, behind all of it */
            write_rest(s);
        return rc;
    }
    rc = io_pwrite(s->queue, s->layer->file, s->new, s->size, 0);
    return doubtful(s, rc == 0 ? commit_sector(s, s->new) : rc);
}

/* In memory, and in the layer, that reads by the old chain as long as it is open. */
static void adopt(struct set_backing *s)
{
    struct q2_header *h = &s->meta->header;

    pthread_mutex_lock(&s->meta->lock);
    mem_free(h->backing_file);
    mem_free(h->backing_format);
    h->backing_file = s->h.backing_file;
    h->backing_format = s->h.backing_format;
    s->h.backing_file = s->h.backing_format = NULL;
    pthread_mutex_unlock(&s->meta->lock);
}

static int make_header(struct set_backing *s, const char *file, const char *format)
{
    s->h = s->meta->header;
    s->h.backing_file = file ? mem_strdup(file) : NULL;
    s->h.backing_format = format ? mem_strdup(format) : NULL;
    s->size = s->meta->geo.cluster_size;
    s->old = mem_buffer(align_up(s->size, 4096));
    s->new = mem_buffer(align_up(s->size, 4096));
    if ((file && !s->h.backing_file) || (format && !s->h.backing_format) || !s->old || !s->new)
        return err_set(ENOMEM, "%s: out of memory", s->layer->name);
    return q2_header_write(&s->h, s->layer->name, s->new, (size_t)s->size);
}

static int change(struct set_backing *s)
{
    int rc = io_pread(s->queue, s->layer->file, s->old, s->size, 0);

    if (rc < 0)
        return err_set(rc, "%s: reading the header: %s", s->layer->name, strerror(-rc));
    s->old_end = used_end(s->old, s->size);
    s->new_end = used_end(s->new, s->size);
    rc = write_header(s);
    if (rc < 0) {
        if (vdisk_error_text()[0] == '\0')
            err_set(rc, "%s: writing the header: %s", s->layer->name, strerror(-rc));
        return rc;
    }
    adopt(s);
    return 0;
}

static int check(const struct layer *layer, const char *file, const char *format)
{
    if (file && q2_of(unconst(layer))->meta.data_file_raw)
        return err_set(EINVAL, "%s: a backing file and data_file_raw cannot be used together", layer->name);
    if (file && !format)
        return err_hint(err_set(EINVAL, "%s: backing format must be specified", layer->name), "use -F");
    if (!file && format)
        return err_set(EINVAL, "%s: backing format without a backing file", layer->name);
    return file ? q2_check_backing(layer->name, file, format) : 0;
}

int q2_set_backing(struct layer *layer, const char *file, const char *format, bool only_check, vdisk_queue *queue)
{
    struct set_backing s = {.layer = layer, .meta = &q2_of(layer)->meta, .queue = queue};
    int rc = check(layer, file, format);

    assert(atomic_load(&layer->volume->refuses) & VOLUME_SHUT);
    if (rc < 0)
        return rc;
    if (atomic_load(&s.meta->broken))
        return layer_trouble(layer, "changing its backing file");
    rc = make_header(&s, file, format);
    if (rc == 0 && !only_check) /* what was written is durable before what it is for */
        rc = q2_trim_run(&q2_of(layer)->space, queue, true);
    if (rc == 0 && !only_check)
        rc = change(&s);
    mem_free(s.h.backing_file == s.meta->header.backing_file ? NULL : s.h.backing_file);
    mem_free(s.h.backing_format == s.meta->header.backing_format ? NULL : s.h.backing_format);
    mem_free(s.old);
    mem_free(s.new);
    return rc;
}
