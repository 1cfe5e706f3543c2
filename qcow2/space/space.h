/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of host clusters: what other rooms use of it.
 *
 * Promises: a run of clusters that nobody else has, with a refcount; one reference more, or one fewer; what is
 * free again is given out, or back to the host, only when that is durable and its old users have gone. Owns:
 * refcounts, what has been taken ahead, what waits to be given back, how far the file is in use. May not: know
 * guest offsets, nor write metadata but through meta/; it uses meta/ and format/ only.
 */
#ifndef QCOW2_SPACE_H
#define QCOW2_SPACE_H

#include "qcow2/space/alloc.h"
#include "qcow2/space/append.h"
#include "qcow2/space/bytes.h"
#include "qcow2/space/highest.h"
#include "qcow2/space/lease.h"
#include "qcow2/space/reclaim.h"
#include "qcow2/space/reftable.h"
#include "qcow2/space/room.h"
#include "qcow2/space/state.h"
#include "qcow2/space/trim.h"

#endif
