"""Parameters that a run leaves as they are, said beforehand.

A model may have more than a run trains: the architectures of released weights do. Nothing is wrong with that, but it
should be known: what was never trained means nothing later.
"""

from jepa.models.build import ModelConfig


def idle_parameters(model: ModelConfig, *, masks: int, images: bool) -> dict[str, str]:
    """Beginnings of the names of parameters that no step reaches, and why.

    Args:
        model: the model.
        masks: mask configurations of a step, at most.
        images: whether there are steps of single frames.
    """
    found: dict[str, str] = {}
    for number in range(len(model.levels) - model.predicted_levels):
        found[f"encoder.norms_block.{number}."] = f"only the last {model.predicted_levels} levels are predicted"
    for number in range(masks, model.mask_tokens):
        found[f"predictor.mask_tokens.{number}"] = f"a step has {masks} masks"
    if model.image_tokenizer and not images:
        for name in ("encoder.patch_embed_img.", "encoder.img_mod_embed", "predictor.img_mod_embed"):
            found[name] = "there are no images (images.data)"
    return found
