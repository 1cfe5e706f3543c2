/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front of an image that is written from its start to its end, into a pipe say: what holds for all formats.
 *
 * Happy path: where there is data is said, and rounded to the format's units; the format lays out the image,
 * gives the bytes of all that comes before its data, and says which units the data consists of, and in which
 * order. Nothing is opened, and there is no I/O. Failure modes: options that creation refuses, or that a stream
 * cannot have; calls in another order than that: -EINVAL, and nothing has changed.
 *
 * Invariants
 *  1. The format gets whole units, all of them within the volume, rounded up to a unit.
 *  2. Once it is laid out nothing is added.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/create.h"
#include "engine/vdisk-bulk.h"

struct vdisk_front {
    char                       *name;
    struct vdisk_create_opts    opts;
    char                       *strings[CREATE_STRINGS];
    const struct format_driver *format;
    struct front               *front;
    bool                        laid_out; /* invariant 2 */
    bool                        added;
};

_Static_assert(offsetof(struct vdisk_front_info, size) == 0, "of a result its size is first");

static void front_free(vdisk_front *f)
{
    if (f->front)
        f->format->front_end(f->front);
    for (size_t i = 0; i < CREATE_STRINGS; i++)
        mem_free(f->strings[i]);
    mem_free(f->name);
    mem_free(f);
}

static int begin(vdisk_front *f, const char *name)
{
    int rc;

    f->name = mem_strdup(name);
    if (!f->name || !create_copy_strings(&f->opts, f->strings))
        return err_set(ENOMEM, "%s: out of memory", name);
    rc = create_check_opts(f->name, &f->opts, &f->format);
    if (rc < 0)
        return rc;
    if (!f->format->front_begin)
        return err_set(ENOTSUP, "%s: a %s volume cannot be written as a stream", name, f->opts.format);
    if (f->opts.virtual_size > INT64_MAX - 511)
        return err_set(EFBIG, "%s: size %" PRIu64 " is too large", name, f->opts.virtual_size);
    rc = f->format->front_begin(f->name, &f->opts, &f->front);
    assert(rc < 0 || (is_power_of_two(f->front->unit) && is_aligned(f->opts.virtual_size, 512)));
    return rc;
}

static int front_create(const char *name, const struct vdisk_create_opts *opts, vdisk_front **ret)
{
    vdisk_front *f;
    int rc;

    if (!name || !opts || opts->size < sizeof(size_t) || opts->size > 4096 || !ret)
        return err_set(EINVAL, "%s: create options missing or of a wrong size", name ? name : "stream");
    f = mem_calloc(1, sizeof *f);
    if (!f)
        return err_set(ENOMEM, "%s: out of memory", name);
    memcpy(&f->opts, opts, min_u64(opts->size, sizeof f->opts));
    rc = begin(f, name);
    if (rc < 0)
        front_free(f);
    else
        *ret = f;
    return rc;
}

int vdisk_front_create(const char *name, const struct vdisk_create_opts *opts, vdisk_front **ret_front)
{
    return ERR_CALL(front_create(name, opts, ret_front));
}

void vdisk_front_free(vdisk_front *f)
{
    if (f)
        front_free(f);
}

static int get_info(const vdisk_front *f, struct vdisk_front_info *ret)
{
    struct vdisk_front_info i = {.size = ret ? ret->size : 0};

    if (!f || i.size < sizeof(size_t) || i.size > 4096)
        return err_set(EINVAL, "%s: result struct missing or of a wrong size", f ? f->name : "stream");
    i.virtual_size = f->opts.virtual_size;
    i.unit = f->front->unit;
    i.dense = f->front->dense;
    i.length = f->front->length;
    i.packed_max = f->front->packed_max;
    memcpy(ret, &i, min_u64(i.size, sizeof i));
    return 0;
}

int vdisk_front_get_info(const vdisk_front *f, struct vdisk_front_info *ret_info)
{
    return ERR_CALL(get_info(f, ret_info));
}

/* ---- where there is data --------------------------------------------------------------------------------- */

static int add(vdisk_front *f, uint64_t offset, uint64_t len)
{
    uint64_t from;

    if (!f)
        return err_set(EINVAL, "stream: no front");
    if (f->front->dense || f->laid_out)
        return err_set(EINVAL, "%s: nobody asks where there is data", f->name);
    if (len == 0 || offset > f->opts.virtual_size || len > f->opts.virtual_size - offset)
        return err_set(EINVAL, "%s: %" PRIu64 " bytes at %" PRIu64 " are not in the volume", f->name, len, offset);
    from = align_down(offset, f->front->unit);
    f->added = true;
    return f->format->front_add(f->front, from, align_up(offset + len, f->front->unit) - from); /* invariant 1 */
}

static int add_zeroes(vdisk_front *f, uint64_t offset, uint64_t len)
{
    uint64_t from, to;

    if (!f)
        return err_set(EINVAL, "stream: no front");
    if (f->front->dense || f->laid_out)
        return err_set(EINVAL, "%s: nobody asks where there are zeros", f->name);
    if (len == 0 || offset > f->opts.virtual_size || len > f->opts.virtual_size - offset)
        return err_set(EINVAL, "%s: %" PRIu64 " bytes at %" PRIu64 " are not in the volume", f->name, len, offset);
    from = align_up(offset, f->front->unit);
    to = offset + len == f->opts.virtual_size ? align_up(offset + len, f->front->unit)
                                              : align_down(offset + len, f->front->unit);
    return from < to ? f->format->front_add_zeroes(f->front, from, to - from) : 0; /* invariant 1 */
}

