/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large pieces of memory that are taken and given back over and over. Fresh memory costs a page fault for each
 * page, which for tests that make thousands of small disks is most of what they do. Any thread.
 */
#ifndef TESTS_LIB_RECYCLE_H
#define TESTS_LIB_RECYCLE_H

#include <stddef.h>

/* `size` bytes that hold anything; that hold zeros. Fail the case when there is no memory. */
void *recycle_take(size_t size);
void *recycle_take_zeros(size_t size);

/* What one of these gave, NULL: nothing; what recycle_take_zeros() gave, and what still holds just that. */
void recycle_give(void *p);
void recycle_give_zeros(void *p);

#endif
