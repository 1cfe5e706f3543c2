/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fail every call once: a scenario is run against a prepared volume with the first call of the backend failing,
 * then with the second, and so on until a run needs no more calls; the same with calls for memory. After each run
 * the image checks clean (leaks allowed), nothing that was flushed is lost, no memory is, and the volume works on
 * or says why it does not.
 */
#ifndef TESTS_FAULT_FAULT_LIB_H
#define TESTS_FAULT_FAULT_LIB_H

#include "backends/lab/fault.h"
#include "tests/lib/image.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/model.h"

/* The files of a subject: in the scenarios' simulation "sim:base", "sim:below" and "sim:top.data" have names. */
enum subject_file { SUBJECT_TOP, SUBJECT_BASE, SUBJECT_BELOW, SUBJECT_DATA, SUBJECT_FILES };

struct subject {
    struct image_spec spec;
    struct memdisk disk, base, below, data; /* but the first: where the spec has such; below a base of qcow2 */
    enum subject_file target;        /* whose calls fail */
    struct backend *faults[SUBJECT_FILES]; /* while it is open; [0] is `fault` */
    struct model now;      /* what it must read as */
    struct model flushed;  /* what it read as at the last successful flush */
    struct backend *fault; /* of the volume that is open */
    vdisk *v;
    struct fault_rule rule; /* what is to fail */
    int rule_number;        /* of the target's; a scenario may have rules of its own */
    const struct fault_mode *mode;
    bool armed;
    uint64_t maybe_size;   /* the image may have this size: a resize to it failed; 0: none did */
    uint64_t cache_bytes;  /* as it is opened */
};

/* The call that fails: all but nth is set by the caller. */
struct fault_mode {
    const char *name;
    enum fault_what what;
    int error;
    bool oom, forever; /* not the backend: memory runs out, once or for good */
    bool sparse; /* of many calls each second one: another mode fails all, so that each state has failed */
};
extern const struct fault_mode fault_modes[];
enum { FAULT_MODES = 8, FAULT_MODE_OOM = 6, FAULT_MODE_OOM_FOREVER };

/* From call `nth` to the next that fails, where there are many and each is to: a sparse mode leaves some out. */
unsigned mode_stride(const struct fault_mode *mode, unsigned nth);

/* From here on the rule's nth call fails, or the nth call for memory; the rule's number. Over: true if it did. */
int mode_arm(const struct fault_mode *m, struct backend *fault, const struct fault_rule *rule);
bool mode_disarm(struct backend *fault);

/* An image by `spec` on memory with a cluster-mixed content in its first half, closed. */
void subject_init(struct subject *s, const struct image_spec *spec);
/* The same on a device of so many bytes, 0: on what grows, and of an alignment. */
void subject_init_on(struct subject *s, const struct image_spec *spec, uint64_t device, uint32_t align);
void subject_copy(struct subject *to, struct subject *from);
void subject_finish(struct subject *s);

/* Open over a fault backend. 0 or -errno. `armed`: with the rule already on. */
int subject_open(struct subject *s, uint32_t flags, bool armed);
void subject_arm(struct subject *s);

/* Requests that keep the models; 0 or -errno. A failure must leave a text. */
int subject_write(struct subject *s, unsigned pattern, uint64_t offset, uint64_t len, uint32_t flags);
int subject_read(struct subject *s, uint64_t offset, uint64_t len);
int subject_zero(struct subject *s, uint64_t offset, uint64_t len, uint32_t flags);
int subject_discard(struct subject *s, uint64_t offset, uint64_t len);
int subject_flush(struct subject *s);
int subject_grow(struct subject *s, uint64_t size);
int subject_resize(struct subject *s, uint64_t size, enum vdisk_prealloc preallocation); /* or smaller */
int subject_close(struct subject *s);

/* The image on its memory is sound: by our check, and now and then by QEMU's. */
void subject_check_image(struct subject *s, bool by_qemu);

/* Reopen without faults: nothing that was flushed is lost. */
void subject_check_content(struct subject *s);

struct scenario {
    const char *name;
    struct image_spec spec;
    void (*prepare)(struct subject *); /* on the open volume, before the fault; may be NULL */
    int (*act)(struct subject *);      /* what may fail */
    bool cold;                         /* closed and opened again in between: nothing is cached */
    bool opens;                        /* act opens by itself */
    bool closes;                       /* act closes */
    bool no_data;                      /* moves no data, or too little to come short */
    void (*damage)(struct subject *);  /* to the image before it is opened; may be NULL */
    void (*make)(struct subject *);    /* once, when the image has its content and is closed; may be NULL */
    enum subject_file target;          /* whose calls fail */
    uint64_t device;                   /* bytes of storage that cannot grow; 0: it can */
    uint32_t align;                    /* of the storage; 0: 512 */
    uint64_t cache_bytes;              /* for metadata, as it is opened */
    unsigned stride;                   /* of many calls only every so manyth fails; 0: each does */
};

/* All runs of one scenario in one mode. */
void scenario_run(const struct scenario *sc, const struct fault_mode *mode);

/* main() of a program that runs `n` scenarios in every mode, where these commands (NULL last) are installed. */
int scenario_main(int argc, char **argv, const struct scenario *scenarios, unsigned n,
                  const char *const requires[]);

#endif
