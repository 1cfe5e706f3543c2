/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines for vdisk_set_log(): what happens that is the answer to no call, or that whoever reads a log must know. */
#ifndef ENGINE_LOG_H
#define ENGINE_LOG_H

#include "engine/vdisk.h"

/*
 * One line about a volume (NULL: about none), told when the public call ends: after.h. Any thread, any lock
 * held. It is lost where there is no memory, and costs nothing where nobody listens.
 */
void log_add(enum vdisk_log_level level, const char *volume, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
