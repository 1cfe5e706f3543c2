/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running a command.
 *
 * Works: it writes into two files in memory, which are read when it has ended: so none waits for the other. What
 * it is to keep open, a lock, is its input: lvm closes what else it gets. Fails: it cannot be started; what it
 * says itself is the caller's to judge.
 */
#include "tools/lvm/run.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { OUTPUT_MOST = 256 << 20, VARIABLES = 3 };

/* The program's, but for a language that is known, and no complaints of descriptors that it does not get. */
static char **make_environment(void)
{
    static char ours[VARIABLES][32] = {"LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1", "LVM_SUPPRESS_SYSLOG=1"};
    size_t count = 0, at = 0;
    char **list;

    while (environ[count] != NULL)
        count++;
    list = calloc(count + VARIABLES + 1, sizeof *list);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "LC_ALL=", 7) != 0)
            list[at++] = environ[i];
    for (size_t i = 0; i < VARIABLES; i++)
        list[at++] = ours[i];
    return list;
}

static int spawn(const char *const *argv, int input, int output, int errors, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    char **environment = make_environment();
    int rc;

    if (environment == NULL || posix_spawn_file_actions_init(&actions) != 0) {
        free(environment);
        return -ENOMEM;
    }
    rc = input >= 0 ? posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO) :
                      posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    if (rc == 0)
        rc = posix_spawnp(ret, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return -rc;
}

static int read_file(int fd, char **ret, size_t *ret_len)
{
    struct stat st;
    size_t len = 0;
    char *text;

    if (fstat(fd, &st) != 0)
        return -errno;
    if (st.st_size > OUTPUT_MOST)
        return -EFBIG;
    text = malloc((size_t)st.st_size + 1);
    if (text == NULL)
        return -ENOMEM;
    while (len < (size_t)st.st_size) {
        ssize_t n = pread(fd, text + len, (size_t)st.st_size - len, (off_t)len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    *ret = text;
    *ret_len = len;
    return 0;
}

static int run(const char *const *argv, int input, int output, int errors, struct run_result *ret)
{
    struct run_result r = {0};
    size_t len;
    pid_t child;
    int status, rc = spawn(argv, input, output, errors, &child);

    if (rc < 0)
        return rc;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    rc = read_file(output, &r.output, &r.output_len);
    if (rc == 0)
        rc = read_file(errors, &r.errors, &len);
    if (rc < 0)
        run_result_free(&r);
    else
        *ret = r;
    return rc;
}

int run_command(const char *const *argv, int input, struct run_result *ret)
{
    int output = memfd_create("output", MFD_CLOEXEC), errors = memfd_create("errors", MFD_CLOEXEC), rc;

    rc = output >= 0 && errors >= 0 ? run(argv, input, output, errors, ret) : -errno;
    if (output >= 0)
        close(output);
    if (errors >= 0)
        close(errors);
    return rc;
}

void run_result_free(struct run_result *r)
{
    free(r->output);
    free(r->errors);
    *r = (struct run_result){0};
}
