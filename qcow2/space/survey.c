/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading all L2 tables.
 *
 * Happy path: from where the last reading ended, the next pieces of tables that there are, all at once; what has
 * come through the cache is passed by; each is judged, slice by slice; who waits is woken. Behind the last one the
 * survey is over.
 * Failure modes: a piece cannot be read, no memory: those before it count, the next reading begins there. After
 * the former only who cannot do without reads again. A table has been copied to another place meanwhile: the same,
 * without an error. A lease, taken where nothing seemed to be, has something after all: it goes back.
 */
#include "qcow2/space/survey.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/loop/queue.h"
#include "engine/loop/service.h"
#include "qcow2/meta/meta.h"
#include "qcow2/mutant.h"
#include "qcow2/space/lease.h"

enum {
    PIECES = 64,             /* at once, */
    PIECE_BYTES = 64 << 10,  /* of so much at most, */
    STEP_BYTES = 1 << 20,    /* and all of them of so much: 16 tables of 64 KiB, */
    HURRY_BYTES = 4 << 20,   /* or where somebody waits for the end of it */
    SHORT_ENTRIES = 16 << 10 /* of the L1 table: more are not looked at to find out */
};

/* Of one L2 table. */
struct piece {
    struct q2_survey_place from;
    uint64_t table;
    uint32_t len;
    char *buf;
    struct io io;
};

struct survey {
    struct op op;
    struct q2_space *space;
    struct q2_survey_progress *progress, own; /* own: of one who reads all beside another: invariant 3 */
    bool hurry, last; /* no table is left behind these pieces */
    unsigned n;
    struct piece *piece;
    char *buf;
};

enum survey_state { SURVEY_START = OP_START, SURVEY_READ };

/* ---- what is known ----------------------------------------------------------------------------------------- */

uint64_t q2_survey_known(const struct q2_space *space, uint64_t cluster, uint64_t n)
{
    uint64_t end = min_u64(cluster + n, space->holes_end), first, stop;

    assert_locked(&space->meta->lock);
    assert(n > 0);
    if (q2_survey_is_over(space) || cluster >= space->holes_end || MUTANT(HOLES_UNSURVEYED))
        return n;
    first = q2_cluster_set_next(&space->meta->own_freed, cluster, end, &stop);
    if (first != cluster)
        return 0;
    return stop == space->holes_end ? n : stop - cluster;
}

uint64_t q2_survey_unknown(const struct q2_space *space, uint64_t cluster, uint64_t n)
{
    uint64_t end = min_u64(cluster + n, space->holes_end), stop;

    assert(q2_survey_known(space, cluster, n) == 0);
    return q2_cluster_set_next(&space->meta->own_freed, cluster, end, &stop) - cluster;
}

/* Is there nothing in the table that has not been judged? */
static bool is_judged(struct q2_space *space, uint64_t l1_index)
{
    uint64_t slices = q2_slices_of_table(space->meta), key = l1_index * slices, stop;
    bool is;

    pthread_mutex_lock(&space->meta->lock);
    is = q2_cluster_set_next(&space->meta->judged, key, key + slices, &stop) == key && stop == key + slices;
    pthread_mutex_unlock(&space->meta->lock);
    return is;
}

/* The table of an L1 entry, if it can be read at all. */
static uint64_t table_at(struct q2_meta *meta, uint64_t l1_index)
{
    uint64_t entry = q2_l1_get(meta, l1_index), table = q2_l1_offset(entry);

    return q2_l1_problem(&meta->geo, entry) || table >= backend_size(meta->layer->file) ? 0 : table;
}

bool q2_survey_is_short(struct q2_space *space)
{
    struct q2_meta *meta = space->meta;
    uint64_t entries, most = min_u64(PIECES, max_u64(STEP_BYTES >> meta->geo.cluster_bits, 1)), tables = 0;

    assert_locked(&meta->lock);
    if (q2_survey_is_over(space) || MUTANT(HOLES_UNSURVEYED))
        return false;
    if (space->survey_length_known)
        return space->survey_is_short;
    entries = atomic_load_explicit(&meta->l1, memory_order_acquire)->entries;
    for (uint64_t i = 0; i < min_u64(entries, SHORT_ENTRIES) && tables <= most; i++)
        tables += table_at(meta, i) != 0;
    space->survey_length_known = true;
    space->survey_is_short = entries <= SHORT_ENTRIES && tables <= most;
    space->tables_read = space->survey_is_short && tables == 0;
    return space->survey_is_short && !space->tables_read;
}

