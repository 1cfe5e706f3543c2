/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where check and `qemu-img check` (7.2) differ on purpose: included by test_diff.c as the rows of a table. */
{REFUSED, CORRUPT, "lies beyond the end of the file", "QEMU opens it for check all the same"},
{REFUSED, CORRUPT, "overlaps the header", "the same"},
{REFUSED, CORRUPT, "L1 table and refcount table overlap", "the same"},
{REFUSED, SOUND, "name of the backing file overlaps the header", "QEMU reads a name out of header fields"},
{CORRUPT, REFUSED, "snapshot table cannot be read", "QEMU does not open it at all; we look at the rest"},
{CORRUPT, REFUSED, "refcount table entry", "the same"},
{CORRUPT, REFUSED, "refcount table of ", "the same: what the header says of it can be mended"},
{CORRUPT, SOUND, " is used for ", "QEMU compares counts, not what the cluster is used for"},
{REFUSED, CORRUPT, "no refcount table", "the same"},
{REFUSED, CORRUPT, "autoclear bit of the bitmaps extension", "the header contradicts itself; QEMU goes on"},
{REFUSED, SOUND, "autoclear bit of the bitmaps extension", "the same"},
{SOUND, REFUSED, "Header extension too large", "less than an extension's header before the end: to us the end"},
