/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage domains: a folder, or a volume group, with images of one or more volumes, in Vdsm's layout of versions 3
 * to 5. This is the room's only door.
 *
 * All functions that return int give 0 or -errno, with vdisk_error_text() and vdisk_error_hint(). They block. A
 * domain is used by one thread at a time. Names of images and volumes are UUIDs, in lower case. Sizes are bytes.
 * A path may be relative to the folder that the process is in when it is given; later it may go to another one.
 *
 * What a process has open, or locked, does not survive fork(): in the child what needs a lock is -ECHILD,
 * domain_use_end() and domain_close() take nothing from the parent, and what the parent gives back is free though
 * the child lives. It opens a domain anew. Where sanlock's leases are, a child that does not call exec() has its
 * daemon believe, as long as it lives, that the parent does.
 *
 * Volume groups are changed by commands, whose end is the library's to see: the program may ignore SIGCHLD, block
 * it, or wait for any child, of which it may find some that it does not know.
 *
 * Every operation of several steps may be killed between any two: it has happened then, or not, or the next
 * operation on the same image ends or undoes it, and tells so (domain_how.note).
 */
#ifndef TOOLS_DOMAIN_DOMAIN_H
#define TOOLS_DOMAIN_DOMAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vdisk-image.h>

enum {
    DOMAIN_UUID = 37, /* with the NUL */
    DOMAIN_GENERATIONS = 1000,
    DOMAIN_TEXT = 512,
};

#define DOMAIN_BLANK "00000000-0000-0000-0000-000000000000" /* no parent */

enum domain_format { DOMAIN_RAW, DOMAIN_COW };
enum domain_allocation { DOMAIN_PREALLOCATED, DOMAIN_SPARSE };
enum domain_role { DOMAIN_LEAF, DOMAIN_INTERNAL, DOMAIN_SHARED };
enum domain_legality { DOMAIN_LEGAL, DOMAIN_ILLEGAL, DOMAIN_FAKE };

/* What the metadata of a volume says. */
struct domain_meta {
    enum domain_format     format;
    enum domain_allocation allocation;
    enum domain_role       role;
    enum domain_legality   legality;
    uint64_t               capacity;
    uint64_t               ctime;      /* seconds since 1970 */
    uint64_t               mtime;
    uint64_t               sequence;
    unsigned               generation; /* below DOMAIN_GENERATIONS */
    bool                   has_capacity, has_size, has_mtime, has_sequence; /* keys that are written: by version */
    char                   disk_type[8];
    char                   domain[DOMAIN_UUID];
    char                   image[DOMAIN_UUID]; /* of a shared volume: that of the template */
    char                   parent[DOMAIN_UUID];
    char                   description[DOMAIN_TEXT + 1];
    char                   extra[DOMAIN_TEXT + 1]; /* keys that we do not know, a line each */
};

/* As in metadata. Static. */
const char *domain_role_name(enum domain_role r);
const char *domain_legality_name(enum domain_legality l);

/* What DISKTYPE may be. */
bool domain_is_disk_type(const char *text);

/* ---- domains ---------------------------------------------------------------------------------------- */

struct domain;

typedef void domain_note_fn(void *arg, const char *text);

struct domain_how {
    bool            wait; /* for who holds a lock; else -EAGAIN, which names him */
    domain_note_fn *note; /* told, in one line, of what was left by one who was killed, and the like; or NULL */
    void           *note_arg;
    int           (*run)(vdisk_job *job); /* long work; NULL: vdisk_job_run() */
};

/*
 * Open what lies at a path: the domain's folder, or one in which it is the only one; or a volume group:
 * "/dev/UUID", or "UUID" where nothing is called so; or "server:/path" where that is mounted. No lock is held.
 * *ret is the caller's, for domain_close().
 * Errors: -ENOENT: there is none; -ENOTUNIQ: several; -EBADMSG: its metadata, or the checksum of that, is wrong;
 * -ENOTSUP: its version; as open(2).
 */
int domain_open(const char *text, const struct domain_how *how, struct domain **ret);

/* NULL is allowed. */
void domain_close(struct domain *d);

const char *domain_path(const struct domain *d);
const char *domain_uuid(const struct domain *d);
const char *domain_kind(const struct domain *d);
unsigned domain_version(const struct domain *d);

