/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench: put a load on a volume from inside this process, and say how fast it went. Here: options and reports; the
 * load is in bench_load.c, volumes made for measuring in bench_scenario.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/bench_as_qemu.h"
#include "tools/bench_load.h"
#include "tools/bench_scenario.h"
#include "tools/cli.h"
#include "tools/target.h"

struct bench {
    struct bench_as_qemu   qemu;
    const char            *qemu_option; /* the last one that only qemu-img has, or NULL */
    const char            *own_option;  /* that only we have */
    struct bench_load      load;
    struct vdisk_open_opts how;
    struct vdisk_info      info;
    const struct cli_verb *verb;
    const char            *name;
    const char            *rw;
    const struct bench_scenario *scenario;
    const char            *pattern;      /* as given, or NULL: what rw says */
    uint64_t               cluster_size; /* of the scenario's image; 0: default */
    uint64_t               mix;
    bool                   have_size, have_mix, have_cache;
    bool                   native; /* -n: needs direct I/O */
    bool                   json;
};

/* ---- options --------------------------------------------------------------------------------------- */

enum {
    OPT_RW = CLI_LONG_ONLY + 1, OPT_MIX, OPT_BLOCK, OPT_DEPTH, OPT_QUEUES, OPT_QUEUE_KIND, OPT_RUNTIME, OPT_RAMP,
    OPT_COUNT, OPT_SIZE, OPT_OFFSET, OPT_PATTERN, OPT_FLUSH, OPT_FUA, OPT_UNMAP, OPT_SEED, OPT_REGISTER,
    OPT_LATENCY, OPT_OUTPUT, OPT_SCENARIO, OPT_CLUSTER, OPT_METADATA_CACHE, OPT_FLUSH_INTERVAL, OPT_NO_DRAIN,
};

