/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --job FILE: what a job is, and how far it has come, in a file, so that another process goes on with it.
 *
 * FILE is JSON: kind, arguments, directory, state (running, interrupted, failed, done), error; pid, pid_start and
 * boot of the process that runs it; bytes_done, all of which is durable, and bytes_total; ends: the files that it
 * reads and writes, and what they were. It is replaced as a whole, and locked as long as it runs: what is
 * "running" without a lock was killed.
 *
 * Invariants
 *  1. Only who has the lock of the file that is at FILE replaces it, by one that it has locked before.
 *  2. What bytes_done says is durable before it is said.
 *  3. What FILE, or a file beside it, held before is replaced only if it was empty, or a job's.
 */
#ifndef TOOLS_JOB_FILE_H
#define TOOLS_JOB_FILE_H

#include "tools/cli.h"

enum { JOB_FILE_DONE = -1 }; /* of job_file_open() */

/* What a job does with a file. */
enum job_end {
    JOB_READS,  /* nobody may change it meanwhile */
    JOB_WRITES, /* itself: only that it is the same file can be known */
    JOB_KEEPS,  /* it reads it, holding it locked, and makes it empty when all bytes are done */
};

struct job_file {
    const char                *given;    /* as in messages; NULL: there is none, and calls do nothing */
    char                      *path, *next;
    int                        fd;       /* of the file that is there: it holds the lock */
    bool                       made;     /* by us, and nothing has been written to it */
    bool                       fresh;    /* made by us, and the job has written nothing that it could go on with */
    bool                       begun;    /* it is written that it runs */
    bool                       was_begun;  /* before, by another process, which may have written to the target */
    bool                       was_killed; /* that one */
    bool                       is_doubted; /* somebody may have written to what it has written: job_verify.h */
    bool                       quiet;
    json_t                    *json;
    const struct cli_progress *progress; /* where the total is from */
    uint64_t                   position; /* to go on from: 0: from the start */
    char                       why[512]; /* why it could not be written */
    bool                       told;     /* that */
};

/*
 * Lock FILE of `p->job`, and look whether it is of this command: then j->position is where to go on, or it is done
 * (JOB_FILE_DONE: told). CLI_OK; or CLI_FAILED: told, and nothing is left to do. job_file_end() is due after the
 * other two.
 */
int job_file_open(struct job_file *j, const struct cli_parser *p, bool quiet, const struct cli_progress *progress);

/*
 * A file, or an image with all below it, in so far as they are files. Where the job goes on they are known
 * already, and nothing happens. `base`: the image below that is written, by a name that it can be found by; NULL:
 * the first.
 */
void job_file_add(struct job_file *j, const char *path, enum job_end what);
void job_file_add_chain(struct job_file *j, const char *name, const char *format, enum job_end what);
void job_file_add_commit(struct job_file *j, const char *name, const char *format, const char *base);

/*
 * Before the first write: it runs, from j->position on, unless an end has changed. Signals that end a command wait
 * from here on for cli_job_run(). CLI_OK or CLI_FAILED: told.
 */
int job_file_begin(struct job_file *j);

/* How much is not done again; where that is doubted, after job_verify(). */
void job_file_say_skipped(const struct job_file *j);

/* Once more, with what has been added since. CLI_OK or CLI_FAILED: told. */
int job_file_note(struct job_file *j);

/* A vdisk_checkpoint_fn; `arg`: the job file. */
int job_file_checkpoint(void *arg, uint64_t position);

/* For the job's options: where it goes on, and that it tells how far it is; without FILE neither. */
struct vdisk_going_on job_file_going_on(struct job_file *j);

/* Why FILE could not be written, once. false: it could. */
bool job_file_tell(struct job_file *j);

/* The library's error, or that. Returns CLI_FAILED. */
int job_file_error(struct job_file *j);

/* How often, in milliseconds. */
uint32_t job_file_interval_ms(void);

/* A value of FILE's of the verb's own. It takes the reference. */
void job_file_set(struct job_file *j, const char *key, json_t *value);

/*
 * The job has ended, with CLI_OK (done), or for the reason `error`; lets go of all. Nothing was begun, or refused
 * before a first step: FILE is as it was, or not there. Returns rc, or CLI_FAILED: told.
 */
int job_file_end(struct job_file *j, int rc, const char *error);

/* ---- the files that it reads and writes (job_ends.c) ---------------------------------------------------- */

/* What is known of the file at `path`. NULL: it is no file. */
json_t *job_end_make(const char *path, enum job_end what);

/* Is it as it was? NULL, or in which way it is not. `emptying`: what JOB_KEEPS need not be. */
const char *job_end_changed(const json_t *end, bool emptying);

/* Look again at those that JOB_KEEPS; at the end of the job at those that JOB_WRITES, or forget how they were. */
void job_ends_refresh(json_t *ends);
void job_ends_note(json_t *ends, bool are_known);

/*
 * May somebody have written since to one that JOB_WRITES? Nobody, if it is as job_ends_note() saw it, which a job
 * that was killed has not called.
 */
bool job_ends_are_doubted(const json_t *ends, bool was_killed);

/* The image below that a commit goes into. */
struct job_base {
    char    *name, *format; /* malloc'ed, or NULL */
    unsigned depth;         /* layers above it */
};

/* false: there is none. job_base_free() is due in any case. */
bool job_base_find(struct job_base *ret, const char *name, const char *format, const char *base);
void job_base_free(struct job_base *base);

/* ---- another process's (cmd_job.c) ---------------------------------------------------------------------- */

/* What is in FILE; NULL: told. *ret_locked: it is at work. */
json_t *job_file_look(const char *path, bool *ret_locked);

/* When the process began, in ticks since boot, or 0; the boot's id. */
uint64_t job_file_pid_start(int pid);
char *job_file_boot(char *buf, size_t len);

#endif
