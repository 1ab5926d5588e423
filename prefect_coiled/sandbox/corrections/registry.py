"""GetDownloadUrlForLayer of ECR, which moto does not have. There is no content behind the addresses."""

from __future__ import annotations

import json
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ecr.responses import ECRResponse

__all__ = ["install"]


def install() -> None:
    """Answer for the layers that a manifest in the repository names."""

    def get_download_url_for_layer(self: Any) -> Any:
        name, digest = self._get_param("repositoryName"), self._get_param("layerDigest")
        repository = self.ecr_backend._get_repository(name, self._get_param("registryId"))
        manifests = [json.loads(image.image_manifest) for image in repository.images]
        known = {layer["digest"] for manifest in manifests for layer in manifest.get("layers", ())}
        if digest not in known:
            message = f"The layer with digest '{digest}' does not exist in the repository with name '{name}'"
            raise JsonRESTError("LayersNotFoundException", message)
        url = f"https://layers.invalid/{repository.registry_id}/{name}/{digest}"
        return ActionResult({"downloadUrl": url, "layerDigest": digest})

    ECRResponse.get_download_url_for_layer = get_download_url_for_layer
