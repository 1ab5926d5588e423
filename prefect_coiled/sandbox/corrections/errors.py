"""Errors as EC2 words them."""

from __future__ import annotations

from typing import Any

from moto.ec2.exceptions import EC2ClientError

__all__ = ["EC2ClientError", "ec2_error", "in_use"]


def ec2_error(code: str, message: str) -> Any:
    """An error that moto turns into EC2's answer."""
    return EC2ClientError(code, message)


def in_use(message: str) -> Any:
    """The refusal to delete what something else depends on."""
    return ec2_error("DependencyViolation", message)
