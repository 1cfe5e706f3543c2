/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill -9 of `vdisk-io io` and `bench`, at random times. Afterwards the image opens, neither check finds
 * corruption, what was flushed reads back, every other sector is as before or as written, the backing file is
 * untouched. Several times in a row on the same image.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/kill/kill_lib.h"
#include "tests/lib/test.h"

enum { KILLS = 6, MAX_COMMANDS = 160 };

#define BENCH_NS UINT64_C(200000000)

/* ---- io --------------------------------------------------------------------------------------------- */

struct command {
    bool change, flush, durable;
    enum history_kind kind;
    uint64_t offset, len;
};

struct script {
    struct command commands[MAX_COMMANDS];
    unsigned n;
    uint32_t version;
    uint64_t busy[8], busy_end[8]; /* started with -a and not awaited yet */
    unsigned nbusy;
    FILE *f;
};

static bool is_busy(const struct script *s, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < s->nbusy; i++)
        if (offset < s->busy_end[i] && s->busy[i] < offset + len)
            return true;
    return false;
}

static void add_range(struct script *s, struct rng *r, const struct image_spec *spec)
{
    uint64_t unit = max_u64(HISTORY_SECTOR, spec->qcow2 && rng_chance(r, 50) ? spec->cluster_size : 4096);
    uint64_t offset = align_down(rng_below(r, spec->size), rng_chance(r, 50) ? unit : HISTORY_SECTOR);
    uint64_t len = rng_chance(r, 50) ? unit * rng_between(r, 1, 3) : HISTORY_SECTOR * rng_between(r, 1, 300);
    struct command *c = &s->commands[s->n];

    len = min_u64(min_u64(len, 512 << 10), spec->size - offset);
    if (is_busy(s, offset, len) || s->n == MAX_COMMANDS)
        return;
    *c = (struct command){.change = true, .offset = offset, .len = len};
    s->version++;
    bool wait = s->nbusy == ARRAY_LEN(s->busy) || rng_chance(r, 30);
    bool fua = wait && rng_chance(r, 15);
    if (rng_chance(r, 70)) {
        fprintf(s->f, "write%s%s -P %u", wait ? "" : " -a", fua ? " -f" : "", kill_pattern(s->version));
        c->kind = HISTORY_WRITE;
    } else if (rng_chance(r, 50)) {
        fprintf(s->f, "zero%s%s%s", wait ? "" : " -a", fua ? " -f" : "", rng_chance(r, 50) ? " -u" : "");
        c->kind = HISTORY_ZEROES;
    } else {
        fprintf(s->f, "discard%s", wait ? "" : " -a");
        c->kind = HISTORY_DISCARD;
        fua = false;
    }
    fprintf(s->f, " %" PRIu64 " %" PRIu64 "\n", offset, len);
    c->durable = fua;
    s->n++;
    if (wait)
        s->nbusy = 0; /* it waits for all of them */
    else
        s->busy[s->nbusy] = offset, s->busy_end[s->nbusy++] = offset + len;
}

static void add_flush(struct script *s)
{
    if (s->n + 2 > MAX_COMMANDS)
        return;
    fprintf(s->f, "wait\nflush\n");
    s->commands[s->n++] = (struct command){.change = false};
    s->commands[s->n++] = (struct command){.flush = true};
    s->nbusy = 0;
}

static void make_script(struct script *s, struct rng *r, const struct kill_subject *subject)
{
    unsigned n = test_steps(MAX_COMMANDS);

    memset(s, 0, sizeof *s);
    s->version = subject->h.version;
    CHECK((s->f = fopen(test_path("script"), "we")));
    while (s->n < n) {
        if (rng_chance(r, 12))
            add_flush(s);
        else
            add_range(s, r, &subject->spec);
    }
    CHECK(fclose(s->f) == 0);
    unlink(test_path("journal")); /* the shell may be killed before it has made a new one */
}