static const struct cli_option options[] = {
    {'f', "format", "FMT", "raw or qcow2; otherwise found from the content"},
    {OPT_RW, "rw", "KIND", "read (default), write, rw, zero, discard, in sequence; or\n"
                           "randread, randwrite, randrw, randzero, randdiscard.\n"
                           "All but the reads change the image!"},
    {OPT_MIX, "mix", "PERCENT", "of rw and randrw that are reads (50)"},
    {OPT_PATTERN, "pattern", "ORDER", "seq, rand, or step:BYTES from one request to the next;\noverrides --rw"
                                      ". Or, with -w, a byte (0)"},
    {OPT_BLOCK, "bs", "BYTES", "length of a request (4K)"},
    {OPT_DEPTH, "depth", "N", "requests in flight, of each queue (32; at most 4096)"},
    {OPT_QUEUES, "queues", "N", "threads, each with a queue, on the one open volume (1)"},
    {OPT_QUEUE_KIND, "queue-kind", "KIND", "auto (default), uring-defer, uring or threads"},
    {OPT_RUNTIME, "runtime", "SECONDS", "stop after so long (5, without --count); fractions are fine"},
    {OPT_RAMP, "ramp", "SECONDS", "run for so long before counting (0)"},
    {OPT_COUNT, "count", "N", "stop after so many requests of all queues (no flushes)"},
    {OPT_OFFSET, "offset", "BYTES", "use the volume from here (0)"},
    {OPT_SIZE, "size", "BYTES", "use so much of it (to its end); the scenario's image size"},
    {OPT_FLUSH, "flush-every", "N", "a flush after each N writes of a queue"},
    {OPT_FUA, "fua", NULL, "writes and zeroes are durable when they complete"},
    {OPT_UNMAP, "unmap", NULL, "zeroes may give space back"},
    {OPT_SEED, "seed", "N", "of offsets, kinds and data (1)"},
    {'t', "cache", "MODE", "direct (default: O_DIRECT where the file allows it) or buffered;\n"
                           "or as qemu-img: none, writeback, writethrough, directsync, unsafe"},
    {OPT_REGISTER, "register", NULL, "register the buffers with the kernel"},
    {OPT_LATENCY, "latency", "WHICH", "all (default), or off: keep none"},
    {OPT_SCENARIO, "scenario", "NAME", "instead of an image: 'first-touch', a sparse qcow2 image in\n"
                                       "memory, gone through once (--size, 2G; --cluster-size, 4K);\n"
                                       "'lookup', a mapped qcow2 image with its\n"
                                       "metadata in memory and its data nowhere (--size, 64G)"},
    {OPT_CLUSTER, "cluster-size", "BYTES", "of the scenario's image (64K)"},
    {OPT_METADATA_CACHE, "metadata-cache", "BYTES", "bound for cached metadata (32M; lookup: all of it)"},
    {'p', "progress", NULL, "show progress"},
    {OPT_OUTPUT, "output", "FORM", "human (default) or json"},
    {'U', "force-share", NULL, "open even if another process writes to the image"},
    {'c', NULL, "N", "as qemu-img: so many requests (75000)"},
    {'d', NULL, "N", "as qemu-img: so many in flight (64)"},
    {'s', "buffer-size", "BYTES", "as qemu-img: length of a request (4K)"},
    {'o', NULL, "BYTES", "as qemu-img: offset of the first one (0)"},
    {'S', "step-size", "BYTES", "as qemu-img: from one to the next (their length)"},
    {'w', "write", NULL, "as qemu-img: write. Changes the image!"},
    {OPT_FLUSH_INTERVAL, "flush-interval", "N", "as qemu-img, with -w: a flush after so many"},
    {OPT_NO_DRAIN, "no-drain", NULL, "as qemu-img: others are in flight while it flushes"},
    {'i', "aio", "KIND", "as qemu-img: threads, native or io_uring"},
    {'n', "native", NULL, "as qemu-img: -i native"},
    {'q', "quiet", NULL, "as qemu-img: accepted"},
    CLI_IMAGE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static const struct {
    const char      *name;
    enum bench_kind  kind;
    enum bench_order order;
    bool             mixed;
} workloads[] = {
    {"read", BENCH_READ, BENCH_SEQUENTIAL, false},      {"randread", BENCH_READ, BENCH_RANDOM, false},
    {"write", BENCH_WRITE, BENCH_SEQUENTIAL, false},    {"randwrite", BENCH_WRITE, BENCH_RANDOM, false},
    {"rw", BENCH_WRITE, BENCH_SEQUENTIAL, true},        {"randrw", BENCH_WRITE, BENCH_RANDOM, true},
    {"zero", BENCH_ZERO, BENCH_SEQUENTIAL, false},      {"randzero", BENCH_ZERO, BENCH_RANDOM, false},
    {"discard", BENCH_DISCARD, BENCH_SEQUENTIAL, false}, {"randdiscard", BENCH_DISCARD, BENCH_RANDOM, false},
};

static int bad_option(const struct bench *b, const char *name, const char *value, const char *expected)
{
    cli_usage_error(b->verb, "--%s takes %s, not '%s'", name, expected, value);
    return -1;
}

static int parse_workload(struct bench *b, const char *value)
{
    for (size_t i = 0; i < ARRAY_LEN(workloads); i++) {
        if (strcmp(value, workloads[i].name) == 0) {
            b->rw = workloads[i].name;
            b->load.kind = workloads[i].kind;
            b->load.order = workloads[i].order;
            b->load.read_percent = workloads[i].kind == BENCH_READ ? 100 : workloads[i].mixed ? 50 : 0;
            return 0;
        }
    }
    return bad_option(b, "rw", value, "read, write, rw, zero, discard, or one of these after 'rand'");
}

static int parse_pattern(struct bench *b, const char *value)
{
    if (value[0] >= '0' && value[0] <= '9') {
        b->qemu_option = "a byte as --pattern";
        return cli_parse_ranged(b->verb, "pattern byte", value, 0, 255, &b->qemu.pattern) == CLI_OK ? 0 : -1;
    }
    b->own_option = "--pattern";
    b->pattern = value;
    if (strcmp(value, "seq") == 0) {
        b->load.order = BENCH_SEQUENTIAL;
    } else if (strcmp(value, "rand") == 0) {
        b->load.order = BENCH_RANDOM;
    } else if (strncmp(value, "step:", 5) == 0 && cli_parse_size(value + 5, &b->load.step) == 0 &&
               b->load.step > 0 && b->load.step <= INT64_MAX) {
        b->load.order = BENCH_STEP;
    } else {
        return bad_option(b, "pattern", value, "seq, rand or step:BYTES, or a byte");
    }
    return 0;
}

static int parse_seconds(const struct bench *b, const char *name, const char *value, uint64_t *ret_ns)
{
    char *end;
    double seconds = strtod(value, &end);

    if (end == value || *end != '\0' || !(seconds >= 0 && seconds <= 1e6))
        return bad_option(b, name, value, "seconds, up to a million");
    *ret_ns = (uint64_t)(seconds * 1e9);
    return 0;
}

static int parse_count(const struct bench *b, const char *name, const char *value, uint64_t max, uint64_t *ret)
{
    char expected[64];

    if (cli_parse_number(value, max, ret) == 0 && *ret > 0)
        return 0;
    snprintf(expected, sizeof expected, "a number from 1 to %" PRIu64, max);
    return bad_option(b, name, value, expected);
}

static int parse_bytes(const struct bench *b, const char *name, const char *value, uint64_t *ret)
{
    if (cli_parse_size(value, ret) == 0 && *ret <= INT64_MAX)
        return 0;
    return bad_option(b, name, value, "bytes, or a number with K, M, G, T, P or E");
}

static int parse_queue_kind(struct bench *b, const char *value)
{
    static const char *const names[] = {
        [VDISK_QUEUE_AUTO] = "auto", [VDISK_QUEUE_URING_DEFER] = "uring-defer", [VDISK_QUEUE_URING] = "uring",
        [VDISK_QUEUE_THREADS] = "threads",
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(value, names[i]) == 0) {
            b->load.queue_kind = (enum vdisk_queue_kind)i;
            return 0;
        }
    }
    return bad_option(b, "queue-kind", value, "auto, uring-defer, uring or threads");
}

