"""After training: vectors, their judgement, and cell types."""

import json
from pathlib import Path
from typing import Annotated

import typer

import scfm_lib as scfm

from .options import BatchKey, Checkpoint, Device, Full, Json, LabelKey, Layer, Scvi, SplitKey, print_report, say


def embed_command(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Argument(help="cells to embed")],
    out: Annotated[Path, typer.Option(help=".h5ad to write, with obsm['X_scfm']; must not exist")],
    layer: Layer = None,
    device: Device = "auto",
    vectors_only: Annotated[bool, typer.Option("--vectors-only", help="write obs and vectors, no counts")] = False,
) -> None:
    """Write the cells with their vectors in obsm["X_scfm"]; layers and obs are untouched."""
    from ..embed import embed_file
    from ..hardware.device import choose_device
    from ..hardware.threads import use_all_cores

    use_all_cores()
    options = {"layer": layer, "device": choose_device(device), "vectors_only": vectors_only}
    shape, match = embed_file(checkpoint, scfm.find_data(data), out, **options)
    say(match)
    print(f"{out}: obsm['X_scfm'] {shape}")


def evaluate_command(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Argument(help="labelled cells")],
    label_key: LabelKey = "cell_type",
    batch_key: BatchKey = None,
    split_key: SplitKey = None,
    layer: Layer = None,
    scvi: Scvi = True,
    full: Full = False,
    out: Annotated[Path | None, typer.Option(help="folder of the report; RUN/report when unset")] = None,
    json_: Json = False,
) -> None:
    """Judge a model beside PCA, raw expression, scVI (if installed) and itself before training."""
    keys = {"label_key": label_key, "batch_key": batch_key, "split_key": split_key, "layer": layer}
    print_report(scfm.evaluate(checkpoint, data, **keys, scvi=scvi, full=full, say=say), checkpoint, out, json_)


def judge_command(
    data: Annotated[str, typer.Argument(help="labelled cells with counts and, in obsm, vectors")],
    obsm: Annotated[list[str], typer.Option(help="key of obsm; repeat it for several")],
    label_key: LabelKey = "cell_type",
    batch_key: BatchKey = None,
    split_key: SplitKey = None,
    layer: Layer = None,
    scvi: Scvi = True,
    full: Full = False,
    out: Annotated[Path | None, typer.Option(help="new folder of the report; judge-DATE-TIME when unset")] = None,
    json_: Json = False,
) -> None:
    """Judge any vectors in obsm beside the same baselines, by the same protocol."""
    from ..reporting.report import new_report_folder

    folder = new_report_folder(out)
    keys = {"label_key": label_key, "batch_key": batch_key, "split_key": split_key, "layer": layer}
    print_report(scfm.judge(data, obsm, **keys, scvi=scvi, full=full, say=say), None, folder, json_)


def annotate_command(
    model: Annotated[Path, typer.Argument(help="a checkpoint, run or shared model")],
    query: Annotated[str, typer.Argument(help="cells to name")],
    reference: Annotated[str, typer.Option(help="cells with types")],
    out: Annotated[Path, typer.Option(help=".h5ad to write, with obs['scfm_label'], ['pca_label']; must not exist")],
    label_key: LabelKey = "cell_type",
    layer: Layer = None,
    json_: Json = False,
) -> None:
    """Write the cells with a type and its confidence in obs, from a labelled reference; "unknown" below 0.1.

    The same by a PCA of all genes stands beside it.
    """
    from ..analysis.annotate import annotate_file
    from ..hardware.threads import use_all_cores

    use_all_cores()
    sources = (scfm.find_data(reference), scfm.find_data(query))
    told = annotate_file(model, *sources, out, label_key=label_key, layer=layer, say=say)
    if json_:
        print(json.dumps(told))
        return
    counts = ", ".join(f"{number:,} {label}" for label, number in told["labels"].items())
    print(f"{out}: obs['scfm_label']: {counts}\n\n{'':16}  accuracy  coverage")
    for way, name in (("scfm", "model"), ("pca", "PCA of all genes")):
        shown = ["none" if share is None else f"{share:.3f}" for share in told["held_out"][way].values()]
        print(f"{name:16}  {shown[0]:>8}  {shown[1]:>8}")
    print(f"on {told['held_out_cells']:,} held-out reference cells; both agree on {told['agree']:.0%} of the query")
