"""What a run is made of: three validated sections, `model`, `data` and `training`, with the hardware guide's key names.

Presets are the YAML files in `presets/`. Anything wrong in a config is one line that names the key and the way out.
"""

import difflib
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import InputError

PRESETS = ("minimal", "default", "large")


class Section(BaseModel):
    """A part of the config: unknown keys and wrong types are refused, also on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class ModelConfig(Section):
    """The transformer's dimensions, named as in the hardware guide."""

    n_genes: int = Field(1000, ge=2, le=65535, description="genes that become tokens: the most variable")
    gene_embedding_dim: int = Field(64, ge=1, description="length of a gene's learned vector")
    hidden_dim: int = Field(128, ge=1, description="length of a token's vector inside the transformer")
    num_layers: int = Field(2, ge=1, description="transformer blocks")
    num_heads: int = Field(4, ge=1, description="attention heads; must divide hidden_dim")
    ff_dim: int = Field(512, ge=1, description="width of the feed-forward layer")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_dim % self.num_heads:
            fits = [h for h in range(1, self.hidden_dim + 1) if self.hidden_dim % h == 0]
            nearest = min(fits, key=lambda h: abs(h - self.num_heads))
            raise ValueError(
                f"model.num_heads = {self.num_heads} does not divide model.hidden_dim = {self.hidden_dim}; "
                f"the nearest that does is {nearest}"
            )
        return self


class PreprocessingConfig(Section):
    """Quality control and the choice of genes (scanpy's names)."""

    n_top_genes: int | None = Field(None, ge=2, description="highly variable genes; unset: model.n_genes")
    min_genes: int = Field(100, ge=1, description="cells expressing fewer genes are left out of training")
    min_cells: int = Field(3, ge=0, description="genes seen in fewer cells are left out of the vocabulary")
    max_mito_percent: float | None = Field(None, gt=0, le=100, description="cells above this MT- share are left out")
    must_include: list[str] = Field([], description="genes that become tokens in any case, by symbol or Ensembl id")


class DataConfig(Section):
    """Which cells are learned from."""

    layer: str | None = Field(None, description="where the counts are; unset: looked for in layers, raw and X")
    batch_key: str | None = Field(None, description="column of obs: told to the decoder, so that vectors need not tell")
    n_obs: int | None = Field(None, ge=2, description="learn from this many random cells (all, if there are fewer)")
    validation_fraction: float = Field(0.2, ge=0, lt=1, description="cells held out of everything, by name")
    split_seed: int = Field(0, ge=0, lt=2**32, description="which cells: apart from training.seed, so seeds compare")
    preprocessing: PreprocessingConfig = PreprocessingConfig()