/* One of two words; the second is true. */
static int parse_choice(const struct bench *b, const char *name, const char *value, const char *first,
                        const char *second, bool *ret)
{
    char expected[64];

    *ret = strcmp(value, second) == 0;
    if (*ret || strcmp(value, first) == 0)
        return 0;
    snprintf(expected, sizeof expected, "%s or %s", first, second);
    return bad_option(b, name, value, expected);
}

static int parse_size_option(struct bench *b, int id, const char *value)
{
    switch (id) {
    case OPT_BLOCK: return parse_bytes(b, "bs", value, &b->load.block);
    case OPT_OFFSET: return parse_bytes(b, "offset", value, &b->load.offset);
    case OPT_CLUSTER: return parse_bytes(b, "cluster-size", value, &b->cluster_size);
    case OPT_METADATA_CACHE: return parse_bytes(b, "metadata-cache", value, &b->how.cache_bytes);
    default: b->have_size = true; return parse_bytes(b, "size", value, &b->load.size);
    }
}

static int parse_number_option(struct bench *b, int id, const char *value)
{
    struct bench_load *l = &b->load;
    uint64_t n = 0;
    int rc;

    switch (id) {
    case OPT_DEPTH:
        rc = parse_count(b, "depth", value, BENCH_MAX_DEPTH, &n);
        b->qemu.depth = n;
        l->depth = (unsigned)n;
        return rc;
    case OPT_QUEUES:
        rc = parse_count(b, "queues", value, BENCH_MAX_QUEUES, &n);
        l->queues = (unsigned)n;
        return rc;
    case OPT_COUNT: return parse_count(b, "count", value, UINT64_MAX / 2, &l->count);
    case OPT_FLUSH: return parse_count(b, "flush-every", value, UINT64_MAX / 2, &l->flush_every);
    case OPT_SEED:
        return cli_parse_number(value, UINT64_MAX, &l->seed) == 0 ? 0 : bad_option(b, "seed", value, "a number");
    default:
        b->have_mix = true;
        return cli_parse_number(value, 100, &b->mix) == 0 ? 0 : bad_option(b, "mix", value, "0 to 100");
    }
}

