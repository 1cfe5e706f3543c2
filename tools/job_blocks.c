/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: see job_blocks.h. Fails: a FILE.blocks that is not what FILE says it is: the job does not go on.
 */
#include "tools/job_blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "tools/manifest.h"
#include "tools/own_files.h"

enum { LINE = MANIFEST_HEX + 24 };

/* What it holds is of no use: with what is to be done. */
static int damaged(struct job_blocks *b)
{
    cli_error("%s: is not what was written; remove %s to begin again", b->path, b->job->given);
    b->said = b->broken = true;
    return CLI_FAILED;
}

static int failed(struct job_blocks *b, const char *why)
{
    cli_error("%s: %s", b->path, why);
    b->said = b->broken = true;
    return CLI_FAILED;
}

static uint64_t number_of(const struct job_blocks *b, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(b->job->json, key));

    return n > 0 ? (uint64_t)n : 0;
}

static uint64_t add_crc(uint64_t crc, const char *text)
{
    return crc32((uLong)crc, (const Bytef *)text, (uInt)strlen(text));
}

/* The next line that counts. false: it is none. */
static bool read_line(struct job_blocks *b, uint64_t *ret_count, uint8_t *ret_digest)
{
    char line[LINE + 2], *end;
    size_t len;

    if (fgets(line, sizeof line, b->file) == NULL)
        return false;
    len = strlen(line);
    if (len < MANIFEST_HEX + 3 || line[len - 1] != '\n' || line[MANIFEST_HEX] != ' ' || len > b->left)
        return false;
    b->crc = add_crc(b->crc, line);
    b->left -= len;
    b->bytes += len;
    *ret_count = strtoull(line + MANIFEST_HEX + 1, &end, 10);
    for (size_t i = 0; i < VDISK_DIGEST_SIZE; i++) {
        char byte[3] = {line[2 * i], line[2 * i + 1], '\0'};
        ret_digest[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return *end == '\n' && *ret_count > 0;
}

/* All of it is judged before any of it is used. */
static bool is_whole(struct job_blocks *b)
{
    uint64_t bytes = b->left, blocks = 0, count;
    uint8_t digest[VDISK_DIGEST_SIZE];

    while (b->left > 0 && read_line(b, &count, digest))
        blocks += count;
    if (b->left > 0 || b->crc != b->want_crc || blocks * b->block_size < b->job->position)
        return false;
    b->left = bytes;
    b->crc = b->bytes = 0;
    rewind(b->file);
    return true;
}

/* Nothing of it counts: is it empty, or what a job that was killed has left? Invariant 3 of job_file.h. */
static bool is_ours(int fd)
{
    char start[MANIFEST_HEX + 1];
    ssize_t n = pread(fd, start, sizeof start, 0);

    for (ssize_t i = 0; i < n; i++)
        if (i < MANIFEST_HEX ? strchr("0123456789abcdef", start[i]) == NULL || start[i] == '\0' : start[i] != ' ')
            return false;
    return n >= 0;
}

int job_blocks_open(struct job_blocks *b, struct job_file *job, uint32_t block_size)
{
    struct stat st;
    int fd;

    *b = (struct job_blocks){.job = job, .block_size = block_size, .last_ns = cli_now_ns()};
    if (job->given == NULL)
        return CLI_OK;
    b->path = own_files_beside(job->path, ".blocks");
    if (job->position > 0)
        b->left = number_of(b, "blocks_bytes");
    job_file_set(job, "blocks_bytes", json_integer((json_int_t)b->left)); /* it is there: job_file_end() */
    b->want_crc = number_of(b, "blocks_crc32");
    fd = open(b->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size >= b->left)
        b->file = fdopen(fd, "r+");
    else if (fd >= 0)
        errno = EBADMSG;
    if (b->file != NULL && !(job->position > 0 ? is_whole(b) : is_ours(fd)))
        errno = EBADMSG;
    else if (b->file != NULL && ftruncate(fd, (off_t)b->left) == 0)
        return CLI_OK;
    if (errno != EBADMSG)
        failed(b, strerror(errno));
    else if (job->position > 0)
        damaged(b);
    else
        failed(b, "is there, and is no job's: not replaced");
    if (b->file != NULL)
        fclose(b->file);
    else if (fd >= 0)
        close(fd);
    free(b->path);
    b->file = NULL;
    return CLI_FAILED;
}

int job_blocks_known(void *arg, uint64_t first, uint64_t *ret_count, uint8_t *ret_digest)
{
    struct job_blocks *b = arg;

    *ret_count = 0;
    if (b->file == NULL)
        return 0;
    if (b->left > 0 && !read_line(b, ret_count, ret_digest)) { /* it was whole a moment ago */
        damaged(b);
        return -EBADMSG;
    }
    b->known = first + *ret_count;
    if (b->left == 0)
        fseek(b->file, 0, SEEK_END); /* between reading and writing */
    return 0;
}

/* Invariant 2 of job_file.h. */
static int save(struct job_blocks *b, uint64_t position)
{
    int rc;

    if (b->broken)
        return -EIO;
    if (fflush(b->file) != 0 || fsync(fileno(b->file)) != 0) {
        rc = -errno;
        failed(b, strerror(errno));
        return rc;
    }
    job_file_set(b->job, "blocks_bytes", json_integer((json_int_t)b->bytes));
    job_file_set(b->job, "blocks_crc32", json_integer((json_int_t)b->crc));
    rc = job_file_checkpoint(b->job, position);
    b->last_ns = cli_now_ns();
    if (rc < 0 && !b->said)
        job_file_tell(b->job);
    b->said |= rc < 0;
    return rc;
}

static int put_line(struct job_blocks *b, uint64_t count, const uint8_t *digest)
{
    char hex[MANIFEST_HEX + 1], line[LINE + 2];

    manifest_hex(digest, hex);
    snprintf(line, sizeof line, "%s %" PRIu64 "\n", hex, count);
    if (fputs(line, b->file) < 0) {
        int rc = -errno;
        failed(b, strerror(errno));
        return rc;
    }
    b->crc = add_crc(b->crc, line);
    b->bytes += strlen(line);
    return 0;
}

int job_blocks_add(struct job_blocks *b, uint64_t first, uint64_t count, const uint8_t *digest)
{
    int rc;

    if (b->file == NULL)
        return 0;
    b->told = first + count;
    if (first < b->known)
        return 0;
    rc = put_line(b, count, digest);
    if (rc < 0)
        return rc;
    b->known = b->told;
    if (cli_now_ns() - b->last_ns < (uint64_t)job_file_interval_ms() * 1000000)
        return 0;
    return save(b, b->told * b->block_size);
}

/* ---- of a copy, which says by itself how far it is ------------------------------------------------------- */

void job_blocks_hold(struct job_blocks *b, uint64_t first, uint64_t count, const uint8_t *digest)
{
    struct manifest_run *last = b->held_count > 0 ? &b->held[b->held_count - 1] : NULL;

    if (b->file == NULL || first < b->known)
        return;
    if (last != NULL && memcmp(last->digest, digest, VDISK_DIGEST_SIZE) == 0) {
        last->count += count;
        return;
    }
    if (b->held_count == b->held_room) {
        size_t room = b->held_room > 0 ? 2 * b->held_room : 256;
        struct manifest_run *more = cli_calloc(room, sizeof *more);
        if (b->held_count > 0)
            memcpy(more, b->held, b->held_count * sizeof *more);
        free(b->held);
        b->held = more;
        b->held_room = room;
    }
    b->held[b->held_count].count = count;
    memcpy(b->held[b->held_count].digest, digest, VDISK_DIGEST_SIZE);
    b->held_count++;
}

int job_blocks_checkpoint(void *arg, uint64_t position)
{
    struct job_blocks *b = arg;
    uint64_t end = position / b->block_size + (position % b->block_size > 0), n;
    size_t i = 0;
    int rc = 0;

    for (; rc == 0 && i < b->held_count && b->known < end; i++) {
        n = b->held[i].count < end - b->known ? b->held[i].count : end - b->known;
        rc = put_line(b, n, b->held[i].digest);
        b->known += n;
        b->held[i].count -= n;
        if (b->held[i].count > 0)
            break;
    }
    b->held_count -= i;
    if (b->held_count > 0)
        memmove(b->held, b->held + i, b->held_count * sizeof *b->held);
    return rc < 0 ? rc : save(b, position);
}

void job_blocks_close(struct job_blocks *b, bool done)
{
    if (b->file == NULL)
        return;
    if (!b->said && b->told > 0 && b->told == b->known && !done)
        save(b, b->told * b->block_size);
    fclose(b->file);
    free(b->held);
    if (b->bytes + b->left == 0) /* nothing in it counts; else: job_file_end() */
        unlink(b->path);
    free(b->path);
    b->file = NULL;
}
