"""`har`: what the models made here say of videos, and care for a project folder, without starting Dagster."""


def main() -> None:
    """Entry point of the command `har`."""
    from har_assets.cli.app import run

    run()
