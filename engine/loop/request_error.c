/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The words for a request that failed: made when it ends, kept with its queue, handed out to whoever asks for a
 * completion's. A ring: those of the last so many that failed. Memory for it is taken when the first one fails;
 * without any there are no words.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/loop/failure.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"

enum { ERRORS_KEPT = 128, TEXT_MAX = 640, HINT_MAX = 160 };

struct words {
    uint32_t number; /* 0: none */
    char     text[TEXT_MAX];
    char     hint[HINT_MAX];
};

struct request_errors {
    uint32_t     last;
    struct words kept[ERRORS_KEPT];
};

_Static_assert(TEXT_MAX <= sizeof(((struct err_saved *)0)->text), "the error text of a thread takes them");
_Static_assert(HINT_MAX <= sizeof(((struct err_saved *)0)->hint), "its hint");

static const char *name_of_kind(uint8_t kind)
{
    switch ((enum request_kind)kind) {
    case REQ_READ: return "read";
    case REQ_WRITE: return "write";
    case REQ_ZERO: return "write zeroes";
    case REQ_DISCARD: return "discard";
    case REQ_FLUSH: return "flush";
    case REQ_EXTENTS: return "block status";
    case REQ_PREFETCH: return "prefetch";
    case REQ_COPY: return "copy of a range";
    }
    return "request";
}

static const char *name_of_io(uint8_t kind)
{
    if (kind == FAILURE_CONTENT)
        return "unpacking";
    switch ((enum io_kind)kind) {
    case IO_READ: return "reading";
    case IO_WRITE: return "writing";
    case IO_ZERO: return "zeroing";
    case IO_DISCARD: return "discarding";
    case IO_ALLOCATE: return "allocating";
    case IO_TRUNCATE: return "changing the size";
    case IO_FLUSH: return "syncing";
    case IO_STATUS: return "looking for holes in";
    }
    return "using";
}

/* The I/O that was it, or else the range that was asked for. */
static void add_where(char *text, size_t size, const struct request *r, int result)
{
    struct failure f;

    if (failure_find(failure_now, result, &f) && f.len > 0)
        snprintf(text, size, " (%s %" PRIu64 " bytes at %" PRIu64 " of %s%s%s)", name_of_io(f.kind), f.len,
                 f.offset, f.file, f.why[0] ? ": " : "", f.why);
    else if (failure_find(failure_now, result, &f))
        snprintf(text, size, " (%s %s%s%s)", name_of_io(f.kind), f.file, f.why[0] ? ": " : "", f.why);
    else if (r->asked != REQ_FLUSH)
        snprintf(text, size, " (%" PRIu64 " bytes at offset %" PRIu64 ")", r->len, r->guest_offset);
}

static uint64_t size_of(const vdisk *v)
{
    return atomic_load_explicit(&v->top->size, memory_order_acquire);
}

static bool is_past_end(const struct request *r)
{
    uint64_t size = size_of(r->vdisk);

    return r->asked != REQ_FLUSH && (r->len > size || r->guest_offset > size - r->len);
}

/* Compressed, and neither whole units nor up to the end. */
static bool is_unit_broken(const struct request *r)
{
    uint64_t unit = r->vdisk->top->compress_align;

    return r->asked == REQ_WRITE && r->flags & VDISK_REQ_COMPRESSED && unit > 0 &&
           ((r->guest_offset | r->len) & (unit - 1)) != 0;
}

/* There is nothing that it could be read into, or come from. */
static bool lacks_memory(const struct request *r)
{
    if (r->asked == REQ_EXTENTS)
        return true;
    return r->iovcnt > 0 && (!r->iov || (r->iovcnt == 1 && !r->iov[0].iov_base && r->iov[0].iov_len > 0));
}

