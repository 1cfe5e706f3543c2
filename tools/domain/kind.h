/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The contract of a kind of domain: where metadata and volumes lie, and how they are changed, one change a call.
 * What the changes mean, and in which order they come, is in the operations. And what these share.
 *
 * A volume is one of: made (it has metadata), or unpublished: half-made, or going. Of an unpublished one there is
 * an intent, so that it is known that it is nobody's: who finds it, with the image locked, purges it. A made one
 * with an intent is being merged into its parent, which is no longer what it was; it goes when that has ended.
 * Data without either is left alone.
 *
 * All calls: 0 or -errno with text. Names have been judged. Changes of one image come to the disk in their order;
 * they are durable after sync(), those of an image's name at once.
 */
#ifndef TOOLS_DOMAIN_KIND_H
#define TOOLS_DOMAIN_KIND_H

#include "tools/domain/text.h"

struct dom_entry {
    char     volume[DOMAIN_UUID];
    bool     meta, draft, intent, data, lease; /* draft: of metadata that was being changed */
    bool     wipe; /* an intent that says that the data is to be wiped before it goes */
    bool     odd;                              /* something of that is no regular file */
    unsigned links; /* of the data */
    uint64_t size, allocated;
};

struct dom_entries {
    struct dom_entry *list; /* sorted by volume */
    size_t            count;
    char              stranger[64]; /* one of the names that are of no volume; "": there are none */
};

struct dom_mend;

enum { DOM_LOCKS_MAX = 2 };

enum dom_lock_kind {
    DOM_LOCK_CHANGE, /* an image is changed, and nobody has one of its volumes open by name */
    DOM_LOCK_BESIDE, /* its metadata is changed: others may have its volumes open */
    DOM_LOCK_READ,   /* it stays as it is */
    DOM_LOCK_USE,    /* a volume of it is open by name */
    DOM_LOCK_ALONE,  /* the same, and none by others */
};

struct dom_lock_wish {
    const char        *image;
    enum dom_lock_kind kind;
};

enum dom_lease { DOM_LEASE_HOSTS, DOM_LEASE_OWN, DOM_LEASE_VOLUME };
struct sanlock_place;
struct lease_state;

struct dom_kind {
    const char *name;

    /* ---- the domain ---- */

    /* Adds the names of the domains of this kind in a folder; paths with these are for load(). */
    int (*list)(const char *path, struct domain_names *names);

    /* Does the path name a domain of this kind, as far as can be told at no cost? */
    bool (*is_at)(const char *path);

    /*
     * The text of the metadata of the domain at d->path; the caller's. What was looked at with the locks that are
     * held need not be looked at anew. Sets d->extent. -ENOENT: no domain of this kind is there.
     */
    int (*load)(struct domain *d, char **ret_text, size_t *ret_len);
    void (*close)(struct domain *d); /* what load() has made, if anything */
    int (*space)(struct domain *d, struct domain_space *ret);
    int (*list_images)(struct domain *d, struct domain_names *ret);

    /*
     * The domain's lock, shared, and those of images, none of them twice. *ret_lock is for unlock(). -EAGAIN:
     * somebody holds one; the text names him. Who waits holds none that another one waits for.
     */
    int (*lock)(struct domain *d, const struct dom_lock_wish *images, unsigned n, int *ret_lock);

    /* Of BESIDE make CHANGE, without waiting. */
    int (*lock_alone)(struct domain *d, int lock, const char *image);

    /* All of it: nobody works in it, or has a volume of it open by name. */
    int (*lock_domain)(struct domain *d, int *ret_lock);

    /* What was activated meanwhile, and is used by nobody else, is no longer active. */
    void (*unlock)(struct domain *d, int lock);

    /* Before version 5 is noted: what else it has is made, and the block size of direct I/O asked for. */
    int (*begin_upgrade)(struct domain *d, unsigned *ret_block_size);
    int (*write_domain)(struct domain *d, const char *text, size_t len); /* its metadata; durable */

    /*
     * Where metadata of volumes in version 5 has another place: it is written there, and the present one stays.
     * NULL: it has not. And when the domain is of version 5: what was left in the old place goes.
     */
    int (*write_next)(struct domain *d, const char *image, const char *volume, const char *text, size_t len);
    int (*end_upgrade)(struct domain *d);

    /* -EBUSY: who is not kept off by locks may use what is changed, on another host. NULL: nobody does. */
    int (*judge_change)(struct domain *d);

