/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules of the NBD server and client broken on purpose, one at a time, to show that tests notice. Only where the
 * build was configured with -Dmutants=true; else NBD_MUTANT() is false and nothing of it is left. VDISK_NBD_MUTANT
 * names one when a process starts, and a test fails then: tests/nbd/meson.build says which.
 */
#ifndef NBD_MUTANT_H
#define NBD_MUTANT_H

#include <stdbool.h>

/* Name, and what it does wrong. */
#define NBD_MUTANTS(X)                                                                                         \
    X(FUA_DROPPED, "the server does not hand on that a write is to be durable")                               \
    X(FLUSH_UNASKED, "the server answers a flush without asking the volume")                                  \
    X(REPLY_ASTRAY, "a reply names the request before")                                                       \
    X(STATUS_SHIFTED, "the first extent of a block status is left out")                                       \
    X(RANGE_WRAPS, "the server adds offset and length of a request, and looks at the sum")                    \
    X(PAYLOAD_UNBOUNDED, "the server reads for requests of any length")                                       \
    X(BYTES_UNBOUNDED, "what a client has in flight is not bounded: server.h, invariant 2")                   \
    X(RATE_BY_NUMBER, "the rate of bytes counts no bytes")                                                    \
    X(OPTIONS_UNBOUNDED, "a handshake has any number of options")                                             \
    X(OUTPUT_UNBOUNDED, "a client that takes no answers is read on in the handshake: server.h, invariant 4")  \
    X(CLIENTS_UNBOUNDED, "who comes is accepted")                                                             \
    X(TLS_OPTIONAL, "who has to speak TLS need not")                                                          \
    X(STOP_CUTS, "a stop cuts off those whose requests are in flight")                                        \
    X(LISTEN_ANYHOW, "a descriptor that was handed over is not looked at")                                    \
    X(FORMER_SELF, "a client comes in while requests of one that is gone are under way: server.h, invariant 5") \
    X(OTHERS_UNASKED, "who comes does not wait until all threads have looked who has gone: former.c")         \
    X(RATE_UNASKED, "one that is gone and waits for its rate goes on beside who comes: server.h, invariant 5") \
    X(ACKS_UNCOUNTED, "the client does not count what was acknowledged: client.h, invariant 5")               \
    X(BREAK_UNNOTED, "the client does not look at what was not flushed when a connection breaks")             \
    X(LATE_ACK, "what a connection that is gone acknowledges later counts as any other: client.h, invariant 6") \
    X(FLUSH_BELIEVED, "a flush that waited is sent without looking again at what may have been lost")         \
    X(LOSS_TOLD_TO_ONE, "of several flushes that a death meets one alone fails: client.h, invariant 5")       \
    X(OTHERS_UNSEEN, "a new connection does not look whether the others were hung up: client.h, invariant 6") \
    X(LEFT_UNSEEN, "a connection that is let go is not looked at: client.h, invariant 6")                     \
    X(CHUNK_ERROR_LOST, "the client takes an error chunk for nothing")                                        \
    X(READ_UNFINISHED, "a read whose data has not all come succeeds: reply.c, invariant 2")                   \
    X(ANSWERS_KEPT, "what was told of holes is kept when it changes: extents.c, invariant 1")                 \
    X(ANSWERS_OUTLIVE, "what was told of holes is kept when a connection breaks")

#define NBD_MUTANT_ENUM(name, text) NBD_MUTANT_##name,

enum nbd_mutant { NBD_MUTANT_NONE, NBD_MUTANTS(NBD_MUTANT_ENUM) NBD_MUTANTS_END };

#ifdef VDISK_MUTANTS
extern enum nbd_mutant nbd_mutant; /* which one this process is */
#define NBD_MUTANT(name) (nbd_mutant == NBD_MUTANT_##name)
#else
#define NBD_MUTANT(name) false
#endif

#endif
