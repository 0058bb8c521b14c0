"""The class index: `index_to_class.csv`, index and name of every class in the order of a model's scores."""

import csv
from pathlib import Path

from har_assets.dataset.folder import Dataset
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import sha256_of
from har_assets.system.tables import Column, Table

CLASS_INDEX = Table(
    "index_to_class.csv",
    {"index": Column("int", "Place of the class in the model's scores."), "class": Column("str", "Class name.")},
)


def class_index_product(build: Build, data: Path) -> Product:
    """Write the class index of the data set in `data`."""
    classes = Dataset.read(data).classes
    path = build.folder / CLASS_INDEX.file
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CLASS_INDEX.columns)
        writer.writerows(enumerate(classes))
    rows = [{"index": index, "class": name} for index, name in enumerate(classes)]
    return Product(f"{len(classes)} classes", metadata={"classes": rows}, data_version=sha256_of(path))


def read_class_index(artifact: Artifact) -> tuple[str, ...]:
    """Class names in index order, from a published class_index."""
    with artifact.file(CLASS_INDEX.file).open(newline="") as file:
        return tuple(row["class"] for row in csv.DictReader(file))
