/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Secrets (passphrases, keys), known by an id: options of nodes refer to them, so that no name, no message and no
 * output has one in it. Any thread. Memory that held one is overwritten before it is given back.
 */
#ifndef ENGINE_SECRET_H
#define ENGINE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SECRET_BYTES_MAX = 1 << 20 };

struct spec;

/*
 * An object (object.h): data=TEXT, or file=PATH in place of it, and format=raw (default) or base64. -EINVAL: not
 * that, or there is one of that id; -ENOENT and others of the file; -EFBIG; -ENOMEM. The text of an error has
 * nothing of the data in it.
 */
int secret_add_object(const char *id, const struct spec *s);

/* `data` is copied. Errors as above. */
int secret_add(const char *id, const void *data, size_t len);

/* -ENOENT, with text. */
int secret_remove(const char *id);

bool secret_exists(const char *id);

/* A copy, malloc'ed and with a zero behind it, for secret_release(). -ENOENT, with text; -ENOMEM. */
int secret_get(const char *id, uint8_t **ret_data, size_t *ret_len);
void secret_release(uint8_t *data, size_t len);

#endif
