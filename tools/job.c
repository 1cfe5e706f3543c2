/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A verb's job: run to its end, or until Ctrl-C says that it shall stop. */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "tools/cli.h"

static _Atomic(vdisk_job *) current;

static void on_signal(int number)
{
    (void)number;
    vdisk_job_cancel(atomic_load(&current));
}

int cli_job_run(vdisk_job *job)
{
    /* A second one ends the program at once. */
    struct sigaction cancel = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}, before_int, before_term;
    sigset_t both, before;
    int rc;

    sigemptyset(&cancel.sa_mask);
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGTERM);
    atomic_store(&current, job);
    sigaction(SIGINT, &cancel, &before_int);
    sigaction(SIGTERM, &cancel, &before_term);
    sigprocmask(SIG_UNBLOCK, &both, &before); /* those that a verb has had wait come now */
    rc = vdisk_job_run(job);
    sigprocmask(SIG_SETMASK, &before, NULL);
    sigaction(SIGINT, &before_int, NULL);
    sigaction(SIGTERM, &before_term, NULL);
    atomic_store(&current, NULL);
    return rc;
}