/* What is wrong, where the errno says too little; NULL: it says enough. And what to do; "": nothing known. */
static const char *why(const struct request *r, int result, const char **ret_hint)
{
    const vdisk *v = r->vdisk;
    struct failure f;
    bool found = failure_find(failure_now, result, &f);

    *ret_hint = err_advice(result);
    if (found && f.hint)
        *ret_hint = f.hint;
    else if (found && f.kind == FAILURE_CONTENT)
        *ret_hint = "it is damaged, or the file is cut off: restore it from a copy";
    if (result == -EIO && atomic_load_explicit(&v->top->has_trouble, memory_order_acquire)) {
        *ret_hint = "repair the image with vdisk-io check -r all";
        return v->top->trouble;
    }
    switch (-result) {
    case EACCES:
        *ret_hint = "open it for writing";
        if (v->top->read_only)
            return "it is open read-only";
        return atomic_load(&v->refuses) & VOLUME_READ_ONLY ? "it is not open with what lies below it" : NULL;
    case EPERM:
        if (v->top->guarded)
            *ret_hint = "it would begin like an image of another format: open it with the format raw";
        return NULL;
    case ENOTSUP:
        if (r->asked == REQ_WRITE && r->flags & VDISK_REQ_COMPRESSED)
            return "nothing can be compressed here";
        if (r->asked == REQ_COPY)
            return "the host cannot copy it";
        return r->asked == REQ_ZERO && r->flags & VDISK_REQ_NO_FALLBACK ? "zeros would have to be written" : NULL;
    case ECANCELED: return "cancelled before it was sent";
    case EINVAL:
        if (r->flags & ~request_allowed_flags((enum request_kind)r->asked) & ~(uint32_t)REQUEST_OWN)
            return "unknown flags, or flags of another kind of request";
        if (is_unit_broken(r))
            return "compressed are whole clusters only";
        if (lacks_memory(r))
            return "no memory is given for it";
        *ret_hint = "the file system or the device does not allow it: see the host's log (dmesg)";
        return NULL;
    default: return NULL;
    }
}

static void describe(struct words *w, const struct request *r, int result)
{
    const vdisk *v = r->vdisk;
    const char *hint, *reason;
    int n;

    w->hint[0] = '\0';
    if (result == -EINVAL && is_past_end(r)) {
        snprintf(w->text, sizeof w->text, "%s: %s: %" PRIu64 " bytes at offset %" PRIu64 " reach past the end, %"
                 PRIu64, v->top->name, name_of_kind(r->asked), r->len, r->guest_offset, size_of(v));
        snprintf(w->hint, sizeof w->hint, "stay within the size, or make the volume larger");
        return;
    }
    reason = why(r, result, &hint);
    n = snprintf(w->text, sizeof w->text, "%s: %s: %s", v->top->name, name_of_kind(r->asked),
                 reason ? reason : strerror(-result));
    if (!reason && n >= 0 && (size_t)n < sizeof w->text)
        add_where(w->text + n, sizeof w->text - (size_t)n, r, result);
    snprintf(w->hint, sizeof w->hint, "%s", layer_hint_text(v->top) ? layer_hint_text(v->top) : hint);
}

static uint32_t next_number(struct request_errors *e)
{
    e->last += e->last == UINT32_MAX ? 2 : 1;
    assert(e->last != 0); /* that is the number of none */
    return e->last;
}

uint32_t request_explain(const struct request *r, int result)
{
    vdisk_queue *q = r->queue;
    uint32_t number = 0;

    assert(result < 0 && r->state == REQUEST_STARTED && r->vdisk);
    pthread_mutex_lock(&q->errors_lock);
    if (!q->errors)
        q->errors = mem_calloc(1, sizeof *q->errors);
    if (q->errors) {
        number = next_number(q->errors);
        struct words *w = &q->errors->kept[number % ERRORS_KEPT];
        describe(w, r, result);
        w->number = number;
    }
    pthread_mutex_unlock(&q->errors_lock);
    return number;
}

int request_show_error(vdisk_queue *q, const struct vdisk_completion *c)
{
    struct words w = {0};

    pthread_mutex_lock(&q->errors_lock);
    if (q->errors && c->error != 0)
        w = q->errors->kept[c->error % ERRORS_KEPT];
    pthread_mutex_unlock(&q->errors_lock);
    if (w.number == 0 || w.number != c->error)
        return err_set(c->result, "a request: %s", strerror(-c->result));
    err_set(c->result, "%s", w.text);
    return err_hint(c->result, "%s", w.hint);
}

static int explain(vdisk_queue *q, const struct vdisk_completion *c)
{
    if (!q || !c)
        return err_set(EINVAL, "no queue or no completion is given");
    if (q->generation != process_generation)
        return err_set(ECHILD, "queue: it is the parent process's, which has it still");
    return c->result < 0 ? request_show_error(q, c) : c->result;
}

int vdisk_explain(vdisk_queue *q, const struct vdisk_completion *c)
{
    return ERR_CALL(explain(q, c));
}
