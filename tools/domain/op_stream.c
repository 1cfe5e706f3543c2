/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes that come as bytes, and go as such.
 *
 * Works: what comes is written, or copied (op_stream_copy.c), to the data of a volume that is not published yet,
 * and then looked at as what it is: anybody's. Fails: it is not what was promised, or not sound: the volume is not
 * made.
 */
#include <errno.h>
#include <fcntl.h>
#include <gcrypt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { PIECE = 1 << 20, SHA256_BYTES = 32, CLUSTER_MOST = 2 << 20 };
enum { LARGE_CLUSTERS = 32 << 20 /* what tables of 2 MiB each take */ };

struct transfer {
    struct domain_stream              *stream;
    const struct domain_volume_create *o;
    struct domain                     *domain;
    const char                        *image, *volume;
    gcry_md_hd_t                       hash;
    char                              *buf;
    const struct domain_new           *made;
    bool                               device; /* what is written to is as long as it is, and holds what it held */
    uint64_t                           stop;   /* a device is read so far; 0: to the end of the file */
    uint64_t                           room;   /* that a device has; 0: it has all that it can take */
};

static int begin(struct transfer *t)
{
    text_init_gcrypt();
    t->buf = malloc(PIECE);
    if (t->buf == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    if (gcry_md_open(&t->hash, GCRY_MD_SHA256, 0) != 0) {
        free(t->buf);
        t->buf = NULL;
        return dom_fail(ENOTSUP, NULL, "libgcrypt gives no SHA-256 here");
    }
    return 0;
}

static void end(struct transfer *t)
{
    const unsigned char *digest = gcry_md_read(t->hash, GCRY_MD_SHA256);

    for (size_t i = 0; i < SHA256_BYTES; i++)
        snprintf(t->stream->sha256 + 2 * i, 3, "%02x", digest[i]);
    gcry_md_close(t->hash);
    free(t->buf);
}

static bool is_zero(const char *buf, size_t len)
{
    return len > 0 && buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

/* All of it; at this place, where it is a file that is written anywhere. */
static int put(int fd, const char *buf, size_t len, off_t at, bool seeks)
{
    while (len > 0) {
        ssize_t n = seeks ? pwrite(fd, buf, len, at) : write(fd, buf, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            buf += n;
            at += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* As much as fits, or all that there is. */
static ssize_t get(int fd, char *buf, size_t len)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = read(fd, buf + have, len - have);
        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            have += (size_t)n;
    }
    return (ssize_t)have;
}

static int put_zeros(struct transfer *t, int fd, uint64_t at, uint64_t end)
{
    int rc = 0;

    memset(t->buf, 0, PIECE);
    for (uint64_t n; rc == 0 && at < end; at += n) {
        n = min_u64(PIECE, end - at);
        rc = put(fd, t->buf, (size_t)n, (off_t)at, true);
    }
    return rc;
}

static size_t next_piece(const struct transfer *t, uint64_t at)
{
    return t->stop != 0 ? (size_t)min_u64(PIECE, t->stop - at) : PIECE;
}

/* What a device has behind what has come is nothing of it: a raw volume, or the last cluster, goes on as zeros. */
static int end_device(struct transfer *t, int fd, uint64_t at)
{
    bool raw = strcmp(t->made->format, "raw") == 0;
    off_t size = lseek(fd, 0, SEEK_END);

    if (size < 0)
        return -errno;
    return put_zeros(t, fd, at,
                     raw ? t->made->capacity : min_u64(align_up(at, CLUSTER_MOST), (uint64_t)size));
}

/* How much comes is not known before: a device becomes larger on the way. */
static int make_room(struct transfer *t, uint64_t bytes)
{
    const struct dom_kind *kind = t->domain->kind;
    const char *volume;
    int rc;

    if (t->room == 0 || bytes <= t->room)
        return 0;
    volume = strrchr(t->made->path, '/') + 1;
    rc = kind->make_room(t->domain, t->image, volume, bytes + DOM_CHUNK);
    if (rc == -ENOSPC)
        rc = kind->make_room(t->domain, t->image, volume, bytes);
    if (rc == 0)
        t->room = bytes; /* at least */
    return rc;
}

static int fail_reading(const struct transfer *t, int err)
{
    if (t->made != NULL)
        return dom_fail(err, NULL, "standard input: reading it: %s", strerror(err));
    return dom_fail(err, NULL, "image %s: reading volume %s: %s", t->image, t->volume, strerror(err));
}

static int fail_writing(const struct transfer *t, int err)
{
    return dom_fail_file(err, t->made != NULL ? t->made->path : "standard output", "writing to it");
}

static int tell(const struct transfer *t, uint64_t done, uint64_t total)
{
    vdisk_progress_fn *progress = t->o != NULL ? t->o->progress : t->stream->progress;
    void *arg = t->o != NULL ? t->o->progress_arg : t->stream->progress_arg;

    if (progress == NULL || progress(arg, done, max_u64(done, total)) == 0)
        return 0;
    return dom_fail(ECANCELED, NULL, "the %s was cancelled", t->o != NULL ? "upload" : "download");
}

static int too_much(uint64_t most)
{
    return dom_fail(EFBIG, NULL, "more than %" PRIu64 " bytes come, which is more than such a volume has", most);
}

/* From one to the other. `most`: more is refused; `total`: as much is awaited, for progress. */
static int move(struct transfer *t, int from, int to, bool seeks, uint64_t most, uint64_t total)
{
    uint64_t at = 0;
    ssize_t n;
    int rc = 0;

    while (rc == 0 && (n = get(from, t->buf, next_piece(t, at))) != 0) {
        if (n < 0)
            return fail_reading(t, (int)-n);
        if (at + (uint64_t)n > most)
            return too_much(most);
        rc = make_room(t, at + (uint64_t)n);
        if (rc < 0)
            return rc;
        gcry_md_write(t->hash, t->buf, (size_t)n);
        if (!seeks || t->device || !is_zero(t->buf, (size_t)n))
            rc = put(to, t->buf, (size_t)n, (off_t)at, seeks);
        if (rc < 0)
            return fail_writing(t, -rc);
        at += (uint64_t)n;
        rc = tell(t, at, total);
    }
    if (rc < 0)
        return rc;
    t->stream->bytes = at;
    if (seeks && t->device)
        rc = end_device(t, to, at);
    if (rc < 0)
        return fail_writing(t, -rc);
    if (seeks && ((!t->device && ftruncate(to, (off_t)at) != 0) || fsync(to) != 0))
        return fail_writing(t, errno);
    return 0;
}

/* ---- what has come ------------------------------------------------------------------------------------------ */

static int promised(const char *what, const char *is, const char *said)
{
    return dom_fail(EBADMSG, NULL, "what was uploaded is not as promised: %s is %s, not %s", what, is, said);
}

static int judge_sizes(const struct transfer *t, const struct vdisk_image_info *info)
{
    char is[32], said[32];

    if (info->virtual_size == t->made->capacity)
        return 0;
    snprintf(is, sizeof is, "%" PRIu64, info->virtual_size);
    snprintf(said, sizeof said, "%" PRIu64, t->made->capacity);
    return promised("its size", is, said);
}

static int judge_header(const struct transfer *t, const struct vdisk_image_info *info)
{
    const char *backing = info->backing_file != NULL ? info->backing_file : "", *said = t->made->backing;
    const char *format = info->backing_fmt != NULL ? info->backing_fmt : "";

    if (info->data_file != NULL)
        return dom_fail(EBADMSG, NULL, "what was uploaded has an external data file, '%.200s'", info->data_file);
    if (info->corrupt || info->dirty)
        return dom_fail(EBADMSG, NULL, "what was uploaded is marked %s",
                        info->corrupt ? "corrupt" : "as not closed");
    if (strcmp(backing, said) != 0)
        return promised("its parent", backing[0] != '\0' ? backing : "none", said[0] != '\0' ? said : "none");
    if (said[0] != '\0' && strcmp(format, t->made->backing_format) != 0)
        return promised("its parent's format", format[0] != '\0' ? format : "not told", t->made->backing_format);
    if (info->version > 2 && t->domain->version < 4)
        return promised("its version of qcow2", "3", "2, as this domain has");
    return judge_sizes(t, info);
}

/* A file ends where what has come does, and a device does not: it is counted. */
static int judge_length(const struct transfer *t)
{
    char is[32], said[32];

    if (t->o->format != DOMAIN_RAW || t->stream->bytes == t->o->capacity)
        return 0;
    snprintf(is, sizeof is, "%" PRIu64, t->stream->bytes);
    snprintf(said, sizeof said, "%" PRIu64, t->o->capacity);
    return promised("its size", is, said);
}

/* The library names the file, which goes, and advises who has it. */
static int unsound(int rc, const char *path, const char *format)
{
    const char *text = vdisk_error_text();
    size_t n = strlen(path);
    char why[512];

    if (rc == -EIO || rc == -ENOMEM)
        return rc;
    if (strncmp(text, path, n) == 0 && strncmp(text + n, ": ", 2) == 0)
        text += n + 2;
    snprintf(why, sizeof why, "%s", text);
    return dom_fail(rc, "see whether all of it has come, and whether it is of that format",
                    "what was uploaded is no %s image that is used: %s", format, why);
}

static int run_check(const struct domain *d, const char *path, uint32_t flags, struct vdisk_check_result *ret)
{
    struct vdisk_check_opts opts = {.size = sizeof opts, .flags = flags, .format = "qcow2",
                                    .memory_max = UINT64_C(256) << 20};
    struct dom_error error;
    vdisk_job *job;
    int rc = vdisk_job_check(path, &opts, &job);

    if (rc < 0)
        return rc;
    rc = d->how.run != NULL ? d->how.run(job) : vdisk_job_run(job);
    dom_error_keep(&error, rc);
    if (rc == 0)
        vdisk_job_get_check_result(job, ret);
    vdisk_job_free(job);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* A device has something wherever the metadata leads: it is to have come. */
static int judge_metadata(const struct transfer *t, const char *path)
{
    struct vdisk_check_result result = {.size = sizeof result};
    int rc = run_check(t->domain, path, 0, &result);

    if (rc < 0)
        return unsound(rc, path, "qcow2");
    if (result.corruptions > 0 || result.check_errors > 0)
        return dom_fail(EBADMSG, NULL, "what was uploaded is damaged: %" PRIu64 " corruptions",
                        result.corruptions);
    if (t->device && result.image_end_offset > align_up(t->stream->bytes, CLUSTER_MOST))
        return dom_fail(EBADMSG, NULL, "what was uploaded is not whole: %" PRIu64 " bytes of %" PRIu64,
                        t->stream->bytes, result.image_end_offset);
    return 0;
}

static int judge(const struct transfer *t, const char *path, const char *format)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_NO_NAMES | VDISK_OPEN_BUFFERED,
                                  .format = format};
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;
    int rc = vdisk_image_load(path, &how, &image);

    if (rc < 0)
        return unsound(rc, path, format);
    vdisk_image_get_info(image, &info);
    rc = judge_header(t, &info);
    vdisk_image_free(image);
    return rc == 0 && strcmp(format, "qcow2") == 0 ? judge_metadata(t, path) : rc;
}

static int judge_digest(const struct domain_stream *s)
{
    return s->digest == NULL || strcasecmp(s->digest, s->sha256) == 0 ? 0 :
           dom_fail(EBADMSG, NULL, "the SHA-256 of what was uploaded is %s, not %.100s", s->sha256, s->digest);
}

/* What comes may take less than it has been given. */
static int give_back(const struct transfer *t)
{
    if (t->room == 0)
        return 0;
    return t->domain->kind->give_back(t->domain, t->image, strrchr(t->made->path, '/') + 1,
                                      align_up(t->stream->bytes, CLUSTER_MOST) + DOM_CHUNK);
}

static int move_in(struct transfer *t, uint64_t most, uint64_t full)
{
    int fd = open(t->made->path, O_WRONLY | O_TRUNC | O_CLOEXEC | (t->device ? 0 : O_NOFOLLOW)), rc;

    if (fd < 0)
        return dom_fail_file(errno, t->made->path, "opening it");
    rc = begin(t);
    if (rc == 0) {
        rc = move(t, t->stream->fd, fd, true, most, t->o->format == DOMAIN_RAW ? t->o->capacity : full);
        end(t);
    }
    close(fd);
    return rc;
}

/* Pieces of a copy come in any order: it is what has been written that has the digest. */
static int hash_written(struct transfer *t)
{
    int fd = open(t->made->path, O_RDONLY | O_CLOEXEC | (t->device ? 0 : O_NOFOLLOW)), rc;
    ssize_t n = 1;

    if (fd < 0)
        return dom_fail_file(errno, t->made->path, "opening it");
    rc = begin(t);
    t->stop = t->stream->bytes;
    for (uint64_t at = 0; rc == 0 && n > 0; at += (uint64_t)n) {
        n = get(fd, t->buf, next_piece(t, at));
        if (n > 0)
            gcry_md_write(t->hash, t->buf, (size_t)n);
        else if (n < 0)
            rc = dom_fail_file((int)-n, t->made->path, "reading it again");
    }
    if (t->buf != NULL)
        end(t);
    close(fd);
    return rc;
}

static int copy_in(struct transfer *t, uint64_t most)
{
    int rc = t->stream->bytes > most ? too_much(most) : make_room(t, t->stream->bytes);

    if (rc == 0)
        rc = dom_stream_in(t->domain, t->made, t->stream->source, t->o->progress, t->o->progress_arg);
    return rc == 0 && t->stream->digest != NULL ? hash_written(t) : rc;
}

static int fill(void *arg, const struct domain_new *n)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = n->format};
    struct vdisk_measure_result size = {.size = sizeof size};
    struct transfer *t = arg;
    uint64_t most;
    int rc;

    t->made = n;
    t->device = t->domain->extent != 0;
    opts.virtual_size = n->capacity;
    rc = vdisk_measure(&opts, NULL, &size);
    if (rc < 0)
        return rc;
    most = t->o->format == DOMAIN_RAW ? t->o->capacity : 2 * size.fully_allocated + LARGE_CLUSTERS;
    rc = t->stream->source != NULL ? copy_in(t, most) : move_in(t, most, size.fully_allocated);
    if (rc == 0)
        rc = judge_digest(t->stream);
    if (rc == 0)
        rc = judge_length(t);
    if (rc == 0)
        rc = judge(t, n->path, n->format);
    return rc == 0 ? give_back(t) : rc;
}

