/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is outside of qcow2/ and its rooms: the driver, and those of its functions that tests and benches call. */
#ifndef QCOW2_QCOW2_H
#define QCOW2_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/format.h"
#include "engine/vdisk.h"

extern const struct format_driver qcow2_driver;

/* format_driver.check: qcow2/image/check_image.c. */
int qcow2_check_image(struct backend *file, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                      vdisk_queue *q, struct vdisk_check_result *ret, struct vdisk_repair_result *ret_fixed);

#endif
