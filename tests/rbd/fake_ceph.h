/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A librados and a librbd with one pool of images in memory, which do what they are told to. Told they are by
 * settings in the name of the image, so that a test needs no other way to them:
 *
 *   fake_end=now|late|mixed  when a call's end is told: within the call, by a thread, in any order, or either
 *   fake_short=N             reads give N bytes at most
 *   fake_long=1              a read says that it gave more than it was asked for
 *   fake_fail=FUNCTION       it fails with EIO; with fake_result=N what it has begun ends so, with error N
 *   fake_owner=live|dead     another client has the lock; it is there, or gone
 *   fake_extents=back|odd    what is there is told backwards; what cannot be is told
 *   fake_overlap=N           the image says that so much of it is a parent's
 *
 * How things stand afterwards a test asks by these functions, which librbd.so.1 has.
 */
#ifndef TESTS_RBD_FAKE_CEPH_H
#define TESTS_RBD_FAKE_CEPH_H

/* Handles and completions that have not been given back. */
typedef int fake_handles_fn(void);
/* Flushes that have ended. */
typedef int fake_flushes_fn(void);
/* Is there an image of that name? */
typedef int fake_exists_fn(const char *name);
/* Bytes in a zeroing that was asked to be thick. */
typedef unsigned long long fake_thick_fn(void);

#endif
