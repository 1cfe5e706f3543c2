/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One run of the check, shared by qcow2/check*.c. */
#ifndef QCOW2_CHECK_INTERNAL_H
#define QCOW2_CHECK_INTERNAL_H

#include "engine/base/bits.h"
#include "engine/loop/status.h"
#include "qcow2/check/check.h"
#include "qcow2/check/check_refs.h"
#include "qcow2/check/spans.h"
#include "qcow2/format/format.h"

/*
 * Of so many clusters behind the end of the file, and a 16th of those in it, is it known which are claimed; unless
 * it is done more often than CHECK_PAST_MOST, so that no image takes for ever.
 */
enum { CHECK_PAST_MIN = 1 << 20, CHECK_PAST_MOST = 1 << 26 };

_Static_assert(CHECK_PAST_MIN <= CHECK_PAST_MOST, "of the least window all can be known");
_Static_assert(QCOW2_FIXED < 32, "kinds of findings are bits of qcow2_check_opts.kinds");

struct check {
    struct backend            *file;
    vdisk_queue               *queue;
    struct qcow2_check_opts    opts;
    struct qcow2_check_result  res;
    struct q2_header           header;
    uint64_t                   file_size;
    uint64_t                   file_clusters;
    struct q2_budget           budget;
    struct q2_refs             refs;        /* file_clusters + 1: compressed data may end past the end */
    struct q2_l2_set           l2;
    uint64_t                  *reftable;    /* host order */
    uint64_t                   reftable_entries; /* up to the last that is not 0 */
    uint64_t                 **sole;        /* by refcount block: which of its refcounts are one; NULL: none */
    uint64_t                   sole_count;  /* blocks for clusters inside the file */
    struct q2_refs             said_shared; /* counting: active entries say so, and the refcount is not one */
    bool                       said_more;   /* but there was no memory for all */
    uint64_t                   snapshots_len; /* of their table, where it can be read; else 0 */
    uint64_t                   table_bytes; /* L1 and bitmap tables may still have: together they fit in a file */
    bool                       counting;    /* references only: what the refcounts say is of no interest */
    bool                       blind;       /* a table was not read: what it refers to must not count as leaked */
    bool                       lost;        /* an entry does not say where its cluster is: it may be one that seems
                                             * to be leaked */
    uint64_t                   past_from;   /* what reaches past the end of the file begins here: from this
                                             * cluster to the end all are claimed; file_clusters: none */
    struct q2_refs             past;        /* clusters that are claimed, from the end of the file on */
    uint64_t                   past_noted;
    bool                       past_unknown; /* too many: any may be */
    bool                       untrusted;   /* the refcount structure itself is damaged: not to be written to */
    bool                       several;     /* some cluster has several owners, and should have one */
    struct q2_refs             met;         /* for check_part.c */
    uint64_t                   to_part;     /* entries that check_part.c has counted */
    uint64_t                   parted;      /* clusters that check_part.c has put behind the end of the file */
    uint64_t                   tail_leaks;  /* clusters past the end of the file that have refcounts for nothing */
    uint64_t                   flag_faults; /* corruptions that are nothing but wrong COPIED flags */
    bool                       maybe_v3;    /* says version 2, but has fields of version 3 */
    bool                       raise, lower; /* refcounts: for check_fix.c */
    bool                       fixed;       /* something was written */
    struct q2_spans            freed;       /* what check_fix.c has lowered to 0 */
    uint64_t                   changes;     /* entries of L1 and L2 tables */
    uint64_t                   reported;
    uint64_t                   progress_done, progress_total;
    uint64_t                   zero_tables; /* tables read that were nothing but zeros */
    struct block_status        known; /* where the file has holes, in part */
};

/* ---- check_claims.c --------------------------------------------------------------------------------- */

