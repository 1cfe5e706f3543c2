/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "json:{...}" names, as users type them and as QEMU writes them into images: a format over a file or a device.
 *
 *     json:{"driver":"qcow2","file":{"driver":"file","filename":"/images/a.qcow2"}}
 *     json:{'file.driver':'host_device','file.filename':'/dev/vg/lv'}
 *
 * Drivers: raw and qcow2, or none (look at the content), each over "file"; below them file and host_device, or
 * none (the path tells), with "filename". qcow2 may name its "data-file". Members may be nested, or written with
 * dots. Everything else is refused by name, since what it asks for would not be done.
 */
#ifndef ENGINE_JSON_NAME_H
#define ENGINE_JSON_NAME_H

#include <stdbool.h>

struct json_name {
    char       *file;      /* a name for a backend that is no json: name */
    const char *backend;   /* which one that must be: "file", "blockdev", or NULL: any; static */
    const char *format;    /* "raw", "qcow2", or NULL: not said; static */
    char       *data_file; /* qcow2: a json: name for its data file; NULL: not said */
};

bool is_json_name(const char *name);

/*
 * On success *ret is filled in, for json_name_free(). -EINVAL, -ENOTSUP (a driver or an option that we lack, named
 * in the text), -ENOMEM; *ret is untouched then. Pure. Memory and recursion are bounded, whatever the name.
 */
int json_name_parse(const char *name, struct json_name *ret);
void json_name_free(struct json_name *n);

#endif