/* Pair `index` of its metadata, sorted. false: there are no more. */
bool domain_pair(const struct domain *d, size_t index, const char **ret_key, const char **ret_value);

/* The value of a key; NULL: it has none. */
const char *domain_value(const struct domain *d, const char *key);

struct domain_space {
    uint64_t size, available; /* of the file system, or the group */
};

int domain_get_space(const struct domain *d, struct domain_space *ret);

struct domain_create {
    const char *path;        /* a folder, or a mounted export, that is there; not of a volume group. Of type NFS:
                                or "server:/path", which is mounted at /rhev/data-center/mnt/server:_path, unless
                                it is already; it is no longer when there is no domain then */
    const char *type;        /* LOCALFS or NFS; not of a volume group */
    const char *description; /* or NULL */
    const char *uuid;        /* or NULL: a new one */
    const char *remote_path; /* or NULL: `path`, or what is mounted there */
    unsigned    version;     /* 5, 4 or 3; 0: 5 */
    const char *mount_options; /* for mount(8); or NULL */
    bool        lockspace;   /* sanlock's daemon, which has to run, makes one; not of a local domain */
};

/* A domain within `path`, in a folder of its UUID. Killed: there is none. `how` may be NULL. */
int domain_create(const struct domain_create *o, const struct domain_how *how, char ret_uuid[DOMAIN_UUID]);

/*
 * A domain that is a volume group: a new one of these devices (`devices` ends with NULL), which have nothing yet,
 * or, where that is NULL, the one that is called `group`, is empty, and is called as the domain then. Killed:
 * there is no domain, but perhaps a group, with the tag RHAT_storage_domain_UNREADY.
 */
int domain_create_block(const struct domain_create *o, const char *const *devices, const char *group,
                        const struct domain_how *how, char ret_uuid[DOMAIN_UUID]);

/*
 * Of a domain that has a lockspace, sanlock's, and is not local: this host comes in, by a number that no other
 * host has, or leaves. It may take half a minute. Errors: -ENOENT: there is none; -ENOTCONN: no sanlock daemon;
 * -EBUSY: another host has the number, or leases are held.
 */
int domain_join(struct domain *d, unsigned host);
int domain_leave(struct domain *d);

struct domain_lockspace {
    unsigned host;  /* by which number this host is in; 0: it is not, */
    bool     known; /* if the daemon has said so */
};

/* 1: it has one; 0: it has none; -errno: that cannot be read. */
int domain_get_lockspace(struct domain *d, struct domain_lockspace *ret);

/*
 * Of version 3 or 4 it becomes version 5, as nobody else works in it. Killed: it is of either, and whole, and the
 * same call goes on. Errors: -EBADMSG: metadata that cannot be read; nothing has been changed then; -EAGAIN.
 */
int domain_upgrade(struct domain *d);

/*
 * The paths of the domains in a folder (of groups: /dev), or it itself, each in turn. `fn` returns non-zero to end
 * it.
 */
int domain_find(const char *text, int (*fn)(void *arg, const char *path), void *arg);

/* ---- images and volumes ------------------------------------------------------------------------------ */

struct domain_volume {
    char                  uuid[DOMAIN_UUID];
    struct domain_meta    meta;        /* where why[0] is 0 */
    char                  why[160];    /* why the metadata cannot be read */
    bool                  has_meta;    /* there is some, perhaps unreadable */
    bool                  has_data;
    bool                  has_draft;   /* metadata that was on its way */
    bool                  has_intent;  /* without metadata: half-made, or going; with: being merged, or going */
    bool                  wipe;        /* going, and to be wiped before */
    bool                  odd;         /* one of its names is no regular file */
    bool                  has_lease;
    unsigned              links;       /* names of its data, in images that share it, or elsewhere */
    uint64_t              size;        /* of the file or device */
    uint64_t              allocated;   /* that it occupies */
    struct domain_volume *parent;      /* within the image (shared ones are there, too), or NULL */
    unsigned              children;    /* within the image */
};

struct domain_image {
    char                  uuid[DOMAIN_UUID];
    bool                  removed; /* it is deleted, and waits to be purged */
    struct domain_volume *list;    /* parents before their children; what has none, or is damaged, by name */
    size_t                count;
};

