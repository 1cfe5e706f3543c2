/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the NBD client reads of a server. The first byte says what it is: a handshake, one that is to go on in TLS,
 * a list of exports, or replies to requests in one of three forms; the second how it is cut in pieces; the rest is
 * the server's, and then it hangs up.
 *
 * A handshake goes over a pair of sockets. Replies come to a link whose queue is simulated, so that each piece
 * comes when it is asked for; its requests are always the same ones, so their cookies are, too. All of them end.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/drivers.h"
#include "backends/nbd/talk.h"
#include "engine/base/bits.h"
#include "engine/base/short_lock.h"
#include "engine/loop/queue.h"
#include "engine/loop/ring_ops.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 64 << 10, EXPORT_SIZE = 1 << 20, CALLS_MAX = 8, ROUNDS = 3, TURNS_MAX = 1 << 20 };

enum what { HANDSHAKE, HANDSHAKE_TLS, SIMPLE, STRUCTURED, EXTENDED, LIST, KINDS };

static bool is_line(const char *text)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            return false;
    return *text && strlen(text) < NBD_WHY_MAX;
}

/* ---- handshakes ------------------------------------------------------------------------------------------ */

static struct tls_creds creds;

/* Of a key that is nobody's. */
static bool have_creds(void)
{
    static bool tried;
    char path[] = "/tmp/fuzz-psk-XXXXXX", why[TLS_WHY];
    const struct tls_opts how = {.end = TLS_CLIENT, .psk = true, .psk_file = path};
    int fd;

    if (tried)
        return creds.keys;
    tried = true;
    fd = mkstemp(path);
    FUZZ_CHECK(fd >= 0 && write(fd, "qemu:00112233\n", 14) == 14, "no file for a key");
    if (tls_creds_load(&creds, &how, why) < 0)
        fprintf(stderr, "without TLS: %s\n", why);
    close(fd);
    unlink(path);
    return creds.keys;
}

/* In the clear a client that wants TLS says its flags and STARTTLS, and nothing else. */
static void judge_tls(int peer)
{
    static uint8_t said[INPUT_MAX];
    ssize_t n = recv(peer, said, sizeof said, MSG_DONTWAIT);
    const size_t head = NBD_CLIENT_FLAGS_SIZE + NBD_OPTION_SIZE;
    struct nbd_option option;

    if (n <= NBD_CLIENT_FLAGS_SIZE)
        return;
    FUZZ_CHECK((size_t)n >= head && nbd_option_get(said + NBD_CLIENT_FLAGS_SIZE, &option) == 0 &&
                   option.option == NBD_OPT_STARTTLS && option.length == 0, "another option than STARTTLS");
    FUZZ_CHECK((size_t)n == head || said[head] == 0x15 || said[head] == 0x16, "more in the clear");
}

static void judge_terms(const struct nbd_terms *terms)
{
    FUZZ_CHECK(terms->size <= INT64_MAX && terms->flags & NBD_FLAG_HAS_FLAGS, "terms that cannot be");
    FUZZ_CHECK(!terms->has_block || (nbd_block_size_valid(&terms->block) &&
                                     is_aligned(terms->size, terms->block.minimum)), "blocks that cannot be");
    FUZZ_CHECK(!terms->extended || terms->structured, "extended headers alone");
    FUZZ_CHECK(!terms->has_context || terms->structured, "a context without structured replies");
}

static int export_told(void *arg, const struct vdisk_export_info *info)
{
    unsigned *told = arg;

    FUZZ_CHECK(strlen(info->name) <= NBD_MAX_STRING && strlen(info->description) <= NBD_MAX_STRING, "too long");
    for (uint32_t i = 0; i < info->n_contexts; i++)
        FUZZ_CHECK(strlen(info->contexts[i]) <= NBD_MAX_STRING, "too long");
    ++*told;
    return 0;
}

