"""train_manifest, val_manifest and test_manifest: the clips of `data/` sorted into roles, checked and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.dataset.checks import MANIFEST_CHECKS, check_manifests
from har_assets.dataset.folder import SPLITS, VIDEOS, Dataset
from har_assets.dataset.manifests import Manifests, write_manifest
from har_assets.dataset.splits import build_manifests
from har_assets.errors import DatasetError
from har_assets.store.product import Build, Product
from har_assets.system.files import hash_of, sha256_of


@dataclass(frozen=True)
class SortedClips:
    """The manifests of one split, and what is wrong with them."""

    manifests: Manifests
    problems: dict[str, list[str]]
    """Name of a check to sentences."""
    dataset: Dataset

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """Every check in the form of `Product.checks`."""
        return {
            # A class away from 70/30 is an error in HMDB51 and no more than worth a look in other data.
            name: {
                "passed": not self.problems.get(name),
                "problems": self.problems.get(name, []),
                "warning": name == "class_share" and not self.dataset.complete,
            }
            for name in MANIFEST_CHECKS
        }

    @property
    def is_short(self) -> bool:
        """Whether a data set that claims to be whole is not."""
        return bool(self.problems.get("full_dataset_problems"))

    def refuse_short(self) -> None:
        """DatasetError for a data set that claims to be whole and is not."""
        if self.is_short:
            raise DatasetError(
                "data/ claims to be all of HMDB51 and is not "
                f"({' '.join(self.problems['full_dataset_problems']).rstrip('.')}): fetch the archive again with "
                "force: true on raw_archive, or give an archive of a part of it another name than hmdb51."
            )

    def product(self, build: Build, role: str) -> Product:
        """Write the manifest of a role, `train.csv` for instance; that of test carries the checks."""
        table, summary = dict(self.manifests.items())[role], self.manifests.summary
        write_manifest(table, build.folder / f"{role}.csv")
        lineage = {"split": summary["split"], "split_seed": summary["seed"], "val_fraction": summary["val_fraction"]}
        return Product(
            headline=f"{len(table):,} clips of {table['label'].nunique()} classes, split {summary['split']}",
            metadata={
                "clips": len(table),
                "films": int(table["film"].nunique()),
                "split_source": summary["source"],
                "listed": summary["listed"],
                "absent": summary["absent"],
                "unused": summary["unused"],
                "notes": summary["notes"],
                "first_rows": table.head(10).astype(str).to_dict("records"),
            },
            checks=self.checks if role == "test" else {},
            lineage=lineage,
            data_version=hash_of([sha256_of(build.folder / f"{role}.csv"), lineage]),
        )


def sort_clips(data: Path, *, split: int, val_fraction: float, seed: int) -> SortedClips:
    """Sort the clips of `data/` by its lists, or by a seeded split where there are none. Raises DatasetError.

    Args:
        data: the data folder.
        split: number of the split.
        val_fraction: share of the training clips held out for validation, by whole films.
        seed: of the choice of films.
    """
    dataset = Dataset.read(data)
    lists = data / SPLITS
    manifests = build_manifests(
        data / VIDEOS,
        lists if lists.is_dir() else None,
        split=split,
        class_names=dataset.classes,
        val_fraction=val_fraction,
        seed=seed,
        rule=dataset.rule,
    )
    return SortedClips(manifests, check_manifests(manifests, data / VIDEOS, dataset.classes, dataset.claims), dataset)