/* In a group a sparse volume begins as any other one, or with what is known to come. */
static int choose_room(const struct domain *d, struct domain_volume_create *o, uint64_t comes, uint64_t *ret)
{
    struct vdisk_create_opts opts = {.size = sizeof opts, .format = "qcow2", .virtual_size = o->capacity};
    struct vdisk_measure_result size = {.size = sizeof size};
    int rc;

    if (d->extent == 0 || o->format == DOMAIN_RAW)
        return 0;
    rc = vdisk_measure(&opts, NULL, &size);
    o->has_initial_size = true;
    o->initial_size = *ret = min_u64(max_u64(DOM_CHUNK, comes), size.fully_allocated);
    return rc;
}

int domain_volume_upload(struct domain *d, const char *image, const struct domain_volume_create *o,
                         struct domain_stream *s, struct domain_volume_result *ret)
{
    struct domain_volume_create with = *o;
    struct transfer t = {.stream = s, .o = &with, .domain = d, .image = image};
    int rc;

    if (s->digest != NULL && (strlen(s->digest) != 2 * SHA256_BYTES ||
                              strspn(s->digest, "0123456789abcdefABCDEF") != 2 * SHA256_BYTES))
        return dom_fail(EINVAL, NULL, "'%.100s' is no SHA-256: %d hexadecimal digits", s->digest,
                        2 * SHA256_BYTES);
    if (o->allocation == DOMAIN_PREALLOCATED)
        return dom_fail(EINVAL, NULL, "an uploaded volume is sparse: it has what has come");
    if (o->capacity == 0 || o->capacity % 4096 != 0)
        return dom_fail(EINVAL, NULL, "an upload needs the size of the image, a multiple of 4096");
    if (d->extent != 0 && o->format == DOMAIN_RAW)
        with.allocation = DOMAIN_PREALLOCATED; /* a device has all of its space */
    with.fill = fill;
    with.fill_arg = &t;
    s->sha256[0] = '\0';
    s->bytes = s->source != NULL ? vdisk_size(s->source) : 0;
    rc = s->source != NULL ? judge_length(&t) : 0; /* that is known before */
    if (rc == 0)
        rc = choose_room(d, &with, s->bytes, &t.room);
    return rc == 0 ? domain_volume_create(d, image, &with, ret) : rc;
}

