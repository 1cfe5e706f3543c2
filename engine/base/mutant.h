/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules between threads broken on purpose, one at a time, to show that tests/interleave/ notices. Only where the
 * build was configured with -Dmutants=true; else ENGINE_MUTANT() is false and nothing of it is left. What breaks
 * the order of writes is in qcow2/mutant.h.
 */
#ifndef ENGINE_MUTANT_H
#define ENGINE_MUTANT_H

#include <stdbool.h>

/* Name, and what it does wrong. */
#define ENGINE_MUTANTS(X)                                                                                      \
    X(GATE_NO_SECOND_LOOK, "who enters does not look whether the epoch has changed: gate.h, invariant 1")      \
    X(GATE_QUIET_LEAVE, "the last one to leave does not end the drain")                                        \
    X(GATE_LOOK_BACK, "who has left looks at the gate, which may be gone: gate.h, invariant 3")                \
    X(GATE_JOIN_DRAIN, "who comes during a drain waits for that one only")                                     \
    X(INSIDE_SEEN_ONCE, "who counts the requests of a volume does not look again: volume.h, `steps`")          \
    X(RANGE_OVERTAKE, "a lock passes those that wait before it: range_lock.h, invariant 1")                    \
    X(RANGE_LOST_WAKE, "the lock that comes free before its owner waits wakes nobody")                         \
    X(RANGE_QUIET_GIVE_UP, "who gives up waiting for a lock lets nobody behind it go on")                      \
    X(RANGE_LATE_GIVE_UP, "who gives up a lock does not look whether it has been given to him")                \
    X(POST_UNCOUNTED, "who posts is not waited for when the queue goes: queue.h, invariant 5")                 \
    X(POSTS_SAID_LATE, "who goes to sleep says what is to wake it after its last look: queue.h, invariant 7")  \
    X(GATHER_DEAF, "while ends are gathered no other post wakes")                                              \
    X(WAKE_UNWATCHED, "posts write what the ring watches once, not what the caller sleeps on")                 \
    X(FD_CLEARED_LATE, "the caller's descriptor is cleared after looking: queue.h, invariant 6")               \
    X(FD_LEFT_CLEAR, "the caller's descriptor is not set for what is left: queue.h, invariant 6")              \
    X(SERVICE_UNTURNED, "work goes to a service that nobody turns: service.h, invariant 5")                    \
    X(SERVICE_WAKES_OWNER, "who posts to a service wakes its owner when there is a thread")                    \
    X(SLOT_TAG_ONCE, "a reader does not look at the tag again after the number: meta_cache.h, invariant 1")    \
    X(SLOT_QUIET_FILL, "a slot is filled anew and its number stays: meta_cache.h, invariant 2")                \
    X(FLAT_TAG_ONCE, "a reader does not look at the tag again after the number: flat.h, invariant 3")          \
    X(FLAT_NUMBER_ONCE, "a reader does not look at the number again after the word: flat.h, invariant 4")      \
    X(SETTLED_READ_TWICE, "a reader looks at dirty and at flushing one after the other")                       \
    X(LEASE_FILL_TWICE, "the second who filled a lease that two queues share replaces what is there")          \
    X(FLUSH_LEAD_LOST, "who flushed does not pass the lead on to who came meanwhile")                          \
    X(FLUSH_FAILURE_CLEAN, "what a failed flush tried to write counts as written")

/*
 * Rules that no schedule has to do with: VDISK_ENGINE_MUTANT names one when a process starts, and a test of its
 * own fails then (meson.build of tests/unit and tests/callers).
 */
