/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SIGKILL of what makes a qcow2 target, before each call to the host that may change a file: from the first to the
 * last. Afterwards the target is absent, what it was, empty, refused as unfinished, or whole; and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/test.h"

enum { SOURCE = 300 << 10, OLD = 1 << 20, CALLS_MOST = 2000, WORDS = 12 };

enum left { ABSENT, AS_BEFORE, EMPTY, UNFINISHED, WHOLE, LEFTS };

static const char *const left_names[] = {"absent", "as before", "empty", "unfinished", "whole"};

struct way {
    const char *name;
    bool over, from_stdin;
    const char *words[WORDS];
};

static const struct way ways[] = {
    {"convert", false, false, {"convert", "-O", "qcow2", "source", "target"}},
    {"convert over an image", true, false, {"convert", "-O", "qcow2", "source", "target"}},
    {"convert, preallocated", false, false,
     {"convert", "-O", "qcow2", "-o", "preallocation=full,cluster_size=4k", "source", "target"}},
    {"convert from a pipe", false, true, {"convert", "-f", "raw", "-O", "qcow2", "-", "target"}},
    {"convert with a data file", true, false, {"convert", "-O", "qcow2", "-o", "data_file=target.data", "source",
                                               "target"}},
    {"dd", false, false, {"dd", "-O", "qcow2", "if=source", "of=target"}},
    {"create", true, false, {"create", "-q", "-f", "qcow2", "target", "300K"}},
};

static bool may_change(uint64_t call)
{
    static const uint64_t calls[] = {SYS_openat, SYS_io_uring_enter, SYS_ftruncate, SYS_fallocate, SYS_pwrite64,
                                     SYS_pwritev, SYS_fdatasync, SYS_fsync, SYS_unlinkat, SYS_unlink, SYS_rename,
                                     SYS_exit_group};

    for (unsigned i = 0; i < ARRAY_LEN(calls); i++)
        if (calls[i] == call)
            return true;
    return false;
}

/* Never returns. */
static void become_tool(const struct way *way)
{
    char *argv[WORDS + 2] = {(char *)(uintptr_t)VDISK_IO};
    int in, said;

    for (unsigned i = 0; i < WORDS; i++)
        argv[i + 1] = (char *)(uintptr_t)way->words[i];
    if (chdir(test_dir()) < 0)
        _exit(127);
    in = open(way->from_stdin ? "source" : "/dev/null", O_RDONLY);
    dup2(in, STDIN_FILENO);
    said = open("said", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(said, STDOUT_FILENO);
    dup2(said, STDERR_FILENO);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* it would trace, too */
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(126);
    raise(SIGSTOP);
    execv(VDISK_IO, argv);
    _exit(127);
}

/* A thread has stopped: is it before a call that counts? */
static bool is_before_call(pid_t thread, int status)
{
    struct __ptrace_syscall_info info;

    if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80))
        return false;
    return ptrace(PTRACE_GET_SYSCALL_INFO, thread, (void *)sizeof info, &info) > 0 &&
           info.op == PTRACE_SYSCALL_INFO_ENTRY && may_change(info.entry.nr);
}

/* It goes on to its next call; a signal that it is sent is its own, but what tracing makes of it. */
static void let_go(pid_t thread, int status)
{
    int number = WSTOPSIG(status) & 0x7f;

    if (number == SIGTRAP || number == SIGSTOP)
        number = 0;
    ptrace(PTRACE_SYSCALL, thread, NULL, (void *)(uintptr_t)number); /* perhaps it is gone */
}

/* Killed before call number `n`, from 1 on. false: there are not so many, and it has succeeded. */
static bool run_to(const struct way *way, unsigned n)
{
    const long how = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
    unsigned calls = 0;
    pid_t pid, thread;
    int status;

    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        become_tool(way);
    CHECK(waitpid(pid, &status, __WALL) == pid);
    if (!WIFSTOPPED(status))
        test_skip("nothing can be traced here");
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)how) == 0);
    let_go(pid, status);
    for (;;) {
        thread = waitpid(-1, &status, __WALL);
        CHECK_MSG(thread > 0, "waiting: %s", strerror(errno));
        if (thread == pid && !WIFSTOPPED(status))
            break;
        if (!WIFSTOPPED(status))
            continue;
        if (is_before_call(thread, status) && ++calls == n)
            kill(pid, SIGKILL);
        else
            let_go(thread, status);
    }
    CHECK_MSG(WIFSIGNALED(status) ? calls >= n : WEXITSTATUS(status) == 0, "%s ends with %x after %u calls",
              way->name, (unsigned)status, calls);
    return WIFSIGNALED(status);
}

static void write_source(void)
{
    uint8_t *buf = test_alloc(SOURCE);
    int fd = open(test_path("source"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    rng_fill(test_rng(), buf, SOURCE);
    buf[0] = 0; /* nothing's magic number */
    CHECK(fd >= 0 && write(fd, buf, SOURCE) == SOURCE);
    close(fd);
    free(buf);
}

static enum left judge(const struct image_spec *target)
{
    struct vdisk_open_opts how = {.size = sizeof how};
    struct vdisk_info info = {.size = sizeof info};
    struct image_spec data = *target;
    struct stat st;
    vdisk *v;
    int rc;

    snprintf(data.path, sizeof data.path, "%s", test_path("target.data"));
    kill_wait_image(target);
    kill_wait_image(&data);
    if (stat(target->path, &st) < 0)
        return ABSENT;
    if (st.st_size == 0)
        return EMPTY;
    rc = vdisk_open(target->path, &how, &v); /* found by what it holds */
    if (rc < 0) {
        CHECK_MSG(strstr(vdisk_error_text(), "unfinished image"), "it is refused: %s", vdisk_error_text());
        return UNFINISHED;
    }
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK_OK(vdisk_close(v));
    CHECK_MSG(strcmp(info.format, "qcow2") == 0, "it passes for %s, of %llu bytes", info.format,
              (unsigned long long)info.virtual_size);
    return info.virtual_size == OLD ? AS_BEFORE : WHOLE;
}

static void test_calls(void)
{
    const struct way *way = &ways[test_repetition() % ARRAY_LEN(ways)];
    unsigned count[LEFTS] = {0}, n = 0;
    struct image_spec old;
    bool killed = true;

    write_source();
    while (killed) {
        enum left left;
        CHECK_MSG(++n < CALLS_MOST, "there is no end to it");
        test_note("%s, killed before call %u", way->name, n);
        image_default(&old, "target", OLD);
        unlink(old.path);
        unlink(test_path("target.data"));
        if (way->over)
            image_create(&old);
        killed = run_to(way, n);
        left = judge(&old);
        CHECK(killed || left == WHOLE);
        CHECK(way->over ? left != ABSENT : left != AS_BEFORE);
        count[left]++;
    }
    CHECK(count[UNFINISHED] > 0);
    for (unsigned i = 0; i < LEFTS; i++)
        printf("%s %s %u", i ? "," : " ", left_names[i], count[i]);
    printf("  %s\n", way->name);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "calls", .run = test_calls, .repeat = ARRAY_LEN(ways), .quick = 2},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
