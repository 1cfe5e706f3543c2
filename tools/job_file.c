/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: see job_file.h. FILE is made empty and locked; a state is written beside it (FILE.next), locked, made
 * durable, and renamed over it. Fails: what is there and no job's stays; what cannot be written ends the job, with
 * the last state in FILE.
 */
#include "tools/job_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "tools/own_files.h"
#include "tools/target.h"

enum { INTERVAL_MS = 5000, TRIES = 500 };

static const char first_text[] = "{\n    \"vdisk-io job\": "; /* of each state */
static const struct timespec a_moment = {.tv_nsec = 20000000};

static int fail(const struct job_file *j, const char *what)
{
    cli_error("%s: %s", j->given, what);
    return CLI_FAILED;
}

/* ---- which process -------------------------------------------------------------------------------------- */

uint64_t job_file_pid_start(int pid)
{
    char path[64], text[1024];
    uint64_t start = 0;
    const char *at;
    size_t n;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (f == NULL)
        return 0;
    n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    at = strrchr(text, ')'); /* the name before it can hold anything */
    for (unsigned field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at != NULL)
        start = strtoull(at + 1, NULL, 10);
    return start;
}

char *job_file_boot(char *buf, size_t len)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    buf[0] = '\0';
    if (f != NULL && fgets(buf, (int)len, f) != NULL)
        buf[strcspn(buf, "\n")] = '\0';
    if (f != NULL)
        fclose(f);
    return buf;
}

/* ---- the file ------------------------------------------------------------------------------------------- */

static int lock(int fd)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_SETLK, &all) == 0 ? 0 : -errno;
}

static bool is_at(const char *path, int fd)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Parsed, or NULL. An empty file is NULL with *ret_empty. */
static json_t *read_json(int fd, bool *ret_empty)
{
    struct stat st;
    json_t *json;
    FILE *f;
    int copy;

    *ret_empty = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0;
    copy = *ret_empty ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    f = copy >= 0 ? fdopen(copy, "r") : NULL;
    if (f == NULL)
        return NULL;
    rewind(f);
    json = json_loadf(f, 0, NULL);
    fclose(f); /* of the description other descriptors are left: the lock stays */
    if (json_string_value(json_object_get(json, "vdisk-io job")) == NULL) {
        json_decref(json);
        json = NULL;
    }
    return json;
}

/* Who has it locked. The locks of one that was killed outlive it for a moment: CLI_OK, after some of that. */
static int is_running(const struct job_file *j, int fd)
{
    bool empty;
    json_t *json = read_json(fd, &empty);
    json_int_t pid = json_integer_value(json_object_get(json, "pid"));
    const char *there = json_string_value(json_object_get(json, "boot"));
    char boot[64];

    job_file_boot(boot, sizeof boot);
    if (there != NULL && strcmp(there, boot) == 0 &&
        job_file_pid_start((int)pid) != (uint64_t)json_integer_value(json_object_get(json, "pid_start"))) {
        json_decref(json);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &a_moment, NULL);
        return CLI_OK;
    }
    if (pid > 0)
        cli_error("%s: is at work: process %" JSON_INTEGER_FORMAT " has it", j->given, pid);
    else
        cli_error("%s: is at work: another process has it, and has just begun", j->given);
    json_decref(json);
    return CLI_FAILED;
}

/* The file that is at the path, locked: who has replaced it meanwhile is at work. */
static int take_file(struct job_file *j)
{
    for (unsigned i = 0; i < TRIES; i++) {
        int rc, fd = open(j->path, O_RDWR | O_CLOEXEC);
        j->made = fd < 0 && errno == ENOENT;
        if (j->made)
            fd = open(j->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno == EEXIST)
            continue; /* it has just come */
        if (fd < 0)
            return fail(j, strerror(errno));
        rc = lock(fd);
        if (rc == 0 && is_at(j->path, fd)) {
            j->fd = fd;
            return CLI_OK;
        }
        if (rc == -EAGAIN || rc == -EACCES)
            rc = is_running(j, fd);
        else if (rc < 0)
            rc = fail(j, strerror(-rc));
        close(fd);
        if (rc != 0)
            return rc;
    }
    return fail(j, "other processes replace it again and again, or hold it locked");
}

static bool write_all(int fd, const char *text, size_t len)
{
    for (ssize_t n; len > 0; text += n, len -= (size_t)n) {
        n = write(fd, text, len);
        if (n < 0 && errno == EINTR)
            n = 0;
        if (n < 0)
            return false;
    }
    return true;
}

