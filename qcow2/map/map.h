/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of the mapping, guest to host: what other rooms use of it.
 *
 * Promises: a guest range as extents, without a lock where the slices are cached; the mapping changed by writes,
 * zeros and discards under the lock of their guest range, never before the data it shows has been written.
 * Owns: the locks of guest ranges, tables on their way.
 * May not: raise or lower refcounts itself, nor sync; it uses space/, meta/ and format/ only.
 */
#ifndef QCOW2_MAP_H
#define QCOW2_MAP_H

#include "qcow2/map/alloc_write.h"
#include "qcow2/map/clear.h"
#include "qcow2/map/compressed_write.h"
#include "qcow2/map/lookup.h"
#include "qcow2/map/state.h"

#endif
