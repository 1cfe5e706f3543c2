/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that runs out on purpose. The test programs that link this are linked with --wrap: every call for memory
 * in the library and the tests comes by here. Only those made between oom_enter() and oom_leave() count.
 */
#ifndef TESTS_FAULT_OOM_H
#define TESTS_FAULT_OOM_H

#include <stdbool.h>

/* From now on the `nth` call that counts fails, from 1; `forever`: all after it, too. */
void oom_arm(unsigned nth, bool forever);

/* None fails any more. True: one has. */
bool oom_disarm(void);

/* Around calls of the library. */
void oom_enter(void);
void oom_leave(void);

/* Memory asked for since oom_watch() within the library and not given back. */
void oom_watch(void);
unsigned oom_live(void);

#endif
