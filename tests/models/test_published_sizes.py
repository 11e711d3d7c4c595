"""The published configurations, on the meta device: their sizes; and `check --explain` of the recipes lists exactly the
linears that the family's page has in its table, in seconds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from llmc.__main__ import main
from llmc.models.base import ModelAdapter, adapters
from llmc.models.parts import Part

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "configs"
RECIPES = ROOT / "configs" / "quantization" / "video_gen"
TWO_EXPERTS = ("Wan2T2V", "Wan2I2V")
# in blocks, what modulates a norm stays float, and what joins VACE's condition to the network
FLOAT = re.compile(
    r"norm\d?(_context)?\.linear(_1)?$|^vace_blocks\.\d+\.proj_(in|out)$"
    r"|(img|txt)_mod\.1$|adaLN_modulation\.0$|visual_modulation\.out_layer$"
)

Make = Callable[[str], tuple[Path, list[Part]]]
Groups = dict[str, set[tuple[str, ...]]]  # list of blocks -> linears that read one tensor


@dataclass(frozen=True)
class Published:
    """One published network."""

    family: str
    page: str
    recipe: str
    parameters: int  # of one expert; with images, VACE or guidance there are more than the name says
    linears: int  # that are quantized
    share: float  # of all parameters that are in those
    gigabytes: float | None = None  # of the published 16-bit file, where it holds nothing else


# 10 linears in a block of Wan, 12 where images are attended to; 12 and 5 in FLUX's and HunyuanVideo's two kinds; 12 in
# SD3's, where the last block's text goes nowhere (no output projection, no feed-forward), and 4 more in 3.5's first 13
PUBLISHED = {
    "wan21_t2v_1_3b": Published("WanT2V", "wan", "wan_t2v/smoothquant_w_a", 1_418_996_800, 30 * 10, 0.98),
    "wan21_t2v_14b": Published("WanT2V", "wan", "wan_t2v/smoothquant_w_a_14b_720p", 14_288_491_584, 40 * 10, 0.98),
    "wan21_i2v_14b": Published("WanI2V", "wan", "wan_i2v/smoothquant_w_a_720p", 16_394_878_784, 40 * 12, 0.98),
    "wan21_flf2v_14b": Published("WanFLF2V", "wan", "wan_flf2v/smoothquant_w_a", 16_395_536_704, 40 * 12, 0.98),
    "wan21_vace_1_3b": Published("WanVACE", "wan", "wan_vace/smoothquant_w_a", 2_153_972_032, (30 + 15) * 10, 0.97),
    "wan21_vace_14b": Published("WanVACE", "wan", "wan_vace/smoothquant_w_a", 17_337_592_896, (40 + 8) * 10, 0.97),
    "wan22_t2v_a14b": Published("Wan2T2V", "wan", "wan22_t2v/smoothquant_w_a", 14_288_491_584, 40 * 10, 0.98),
    "wan22_i2v_a14b": Published("Wan2I2V", "wan", "wan22_i2v/smoothquant_w_a", 14_288_901_184, 40 * 10, 0.98),
    "wan22_ti2v_5b": Published("Wan2TI2V", "wan", "wan22_ti2v/smoothquant_w_a", 4_999_787_712, 30 * 10, 0.98),
    "flux1_dev": Published("Flux", "flux", "flux/smoothquant_w_a", 11_901_408_320, 19 * 12 + 38 * 5, 0.72, 23.80),
    "flux1_schnell": Published(
        "Flux", "flux", "flux/schnell_smoothquant_w_a", 11_891_178_560, 19 * 12 + 38 * 5, 0.72, 23.78
    ),
    "hunyuan_video_t2v": Published(
        "HunyuanVideo", "hunyuan", "hunyuan_t2v/smoothquant_w_a", 12_821_012_544, 20 * 12 + 40 * 5, 0.71, 25.64
    ),
    "sd3_medium": Published("SD3", "sd3", "sd3/smoothquant_w_a", 2_028_328_000, 24 * 12 - 3, 0.66, 4.17),
    "sd3_5_medium": Published(
        "SD3", "sd3", "sd3/sd35_smoothquant_w_a", 2_243_171_520, 24 * 12 - 3 + 13 * 4, 0.65, 4.94
    ),
    "opensora_plan_v1_2_29x480p": Published(
        "OpenSoraPlan", "opensora_plan", "opensora_plan/smoothquant_w_a_29x480p", 2_771_907_856, 32 * 10, 0.98
    ),
    "opensora_plan_v1_2_93x480p": Published(
        "OpenSoraPlan", "opensora_plan", "opensora_plan/smoothquant_w_a_93x480p", 2_771_907_856, 32 * 10, 0.98
    ),
    # configurations of these were not at hand: written down from what their makers say of the networks, and held to the
    # counts of parameters that these name
    "qwen_image": Published("QwenImage", "qwen_image", "qwen_image/smoothquant_w_a", 20_430_401_088, 60 * 12, 0.67),
    "qwen_image_edit_2511": Published(
        "QwenImageEdit", "qwen_image", "qwen_image_edit/smoothquant_w_a", 20_430_401_088, 60 * 12, 0.67
    ),
    "z_image": Published("ZImage", "z_image", "z_image/smoothquant_w_a", 6_154_908_736, 30 * 7, 0.86),
    "ltx2_19b": Published("LTX2", "ltx2", "ltx2/smoothquant_w_a", 18_876_174_592, 48 * 28, 0.98),
    "flux1_kontext_dev": Published(
        "FluxKontext", "flux", "flux_kontext/smoothquant_w_a", 11_901_408_320, 19 * 12 + 38 * 5, 0.72
    ),
    "flux2_klein_4b": Published(
        "Flux2Klein", "flux2", "flux2_klein/smoothquant_w_a", 3_875_544_576, 5 * 12 + 20 * 2, 0.95
    ),
    "flux2_klein_9b": Published(
        "Flux2Klein", "flux2", "flux2_klein/smoothquant_w_a", 9_078_581_248, 8 * 12 + 24 * 2, 0.96
    ),
    "hunyuan_video_15_t2v": Published(
        "HunyuanVideo15", "hunyuan15", "hunyuan15_t2v/smoothquant_w_a", 8_326_608_160, 54 * 12, 0.65
    ),
    "hunyuan_video_15_i2v": Published(
        "HunyuanVideo15I2V", "hunyuan15", "hunyuan15_i2v/smoothquant_w_a", 8_326_608_160, 54 * 12, 0.65
    ),
    "skyreels_v2_t2v_14b": Published(
        "SkyReelsV2", "skyreels", "skyreels_v2_t2v/smoothquant_w_a", 14_288_491_584, 40 * 10, 0.98
    ),
    "cogvideox_2b": Published("CogVideoX", "cogvideox", "cogvideox/smoothquant_w_a", 1_693_783_872, 30 * 6, 0.78),
    "cogvideox15_5b": Published("CogVideoX", "cogvideox", "cogvideox/smoothquant_w_a", 5_570_676_352, 42 * 6, 0.85),
    "longcat_image": Published(
        "LongCatImage", "longcat_image", "longcat_image/smoothquant_w_a", 6_270_668_864, 10 * 12 + 20 * 5, 0.72
    ),
    "kandinsky5_lite_t2v": Published(
        "Kandinsky5", "kandinsky5", "kandinsky5/smoothquant_w_a", 2_007_702_848, 32 * 10, 0.82
    ),
    # the last block's text goes nowhere
    "mochi_1": Published("Mochi", "mochi", "mochi/smoothquant_w_a", 10_027_677_744, 48 * 12 - 3, 0.72),
}


def saved(variant: str, folder: Path) -> tuple[ModelAdapter, Path]:
    """A folder with what `check` reads of a model: its index and the configurations of its networks."""
    adapter = adapters()[PUBLISHED[variant].family]()
    text = (GOLDEN / f"{variant}.json").read_text(encoding="utf-8")
    model = folder / variant
    model.mkdir()
    if adapter.name == "OpenSoraPlan":  # a lone network, and its encoder beside
        (model / "config.json").write_text(text, encoding="utf-8")
        (folder / "mt5-xxl").mkdir(exist_ok=True)
        return adapter, model
    names = ["transformer", "transformer_2"] if adapter.name in TWO_EXPERTS else ["transformer"]
    for name in names:
        (model / name).mkdir()
        (model / name / "config.json").write_text(text, encoding="utf-8")
    index = {"_class_name": adapter.pipeline, "expand_timesteps": adapter.name == "Wan2TI2V"}
    components = {name: ["diffusers", json.loads(text)["_class_name"]] for name in names}
    (model / "model_index.json").write_text(json.dumps(index | components), encoding="utf-8")
    return adapter, model


def test_every_published_configuration_is_tried() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == PUBLISHED.keys()
    assert {known.family for known in PUBLISHED.values()} == adapters().keys()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The folder of each, and its networks, which are built once."""
    folder = tmp_path_factory.mktemp("published")

    @cache
    def made(variant: str) -> tuple[Path, list[Part]]:
        adapter, model = saved(variant, folder)
        return model, adapter.skeleton(model)

    return made


