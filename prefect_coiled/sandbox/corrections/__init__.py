"""Where moto 5.2.5 is laxer than AWS, or wrong, and this library would be fooled by it.

    states         instances that boot and die; real states, reasons, console, public addresses
    launch         RunInstances: batches, launch templates, profiles, validation, spot, capacity
    fleets         CreateFleet (instant): overrides in turn, Errors
    dependencies   deletes that AWS refuses while something depends on the resource; limits
    elastic        elastic addresses that answer
    endpoints      the routes of gateway endpoints
    gateways       NAT gateways: pending, deleting, their address and interface
    templates      what a launch template says
    filters        filters of DescribeInstances that moto does not know
    images         images of instances: pending, names used once
    buckets        a bucket's own policy: its conditions count
    log_events     which events PutLogEvents says that it left out; FilterLogEvents by a prefix of streams
    tagging        GetResources of the tagging API: kinds that moto leaves out
    disk_key       the key that encrypts disks; what becomes of machines whose launcher may not use it
    quotas         Service Quotas: the limits of the settings
    registry       ECR: where the layers of an image are
    linked_roles   the names of the roles for spot machines
    gpu_images     AWS's images for machines with a GPU
    session_tokens keys of GetSessionToken that work
    spot_prices    what spot machines cost
    speed          look-ups that take a whole launch's time

Each module stands alone and has its tests. When moto mends something, the module (or the function) goes.
All of it patches moto's classes in the sandbox's own process; nothing is patched in a user's process.
"""

from __future__ import annotations

from prefect_coiled.sandbox.plane import DataPlane
from prefect_coiled.sandbox.rules.account import History
from prefect_coiled.sandbox.settings import Settings

__all__ = ["install"]


def install(settings: Settings, plane: DataPlane, history: History) -> None:
    """Apply all corrections but `states`, which needs the supervisor.

    Args:
        settings: Read at each call, so that a change has effect at once.
        plane: Where elastic addresses come from.
        history: What happened when, for the rules about launches.
    """
    from prefect_coiled.sandbox.corrections import (
        buckets,
        dependencies,
        disk_key,
        elastic,
        endpoints,
        filters,
        fleets,
        gateways,
        gpu_images,
        images,
        launch,
        linked_roles,
        log_events,
        quotas,
        registry,
        session_tokens,
        speed,
        spot_prices,
        tagging,
        templates,
    )

    launch.install(settings, history)
    linked_roles.install()
    log_events.install()
    buckets.install()
    disk_key.install(settings)
    fleets.install()
    dependencies.install(settings)
    elastic.install(plane)
    endpoints.install()
    gateways.install(settings)
    filters.install()
    images.install(settings)
    gpu_images.install()
    quotas.install(settings)
    registry.install()
    session_tokens.install()
    speed.install()
    spot_prices.install(settings)
    tagging.install()
    templates.install()
