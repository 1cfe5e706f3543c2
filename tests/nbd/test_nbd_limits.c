/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the NBD server's clients may take: of its memory, its time, its connections; in virtual time (served.h),
 * but for who is accepted. And what it must refuse, where a slip would let it through.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/nbd/served.h"

enum { MIB = 1 << 20, SECOND = 1000 };

static void between(const char *what, uint64_t got, uint64_t least, uint64_t most)
{
    if (got < least || got > most) {
        fprintf(stderr, "%s: %llu, not between %llu and %llu\n", what, (unsigned long long)got,
                (unsigned long long)least, (unsigned long long)most);
        abort();
    }
}

static struct wire *served(struct world *w)
{
    struct wire *wire = net_connect(&w->net, w->thread);

    negotiate(w, wire);
    return wire;
}

/* ---- rates ------------------------------------------------------------------------------------------------ */

/* Two clients ask for `n` reads each; how many milliseconds each of them waits for the last reply. */
static void timed_reads(struct world *w, unsigned n, uint32_t len, uint64_t ret[2])
{
    struct wire *wires[2] = {served(w), served(w)};
    uint64_t from = now_ms(w);

    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < 2; k++)
            send_request(wires[k], NBD_CMD_READ, i, 0, len);
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < 2; k++) {
            assert(await_reply(w, wires[k], i, len) == 0);
            ret[k] = now_ms(w) - from;
        }
    for (unsigned k = 0; k < 2; k++)
        wire_close(wires[k]);
}

/* So much is let through at once after a pause, then what the rate allows. */
static void test_rates(void)
{
    static const struct {
        struct nbd_server_opts opts;
        unsigned n;
        uint32_t len;
        unsigned ms; /* that it takes by the rate */
    } all[] = {
        {{.bytes_per_s = MIB, .requests = 4}, 32, 256 << 10, 8 * SECOND},
        {{.bytes_per_s = MIB}, 8, MIB, 8 * SECOND},
        {{.requests_per_s = 100}, 1000, 512, 10 * SECOND},
        {{.requests_per_s = 100, .bytes_per_s = 10240}, 100, 512, 5 * SECOND}, /* the slower one counts */
        {{.requests_per_s = 2, .bytes_per_s = 100 * MIB}, 20, 4096, 10 * SECOND},
    };

    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct world w;
        uint64_t took[2];

        served_begin(&w, 0, &all[i].opts);
        timed_reads(&w, all[i].n, all[i].len, took);
        for (unsigned k = 0; k < 2; k++) {
            /* The last one need not have been paid for when it is let through. */
            uint64_t last = all[i].ms / all[i].n;
            between("a rate", took[k], all[i].ms - 300 - last - 1, all[i].ms + 500);
        }
        served_end(&w);
    }
}

/* Waiting for one's rate is neither idleness nor a request that does not come; others are served at once. */
static void test_rate_is_no_silence(void)
{
    const struct nbd_server_opts opts = {.bytes_per_s = 64 << 10, .request_ms = SECOND, .idle_ms = SECOND};
    struct world w;
    struct wire *slow, *other;
    uint64_t from;

    served_begin(&w, 0, &opts);
    slow = served(&w);
    for (unsigned i = 0; i < 4; i++)
        send_request(slow, NBD_CMD_READ, i, 0, 512 << 10); /* eight seconds each */
    assert(await_reply(&w, slow, 0, 512 << 10) == 0);
    from = now_ms(&w);
    other = served(&w);
    send_request(other, NBD_CMD_READ, 1, 0, 512);
    assert(await_reply(&w, other, 1, 512) == 0);
    between("another client", now_ms(&w) - from, 0, 10);
    for (unsigned i = 1; i < 4; i++)
        assert(await_reply(&w, slow, i, 512 << 10) == 0);
    between("all of it", now_ms(&w) - from, 20 * SECOND, 25 * SECOND);
    assert(slow->open);
    between("idle afterwards", until_cut(&w, slow), 700, 10 * SECOND);
    served_end(&w);
}

