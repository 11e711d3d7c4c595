"""Rules of every target about files: whole, as they were written, and the float model's where they are copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmc.files.regular import file_problem
from llmc.log import byte_size
from llmc.verify.files import file_digest
from llmc.verify.manifest import MANIFEST
from llmc.verify.network import Export, Network
from llmc.verify.verdict import RUN, Checked, Finding, NotChecked

Problems = Iterator[str]


def manifest_agrees(export: Export) -> Finding:
    """Every file is the one that was written."""
    if export.manifest is None:
        return NotChecked(f"there is no {MANIFEST}, which an export of this version brings")
    files = export.manifest.digests
    return Checked(list(_changed(export, files)), f"{len(files)} files")


def _changed(export: Export, files: Mapping[str, str]) -> Problems:
    for name, digest in files.items():
        path = export.folder / name
        if file_problem(path):
            yield f"{name} is in the manifest, and not in the folder"
        elif file_digest(path) != digest:
            yield f"{name} is not the file that was written: its sha256 differs"
    for network in export.networks:
        for file in network.files:
            name = file.path.relative_to(export.folder).as_posix()
            if name not in files:
                yield f"{name} is not in the manifest: a runtime may take it for one of the export"


def files_are_whole(network: Network) -> Finding:
    """Headers can be read, and no file is cut off."""
    if not network.files:
        return Checked(["there is no safetensors file"])
    total = sum(file.path.stat().st_size for file in network.files if file.path.is_file())
    return Checked([file.problem for file in network.files if file.problem],
                   f"{len(network.files)} files, {byte_size(total)}")  # fmt: skip


def shape_problems(network: Network) -> Problems:
    """Of every tensor that stays float: each has the shape that the network gives it."""
    for each in network.float_tensors:
        entry = network.find(each)
        if entry is not None and entry.shape != each.shape:
            yield f"{entry.name} is {list(entry.shape)}; the network makes it {list(each.shape)}"


def components_are_the_models(export: Export) -> Finding:
    """Each file of the pipeline beside its quantized networks is the float model's, as the run found it."""
    quantized = {network.folder for network in export.networks}
    files = [file for file in sorted(export.folder.rglob("*")) if file.is_file() and file.parent not in quantized]
    own = [file.relative_to(export.folder) for file in files]
    names = [inside.as_posix() for inside in own if len(inside.parts) > 1 or inside.name == "model_index.json"]
    run, model = export.sources.run, export.sources.float_model
    known = dict(run.components) if run is not None and run.whole else {}
    if not known and model is None:
        return NotChecked("no run is given", RUN) if run is None else export.sources.no_float
    problems, wanted = [], known.keys()
    for name in names:
        found = file_digest(export.folder / name)
        if name in known and found != known[name]:
            problems.append(f"{name} is not what it was when the run read the float model")
        elif name not in known and not known:
            assert model is not None
            if file_problem(model / name) or file_digest(model / name) != found:
                problems.append(f"{name} is not the float model's")
        elif name not in known:
            problems.append(f"{name} is in no float model, and was not there when the run wrote this")
    problems += [f"{name} is missing" for name in sorted(wanted - set(names))]
    return Checked(problems, f"{len(names)} files")
