/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A chain of layers is opened and closed. All of it blocks.
 *
 * Happy path: the format is named or found by the content, it opens its image, the name has the last word; what
 * the image or the name says is below comes next, until nothing is.
 * Failure modes: what does not open closes all that was opened, and the error names it, and whose backing file it
 * is; a name that leads back into the chain is refused before it is opened.
 */
#include "engine/chain/layer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/chain/flat.h"
#include "engine/foreign.h"
#include "engine/loop/log.h"
#include "engine/loop/queue.h"
#include "engine/spec/option.h"
#include "engine/volume.h"

enum {
    PROBE_BYTES = 65536,
    CHAIN_TABLES_MAX = 1 << 30,
    FLAT_BYTES_MIN = 1 << 20,
    FLAT_BYTES_DEFAULT = 32 << 20,
};

int format_probe(struct backend *b, vdisk_queue *q, const struct format_driver **ret)
{
    size_t len = min_u64(backend_size(b), PROBE_BYTES);
    int best = -1, rc = 0;
    uint8_t *head = mem_buffer(PROBE_BYTES);

    if (!head)
        return err_set(ENOMEM, "%s: out of memory", b->name);
    if (len > 0)
        rc = io_pread(q, b, head, len, 0);
    if (rc < 0)
        err_set(rc, "%s: reading the header: %s", b->name, strerror(-rc));
    for (const struct format_driver *const *f = format_drivers; rc == 0 && *f; f++) {
        int score = (*f)->probe(head, len, b->name);
        if (score > best) {
            best = score;
            *ret = *f;
        }
    }
    assert(rc < 0 || best > 0); /* anything may be raw */
    mem_free(head);
    return rc;
}

static void layer_free(struct layer *layer)
{
    if (!layer)
        return;
    flat_free(layer->flat);
    if (layer->data != layer->file)
        backend_close(layer->data);
    backend_close(layer->file);
    range_locks_finish(&layer->guard_locks);
    pthread_mutex_destroy(&layer->mark.lock);
    spec_free(layer->spec);
    mem_free(layer->name);
    mem_free(layer->backing_name);
    mem_free(layer->backing_format);
    mem_free(layer);
}

/* A layer of `volume` on `file`, which it takes over, also on failure. */
static int layer_alloc(vdisk *volume, struct backend *file, uint32_t flags, struct layer **ret)
{
    struct layer *layer = mem_calloc(1, sizeof *layer);

    assert(volume != NULL && file != NULL);
    if (!layer) {
        backend_close(file);
        return err_set(ENOMEM, "out of memory");
    }
    range_locks_init(&layer->guard_locks);
    pthread_mutex_init(&layer->mark.lock, NULL);
    layer->volume = volume;
    layer->file = file;
    layer->open_flags = flags;
    layer->read_only = !(flags & VDISK_OPEN_RDWR);
    layer->name = mem_strdup(file->name);
    if (!layer->name) {
        layer_free(layer);
        return err_set(ENOMEM, "out of memory");
    }
    *ret = layer;
    return 0;
}

/* What its name says, where it overrides what the image says. Takes the name over. */
static int layer_take_name(struct layer *layer, struct layer_name *n)
{
    const struct spec *backing;
    char *text;
    bool none;

    assert(!layer->spec && !layer->backing);
    layer->spec = n->root;
    n->root = NULL;
    if (!layer->spec)
        return 0;
    layer->keeps_discarded = option_keeps_discarded(layer->spec);
    backing = layer_name_backing(layer->spec, &none);
    if (!backing)
        return 0;
    text = spec_print(backing);
    if (!text)
        return err_set(ENOMEM, "out of memory");
    mem_free(layer->backing_name);
    layer->backing_name = text; /* there is something below, whatever the header says */
    return 0;
}