/* A stop does not wait for it. */
static void test_stop_with_rate(void)
{
    const struct nbd_server_opts opts = {.requests_per_s = 1};
    struct world w;
    struct wire *wire;
    uint64_t from;

    served_begin(&w, 0, &opts);
    wire = served(&w);
    for (unsigned i = 0; i < 100; i++)
        send_request(wire, NBD_CMD_READ, i, 0, 512);
    assert(await_reply(&w, wire, 0, 512) == 0);
    from = now_ms(&w);
    atomic_store(&w.server->stopping, true);
    nbds_thread_wake(w.thread);
    while (wire->open) {
        wire_take(wire, wire_there(wire));
        served_turn(&w);
    }
    between("a stop", now_ms(&w) - from, 0, SECOND);
    served_end(&w);
}

/* ---- who comes again -------------------------------------------------------------------------------------- */

static void send_write(struct wire *wire, uint64_t cookie, uint8_t fill)
{
    uint8_t data[512];

    memset(data, fill, sizeof data);
    send_request(wire, NBD_CMD_WRITE, cookie, 0, sizeof data);
    wire_send(wire, data, sizeof data);
}

/* The transmission has been asked for; what was answered but the greeting. */
static struct wire *comes(struct world *w)
{
    struct wire *wire = net_connect(&w->net, w->thread);

    send_flags(wire);
    send_option(wire, NBD_OPT_GO, "\0\0\0\0\0", 6);
    await(w, wire, NBD_GREETING_SIZE);
    return wire;
}

static void await_go(struct world *w, struct wire *wire)
{
    uint32_t type;

    do
        type = await_option(w, wire);
    while (type == NBD_REP_INFO);
    assert(type == NBD_REP_ACK);
}

static uint8_t first_byte(struct world *w, struct wire *wire, uint64_t cookie)
{
    send_request(wire, NBD_CMD_READ, cookie, 0, 512);
    assert(await_reply(w, wire, cookie, 0) == 0);
    return await(w, wire, 512)[0];
}

/*
 * A client has sent a write, and hangs up; its thread has something else to do, and has not looked yet. On another
 * thread it comes again: not before that has been done which the former one wrote.
 */
static void test_former_self(void)
{
    static struct world w, other;
    struct wire *former, *again;

    served_begin(&w, 0, NULL);
    net_init(&other.net, 0, 256 << 10);
    other.server = w.server;
    other.thread = &w.server->threads[1];
    former = served(&w);
    assert(nbds_thread_init(other.thread, w.server, &other.net.poller) == 0);
    send_write(former, 1, 'a');
    wire_close(former);
    again = comes(&other);
    for (unsigned i = 0; i < 20; i++) /* seconds, and less than a handshake may take */
        served_turn(&other);
    assert(wire_there(again) == 0);
    while (former->open || atomic_load(&w.server->leaving) > 0)
        served_turn(&w);
    await_go(&other, again);
    assert(first_byte(&other, again, 2) == 'a');
    send_write(again, 3, 'b');
    assert(await_reply(&other, again, 3, 0) == 0);
    for (unsigned i = 0; i < 20; i++)
        served_turn(&w);
    assert(first_byte(&other, again, 4) == 'b');
    atomic_store(&w.server->stopping, true);
    nbds_thread_wake(other.thread);
    while (nbds_thread_turn(other.thread))
        ;
    nbds_thread_free(other.thread);
    net_free(&other.net);
    served_end(&w);
}

/*
 * A client that may do one thing in a second has sent some, and hangs up, but takes replies. When another comes it
 * is cut off; till then it is served.
 */
