/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver. One connection is made when the export is opened: it is shared by all queues, and lives on a queue
 * of its own with a thread, so that nobody waits for the owner of another queue. Where the server allows it
 * (MULTI_CONN) a queue that has made some I/Os gets a connection of its own, on itself: then nothing crosses
 * threads.
 *
 * Failure modes: no server, no such export, one that cannot be written to, no TLS where it is asked for: an
 * error with the reason. When
 * there is no connection for a queue of its own it goes on with the shared one.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backends/drivers.h"
#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"

enum {
    OWN_AFTER = 16,     /* I/Os: who opens, looks and closes needs none */
    OWN_LINKS_MAX = 16,
    DIAL_PAUSE_MS = 100,
};

/* What a queue has. */
struct seat {
    struct nbd_link *own; /* NULL: none (yet) */
    unsigned         count;
};

static struct nbd_client *client_of(struct backend *b)
{
    return container_of(b, struct nbd_client, b);
}

/* ---- queues ---------------------------------------------------------------------------------------------- */

static int client_attach(struct backend *b, vdisk_queue *q, void **ret_state)
{
    struct seat *seat = mem_calloc(1, sizeof *seat);

    *ret_state = seat;
    return seat ? 0 : -ENOMEM;
}

static void client_detach(struct backend *b, vdisk_queue *q, void *state)
{
    struct seat *seat = state;

    if (seat->own)
        atomic_fetch_sub(&client_of(b)->own_links, 1);
    nbd_link_free(seat->own);
    mem_free(seat);
}

/* A queue that is here to stay has a connection of its own, if there can be so many. */
static void consider_own(struct nbd_client *c, struct seat *seat, vdisk_queue *q)
{
    if (seat->own || ++seat->count < OWN_AFTER)
        return;
    seat->count = 0;
    if (atomic_fetch_add(&c->own_links, 1) < OWN_LINKS_MAX)
        seat->own = nbd_link_new(c, q);
    if (seat->own)
        seat->own->own = true;
    else
        atomic_fetch_sub(&c->own_links, 1);
}

struct nbd_link *nbd_link_for(struct nbd_client *c, vdisk_queue *q, int *ret_rc)
{
    /* Simulated; a test that makes a link at home has them. */
    bool no_sockets = q->host && !q->host->sockets && q != c->home;
    struct seat *seat = no_sockets ? NULL : backend_on_queue(&c->b, q, ret_rc);

    if (!seat) {
        *ret_rc = no_sockets ? -ENOTSUP : *ret_rc;
        return NULL;
    }
    if (c->flags & NBD_FLAG_CAN_MULTI_CONN)
        consider_own(c, seat, q);
    return seat->own && !seat->own->useless ? seat->own : c->shared;
}

/* ---- terms ----------------------------------------------------------------------------------------------- */

static uint32_t most_of(const struct nbd_terms *t, uint32_t align)
{
    uint64_t most = NBD_MAX_PAYLOAD;

    if (t->has_block)
        most = min_u64(most, t->block.maximum);
    return (uint32_t)align_down(most, align);
}

/* As QEMU: sectors, where nothing is said and the size allows for it. */
static uint32_t align_of(const struct nbd_terms *t)
{
    if (t->has_block)
        return t->block.minimum;
    return is_aligned(t->size, 512) ? 512 : 1;
}

static void follow_size(struct nbd_client *c, uint64_t size)
{
    uint64_t old = backend_size(&c->b);

    while (size > old && !atomic_compare_exchange_weak(&c->b.size, &old, size))
        ;
    if (size <= old)
        return;
    for (old = atomic_load(&c->b.peak); old < size && !atomic_compare_exchange_weak(&c->b.peak, &old, size);)
        ;
    backend_tell_moved(&c->b);
}

bool nbd_terms_fit(struct nbd_client *c, const struct nbd_terms *t, char *why)
{
    const uint16_t asked = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_CACHE |
                           NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    const char *what = NULL;

    if (t->size < backend_size(&c->b))
        what = "the export has become smaller";
    else if (c->flags & ~t->flags & asked)
        what = "the server can do less than before";
    else if (t->flags & NBD_FLAG_READ_ONLY && !c->b.read_only)
        what = "the export has become read-only";
    else if (t->has_block && (t->block.minimum > c->b.align || most_of(t, c->b.align) < c->b.max_transfer))
        what = "its sizes of blocks are others now";
    else if (!is_aligned(t->size, c->b.align))
        what = "its size is no multiple of its blocks any more";
    if (what)
        snprintf(why, NBD_WHY_MAX, "%s", what);
    else
        follow_size(c, t->size);
    return !what;
}

static void set_properties(struct nbd_client *c, const struct nbd_terms *t, uint32_t flags)
{
    struct backend *b = &c->b;

    c->flags = t->flags;
    c->unsafe = flags & BACKEND_UNSAFE;
    b->align = align_of(t);
    b->discard_align = b->align;
    b->max_transfer = most_of(t, b->align);
    b->max_iov = NBD_IOVS_MAX;
    b->read_only = !(flags & (BACKEND_RDWR | BACKEND_CREATE));
    b->cached = !(t->flags & NBD_FLAG_SEND_FUA); /* a flush in its place */
    b->caps = (t->flags & NBD_FLAG_SEND_WRITE_ZEROES ? BACKEND_ZERO_FAST : 0u) |
              (t->flags & NBD_FLAG_SEND_TRIM ? BACKEND_DISCARD : 0u) |
              (t->has_context ? BACKEND_SPARSE : 0u);
    assert(is_power_of_two(b->align) && b->max_transfer > 0 && is_aligned(t->size, b->align));
    atomic_store(&b->size, t->size);
    atomic_store(&b->peak, t->size);
}

