/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_INTERLEAVE_WRAP_H
#define TESTS_INTERLEAVE_WRAP_H

/* At the end of a run, when all has been given back: lets go of what was kept. */
void wrap_end_run(void);

/* So many threads of a run cannot begin another. */
extern unsigned wrap_refuse_threads;

/* Sleep, in the scheduler, until the descriptor is readable. */
void wrap_wait_readable(const char *what, int fd);

#endif
