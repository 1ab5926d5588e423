"""Examples at the end of each command's help, in one place, so that all of them can be tried by a test."""

from __future__ import annotations

EXAMPLES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("setup", "aws"): ("setup aws --account my-team", "setup aws --account my-team --profile work --yes"),
    ("setup", "iam"): (
        "setup iam --account my-team --user dask --aws-account-id 123456789012",
        "setup iam --account my-team --role arn:aws:iam::123456789012:role/dask",
        "setup iam --account my-team --user dask --key --profile admin --apply",
    ),
    ("setup", "region"): ("setup region --account my-team --region eu-west-1", "setup region --plan"),
    ("check",): ("check --account my-team", "check --json"),
    ("quotas",): ("quotas --account my-team", "quotas --region eu-west-1 --json"),
    ("doctor",): ("doctor --account my-team", "doctor --account my-team --spend 0.50 --report doctor.json"),
    ("ls",): ("ls", "ls --account my-team --region eu-west-1 --json"),
    ("cost",): ("cost", "cost my-cluster", "cost --account my-team --json"),
    ("logs",): ("logs my-cluster --follow", 'logs my-cluster --instance scheduler --since "10 minutes"'),
    ("resources",): ("resources", "resources --json"),
    ("stop",): ("stop my-cluster", "stop my-cluster --account my-team --yes"),
    ("sweep",): ("sweep", "sweep --account my-team --keep-nat"),
    ("firewall",): ("firewall my-cluster", "firewall my-cluster --cidr me", "firewall my-cluster --close"),
    ("notifications",): ("notifications --limit 20", "notifications --type worker_lost --json"),
    ("dashboard",): ("dashboard my-cluster",),
    ("policies",): (
        "policies setup",
        "policies ongoing --account my-team --region eu-west-1",
        "policies setup --format terraform",
    ),
    ("account", "list"): ("account list", "account list --json"),
    ("account", "explain"): ("account explain my-team", "account explain my-team --region eu-west-1 --json"),
    ("account", "edit"): (
        "account edit my-team",
        "account edit my-team --cidr me --egress public-ip --yes",
    ),
    ("account", "reset"): ("account reset my-team --yes",),
    ("account", "destroy"): ("account destroy my-team --region eu-west-1",),
    ("role", "list"): ("role list --account my-team", "role list --json"),
    ("role", "attach-policy"): ("role attach-policy arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",),
    ("role", "detach-policy"): ("role detach-policy arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",),
    ("sandbox", "start"): (
        "sandbox start",
        "sandbox start --idle 3600",
        "sandbox start --profile realistic --account fresh",
    ),
    ("sandbox", "status"): ("sandbox status", "sandbox status --json"),
    ("sandbox", "stop"): ("sandbox stop",),
    ("blocks", "apply"): ("blocks apply --dry-run", "blocks apply blocks/my-team.yaml"),
    ("images",): ("images --account my-team", "images --json"),
    ("environment", "bake"): ("environment bake --account my-team",),
    ("environment", "upload"): ("environment upload --account my-team",),
    ("environment", "diff"): (
        "environment diff",
        "environment diff flows/report.py",
        "environment diff --cluster my-cluster --json",
    ),
    ("environment", "images"): ("environment images --account my-team", "environment images --json"),
    ("demo",): ("demo", "demo --workers 4"),
}
