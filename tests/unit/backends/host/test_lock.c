/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image locks: the arithmetic, among our own handles, and against QEMU and others that lock. */
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

#include "backends/host/lock.h"
#include "tests/unit/backend_test.h"
#include "tests/unit/loop_test.h"

#define WRITER BACKEND_RDWR
#define READER 0
#define SHARER BACKEND_SHARE

static char dir[256];
static char path[300];

/* ---- arithmetic -------------------------------------------------------------------------------------- */

static void assert_bytes(uint32_t flags, bool against, const char *want)
{
    uint16_t bytes[2 * LOCK_PERMS];
    unsigned n = lock_claim_bytes(lock_claim_for(flags), against, bytes);
    char text[100] = "";

    for (unsigned i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%u", i ? "," : "", bytes[i]);
    assert_string_equal(text, want);
}

static void bytes_are_those_of_qemu(void **state)
{
    assert_bytes(WRITER, false, "100,101,103,201,203");
    assert_bytes(BACKEND_CREATE, false, "100,101,103,201,203");
    assert_bytes(READER, false, "100,201,203");
    assert_bytes(SHARER, false, "100");
    assert_bytes(BACKEND_NO_LOCK | BACKEND_RDWR, false, "");
    assert_bytes(WRITER, true, "200,201,203,101,103");
    assert_bytes(READER, true, "200,101,103");
    assert_bytes(SHARER, true, "200");
}

static void claims_agree_or_not(void **state)
{
    static const uint32_t flags[] = {WRITER, READER, SHARER, BACKEND_NO_LOCK};
    static const bool agree[4][4] = {
        {false, false, true, true}, {false, true, true, true}, {true, true, true, true}, {true, true, true, true}};
    const struct lock_claim qemu_raw_writer = {1u << LOCK_PERM_READ | 1u << LOCK_PERM_WRITE, 0};
    struct lock_claim c;

    for (unsigned i = 0; i < 4; i++)
        for (unsigned j = 0; j < 4; j++)
            assert_int_equal(lock_claims_agree(lock_claim_for(flags[i]), lock_claim_for(flags[j])), agree[i][j]);
    assert_false(lock_claims_agree(lock_claim_for(WRITER), qemu_raw_writer));
    assert_false(lock_claims_agree(lock_claim_for(READER), qemu_raw_writer));
    assert_true(lock_claims_agree(lock_claim_for(SHARER), qemu_raw_writer));

    c = lock_claim_minus(lock_claim_for(WRITER), lock_claim_for(READER));
    assert_int_equal(c.used, 1u << LOCK_PERM_WRITE | 1u << LOCK_PERM_RESIZE);
    assert_int_equal(c.unshared, 0);
    assert_true(lock_claim_empty(lock_claim_minus(lock_claim_for(READER), lock_claim_for(WRITER))));
}

static void lines_are_parsed(void **state)
{
    struct lock_line l;

    assert_true(lock_parse_line("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:1095 100 101\n", &l));
    assert_false(l.write);
    assert_int_equal(l.start, 100);
    assert_int_equal(l.end, 101);
    assert_int_equal(l.file.device, makedev(0xfe, 0));
    assert_int_equal(l.file.node, 1095);
    assert_true(lock_parse_line("12: POSIX  ADVISORY  WRITE 765 00:1a:77 0 EOF\n", &l));
    assert_true(l.write);
    assert_int_equal(l.start, 0);
    assert_true(l.end == UINT64_MAX);
    assert_int_equal(l.file.device, makedev(0, 0x1a));
    assert_false(lock_parse_line("pos:\t0\n", &l));
    assert_false(lock_parse_line("lock:\t\n", &l));
    assert_false(lock_parse_line("", &l));
    assert_false(lock_parse_line("lock:\t1: OFDLCK ADVISORY READ -1 fe:00:1 x 101\n", &l));
    assert_false(lock_parse_line("lock:\t1: OFDLCK ADVISORY READ -1 <none>:0 0 101\n", &l));
}

static void mounts_are_parsed(void **state)
{
    uint64_t id, device;

    assert_true(lock_parse_mount("36 35 98:17 / /mnt rw,noatime shared:1 - ext4 /dev/root rw\n", &id, &device));
    assert_int_equal(id, 36);
    assert_int_equal(device, makedev(98, 17));
    assert_false(lock_parse_mount("36 35 / /mnt\n", &id, &device));
    assert_false(lock_parse_mount("", &id, &device));
}

/* ---- our own handles --------------------------------------------------------------------------------- */

static struct backend *opened(uint32_t flags)
{
    struct backend *b;

    OK(backend_open(path, flags, &b));
    return b;
}

static void assert_refused(uint32_t flags, const char *text)
{
    struct backend *b;

    assert_int_equal(backend_open(path, flags, &b), -EAGAIN);
    if (!strstr(vdisk_error_text(), path) || !strstr(vdisk_error_text(), text))
        fail_msg("the text is: %s", vdisk_error_text());
    if (strstr(vdisk_error_text(), "by this process")) /* nobody is to be stopped; to try again is of no use */
        assert_non_null(strstr(vdisk_error_hint(), "given twice"));
    else
        assert_non_null(strstr(vdisk_error_hint(), "stop it first"));
    if (flags & (BACKEND_RDWR | BACKEND_CREATE)) /* who writes cannot share */
        assert_null(strstr(vdisk_error_hint(), "force-share"));
}

static void handles_exclude_each_other(void **state)
{
    static const uint32_t flags[] = {WRITER, READER, SHARER, BACKEND_NO_LOCK | BACKEND_RDWR};
    static const char *const texts[] = {"locked for writing by this process",
                                        "locked against writers by this process"};

    for (unsigned i = 0; i < 4; i++) {
        struct backend *first = opened(flags[i]);
        for (unsigned j = 0; j < 4; j++)
            if (lock_claims_agree(lock_claim_for(flags[i]), lock_claim_for(flags[j])))
                backend_close(opened(flags[j]));
            else
                assert_refused(flags[j], texts[i]);
        backend_close(first);
    }
    backend_close(opened(WRITER)); /* nothing is left behind */
}

/* A new image over one that somebody holds: refused before it is cut. */
static void creating_locks_before_it_cuts(void **state)
{
    struct backend *b = opened(READER);
    struct stat st;

    assert_refused(BACKEND_CREATE | BACKEND_RDWR, "locked against writers");
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 0);
    backend_close(b);
}

