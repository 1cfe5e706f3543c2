/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of the NBD protocol (doc/proto.md of the nbd project): fixed newstyle handshake, options, commands
 * with compact and extended headers, simple and structured replies. Client and server stand on it.
 *
 * Promise. Pure: bytes in, values out, and back. No I/O, no memory of its own, no state, no error text; any
 * thread. What is read is anybody's: nothing outside of `len` is looked at, no length that it holds is believed
 * before it was compared with what is there; a view (struct nbd_string and the like) points into what was given.
 *
 * Functions that read give 0, or -EPROTO: that is not what the protocol has there; the result is untouched then.
 * Functions that write a part of fixed length cannot fail; others give the length, or 0: it does not fit in
 * `size`. Numbers on the wire are big-endian, those in structs the host's. Names are the protocol's.
 */
#ifndef NBD_WIRE_H
#define NBD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- limits and sizes --------------------------------------------------------------------------------- */

enum {
    NBD_MAX_STRING            = 4096,     /* bytes of a name, a description, a message */
    NBD_MAX_PAYLOAD           = 32 << 20, /* of one read or write, where no block size was told */
    NBD_DEFAULT_PORT          = 10809,

    NBD_GREETING_SIZE         = 18,
    NBD_CLIENT_FLAGS_SIZE     = 4,
    NBD_OPTION_SIZE           = 16,
    NBD_OPTION_REPLY_SIZE     = 20,
    NBD_EXPORT_SIZE           = 10,
    NBD_EXPORT_ZEROES         = 124, /* follow that, where both sides have not said NO_ZEROES */
    NBD_INFO_MAX_SIZE         = 2 + NBD_MAX_STRING,

    NBD_REQUEST_SIZE          = 28,
    NBD_EXTENDED_REQUEST_SIZE = 32,
    NBD_SIMPLE_REPLY_SIZE     = 16,
    NBD_CHUNK_SIZE            = 20,
    NBD_EXTENDED_CHUNK_SIZE   = 32,
    NBD_OFFSET_DATA_SIZE      = 8, /* before the data */
    NBD_OFFSET_HOLE_SIZE      = 12,
    NBD_ERROR_SIZE            = 6, /* before the message */
    NBD_STATUS_SIZE           = 4, /* before the descriptors */
    NBD_STATUS_EXT_SIZE       = 8,
    NBD_DESCRIPTOR_SIZE       = 8,
    NBD_DESCRIPTOR_EXT_SIZE   = 16,
    NBD_STATUS_PAYLOAD_SIZE   = 8, /* before the ids of contexts */
};

#define NBD_MAGIC              UINT64_C(0x4e42444d41474943)
#define NBD_OPTION_MAGIC       UINT64_C(0x49484156454f5054)
#define NBD_OLDSTYLE_MAGIC     UINT64_C(0x0000420281861253)
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC   0x6e8a278cu

/* ---- handshake ---------------------------------------------------------------------------------------- */

/* Of the server; the client answers with the same bits. */
enum nbd_handshake_flags {
    NBD_FLAG_FIXED_NEWSTYLE = 1u << 0,
    NBD_FLAG_NO_ZEROES      = 1u << 1,
};

enum nbd_option_type {
    NBD_OPT_EXPORT_NAME       = 1,
    NBD_OPT_ABORT             = 2,
    NBD_OPT_LIST              = 3,
    NBD_OPT_STARTTLS          = 5,
    NBD_OPT_INFO              = 6,
    NBD_OPT_GO                = 7,
    NBD_OPT_STRUCTURED_REPLY  = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT  = 10,
    NBD_OPT_EXTENDED_HEADERS  = 11,
};

#define NBD_REP_FLAG_ERROR 0x80000000u

enum nbd_option_reply_type {
    NBD_REP_ACK                 = 1,
    NBD_REP_SERVER              = 2,
    NBD_REP_INFO                = 3,
    NBD_REP_META_CONTEXT        = 4,
};

#define NBD_REP_ERR_UNSUP           (NBD_REP_FLAG_ERROR | 1)  /* an option that is not known */
#define NBD_REP_ERR_POLICY          (NBD_REP_FLAG_ERROR | 2)  /* known, and forbidden */
#define NBD_REP_ERR_INVALID         (NBD_REP_FLAG_ERROR | 3)  /* its data is wrong */
#define NBD_REP_ERR_PLATFORM        (NBD_REP_FLAG_ERROR | 4)  /* not as this server was built */
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_FLAG_ERROR | 5)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_FLAG_ERROR | 6)  /* no such export */
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_FLAG_ERROR | 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_FLAG_ERROR | 8)  /* ask for INFO_BLOCK_SIZE first */
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_FLAG_ERROR | 9)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_FLAG_ERROR | 10)

