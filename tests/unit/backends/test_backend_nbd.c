/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD client as a backend, against qemu-nbd: each kind of queue, and several queues on several threads. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include "backends/nbd/client.h"
#include "engine/base/bits.h"
#include "tests/unit/backend_test.h"

enum { MIB = 1 << 20, SIZE = 16 * MIB, THREADS = 4, IOS = 200, LONGEST = 3 * MIB };

static char folder[] = "/tmp/vdisk-nbd-XXXXXX", name[300], disk[128], socket_path[128];
static pid_t server;

extern char **environ;

static void start_server(const char *connections)
{
    static const struct timespec blink = {.tv_nsec = 10000000};
    const char *const args[] = {"qemu-nbd", "-f", "raw", "-k", socket_path, "--persistent", "--discard=unmap",
                                "-e", connections, disk, NULL};
    int fd = open(disk, O_RDWR | O_CREAT | O_TRUNC, 0600), rc;
    struct stat st;

    assert_true(fd >= 0 && ftruncate(fd, SIZE) == 0);
    close(fd);
    rc = posix_spawnp(&server, "qemu-nbd", NULL, NULL, unconst(args), environ);
    if (rc == ENOENT)
        SKIP("no qemu-nbd");
    assert_int_equal(rc, 0);
    while (stat(socket_path, &st) < 0) {
        if (waitpid(server, NULL, WNOHANG) != 0)
            fail_msg("qemu-nbd has ended");
        clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
    }
}

static int stop_server(void **state)
{
    if (server > 0) {
        kill(server, SIGTERM);
        waitpid(server, NULL, 0);
    }
    server = 0;
    unlink(socket_path);
    unlink(disk);
    return 0;
}

/* Bytes there and back, of any alignment and in many buffers; the file has them. */
static void move_bytes(vdisk_queue *q, struct backend *b)
{
    char *in = vdisk_alloc_buffer(LONGEST), *out = vdisk_alloc_buffer(LONGEST), byte;
    struct iovec to[700];
    struct io io;

    fill_pattern(in, 777, LONGEST, 3);
    OK(io_pwrite(q, b, in, LONGEST, 777));
    memset(out, 1, LONGEST);
    OK(io_pread(q, b, out, LONGEST, 777));
    assert_memory_equal(in, out, LONGEST);
    memset(out, 1, LONGEST);
    for (size_t i = 0; i < ARRAY_LEN(to); i++)
        to[i] = (struct iovec){out + i * 1000, 1000};
    io_rwv(&io, b, IO_READ, 777, to, ARRAY_LEN(to), ARRAY_LEN(to) * 1000);
    OK(io_run(q, &io));
    assert_memory_equal(in, out, ARRAY_LEN(to) * 1000);
    io_rwv(&io, b, IO_WRITE, 8 * MIB + 512, to, ARRAY_LEN(to), ARRAY_LEN(to) * 1000);
    OK(io_run(q, &io));
    OK(io_pread(q, b, out, 5000, 8 * MIB + 512));
    assert_memory_equal(in, out, 5000);
    OK(io_pread(q, b, &byte, 1, 777 + LONGEST - 1));
    assert_int_equal(byte, in[LONGEST - 1]);
    free(in);
    free(out);
}

static void end_and_zeros(vdisk_queue *q, struct backend *b)
{
    char buf[4096];

    memset(buf, 5, sizeof buf);
    assert_int_equal(io_pwrite(q, b, buf, 4096, SIZE), -ENOSPC);
    assert_int_equal(io_pwrite(q, b, buf, 4096, SIZE - 512), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ZERO, SIZE - 512, 4096), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ZERO, UINT64_MAX - 4095, 4096), -ENOSPC);
    assert_int_equal(io_prange(q, b, IO_ALLOCATE, 0, 4096), -ENOTSUP);
    assert_int_equal(io_prange(q, b, IO_TRUNCATE, SIZE + 512, 0), -ENOTSUP);
    OK(io_prange(q, b, IO_TRUNCATE, SIZE, 0));
    OK(io_prange(q, b, IO_DISCARD, SIZE - 512, 4096));
    assert_range(q, b, SIZE - 4096, 8192, 0);
    OK(io_pwrite(q, b, buf, 4096, 6 * MIB));
    OK(range_with(q, b, IO_ZERO, 5 * MIB, 2 * MIB, IO_UNMAP));
    assert_range(q, b, 5 * MIB, 2 * MIB, 0);
    OK(io_pflush(q, b));
}

