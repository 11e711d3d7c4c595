"""What pyproject.toml cannot say: a wheel also holds `configs` and `assets`, where `llmc.shipped` looks for them."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "assets")


class BuildWithShipped(build_py):
    """Copies the two folders into the package that is built; an editable install finds them in the repository."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                copytree(name, Path(self.build_lib) / "llmc" / "_data" / name, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithShipped})
