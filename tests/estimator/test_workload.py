"""The formulas against the built model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import scfm_lib as scfm
from scfm_lib.config import PRESETS, ModelConfig
from scfm_lib.estimator.workload import parameters, training_flops


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    heads = draw(st.integers(1, 8))
    return ModelConfig(
        n_genes=draw(st.integers(2, 3000)),
        gene_embedding_dim=draw(st.integers(1, 96)),
        hidden_dim=heads * draw(st.integers(1, 24)),
        num_layers=draw(st.integers(1, 5)),
        num_heads=heads,
        ff_dim=draw(st.integers(1, 400)),
    )


def components(model: torch.nn.Module) -> dict[str, int]:
    """Counts from the built model; `parameters()` yields a tied weight once."""
    where = {
        "bag_": "bag_of_genes",
        "gene_embedding": "gene_embedding",
        "gene_to_token": "gene_to_token",
        "value_": "value_network",
        "cell_token": "cell_token",
        "norm": "norms",
        "to_latent": "decoder",
        "output_": "decoder",
    }
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("blocks."):
            part = name.split(".")[2]
            key = "norms" if part.endswith("_norm") else "feed_forward" if part.startswith("ff") else "attention"
        else:
            key = next(key for prefix, key in where.items() if name.startswith(prefix))
        counts[key] = counts.get(key, 0) + parameter.numel()
    return counts


@given(model_configs(), st.integers(0, 5000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_parameters_equal_the_built_model(config: ModelConfig, others: int) -> None:
    genes = config.n_genes + others
    with torch.device("meta"):
        model = scfm.CellTransformer(config, genes)
    assert parameters(config, genes) == components(model)
    assert sum(parameters(config, genes).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_flops_equal_those_counted_by_torch(preset: str) -> None:
    config = scfm.load_config(preset).model
    model = scfm.CellTransformer(config, 7000)
    lengths = torch.tensor([40, 40, 40])  # all alike: nothing is padded, so torch counts what we count
    genes = torch.cat([torch.arange(40), torch.arange(6900, 7000)]).expand(3, 140)  # 40 tokens of 140 expressed genes
    # torch does not count the CPU's fused attention, so it is written out as products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(genes, torch.ones(3, 140)).sum().backward()
    assert training_flops(config, lengths, 7000) == pytest.approx(counter.get_total_flops(), rel=0.001)
