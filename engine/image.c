/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image is, for who asks: by name, or of a layer of an open volume.
 *
 * Happy path: open the volume without following a name that the image holds, take down what the engine knows,
 * have the format take down the rest, close it; from then on it is memory that does not change.
 * Failure modes: the image cannot be opened: a format may describe what it cannot open by its nature (encrypted);
 * in all other cases the error is the open's. A list that cannot be read: the rest is told, and who asks for the
 * list is told why not. In all others nothing is left.
 */
#include "engine/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/mutant.h"
#include "engine/chain/absent.h"
#include "engine/chain/layer_name.h"
#include "engine/loop/given.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

struct image_text {
    struct image_text *next;
    char              *text;
};

/* give() copies what comes behind it. */
_Static_assert(offsetof(struct vdisk_image_info, size) == 0 && offsetof(struct vdisk_snapshot_info, size) == 0 &&
               offsetof(struct vdisk_bitmap_info, size) == 0, "all begin with their size");
_Static_assert(offsetof(struct vdisk_encryption_info, size) == 0 &&
               offsetof(struct vdisk_key_slot_info, size) == 0, "these, too");

/* ---- making one ---------------------------------------------------------------------------------------- */

static int no_memory(void)
{
    return err_set(ENOMEM, "out of memory");
}

int image_take_text(vdisk_image *im, char *text, const char **ret)
{
    struct image_text *t = text ? mem_alloc(sizeof *t) : NULL;

    if (!t) {
        mem_free(text);
        return no_memory();
    }
    *t = (struct image_text){im->texts, text};
    im->texts = t;
    *ret = text;
    return 0;
}

int image_text(vdisk_image *im, const char *text, const char **ret)
{
    *ret = NULL;
    return text ? image_take_text(im, mem_strdup(text), ret) : 0;
}

int image_problem(vdisk_image *im, int rc, struct image_problem *ret)
{
    int failed = image_text(im, vdisk_error_text(), &ret->text);

    assert(rc < 0 && ret->rc == 0);
    if (failed == 0)
        failed = image_text(im, vdisk_error_hint(), &ret->hint);
    ret->rc = failed < 0 ? 0 : rc;
    return failed;
}

void vdisk_image_free(vdisk_image *im)
{
    if (!im)
        return;
    while (im->texts) {
        struct image_text *t = im->texts;
        im->texts = t->next;
        mem_free(t->text);
        mem_free(t);
    }
    mem_free(im->key_slots);
    mem_free(im->snapshots);
    mem_free(im->bitmaps);
    mem_free(im);
}

/* What is known of a file, and of the name that stands in an image in it. */
static int describe_file(vdisk_image *im, const struct backend *file)
{
    struct vdisk_image_info *info = &im->info;
    int rc = image_text(im, backend_path(file->name), &info->file);

    info->file_size = backend_size(file);
    if (rc == 0 && info->backing_file)
        rc = image_take_text(im, layer_resolve(file->name, info->backing_file), &info->backing_name);
    return rc;
}

static int describe_names(vdisk_image *im, const struct layer *layer)
{
    int rc = image_take_text(im, layer_name_shown(layer->spec, layer->format, layer->file->name), &im->info.name);

    if (rc == 0 && !backend_is_absent(layer->data))
        rc = image_text(im, backend_path(layer->data->name), &im->info.data_path);
    return rc < 0 ? rc : describe_file(im, layer->file);
}

static int describe(vdisk_image *im, struct layer *layer, vdisk_queue *q)
{
    struct vdisk_info info = {.size = sizeof info};
    int rc = layer->format->describe ? layer->format->describe(layer, im, q) : 0;

    if (rc < 0)
        return rc;
    volume_describe_layer(layer, &info);
    im->info.format = info.format;
    im->info.backend = info.backend;
    im->info.virtual_size = info.virtual_size;
    im->info.allocated_size = info.allocated_size;
    im->info.cluster_size = info.cluster_size;
    return describe_names(im, layer);
}

