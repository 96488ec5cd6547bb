#include "http2.h"
#include <ctype.h>
#include <string.h>

static uint32_t be32(const void *from)
{
    const uint8_t *p = from;
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void put32(char *to, uint32_t v) { to[0] = v >> 24, to[1] = v >> 16, to[2] = v >> 8, to[3] = v; }

/* ------------------------------------------------------------ header fields */

struct text { const uint8_t *p; size_t n; bool huffman; };

/* An integer with a prefix of so many bits (RFC 7541, 5.1); false if it is broken. */
static bool integer(const uint8_t **p, const uint8_t *end, int bits, uint32_t *value)
{
    uint32_t mask = (1u << bits) - 1, v;
    if (*p == end) return false;
    v = *(*p)++ & mask;
    for (int shift = 0; v >= mask; shift += 7) {
        if (*p == end || shift > 21) return false;
        uint8_t byte = *(*p)++;
        v += (uint32_t)(byte & 127) << shift;
        if (!(byte & 128)) break;
    }
    *value = v;
    return true;
}

static bool string(const uint8_t **p, const uint8_t *end, struct text *t)
{
    uint32_t n;
    if (*p == end) return false;
    t->huffman = **p & 128;
    if (!integer(p, end, 7, &n) || n > (size_t)(end - *p)) return false;
    t->p = *p, t->n = n;
    *p += n;
    return true;
}

/* The three digits of a status: 0, 1 and 2 have Huffman codes of five bits, the others of six. */
static int status_of(struct text t)
{
    int status = 0, bits = 0;
    uint32_t all = 0;
    if (!t.huffman) {
        for (size_t i = 0; i < t.n && isdigit(t.p[i]) && i < 3; i++) status = status * 10 + t.p[i] - '0';
        return status;
    }
    for (size_t i = 0; i < t.n && i < 3; i++) all = all << 8 | t.p[i], bits += 8;
    for (int digit = 0; digit < 3; digit++) {
        if (bits < 5) return 0;
        uint32_t five = all >> (bits - 5) & 31, six = bits < 6 ? 0 : all >> (bits - 6) & 63;
        if (five <= 2) status = status * 10 + five, bits -= 5;
        else if (six >= 0x19 && six <= 0x1f) status = status * 10 + six - 0x19 + 3, bits -= 6;
        else return 0;
    }
    return status;
}

static bool is_status(struct text t)
{
    static const uint8_t packed[] = { 0xb8, 0x84, 0x8d, 0x36, 0xa3 }; /* ":status" in Huffman's code */
    if (t.huffman) return t.n == sizeof packed && !memcmp(t.p, packed, t.n);
    return t.n == 7 && !memcmp(t.p, ":status", 7);
}

/* The status that an entry of the tables stands for; 0 if it is another field, -1 if there is no such entry. */
static int entry(const struct h2 *h, uint32_t index)
{
    static const uint16_t known[] = { 200, 204, 206, 304, 400, 404, 500 };
    if (!index) return -1;
    if (index <= 61) return index >= 8 && index <= 14 ? known[index - 8] : 0;
    index -= 61; /* 1: the newest. What has been evicted need not be known, for nobody refers to it. */
    if (index > H2_ENTRIES || index > h->inserted) return -1;
    return h->statuses[(h->inserted - index) % H2_ENTRIES];
}

/* The status in a header block, whose other fields are skipped; -1 if the block is broken. */
static int block_status(struct h2 *h)
{
    const uint8_t *p = h->block, *end = p + h->nblock;
    int found = 0;
    uint32_t index;
    while (p < end) {
        uint8_t first = *p;
        struct text name = { 0 }, value;
        int status;
        if (first & 128) { /* an entry as it is */
            if (!integer(&p, end, 7, &index) || (status = entry(h, index)) < 0) return -1;
            if (status) found = status;
            continue;
        }
        if ((first & 224) == 32) { /* the size of the dynamic table */
            if (!integer(&p, end, 5, &index)) return -1;
            continue;
        }
        bool inserts = first & 64;
        if (!integer(&p, end, inserts ? 6 : 4, &index)) return -1;
        if (index ? (status = entry(h, index)) < 0 : !string(&p, end, &name)) return -1;
        if (!string(&p, end, &value)) return -1;
        status = (index ? status > 0 : is_status(name)) ? status_of(value) : 0;
        if (status) found = status;
        if (inserts) h->statuses[h->inserted++ % H2_ENTRIES] = status;
    }
    return found;
}

/* ------------------------------------------------------------------- frames */

/* A whole frame that is not DATA. */
static int whole(struct h2 *h, struct h2_event *e)
{
    const uint8_t *part = h->block + h->start;
    size_t n = h->nblock - h->start;
    h->nhead = 0;
    *e = (struct h2_event){ .kind = H2_OTHER, .stream = h->stream, .p = (const char *)part, .n = n };
    switch (h->type) {
    case H2_T_HEADERS:
        h->block_stream = h->stream, h->block_ends = h->flags & H2_END_STREAM;
        size_t skip = (h->flags & H2_PADDED ? 1 : 0) + (h->flags & H2_PRIORITY ? 5 : 0);
        size_t pad = h->flags & H2_PADDED && n ? part[0] : 0;
        if (skip + pad > n) return -1;
        memmove(h->block, part + skip, n - skip - pad);
        h->nblock = n - skip - pad;
        /* fall through */
    case H2_T_CONTINUATION:
        if (h->stream != h->block_stream) return -1;
        if (!(h->flags & H2_END_HEADERS)) return 1;
        e->kind = H2_HEADERS, e->end = h->block_ends;
        return (e->status = block_status(h)) < 0 ? -1 : 1;
    case H2_T_RESET:
    case H2_T_GOAWAY:
        e->kind = h->type == H2_T_RESET ? H2_RESET : H2_GOAWAY;
        if (n < (h->type == H2_T_RESET ? 4 : 8)) return -1;
        e->code = be32(part + (h->type == H2_T_RESET ? 0 : 4));
        break;
    case H2_T_WINDOW:
        if (n != 4) return -1;
        e->kind = H2_UPDATE, e->code = be32(part) & H2_MOST;
        break;
    case H2_T_SETTINGS:
    case H2_T_PING:
        if (h->flags & H2_ACK) break;
        if (h->type == H2_T_PING ? n != 8 : n % 6) return -1;
        e->kind = h->type == H2_T_PING ? H2_PING : H2_SETTINGS;
    }
    return 1;
}

static int data(struct h2 *h, const char **p, const char *end, struct h2_event *e)
{
    *e = (struct h2_event){ .kind = H2_DATA, .stream = h->stream };
    if (h->has_pad) {
        if (!h->left) return -1;
        if (*p == end) return 0;
        h->pad = *(*p)++, h->has_pad = false;
        if (h->pad > --h->left) return -1;
        e->flow = 1 + h->pad;
    }
    uint32_t there = end - *p, content = h->left - h->pad;
    if (content) {
        if (there < content) content = there;
        e->p = *p, e->n = content, e->flow += content;
    } else { /* only padding is left, of which the window has been told */
        content = h->left < there ? h->left : there;
        h->pad -= content;
    }
    *p += content;
    h->left -= content;
    if (h->left) return there || e->flow ? 1 : 0;
    h->nhead = 0;
    e->end = h->flags & H2_END_STREAM;
    return 1;
}

int h2_next(struct h2 *h, const char **p, const char *end, struct h2_event *e)
{
    if (h->nhead < H2_FRAME) {
        while (h->nhead < H2_FRAME && *p < end) h->head[h->nhead++] = *(*p)++;
        if (h->nhead < H2_FRAME) return 0;
        h->left = be32(h->head) >> 8, h->type = h->head[3], h->flags = h->head[4];
        h->stream = be32(h->head + 5) & H2_MOST;
        h->pad = 0, h->has_pad = h->type == H2_T_DATA && h->flags & H2_PADDED;
        if (h->type != H2_T_CONTINUATION) h->nblock = 0;
        h->start = h->nblock;
    }
    if (h->type == H2_T_DATA) return data(h, p, end, e);
    size_t n = h->left < (size_t)(end - *p) ? h->left : (size_t)(end - *p);
    if (n > H2_BLOCK - h->nblock) return -1;
    memcpy(h->block + h->nblock, *p, n);
    *p += n, h->nblock += n, h->left -= n;
    return h->left ? 0 : whole(h, e);
}

/* ------------------------------------------------------------------ writing */

void h2_frame(char *to, uint32_t length, uint8_t type, uint8_t flags, uint32_t stream)
{
    put32(to, length << 8);
    to[3] = type, to[4] = flags;
    put32(to + 5, stream);
}

size_t h2_preface(char *to, uint32_t window)
{
    static const char magic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    size_t n = sizeof magic - 1;
    memcpy(to, magic, n);
    h2_frame(to + n, 12, H2_T_SETTINGS, 0, 0);
    memcpy(to + n + H2_FRAME, "\0\2\0\0\0\0\0\4", 8); /* no push; the window of a stream */
    put32(to + n + H2_FRAME + 8, window);
    return n + H2_FRAME + 12;
}

size_t h2_settings_ack(char *to)
{
    h2_frame(to, 0, H2_T_SETTINGS, H2_ACK, 0);
    return H2_FRAME;
}

size_t h2_ping_ack(char *to, const char *eight)
{
    h2_frame(to, 8, H2_T_PING, H2_ACK, 0);
    memcpy(to + H2_FRAME, eight, 8);
    return H2_FRAME + 8;
}

size_t h2_window(char *to, uint32_t stream, uint32_t more)
{
    h2_frame(to, 4, H2_T_WINDOW, 0, stream);
    put32(to + H2_FRAME, more);
    return H2_FRAME + 4;
}

static size_t put_integer(char *to, int bits, uint8_t first, size_t v)
{
    size_t mask = (1u << bits) - 1, n = 1;
    to[0] = first | (v < mask ? v : mask);
    if (v < mask) return 1;
    for (v -= mask; v > 127; v >>= 7) to[n++] = 128 | (v & 127);
    to[n++] = v;
    return n;
}

static size_t put_string(char *to, const char *from, size_t length)
{
    size_t n = put_integer(to, 7, 0, length);
    memcpy(to + n, from, length);
    return n + length;
}

/* A literal that enters no table. */
size_t h2_field(char *to, const char *name, size_t nname, const char *value, size_t nvalue)
{
    size_t n = 1;
    to[0] = 0;
    n += put_string(to + n, name, nname);
    for (size_t i = n - nname; i < n; i++) to[i] = tolower((unsigned char)to[i]);
    return n + put_string(to + n, value, nvalue);
}

/* The fields that each request begins with, by their numbers in the static table. */
size_t h2_request(char *to, bool is_post, bool is_secure, const char *host, const char *path)
{
    size_t n = 0;
    to[n++] = 128 | (is_post ? 3 : 2);
    to[n++] = 128 | (is_secure ? 7 : 6);
    to[n++] = 1, n += put_string(to + n, host, strlen(host));
    to[n++] = 4, n += put_string(to + n, path, strlen(path));
    return n;
}