/* Count `n` findings of a kind and report one line. */
void check_found(struct check *c, enum qcow2_finding kind, uint64_t n, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* One line about those findings that were not reported, if there are any. */
void check_report_rest(struct check *c);

/*
 * Count `n` references to each cluster that the range touches. A range past the end of the file is a corruption
 * and counts nothing. 0 or -ENOMEM.
 */
int check_claim(struct check *c, uint64_t host_offset, uint64_t len, enum q2_use use, uint64_t n);

/* A table of `len` bytes that no other can share is to be read: false, and a finding, when they are too many. */
bool check_table_bytes(struct check *c, uint64_t len, const char *what);

/*
 * Does a damaged entry point to this cluster, past the end of the file, or before it and reach past it? Then
 * nothing may be put there: the entry would show it. Also true when there are too many such entries to tell.
 */
bool check_claimed_past_end(const struct check *c, uint64_t cluster);

/* Of so many clusters behind the end that is known; all others count as claimed. */
uint64_t check_past_window(const struct check *c);

/* ---- check.c --------------------------------------------------------------------------------------- */

/* Begin with the header of `file`: errors as qcow2_check(). In any case check_finish() afterwards. */
int  check_begin(struct check *c, struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts);
void check_finish(struct check *c);

/* All of the check, after check_begin(). */
int check_run(struct check *c);

/* sound.c: do refcounts of so many bits do for what was counted? 0, or -EINVAL with a text. */
int check_width(const struct check *c, uint32_t refcount_bits);

/* Count what header, L1 tables, snapshots, bitmaps and L2 tables refer to. */
int check_count(struct check *c);

/* ---- check_io.c ------------------------------------------------------------------------------------ */

/* Memory for reading; free(). */
void *check_buffer(struct check *c, uint64_t len);

/* Read, skipping holes when there are many of them. */
int check_read(struct check *c, void *buf, uint64_t len, uint64_t host_offset);

/* Clusters to be read, several at a time, and taken in order. */
struct check_reads {
    uint64_t   count;
    /* Where cluster `i` is; 0: not to be read. */
    uint64_t (*offset)(struct check *c, uint64_t i);
    /* `buf` is NULL when it was not read; rc: of the read. Non-zero ends it all. */
    int      (*take)(struct check *c, uint64_t i, uint8_t *buf, int rc);
};

int check_read_clusters(struct check *c, const struct check_reads *reads);

/* `n` steps, each of a cluster, are done. 0, or -ECANCELED. */
int check_progress(struct check *c, uint64_t n);

/* ---- check_tables.c, check_roots.c, check_refcounts.c ------------------------------------------------ */

/* All return 0, whatever they find, or a negative errno that ends the check. */
int check_l1(struct check *c, uint64_t host_offset, uint32_t entries, bool active, const char *what);
int check_l2_tables(struct check *c);
int check_snapshots(struct check *c);
int check_bitmaps(struct check *c);

struct q2_snapshot_table;

/* Read and parse a table of as many snapshots as the header says. -ENODATA: reaches past the end of the file. */
int check_load_snapshots(struct check *c, uint64_t host_offset, struct q2_snapshot_table *ret);
int check_load_refcounts(struct check *c);
void check_forget_refcounts(struct check *c);
int check_refcount_tables(struct check *c);
int check_compare(struct check *c);

/* References found to any cluster, also to those past the end of the file. */
uint64_t check_refs_count(const struct check *c, uint64_t cluster);

/* Is all else sound, so that refcounts past the end of the file can be lowered? */
bool check_tail_known(const struct check *c);

/* Is the refcount on disk exactly one? *ret_known is false when it cannot be read. */
bool check_sole(const struct check *c, uint64_t cluster, bool *ret_known);

/* Counting: an active entry says that others share this cluster. */
void check_note_shared(struct check *c, uint64_t cluster);

/* ---- check_fix.c: after check_run(); what they write rests on what it counted ---------------------------- */

/* The guest offset of entry `index` of an L2 table that it has met. */
uint64_t check_guest_offset(const struct check *c, const struct q2_l2_table *table, uint64_t index);

/* These return 1 when something was written, 0 when there is nothing to do, or a negative errno with a text. */
int check_fix_entries(struct check *c);
int check_part_owners(struct check *c); /* check_part.c */
int check_part_bounded(struct check *c); /* 0, or -EFBIG with a text: it would become too long by that */
int check_fix_refcounts(struct check *c, bool raise, bool lower);
int check_fix_flags(struct check *c);

/* Of the L2 tables that were found: check_reads.offset. */
static inline uint64_t check_l2_offset(struct check *c, uint64_t i)
{
    assert(i < c->l2.count);
    return c->l2.tables[i].host_offset;
}

/* Where the refcount of a cluster can be written: false, when there is no block for it. */
bool check_find_block(const struct check *c, uint64_t cluster, uint64_t *ret_offset);

/* `buf` is one cluster, for the block. */
int check_set_refcount(struct check *c, uint64_t cluster, uint64_t block_offset, uint64_t refcount, uint8_t *buf);

/* Entries of the L1 table that lead to that table, or to the header: they are cleared. As check_fix_entries(). */
int check_drop_entries(struct check *c);

/* Does anything lead there at all? After check_run(). */
bool check_leads_to_itself(const struct check *c);

/* ---- check_snapshots.c ------------------------------------------------------------------------------- */

/* What the header is to say. */
struct check_snapshots_at {
    uint64_t host_offset;
    uint32_t n;
    uint32_t wanted;   /* clusters that there was no place for; 0: there was */
    bool     given_up; /* some, that may have been damaged by little: what they had is not to be freed yet */
};

/* 1: the header is to be changed, to what is durable already. As check_fix_entries(). */
int check_mend_snapshots(struct check *c, struct check_snapshots_at *ret);

/* ---- check_snapshot_l1.c ----------------------------------------------------------------------------- */

/* Why the L1 table of a snapshot cannot be there, in words: "its L1 table is ..."; NULL: it can. */
const char *check_misplaced_l1(const struct check *c, uint64_t host_offset, uint64_t entries);

/* 1: what is there is no L1 table, for sure. After check_run(), of one that is not misplaced. -ENOMEM. */
int check_nonsense_l1(struct check *c, uint64_t host_offset, uint64_t entries);

/* ---- check_geometry.c --------------------------------------------------------------------------------- */

/* 0, or a negative errno with a text: by a wrong cluster size nothing is to be repaired. After check_run(). */
int check_geometry(struct check *c);

/* ---- check_freed.c ----------------------------------------------------------------------------------- */

/* They are free, and that is durable: punch them. What fails is a note. Empties *s. */
void check_give_back(struct check *c, struct q2_spans *s);

#endif
