/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Words for the last error of a thread. */
#include <stdarg.h>
#include <stdio.h>

#include "exports/nbd/server.h"

static _Thread_local char error_text[256];

int nbds_error(int rc, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    return rc;
}

const char *nbd_server_error_text(void)
{
    return error_text;
}
