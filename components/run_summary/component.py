"""The exit handler as a container component: it runs whether the stages succeeded or not."""

from kfp import dsl

from components.container import IMAGE


@dsl.container_component
def summary(
    root: str,
    fetch_key: str,
    augment_key: str,
    train_key: str,
    evaluate_key: str,
    report_key: str,
    status: dsl.PipelineTaskFinalStatus,
    told: dsl.Output[dsl.Markdown],
) -> dsl.ContainerSpec:
    """Say how the run ended, what lies in S3, and the scores."""
    keys = [f"fetch={fetch_key}", f"augment={augment_key}", f"train={train_key}", f"evaluate={evaluate_key}"]
    keys.append(f"report={report_key}")
    arguments = [status, told.path, root, *keys]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components.run_summary.summary"], args=arguments)
