/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of `vdisk-io io`: one open image, one queue, requests one at a time or several in flight. */
#ifndef TOOLS_IO_COMMANDS_H
#define TOOLS_IO_COMMANDS_H

#include <stdbool.h>
#include <vdisk.h>

struct io_session {
    const char  *name;
    vdisk       *volume;
    vdisk_queue *queue;
    bool         quiet;
    bool         echo;   /* say what has been done, as a journal for who kills this process */
    bool         failed; /* some command did */
    bool         quit;   /* was asked for */
};

/* 0, or -1 with a message printed. */
int io_session_open(struct io_session *s, const char *name, const struct vdisk_open_opts *how, bool quiet);

/* Carry out one command line; what goes wrong is printed and remembered. */
void io_session_run(struct io_session *s, const char *line);

/* Wait for what is in flight, close. 0, or -1 if this or any command failed. */
int io_session_close(struct io_session *s);

#define IO_COMMANDS_HELP                                                                                         \
    "Commands (OFFSET and LENGTH take 0x hex and K, M, G, T, P, E; PATTERN is a byte: 0xab, 171, 0253):\n"       \
    "  read [-aqv] [-P PATTERN [-s SKIP] [-l LENGTH]] OFFSET LENGTH\n"                                           \
    "                           read; -P: fail unless all of it (from SKIP, for -l LENGTH) is PATTERN; -v: dump\n"\
    "  write [-acfquz] [-P PATTERN] OFFSET LENGTH\n"                                                             \
    "                           write PATTERN (0xcd); -f: FUA; -z: zeros, as zero does, with -u as there;\n"     \
    "                           -c: compressed, whole clusters\n"                                                \
    "  verify [-aq] [-P PATTERN] OFFSET LENGTH\n"                                                                \
    "                           read -P PATTERN (0xcd)\n"                                                        \
    "  zero [-afqu] OFFSET LENGTH\n"                                                                             \
    "                           make it read as zeros; -u: space may be given back; -f: FUA\n"                   \
    "  discard [-aq] OFFSET LENGTH\n"                                                                            \
    "                           its content is no longer needed\n"                                               \
    "  flush [-a]               make durable what has completed\n"                                               \
    "  wait                     until all that was started with -a has completed\n"                              \
    "  length                   print the virtual size\n"                                                        \
    "  sleep MILLISECONDS\n"                                                                                     \
    "  help, quit\n"                                                                                             \
    "-a starts the request and goes on with the next command; -q prints no line about it. Aliases: r, w, z, d,\n"\
    "f, l, q. A line that starts with # is a comment. A command that fails does not stop those after it.\n"

#endif
