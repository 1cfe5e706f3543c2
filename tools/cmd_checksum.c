/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * checksum: the digest of what an image reads as; a manifest with those of its blocks; and what differs from one.
 *
 * Works: vdisk_job_checksum() goes through the image, and its blocks are written down, or compared, as they are
 * told; with --job they are kept beside its file (job_blocks.h), and told again. Exit code 0: done, and nothing
 * differs; 1: something does; 2: an error, be it of the command line. Fails, or is interrupted: what was at the
 * manifest's place is as before.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/job_blocks.h"
#include "tools/manifest.h"
#include "tools/own_files.h"
#include "tools/target.h"

enum { DIFFERENT = 1, FAILED = 2, BLOCK = 4 << 20, BLOCK_UNIT = 4096, BLOCK_MOST = 64 << 20, SECTOR = 512 };

enum { BUFFERS = 128 << 20 };

struct range {
    uint64_t start, length;
};

struct checksum {
    const struct cli_verb       *verb;
    const char                  *name;    /* to open it by */
    const char                  *shown;
    const char                  *format;
    const char                  *manifest, *verify;
    uint32_t                     flags, block_size;
    bool                         json, quiet;
    uint64_t                     rate;
    struct cli_memory            memory;
    struct job_file              file;
    struct job_blocks            blocks;  /* of the job's file: those that are known */
    struct cli_progress          progress;
    uint64_t                     size;

    struct manifest_writer       writer;  /* manifest */
    struct manifest              reader;  /* verify: */
    uint64_t                     run_left;
    bool                         said;    /* why it stopped */
    char                         why[512];
    struct range                *ranges;  /* that differ: neighbours are one */
    size_t                       count, room;
    struct vdisk_checksum_result result;
};

enum { OPT_OUTPUT = CLI_LONG_ONLY + 1, OPT_BLOCK_SIZE, OPT_MANIFEST, OPT_VERIFY };

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_BLOCK_SIZE, "block-size", "SIZE", "of the blocks: a multiple of 4096, up to 64M; 4M unless given"},
    {OPT_MANIFEST, "manifest", "FILE", "write the digests of the blocks to it"},
    {OPT_VERIFY, "verify", "FILE", "compare with that manifest: tell what differs"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'T', "cache", "MODE", "none (default), writeback, writethrough, directsync or unsafe"},
    {'U', "force-share", NULL, "open NAME although others write to it"},
    {'p', "progress", NULL, "show progress; not with JSON output"},
    {'q', "quiet", NULL, "print nothing but errors"},
    {'r', "rate", "SIZE", "read so many bytes a second at most"},
    CLI_JOB_OPTION,
    CLI_BULK_OPTIONS,
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* ---- what differs -------------------------------------------------------------------------------------- */

static void add_range(struct checksum *c, uint64_t start, uint64_t end)
{
    struct range *last = c->count > 0 ? &c->ranges[c->count - 1] : NULL;

    if (end > c->reader.size)
        end = c->reader.size;
    if (last && last->start + last->length == start) {
        last->length += end - start;
        return;
    }
    if (c->count == c->room) {
        size_t room = c->room ? 2 * c->room : 64;
        struct range *more = cli_calloc(room, sizeof *more);
        if (c->count > 0)
            memcpy(more, c->ranges, c->count * sizeof *more);
        free(c->ranges);
        c->ranges = more;
        c->room = room;
    }
    c->ranges[c->count++] = (struct range){start, end - start};
}

/* A vdisk_block_digest_fn, and the next one. */
static int compare_blocks(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct checksum *c = arg;
    uint64_t block = c->reader.block_size;

    while (count > 0) {
        uint64_t n;
        if (c->run_left == 0) {
            if (manifest_next(&c->reader) != 1) { /* it was whole a moment ago */
                c->said = true;
                return -EIO;
            }
            c->run_left = c->reader.run.count;
        }
        n = count < c->run_left ? count : c->run_left;
        if (memcmp(digest, c->reader.run.digest, VDISK_DIGEST_SIZE) != 0)
            add_range(c, first * block, (first + n) * block);
        first += n;
        count -= n;
        c->run_left -= n;
    }
    return 0;
}

