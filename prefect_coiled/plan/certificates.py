"""The keys of one cluster: a CA of its own, and a certificate for each of scheduler, worker and client.

Dask checks who signed a certificate and what it may be used for, but no host names, so the CA *is* the
cluster's identity: one CA for each cluster, and its key leaves the provisioner never.
This module reads no clock and writes no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

WEEK_S, YEAR_S = 7 * 24 * 3600.0, 365 * 24 * 3600.0
# Certificates are valid from a little before "now": the clocks of the machines differ.
BACKDATE = timedelta(minutes=15)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    cert: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class ClusterCertificates:
    """The certificates of one cluster.

    Attributes:
        ca: The CA's certificate, PEM.
        worker: Serves and connects. It is as mighty as the scheduler's: workers must be trusted.
        client: Connects only; no peer accepts it from a listener.
        ca_key: The CA's private key, PEM. Drop it: nothing needs it after this.
    """

    ca: str
    scheduler: KeyPair
    worker: KeyPair
    client: KeyPair
    not_after: datetime
    ca_key: str = field(repr=False)

    @classmethod
    def make(cls, cluster: str, now: datetime, lifetime_s: float = WEEK_S) -> ClusterCertificates:
        """Make a new CA and certificates signed by it.

        Args:
            cluster: The cluster's name; it appears in the subjects.
            now: The present time, with a time zone.
            lifetime_s: Seconds from `now` until everything expires: a week, plus the cluster's own
                timeout where it has one.

        Returns:
            The certificates, valid from 15 minutes before `now`.
        """
        if now.tzinfo is None:
            raise ValueError("now needs a time zone")
        not_after = now + timedelta(seconds=lifetime_s)
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca_name = _name(cluster, "ca")
        ca = (
            _builder(ca_name, ca_name, ca_key, ca_key, now, not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(ca_key, hashes.SHA256())
        )

        def issue(role: str, *usages: x509.ObjectIdentifier) -> KeyPair:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = (
                _builder(_name(cluster, role), ca_name, key, ca_key, now, not_after)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(_usage(signs_certificates=False), critical=True)
                .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=True)
                .add_extension(x509.SubjectAlternativeName([x509.DNSName(role)]), critical=False)
                .sign(ca_key, hashes.SHA256())
            )
            return KeyPair(_pem(certificate), _key_pem(key))

        return cls(
            ca=_pem(ca),
            scheduler=issue("scheduler", Usage.SERVER_AUTH, Usage.CLIENT_AUTH),
            worker=issue("worker", Usage.SERVER_AUTH, Usage.CLIENT_AUTH),
            client=issue("client", Usage.CLIENT_AUTH),
            not_after=not_after,
            ca_key=_key_pem(ca_key),
        )


def _name(cluster: str, role: str) -> x509.Name:
    # X.509 allows 64 characters in a common name.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "prefect-coiled"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{role} {cluster}"[:64]),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    # Key identifiers: Python 3.13 verifies with VERIFY_X509_STRICT, which asks for them.
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