#define ENGINE_OTHER_MUTANTS(X)                                                                                \
    X(CREATE_CUT_EARLY, "what is there is cut before all that can be refused has been looked at")              \
    X(CREATE_QUIET, "a failed create does not say what it has left")                                           \
    X(CREATE_MARK_LATE, "a new file has its size before it is marked as unfinished")                           \
    X(GUARD_BY_PARTS, "a write to the first sector is looked at without what is there")                        \
    X(GUARD_UNLOCKED, "changes of the first sector do not wait for one another: guard.c, invariant 1")         \
    X(SERVICE_IDLE, "a second queue does not start the thread of a service")                                   \
    X(REFUSAL_PASSED_ON, "a queue whose ring the kernel refuses goes on with it")                              \
    X(REAP_AT_ONCE, "completions are run before they are taken off the ring")                                  \
    X(CALLS_UNTRIED, "a new ring's other calls are not tried")                                                 \
    X(POLL_REFUSED, "a wait ends with an error when the host cannot poll")                                     \
    X(WAIT_GIVEN_UP, "a synchronous call whose wait fails returns with its request in flight")                 \
    X(NOTIFY_UNCHECKED, "a service's ring that cannot wake its owner is kept")                                 \
    X(SERVICE_UNSENT, "what the kernel did not take of a service is left until the owner comes by chance")     \
    X(SERVICE_UNWANTED, "a thread that could not be had is not asked for again")                               \
    X(WAKE_UNSEEN, "who waits goes on when it is woken")                                                         \
    X(THREAD_UNSEEN, "a second thread may call a queue")                                                       \
    X(KNOWN_FOR_ALL, "a queue that knows one volume looks at no other")                                        \
    X(COUNTS_DROPPED, "what a queue has counted of a volume goes with whichever goes first: pair.h, invariant 2") \
    X(FORK_UNSEEN, "a forked child may call its parent's queues")                                              \
    X(REGION_GONE_EARLY, "memory that goes leaves the ring's table while I/O uses it: regions.h, invariant 2")  \
    X(REGION_STAYS, "memory that has gone is found when I/O is prepared: regions.h, invariant 2")              \
    X(CANCEL_MERGED, "who cancels a write ends its neighbours: cancel.c, invariant 3")                         \
    X(RANGE_GIVEN_KEPT, "who has been given a lock does not give it up before he goes on")                     \
    X(CANCEL_UNTOLD, "the descriptor of who cancels is not set: queue.h, invariant 6")                        \
    X(CUT_FORGOTTEN, "a device that has been cut reads as zeros where it was longer")                          \
    X(CUT_ZEROED, "zeroing does not look whether the device has been cut")                                    \
    X(GROWN_CUTS, "a read that came short of what a device has been given since counts as cut off")           \
    X(END_UNSEEN, "a request behind the end is refused with no look at the device")                              \
    X(JOB_FORGETS_TEXT, "the text that a job's work gave is replaced by that of the last call")                \
    X(COPY_SOURCE_UNHELD, "a volume closes while a range of it is copied: clone_range.c, invariant 2")        \
    X(COPY_PAST_END, "a range is copied to behind the end of its file: clone_range.c, invariant 1")           \
    X(FOLLOW_UNHELD, "a volume follows its file while it is being resized")                                     \
    X(MOVED_UNTOLD, "a backend whose end has moved does not tell its owner")                                   \
    X(PART_UNBOUNDED, "a part of a file goes on behind its size: window.c, invariant 1")                       \
    X(NAMES_FOLLOWED, "who looks at an image opens the files that it names")                                   \
    X(STORAGE_PULLED, "a program's storage is unregistered while it is open: user.c, invariant 1")             \
    X(STORAGE_OVERREAD, "a program's storage is asked for what lies past its end: user.c, invariant 2")        \
    X(FINISH_UNFLUSHED, "an image counts as finished before what is in it is durable")                         \
    X(FINISH_OPEN, "others write while an image is marked as finished")                                        \
    X(CHANGE_FORESEEN, "who waited for another to change what lies below does not look what that has left")    \
    X(AHEAD_JUDGED, "a layer that another hides is told damaged: load.c")                                      \
    X(PARK_MISSES_ROOM, "who finds no space does not look whether room has come: grower.h, invariant 2")       \
    X(STALL_OF_ALL, "samples taken while some wait move into the future")                                      \
    X(TOOK_UNBOUNDED, "after one slow extension a grower is asked for as much as that took time")              \
    X(TOLD_IN_OLD_LINE, "a wish is told on the thread that the grower before found one on: tell_after()")      \
    X(TOLD_IN_ONE_LINE, "a wish waits for the thread that found it first, whoever waits for room")             \
    X(TOLD_ALL_BLOCKED, "a grower's function runs with all signals blocked")                                   \
    X(ANEW_UNCHECKED, "who has waited for room is not looked at again before it begins anew")                  \
    X(UNWANTED_PARKED, "what was to be taken back while it began anew waits for room again")                   \
    X(GROWER_PEAKS, "a device that has been cut is larger only when it is larger than ever")                   \
    X(REFUSED_UNASKED, "what finds no space, and cannot be parked, is no reason to ask the grower")            \
    X(GROWTH_BELIEVED, "a file that grows as it is written to counts as made larger by its grower")            \
    X(FINAL_FOR_EVER, "a grower that said that there is no more is not asked again, as it wants to be")        \
    X(IDLE_UNPAUSED, "a grower whose answer has made nothing larger is asked again at once")                   \
    X(PAUSE_OUTLIVES, "a grower that could not, and can now, is not asked before its pause is over")           \
    X(RETRY_PUT_OFF, "what waits tries again later for each that comes to wait")                               \
    X(PARK_IN_GATE, "who waits for room is in the gate: grower.h, invariant 1")                                \
    X(FLAT_WORDS_KEPT, "a slot that is given to other pieces keeps its words: flat.h, invariant 3")            \
    X(FLAT_PART_FOR_ALL, "what the start of a piece is made of counts for all of it: flat.h, invariant 2")

#define ENGINE_MUTANT_ENUM(name, text) ENGINE_MUTANT_##name,

enum engine_mutant { ENGINE_MUTANT_NONE, ENGINE_MUTANTS(ENGINE_MUTANT_ENUM)
                     ENGINE_OTHER_MUTANTS(ENGINE_MUTANT_ENUM) ENGINE_MUTANTS_END };

#ifdef VDISK_MUTANTS
extern enum engine_mutant engine_mutant; /* which one this process is; set while no thread is in the library */
#define ENGINE_MUTANT(name) (engine_mutant == ENGINE_MUTANT_##name)
#else
#define ENGINE_MUTANT(name) false
#endif

#endif