/* ---- the next pieces --------------------------------------------------------------------------------------- */

/*
 * A table that many entries lead to need not be read for each: with the second it is known that what it leads to
 * has two places.
 */
static bool is_known(const struct survey *s, uint64_t table)
{
    return q2_cluster_set_has(&s->progress->twice, table >> s->space->meta->geo.cluster_bits);
}

/* The next table at or behind a place that has to be read. False: there is none. */
static bool next_table(struct survey *s, struct q2_survey_place *at)
{
    struct q2_meta *meta = s->space->meta;

    for (; at->l1_index < atomic_load_explicit(&meta->l1, memory_order_acquire)->entries;
         *at = (struct q2_survey_place){at->l1_index + 1, 0}) {
        uint64_t table = table_at(meta, at->l1_index);
        if (table != 0 && !is_known(s, table) && !is_judged(s->space, at->l1_index))
            return true;
    }
    return false;
}

static void choose(struct survey *s)
{
    const struct q2_geometry *g = &s->space->meta->geo;
    uint32_t left = s->hurry ? HURRY_BYTES : STEP_BYTES;
    struct q2_survey_place at = s->progress->at;

    for (s->n = 0; s->n < PIECES && left > 0; s->n++) {
        struct piece *p = &s->piece[s->n];
        if (!next_table(s, &at)) {
            s->last = true;
            return;
        }
        p->from = at;
        p->table = table_at(s->space->meta, at.l1_index);
        p->len = (uint32_t)min_u64(min_u64(g->cluster_size - at.offset, PIECE_BYTES), left);
        left -= p->len;
        at.offset += p->len;
        if (at.offset == g->cluster_size)
            at = (struct q2_survey_place){at.l1_index + 1, 0};
    }
}

static int prepare(struct survey *s)
{
    uint64_t bytes = 0;
    void *p = NULL;

    s->piece = mem_calloc(PIECES, sizeof *s->piece);
    if (!s->piece)
        return -ENOMEM;
    choose(s);
    for (unsigned i = 0; i < s->n; i++)
        bytes += s->piece[i].len;
    if (bytes > 0 && mem_memalign(&p, 4096, align_up(bytes, 4096)) != 0)
        return -ENOMEM;
    s->buf = p;
    bytes = 0;
    for (unsigned i = 0; i < s->n; bytes += s->piece[i++].len)
        s->piece[i].buf = s->buf + bytes;
    return 0;
}

/* The call of an await. */
static void read_pieces(struct survey *s, struct op *op)
{
    op_io_begin(op);
    for (unsigned i = 0; i < s->n; i++) {
        struct piece *p = &s->piece[i];
        io_rw(&p->io, s->space->meta->layer->file, IO_READ, p->table + p->from.offset, p->buf, p->len);
        op_io_add(op, &p->io);
    }
    op_io_wait(op);
}

/* ---- judging ----------------------------------------------------------------------------------------------- */

/*
 * One slice. What has come into the cache meanwhile has been judged there, and may have changed since. 1: the
 * table is somewhere else now.
 */
static int judge_slice(struct q2_space *space, const struct piece *p, uint32_t at)
{
    struct q2_meta *meta = space->meta;
    uint64_t slice = (p->from.offset + at) / meta->l2.slice_size;
    uint64_t key = p->from.l1_index * q2_slices_of_table(meta) + slice;
    int rc = 0;

    pthread_mutex_lock(&meta->lock);
    if (table_at(meta, p->from.l1_index) != p->table)
        rc = 1;
    else if (!q2_cluster_set_has(&meta->judged, key))
        rc = q2_guard_survey(meta, q2_slice_guest(meta, key), p->table + p->from.offset + at, p->buf + at);
    /* More than it can hold is not known, less than that was a lack of memory. */
    if (rc == 0 && meta->mapped.overflowed && meta->mapped.pages < Q2_SET_PAGES)
        rc = -ENOMEM;
    pthread_mutex_unlock(&meta->lock);
    return rc;
}

static int judge_piece(struct survey *s, const struct piece *p)
{
    struct q2_space *space = s->space;
    struct q2_survey_progress *done = s->progress;
    uint64_t cluster = p->table >> space->meta->geo.cluster_bits;
    int rc = p->io.res;

    for (uint32_t at = 0; at < p->len && rc == 0; at += space->meta->l2.slice_size)
        rc = judge_slice(space, p, at);
    if (rc != 0)
        return rc;
    done->at.l1_index = p->from.l1_index;
    done->at.offset = p->from.offset + p->len;
    if (done->at.offset < space->meta->geo.cluster_size)
        return 0;
    done->at = (struct q2_survey_place){p->from.l1_index + 1, 0};
    q2_cluster_set_add(q2_cluster_set_has(&done->once, cluster) ? &done->twice : &done->once, cluster, 1);
    return 0;
}

