/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GnuTLS, loaded at run time: a program that speaks no TLS does not pay for its start. Within tls/ only. */
#ifndef TLS_LIBRARY_H
#define TLS_LIBRARY_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#define TLS_FUNCTIONS(X)                                                                                          \
    X(certificate_allocate_credentials)                                                                           \
    X(certificate_free_credentials)                                                                               \
    X(certificate_set_x509_trust_file)                                                                            \
    X(certificate_set_x509_crl_file)                                                                              \
    X(certificate_set_x509_key_file)                                                                              \
    X(certificate_server_set_request)                                                                             \
    X(certificate_get_peers)                                                                                      \
    X(certificate_type_get)                                                                                       \
    X(psk_allocate_client_credentials)                                                                            \
    X(psk_allocate_server_credentials)                                                                            \
    X(psk_free_client_credentials)                                                                                \
    X(psk_free_server_credentials)                                                                                \
    X(psk_set_client_credentials)                                                                                 \
    X(psk_set_server_credentials_file)                                                                            \
    X(psk_server_get_username)                                                                                    \
    X(priority_init)                                                                                              \
    X(priority_deinit)                                                                                            \
    X(priority_set_direct)                                                                                        \
    X(init)                                                                                                       \
    X(deinit)                                                                                                     \
    X(credentials_set)                                                                                            \
    X(transport_set_ptr)                                                                                          \
    X(transport_set_push_function)                                                                                \
    X(transport_set_pull_function)                                                                                \
    X(transport_set_pull_timeout_function)                                                                        \
    X(transport_set_errno)                                                                                        \
    X(session_set_verify_cert)                                                                                    \
    X(session_get_verify_cert_status)                                                                             \
    X(certificate_verification_status_print)                                                                      \
    X(server_name_set)                                                                                            \
    X(handshake)                                                                                                  \
    X(record_recv)                                                                                                \
    X(record_send)                                                                                                \
    X(record_check_pending)                                                                                       \
    X(bye)                                                                                                        \
    X(alert_get)                                                                                                  \
    X(alert_get_name)                                                                                             \
    X(alert_send_appropriate)                                                                                     \
    X(strerror)                                                                                                   \
    X(error_is_fatal)                                                                                             \
    X(memset)                                                                                                     \
    X(x509_crt_init)                                                                                              \
    X(x509_crt_deinit)                                                                                            \
    X(x509_crt_import)                                                                                            \
    X(x509_crt_get_dn)

struct tls_library {
#define TLS_FIELD(name) __typeof__(gnutls_##name) *name;
    TLS_FUNCTIONS(TLS_FIELD)
#undef TLS_FIELD
    gnutls_free_function *free_at; /* a variable of its */
};

/* NULL: it cannot be had, and `why` says so. Any thread; stays to the end of the process. */
const struct tls_library *tls_library(char why[]);

#endif
