/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/model.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bits.h"
#include "tests/lib/recycle.h"
#include "tests/lib/test.h"

/* What is all as expected is found out so many bytes at a time. */
enum { STEP = 512 };

static bool is_loose(const struct model *m)
{
    return atomic_load_explicit(&m->loose, memory_order_relaxed);
}

static void loosen(struct model *m)
{
    atomic_store_explicit(&m->loose, true, memory_order_relaxed);
}

/* ---- what is not touched, or is alike, costs nothing -------------------------------------------------- */

enum { PAGE = 4096, SPARES = 4 };

static uint64_t pages(const struct model *m)
{
    return div_up(m->size, PAGE);
}

static uint64_t stamp(const struct model *m, uint64_t page)
{
    return atomic_load_explicit(&m->stamps[page], memory_order_relaxed);
}

static void set_stamp(struct model *m, uint64_t page, uint64_t value)
{
    atomic_store_explicit(&m->stamps[page], value, memory_order_relaxed);
}

static bool is_touched(const struct model *m, uint64_t page)
{
    return stamp(m, page) != 0;
}

/* Before bytes [i, i + len) become anything. */
static void touch(struct model *m, uint64_t i, uint64_t len)
{
    static _Atomic uint64_t last;

    for (uint64_t page = i / PAGE; page * PAGE < i + len; page++)
        set_stamp(m, page, atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1);
}

/* How many of its bytes are the model's. */
static uint64_t page_len(const struct model *m, uint64_t page)
{
    return min_u64(PAGE, m->size - page * PAGE);
}

static void zero_page(struct model *m, uint64_t page)
{
    memset(m->now + page * PAGE, 0, page_len(m, page));
    if (is_loose(m))
        memset(m->marks + page * PAGE, 0, page_len(m, page));
    set_stamp(m, page, 0);
}

static void zero_pages(struct model *m)
{
    for (uint64_t page = 0; page < pages(m); page++)
        if (is_touched(m, page))
            zero_page(m, page);
    atomic_store(&m->loose, false);
}

/* Models that are finished, as they were: the next copy of what they were a copy of has little to do. */
static struct model spares[SPARES];
static pthread_mutex_t spares_lock = PTHREAD_MUTEX_INITIALIZER;

static bool take_spare(struct model *m, uint64_t size)
{
    bool found = false;

    pthread_mutex_lock(&spares_lock);
    for (unsigned i = 0; i < SPARES && !found; i++)
        if (spares[i].now && spares[i].size == size) {
            *m = spares[i];
            memset(&spares[i], 0, sizeof spares[i]);
            found = true;
        }
    pthread_mutex_unlock(&spares_lock);
    return found;
}

static bool give_spare(const struct model *m)
{
    bool given = false;

    pthread_mutex_lock(&spares_lock);
    for (unsigned i = 0; i < SPARES && !given; i++)
        if (!spares[i].now) {
            spares[i] = *m;
            given = true;
        }
    pthread_mutex_unlock(&spares_lock);
    return given;
}

static void init_new(struct model *m, uint64_t size)
{
    m->size = size;
    m->now = recycle_take_zeros(size);
    m->old = recycle_take(size); /* not looked at where no mark is */
    m->marks = recycle_take_zeros(size);
    m->stamps = recycle_take_zeros(div_up(size, PAGE) * sizeof *m->stamps);
    atomic_init(&m->loose, false);
}

void model_init(struct model *m, uint64_t base, uint64_t size)
{
    if (take_spare(m, size))
        zero_pages(m);
    else
        init_new(m, size);
    m->base = base;
}

void model_finish(struct model *m)
{
    if (m->now && !give_spare(m)) {
        zero_pages(m);
        recycle_give_zeros(m->now);
        recycle_give(m->old);
        recycle_give_zeros(m->marks);
        recycle_give_zeros(m->stamps);
    }
    memset(m, 0, sizeof *m);
}

static void copy_page(struct model *to, const struct model *from, uint64_t page, uint64_t len)
{
    uint64_t i = page * PAGE;

    memcpy(to->now + i, from->now + i, len);
    if (is_loose(to) || is_loose(from)) {
        memcpy(to->old + i, from->old + i, len);
        memcpy(to->marks + i, from->marks + i, len);
    }
}