/* ---- the shared connection's thread ---------------------------------------------------------------------- */

static void *shared_main(void *arg)
{
    struct nbd_client *c = arg;
    vdisk_queue *q = c->home;

    while (!c->stop || !nbd_link_is_idle(c->shared)) {
        queue_turn(q);
        if (after_is_due())
            after_run();
        if (!q->ready.head && (!c->stop || !nbd_link_is_idle(c->shared)))
            queue_sleep(q, 1, NULL);
    }
    return NULL;
}

static void run_stop(struct task *t)
{
    container_of(t, struct nbd_client, stop_task)->stop = true;
}

static int start_thread(struct nbd_client *c)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all); /* the host program's signal handlers are not to run on our thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&c->thread, NULL, shared_main, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc == 0 ? 0 : err_set(rc, "%s: starting a thread: %s", c->b.name, strerror(rc));
}

static int start_shared(struct nbd_client *c, struct nbd_socket *socket, const struct nbd_terms *terms)
{
    struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 4};
    int rc = vdisk_queue_create(&opts, &c->home);

    if (rc < 0)
        return rc;
    c->home->always_turned = true;
    c->shared = nbd_link_new(c, c->home);
    if (!c->shared)
        return err_set(ENOMEM, "%s: out of memory", c->b.name);
    nbd_link_give(c->shared, *socket, terms);
    *socket = (struct nbd_socket){.fd = -1};
    return start_thread(c);
}

/* ---- open and close -------------------------------------------------------------------------------------- */

/* Is it worth trying again: nobody there, or one who has not begun yet, or has just ended. */
static bool may_come(int rc, const struct nbd_terms *terms)
{
    return !terms->reached || rc == -ECONNRESET || rc == -EPIPE || rc == -ETIMEDOUT;
}

/* What to look at when there is no connection. */
static const char *hint_for(const struct nbd_client *c, int rc)
{
    if (c->place.tls && (rc == -EACCES || rc == -EPROTO))
        return "is the server's certificate of the authority in ca-cert.pem, and for that host (or tls-hostname), "
               "and does it take ours, or our key?";
    return "is it running, and has it an export of that name? vdisk-io nbd --list shows it";
}

static int dial_in_time(struct nbd_client *c, struct nbd_terms *terms, struct nbd_socket *ret_socket)
{
    uint64_t deadline = nbd_now_ms() + c->place.open_timeout_ms;
    const struct timespec pause = {.tv_nsec = DIAL_PAUSE_MS * 1000000};
    char why[NBD_WHY_MAX];
    int rc;

    for (;;) {
        rc = nbd_dial(&c->place, terms, ret_socket, why);
        if (rc == 0)
            return 0;
        if (!may_come(rc, terms) || nbd_now_ms() >= deadline) {
            err_set(rc, "%s: %s", c->b.name, why);
            return err_hint(rc, "%s", hint_for(c, rc));
        }
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

static int check_use(struct nbd_client *c, const struct nbd_terms *t, uint32_t flags)
{
    if (flags & (BACKEND_RDWR | BACKEND_CREATE) && t->flags & NBD_FLAG_READ_ONLY)
        return err_hint(err_set(EACCES, "%s: the server gives the export for reading only", c->b.name),
                        "open it read-only, or have the server give it for writing");
    return 0;
}

static void client_free(struct nbd_client *c)
{
    nbd_link_free(c->shared);
    if (c->home)
        vdisk_queue_destroy(c->home);
    nbd_extents_free(c);
    nbd_place_free(&c->place);
    pthread_mutex_destroy(&c->lock);
}

static int connect_client(struct nbd_client *c, const struct spec *options, uint32_t flags)
{
    struct nbd_socket socket = {.fd = -1};
    struct nbd_terms terms;
    int rc = nbd_place_read(c->b.name, options, &c->place);

    if (rc == 0)
        rc = dial_in_time(c, &terms, &socket);
    if (rc == 0)
        rc = check_use(c, &terms, flags);
    if (rc == 0) {
        set_properties(c, &terms, flags);
        rc = start_shared(c, &socket, &terms);
    }
    nbd_socket_close(&socket);
    return rc;
}

static int client_open(const char *name, const struct spec *options, uint32_t flags, struct backend **ret_backend)
{
    struct nbd_client *c = backend_alloc(&nbd_driver, name, sizeof *c);
    int rc;

    if (!c)
        return err_set(ENOMEM, "%s: out of memory", name);
    short_lock_init(&c->lock);
    list_init(&c->links);
    rc = connect_client(c, options, flags);
    if (rc < 0) {
        client_free(c);
        backend_free(&c->b);
        return rc;
    }
    *ret_backend = &c->b;
    return 0;
}

static void client_close(struct backend *b)
{
    struct nbd_client *c = client_of(b);

    c->stop_task.run = run_stop;
    queue_post(c->home, &c->stop_task);
    pthread_join(c->thread, NULL);
    assert(c->stop && nbd_link_is_idle(c->shared));
    assert(atomic_load(&c->own_links) == 0 && atomic_load(&c->advices) == 0);
    client_free(c);
}

const struct backend_driver nbd_driver = {
    .name = "nbd",
    .options = nbd_options,
    .claims = nbd_claims,
    .parse = nbd_parse,
    .open = client_open,
    .list = nbd_list,
    .close = client_close,
    .submit = nbd_submit,
    .attach = client_attach,
    .detach = client_detach,
    .prefetch = nbd_prefetch,
    .explain = nbd_explain,
    .advise = nbd_advise,
};
