/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room of metadata in memory: what other rooms use of it.
 *
 * Promises: slices of tables are cached, read without a lock, and known to be dirty or not; the header sector has
 * one reader and one writer; it is known whether a host cluster is metadata, and whether metadata can be trusted.
 * Owns: the header, L1 and refcount table, the caches of slices and of compressed clusters, where metadata lies,
 * and the image's lock. May not: know who maps what and why, nor flush, but by q2_make_clean(); it uses format/
 * only.
 */
#ifndef QCOW2_META_H
#define QCOW2_META_H

#include "qcow2/meta/guard.h"
#include "qcow2/meta/header_sector.h"
#include "qcow2/meta/slice.h"
#include "qcow2/meta/state.h"
#include "qcow2/meta/twice.h"

#endif