/* A layer of `volume` on `file`, which it takes over, also on failure. `n`: its name, still to be freed. */
static int layer_open(vdisk *volume, struct backend *file, struct layer_name *n, struct layer_open *how,
                      vdisk_queue *q, struct layer **ret)
{
    const struct format_driver *f = n->format;
    struct layer *layer = NULL;
    int rc = 0;

    if (how->progress && how->progress(how->progress_arg, 0, 0))
        rc = err_set(ECANCELED, "%s: opening was cancelled", file->name);
    if (rc == 0 && !f)
        rc = format_probe(file, q, &f);
    if (rc == 0 && !n->format && n->root)
        rc = layer_name_check(n, f);
    if (rc < 0) {
        backend_close(file);
        return rc;
    }
    rc = layer_alloc(volume, file, n->flags, &layer);
    if (rc < 0)
        return rc;
    layer->format = f;
    layer->mark.by_format = f->highest != NULL;
    atomic_init(&layer->mark.above, f->highest ? UINT64_MAX : 0);
    layer->guarded = !n->format && f->plain ? FOREIGN_HEAD : 0;
    how->flags = n->flags;
    how->name = n->root;
    rc = f->open(layer, how, q);
    if (rc == -EINVAL && vdisk_error_hint()[0] == '\0')
        err_hint(rc, "vdisk-io check may tell more; what is raw needs the format raw");
    if (rc < 0) {
        layer_free(layer);
        return rc;
    }
    assert(layer->data);
    assert(layer->reach >= layer->size); /* invariant 2 */
    assert(layer->cluster_size == 0 || is_power_of_two(layer->cluster_size));
    rc = layer_take_name(layer, n);
    if (rc < 0) {
        f->close(layer, q);
        layer_free(layer);
        return rc;
    }
    *ret = layer;
    return 0;
}

static bool has_protocol(const char *name)
{
    size_t colon = strcspn(name, ":/");

    return name[colon] == ':';
}

char *layer_resolve(const char *from, const char *name)
{
    const char *base = backend_path(from);
    const char *slash = strrchr(base, '/');
    char *path;

    if (name[0] == '/' || has_protocol(name) || !slash)
        return mem_strdup(name);
    if (mem_asprintf(&path, "%.*s/%s", (int)(slash - base), base, name) < 0)
        return NULL;
    return path;
}

bool layer_in_chain(const struct layer *top, const struct layer *end, const struct backend_id *id)
{
    for (const struct layer *layer = top; layer != end; layer = layer->backing)
        if (backend_is(layer->file, id) || backend_is(layer->data, id))
            return true;
    return false;
}

/* A layer has been added: its data file must not be that of, or itself, another. */
static int check_data_file(const struct layer *top, const struct layer *added)
{
    if (added->data == added->file || !layer_in_chain(top, added, &added->data->id))
        return 0;
    return err_set(ELOOP, "%s: external data file: %s is part of its own chain", added->name, added->data->name);
}

/* The error names the layer whose backing file it is, and the image that was asked for. */
static int backing_failed(const struct layer *top, const struct layer *layer, int rc)
{
    err_prefix(rc, "%s: backing file", layer->name);
    return layer == top ? rc : err_prefix(rc, "%s", top->name);
}

/* The name of what lies below `layer`; n->root NULL: nothing does. */
static int name_below(struct layer *layer, struct layer_name *n)
{
    uint32_t flags = layer->open_flags & ~(uint32_t)(VDISK_OPEN_RDWR | VDISK_OPEN_CHECK | VDISK_OPEN_UNFINISHED);
    const struct spec *node;
    bool none;
    char *path;
    int rc;

    memset(n, 0, sizeof *n);
    node = layer_name_backing(layer->spec, &none);
    if (node)
        return layer_name_parse(NULL, node, NULL, flags, n);
    if (none || !layer->backing_name || layer->backing_name[0] == '\0')
        return 0;
    path = layer_resolve(layer->name, layer->backing_name);
    if (!path)
        return err_set(ENOMEM, "out of memory");
    rc = layer_name_stored(path, layer->backing_format, flags, n);
    mem_free(path);
    return rc;
}

/* Open the layers below `layer`, which is the last of the chain that starts at `top`. */
static int open_backing(struct layer *top, struct layer *layer, const struct vdisk_open_opts *opts,
                        uint64_t *tables_left, vdisk_queue *q)
{
    struct layer_open how = {.cache_bytes = opts->cache_bytes, .tables_left = tables_left,
                             .progress = opts->progress, .progress_arg = opts->progress_arg};
    uint32_t depth = 1;

    for (;; layer = layer->backing) {
        struct backend *file = NULL;
        struct layer_name n;
        struct backend_id id;
        int rc = name_below(layer, &n);
        if (rc == 0 && !n.root)
            return 0;
        if (rc == 0 && depth == opts->layers) {
            top->volume->cut = true;
            layer_name_free(&n);
            return 0;
        }
        if (rc == 0 && backend_identify_node(n.file, &id) && layer_in_chain(top, NULL, &id))
            rc = err_set(ELOOP, "%s is part of its own chain", n.name);
        else if (rc == 0 && ++depth > opts->max_depth)
            rc = err_set(ELOOP, "more than %u layers in the backing chain", opts->max_depth);
        if (rc == 0)
            rc = backend_open_node(n.name, n.file, layer_backend_flags(n.flags), &file);
        if (rc == 0)
            rc = layer_open(top->volume, file, &n, &how, q, &layer->backing);
        layer_name_free(&n);
        assert(rc < 0 || layer->backing->read_only); /* invariant 3 */
        if (rc < 0)
            layer->backing = NULL;
        else
            rc = check_data_file(top, layer->backing);
        if (rc < 0)
            return backing_failed(top, layer, rc);
    }
}

