/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A verb's job: run to its end, or until Ctrl-C, a terminal that goes or SIGTERM say that it shall stop. */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "tools/cli.h"

const int cli_end_signals[CLI_ENDS] = {SIGINT, SIGTERM, SIGHUP};

static _Atomic(vdisk_job *) current;
static _Atomic bool told_to_end; /* perhaps when a job was at its end: then the next one does not begin */

void cli_ends(sigset_t *ret)
{
    sigemptyset(ret);
    for (size_t i = 0; i < CLI_ENDS; i++)
        sigaddset(ret, cli_end_signals[i]);
}

static void on_signal(int number)
{
    (void)number;
    atomic_store(&told_to_end, true);
    vdisk_job_cancel(atomic_load(&current));
}

bool cli_is_told_to_end(void)
{
    return atomic_load(&told_to_end);
}

int cli_job_run(vdisk_job *job)
{
    /* A second one ends the program at once. */
    struct sigaction cancel = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}, were[CLI_ENDS];
    sigset_t ends, before;
    int rc;

    sigemptyset(&cancel.sa_mask);
    cli_ends(&ends);
    atomic_store(&current, job);
    for (size_t i = 0; i < CLI_ENDS; i++) {
        sigaction(cli_end_signals[i], NULL, &were[i]);
        if (were[i].sa_handler != SIG_IGN) /* as under nohup */
            sigaction(cli_end_signals[i], &cancel, NULL);
    }
    sigprocmask(SIG_UNBLOCK, &ends, &before); /* those that a verb has had wait come now */
    if (atomic_load(&told_to_end))
        vdisk_job_cancel(job);
    rc = vdisk_job_run(job);
    sigprocmask(SIG_SETMASK, &before, NULL);
    for (size_t i = 0; i < CLI_ENDS; i++)
        sigaction(cli_end_signals[i], &were[i], NULL);
    atomic_store(&current, NULL);
    return rc;
}