static void handshake(const uint8_t *data, size_t size, enum what what)
{
    bool with_tls = what == HANDSHAKE_TLS;
    unsigned told = 0;
    char export[] = "export", why[NBD_WHY_MAX] = "";
    const struct nbd_place place = {.path = export, .export = export, .tls = with_tls ? &creds : NULL};
    struct nbd_terms terms;
    struct nbd_talk *t = nbd_talk_new(&place, &terms, why);
    int fds[2], rc;

    FUZZ_CHECK(t && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "no sockets");
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fds[1], data + done, size - done, MSG_DONTWAIT);
        FUZZ_CHECK(n > 0, "a socket takes too little");
        done += (size_t)n;
    }
    shutdown(fds[1], SHUT_WR);
    t->socket.fd = fds[0];
    rc = nbd_talk_greet(t);
    if (rc == 0)
        rc = what == LIST ? nbd_talk_list(t, export_told, &told) : nbd_talk_agree(t);
    FUZZ_CHECK(rc == 0 || told == 0, "exports are told, and an error");
    FUZZ_CHECK(rc == 0 || is_line(why), "%d without a reason: '%s'", rc, why);
    FUZZ_CHECK(rc < 0 || !with_tls, "TLS with who cannot know the key");
    if (rc == 0 && what == HANDSHAKE)
        judge_terms(&terms);
    if (with_tls)
        judge_tls(fds[1]);
    nbd_talk_free(t);
    close(fds[1]);
}

/* ---- a queue whose sockets are the input ----------------------------------------------------------------- */

static struct fuzz_host {
    struct queue_host host;
    const uint8_t    *in;
    size_t            left;
    uint64_t          random;
    struct call      *calls[CALLS_MAX];
    unsigned          ncalls;
} host;

static vdisk_queue *queue;
static struct nbd_client *client;

static size_t piece(uint64_t most)
{
    host.random = host.random * 6364136223846793005u + 1442695040888963407u;
    return host.random >> 62 == 0 ? most : 1 + (host.random >> 33) % most;
}

static int64_t receive(const struct msghdr *msg)
{
    size_t n = 0, most;

    if (host.left == 0)
        return 0;
    most = piece(host.left);
    for (size_t i = 0; i < msg->msg_iovlen && most > 0; i++) {
        size_t part = min_u64(msg->msg_iov[i].iov_len, most);
        memcpy(msg->msg_iov[i].iov_base, host.in, part);
        host.in += part;
        host.left -= part;
        most -= part;
        n += part;
    }
    FUZZ_CHECK(n > 0, "a receive into nothing");
    return (int64_t)n;
}

static int64_t send_some(const struct msghdr *msg)
{
    uint64_t all = 0;

    for (size_t i = 0; i < msg->msg_iovlen; i++)
        all += msg->msg_iov[i].iov_len;
    return (int64_t)piece(all);
}

static int64_t carry_out(const struct call *c)
{
    if (atomic_load(&c->cancelled))
        return -ECANCELED;
    switch ((enum call_kind)c->kind) {
    case CALL_SEND: return send_some(&c->msg);
    case CALL_RECEIVE: return receive(&c->msg);
    case CALL_POLL:
    case CALL_TIMEOUT:
    case CALL_COMPUTE: return -EIO; /* nobody is there to be dialed */
    }
    return -EIO;
}

static unsigned host_reap(vdisk_queue *q)
{
    unsigned n = host.ncalls;
    struct call *calls[CALLS_MAX];

    memcpy(calls, host.calls, sizeof calls);
    host.ncalls = 0;
    for (unsigned i = 0; i < n; i++) {
        q->kernel_inflight--;
        call_end(calls[i], carry_out(calls[i]));
    }
    return n;
}

static bool host_call(struct call *c)
{
    FUZZ_CHECK(host.ncalls < CALLS_MAX, "more calls than a link makes");
    host.calls[host.ncalls++] = c;
    c->queue->kernel_inflight++;
    return true;
}

static int host_attach(struct queue_host *h, vdisk_queue *q, uint32_t *ret_id)
{
    *ret_id = 1;
    return 0;
}

static void host_detach(struct queue_host *h, vdisk_queue *q)
{
}

static int host_wait(vdisk_queue *q, const struct timespec *timeout)
{
    return 0;
}

static void host_cancel(struct call *c)
{
}

static const struct ring_ops ops = {.attach = host_attach, .detach = host_detach, .reap = host_reap,
                                    .wait = host_wait, .call = host_call, .cancel = host_cancel};

/* ---- requests -------------------------------------------------------------------------------------------- */

static void set_up(void)
{
    const struct vdisk_queue_opts opts = {.size = sizeof opts, .depth = 4};

    host.host.ops = &ops;
    queue_host = &host.host;
    FUZZ_CHECK(vdisk_queue_create(&opts, &queue) == 0, "no queue");
    queue_host = NULL;
    client = backend_alloc(&nbd_driver, "fuzz", sizeof *client);
    FUZZ_CHECK(client, "no memory");
    short_lock_init(&client->lock);
    list_init(&client->links);
    client->home = queue;
    client->flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
    client->b.align = client->b.discard_align = 512;
    client->b.max_transfer = NBD_MAX_PAYLOAD;
    client->b.max_iov = NBD_IOVS_MAX;
    client->b.caps = BACKEND_ZERO_FAST | BACKEND_DISCARD | BACKEND_SPARSE;
    atomic_store(&client->b.size, EXPORT_SIZE);
    atomic_store(&client->b.peak, EXPORT_SIZE);
}

