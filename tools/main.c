/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vdisk-io: finds the verb. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli.h"

static void print_help(void)
{
    printf("Usage: %s VERB [OPTION]... [ARGUMENT]...\n"
           "Create, look at, check, resize, convert, compare, read and write disk images (raw and qcow2),\n"
           "and measure the I/O.\n"
           "\nVerbs:\n", cli_program());
    for (const struct cli_verb *const *v = cli_verbs; *v != NULL; v++)
        printf("  %-8s %s\n", (*v)->name, (*v)->summary);
    printf("\nOptions:\n"
           "  -h, --help      this text; after a verb: what the verb takes\n"
           "  -V, --version   the version\n"
           "\nAn image is a path; file:PATH for a path that looks like something else; null:SIZE, which reads\n"
           "as it pleases and forgets writes; memory:SIZE, which lives as long as the command; json:{...}, as\n"
           "QEMU has it; or volume:DOMAIN/IMAGE[/VOLUME], a volume of a storage domain, or the leaf of an image.\n"
           "SIZE takes the suffixes K, M, G, T, P and E. The format is found from the content unless -f names\n"
           "it: name it for raw images that somebody else could have written.\n");
}

/*
 * No file of ours gets the number of a standard one that is closed, where messages or an image would go into it:
 * what stands there then can be neither read nor written. false: nothing can.
 */
static bool hold_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

/* "version N" is what programs look for. */
static void print_version(void)
{
    if (cli_is_qemu_img())
        printf("qemu-img version 10.0.0 (vdisk-io %s)\n", vdisk_version());
    else
        printf("vdisk-io version %s\n", vdisk_version());
}

static void be_called(const char *path)
{
    const char *slash = path != NULL ? strrchr(path, '/') : NULL;

    if (path != NULL && strcmp(slash != NULL ? slash + 1 : path, "qemu-img") == 0)
        cli_be_qemu_img();
}

int main(int argc, char **argv)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    const char *word = argc > 1 ? argv[1] : NULL;

    if (!hold_standard_files())
        return CLI_FAILED;
    be_called(argv[0]);
    sigaction(SIGXFSZ, &ignore, NULL); /* a file that may not be longer is an error that names it */
    if (word == NULL) {
        cli_error("no verb given; see '%s --help'", cli_program());
        return CLI_FAILED;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help();
        return cli_finish(CLI_OK);
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        print_version();
        return cli_finish(CLI_OK);
    }
    for (const struct cli_verb *const *v = cli_verbs; *v != NULL; v++) {
        if (strcmp(word, (*v)->name) == 0)
            return cli_finish((*v)->run(*v, argc - 1, argv + 1));
    }
    cli_error("no verb '%s'; see '%s --help'", word, cli_program());
    return CLI_FAILED;
}
