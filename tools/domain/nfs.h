/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exports of NFS servers by their names, "server:/path". */
#ifndef TOOLS_DOMAIN_NFS_H
#define TOOLS_DOMAIN_NFS_H

/*
 * "server:/path", or what is below it, as a path: where that is mounted. *ret is the caller's. What is no export,
 * or is not mounted, is as it was. 0 or -errno with text.
 */
int nfs_find(const char *text, char **ret);

#endif
