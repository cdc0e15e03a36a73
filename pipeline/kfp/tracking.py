"""Logging to Weights & Biases from pods."""

from trm.config.cluster import ClusterParams
from trm.config.params import Params
from trm.config.tracking import VARIABLE

WANDB_KEY = "WANDB_API_KEY"
FOLDER = "/cache"
"""The only writable folder of the image."""


def tracked_cluster(params: Params) -> ClusterParams:
    """Return section `cluster`; its pods log to W&B if `tracking` is online and they have a key.

    The settings travel in variables of the pods, on which no content key and no cache of Kubeflow depends.
    """
    cluster, tracking = params.cluster, params.tracking
    if tracking.mode != "online" or WANDB_KEY not in cluster.pods.secret_env:
        return cluster
    settings = tracking.model_copy(update={"tensorboard": None}).model_dump_json()
    env = {VARIABLE: settings, "WANDB_DIR": FOLDER} | cluster.pods.env
    return cluster.model_copy(update={"pods": cluster.pods.model_copy(update={"env": env})})
