/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes that grow while they are written to: the domain is the grower (<vdisk-space.h>) of a sparse qcow2 volume
 * whose data has a fixed size until somebody makes it larger.
 *
 * Works: the library asks on a thread of its own, by how full the volume is and how fast that goes; the kind of
 * domain makes the data larger; what waits for room goes on. Up to what the volume takes when it is full, by
 * measure. Fails: there is no room at all: what found no space fails, and so does what comes then, until a write
 * asks again later. It does not work now: what found no space waits, and it is tried again; that is told, once.
 *
 * Invariants:
 *  1. The use's domain is the grower's own: from domain_use_grow() on until the volume is closed nobody else calls
 *     anything of it, and the library calls the grower one at a time.
 *  2. Nothing is written to the volume from here: it is whole whatever happens to who makes it larger.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { AHEAD_MOST = 3600 };

/* ---- what a name says ------------------------------------------------------------------------------------ */

static bool parse_number(const char *text, bool suffix, uint64_t *ret)
{
    static const char suffixes[] = "KMGT";
    const char *found;
    char *end;
    uint64_t value;
    unsigned shift = 0;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || value == 0)
        return false;
    if (suffix && end[0] != '\0') {
        found = strchr(suffixes, end[0] & ~0x20);
        shift = found != NULL ? 10 * (unsigned)(found - suffixes + 1) : 0;
        end += found != NULL;
    }
    *ret = value << shift;
    return end[0] == '\0' && *ret >> shift == value;
}

static bool parse_one(char *text, struct domain_growing *ret)
{
    char *value = strchr(text, '=');
    uint64_t seconds;

    if (value == NULL)
        return false;
    *value++ = '\0';
    if (strcmp(text, "chunk") == 0)
        return parse_number(value, true, &ret->chunk);
    if (strcmp(text, "free") == 0)
        return parse_number(value, true, &ret->least_free);
    if (strcmp(text, "ahead") != 0 || !parse_number(value, false, &seconds) || seconds > AHEAD_MOST)
        return false;
    ret->ahead_ms = (uint32_t)seconds * 1000;
    return true;
}

int dom_take_growing(char *name, struct domain_growing *ret)
{
    char *last = strrchr(name, '/'), *at = strchr(last != NULL ? last : name, ','), *next;
    int rc = 0;

    *ret = (struct domain_growing){0};
    if (at == NULL)
        return 0;
    *at++ = '\0';
    for (; rc == 0 && at != NULL; at = next) {
        next = strchr(at, ',');
        if (next != NULL)
            *next++ = '\0';
        if (!parse_one(at, ret))
            rc = dom_fail(EINVAL, "chunk=SIZE, free=SIZE and ahead=SECONDS say how a thin volume grows",
                          "'%s' says nothing of a volume that is known, or with a value that it cannot have", at);
    }
    return rc;
}

/* ---- growing --------------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* That it failed for another reason than before. */
static void tell(struct domain_use *use, int rc)
{
    if (rc == use->told || rc == 0) {
        use->told = rc;
        return;
    }
    use->told = rc;
    if (use->grow.note != NULL)
        use->grow.note(use->grow.arg, vdisk_error_text());
}

/* What cannot change while the volume is open is as good as a full group. */
static int answer_to(int rc)
{
    return rc == -ENOTSUP || rc == -ENOENT ? -ENOSPC : rc;
}

static void on_wish(void *arg, vdisk *v, const struct vdisk_wish *wish)
{
    struct domain_use *use = arg;
    struct domain_growth done = {.before = wish->storage, .wanted = wish->wanted, .parked = wish->parked};
    uint64_t began = now_ns();

    (void)v;
    assert(use->grows); /* (1) */
    done.result = use->domain->kind->grow(use->domain, use->image, use->volume, wish->wanted, &done.after);
    done.nanoseconds = now_ns() - began;
    tell(use, done.result);
    if (use->grow.grown != NULL)
        use->grow.grown(use->grow.arg, &done);
    vdisk_grown(wish->number, answer_to(done.result));
}

int domain_use_grow(struct domain_use *use, vdisk *v, const struct domain_grow *o)
{
    struct vdisk_grower_opts opts = {.size = sizeof opts, .flags = VDISK_GROWER_ASKED_AGAIN};
    struct domain_volume volume = {.meta.format = DOMAIN_COW};
    uint64_t full;
    int rc;

    if (!use->grows)
        return 0;
    memcpy(volume.uuid, use->volume, DOMAIN_UUID);
    rc = dom_measure_full(use->domain, use->image, &volume, 0, &full);
    if (rc < 0)
        return rc;
    if (o != NULL)
        use->grow = *o;
    opts.chunk = use->growing.chunk;
    opts.least_free = use->growing.least_free;
    opts.ahead_ms = use->growing.ahead_ms;
    opts.limit = text_extents(full, use->domain->extent);
    return vdisk_set_grower(v, on_wish, use, &opts);
}