@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_published_configuration_has_its_size_and_its_linears(variant: str, published: Make) -> None:
    known = PUBLISHED[variant]
    for part in published(variant)[1]:
        parameters = sum(parameter.numel() for parameter in part.module.parameters())
        linears = {
            f"{name}.{inside}": module
            for name, block in part.blocks
            for inside, module in block.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        quantized = [
            f"{name}.{linear}"
            for name, block in part.blocks
            for group in part.groups(block)
            for linear in group.linears
        ]
        assert (parameters, len(quantized)) == (known.parameters, known.linears)
        assert round(sum(linears[name].weight.numel() for name in quantized) / parameters, 2) == known.share
        assert all(FLOAT.search(name) for name in linears.keys() - set(quantized))
        if known.gigabytes is not None:
            stored = sum(tensor.numel() for tensor in part.module.state_dict().values())  # with SD3's positions
            assert round(2 * stored / 1e9, 2) == known.gigabytes


@pytest.mark.parametrize("page", sorted({known.page for known in PUBLISHED.values()}))
def test_explain_lists_the_linears_of_the_page_in_seconds(
    page: str, published: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    explained: dict[str, set[str]] = {}
    groups: Groups = {}
    for variant, known in PUBLISHED.items():
        if known.page != page:
            continue
        model, parts = published(variant)
        options = ["--set", f"model.path={model}"]
        if known.family == "OpenSoraPlan":
            options += ["--set", f"model.text_encoder_path={model.parent / 'mt5-xxl'}"]
        start = time.process_time()
        assert main(["check", str(RECIPES / f"{known.recipe}.yaml"), "--explain", *options]) == 0
        assert time.process_time() - start < 10
        said = capsys.readouterr().out
        counted = [int(count) for count in re.findall(r"^transformer.* blocks, (\d+) linears$", said, re.MULTILINE)]
        assert counted == [known.linears] * (2 if known.family in TWO_EXPERTS else 1)
        for blocks, linear in re.findall(r"^  (\w+)\.\{\}\.(\S+)  ", said, re.MULTILINE):
            explained.setdefault(blocks, set()).add(linear)
        for part in parts:
            for name, block in part.blocks:
                groups.setdefault(name.partition(".")[0], set()).update(group.linears for group in part.groups(block))
    table = groups_on(ROOT / "docs" / "models" / f"{page}.md")
    if table.keys() == {""}:  # one table for all blocks
        groups, explained = {"": set().union(*groups.values())}, {"": set().union(*explained.values())}
    assert table == groups
    assert {blocks: {linear for group in rows for linear in group} for blocks, rows in table.items()} == explained


def groups_on(page: Path) -> Groups:
    """The table of a family's page: the linears in each row, one group or several with a semicolon between; under the
    block that the row names, or the last one that was named."""
    found: Groups = {}
    for header, rows in tables(page.read_text(encoding="utf-8")):
        column = next((index for index, title in enumerate(header) if title.startswith("linears")), None)
        if column is None:
            continue
        blocks = ""
        for row in rows:
            if header[0] == "block":
                blocks = "".join(re.findall(r"`(\w+)`", row[0])) or blocks
            for cell in row[column].split(";"):
                found.setdefault(blocks, set()).add(tuple(re.findall(r"`([^`]+)`", cell)))
    return found


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The header and the rows of each table of a page."""
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines.splitlines()]
        yield header, rows
