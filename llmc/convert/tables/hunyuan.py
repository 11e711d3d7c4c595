"""HunyuanVideo and HunyuanVideo-1.5 by their adapters' tables; LightX2V runs 1.5."""

from llmc.models.hunyuan import ORIGINAL as HUNYUAN
from llmc.models.hunyuan15 import ORIGINAL as HUNYUAN_15

__all__ = ["HUNYUAN", "HUNYUAN_15"]