/* Layer `depth` of a volume, while nothing is changed there. */
static int describe_layer(vdisk *v, uint32_t depth, vdisk_image *im)
{
    vdisk_queue *q;
    int rc = volume_manage(v, &q);
    struct layer *layer = v->top;

    if (rc < 0)
        return rc;
    assert(!im->texts && !im->info.format); /* nothing is known yet */
    for (; layer && depth > 0; depth--)
        layer = layer->backing;
    rc = layer ? describe(im, layer, q) : err_set(ENOENT, "%s: has no layer of that depth", v->top->name);
    volume_manage_done(v);
    return rc;
}

static int image_new(vdisk_image **ret)
{
    *ret = mem_calloc(1, sizeof **ret);
    return *ret ? 0 : no_memory();
}

static int image_done(vdisk_image *im, int rc, vdisk_image **ret_image)
{
    assert(rc < 0 || (im->info.name != NULL && im->info.format != NULL));
    if (rc < 0)
        vdisk_image_free(im);
    else
        *ret_image = im;
    return rc;
}

static int of_layer(vdisk *v, uint32_t depth, vdisk_image **ret_image)
{
    vdisk_image *im = NULL;
    int rc = volume_check_handle(v);

    if (rc == 0 && !ret_image)
        rc = err_set(EINVAL, "%s: no place for the image", v->top->name);
    if (rc == 0)
        rc = image_new(&im);
    return rc < 0 ? rc : image_done(im, describe_layer(v, depth, im), ret_image);
}

int vdisk_image_of_layer(vdisk *v, uint32_t depth, vdisk_image **ret_image)
{
    return ERR_CALL(of_layer(v, depth, ret_image));
}

/* ---- by name ------------------------------------------------------------------------------------------- */

/* By a format that knows it, though it cannot open it. `file` is open. */
static int describe_closed(vdisk_image *im, struct backend *file, const struct format_driver *only)
{
    int rc = -ENOTSUP;
    vdisk_queue *q;

    if (volume_queue(file->name, &q) < 0)
        return rc;
    for (const struct format_driver *const *f = format_drivers; *f && rc < 0; f++) {
        if (!(*f)->describe_closed || (only && only != *f))
            continue;
        rc = (*f)->describe_closed(file, im, q);
        im->info.format = (*f)->name;
    }
    if (rc < 0)
        return rc;
    im->info.backend = file->driver->name;
    im->info.allocated_size = file->driver->allocated ? file->driver->allocated(file) : backend_size(file);
    return describe_file(im, file);
}

/* It could not be opened: perhaps that is why. */
static int load_closed(const char *name, const struct vdisk_open_opts *opts, vdisk_image *im)
{
    const struct format_driver *format = NULL;
    struct backend *file = NULL;
    int rc = given_begin(opts->fds, opts->fds_count, name);

    if (rc == 0)
        rc = volume_open_file(name, opts->format, opts->flags, &file, &format);
    given_end();
    if (rc < 0)
        return rc;
    rc = describe_closed(im, file, format);
    backend_close(file);
    if (rc == 0)
        im->info.name = im->info.file;
    return rc;
}

static int load_image(const char *name, const struct vdisk_open_opts *opts, vdisk_image *im)
{
    struct err_saved why;
    vdisk *v;
    int rc = vdisk_open(name, opts, &v);

    if (rc == 0) {
        rc = describe_layer(v, 0, im);
        vdisk_close(v);
        return rc;
    }
    err_save(&why);
    if (load_closed(name, opts, im) == 0)
        return 0;
    err_restore(&why);
    return rc;
}

static int load(const char *name, const struct vdisk_open_opts *user_opts, vdisk_image **ret_image)
{
    struct vdisk_open_opts opts = {.size = sizeof opts};
    vdisk_image *im = NULL;
    int rc = volume_check_name(name);

    if (rc == 0 && !ret_image)
        rc = err_set(EINVAL, "%s: no place for the image", name);
    if (rc == 0)
        rc = volume_check_opts(name, user_opts, &opts);
    if (rc == 0 && opts.flags & VDISK_OPEN_RDWR)
        rc = err_set(EINVAL, "%s: is only looked at: the flag RDWR means nothing", name);
    if (rc == 0)
        rc = image_new(&im);
    if (rc < 0)
        return rc;
    opts.size = sizeof opts;
    if (!ENGINE_MUTANT(NAMES_FOLLOWED))
        opts.flags |= VDISK_OPEN_NO_NAMES;
    return image_done(im, load_image(name, &opts, im), ret_image);
}

