/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ENGINE_BOUNCE_H
#define ENGINE_BOUNCE_H

#include <stdbool.h>

struct backend;
struct io;
struct op;

/*
 * Carry out a read, a write or a truncation whose offset, length or memory is not aligned as its backend asks, or
 * what meets a read-modify-write of the same blocks. Ends by io->done, from the loop.
 */
void bounce_start(struct io *io);

/* The same, but it waits for other writes of `b`. */
bool bounce_leave(struct backend *b, const struct io *parent);

/* `op` is that, for `parent`, and goes on where it can still be ended: nothing has been written nor prepared. */
bool bounce_may_end(struct op *op, const struct io *parent);

/* `op` is that, for `parent`, and nothing has been written nor sent: it ends with -ECANCELED. */
bool bounce_give_up(struct op *op, const struct io *parent);

#endif
