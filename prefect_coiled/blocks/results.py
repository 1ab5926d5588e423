"""The results block: results of tasks in the account's bucket. It holds no secret.

A machine reads and writes by its role, and whoever else by the credentials of the account, which are found by
its name. So the block may go anywhere, and what it names is open to those alone who have the account.
"""

from __future__ import annotations

import asyncio

from prefect.blocks.core import Block
from prefect.filesystems import WritableFileSystem
from prefect.utilities.asyncutils import sync_compatible
from pydantic import Field

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.results import machine_door, on_machine, read_result, write_result
from prefect_coiled.blocks.base import AWS_LOGO, DOCUMENTATION, NO_INPUT
from prefect_coiled.blocks.loading import load_account
from prefect_coiled.internals.prefect import known_again


class Ec2DaskResults(WritableFileSystem, Block):
    """Where results of tasks are kept in an account's bucket; made by `CoiledTaskRunner(results="bucket")`.

    Example:
        Read what a task run returned, wherever the account can be loaded:
        ```python
        from prefect_coiled import Ec2DaskResults

        results = Ec2DaskResults.load("BLOCK_NAME")
        ```
    """

    model_config = NO_INPUT
    _block_type_name = "EC2 Dask Results"
    _block_type_slug = "ec2-dask-results"
    _logo_url = AWS_LOGO  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION  # type: ignore[assignment]

    account: str = Field(title="Account", description="Slug of the account.", examples=["my-team"])
    region: str = Field(
        title="Region", description="AWS region of the account's bucket.", examples=["us-east-1"]
    )
    bucket: str = Field(
        title="Bucket",
        description="The account's bucket in that region.",
        examples=["coiled-123456789012-us-east-1-my-team-abcdefghijklmnop"],
    )

    def block_initialization(self) -> None:
        """Called by Prefect when the block is made."""
        known_again(self)

    def _door(self) -> Aws:
        if on_machine():
            return machine_door(self.account, self.region)
        return load_account(self.account).door(self.region)

    @sync_compatible
    async def read_path(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            ValueError: There is none.
        """
        found = await asyncio.to_thread(lambda: read_result(self._door(), self.bucket, path))
        if found is None:
            raise ValueError(f"there is no result {path!r} in bucket {self.bucket}")
        return found

    @sync_compatible
    async def write_path(self, path: str, content: bytes) -> None:
        """Write a file."""
        await asyncio.to_thread(lambda: write_result(self._door(), self.bucket, path, content))
