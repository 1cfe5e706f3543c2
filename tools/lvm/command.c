/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A command of lvm's.
 *
 * Works: what the host has configured of devices to be used, of filters and of backups plays no part. Fails: with
 * lvm's reason, and a number that is guessed from it, as lvm has but one. Killed: lvm goes on, and keeps the
 * writer's lock as long as it does.
 */
#include "tools/lvm/command.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vdisk-image.h>

/* As Vdsm's, but that nothing is backed up on the host: other hosts change the group, too. */
static const char config[] =
    "devices { preferred_names=[\"^/dev/mapper/\"] ignore_suspended_devices=1 write_cache_state=0 "
    "disable_after_error_count=3 use_devicesfile=0 filter=[\"a|.*|\"] global_filter=[\"a|.*|\"] hints=\"none\" "
    "obtain_device_list_from_udev=0 } "
    "global { prioritise_write_locks=1 wait_for_locks=1 use_lvmpolld=0 } "
    "activation { monitoring=0 auto_activation_volume_list=[] } "
    "backup { backup=0 archive=0 }";

int lvm_fail(int err, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return vdisk_set_error(err, text, NULL);
}

bool lvm_can_activate(void)
{
    char line[128];
    bool found = false;
    FILE *f = fopen("/proc/misc", "re");

    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL)
        found = strstr(line, " device-mapper\n") != NULL;
    if (f != NULL)
        fclose(f);
    return found;
}

/* ---- arguments ---------------------------------------------------------------------------------------- */

static void take(struct lvm_command *c, char *argument)
{
    char **list = argument != NULL ? reallocarray(c->list, c->count + 2, sizeof *list) : NULL;

    if (list == NULL) {
        free(argument);
        c->failed = true;
        return;
    }
    c->list = list;
    list[c->count++] = argument;
    list[c->count] = NULL;
}

void command_add(struct lvm_command *c, const char *fmt, ...)
{
    char *argument;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&argument, fmt, ap) < 0)
        argument = NULL;
    va_end(ap);
    take(c, argument);
}

void command_add_each(struct lvm_command *c, const char *option, const char *const *list)
{
    for (; list != NULL && *list != NULL; list++) {
        if (option != NULL)
            command_add(c, "%s", option);
        command_add(c, "%s", *list);
    }
}

void command_begin(struct lvm_command *c, const struct lvm *l, const char *name, char *const *devices)
{
    *c = (struct lvm_command){.lock = l->writer};
    command_add(c, "%s", l->command);
    command_add(c, "%s", name);
    command_add(c, "--config");
    command_add(c, "%s", config);
    if (!lvm_can_activate()) {
        command_add(c, "--driverloaded");
        command_add(c, "n");
    }
    command_add_each(c, "--devices", (const char *const *)devices);
}

static void command_free(struct lvm_command *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->list[i]);
    free(c->list);
    *c = (struct lvm_command){0};
}

/* ---- running ------------------------------------------------------------------------------------------ */

/* lvm exits with 5 whatever it is. What it warns of besides says nothing of that. */
static int number_of(const char *reason)
{
    static const struct {
        const char *text;
        int err;
    } known[] = {
        {"already exists", EEXIST},
        {"insufficient free space", ENOSPC},
        {"nsufficient suitable allocatable extents", ENOSPC},
        {"not found", ENOENT},
        {"Failed to find", ENOENT},
        {"in use", EBUSY},
        {"Can't open", EBUSY},
        {"Permission denied", EACCES},
        {"device-mapper is available", ENOTSUP},
    };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strstr(reason, known[i].text) != NULL)
            return known[i].err;
    return EIO;
}

static int judge(const char *program, const struct run_result *r, const char *doing)
{
    char reason[512];

    if (r->status == 0)
        return 0;
    lvm_reason(r->errors, reason, sizeof reason);
    if (reason[0] == '\0')
        snprintf(reason, sizeof reason, "%s ended with status %d, and gave no reason", program, r->status);
    return lvm_fail(number_of(reason), "%s: %s", doing, reason);
}

static int run(const char *const *argv, int lock, struct run_result *ret, const char *doing)
{
    struct run_result r = {0};
    int rc = run_command(argv, lock, &r);

    if (rc == -ENOENT)
        return vdisk_set_error(ENOTSUP, "the program 'lvm' is not found: volume groups are used by it",
                               "install lvm2");
    if (rc < 0)
        return lvm_fail(rc, "%s: running %s: %s", doing, argv[0], strerror(-rc));
    rc = judge(argv[0], &r, doing);
    if (rc == 0 && ret != NULL)
        *ret = r;
    else
        run_result_free(&r);
    return rc;
}

int command_end(struct lvm_command *c, struct run_result *ret, const char *fmt, ...)
{
    char doing[256];
    va_list ap;
    int rc;

    va_start(ap, fmt);
    vsnprintf(doing, sizeof doing, fmt, ap);
    va_end(ap);
    rc = c->failed ? lvm_fail(ENOMEM, "out of memory") : run((const char *const *)c->list, c->lock, ret, doing);
    command_free(c);
    return rc;
}

int lvm_run_program(const char *const *argv)
{
    struct run_result r = {0};
    int rc = run_command(argv, -1, &r);

    if (rc < 0)
        return lvm_fail(rc, "running %s: %s", argv[0], strerror(-rc));
    rc = judge(argv[0], &r, argv[0]);
    run_result_free(&r);
    return rc;
}