    /* What is known of the domain is looked for again from here on: another host may have changed it. */
    void (*look_anew)(struct domain *d);

    /* How many files of its own an upgrade has left that was killed; with `drop` they go. */
    int (*find_drafts)(struct domain *d, bool drop, unsigned *ret);

    /* What each domain has beside its images, and this one has not, is told. */
    int (*check_domain)(struct domain *d, struct dom_mend *m);

    /* ---- images: `image` may be that of a removed one, with DOMAIN_REMOVED ---- */

    /* -ENOENT: there is no such image. */
    int (*list_volumes)(struct domain *d, const char *image, struct dom_entries *ret);
    int (*make_image)(struct domain *d, const char *image); /* or it is there */
    int (*drop_image)(struct domain *d, const char *image); /* -ENOTEMPTY, without text: it has volumes */
    /* It is removed, and waits to be purged, or to be wiped before: by the name that dom_removed_name() gives. */
    int (*retire_image)(struct domain *d, const char *image, bool wipe);
    int (*purge_image)(struct domain *d, const char *removed); /* by that name */
    /* Before it is retired: will all of it go? Nothing is changed. */
    int (*judge_purge)(struct domain *d, const char *image);

    /* ---- volumes ---- */

    int (*read_meta)(struct domain *d, const char *image, const char *volume, char buf[TEXT_VOLUME_MAX + 1],
                     size_t *ret_len);
    int (*write_meta)(struct domain *d, const char *image, const char *volume, const char *text, size_t len);

    /* The same of a template, in all images that have it, last in this one. */
    int (*write_shared)(struct domain *d, const char *image, const char *volume, const char *text, size_t len);
    int (*drop_draft)(struct domain *d, const char *image, const char *volume); /* of a volume that is made */

    /* A new volume, unpublished: its metadata noted as an intent; then its data, exclusively, empty. */
    int (*set_intent)(struct domain *d, const char *image, const char *volume, const char *text, size_t len);
    int (*drop_intent)(struct domain *d, const char *image, const char *volume);
    int (*keep_wipe)(struct domain *d, const char *image, const char *volume); /* the intent is to wipe, too */
    int (*make_data)(struct domain *d, const char *image, const char *volume, uint64_t size); /* if it has one */
    int (*publish)(struct domain *d, const char *image, const char *volume);
    int (*unpublish)(struct domain *d, const char *image, const char *volume, bool wipe); /* `wipe` is kept */
    int (*purge)(struct domain *d, const char *image, const char *volume); /* data, lease, then the intent */

    int (*share)(struct domain *d, const char *image, const char *volume, const char *to_image);
    /* Its names in this image. -EBUSY: no other image has it. */
    int (*unshare)(struct domain *d, const char *image, const char *volume);

    /* How many other images have this very volume; `published`: and its metadata. */
    int (*count_shares)(struct domain *d, const char *image, const char *volume, bool published, unsigned *ret);

    /* An image, not `except`, that has something of that name; "": there is none. */
    int (*find_volume)(struct domain *d, const char *volume, const char *except, char ret_image[DOMAIN_UUID]);

    /* Where data has a fixed size, it is to be so large at least. */
    int (*make_room)(struct domain *d, const char *image, const char *volume, uint64_t bytes);

    /*
     * Where data has a fixed size, and is in use: it becomes so large, or as large as it can be; *ret is what it
     * has then. -ENOSPC: no larger than it was. NULL: it grows as it is written to.
     */
    int (*grow)(struct domain *d, const char *image, const char *volume, uint64_t bytes, uint64_t *ret);

    /* The volumes of an image, and what they lie on, can be opened by their paths, until unlock(), or longer. */
    int (*activate)(struct domain *d, const char *image);
    /* `active`: they stay so after unlock(); else they no longer do, and are put to rest by it. */
    int (*keep_active)(struct domain *d, const char *image, bool active);

    /* Space for so many bytes, without a change of what the volume is. -ENOTSUP: it cannot be had. */
    int (*reserve)(struct domain *d, const char *image, const char *volume, uint64_t bytes);

    /* What is behind so many bytes goes, and space that was set aside there. Nobody has it open. */
    int (*give_back)(struct domain *d, const char *image, const char *volume, uint64_t bytes);
    int (*measure)(struct domain *d, const char *image, const char *volume, uint64_t *ret_size,
                   uint64_t *ret_allocated);

