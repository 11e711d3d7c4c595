"""Run the pipeline once in float and note every call of its networks: sample, step, timestep, branch, tensors."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from llmc.calib.budget import ChosenCalls
from llmc.calib.coverage import Coverage
from llmc.calib.finite import Finite, called_with
from llmc.calib.running import at_call, begin_call, running_call
from llmc.calib.store import Call, CallStore
from llmc.calib.teacher import first_tensor
from llmc.errors import CalibrationError
from llmc.layers.steps import at_step, running_step, start_step
from llmc.models.loaded import LoadedModel
from llmc.models.parts import Part
from llmc.models.samples import PlannedSamples, Video
from llmc.progress import Progress

TIMESTEPS = ("timestep", "t")  # as networks call it


@dataclass
class Clock:
    """Where the pipeline is: set by the recorder, read when a network is called."""

    chosen: ChosenCalls
    sample: int = 0
    branches: tuple[str, ...] = ("cond",)  # the calls of one step, in order
    calls_in_sample: Counter[str] = field(default_factory=Counter)  # by part
    calls_in_step: Counter[str] = field(default_factory=Counter)  # by part: in one step each counts its own branches
    calls: Counter[str] = field(default_factory=Counter)  # by part: all chosen ones before, with those of other ranks

    def start(self, sample: int, branches: tuple[str, ...]) -> None:
        """A sample begins."""
        self.sample, self.branches = sample, branches
        self.calls_in_sample.clear()
        self.tick(0)

    def tick(self, step: int) -> None:
        start_step(step)
        self.calls_in_step.clear()

    def begin(self, part: str) -> Call:
        """The call of a part that begins now."""
        branch = self.branches[self.calls_in_step[part] % len(self.branches)]
        chosen = self.chosen.has(part, self.sample, self.calls_in_sample[part])
        call = Call(self.sample, running_step(), None, branch, number=self.calls[part], chosen=chosen)
        self.calls_in_sample[part] += 1
        self.calls_in_step[part] += 1
        self.calls[part] += chosen
        return call


@dataclass(frozen=True)
class Watch:
    """Which calls of a run are noted, who is shown them, and when the run of a sample is left."""

    chosen: ChosenCalls | None = None  # numbered through all samples, whichever rank runs them; None: all calls
    until: Callable[[int], AbstractContextManager[None]] = lambda _: (
        nullcontext()
    )  # a sample that it leaves has no video
    finite: Finite | None = None  # is shown what parts are called with, and give, in every call
    coverage: Coverage | None = None  # counts the calls that are noted
    shown: Progress | None = None  # counts forwards of denoising networks, block by block


EVERY_CALL = Watch()


@torch.no_grad()
def record_calls(
    model: LoadedModel,
    parts: Sequence[Part],
    samples: PlannedSamples,
    stores: Mapping[str, CallStore],
    keep_outputs: bool = False,
    watch: Watch = EVERY_CALL,
) -> list[Video]:
    """Generate a video of each sample; calls of the parts that have a store go into it, as the `watch` chooses them."""
    clock, chosen = Clock(watch.chosen or ChosenCalls()), watch.chosen
    videos = []
    with at_step(0), at_call(Call(0, 0, None, "")), ExitStack() as hooks:
        for part in parts:
            store = stores.get(part.name)
            hooks.enter_context(_noting(part, clock, store, keep_outputs, watch.coverage))
            if watch.finite is not None:
                hooks.enter_context(_shown(part, watch.finite))
            if watch.shown is not None and part.is_denoiser:
                hooks.enter_context(_counted(part, clock, watch.shown))
        for index, sample, sampling in samples:
            clock.start(index, model.adapter.branches_of(sampling))
            clock.calls = clock.calls if chosen is None else chosen.before(index)
            with watch.until(index):
                videos.append(model.generate(sample, sampling, clock.tick))
    for name, store in stores.items():
        if len(store) == 0 and any(clock.chosen.last(index).get(name, 1) for index, _, _ in samples):
            raise CalibrationError(
                f"the pipeline ran, but never called {name}: nothing was recorded; check the adapter's parts"
            )
    return videos


@contextmanager
def _noting(
    part: Part,
    clock: Clock,
    store: CallStore | None,
    keep_output: bool,
    coverage: Coverage | None,
) -> Iterator[None]:
    """Say which call of a part runs, and note it: as it begins, since it may be left before its end, or with output."""

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = clock.begin(part.name)
        begin_call(call)
        if coverage is not None and call.chosen:
            coverage.note(part.name, call.sample, call.step)
        if not keep_output:
            keep(module, args, kwargs)

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if store is not None and running_call().chosen:
            timestep = _timestep(signature.bind(*args, **kwargs).arguments)
            args, kwargs, output = part.kept(args, kwargs, output)
            store.add(replace(running_call(), timestep=timestep, args=args, kwargs=kwargs, output=output))

    module, signature = part.module, inspect.signature(part.module.forward)
    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
        if keep_output:
            hooks.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        yield


@contextmanager
def _shown(part: Part, finite: Finite) -> Iterator[None]:
    """Show what a part is called with, and what it gives."""
    signature, gives = inspect.signature(part.module.forward), f"what {part.name} gives"

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, x in called_with(signature, args, kwargs).items():
            finite.see(f"{name}, which {part.name} is called with,", x)

    def end(module: nn.Module, args: object, output: Any) -> None:
        finite.see(gives, first_tensor(part.read(output)))

    with ExitStack() as hooks:
        hooks.callback(part.module.register_forward_pre_hook(begin, with_kwargs=True).remove)
        hooks.callback(part.module.register_forward_hook(end).remove)
        yield


@contextmanager
def _counted(part: Part, clock: Clock, shown: Progress) -> Iterator[None]:
    """Count each block that has run as its share of a forward."""

    def hook(block: str) -> Callable[..., None]:
        def advance(*_: object) -> None:
            shown(1 / len(part.blocks), f"sample {clock.sample}, step {running_step()}, {block}")

        return advance

    with ExitStack() as hooks:
        for name, block in part.blocks:
            hooks.callback(block.register_forward_hook(hook(name)).remove)
        yield


def _timestep(arguments: Mapping[str, Any]) -> float | None:
    """The noisiest of the call's timesteps: a first frame that is given has the timestep 0 on its own tokens."""
    timestep = next((arguments[name] for name in TIMESTEPS if name in arguments), None)
    return float(timestep.max()) if isinstance(timestep, Tensor) else None
