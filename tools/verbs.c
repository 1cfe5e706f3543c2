/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of verbs. One file for each: cmd_VERB.c. */
#include "tools/cli.h"

const struct cli_verb *const cli_verbs[] = {
    &cli_create, &cli_info, &cli_map, &cli_check, &cli_resize, &cli_convert, &cli_compare, &cli_dd,
    &cli_measure, &cli_commit, &cli_rebase, &cli_amend, &cli_checksum, &cli_snapshot, &cli_bitmap, &cli_job,
    &cli_io, &cli_bench, &cli_domain, &cli_image_verb, &cli_volume, &cli_lv, &cli_nbd, NULL,
};
