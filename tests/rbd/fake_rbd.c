/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The librbd of tests: fake_ceph.h says what it can be told. Images have objects of 64 KiB, stay until they are
 * removed, and are the process's, or, with VDISK_FAKE_RBD=FOLDER, files there. What a caller must not do is
 * asserted: beyond the end, twice, not given back.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backends/rbd/ceph.h"
#include "tests/rbd/fake_ceph.h"
#include "tests/rbd/fake_client.h"

enum { OBJECT = 64 << 10, IMAGES = 16, MOST = 64 << 20, WAITING = 4096 };

/* What there is of an image: memory, or a file. */
struct kept {
    uint64_t size;
    bool     objects[MOST / OBJECT];
    uint8_t  data[MOST];
};

struct image {
    char         name[64];
    bool         there;
    struct kept *kept;
};

/* An open image. */
struct handle {
    struct fake_client *client;
    struct image       *image;
    bool                read_only, locked;
    ceph_changed_fn    *changed; /* NULL: it does not watch */
    void               *arg;
};

struct completion {
    /* Of a write without a copy: what it is told to write, which it does when it ends. */
    struct image   *image;
    struct iovec   *iov;
    int             iovcnt;
    uint64_t        offset;
    ceph_done_fn   *fn;
    void           *arg;
    struct handle  *handle;
    ssize_t         result;
    bool            flush, ended;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER, end = PTHREAD_COND_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static unsigned telling;
static struct image images[IMAGES];                 /* these under the lock */
static struct completion *waiting[WAITING];
static unsigned waiting_count;
static struct handle *watching[IMAGES];
static bool has_thread;
static uint64_t drawn = 1;
static unsigned long long thick;
static atomic_int handles, flushes;

fake_handles_fn fake_handles;
fake_flushes_fn fake_flushes;
fake_exists_fn fake_exists;
fake_thick_fn fake_thick;
#define DECLARE(result, name, arguments) result name arguments;
CEPH_RBD(DECLARE, DECLARE)

int fake_handles(void)
{
    return atomic_load(&handles);
}

int fake_flushes(void)
{
    return atomic_load(&flushes);
}

unsigned long long fake_thick(void)
{
    return thick;
}

/* Where images stay when the process ends; NULL: nowhere. */
static const char *path_of(const char *name)
{
    static char path[4096];
    const char *folder = getenv("VDISK_FAKE_RBD");

    return folder && snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path ? path : NULL;
}

/* -1: as it was kept. False: there is none; or, new, there is one. */
static bool keep(struct image *m, const char *name, int64_t new_size)
{
    const char *path = path_of(name);
    int fd = path ? open(path, O_RDWR | O_CLOEXEC | (new_size >= 0 ? O_CREAT | O_EXCL : 0), 0600) : -1;

    if (path ? fd < 0 : new_size < 0)
        return false;
    assert(fd < 0 || new_size < 0 || ftruncate(fd, sizeof *m->kept) == 0);
    m->kept = mmap(NULL, sizeof *m->kept, PROT_READ | PROT_WRITE,
                   fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    assert(m->kept != MAP_FAILED && strlen(name) < sizeof m->name);
    if (fd >= 0)
        close(fd);
    snprintf(m->name, sizeof m->name, "%s", name);
    m->there = true;
    if (new_size >= 0)
        m->kept->size = (uint64_t)new_size;
    return true;
}

static struct image *find(const char *name)
{
    struct image *none = images + IMAGES;

    for (unsigned i = 0; i < IMAGES; i++) {
        if (images[i].there && strcmp(images[i].name, name) == 0)
            return &images[i];
        if (!images[i].there && none == images + IMAGES)
            none = &images[i];
    }
    return none < images + IMAGES && keep(none, name, -1) ? none : NULL;
}

int fake_exists(const char *name)
{
    return find(name) != NULL;
}

/* ---- images ----------------------------------------------------------------------------------------------- */

int rbd_create(void *ioctx, const char *name, uint64_t size, int *order)
{
    struct image *m = images;

    assert(*order == 0 && size <= MOST && strlen(name) < sizeof m->name);
    if (fake_fails(ioctx, "rbd_create"))
        return -EIO;
    if (find(name))
        return -EEXIST;
    while (m->there)
        m++;
    assert(m < images + IMAGES && keep(m, name, (int64_t)size));
    return 0;
}

int rbd_remove(void *ioctx, const char *name)
{
    struct image *m = find(name);
    struct fake_client *c = ioctx;

    assert(c->images == 0); /* a watcher, of which librbd would say EBUSY */
    if (!m)
        return -ENOENT;
    m->there = false;
    munmap(m->kept, sizeof *m->kept);
    if (path_of(name))
        unlink(path_of(name));
    return 0;
}

static int open_image(void *ioctx, const char *name, void **image, bool read_only)
{
    struct fake_client *c = ioctx;
    struct image *m = find(name);
    struct handle *h;

    if (fake_fails(c, "rbd_open"))
        return -EIO;
    if (!m)
        return -ENOENT;
    h = calloc(1, sizeof *h);
    assert(h);
    *h = (struct handle){.client = c, .image = m, .read_only = read_only};
    c->images++;
    atomic_fetch_add(&handles, 1);
    *image = h;
    return 0;
}

int rbd_open(void *ioctx, const char *name, void **image, const char *snapshot)
{
    assert(!snapshot);
    return open_image(ioctx, name, image, false);
}

int rbd_open_read_only(void *ioctx, const char *name, void **image, const char *snapshot)
{
    return open_image(ioctx, name, image, true);
}

int rbd_close(void *image)
{
    struct handle *h = image;

    assert(h->client->images > 0 && !h->locked && !h->changed);
    assert(fake_number(h->client, "rados_osd_op_timeout") > 0); /* it would wait for ever */
    h->client->images--;
    atomic_fetch_sub(&handles, 1);
    free(h);
    return 0;
}

static int ask(void *image, const char *function)
{
    return fake_fails(((struct handle *)image)->client, function) ? -EIO : 0;
}

int rbd_get_size(void *image, uint64_t *size)
{
    pthread_mutex_lock(&lock);
    *size = ((struct handle *)image)->image->kept->size;
    pthread_mutex_unlock(&lock);
    return ask(image, "rbd_get_size");
}

int rbd_get_features(void *image, uint64_t *features)
{
    *features = CEPH_FEATURE_EXCLUSIVE_LOCK | CEPH_FEATURE_FAST_DIFF;
    return ask(image, "rbd_get_features");
}

int rbd_get_flags(void *image, uint64_t *flags)
{
    *flags = 0;
    return ask(image, "rbd_get_flags");
}

int rbd_get_overlap(void *image, uint64_t *overlap)
{
    *overlap = fake_number(((struct handle *)image)->client, "fake_overlap");
    return ask(image, "rbd_get_overlap");
}

int rbd_get_stripe_unit(void *image, uint64_t *unit)
{
    *unit = OBJECT;
    return ask(image, "rbd_get_stripe_unit");
}

int rbd_get_stripe_count(void *image, uint64_t *count)
{
    *count = 1;
    return ask(image, "rbd_get_stripe_count");
}

int rbd_stat(void *image, void *info, size_t len)
{
    struct handle *h = image;
    struct ceph_stat *st = info;

    assert(len >= sizeof *st);
    st->size = h->image->kept->size;
    st->object_size = OBJECT;
    return ask(image, "rbd_stat");
}

int rbd_update_watch(void *image, uint64_t *handle, ceph_changed_fn *fn, void *arg)
{
    struct handle *h = image;

    assert(!h->changed);
    if (ask(image, "rbd_update_watch") < 0)
        return -EIO;
    pthread_mutex_lock(&lock);
    for (*handle = 0; watching[*handle]; ++*handle)
        assert(*handle + 1 < IMAGES);
    watching[*handle] = h;
    h->changed = fn;
    h->arg = arg;
    pthread_mutex_unlock(&lock);
    return 0;
}

int rbd_update_unwatch(void *image, uint64_t handle)
{
    struct handle *h = image;

    pthread_mutex_lock(&lock);
    assert(handle < IMAGES && watching[handle] == h);
    watching[handle] = NULL;
    h->changed = NULL;
    while (telling > 0)
        pthread_cond_wait(&told, &lock);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Without the lock, since they ask; and none of them goes meanwhile. */
static void tell_watchers(const struct image *m)
{
    pthread_mutex_lock(&lock);
    telling++;
    for (unsigned i = 0; i < IMAGES; i++) {
        const struct handle *h = watching[i];
        if (!h || h->image != m)
            continue;
        ceph_changed_fn *fn = h->changed;
        void *arg = h->arg;
        pthread_mutex_unlock(&lock);
        fn(arg);
        pthread_mutex_lock(&lock);
    }
    telling--;
    pthread_cond_broadcast(&told);
    pthread_mutex_unlock(&lock);
}

/* What lies behind a new end reads as zeros when it comes back. */
int rbd_resize(void *image, uint64_t size)
{
    struct handle *h = image;
    struct image *m = h->image;

    assert(!h->read_only && size <= MOST);
    if (ask(image, "rbd_resize") < 0)
        return -EIO;
    pthread_mutex_lock(&lock);
    if (size < m->kept->size) {
        memset(m->kept->data + size, 0, m->kept->size - size);
        for (uint64_t i = (size + OBJECT - 1) / OBJECT; i < MOST / OBJECT; i++)
            m->kept->objects[i] = false;
    }
    m->kept->size = size;
    pthread_mutex_unlock(&lock);
    tell_watchers(m);
    return 0;
}

static int tell_odd(struct handle *h, ceph_extent_fn *fn, void *arg)
{
    int rc = fn(UINT64_MAX - 10, 100, 1, arg);

    return rc < 0 ? rc : fn(0, SIZE_MAX, 1, arg);
}

int rbd_diff_iterate2(void *image, const char *from, uint64_t offset, uint64_t len, uint8_t include_parent,
                      uint8_t whole_object, ceph_extent_fn *fn, void *arg)
{
    struct handle *h = image;
    uint64_t first = offset / OBJECT, n = (offset + len + OBJECT - 1) / OBJECT - first;
    bool back = fake_is(h->client, "fake_extents", "back");

    assert(!from && whole_object && offset % OBJECT == 0 && offset + len <= h->image->kept->size);
    if (ask(image, "rbd_diff_iterate2") < 0)
        return -EIO;
    if (fake_is(h->client, "fake_extents", "odd"))
        return tell_odd(h, fn, arg);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t object = first + (back ? n - 1 - i : i);
        int rc = h->image->kept->objects[object] ? fn(object * OBJECT, OBJECT, 1, arg) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- locks ------------------------------------------------------------------------------------------------ */

int rbd_lock_acquire(void *image, int mode)
{
    struct handle *h = image;

    assert(mode == CEPH_LOCK_EXCLUSIVE && !h->locked);
    if (ask(image, "rbd_lock_acquire") < 0)
        return -EROFS;
    h->locked = true;
    return 0;
}

int rbd_lock_release(void *image)
{
    struct handle *h = image;

    assert(h->locked);
    h->locked = false;
    return 0;
}

int rbd_lock_get_owners(void *image, int *mode, char **owners, size_t *count)
{
    struct handle *h = image;

    if (!fake_setting(h->client, "fake_owner"))
        return -ENOENT;
    assert(*count > 0);
    owners[0] = strdup("192.0.2.7:0/4242");
    *count = 1;
    atomic_fetch_add(&handles, 1);
    return 0;
}

void rbd_lock_get_owners_cleanup(char **owners, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(owners[i]);
    atomic_fetch_sub(&handles, 1);
}

int rbd_watchers_list(void *image, struct ceph_watcher *watchers, size_t *count)
{
    struct handle *h = image;

    watchers[0].address = strdup(fake_is(h->client, "fake_owner", "live") ? "192.0.2.7:0/4242" : "192.0.2.8:0/1");
    *count = 1;
    atomic_fetch_add(&handles, 1);
    return 0;
}

void rbd_watchers_list_cleanup(struct ceph_watcher *watchers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(watchers[i].address);
    atomic_fetch_sub(&handles, 1);
}

/* ---- completions ------------------------------------------------------------------------------------------ */

int rbd_aio_create_completion(void *arg, ceph_done_fn *fn, void **completion)
{
    struct completion *c = calloc(1, sizeof *c);

    assert(c);
    c->fn = fn;
    c->arg = arg;
    atomic_fetch_add(&handles, 1);
    *completion = c;
    return 0;
}

int rbd_aio_wait_for_complete(void *completion)
{
    struct completion *c = completion;

    pthread_mutex_lock(&lock);
    while (!c->ended)
        pthread_cond_wait(&end, &lock);
    pthread_mutex_unlock(&lock);
    return 0;
}

ssize_t rbd_aio_get_return_value(void *completion)
{
    struct completion *c = completion;

    assert(c->ended);
    return c->result;
}

void rbd_aio_release(void *completion)
{
    struct completion *c = completion;

    atomic_fetch_sub(&handles, 1);
    free(c->iov);
    free(c);
}

static void mark(struct image *m, uint64_t offset, uint64_t len)
{
    for (uint64_t i = offset / OBJECT; i * OBJECT < offset + len; i++)
        m->kept->objects[i] = true;
}

static void write_out(struct image *m, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    for (int i = 0; i < iovcnt; i++) {
        assert(offset + iov[i].iov_len <= m->kept->size);
        memcpy(m->kept->data + offset, iov[i].iov_base, iov[i].iov_len);
        mark(m, offset, iov[i].iov_len);
        offset += iov[i].iov_len;
    }
}

/* Who waits for it may give it back as soon as it has ended. */
static void tell(struct completion *c)
{
    ceph_done_fn *fn = c->fn;

    atomic_fetch_add(&flushes, c->flush ? 1 : 0);
    pthread_mutex_lock(&lock);
    if (c->iov && c->result == 0)
        write_out(c->image, c->iov, c->iovcnt, c->offset);
    c->ended = true;
    pthread_cond_broadcast(&end);
    pthread_mutex_unlock(&lock);
    if (fn)
        fn(c, c->arg);
}

static uint64_t draw(uint64_t n)
{
    drawn = drawn * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (drawn >> 33) % n;
}

/* Any of those that wait. */
static void *run(void *arg)
{
    for (;;) {
        struct completion *c;
        uint64_t i;
        pthread_mutex_lock(&lock);
        while (waiting_count == 0)
            pthread_cond_wait(&more, &lock);
        i = draw(waiting_count);
        c = waiting[i];
        waiting[i] = waiting[--waiting_count];
        pthread_mutex_unlock(&lock);
        tell(c);
    }
    return NULL;
}

static void end_late(struct completion *c)
{
    pthread_t thread;

    pthread_mutex_lock(&lock);
    if (!has_thread) {
        assert(pthread_create(&thread, NULL, run, NULL) == 0);
        pthread_detach(thread);
    }
    has_thread = true;
    assert(waiting_count < WAITING);
    waiting[waiting_count++] = c;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
}

/* The work is done; now its end is told, as the client's settings have it. */
static int finish(struct handle *h, const char *function, struct completion *c, ssize_t result)
{
    bool late = fake_is(h->client, "fake_end", "late");

    assert(fake_number(h->client, "rados_osd_op_timeout") == 0); /* a disk waits */
    if (fake_is(h->client, "fake_end", "mixed")) {
        pthread_mutex_lock(&lock);
        late = draw(2);
        pthread_mutex_unlock(&lock);
    }
    c->result = result;
    if (fake_is(h->client, "fake_fail", function))
        c->result = -(ssize_t)fake_number(h->client, "fake_result");
    if (late)
        end_late(c);
    else
        tell(c);
    return 0;
}

/* ---- I/O -------------------------------------------------------------------------------------------------- */

int rbd_aio_readv(void *image, const struct iovec *iov, int iovcnt, uint64_t offset, void *completion)
{
    struct handle *h = image;
    uint64_t most = fake_number(h->client, "fake_short"), left = most ? most : UINT64_MAX, all = 0;

    if (ask(image, "rbd_aio_readv") < 0)
        return -EIO;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < iovcnt; i++) {
        uint64_t n = iov[i].iov_len < left ? iov[i].iov_len : left;
        assert(offset + all + iov[i].iov_len <= h->image->kept->size);
        memcpy(iov[i].iov_base, h->image->kept->data + offset + all, n);
        all += n;
        left -= n;
    }
    pthread_mutex_unlock(&lock);
    return finish(h, "rbd_aio_readv", completion, (ssize_t)all + (fake_setting(h->client, "fake_long") ? 1 : 0));
}

int rbd_aio_writev(void *image, const struct iovec *iov, int iovcnt, uint64_t offset, void *completion)
{
    struct completion *c = completion;
    struct handle *h = image;

    assert(!h->read_only);
    if (ask(image, "rbd_aio_writev") < 0)
        return -EIO;
    if (fake_is(h->client, "rbd_disable_zero_copy_writes", "false")) {
        c->image = h->image;
        c->iov = memcpy(calloc((size_t)iovcnt, sizeof *iov), iov, (size_t)iovcnt * sizeof *iov);
        c->iovcnt = iovcnt;
        c->offset = offset;
    } else {
        pthread_mutex_lock(&lock);
        write_out(h->image, iov, iovcnt, offset);
        pthread_mutex_unlock(&lock);
    }
    return finish(h, "rbd_aio_writev", completion, 0);
}

static void clear(struct image *m, uint64_t offset, uint64_t len, bool keep)
{
    assert(offset + len <= m->kept->size);
    memset(m->kept->data + offset, 0, len);
    for (uint64_t i = offset / OBJECT; i * OBJECT < offset + len; i++)
        if (i * OBJECT >= offset && (i + 1) * OBJECT <= offset + len)
            m->kept->objects[i] = keep;
    thick += keep ? len : 0;
}

int rbd_aio_discard(void *image, uint64_t offset, uint64_t len, void *completion)
{
    struct handle *h = image;
    uint64_t from = (offset + OBJECT - 1) / OBJECT * OBJECT, to = (offset + len) / OBJECT * OBJECT;

    assert(!h->read_only && offset + len <= h->image->kept->size);
    if (ask(image, "rbd_aio_discard") < 0)
        return -EIO;
    pthread_mutex_lock(&lock);
    if (from < to)
        clear(h->image, from, to - from, false);
    pthread_mutex_unlock(&lock);
    return finish(h, "rbd_aio_discard", completion, 0);
}

int rbd_aio_write_zeroes(void *image, uint64_t offset, size_t len, void *completion, int zero_flags, int op_flags)
{
    struct handle *h = image;

    assert(!h->read_only && len > 0);
    if (ask(image, "rbd_aio_write_zeroes") < 0)
        return -EIO;
    pthread_mutex_lock(&lock);
    clear(h->image, offset, len, zero_flags & CEPH_ZEROES_THICK);
    if (zero_flags & CEPH_ZEROES_THICK)
        mark(h->image, offset, len);
    pthread_mutex_unlock(&lock);
    return finish(h, "rbd_aio_write_zeroes", completion, 0);
}

int rbd_aio_flush(void *image, void *completion)
{
    struct completion *c = completion;

    if (ask(image, "rbd_aio_flush") < 0)
        return -EIO;
    c->flush = true;
    return finish(image, "rbd_aio_flush", c, 0);
}
