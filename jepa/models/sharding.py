"""Networks divided among processes (FSDP2), for models that one device cannot hold with their optimizer state.

Each process keeps a slice of every parameter, along its first dimension, as a DTensor; gradients, optimizer moments and
the moving average are slices likewise. A block gathers its parameters before it computes and lets them go behind it, so
a device holds all slices of its own and one or two whole blocks. Everything else is as without: names of parameters,
results, and gradients, which are means over the processes.

Precision is that of autocast, as with copies of the model: parameters are gathered in float32, and products are made in
bfloat16 where it is asked for. FSDP's own mixed precision would halve what is sent, but round LayerNorms, mask tokens
and positions too, and a run would depend on how it is divided.

Accumulation needs nothing: a backward pass adds the slices of its gradient to those of the passes before it. To put the
exchange off to the last pass would need memory for the gradient of the whole model.
"""

import warnings

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from jepa.models.jepa import JEPA

WAYS_IN = {"encoder": ("hierarchy", "levels"), "target_encoder": ("hierarchy", "levels"), "predictor": ("both",)}
"""Methods beside `forward` by which a network is entered; none of them may call another or `forward`."""


def shard(jepa: JEPA, mesh: DeviceMesh) -> None:
    """Divide the three networks among the processes of a mesh of one dimension, in place.

    Every process must hold the same weights before, and make the same steps in the same order afterwards. Parameters
    are moved to the device type of the mesh. Between steps they are slices, also those of a network that has run
    without gradient, so that the moving average is one of slices.
    """
    # Views as results, as linear maps give them, are dangerous to those who change them in place. No objective does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for name, methods in WAYS_IN.items():
        network = jepa.get_submodule(name)
        blocks = jepa.predictor.predictor_blocks if name == "predictor" else network.get_submodule("blocks")
        for block in blocks.children():
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(network, mesh=mesh, reshard_after_forward=True)
        for method in methods:
            register_fsdp_forward_method(network, method)
