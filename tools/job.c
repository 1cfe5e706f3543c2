/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A verb's job: run to its end, or until Ctrl-C, a terminal that goes, SIGTERM or 'job cancel' say that it shall
 * stop; SIGUSR1 asks how far it is.
 */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "tools/cli.h"

const int cli_end_signals[CLI_ENDS] = {SIGINT, SIGTERM, SIGHUP, CLI_CANCEL};

static _Atomic(vdisk_job *) current;
static _Atomic bool told_to_end; /* perhaps when a job was at its end: then the next one does not begin */

void cli_ends(sigset_t *ret)
{
    sigemptyset(ret);
    for (size_t i = 0; i < CLI_ENDS; i++)
        sigaddset(ret, cli_end_signals[i]);
}

static volatile sig_atomic_t asked;

bool cli_is_told_to_end(void)
{
    return atomic_load(&told_to_end);
}

bool cli_end_is_waiting(void)
{
    sigset_t set;

    sigpending(&set);
    for (size_t i = 0; i < CLI_ENDS; i++)
        if (sigismember(&set, cli_end_signals[i]))
            return true;
    return false;
}

bool cli_is_asked(void)
{
    bool was = asked != 0;

    asked = 0;
    return was;
}

static void on_question(int number)
{
    (void)number;
    asked = 1;
}

static void on_signal(int number)
{
    (void)number;
    atomic_store(&told_to_end, true);
    vdisk_job_cancel(atomic_load(&current));
}

int cli_job_run(vdisk_job *job)
{
    /* A second one ends the program at once. */
    struct sigaction cancel = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}, were[CLI_ENDS];
    struct sigaction always = {.sa_handler = on_signal};
    struct sigaction question = {.sa_handler = on_question, .sa_flags = SA_RESTART};
    sigset_t ends, before;
    int rc;

    sigemptyset(&cancel.sa_mask);
    sigemptyset(&always.sa_mask);
    sigemptyset(&question.sa_mask);
    sigaction(SIGUSR1, &question, NULL); /* from here on: one that comes late ends nothing */
    cli_ends(&ends);
    atomic_store(&current, job);
    for (size_t i = 0; i < CLI_ENDS; i++) {
        if (cli_end_signals[i] == CLI_CANCEL) { /* never ignored, and from here on: between two jobs, too */
            sigaction(CLI_CANCEL, &always, NULL);
            continue;
        }
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
        if (cli_end_signals[i] != CLI_CANCEL)
            sigaction(cli_end_signals[i], &were[i], NULL);
    atomic_store(&current, NULL);
    return rc;
}
