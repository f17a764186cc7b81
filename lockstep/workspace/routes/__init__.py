"""The services of Azure ML, a module each; `ALL` lists their routes in the order in which they are tried."""

from lockstep.workspace.routes import (
    arm,
    artifacts,
    blobs,
    compute,
    datastores,
    environments,
    experiments,
    metrics,
    mlflow,
    models,
    runs,
    snapshots,
    submit,
)

ALL = (
    arm.routes,
    experiments.routes,
    runs.routes,
    submit.routes,
    metrics.routes,
    artifacts.routes,
    snapshots.routes,
    environments.routes,
    compute.routes,
    datastores.routes,
    models.routes,
    mlflow.routes,
    blobs.routes,
)
