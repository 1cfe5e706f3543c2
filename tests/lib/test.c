/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The runner. The parent forks a child for each case and waits; it never calls the library, so that a child starts
 * from a clean process. Temporary files are the parent's to remove: a child that crashed cannot.
 */
#include "tests/lib/test.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/states.h"

enum { STATUS_SKIPPED = 77, CASE_TIMEOUT_S = 240, SLOW_FACTOR = 5, DEFAULT_SEED = 1, MAX_FAILURES = 20 };

static struct {
    const char *program;
    uint64_t seed;
    unsigned steps;
    unsigned failures;
    const char *only_steps;
    bool quick;
    bool is_long;
    bool no_fork;
    bool keep;
    bool list;
    const char *pattern;
    char root[PATH_MAX];

    /* of the case that runs */
    char name[128];
    unsigned repetition;
    char dir[PATH_MAX];
    char note[2048];
    struct rng rng;
} run;

/* ---- inside a case ---------------------------------------------------------------------------------- */

struct rng *test_rng(void)
{
    return &run.rng;
}

uint64_t test_seed(void)
{
    return run.seed;
}

unsigned test_repetition(void)
{
    return run.repetition;
}

unsigned test_steps(unsigned n)
{
    if (run.steps > 0)
        return run.steps;
    return run.quick ? n / 5 + 1 : n;
}

const char *test_only_steps(void)
{
    return run.only_steps;
}

void test_set_only_steps(const char *list)
{
    run.only_steps = list;
}

bool test_is_long(void)
{
    return run.is_long;
}

bool test_is_quick(void)
{
    return run.quick;
}

bool test_is_slow(void)
{
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    return true;
#elif defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#else
    return false;
#endif
#else
    return false;
#endif
}

unsigned test_every(unsigned n)
{
#if defined __SANITIZE_THREAD__
    return n;
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
    return n;
#else
    return 1;
#endif
#else
    return 1;
#endif
}

unsigned test_share_first(unsigned n)
{
    return (unsigned)(run.seed % test_every(n));
}

uint64_t test_difference(const void *a, const void *b, uint64_t len)
{
    enum { PIECE = 4096 };
    const uint8_t *x = a, *y = b;

    for (uint64_t at = 0, n; at < len; at += n) {
        n = len - at < PIECE ? len - at : PIECE;
        if (memcmp(x + at, y + at, n) == 0)
            continue;
        while (x[at] == y[at])
            at++;
        return at;
    }
    return UINT64_MAX;
}

const char *test_dir(void)
{
    return run.dir;
}

static const char *make_path(const char *dir, const char *fmt, va_list ap)
{
    enum { RING = 16 };
    static _Thread_local char paths[RING][PATH_MAX];
    static _Thread_local unsigned next;
    char *path = paths[next++ % RING];
    int n = snprintf(path, PATH_MAX, "%s/", dir);

    vsnprintf(path + n, (size_t)(PATH_MAX - n), fmt, ap);
    return path;
}

const char *test_path(const char *fmt, ...)
{
    const char *path;
    va_list ap;

    va_start(ap, fmt);
    path = make_path(run.dir, fmt, ap);
    va_end(ap);
    return path;
}

const char *test_shared_path(const char *fmt, ...)
{
    const char *path;
    va_list ap;

    va_start(ap, fmt);
    path = make_path(run.root, fmt, ap);
    va_end(ap);
    return path;
}

void test_note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(run.note, sizeof run.note, fmt, ap);
    va_end(ap);
}

