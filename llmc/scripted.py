"""Quantize a model from a script of your own, with the words of msModelSlim's guide; see docs/scripted.md."""

from llmc.compat.modelslim.scripted.dump import DumperManager
from llmc.compat.modelslim.scripted.files import safe_torch_load
from llmc.compat.modelslim.scripted.layers import get_disable_layer_names
from llmc.compat.modelslim.scripted.quantize import quant_model
from llmc.compat.modelslim.scripted.ranks import get_rank, get_rank_suffix_file
from llmc.compat.modelslim.scripted.session import (
    FA3ProcessorConfig,
    M3ProcessorConfig,
    M4ProcessorConfig,
    M6Config,
    M6ProcessorConfig,
    SaveProcessorConfig,
    SessionConfig,
    W8A8DynamicProcessorConfig,
    W8A8DynamicQuantConfig,
    W8A8ProcessorConfig,
    W8A8QuantConfig,
    W8A8TimeStepProcessorConfig,
    W8A8TimeStepQuantConfig,
)
from llmc.compat.modelslim.scripted.timestep import TimestepManager

__all__ = [
    "DumperManager",
    "FA3ProcessorConfig",
    "M3ProcessorConfig",
    "M4ProcessorConfig",
    "M6Config",
    "M6ProcessorConfig",
    "SaveProcessorConfig",
    "SessionConfig",
    "TimestepManager",
    "W8A8DynamicProcessorConfig",
    "W8A8DynamicQuantConfig",
    "W8A8ProcessorConfig",
    "W8A8QuantConfig",
    "W8A8TimeStepProcessorConfig",
    "W8A8TimeStepQuantConfig",
    "get_disable_layer_names",
    "get_rank",
    "get_rank_suffix_file",
    "quant_model",
    "safe_torch_load",
]
