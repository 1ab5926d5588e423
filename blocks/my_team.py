"""The account "my-team" as code: saves its block to Prefect, from environment variables.

    MY_TEAM_REGION=eu-west-1 MY_TEAM_PROFILE=my-team python blocks/my_team.py

`MY_TEAM_REGION`    AWS region; us-east-1 if not set.
`MY_TEAM_PROFILE`   profile of ~/.aws/config; without one, what AWS tools find on the machine.
`MY_TEAM_ROLE_ARN`  role to work as, if any.
`MY_TEAM_CIDR`      who may reach schedulers; "me" (your own address) if not set.
`MY_TEAM_SANDBOX`   set to 1 to try it without AWS.
"""

from __future__ import annotations

import os

from prefect_aws import AwsCredentials

from prefect_coiled import Ec2DaskAccount


def my_team() -> Ec2DaskAccount:
    """The block, not saved yet."""
    return Ec2DaskAccount(
        region=os.environ.get("MY_TEAM_REGION", "us-east-1"),
        aws_credentials=AwsCredentials(profile_name=os.environ.get("MY_TEAM_PROFILE")),
        role_arn=os.environ.get("MY_TEAM_ROLE_ARN", ""),
        ingress_ports=[8786, 8787],
        ingress_cidr=os.environ.get("MY_TEAM_CIDR", "me"),
        tags={"team": "my-team"},
        sandbox=os.environ.get("MY_TEAM_SANDBOX") == "1",
    )


if __name__ == "__main__":
    my_team().save("my-team", overwrite=True)
    print('Saved. Use it by its name: CoiledTaskRunner(account="my-team").')
