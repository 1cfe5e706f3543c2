/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/base/error.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vdisk.h"

/* Fixed buffers: an error must be reportable when memory is not to be had. */
static _Thread_local char error_text[sizeof(((struct err_saved *)0)->text)];
static _Thread_local char error_hint[sizeof(((struct err_saved *)0)->hint)];
_Thread_local struct err_state err_state;

void err_make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

/* What the host said, and nothing else is known: what helps is everywhere the same. */
static void hint_for_host(int err)
{
    const char *says = strerror(err), *hint = err_advice(-err);
    size_t len = strlen(error_text), n = strlen(says);

    if (err == ENOSPC)
        hint = "free space where the file lies, or raise the quota of its owner";
    if (hint[0] && len >= n && strcmp(error_text + len - n, says) == 0)
        err_hint(err, "%s", hint);
}

int err_set(int err, const char *fmt, ...)
{
    char text[sizeof error_text]; /* an argument may be the old text */
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_make_printable(text);
    memcpy(error_text, text, sizeof text);
    error_hint[0] = '\0';
    err_state.is_set = true;
    hint_for_host(abs(err));
    return -abs(err);
}

int err_hint(int err, const char *fmt, ...)
{
    va_list ap;

    assert(err_state.is_set);
    va_start(ap, fmt);
    vsnprintf(error_hint, sizeof error_hint, fmt, ap);
    va_end(ap);
    err_make_printable(error_hint);
    err_state.is_set = true;
    return err;
}

int err_prefix(int err, const char *fmt, ...)
{
    char text[sizeof error_text];
    va_list ap;
    int n;

    assert(err_state.is_set);
    va_start(ap, fmt);
    n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_make_printable(text);
    /* A long text is cut at the end, where it says least. */
    if (n >= 0 && (size_t)n + 3 < sizeof text) {
        memcpy(text + n, ": ", 2);
        n += 2;
        memcpy(text + n, error_text, sizeof text - (size_t)n);
        text[sizeof text - 1] = '\0';
    }
    memcpy(error_text, text, sizeof text);
    err_state.is_set = true;
    return err;
}

void err_append(const char *fmt, ...)
{
    size_t n = strlen(error_text);
    va_list ap;

    assert(err_state.is_set && n < sizeof error_text);
    va_start(ap, fmt);
    vsnprintf(error_text + n, sizeof error_text - n, fmt, ap);
    va_end(ap);
    err_make_printable(error_text);
}

static const struct advice {
    int         err;
    const char *hint;
} advice[] = {
    {EACCES, "check the permissions of the file and its directories"},
    {EPERM, "check the attributes of the file (lsattr), and what the user may do"},
    {ENOENT, "check the name; relative ones in an image are relative to the image"},
    {ELOOP, "an image leads back to itself: give it another backing file (rebase)"},
    {EMFILE, "raise the limit of open files (ulimit -n)"},
    {ENFILE, "the host has too many files open: stop something else"},
    {ENOMEM, "memory is short: stop something else, or raise the limit (ulimit -v)"},
    {ENOSPC, "make room, or choose another file system"},
    {EDQUOT, "the quota is used up: make room, or have it raised"},
    {EROFS, "open it read-only, or make the file system writable"},
    {EFBIG, "choose a smaller size, larger clusters or another file system, or raise the limit (ulimit -f)"},
    {EIO, "see what the host's log has to say of the storage (dmesg)"},
    {EAGAIN, "try again"},
    {EINTR, "try again"},
    {ENOTSUP, "a newer or another program, or another file system, may have it"},
    {ENXIO, "nothing stands behind the device or the socket"},
    {ENODEV, "nothing stands behind the device"},
    {EBUSY, "the device is in use: unmount it, or stop what uses it"},
    {ETXTBSY, "it is being executed, or used as swap"},
    {ENAMETOOLONG, "choose a shorter name"},
    {ENOTDIR, "check the name: a part of it is no directory"},
};

const char *err_advice(int err)
{
    for (size_t i = 0; i < sizeof advice / sizeof advice[0]; i++)
        if (advice[i].err == -err)
            return advice[i].hint;
    return "";
}

int err_advise(int err)
{
    const char *hint = err_advice(err);

    return err < 0 && !error_hint[0] && hint[0] ? err_hint(err, "%s", hint) : err;
}

int err_advise_host(int err)
{
    err_advise(err);
    if (err < 0 && !error_hint[0])
        err_hint(err, "the file system or the device does not allow it: see the host's log (dmesg)");
    return err;
}

void err_save(struct err_saved *ret)
{
    assert(err_state.is_set || (!error_text[0] && !error_hint[0]));
    memcpy(ret->text, error_text, sizeof error_text);
    memcpy(ret->hint, error_hint, sizeof error_hint);
    ret->is_set = err_state.is_set;
}

void err_restore(const struct err_saved *saved)
{
    assert(saved->is_set || (!saved->text[0] && !saved->hint[0]));
    memcpy(error_text, saved->text, sizeof error_text);
    memcpy(error_hint, saved->hint, sizeof error_hint);
    err_state.is_set = saved->is_set;
}

void err_clear(void)
{
    error_text[0] = '\0';
    error_hint[0] = '\0';
    err_state.is_set = false;
}

const char *vdisk_error_text(void)
{
    return error_text;
}

const char *vdisk_error_hint(void)
{
    return error_hint;
}
