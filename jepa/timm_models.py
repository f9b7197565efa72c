"""The published encoders as models of timm: `import jepa.timm_models`, then `timm.create_model(NAME)`.

    jepa_vit_large_patch16_256.vjepa2     architecture: size, patch, pixels; tag: family

Two families may share a size (`jepa_vit_giant_patch16_384.vjepa2` and `.vjepa2_1`), so the tag chooses the network, not
only its weights; without one the older family is meant. Names and architectures are those of `models.catalog`;
`create_model` takes the fields of `EncoderConfig` (or timm's words for them) as changes.

Images (B, C, H, W) fill one tubelet: repeated over its frames (V-JEPA 1 and 2), as they are (I-JEPA), or through the
tokenizer of images (V-JEPA 2.1). Clips are (B, C, T, H, W). Any multiples of patch and tubelet will do: positions are
functions of the grid, and there is no class token. The head reads the mean of the tokens behind the encoder's own
LayerNorm, whose weights were trained; timm drops it there for a new `fc_norm` behind the mean, here an option.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from jaxtyping import Float
from timm.layers import global_pool_nlc, trunc_normal_
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from jepa.checkpoints.load import load_encoder
from jepa.config import nearest
from jepa.errors import ConfigError
from jepa.models.catalog import CATALOG, HOST, Entry
from jepa.models.encoder import Encoder, EncoderConfig, differences
from jepa.models.stack import checkpoint_activations

Pool = Literal["avg", "max", "avgmax", ""]

WORDS = {
    "img_size": "size",
    "patch_size": "patch",
    "in_chans": "channels",
    "embed_dim": "width",
    "num_heads": "heads",
    "num_frames": "frames",
    "tubelet_size": "tubelet",
    "drop_path_rate": "drop_path",
}
"""What timm calls a field of `EncoderConfig`."""


class JepaViT(nn.Module):
    """An encoder with a linear head, as timm expects a vision transformer to be.

    Parameters: `encoder.*`, the official names (`encoder.blocks.0.attn.qkv.weight`); `fc_norm.*` if there is one;
    `head.weight` and `head.bias` unless `num_classes` is 0.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        config: EncoderConfig,
        *,
        num_classes: int = 0,
        global_pool: Pool = "avg",
        fc_norm: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        """
        Args:
            config: of the encoder.
            num_classes: outputs of the head; 0 for none, the pooled tokens are then the output.
            global_pool: how tokens are pooled; `""` gives each of them to the head.
            fc_norm: a new LayerNorm on what was pooled.
            drop_rate: dropout before the head.

        Raises:
            ConfigError: there is no such pooling.
        """
        super().__init__()
        self.encoder = Encoder(config)
        self.num_features = self.head_hidden_size = self.embed_dim = config.width
        self.in_chans = config.channels
        self.feature_info = [
            {"module": f"encoder.blocks.{number}", "num_chs": config.width, "reduction": config.patch}
            for number in range(config.depth)
        ]
        self.fc_norm = nn.LayerNorm(config.width, eps=1e-6) if fc_norm else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: Pool | None = None) -> None:
        """A new head, and perhaps another pooling. Raises ConfigError as the constructor."""
        if global_pool is not None:
            if global_pool not in get_args(Pool):
                raise ConfigError(
                    f"global_pool is {global_pool!r}, expected avg, max, avgmax or '' (no class token here)"
                )
            self.global_pool: Pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Class scores (B, classes) of images or clips."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B N D"]:
        """Normalised tokens, those of `Encoder`."""
        last = self.encoder.config.depth - 1
        return self.encoder.normalise(self._run(x, [last], last)[last], last)

    def forward_head(self, x: Float[Tensor, "B N D"], pre_logits: bool = False) -> Float[Tensor, "B ..."]:
        """Class scores from the tokens of `forward_features`, or what the head would read (B, D)."""
        pooled = self.head_drop(self.fc_norm(global_pool_nlc(x, self.global_pool, num_prefix_tokens=0)))
        out: Tensor = pooled if pre_logits else self.head(pooled)
        return out

    def forward_intermediates(
        self,
        x: Float[Tensor, "B ..."],
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Tokens after some of the blocks, as timm's vision transformers give them.

        Args:
            x: images (B, C, H, W) or clips (B, C, T, H, W).
            indices: the last n blocks, or their 0-based numbers (negative: from the end); none for all.
            return_prefix_tokens: makes no difference, as there are none.
            norm: each through its LayerNorm, as `Encoder.levels` gives them.
            stop_early: run no block behind the last of these.
            output_fmt: `NLC` for (B, N, D), `NCHW` for (B, D, H / patch, W / patch), of clips (B, D, steps, ...).
            intermediates_only: leave out the first output.

        Returns:
            The normalised tokens after the last block that was run (B, N, D), and the intermediate ones.

        Raises:
            ConfigError: there is no such block or format.
        """
        config = self.encoder.config
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt is {output_fmt!r}, expected NCHW or NLC")
        wanted = _indices(indices, config.depth)
        last = max(wanted) if stop_early or intermediates_only else config.depth - 1
        found = self._run(x, [*wanted, last], last)
        chosen = [self.encoder.normalise(found[level], level) if norm else found[level] for level in wanted]
        if output_fmt == "NCHW":
            grid = self.encoder.grid_of(self._clips(x))
            shape = grid.shape if x.ndim == 5 else grid.shape[1:]
            chosen = [tokens.transpose(1, 2).unflatten(2, shape).contiguous() for tokens in chosen]
        return chosen if intermediates_only else (self.encoder.normalise(found[last], last), chosen)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the inside of each block again in the backward pass in place of keeping it."""
        checkpoint_activations(self.encoder, enable)

    def no_weight_decay(self) -> set[str]:
        """Parameters of more than one dimension that are vectors all the same."""
        return {name for name, _ in self.named_parameters() if name.endswith("mod_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names from the input to the output, for a learning rate that falls with depth."""
        return {
            "stem": r"^encoder\.(?:patch_embed|img_mod_embed|video_mod_embed)",
            "blocks": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
        }

    def load_pretrained(self, path: str | Path) -> None:
        """Weights of the encoder from a file or folder that `jepa.load_encoder` reads; the head stays as it is.

        Raises:
            DataError: nothing there that it reads.
            ConfigError: an encoder of another architecture.
        """
        own = self.encoder.config
        official = Path(path).is_file() and Path(path).suffix not in (".safetensors", ".ckpt", ".json")
        # What official files do not tell, and what else describes itself.
        told: dict[str, Any] = {"heads": own.heads, "levels": own.levels or None} if official else {}
        found = load_encoder(path, **told).encoder
        if other := differences(found.config, own):
            raise ConfigError(f"{path}: an encoder of another architecture: {'; '.join(other)}")
        self.encoder.load_state_dict(found.state_dict())

    def _clips(self, x: Tensor) -> Tensor:
        """Images as clips of one frame, and clips as they are."""
        config = self.encoder.config
        if x.ndim == 5 and x.shape[2] > 1 and config.positions == "sincos2d":
            raise ConfigError(f"{x.shape[2]} frames for an encoder of images: give (B, C, H, W)")
        return x.unsqueeze(2) if x.ndim == 4 else x

    def _run(self, x: Tensor, wanted: Collection[int], last: int) -> dict[int, Tensor]:
        """Tokens as they leave the `wanted` blocks; none behind block `last` is run."""
        tokens, rotation = self.encoder.begin(self._clips(x))
        found: dict[int, Tensor] = {}
        for number, after in zip(range(last + 1), self.encoder.blocks.after_each(tokens, rotation), strict=False):
            if number in wanted:
                found[number] = after
        return found


def _indices(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """Numbers of blocks, from 0."""
    if isinstance(indices, int):
        indices = range(depth - indices, depth)
    chosen = list(range(depth) if indices is None else indices)
    if not chosen or not all(-depth <= number < depth for number in chosen):
        raise ConfigError(f"blocks {chosen} wanted of an encoder of depth {depth}")
    return [number % depth for number in chosen]


def _split(name: str) -> tuple[str, str]:
    """Architecture and tag of a name in the catalogue."""
    family, _, rest = name.partition("_vit_")
    return f"jepa_vit_{rest}", family


ENTRIES: Mapping[tuple[str, str], Entry] = {_split(name): entry for name, entry in CATALOG.items()}
"""The published encoders by architecture and tag."""


def _facts(entry: Entry) -> PretrainedCfg:
    """What timm wants to know of pretrained weights; where they are it is told with `file`."""
    size, channels = entry.encoder.size, entry.encoder.channels
    return PretrainedCfg(
        input_size=(channels, size, size),
        mean=entry.mean,
        std=entry.std,
        interpolation="bilinear",  # as in pretraining and in the published evaluations, with a crop of 224 / 256
        crop_pct=0.875,
        num_classes=0,
        first_conv="encoder.patch_embed.proj",
        classifier="head",
        license=entry.source.licence,
        origin_url=f"{HOST}/{entry.source.file}",
        paper_ids=f"arXiv:{entry.source.paper}",
    )


default_cfgs = generate_default_cfgs({f"{name}.{tag}": _facts(entry) for (name, tag), entry in ENTRIES.items()})
"""By architecture; timm looks for it under this name."""


def _build(config: EncoderConfig, file: str | None, **options: Any) -> JepaViT:
    """The model with changes to its encoder, and with the weights of `file`.

    Raises:
        ConfigError: an option that does not exist, or as `EncoderConfig` and `JepaViT`.
    """
    own = {field.name for field in fields(EncoderConfig)}
    head = {"num_classes", "global_pool", "fc_norm", "drop_rate"}
    changes: dict[str, Any] = {}
    for name in [name for name in options if name not in head]:
        if WORDS.get(name, name) not in own:
            raise ConfigError(f"create_model: unknown option '{name}'{nearest(name, [*own, *WORDS, *head])}")
        value = options.pop(name)
        changes[WORDS.get(name, name)] = tuple(value) if name == "levels" else value
    if not isinstance(size := changes.get("size", 0), int):
        if len(set(size)) != 1:
            raise ConfigError(f"img_size is {size}: leave it out, images of any height and width can be given")
        changes["size"] = size[0]
    model = JepaViT(replace(config, **changes), **options)
    if file is not None:
        model.load_pretrained(file)
    return model


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function behind `create_model(name)`."""
    tags = [tag for own, tag in ENTRIES if own == name]

    def create(
        pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, **options: Any
    ) -> nn.Module:
        facts = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
        if pretrained and not (facts.has_weights or facts.state_dict):
            raise ConfigError(
                f"{name}: say where its weights are, pretrained_cfg_overlay=dict(file=PATH), a file or folder that "
                f"jepa.load_encoder reads; published at {facts.origin_url}"
            )
        config = ENTRIES[name, facts.tag or tags[0]].encoder
        file = facts.file if pretrained else None
        model: nn.Module = build_model_with_cfg(
            partial(_build, config, file),
            name,
            # Our own reader has loaded a file by now; timm's loads the other things that may be named.
            pretrained and file is None,
            pretrained_cfg=asdict(facts),
            feature_cfg={"out_indices": (-4, -3, -2, -1), "feature_cls": "getter"},
            **options,
        )
        return model

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}, of {', '.join(tags)}."
    return create


# timm adds the names to `__all__`, so they must be here.
globals().update({name: register_model(_entrypoint(name)) for name in default_cfgs})
