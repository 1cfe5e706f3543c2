/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_CLEAR_H
#define QCOW2_CLEAR_H

#include "qcow2/map/state.h"

/* Zeros and discards. Ends by request_end(r), later. */
void q2_clear_start(struct q2_map *map, struct request *r);

#endif
