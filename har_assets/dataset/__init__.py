"""The HMDB51 data set: classes, download, archives, split lists, and the synthetic sample."""