static int parse_cache(struct bench *b, const char *value)
{
    static const char modes[] = "direct or buffered, or none, writeback, writethrough, directsync or unsafe";
    bool buffered = strcmp(value, "buffered") == 0;
    uint32_t mode = buffered ? VDISK_OPEN_BUFFERED : 0;

    if (buffered || strcmp(value, "direct") == 0)
        b->own_option = buffered ? "-t buffered" : "-t direct";
    else if (target_cache_flags(value, &mode))
        b->qemu_option = "this -t";
    else
        return bad_option(b, "cache", value, modes);
    b->have_cache = true;
    b->qemu.fua = strcmp(value, "writethrough") == 0 || strcmp(value, "directsync") == 0;
    b->how.flags = (b->how.flags & ~(uint32_t)(VDISK_OPEN_BUFFERED | VDISK_OPEN_UNSAFE)) | mode;
    return 0;
}

static int parse_aio(struct bench *b, const char *value)
{
    if (strcmp(value, "threads") == 0)
        b->qemu.queue_kind = VDISK_QUEUE_THREADS;
    else if (strcmp(value, "native") == 0)
        b->native = true;
    else if (strcmp(value, "io_uring") != 0)
        return bad_option(b, "aio", value, "threads, native or io_uring");
    return 0;
}

/* What only qemu-img has. -1: said so. */
static int parse_qemu_option(struct bench *b, int id, const char *value)
{
    static const struct {
        int id;
        const char *option, *what;
        uint64_t least;
    } numbers[] = {
        {'c', "-c", "request count", 1}, {'d', "-d", "queue depth", 1}, {'s', "-s", "buffer size", 1},
        {'S', "-S", "step size", 0}, {OPT_FLUSH_INTERVAL, "--flush-interval", "flush interval", 0},
    };
    struct bench_as_qemu *q = &b->qemu;
    uint64_t *const to[] = {&b->load.count, &q->depth, &q->block, &q->step, &q->flush_interval};
    int rc;

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        if (numbers[i].id != id)
            continue;
        b->qemu_option = numbers[i].option;
        rc = cli_parse_ranged(b->verb, numbers[i].what, value, numbers[i].least, INT32_MAX, to[i]);
        return rc == CLI_OK ? 0 : -1;
    }
    b->qemu_option = id == 'o' ? "-o" : id == 'w' ? "-w" : id == 'q' ? "-q" : id == 'i' || id == 'n' ? "-i" :
                                                                              "--no-drain";
    q->write |= id == 'w';
    q->no_drain |= id == OPT_NO_DRAIN;
    b->native |= id == 'n';
    if (id == 'o')
        return cli_parse_ranged(b->verb, "offset", value, 0, INT64_MAX, &b->load.offset) == CLI_OK ? 0 : -1;
    return id == 'i' ? parse_aio(b, value) : 0;
}

/* Those that both have by one name are of neither. */
static void note_own(struct bench *b, int id)
{
    static const int both[] = {'f', 't', 'U', OPT_COUNT, OPT_DEPTH, OPT_OFFSET, OPT_PATTERN};

    for (size_t i = 0; i < ARRAY_LEN(both); i++)
        if (both[i] == id)
            return;
    for (const struct cli_option *o = options; o->id != 0 && id != CLI_ERROR; o++)
        if (o->id == id)
            b->own_option = o->name;
}

