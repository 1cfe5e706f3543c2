/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/vm/nbd_attach.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "nbd/wire.h"

enum { MAX_CONNECTIONS = 16, WAIT_S = 60, MESSAGE = 4096 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- handshake ------------------------------------------------------------------------------------------ */

static bool send_all(int fd, const void *buf, size_t len)
{
    return send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool receive(int fd, void *buf, size_t len)
{
    return recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static int connect_once(const char *place)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool is_path = strchr(place, '/') != NULL;
    int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    in.sin_port = htons((uint16_t)strtoul(place, NULL, 10));
    snprintf(un.sun_path, sizeof un.sun_path, "%s", place);
    if (fd < 0)
        die("socket");
    if (connect(fd, is_path ? (const void *)&un : (const void *)&in, is_path ? sizeof un : sizeof in) == 0) {
        if (!is_path)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        return fd;
    }
    close(fd);
    return -1;
}

/* Up to where requests may be sent. False: the server has hung up. */
static bool shake_hands(int fd, struct nbd_export *ret)
{
    uint8_t buf[MESSAGE];
    uint16_t flags;
    struct nbd_option_reply reply;
    struct nbd_info info;

    if (!receive(fd, buf, NBD_GREETING_SIZE))
        return false;
    if (nbd_greeting_get(buf, &flags) < 0 || !(flags & NBD_FLAG_FIXED_NEWSTYLE))
        die("nbd: greeting");
    nbd_client_flags_put(buf, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    size_t at = NBD_CLIENT_FLAGS_SIZE + NBD_OPTION_SIZE;
    size_t len = nbd_info_request_put(buf + at, sizeof buf - at, (struct nbd_string){"", 0}, NULL, 0);
    nbd_option_put(buf + NBD_CLIENT_FLAGS_SIZE, (struct nbd_option){NBD_OPT_GO, (uint32_t)len});
    if (!send_all(fd, buf, at + len))
        return false;
    while (receive(fd, buf, NBD_OPTION_REPLY_SIZE)) {
        if (nbd_option_reply_get(buf, &reply) < 0 || reply.type & NBD_REP_FLAG_ERROR || reply.length > sizeof buf)
            die("nbd: the export is refused");
        if (reply.type == NBD_REP_ACK)
            return true;
        if (!receive(fd, buf, reply.length))
            return false;
        if (nbd_info_get(buf, reply.length, &info) == 0 && info.type == NBD_INFO_EXPORT)
            *ret = info.exported;
    }
    return false;
}

/*
 * A connection to the export without a name. A server that is being started is waited for; one that is being
 * killed may still let somebody in, and hang up.
 */
static int open_export(const char *place, struct nbd_export *ret)
{
    const struct timespec blink = {.tv_nsec = 50000000};

    for (int tries = 0; tries < WAIT_S * 20; tries++) {
        int fd = connect_once(place);
        if (fd >= 0 && shake_hands(fd, ret))
            return fd;
        if (fd >= 0)
            close(fd);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &blink, NULL);
    }
    die(place);
    return -1;
}

/* ---- netlink -------------------------------------------------------------------------------------------- */

struct message {
    union {
        struct nlmsghdr head;
        char bytes[MESSAGE];
    };
};

static int open_netlink(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    struct sockaddr_nl self = {.nl_family = AF_NETLINK};

    if (fd < 0 || bind(fd, (const struct sockaddr *)&self, sizeof self) < 0)
        die("netlink");
    return fd;
}

static void begin(struct message *m, uint16_t family, uint8_t command)
{
    memset(m, 0, sizeof *m);
    m->head = (struct nlmsghdr){.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN, .nlmsg_type = family,
                                .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK};
    *(struct genlmsghdr *)NLMSG_DATA(&m->head) = (struct genlmsghdr){.cmd = command, .version = 1};
}

static struct nlattr *put(struct message *m, uint16_t type, const void *value, size_t len)
{
    struct nlattr *at = (void *)(m->bytes + m->head.nlmsg_len);

    at->nla_type = type;
    at->nla_len = (uint16_t)(NLA_HDRLEN + len);
    if (len > 0)
        memcpy((char *)at + NLA_HDRLEN, value, len);
    m->head.nlmsg_len += (uint32_t)NLA_ALIGN(NLA_HDRLEN + len);
    return at;
}

static void put_u64(struct message *m, uint16_t type, uint64_t value)
{
    put(m, type, &value, sizeof value);
}

static void put_u32(struct message *m, uint16_t type, uint32_t value)
{
    put(m, type, &value, sizeof value);
}

/* What has been put since is within it. */
static void nest(struct message *m, struct nlattr *outer)
{
    outer->nla_type |= NLA_F_NESTED;
    outer->nla_len = (uint16_t)(m->bytes + m->head.nlmsg_len - (char *)outer);
}

/* The attribute of that type among those from `at` to `end`, or NULL. */
static const struct nlattr *find(const void *at, const void *end, int type)
{
    for (const char *p = at; p + NLA_HDRLEN <= (const char *)end;) {
        const struct nlattr *a = (const void *)p;
        if ((a->nla_type & NLA_TYPE_MASK) == type)
            return a;
        if (a->nla_len < NLA_HDRLEN)
            break;
        p += NLA_ALIGN(a->nla_len);
    }
    return NULL;
}

static const void *value_of(const struct nlattr *a)
{
    return (const char *)a + NLA_HDRLEN;
}

static const void *end_of(const struct nlattr *a)
{
    return (const char *)a + a->nla_len;
}

static const struct nlattr *find_in(const struct message *m, int type)
{
    return find(m->bytes + NLMSG_HDRLEN + GENL_HDRLEN, m->bytes + m->head.nlmsg_len, type);
}

/* Send and wait for the answer: -errno, or 0 with what came before it in `reply` (may be NULL). */
static int ask(int fd, const struct message *m, struct message *reply)
{
    struct message got;

    if (send(fd, m, m->head.nlmsg_len, 0) < 0)
        die("netlink: send");
    for (;;) {
        ssize_t n = recv(fd, &got, sizeof got, 0);
        if (n < (ssize_t)NLMSG_HDRLEN)
            die("netlink: receive");
        if (got.head.nlmsg_type == NLMSG_ERROR)
            return ((const struct nlmsgerr *)NLMSG_DATA(&got.head))->error;
        if (reply)
            *reply = got;
    }
}

/* The family's number, and that of its only group. */
static uint16_t find_family(int fd, uint32_t *ret_group)
{
    struct message m, reply;

    begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
    put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof NBD_GENL_FAMILY_NAME);
    errno = -ask(fd, &m, &reply);
    if (errno != 0)
        die("netlink: no nbd");
    const struct nlattr *id = find_in(&reply, CTRL_ATTR_FAMILY_ID);
    const struct nlattr *groups = find_in(&reply, CTRL_ATTR_MCAST_GROUPS);
    const struct nlattr *group = groups ? find(value_of(groups), end_of(groups), 1) : NULL;
    const struct nlattr *number = group ? find(value_of(group), end_of(group), CTRL_ATTR_MCAST_GRP_ID) : NULL;
    if (!id || !number)
        die("netlink: nbd has no group");
    memcpy(ret_group, value_of(number), sizeof *ret_group);
    return *(const uint16_t *)value_of(id);
}

static void put_sockets(struct message *m, const int *fds, unsigned n)
{
    struct nlattr *all = put(m, NBD_ATTR_SOCKETS, NULL, 0);

    for (unsigned i = 0; i < n; i++) {
        struct nlattr *item = put(m, NBD_SOCK_ITEM, NULL, 0);
        put_u32(m, NBD_SOCK_FD, (uint32_t)fds[i]);
        nest(m, item);
    }
    nest(m, all);
}

static void put_times(struct message *m, const struct attach *a)
{
    put_u64(m, NBD_ATTR_TIMEOUT, a->timeout_s);
    put_u64(m, NBD_ATTR_DEAD_CONN_TIMEOUT, a->dead_s);
}

static void connect_device(int netlink, uint16_t family, const struct attach *a)
{
    struct nbd_export export = {0};
    struct message m;
    int fds[MAX_CONNECTIONS];

    for (unsigned i = 0; i < a->connections; i++)
        fds[i] = open_export(a->place, &export);
    printf("size %llu flags 0x%x\n", (unsigned long long)export.size, export.flags);
    fflush(stdout);
    if (a->writable)
        export.flags &= (uint16_t)~NBD_FLAG_READ_ONLY;
    begin(&m, family, NBD_CMD_CONNECT);
    put_u32(&m, NBD_ATTR_INDEX, a->index);
    put_u64(&m, NBD_ATTR_SIZE_BYTES, export.size);
    put_u64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, a->block);
    put_u64(&m, NBD_ATTR_SERVER_FLAGS, export.flags);
    put_times(&m, a);
    put_sockets(&m, fds, a->connections);
    errno = -ask(netlink, &m, NULL);
    if (errno != 0)
        die("netlink: connect");
    for (unsigned i = 0; i < a->connections; i++)
        close(fds[i]); /* the kernel has its own */
}

