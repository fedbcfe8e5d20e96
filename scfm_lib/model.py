"""The model: a transformer that reads a cell as the set of its expressed genes.

Read it from top to bottom. Shapes: B cells (or half cells), T genes in the longest of them, G `n_genes`, E
`gene_embedding_dim`, H `hidden_dim`. Nothing here knows of files or devices.

    genes, values (B, T) -> tokens (B, 1 + T, H) -> blocks -> [CELL] (B, H) -> expected share of every gene (B, G)

A block is GPT-2's pre-norm block (Radford et al. 2019) without a causal mask and without positions: a cell is a set.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig

VALUE_WIDTH = 32  # hidden width of the small network that turns an expression value into a vector


class Block(nn.Module):
    """One transformer block: tokens exchange information (attention), then each is worked on alone (feed-forward)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden = config.hidden_dim
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.ff_norm = nn.LayerNorm(hidden)
        self.ff_in = nn.Linear(hidden, config.ff_dim)
        self.ff_out = nn.Linear(config.ff_dim, hidden)

    def forward(self, x: Tensor, attend: Tensor, cell_only: bool = False) -> Tensor:
        """(B, 1 + T, H) -> the same shape, or (B, 1, H) with `cell_only`.

        Args:
            x: tokens, [CELL] first.
            attend: (B, 1, 1, 1 + T) bool, False for padding.
            cell_only: compute [CELL]'s row alone. In the last block nobody reads the gene tokens' rows, so leaving
                them out gives the same numbers for half the work at two layers.
        """
        hidden = x.shape[-1]
        normed = self.attention_norm(x)
        if cell_only:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(normed[:, :1], weight[:hidden], bias[:hidden])
            k, v = F.linear(normed, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
            x = x[:, :1]
        else:
            q, k, v = self.qkv(normed).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, heads, T, H / heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        mixed = self.attention_out(mixed.transpose(1, 2).flatten(2))
        x = x + F.dropout(mixed, self.dropout, self.training)
        worked = self.ff_out(F.gelu(self.ff_in(self.ff_norm(x))))
        return x + F.dropout(worked, self.dropout, self.training)


class CellTransformer(nn.Module):
    """Encoder from expressed genes to a cell's vector, and a low-rank decoder to every gene's expected share."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.symbols: np.ndarray | None = None  # (G,) names of the vocabulary's genes, set by whoever knows them
        self.ensembl: np.ndarray | None = None  # (G,)
        genes, width, hidden = config.n_genes, config.gene_embedding_dim, config.hidden_dim
        self.gene_embedding = nn.Parameter(torch.empty(genes, width))
        self.gene_to_token = nn.Linear(width, 2 * hidden, bias=False)  # what a gene says, and what more of it says
        self.value_in = nn.Linear(1, VALUE_WIDTH)
        self.value_out = nn.Linear(VALUE_WIDTH, hidden)
        self.cell_token = nn.Parameter(torch.empty(hidden))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(hidden)
        self.to_latent = nn.Linear(hidden, width)
        self.output_embedding = nn.Parameter(torch.empty(genes, width))
        self.output_bias = nn.Parameter(torch.zeros(genes))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):  # half of 1/sqrt(inputs): 0.022 at 512 wide, GPT-2's 0.02
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.cell_token, std=0.02)
        nn.init.normal_(self.gene_embedding, std=1 / 8)
        nn.init.normal_(self.output_embedding, std=1 / 10)

    def tokens(self, genes: Tensor, values: Tensor) -> Tensor:
        """(B, T) numbers of genes and (B, T) values -> (B, 1 + T, H): [CELL], then a token for each expressed gene."""
        table = self.gene_to_token(self.gene_embedding)  # (G, 2 H): projected once per gene, not once per token
        identity, slope = F.embedding(genes, table).chunk(2, dim=-1)
        value = values.unsqueeze(-1).to(table.dtype)
        amount = self.value_out(F.relu(self.value_in(value)))
        x = identity + slope * value + amount
        return torch.cat([self.cell_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)

    def encode(self, genes: Tensor, values: Tensor) -> Tensor:
        """The cells' vectors (B, H), which is what `obsm["X_scfm"]` holds. Values of 0 are padding."""
        attend = F.pad(values > 0, (1, 0), value=True)[:, None, None, :]
        x = self.tokens(genes, values)
        for number, block in enumerate(self.blocks, start=1):
            last = number == len(self.blocks)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, attend, last, use_reentrant=False)
            else:
                x = block(x, attend, last)
        return self.norm(x[:, 0])

    def decode(self, cells: Tensor) -> Tensor:
        """(B, H) -> log-odds (B, G); their softmax is the share of molecules expected from each gene."""
        return F.linear(self.to_latent(cells), self.output_embedding, self.output_bias)

    def forward(self, genes: Tensor, values: Tensor) -> Tensor:
        """(B, T), (B, T) -> log-odds (B, G)."""
        return self.decode(self.encode(genes, values))


def prediction_loss(logits: Tensor, target_genes: Tensor, target_counts: Tensor) -> Tensor:
    """Multinomial negative log-likelihood of the other half's counts in nats, summed over the batch.

    sum over cells of  molecules * logsumexp(logits) - sum over genes of  count * logit

    Zeros need no token: they are learned through the softmax's denominator. The multinomial coefficient is left out,
    as it does not depend on the model.

    Args:
        logits: (B, G).
        target_genes: (B, U) int64.
        target_counts: (B, U), 0 for padding.
    """
    logits = logits.float()
    molecules = target_counts.sum(1)
    hits = (logits.gather(1, target_genes) * target_counts).sum(1)
    return (molecules * logits.logsumexp(1) - hits).sum()


def new_model(config: ModelConfig, seed: int, start: dict[str, Tensor] | None = None) -> CellTransformer:
    """A model with random weights from `seed`, and with `start` from `dataset.pca_start` put in, if given.

    The global random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CellTransformer(config)
    if start is not None:
        loadings = start["loadings"]
        with torch.no_grad():  # the same spread as the random start, so that only the directions differ
            model.gene_embedding[:, : loadings.shape[1]] = loadings / 8
            model.output_embedding[:, : loadings.shape[1]] = loadings / 10
            model.output_bias.copy_(start["log_share"])
    return model
