"""What training costs, by formula: parameters by component and floating-point operations.

Each formula stands for a few lines of `model.py` and is checked against the built model (tests/test_estimate.py).
"""

from torch import Tensor

from .config import ModelConfig
from .model import VALUE_WIDTH


def parameters(config: ModelConfig) -> dict[str, int]:
    """Exact number of parameters of each component, without building the model; their sum is the model's.

    h is `hidden_dim`, e `gene_embedding_dim`, f `ff_dim`, g `n_genes`. A linear layer from a to b has a * b weights and
    b biases, a layer norm of width h has 2 h.
    """
    g, e, h, f = config.n_genes, config.gene_embedding_dim, config.hidden_dim, config.ff_dim
    return {
        "gene_embedding": g * e,
        "gene_to_token": e * 2 * h,
        "value_network": 2 * VALUE_WIDTH + VALUE_WIDTH * h + h,
        "cell_token": h,
        "attention": config.num_layers * ((h * 3 * h + 3 * h) + (h * h + h)),
        "feed_forward": config.num_layers * ((h * f + f) + (f * h + h)),
        "norms": (2 * config.num_layers + 1) * 2 * h,
        "decoder": (h * e + e) + g * e + g,
    }


def training_flops(config: ModelConfig, lengths: Tensor) -> float:
    """Floating-point operations of a training step over half cells with these many genes (halves,).

    Those of matrix products on real tokens; a multiply and an add are two, the backward pass is twice the forward
    (Kaplan et al. 2020, appendix B). Padding and recomputation are not counted.
    """
    tokens = (lengths + 1).double()  # [CELL] too
    h, f, width = config.hidden_dim, config.ff_dim, config.gene_embedding_dim
    whole_block = (2 * tokens * (4 * h * h + 2 * h * f) + 4 * tokens.square() * h).sum()
    last_block = (2 * tokens * 2 * h * h + 2 * (2 * h * h + 2 * h * f) + 4 * tokens * h).sum()  # [CELL]'s row alone
    embedding = 2 * config.n_genes * width * 2 * h + (2 * tokens * VALUE_WIDTH * (1 + h)).sum()
    decoder = len(lengths) * 2 * width * (h + config.n_genes)
    return float(3 * (whole_block * (config.num_layers - 1) + last_block + embedding + decoder))
