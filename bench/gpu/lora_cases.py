"""Shrink and expand of one group of modules, for decoding batches."""

from collections.abc import Callable, Iterator

import torch

from bench.gpu.case import Case, Scale, Shape
from bench.gpu.world import World, model_of
from libra.kernels.lora import LoraBatch, expand, expand_reference, shrink, shrink_reference
from libra.kernels.lora_plan import DECODE, DECODE_DISTINCT, RECORD_OFFSETS, LoraConfig
from libra.model.lora import OUTPUT, QKV, ModuleGroup, module_groups
from libra.spec import TARGET_MODULES, AdapterSpec

FORMS = {"libra": DECODE, "libra vectors": DECODE_DISTINCT}


def lora_cases(scale: Scale, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """libra's kernels in both of their forms, and torch with the weights gathered beforehand."""
    spec = model_of(scale)
    for batch, adapters, rank in scale.lora:
        blocks = adapters * AdapterSpec("a", rank).num_blocks(spec, scale.block_tokens)
        for name, config in FORMS.items():
            world = World.make(scale, blocks, dtype, device)
            products = LoraProducts(world, batch, adapters, rank, config)
            for group in (QKV, OUTPUT):
                yield products.case(name, group, products.libra(group))
                if config is DECODE:
                    yield products.case("torch bmm", group, products.torch_bmm(group))


class LoraProducts:
    """A batch's products with its adapters: x and out are those of one layer, the weights differ from turn to turn."""

    def __init__(self, world: World, batch: int, adapters: int, rank: int, config: LoraConfig) -> None:
        self.world = world
        self.size = (batch, adapters, rank)
        self.batch: LoraBatch = world.lora_batch(batch, adapters, rank, config)
        self.groups = module_groups(world.spec)
        self.x = {group: world.random(batch, self.groups[group].fan_in) for group in (QKV, OUTPUT)}
        # Small, so that an error in what is added to it shows.
        self.start = {group: 0.1 * world.random(batch, self.width(group)) for group in (QKV, OUTPUT)}
        self.out = {group: start.clone() for group, start in self.start.items()}
        self.shrunk = self.batch.new_shrunk(3, world.arena.device, world.arena.dtype)

    def width(self, group: int) -> int:
        return self.groups[group].num_pieces * self.groups[group].piece_width

    def case(
        self, implementation: str, group: int, run: Callable[[int], torch.Tensor], capturable: bool = True
    ) -> Case:
        batch, adapters, rank = self.size
        modules = self.groups[group]
        weights = adapters * rank * (len(modules.modules) * modules.fan_in + self.width(group))
        moved = weights + batch * modules.fan_in + 2 * batch * self.width(group)
        shape: Shape = {"batch": batch, "adapters": adapters, "rank": rank, "modules": "+".join(modules.modules)}
        return Case(
            kernel="lora",
            implementation=implementation,
            shape=shape | {"fan_in": modules.fan_in},
            prepare=lambda: self.prepare(group),
            run=run,
            reference=lambda: self.reference(group),
            num_bytes=moved * self.world.arena.element_size(),
            flops=2 * batch * rank * (len(modules.modules) * modules.fan_in + self.width(group)),
            num_turns=self.world.spec.num_layers,
            capturable=capturable,
        )

    def prepare(self, group: int) -> None:
        self.out[group].copy_(self.start[group])
        self.shrunk.fill_(float("nan"))

    def libra(self, group: int) -> Callable[[int], torch.Tensor]:
        modules, out, layers = self.groups[group], self.out[group], self.world.spec.num_layers

        def run(turn: int) -> torch.Tensor:
            shrink(self.batch, self.world.arena, layers, turn, modules, self.x[group], self.shrunk)
            expand(self.batch, self.world.arena, layers, turn, modules, self.shrunk, out)
            return out

        return run

    def reference(self, group: int) -> torch.Tensor:
        """out + B A x with float32 sums and nothing rounded on the way."""
        modules, layers = self.groups[group], self.world.spec.num_layers
        out, shrunk = self.start[group].float().clone(), self.shrunk.float().clone()
        shrink_reference(self.batch, self.world.arena, layers, 0, modules, self.x[group], shrunk)
        expand_reference(self.batch, self.world.arena, layers, 0, modules, shrunk, out)
        return out

    def weights(self, group: int, layer: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A [adapters, rank, in] and B transposed [adapters, rank, out] of each module, as contiguous copies."""
        units = torch.stack([self._units(record, layer) for record in self.batch.records])
        pairs = []
        for index, module in enumerate(self.groups[group].modules):
            start = int(self.batch.records[0, RECORD_OFFSETS + TARGET_MODULES.index(module)])
            columns = self.groups[group].columns(index)
            middle = start + self.groups[group].fan_in
            end = middle + columns.stop - columns.start
            pairs.append((units[:, :, start:middle].contiguous(), units[:, :, middle:end].contiguous()))
        return pairs

    def _units(self, record: torch.Tensor, layer: int) -> torch.Tensor:
        rank, per_block, size, table = record[:RECORD_OFFSETS].tolist()
        numbers = torch.arange(rank, device=record.device) * self.world.spec.num_layers + layer
        blocks = self.batch.tables[table + numbers // per_block].long()
        starts = blocks * self.world.arena.shape[1] + numbers % per_block * size
        return self.world.arena.view(-1)[starts[:, None] + torch.arange(size, device=record.device)]

    def torch_bmm(self, group: int) -> Callable[[int], torch.Tensor]:
        """Grouped products: every adapter has as many tokens, and its weights lie ready, as no paged pool has them."""
        batch, adapters, _ = self.size
        layers = [self.weights(group, layer) for layer in range(self.world.spec.num_layers)]
        rows = self.batch.rows.long()
        modules: ModuleGroup = self.groups[group]
        x, out = self.x[group], self.out[group]

        def run(turn: int) -> torch.Tensor:
            grouped = x[rows].view(adapters, batch // adapters, -1)
            products = [torch.bmm(torch.bmm(grouped, a.transpose(1, 2)), b) for a, b in layers[turn]]
            assert len(products) == len(modules.modules)
            return out.index_add_(0, rows, torch.cat(products, -1).view(batch, -1))

        return run
