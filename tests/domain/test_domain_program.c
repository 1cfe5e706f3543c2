/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a program does besides while it has a domain open: it forks, goes to another folder, has an image alone. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/domain/domain.h"

#define OK(call) assert_int_equal_why(call, 0, #call)

static const struct domain_volume_create thin = {
    .capacity = 1 << 20, .format = DOMAIN_COW, .allocation = DOMAIN_SPARSE};
static struct domain *d;
static char folder[64], image[DOMAIN_UUID], name[128];

static void assert_int_equal_why(int rc, int expected, const char *call)
{
    if (rc != expected)
        fail_msg("%s: %d, not %d: %s", call, rc, expected, vdisk_error_text());
}

/* A domain that is opened by a relative path, with an image. */
static int set_up(void **state)
{
    struct domain_create o = {.path = "domain", .type = "LOCALFS"};
    char uuid[DOMAIN_UUID];
    struct domain_volume_result made;

    (void)state;
    snprintf(folder, sizeof folder, "/tmp/vdisk-domain.XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("domain", 0755), 0);
    OK(domain_create(&o, NULL, uuid));
    OK(domain_open("domain", NULL, &d));
    OK(domain_make_uuid(image));
    OK(domain_volume_create(d, image, &thin, &made));
    snprintf(name, sizeof name, "%s/domain/%s", folder, image);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    domain_close(d);
    assert_int_equal(chdir("/"), 0);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static struct domain_use *use_it(void)
{
    struct domain_use *use;
    const char *format;
    char *path;

    OK(domain_open_path(name, &path, &format, &use));
    free(path);
    return use;
}

static int delete_it(void)
{
    return domain_image_delete(d, image, &(struct domain_delete){0}, NULL);
}

static struct domain_use *used;
static pid_t child;

static void fork_at(const char *step)
{
    if (child > 0 || strcmp(step, "create: data is written") != 0)
        return;
    child = fork();
    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (child == 0)
        pause();
}

static void end_child(void)
{
    assert_true(child > 0);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    child = 0;
}

/* It has the descriptors that there were: of a volume's use, of an operation. */
static void a_child_that_lives_keeps_nothing(void **state)
{
    struct domain_volume_create beside = thin;
    struct domain_volume_result made;
    char other[DOMAIN_UUID];

    (void)state;
    used = use_it();
    domain_set_step_hook(fork_at);
    OK(domain_make_uuid(other));
    OK(domain_volume_create(d, other, &thin, &made));
    domain_set_step_hook(NULL);
    assert_true(child > 0);
    beside.parent = made.uuid;
    OK(domain_volume_create(d, other, &beside, &made));
    domain_use_end(used);
    OK(delete_it());
    end_child();
}

/* Its own end of what it has from the parent, which goes on with that. */
static void in_child(void)
{
    struct domain *own = NULL;
    struct domain_use *use = NULL;
    const char *format;
    char *path = NULL;
    bool right = delete_it() == -ECHILD && domain_open("domain", NULL, &own) == 0 &&
                 domain_image_delete(own, image, &(struct domain_delete){0}, NULL) == -EAGAIN &&
                 domain_open_path(name, &path, &format, &use) == 0;

    if (right) {
        free(path);
        domain_use_end(use);
        domain_close(own);
    }
    domain_use_end(used);
    domain_close(d);
    _exit(right ? 0 : 1);
}

static void a_child_takes_nothing(void **state)
{
    int status;

    (void)state;
    used = use_it();
    child = fork();
    if (child == 0)
        in_child();
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal_why(delete_it(), -EAGAIN, "an image whose volume is used is deleted");
    domain_use_end(used);
    OK(delete_it());
}

static void the_folder_is_that_of_the_call(void **state)
{
    struct domain_volume_result made;
    struct domain_use *use;
    char other[DOMAIN_UUID];

    (void)state;
    snprintf(name, sizeof name, "domain/%s", image);
    use = use_it();
    assert_int_equal(chdir("/"), 0);
    OK(domain_make_uuid(other));
    OK(domain_volume_create(d, other, &thin, &made));
    domain_use_end(use);
    OK(delete_it());
}

/* Alone is alone, whoever came first; what is used by others is shared. */
static void one_has_it_alone(void **state)
{
    const struct domain_use_opts alone = {.alone = true};
    struct domain_use *use, *other;
    const char *format;
    char *path, *text;

    (void)state;
    OK(domain_open_use(name, &alone, &text, &use));
    free(text);
    assert_string_equal(domain_use_image(use), image);
    assert_int_equal(strlen(domain_use_volume(use)), DOMAIN_UUID - 1);
    assert_false(domain_use_read_only(use));
    assert_int_equal_why(domain_open_path(name, &path, &format, &other), -EAGAIN, "used beside who has it alone");
    assert_int_equal_why(domain_open_use(name, &alone, &text, &other), -EAGAIN, "two have it alone");
    domain_use_end(use);
    use = use_it();
    other = use_it();
    assert_int_equal_why(domain_open_use(name, &alone, &text, &used), -EAGAIN, "alone beside who uses it");
    domain_use_end(use);
    domain_use_end(other);
    OK(domain_open_use(name, &alone, &text, &use));
    free(text);
    domain_use_end(use);
    OK(delete_it());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_child_that_lives_keeps_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_child_takes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_folder_is_that_of_the_call, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_has_it_alone, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