/* Invariant 1. 0 or -errno, with j->why. */
static int save(struct job_file *j)
{
    char *text = json_dumps(j->json, JSON_INDENT(4));
    int fd, rc = 0;

    if (!j->begun)
        unlink(j->next); /* of one that was killed: check_next() */
    fd = text != NULL ? open(j->next, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666) : -1;
    if (fd < 0 || !write_all(fd, text, strlen(text)) || !write_all(fd, "\n", 1) || fsync(fd) != 0)
        rc = text != NULL ? -errno : -ENOMEM;
    if (rc == 0)
        rc = lock(fd);
    if (rc == 0 && rename(j->next, j->path) != 0)
        rc = -errno;
    free(text);
    if (rc < 0) {
        snprintf(j->why, sizeof j->why, "%.400s: %s", j->given, strerror(-rc));
        if (fd >= 0)
            unlink(j->next);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    own_files_sync_folder(j->path);
    close(j->fd);
    j->fd = fd;
    j->made = false;
    return 0;
}

json_t *job_file_look(const char *path, bool *ret_locked)
{
    for (unsigned i = 0; i < TRIES; i++) {
        struct flock any = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        bool empty = false, stays;
        json_t *json = NULL;

        if (fd < 0) {
            cli_error("%s: %s", path, strerror(errno));
            return NULL;
        }
        json = read_json(fd, &empty);
        *ret_locked = fcntl(fd, F_OFD_GETLK, &any) == 0 && any.l_type != F_UNLCK;
        stays = is_at(path, fd);
        close(fd);
        if (stays && json == NULL)
            cli_error("%s: %s", path, empty ? "is empty: nothing has begun" : "is not a job's file");
        if (stays)
            return json;
        json_decref(json);
    }
    cli_error("%s: is replaced again and again", path);
    return NULL;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

/* FILE must not be an image of the command: both would be written. */
static int check_operands(const struct job_file *j, const struct cli_parser *p)
{
    char **operands;
    int n = cli_operands(p, &operands);

    for (int i = 0; i < n; i++) {
        const char *path = target_path(operands[i]);
        if (path != NULL && is_at(path, j->fd))
            return fail(j, "is an image of this command, too");
    }
    return CLI_OK;
}

/* FILE.next is not there, or of a job that was killed when it had written some of it. Invariant 3. */
static int check_next(const struct job_file *j)
{
    char start[sizeof first_text - 1];
    int fd = open(j->next, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    ssize_t n = -1;

    if (fd < 0 && errno == ENOENT)
        return CLI_OK;
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        n = read(fd, start, sizeof start);
    if (fd >= 0)
        close(fd);
    if (n >= 0 && memcmp(start, first_text, (size_t)n) == 0)
        return CLI_OK;
    cli_error("%s: is there, and is no job's file: not replaced", j->next);
    return CLI_FAILED;
}

static const char *text_of(const struct job_file *j, const char *key)
{
    const char *text = json_string_value(json_object_get(j->json, key));

    return text != NULL ? text : "";
}

static uint64_t number_of(const struct job_file *j, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(j->json, key));

    return n > 0 ? (uint64_t)n : 0;
}

static json_t *arguments_of(const struct cli_parser *p)
{
    json_t *list = json_copy(p->said);
    char **operands;
    int n = cli_operands(p, &operands);

    for (int i = 0; i < n; i++)
        json_array_append_new(list, cli_json_string(operands[i]));
    return list;
}

/* Of the bytes of the names: those that are not UTF-8 cannot be told apart in JSON. */
static uint32_t sum_of_arguments(const struct cli_parser *p)
{
    char **operands;
    int n = cli_operands(p, &operands);
    uLong sum = crc32(0, NULL, 0);

    for (int i = 0; i < n; i++)
        sum = crc32(sum, (const Bytef *)operands[i], (uInt)strlen(operands[i]) + 1);
    return (uint32_t)sum;
}

static void begin_anew(struct job_file *j, const struct cli_parser *p)
{
    char *directory = get_current_dir_name();

    json_decref(j->json);
    j->json = json_object();
    j->position = 0;
    json_object_set_new(j->json, "vdisk-io job", json_string("1"));
    json_object_set_new(j->json, "kind", json_string(p->verb->name));
    json_object_set_new(j->json, "arguments", arguments_of(p));
    json_object_set_new(j->json, "arguments_crc32", json_integer(sum_of_arguments(p)));
    json_object_set_new(j->json, "directory", cli_json_string(directory != NULL ? directory : ""));
    json_object_set_new(j->json, "bytes_done", json_integer(0));
    json_object_set_new(j->json, "bytes_total", json_integer(0));
    json_object_set_new(j->json, "ends", json_array());
    free(directory);
}

/* It is there: is it of this command? */
static int check_command(struct job_file *j, const struct cli_parser *p)
{
    json_t *arguments = arguments_of(p);
    bool same = json_equal(arguments, json_object_get(j->json, "arguments")) &&
                sum_of_arguments(p) == number_of(j, "arguments_crc32");

    json_decref(arguments);
    if (strcmp(text_of(j, "vdisk-io job"), "1") != 0)
        return fail(j, "was written by another version, and is not understood");
    if (strcmp(text_of(j, "kind"), p->verb->name) != 0) {
        cli_error("%s: is of another command: %s", j->given, text_of(j, "kind"));
        return CLI_FAILED;
    }
    return same ? CLI_OK : fail(j, "was begun with other arguments: 'job status' shows them");
}

static int check_ends(const struct job_file *j, bool is_done)
{
    bool emptying = is_done || j->position == number_of(j, "bytes_total");
    const json_t *ends = json_object_get(j->json, "ends");

    for (size_t i = 0; i < json_array_size(ends); i++) {
        const json_t *end = json_array_get(ends, i);
        const char *how = job_end_changed(end, emptying);
        if (how == NULL)
            continue;
        cli_error("%s: %s: %s %s; remove %s to begin again", j->given, is_done ? "was done" : "cannot go on",
                  json_string_value(json_object_get(end, "path")), how, j->given);
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* All of it is, if that is what would be done now: a copy of what is there now, and the copy is there. */
static int is_done(const struct job_file *j)
{
    bool is_copy = strcmp(text_of(j, "kind"), "convert") == 0 || strcmp(text_of(j, "kind"), "checksum") == 0;

    if (is_copy && check_ends(j, true) != CLI_OK)
        return CLI_FAILED;
    if (!j->quiet)
        cli_note("%s: all of it is done already", j->given);
    return JOB_FILE_DONE;
}

static int take_state(struct job_file *j, const struct cli_parser *p)
{
    bool is_empty;

    j->json = read_json(j->fd, &is_empty);
    if (j->json == NULL && !is_empty)
        return fail(j, "is there, and is no job's file: not replaced"); /* invariant 3 */
    if (is_empty) {
        begin_anew(j, p);
        return CLI_OK;
    }
    if (check_command(j, p) != CLI_OK)
        return CLI_FAILED;
    if (strcmp(text_of(j, "state"), "done") == 0)
        return is_done(j);
    j->was_begun = true;
    j->position = number_of(j, "bytes_done");
    j->was_killed = strcmp(text_of(j, "state"), "running") == 0;
    j->is_doubted = job_ends_are_doubted(json_object_get(j->json, "ends"), j->was_killed);
    if (j->position > 0 && j->is_doubted && strcmp(p->verb->name, "rebase") == 0) {
        if (check_ends(j, false) != CLI_OK)
            return CLI_FAILED;
        j->position = 0; /* what is done is found again by the same comparison, and not written again */
    }
    if (j->position == 0)
        begin_anew(j, p);
    return CLI_OK;
}

static void let_go(struct job_file *j)
{
    if (j->made && j->fd >= 0)
        unlink(j->path);
    if (j->fd >= 0)
        close(j->fd);
    json_decref(j->json);
    free(j->path);
    free(j->next);
    *j = (struct job_file){.fd = -1};
}

static bool has_pipe(const struct cli_parser *p)
{
    char **operands;
    int n = cli_operands(p, &operands);

    while (n > 0 && strcmp(operands[n - 1], "-") != 0)
        n--;
    return n > 0;
}

int job_file_open(struct job_file *j, const struct cli_parser *p, bool quiet, const struct cli_progress *progress)
{
    int rc;

    *j = (struct job_file){.given = p->job, .quiet = quiet, .progress = progress, .fd = -1};
    if (p->job == NULL)
        return CLI_OK;
    if (has_pipe(p))
        return cli_usage_error(p->verb, "--job: what is a pipe (-) cannot be gone on with");
    j->path = realpath(p->job, NULL); /* of a link, what it leads to is replaced */
    if (j->path == NULL)
        j->path = own_files_path(p->job);
    j->next = own_files_beside(j->path, ".next");
    rc = take_file(j);
    j->fresh = j->made;
    if (rc == CLI_OK)
        rc = check_operands(j, p);
    if (rc == CLI_OK)
        rc = take_state(j, p);
    if (rc == CLI_FAILED)
        let_go(j);
    return rc;
}

/* ---- at work -------------------------------------------------------------------------------------------- */

void job_file_set(struct job_file *j, const char *key, json_t *value)
{
    if (j->given == NULL)
        json_decref(value);
    else
        json_object_set_new(j->json, key, value);
}

static int save_running(struct job_file *j)
{
    char boot[64];

    json_object_set_new(j->json, "state", json_string("running"));
    json_object_del(j->json, "error");
    json_object_set_new(j->json, "pid", json_integer(getpid()));
    json_object_set_new(j->json, "pid_start", json_integer((json_int_t)job_file_pid_start(getpid())));
    json_object_set_new(j->json, "boot", json_string(job_file_boot(boot, sizeof boot)));
    if (save(j) == 0) {
        j->begun = true;
        return CLI_OK;
    }
    job_file_tell(j);
    return CLI_FAILED;
}

void job_file_say_skipped(const struct job_file *j)
{
    char size[32];

    if (j->position > 0 && !j->quiet)
        cli_note("%s: skipped %s already done", j->given, cli_format_size(j->position, size, sizeof size));
}

int job_file_begin(struct job_file *j)
{
    sigset_t ends;

    if (j->given == NULL)
        return CLI_OK;
    cli_ends(&ends);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    if ((j->position > 0 && check_ends(j, false) != CLI_OK) || check_next(j) != CLI_OK)
        return CLI_FAILED;
    if (save_running(j) != CLI_OK)
        return CLI_FAILED;
    if (!j->is_doubted)
        job_file_say_skipped(j);
    return CLI_OK;
}

int job_file_note(struct job_file *j)
{
    return j->given == NULL ? CLI_OK : save_running(j);
}

int job_file_checkpoint(void *arg, uint64_t position)
{
    struct job_file *j = arg;

    if (position > number_of(j, "bytes_done")) /* what was said once stays true, where it began a little before */
        json_object_set_new(j->json, "bytes_done", json_integer((json_int_t)position));
    json_object_set_new(j->json, "bytes_total", json_integer((json_int_t)j->progress->total));
    job_ends_refresh(json_object_get(j->json, "ends"));
    return save(j);
}

struct vdisk_going_on job_file_going_on(struct job_file *j)
{
    return (struct vdisk_going_on){j->position, j->given != NULL ? job_file_checkpoint : NULL, j,
                                   job_file_interval_ms()};
}

bool job_file_tell(struct job_file *j)
{
    if (j->why[0] != '\0' && !j->told)
        cli_error("%s", j->why);
    j->told = j->why[0] != '\0';
    return j->told;
}

int job_file_error(struct job_file *j)
{
    return job_file_tell(j) ? CLI_FAILED : cli_library_error();
}

uint32_t job_file_interval_ms(void)
{
    const char *text = getenv("VDISK_IO_JOB_INTERVAL");
    uint64_t ms;

    return text != NULL && cli_parse_number(text, UINT32_MAX, &ms) == 0 && ms > 0 ? (uint32_t)ms : INTERVAL_MS;
}

/* What FILE says does not need it any more. */
static void drop_blocks(const struct job_file *j)
{
    char *blocks = own_files_beside(j->path, ".blocks");

    if (json_object_get(j->json, "blocks_bytes") != NULL)
        unlink(blocks);
    free(blocks);
}

int job_file_end(struct job_file *j, int rc, const char *error)
{
    if (j->given == NULL)
        return rc;
    if (j->begun && rc != CLI_OK && j->fresh && j->progress->total == 0 && !cli_is_told_to_end()) {
        unlink(j->path); /* refused before it did anything: an image is locked, say */
    } else if (j->begun) {
        const char *state = rc == CLI_OK ? "done" : cli_is_told_to_end() ? "interrupted" : "failed";
        json_object_set_new(j->json, "state", json_string(state));
        if (rc == CLI_OK)
            json_object_set(j->json, "bytes_done", json_object_get(j->json, "bytes_total"));
        else if (error != NULL && error[0] != '\0')
            json_object_set_new(j->json, "error", cli_json_string(error));
        job_ends_refresh(json_object_get(j->json, "ends"));
        job_ends_note(json_object_get(j->json, "ends"), !j->is_doubted);
        if (save(j) < 0 && rc == CLI_OK) { /* else it was told why it failed, and what FILE says is true still */
            job_file_tell(j);
            rc = CLI_FAILED;
        }
    }
    if (j->json != NULL && strcmp(text_of(j, "state"), "done") == 0 && rc == CLI_OK)
        drop_blocks(j);
    let_go(j);
    return rc;
}