static void holes(vdisk_queue *q, struct backend *b)
{
    char buf[65536];

    memset(buf, 5, sizeof buf);
    assert_true(b->caps & BACKEND_SPARSE);
    OK(range_with(q, b, IO_ZERO, 12 * MIB, 4 * MIB, IO_UNMAP));
    assert_status(q, b, 12 * MIB, 4 * MIB, HOLE, 4 * MIB);
    OK(io_pwrite(q, b, buf, sizeof buf, 13 * MIB));
    assert_status(q, b, 12 * MIB, 4 * MIB, HOLE, MIB); /* what was known before is forgotten */
    assert_status(q, b, 13 * MIB, 3 * MIB, DATA, sizeof buf);
    assert_status(q, b, 13 * MIB + 65536, 4 * MIB, HOLE, 4 * MIB); /* and there is nothing behind the end */
    OK(range_with(q, b, IO_ZERO, 13 * MIB, sizeof buf, IO_UNMAP));
    assert_status(q, b, 12 * MIB, 4 * MIB, HOLE, 4 * MIB);
}

static void all_of_it(const char *connections, enum vdisk_queue_kind kind)
{
    struct backend *b;
    vdisk_queue *q;

    start_server(connections);
    q = test_queue(kind);
    OK(backend_open(name, BACKEND_RDWR, &b));
    assert_int_equal(backend_size(b), SIZE);
    for (unsigned i = 0; i < 3; i++) { /* with several connections it is the queue's own by then */
        move_bytes(q, b);
        end_and_zeros(q, b);
        holes(q, b);
    }
    backend_close(b);
    OK(vdisk_queue_destroy(q));
}

static void one_connection(void **state) { all_of_it("1", VDISK_QUEUE_AUTO); }
static void own_connection(void **state) { all_of_it("8", VDISK_QUEUE_AUTO); }
static void plain_ring(void **state) { all_of_it("8", VDISK_QUEUE_URING); }
static void without_ring(void **state) { all_of_it("8", VDISK_QUEUE_THREADS); }

/* Four ops at a time would be more; a thread with a queue each is what crosses. */
struct worker {
    pthread_t       thread;
    struct backend *b;
    unsigned        number;
    int             rc;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
    uint64_t from = (uint64_t)w->number * (SIZE / THREADS), at;
    char in[20000], out[20000];

    for (unsigned i = 0; i < IOS && w->rc == 0; i++) {
        size_t len = 1 + i * 97 % sizeof in;
        at = from + i * 20011 % (SIZE / THREADS - sizeof in);
        fill_pattern(in, at, len, i);
        w->rc = io_pwrite(q, w->b, in, len, at);
        if (w->rc == 0 && i % 16 == 0)
            w->rc = io_pflush(q, w->b);
        if (w->rc == 0)
            w->rc = io_pread(q, w->b, out, len, at);
        if (w->rc == 0 && memcmp(in, out, len) != 0)
            w->rc = -EBADMSG;
    }
    vdisk_queue_destroy(q);
    return NULL;
}

static void several_do(const char *connections, void *(*what)(void *))
{
    struct worker workers[THREADS] = {0};
    struct backend *b;

    start_server(connections);
    OK(backend_open(name, BACKEND_RDWR, &b));
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].b = b;
        workers[i].number = i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, what, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].rc, 0);
    }
    backend_close(b);
}

static void several(const char *connections) { several_do(connections, work); }

static void threads_share_one(void **state) { several("1"); }
static void threads_have_their_own(void **state) { several("8"); }