void test_skip(const char *fmt, ...)
{
    va_list ap;

    printf("skipped %s: ", run.name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    _exit(STATUS_SKIPPED);
}

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char copy[4096], file[PATH_MAX], *save = NULL;

    snprintf(copy, sizeof copy, "%s:/usr/sbin:/sbin", path ? path : "");
    for (char *dir = strtok_r(copy, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
        snprintf(file, sizeof file, "%s/%s", dir, program);
        if (access(file, X_OK) == 0)
            return true;
    }
    return false;
}

void test_requires(const char *program)
{
    if (!in_path(program))
        test_skip("%s is not installed", program);
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    static _Atomic int failing;
    va_list ap;

    if (failing++)
        pause(); /* another thread is at it, and ends the process */
    flockfile(stdout);
    printf("FAILED %s at %s:%d: ", run.name, file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    if (run.note[0])
        printf("    with %s\n", run.note);
    printf("    again: VDISK_SEED=%" PRIu64 " %s --case '%s'", run.seed, run.program, run.name);
    if (run.steps > 0)
        printf(" --steps %u", run.steps);
    if (run.only_steps)
        printf(" --only-steps %s", run.only_steps);
    printf("%s\n", run.quick ? " (with VDISK_TEST_QUICK=1)" : "");
    fflush(stdout);
    if (run.no_fork)
        abort(); /* under a debugger: stop here */
    _exit(1);
}

void *test_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);

    CHECK_MSG(p, "out of memory for %zu bytes", size);
    return p;
}

/* ---- the parent ------------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void remove_tree(const char *path)
{
    if (!run.keep)
        nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t hash_text(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    return h;
}

static void prepare_case(const struct test_case *c, unsigned repetition)
{
    if (c->repeat > 0)
        snprintf(run.name, sizeof run.name, "%s#%u", c->name, repetition);
    else
        snprintf(run.name, sizeof run.name, "%s", c->name);
    run.repetition = repetition;
    rng_init(&run.rng, rng_mix(run.seed) ^ hash_text(run.name));
    snprintf(run.dir, sizeof run.dir, "%.3900s/%.100s", run.root, run.name);
    if (mkdir(run.dir, 0700) < 0) {
        fprintf(stderr, "%s: %s\n", run.dir, strerror(errno));
        exit(1);
    }
}

/* How a child ended: 0, 1, or STATUS_SKIPPED. */
static int judge(int status)
{
    if (WIFEXITED(status) && (WEXITSTATUS(status) <= 1 || WEXITSTATUS(status) == STATUS_SKIPPED))
        return WEXITSTATUS(status);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        printf("FAILED %s: still running after its time: it hangs\n", run.name);
    else if (WIFSIGNALED(status))
        printf("FAILED %s: killed by signal %d (%s)\n", run.name, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        printf("FAILED %s: exit status %d (a sanitizer's?)\n", run.name, WEXITSTATUS(status));
    printf("    again: VDISK_SEED=%" PRIu64 " %s --case '%s'\n", run.seed, run.program, run.name);
    return 1;
}

static int run_case(const struct test_case *c, unsigned repetition)
{
    int status, result = 0;
    pid_t pid;

    prepare_case(c, repetition);
    fflush(NULL);
    if (run.no_fork) {
        c->run();
        remove_tree(run.dir);
        return 0;
    }
    pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    if (pid == 0) {
        alarm(CASE_TIMEOUT_S * (test_is_slow() ? SLOW_FACTOR : 1));
        c->run();
        states_add();
        fflush(NULL);
        exit(0); /* the leak checker runs at exit */
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    result = judge(status);
    fflush(stdout);
    if (result != 1)
        remove_tree(run.dir);
    return result;
}

static bool wanted(const char *name, unsigned repetition, bool repeats)
{
    char full[128];

    if (!run.pattern)
        return true;
    snprintf(full, sizeof full, "%s#%u", name, repetition);
    return strcmp(run.pattern, name) == 0 || (repeats && strcmp(run.pattern, full) == 0);
}

static void usage(const char *program)
{
    printf("usage: %s [--case NAME[#N]] [--seed N|new] [--steps N] [--list] [--no-fork] [--keep]\n"
           "          [--only-steps LIST] [--failures N]\n"
           "  --failures N  after so many nothing more is run; 20 unless given, 1 of a mutant\n"
           "  --only-steps  of a case that leaves out steps (suite sim): \"3,17,40-52\", or \"none\"\n"
           "  --no-fork  run in this process, abort where it fails: for a debugger\n"
           "  --keep     leave the temporary files\n",
           program);
}

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);

    return value && value[0] && strcmp(value, "0") != 0;
}

