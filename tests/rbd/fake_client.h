/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two libraries of tests share: a client, whose pool is itself. */
#ifndef TESTS_RBD_FAKE_CLIENT_H
#define TESTS_RBD_FAKE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { FAKE_SETTINGS = 24, FAKE_TEXT = 256 };

struct fake_client {
    struct {
        char key[FAKE_TEXT], value[FAKE_TEXT];
    } settings[FAKE_SETTINGS];
    unsigned count, pools, images;
    bool     connected;
};

static inline const char *fake_setting(const struct fake_client *c, const char *key)
{
    for (unsigned i = 0; i < c->count; i++)
        if (strcmp(c->settings[i].key, key) == 0)
            return c->settings[i].value;
    return NULL;
}

static inline bool fake_is(const struct fake_client *c, const char *key, const char *value)
{
    const char *found = fake_setting(c, key);

    return found && strcmp(found, value) == 0;
}

static inline unsigned long long fake_number(const struct fake_client *c, const char *key)
{
    const char *found = fake_setting(c, key);

    return found ? strtoull(found, NULL, 10) : 0;
}

/* Is the call to fail itself? */
static inline bool fake_fails(const struct fake_client *c, const char *function)
{
    return fake_is(c, "fake_fail", function) && !fake_setting(c, "fake_result");
}

#endif
