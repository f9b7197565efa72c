"""The README.md beside converted weights: what they are, where they came from, what became of each tensor.

Front matter for model hubs comes first; `MARK` in the last line tells our own output from a folder that must not be
overwritten.
"""

from jepa.checkpoints.families import FAMILIES
from jepa.checkpoints.weights import Weights
from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig
from jepa.version import __version__

MARK = "<!-- written by jepa convert -->"
_IDENTIFIERS = {"CC-BY-NC-4.0": "cc-by-nc-4.0", "MIT": "mit"}
_LOADING = {
    "jepa": 'import jepa\n\nencoder = jepa.load_encoder("{folder}")',
    "huggingface": 'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{folder}")',
    "probe": "from transformers import VJEPA2ForVideoClassification\n\n"
    'model = VJEPA2ForVideoClassification.from_pretrained("{folder}")',
}


def card(weights: Weights, folder: str, to: str, dropped: dict[str, str]) -> str:
    """The text of the card.

    Args:
        weights: what was converted.
        folder: name of the folder it lies in.
        to: `jepa` or `huggingface`.
        dropped: what was left out, with the reason.
    """
    source = weights.facts.get("source", {})
    family = FAMILIES.get(source.get("family"))
    licence = licence_of(weights)
    rows = [
        ("source", f"`{source.get('file', weights.where)}` ({source.get('format', 'a run of jepa')})"),
        ("family", f"{family.release.title}, arXiv {family.release.paper}" if family else "none of the published ones"),
        *architecture_rows(weights),
        ("parts", ", ".join(part for part in weights.parts() if part not in dropped)),
        ("converted by", f"jepa-video {__version__}, `jepa convert --to {to}`"),
        ("licence", licence or "that of the run they came from"),
    ]
    notes = [f"- `{name}` is not kept: {why}" for name, why in sorted(dropped.items())]
    notes += [f"- assumed, as the source does not tell: {text}" for text in weights.report.assumed]
    if weights.report.mask_tokens:
        notes.append(f"- norms of the predictor's mask tokens: {norms_line(weights.report.mask_tokens)}")
    kind = "probe" if to == "huggingface" and weights.probes else to
    parts = [
        f"---\nlicense: {_IDENTIFIERS.get(licence or '', 'other')}\ntags: [video, self-supervised, jepa]\n---",
        f"# {folder}",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]),
        "```python\n" + _LOADING[kind].format(folder=folder) + "\n```",
        "\n".join(notes),
        MARK,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def licence_of(weights: Weights) -> str | None:
    """Licence of the published weights of this family; none for those of an own run."""
    licence = weights.facts.get("source", {}).get("licence")
    return str(licence) if licence else None


def architecture_rows(weights: Weights) -> list[tuple[str, str]]:
    """The architecture in words, part by part."""
    rows = []
    if weights.encoder is not None:
        rows.append(("encoder", encoder_words(weights.encoder)))
    predictor = weights.predictor
    if predictor is not None:
        what = (
            f"actions of {predictor.actions} numbers"
            if isinstance(predictor, ActionPredictorConfig)
            else _predictor_words(predictor)
        )
        rows.append(
            ("predictor", f"{predictor.depth} blocks of width {predictor.width}, {predictor.heads} heads; {what}")
        )
    for probe in weights.probes:
        classes = ", ".join(
            f"{count} {name}".strip() for name, count in zip(probe.answers or ("",), probe.classes, strict=True)
        )
        rows.append(("probe", f"{probe.depth} blocks of width {probe.width}, {probe.heads} heads; classes: {classes}"))
    return rows


def encoder_words(encoder: EncoderConfig) -> str:
    """An encoder in one line."""
    positions = f"{encoder.rope} rotary" if encoder.positions == "rope" else "sine-cosine"
    levels = f", levels {', '.join(map(str, encoder.levels))}" if encoder.levels else ""
    tokenizer = ", image tokenizer" if encoder.image_tokenizer else ""
    return (
        f"{encoder.depth} blocks of width {encoder.width}, {encoder.heads} heads; patch {encoder.patch}, tubelet "
        f"{encoder.tubelet}; {encoder.frames} frames of {encoder.size} x {encoder.size}; {positions} positions"
        f"{levels}{tokenizer}"
    )


def norms_line(norms: tuple[float, ...]) -> str:
    """Each mask token with its norm; a norm of 0 is one that was never trained."""
    return ", ".join(f"{number}: {norm:.3g}{'' if norm else ' (unused)'}" for number, norm in enumerate(norms))


def _predictor_words(predictor: PredictorConfig) -> str:
    levels = f", {predictor.fused_levels} levels" if predictor.fused_levels > 1 else ""
    return f"{predictor.mask_tokens} mask tokens{levels}{', context head' if predictor.context_head else ''}"
