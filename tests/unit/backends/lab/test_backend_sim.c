/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulation: virtual time, the order of things, one seed is one run, no system call. */
#include "backends/lab/sim.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "backends/lab/fault.h"
#include "backends/memory.h"
#include "engine/loop/queue.h"
#include "engine/volume.h"
#include "tests/unit/backend_test.h"

enum { BLOCK = 512, BLOCKS = 64, EVENTS = 4096 };

static struct sim *sim;
static vdisk_queue *q;
static struct backend *b;
static struct sim_event events[EVENTS];
static unsigned nevents, stuck_calls;

static void on_event(void *arg, const struct sim_event *e)
{
    if (nevents < EVENTS)
        events[nevents++] = *e;
}

static void on_stuck(void *arg)
{
    stuck_calls++;
}

static int open_named(void *arg, const char *name, uint32_t flags, struct backend **ret_backend)
{
    struct backend *child = NULL;
    int rc = strcmp(name, "disk") == 0 ? memory_backend_create(name, 1 << 20, &child) : -ENOENT;

    return rc < 0 ? rc : sim_backend_create(sim, child, ret_backend);
}

static void start(uint64_t seed)
{
    struct sim_options options = {.seed = seed, .slow_percent = 10, .trace = on_event, .stuck = on_stuck,
                                  .open = open_named};
    struct memory_options memory = {.size = 1 << 20, .align = BLOCK};
    struct backend *child;

    nevents = stuck_calls = 0;
    OK(sim_create(&options, &sim));
    sim_enter(sim);
    q = test_queue(VDISK_QUEUE_AUTO);
    OK(memory_backend_create_with("memory", &memory, &child));
    OK(sim_backend_create(sim, child, &b));
}

static void stop(void)
{
    backend_close(b);
    vdisk_queue_destroy(q);
    sim_leave(sim);
    sim_destroy(sim);
}

static int setup(void **state)
{
    start(1);
    return 0;
}

static int teardown(void **state)
{
    stop();
    return 0;
}

/* ---- one queue ----------------------------------------------------------------------------------------- */

static void bytes_go_through(void **state)
{
    char *buf = vdisk_alloc_buffer(BLOCK);

    assert_int_equal(vdisk_queue_get_kind(q), VDISK_QUEUE_SIMULATED);
    assert_int_equal(vdisk_queue_fd(q), -1);
    assert_int_equal(vdisk_queue_register_buffers(q, &(struct iovec){buf, BLOCK}, 1), -ENOTSUP);
    memset(buf, 7, BLOCK);
    OK(io_pwrite(q, b, buf, BLOCK, 2 << 20));
    assert_int_equal(backend_size(b), (2 << 20) + BLOCK);
    memset(buf, 0, BLOCK);
    OK(io_pread(q, b, buf, BLOCK, 2 << 20));
    assert_true(is_filled(buf, 7, BLOCK));
    OK(io_prange(q, b, IO_TRUNCATE, 1 << 20, 0));
    assert_int_equal(backend_size(b), 1 << 20);
    OK(io_pflush(q, b));
    free(buf);
}

static void time_is_virtual(void **state)
{
    struct vdisk_completion c;
    uint64_t before = sim_now_ns(sim);
    struct timespec hour = {.tv_sec = 3600};

    OK(io_pflush(q, b));
    assert_true(sim_now_ns(sim) > before);
    before = sim_now_ns(sim);
    /* Polling does not move it, a wait does, to the end of its time when nothing comes. */
    assert_int_equal(vdisk_reap(q, &c, 0, 1, NULL), 0);
    assert_int_equal(sim_now_ns(sim), before);
    assert_int_equal(queue_sleep(q, 1, &hour), -ETIME);
    assert_int_equal(sim_now_ns(sim), before + UINT64_C(3600000000000));
}

static void events_are_told(void **state)
{
    OK(io_prange(q, b, IO_ZERO, 4096, 8192));
    assert_int_equal(nevents, 2);
    assert_int_equal(sim_trace_length(sim), 2);
    assert_false(events[0].end);
    assert_true(events[1].end);
    assert_true(events[1].time_ns > events[0].time_ns);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(events[i].kind, IO_ZERO);
        assert_int_equal(events[i].offset, 4096);
        assert_int_equal(events[i].len, 8192);
        assert_string_equal(events[i].state, "SYNC_IO");
    }
}

