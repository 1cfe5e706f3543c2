/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What names refer to by an id, as QEMU's --object makes it. Any thread. */
#ifndef ENGINE_OBJECT_H
#define ENGINE_OBJECT_H

/*
 * "TYPE,id=NAME,KEY=VALUE,..." or as JSON, {"qom-type":TYPE,"id":...}. Types: secret (secret.h), tls-creds-x509
 * and tls-creds-psk (creds.h). -EINVAL: not that, or there is one of that id; -ENOTSUP: another type; and those of
 * the type. The text of an error has nothing of a secret in it.
 */
int object_add(const char *text);

#endif
