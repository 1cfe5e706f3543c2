/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Other programs: run a shell command, capture what it says. */
#ifndef TESTS_LIB_RUN_H
#define TESTS_LIB_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct run_result {
    int status;       /* exit status, or 128 + signal */
    char out[16384];  /* the first of stdout and stderr together */
    uint64_t max_rss; /* bytes */
    double seconds;
};

/* Run with /bin/sh in the case's directory; stdout and stderr together go to ret->out. */
void run_shell(struct run_result *ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same; the case fails unless the exit status is 0. Returns the output, good until the next call. */
const char *run_ok(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Another process that holds on: started, and ended by run_kill(). */
struct run_child {
    pid_t pid;
    int in;  /* its stdin, to write commands to */
    int out; /* its stdout and stderr */
};
void run_start(struct run_child *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Write a line to its stdin. */
void run_tell(struct run_child *c, const char *line);

/* Read its output until `text` was seen; fails the case at the end of output or after 30 s. */
void run_expect(struct run_child *c, const char *text);

void run_kill(struct run_child *c, int signal);

/* Wait for its end after closing its stdin; the exit status. */
int run_wait(struct run_child *c);

#endif