static int parse_option(struct bench *b, int id, const char *value)
{
    struct bench_load *l = &b->load;

    if ((id < CLI_LONG_ONLY && id > 0 && strchr("cdsoSwinq", id)) || id == OPT_FLUSH_INTERVAL ||
        id == OPT_NO_DRAIN)
        return parse_qemu_option(b, id, value);
    note_own(b, id);
    switch (id) {
    case 'f': b->how.format = value; return 0;
    case 'p': l->progress = true; return 0;
    case 'U': b->how.flags |= VDISK_OPEN_FORCE_SHARE; return 0;
    case 't': return parse_cache(b, value);
    case OPT_RW: return parse_workload(b, value);
    case OPT_PATTERN: return parse_pattern(b, value);
    case OPT_QUEUE_KIND: return parse_queue_kind(b, value);
    case OPT_RUNTIME: return parse_seconds(b, "runtime", value, &l->runtime_ns);
    case OPT_RAMP: return parse_seconds(b, "ramp", value, &l->ramp_ns);
    case OPT_FUA: l->write_flags |= VDISK_REQ_FUA; return 0;
    case OPT_UNMAP: l->write_flags |= VDISK_REQ_UNMAP; return 0;
    case OPT_REGISTER: l->register_buffers = true; return 0;
    case OPT_LATENCY: return parse_choice(b, "latency", value, "off", "all", &l->latency);
    case OPT_OUTPUT: return parse_choice(b, "output", value, "human", "json", &b->json);
    case OPT_SCENARIO:
        b->scenario = bench_scenario_find(value);
        return b->scenario ? 0 : bad_option(b, "scenario", value, "lookup or first-touch");
    case OPT_BLOCK:
    case OPT_OFFSET:
    case OPT_SIZE:
    case OPT_CLUSTER:
    case OPT_METADATA_CACHE: return parse_size_option(b, id, value);
    case CLI_ERROR: return -1;
    default: return parse_number_option(b, id, value);
    }
}

/* --pattern has its say over --rw whichever came first; so has --mix. */
static int settle_options(struct bench *b)
{
    struct bench_load *l = &b->load;

    if (b->pattern != NULL && parse_pattern(b, b->pattern) < 0)
        return -1;
    if (b->have_mix && (l->read_percent == 0 || l->read_percent == 100)) {
        cli_usage_error(b->verb, "--mix goes with --rw rw or randrw");
        return -1;
    }
    if (b->have_mix)
        l->read_percent = (unsigned)b->mix;
    if ((l->write_flags & VDISK_REQ_UNMAP) && l->kind != BENCH_ZERO) {
        cli_usage_error(b->verb, "--unmap goes with --rw zero or randzero");
        return -1;
    }
    if (l->block == 0 || l->block > (1u << 30)) {
        cli_usage_error(b->verb, "--bs takes 1 to 1G");
        return -1;
    }
    if (b->scenario && b->scenario->once && l->count == 0)
        l->count = (b->have_size ? l->size : b->scenario->size) / l->block;
    if (l->runtime_ns == 0 && l->count == 0)
        l->runtime_ns = UINT64_C(5000000000);
    return 0;
}

/* ---- the volume ------------------------------------------------------------------------------------ */

static int open_volume(struct bench *b, vdisk **ret)
{
    if (b->scenario != NULL) {
        b->name = b->scenario->name;
        if (!b->have_size)
            b->load.size = b->scenario->size;
        b->have_size = true;
        return b->scenario->open(b->load.size, (uint32_t)b->cluster_size, b->how.cache_bytes, ret);
    }
    if (b->load.read_percent != 100)
        b->how.flags |= VDISK_OPEN_RDWR;
    if (cli_open(b->name, &b->how, ret) < 0) {
        cli_library_error();
        return -1;
    }
    return 0;
}

static int settle_range(struct bench *b, vdisk *v)
{
    struct bench_load *l = &b->load;
    uint64_t size = vdisk_size(v), least;

    if (l->offset > size || (b->have_size && l->size > size - l->offset)) {
        cli_error("bench: %s: --offset and --size reach past the end of the volume at %" PRIu64, b->name, size);
        return -1;
    }
    if (!b->have_size)
        l->size = size - l->offset;
    least = l->block * (l->order == BENCH_SEQUENTIAL ? l->queues : 1);
    if (l->size < least) {
        cli_error("bench: %s: %" PRIu64 " bytes are too few: %u queue(s) with --bs %" PRIu64 " need %" PRIu64,
                  b->name, l->size, l->queues, l->block, least);
        return -1;
    }
    return 0;
}