static void claims_change(void **state)
{
    struct backend *b = opened(READER), *other = opened(READER);

    assert_int_equal(b->driver->relock(b, WRITER), -EAGAIN);
    backend_close(opened(READER)); /* what it had it still has, and no more */
    assert_refused(WRITER, "locked against writers");
    backend_close(other);
    OK(b->driver->relock(b, WRITER));
    assert_refused(READER, "locked for writing");
    OK(b->driver->relock(b, READER));
    backend_close(opened(READER));
    assert_refused(WRITER, "locked against writers");
    OK(b->driver->relock(b, SHARER));
    other = opened(WRITER);
    assert_int_equal(b->driver->relock(b, READER), -EAGAIN);
    backend_close(other);
    OK(b->driver->relock(b, BACKEND_NO_LOCK));
    backend_close(opened(WRITER));
    backend_close(b);
}

/* ---- other programs ---------------------------------------------------------------------------------- */

struct holder {
    pid_t pid;
    int   in;  /* closing it ends the program */
    int   out;
};

/* Start a program and wait until it has written something: it is then up, and holds its locks. */
static bool start(struct holder *h, char *const argv[])
{
    int in[2], out[2];
    char byte;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    h->pid = fork();
    assert_true(h->pid >= 0);
    if (h->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    h->in = in[1];
    h->out = out[0];
    return read(h->out, &byte, 1) == 1;
}

static int stop(struct holder *h)
{
    char buf[100];
    int status;

    close(h->in);
    while (read(h->out, buf, sizeof buf) > 0)
        ;
    close(h->out);
    assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static bool have(const char *program)
{
    char command[100];

    snprintf(command, sizeof command, "command -v %s >/dev/null", program);
    return system(command) == 0;
}

static char unused_option[] = "-twriteback"; /* the default */

static bool start_qemu(struct holder *h, const char *format, const char *option)
{
    char program[] = "qemu-io", f[] = "-f", fmt[16], opt[16];
    char *argv[] = {program, f, fmt, opt, path, NULL};

    snprintf(fmt, sizeof fmt, "%s", format);
    snprintf(opt, sizeof opt, "%s", option ? option : unused_option);
    return start(h, argv);
}

/* Can QEMU open it this way, now? */
static bool qemu_opens(const char *format, const char *option)
{
    char command[500];

    snprintf(command, sizeof command, "qemu-io -f %s %s -c 'read -q 0 512' %s >/dev/null 2>&1", format, option,
             path);
    return system(command) == 0;
}

static void assert_holder_named(const struct holder *h, const char *what, const char *comm)
{
    char text[100];

    snprintf(text, sizeof text, ": %s by %s (pid %d)", what, comm, (int)h->pid);
    assert_refused(WRITER, text);
}

static void qemu_holds_it(void **state)
{
    static const char *const formats[] = {"qcow2", "raw"};
    struct holder h;

    if (!have("qemu-io"))
        SKIP("no qemu-io");
    for (unsigned i = 0; i < 2; i++) {
        assert_true(start_qemu(&h, formats[i], NULL)); /* writes */
        assert_holder_named(&h, "locked for writing", "qemu-io");
        assert_refused(READER, "Failed to get shared \"write\" lock: locked for writing by qemu-io");
        backend_close(opened(SHARER));
        backend_close(opened(BACKEND_NO_LOCK | BACKEND_RDWR));
        assert_int_equal(stop(&h), 0);
        backend_close(opened(WRITER));
    }
    assert_true(start_qemu(&h, "qcow2", "-r")); /* reads */
    assert_holder_named(&h, "locked against writers", "qemu-io");
    backend_close(opened(READER));
    backend_close(opened(SHARER));
    stop(&h);
    assert_true(start_qemu(&h, "qcow2", "-rU"));
    backend_close(opened(WRITER));
    stop(&h);
}

static void we_hold_it_against_qemu(void **state)
{
    static const char *const formats[] = {"qcow2", "raw"};
    struct backend *b;

    if (!have("qemu-io"))
        SKIP("no qemu-io");
    for (unsigned i = 0; i < 2; i++) {
        assert_true(qemu_opens(formats[i], "")); /* the test's own command line is right */
        b = opened(WRITER);
        assert_false(qemu_opens(formats[i], ""));
        if (i == 0)
            assert_false(qemu_opens(formats[i], "-r")); /* raw: it claims nothing that we could speak against */
        assert_true(qemu_opens(formats[i], "-rU"));
        backend_close(b);
        b = opened(READER);
        assert_false(qemu_opens(formats[i], ""));
        assert_true(qemu_opens(formats[i], "-r"));
        backend_close(b);
        b = opened(SHARER);
        assert_true(qemu_opens(formats[i], ""));
        backend_close(b);
    }
}

/* The child's part: lock all of the file for writing, as cloud-hypervisor does, and wait. */
static void hold_whole_file(void)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR);
    char byte = 'x';

    if (fd < 0 || fcntl(fd, F_OFD_SETLK, &fl) < 0 || write(1, &byte, 1) != 1)
        _exit(1);
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

static void a_whole_file_lock_is_seen(void **state)
{
    char self[] = "/proc/self/exe", arg[] = "hold";
    char *argv[] = {self, arg, path, NULL};
    struct holder h;
    char comm[32] = "";
    FILE *f = fopen("/proc/self/comm", "r");

    assert_non_null(f);
    assert_non_null(fgets(comm, sizeof comm, f));
    fclose(f);
    assert_true(start(&h, argv));
    assert_refused(READER, "locked for writing by exe");
    assert_holder_named(&h, "locked for writing", "exe");
    stop(&h);
    backend_close(opened(WRITER));
}

/* Send `fd` away; nobody has it then, but the socket: it is as good as hidden. */
static void hide(int socket, int fd)
{
    char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    assert_int_equal(sendmsg(socket, &m, 0), 1);
    close(fd);
}

static void *close_soon(void *arg)
{
    int *sockets = arg;

    nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    close(sockets[0]);
    close(sockets[1]);
    return NULL;
}

/* A holder that cannot be found, as after kill -9, gets a moment to go. */
static void who_is_about_to_go_is_waited_for(void **state)
{
    struct image_lock l = {.held = {0, 0}};
    int fd = open(path, O_RDWR | O_CLOEXEC), sockets[2];
    struct backend *b = NULL;
    pthread_t thread;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    assert_int_equal(image_lock_set(&l, fd, path, WRITER), 0);
    hide(sockets[0], fd);
    assert_int_equal(backend_open(path, WRITER, &b), -EAGAIN);
    assert_non_null(strstr(vdisk_error_text(), "by another process"));
    assert_int_equal(pthread_create(&thread, NULL, close_soon, sockets), 0);
    OK(backend_open(path, WRITER, &b));
    pthread_join(thread, NULL);
    backend_close(b);
}

static int run_in(const char *where)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_those_of_qemu),
        cmocka_unit_test(claims_agree_or_not),
        cmocka_unit_test(lines_are_parsed),
        cmocka_unit_test(mounts_are_parsed),
        cmocka_unit_test(handles_exclude_each_other),
        cmocka_unit_test(creating_locks_before_it_cuts),
        cmocka_unit_test(claims_change),
        cmocka_unit_test(qemu_holds_it),
        cmocka_unit_test(we_hold_it_against_qemu),
        cmocka_unit_test(a_whole_file_lock_is_seen),
        cmocka_unit_test(who_is_about_to_go_is_waited_for),
    };
    char command[800];
    int rc;

    snprintf(dir, sizeof dir, "%s/vdisk-test-XXXXXX", where);
    if (!mkdtemp(dir))
        return 1;
    print_message("in %s\n", dir);
    snprintf(path, sizeof path, "%s/disk", dir);
    snprintf(command, sizeof command, "qemu-img create -q -f qcow2 %s 1M 2>/dev/null || truncate -s 1M %s", path,
             path);
    if (system(command) != 0)
        return 1;
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(dir);
    return rc;
}