void model_copy(struct model *to, const struct model *from)
{
    assert(to->base == from->base && to->size == from->size);
    for (uint64_t page = 0; page < pages(to); page++)
        if (stamp(to, page) == stamp(from, page)) {
            continue;
        } else if (is_touched(from, page)) {
            copy_page(to, from, page, page_len(to, page));
            set_stamp(to, page, stamp(from, page));
        } else {
            zero_page(to, page);
        }
    atomic_store(&to->loose, is_loose(from));
}

void model_init_copy(struct model *to, const struct model *from)
{
    if (!take_spare(to, from->size))
        init_new(to, from->size);
    to->base = from->base;
    model_copy(to, from);
}

void model_resize(struct model *m, uint64_t size)
{
    uint64_t n = min_u64(m->size, size);
    struct model other;

    assert(m->base == 0);
    model_init(&other, 0, size);
    for (uint64_t page = 0; page * PAGE < n; page++)
        if (is_touched(m, page)) {
            touch(&other, page * PAGE, 1);
            copy_page(&other, m, page, min_u64(PAGE, n - page * PAGE));
        }
    if (is_loose(m))
        loosen(&other);
    model_finish(m);
    *m = other;
}

/* ---- changes ----------------------------------------------------------------------------------------- */

static void make_firm(struct model *m, uint64_t i, uint64_t len)
{
    if (is_loose(m))
        memset(m->marks + i, 0, len);
}

/* Index in the arrays; the range lies in the window. */
static uint64_t at(const struct model *m, uint64_t offset, uint64_t len)
{
    assert(offset >= m->base && offset - m->base <= m->size && len <= m->size - (offset - m->base));
    return offset - m->base;
}

void model_write(struct model *m, uint64_t offset, const void *buf, uint64_t len)
{
    uint64_t i = at(m, offset, len);

    touch(m, i, len);
    memcpy(m->now + i, buf, len);
    make_firm(m, i, len);
}

/* What is not touched is that already. */
static void set_zero(struct model *m, uint64_t i, uint64_t len)
{
    for (uint64_t end = i + len, n; i < end; i += n) {
        n = min_u64(end - i, PAGE - i % PAGE);
        if (!is_touched(m, i / PAGE))
            continue;
        touch(m, i, n);
        memset(m->now + i, 0, n);
        make_firm(m, i, n);
    }
}

void model_zero(struct model *m, uint64_t offset, uint64_t len)
{
    set_zero(m, at(m, offset, len), len);
}

void model_discard(struct model *m, uint64_t offset, uint64_t len)
{
    uint64_t i = at(m, offset, len);

    loosen(m);
    for (uint64_t end = i + len, n; i < end; i += n) {
        n = min_u64(end - i, PAGE - i % PAGE);
        if (!is_touched(m, i / PAGE))
            continue;
        touch(m, i, n);
        for (uint64_t k = i; k < i + n; k++)
            if (m->now[k] != 0 || m->marks[k])
                m->marks[k] |= MODEL_OR_ZERO;
    }
}

void model_mark(struct model *m, uint64_t offset, uint64_t len, enum model_marks mark)
{
    uint64_t i = at(m, offset, len);

    loosen(m);
    touch(m, i, len);
    for (uint64_t end = i + len; i < end; i++)
        m->marks[i] |= (uint8_t)mark;
}

void model_maybe_write(struct model *m, uint64_t offset, const void *buf, uint64_t len)
{
    uint64_t i = at(m, offset, len);
    const uint8_t *new = buf;

    loosen(m);
    touch(m, i, len);
    for (uint64_t k = 0; k < len; k++, i++) {
        uint8_t value = new ? new[k] : 0;
        if (value == m->now[i])
            continue;
        if (m->marks[i] & MODEL_OR_OLD && m->old[i] != value)
            m->marks[i] |= MODEL_ANY; /* a third value: too many to remember */
        m->old[i] = m->now[i];
        m->marks[i] |= MODEL_OR_OLD;
        m->now[i] = value;
    }
}

/* Nothing in the range is loose or differs. */
static bool same_and_firm(const struct model *m, const struct model *flushed, uint64_t i, uint64_t n)
{
    static const uint8_t firm[STEP];

    return memcmp(m->now + i, flushed->now + i, n) == 0 && (!is_loose(m) || memcmp(m->marks + i, firm, n) == 0) &&
           (!is_loose(flushed) || memcmp(flushed->marks + i, firm, n) == 0);
}

