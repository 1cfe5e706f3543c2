/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BACKENDS_DRIVERS_H
#define BACKENDS_DRIVERS_H

#include "engine/backend.h"

extern const struct backend_driver blockdev_driver;
extern const struct backend_driver file_driver;
extern const struct backend_driver memory_driver;
extern const struct backend_driver nbd_driver;
extern const struct backend_driver null_driver;
extern const struct backend_driver rbd_driver;
extern const struct backend_driver sim_driver;
extern const struct backend_driver user_driver;
extern const struct backend_driver window_driver;

#endif
