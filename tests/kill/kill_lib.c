/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/kill/kill_lib.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/run.h"
#include "tests/lib/test.h"

#define UNLOCK_TIMEOUT_NS UINT64_C(60000000000)

enum { KILLED = 128 + SIGKILL, CHECK_LEAKS = 3, PIECE = 1 << 20 };

static unsigned runs, killed;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

uint64_t kill_run_whole(const char *arguments)
{
    uint64_t start = now_ns();

    run_ok("exec " VDISK_IO " %s", arguments);
    return now_ns() - start;
}

bool kill_run(const char *arguments, uint64_t whole_ns)
{
    struct run_child c;
    uint64_t start = now_ns();
    int status;

    run_start(&c, "exec " VDISK_IO " %s", arguments);
    sleep_until(start + rng_below(test_rng(), whole_ns + whole_ns / 8));
    kill(c.pid, SIGKILL);
    status = run_wait(&c);
    CHECK_MSG(status == KILLED || status == 0, "'%s' exits with %d", arguments, status);
    runs++;
    killed += status == KILLED;
    return status == KILLED;
}

/*
 * The locks of a killed process outlive it for a moment: its files stay open until the kernel has ended what its
 * ring had in flight. What is in flight can still reach the file until then.
 */
static void wait_unlocked(const char *path)
{
    struct flock lock;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint64_t deadline_ns = now_ns() + UNLOCK_TIMEOUT_NS;

    if (fd < 0) {
        CHECK(errno == ENOENT);
        return;
    }
    for (;;) {
        lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
        CHECK(fcntl(fd, F_OFD_GETLK, &lock) == 0);
        if (lock.l_type == F_UNLCK)
            break;
        CHECK_MSG(now_ns() < deadline_ns, "%s is still locked long after vdisk-io has been killed", path);
        sleep_until(now_ns() + 1000000);
    }
    close(fd);
}

void kill_check(const struct image_spec *spec)
{
    struct run_result r;

    if (!spec->qcow2)
        return;
    run_shell(&r, VDISK_IO " check -f qcow2 %s", spec->path);
    CHECK_MSG(r.status == 0 || r.status == CHECK_LEAKS, "check exits with %d: %.4000s", r.status, r.out);
    image_check(spec->path, true);
}

static void verify_range(vdisk *v, struct history *h, uint64_t offset, uint64_t len)
{
    uint8_t *buf = vdisk_alloc_buffer(PIECE);
    uint64_t wrong;

    CHECK(buf);
    for (uint64_t at = offset, n; at < offset + len; at += n) {
        n = min_u64(PIECE, offset + len - at);
        CHECK_OK(vdisk_pread(v, buf, n, at));
        wrong = history_find_wrong(h, at, buf, n, true);
        CHECK_MSG(wrong == UINT64_MAX, "sector at %" PRIu64 " begins with 0x%02x; %s", wrong, buf[wrong - at],
                  history_describe(h, wrong));
    }
    free(buf);
}

static void verify(const struct image_spec *spec, struct history *h, uint64_t gap, uint64_t gap_len)
{
    struct vdisk_open_opts opts = {.size = sizeof opts, .format = spec->qcow2 ? "qcow2" : "raw"};
    uint8_t *buf = vdisk_alloc_buffer(max_u64(gap_len, 1));
    vdisk *v;

    CHECK(buf && gap + gap_len <= spec->size);
    CHECK_OK(vdisk_open(spec->path, &opts, &v));
    CHECK_INT(vdisk_size(v), spec->size);
    verify_range(v, h, 0, gap);
    CHECK_OK(vdisk_pread(v, buf, gap_len, gap));
    verify_range(v, h, gap + gap_len, spec->size - gap - gap_len);
    history_restart(h);
    CHECK_OK(vdisk_close(v));
    free(buf);
}

/* ---- volumes with an origin ------------------------------------------------------------------------ */

enum { MAX_SIZE = 8 << 20 };

uint8_t kill_pattern(uint32_t version)
{
    return (uint8_t)(1 + version % 255);
}

void kill_content(void *arg, uint32_t version, uint64_t offset, uint8_t *buf)
{
    const struct kill_subject *s = arg;

    if (version != HISTORY_ORIGIN)
        memset(buf, kill_pattern(version), HISTORY_SECTOR);
    else if (s->base)
        memcpy(buf, s->base + offset, HISTORY_SECTOR);
}

static void write_file(const char *path, const void *buf, uint64_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0 && write(fd, buf, len) == (ssize_t)len);
    close(fd);
}

void kill_init(struct kill_subject *s, unsigned limits)
{
    struct rng *r = test_rng();
    bool backed = rng_chance(r, 35);

    memset(s, 0, sizeof *s);
    test_requires("qemu-img");
    s->spec.size = HISTORY_SECTOR * rng_between(r, 2000, MAX_SIZE / HISTORY_SECTOR);
    image_random(r, &s->spec, limits | (backed ? IMAGE_BACKED | IMAGE_NO_RAW : 0));
    snprintf(s->spec.path, sizeof s->spec.path, "%s", test_path("image"));
    snprintf(s->base_path, sizeof s->base_path, "%s", test_path("base"));
    if (backed) {
        s->base = test_alloc(s->spec.size);
        rng_fill(r, s->base, s->spec.size);
        write_file(s->base_path, s->base, s->spec.size);
        snprintf(s->spec.backing, sizeof s->spec.backing, "%s", s->base_path);
        s->spec.backing_format = "raw";
    }
    test_note("%s", image_describe(&s->spec));
    image_create(&s->spec);
    history_init(&s->h, s->spec.size, kill_content, s);
}

void kill_wait_image(const struct image_spec *spec)
{
    wait_unlocked(spec->path);
    wait_unlocked(test_path("image.data"));
}

void kill_judge(struct kill_subject *s, uint64_t gap, uint64_t gap_len)
{
    uint8_t *now;
    int fd;

    kill_wait_image(&s->spec);
    kill_check(&s->spec);
    verify(&s->spec, &s->h, gap, gap_len);
    if (!s->base)
        return;
    now = test_alloc(s->spec.size);
    CHECK((fd = open(s->base_path, O_RDONLY | O_CLOEXEC)) >= 0);
    CHECK(pread(fd, now, s->spec.size, 0) == (ssize_t)s->spec.size);
    CHECK_MSG(memcmp(now, s->base, s->spec.size) == 0, "the backing file has changed");
    close(fd);
    free(now);
}

void kill_finish(struct kill_subject *s)
{
    history_finish(&s->h);
    free(s->base);
}

/* ---- summary --------------------------------------------------------------------------------------- */

void kill_summary(void)
{
    printf("  %u of %u runs were killed before their end\n", killed, runs);
    runs = killed = 0;
}
