/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the benchmarks measure commands by, and hold absolute figures against. It has nothing of the library.
 *
 *     bench-probe run FILE COMMAND...   run it; seconds, CPU seconds and memory of it into FILE, its exit code
 *     bench-probe alone FILE COMMAND... the same; it can have threads, and starts no process: it is refused that
 *     bench-probe lookup SECONDS        a reference for lookups: what this processor does in a second of its time
 *     bench-probe blake2b BYTES         a reference for digests: bytes in memory, on all processors, seconds
 *
 * A small program starts the command, since the peak of memory that the kernel tells of a process begins with what
 * its starter had. The command dies with its starter.
 *
 * Failure modes: wrong arguments, a command that does not start, or a signal that ended it (exit code 125).
 */
#include <endian.h>
#include <errno.h>
#include <gcrypt.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double read_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static int wrong(const char *what)
{
    fprintf(stderr, "bench-probe: %s\n", what);
    return 125;
}

/* ---- run ---- */

/* Of what makes threads and processes, threads alone. clone3() has its flags in memory: who asks for it is to take
 * clone(), as where there is none. */
static bool forbid_processes(void)
{
    enum { REFUSE = SECCOMP_RET_ERRNO | (EPERM & SECCOMP_RET_DATA), LACK = SECCOMP_RET_ERRNO | ENOSYS };
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, LACK),
#ifdef SYS_fork
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fork, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, REFUSE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_vfork, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, REFUSE),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, REFUSE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int run(const char *file, char **command, bool alone)
{
    struct rusage usage;
    pid_t self = getpid();
    int status;

    double started = now();
    pid_t child = fork();
    if (child < 0)
        return wrong("fork failed");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != self)
            _exit(125);
        if (alone && !forbid_processes())
            _exit(wrong("processes cannot be forbidden"));
        execvp(command[0], command);
        perror(command[0]);
        _exit(125);
    }
    if (wait4(child, &status, 0, &usage) != child)
        return wrong("wait4 failed");
    double took = now() - started;

    FILE *out = fopen(file, "w");
    if (!out)
        return wrong("the file for the result cannot be written");
    fprintf(out, "{\"seconds\": %.6f, \"cpu\": %.6f, \"rss\": %ld}\n", took,
            seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime), usage.ru_maxrss * 1024);
    if (fclose(out) != 0)
        return wrong("the file for the result cannot be written");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}

/* ---- lookup ---- */

/* Tables that stay in the processor's cache, as what is kept of the scenario's mapping does: memory's speed under
 * the load of others is no part of it. */
enum { ENTRIES = 1 << 11, TABLES = 128, PER_TABLE = ENTRIES / TABLES, IN_FLIGHT = 64 };

struct request {
    uint64_t guest, host, length, tag, words[12];
};

/* Draw an offset, go through two tables, fill in a request, take it out of a ring again. */
static uint64_t lookups(uint64_t *const *tables, struct request *ring, uint64_t *random, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++) {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        uint64_t cluster = *random % ENTRIES;
        struct request *r = &ring[i % IN_FLIGHT];
        sum += r->host ^ r->words[r->tag % 12];
        const uint64_t *table = tables[cluster / PER_TABLE];
        *r = (struct request){.guest = cluster << 16, .length = 4096, .tag = *random};
        r->host = be64toh(table[cluster % PER_TABLE]) & 0xfffffffffffe00;
        /* What a request is checked for and counted in, as arithmetic: each word needs the one before. */
        uint64_t word = r->host;
        for (unsigned k = 0; k < 12; k++)
            r->words[k] = word = (word ^ (word >> 29)) * 0xbf58476d1ce4e5b9 + r->tag;
    }
    return sum;
}

static int lookup(double seconds)
{
    static struct request ring[IN_FLIGHT];
    uint64_t *tables[TABLES], random = 88172645463325252, sum = 0, done = 0;

    for (unsigned i = 0; i < TABLES; i++) {
        tables[i] = malloc(PER_TABLE * sizeof **tables);
        if (!tables[i])
            return wrong("out of memory");
        for (unsigned k = 0; k < PER_TABLE; k++)
            tables[i][k] = htobe64((uint64_t)1 << 63 | (uint64_t)(i * PER_TABLE + k) << 16);
    }
    sum += lookups(tables, ring, &random, 100000);
    double started = read_clock(CLOCK_PROCESS_CPUTIME_ID), cpu;
    do {
        sum += lookups(tables, ring, &random, 10000);
        done += 10000;
        cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID) - started;
    } while (cpu < seconds);
    printf("{\"per_cpu_s\": %.1f, \"sum\": %" PRIu64 "}\n", (double)done / cpu, sum);
    for (unsigned i = 0; i < TABLES; i++)
        free(tables[i]);
    return 0;
}

/* ---- blake2b ---- */

enum { BLOCK = 4 << 20, BLOCKS = 4, MAX_THREADS = 256 };

static void *digest_blocks(void *arg)
{
    uint64_t left = *(const uint64_t *)arg;
    unsigned char digest[32], *data = malloc((size_t)BLOCK * BLOCKS);

    if (!data)
        return arg;
    memset(data, 0x5a, (size_t)BLOCK * BLOCKS);
    for (unsigned i = 0; left > 0; i++) {
        size_t length = left < BLOCK ? (size_t)left : BLOCK;
        gcry_md_hash_buffer(GCRY_MD_BLAKE2B_256, digest, data + (size_t)(i % BLOCKS) * BLOCK, length);
        left -= length;
    }
    free(data);
    return NULL;
}

static int blake2b(uint64_t bytes)
{
    pthread_t threads[MAX_THREADS];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = processors < 1 ? 1 : processors > MAX_THREADS ? MAX_THREADS : (unsigned)processors;
    unsigned started = 0;
    uint64_t each = bytes / count;
    void *failed = NULL;

    if (!gcry_check_version(NULL))
        return wrong("libgcrypt does not start");
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    double began = now();
    while (started < count && pthread_create(&threads[started], NULL, digest_blocks, &each) == 0)
        started++;
    for (unsigned i = 0; i < started; i++) {
        void *result;
        pthread_join(threads[i], &result);
        failed = result ? result : failed;
    }
    if (started < count || failed)
        return wrong("no threads, or no memory");
    printf("{\"seconds\": %.6f}\n", now() - began);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[1], "run") == 0)
        return run(argv[2], argv + 3, false);
    if (argc >= 4 && strcmp(argv[1], "alone") == 0)
        return run(argv[2], argv + 3, true);
    if (argc == 3 && strcmp(argv[1], "lookup") == 0)
        return lookup(strtod(argv[2], NULL));
    if (argc == 3 && strcmp(argv[1], "blake2b") == 0)
        return blake2b(strtoull(argv[2], NULL, 0));
    return wrong("run or alone FILE COMMAND..., lookup SECONDS, or blake2b BYTES");
}