/* What one input has done is not there for the next. */
static void forget(void)
{
    client->acked = client->flushed = 0;
    client->lost = false;
    atomic_store(&client->has_answers, false);
    atomic_store(&client->has_why, false);
    for (unsigned i = 0; i < NBD_ANSWERS; i++)
        if (client->answers[i])
            client->answers[i]->count = 0;
    client->next_answer = 0;
}

static unsigned ended;

static void io_ended(struct io *io)
{
    FUZZ_CHECK(io->res <= 0 && io->res > -4096, "a result of %d", io->res);
    ended++;
}

struct asked {
    struct io           io;
    struct block_status status;
    void               *buf; /* as long as it is read or written: what is past it is nobody's */
};

static void ask(struct asked *a, enum io_kind kind, uint64_t offset, uint64_t len)
{
    *a = (struct asked){.buf = NULL};
    if (kind == IO_READ || kind == IO_WRITE) {
        a->buf = calloc(1, len);
        FUZZ_CHECK(a->buf, "no memory");
        io_rw(&a->io, &client->b, kind, offset, a->buf, len);
    } else {
        io_range(&a->io, &client->b, kind, offset, len);
    }
    a->status.max = STATUS_RUNS_MAX;
    if (kind == IO_STATUS)
        io_status(&a->io, &client->b, offset, len, &a->status);
    a->io.done = io_ended;
    a->io.queue = queue;
    a->io.op = NULL;
    io_start(&a->io);
}

static void judge_status(const struct asked *a)
{
    uint64_t at = a->io.offset;

    for (unsigned i = 0; a->io.res == 0 && i < a->status.count; i++) {
        FUZZ_CHECK(a->status.ends[i] > at && a->status.ends[i] <= a->io.offset + a->io.len, "extents go back");
        at = a->status.ends[i];
    }
}

/* All kinds of commands at once; then they have ended, or the link has. */
static void one_round(void)
{
    struct asked asked[7];

    queue_turn(queue);
    ended = 0;
    ask(&asked[0], IO_READ, 0, 4096);
    ask(&asked[1], IO_WRITE, 8192, 1024);
    ask(&asked[2], IO_STATUS, 0, EXPORT_SIZE);
    ask(&asked[3], IO_READ, 65536, 512);
    ask(&asked[4], IO_FLUSH, 0, 0);
    ask(&asked[5], IO_ZERO, 16384, 4096);
    ask(&asked[6], IO_DISCARD, 512, 1024);
    for (unsigned turns = 0; ended < ARRAY_LEN(asked); turns++) {
        FUZZ_CHECK(turns < TURNS_MAX, "%u of the requests do not end", (unsigned)ARRAY_LEN(asked) - ended);
        queue_turn(queue);
    }
    judge_status(&asked[2]);
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++)
        free(asked[i].buf);
}

static void replies(const uint8_t *data, size_t size, enum what form)
{
    const struct nbd_terms terms = {.size = EXPORT_SIZE, .flags = client->flags, .structured = form != SIMPLE,
                                    .extended = form == EXTENDED, .has_context = form != SIMPLE, .context = 42};
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC); /* it is held, and hung up, and that is all */
    struct nbd_link *l = client->shared = nbd_link_new(client, queue);

    FUZZ_CHECK(l && fd >= 0, "no link");
    forget();
    host.in = data;
    host.left = size;
    nbd_link_give(l, (struct nbd_socket){.fd = fd}, &terms);
    for (unsigned i = 0; i < ROUNDS && l->state == NBD_UP && (i == 0 || host.left > 0); i++)
        one_round();
    FUZZ_CHECK(nbd_link_is_idle(l) && host.ncalls == 0, "something is left");
    FUZZ_CHECK(l->state == NBD_UP || is_line(l->why), "the link ends without a reason");
    nbd_link_free(l);
    client->shared = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum what what;

    if (size < 2 || size > INPUT_MAX)
        return 0;
    if (!queue)
        set_up();
    what = data[0] % KINDS;
    host.random = data[1];
    if (what >= SIMPLE && what <= EXTENDED)
        replies(data + 2, size - 2, what);
    else if (what != HANDSHAKE_TLS || have_creds())
        handshake(data + 2, size - 2, what);
    return 0;
}
