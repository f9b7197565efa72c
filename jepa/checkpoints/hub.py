"""Weights from the HuggingFace hub, by name: only JSON and safetensors are ever downloaded, nothing is run.

The library `huggingface_hub` (extra `hf`) keeps them in its cache, which other programs share. `HF_HUB_OFFLINE=1`,
`HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` mean what they mean there.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from jepa.errors import DataError

FILES = ["*.json", "*.safetensors"]
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def is_hub_name(text: str) -> bool:
    """Whether this can be the name of a repository on the hub: owner/name, or owner/name@revision.

    Not if there is a folder `owner` here: then it is a path with a slip of the pen, which must not reach the network.
    """
    file = text.endswith((".pt", ".tar", ".pth", ".safetensors", ".ckpt"))
    return not file and _NAME.fullmatch(text) is not None and not Path(text.split("/")[0]).exists()


def fetch(name: str) -> Path:
    """The folder with the files of a repository, downloaded unless they are in the cache already.

    Raises:
        DataError: there is no such repository, or no network and nothing in the cache, or the extra `hf` is not
            installed.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise DataError(
            f"no encoder at {name}: no such file or folder here, and as a name on the hub it needs an extra: "
            "pip install 'jepa-video[hf]'"
        ) from error
    repository, _, revision = name.partition("@")
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise DataError(
            f"no encoder at {name}: no such file or folder here, it is not in the hub's cache, and the hub cannot be "
            "reached (no network, or HF_HUB_OFFLINE is set): download it where there is one, and give the folder"
        ) from error
    except errors.GatedRepoError as error:
        raise DataError(f"{name} is on the hub behind terms of use: accept them there, and set HF_TOKEN") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise DataError(
            f"no encoder at {name}: no such file or folder here, and nothing of this name on the hub (or it is "
            "private: set HF_TOKEN)"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} could not be downloaded from the hub ({reason[:120]}); try again") from error
