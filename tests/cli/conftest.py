"""Commands run in this process, each in an empty folder with an empty store of packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.pictures import picture
from vlrt.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of packages, and a folder to work in."""
    monkeypatch.setenv("VLRT_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    picture(90, 60).save(path)
    return str(path)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Runs a command: status, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as ended:  # argparse leaves by itself
            status = ended.code
        return status, *capsys.readouterr()

    return run