int vdisk_front_add_zeroes(vdisk_front *f, uint64_t guest_offset, uint64_t length)
{
    return ERR_CALL(add_zeroes(f, guest_offset, length));
}

int vdisk_front_add(vdisk_front *f, uint64_t guest_offset, uint64_t length)
{
    return ERR_CALL(add(f, guest_offset, length));
}

static int lay_out(vdisk_front *f)
{
    int rc;

    if (!f || f->laid_out)
        return err_set(EINVAL, "%s: is laid out", f ? f->name : "stream");
    rc = f->front->dense ? 0 : f->format->front_lay_out(f->front);
    f->laid_out = rc == 0;
    assert(rc < 0 || f->front->length % f->front->unit == 0);
    return rc;
}

int vdisk_front_lay_out(vdisk_front *f)
{
    return ERR_CALL(lay_out(f));
}

/* ---- compressed data ------------------------------------------------------------------------------------- */

static int compress(vdisk_front *f)
{
    if (!f || f->laid_out || f->added || f->front->packed_max > 0)
        return err_set(EINVAL, "%s: that data is compressed is said first, and once", f ? f->name : "stream");
    if (f->front->dense || !f->format->front_compress)
        return err_set(ENOTSUP, "%s: Compression not supported for this file format", f->name);
    return f->format->front_compress(f->front);
}

int vdisk_front_compress(vdisk_front *f)
{
    return ERR_CALL(compress(f));
}

static int pack(const vdisk_front *f, const void *unit, void *buf, size_t *ret_len)
{
    if (!f || f->front->packed_max == 0 || !unit || !buf || !ret_len)
        return err_set(EINVAL, "%s: is not compressed", f ? f->name : "stream");
    return f->format->front_pack(f->front, unit, buf, ret_len);
}

int vdisk_front_pack(const vdisk_front *f, const void *unit, void *buf, size_t *ret_length)
{
    return ERR_CALL(pack(f, unit, buf, ret_length));
}

static int note_length(vdisk_front *f, uint64_t offset, size_t len)
{
    if (!f || f->laid_out || f->front->packed_max == 0)
        return err_set(EINVAL, "%s: nobody asks how long it gets", f ? f->name : "stream");
    if (offset >= f->opts.virtual_size || !is_aligned(offset, f->front->unit) || len > f->front->packed_max)
        return err_set(EINVAL, "%s: no unit gets %zu bytes at %" PRIu64, f->name, len, offset);
    return f->format->front_note(f->front, offset, len);
}

int vdisk_front_note(vdisk_front *f, uint64_t guest_offset, size_t length)
{
    return ERR_CALL(note_length(f, guest_offset, length));
}

static int place(vdisk_front *f, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_len)
{
    if (!f || !f->laid_out || f->front->packed_max == 0 || !ret_offset || !ret_len)
        return err_set(EINVAL, "%s: is not laid out, or not compressed", f ? f->name : "stream");
    if (offset >= f->opts.virtual_size || !f->format->front_place(f->front, offset, ret_offset, ret_len))
        return err_set(EINVAL, "%s: the unit at %" PRIu64 " is not the next one", f->name, offset);
    return 0;
}

int vdisk_front_place(vdisk_front *f, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_length)
{
    return ERR_CALL(place(f, guest_offset, ret_offset, ret_length));
}

/* ---- what comes of it ------------------------------------------------------------------------------------ */

static int check_laid_out(const vdisk_front *f)
{
    return f && f->laid_out ? 0 : err_set(EINVAL, "%s: is not laid out yet", f ? f->name : "stream");
}

static int read_front(vdisk_front *f, void *buf, size_t len, size_t *ret_len)
{
    int rc = check_laid_out(f);

    if (rc == 0 && (!ret_len || len < f->front->unit))
        rc = err_set(EINVAL, "%s: a front is read by units", f->name);
    if (rc < 0)
        return rc;
    *ret_len = 0;
    return f->front->dense ? 0 : f->format->front_read(f->front, buf, len, ret_len);
}

int vdisk_front_read(vdisk_front *f, void *buf, size_t len, size_t *ret_len)
{
    return ERR_CALL(read_front(f, buf, len, ret_len));
}

static int next_data(const vdisk_front *f, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_len)
{
    int rc = f && f->front->packed_max > 0 ? 0 : check_laid_out(f);

    if (rc < 0)
        return rc;
    *ret_offset = align_down(offset, f->front->unit);
    *ret_len = 0;
    if (offset >= f->opts.virtual_size)
        return 0;
    if (f->front->dense)
        *ret_len = f->opts.virtual_size - *ret_offset;
    else if (!f->format->front_next(f->front, *ret_offset, ret_offset, ret_len))
        *ret_len = 0;
    assert(is_aligned(*ret_offset | *ret_len, f->front->unit));
    return 0;
}

int vdisk_front_next(const vdisk_front *f, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_length)
{
    return ERR_CALL(next_data(f, guest_offset, ret_offset, ret_length));
}
