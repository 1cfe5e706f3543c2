/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of an image's file is in use, as a check tells it: all that its refcounts count, read here from the file
 * itself, and nothing else; a listener that has enough ends the check.
 */
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <vdisk-image.h>

#include "tests/callers/callers.h"

enum { CLUSTERS_MOST = 4096 };

struct heard {
    bool     used[CLUSTERS_MOST];
    uint64_t end; /* of what was told last */
    unsigned calls, stop_at;
    int      answer;
};

static int hear(void *arg, uint64_t host_offset, uint64_t len)
{
    struct heard *h = arg;

    h->calls++;
    CHECK_INT(host_offset % CLUSTER, 0);
    CHECK_INT(len % CLUSTER, 0);
    CHECK(len > 0);
    CHECK(h->calls == 1 || host_offset > h->end); /* neighbours come as one */
    h->end = host_offset + len;
    CHECK(h->end / CLUSTER <= CLUSTERS_MOST);
    for (uint64_t i = host_offset / CLUSTER; i < h->end / CLUSTER; i++)
        h->used[i] = true;
    return h->calls == h->stop_at ? h->answer : 0;
}

static int run_check(const char *path, struct heard *h, struct vdisk_check_result *ret)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .format = "qcow2", .used = hear, .used_arg = h};
    vdisk_job *job;
    int rc;

    CHECK_OK(vdisk_job_check(path, &opts, &job));
    rc = vdisk_job_run(job);
    if (rc == 0)
        CHECK_OK(vdisk_job_get_check_result(job, ret));
    vdisk_job_free(job);
    return rc;
}

/* By the one block of refcounts, of 16 bits, that such a small image has. */
static void read_refcounts(const char *path, bool used[CLUSTERS_MOST])
{
    uint64_t table = 0, block = 0;
    uint16_t *counts = malloc(CLUSTER);
    FILE *f = fopen(path, "re");

    CHECK(f && counts);
    CHECK(fseek(f, 48, SEEK_SET) == 0 && fread(&table, sizeof table, 1, f) == 1);
    CHECK(fseek(f, (long)be64toh(table), SEEK_SET) == 0 && fread(&block, sizeof block, 1, f) == 1);
    CHECK(fseek(f, (long)be64toh(block), SEEK_SET) == 0 && fread(counts, CLUSTER, 1, f) == 1);
    for (unsigned i = 0; i < CLUSTERS_MOST; i++)
        used[i] = counts[i] != 0;
    free(counts);
    fclose(f);
}

/* With holes: some of what was written is discarded. */
static const char *make_image(void)
{
    const char *path = make_full_image("image");
    vdisk *v = open_rw(path);

    CHECK_OK(vdisk_pdiscard(v, 5 * CLUSTER, 3 * CLUSTER));
    CHECK_OK(vdisk_pdiscard(v, CLUSTER, 20 * CLUSTER));
    CHECK_OK(vdisk_close(v));
    return path;
}

static void test_used(void)
{
    const char *path = make_image();
    struct vdisk_check_result r = {.size = sizeof r};
    bool want[CLUSTERS_MOST];
    struct heard h = {.calls = 0};

    CHECK_OK(run_check(path, &h, &r));
    CHECK_INT(r.leaks + r.corruptions + r.check_errors, 0);
    read_refcounts(path, want);
    for (unsigned i = 0; i < CLUSTERS_MOST; i++)
        CHECK_MSG(h.used[i] == want[i], "cluster %u is told to be %s", i, h.used[i] ? "used" : "free");
    CHECK_INT(h.end, r.image_end_offset);
    CHECK(h.calls >= 2);
}

static void test_stopped(void)
{
    const char *path = make_image();
    struct vdisk_check_result r = {.size = sizeof r};
    struct heard h = {.stop_at = 1, .answer = -EIO};

    CHECK_INT(run_check(path, &h, &r), -EIO);
    CHECK_INT(h.calls, 1);
    h = (struct heard){.stop_at = 2, .answer = 7};
    CHECK_INT(run_check(path, &h, &r), -ECANCELED);
    CHECK_INT(h.calls, 2);
    CHECK_MSG(strstr(vdisk_error_text(), "image") != NULL, "'%s'", vdisk_error_text());
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "used", .run = test_used},
        {.name = "stopped", .run = test_stopped},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
