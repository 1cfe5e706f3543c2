/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/vm/mark.h"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void mark_log(const char *device, unsigned number)
{
    enum { TEXT_AT = sizeof(struct dm_ioctl) + sizeof(struct dm_target_msg), TEXT_MAX = 32 };
    union {
        struct dm_ioctl head; /* a struct dm_target_msg and its text follow */
        char bytes[TEXT_AT + TEXT_MAX];
    } m;
    int dm = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

    memset(&m, 0, sizeof m);
    m.head.version[0] = DM_VERSION_MAJOR;
    m.head.data_size = sizeof m;
    m.head.data_start = sizeof m.head;
    snprintf(m.head.name, sizeof m.head.name, "%s", device);
    snprintf(m.bytes + TEXT_AT, TEXT_MAX, "mark %u", number);
    if (dm < 0 || ioctl(dm, DM_TARGET_MSG, &m) < 0) {
        perror("mark");
        exit(1);
    }
    close(dm);
}
