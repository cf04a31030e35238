"""Where adapters' weights come from: the contract."""

from abc import abstractmethod
from collections.abc import Mapping

import torch

from libra.spec import AdapterSpec


class AdapterWeights(Mapping[str, AdapterSpec]):
    """Maps adapter ids to specs, and makes the weights of one whenever they are asked for."""

    @abstractmethod
    def packed(self, adapter_id: str) -> torch.Tensor:
        """The adapter's blocks as libra.model.packing lays them out, [num_blocks, block_elems], on any device.

        Raises LibraError when the adapter is unknown or cannot be read.
        """
