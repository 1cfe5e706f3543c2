/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_VM_MARK_H
#define TESTS_VM_MARK_H

/* "mark NUMBER" to a device of dm-log-writes: in its log when this returns. Ends the program where it cannot. */
void mark_log(const char *device, unsigned number);

#endif