static void reconnect(const struct attach *a, uint16_t family)
{
    struct nbd_export export = {0};
    struct message m;
    int fd = open_export(a->place, &export), netlink = open_netlink();

    begin(&m, family, NBD_CMD_RECONFIGURE);
    put_u32(&m, NBD_ATTR_INDEX, a->index);
    put_times(&m, a);
    put_sockets(&m, &fd, 1);
    errno = -ask(netlink, &m, NULL);
    if (errno != 0)
        die("netlink: reconfigure");
    close(netlink);
    close(fd);
    printf("connected again\n");
    fflush(stdout);
}

/* ---- all together --------------------------------------------------------------------------------------- */

static void attach(const struct attach *a, bool keep)
{
    int netlink = open_netlink(), news = open_netlink();
    uint32_t group;
    uint16_t family = find_family(netlink, &group);
    struct message m;

    if (a->connections > MAX_CONNECTIONS ||
        setsockopt(news, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
        die("netlink: group");
    connect_device(netlink, family, a);
    while (keep) {
        if (recv(news, &m, sizeof m, 0) < (ssize_t)(NLMSG_HDRLEN + GENL_HDRLEN))
            die("netlink: news");
        const struct nlattr *index = find_in(&m, NBD_ATTR_INDEX);
        if (((const struct genlmsghdr *)NLMSG_DATA(&m.head))->cmd == NBD_CMD_LINK_DEAD && index &&
            *(const uint32_t *)value_of(index) == a->index)
            reconnect(a, family);
    }
    close(news);
    close(netlink);
}

void nbd_attach(const struct attach *a)
{
    attach(a, false);
}

void nbd_attach_and_keep(const struct attach *a)
{
    attach(a, true);
}

void nbd_detach(unsigned index)
{
    int netlink = open_netlink();
    uint32_t group;
    struct message m;

    begin(&m, find_family(netlink, &group), NBD_CMD_DISCONNECT);
    put_u32(&m, NBD_ATTR_INDEX, index);
    errno = -ask(netlink, &m, NULL);
    if (errno != 0)
        die("netlink: disconnect");
    close(netlink);
}
