/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules broken on purpose, one at a time, to show that the tests notice: the crash tests (tests/crash/), or one of
 * their own. Only where the build was configured with -Dmutants=true; else MUTANT() is false and nothing is left.
 */
#ifndef QCOW2_MUTANT_H
#define QCOW2_MUTANT_H

#include <stdbool.h>

/* Name, and what it does wrong. */
#define Q2_MUTANTS(X)                                                                                          \
    X(SKIP_REFCOUNT_SYNC, "no sync between refcount blocks and the table that points to them: rule 3")        \
    X(SKIP_DATA_SYNC, "no sync before the mapping is written: rules 1, 2, 4, 9")                              \
    X(SKIP_MAPPING_SYNC, "no sync after the mapping was written")                                             \
    X(MAPPING_FIRST, "L2 and L1 before the refcounts: rule 1")                                                \
    X(BLOCKS_UNSYNCED, "no sync between refcount blocks that were written whole and the table: rule 3")       \
    X(REFTABLE_FIRST, "the refcount table before its blocks: rule 3")                                         \
    X(FORGET_DATA, "not noted that a mapping shows data: rule 2")                                             \
    X(FORGET_END, "the file ends wherever writes have moved it: rule 9")                                      \
    X(FORGET_DATA_FILE, "the external data file is not synced: rule 2")                                       \
    X(COPY_LATE, "the mapping is copied again after the sync: rule 6")                                        \
    X(FREE_BEFORE_SYNC, "the freeing of a cluster counts as durable at once: rule 5")                            \
    X(LOWER_AT_ONCE, "refcounts fall when the mapping changes in memory: rule 5")                             \
    X(FLUSH_JOINED, "a flush that comes while one runs ends with that one: rule 6")                           \
    X(DROP_HEAD, "the bytes in front of a write to a new cluster are not copied")                             \
    X(DROP_TAIL, "the bytes behind a write to a new cluster are not copied")                                  \
    X(LINK_EARLY, "the mapping appears before its data is written: rule 7")                                   \
    X(FORGET_LEASE, "a lease without refcounts: rule 1")                                                      \
    X(ASSUME_ZERO, "clusters that were in use before count as zeros")                                         \
    X(L2_NOT_ZEROED, "a new L2 table keeps what its cluster had: rule 4")                                     \
    X(GROW_UNFLUSHED, "the header points at a longer L1 table that is not durable")                           \
    X(REFTABLE_UNSYNCED, "the header points at a longer refcount table that is not durable: rule 3")          \
    X(CREATE_UNFLUSHED, "the header of a new image before what it points to")                                 \
    X(ASSUME_DURABLE, "a durable write over a mapping that is not durable makes no flush")                    \
    X(DIRTY_LATE, "a slice is marked dirty only after its new entries can be read")                           \
    X(SETTLED_BETWEEN, "between dirty and flushing a slice counts as on disk for a moment")                   \
    X(TRUST_AS_READ, "what was read from the file counts as durable before any flush")                        \
    X(CLOSE_UNFLUSHED, "closing does not flush")                                                              \
    X(HEADER_UNSYNCED, "a changed header counts as durable, and what it no longer needs is given up")        \
    X(SHRINK_CUT_FIRST, "shrinking cuts the data file before the header says so")                             \
    X(REBUILD_UNSYNCED, "the header points at rebuilt refcounts that are not durable")                        \
    X(REBUILD_OVER_OLD, "rebuilt refcounts are written over the old ones, which still count")                 \
    X(REBUILD_FORGETS_ITSELF, "rebuilt refcounts do not count their own table")                               \
    X(PART_UNSYNCED, "repair points an entry at a copy that is not durable")                                  \
    X(REPAIR_UNFLUSHED, "repair frees what an entry had before the entry's change is durable")                \
    X(SHARE_UNCOUNTED, "compressed data goes behind other without a reference to its cluster: rule 1")        \
    X(KEEP_TAIL, "compressed data goes behind other that is being freed: rule 8")                              \
    X(LINK_UNWRITTEN, "compressed data appears in the mapping before it is written: rule 7")                   \
    X(PUNCH_NEIGHBOUR, "what repair gives back to the host is a cluster too much")

/* The same of rules about what belongs to whom: tests/space/test_ours.c. */
#define Q2_MUTANTS_OURS(X)                                                                                     \
    X(CUT_ALL_FREE, "what is free at the end is cut off, whoever it belongs to")                               \
    X(OWN_UNUSED, "what was taken and given back unused counts as freed, and is punched and cut off")          \
    X(FORGET_MARK, "an image that contradicts itself is not marked corrupt")                                  \
    X(TRUST_ENTRIES, "entries that lead guest data into metadata are followed for writing")                   \
    X(TRUST_REFCOUNTS, "metadata without a refcount is handed out")                                           \
    X(SEARCH_ALL, "all holes are looked for before anything behind the end is taken")                          \
    X(SHRINK_PUNCH_FIRST, "a shrink punches what its entries led to before it counts who else has it")       \
    X(TRUST_BLOCKS, "guest data that the refcount table points to is written as refcounts")                    \
    X(FORGET_TWICE, "two entries that say each to have a cluster alone are believed")                           \
    X(HOLES_UNSURVEYED, "what was free when the image was opened is handed out before it is known who has it") \
    X(FORGET_MAPPED, "guest data without a refcount is handed out, though its entry has been read")

