/* TLS of a client, through OpenSSL if its headers were there when this was built. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct tls;

bool tls_is_here(void);
void tls_begin(void);                     /* before the others; the certificate of the hub is not checked */
struct tls *tls_new(int fd, const char *protocol); /* on a connected socket, with that offer of ALPN; NULL: no memory */
int tls_handshake(struct tls *t);         /* 1: done, 0: not yet (the socket does not block), -1: failed */
bool tls_agreed(struct tls *t, const char *protocol); /* on that protocol, by ALPN */
const char *tls_cipher(struct tls *t);    /* version and cipher suite */
const char *tls_problem(void);            /* the last one of OpenSSL */
ssize_t tls_recv(struct tls *t, void *to, size_t n); /* like recv(2), with errno EAGAIN */
ssize_t tls_send(struct tls *t, const void *from, size_t n); /* like send(2), with errno EAGAIN */
void tls_free(struct tls *t);
