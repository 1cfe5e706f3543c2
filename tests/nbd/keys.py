# SPDX-License-Identifier: LGPL-2.1-or-later
"""Certificates and keys for tests of TLS, by openssl."""
import subprocess


def sh(*command, **how):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, **how)


def make_key(where, name, alternative, ca):
    """NAME-cert.pem and NAME-key.pem in a folder."""
    key, cert = where / f"{name}-key.pem", where / f"{name}-cert.pem"
    sh("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
       "-out", where / "request", "-subj", f"/CN={alternative}")
    (where / "extensions").write_text(f"subjectAltName=DNS:{alternative}\n")
    sh("openssl", "x509", "-req", "-in", where / "request", "-CA", ca / "ca-cert.pem", "-CAkey", ca / "ca-key.pem",
       "-CAcreateserial", "-days", "2", "-extfile", where / "extensions", "-out", cert)
    key.chmod(0o600)


def make_ca(where):
    where.mkdir()
    sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
       where / "ca-key.pem", "-out", where / "ca-cert.pem", "-subj", "/CN=ca", "-days", "2")


def make_psk(where, user, key):
    where.mkdir()
    (where / "keys.psk").write_text(f"{user}:{key}\n")
    (where / "keys.psk").chmod(0o600)


def make_keys(where):
    """keys: a server's and a client's; other: those of somebody else; bare: a client that has no certificate;
    psk, and wrong: another key of that name."""
    for name in ("keys", "other"):
        make_ca(where / name)
        for end in ("server", "client"):
            make_key(where / name, end, "localhost" if end == "server" else "host1", where / name)
    (where / "bare").mkdir()
    (where / "bare" / "ca-cert.pem").write_bytes((where / "keys" / "ca-cert.pem").read_bytes())
    (where / "stranger").mkdir()  # trusts the right one, and shows the wrong certificate
    for name, folder in (("ca-cert.pem", "keys"), ("client-cert.pem", "other"), ("client-key.pem", "other")):
        (where / "stranger" / name).write_bytes((where / folder / name).read_bytes())
    (where / "stranger" / "client-key.pem").chmod(0o600)
    make_psk(where / "psk", "qemu", "00112233445566778899aabbccddeeff")
    make_psk(where / "wrong", "qemu", "00112233445566778899aabbccddeefe")