static void test_rate_of_former(void)
{
    const struct nbd_server_opts opts = {.requests_per_s = 1};
    struct world w;
    struct wire *former, *again;

    served_begin(&w, 0, &opts);
    former = served(&w);
    for (unsigned i = 0; i < 20; i++)
        send_write(former, i, 'a');
    wire_close_half(former);
    for (unsigned i = 0; i < 5; i++)
        assert(await_reply(&w, former, i, 0) == 0);
    assert(former->open);
    again = comes(&w);
    await_go(&w, again);
    send_write(again, 1, 'b');
    assert(await_reply(&w, again, 1, 0) == 0);
    until_cut(&w, former);
    for (uint64_t until = now_ms(&w) + 30 * SECOND; now_ms(&w) < until;)
        served_turn(&w);
    assert(first_byte(&w, again, 2) == 'b');
    served_end(&w);
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

/* Who takes slowly is served slowly, and is not cut off; what it holds is bounded (served_turn()). */
static void test_slow_reader(void)
{
    const struct nbd_server_opts opts = {.client_bytes = 32 * MIB, .reply_ms = 20 * SECOND};
    struct world w;
    struct wire *slow, *other;
    size_t taken = 0;

    served_begin(&w, 0, &opts);
    slow = served(&w);
    other = served(&w);
    for (unsigned i = 0; i < 300; i++)
        send_request(slow, NBD_CMD_READ, i, 0, MIB);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t until = now_ms(&w) + SECOND;
        size_t there = wire_there(slow) < (64 << 10) ? wire_there(slow) : 64 << 10;

        wire_take(slow, there);
        taken += there;
        send_request(other, NBD_CMD_READ, i, 0, 4096);
        assert(await_reply(&w, other, i, 4096) == 0);
        while (now_ms(&w) < until)
            served_turn(&w);
        assert(slow->open);
    }
    between("what was taken", taken, 6 * MIB, 7 * MIB);
    /* The reply that it is at has begun a while ago. */
    between("who takes nothing any more", until_cut(&w, slow), 3 * SECOND, 21 * SECOND);
    served_end(&w);
}

/* Payloads that begin and do not come: what is held for them is bounded, and they are cut off in time. */
static void test_payloads(void)
{
    const struct nbd_server_opts opts = {.client_bytes = 33 * MIB, .request_ms = 10 * SECOND};
    static const uint8_t data[MIB];
    struct world w;
    struct wire *wires[8];

    served_begin(&w, 0, &opts);
    for (unsigned i = 0; i < 8; i++) {
        wires[i] = served(&w);
        for (unsigned k = 0; k < 20; k++) { /* all of the first, and a part of the last */
            send_request(wires[i], NBD_CMD_WRITE, k, 0, 4 * MIB);
            for (unsigned n = k < 19 ? 4 : i % 4; n > 0; n--)
                wire_send(wires[i], data, MIB);
        }
    }
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 19; k++)
            assert(await_reply(&w, wires[i], k, 0) == 0);
    for (unsigned i = 0; i < 8; i++)
        between("half a payload", until_cut(&w, wires[i]), 0, 12 * SECOND);
    assert(w.thread->refused == 8);
    served_end(&w);
}

/* ---- the handshake ---------------------------------------------------------------------------------------- */

static void test_options(void)
{
    const struct nbd_server_opts opts = {.handshake_ms = 5 * SECOND};
    struct world w;
    struct wire *wire, *deaf;
    unsigned answered = 0;

    served_begin(&w, 0, &opts);
    for (unsigned i = 0; i < 200; i++) { /* so that a list is long */
        char name[16];

        snprintf(name, sizeof name, "export %u", i);
        assert(nbd_server_add_export(w.server, &(struct nbd_export_opts){.name = name, .volume = w.volume}) == 0);
    }
    /* Some thousands, each of them answered, and then no more. */
    wire = net_connect(&w.net, w.thread);
    send_flags(wire);
    await(&w, wire, NBD_GREETING_SIZE);
    for (unsigned i = 0; i < NBDS_MAX_OPTIONS + 10; i++)
        send_option(wire, 0x7777, "data", 4);
    while (answered < NBDS_MAX_OPTIONS) {
        assert(await_option(&w, wire) == NBD_REP_ERR_UNSUP);
        answered++;
    }
    until_cut(&w, wire);
    assert(wire_there(wire) == 0);
    /* Lists that nobody takes: one is made, and the others wait. */
    deaf = net_connect(&w.net, w.thread);
    send_flags(deaf);
    for (unsigned i = 0; i < 1000; i++)
        send_option(deaf, NBD_OPT_LIST, NULL, 0);
    while (deaf->open) {
        served_turn(&w);
        for (const struct nbds_conn *c = w.thread->conns; c; c = c->next)
            assert(c->out_size <= 64 << 10);
    }
    served_end(&w);
}

