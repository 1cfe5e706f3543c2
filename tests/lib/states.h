/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which states of ops a test program has been in, and with which errors they ended: each case writes it down when
 * it has passed, into a file in the directory VDISK_STATES (not set: nothing is written). tests/fault/states.py
 * judges.
 */
#ifndef TESTS_LIB_STATES_H
#define TESTS_LIB_STATES_H

#include <stdbool.h>

/* Start the file anew: all cases are going to run. */
void states_begin(const char *program);

/* Add what this process has seen. */
void states_add(void);

/* All have run; the file counts if all have passed. */
void states_end(bool passed);

#endif