static int write_blocks(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct checksum *c = arg;
    int rc = manifest_add(&c->writer, count, digest);

    (void)first;
    if (rc < 0)
        cli_error("%s: %s", c->manifest, strerror(-rc));
    c->said = rc < 0;
    return rc;
}

/* A vdisk_block_digest_fn: for all of them. */
static int take_blocks(void *arg, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct checksum *c = arg;
    int rc = 0;

    if (c->verify)
        rc = compare_blocks(c, first, count, digest);
    else if (c->manifest)
        rc = write_blocks(c, first, count, digest);
    return rc == 0 ? job_blocks_add(&c->blocks, first, count, digest) : rc;
}

/* ---- the result ---------------------------------------------------------------------------------------- */

static json_t *json_start(const struct checksum *c)
{
    json_t *json = json_object();

    json_object_set_new(json, "filename", cli_json_string(c->shown));
    json_object_set_new(json, "algorithm", json_string("blake2b-256"));
    json_object_set_new(json, "block_size", json_integer((json_int_t)c->result.block_size));
    json_object_set_new(json, "size", json_integer((json_int_t)c->size));
    return json;
}

static int print_checksum(struct checksum *c)
{
    char hex[MANIFEST_HEX + 1];
    json_t *json;

    manifest_hex(c->result.digest, hex);
    json = json_start(c);
    json_object_set_new(json, "checksum", json_string(hex));
    job_file_set(&c->file, "checksum", json_string(hex));
    if (!c->json || c->quiet) {
        json_decref(json);
        if (!c->quiet)
            printf("%s  %s\n", hex, c->shown);
        return CLI_OK;
    }
    return cli_json_print(json) == CLI_OK ? CLI_OK : FAILED;
}

static int print_json_verified(const struct checksum *c, bool same)
{
    json_t *json = json_start(c), *list = json_array();

    for (size_t i = 0; i < c->count; i++) {
        json_t *one = json_object();
        json_object_set_new(one, "start", json_integer((json_int_t)c->ranges[i].start));
        json_object_set_new(one, "length", json_integer((json_int_t)c->ranges[i].length));
        json_array_append_new(list, one);
    }
    json_object_set_new(json, "manifest_size", json_integer((json_int_t)c->reader.size));
    json_object_set_new(json, "identical", json_boolean(same));
    json_object_set_new(json, "different", list);
    return cli_json_print(json) == CLI_OK ? same ? CLI_OK : DIFFERENT : FAILED;
}

static int print_verified(const struct checksum *c)
{
    bool same = c->count == 0 && c->size == c->reader.size;

    if (c->json && !c->quiet)
        return print_json_verified(c, same);
    if (c->quiet)
        return same ? CLI_OK : DIFFERENT;
    if (c->size != c->reader.size)
        printf("%s: %" PRIu64 " bytes, %" PRIu64 " in the manifest\n", c->shown, c->size, c->reader.size);
    for (size_t i = 0; i < c->count; i++)
        printf("%s: different at %" PRIu64 ", %" PRIu64 " bytes\n", c->shown, c->ranges[i].start,
               c->ranges[i].length);
    if (same)
        printf("%s: OK\n", c->shown);
    return same ? CLI_OK : DIFFERENT;
}

/* ---- the work ------------------------------------------------------------------------------------------ */

static int run_job(struct checksum *c, vdisk *v)
{
    struct vdisk_checksum_opts opts = {
        .size = sizeof opts, .block_size = c->block_size, .name = c->shown,
        .flags = c->verify ? VDISK_CHECKSUM_LENGTH : 0, .length = c->reader.size,
        .block_digest = take_blocks, .block_digest_arg = c, .known_digest = job_blocks_known,
        .known_digest_arg = &c->blocks, .rate = c->rate, .memory_max = c->memory.buffers,
        .progress = cli_progress_show, .progress_arg = &c->progress};
    vdisk_job *job;
    int rc = CLI_OK;

    c->result.size = sizeof c->result;
    if (vdisk_job_checksum(v, &opts, &job) < 0) {
        cli_library_error();
        return FAILED;
    }
    if (cli_job_run(job) < 0 || vdisk_job_get_checksum_result(job, &c->result) < 0) {
        if (!c->said && !c->blocks.said)
            cli_library_error();
        rc = FAILED;
    }
    snprintf(c->why, sizeof c->why, "%s", rc == CLI_OK ? "" : vdisk_error_text());
    vdisk_job_free(job);
    job_blocks_close(&c->blocks, rc == CLI_OK);
    if (rc == CLI_OK)
        cli_progress_end(&c->progress);
    return rc;
}

