"""The model: a transformer that reads a cell as the set of its expressed genes.

Read it from top to bottom. Every expressed gene is read and predicted; the most variable ones are tokens, which attend
to each other. Shapes: B cells (or half cells), S expressed genes in the longest of them, T of those that are tokens, G
all genes, `n_genes` of which can be tokens, E `gene_embedding_dim`, H `hidden_dim`. Nothing here knows of files or
devices.

    genes, values (B, S) -> a bag of all (B, H), where [CELL] starts, and tokens of some (B, T, H)
                         -> blocks -> [CELL], narrowed (B, E) -> expected share of every gene (B, G)

A block is GPT-2's pre-norm block (Radford et al. 2019) without a causal mask and without positions: a cell is a set.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig

VALUE_WIDTH = 32  # hidden width of the small network that turns an expression value into a vector
GRID = 8  # numbers of tokens are rounded up to it: a CPU keeps a compiled product, and its memory, for each number seen
KINKS = (1.2, 6.5)  # where its kinks lie at the start: among log1p of counts per 10,000, most of which are there


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
        hidden, normed = x.shape[-1], self.attention_norm(x)
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

    def __init__(self, config: ModelConfig, genes: int | None = None, batches: int = 0):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.symbols: np.ndarray | None = None  # (G,) names of the vocabulary's genes, set by whoever knows them
        self.ensembl: np.ndarray | None = None  # (G,)
        genes, width, hidden = genes or config.n_genes, config.gene_embedding_dim, config.hidden_dim
        self.bag_embedding = nn.Parameter(torch.empty(genes, width))
        self.register_buffer("bag_centre", torch.zeros(width))
        self.bag_to_cell = nn.Linear(width, hidden, bias=False)
        self.gene_embedding = nn.Parameter(torch.empty(config.n_genes, width))
        self.gene_to_token = nn.Linear(width, 2 * hidden, bias=False)  # what a gene says, and what more of it says
        self.value_in = nn.Linear(1, VALUE_WIDTH)
        self.value_out = nn.Linear(VALUE_WIDTH, hidden)
        self.cell_token = nn.Parameter(torch.empty(hidden))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(hidden)
        self.to_latent = nn.Linear(hidden, width)
        self.output_embedding = nn.Parameter(torch.empty(genes, width))
        self.output_bias = nn.Parameter(torch.zeros(genes))
        # what a batch does to each gene, and what else it does to some kinds of cells: the vector need not carry it
        self.batch_offset = nn.Parameter(torch.zeros(batches, genes)) if batches else None
        self.batch_change = nn.Parameter(torch.zeros(batches, width, width)) if batches else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):  # half of 1/sqrt(inputs): 0.022 at 512 wide, GPT-2's 0.02
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():  # half of the kinks bend upwards from where they lie, half downwards
            sign = torch.tensor([1.0, -1.0]).repeat(VALUE_WIDTH // 2)
            self.value_in.weight.copy_(sign[:, None])
            self.value_in.bias.copy_(-sign * torch.linspace(*KINKS, VALUE_WIDTH))
        nn.init.normal_(self.cell_token, std=0.02)
        nn.init.normal_(self.bag_embedding, std=self.bag_embedding.shape[0] ** -0.5)
        nn.init.normal_(self.gene_embedding, std=1 / 8)
        nn.init.normal_(self.output_embedding, std=1 / 10)

    def cell_start(self, genes: Tensor, values: Tensor) -> Tensor:
        """(B, S), (B, S) -> (B, H): where [CELL] starts, a bag of all expressed genes.

        It is the sum of value x gene vector, less that sum of the mean cell: no attention, one matrix product.
        """
        profile = values.new_zeros(len(values), len(self.bag_embedding)).scatter_add_(1, genes, values)  # (B, G)
        return self.cell_token + self.bag_to_cell(profile @ self.bag_embedding - self.bag_centre)

    def tokens(self, genes: Tensor, values: Tensor) -> Tensor:
        """(B, T) numbers of genes and (B, T) values -> a token for each: (B, T, H)."""
        table = self.gene_to_token(self.gene_embedding)  # (G, 2 H): projected once per gene, not once per token
        identity, slope = F.embedding(genes, table).chunk(2, dim=-1)
        value = values.unsqueeze(-1).to(table.dtype)
        amount = self.value_out(F.relu(self.value_in(value)))
        return identity + slope * value + amount

    def read(self, genes: Tensor, values: Tensor, most_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """What the blocks get: [CELL] and the tokens (B, 1 + T, H), and which of them are there (B, 1, 1, 1 + T)."""
        is_token = (genes < self.config.n_genes) & (values > 0)
        if most_tokens is None:
            order = is_token.int().argsort(dim=1, descending=True, stable=True)
            genes, values, is_token = (t.gather(1, order) for t in (genes, values, is_token))
            most_tokens = on_grid(int(is_token.sum(1).max()))
        is_token = is_token[:, :most_tokens]
        x = self.tokens(genes[:, :most_tokens] * is_token, values[:, :most_tokens])
        x = torch.cat([self.cell_start(genes, values)[:, None].to(x.dtype), x], dim=1)
        return x, F.pad(is_token, (1, 0), value=True)[:, None, None, :]

    def encode(self, genes: Tensor, values: Tensor, most_tokens: int | None = None) -> Tensor:
        """The cells' vectors (B, E), which is what `obsm["X_scfm"]` holds: [CELL] after the blocks, narrowed.

        Args:
            genes: (B, S) numbers of the expressed genes; those below `n_genes` become tokens.
            values: (B, S); 0 is padding.
            most_tokens: T, the first columns, if they are known to hold every token; looked for when unset.
        """
        x, attend = self.read(genes, values, most_tokens)
        for number, block in enumerate(self.blocks, start=1):
            last = number == len(self.blocks)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, attend, last, use_reentrant=False)
            else:
                x = block(x, attend, last)
        return self.to_latent(self.norm(x[:, 0]))

    def decode(self, cells: Tensor, batch: Tensor | None = None) -> Tensor:
        """(B, E) -> log-odds (B, G); their softmax is the share of molecules expected from each gene.

        `batch` (B,) int64 says which batch a cell is from. If the model knows any, each has an offset for every gene,
        and a change of the cells' vectors: a cell z is read as z + z @ change.
        """
        if batch is None or self.batch_offset is None:
            return F.linear(cells, self.output_embedding, self.output_bias)
        cells = cells + torch.bmm(cells[:, None], self.batch_change[batch])[:, 0]
        return self.decode(cells) + self.batch_offset[batch]

    def forward(
        self, genes: Tensor, values: Tensor, most_tokens: int | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """(B, S), (B, S), and (B,) the cells' batches -> log-odds (B, G)."""
        return self.decode(self.encode(genes, values, most_tokens), batch)


def on_grid(tokens: int) -> int:
    """A number of tokens rounded up to `GRID`; at least one step of it."""
    return max(1, -(-tokens // GRID)) * GRID


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
