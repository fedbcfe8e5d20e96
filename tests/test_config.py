import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scfm_lib as scfm
from scfm_lib.config import PRESETS, config_text, parse_config, parse_overrides, preset_text
from scfm_lib.estimator.workload import NOMINAL_GENES

GUIDE = {  # hardware_guide.md, "Model Configurations", the parameter ranges it claims, and ours at NOMINAL_GENES
    "minimal": ((1000, 64, 128, 2, 4, 512), (5e6, 10e6), 3_078_048),
    "default": ((2000, 128, 256, 4, 8, 1024), (25e6, 35e6), 8_695_520),
    "large": ((5000, 256, 512, 6, 8, 2048), (80e6, 120e6), 30_997_344),
}
DIMENSIONS = ("n_genes", "gene_embedding_dim", "hidden_dim", "num_layers", "num_heads", "ff_dim")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_guides_dimensions_and_these_exact_parameter_counts(name: str) -> None:
    dimensions, claimed, exact = GUIDE[name]
    config = scfm.load_config(name)
    assert tuple(getattr(config.model, key) for key in DIMENSIONS) == dimensions
    with torch.device("meta"):
        counted = sum(p.numel() for p in scfm.CellTransformer(config.model, NOMINAL_GENES).parameters())
    assert counted == exact
    assert counted < claimed[0]  # the guide's ranges are not what its own dimensions give; README says so


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_printed_and_read_again_is_the_same(name: str, tmp_path) -> None:
    (tmp_path / "my.yaml").write_text(preset_text(name))
    assert scfm.load_config(tmp_path / "my.yaml") == scfm.load_config(name.upper())


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("model: {hiden_dim: 64}", "unknown key 'model.hiden_dim'; the nearest valid one is 'model.hidden_dim'"),
        ("batch_size: 8", "unknown key 'batch_size'; the nearest valid one is 'training.batch_size'"),
        ("training: {n_top_genes: 8}", "nearest valid one is 'data.preprocessing.n_top_genes'"),
        ("model: {hidden_dim: wide}", "model.hidden_dim = 'wide': input should be a valid integer"),
        (
            "model: {num_heads: 3}",
            "model.num_heads = 3 does not divide model.hidden_dim = 128; the nearest that does is 2",
        ),
        (
            "data: {preprocessing: {must_include: CD4}}",
            "must_include = 'CD4' is no list; write [A, B], also around one: [CD4]",
        ),
        ("training: {batch_size: 0}", "training.batch_size = 0: input should be greater than or equal to 1"),
        ("training: {fp16: true, bf16: true}", "both true"),
        ("data: {preprocessing: {n_top_genes: 2000}}", "n_top_genes = 2000 is more than model.n_genes = 1000"),
        ("model: [1, 2", "not valid YAML near line"),
        ("just text", "holds no sections"),
    ],
)
def test_a_wrong_config_is_one_line_with_the_key_and_the_way_out(yaml: str, says: str, tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text(yaml)
    with pytest.raises(scfm.InputError) as caught:
        scfm.load_config(tmp_path / "bad.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_config_and_preset() -> None:
    with pytest.raises(scfm.InputError, match="neither a preset"):
        scfm.load_config("huge")
    with pytest.raises(scfm.InputError, match="cannot be read: No such file"):
        scfm.load_config("nowhere.yaml")
    with pytest.raises(scfm.InputError, match="choose one of minimal"):
        preset_text("huge")


def test_overrides() -> None:
    assert parse_overrides(["training.bf16=true", "training.learning_rate=1e-3"]) == {
        "training.bf16": True,
        "training.learning_rate": "1e-3",  # YAML's idea of 1e-3; the config reads it as a number
    }
    assert scfm.load_config("minimal", {"training.learning_rate": "1e-3"}).training.learning_rate == 0.001
    with pytest.raises(scfm.InputError, match="not KEY=VALUE"):
        parse_overrides(["training.batch_size"])
    with pytest.raises(scfm.InputError, match=r"unknown key 'training\.batchsize'"):
        scfm.load_config("minimal", {"training.batchsize": 3})


@settings(max_examples=50, deadline=None)
@given(
    heads=st.integers(1, 16),
    per_head=st.integers(1, 64),
    layers=st.integers(1, 12),
    batch=st.integers(1, 512),
    fraction=st.floats(0, 0.9),
)
def test_any_valid_config_survives_being_written_and_read(heads, per_head, layers, batch, fraction) -> None:
    config = scfm.Config()
    config.model = config.model.model_copy(
        update={"num_heads": heads, "hidden_dim": heads * per_head, "num_layers": layers}
    )
    config.training.batch_size = batch
    config.data.validation_fraction = fraction
    import yaml

    assert parse_config(yaml.safe_load(config_text(config))) == config
