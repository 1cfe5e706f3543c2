/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ENGINE_BOUNCE_H
#define ENGINE_BOUNCE_H

struct io;

/*
 * Carry out a read, a write or a truncation whose offset, length or memory is not aligned as its backend asks, or
 * what meets a read-modify-write of the same blocks. Ends by io->done, from the loop.
 */
void bounce_start(struct io *io);

#endif
