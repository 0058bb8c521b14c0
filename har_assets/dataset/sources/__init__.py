"""Sources of data, one module each; har_assets.dataset.source has the table of them."""
