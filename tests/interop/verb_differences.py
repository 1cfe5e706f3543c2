# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of the command lines of test_interop_verbs.py differs on purpose, and why."""

RAW_LOCK = "a raw image that another writes is in use: QEMU only looks at that where there is a format"
LONG = "QEMU 10.0 has the option by its letter, and in its help by its name"
BITMAP = "bitmaps that record writes cannot be kept up yet"
LATER = "internal snapshots and bitmaps cannot be read yet"
HELP = "the list of options has our words, and is shown whatever else is on the line"
AMEND = "backing files can be changed by name, as the contract has it"
TEXT = "what is wrong is told before anybody's lock is in the way"
BYTES = "sizes are rounded up to 512, as create does it"
NO_BACKING = "the backing file is not needed for it"

# Of: code, output, message, files.
DIFFERENT = {
    ("check", "-p q.qcow2"): ("code output", "the contract has -p"),
    ("check", "-r all corrupt.qcow2"): ("output", "an entry gets a copy of the cluster; QEMU counts more"),
    ("check", "orphan.qcow2"): ("code output message", NO_BACKING),
    ("info", "held.raw"): ("code output", RAW_LOCK),
    ("info", "--image-opts driver=file,filename=a.raw --output json"):
        ("output", "what has no format driver is shown as raw, in the file"),
    ("map", "--output json ext.qcow2"): ("output", "subclusters that are not allocated have no offset"),
    ("compare", "held.raw q.qcow2"): ("code output", RAW_LOCK),
    ("create", "-f raw -o nocow=on new 1M"): ("code", "an attribute of btrfs, which chattr +C sets"),
    ("create", "-f qcow2 -o nocow=on new 1M"): ("code", "an attribute of btrfs, which chattr +C sets"),
    ("create", "-f raw held.raw 1M"): ("code files", RAW_LOCK),
    ("resize", "q.qcow2 2000000"): ("code output files", BYTES),
    ("resize", "-f raw a.raw +1000"): ("files", BYTES),
    ("resize", "-f raw --shrink a.raw 1000"): ("files", BYTES),
    ("resize", "bm.qcow2 2M"): ("code output files", BITMAP),
    ("resize", "-f raw held.raw 2M"): ("code output files", RAW_LOCK),
    ("measure", "-O qcow2 --target-options extended_l2=on --output json a.raw"): ("code output", LONG),
    ("measure", "-O raw -s 1G"): ("code output", LONG),
    ("measure", "-l first snap.qcow2 -O qcow2"): ("code output", LATER),
    ("measure", "-o help -O qcow2"): ("code output", HELP),
    ("convert", "--source-format raw --target-format qcow2 a.raw new"): ("code files", LONG),
    ("convert", "--progress -q a.raw new"): ("code files", LONG),
    ("convert", "--target-cache none --source-cache none -O qcow2 a.raw new"): ("code files", LONG),
    ("convert", "--compress -O qcow2 -o compression_type=zstd a.raw new"): ("code files", LONG),
    ("convert", "--no-create a.raw long.raw"): ("code", LONG),
    ("convert", "-O qcow2 -o size=4M a.raw new"): ("files", "the size that is given counts"),
    ("convert", "a.raw a.raw"): ("message", TEXT),
    ("convert", "-n a.raw a.raw"): ("message", TEXT),
    ("convert", "a.raw held.raw"): ("code", RAW_LOCK),
    ("convert", "-n a.raw held.raw"): ("code", RAW_LOCK),
    ("convert", "-l first snap.qcow2 new"): ("code", LATER),
    ("convert", "-l snapshot.name=first snap.qcow2 new"): ("code", LATER),
    ("convert", "--bitmaps -O qcow2 bm.qcow2 new"): ("code", LATER),
    ("convert", "--bitmaps --skip-broken-bitmaps -O qcow2 bm.qcow2 new"): ("code", LATER),
    ("convert", "-o help -O qcow2 a.raw new"): ("output", HELP),
    ("dd", "if=held.raw of=new"): ("code", RAW_LOCK),
    ("dd", "if=a.raw of=held.raw"): ("code", RAW_LOCK),
    ("dd", "if=a.raw of=a.raw"): ("code files", "QEMU empties its source"),
    ("rebase", "-b top.qcow2 -F qcow2 top.qcow2"): ("message", TEXT),
    ("amend", "-o size=512k q.qcow2"): ("code files", "it loses data, so it needs --force"),
    ("amend", "-o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2"): ("code files", AMEND),
    ("amend", "-o backing_file=base.qcow2 -o backing_fmt=qcow2 q.qcow2"): ("code files", AMEND),
    ("amend", "-o backing_file= top.qcow2"): ("code files", AMEND),
    ("amend", "-o backing_fmt=raw top.qcow2"): ("code files", AMEND),
    ("amend", "-o data_file=other.raw df.qcow2"): ("code files", "not in the contract: it changes what is read"),
    ("amend", "-o compat=0.10 bm.qcow2"): ("code files", BITMAP),
    ("amend", "-o compat=0.10 orphan.qcow2"): ("code message files", NO_BACKING),
    ("amend", "-o help q.qcow2"): ("output", HELP),
    ("amend", "-o help -f qcow2"): ("output", HELP),
    ("commit", "held.qcow2"): ("message", TEXT),
}
