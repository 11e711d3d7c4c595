"""The report as a reader gets it: one file, everything escaped, everything inside."""

import re
from html.parser import HTMLParser

import pytest

from llmc.eval.compare import compare_videos
from llmc.eval.metrics.psnr import PSNR
from llmc.eval.report import write_report
from llmc.eval.results import BlockResult, LayerResult, PhaseResult, Results, SampleResult
from llmc.eval.video import write_video
from llmc.models.samples import Video

HOSTILE = "</script><script>alert('x')</script>\"'><img src=x onerror=alert(1)> {{ 7 * 7 }} ünï"


class Elements(HTMLParser):
    """Collects every element with its attributes, and insists on closing what was opened."""

    VOID = frozenset({"meta", "input", "img", "br", "line", "circle", "path"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def results(clip, tmp_path):
    float_ = Video(clip(5, 64, 64), clip(5).float())
    made = {"baseline": Video(clip(5, 64, 64, noise=20), clip(5, noise=20).float())}
    made["fake_quant"] = Video(clip(5, 64, 64, noise=4), clip(5, noise=4).float())
    found = {position: compare_videos([float_], [video], [PSNR()])[0] for position, video in made.items()}
    videos = {
        position: write_video(tmp_path / "videos" / f"{position}.mp4", video.frames).relative_to(tmp_path).as_posix()
        for position, video in {"float": float_, **made}.items()
    }
    sample = SampleResult(
        name=HOSTILE,
        prompt=HOSTILE,
        image=HOSTILE,
        seed=7,
        steps={"baseline": [0.5, 0.2, None], "fake_quant": [0.05, 0.02, 0.01], HOSTILE: [0.1, 0.1]},
        metrics={position: comparison.metrics for position, comparison in found.items()},
        per_frame={position: comparison.per_frame for position, comparison in found.items()},
        videos=videos,
    )
    return Results(
        run=HOSTILE,
        name=HOSTILE,
        created=HOSTILE,
        device=HOSTILE,
        recipe=HOSTILE,
        checkpoint=HOSTILE,
        versions={HOSTILE: HOSTILE},
        config={"key": HOSTILE, HOSTILE: [1, 2]},
        phases={HOSTILE: PhaseResult(seconds=1.5, forwards=2.25, host_bytes=10**9)},
        metrics={**sample.metrics, HOSTILE: {"psnr": 1.0}},
        samples=[sample],
        blocks={"fake_quant": [BlockResult(name=HOSTILE, error=0.1), BlockResult(name="b", error=None)]},
        layers=[LayerResult(name=HOSTILE, spec=HOSTILE, transforms=HOSTILE, method=HOSTILE, error=0.1)] * 40,
        rejected={HOSTILE: 3},
        warnings=[HOSTILE],
    )


@pytest.fixture
def page(results, tmp_path):
    return write_report(tmp_path / "report.html", results, media=tmp_path).read_text(encoding="utf-8")


def test_hostile_strings_are_shown_and_never_run(page):
    elements = Elements(page)
    assert not elements.open
    assert len(elements.named("script")) == 1 and not elements.named("img")
    assert not [a for _, attributes in elements.found for a in attributes if a.startswith("on")]
    assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|49(?= ünï)", page)
    assert elements.text.count(HOSTILE) >= 10


def test_the_page_loads_nothing_from_anywhere(page):
    elements = Elements(page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert not elements.named("link")
    sources = [attributes["src"] for _, attributes in elements.found if "src" in attributes]
    assert len(sources) == 4  # float, baseline, quantized, difference
    assert all(source.startswith("data:video/mp4;base64,") for source in sources)


def test_the_page_is_small_and_has_the_curves_the_layers_and_the_configuration(page):
    elements = Elements(page)
    assert len(page) < 400_000
    assert len(elements.named("svg")) == 3  # PSNR of each frame, error of each step, of each block
    assert "16 more layers" in elements.text and "Resolved configuration" in elements.text
    assert "difference × 8" in elements.text


def test_samples_beyond_the_bound_are_linked_and_the_links_lead_to_the_files(results, tmp_path):
    folder = tmp_path / "reports"
    path = write_report(folder / "report.html", results, media=tmp_path, max_samples=0)
    elements = Elements(path.read_text())
    links = [attributes["href"] for attributes in elements.named("a")]
    assert len(links) == 3 and all((folder / link).is_file() for link in links)
    assert not elements.named("video")
    by_size = write_report(folder / "report.html", results, media=tmp_path, max_bytes=1000)
    assert not Elements(by_size.read_text()).named("video")


def test_images_are_shown_as_images_without_a_player(clip, results, tmp_path):
    videos = {
        position: write_video(tmp_path / f"{position}.mp4", clip(1, noise=noise)).name
        for position, noise in (("float", 0), ("fake_quant", 5))
    }
    sample = SampleResult(name="image", prompt="p", seed=1, videos=videos)
    path = write_report(tmp_path / "r.html", results.model_copy(update={"samples": [sample]}), media=tmp_path)
    elements = Elements(path.read_text())
    assert len(elements.named("img")) == 3 and not elements.named("video") and not elements.named("button")


def test_a_run_that_measured_nothing_still_has_a_report(tmp_path):
    empty = Results(run="r", name="n", created="c", device="d", recipe="x")
    elements = Elements(write_report(tmp_path / "report.html", empty, media=tmp_path).read_text())
    assert not elements.open and not elements.named("svg")


def test_a_video_that_is_gone_is_linked_not_lost(results, tmp_path):
    (tmp_path / "videos" / "float.mp4").unlink()
    elements = Elements(write_report(tmp_path / "report.html", results, media=tmp_path).read_text())
    assert "videos/float.mp4" in [attributes["href"] for attributes in elements.named("a")]
