"""Jobs that move the alias `champion`: promote, rollback."""

import dagster as dg

from har_assets.graph.asset import GraphConfig
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.tracking.tags import MODEL_NAME


class PromotionConfig(GraphConfig):
    """Choice of the version that may become champion."""

    model_name: str = MODEL_NAME
    """Registered model."""
    version: str = ""
    """Version to promote; empty takes the one with the alias `challenger`."""
    alpha: float = 0.05
    """Largest p-value of McNemar's exact test that counts as more than noise."""


class RollbackConfig(GraphConfig):
    """Choice of the version that becomes champion again."""

    model_name: str = MODEL_NAME
    """Registered model."""
    to: str = ""
    """Version to return to; empty takes the one that was champion before."""


@dg.op
def promote_challenger(
    context: dg.OpExecutionContext, config: PromotionConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> None:
    """Make the challenger champion if it is better on the same test videos beyond noise, and say why not otherwise."""
    from dataclasses import asdict

    from har_assets.serving.promotion import promote as promoted

    with failures_in_words():
        decision = promoted(
            mlflow.uri(store.project_folder),
            config.model_name,
            store.folder,
            version=config.version,
            alpha=config.alpha,
            log=context.log.info,
        )
    context.log.info(decision.words)
    context.add_output_metadata(
        {
            "promoted": decision.moved,
            "champion": decision.champion,
            "why": decision.words,
            **({"comparison": asdict(decision.comparison)} if decision.comparison else {}),
        }
    )


@dg.op
def return_to_champion_before(
    context: dg.OpExecutionContext, config: RollbackConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> None:
    """Give the alias `champion` back to the version that had it before."""
    from har_assets.serving.promotion import rollback as rolled_back

    with failures_in_words():
        decision = rolled_back(
            mlflow.uri(store.project_folder), config.model_name, store.folder, to=config.to, log=context.log.info
        )
    context.log.info(decision.words)
    context.add_output_metadata({"moved": decision.moved, "champion": decision.champion, "why": decision.words})


@dg.job(description="The challenger becomes champion if it is better on the same test videos beyond noise.")
def promote() -> None:
    """Compare and move the alias."""
    promote_challenger()


@dg.job(description="The version that was champion before becomes it again.")
def rollback() -> None:
    """Move the alias back."""
    return_to_champion_before()