/* The server takes fewer than there are queues: those without one of their own share. */
static void too_few(void **state) { several("3"); }

/* A queue's connection ends with it, by our doing, while others begin: the server has lost nothing by that. */
static void *come_and_go(void *arg)
{
    enum { LIVES = 40 };
    struct worker *w = arg;

    for (unsigned life = 0; life < LIVES && w->rc == 0; life++) {
        vdisk_queue *q = test_queue(VDISK_QUEUE_AUTO);
        for (unsigned i = 0; i < 100 && w->rc == 0; i++) /* enough for one of its own */
            w->rc = io_pwrite(q, w->b, "data", 4, w->number * 4);
        if (w->rc == 0 && life % 2 == w->number % 2) /* else that is for somebody else to flush */
            w->rc = io_pflush(q, w->b);
        vdisk_queue_destroy(q);
    }
    return NULL;
}

/* On one processor, where a server that has been told goodbye runs at once. */
static void queues_come_and_go(void **state)
{
    cpu_set_t before, one;

    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    several_do("3", come_and_go);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void names_are_read(void **state)
{
    static const struct { const char *name, *host, *port, *path, *export; } good[] = {
        {"nbd://h", "h", NULL, NULL, NULL}, {"nbd://h/", "h", NULL, NULL, NULL},
        {"nbd://h:1/x", "h", "1", NULL, "x"},
        {"nbd+tcp://[::1]:7/a/b", "::1", "7", NULL, "a/b"}, {"nbd://h//x%20y%2fz", "h", NULL, NULL, "x y/z"},
        {"nbd+unix:///?socket=/s", NULL, NULL, "/s", NULL},
        {"nbd+unix:///e?socket=/a%3fb", NULL, NULL, "/a?b", "e"},
        {"nbd:unix:/s", NULL, NULL, "/s", NULL}, {"nbd:unix:/s:exportname=a:b", NULL, NULL, "/s", "a:b"},
        {"nbds://h/x?tls-creds=t", "h", NULL, NULL, "x"},
        {"nbds+tcp://u%40@[::1]:7/?tls-psk-file=/f;tls-hostname=a", "::1", "7", NULL, NULL},
        {"nbds+unix:///e?tls-verify-peer=true&socket=/s&tls-certificates=/d", NULL, NULL, "/s", "e"},
        {"nbd:h:1", "h", "1", NULL, NULL}, {"nbd:[::1]:1:exportname=e%20", "::1", "1", NULL, "e%20"},
    };
    static const char *const bad[] = {
        "nbd:", "nbd:h", "nbd:unix:", "nbd:h:", "nbd://", "nbd:///x", "nbd://h:/x", "nbd://[::1/x", "nbd://u@h/x",
        "nbd://h/x?y", "nbd://h/x#y", "nbd+unix://h/x?socket=s", "nbd+unix:///x", "nbd+unix:///x?socket=",
        "nbd+unix:///x?socket=s&a=b", "nbd://h/%", "nbd://h/%0", "nbd://h/%zz", "nbd://h/%00", "nbd+ssh://h/x",
        "nbd:unix::exportname=x", "nbd:unix:/s:exportname=", "nbd:[::1]x:1",
        "nbds:", "nbds:h:1", "nbds://u:p@h/?tls-creds=t", "nbds://@h/?tls-creds=t", "nbds://h/?tls-creds=",
        "nbds://h/?tls-creds=t&tls-creds=t", "nbds://h/?tls-creds=t&x=y", "nbds://h/?tls-creds=t&socket=/s",
        "nbds+unix:///?tls-creds=t", "nbd+unix:///?socket=/s&tls-creds=t", "nbd://h/?tls-creds=t",
    };

    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        struct spec *s = spec_alloc();
        assert_true(nbd_claims(good[i].name));
        OK(nbd_parse(good[i].name, s));
        const char *const got[] = {spec_text(s, "server.host"), spec_text(s, "server.port"),
                                   spec_text(s, "server.path"), spec_text(s, "export")};
        const char *const want[] = {good[i].host, good[i].port, good[i].path, good[i].export};
        for (unsigned k = 0; k < ARRAY_LEN(got); k++)
            if (!got[k] != !want[k] || (got[k] && strcmp(got[k], want[k]) != 0))
                fail_msg("%s: part %u is '%s'", good[i].name, k, got[k] ? got[k] : "not there");
        spec_free(s);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct spec *s = spec_alloc();
        assert_true(nbd_claims(bad[i]));
        if (nbd_parse(bad[i], s) != -EINVAL)
            fail_msg("%s is taken", bad[i]);
        assert_non_null(strstr(vdisk_error_text(), bad[i]));
        spec_free(s);
    }
    assert_false(nbd_claims("/nbd:x"));
    assert_false(nbd_claims("nbdx"));
}

