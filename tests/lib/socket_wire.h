/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes between the socket backend and its server: one machine's, so in its own byte order. */
#ifndef TESTS_LIB_SOCKET_WIRE_H
#define TESTS_LIB_SOCKET_WIRE_H

#include "tests/lib/socket_backend.h"

enum { WIRE_MAGIC = 0x50434b53 };

/* The data of a write follows. */
struct wire_request {
    uint64_t kind; /* IO_READ or IO_WRITE */
    uint64_t offset, len;
};

/* The data of a read follows; `sum` is of the data of both. */
struct wire_reply {
    uint64_t magic, sum;
};

static inline uint64_t wire_sum(const uint8_t *data, uint64_t len)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < len; i++)
        sum = sum * 31 + data[i];
    return sum;
}

uint16_t socket_server_port(const struct socket_server *s); /* as in a sockaddr_in */
uint64_t socket_server_size(const struct socket_server *s);

#endif
