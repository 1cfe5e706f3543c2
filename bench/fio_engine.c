/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvdisk as an external fio engine:
 *
 *     fio --ioengine=external:BUILD/bench/libvdisk-fio.so --filename=disk.qcow2 --direct=1 --rw=randread ...
 *
 * A job's file is a volume: anything that vdisk_open() takes (fio splits file names at ':', write "null\:10G", and
 * "nbd+unix\:///?socket=PATH" for an export), or
 * the name of one in a storage domain ("volume\:DOMAIN/IMAGE/VOLUME", whose format its domain says; a thin one in
 * a volume group grows).
 * Its size is the volume's. `direct` chooses between O_DIRECT and the page cache, trim is a discard, fsync and
 * fdatasync are a flush. Jobs with thread=1 share one open volume and have a queue each; jobs that are processes
 * open the volume each for itself, which the image locks allow to readers only.
 *
 * A volume is opened when the first of its jobs starts and closed when the last one ends, so that neither is part
 * of what fio measures; what close would write back is measured with end_fsync=1.
 *
 * Threads: fio sets all jobs up on its main thread, then runs each on its own. `shared` is guarded by
 * `shared_lock`, taken at set-up and clean-up only. All else belongs to one job.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vdisk.h>

#include "tools/domain/domain.h"

#include "fio.h"
#include "optgroup.h"

struct engine_options {
    void        *pad; /* fio takes offset 0 for "no such option" */
    char        *format;
    unsigned int queue_kind;
    unsigned int register_buffers;
};

/* A volume that jobs share. Kept until fio ends: there are few. */
struct shared_volume {
    struct shared_volume *next;
    char                 *name;
    bool                  writable; /* some job will write */
    vdisk                *v;        /* NULL while no job runs on it */
    uint32_t              flags;    /* what it was opened with */
    struct domain_use    *use;      /* with `v`: an image of a domain, which nobody changes meanwhile; or NULL */
    unsigned              jobs;
};

struct job {
    vdisk_queue             *queue;
    struct shared_volume   **volumes;  /* one for each of the job's files */
    unsigned                 nvolumes;
    struct vdisk_completion *reaped;
    struct io_u            **queued;   /* enqueued since the last commit */
    unsigned                 nqueued;
    bool                     complained;
};

static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static struct shared_volume *shared;