/* ---- download ------------------------------------------------------------------------------------------------
 */

/* What a device has behind the end of its image is nobody's, or somebody else's. Nobody writes to it now. */
static int find_end(struct domain *d, const char *image, const struct domain_volume *v, uint64_t *ret)
{
    struct vdisk_check_result found = {.size = sizeof found};
    char *path = NULL;
    int rc;

    *ret = 0;
    if (d->extent == 0 || v->meta.format != DOMAIN_COW)
        return 0;
    rc = dom_data_path(d, image, v->uuid, &path);
    if (rc == 0)
        rc = run_check(d, path, VDISK_OPEN_FORCE_SHARE, &found);
    free(path);
    *ret = found.image_end_offset;
    return rc;
}

static int send_file(struct domain *d, const char *image, const struct domain_volume *v, struct domain_stream *s)
{
    struct transfer t = {.stream = s, .domain = d, .image = image, .volume = v->uuid};
    int fd = -1, rc = find_end(d, image, v, &t.stop);

    if (rc == 0 && s->target != NULL)
        return dom_stream_out(d, image, v, t.stop, s);
    if (rc == 0)
        rc = d->kind->open_data(d, image, v->uuid, false, &fd);
    if (rc < 0)
        return rc;
    rc = begin(&t);
    if (rc == 0) {
        rc = move(&t, fd, s->fd, false, UINT64_MAX, t.stop != 0 ? t.stop : v->size);
        end(&t);
    }
    close(fd);
    return rc;
}

