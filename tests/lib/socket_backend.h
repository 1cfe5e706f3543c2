/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backend over sockets, and the server that it talks to, in one process: the pattern for backends over a
 * network, and the test of what the loop offers them (engine/loop/call.h).
 *
 * A connection for each queue, made when it is first needed and again after it broke; one request at a time on
 * each. What does not come within `timeout_ms`, a closed connection, and a reply that makes no sense fail the I/O.
 */
#ifndef TESTS_LIB_SOCKET_BACKEND_H
#define TESTS_LIB_SOCKET_BACKEND_H

#include "engine/backend.h"

struct socket_server;

/* How the server behaves, from the next request on. */
enum server_habit {
    SERVER_GOOD,
    SERVER_PIECES, /* replies a few bytes at a time */
    SERVER_CLOSES, /* in the middle of a reply */
    SERVER_SILENT, /* takes the request, and does not reply */
    SERVER_LIES,   /* a reply whose sum is wrong */
};

struct socket_server *socket_server_start(uint64_t size);
void socket_server_stop(struct socket_server *s);
void socket_server_set(struct socket_server *s, enum server_habit habit);

/* Connections that it has ever taken. */
unsigned socket_server_connections(struct socket_server *s);

/* 0 or -errno. `blocking`: the sockets are, once connected. */
int socket_backend_create(struct socket_server *s, unsigned timeout_ms, bool blocking, struct backend **ret);

/* From now on. Nothing is in flight. */
void socket_backend_set_timeout(struct backend *b, unsigned timeout_ms);

#endif
