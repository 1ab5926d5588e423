"""Blocks that stay with the flow's process, told by what the API says of them."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled.blocks import Ec2DaskAccount, Ec2DaskRegistry
from prefect_coiled.relay import kept_blocks
from prefect_coiled.relay.kept_blocks import KEPT, refuse_kept
from prefect_coiled.relay.needs import RefusedError


def document(kind: str, id_: str, data: Any = None, **referred: Any) -> dict[str, Any]:
    references = {name: {"block_document": one} for name, one in referred.items()}
    return {
        "id": id_,
        "name": "mine",
        "block_type": {"slug": kind},
        "data": data or {},
        "block_document_references": references,
    }


class Api:
    """Has some documents of accounts and registries."""

    def __init__(self, *accounts: dict[str, Any]) -> None:
        self.accounts, self.asked = accounts, 0

    async def read(self, method: str, path: str, body: Any) -> Any:
        assert (method, path) == ("POST", "/block_documents/filter")
        assert body["block_types"]["slug"]["any_"] == list(KEPT)
        self.asked += 1
        return list(self.accounts[body["offset"] : body["offset"] + body["limit"]])


KEYS = document("aws-credentials", "k")
ACCOUNT = document("ec2-dask-account", "a", aws_credentials=KEYS)


def test_the_blocks_of_this_library_are_the_ones_that_are_kept() -> None:
    assert {Ec2DaskAccount.get_block_type_slug(), Ec2DaskRegistry.get_block_type_slug()} == set(KEPT)


@pytest.mark.parametrize(
    "asked",
    [
        ACCOUNT,
        document("ec2-dask-registry", "r"),
        document("holder", "h", account=ACCOUNT),
        document("holder", "h", inner=document("holder", "i", account=ACCOUNT)),
        document("holder", "h", {"accounts": [{"one": {"block_type_slug": "ec2-dask-account"}}]}),
    ],
)
async def test_what_opens_an_account_is_refused_wherever_it_is(asked: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="it opens an account") as caught:
        await refuse_kept(asked, Api().read)
    assert caught.value.status == 403


@pytest.mark.parametrize("asked", [KEYS, document("s3-bucket", "b", credentials=KEYS)])
async def test_the_credentials_of_an_account_are_refused_wherever_they_are(asked: dict[str, Any]) -> None:
    await refuse_kept(asked, Api().read)
    other = document("ec2-dask-account", "c", registry=document("ec2-dask-registry", "r", keys=KEYS))
    for api in (Api(ACCOUNT), Api(other)):
        with pytest.raises(RefusedError, match="an account refers to what is in it"):
            await refuse_kept(asked, api.read)


async def test_all_accounts_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_blocks, "_PAGE", 2)
    api = Api(*(document("ec2-dask-account", str(n)) for n in range(4)), ACCOUNT)
    with pytest.raises(RefusedError):
        await refuse_kept(KEYS, api.read)
    assert api.asked == 3


async def test_other_blocks_are_given() -> None:
    await refuse_kept(document("secret", "s", {"value": "a"}), Api(ACCOUNT).read)
    await refuse_kept(document("aws-credentials", "other"), Api(ACCOUNT).read)