enum nbd_info_type {
    NBD_INFO_EXPORT      = 0,
    NBD_INFO_NAME        = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE  = 3,
};

/* What an export can do. */
enum nbd_transmission_flags {
    NBD_FLAG_HAS_FLAGS            = 1u << 0,
    NBD_FLAG_READ_ONLY            = 1u << 1,
    NBD_FLAG_SEND_FLUSH           = 1u << 2,
    NBD_FLAG_SEND_FUA             = 1u << 3,
    NBD_FLAG_ROTATIONAL           = 1u << 4,
    NBD_FLAG_SEND_TRIM            = 1u << 5,
    NBD_FLAG_SEND_WRITE_ZEROES    = 1u << 6,
    NBD_FLAG_SEND_DF              = 1u << 7,
    NBD_FLAG_CAN_MULTI_CONN       = 1u << 8,
    NBD_FLAG_SEND_RESIZE          = 1u << 9, /* of an extension that is only a draft */
    NBD_FLAG_SEND_CACHE           = 1u << 10,
    NBD_FLAG_SEND_FAST_ZERO       = 1u << 11,
    NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1u << 12,
};

/* Text in somebody's bytes, not terminated; not NULL, also where it is empty. */
struct nbd_string {
    const char *text;
    uint32_t    length;
};

/* Is that a string of the protocol: not too long, no NUL in it? */
bool nbd_string_valid(const void *text, size_t length);
bool nbd_string_equals(struct nbd_string s, const char *text);

/* The server's first words. -EPROTO also: oldstyle, which nbd_is_oldstyle() knows. */
int nbd_greeting_get(const uint8_t buf[static NBD_GREETING_SIZE], uint16_t *ret_flags);
void nbd_greeting_put(uint8_t buf[static NBD_GREETING_SIZE], uint16_t flags);
bool nbd_is_oldstyle(const uint8_t buf[static NBD_GREETING_SIZE]);

uint32_t nbd_client_flags_get(const uint8_t buf[static NBD_CLIENT_FLAGS_SIZE]);
void nbd_client_flags_put(uint8_t buf[static NBD_CLIENT_FLAGS_SIZE], uint32_t flags);

/* What comes before the data of an option, and of a reply to one. */
struct nbd_option {
    uint32_t option; /* enum nbd_option_type, or anything */
    uint32_t length;
};

struct nbd_option_reply {
    uint32_t option;
    uint32_t type; /* NBD_REP_* */
    uint32_t length;
};

int nbd_option_get(const uint8_t buf[static NBD_OPTION_SIZE], struct nbd_option *ret);
void nbd_option_put(uint8_t buf[static NBD_OPTION_SIZE], struct nbd_option option);
int nbd_option_reply_get(const uint8_t buf[static NBD_OPTION_REPLY_SIZE], struct nbd_option_reply *ret);
void nbd_option_reply_put(uint8_t buf[static NBD_OPTION_REPLY_SIZE], struct nbd_option_reply reply);

/* The answer to EXPORT_NAME. */
struct nbd_export {
    uint64_t size;
    uint16_t flags; /* enum nbd_transmission_flags */
};

struct nbd_export nbd_export_get(const uint8_t buf[static NBD_EXPORT_SIZE]);
void nbd_export_put(uint8_t buf[static NBD_EXPORT_SIZE], struct nbd_export info);

/* Data of INFO and GO: an export's name, and which infos are wanted. */
struct nbd_info_request {
    struct nbd_string name;
    unsigned          count;
    const uint8_t    *types; /* for nbd_info_request_type() */
};

int nbd_info_request_get(const uint8_t *data, size_t len, struct nbd_info_request *ret);
uint16_t nbd_info_request_type(const struct nbd_info_request *request, unsigned index);
size_t nbd_info_request_put(uint8_t *buf, size_t size, struct nbd_string name, const uint16_t *types,
                            unsigned count);

/* Data of LIST_META_CONTEXT, SET_META_CONTEXT. All queries have been looked at: to walk along them cannot fail. */
struct nbd_meta_request {
    struct nbd_string name;
    uint32_t          count;
    const uint8_t    *queries; /* for nbd_meta_request_next() */
};

