/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/shrink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/test.h"

/* ---- sets of steps ------------------------------------------------------------------------------------- */

void steps_init(struct steps *s, unsigned n, const char *list)
{
    s->keep = test_alloc(n);
    s->n = n;
    memset(s->keep, !list, n);
    if (!list || strcmp(list, "none") == 0)
        return;
    while (*list) {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        CHECK_MSG(end > list && (*end == ',' || *end == '\0') && last < n, "not a list of steps below %u: %s", n,
                  list);
        for (; first <= last; first++)
            s->keep[first] = true;
        list = *end ? end + 1 : end;
    }
}

void steps_finish(struct steps *s)
{
    free(s->keep);
    s->keep = NULL;
}

unsigned steps_count(const struct steps *s)
{
    unsigned count = 0;

    for (unsigned i = 0; i < s->n; i++)
        count += s->keep[i];
    return count;
}

char *steps_list(const struct steps *s)
{
    size_t space = 16 + 24 * (size_t)s->n, used = 0;
    char *text = test_alloc(space);

    for (unsigned i = 0; i < s->n; i++) {
        unsigned first = i;
        if (!s->keep[i])
            continue;
        while (i + 1 < s->n && s->keep[i + 1])
            i++;
        used += (size_t)snprintf(text + used, space - used, first == i ? "%s%u" : "%s%u-%u", used ? "," : "",
                                 first, i);
    }
    if (used == 0)
        snprintf(text, space, "none");
    return text;
}

/* ---- leaving out --------------------------------------------------------------------------------------- */

/* Take `count` of the kept steps off, from the `first`-th on; which, in `removed`. How many there were. */
static unsigned take_off(struct steps *s, unsigned first, unsigned count, unsigned *removed)
{
    unsigned seen = 0, n = 0;

    for (unsigned i = 0; i < s->n && n < count; i++) {
        if (!s->keep[i] || seen++ < first)
            continue;
        s->keep[i] = false;
        removed[n++] = i;
    }
    return n;
}

unsigned steps_shrink(struct steps *s, bool (*fails)(const struct steps *, void *), void *arg, unsigned budget)
{
    unsigned *removed = test_alloc(s->n * sizeof *removed), calls = 0;
    unsigned chunk = (steps_count(s) + 1) / 2;

    while (chunk > 0 && calls < budget) {
        bool progress = false;
        /* From the end: what comes after the failure goes first. */
        for (unsigned at = steps_count(s); at > 0 && calls < budget;) {
            unsigned first = at > chunk ? at - chunk : 0;
            unsigned n = take_off(s, first, at - first, removed);
            calls++;
            if (fails(s, arg)) {
                progress = true;
            } else {
                for (unsigned i = 0; i < n; i++)
                    s->keep[removed[i]] = true;
            }
            at = first;
        }
        if (chunk == 1 && !progress)
            break;
        chunk = chunk > 1 ? chunk / 2 : 1;
    }
    free(removed);
    return calls;
}

/* ---- processes ----------------------------------------------------------------------------------------- */

static void read_end(int fd, char *buf, size_t space)
{
    off_t size = lseek(fd, 0, SEEK_END), from = size > (off_t)space - 1 ? size - ((off_t)space - 1) : 0;
    ssize_t n = pread(fd, buf, space - 1, from);

    buf[n > 0 ? n : 0] = '\0';
}

/* The part of a line that starts at the last `start` and ends before `end`. False: not there. */
static bool cut_out(const char *text, const char *start, const char *end, char *ret, size_t space)
{
    const char *from = strstr(text, start), *to;

    if (!from)
        return false;
    to = strstr(from, end);
    if (!to)
        return false;
    snprintf(ret, space, "%.*s", (int)(to - from), from);
    return true;
}

static void tell_where(struct attempt *a, int status)
{
    const char *failed = strstr(a->output, "FAILED "), *assertion = strstr(a->output, "Assertion `");

    if (failed && cut_out(failed, " at ", ": ", a->where, sizeof a->where))
        return;
    if (assertion && cut_out(assertion, "Assertion `", "' failed", a->where, sizeof a->where))
        return;
    if (WIFSIGNALED(status))
        snprintf(a->where, sizeof a->where, "signal %d", WTERMSIG(status));
    else
        snprintf(a->where, sizeof a->where, "exit status %d", WEXITSTATUS(status));
}

void attempt_run(struct attempt *a, void (*run)(const struct steps *, void *), const struct steps *s, void *arg,
                 unsigned seconds)
{
    int fd = open(test_path("attempt"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), status;
    pid_t pid;

    CHECK(fd >= 0);
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        alarm(seconds);
        run(s, arg);
        fflush(NULL);
        exit(0); /* the leak checker runs at exit */
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    memset(a, 0, sizeof *a);
    a->failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    if (a->failed) {
        read_end(fd, a->output, sizeof a->output);
        tell_where(a, status);
    }
    close(fd);
}

struct shrinking {
    void (*run)(const struct steps *, void *);
    void *arg;
    unsigned seconds;
    const char *where;
};

static bool fails_there(const struct steps *s, void *arg)
{
    struct shrinking *sh = arg;
    struct attempt a;

    attempt_run(&a, sh->run, s, sh->arg, sh->seconds);
    return a.failed && strcmp(a.where, sh->where) == 0;
}

void attempt_or_shrink(void (*run)(const struct steps *, void *), void *arg, unsigned nsteps, unsigned seconds,
                       unsigned budget)
{
    struct steps s;
    struct attempt first, last;
    struct shrinking sh = {.run = run, .arg = arg, .seconds = seconds, .where = first.where};
    unsigned calls;

    steps_init(&s, nsteps, test_only_steps());
    if (test_only_steps()) {
        run(&s, arg);
        steps_finish(&s);
        return;
    }
    attempt_run(&first, run, &s, arg, seconds);
    if (!first.failed) {
        steps_finish(&s);
        return;
    }
    printf("%s\n---- shrinking it\n", first.output);
    fflush(stdout);
    calls = steps_shrink(&s, fails_there, &sh, budget);
    test_set_only_steps(steps_list(&s));
    attempt_run(&last, run, &s, arg, seconds);
    printf("%s\n", last.output);
    FAIL("%u of %u steps fail at %s (after %u runs)", steps_count(&s), nsteps, first.where, calls);
}
