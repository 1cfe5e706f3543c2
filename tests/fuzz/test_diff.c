/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Damaged images, judged by us and by qemu-img: the same verdict of check, and the same bytes where both read all
 * of the disk. Where we differ on purpose, `reasons` says why, and how it is known by our findings.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "qcow2/check/check.h"
#include "tests/lib/damage.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

enum { MUTANTS = 12, DISK = 256 << 10, TEXT = 1 << 16 };

enum verdict { SOUND, REFUSED, CORRUPT, LEAKS, VERDICTS };
static const char *const verdict_names[] = {"sound", "refused", "corrupt", "leaks"};

static const char *const options[] = {
    "cluster_size=4k", "cluster_size=512", "cluster_size=16k,extended_l2=on", "compat=0.10,cluster_size=4k",
    "cluster_size=4k,refcount_bits=1", "cluster_size=4k,refcount_bits=64", "cluster_size=4k,compression_type=zstd",
    "cluster_size=64k",
};

/* Our verdict, QEMU's, what our findings or QEMU's text contain: and why that is as it should be. */
static const struct reason {
    enum verdict ours, theirs;
    const char  *text;
    const char  *why;
} reasons[] = {
#include "tests/fuzz/diff_reasons.h"
};

struct findings {
    char   text[TEXT];
    size_t len;
};

static void on_finding(void *arg, enum qcow2_finding kind, const char *text)
{
    struct findings *f = arg;

    if (f->len + strlen(text) + 2 < sizeof f->text)
        f->len += (size_t)snprintf(f->text + f->len, sizeof f->text - f->len, "%s\n", text);
}

static enum verdict our_verdict(const char *path, struct findings *f)
{
    struct qcow2_check_opts opts = {.report = on_finding, .report_arg = f};
    struct qcow2_check_result res;
    int rc = qcow2_check_path(path, BACKEND_BUFFERED, &opts, &res);

    if (rc < 0) {
        on_finding(f, QCOW2_ERROR, vdisk_error_text());
        return REFUSED;
    }
    return res.corruptions ? CORRUPT : res.check_errors ? REFUSED : res.leaks ? LEAKS : SOUND;
}

static enum verdict their_verdict(const char *path, struct run_result *r)
{
    run_shell(r, "timeout -s KILL 20 qemu-img check -f qcow2 %s", path);
    CHECK_MSG(r->status <= 3 || r->status == 128 + 9 || r->status == 128 + 6, "qemu-img check: %d", r->status);
    return r->status <= 3 ? (enum verdict)r->status : REFUSED;
}

static const struct reason *reason_for(enum verdict ours, enum verdict theirs, const char *text,
                                       const char *their_text)
{
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        const struct reason *r = &reasons[i];
        if (r->ours == ours && r->theirs == theirs && (strstr(text, r->text) || strstr(their_text, r->text)))
            return r;
    }
    return NULL;
}

/* All of the disk, if it can be read and is not too large. False: not. */
static bool read_ours(const char *path, uint8_t *buf, uint64_t *ret_size)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = "qcow2",
                                   .flags = VDISK_OPEN_BUFFERED | VDISK_OPEN_NO_LOCK};
    vdisk *v;
    bool ok;

    if (vdisk_open(path, &opts, &v) < 0)
        return false;
    *ret_size = vdisk_size(v);
    ok = *ret_size > 0 && *ret_size <= 4 * DISK && vdisk_pread(v, buf, *ret_size, 0) == 0;
    CHECK_OK(vdisk_close(v));
    return ok;
}

static bool read_theirs(const char *path, uint8_t *buf, uint64_t size)
{
    static struct run_result r;
    ssize_t n;
    int fd;

    run_shell(&r, "rm -f raw && timeout -s KILL 20 qemu-img convert -f qcow2 -O raw %s raw", path);
    if (r.status != 0)
        return false;
    fd = open(test_path("raw"), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    n = pread(fd, buf, 4 * DISK, 0);
    close(fd);
    CHECK_INT(n, align_down(size, 512)); /* QEMU drops what is no whole sector */
    return true;
}

static void compare_content(const char *path)
{
    static uint8_t ours[4 * DISK], theirs[4 * DISK];
    uint64_t size = 0;

    if (!read_ours(path, ours, &size) || !read_theirs(path, theirs, size))
        return;
    for (uint64_t i = 0; i < align_down(size, 512); i++)
        CHECK_MSG(ours[i] == theirs[i], "byte %llu: 0x%02x, QEMU reads 0x%02x", (unsigned long long)i, ours[i],
                  theirs[i]);
}

static size_t load(const char *path, uint8_t *buf, size_t max)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, buf, max) : -1;

    CHECK(n > 0 && (size_t)n < max);
    close(fd);
    return (size_t)n;
}

static void save(const char *path, const uint8_t *buf, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0 && write(fd, buf, len) == (ssize_t)len);
    close(fd);
}

static void make_base(unsigned which, const char *path)
{
    run_ok("qemu-img create -q -f qcow2 -o %s %s %d", options[which], path, DISK);
    run_ok("qemu-io -f qcow2 %s -c 'write -q -P 1 0 30k' -c 'write -q -z 64k 32k' -c 'write -q -P 2 200k 20k' %s",
           which == 4 ? "" : "-c 'write -q -c -P 3 128k 64k'", path);
    if (which != 4)
        run_ok("qemu-img snapshot -c one %s && qemu-io -f qcow2 -c 'write -q -P 4 0 8k' %s", path, path);
}

/* The same mutants every time, unless one asks for others. */
static struct rng *mutant_rng(void)
{
    static struct rng fixed;

    if (getenv("VDISK_SEED") || getenv("VDISK_TEST_LONG"))
        return test_rng();
    rng_init(&fixed, test_repetition() + 1);
    return &fixed;
}

static void mutants(void)
{
    struct rng *rng = mutant_rng();
    static uint8_t base[2 << 20], mutant[2 << 20];
    static struct findings f;
    static struct run_result r;
    char path[4096];
    unsigned which = test_repetition() % ARRAY_LEN(options);
    unsigned counts[VERDICTS] = {0}, differ = 0;
    bool is_long = getenv("VDISK_TEST_LONG") != NULL;
    size_t len;

    test_requires("qemu-img");
    snprintf(path, sizeof path, "%s", test_path("mutant.qcow2")); /* test_path()'s own does not last */
    make_base(which, test_path("base.qcow2"));
    len = load(test_path("base.qcow2"), base, sizeof base);
    for (unsigned i = 0, n = test_steps(is_long ? 100 * MUTANTS : MUTANTS); i < n; i++) {
        memcpy(mutant, base, len);
        damage_image(rng, mutant, len, (unsigned)rng_between(rng, 1, 3));
        save(path, mutant, len);
        memset(&f, 0, sizeof f);
        enum verdict ours = our_verdict(path, &f), theirs = their_verdict(path, &r);
        test_note("%s, mutant %u: we say %s, QEMU says %s\n%.3000s\nQEMU: %.3000s", options[which], i,
                  verdict_names[ours], verdict_names[theirs], f.text, r.out);
        CHECK_MSG(ours == theirs || reason_for(ours, theirs, f.text, r.out), "no reason for the difference");
        differ += ours != theirs;
        counts[ours]++;
        compare_content(path);
    }
    printf("%s: %u sound, %u refused, %u corrupt, %u leaks; %u differ, with a reason\n", options[which],
           counts[SOUND], counts[REFUSED], counts[CORRUPT], counts[LEAKS], differ);
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {.name = "mutants", .run = mutants, .repeat = 16, .quick = 8},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