static uint64_t choose_seed(const char *asked)
{
    bool new_one = asked ? strcmp(asked, "new") == 0 : run.is_long;

    if (new_one)
        return rng_mix((uint64_t)time(NULL) ^ (uint64_t)getpid() << 32) >> 32;
    return asked ? strtoull(asked, NULL, 0) : DEFAULT_SEED;
}

static void parse_options(int argc, char **argv)
{
    const char *seed = getenv("VDISK_SEED");

    /* A rule is broken on purpose: one failure shows that it is noticed, and others may each wait for a hang. */
    run.failures = is_set("VDISK_MUTANT") || is_set("VDISK_ENGINE_MUTANT") ? 1 : MAX_FAILURES;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--list") == 0) {
            run.list = true;
        } else if (strcmp(argv[i], "--no-fork") == 0) {
            run.no_fork = true;
        } else if (strcmp(argv[i], "--keep") == 0) {
            run.keep = true;
        } else if (strcmp(argv[i], "--help") == 0) {
            usage(argv[0]);
            exit(0);
        } else if (value && strcmp(argv[i], "--case") == 0) {
            run.pattern = argv[++i];
        } else if (value && strcmp(argv[i], "--seed") == 0) {
            seed = argv[++i];
        } else if (value && strcmp(argv[i], "--steps") == 0) {
            run.steps = (unsigned)strtoul(argv[++i], NULL, 0);
        } else if (value && strcmp(argv[i], "--failures") == 0) {
            run.failures = (unsigned)strtoul(argv[++i], NULL, 0);
        } else if (value && strcmp(argv[i], "--only-steps") == 0) {
            run.only_steps = argv[++i];
        } else {
            usage(argv[0]);
            exit(2);
        }
    }
    run.program = argv[0];
    run.quick = is_set("VDISK_TEST_QUICK");
    run.is_long = is_set("VDISK_TEST_LONG");
    run.seed = choose_seed(seed);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void make_root(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(run.root, sizeof run.root, "%.3000s/vdisk-test-XXXXXX", tmp && tmp[0] ? tmp : "/var/tmp");
    if (!mkdtemp(run.root)) {
        fprintf(stderr, "%s: %s\n", run.root, strerror(errno));
        exit(1);
    }
}

int test_main(int argc, char **argv, const struct test_case *cases, unsigned n)
{
    unsigned counts[3] = {0, 0, 0}; /* passed, failed, skipped */

    parse_options(argc, argv);
    make_root();
    if (!run.list && !run.pattern && !run.no_fork && !run.quick)
        states_begin(run.program);
    if (!run.list)
        printf("seed %" PRIu64 "\n", run.seed);
    for (unsigned i = 0; i < n; i++) {
        unsigned repeat = run.quick && cases[i].quick       ? cases[i].quick
                          : run.is_long && cases[i].lengthy ? cases[i].lengthy
                                                            : cases[i].repeat;
        double start = now_s();
        unsigned failed = counts[1], ran = 0;
        if (repeat == 0)
            repeat = 1;
        if (run.pattern && strchr(run.pattern, '#'))
            repeat = 100000; /* any repetition can be asked for by its number */
        if (run.list) {
            printf("%s (%u)\n", cases[i].name, repeat);
            continue;
        }
        for (unsigned k = 0; k < repeat && counts[1] < run.failures; k++) {
            if (!wanted(cases[i].name, k, cases[i].repeat > 0))
                continue;
            int result = run_case(&cases[i], k);
            counts[result == STATUS_SKIPPED ? 2 : result]++;
            ran++;
        }
        if (ran > 0)
            printf("%s %s (%u, %.1f s)\n", counts[1] > failed ? "FAILED" : "ok", cases[i].name, ran,
                   now_s() - start);
        fflush(stdout);
    }
    if (counts[1] == 0 || !run.keep)
        remove_tree(run.root);
    if (run.list)
        return 0;
    states_end(counts[1] == 0 && counts[2] == 0);
    printf("%u passed, %u failed, %u skipped\n", counts[0], counts[1], counts[2]);
    if (counts[1] > 0 || counts[0] + counts[2] == 0)
        return 1;
    return counts[0] > 0 ? 0 : STATUS_SKIPPED;
}