/* How many commands the tool said were done. */
static unsigned count_done(void)
{
    char line[256];
    unsigned n = 0;
    FILE *f = fopen(test_path("journal"), "re");

    if (!f)
        return 0;
    while (fgets(line, sizeof line, f) && strchr(line, '\n')) {
        CHECK_MSG(strncmp(line, "done: ", 6) == 0, "the journal says: %s", line);
        n++;
    }
    fclose(f);
    return n;
}

/* The commands that were done, and the one that may have been started. */
static void tell_history(struct history *h, const struct script *s, unsigned done)
{
    for (unsigned i = 0; i < s->n && i <= done; i++) {
        const struct command *c = &s->commands[i];
        uint32_t version = c->change ? history_change(h, c->kind, c->offset, c->len) : 0;
        if (i == done)
            break;
        if (c->flush)
            history_flush(h);
        else if (c->durable)
            history_durable(h, version);
    }
}

static void test_io(void)
{
    static struct script script;
    struct rng *r = test_rng();
    struct kill_subject s;
    char arguments[PATH_MAX + 128];
    uint64_t whole_ns = 0;

    kill_init(&s, 0);
    snprintf(arguments, sizeof arguments, "io -q -e %s -f %s %s <script >journal 2>&1",
             rng_chance(r, 50) ? "-n" : "", s.spec.qcow2 ? "qcow2" : "raw", s.spec.path);
    for (unsigned i = 0; i <= KILLS; i++) {
        bool whole = i == 0;
        make_script(&script, r, &s);
        if (whole)
            whole_ns = kill_run_whole(arguments);
        else
            whole = !kill_run(arguments, whole_ns);
        tell_history(&s.h, &script, count_done());
        if (whole)
            history_flush(&s.h); /* closing does */
        kill_judge(&s, 0, 0);
    }
    kill_finish(&s);
    kill_summary();
}

/* ---- bench ------------------------------------------------------------------------------------------ */

/* Write all of it, so that there is something to damage. */
static void fill(struct kill_subject *s)
{
    uint32_t version = history_change(&s->h, HISTORY_WRITE, 0, s->spec.size);

    char arguments[PATH_MAX + 128];

    snprintf(arguments, sizeof arguments, "io -q -f %s -c 'write -P %u 0 %" PRIu64 "' %s",
             s->spec.qcow2 ? "qcow2" : "raw", kill_pattern(version), s->spec.size, s->spec.path);
    kill_run_whole(arguments);
    history_flush(&s->h);
}

/* What lies beside the benchmark's range stays; inside, its data is noise. */
static void test_bench(void)
{
    static const char *const kinds[] = {"write", "randwrite", "randrw", "randzero --unmap", "randdiscard"};
    struct rng *r = test_rng();
    char arguments[PATH_MAX + 256];
    struct kill_subject s;
    uint64_t begin, len;

    kill_init(&s, 0);
    if (rng_chance(r, 50))
        fill(&s);
    len = align_down(s.spec.size / 2, 65536);
    begin = align_down(rng_below(r, s.spec.size - len), 4096);
    for (unsigned i = 0; i < KILLS; i++) {
        snprintf(arguments, sizeof arguments,
                 "bench -f %s --rw %s --bs %u --depth %u --queues %u --offset %" PRIu64 " --size %" PRIu64
                 " --flush-every %u --seed %u --runtime 10 %s >bench.out 2>&1",
                 s.spec.qcow2 ? "qcow2" : "raw", kinds[rng_below(r, ARRAY_LEN(kinds))], 512u << rng_below(r, 8),
                 (unsigned)rng_between(r, 1, 32), (unsigned)rng_between(r, 1, 2), begin, len,
                 (unsigned)rng_between(r, 1, 100), (unsigned)rng_below(r, 1000), s.spec.path);
        CHECK_MSG(kill_run(arguments, BENCH_NS), "a benchmark of 10 seconds ended by itself");
        kill_judge(&s, begin, len);
    }
    kill_finish(&s);
    kill_summary();
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "io", .run = test_io, .repeat = 24, .quick = 6},
        {.name = "bench", .run = test_bench, .repeat = 8, .quick = 2},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