/* The yes to its transmission a client takes as little as a reply: it is cut off in the same time. */
static void test_deaf_to_yes(void)
{
    const struct nbd_server_opts opts = {.reply_ms = 20 * SECOND};
    struct world w;
    struct wire *wire;

    served_begin(&w, 0, &opts);
    w.net.room = NBD_GREETING_SIZE + 10;
    wire = net_connect(&w.net, w.thread);
    send_flags(wire);
    send_option(wire, NBD_OPT_GO, "\0\0\0\0\0", 6);
    while (wire->open && now_ms(&w) < 100 * SECOND)
        served_turn(&w);
    between("deaf to its yes", now_ms(&w), 15 * SECOND, 25 * SECOND);
    served_end(&w);
}

/* Who has to speak TLS first learns nothing before, and gets nowhere. */
static void test_tls_first(void)
{
    static struct nbds_tls tls;
    static const uint32_t options[] = {NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_STRUCTURED_REPLY,
                                       NBD_OPT_EXTENDED_HEADERS, NBD_OPT_SET_META_CONTEXT, 0x7777};
    struct world w;
    struct wire *wire;

    served_begin(&w, 0, NULL);
    w.server->tls = &tls;
    wire = net_connect(&w.net, w.thread);
    send_flags(wire);
    await(&w, wire, NBD_GREETING_SIZE);
    for (unsigned i = 0; i < sizeof options / sizeof options[0]; i++) {
        send_option(wire, options[i], "\0\0\0\0\0", 6);
        assert(await_option(&w, wire) == NBD_REP_ERR_TLS_REQD);
    }
    send_option(wire, NBD_OPT_EXPORT_NAME, NULL, 0);
    until_cut(&w, wire);
    assert(wire_there(wire) == 0);
    w.server->tls = NULL;
    served_end(&w);
}

/* ---- ranges ----------------------------------------------------------------------------------------------- */

/* The volume has 64 MiB: nothing beyond it is asked of it, however the sum comes out. */
static void test_ranges(void)
{
    static const struct {
        uint16_t type;
        uint64_t offset;
        uint32_t length, error;
    } all[] = {
        {NBD_CMD_READ, 64 * MIB, 1, NBD_EINVAL},
        {NBD_CMD_READ, 64 * MIB - 1, 2, NBD_EINVAL},
        {NBD_CMD_READ, UINT64_MAX, 1, NBD_EINVAL},
        {NBD_CMD_READ, UINT64_MAX - 4095, 4096, NBD_EINVAL},
        {NBD_CMD_READ, UINT64_MAX - 4095, 8192, NBD_EINVAL},
        {NBD_CMD_READ, 0, (32 << 20) + 1, NBD_EINVAL},
        {NBD_CMD_READ, 0, UINT32_MAX, NBD_EINVAL},
        {NBD_CMD_WRITE_ZEROES, 64 * MIB - 4096, 8192, NBD_ENOSPC},
        {NBD_CMD_WRITE_ZEROES, UINT64_MAX - 4095, 8192, NBD_ENOSPC},
        {NBD_CMD_TRIM, UINT64_MAX - 4095, 8192, NBD_EINVAL},
        {NBD_CMD_CACHE, UINT64_MAX - 4095, 8192, NBD_EINVAL},
        {NBD_CMD_FLUSH, 0, 512, NBD_EINVAL},
    };
    struct world w;
    struct wire *wire;

    served_begin(&w, 0, NULL);
    wire = served(&w);
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint64_t writes = w.thread->requests;

        send_request(wire, all[i].type, i, all[i].offset, all[i].length);
        assert(await_reply(&w, wire, i, 0) == all[i].error);
        assert(w.thread->requests == writes + 1);
    }
    send_request(wire, NBD_CMD_WRITE, 99, UINT64_MAX - 4095, 8192); /* its payload is skipped */
    for (unsigned i = 0; i < 8192 / 512; i++)
        wire_send(wire, (uint8_t[512]){1}, 512);
    assert(await_reply(&w, wire, 99, 0) == NBD_ENOSPC);
    send_request(wire, NBD_CMD_READ, 100, 0, 8192);
    assert(await_reply(&w, wire, 100, 0) == 0);
    const uint8_t *data = await(&w, wire, 8192);
    assert(data[0] == 0 && memcmp(data, data + 1, 8191) == 0);
    wire_close(wire);
    served_end(&w);
}

