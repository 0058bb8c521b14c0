"""A data set from its source to manifests: sources, archives, the sample, lists, splits, `data/` itself and DVC."""
