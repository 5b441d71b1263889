"""Datasets from the Hugging Face hub: the files of a split, found once, pinned to a revision, downloaded as needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanohydra.data.readers import data_format
from nanohydra.errors import UserError, did_you_mean
from nanohydra.files import write_json
from nanohydra.home import data_dir

# The hub keeps a copy of most datasets as parquet on this branch, as <config>/<split>/0000.parquet.
_CONVERTED = "refs/convert/parquet"


class MissingSplit(UserError):
    """The dataset is there, but this split of it is not."""


def hub_files(dataset: str, config: str | None, split: str) -> Iterator[Path]:
    """The files of a split on this machine, each downloaded when it is asked for.

    What was found is kept under `data_dir()/hub` with the dataset's revision: later runs read the same data, also
    without a network. Raises UserError where the hub cannot be reached or has no such dataset, config or split.
    """
    known = data_dir() / "hub" / "listings" / f"{dataset}/{config or 'default'}/{split}.json"
    if not known.is_file():
        write_json(known, _find(dataset, config, split))
    listing = json.loads(known.read_text(encoding="utf-8"))
    for name in listing["files"]:
        yield _download(dataset, name, listing["revision"])


def _find(dataset: str, config: str | None, split: str) -> dict[str, Any]:
    """The revision and the file names of a split: from the converted branch where there is one, else by their names."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    def listed(revision: str | None) -> tuple[str, list[str]]:
        info = HfApi().dataset_info(dataset, revision=revision, timeout=20)
        return info.sha or "main", sorted(s.rfilename for s in info.siblings or [] if data_format(s.rfilename))

    with _HubErrors(dataset):
        try:
            revision, names = listed(_CONVERTED)
            chosen = _converted_split(dataset, names, config, split)
        except RevisionNotFoundError:
            chosen = []
        if not chosen:
            revision, names = listed(None)
            chosen = _named_split(names, config, split)
    if not chosen:
        raise MissingSplit(
            f'The dataset {dataset} has no split "{split}" on the hub. It holds: {", ".join(names[:8])}.'
        )
    return {"revision": revision, "files": chosen}


def _converted_split(dataset: str, names: list[str], config: str | None, split: str) -> list[str]:
    """The parquet files of a split on the converted branch; none where the conversion left the split out."""
    configs = sorted({name.split("/")[0] for name in names if name.count("/") == 2})
    if config is None:
        config = "default" if "default" in configs else configs[0] if len(configs) == 1 else None
        if config is None and configs:
            raise UserError(f'The dataset {dataset} has several parts. Write "{dataset}/<part>": {", ".join(configs)}.')
    elif configs and config not in configs:
        raise UserError(f'The dataset {dataset} has no part "{config}".{did_you_mean(config, configs)}')
    return [name for name in names if name.startswith(f"{config}/{split}/")]


def _named_split(names: list[str], config: str | None, split: str) -> list[str]:
    """The data files whose names tell the split; for "train", files that name no split at all."""
    inside = [name for name in names if config and re.search(rf"(^|/){re.escape(config)}/", name)] or names
    told = [name for name in inside if re.search(rf"(?<![a-z]){re.escape(split)}(?![a-z])", name.lower())]
    if told or split != "train":
        return told
    return [name for name in inside if not re.search(r"(?<![a-z])(test|valid|validation|dev)(?![a-z])", name.lower())]


def _download(dataset: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _HubErrors(dataset):
        path = hf_hub_download(
            dataset, name, repo_type="dataset", revision=revision, cache_dir=data_dir() / "hub" / "cache"
        )
    return Path(path)


class _HubErrors:
    """Turns the hub's many failures into one line that says what to do."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: object) -> None:
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        if e is None or isinstance(e, UserError) or not isinstance(e, Exception):
            return
        why = " ".join(str(e).split())[:150]
        if isinstance(e, GatedRepoError):
            raise UserError(f"{self.dataset} is gated: accept its terms on the hub, then `hf auth login`.") from e
        if isinstance(e, RepositoryNotFoundError):
            raise UserError(f'The hub has no dataset "{self.dataset}" (or it is private: `hf auth login`).') from e
        if isinstance(e, HfHubHTTPError):
            raise UserError(f"The hub did not give {self.dataset} ({why}). Try again later.") from e
        raise UserError(
            f"The hub cannot be reached for {self.dataset} ({why}). Connect to the internet, or set NANOHYDRA_MIRROR "
            f"(or --mirror) to a folder with a copy of the datasets."
        ) from e
