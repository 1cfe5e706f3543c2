/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* engine/iov: ranges of scattered memory, compared with the same range of flat memory. */
#include "tests/unit/op_test.h"

#include "engine/base/iov.h"

enum { PIECES = 6, SIZE = 200 };

/* Scattered memory with empty pieces here and there; `flat` is the same bytes in a row. */
struct scattered {
    uint8_t      memory[PIECES][SIZE];
    struct iovec iov[PIECES];
    uint32_t     iovcnt;
    uint8_t      flat[PIECES * SIZE];
    uint64_t     len;
};

static void scatter(struct scattered *s, uint64_t *seed)
{
    s->len = 0;
    s->iovcnt = 1 + (uint32_t)(xorshift(seed) % PIECES);
    for (uint32_t i = 0; i < s->iovcnt; i++) {
        s->iov[i].iov_base = s->memory[i];
        s->iov[i].iov_len = xorshift(seed) % 3 == 0 ? 0 : xorshift(seed) % SIZE;
        for (uint64_t k = 0; k < SIZE; k++)
            s->memory[i][k] = (uint8_t)xorshift(seed);
        memcpy(s->flat + s->len, s->memory[i], s->iov[i].iov_len);
        s->len += s->iov[i].iov_len;
    }
}

static void assert_same(const struct scattered *s)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < s->iovcnt; i++) {
        assert_memory_equal(s->memory[i], s->flat + at, s->iov[i].iov_len);
        at += s->iov[i].iov_len;
    }
}

/* Offset and length of a range inside; may be empty, may be all. */
static uint64_t range(const struct scattered *s, uint64_t *seed, uint64_t *ret_len)
{
    uint64_t offset = xorshift(seed) % (s->len + 1);

    *ret_len = xorshift(seed) % (s->len - offset + 1);
    return offset;
}

static void copies(void **state)
{
    uint64_t seed = 20240611, offset, len;
    uint8_t buf[PIECES * SIZE];
    struct scattered s;

    for (int i = 0; i < 20000; i++) {
        scatter(&s, &seed);
        assert_int_equal(iov_len(s.iov, s.iovcnt), s.len);
        offset = range(&s, &seed, &len);
        memset(buf, 0xa5, sizeof buf);
        iov_to(s.iov, s.iovcnt, offset, buf, len);
        assert_memory_equal(buf, s.flat + offset, len);
        assert_true(len == sizeof buf || buf[len] == 0xa5);
        offset = range(&s, &seed, &len);
        for (uint64_t k = 0; k < len; k++)
            buf[k] = (uint8_t)xorshift(&seed);
        iov_from(s.iov, s.iovcnt, offset, buf, len);
        memcpy(s.flat + offset, buf, len);
        assert_same(&s);
        offset = range(&s, &seed, &len);
        iov_zero(s.iov, s.iovcnt, offset, len);
        memset(s.flat + offset, 0, len);
        assert_same(&s);
    }
}

static void slices(void **state)
{
    uint64_t seed = 777, offset, len, covered;
    struct iovec out[PIECES + 1];
    struct scattered s;

    for (int i = 0; i < 20000; i++) {
        uint32_t max = 1 + (uint32_t)(xorshift(&seed) % PIECES), n;
        uint64_t at = 0;

        scatter(&s, &seed);
        offset = range(&s, &seed, &len);
        memset(out, 0xff, sizeof out);
        n = iov_slice(s.iov, s.iovcnt, offset, len, out, max, &covered);
        assert_true(n <= max && covered <= len);
        assert_true(n == max || covered == len);
        assert_int_equal(iov_len(out, n), covered);
        for (uint32_t k = 0; k < n; k++) {
            assert_true(out[k].iov_len > 0);
            assert_memory_equal(out[k].iov_base, s.flat + offset + at, out[k].iov_len);
            at += out[k].iov_len;
        }
        assert_true(out[n].iov_len == SIZE_MAX); /* not a word behind the last */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies),
        cmocka_unit_test(slices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
