/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/badinput/badinput_lib.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/format/entry.h"
#include "tests/lib/run.h"

enum { HANG_GUARD_S = 10, SLOW_HANG_GUARD_S = 60, HUNG = 128 + 9 };
enum { MAX_RSS = 256 << 20 };

/* %s: the image. Reads: the start, the middle, the end, and across boundaries. */
static const char *const commands[] = {
    [BAD_INFO] = "info %s",
    [BAD_MAP] = "map -f qcow2 %s",
    [BAD_CHECK] = "check -f qcow2 %s",
    [BAD_READ] = "io -r -q -f qcow2 -c 'read 0 64k' -c 'read 100k 300k' -c 'read 1000k 3k' -c 'read 3 5' %s",
    [BAD_WRITE] = "io -q -f qcow2 -c 'write 3k 70k' -c 'zero 200k 64k' -c 'discard 64k 32k' -c flush %s",
    [BAD_LENGTH] = "io -r -q -f qcow2 -c length %s",
    [BAD_GROW] = "resize -q -f qcow2 %s +3M",
    [BAD_GROW_FULL] = "resize -q -f qcow2 --preallocation full %s 1500k",
    [BAD_SHRINK] = "resize -q -f qcow2 --shrink %s 300k",
    [BAD_MEND_LEAKS] = "check -f qcow2 -r leaks %s",
    [BAD_MEND] = "check -f qcow2 -r all %s",
};

static unsigned runs;

unsigned bad_runs(void)
{
    return runs;
}

static unsigned lines(const char *text, const char *start)
{
    unsigned n = 0;

    for (const char *p = text; p && *p; p = strchr(p, '\n')) {
        p += *p == '\n';
        n += *p != '\0' && strncmp(p, start, strlen(start)) == 0;
    }
    return n;
}

static bool is_check(enum bad_verb verb)
{
    return verb == BAD_CHECK || verb == BAD_MEND || verb == BAD_MEND_LEAKS;
}

/* One line of the tool's own, with the file's name; io may say one for each command that failed. */
static void judge_refusal(enum bad_verb verb, const char *path, const char *text, const struct run_result *r)
{
    unsigned all = lines(r->out, ""), ours = lines(r->out, "vdisk-io: ");
    unsigned hints = lines(r->out, "vdisk-io: hint: ");
    unsigned most = verb == BAD_READ || verb == BAD_WRITE ? 5 : 1;
    const char *base = strrchr(path, '/') + 1;

    if (is_check(verb) && ours == 0) {
        CHECK_HAS(r->out, "ERROR "); /* it went to the end, but could not look at all of it */
        return;
    }
    CHECK_MSG(ours == all && ours > hints && ours - hints <= most, "%u lines, %u hints: %s", all, hints, r->out);
    CHECK_MSG(strstr(r->out, base), "the file is not named: %s", r->out);
    CHECK_MSG(!text || strstr(r->out, text), "no '%s' in: %s", text ? text : "", r->out);
}

int bad_run(enum bad_verb verb, const char *path, enum bad_want want, const char *text)
{
    static struct run_result r;
    unsigned guard = test_is_slow() ? SLOW_HANG_GUARD_S : HANG_GUARD_S;
    char args[8192];

    snprintf(args, sizeof args, commands[verb], path);
    run_shell(&r, "exec timeout -s KILL %u %s %s 2>&1 >/dev/null", guard, VDISK_IO, args);
    runs++;
    CHECK_MSG(r.status != HUNG, "'%s' did not end within %u s: %.2000s", args, guard, r.out);
    CHECK_MSG(r.status <= (is_check(verb) ? 3 : 1), "'%s' exits with %d: %.4000s", args, r.status, r.out);
    CHECK_MSG(!strstr(r.out, "Sanitizer") && !strstr(r.out, "runtime error"), "'%s': %.8000s", args, r.out);
    if (!test_is_slow())
        CHECK_MSG(r.max_rss < MAX_RSS, "'%s' needs %llu MiB", args, (unsigned long long)r.max_rss >> 20);
    CHECK_MSG(want != BAD_REFUSED || r.status == 1, "'%s' exits with %d: %.2000s", args, r.status, r.out);
    CHECK_MSG(want != BAD_GOOD || r.status == 0, "'%s' exits with %d: %.2000s", args, r.status, r.out);
    if (r.status == 1)
        judge_refusal(verb, path, text, &r);
    return r.status;
}

/* With sanitizers a command takes five times as long to start: in a quick run each image meets half of them. */
bool bad_left_out(void)
{
    return test_is_quick() && test_is_slow() && rng_chance(test_rng(), 50);
}

static void run_verbs(const char *path, enum bad_verb end, enum bad_want want, const char *text)
{
    for (enum bad_verb verb = BAD_INFO; verb < end; verb++)
        if (!bad_left_out())
            bad_run(verb, path, want, text);
}

void bad_run_readers(const char *path)
{
    run_verbs(path, BAD_WRITE, BAD_ANY, NULL);
}

void bad_run_all(const char *path)
{
    run_verbs(path, BAD_VERBS, BAD_ANY, NULL);
}

void bad_refused(const char *path, const char *text)
{
    run_verbs(path, BAD_VERBS, BAD_REFUSED, text);
}

/* ---- the knife ------------------------------------------------------------------------------------------ */

void bad_open(struct bad_image *im, const char *path)
{
    enum { HEAD = 2 << 20 };
    uint8_t *head = test_alloc(HEAD);
    struct stat st;
    ssize_t n;

    memset(im, 0, sizeof *im);
    snprintf(im->path, sizeof im->path, "%s", path);
    im->fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(im->fd >= 0 && fstat(im->fd, &st) == 0);
    im->size = (uint64_t)st.st_size;
    n = pread(im->fd, head, HEAD, 0);
    CHECK(n > 0);
    CHECK_OK(q2_header_parse(head, (size_t)n, im->size, path, &im->h));
    free(head);
}

void bad_close(struct bad_image *im)
{
    q2_header_free(&im->h);
    close(im->fd);
}

uint64_t bad_get(const struct bad_image *im, uint64_t at, unsigned width)
{
    uint8_t buf[8] = {0};

    CHECK(pread(im->fd, buf + 8 - width, width, (off_t)at) == (ssize_t)width);
    return get_be64(buf);
}

void bad_put(struct bad_image *im, uint64_t at, unsigned width, uint64_t value)
{
    uint8_t buf[8];

    put_be64(buf, value);
    CHECK(pwrite(im->fd, buf + 8 - width, width, (off_t)at) == (ssize_t)width);
}

void bad_truncate(struct bad_image *im, uint64_t size)
{
    CHECK(ftruncate(im->fd, (off_t)size) == 0);
    im->size = size;
}

void bad_copy(const char *from, const char *to)
{
    run_ok("cp --sparse=always %s %s", from, to);
}

uint64_t bad_l2(const struct bad_image *im)
{
    uint64_t offset = q2_l1_offset(bad_get(im, im->h.l1_offset, 8));

    CHECK(offset != 0);
    return offset;
}