int vdisk_image_load(const char *name, const struct vdisk_open_opts *opts, vdisk_image **ret_image)
{
    return ERR_CALL(load(name, opts, ret_image));
}

/* ---- giving it out ------------------------------------------------------------------------------------- */

/* To the caller's struct, as far as that reaches; both begin with their size. */
static int give(const vdisk_image *im, void *ret, const void *from, size_t from_size)
{
    size_t size = 0;

    if (ret)
        memcpy(&size, ret, sizeof size);
    if (!im || size < sizeof size || size > 4096)
        return err_set(EINVAL, "image: %s", !im ? "none is given" : "the struct's size is not set");
    memcpy((char *)ret + sizeof size, (const char *)from + sizeof size, min_u64(size, from_size) - sizeof size);
    return 0;
}

/* Number `index` of a list. */
static int give_item(const vdisk_image *im, void *ret, uint32_t index, const void *list, uint32_t count,
                     size_t item_size)
{
    assert(count == 0 || list != NULL);
    if (index >= count)
        return err_set(ENOENT, "image: there are no more of these");
    return give(im, ret, (const char *)list + index * item_size, item_size);
}

static int tell_problem(const struct image_problem *p)
{
    assert(p->rc < 0 && p->text && p->hint);
    err_set(p->rc, "%s", p->text);
    return p->hint[0] != '\0' ? err_hint(p->rc, "%s", p->hint) : p->rc;
}

int vdisk_image_get_info(const vdisk_image *im, struct vdisk_image_info *ret_info)
{
    return ERR_CALL(give(im, ret_info, im ? &im->info : NULL, sizeof im->info));
}

static int give_snapshot(const vdisk_image *im, uint32_t index, struct vdisk_snapshot_info *ret)
{
    if (!im)
        return give(im, ret, NULL, 0);
    if (im->snapshots_problem.rc < 0)
        return tell_problem(&im->snapshots_problem);
    return give_item(im, ret, index, im->snapshots, im->snapshots_count, sizeof im->snapshots[0]);
}

int vdisk_image_get_snapshot(const vdisk_image *im, uint32_t index, struct vdisk_snapshot_info *ret_snapshot)
{
    return ERR_CALL(give_snapshot(im, index, ret_snapshot));
}

static int give_bitmap(const vdisk_image *im, uint32_t index, struct vdisk_bitmap_info *ret)
{
    if (!im)
        return give(im, ret, NULL, 0);
    if (im->bitmaps_problem.rc < 0)
        return tell_problem(&im->bitmaps_problem);
    return give_item(im, ret, index, im->bitmaps, im->bitmaps_count, sizeof im->bitmaps[0]);
}

int vdisk_image_get_bitmap(const vdisk_image *im, uint32_t index, struct vdisk_bitmap_info *ret_bitmap)
{
    return ERR_CALL(give_bitmap(im, index, ret_bitmap));
}

static int give_encryption(const vdisk_image *im, struct vdisk_encryption_info *ret)
{
    if (im && !im->encryption.format)
        return err_set(ENOENT, "image: is not encrypted");
    return give(im, ret, im ? &im->encryption : NULL, sizeof im->encryption);
}

int vdisk_image_get_encryption(const vdisk_image *im, struct vdisk_encryption_info *ret_encryption)
{
    return ERR_CALL(give_encryption(im, ret_encryption));
}

static int give_key_slot(const vdisk_image *im, uint32_t index, struct vdisk_key_slot_info *ret)
{
    if (!im)
        return give(im, ret, NULL, 0);
    return give_item(im, ret, index, im->key_slots, im->key_slots_count, sizeof im->key_slots[0]);
}

int vdisk_image_get_key_slot(const vdisk_image *im, uint32_t index, struct vdisk_key_slot_info *ret_slot)
{
    return ERR_CALL(give_key_slot(im, index, ret_slot));
}
