"""`python -m har_assets.cli`."""

from har_assets.cli import main

main()
