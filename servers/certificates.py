"""A certificate authority of a test's own, and certificates for servers and clients signed by it."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, PEM files.

    Attributes:
        cert: the certificate.
        key: its key, PKCS 8, not encrypted.
        both: key and certificate in one file.
    """

    cert: Path
    key: Path
    both: Path


class Certificates:
    """An authority with a server's and a client's certificate, made anew in a directory.

    The server's is good for `localhost`, 127.0.0.1 and ::1 and, since members of a cluster are each other's clients, for
    clients as well.

    Attributes:
        ca: the authority's certificate.
        server: for a server.
        client: for a client; its common name is `client`.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common("roster test authority")
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(sign=True), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        )
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        self.server = self.issue("server", names=("localhost",), addresses=("127.0.0.1", "::1"))
        self.client = self.issue("client")

    def connect(self, host: str, port: int, *, timeout: float) -> ssl.SSLSocket:
        """Return a connection to a server with TLS, made with the client's certificate.

        Args:
            host: an address that the server's certificate is good for.
            port: where it listens.
            timeout: seconds for connecting, and for each read.

        Raises:
            OSError: nobody listens there, or TLS failed.
        """
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.client.cert, self.client.key)
        plain = socket.create_connection((host, port), timeout)
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def issue(
        self, common_name: str, *, names: tuple[str, ...] = (), addresses: tuple[str, ...] = (), days: int = 1
    ) -> Pair:
        """Return a new certificate.

        Args:
            common_name: its name, and that of its files; etcd takes it for the user where it has no token.
            names: host names that it is good for; with `addresses` it may be a server's.
            addresses: IP addresses that it is good for.
            days: how long it is good; negative: it has ended already.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_common(common_name), self._name, key.public_key(), days=days)
        if names or addresses:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
            hosts: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
            hosts += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(sign=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        cert = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pair = Pair(*(self._directory / f"{common_name}{end}" for end in (".pem", ".key", ".both.pem")))
        pair.cert.write_bytes(cert)
        for path, text in ((pair.key, secret), (pair.both, secret + cert)):
            path.touch(mode=0o600)
            path.write_bytes(text)
        return pair


def _common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int = 1
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - timedelta(hours=1))
        .not_valid_after(end)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