    /* A descriptor of its data, the caller's. -EINVAL: it is no regular file. */
    int (*open_data)(struct domain *d, const char *image, const char *volume, bool write, int *ret_fd);

    /* -EAGAIN: it is known that somebody has one of them open, and there are no locks to tell. */
    int (*judge_idle)(struct domain *d, const char *const *volumes, size_t n);

    /*
     * Where leases of sanlock are: the notes on hosts, the domain's own, a volume's (image and volume may be NULL
     * else; -ENOENT, without text: it has no place for one). They can be opened by who takes leases. And what is
     * noted of a host, by its number: -ENOENT, without text: there is no such note, nor place for one; whatever
     * else keeps it from being read is an error of its own.
     */
    int (*find_lease)(struct domain *d, enum dom_lease which, const char *image, const char *volume,
                      struct sanlock_place *ret);
    int (*make_lease)(struct domain *d, const char *image, const char *volume); /* room for one; or it is there */
    int (*open_leases)(struct domain *d, bool open); /* from now on the daemon can open them; or no longer */
    int (*read_host)(struct domain *d, unsigned host, unsigned char ret[TEXT_HOST_SIZE]);

    /* What has been changed in the image is durable. */
    int (*sync)(struct domain *d, const char *image);

    /* What the kind notes of an image besides, and may be wrong. The image is locked. */
    int (*check)(struct domain *d, const char *image, struct dom_mend *m);

    /* malloc'ed; NULL: out of memory. */
    char *(*data_path)(const struct domain *d, const char *image, const char *volume);
};

extern const struct dom_kind dom_kind_file, dom_kind_block;

struct domain {
    const struct dom_kind *kind;
    void                  *state;  /* the kind's own */
    struct lease_state    *leases; /* NULL: none are held */
    char                  *path;
    uint64_t               extent; /* data has a fixed size, in units of it; 0: it grows as it is written to */
    char                   uuid[DOMAIN_UUID];
    unsigned               version;
    struct text_domain     md;
    struct domain_how      how;
    pid_t                  process; /* that has opened it: what it has locked is that one's */
};

/* ---- uses ------------------------------------------------------------------------------------------------ */

/* How a thin volume grows; 0: as by default. */
struct domain_growing {
    uint64_t chunk, least_free;
    uint32_t ahead_ms;
};

/* A volume that is open by its name. */
struct domain_use {
    struct domain        *domain;
    int                   lock;
    char                  image[DOMAIN_UUID], volume[DOMAIN_UUID];
    bool                  grows;   /* its data, by the kind's grow() */
    bool                  read_only;
    struct domain_growing growing; /* by its name */
    struct domain_grow    grow;    /* who is told */
    int                   told;    /* why it could not grow, when it was told last */
};

/* What follows the first comma of a name's last part is taken off it. -EINVAL. */
int dom_take_growing(char *name, struct domain_growing *ret);

/* ---- errors, notes, steps ------------------------------------------------------------------------------ */

#define DOM_S(n) ((n) == 1 ? "" : "s") /* of so many */

