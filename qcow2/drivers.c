/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The formats that there are. raw takes whatever no other recognises, so it is last. */
#include "engine/format.h"
#include "qcow2/qcow2.h"

const struct format_driver *const format_drivers[] = {&qcow2_driver, &raw_driver, NULL};
