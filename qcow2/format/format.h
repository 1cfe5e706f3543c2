/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of the bytes: what other rooms use of it.
 *
 * Promises: bytes in, values out, and back; bounded, whatever the bytes are.
 * Owns: nothing.
 * May not: do I/O, nor keep state.
 */
#ifndef QCOW2_FORMAT_H
#define QCOW2_FORMAT_H

#include "qcow2/format/deflate.h"
#include "qcow2/format/entry.h"
#include "qcow2/format/geometry.h"
#include "qcow2/format/header.h"
#include "qcow2/format/inflate.h"
#include "qcow2/format/layout.h"
#include "qcow2/format/luks.h"
#include "qcow2/format/ondisk.h"
#include "qcow2/format/tables.h"

#endif
