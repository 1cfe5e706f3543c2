/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `lvm`, as a test has it: it asks the test, by the socket that FAKE_LVM names, and says what that says.
 *
 * Works: arguments, each with a NUL, go there; the status, four bytes of the output's length, the output, and
 * errors come back. Like lvm it closes what it gets beyond its first three descriptors. Fails: with status 9.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(const char *what)
{
    perror(what);
    return 9;
}

static int ask(int argc, char **argv)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = getenv("FAKE_LVM");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (path == NULL || strlen(path) >= sizeof to.sun_path)
        return -1;
    memcpy(to.sun_path, path, strlen(path) + 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return -1;
    for (int i = 1; i < argc; i++)
        if (write(fd, argv[i], strlen(argv[i]) + 1) != (ssize_t)strlen(argv[i]) + 1)
            return -1;
    return shutdown(fd, SHUT_WR) == 0 ? fd : -1;
}

int main(int argc, char **argv)
{
    unsigned char status;
    uint32_t output;
    int fd;
    FILE *f;

    closefrom(3);
    fd = ask(argc, argv);
    f = fd >= 0 ? fdopen(fd, "rb") : NULL;
    if (f == NULL)
        return fail("asking the test");
    if (fread(&status, 1, 1, f) != 1 || fread(&output, sizeof output, 1, f) != 1)
        return fail("what the test says");
    for (int c; (c = fgetc(f)) != EOF; output -= output > 0)
        fputc(c, output > 0 ? stdout : stderr);
    return status;
}