void model_loosen(struct model *m, const struct model *flushed)
{
    for (uint64_t i = 0; i < m->size; i++) {
        if (i % PAGE == 0 && stamp(m, i / PAGE) == stamp(flushed, i / PAGE)) {
            i += PAGE - 1;
            continue;
        }
        if (i % STEP == 0 && same_and_firm(m, flushed, i, min_u64(STEP, m->size - i))) {
            i += STEP - 1;
            continue;
        }
        loosen(m);
        if (i % STEP == 0)
            touch(m, i, 1);
        m->marks[i] |= flushed->marks[i];
        if (flushed->marks[i] & MODEL_OR_OLD || (m->marks[i] & MODEL_OR_OLD && m->old[i] != flushed->now[i]))
            m->marks[i] |= m->now[i] == flushed->now[i] && m->old[i] == flushed->old[i] ? 0 : MODEL_ANY;
        else if (m->now[i] != flushed->now[i]) {
            m->old[i] = flushed->now[i];
            m->marks[i] |= MODEL_OR_OLD;
        }
    }
}

void model_cut(struct model *m, uint64_t size)
{
    if (size < m->base)
        size = m->base;
    if (size - m->base < m->size)
        model_zero(m, size, m->size - (size - m->base));
}

static bool may_be(const struct model *m, uint64_t i, uint8_t value)
{
    uint8_t marks = m->marks[i];

    if (value == m->now[i] || marks & MODEL_ANY)
        return true;
    return (marks & MODEL_OR_ZERO && value == 0) || (marks & MODEL_OR_OLD && value == m->old[i]);
}

uint64_t model_find_wrong(const struct model *m, uint64_t offset, const void *buf, uint64_t len)
{
    uint64_t i = at(m, offset, len);
    const uint8_t *got = buf;

    if (memcmp(got, m->now + i, len) == 0)
        return UINT64_MAX;
    for (uint64_t k = 0; k < len; k++) {
        if (k % STEP == 0 && memcmp(got + k, m->now + i + k, min_u64(STEP, len - k)) == 0)
            k += min_u64(STEP, len - k) - 1;
        else if (!may_be(m, i + k, got[k]))
            return offset + k;
    }
    return UINT64_MAX;
}

/* How many bytes of the range are wrong, from the first wrong one. */
static uint64_t count_wrong(const struct model *m, uint64_t offset, const uint8_t *got, uint64_t len)
{
    uint64_t n = 0, i = at(m, offset, len);

    for (uint64_t k = 0; k < len; k++)
        n += !may_be(m, i + k, got[k]);
    return n;
}

void model_expect(struct model *m, uint64_t offset, const void *buf, uint64_t len, const char *what)
{
    uint64_t wrong = model_find_wrong(m, offset, buf, len), i = at(m, offset, len);
    const uint8_t *got = buf;

    if (wrong != UINT64_MAX) {
        uint64_t k = wrong - offset;
        FAIL("%s at %" PRIu64 "+%" PRIu64 ": byte %" PRIu64 " (0x%" PRIx64 ") is 0x%02x, not 0x%02x (marks %x); "
             "%" PRIu64 " bytes of the range are wrong",
             what, offset, len, wrong, wrong, got[k], m->now[i + k], m->marks[i + k],
             count_wrong(m, offset, got, len));
    }
    if (memcmp(m->now + i, got, len) == 0 && !is_loose(m))
        return;
    touch(m, i, len);
    memcpy(m->now + i, got, len);
    make_firm(m, i, len);
}

void model_expect_zero(struct model *m, uint64_t offset, uint64_t len, const char *what)
{
    uint64_t i = at(m, offset, len);

    for (uint64_t k = 0; k < len; k++)
        if (is_touched(m, (i + k) / PAGE) && !may_be(m, i + k, 0))
            FAIL("%s says that %" PRIu64 "+%" PRIu64 " is zero: byte %" PRIu64 " is 0x%02x", what, offset, len,
                 offset + k, m->now[i + k]);
    set_zero(m, i, len);
}

void model_dump(const struct model *m, int fd)
{
    enum { BLOCK = 4096 };
    static const uint8_t zeros[BLOCK];

    for (uint64_t i = 0; i < m->size; i += BLOCK) {
        uint64_t n = m->size - i < BLOCK ? m->size - i : BLOCK;
        for (uint64_t k = i; k < i + n; k++)
            CHECK_MSG(m->marks[k] == 0, "byte %" PRIu64 " of the model is loose", m->base + k);
        if (memcmp(m->now + i, zeros, n) == 0)
            continue;
        CHECK(pwrite(fd, m->now + i, n, (off_t)(m->base + i)) == (ssize_t)n);
    }
}