/* UUIDs, sorted; those of deleted images begin with DOMAIN_REMOVED. */
struct domain_names {
    char (*list)[64];
    size_t count;
};

#define DOMAIN_REMOVED "_remove_me_"
#define DOMAIN_REMOVED_WIPE DOMAIN_REMOVED "ZERO_" /* and is to be wiped before: as Vdsm has it on block devices */

int domain_list_images(struct domain *d, struct domain_names *ret);
void domain_names_free(struct domain_names *names);

/* All that is known of an image without opening its volumes. For domain_image_free(). -ENOENT: there is none. */
int domain_load_image(struct domain *d, const char *image, struct domain_image **ret);
void domain_image_free(struct domain_image *image);

/* NULL: there is none. */
struct domain_volume *domain_image_volume(const struct domain_image *image, const char *uuid);

/*
 * The one that has no child: -ENOENT: there is none; -ENOTUNIQ: several; -EBADMSG: it is not known which, as
 * metadata is lost. NULL with the error, else 0.
 */
struct domain_volume *domain_image_leaf(struct domain *d, const struct domain_image *image, int *ret_error);

/* A new one, of random bytes. */
int domain_make_uuid(char ret[DOMAIN_UUID]);

/* ---- names ------------------------------------------------------------------------------------------ */

struct domain_name {
    struct domain *domain;
    char           image[DOMAIN_UUID];  /* "": it was left out, */
    char           volume[DOMAIN_UUID]; /* and so was this */
};

/* Does it begin with "volume:"? */
bool domain_is_name(const char *text);

/*
 * "[volume:]DOMAIN[/IMAGE[/VOLUME]]": the domain is opened, the rest need not be there. For domain_name_free().
 * Errors: -EINVAL, and those of domain_open().
 */
int domain_parse_name(const char *text, const struct domain_how *how, struct domain_name *ret);
void domain_name_free(struct domain_name *name);

struct domain_use;

/*
 * What to open in place of a volume's name (the leaf, where VOLUME is left out; what it says after a comma is for
 * domain_use_grow()): its path, its format, read-only
 * unless it is a leaf; as "json:{...}". It is the caller's, to be freed. *ret_use is for domain_use_end(): until
 * then no operation changes what the image's volumes hold, and they can be opened. Errors: -EACCES: it is not
 * LEGAL; -EAGAIN: somebody changes the image; ...
 */
int domain_open_name(const char *text, char **ret, struct domain_use **ret_use);

struct domain_use_opts {
    const struct domain_how *how; /* or NULL */
    bool                     alone; /* nobody else has a volume of the image open by its name, or comes to */
};

/* The same. -EAGAIN, with `alone`: somebody has one open; the text names him. `o` may be NULL. */
int domain_open_use(const char *text, const struct domain_use_opts *o, char **ret, struct domain_use **ret_use);

/* What it is a use of, whatever the name has left out. Until domain_use_end(). */
const char *domain_use_image(const struct domain_use *use);
const char *domain_use_volume(const struct domain_use *use);
bool domain_use_read_only(const struct domain_use *use);

/* The same in two: the path, which is the caller's, and the format, "raw" or "qcow2". */
int domain_open_path(const char *text, char **ret_path, const char **ret_format, struct domain_use **ret_use);

/* What became of a wish for more room; bytes. */
struct domain_growth {
    uint64_t before, wanted, after; /* of its data */
    uint64_t parked;                /* requests that waited for it already */
    uint64_t nanoseconds;           /* that it took */
    int      result;                /* 0, or -errno, with vdisk_error_text() */
};

/* Called on a thread of the library, one at a time, until the volume is closed; each may be NULL. */
struct domain_grow {
    domain_note_fn *note; /* why it cannot become larger now, when that is another reason than before */
    void          (*grown)(void *arg, const struct domain_growth *g);
    void           *arg;
};

