/* HTTP/2 as a client of event streams needs it: frames read piece by piece, the status of a response, frames written.
 * It touches no socket. RFC 9113, and RFC 7541 for the header fields. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { H2_FRAME = 9, H2_BLOCK = 64 << 10, H2_ENTRIES = 128 };
enum { H2_WINDOW = 65535, H2_MOST = 0x7fffffff }; /* of flow control: as a connection begins, and the largest */
enum h2_kind { H2_HEADERS, H2_DATA, H2_RESET, H2_GOAWAY, H2_SETTINGS, H2_PING, H2_UPDATE, H2_OTHER };

struct h2_event {
    enum h2_kind kind;
    uint32_t stream;
    bool end;            /* the stream is complete */
    int status;          /* HEADERS: of the response */
    const char *p;       /* DATA: a piece of it; PING: its eight bytes; SETTINGS: all of them */
    size_t n;
    uint32_t flow;       /* DATA: what it takes of the windows */
    uint32_t code;       /* RESET, GOAWAY: of the error; UPDATE: what the window gets */
};

struct h2 { /* all zeros at first */
    uint8_t head[H2_FRAME], type, flags, pad;
    uint32_t left, stream, block_stream; /* left: bytes of the frame under way */
    size_t nhead, nblock, start;         /* start: of this frame's part of the block */
    bool has_pad, first, block_ends;
    uint16_t statuses[H2_ENTRIES];       /* the newest entries of the dynamic table: 0 if it is another field */
    unsigned inserted;
    uint8_t block[H2_BLOCK];             /* a frame that is not DATA; a header block */
};

/* The next event of the input; 0: it is used up, -1: it is not HTTP/2. */
int h2_next(struct h2 *h, const char **p, const char *end, struct h2_event *event);

/* Each writes at TO, and returns the length. */
size_t h2_preface(char *to, uint32_t window);       /* with SETTINGS; window: of each stream */
size_t h2_settings_ack(char *to);
size_t h2_ping_ack(char *to, const char *eight);
size_t h2_window(char *to, uint32_t stream, uint32_t more);
size_t h2_field(char *to, const char *name, size_t nname, const char *value, size_t nvalue);
size_t h2_request(char *to, bool is_post, bool is_secure, const char *host, const char *path);
void h2_frame(char *to, uint32_t length, uint8_t type, uint8_t flags, uint32_t stream); /* its nine bytes */

enum { H2_T_DATA, H2_T_HEADERS, H2_T_RESET = 3, H2_T_SETTINGS, H2_T_PING = 6, H2_T_GOAWAY, H2_T_WINDOW, H2_T_CONTINUATION };
enum { H2_END_STREAM = 1, H2_ACK = 1, H2_END_HEADERS = 4, H2_PADDED = 8, H2_PRIORITY = 32 };