static struct fio_option options[] = {
    {
        .name = "format",
        .lname = "Volume format",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, format),
        .help = "raw or qcow2; default: look at the content",
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {
        .name = "queue",
        .lname = "Kind of queue",
        .type = FIO_OPT_STR,
        .off1 = offsetof(struct engine_options, queue_kind),
        .help = "What the queue is made of",
        .def = "auto",
        .posval = {
            {.ival = "auto", .oval = VDISK_QUEUE_AUTO, .help = "the best that the kernel allows"},
            {.ival = "uring-defer", .oval = VDISK_QUEUE_URING_DEFER, .help = "io_uring with DEFER_TASKRUN"},
            {.ival = "uring", .oval = VDISK_QUEUE_URING, .help = "io_uring without it"},
            {.ival = "threads", .oval = VDISK_QUEUE_THREADS, .help = "a few threads"},
        },
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {
        .name = "registerbufs",
        .lname = "Register buffers",
        .type = FIO_OPT_BOOL,
        .off1 = offsetof(struct engine_options, register_buffers),
        .help = "Register the job's buffers with its queue",
        .def = "0",
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {
        .name = NULL,
    },
};

/* Say what libvdisk said: its text names the volume. `what` is for a call that leaves no text. */
static void complain(const char *what, int rc)
{
    const char *text = vdisk_error_text();
    const char *hint = vdisk_error_hint();

    if (*text)
        log_err("vdisk: %s%s%s\n", text, *hint ? "\n       " : "", hint);
    else
        log_err("vdisk: cannot %s: %s\n", what, strerror(-rc));
}

static bool job_writes(const struct thread_data *td)
{
    return td_write(td) || td_trim(td);
}

/* The entry for `name`, made when there is none; NULL: out of memory. Context: shared_lock is held. */
static struct shared_volume *shared_find(const char *name)
{
    struct shared_volume *s;

    for (s = shared; s; s = s->next) {
        if (strcmp(s->name, name) == 0)
            return s;
    }
    s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->name = strdup(name);
    if (!s->name) {
        free(s);
        return NULL;
    }
    s->next = shared;
    shared = s;
    return s;
}

/* On a thread of the library. */
static void tell_growth(void *arg, const char *text)
{
    (void)arg;
    log_err("vdisk: more space cannot be had: %s\n", text);
}

/* Open what a job's file names. *ret_use is to be ended after the volume; it may be NULL. */
static int open_name(struct thread_data *td, const char *name, uint32_t flags, vdisk **ret_volume,
                     struct domain_use **ret_use)
{
    const struct engine_options *o = td->eo;
    struct vdisk_open_opts opts = {.size = sizeof opts, .flags = flags, .format = o->format};
    struct domain_use *use = NULL;
    char *found = NULL;
    vdisk *v = NULL;
    int rc = 0;

    if (domain_is_name(name) && o->format) {
        log_err("vdisk: %s: its domain says its format: leave out format=\n", name);
        return -EINVAL;
    }
    if (domain_is_name(name))
        rc = domain_open_name(name, &found, &use);
    if (rc == 0)
        rc = vdisk_open(found ? found : name, &opts, &v);
    if (rc == 0 && use && flags & VDISK_OPEN_RDWR)
        rc = domain_use_grow(use, v, &(struct domain_grow){.note = tell_growth});
    if (rc < 0)
        complain("open the volume", rc);
    if (rc < 0 && v)
        vdisk_close(v);
    else if (rc == 0)
        *ret_volume = v;
    free(found);
    if (rc < 0)
        domain_use_end(use);
    else
        *ret_use = use;
    return rc;
}

static void close_name(vdisk *v, struct domain_use *use)
{
    int rc = vdisk_close(v);

    if (rc < 0)
        complain("close the volume", rc);
    domain_use_end(use);
}

static int open_volume(struct thread_data *td, struct shared_volume *s, uint32_t flags)
{
    int rc = open_name(td, s->name, flags, &s->v, &s->use);

    if (rc < 0) {
        if (rc == -EAGAIN && !td->o.use_thread)
            log_err("vdisk: jobs that share a volume must be threads: give --thread\n");
        return rc;
    }
    s->flags = flags;
    return 0;
}

/* Take a reference on the open volume `name`. On success *ret_volume is to be given back with shared_put(). */
static int shared_get(struct thread_data *td, const char *name, struct shared_volume **ret_volume)
{
    struct shared_volume *s;
    int rc = 0;

    pthread_mutex_lock(&shared_lock);
    s = shared_find(name);
    if (!s) {
        rc = -ENOMEM;
    } else {
        /* A thread may meet writers on the same handle; a process has its handle to itself. */
        bool writable = td->o.use_thread ? s->writable : job_writes(td);
        uint32_t flags = (writable ? VDISK_OPEN_RDWR : 0) | (td->o.odirect ? 0 : VDISK_OPEN_BUFFERED);

        if (!s->v) {
            rc = open_volume(td, s, flags);
        } else if (s->flags != flags) {
            log_err("vdisk: %s: jobs that share a volume must agree on direct=\n", name);
            rc = -EINVAL;
        }
        if (rc == 0) {
            s->jobs++;
            *ret_volume = s;
        }
    }
    pthread_mutex_unlock(&shared_lock);
    return rc;
}

static void shared_put(struct shared_volume *s)
{
    pthread_mutex_lock(&shared_lock);
    assert(s->jobs > 0 && s->v);
    if (--s->jobs == 0) {
        close_name(s->v, s->use);
        s->v = NULL;
    }
    pthread_mutex_unlock(&shared_lock);
}

/* fio's hook: how large is it? Context: fio's main thread, before any job starts. */
static int engine_get_file_size(struct thread_data *td, struct fio_file *f)
{
    uint32_t flags = VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_NO_BACKING | (td->o.odirect ? 0 : VDISK_OPEN_BUFFERED);
    struct shared_volume *s;
    vdisk *v;
    struct domain_use *use;
    int rc;

    if (fio_file_size_known(f))
        return 0;
    rc = open_name(td, f->file_name, flags, &v, &use);
    if (rc < 0) {
        /* fio takes ENOENT for a file that it should make. */
        td_verror(td, rc == -ENOENT ? ENODEV : -rc, "vdisk_open");
        return 1;
    }
    f->filetype = FIO_TYPE_FILE;
    f->real_file_size = vdisk_size(v);
    fio_file_set_size_known(f);
    close_name(v, use);

    pthread_mutex_lock(&shared_lock);
    s = shared_find(f->file_name);
    if (s && job_writes(td))
        s->writable = true;
    pthread_mutex_unlock(&shared_lock);
    return s ? 0 : 1;
}

static void engine_cleanup(struct thread_data *td)
{
    struct job *job = td->io_ops_data;

    if (!job)
        return;
    /* fio may stop without having reaped all; nothing may be in flight below. */
    while (job->queue && vdisk_queue_inflight(job->queue) > 0) {
        int rc = vdisk_reap(job->queue, job->reaped, 1, td->o.iodepth, NULL);
        if (rc < 0 && rc != -EINTR)
            break;
    }
    vdisk_queue_destroy(job->queue);
    for (unsigned i = 0; i < job->nvolumes; i++)
        shared_put(job->volumes[i]);
    free(job->volumes);
    free(job->reaped);
    free(job->queued);
    free(job);
    td->io_ops_data = NULL;
}

static int open_files(struct thread_data *td, struct job *job)
{
    struct fio_file *f;
    unsigned int i;

    for_each_file(td, f, i) {
        int rc = shared_get(td, f->file_name, &job->volumes[job->nvolumes]);

        if (rc < 0)
            return rc;
        FILE_SET_ENG_DATA(f, job->volumes[job->nvolumes++]->v);
        if (f->file_offset + f->io_size > vdisk_size(FILE_ENG_DATA(f))) {
            log_err("vdisk: %s: the job's offset and size reach past the end of the volume\n", f->file_name);
            return -EINVAL;
        }
    }
    return 0;
}

/* fio's hook: a job starts. Context: the job's thread, as for all below. */
static int engine_init(struct thread_data *td)
{
    const struct engine_options *o = td->eo;
    struct vdisk_queue_opts opts = {
        .size = sizeof opts,
        .depth = td->o.iodepth,
        .kind = (enum vdisk_queue_kind)o->queue_kind,
    };
    struct job *job = calloc(1, sizeof *job);
    int rc = -ENOMEM;

    if (!job)
        return 1;
    td->io_ops_data = job;
    job->volumes = calloc(td->files_index, sizeof *job->volumes);
    job->reaped = calloc(td->o.iodepth, sizeof *job->reaped);
    job->queued = calloc(td->o.iodepth, sizeof *job->queued);
    if (job->volumes && job->reaped && job->queued)
        rc = open_files(td, job);
    if (rc == 0) {
        rc = vdisk_queue_create(&opts, &job->queue);
        if (rc < 0)
            complain("make a queue", rc);
    }
    if (rc < 0) {
        td_verror(td, -rc, "vdisk_init");
        engine_cleanup(td);
        return 1;
    }
    return 0;
}

/* fio's hook: the job's buffers exist now. */
static int engine_post_init(struct thread_data *td)
{
    const struct engine_options *o = td->eo;
    struct job *job = td->io_ops_data;
    struct iovec region = {.iov_base = td->orig_buffer, .iov_len = td->orig_buffer_size};
    int rc = o->register_buffers ? vdisk_queue_register_buffers(job->queue, &region, 1) : 0;

    if (rc < 0)
        complain("register the buffers", rc);
    return rc < 0;
}

static enum fio_q_status engine_queue(struct thread_data *td, struct io_u *io_u)
{
    struct job *job = td->io_ops_data;
    vdisk *v = FILE_ENG_DATA(io_u->file);
    uint64_t user_data = (uintptr_t)io_u;

    fio_ro_check(td, io_u);
    if (job->nqueued == td->o.iodepth)
        return FIO_Q_BUSY;

    switch ((int)io_u->ddir) {
    case DDIR_READ:
        vdisk_read(job->queue, v, io_u->offset, io_u->xfer_buf, io_u->xfer_buflen, 0, user_data);
        break;
    case DDIR_WRITE:
        vdisk_write(job->queue, v, io_u->offset, io_u->xfer_buf, io_u->xfer_buflen, 0, user_data);
        break;
    case DDIR_TRIM:
        vdisk_discard(job->queue, v, io_u->offset, io_u->xfer_buflen, 0, user_data);
        break;
    case DDIR_SYNC:
    case DDIR_DATASYNC:
        vdisk_flush(job->queue, v, 0, user_data);
        break;
    default:
        io_u->error = EINVAL;
        return FIO_Q_COMPLETED;
    }
    job->queued[job->nqueued++] = io_u;
    return FIO_Q_QUEUED;
}

/* The time of issue is that of the submission, as in fio's io_uring engine: one clock read for a batch. */
static int engine_commit(struct thread_data *td)
{
    struct job *job = td->io_ops_data;
    struct timespec now;
    int rc;

    if (job->nqueued == 0)
        return 0;
    rc = vdisk_submit(job->queue);
    if (rc < 0) {
        complain("submit", rc);
        return rc;
    }
    if (fio_fill_issue_time(td)) {
        fio_gettime(&now, NULL);
        for (unsigned i = 0; i < job->nqueued; i++) {
            job->queued[i]->issue_time = now;
            io_u_queued(td, job->queued[i]);
        }
    }
    io_u_mark_submit(td, job->nqueued);
    job->nqueued = 0;
    return 0;
}

static int engine_getevents(struct thread_data *td, unsigned int min, unsigned int max,
                            const struct timespec *t)
{
    struct job *job = td->io_ops_data;
    int rc;

    do {
        rc = vdisk_reap(job->queue, job->reaped, min, max, t);
    } while (rc == -EINTR);
    if (rc < 0)
        complain("reap", rc);
    return rc;
}

static struct io_u *engine_event(struct thread_data *td, int event)
{
    struct job *job = td->io_ops_data;
    const struct vdisk_completion *c = &job->reaped[event];
    struct io_u *io_u = (struct io_u *)(uintptr_t)c->user_data;

    io_u->error = c->result < 0 ? (unsigned int)-c->result : 0;
    io_u->resid = c->result < 0 ? io_u->xfer_buflen : 0;
    if (c->result < 0 && !job->complained) {
        job->complained = true;
        log_err("vdisk: %s: %s at %llu, %llu bytes: %s\n", io_u->file->file_name, io_ddir_name(io_u->ddir),
                io_u->offset, io_u->xfer_buflen, strerror(-c->result));
    }
    return io_u;
}

/* Volumes are open from engine_init() to engine_cleanup(): fio opens and closes files on every pass. */
static int engine_file_nop(struct thread_data *td, struct fio_file *f)
{
    (void)td;
    (void)f;
    return 0;
}

/* fio looks this symbol up. */
struct ioengine_ops ioengine __attribute__((visibility("default"))) = {
    .name = "vdisk",
    .version = FIO_IOOPS_VERSION,
    /* DISKLESSIO: fio neither makes nor extends nor opens files itself. */
    .flags = FIO_DISKLESSIO | FIO_NOEXTEND | FIO_NODISKUTIL | FIO_NO_OFFLOAD | FIO_ASYNCIO_SETS_ISSUE_TIME,
    .get_file_size = engine_get_file_size,
    .init = engine_init,
    .post_init = engine_post_init,
    .queue = engine_queue,
    .commit = engine_commit,
    .getevents = engine_getevents,
    .event = engine_event,
    .cleanup = engine_cleanup,
    .open_file = engine_file_nop,
    .close_file = engine_file_nop,
    .invalidate = engine_file_nop,
    .unlink_file = engine_file_nop,
    .options = options,
    .option_struct_size = sizeof(struct engine_options),
};