int nbd_meta_request_get(const uint8_t *data, size_t len, struct nbd_meta_request *ret);
/* `*at` is 0 at first. Called `count` times at most. */
struct nbd_string nbd_meta_request_next(const struct nbd_meta_request *request, size_t *at);
size_t nbd_meta_request_put(uint8_t *buf, size_t size, struct nbd_string name, const struct nbd_string *queries,
                            uint32_t count);

/* Data of REP_SERVER: an export's name and its description, which may be empty. */
int nbd_server_get(const uint8_t *data, size_t len, struct nbd_string *ret_name,
                   struct nbd_string *ret_description);
size_t nbd_server_put(uint8_t *buf, size_t size, struct nbd_string name, struct nbd_string description);

/* Data of REP_META_CONTEXT. */
int nbd_meta_get(const uint8_t *data, size_t len, uint32_t *ret_id, struct nbd_string *ret_name);
size_t nbd_meta_put(uint8_t *buf, size_t size, uint32_t id, struct nbd_string name);

/* Data of REP_INFO. Of a type that is not known only the type is set. */
struct nbd_info {
    uint16_t type; /* enum nbd_info_type, or anything */
    union {
        struct nbd_export exported; /* EXPORT */
        struct nbd_string text;     /* NAME, DESCRIPTION */
        struct nbd_block_size {
            uint32_t minimum;   /* a power of two, 64 KiB at most */
            uint32_t preferred; /* a power of two, minimum and 512 at least */
            uint32_t maximum;   /* of a payload: a multiple of the minimum, or UINT32_MAX: no limit */
        } block; /* BLOCK_SIZE */
    };
};

bool nbd_block_size_valid(const struct nbd_block_size *block);
int nbd_info_get(const uint8_t *data, size_t len, struct nbd_info *ret);
size_t nbd_info_put(uint8_t *buf, size_t size, const struct nbd_info *info);

/* ---- commands ----------------------------------------------------------------------------------------- */

enum nbd_command {
    NBD_CMD_READ         = 0,
    NBD_CMD_WRITE        = 1,
    NBD_CMD_DISC         = 2,
    NBD_CMD_FLUSH        = 3,
    NBD_CMD_TRIM         = 4,
    NBD_CMD_CACHE        = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
    NBD_CMD_RESIZE       = 8, /* of a draft */
};

enum nbd_command_flags {
    NBD_CMD_FLAG_FUA         = 1u << 0,
    NBD_CMD_FLAG_NO_HOLE     = 1u << 1, /* WRITE_ZEROES: the space stays */
    NBD_CMD_FLAG_DF          = 1u << 2, /* READ: the data in one chunk */
    NBD_CMD_FLAG_REQ_ONE     = 1u << 3, /* BLOCK_STATUS: one extent of each context */
    NBD_CMD_FLAG_FAST_ZERO   = 1u << 4, /* WRITE_ZEROES: at once, or ENOTSUP */
    NBD_CMD_FLAG_PAYLOAD_LEN = 1u << 5, /* extended headers: `length` bytes of payload follow */
};

struct nbd_request {
    uint16_t flags; /* enum nbd_command_flags */
    uint16_t type;  /* enum nbd_command, or anything */
    uint64_t cookie;
    uint64_t offset;
    uint64_t length;
};

static inline size_t nbd_request_size(bool extended)
{
    return extended ? NBD_EXTENDED_REQUEST_SIZE : NBD_REQUEST_SIZE;
}

/* `buf` has nbd_request_size() bytes. */
int nbd_request_get(const uint8_t *buf, bool extended, struct nbd_request *ret);
void nbd_request_put(uint8_t *buf, bool extended, const struct nbd_request *request);

/* Does a payload of `length` bytes follow the header? Of a write, and where PAYLOAD_LEN says so. */
bool nbd_request_has_payload(const struct nbd_request *request, bool extended);

/* The payload of BLOCK_STATUS: how far it goes, and of which contexts it is asked for. */
struct nbd_status_payload {
    uint64_t       effect;
    unsigned       count;
    const uint8_t *ids; /* for nbd_status_payload_id() */
};

int nbd_status_payload_get(const uint8_t *data, size_t len, struct nbd_status_payload *ret);
uint32_t nbd_status_payload_id(const struct nbd_status_payload *payload, unsigned index);

/* ---- replies ------------------------------------------------------------------------------------------ */

enum nbd_chunk_flags { NBD_REPLY_FLAG_DONE = 1u << 0 };

#define NBD_REPLY_TYPE_IS_ERROR(type) (((type) & 0x8000u) != 0)

