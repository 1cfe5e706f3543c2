/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the engine knows of qcow2: the table of the format, and which operation serves which request. */
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/chain/layer_name.h"
#include "engine/loop/queue.h"
#include "engine/spec/option.h"
#include "qcow2/format/format.h"
#include "qcow2/image/create.h"
#include "qcow2/image/image.h"
#include "qcow2/meta/meta.h"
#include "qcow2/qcow2.h"
#include "qcow2/space/space.h"

static int q2_probe(const uint8_t *head, size_t len, const char *name)
{
    /* Version 1 has our magic too: better refused by name than taken for raw data. */
    if (len < 8 || get_be32(head + 4) < 1)
        return 0;
    if (get_be32(head) == Q2_MAGIC_UNFINISHED) /* the same holds for it */
        return get_be32(head + 4) == 2 || get_be32(head + 4) == 3 ? 100 : 0;
    return get_be32(head) == Q2_MAGIC ? 100 : 0;
}

static void q2_submit(struct layer *layer, struct request *r)
{
    struct q2 *q = q2_of(layer);

    assert(queue_is_mine(r->queue) && r->state == REQUEST_STARTED);
    assert(layer == layer->volume->top && !layer->read_only);
    if (r->kind != REQ_FLUSH && atomic_load_explicit(&q->meta.broken, memory_order_relaxed)) {
        request_refuse(r, -EIO);
        return;
    }
    switch ((enum request_kind)r->kind) {
    case REQ_WRITE:
        q2_alloc_write_start(&q->map, r);
        break;
    case REQ_ZERO:
    case REQ_DISCARD:
        q2_clear_start(&q->map, r);
        break;
    case REQ_FLUSH:
        q2_flush_start(&q->flush, r);
        break;
    case REQ_READ:
    case REQ_EXTENTS:
    case REQ_PREFETCH:
    case REQ_COPY:
        assert(!"reads are the engine's, and so are copies by the host");
    }
}

static void q2_write_compressed(struct layer *layer, struct request *r)
{
    struct q2 *q = q2_of(layer);

    assert(queue_is_mine(r->queue) && layer == layer->volume->top && !layer->read_only);
    if (atomic_load_explicit(&q->meta.broken, memory_order_relaxed))
        request_end_later(r, -EIO);
    else
        q2_compressed_write_start(&q->map, r);
}

static bool q2_give_up(struct layer *layer, const struct request *r)
{
    assert(queue_is_mine(r->queue) && layer == r->vdisk->top);
    return q2_map_give_up(&q2_of(layer)->map, &r->io);
}

static const char *const checks[] = {"none", "constant", "cached", "all", NULL};
static const char *const on[] = {"on", "true", "yes", NULL}, *const off[] = {"off", "false", "no", NULL};
static const char *const encryptions[] = {"luks", "aes", NULL};

static const struct option_desc q2_options[] = {
    {SPEC_FILE, OPTION_NODE, true, NULL, "what holds the image", NULL},
    {SPEC_BACKING, OPTION_NODE_OR_NULL, false, NULL, "in place of the backing file that the image names; null: "
                                                     "none, and nothing is written then", NULL},
    {"data-file", OPTION_NODE, false, NULL, "in place of the external data file that the image names", NULL},
    {"cache-size", OPTION_SIZE, false, "32M", "bytes of metadata that are kept, 1M to 256M", NULL},
    {"l2-cache-size", OPTION_SIZE, false, NULL, "the same: there is one bound", NULL},
    {"l2-cache-entry-size", OPTION_SIZE, false, "4k", "accepted: slices have 4 KiB", NULL},
    {"refcount-cache-size", OPTION_SIZE, false, NULL, "accepted: it is in cache-size", NULL},
    {"cache-clean-interval", OPTION_SIZE, false, NULL, "accepted: the bound is enough", NULL},
    {"lazy-refcounts", OPTION_BOOL, false, "off", "accepted: refcounts are exact, and as cheap", NULL},
    {"pass-discard-request", OPTION_CHOICE, false, "on", "on: discarded clusters go back to the host", on},
    {"pass-discard-snapshot", OPTION_BOOL, false, "on", "accepted: snapshots are not deleted here", NULL},
    {"pass-discard-other", OPTION_BOOL, false, "off", "accepted: freed space goes back to the host", NULL},
    {"discard-no-unref", OPTION_CHOICE, false, "off", "off: a discard frees clusters", off},
    {"overlap-check", OPTION_CHOICE, false, "all", "accepted: metadata is never overwritten", checks},
    {"overlap-check.template", OPTION_CHOICE, false, "all", "accepted: the same", checks},
    {"encrypt.format", OPTION_CHOICE, false, NULL, "accepted: an encrypted image cannot be opened", encryptions},
    {"encrypt.key-secret", OPTION_SECRET, false, NULL, "accepted: the same", NULL},
    {NULL, OPTION_TEXT, false, NULL, NULL, NULL},
};

