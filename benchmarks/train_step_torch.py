"""The contestants 'torch' and 'torch.compile' of `benchmarks/train_step`.

Models are timm's where it has them. What torch has to offer is used: its fused optimizers,
the channels-last layout for convolutions and, in bfloat16, autocast or bfloat16
parameters, whichever makes the shorter step.
"""

import contextlib
import importlib.abc
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.train_step_contestant import Trainer, fastest
from benchmarks.train_step_rows import OPTIMIZERS, ROWS, Row, random_batch
from benchmarks.train_step_torch_models import MODELS, patch_sequence


def build(spec: Mapping[str, Any]) -> Trainer:
    """The trainer of a contestant's process.

    Raises:
        RuntimeError: torch does not find the device.
    """
    row = ROWS[spec["model"]]
    if spec["cores"]:
        torch.set_num_threads(spec["cores"])
    device = "cpu"
    if spec["device"] == "gpu":
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU")
        device = "cuda"
        # As JAX does by itself: TensorFloat-32 products, convolutions by trial.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    def trainer(variant: Mapping[str, str]) -> TorchTrainer:
        torch._dynamo.reset()
        mode = spec["torch_mode"] if spec["contestant"] == "torch.compile" else None
        return TorchTrainer(
            row, spec["batch_size"], device=device, compile_mode=mode, **variant
        )

    return fastest(variants(row, spec["device"], spec["dtype"]), trainer)


def variants(row: Row, device: str, dtype: str) -> list[dict[str, str]]:
    """What is tried: precision and memory layout."""
    precisions = ["float32"] if dtype == "float32" else ["autocast", "bfloat16"]
    layouts = ["channels-first"]
    if row.convolutional:
        layouts = ["channels-last"] + (layouts if device == "cpu" else [])
    return [
        {"precision": precision, "layout": layout}
        for precision, layout in itertools.product(precisions, layouts)
    ]


class TorchTrainer:
    """A row's model with its optimizer.

    Args:
        precision: 'float32', 'autocast' (to bfloat16) or 'bfloat16' (parameters too).
        layout: 'channels-first' or 'channels-last'; images alone have one.
        compile_mode: of `torch.compile`; None runs eagerly.
    """

    def __init__(
        self,
        row: Row,
        batch_size: int,
        *,
        device: str,
        precision: str,
        layout: str,
        compile_mode: str | None,
    ):
        torch.manual_seed(0)
        self._device, self._autocast = device, precision == "autocast"
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        memory_format = torch.contiguous_format
        if layout == "channels-last":
            memory_format = torch.channels_last
        self._model = make_model(row).to(device, dtype, memory_format=memory_format)
        self._model.train()
        self._batch = {
            name: _to_torch(array, device, dtype, memory_format)
            for name, array in random_batch(row, batch_size).items()
        }
        self._optimizer = _optimizer(row.optimizer, self._model)
        loss = LOSSES[row.objective]
        self._loss = loss
        if compile_mode is not None:
            self._loss = torch.compile(loss, mode=compile_mode)
        self.description = {
            "parameters": sum(p.numel() for p in self._model.parameters()),
            "environment": {"torch": torch.__version__, "timm": _version("timm")},
        }

    def step(self) -> torch.Tensor:
        """One update; returns at once on a GPU."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._autocast):
            loss = self._loss(self._model, self._batch)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def wait(self, loss: torch.Tensor) -> float:
        """The last loss, when everything is done."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        return float(loss)

    def device_peak(self) -> int | None:
        """Bytes that tensors took at the peak; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self._device == "cuda" else None

    def reset_device_peak(self) -> None:
        """Forgets the other variants."""
        if self._device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _classification(model: nn.Module, batch: Mapping[str, torch.Tensor]):
    return F.cross_entropy(model(batch["image"]).float(), batch["label"])


def _language_modeling(model: nn.Module, batch: Mapping[str, torch.Tensor]):
    logits = model(batch["tokens"][:, :-1]).float()
    return F.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten())


def _masked_autoencoding(model: nn.Module, batch: Mapping[str, torch.Tensor]):
    prediction, hidden = model(batch["image"])
    target = patch_sequence(batch["image"].float())
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    target = (target - mean) / (variance + 1e-6).sqrt()
    error = ((prediction.float() - target) ** 2).mean(-1)
    return (error * hidden).sum() / hidden.sum()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "classification": _classification,
    "language_modeling": _language_modeling,
    "masked_autoencoding": _masked_autoencoding,
}


def make_model(row: Row) -> nn.Module:
    """A row's model in torch, freshly initialised."""
    source, _, name = row.torch.rpartition(":")
    with _without_torchvision():
        if source != "timm":
            return MODELS[name](row)
        import timm

        num_classes = row.task["model"]["num_classes"]
        return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _to_torch(array, device, dtype, memory_format) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if not tensor.is_floating_point():
        return tensor.long().to(device)
    if tensor.ndim == 4:  # An image: torch puts channels before height and width.
        tensor = tensor.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    return tensor.to(device, dtype)


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    options = dict(OPTIMIZERS[name])
    rate = options.pop("learning_rate")
    if name == "adamw":
        options["betas"] = (options.pop("b1"), options.pop("b2"))
    make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    return make(model.parameters(), lr=rate, fused=True, **options)


def _version(package: str) -> str | None:
    return getattr(sys.modules.get(package), "__version__", None)


class _Anything(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Anything(name, (), {})  # One class per name: some are keys of tables.
        setattr(cls, name, value)
        return value


class _Nothing(metaclass=_Anything):
    """Stands for whatever is imported from torchvision."""


class _Pretender(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.util.spec_from_loader(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(_Nothing, name)
        return module

    def exec_module(self, module):
        pass


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """Lets timm be imported where torchvision is missing.

    timm imports it for its image transforms, which no model needs, and there is not a
    torchvision for every build of torch.
    """
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    pretender = _Pretender()
    sys.meta_path.append(pretender)
    try:
        yield
    finally:
        sys.meta_path.remove(pretender)
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