static void options_are_judged(void **state)
{
    static const struct { const char *name, *says; int rc; } bad[] = {
        {"nbds://h/x", "no credentials", -EINVAL},
        {"nbds://h/x?tls-verify-peer=0&tls-creds=t", "tls-verify-peer=0 is not supported", -ENOTSUP},
        {"nbds://h/x?tls-psk-file=/nowhere", "/nowhere", -ENOENT},
        {"nbds://h/x?tls-certificates=/nowhere", "/nowhere/ca-cert.pem", -ENOENT},
        {"json:{'driver':'nbd'}", "a host or a path", -EINVAL},
        {"json:{'driver':'nbd','host':'h','path':'p'}", "a host or a path", -EINVAL},
        {"json:{'driver':'nbd','path':'p','port':'1'}", "no port", -EINVAL},
        {"json:{'driver':'nbd','server.type':'inet','server.path':'p'}", "server.type", -EINVAL},
        {"json:{'driver':'nbd','server':{'type':'unix','path':'p'},'host':'h'}", "not both", -EINVAL},
        {"json:{'driver':'nbd','path':'p','tls-creds':'t'}", "no TLS credentials 't'", -ENOENT},
        {"json:{'driver':'nbd','path':'p','tls-hostname':'t'}", "tls-creds is missing", -EINVAL},
        {"json:{'driver':'nbd','path':'p','tls-creds':'t','tls-psk-file':'f'}", "and one of them", -EINVAL},
        {"json:{'driver':'nbd','path':'p','tls-certificates':'t','tls-username':'u'}", "tls-username", -EINVAL},
        {"json:{'driver':'nbd','path':'p','x-dirty-bitmap':'b'}", "x-dirty-bitmap", -ENOTSUP},
        {"json:{'driver':'nbd','path':'p','reconnect-delay':'x'}", "reconnect-delay", -EINVAL},
        {"json:{'driver':'nbd','path':'p','colour':'x'}", "no option 'colour'", -EINVAL},
    };
    struct backend *b;

    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(backend_open(bad[i].name, 0, &b), bad[i].rc);
        if (!strstr(vdisk_error_text(), bad[i].says))
            fail_msg("%s: no '%s' in: %s", bad[i].name, bad[i].says, vdisk_error_text());
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read),
        cmocka_unit_test(options_are_judged),
        cmocka_unit_test_teardown(one_connection, stop_server),
        cmocka_unit_test_teardown(own_connection, stop_server),
        cmocka_unit_test_teardown(plain_ring, stop_server),
        cmocka_unit_test_teardown(without_ring, stop_server),
        cmocka_unit_test_teardown(threads_share_one, stop_server),
        cmocka_unit_test_teardown(threads_have_their_own, stop_server),
        cmocka_unit_test_teardown(too_few, stop_server),
        cmocka_unit_test_teardown(queues_come_and_go, stop_server),
    };
    int failed;

    if (!mkdtemp(folder))
        return 1;
    snprintf(socket_path, sizeof socket_path, "%s/s", folder);
    snprintf(disk, sizeof disk, "%s/disk", folder);
    snprintf(name, sizeof name, "nbd:unix:%s", socket_path);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