static int q2_trim(struct layer *layer, const struct vdisk_trim_opts *opts, vdisk_queue *queue)
{
    int rc;

    assert(!layer->read_only && layer == layer->volume->top);
    rc = q2_trim_watched(&q2_of(layer)->space, queue, opts);
    if (rc == -ECANCELED)
        return err_set(rc, "%s: giving space back was cancelled", layer->name);
    return rc < 0 ? err_set(rc, "%s: giving space back: %s", layer->name, strerror(-rc)) : 0;
}

static int q2_finish(struct layer *layer, vdisk_queue *queue)
{
    struct q2_meta *meta = &q2_of(layer)->meta;
    struct q2_header_change change = q2_header_change(meta);
    int rc;

    assert(!layer->read_only && layer == layer->volume->top);
    if (get_be32(meta->sector) == Q2_MAGIC)
        return 0;
    if (atomic_load(&meta->broken))
        return err_set(EIO, "%s: takes no more writes", layer->name);
    change.finishes = true;
    change.doubt = "it is not known whether the image is marked as finished";
    rc = q2_header_commit_sync(meta, &change, queue);
    return rc < 0 ? err_set(rc, "%s: writing the header: %s", layer->name, strerror(-rc)) : 0;
}

static int q2_highest_end(struct layer *layer, vdisk_queue *queue, uint64_t *ret_end)
{
    assert(!layer->read_only && layer->mark.by_format);
    return q2_highest(&q2_of(layer)->space, queue, ret_end);
}

const struct format_driver qcow2_driver = {
    .name = "qcow2",
    .options = q2_options,
    .probe = q2_probe,
    .open = q2_open,
    .close = q2_close,
    .lookup = q2_lookup,
    .load = q2_load,
    .load_ahead = q2_load_ahead,
    .load_range = q2_load_range,
    .read_compressed = q2_read_compressed,
    .read_compressed_run = q2_read_compressed_run,
    .submit = q2_submit,
    .write_compressed = q2_write_compressed,
    .give_up = q2_give_up,
    .plan_create = q2_create_plan,
    .create = q2_create,
    .drop_plan = q2_create_drop,
    .measure = q2_measure,
    .front_begin = q2_front_begin,
    .front_add = q2_front_add,
    .front_add_zeroes = q2_front_add_zeroes,
    .front_lay_out = q2_front_lay_out,
    .front_read = q2_front_read,
    .front_next = q2_front_next,
    .front_compress = q2_front_compress,
    .front_pack = q2_front_pack,
    .front_note = q2_front_note,
    .front_place = q2_front_place,
    .front_end = q2_front_end,
    .make_empty = q2_make_empty,
    .set_backing = q2_set_backing,
    .amend = q2_amend,
    .finish = q2_finish,
    .resize = q2_resize,
    .highest = q2_highest_end,
    .check = qcow2_check_image,
    .describe = q2_describe,
    .describe_closed = q2_describe_encrypted,
    .has_host_holes = q2_has_host_holes,
    .trim = q2_trim,
};
