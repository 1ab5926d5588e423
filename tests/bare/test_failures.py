"""What goes wrong while machines install is told in the machine's own words, as soon as it has happened."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled import Cluster
from prefect_coiled.aws import bucket
from prefect_coiled.errors import ClusterStartError, OptionsError
from prefect_coiled.sandbox import Sandbox

TIMEOUT = 170.0


def start(**keywords: Any) -> str:
    """Start a cluster that does not come up; returns why, which came long before the time was up."""
    began = time.monotonic()
    with pytest.raises(ClusterStartError) as caught, Cluster(n_workers=0, timeout=TIMEOUT, **keywords):
        pass
    assert time.monotonic() - began < TIMEOUT
    text = str(caught.value)
    assert "the scheduler's machine ended" in text
    assert "powering off" in text
    return text


def launched(sandbox: Sandbox) -> int:
    return sandbox.calls(None).count(("ec2", "RunInstances"))


def test_a_package_that_does_not_install_is_named_with_the_installers_own_words(tmp_path: Path) -> None:
    path = tmp_path / "broken-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("broken-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
        wheel.writestr("broken-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("broken-1.0.data/nowhere/broken.txt", "for a place that there is not")
        wheel.writestr("broken-1.0.dist-info/RECORD", "")
    listed = tmp_path / "requirements.txt"
    listed.write_text(f"broken @ {path.as_uri()}\n")
    text = start(software=str(listed))
    assert "broken-1.0-py3-none-any.whl" in text
    assert 'step="installing ' in text


def test_a_wheel_that_the_bucket_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, small: list[str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """What anybody can have comes from its index then; a package of one's own is nowhere else."""
    path = tmp_path / "mine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        wheel.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("mine-1.0.dist-info/RECORD", "")
    listed = tmp_path / "requirements.txt"
    listed.write_text(f"mine @ {path.as_uri()}\n")
    put_file = bucket.put_file

    def lossy(aws: Any, name: str, key: str, content: Any, *more: Any) -> None:
        put_file(aws, name, key, content, *more)
        if key.endswith("pylock.toml"):
            s3 = sandbox.client("s3")
            for one in s3.list_objects_v2(Bucket=name)["Contents"]:
                if "/mine-" in one["Key"]:
                    s3.delete_object(Bucket=name, Key=one["Key"])

    monkeypatch.setattr(bucket, "put_file", lossy)
    text = start(software=str(listed))
    assert "mine-1.0-py3-none-any.whl is not in the bucket coiled-" in text


def test_a_full_disk_is_told_as_such(small: list[str], sandbox: Sandbox) -> None:
    sandbox.set(disk=40)
    try:
        text = start(package_sync_ignore=small)
    finally:
        sandbox.set(disk=None)
    assert "No space left on device" in text


def test_a_lock_for_another_python_is_refused_before_anything_is_launched(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "pylock.toml"
    path.write_text('lock-version = "1.0"\ncreated-by = "x"\nrequires-python = "==3.9.*"\npackages = []\n')
    before = launched(sandbox)
    with pytest.raises(OptionsError, match=r"pylock.toml is a lock for Python ==3\.9\..*runs Python 3\."):
        Cluster(software=str(path))
    assert launched(sandbox) == before


def test_an_index_that_does_not_answer_is_told_before_anything_is_launched(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, small: list[str]
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://me:canary-77@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    before = launched(sandbox)
    with pytest.raises(OptionsError, match="asking the package index") as caught:
        Cluster(package_sync_ignore=small)
    assert "canary" not in str(caught.value)
    assert launched(sandbox) == before


def test_an_egg_that_nothing_proves_is_refused_before_anything_is_launched(
    monkeypatch: pytest.MonkeyPatch, small: list[str], sandbox: Sandbox, tmp_path: Path
) -> None:
    egg = tmp_path / "egg_of_nobody_else-1.0-py3.egg"
    (egg / "EGG-INFO").mkdir(parents=True)
    (egg / "egg_of_nobody_else.py").write_text("")
    (egg / "EGG-INFO/PKG-INFO").write_text("Metadata-Version: 1.0\nName: egg-of-nobody-else\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(egg))
    before = launched(sandbox)
    with pytest.raises(OptionsError) as caught:
        Cluster(package_sync_ignore=small)
    text = str(caught.value)
    assert "egg-of-nobody-else==1.0 is on no index that is set up here, and its record (" in text
    assert "EGG-INFO) lists no files that could be sent: install it anew" in text
    assert launched(sandbox) == before


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"package_sync_ignore": 5}, "a list of texts"),
        ({"package_sync_ignore": ["distributed"]}, "no machine works without it"),
        ({"package_sync_strict": "perhaps"}, "true or false"),
        ({"software": "nowhere.txt"}, "no such file"),
        ({"software": __file__}, "neither requirements"),
    ],
)
def test_bad_keywords_are_told_at_once(keywords: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionsError, match=match):
        Cluster(**keywords)


def test_software_and_what_to_ignore_are_not_given_together(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("dask\n")
    with pytest.raises(OptionsError, match="contradict"):
        Cluster(software=str(path), package_sync_ignore=["black"])
