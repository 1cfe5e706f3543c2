/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How far a job is: as QEMU prints it where a program reads it, in words where a person does. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "tools/cli.h"

enum { INTERVAL_MS = 100, WHOLE = 10000, MINUTE = 60, HOUR = 3600 };

static FILE *where(const struct cli_progress *p)
{
    return p->to_stderr ? stderr : stdout;
}

static void print_percent(const struct cli_progress *p, int hundredths)
{
    fprintf(where(p), "    (%d.%02d/100%%)\r", hundredths / 100, hundredths % 100);
    fflush(where(p));
}

/* 0:07, 12:00, 3:00:00 */
static void format_time(uint64_t s, char *buf, size_t len)
{
    if (s >= HOUR)
        snprintf(buf, len, "%" PRIu64 ":%02u:%02u", s / HOUR, (unsigned)(s % HOUR / MINUTE),
                 (unsigned)(s % MINUTE));
    else
        snprintf(buf, len, "%u:%02u", (unsigned)(s / MINUTE), (unsigned)(s % MINUTE));
}

/* "    3.2 GiB of 8 GiB (40.00 %), 1.2 GiB/s, 0:04 left" */
static void print_words(struct cli_progress *p, int hundredths, uint64_t now_ms)
{
    char done[32], total[32], rate[32], left[32];
    uint64_t ms = now_ms - p->begun_ms, moved = p->done - p->begun_done;
    double per_s = ms > 0 ? (double)moved * 1000.0 / (double)ms : 0;
    int n = fprintf(where(p), "    %s of %s (%d.%02d %%)", cli_format_size(p->done, done, sizeof done),
                    cli_format_size(p->total, total, sizeof total), hundredths / 100, hundredths % 100);

    if (per_s >= 1) {
        double s = (double)(p->total - p->done) / per_s;
        format_time(s < 1e9 ? (uint64_t)s : 1000000000, left, sizeof left);
        n += fprintf(where(p), ", %s/s, %s left", cli_format_size((uint64_t)per_s, rate, sizeof rate), left);
    }
    fprintf(where(p), "%*s\r", n < (int)p->width ? (int)p->width - n : 0, "");
    p->width = (unsigned)n;
    fflush(where(p));
}

static void print(struct cli_progress *p, int hundredths, uint64_t now_ms)
{
    if (isatty(fileno(where(p))))
        print_words(p, hundredths, now_ms);
    else
        print_percent(p, hundredths);
}

int cli_progress_show(void *arg, uint64_t done, uint64_t total)
{
    struct cli_progress *p = arg;
    bool asked = cli_is_asked();
    uint64_t now_ms = cli_now_ns() / 1000000;
    int hundredths;

    if (p->begun_ms == 0) {
        p->begun_ms = now_ms;
        p->begun_done = done;
    }
    p->total = total;
    p->done = done < total ? done : total;
    if (!p->enabled && !asked)
        return 0;
    hundredths = total == 0 ? WHOLE : (int)((double)p->done / (double)total * WHOLE);
    if (!asked && (hundredths == p->last_percent || (now_ms - p->last_ms < INTERVAL_MS && p->last_ms != 0)))
        return 0;
    p->last_ms = now_ms;
    p->last_percent = hundredths;
    print(p, hundredths, now_ms);
    return 0;
}

void cli_progress_whole(struct cli_progress *p)
{
    if (!p->enabled)
        return;
    p->done = p->total;
    print(p, WHOLE, cli_now_ns() / 1000000);
}

void cli_progress_end(struct cli_progress *p)
{
    cli_progress_whole(p);
    if (p->enabled)
        fputc('\n', where(p));
}
