"""`calibrate`: a recipe becomes one with constants fitted on sample dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from retentive_export.cli.shared import echo_json, json_option, print_tables, quiet_libraries, recipe_of, set_option
from retentive_export.errors import RecipeError

if TYPE_CHECKING:
    from retentive_export.export.prompts import Sample
    from retentive_export.pipeline import Job

__all__ = ["calibrate"]


@click.command()
@click.argument("recipe_or_model")
@click.option("--images", type=click.Path(path_type=Path), help="Directory of pictures; needs --prompts.")
@click.option("--prompts", type=click.Path(path_type=Path), help="Text file, one prompt a line.")
@click.option("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.25, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split.")
@click.option("--no-gate", is_flag=True, help="Fit the rows' constants alone; leave lambda and beta.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new recipe, a .yaml file.")
@set_option
@json_option
def calibrate(
    recipe_or_model: str,
    images: Path | None,
    prompts: Path | None,
    held_out: float,
    seed: int,
    no_gate: bool,
    output: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fit a recipe's cache constants on sample dialogues, and measure them on dialogues held out.

    Fitted are key scales, latent bases, and lambda and beta of the gate; they go into OUTPUT and a .safetensors file
    beside it. The dialogues are the recipe's calibration set, or every picture of --images with every prompt of
    --prompts, answered by the model itself.
    """
    from retentive_export import report
    from retentive_export.calibrate import Setup, split
    from retentive_export.calibrate import calibrate as fit
    from retentive_export.pipeline import Job
    from retentive_export.spec.targets import target

    if output.suffix not in {".yaml", ".yml"}:
        raise RecipeError(f"output is {str(output)!r}, and a recipe is a .yaml file")
    if images is not None and prompts is None:
        raise click.UsageError("--images needs --prompts: what is asked about the pictures.")
    recipe = recipe_of(recipe_or_model, overrides).model_copy(update={"constants": None})
    quiet_libraries()
    job = Job(recipe, target("onnx", recipe.model.dtype))
    fitting, judging = split(_samples(job, images, prompts), held_out, seed)
    setup = Setup(adapter=job.adapter, plan=job.plan, graph=job.bare_graph())
    runs = ([job.run(sample) for sample in part] for part in (fitting, judging))
    result = fit(setup, *runs, seed=seed, search=not no_gate, progress=lambda line: click.echo(line, err=True))
    _write(job, result, output)
    if as_json:
        echo_json({"recipe": str(output), **report.calibration_data(result)})
    else:
        print_tables(*report.calibration_tables(f"{recipe.name} calibrated: {output}", result))


def _samples(job: Job, images: Path | None, prompts: Path | None) -> list[Sample]:
    from retentive_export.calibrate import answered, prompted_samples

    if prompts is None:
        return job.samples
    samples = prompted_samples(images, prompts, job.recipe.model.frame)
    graph = job.bare_graph()
    return [answered(job.adapter, job.layout, graph, sample) for sample in samples]


def _write(job: Job, result: object, output: Path) -> None:
    """The constants first, then the recipe that names them with their hash."""
    import yaml

    from retentive_export.calibrate import Calibration
    from retentive_export.export.constants import write_constants
    from retentive_export.spec.files import atomic_file

    assert isinstance(result, Calibration)
    data = job.recipe.to_dict()
    data["cache"]["gate"] |= {"lambda": result.gate.lambda_, "beta": result.gate.beta}
    if result.graph.geometry.constants():
        section = write_constants(result.graph, output.with_suffix(".safetensors"))
        data["constants"] = section.model_dump()
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    with atomic_file(output) as stream:
        stream.write(text.encode())
