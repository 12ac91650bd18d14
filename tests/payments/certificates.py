"""Certificates as PayPal has them: a root, a TLS server, a signer, and signers not to believe."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.programs import new_folder

SIGNER = "messageverificationcerts.paypal.com"


@dataclass
class House:
    """What the program has."""

    roots: bytes
    server: bytes  # key and certificate
    signer: rsa.RSAPrivateKey
    certificates: dict[str, bytes]

    def tls(self) -> ssl.SSLContext:
        file = new_folder() / "server.pem"
        file.write_bytes(self.server)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def house() -> House:
    root_key, server_key, other_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    signer = rsa.generate_private_key(65537, 2048)
    root, other = authority(root_key), authority(other_key)
    server = leaf("localhost", server_key.public_key(), root, root_key)
    text = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key, today = signer.public_key(), datetime.now(UTC)
    made = {
        "good": leaf(SIGNER, key, root, root_key),
        "expired": leaf(SIGNER, key, root, root_key, today - timedelta(days=40)),
        "early": leaf(SIGNER, key, root, root_key, today + timedelta(days=2)),
        "foreign": leaf("paypal.com.example", key, root, root_key),
        "another_root": leaf(SIGNER, key, other, other_key),
        "no_rsa": leaf(SIGNER, server_key.public_key(), root, root_key),
    }
    certificates = {name: pem(each) for name, each in made.items()}
    certificates["another_root"] += pem(other)  # a root that comes along is no root
    certificates["garbage"] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    return House(pem(root), text + pem(server), signer, certificates)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def builder(subject: str, issuer: x509.Name, key: Any, begins: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = "The root of the tests"
    begins = datetime.now(UTC) - timedelta(days=1)
    made = builder(name, named(name), key.public_key(), begins)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    may = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "digital_signature", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    usage = x509.KeyUsage(key_cert_sign=True, crl_sign=True, **may)
    return made.add_extension(usage, critical=True).sign(key, SHA256())


def leaf(
    name: str,
    key: Any,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    begins: datetime | None = None,
) -> x509.Certificate:
    made = builder(name, root.subject, key, begins or datetime.now(UTC) - timedelta(days=1))
    names = [x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.1"))]
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    return (
        made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(above, critical=False)
        .sign(root_key, SHA256())
    )