/* The same, found by tests/foreign/, with some of those above. */
#define Q2_MUTANTS_FOREIGN(X)                                                                                  \
    X(FORGET_TABLE, "a table that is given up is handed out before that is done, where it had no refcount") \
    X(TRUST_HEADER, "an L1 or refcount table is written where something else is, too")

/* And such as it takes a unit test to notice, or one of callers: the meson.build there says which. */
#define Q2_UNIT_MUTANTS(X)                                                                                     \
    X(CLEAR_BEHIND_END, "what clears up to the end drops the last cluster though the volume has grown")        \
    X(COMPRESS_BEHIND_END, "a compressed last cluster is entered whole though the volume has grown")             \
    X(HOST_STAYS_FULL, "where the host had no space once holes are looked for first, for good")                \
    X(PIECE_UNSEEN, "a refcount block is made amid a piece that is being appended")                            \
    X(DOUBT_UNSEEN, "who waited while it became doubtful which table counts changes one of them")              \
    X(SHARE_ERRORS, "requests that were written as one fail as one")                                          \
    X(FOLLOW_NAMES, "the data file is opened though no name is to be followed")                               \
    X(AHEAD_NOT_ZEROED, "of new L2 tables that are made at once the first holds zeros: rule 4")            \
    X(BLOCKS_NOT_ZEROED, "of refcount blocks that are made at once the first holds zeros")                 \
    X(TAKE_FOR_EVER, "two queues take a slot that is loading from each other without end")                    \
    X(SNAPSHOT_L1_ANYWHERE, "a snapshot's L1 table is followed wherever its entry says that it is")          \
    X(OVER_WHAT_REACHES, "a repair puts something where an entry begins that reaches past the end")         \
    X(DROP_WHAT_TELLS, "an L1 entry is dropped while only it tells the L1 table from the refcount table")    \
    X(LEFT_BY_ALL, "a table that some of several L1 entries have left counts as left by all")             \
    X(REBUILD_FORGETS_FLAGS, "rebuilt refcounts are one where entries say that there are others")           \
    X(LEFT_STAYS_TWICE, "a table that one of two L1 entries has left counts as one that two lead to")        \
    X(HIDE_BACKING, "an image is written without its backing file")                                           \
    X(RELOAD_TRUSTED, "when changed tables cannot be read again what was known of them counts")                \
    X(FINISHED_AT_ONCE, "an image that is created as unfinished counts at once")                              \
    X(RUN_OVER_GAPS, "tables that do not lie one behind the other are read as if they did")                   \
    X(ALIKE_WRAPS, "an entry whose offset has left its bits goes on with the one before it")

/* Those that tests of jobs find: tests/jobs/meson.build. */
#define Q2_MUTANTS_JOBS(X)                                                                                     \
    X(EMPTY_UNSYNCED, "what an L1 table led to is given back before that is durably empty")                    \
    X(BACKING_TRUSTED, "writes go on though it is not known which backing file the header names")               \
    X(BACKING_UNSYNCED, "the header leads to another backing file's name before that is durable")              \
    X(BACKING_ZEROS_UNUSED, "of a header what is not zero counts, so that what ends it may not be written")      \
    X(FRONT_SHOWS_BELOW, "zeros of a stream do not hide its backing file")                                      \
    X(PACK_SHARED_TOO_OFTEN, "more compressed data in a cluster than its refcount can count")                   \
    X(PACK_REACH_UNCOUNTED, "compressed data that reaches into the next cluster does not count there")          \
    X(REBUILD_LEAVES_FILE_LONGER, "refcounts that could not be written stay behind the image's end")         \
    X(AMEND_KEEPS_WHAT_IT_TOOK, "what a step of amend that failed has taken is not given back")                  \
    X(EXPAND_UNSYNCED, "entries lead to zeros that are not durable")                                            \
    X(EXPAND_OVER_SHARED, "zeros are written into a cluster that another entry reads")                          \
    X(ZEROS_BELOW_COUNT, "what is to be zero by its own word is left to what lies below")

#define Q2_ALL_MUTANTS(X)                                                                                      \
    Q2_MUTANTS(X) Q2_MUTANTS_OURS(X) Q2_MUTANTS_FOREIGN(X) Q2_UNIT_MUTANTS(X) Q2_MUTANTS_JOBS(X)

#define Q2_MUTANT_ENUM(name, text) MUTANT_##name,

enum q2_mutant { MUTANT_NONE, Q2_ALL_MUTANTS(Q2_MUTANT_ENUM) MUTANTS_END };

#ifdef VDISK_MUTANTS
/* Which one this process is: set while nothing is open, or named by VDISK_MUTANT when it starts. */
extern enum q2_mutant q2_mutant;
#define MUTANT(name) (q2_mutant == MUTANT_##name)
void q2_mutant_gap(void); /* between two steps that should be one: other threads come first here */
#else
#define MUTANT(name) false
static inline void q2_mutant_gap(void) {}
#endif

#endif