/* Nothing will ever come: said, not slept. */
static void a_wait_for_nothing_is_told(void **state)
{
    assert_int_equal(queue_sleep(q, 1, NULL), -EDEADLK);
    assert_int_equal(stuck_calls, 1);
}

static void opens_by_name(void **state)
{
    struct backend *named;
    vdisk *v;

    OK(backend_open("sim:disk", BACKEND_RDWR, &named));
    assert_string_equal(named->driver->name, "sim");
    backend_close(named);
    assert_int_equal(backend_open("sim:none", BACKEND_RDWR, &named), -ENOENT);
    OK(vdisk_open("sim:disk", NULL, &v));
    assert_int_equal(vdisk_size(v), 1 << 20);
    OK(vdisk_close(v));
    /* Outside it is a name like any other with a protocol that nobody knows. */
    sim_leave(sim);
    assert_int_equal(backend_open("sim:disk", 0, &named), -ENOTSUP);
    sim_enter(sim);
}

/* A backend that knows nothing of simulations: its calls are made when their time has come. */
static void files_work_too(void **state)
{
    char path[] = "/var/tmp/vdisk-sim-XXXXXX", *buf = vdisk_alloc_buffer(4096);
    int fd = mkstemp(path);
    struct backend *file, *wrapped;

    assert_true(fd >= 0);
    close(fd);
    OK(backend_open(path, BACKEND_RDWR, &file));
    OK(sim_backend_create(sim, file, &wrapped));
    memset(buf, 9, 4096);
    OK(io_pwrite(q, wrapped, buf, 4096, 8192));
    OK(io_pflush(q, wrapped));
    memset(buf, 0, 4096);
    OK(io_pread(q, wrapped, buf, 4096, 8192));
    assert_true(is_filled(buf, 9, 4096));
    backend_close(wrapped);
    unlink(path);
    free(buf);
}

/* ---- many in flight ------------------------------------------------------------------------------------ */

/* BLOCKS writes at once, by two queues, to a raw volume; in which order they end. Returns the trace's hash. */
static uint64_t run_burst(uint64_t seed, uint8_t *ret_order)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    char *buf = vdisk_alloc_buffer(BLOCK);
    struct vdisk_completion c[BLOCKS];
    vdisk_queue *second;
    struct backend *named;
    unsigned n = 0;
    uint64_t hash;
    vdisk *v;

    start(seed);
    second = test_queue(VDISK_QUEUE_THREADS); /* the kind does not matter */
    OK(backend_open("sim:disk", BACKEND_RDWR, &named));
    OK(vdisk_open_backend(named, &opts, &v));
    memset(buf, 3, BLOCK);
    for (unsigned i = 0; i < BLOCKS; i++)
        vdisk_write(i % 2 ? second : q, v, i * BLOCK, buf, BLOCK, 0, i);
    while (n < BLOCKS) {
        vdisk_queue *from = vdisk_queue_inflight(q) ? q : second;
        int got = vdisk_reap(from, c, 1, BLOCKS, NULL);
        assert_true(got > 0);
        for (int i = 0; i < got; i++) {
            assert_int_equal(c[i].result, 0);
            ret_order[n++] = (uint8_t)c[i].user_data;
        }
    }
    hash = sim_trace_hash(sim);
    assert_int_equal(sim_trace_length(sim), 2 * BLOCKS);
    OK(vdisk_close(v));
    vdisk_queue_destroy(second);
    stop();
    free(buf);
    return hash;
}

static void one_seed_is_one_run(void **state)
{
    uint8_t order[3][BLOCKS];
    uint64_t hash = run_burst(5, order[0]);

    assert_int_equal(run_burst(5, order[1]), hash);
    assert_memory_equal(order[0], order[1], BLOCKS);
    assert_int_not_equal(run_burst(6, order[2]), hash);
    assert_memory_not_equal(order[0], order[2], BLOCKS);
    unsigned overtaken = 0;
    for (unsigned i = 1; i < BLOCKS; i++)
        overtaken += order[0][i] < order[0][i - 1];
    assert_true(overtaken > BLOCKS / 8);
}

