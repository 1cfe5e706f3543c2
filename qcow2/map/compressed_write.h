/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_COMPRESSED_WRITE_H
#define QCOW2_COMPRESSED_WRITE_H

#include "qcow2/map/state.h"

/*
 * format_driver.write_compressed: whole clusters, or up to the volume's end. Those of one queue are placed in the
 * image in the order in which they come here.
 */
void q2_compressed_write_start(struct q2_map *map, struct request *r);

#endif