static int judge(struct survey *s)
{
    int rc = 0;

    for (unsigned i = 0; i < s->n && rc == 0; i++)
        rc = judge_piece(s, &s->piece[i]);
    s->last &= rc == 0;
    return rc > 0 ? 0 : rc;
}

/* ---- the op ------------------------------------------------------------------------------------------------ */

/* Invariant 3. */
static bool is_beside(const struct survey *s)
{
    return s->progress == &s->own;
}

static void progress_finish(struct q2_survey_progress *p)
{
    q2_cluster_set_finish(&p->once);
    q2_cluster_set_finish(&p->twice);
}

static void release(struct survey *s)
{
    mem_free(s->piece);
    mem_free(s->buf);
    s->piece = NULL;
    s->buf = NULL;
}

static void survey_finish(struct survey *s, int rc)
{
    struct q2_space *space = s->space;

    pthread_mutex_lock(&space->meta->lock);
    space->tables_read |= rc == 0 && s->last;
    space->survey_failed = rc < 0 && rc != -ENOMEM;
    q2_lease_return_mapped(space);
    if (!is_beside(s)) {
        assert(space->surveying);
        space->surveying = false;
        op_wake_all(&space->survey_waiting, rc);
    }
    if (space->tables_read && !space->surveying)
        progress_finish(&space->survey);
    op_wake(s->op.parent, rc);
    pthread_mutex_unlock(&space->meta->lock);
    progress_finish(&s->own);
    release(s);
    op_free(&s->op, sizeof *s);
}

static void survey_step(struct op *op)
{
    struct survey *s = container_of(op, struct survey, op);

    OP_BEGIN(enum survey_state, op)
    do {
        release(s);
        op->rc = prepare(s);
        if (op->rc == 0 && s->n > 0)
            OP_AWAIT(op, SURVEY_READ, read_pieces(s, op));
        op->rc = op->rc == -ENOMEM && !s->buf ? -ENOMEM : judge(s);
    } while (is_beside(s) && op->rc == 0 && !s->last);
    survey_finish(s, op->rc);
    return;
    OP_END
}

OP_TYPE(survey, survey_step, "START", "SURVEY_READ");

enum turn { TURN_OVER, TURN_WAIT, TURN_OURS, TURN_WITHOUT, TURN_BESIDE };

/* Another's reading is not waited for where nobody need turn its queue: invariant 3. */
static enum turn whose_turn(const struct q2_space *space, bool hurry, const vdisk_queue *queue)
{
    assert_locked(&space->meta->lock);
    if (q2_survey_is_over(space))
        return TURN_OVER;
    if (!space->surveying)
        return TURN_OURS;
    if (space->survey_queue == queue || space->survey_queue->always_turned)
        return TURN_WAIT;
    return hurry ? TURN_BESIDE : TURN_WITHOUT;
}

void q2_survey(struct q2_space *space, bool hurry, struct op *op)
{
    vdisk_queue *service = service_queue(space->meta->layer->volume, op->queue);
    struct survey *s = NULL;
    enum turn turn;

    pthread_mutex_lock(&space->meta->lock);
    turn = whose_turn(space, hurry, op->queue);
    if (turn == TURN_WAIT)
        list_add_tail(&space->survey_waiting, &op->wait);
    else if (turn == TURN_OURS || turn == TURN_BESIDE)
        s = op_alloc_for(service, op->queue, &survey_type, sizeof *s);
    if (s) {
        s->op.parent = op;
        s->space = space;
        s->hurry = hurry || space->survey_is_short; /* one table of 2 MiB takes two steps */
        s->progress = turn == TURN_BESIDE ? &s->own : &space->survey;
    }
    if (s && turn == TURN_OURS) {
        space->surveying = true;
        space->survey_queue = service;
    }
    pthread_mutex_unlock(&space->meta->lock);
    if (s)
        op_send(&s->op);
    else if (turn != TURN_WAIT)
        op_wake(op, turn == TURN_OVER || turn == TURN_WITHOUT ? 0 : -ENOMEM);
}