/*
 * `v` is the volume of that use, open for writing by its name: have it become larger as it is written to, where
 * that is for the domain to do: a sparse qcow2 volume in a volume group. For others nothing is done. It grows by
 * chunks of 2560 MiB when less than 4/5 of one is free, or more is needed at the rate at which it is filled, up to
 * what it takes when it is full; its name says otherwise where it ends with ",chunk=SIZE,free=SIZE,ahead=SECONDS".
 * A write for which there is no space waits, alone, or fails with -ENOSPC if there is none to be had. Before
 * domain_use_end() `v` is closed. Once for each time that it is opened. Blocks. `o` may be NULL; it is copied.
 * Errors: of vdisk_set_grower().
 */
int domain_use_grow(struct domain_use *use, vdisk *v, const struct domain_grow *o);

/* After the volume has been closed. NULL is allowed. */
void domain_use_end(struct domain_use *use);

/* ---- operations: a volume called "" is the leaf -------------------------------------------------------- */

struct domain_new {
    const char *path;
    const char *format;         /* "raw" or "qcow2" */
    const char *backing;        /* what its header names, and as which format; "": none */
    const char *backing_format;
    uint64_t    capacity;
    bool        zero;           /* it reads as zeros, or as its parent; else as what was there */
};

/* Fill the data of a new volume. -errno with a text: the volume is not made. */
typedef int domain_fill_fn(void *arg, const struct domain_new *n);

struct domain_volume_create {
    const char            *uuid;           /* or NULL: a new one */
    const char            *parent;         /* a volume of the image, or of another one that is shared; or NULL */
    const char            *parent_image;   /* that of the parent; NULL: the same */
    const char            *description;    /* or NULL: the parent's, or none */
    bool                   same_description; /* it is another volume's: whatever that has in it is kept */
    const char            *disk_type;      /* or NULL: the parent's, or DATA */
    uint64_t               capacity;       /* rounded up to 4096. 0: the parent's */
    bool                   has_initial_size;
    uint64_t               initial_size;
    enum domain_format     format;
    enum domain_allocation allocation;
    bool                   illegal;        /* until domain_volume_update() makes it legal */
    bool                   has_sequence;   /* else one more than the largest of the image */
    uint64_t               sequence;
    vdisk_progress_fn     *progress;
    void                  *progress_arg;
    domain_fill_fn        *fill;           /* before it counts; or NULL */
    void                  *fill_arg;
    bool                   dry_run;        /* change nothing, but refuse what can be */
};

struct domain_volume_result {
    char     uuid[DOMAIN_UUID];
    uint64_t capacity;
    uint64_t asked;     /* preallocated: that the volume is to occupy; else 0 */
    uint64_t allocated; /* that it occupies */
};

/* A volume, and the image with it where there is none yet. Errors name the rule that is against it. */
int domain_volume_create(struct domain *d, const char *image, const struct domain_volume_create *o,
                         struct domain_volume_result *ret);

struct domain_delete {
    bool               dry_run; /* change nothing, but refuse what can be */
    bool               wipe;    /* zeros are written over the data, in place, before it goes */
    bool               discard; /* its space is given back before it goes; where that cannot be it is told */
    vdisk_progress_fn *progress; /* of these two */
    void              *progress_arg;
    uint64_t           rate;    /* of `wipe`: bytes a second; 0: as many as there can be */
};

struct domain_deleted {
    uint64_t wiped, discarded; /* bytes */
};

/*
 * A leaf of an image. What other images have, too, or has another name, is not wiped. Killed, or failed, when it
 * is not there any more: the next operation wipes and removes the rest. `ret` may be NULL.
 */
int domain_volume_delete(struct domain *d, const char *image, const char *volume, const struct domain_delete *o,
                         struct domain_deleted *ret);

/*
 * All of an image: renamed, then wiped, then purged. Its deleted rest, too, where only that is there: it is wiped
 * if either call says so.
 */
int domain_image_delete(struct domain *d, const char *image, const struct domain_delete *o,
                        struct domain_deleted *ret);

struct domain_copy {
    const char            *image;          /* the new one's UUID; or NULL: a new UUID */
    const char            *uuid;           /* of its volume; or NULL: a new one */
    bool                   has_format;     /* else as the volume that is copied; and so its allocation: */
    bool                   has_allocation;
    enum domain_format     format;
    enum domain_allocation allocation;
    vdisk_progress_fn     *progress;
    void                  *progress_arg;
    uint64_t               rate;           /* bytes a second; 0: as many as there can be */
    bool                   dry_run;        /* change nothing, but refuse what can be */
};

