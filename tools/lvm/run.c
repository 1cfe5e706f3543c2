/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running a command.
 *
 * Works: it writes into two files in memory, which are read when it has ended: so none waits for the other. What
 * it is to keep open, a lock, is its input: lvm closes what else it gets. A shell waits for it, and tells by a
 * pipe how it has ended: whether this process learns that of its children is the program's business, which may
 * ignore SIGCHLD, or wait for whichever ends. Fails: it cannot be started; what it says itself is the caller's to
 * judge.
 *
 * Invariant: 1. What the command gets has another number here than there, whatever the program has closed.
 */
#include "tools/lvm/run.h"

#include <errno.h>
#include <fcntl.h>
#include <paths.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum {
    OUTPUT_MOST = 256 << 20,
    VARIABLES = 3,
    STATUS_FILENO = 3, /* by which the shell tells it: the command does not get it */
    NOT_FOUND = 127,   /* as a shell says it */
};

/* What is sent to all of the terminal's is the command's to judge; the shell stays as long as it does. */
static const char script[] = "trap : HUP INT QUIT TERM; \"$0\" \"$@\" 3>&-; echo $? >&3";

/* What a command is started with; -1: no input. */
struct files {
    int input, output, errors, status;
};

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

/* The shell, then the command. */
static char **make_arguments(const char *const *argv)
{
    static const char *const shell[] = {"sh", "-c", script};
    size_t count = 0, ours = sizeof shell / sizeof shell[0];
    char **list;

    while (argv[count] != NULL)
        count++;
    list = calloc(ours + count + 1, sizeof *list);
    for (size_t i = 0; list != NULL && i < ours + count; i++)
        list[i] = (char *)(uintptr_t)(i < ours ? shell[i] : argv[i - ours]);
    return list;
}

/* Nobody but the shell waits for its child. */
static int set_signals(posix_spawnattr_t *attributes)
{
    sigset_t child, blocked;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    sigdelset(&blocked, SIGCHLD);
    posix_spawnattr_setsigdefault(attributes, &child);
    posix_spawnattr_setsigmask(attributes, &blocked);
    return posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
}

static int set_files(posix_spawn_file_actions_t *actions, const struct files *f)
{
    int rc = f->input >= 0 ? posix_spawn_file_actions_adddup2(actions, f->input, STDIN_FILENO) :
                             posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);

    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(actions, f->output, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(actions, f->errors, STDERR_FILENO);
    return rc == 0 ? posix_spawn_file_actions_adddup2(actions, f->status, STATUS_FILENO) : rc;
}

static int spawn(const char *const *argv, const struct files *f, pid_t *ret)
{
    char **environment = make_environment(), **arguments = make_arguments(argv);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int rc = environment == NULL || arguments == NULL ? ENOMEM : posix_spawn_file_actions_init(&actions);

    if (rc == 0) {
        rc = posix_spawnattr_init(&attributes);
        if (rc == 0) {
            rc = set_signals(&attributes);
            if (rc == 0)
                rc = set_files(&actions, f);
            if (rc == 0)
                rc = posix_spawn(ret, _PATH_BSHELL, &actions, &attributes, arguments, environment);
            posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&actions);
    }
    free(environment);
    free(arguments);
    return -rc;
}

/* A line, which the shell writes as its last deed; its end a child that the program has forked could delay. */
static int read_status(int fd, pid_t shell, int *ret)
{
    char text[16] = "";
    size_t len = 0;
    ssize_t n;
    int status = 0;
    pid_t pid;

    do {
        n = read(fd, text + len, sizeof text - 1 - len);
        len += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && strchr(text, '\n') == NULL) || (n < 0 && errno == EINTR));
    do
        pid = waitpid(shell, &status, 0);
    while (pid < 0 && errno == EINTR); /* or somebody has been told already */
    if (len > 0)
        *ret = (int)strtol(text, NULL, 10);
    else if (pid == shell)
        *ret = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    else
        return -EIO;
    return *ret == NOT_FOUND ? -ENOENT : 0;
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

static int run(const char *const *argv, struct files *f, int told, struct run_result *ret)
{
    struct run_result r = {0};
    size_t len;
    pid_t shell;
    int rc = spawn(argv, f, &shell);

    close(f->status); /* the shell alone has it: its end is seen */
    f->status = -1;
    if (rc == 0)
        rc = read_status(told, shell, &r.status);
    if (rc == 0)
        rc = read_file(f->output, &r.output, &r.output_len);
    if (rc == 0)
        rc = read_file(f->errors, &r.errors, &len);
    if (rc < 0)
        run_result_free(&r);
    else
        *ret = r;
    return rc;
}

/* (1) The same file by another number, in place of `fd`. */
static int lift(int fd)
{
    int above = fd < 0 || fd > STATUS_FILENO ? fd : fcntl(fd, F_DUPFD_CLOEXEC, STATUS_FILENO + 1);

    if (fd >= 0 && above != fd)
        close(fd);
    return above;
}

static void close_all(const int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

int run_command(const char *const *argv, int input, struct run_result *ret)
{
    int output = lift(memfd_create("output", MFD_CLOEXEC)), errors = lift(memfd_create("errors", MFD_CLOEXEC));
    int own = input >= 0 ? fcntl(input, F_DUPFD_CLOEXEC, STATUS_FILENO + 1) : -1, told[2] = {-1, -1}, rc = 0;
    struct files f = {own, output, errors, -1};

    if (output < 0 || errors < 0 || (input >= 0 && own < 0) || pipe2(told, O_CLOEXEC) != 0)
        rc = -errno;
    if (rc == 0) {
        f.status = lift(told[1]);
        rc = f.status >= 0 ? run(argv, &f, told[0], ret) : -errno;
    }
    close_all((const int[]){output, errors, own, f.status, told[0]}, 5);
    return rc;
}

void run_result_free(struct run_result *r)
{
    free(r->output);
    free(r->errors);
    *r = (struct run_result){0};
}