/* ---- reports --------------------------------------------------------------------------------------- */

static const char *const kind_names[] = {"read", "write", "zero", "discard", "flush"};
static const double ranks[] = {0.5, 0.9, 0.99, 0.999};
static const char *const rank_names[] = {"p50", "p90", "p99", "p99.9"};

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static uint64_t all_requests(const struct bench_result *r)
{
    uint64_t n = 0;

    for (int k = 0; k < BENCH_FLUSH; k++)
        n += r->kinds[k].count;
    return n;
}

static double per_second(uint64_t n, const struct bench_result *r)
{
    return (double)n * 1e9 / (double)r->elapsed_ns;
}

/* "1.23 ms": three digits, in the unit that fits. */
static const char *format_ns(double ns, char *buf, size_t room)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    size_t unit = 0;

    while (ns >= 1000.0 && unit + 1 < ARRAY_LEN(units)) {
        ns /= 1000.0;
        unit++;
    }
    snprintf(buf, room, "%.*f %s", unit == 0 || ns >= 100.0 ? 0 : ns >= 10.0 ? 1 : 2, ns, units[unit]);
    return buf;
}

static void print_kind(const struct bench_result *r, int kind)
{
    const struct bench_stats *s = &r->kinds[kind];
    const struct histogram *h = &s->latency;
    char buf[32];

    if (s->count == 0)
        return;
    printf("%-8s %.0f IOPS, %.1f MB/s (%" PRIu64 " requests)\n", kind_names[kind], per_second(s->count, r),
           per_second(s->bytes, r) / 1e6, s->count);
    if (h->count == 0)
        return;
    printf("         latency: min %s", format_ns((double)h->min, buf, sizeof buf));
    printf(", mean %s", format_ns(histogram_mean(h), buf, sizeof buf));
    for (size_t i = 0; i < ARRAY_LEN(ranks); i++)
        printf(", %s %s", rank_names[i], format_ns((double)histogram_percentile(h, ranks[i]), buf, sizeof buf));
    printf(", max %s\n", format_ns((double)h->max, buf, sizeof buf));
}

static void print_human(const struct bench *b, const struct bench_result *r)
{
    double user = seconds_of(r->cpu.ru_utime), system = seconds_of(r->cpu.ru_stime);
    double n = (double)max_u64(all_requests(r), 1), elapsed = (double)r->elapsed_ns / 1e9;
    char size[32];

    printf("%s: %s (%s on %s, %s)\n", cli_given_name(b->name), b->rw, b->info.format, b->info.backend,
           b->info.direct ? "direct" : "not direct");
    printf("         %s%s%s requests, depth %u, %u queue%s of kind %s%s, %.2f s\n",
           b->pattern != NULL ? b->pattern : "", b->pattern != NULL ? ", " : "",
           cli_format_size(b->load.block, size, sizeof size), b->load.depth, b->load.queues,
           b->load.queues == 1 ? "" : "s", vdisk_queue_kind_name(r->queue_kind),
           r->registered ? ", registered buffers" : "", elapsed);
    for (int k = 0; k < BENCH_KINDS; k++)
        print_kind(r, k);
    printf("cpu      %.3f us a request: %.3f user, %.3f system; %.2f cores busy\n", (user + system) / n * 1e6,
           user / n * 1e6, system / n * 1e6, (user + system) / elapsed);
}

static json_t *latency_json(const struct histogram *h)
{
    json_t *out = json_object();

    json_object_set_new(out, "min", json_integer((json_int_t)h->min));
    json_object_set_new(out, "mean", json_real(histogram_mean(h)));
    for (size_t i = 0; i < ARRAY_LEN(ranks); i++)
        json_object_set_new(out, rank_names[i], json_integer((json_int_t)histogram_percentile(h, ranks[i])));
    json_object_set_new(out, "max", json_integer((json_int_t)h->max));
    return out;
}

