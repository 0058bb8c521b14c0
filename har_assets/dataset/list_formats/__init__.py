"""Formats of lists, one module each; har_assets.dataset.lists has the table of them."""
