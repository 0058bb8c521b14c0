"""The training process: `python -m har_assets.training request.json`."""