/* -|err|, with the text; `hint` may be NULL. */
int dom_fail(int err, const char *hint, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same of a call of the system, about a file. */
int dom_fail_file(int err, const char *path, const char *doing);

/* An error is kept while calls are made that clean up. */
struct dom_error {
    int  rc;
    char text[1024], hint[256];
};

void dom_error_keep(struct dom_error *e, int rc);

/* What the text says of what is left at the path, which has gone since. */
void dom_error_forget(struct dom_error *e, const char *path);

/* Of an open for writing by us: who has named a domain does not say how its files are opened. */
int dom_explain_open(int rc);
int dom_error_give(const struct dom_error *e);

/* Of a contract's calls those for which a kind has nothing to do. */
int dom_nothing_of_image(struct domain *d, const char *image);
int dom_nothing_of_volume(struct domain *d, const char *image, const char *volume);

void dom_sort_entries(struct dom_entries *entries);

/* Run, and free. Its result, with its text. */
int dom_run_job(const struct domain *d, vdisk_job *job);

void dom_note(const struct domain *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What has been done so far has this name. */
void dom_step(const char *name);

/* -EINVAL with a text, unless it is a UUID. `what`: "image". */
int dom_check_uuid(const char *what, const char *text);

/* ---- metadata of volumes -------------------------------------------------------------------------------- */

/* As it is to be written, and can be read. */
int dom_format_meta(const struct domain *d, const struct domain_meta *meta, char buf[TEXT_VOLUME_MAX + 1],
                    size_t *ret_len);

/* -EINVAL: volumes of a domain of this version have no sequence number. */
int dom_judge_sequence(const struct domain *d);

/* Change what is on disk and, when that has been done, `v`. */
int dom_write_meta(struct domain *d, const char *image, struct domain_volume *v, const struct domain_meta *meta);
int dom_set_role(struct domain *d, const char *image, struct domain_volume *v, enum domain_role role);

/* ---- sessions ------------------------------------------------------------------------------------------- */

/* What all kinds of domain have in their metadata when they are new. */
struct dom_pairs {
    const char *type, *uuid, *description;
    unsigned    version, block_size;
};

int dom_fill_pairs(struct text_domain *md, const struct dom_pairs *p);

/* With a lock: the domain still is of the version that it had when it was opened. -ESTALE: it was upgraded. */
int dom_check_version(struct domain *d);

/* A locked image, in which what was left by one who was killed has been ended or undone. */
struct dom_session {
    struct domain       *domain;
    struct domain_image *image; /* NULL: there is none yet */
    int                  lock;
    bool                 alone; /* nobody has a volume of it open by name; else nothing has been mended */
};

struct dom_want {
    const char *image;
    const char *shared_image; /* another one that is to stay as it is meanwhile, or NULL */
    bool        may_lack;     /* there need not be such an image */
    bool        beside;       /* others may have its volumes open: what these hold is not changed */
    bool        dry_run;      /* change nothing: what would be mended is only told */
    bool        wipe;         /* what is half-made, or was being removed, is wiped before it goes */
    int         lock;         /* that was taken before, and is given back by dom_end(), and on failure; -1 */
};

/* Lock and mend. -ENOENT: there is no such image. */
int dom_begin(struct domain *d, const struct dom_want *want, struct dom_session *ret);
void dom_end(struct dom_session *s);

/* A volume of it whose metadata can be read; "" is the leaf. NULL: an error, in *ret_rc. */
struct domain_volume *dom_session_volume(const struct dom_session *s, const char *volume, int *ret_rc);

/* Its metadata leads from parent to parent back to where it was: then it lies on nothing here. */
bool dom_is_circular(const struct domain_image *image, const struct domain_volume *v);

/* Its metadata says that it is of another image, or domain, and it is no template. -EBADMSG. */
int dom_judge_place(const struct domain *d, const struct domain_image *image, const struct domain_volume *v);

/* It is shared from another image. */
bool dom_is_foreign(const struct domain_image *image, const struct domain_volume *v);

/* ---- mending (mend.c) ----------------------------------------------------------------------------------- */

typedef void dom_finding_fn(void *arg, enum vdisk_finding kind, const char *text);

struct dom_mend {
    bool            repair;
    bool            wipe; /* what is unpublished, before it goes; else what says so itself */
    dom_finding_fn *tell; /* of each fault, and of what was done */
    void           *arg;
    size_t          faults, mended;
};

/* What an operation that was killed has left in a locked image. *image is loaded anew when something changes. */
int dom_mend(struct domain *d, struct domain_image **image, struct dom_mend *m);

/* An image without volumes of its own goes. */
int dom_mend_empty(struct domain *d, const struct domain_image *image, struct dom_mend *m, bool *ret_gone);

/* A published volume whose data is in its parent, or on its way there. */
bool dom_is_merged(const struct domain_volume *v);

/* Another one has come into its place: it goes. */
bool dom_is_replaced(const struct domain_volume *v);

void dom_tell(struct dom_mend *m, enum vdisk_finding kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- what goes ------------------------------------------------------------------------------------------- */

enum { DOM_REMOVED_NAME = 64 };

/* That of a removed image, which waits to be purged, or to be wiped and purged. Returns `buf`. */
const char *dom_removed_name(char buf[DOM_REMOVED_NAME], const char *image, bool wipe);

/* The UUID in it; NULL: it is no such name. ret_wipe may be NULL. */
const char *dom_removed_uuid(const char *name, bool *ret_wipe);

struct dom_clear {
    bool               wipe, discard;
    uint64_t           rate; /* bytes a second; 0: as many as there can be */
    vdisk_progress_fn *progress;
    void              *progress_arg;
    uint64_t           total, done;       /* for the progress: of all volumes, in turn */
    uint64_t           wiped, discarded;  /* bytes, in the end */
};

/* Before dom_clear(), for each volume that will be. */
void dom_clear_add(struct dom_clear *c, const struct domain_volume *v);

/* Of a volume that is not published, or in a removed image: by that one's name. */
int dom_clear(struct domain *d, const char *image, const struct domain_volume *v, struct dom_clear *c);

/* A removed image: its volumes are cleared, then it goes. */
int dom_purge_removed(struct domain *d, const char *removed, struct dom_clear *c);

/* ---- the volume's own header ---------------------------------------------------------------------------- */

struct dom_header {
    uint64_t virtual_size;
    bool     corrupt, dirty;
    bool     data_file;    /* what it holds is in another file */
    bool     snapshots;    /* within it */
    bool     extended_l2;  /* and so on: of a qcow2 volume */
    uint32_t cluster_size, refcount_bits, version;
    char     backing[256]; /* as stored; "": none */
    char     backing_format[32];
};

/* By the format that the metadata says; follows no name. */
int dom_read_header(struct domain *d, const char *image, const struct domain_volume *v, struct dom_header *ret);

/*
 * Do the headers of a volume, and of all below it, say the same as their metadata? So no name is followed that the
 * domain does not know, and nothing that a guest wrote is taken for a header. And are those below LEGAL?
 * -EBADMSG, -ENOENT, -EACCES.
 */
int dom_check_chain(struct domain *d, const char *image, const struct domain_volume *v);

/* What the volumes of an image say of each other, in metadata and in their headers. */
struct dom_look {
    const struct domain_image *image;
    struct dom_looked {
        char backing[256]; /* of the header; "": it names none, or cannot be read */
        char trouble[160]; /* why it is not known what the volume lies on; "": it is */
    } *list;               /* by the index of the image's list */
};

/* Opens each volume. *ret is the caller's, for dom_look_free(). */
int dom_look(struct domain *d, const struct domain_image *image, struct dom_look *ret);
void dom_look_free(struct dom_look *l);

/*
 * A volume, not `except`, that lies on this one by its metadata or its header; NULL: none of which that is known.
 */
const struct domain_volume *dom_named_by(const struct dom_look *l, const struct domain_volume *v,
                                         const struct domain_volume *except);

/* Does the header of `child` name `parent`? */
bool dom_header_names(const struct dom_look *l, const struct domain_volume *child,
                      const struct domain_volume *parent);

/* Why it is not known what one of the others lies on; NULL: it is known of all. */
const char *dom_look_trouble(const struct dom_look *l, const struct domain_volume *v);

/*
 * Before what a volume holds, or is, is changed: nothing but `child` (or NULL) lies on it, by metadata and by
 * headers, and it is known of all what they lie on. `doing`: "deleted". -EBUSY, -EBADMSG.
 */
int dom_judge_top(const struct dom_session *s, const struct domain_volume *v, const struct domain_volume *child,
                  const char *doing);

/* The same of an image that is loaded. */
int dom_judge_top_of(struct domain *d, const struct domain_image *image, const struct domain_volume *v,
                     const struct domain_volume *child, const char *doing);

/*
 * Another image has the same data, by the same name, and it is no template: it gets no child. With `write`:
 * whatever the other name is, and wherever, it is not written to. -EBUSY.
 */
int dom_judge_double(struct domain *d, const char *image, const struct domain_volume *v, bool write);

/* Was it opened by the process that this one was forked from? Then what it has locked is left alone: -ECHILD. */
bool dom_is_of_parent(const struct domain *d);
int dom_check_process(const struct domain *d);

/* A pause before an attempt to get a lock is made again; *ms is 0 at first. false: there have been enough. */
bool dom_pause(const struct domain *d, unsigned *ms);

/* Nobody writes a volume, or nobody else has it open. For dom_claims_end(). */
struct dom_claims {
    vdisk **list;
    size_t  count;
};

/*
 * Adds one that nobody writes to meanwhile; or several volumes of an image, that nobody else has open. -EAGAIN:
 * the text names who has it. Waits if the domain is to.
 */
int dom_claim(struct domain *d, const char *image, const struct domain_volume *v, struct dom_claims *claims);
int dom_claim_alone(struct domain *d, const char *image, const struct domain_volume *const *list, size_t n,
                    struct dom_claims *claims);
void dom_claims_end(struct dom_claims *claims);

/*
 * The capacity in the metadata of a volume is to be the size that it has: what is less is mended, with `change`,
 * and in `v` in any case; what is more is an error.
 */
int dom_match_capacity(struct domain *d, const char *image, struct domain_volume *v, bool change);

/* domain_volume_create(), with a lock for CHANGE on the image that was taken before, or -1. It is given back. */
int dom_create_volume(struct domain *d, const char *image, const struct domain_volume_create *o, int lock,
                      struct domain_volume_result *ret);

#define DOM_CHUNK (UINT64_C(2560) << 20) /* that a sparse volume in a group begins with, or has free */

/*
 * What a qcow2 copy of a volume, or of its `layer` alone, is to have in `to`, where data has a fixed size. `leaf`:
 * it is going to be written to.
 */
int dom_measure_room(struct domain *from, const char *image, const struct domain_volume *v, bool layer,
                     struct domain *to, bool leaf, uint64_t *ret);

/* The same of what is open. */
int dom_measure_open(struct domain *to, vdisk *source, bool leaf, uint64_t *ret);

/* A volume that is not published with this: its metadata, and what fills it. */
struct dom_unpublished {
    const char               *uuid;
    const struct domain_meta *meta;
    enum domain_format        of_parent; /* that of the parent that `meta` names, whose data is there */
    domain_fill_fn           *fill;
    void                     *fill_arg;
    uint64_t                  room; /* of dom_measure_room(); 0: not known, and it is given all that it can take */
};

/* In a locked image whose folder is there. Failed: it is not there. */
int dom_make_unpublished(struct domain *d, const char *image, const struct dom_unpublished *u,
                         struct domain_volume_result *ret);

/*
 * For a copy: one image as it is, in `d`, another one for a change, in `to`, and with that, unless it is NULL, a
 * template that stays as it is. The order is the same for all who copy.
 */
int dom_lock_copy(struct domain *d, const char *image, struct domain *to, const char *to_image,
                  const char *to_template, int *ret_lock, int *ret_to);

/* What is copied can be read, and used. `v` may be NULL: `volume` is not there. */
int dom_judge_copied(struct domain *d, const struct domain_image *image, const struct domain_volume *v,
                     const char *volume);

/* The same of a volume, or of the leaf (""), which is claimed for it; dom_claims_end() is due in any case. */
int dom_claim_copied(struct domain *d, const struct domain_image *image, const char *volume,
                     struct dom_claims *claims, struct domain_volume **ret);

/* One open volume to the start of another, by a job of the library's. */
int dom_copy(struct domain *d, vdisk *source, vdisk *target, const struct vdisk_copy_opts *opts);

/*
 * The same as a whole: what the target has behind its end becomes zeros. It reads as what lies below both, with
 * `layer`; or as zeros, with `zero`; or as anything, as a device does.
 */
int dom_copy_open(struct domain *d, vdisk *source, vdisk *target, bool layer, bool zero,
                  const struct domain_copy *o);

/* And into another one that is new, at `n`. `layer`: but what lies below both. */
int dom_run_copy(struct domain *d, vdisk *source, const struct domain_new *n, bool layer,
                 const struct domain_copy *o);

/* All that `source` has becomes the data of a new volume, whose device has room for it. */
int dom_stream_in(struct domain *d, const struct domain_new *n, vdisk *source, vdisk_progress_fn *progress,
                  void *progress_arg);

/* The data of a volume, up to `end` (0: all), to the target of `s`. */
int dom_stream_out(struct domain *d, const char *image, const struct domain_volume *v, uint64_t end,
                   struct domain_stream *s);

/* The path of a volume's data, which can be opened. The caller's. */
int dom_data_path(struct domain *d, const char *image, const char *volume, char **ret);

/* Open a volume's data, with all that it lies on. `flags`: of enum vdisk_open_flags. */
int dom_open_data(struct domain *d, const char *image, const struct domain_volume *v, uint32_t flags, vdisk **ret);

/* Have the data `size` bytes, or more if it has: preallocated as its metadata says. */
int dom_grow_data(struct domain *d, const char *image, const struct domain_volume *v, uint64_t size,
                  vdisk_progress_fn *progress, void *progress_arg);

/*
 * What a volume takes when all of it has been written, with this capacity (0: its own): by its own header. With
 * snapshots within it what it has now comes besides.
 */
int dom_measure_full(struct domain *d, const char *image, const struct domain_volume *v, uint64_t capacity,
                     uint64_t *ret);

/* What a header of a volume with this parent names; "" for none. */
const char *dom_backing_of(const struct domain_meta *meta);

#endif