enum nbd_chunk_type {
    NBD_REPLY_TYPE_NONE             = 0,
    NBD_REPLY_TYPE_OFFSET_DATA      = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE      = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS     = 5,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_TYPE_ERROR            = 0x8001,
    NBD_REPLY_TYPE_ERROR_OFFSET     = 0x8002,
};

enum nbd_error {
    NBD_SUCCESS   = 0,
    NBD_EPERM     = 1,
    NBD_EIO       = 5,
    NBD_ENOMEM    = 12,
    NBD_EINVAL    = 22,
    NBD_ENOSPC    = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP   = 95,
    NBD_ESHUTDOWN = 108,
};

/* Of 0 or -errno. */
uint32_t nbd_error_of(int rc);
/* And back; what the protocol does not know is -EINVAL, as it says. */
int nbd_error_errno(uint32_t error);

/* What state_flags of the context base:allocation mean. */
enum nbd_allocation_flags {
    NBD_STATE_HOLE = 1u << 0,
    NBD_STATE_ZERO = 1u << 1,
};

enum nbd_reply_form { NBD_REPLY_SIMPLE, NBD_REPLY_STRUCTURED, NBD_REPLY_EXTENDED };

struct nbd_reply {
    enum nbd_reply_form form;
    uint32_t error;  /* simple: 0 or enum nbd_error */
    uint16_t flags;  /* others: enum nbd_chunk_flags */
    uint16_t type;   /*         enum nbd_chunk_type, or anything */
    uint64_t cookie;
    uint64_t offset; /* extended: of the request */
    uint64_t length; /* of the payload that follows; simple: 0, what a read brings only the reader knows */
};

/* How long a reply's header is, by its first four bytes. 0: that is none. */
size_t nbd_reply_size(const uint8_t magic[static 4]);
/* `buf` has that many. */
int nbd_reply_get(const uint8_t *buf, struct nbd_reply *ret);
/* Gives the length; `buf` has NBD_EXTENDED_CHUNK_SIZE or as many as the form takes. */
size_t nbd_reply_put(uint8_t *buf, const struct nbd_reply *reply);

/* OFFSET_DATA, whose data follows; OFFSET_HOLE. */
uint64_t nbd_offset_data_get(const uint8_t buf[static NBD_OFFSET_DATA_SIZE]);
void nbd_offset_data_put(uint8_t buf[static NBD_OFFSET_DATA_SIZE], uint64_t offset);
int nbd_offset_hole_get(const uint8_t *data, size_t len, uint64_t *ret_offset, uint32_t *ret_length);
void nbd_offset_hole_put(uint8_t buf[static NBD_OFFSET_HOLE_SIZE], uint64_t offset, uint32_t length);

/* ERROR and ERROR_OFFSET. */
struct nbd_error_chunk {
    uint32_t          error;   /* enum nbd_error, or anything; not 0 */
    struct nbd_string message; /* for people */
    uint64_t          offset;  /* of ERROR_OFFSET */
};

int nbd_error_chunk_get(const uint8_t *data, size_t len, bool with_offset, struct nbd_error_chunk *ret);
size_t nbd_error_chunk_put(uint8_t *buf, size_t size, bool with_offset, const struct nbd_error_chunk *chunk);

/* BLOCK_STATUS and BLOCK_STATUS_EXT. */
struct nbd_status {
    uint32_t       context;
    unsigned       count; /* 1 at least */
    bool           extended;
    const uint8_t *descriptors; /* for nbd_status_descriptor() */
};

struct nbd_descriptor {
    uint64_t length; /* not 0 */
    uint64_t flags;
};

int nbd_status_get(const uint8_t *data, size_t len, bool extended, struct nbd_status *ret);
struct nbd_descriptor nbd_status_descriptor(const struct nbd_status *status, unsigned index);
size_t nbd_status_size(bool extended, unsigned count);
/* `buf` has nbd_status_size() bytes. Lengths and flags that are compact are below 2^32. */
void nbd_status_put(uint8_t *buf, bool extended, uint32_t context, unsigned count);
void nbd_status_descriptor_put(uint8_t *buf, bool extended, unsigned index, struct nbd_descriptor descriptor);

/* ---- for people --------------------------------------------------------------------------------------- */

/* Words for messages: "GO", "no such export", "write zeroes"; "unknown" for what has no name. Static. */
const char *nbd_option_name(uint32_t option);
const char *nbd_option_error_name(uint32_t type);
const char *nbd_command_name(uint16_t type);

#endif