/* There stat() and the locks name different devices. */
static int run_on_btrfs(const char *top)
{
    struct loop l;
    char image[300];
    int rc;

    snprintf(image, sizeof image, "%s/loop", top);
    if (!loop_mount(&l, image, 256 << 20, 512, "btrfs")) {
        print_message("skipped: no btrfs on a loop device here\n");
        return 0;
    }
    rc = run_in(l.where);
    loop_unmount(&l);
    return rc;
}

static int run_on_overlay(const char *top)
{
    static const char *const folders[] = {"lower", "upper", "work", "all"};
    char folder[4][300], options[1000];
    int rc = 0;

    for (unsigned i = 0; i < 4; i++) {
        snprintf(folder[i], sizeof folder[i], "%s/%s", top, folders[i]);
        mkdir(folder[i], 0755);
    }
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", folder[0], folder[1], folder[2]);
    if (mount("overlay", folder[3], "overlay", 0, options) == 0) {
        rc = run_in(folder[3]);
        umount2(folder[3], MNT_DETACH);
    } else {
        print_message("skipped: no overlayfs here\n");
    }
    snprintf(options, sizeof options, "rm -r %s/*", top);
    return rc + (system(options) != 0);
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    char top[256];
    int rc;

    if (argc == 3) {
        snprintf(path, sizeof path, "%s", argv[2]);
        hold_whole_file();
    }
    snprintf(top, sizeof top, "%s/vdisk-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(top))
        return 1;
    rc = run_in(top);
    rc += run_on_btrfs(top);
    rc += run_on_overlay(top);
    rmdir(top);
    return rc != 0;
}
