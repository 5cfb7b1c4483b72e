"""What pyproject.toml cannot say: a wheel carries data/ and lut/ inside the package.

``apq.files.shipped`` finds them there; in a clone they stay where they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("data/cifar10", "data/cifar10-low-bits", "lut")
LEFT_OUT = shutil.ignore_patterns("*.svg", ".*")


class BuildWithData(build_py):
    """Copies what apq carries into ``apq/_shipped`` of a wheel."""

    def run(self) -> None:
        """Build the modules, then copy; an editable install needs no copy."""
        super().run()
        if self.editable_mode:
            return
        for folder in CARRIED:
            to = Path(self.build_lib, "apq/_shipped", folder)
            shutil.copytree(folder, to, ignore=LEFT_OUT, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithData})