/* While one queue sleeps, another whose work is at hand does it. */
static void others_run_meanwhile(void **state)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = VDISK_OPEN_RDWR, .format = "raw"};
    struct vdisk_completion c;
    struct backend *named;
    vdisk_queue *second = test_queue(VDISK_QUEUE_AUTO);
    char buf[BLOCK] = {1};
    vdisk *v;

    OK(backend_open("sim:disk", BACKEND_RDWR, &named));
    OK(vdisk_open_backend(named, &opts, &v));
    vdisk_write(q, v, 0, buf, BLOCK, 0, 1);
    for (unsigned i = 0; i < 500; i++) {
        vdisk_write(second, v, BLOCK, buf, BLOCK, 0, 2);
        assert_int_equal(vdisk_reap(second, &c, 1, 1, NULL), 1);
    }
    /* The first queue was never turned by us, and its write has long ended. */
    assert_int_equal(q->done_count, 1);
    assert_int_equal(vdisk_reap(q, &c, 1, 1, NULL), 1);
    vdisk_queue_destroy(second);
    OK(vdisk_close(v));
}

/* Over faults and under them. */
static void composes_with_faults(void **state)
{
    struct fault_rule rule = {.kinds = FAULT_KIND(IO_WRITE), .nth = 1, .what = FAULT_FAIL, .error = EIO};
    struct backend *child, *inner, *middle, *outer;
    char *buf = vdisk_alloc_buffer(BLOCK);

    OK(memory_backend_create("memory", 1 << 20, &child));
    OK(fault_backend_create(child, &inner));
    OK(sim_backend_create(sim, inner, &middle));
    OK(fault_backend_create(middle, &outer));
    memset(buf, 1, BLOCK);
    OK(fault_add_rule(inner, &rule));
    assert_int_equal(io_pwrite(q, outer, buf, BLOCK, 0), -EIO);
    assert_true(events[nevents - 1].end);
    assert_int_equal(events[nevents - 1].result, -EIO);
    OK(fault_add_rule(outer, &rule));
    assert_int_equal(io_pwrite(q, outer, buf, BLOCK, 0), -EIO);
    rule.what = FAULT_LATE;
    rule.calls = 3;
    OK(fault_add_rule(outer, &rule));
    OK(io_pwrite(q, outer, buf, BLOCK, 0));
    backend_close(outer);
    free(buf);
}

/* ---- no system call ------------------------------------------------------------------------------------ */

/* From here on any system call but those that the allocator, asserts and the end of the process need is fatal. */
static bool forbid_system_calls(void)
{
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_mmap),
        ALLOW(SYS_munmap),
        ALLOW(SYS_mprotect),
        ALLOW(SYS_madvise),
        ALLOW(SYS_brk),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_gettid), /* of asserts that a lock is held */
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

enum { CHILD_OK, CHILD_FAILED, CHILD_NO_FILTER = 77 };

/* A volume opened, written, flushed and closed; `stray`: and one call that is none of the engine's. */
static int in_child(bool stray)
{
    uint8_t order[BLOCKS];
    struct timespec t;
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (!forbid_system_calls())
            _exit(CHILD_NO_FILTER);
        run_burst(7, order);
        if (stray)
            syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
        _exit(CHILD_OK);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_FAILED;
}

static void no_system_call(void **state)
{
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    SKIP("a sanitizer makes system calls of its own");
#endif
    int status = in_child(true);

    if (status == CHILD_NO_FILTER)
        SKIP("seccomp filters are not allowed here");
    assert_int_equal(status, CHILD_FAILED); /* the filter works */
    assert_int_equal(in_child(false), CHILD_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bytes_go_through, setup, teardown),
        cmocka_unit_test_setup_teardown(time_is_virtual, setup, teardown),
        cmocka_unit_test_setup_teardown(events_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wait_for_nothing_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(opens_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(files_work_too, setup, teardown),
        cmocka_unit_test_setup_teardown(others_run_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(composes_with_faults, setup, teardown),
        cmocka_unit_test(one_seed_is_one_run),
        cmocka_unit_test(no_system_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