/*
 * What a volume reads, with all that it lies on, becomes an image of one volume, in the same domain or another.
 * Killed, or failed: there is no such image. ret_image may be NULL.
 */
int domain_image_copy(struct domain *d, const char *image, const char *volume, struct domain *to,
                      const struct domain_copy *o, char ret_image[DOMAIN_UUID], struct domain_volume_result *ret);

/*
 * Where a copy goes that is no domain's: made, or opened, when all that can be refused has been. `v`: what is
 * copied, open as `source`; `size`: the bytes of it that are. *ret_zero: it is known to read as zeros. It stays
 * the caller's, who closes it when the copy has ended. -errno with a text: nothing is copied.
 */
struct domain_target {
    int (*open)(void *arg, const struct domain_volume *v, vdisk *source, uint64_t size, vdisk **ret,
                bool *ret_zero);
    void *arg;
};

/*
 * What a volume reads, with all that it lies on, to the start of a target; what is behind that becomes zeros. Of
 * `o` what the copy looks like in a domain is the target's. ret_capacity: how much it is.
 */
int domain_image_copy_to(struct domain *d, const char *image, const char *volume, const struct domain_copy *o,
                         const struct domain_target *target, uint64_t *ret_capacity);

/*
 * What an open volume of anywhere reads becomes an image of one volume: raw and sparse (in a volume group:
 * preallocated) unless `o` says otherwise. Killed, or failed: there is no such image.
 */
int domain_image_copy_from(struct domain *to, vdisk *source, const struct domain_copy *o,
                           char ret_image[DOMAIN_UUID], struct domain_volume_result *ret);

/* What a copy has made, from the first volume up. */
struct domain_copied {
    char     image[DOMAIN_UUID];
    uint64_t capacity; /* of all of it */
    struct domain_copied_volume {
        char                        source[DOMAIN_UUID];
        struct domain_volume_result made;
    }       *list;
    size_t   count;
};

/*
 * The same volume by volume: a volume and all that it lies on, each as it is, with its format and allocation. In
 * another domain they keep their UUIDs, and the image does unless `o` names one; in the same domain all get new
 * ones. A template below that is another image's has to be in the target as that image, and is shared from there.
 * `o` has neither `uuid` nor format nor allocation. Killed: there is no such image, or the next operation on it
 * ends the copy. *ret is for domain_copied_free(); after a dry run its volumes have no names.
 * Errors: -EXDEV: the target lacks the template.
 */
int domain_image_copy_volumes(struct domain *d, const char *image, const char *volume, struct domain *to,
                              const struct domain_copy *o, struct domain_copied *ret);
void domain_copied_free(struct domain_copied *copied);

struct domain_merge {
    vdisk_progress_fn *progress;
    void              *progress_arg;
    uint64_t           rate;    /* bytes a second; 0: as many as there can be */
    bool               dry_run;
    bool               wipe;    /* what it held is written over before it goes */
};

/* What a volume has goes into its parent, which grows first; then the volume goes. */
int domain_volume_merge(struct domain *d, const char *image, const char *volume, const struct domain_merge *o);

/* Make a leaf larger: what it holds, then what its metadata says. */
int domain_volume_resize(struct domain *d, const char *image, const char *volume, uint64_t capacity,
                         vdisk_progress_fn *progress, void *progress_arg);

/* The storage of a volume: bytes. */
struct domain_extent {
    uint64_t before, after; /* that it occupies */
    uint64_t asked;         /* extend: that it was to; reduce: where what it holds ends */
};

/*
 * Have the storage of a volume be so large; 0: as large as it ever gets. What it holds stays as it is, and others
 * may have it open. In a file: space is set aside for a preallocated volume, where it has holes. Errors: -EINVAL:
 * a sparse one in a file (it grows by itself), a template, or more than it can take; -ENOTSUP: nothing can be set
 * aside there.
 */
int domain_volume_extend(struct domain *d, const char *image, const char *volume, uint64_t bytes, bool dry_run,
                         struct domain_extent *ret);

struct domain_reduce {
    bool               dry_run; /* `asked` tells then where it ends, with what is leaked */
    vdisk_progress_fn *progress;
    void              *progress_arg;
};