static int judge_source(const struct domain_image *image, const struct domain_volume *v, const char *volume)
{
    if (v == NULL || !v->has_meta)
        return dom_fail(ENOENT, NULL, "image %s has no volume %s", image->uuid, volume);
    if (v->why[0] != '\0')
        return dom_fail(EBADMSG, NULL, "volume %s: its metadata: %s", v->uuid, v->why);
    if (!v->has_data)
        return dom_fail(ENOENT, NULL, "image %s: volume %s has no data", image->uuid, v->uuid);
    if (v->meta.legality != DOMAIN_LEGAL)
        return dom_fail(EACCES, NULL, "volume %s is %s: only volumes that are LEGAL are downloaded", v->uuid,
                        domain_legality_name(v->meta.legality));
    return 0;
}

static int download(struct domain *d, const struct domain_image *image, const char *volume,
                    struct domain_stream *s)
{
    struct dom_claims claims = {0};
    const struct domain_volume *v;
    struct dom_error error;
    int rc = 0;

    v = volume[0] != '\0' ? domain_image_volume(image, volume) : domain_image_leaf(d, image, &rc);
    if (rc == 0)
        rc = judge_source(image, v, volume);
    if (rc == 0)
        rc = dom_claim(d, image->uuid, v, &claims);
    if (rc == 0)
        rc = send_file(d, image->uuid, v, s);
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    return rc < 0 ? dom_error_give(&error) : 0;
}

int domain_volume_download(struct domain *d, const char *image, const char *volume, struct domain_stream *s)
{
    const struct dom_lock_wish wish = {image, DOM_LOCK_READ};
    struct domain_image *loaded;
    struct dom_error error;
    int lock = -1, rc = dom_check_uuid("image", image);

    if (rc == 0)
        rc = d->kind->lock(d, &wish, 1, &lock);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &loaded);
    if (rc == 0) {
        rc = download(d, loaded, volume, s);
        dom_error_keep(&error, rc);
        domain_image_free(loaded);
    } else {
        dom_error_keep(&error, rc);
    }
    d->kind->unlock(d, lock);
    return rc < 0 ? dom_error_give(&error) : 0;
}
