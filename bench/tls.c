#include "tls.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

/* A struct tls is OpenSSL's object by another name, so that no other file needs its headers. */
static SSL_CTX *context;
static char problem[256];

static SSL *of(struct tls *t) { return (SSL *)t; }

bool tls_is_here(void) { return true; }

void tls_begin(void)
{
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* each connection shakes hands in full */
}

struct tls *tls_new(int fd, const char *protocol)
{
    SSL *ssl = SSL_new(context);
    unsigned char offer[64];
    size_t n = strlen(protocol);
    offer[0] = n;
    memcpy(offer + 1, protocol, n);
    if (!ssl || SSL_set_alpn_protos(ssl, offer, n + 1) || !SSL_set_fd(ssl, fd) || !SSL_set_tlsext_host_name(ssl, "localhost")) return NULL;
    SSL_set_connect_state(ssl);
    return (struct tls *)ssl;
}

/* The result of a call in the terms of recv(2). */
static ssize_t outcome(struct tls *t, int result)
{
    if (result > 0) return result;
    int saved = errno;
    switch (SSL_get_error(of(t), result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: errno = EAGAIN; return -1;
    case SSL_ERROR_ZERO_RETURN: return 0;
    case SSL_ERROR_SYSCALL:
        if (!saved) return 0;
        errno = saved;
        return -1;
    }
    ERR_error_string_n(ERR_peek_last_error(), problem, sizeof problem);
    errno = EPROTO;
    return -1;
}

static void forget(void) /* an error of another connection would be taken for one of this */
{
    ERR_clear_error();
    errno = 0;
}

int tls_handshake(struct tls *t)
{
    forget();
    ssize_t n = outcome(t, SSL_do_handshake(of(t)));
    return n > 0 ? 1 : n < 0 && errno == EAGAIN ? 0 : -1;
}

bool tls_agreed(struct tls *t, const char *protocol)
{
    const unsigned char *p;
    unsigned n;
    SSL_get0_alpn_selected(of(t), &p, &n);
    return n == strlen(protocol) && !memcmp(p, protocol, n);
}

const char *tls_cipher(struct tls *t)
{
    static char text[128];
    snprintf(text, sizeof text, "%s %s", SSL_get_version(of(t)), SSL_get_cipher_name(of(t)));
    return text;
}

const char *tls_problem(void) { return problem; }

ssize_t tls_recv(struct tls *t, void *to, size_t n)
{
    forget();
    return outcome(t, SSL_read(of(t), to, n));
}

ssize_t tls_send(struct tls *t, const void *from, size_t n)
{
    forget();
    return outcome(t, SSL_write(of(t), from, n));
}

void tls_free(struct tls *t) { SSL_free(of(t)); }

#else /* the same without OpenSSL: nothing of it is called, since tls_is_here() says no */

bool tls_is_here(void) { return false; }
void tls_begin(void) { }
struct tls *tls_new(int fd, const char *protocol) { (void)fd, (void)protocol; return NULL; }
int tls_handshake(struct tls *t) { (void)t; return -1; }
bool tls_agreed(struct tls *t, const char *protocol) { (void)t, (void)protocol; return false; }
const char *tls_cipher(struct tls *t) { (void)t; return ""; }
const char *tls_problem(void) { return ""; }
ssize_t tls_recv(struct tls *t, void *to, size_t n) { (void)t, (void)to, (void)n; return -1; }
ssize_t tls_send(struct tls *t, const void *from, size_t n) { (void)t, (void)from, (void)n; return -1; }
void tls_free(struct tls *t) { (void)t; }
#endif