/* ---- an end ----------------------------------------------------------------------------------------------- */

/* What is in flight when a stop is asked for is done, and answered. */
static void test_stop(void)
{
    struct world w;
    struct wire *wire;

    served_begin(&w, 0, NULL);
    wire = served(&w);
    w.net.room = 1000; /* so that answers wait */
    for (unsigned i = 0; i < 100; i++)
        send_request(wire, NBD_CMD_READ, i, 0, 512);
    served_turn(&w); /* the connection is readable, and all of it is taken */
    assert(w.thread->requests == 100);
    atomic_store(&w.server->stopping, true);
    nbds_thread_wake(w.thread);
    for (unsigned i = 0; i < 100; i++)
        assert(await_reply(&w, wire, i, 512) == 0);
    until_cut(&w, wire);
    served_end(&w);
}

/* ---- who is accepted -------------------------------------------------------------------------------------- */

enum { ACCEPTED = 8, COME = 100 };

/* What a ring of this thread has done interrupts a wait that has a limit. */
static void await_greeting(int fd)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    ssize_t n;

    for (size_t have = 0; have < sizeof greeting; have += n > 0 ? (size_t)n : 0) {
        n = recv(fd, greeting + have, sizeof greeting - have, 0);
        assert(n > 0 || (n < 0 && errno == EINTR));
    }
}

/* As many as may be; the others wait, and are let in one by one as others leave, in the order that they came. */
static void test_accepted(void)
{
    const struct nbd_server_opts opts = {.clients = ACCEPTED, .threads = 2};
    const struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval minute = {.tv_sec = 60};
    struct nbd_server_stats stats;
    struct nbd_server *server;
    int fds[COME], pair[2];
    char folder[] = "/tmp/vdisk-limits.XXXXXX";
    vdisk *v;

    assert(mkdtemp(folder));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", folder);
    assert(vdisk_open("memory:1M", &how, &v) == 0 && nbd_server_create(&opts, &server) == 0);
    assert(nbd_server_add_export(server, &(struct nbd_export_opts){.name = "", .volume = v}) == 0);
    assert(nbd_server_listen_unix(server, address.sun_path) == 0);
    /* A descriptor that was handed over is a socket that is listened on. */
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && nbd_server_listen_fd(server, pair[0]) == -EINVAL);
    assert(close(pair[0]) == 0 && close(pair[1]) == 0);
    for (unsigned i = 0; i < COME; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert(fds[i] >= 0 && setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof minute) == 0);
        assert(connect(fds[i], (const struct sockaddr *)&address, sizeof address) == 0);
    }
    assert(nbd_server_start(server) == 0);
    for (unsigned i = 0; i < COME; i++) {
        await_greeting(fds[i]);
        nbd_server_get_stats(server, &stats);
        assert(stats.clients <= ACCEPTED && stats.connections <= ACCEPTED + (i < ACCEPTED ? 0 : i + 1 - ACCEPTED));
        if (i + 1 >= ACCEPTED)
            close(fds[i + 1 - ACCEPTED]); /* and one of those that wait comes in */
    }
    for (unsigned i = COME + 1 - ACCEPTED; i < COME; i++)
        close(fds[i]);
    nbd_server_destroy(server);
    assert(vdisk_close(v) == 0 && rmdir(folder) == 0);
}

int main(void)
{
    test_rates();
    test_rate_is_no_silence();
    test_stop_with_rate();
    test_former_self();
    test_rate_of_former();
    test_slow_reader();
    test_payloads();
    test_options();
    test_deaf_to_yes();
    test_tls_first();
    test_ranges();
    test_stop();
    test_accepted();
    return 0;
}
