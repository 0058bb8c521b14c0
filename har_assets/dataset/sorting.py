"""train_manifest, val_manifest and test_manifest: the clips of `data/` sorted into roles, checked and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.dataset.checks import MANIFEST_CHECKS, NOT_KNOWN, check_manifests, equal_content_in_test
from har_assets.dataset.fingerprints import Content
from har_assets.dataset.folder import SPLITS, VIDEOS, Dataset
from har_assets.dataset.groups import AUTO, INFERRED, KNOWN, UNKNOWN
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
    content: Content | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the manifests besides the inputs and options: recordings that were looked for in pictures."""
        if self.manifests.summary["groups"] == KNOWN:
            return {}
        films = [part[["clip", "film"]].to_numpy().tolist() for _, part in self.manifests.items()]
        return {"groups": hash_of([self.manifests.summary["groups"], films])}

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """Every check in the form of `Product.checks`."""
        return {
            # A class away from 70/30 is an error in HMDB51 and no more than worth a look in other data.
            name: {
                "passed": not self.problems.get(name),
                "problems": self.problems.get(name, []),
                "warning": name in self._warnings,
            }
            for name in MANIFEST_CHECKS
        }

    @property
    def _warnings(self) -> set[str]:
        """Checks whose problems are worth a look and no error."""
        found = {"near_twins"}
        if self.manifests.summary["groups"] == INFERRED or self.problems["films_on_both_sides"] == [NOT_KNOWN]:
            found.add("films_on_both_sides")
        # The lists of a published data set are kept as they are.
        return found | ({"equal_content"} if self.dataset.complete else {"class_share"})

    @property
    def is_refused(self) -> bool:
        """Whether a data set claims to be whole and is not, or tests on files that it trains on."""
        return bool(self.problems.get("full_dataset_problems") or self._trained_on)

    @property
    def _trained_on(self) -> list[str]:
        if self.content is None or self.dataset.complete:
            return []
        return equal_content_in_test(self.manifests, self.content.hashes)

    def refuse(self) -> None:
        """DatasetError for clips of which `is_refused` is true."""
        if self._trained_on:
            raise DatasetError(
                f"The split tests on files that it trains on ({self._trained_on[0].rstrip('.')}): take one of each "
                "pair out of the lists or of the source."
            )
        if self.problems.get("full_dataset_problems"):
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
                **({"films": int(table["film"].nunique())} if summary["groups"] != UNKNOWN else {}),
                "groups": summary["groups"],
                "groups_found": summary["groups_found"],
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


def sort_clips(
    data: Path,
    *,
    split: int,
    val_fraction: float,
    seed: int,
    groups: str = AUTO,
    content: Content | None = None,
) -> SortedClips:
    """Sort the clips of `data/` by its lists, or by a seeded split where there are none. Raises DatasetError.

    Args:
        data: the data folder.
        split: number of the split.
        val_fraction: share of the training clips held out for validation, by whole films.
        seed: of the choice of films.
        groups: what tells the film of a clip, see `har_assets.dataset.groups`.
        content: hashes of the videos and a place for fingerprints; None leaves content out of account.
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
        groups=groups,
        content=content,
    )
    problems = check_manifests(manifests, data / VIDEOS, dataset.classes, dataset.claims, content)
    return SortedClips(manifests, problems, dataset, content)