int layer_hint(const struct layer *layer, int rc)
{
    const char *text = layer_hint_text(layer);

    return text ? err_hint(rc, "%s", text) : rc;
}

int layer_trouble(const struct layer *layer, const char *what)
{
    assert(atomic_load(&layer->has_trouble) && layer->trouble[0] != '\0');
    return err_hint(err_set(EIO, "%s: %s: %s", layer->name, what, layer->trouble),
                    "repair the image with vdisk-io check -r all");
}

int chain_close(struct layer *top, vdisk_queue *q)
{
    struct layer *layer = top;
    int result = 0;

    while (layer) {
        struct layer *next = layer->backing;
        int rc = layer->format->close(layer, q);
        if (rc < 0 && result == 0) {
            result = rc;
            if (rc == -EIO && atomic_load_explicit(&layer->has_trouble, memory_order_acquire))
                layer_trouble(layer, "closing");
            else
                layer_hint(layer, err_advise_host(err_set(rc, "%s: closing: %s", layer->name, strerror(-rc))));
            log_add(VDISK_LOG_ERROR, layer->name, "%s", vdisk_error_text());
        }
        layer_free(layer);
        layer = next;
    }
    return result;
}

static void find_host_holes(struct layer *top, vdisk_queue *q)
{
    for (struct layer *layer = top; layer; layer = layer->backing)
        if (layer->read_only && layer->format->has_host_holes)
            layer->host_holes = layer->format->has_host_holes(layer, q);
}

/* As much for all that lies below the top as a layer may have for itself. */
static int flatten(struct layer *top, uint64_t cache_bytes)
{
    uint64_t bytes = cache_bytes > 0 ? max_u64(cache_bytes, FLAT_BYTES_MIN) : FLAT_BYTES_DEFAULT;

    assert(!top->flat && top->depth > 0);
    if (flat_new(top->backing, bytes, &top->flat) < 0)
        return err_set(ENOMEM, "%s: out of memory", top->name);
    if (top->flat)
        top->backing->below_flat = true;
    return 0;
}

int chain_open(vdisk *volume, struct backend *file, struct layer_name *n, const struct vdisk_open_opts *opts,
               vdisk_queue *q)
{
    uint64_t tables_left = CHAIN_TABLES_MAX;
    struct layer_open how = {.cache_bytes = opts->cache_bytes, .data_file = opts->data_file,
                             .tables_left = &tables_left, .progress = opts->progress,
                             .progress_arg = opts->progress_arg};
    struct layer *top = NULL;
    uint32_t depth = 0;
    int rc = layer_open(volume, file, n, &how, q, &top);

    if (rc == 0 && !(opts->flags & (VDISK_OPEN_NO_BACKING | VDISK_OPEN_NO_NAMES))) {
        rc = open_backing(top, top, opts, &tables_left, q);
        if (rc < 0)
            chain_close(top, q);
    }
    if (rc < 0)
        return rc;
    for (struct layer *l = top; l; l = l->backing)
        depth++;
    for (struct layer *l = top; l; l = l->backing)
        l->depth = depth--;
    assert(depth == 0 && !volume->top);
    rc = flatten(top, opts->cache_bytes);
    if (rc < 0) {
        chain_close(top, q);
        return rc;
    }
    if (opts->flags & VDISK_OPEN_HOST_HOLES)
        find_host_holes(top, q);
    volume->top = top;
    return 0;
}

void layer_set_size(struct layer *layer, uint64_t size)
{
    bool changes = size != atomic_load_explicit(&layer->size, memory_order_relaxed);

    /* Before anybody asks for what is there. */
    if (size > atomic_load_explicit(&layer->reach, memory_order_relaxed))
        atomic_store_explicit(&layer->reach, size, memory_order_release);
    atomic_store_explicit(&layer->size, size, memory_order_release);
    atomic_store_explicit(&layer->reach, size, memory_order_release);
    atomic_store_explicit(&layer->volume->resizer, NULL, memory_order_release);
    if (changes && layer == layer->volume->top)
        events_raise(layer->volume->events, VDISK_EVENT_SIZE);
}

void layer_reach(struct layer *layer, uint64_t reach, vdisk_queue *queue)
{
    assert(reach >= layer_size(layer) && layer == layer->volume->top && queue != NULL);
    atomic_store_explicit(&layer->reach, reach, memory_order_release);
    atomic_store_explicit(&layer->volume->resizer, queue, memory_order_release);
}
