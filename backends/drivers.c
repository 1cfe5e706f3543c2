/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which backends there are, in the order in which they are asked whether a name is theirs. */
#include "backends/drivers.h"
#include "filters/filters.h"

const struct backend_driver *const backend_drivers[] = {
    &sim_driver,
    &memory_driver,
    &null_driver,
    &user_driver,
    &rbd_driver,
    &nbd_driver,
    &window_driver,
    &rotate_driver,
    &blockdev_driver,
    &file_driver, /* last: takes any name */
    NULL,
};