/* What is written down has to be whole: a volume that has got longer meanwhile is not. */
static int make_manifest(struct checksum *c, vdisk *v)
{
    sigset_t ends;
    int rc = FAILED;

    cli_ends(&ends);
    sigprocmask(SIG_BLOCK, &ends, NULL); /* but for the job: so that nothing is left beside the manifest */
    if (manifest_create(&c->writer, c->manifest, c->block_size, c->size) != CLI_OK)
        return FAILED;
    rc = run_job(c, v);
    if (rc == CLI_OK && c->result.bytes_total != c->size) {
        cli_error("%s: its size has changed", c->shown);
        rc = FAILED;
    }
    if (manifest_finish(&c->writer, rc == CLI_OK ? c->result.digest : NULL) != CLI_OK)
        rc = FAILED;
    return rc == CLI_OK ? print_checksum(c) : rc;
}

static int verify(struct checksum *c, vdisk *v)
{
    int rc;

    c->block_size = c->reader.block_size;
    rc = run_job(c, v);
    if (rc == CLI_OK && (c->run_left > 0 || manifest_next(&c->reader) != 0))
        return FAILED;
    if (rc == CLI_OK && c->count == 0 && memcmp(c->reader.checksum, c->result.digest, VDISK_DIGEST_SIZE) != 0) {
        cli_error("%s: its checksum is not that of its blocks", c->verify);
        return FAILED;
    }
    return rc == CLI_OK ? print_verified(c) : rc;
}

static int with_image(struct checksum *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = c->flags | VDISK_OPEN_HOST_HOLES,
                                  .format = c->format, .cache_bytes = c->memory.cache};
    vdisk *v;
    int rc;

    if (vdisk_open(c->name, &how, &v) < 0) {
        cli_library_error();
        return FAILED;
    }
    c->size = (vdisk_size(v) + SECTOR - 1) / SECTOR * SECTOR;
    if (c->verify) {
        rc = verify(c, v);
    } else if (c->manifest) {
        rc = make_manifest(c, v);
    } else {
        rc = run_job(c, v);
        rc = rc == CLI_OK ? print_checksum(c) : rc;
    }
    vdisk_close(v);
    return rc;
}

static int checksum_or_verify(struct checksum *c)
{
    int rc;

    if (!c->verify)
        return with_image(c);
    if (manifest_open(&c->reader, c->verify) != CLI_OK)
        return FAILED;
    rc = with_image(c);
    manifest_close(&c->reader);
    free(c->ranges);
    return rc;
}

/* All is done already: what came of it is known. */
static int print_again(const struct checksum *c)
{
    const char *hex = json_string_value(json_object_get(c->file.json, "checksum"));
    json_int_t code = json_integer_value(json_object_get(c->file.json, "exit_code"));

    if (hex != NULL && !c->quiet && !c->json)
        printf("%s  %s\n", hex, c->shown);
    return code == DIFFERENT ? DIFFERENT : CLI_OK;
}

/* What differs is no failure of the job. */
static int end_job(struct checksum *c, int rc)
{
    int ended;

    job_file_set(&c->file, "exit_code", json_integer(rc));
    ended = job_file_end(&c->file, rc == FAILED ? CLI_FAILED : CLI_OK, c->why);
    return ended == CLI_OK ? rc : FAILED;
}

/* What --job and --manifest write is nothing that is read. */
static int check_own_files(const struct checksum *c)
{
    struct own_files o = {.count = 0};

    own_files_add_job(&o, c->file.given);
    own_files_add_manifest(&o, c->manifest);
    own_files_exclude(&o, c->verify, "is that of --verify, too");
    own_files_exclude_image(&o, c->name, c->format);
    if (own_files_end(&o) != CLI_OK)
        return CLI_FAILED;
    return c->manifest != NULL ? manifest_check(c->manifest) : CLI_OK;
}