static json_t *kind_json(const struct bench_result *r, int kind)
{
    const struct bench_stats *s = &r->kinds[kind];
    json_t *out = json_object();

    json_object_set_new(out, "requests", json_integer((json_int_t)s->count));
    json_object_set_new(out, "bytes", json_integer((json_int_t)s->bytes));
    json_object_set_new(out, "iops", json_real(per_second(s->count, r)));
    json_object_set_new(out, "mb-per-s", json_real(per_second(s->bytes, r) / 1e6));
    if (s->latency.count > 0)
        json_object_set_new(out, "latency-ns", latency_json(&s->latency));
    return out;
}

static json_t *settings_json(const struct bench *b, const struct bench_result *r)
{
    const struct bench_load *l = &b->load;
    json_t *out = json_object();

    json_object_set_new(out, "filename", cli_json_string(cli_given_name(b->name)));
    json_object_set_new(out, "format", json_string(b->info.format));
    json_object_set_new(out, "backend", json_string(b->info.backend));
    json_object_set_new(out, "direct", json_boolean(b->info.direct));
    json_object_set_new(out, "queue-kind", json_string(vdisk_queue_kind_name(r->queue_kind)));
    json_object_set_new(out, "registered-buffers", json_boolean(r->registered));
    json_object_set_new(out, "rw", json_string(b->rw));
    if (b->pattern != NULL)
        json_object_set_new(out, "pattern", json_string(b->pattern));
    json_object_set_new(out, "read-percent", json_integer((json_int_t)l->read_percent));
    json_object_set_new(out, "bs", json_integer((json_int_t)l->block));
    json_object_set_new(out, "depth", json_integer((json_int_t)l->depth));
    json_object_set_new(out, "queues", json_integer((json_int_t)l->queues));
    json_object_set_new(out, "offset", json_integer((json_int_t)l->offset));
    json_object_set_new(out, "size", json_integer((json_int_t)l->size));
    json_object_set_new(out, "flush-every", json_integer((json_int_t)l->flush_every));
    json_object_set_new(out, "fua", json_boolean(l->write_flags & VDISK_REQ_FUA));
    json_object_set_new(out, "seed", json_integer((json_int_t)l->seed));
    return out;
}

static int print_json(const struct bench *b, const struct bench_result *r)
{
    double user = seconds_of(r->cpu.ru_utime), system = seconds_of(r->cpu.ru_stime);
    double n = (double)max_u64(all_requests(r), 1);
    json_t *out = settings_json(b, r), *cpu = json_object();
    uint64_t bytes = 0;

    for (int k = 0; k < BENCH_KINDS; k++)
        bytes += r->kinds[k].bytes;
    json_object_set_new(out, "elapsed-s", json_real((double)r->elapsed_ns / 1e9));
    json_object_set_new(out, "requests", json_integer((json_int_t)all_requests(r)));
    json_object_set_new(out, "iops", json_real(per_second(all_requests(r), r)));
    json_object_set_new(out, "mb-per-s", json_real(per_second(bytes, r) / 1e6));
    for (int k = 0; k < BENCH_KINDS; k++) {
        if (r->kinds[k].count > 0)
            json_object_set_new(out, kind_names[k], kind_json(r, k));
    }
    json_object_set_new(cpu, "user-s", json_real(user));
    json_object_set_new(cpu, "system-s", json_real(system));
    json_object_set_new(cpu, "us-per-request", json_real((user + system) / n * 1e6));
    json_object_set_new(out, "cpu", cpu);
    return cli_json_print(out);
}

/* ---- as qemu-img ----------------------------------------------------------------------------------- */

static int check_as_qemu(const struct bench *b)
{
    const struct bench_as_qemu *q = &b->qemu;

    if (q->flush_interval != 0 && !q->write)
        return cli_usage_error(b->verb, "--flush-interval is only available in write tests");
    if (q->flush_interval != 0 && q->flush_interval < q->depth)
        return cli_usage_error(b->verb, "Flush interval can't be smaller than depth");
    if (b->native && b->how.flags & VDISK_OPEN_BUFFERED)
        return cli_usage_error(b->verb, "aio=native needs direct I/O: -t none or directsync");
    return CLI_OK;
}

