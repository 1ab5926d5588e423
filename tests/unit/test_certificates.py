from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from prefect_coiled.plan.certificates import ClusterCertificates

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def usages(pem: str) -> set[x509.ObjectIdentifier]:
    return set(load(pem).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_only_the_client_cannot_serve():
    made = ClusterCertificates.make("c1", NOW)
    assert usages(made.client.cert) == {Usage.CLIENT_AUTH}
    assert usages(made.scheduler.cert) == usages(made.worker.cert) == {Usage.SERVER_AUTH, Usage.CLIENT_AUTH}


def test_everything_is_signed_by_the_clusters_own_ca():
    made, other = ClusterCertificates.make("c1", NOW), ClusterCertificates.make("c1", NOW)
    for pair in (made.scheduler, made.worker, made.client):
        load(pair.cert).verify_directly_issued_by(load(made.ca))
        with pytest.raises(InvalidSignature):
            load(pair.cert).verify_directly_issued_by(load(other.ca))


def test_certificates_are_back_dated_and_short_lived():
    made = ClusterCertificates.make("c1", NOW, lifetime_s=3600)
    for pem in (made.ca, made.scheduler.cert, made.client.cert):
        assert load(pem).not_valid_before_utc <= NOW - timedelta(minutes=10)
        assert load(pem).not_valid_after_utc == NOW + timedelta(hours=1) == made.not_after


def test_the_ca_signs_certificates_and_nothing_below_it_does():
    made = ClusterCertificates.make("c1", NOW)
    ca = load(made.ca).extensions.get_extension_for_class(x509.BasicConstraints)
    assert (ca.critical, ca.value.ca, ca.value.path_length) == (True, True, 0)
    leaf = load(made.worker.cert).extensions
    assert not leaf.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_keys_do_not_show():
    made = ClusterCertificates.make("c1", NOW)
    assert "PRIVATE" not in repr(made)


def test_a_long_name_and_a_naive_time_are_handled():
    ClusterCertificates.make("c" * 200, NOW)
    with pytest.raises(ValueError, match="time zone"):
        ClusterCertificates.make("c", NOW.replace(tzinfo=None))
