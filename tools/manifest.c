/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Works: see manifest.h. Fails: what cannot be written is removed, and what was there before stays; what is not as
 * a manifest should be is told with its line.
 */
#include "tools/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "tools/own_files.h"

static const char first_line[] = "vdisk-io manifest 1", algorithm[] = "algorithm blake2b-256";

enum { TRIES = 100, LINE = 160, BLOCK_LEAST = 4096, BLOCK_MOST = 64 << 20, SECTOR = 512 };

#define BLOCKS_MOST (UINT64_C(1) << 31) /* as of vdisk_job_checksum() */

void manifest_hex(const uint8_t digest[VDISK_DIGEST_SIZE], char ret[MANIFEST_HEX + 1])
{
    for (size_t i = 0; i < VDISK_DIGEST_SIZE; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

static uint64_t add_crc(uint64_t crc, const char *text)
{
    return crc32((uLong)crc, (const Bytef *)text, (uInt)strlen(text));
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static void put_line(struct manifest_writer *m, const char *line)
{
    if (m->body) {
        fprintf(m->body, "%s\n", line);
        return;
    }
    m->crc = add_crc(add_crc(m->crc, line), "\n");
    fprintf(m->file, "%s\n", line);
}

/* What is there may be replaced: false: it is something else, which was said. */
static bool may_replace(const char *path, const struct stat *st)
{
    char start[sizeof first_line - 2] = ""; /* without the version */
    FILE *f;
    bool is_one;

    if (S_ISREG(st->st_mode) && st->st_size == 0)
        return true;
    f = S_ISREG(st->st_mode) ? fopen(path, "re") : NULL;
    is_one = f && fread(start, 1, sizeof start, f) == sizeof start &&
             memcmp(start, first_line, sizeof start) == 0;
    if (f)
        fclose(f);
    if (!is_one)
        cli_error("%s: is there, and is no manifest: not replaced", path);
    return is_one;
}

int manifest_check(const char *path)
{
    char *place = own_files_path(path), *temporary = own_files_beside(place, ".new");
    struct stat st;
    bool may = (stat(path, &st) != 0 || may_replace(path, &st)) &&
               (stat(temporary, &st) != 0 || may_replace(temporary, &st));

    free(temporary);
    free(place);
    return may ? CLI_OK : CLI_FAILED;
}

static bool same_file(const char *path, const struct stat *st)
{
    struct stat other;

    return stat(path, &other) == 0 && other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

/*
 * The file beside it, locked. One that is there was left by a command that was killed, whose locks may outlive it
 * for a moment. -1: told.
 */
static int take_file(const char *path)
{
    static const struct timespec a_moment = {.tv_nsec = 20000000};
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;

    for (unsigned i = 0; i < TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd < 0 || fstat(fd, &st) != 0) {
            cli_error("%s: %s", path, strerror(errno));
            if (fd >= 0)
                close(fd);
            return -1;
        }
        if (!may_replace(path, &st)) {
            close(fd);
            return -1;
        }
        if (fcntl(fd, F_OFD_SETLK, &all) == 0 && same_file(path, &st))
            return fd;
        close(fd);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &a_moment, NULL);
    }
    cli_error("%s: another process writes to it", path);
    return -1;
}

static FILE *make_file(const char *temporary, const struct stat *before)
{
    int fd = take_file(temporary);
    FILE *f;

    if (fd < 0)
        return NULL;
    f = ftruncate(fd, 0) == 0 && (before->st_mode == 0 || fchmod(fd, before->st_mode & 0777) == 0)
            ? fdopen(fd, "w") : NULL;
    if (f)
        return f;
    cli_error("%s: %s", temporary, strerror(errno));
    unlink(temporary);
    close(fd);
    return NULL;
}

static void put_head(struct manifest_writer *m, uint64_t size)
{
    char line[LINE];

    put_line(m, first_line);
    put_line(m, algorithm);
    snprintf(line, sizeof line, "block-size %" PRIu32, m->block_size);
    put_line(m, line);
    snprintf(line, sizeof line, "size %" PRIu64, size);
    put_line(m, line);
}

static void forget(struct manifest_writer *m)
{
    if (m->body)
        fclose(m->body);
    free(m->temporary);
    free(m->path);
}

/* In the same folder, so that it has the space which the manifest will have to have; else where such files are. */
static FILE *make_nameless(const char *path)
{
    char *copy = cli_strdup(path);
    int fd = open(dirname(copy), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w+") : tmpfile();

    if (!file && fd >= 0)
        close(fd);
    free(copy);
    return file;
}

int manifest_create(struct manifest_writer *m, const char *path, uint32_t block_size, uint64_t size)
{
    struct stat st = {0};
    char *real = realpath(path, NULL); /* of a link, what it leads to is replaced */

    memset(m, 0, sizeof *m);
    if (real && stat(real, &st) == 0 && !may_replace(path, &st)) {
        free(real);
        return CLI_FAILED;
    }
    m->block_size = block_size;
    m->path = real ? real : own_files_path(path);
    m->temporary = own_files_beside(m->path, ".new");
    if (size == MANIFEST_SIZE_LATER) {
        m->body = make_nameless(m->path);
        if (!m->body)
            cli_error("%s: %s", path, strerror(errno));
    }
    m->file = size != MANIFEST_SIZE_LATER || m->body ? make_file(m->temporary, &st) : NULL;
    if (!m->file) {
        forget(m);
        return CLI_FAILED;
    }
    if (!m->body)
        put_head(m, size);
    return CLI_OK;
}

static void put_run(struct manifest_writer *m)
{
    char hex[MANIFEST_HEX + 1], line[LINE];

    if (m->run.count == 0)
        return;
    manifest_hex(m->run.digest, hex);
    snprintf(line, sizeof line, "%s %" PRIu64, hex, m->run.count);
    put_line(m, line);
    m->run.count = 0;
}

int manifest_set_size(struct manifest_writer *m, uint64_t size)
{
    char line[LINE];
    FILE *body = m->body;
    int rc = CLI_OK;

    put_run(m);
    m->body = NULL;
    put_head(m, size);
    if (fflush(body) != 0 || ferror(body) || fseek(body, 0, SEEK_SET) != 0) {
        cli_error("%s: digests could not be kept: %s", m->path, strerror(errno));
        fclose(body);
        return CLI_FAILED;
    }
    while (fgets(line, sizeof line, body)) {
        line[strcspn(line, "\n")] = '\0';
        put_line(m, line);
    }
    if (ferror(body) || ferror(m->file)) {
        cli_error("%s: %s", m->path, strerror(errno));
        rc = CLI_FAILED;
    }
    fclose(body);
    return rc;
}

bool manifest_is_file(const struct manifest_writer *m, const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (same_file(m->path, &st) || same_file(m->temporary, &st));
}

int manifest_add(struct manifest_writer *m, uint64_t count, const uint8_t *digest)
{
    if (m->run.count == 0 || memcmp(m->run.digest, digest, VDISK_DIGEST_SIZE) != 0) {
        put_run(m);
        memcpy(m->run.digest, digest, VDISK_DIGEST_SIZE);
    }
    m->run.count += count;
    if (ferror(m->body ? m->body : m->file))
        return errno > 0 ? -errno : -EIO;
    return 0;
}

static bool put_in_place(struct manifest_writer *m, const uint8_t *checksum)
{
    char hex[MANIFEST_HEX + 1], line[LINE];

    put_run(m);
    manifest_hex(checksum, hex);
    snprintf(line, sizeof line, "checksum %s", hex);
    put_line(m, line);
    fprintf(m->file, "crc32 %08" PRIx64 "\n", m->crc);
    if (fflush(m->file) != 0 || ferror(m->file) || fsync(fileno(m->file)) != 0 ||
        rename(m->temporary, m->path) != 0)
        return false;
    own_files_sync_folder(m->path); /* a job's file, in another folder, says next that all is done */
    return true;
}

int manifest_finish(struct manifest_writer *m, const uint8_t *checksum)
{
    int rc = CLI_OK;

    if (!checksum || !put_in_place(m, checksum)) {
        rc = CLI_FAILED;
        if (checksum)
            cli_error("%s: %s", m->path, strerror(errno));
        unlink(m->temporary);
    }
    fclose(m->file);
    forget(m);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static int damaged(const struct manifest *m, const char *what)
{
    cli_error("%s: line %lu: %s: this is no manifest, or damaged", m->path, m->line, what);
    return -1;
}

/* The next line, without its end. 0 or -1. */
static int get_line(struct manifest *m, char line[LINE])
{
    char *end;

    m->line++;
    errno = 0;
    if (!fgets(line, LINE, m->file)) {
        if (!ferror(m->file))
            return damaged(m, "missing");
        cli_error("%s: %s", m->path, strerror(errno));
        return -1;
    }
    end = strchr(line, '\n');
    if (!end)
        return damaged(m, "too long, or cut off");
    *end = '\0';
    return 0;
}

/* Likewise, one that counts for the sum. */
static int get_counted(struct manifest *m, char line[LINE])
{
    int rc = get_line(m, line);

    if (rc == 0)
        m->crc = add_crc(add_crc(m->crc, line), "\n");
    return rc;
}

/* Digits and nothing else, up to `most`. */
static bool get_number(const char *text, uint64_t most, uint64_t *ret)
{
    uint64_t n = 0;

    if (*text == '\0' || strlen(text) > 19 || strspn(text, "0123456789") != strlen(text))
        return false;
    for (; *text; text++)
        n = n * 10 + (uint64_t)(*text - '0');
    *ret = n;
    return n <= most;
}

static bool get_digest(const char *text, uint8_t ret[VDISK_DIGEST_SIZE])
{
    if (strspn(text, "0123456789abcdef") != MANIFEST_HEX)
        return false;
    for (size_t i = 0; i < VDISK_DIGEST_SIZE; i++) {
        char byte[3] = {text[2 * i], text[2 * i + 1], '\0'};
        ret[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return true;
}

/* What follows `key` in the line; NULL: it has another one. */
static const char *value_of(const char *line, const char *key)
{
    size_t n = strlen(key);

    return strncmp(line, key, n) == 0 && line[n] == ' ' ? line + n + 1 : NULL;
}

static int get_head(struct manifest *m)
{
    char line[LINE];
    const char *value;
    uint64_t n;

    rewind(m->file);
    m->line = 0;
    m->crc = 0;
    if (get_counted(m, line) < 0)
        return -1;
    if (strcmp(line, first_line) != 0)
        return damaged(m, "not 'vdisk-io manifest 1'");
    if (get_counted(m, line) < 0)
        return -1;
    if (strcmp(line, algorithm) != 0)
        return damaged(m, "not 'algorithm blake2b-256'");
    if (get_counted(m, line) < 0)
        return -1;
    value = value_of(line, "block-size");
    if (!value || !get_number(value, BLOCK_MOST, &n) || n < BLOCK_LEAST || n % BLOCK_LEAST > 0)
        return damaged(m, "no block size that there can be");
    m->block_size = (uint32_t)n;
    if (get_counted(m, line) < 0)
        return -1;
    value = value_of(line, "size");
    if (!value || !get_number(value, INT64_MAX, &m->size) || m->size % SECTOR > 0)
        return damaged(m, "no size that there can be");
    m->left = m->size / m->block_size + (m->size % m->block_size > 0);
    return m->left > BLOCKS_MOST ? damaged(m, "more than 2^31 blocks") : 0;
}

/* What follows the last block. 0 or -1. */
static int get_tail(struct manifest *m)
{
    char line[LINE], sum[sizeof "crc32 01234567"];
    const char *value;

    if (get_counted(m, line) < 0)
        return -1;
    value = value_of(line, "checksum");
    if (!value || strlen(value) != MANIFEST_HEX || !get_digest(value, m->checksum))
        return damaged(m, "no checksum");
    if (get_line(m, line) < 0)
        return -1;
    snprintf(sum, sizeof sum, "crc32 %08" PRIx32, (uint32_t)m->crc);
    if (strcmp(line, sum) != 0)
        return damaged(m, "the crc32 of the lines before is another one");
    if (fgetc(m->file) == EOF)
        return 0;
    m->line++;
    return damaged(m, "something follows");
}

int manifest_next(struct manifest *m)
{
    char line[LINE];

    if (m->left == 0)
        return get_tail(m);
    if (get_counted(m, line) < 0)
        return -1;
    if (!get_digest(line, m->run.digest) || line[MANIFEST_HEX] != ' ' ||
        !get_number(line + MANIFEST_HEX + 1, UINT64_MAX, &m->run.count) || m->run.count == 0)
        return damaged(m, "no digest and number of blocks");
    if (m->run.count > m->left)
        return damaged(m, "more blocks than there are");
    m->left -= m->run.count;
    return 1;
}

int manifest_open(struct manifest *m, const char *path)
{
    int rc;

    memset(m, 0, sizeof *m);
    m->file = fopen(path, "re");
    if (!m->file) {
        cli_error("%s: %s", path, strerror(errno));
        return CLI_FAILED;
    }
    m->path = cli_strdup(path);
    for (rc = get_head(m) < 0 ? -1 : 1; rc > 0;)
        rc = manifest_next(m);
    if (rc == 0)
        rc = get_head(m);
    if (rc == 0)
        return CLI_OK;
    manifest_close(m);
    return CLI_FAILED;
}

void manifest_close(struct manifest *m)
{
    fclose(m->file);
    free(m->path);
}