/*
 * Give back what the storage of a sparse qcow2 volume has behind the end of the image, and clusters that are
 * leaked. Nobody has it open. Errors: -EINVAL: raw, preallocated, or a template; -EBADMSG: it is damaged.
 */
int domain_volume_reduce(struct domain *d, const char *image, const char *volume, const struct domain_reduce *o,
                         struct domain_extent *ret);

struct domain_measure {
    bool                   has_format, has_allocation; /* else as the volume */
    enum domain_format     format;
    enum domain_allocation allocation;
};

struct domain_measured {
    uint64_t capacity;
    uint64_t takes;           /* what a volume of that kind takes: one of these two */
    uint64_t required;        /* for what it holds now */
    uint64_t fully_allocated; /* for all that it can */
};

/* How much storage a volume takes that reads as this one does, alone, in this domain: by vdisk_measure(). */
int domain_volume_measure(struct domain *d, const char *image, const char *volume, const struct domain_measure *o,
                          struct domain_measured *ret);

/*
 * The end of what prepare has begun: nobody has the volume open, or what lies below it in its image; where volumes
 * have to be activated, those of the image are no longer active. -EAGAIN: somebody has one open; the text names
 * him.
 */
int domain_volume_teardown(struct domain *d, const char *image, const char *volume);

struct domain_volume_update {
    const char *description; /* or NULL: as it is */
    const char *disk_type;   /* or NULL */
    int         legality;    /* an enum domain_legality, or -1 */
    int         role;        /* DOMAIN_SHARED: a leaf without parent becomes a template; or -1 */
    int         generation;  /* that it has to have, or -1; it is one more afterwards */
    int64_t     sequence;    /* or -1 */
};

int domain_volume_update(struct domain *d, const char *image, const char *volume,
                         const struct domain_volume_update *o);

/*
 * See that a volume can be used: it and all below it are there and LEGAL, and say the same as their metadata; a
 * capacity that is less than the volume's size is mended. Then each path, from the volume down.
 */
int domain_volume_prepare(struct domain *d, const char *image, const char *volume,
                          void (*fn)(void *arg, const struct domain_volume *volume, const char *path), void *arg);

struct domain_stream {
    int                         fd;       /* that bytes come from, or go to; or, by a copy: */
    vdisk                      *source;   /* upload: what is open; */
    const struct domain_target *target;   /* download */
    const char                 *digest;   /* upload: SHA-256 that they have to have, as text; or NULL */
    vdisk_progress_fn          *progress; /* download; or NULL */
    void                       *progress_arg;
    char                        sha256[65]; /* that they had, when all is done; of a copy without `digest`: "" */
    uint64_t                    bytes;
};

/*
 * A volume whose file is what comes from `s->fd`, to its end, or all that `s->source` reads, which was opened as
 * raw: an image of anybody's, which is looked at before it counts. It has to have the format, the size and the
 * parent (by its name in the header) that `o` promises, no external data file, and metadata that is sound.
 * Otherwise -EBADMSG, and there is no such volume.
 */
int domain_volume_upload(struct domain *d, const char *image, const struct domain_volume_create *o,
                         struct domain_stream *s, struct domain_volume_result *ret);

/*
 * The file of a volume, as it is, to `s->fd`, or `s->target`. What it lies on does not come with it.
 * -EAGAIN: somebody writes to it.
 */
int domain_volume_download(struct domain *d, const char *image, const char *volume, struct domain_stream *s);

/* The path of a volume's data. The caller's, to be freed. */
int domain_volume_path(struct domain *d, const char *image, const char *volume, char **ret);

/* ---- check -------------------------------------------------------------------------------------------- */

struct domain_check {
    bool             repair;
    vdisk_report_fn *report; /* one line each, and where it is */
    void            *report_arg;
};

struct domain_check_result {
    size_t images, volumes;
    size_t faults;  /* found, */
    size_t mended;  /* and of these mended */
    size_t skipped; /* images that somebody works on */
};

int domain_check(struct domain *d, const struct domain_check *o, struct domain_check_result *ret);

/* ---- for tests ----------------------------------------------------------------------------------------- */

/* Called at each named step of an operation. NULL: nobody, as at first. */
void domain_set_step_hook(void (*fn)(const char *name));

#endif