static int checksum(struct checksum *c, const struct cli_parser *p)
{
    int rc = cli_memory_share(p, cli_count_layers(c->name, c->format), 0, BUFFERS, c->block_size, &c->memory);

    if (rc == CLI_OK)
        rc = job_file_open(&c->file, p, c->quiet, &c->progress);
    if (rc == JOB_FILE_DONE) {
        rc = print_again(c);
        job_file_end(&c->file, CLI_OK, NULL);
        return rc;
    }
    if (rc != CLI_OK)
        return FAILED;
    job_file_add_chain(&c->file, c->name, c->format, JOB_READS);
    rc = check_own_files(c);
    if (rc == CLI_OK)
        rc = job_blocks_open(&c->blocks, &c->file, c->block_size);
    if (rc == CLI_OK)
        rc = job_file_begin(&c->file);
    rc = rc == CLI_OK ? checksum_or_verify(c) : FAILED;
    job_blocks_close(&c->blocks, rc != FAILED);
    return end_job(c, rc);
}

/* ---- command line -------------------------------------------------------------------------------------- */

static int parse_option(struct checksum *c, int id, const char *value)
{
    uint64_t size;
    uint32_t mode;

    switch (id) {
    case 'f': c->format = value; break;
    case 'U': c->flags |= VDISK_OPEN_FORCE_SHARE; break;
    case 'p': c->progress.enabled = true; break;
    case 'q': c->quiet = true; break;
    case 'r':
        if (cli_parse_size(value, &c->rate) < 0)
            return cli_usage_error(c->verb, "Invalid rate limit specified: '%s'", value);
        break;
    case OPT_MANIFEST: c->manifest = value; break;
    case OPT_VERIFY: c->verify = value; break;
    case OPT_OUTPUT: return cli_parse_output(c->verb, value, &c->json) ? CLI_OK : CLI_FAILED;
    case OPT_BLOCK_SIZE:
        if (cli_parse_size(value, &size) < 0 || size == 0 || size > BLOCK_MOST || size % BLOCK_UNIT > 0)
            return cli_usage_error(c->verb, "--block-size takes a multiple of 4096, up to 64M, not '%s'", value);
        c->block_size = (uint32_t)size;
        break;
    case 'T':
        if (!target_cache_flags(value, &mode))
            return cli_usage_error(c->verb, "Invalid source cache option: %s", value);
        c->flags = (c->flags & VDISK_OPEN_FORCE_SHARE) | mode;
        break;
    default: return CLI_FAILED;
    }
    return CLI_OK;
}

static int take_command_line(struct checksum *c, struct cli_parser *p)
{
    char **operands;

    for (int id; (id = cli_parser_next(p)) != CLI_END;)
        if (parse_option(c, id, p->value) != CLI_OK)
            return CLI_FAILED;
    c->progress.enabled = c->progress.enabled && !c->quiet && !c->json;
    c->progress.to_stderr = true; /* the digest is alone on stdout */
    if (cli_operands(p, &operands) != 1)
        return cli_usage_error(c->verb, "Expecting one image file name");
    if (c->verify && (c->manifest || c->block_size > 0))
        return cli_usage_error(c->verb, "--verify takes all from its manifest: not with --manifest or "
                                        "--block-size");
    if (c->block_size == 0)
        c->block_size = BLOCK;
    c->shown = operands[0];
    c->name = cli_image(p, operands[0], c->format);
    return c->name != NULL ? CLI_OK : CLI_FAILED;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct checksum c = {.verb = verb};
    struct cli_parser p;

    cli_parser_init(&p, verb, argc, argv);
    return take_command_line(&c, &p) == CLI_OK ? checksum(&c, &p) : FAILED; /* 1 is for what differs */
}

const struct cli_verb cli_checksum = {
    .name = "checksum",
    .summary = "Print a digest of what an image reads as.",
    .usage = "[OPTION]... NAME",
    .options = options,
    .notes = "The same for one content, whatever the format, and what of it is allocated: the blake2b-256\n"
             "of those of all blocks. What is known to be zeros is not read. With --verify, an image that is\n"
             "shorter or longer than the manifest says is different; what it is shorter is zeros.\n"
             "Exit code: 0, 1 different, 2 an error or a wrong command line.\n",
    .run = run,
};
