/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options by name: each that is listed can be set, to what its type and its default say, and does what it says. */
#include <stdlib.h>

#include "tests/callers/callers.h"

static const size_t sizes[] = {
    [VDISK_OPTS_OPEN] = sizeof(struct vdisk_open_opts), [VDISK_OPTS_CREATE] = sizeof(struct vdisk_create_opts),
    [VDISK_OPTS_RESIZE] = sizeof(struct vdisk_resize_opts), [VDISK_OPTS_QUEUE] = sizeof(struct vdisk_queue_opts),
};

union any {
    size_t size;
    char   bytes[512];
};

static union any empty(enum vdisk_opts_kind kind)
{
    union any o;

    memset(&o, 0, sizeof o);
    o.size = sizes[kind];
    return o;
}

/* Some value of the type that is not zero. */
static const char *example(const char *type)
{
    static char word[32];

    if (strcmp(type, "bool") == 0)
        return "on";
    if (strcmp(type, "size") == 0 || strcmp(type, "number") == 0)
        return "64k";
    if (strcmp(type, "text") == 0)
        return "x";
    CHECK(strchr(type, '|'));
    type = strchr(type, '|') + 1;
    memcpy(word, type, strcspn(type, "|"));
    word[strcspn(type, "|")] = '\0';
    return word;
}

static void test_each(void)
{
    for (unsigned kind = 0; kind < ARRAY_LEN(sizes); kind++) {
        const struct vdisk_option *list = vdisk_list_options((enum vdisk_opts_kind)kind);
        CHECK(list);
        for (; list->name; list++) {
            union any o = empty((enum vdisk_opts_kind)kind), before = o;
            test_note("option %s of kind %u", list->name, kind);
            CHECK(list->help && list->help[0]);
            CHECK_OK(vdisk_set_option((enum vdisk_opts_kind)kind, &o, list->name, example(list->type)));
            CHECK(memcmp(&o, &before, sizeof o) != 0);
            if (strcmp(list->type, "text") != 0)
                CHECK_INT(vdisk_set_option((enum vdisk_opts_kind)kind, &o, list->name, "nonsense"), -EINVAL);
            if (list->fallback)
                CHECK_OK(vdisk_set_option((enum vdisk_opts_kind)kind, &o, list->name, list->fallback));
            o.size = sizeof(size_t); /* of a program that knows none of them */
            CHECK_INT(vdisk_set_option((enum vdisk_opts_kind)kind, &o, list->name, example(list->type)), -ENOTSUP);
        }
    }
    CHECK(!vdisk_list_options((enum vdisk_opts_kind)99));
}

static void test_effect(void)
{
    struct vdisk_create_opts create = {.size = sizeof create};
    struct vdisk_open_opts opts = {.size = sizeof opts};
    struct vdisk_resize_opts resize = {.size = sizeof resize};
    struct vdisk_queue_opts queue = {.size = sizeof queue};
    struct vdisk_info info = {.size = sizeof info};
    const char *path = test_path("image");
    vdisk_queue *q;
    vdisk *v;

    CHECK_OK(vdisk_set_option(VDISK_OPTS_CREATE, &create, "format", "qcow2"));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_CREATE, &create, "virtual-size", "1.5M"));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_CREATE, &create, "cluster_size", "4k"));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_CREATE, &create, "preallocation", "metadata"));
    CHECK_INT(create.preallocation, VDISK_PREALLOC_METADATA);
    CHECK_OK(vdisk_create(path, &create));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "writable", "on"));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "buffered", "on"));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "buffered", "off"));
    CHECK_INT(opts.flags, VDISK_OPEN_RDWR);
    CHECK_OK(vdisk_open(path, &opts, &v));
    CHECK_OK(vdisk_get_info(v, &info));
    CHECK_INT(info.cluster_size, 4096);
    CHECK_INT(info.virtual_size, 3 << 19);
    CHECK_OK(vdisk_set_option(VDISK_OPTS_RESIZE, &resize, "shrink", "yes"));
    CHECK_OK(vdisk_resize(v, 1 << 20, &resize));
    CHECK_OK(vdisk_close(v));
    CHECK_OK(vdisk_set_option(VDISK_OPTS_QUEUE, &queue, "kind", "threads"));
    CHECK_OK(vdisk_queue_create(&queue, &q));
    CHECK_INT(vdisk_queue_get_kind(q), VDISK_QUEUE_THREADS);
    CHECK_OK(vdisk_queue_destroy(q));
}

static void test_refused(void)
{
    struct vdisk_open_opts opts = {.size = sizeof opts};

    CHECK_INT(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "colour", "red"), -ENOENT);
    CHECK_HAS(vdisk_error_text(), "open: there is no option 'colour'");
    CHECK_INT(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "max_dept", "1"), -ENOENT);
    CHECK_INT(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "max_depth_", "1"), -ENOENT);
    CHECK_INT(vdisk_set_option(VDISK_OPTS_OPEN, &opts, "max_depth", "5G"), -EINVAL);
    CHECK_HAS(vdisk_error_text(), "number");
    CHECK_INT(vdisk_set_option(VDISK_OPTS_OPEN, NULL, "max_depth", "1"), -EINVAL);
    CHECK_INT(vdisk_set_option((enum vdisk_opts_kind)9, &opts, "max_depth", "1"), -EINVAL);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {.name = "each", .run = test_each},
        {.name = "effect", .run = test_effect},
        {.name = "refused", .run = test_refused},
    };

    return test_main(argc, argv, cases, ARRAY_LEN(cases));
}