class TrainingConfig(Section):
    """The loop."""

    batch_size: int = Field(32, ge=1, description="cells per forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes per optimizer step")
    token_share: float = Field(1.0, gt=0, le=1, description="of a cell's tokens, a random share attends in training")
    num_epochs: int = Field(50, ge=1)
    patience: int | None = Field(None, ge=1, description="epochs to wait for a lower held-out loss; the best is kept")
    learning_rate: float = Field(2e-3, gt=0, description="at its highest, after the warm-up")
    weight_decay: float = Field(0.01, ge=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of all steps with a rising learning rate")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    fp16: bool | None = Field(None, description="float16 with a gradient scaler; unset: the hardware decides")
    bf16: bool | None = Field(None, description="bfloat16; unset: the hardware decides")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    num_workers: int = Field(0, ge=0, description="processes that prepare batches")
    threads: int | None = Field(None, ge=1, description="that share a step on a CPU; unset: one for each usable core")
    seed: int = Field(0, ge=0, lt=2**32)
    log_every_steps: int = Field(50, ge=1, description="console line and metrics.jsonl")
    checkpoint_every_steps: int = Field(500, ge=1)
    checkpoint_every_minutes: float = Field(10, gt=0)
    keep_checkpoints: int = Field(3, ge=1, description="older ones are deleted")

    @model_validator(mode="after")
    def _one_precision(self) -> Self:
        if self.fp16 and self.bf16:
            raise ValueError("training.fp16 and training.bf16 are both true; set one of them to false")
        return self


class Config(Section):
    """A whole run. `Config()` is the MINIMAL preset's shape with library defaults; see `load_config`."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _vocabulary_fits(self) -> Self:
        top = self.data.preprocessing.n_top_genes
        if top and top > self.model.n_genes:
            raise ValueError(
                f"data.preprocessing.n_top_genes = {top} is more than model.n_genes = {self.model.n_genes}; "
                "raise model.n_genes or lower n_top_genes"
            )
        return self

    @property
    def vocabulary_size(self) -> int:
        """Genes to choose: the smaller of `data.preprocessing.n_top_genes` and `model.n_genes`."""
        return self.data.preprocessing.n_top_genes or self.model.n_genes


def preset_text(name: str) -> str:
    """The YAML text of a preset, comments and all, ready to be edited.

    Raises:
        InputError: there is no such preset.
    """
    if name.lower() not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return (Path(__file__).parent / "presets" / f"{name.lower()}.yaml").read_text(encoding="utf-8")


def load_config(source: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """A preset by name ("minimal", "default", "large", any case) or a YAML file, with dotted overrides on top.

    Args:
        source: name or path.
        overrides: such as `{"training.batch_size": 16}`.

    Raises:
        InputError: no such preset or file, not YAML, or a key or value that is not valid.
    """
    if str(source).lower() in PRESETS:
        text, where = preset_text(str(source)), f"preset {source}"
    else:
        path, where = Path(source), str(source)
        if not path.is_file() and (path.exists() or path.suffix.lower() not in {".yaml", ".yml"}):
            raise InputError(f"config {where!r} is neither a preset ({', '.join(PRESETS)}) nor a .yaml file")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(f"config {where} cannot be read: {reason}; check the path") from None
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise InputError(
            f"config {where} is not valid YAML near line {line}: {getattr(error, 'problem', error)}"
        ) from None
    if not isinstance(tree, dict):
        raise InputError(f"config {where} holds no sections; start from `scfm config minimal > my.yaml`")
    return parse_config(_put(tree, overrides or {}), where)


def with_changes(config: Config, changes: dict[str, Any]) -> Config:
    """A copy of the config with dotted keys changed, such as `{"training.batch_size": 16}`.

    Raises:
        InputError: a key or value that is not valid.
    """
    return parse_config(_put(config.model_dump(), changes))


def _put(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for dotted, value in changes.items():
        node = tree
        *parents, last = dotted.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{dotted}: {parent!r} is not a section")
        node[last] = value
    return tree


def parse_config(tree: dict[str, Any], where: str = "config") -> Config:
    """A `Config` from nested dictionaries.

    Raises:
        InputError: for the first problem found, naming the key and the nearest valid one.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_problem(error)}") from None


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`["training.batch_size=16"]` as `{"training.batch_size": 16}`; values are read as YAML.

    Raises:
        InputError: a pair without `=` or with a value that is not YAML.
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {pair!r} is not KEY=VALUE; write for example --set training.batch_size=16")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {pair!r}: the value cannot be read") from None
    return overrides


def config_text(config: Config) -> str:
    """The config as YAML, keys in the order of the sections."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every valid dotted key."""
    keys = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _keys(inner, f"{prefix}{name}.")
        keys.append(prefix + name)
    return keys


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = _keys(Config)
        # The same last name in another section is the likelier slip than a similar spelling.
        same = [k for k in valid if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        near = same or difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
        return f"unknown key {key!r}; the nearest valid one is {near[0]!r}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "list_type":
        return f"{key} = {problem['input']!r} is no list; write [A, B], also around one: [{problem['input']}]"
    return f"{key} = {problem['input']!r}: {problem['msg'].lower().split(', unable')[0]}"