static int measure_as_qemu(struct bench *b)
{
    struct bench_as_qemu *q = &b->qemu;
    vdisk *v;
    int rc;

    q->count = b->load.count != 0 ? b->load.count : 75000;
    q->offset = b->load.offset;
    if (!b->have_cache)
        b->how.flags |= VDISK_OPEN_BUFFERED;
    if (check_as_qemu(b) != CLI_OK)
        return CLI_FAILED;
    if (q->write)
        b->how.flags |= VDISK_OPEN_RDWR;
    if (cli_open(b->name, &b->how, &v) < 0)
        return cli_library_error();
    rc = bench_as_qemu_run(v, q);
    if (vdisk_close(v) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    return rc;
}

/* ---- all of it ------------------------------------------------------------------------------------- */

static int measure(struct bench *b)
{
    struct bench_result *result;
    vdisk *v;
    int rc;

    if (open_volume(b, &v) < 0)
        return CLI_FAILED;
    b->info.size = sizeof b->info;
    result = cli_calloc(1, sizeof *result); /* histograms: too much for a stack */
    if (vdisk_get_info(v, &b->info) < 0)
        rc = cli_library_error();
    else
        rc = settle_range(b, v) < 0 || bench_run(v, &b->load, result) < 0 ? CLI_FAILED : CLI_OK;
    if (rc == CLI_OK && b->json)
        rc = print_json(b, result);
    else if (rc == CLI_OK)
        print_human(b, result);
    free(result);
    if (vdisk_close(v) < 0 && rc == CLI_OK)
        rc = cli_library_error();
    return rc;
}

static int run(const struct cli_verb *verb, int argc, char **argv)
{
    struct bench b = {
        .verb = verb,
        .how = {.size = sizeof b.how},
        .load = {.block = 4096, .depth = 32, .queues = 1, .seed = 1, .latency = true},
        .qemu = {.depth = 64, .block = 4096},
    };
    bool as_qemu;
    struct cli_parser p;
    char **operands;
    int n;

    parse_workload(&b, "read");
    cli_parser_init(&p, verb, argc, argv);
    for (int id; (id = cli_parser_next(&p)) != CLI_END;) {
        if (parse_option(&b, id, p.value) < 0)
            return CLI_FAILED;
    }
    as_qemu = b.qemu_option != NULL || (cli_is_qemu_img() && b.own_option == NULL);
    if (b.qemu_option != NULL && b.own_option != NULL)
        return cli_usage_error(verb, "%s is an option of qemu-img bench, which has no %s", b.qemu_option,
                               b.own_option);
    if (!as_qemu && settle_options(&b) < 0)
        return CLI_FAILED;
    b.load.progress = b.load.progress && !b.json;
    n = cli_operands(&p, &operands);
    if (n != (b.scenario != NULL ? 0 : 1))
        return cli_usage_error(verb, b.scenario != NULL ? "takes no image with --scenario" :
                                                          "takes the name of one image");
    b.name = n > 0 ? cli_image(&p, operands[0], b.how.format) : NULL;
    if (n > 0 && b.name == NULL)
        return CLI_FAILED;
    return as_qemu ? measure_as_qemu(&b) : measure(&b);
}

const struct cli_verb cli_bench = {
    .name = "bench",
    .summary = "Measure I/O to a volume: IOPS, throughput, latency, CPU.",
    .usage = "[OPTION]... NAME\n       vdisk-io bench --scenario NAME [OPTION]...",
    .options = options,
    .notes = "Sequential queues share the range out among them; random ones and steps use all of it.\n"
             "Latency runs from enqueue to the reap that handed the completion out; CPU is that of the\n"
             "whole process, kernel workers included, while it counted. Try 'null:64G' with -f raw as NAME\n"
             "for the cost of the engine itself.\n"
             "With an option marked so, or called as qemu-img, it does what qemu-img bench does: equal\n"
             "requests one after the other, and prints how long they took.\n"
             "Exit code: 0, or 1 after a failed request or a wrong option.\n",
    .run = run,
};
