"""Sharding of a model over ranks (FSDP2), for what does not fit on one GPU.

Each rank holds a part of every parameter, gradient and optimiser state.  A block's parameters are gathered
when it is computed, forward and backward, and freed afterwards; those outside of blocks are gathered for the
whole step.  Gathers are in float32, so that a sharded step computes what an unsharded one does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
import torch.distributed as dist
from timm.models.swin_transformer import SwinTransformerStage
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.config import Run
from xvlm.models.text.encoder import Layer
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.loss_module import LossModule

UNITS = (SwinTransformerStage, Block, Layer)
"""Modules whose parameters are gathered together.

They are called as a whole: a kernel may use the parameters of any of their parts.
"""


class Sharding:
    """The parameters of a task's model, sharded in place."""

    def __init__(self, loss_module: LossModule, degree: int) -> None:
        """Shard the parameters over groups of `degree` ranks, each of which holds all; 0: over all ranks.

        Raises InputError if the number of ranks is no multiple of `degree`.
        """
        mesh = build_mesh(degree, next(loss_module.parameters()).device.type)
        # Ranks may have built the model with different random numbers; DDP copies those of rank 0, too.
        distributed.broadcast_tensors(loss_module.state_dict().values())
        # On the CPU, where there is room for it.
        self._whole = copy.deepcopy(loss_module.model).cpu()
        self.scalars = [p for p in loss_module.parameters() if not p.ndim]  # FSDP2 takes no temperature ()
        for parameter in loss_module.parameters():  # nor weights that are channels last
            parameter.data = parameter.data.contiguous()
        # Nothing here adds to a block's result in place, of which FSDP2 warns whenever the result is a view.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        for module in [*(m for m in loss_module.modules() if isinstance(m, UNITS)), loss_module]:
            fully_shard(module, mesh=mesh, ignored_params=set(self.scalars))
            if isinstance(module, Layer):
                register_fsdp_forward_method(module, "keys_values")

    def average_scalar_gradients(self) -> None:
        """Average the gradients of the parameters that are not sharded."""
        for parameter in self.scalars:
            if parameter.grad is not None:
                parameter.grad = distributed.mean_over_ranks(parameter.grad)

    def whole_model(self, values: Mapping[str, Tensor]) -> XVLM:
        """Return the model, always the same and not sharded, with `values` by name, gathered on all ranks.

        Evaluation calls parts of a model in any order, and a model's folder holds whole tensors.
        """
        own = self._whole.state_dict()
        for name, value in values.items():
            own[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
        return self._whole


def is_sharded(run: Run) -> bool:
    """Return whether a run shards its parameters: on one process there is nothing to share."""
    return run.shard_degree != 1 and distributed.world_size() > 1


def build_mesh(degree: int, device_type: str) -> DeviceMesh:
    """Return the mesh of all ranks in which groups of `degree` ranks, or all for 0, shard together."""
    ranks = distributed.world_size()
    degree = degree or ranks
    if ranks % degree:
        raise InputError(f"shard_degree is {degree}; it must divide the number of processes, {ranks}")
    if degree == ranks:
        return init_device_mesh(device_type, (ranks,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, (ranks // degree, degree), mesh_dim_names=("replicate", "shard"))


def local_part(value: Tensor) -> Tensor:
    """Return this rank's part of a (...) tensor that is sharded, and any other tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def norm_of_all(tensors: list[Tensor]) -> Tensor:
    """Return the norm () of (...) tensors together, of which some may be sharded."""
    norm = torch.nn.utils.get_total_norm([one for one in tensors if not isinstance(one, DTensor)])
    sharded = [one for one in tensors if isinstance(one, DTensor)]
    if not sharded:
        return norm
    squares = torch.nn.utils.get_total_norm([one.to_local() for one in sharded]) ** 2
    dist.all_reduce(squares, group=sharded[0].device_mesh.get_group("shard"))
    return (norm.to(squares) ** 2 + squares).sqrt()


def shard_like(target: Tensor, value: Tensor) -> Tensor:
    """Shard a whole (...) tensor, which every rank has, as `target` is sharded, if it is."""
    if not isinstance(target, DTensor):
        return value
    value = value.to(target.device)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
