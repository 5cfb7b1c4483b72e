"""README, AGENTS.md and docs/: commands run as written, code prints what is said, links lead on."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from apq.cli import app
from apq.space import load_space

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "data").glob("*/README.md")), ROOT / "lut/README.md",
]  # fmt: skip
RUN = ("README.md", "docs/start.md", "docs/troubleshooting.md", "AGENTS.md")
"""Pages whose commands are run, unless a comment before them says why not."""
COMMANDS = get_command(app)
BLOCK = r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```"


def blocks(page: str, *kinds: str) -> list[tuple[str, str]]:
    """(text, what a comment right before it says) of the fenced blocks of a page."""
    found = re.finditer(BLOCK, (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [(b["text"], b["mark"] or "") for b in found if b["kind"] in kinds]


def commands(text: str) -> list[list[str]]:
    """The words of every line that calls apq, line ends with a backslash joined."""
    lines = text.replace("\\\n", " ").splitlines()
    typed = [re.sub(r"^\$ ", "", line) for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in typed if line.startswith("apq ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_exist_with_their_options(page):
    fenced = [
        text for text, _ in blocks(page.relative_to(ROOT).as_posix(), "sh", "console")
        if "No such option" not in text
    ]  # fmt: skip
    inline = re.findall(r"`(apq [a-z][^`]* --[^`]*)`", page.read_text())
    for words in commands("\n".join([*fenced, *(" ".join(i.split()) for i in inline)])):
        command = COMMANDS
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        used = {w.partition("=")[0] for w in words if w.startswith("--")} - {"--quiet", "--help"}
        assert used <= known, (command.name, used - known)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of all pages run, each only once; searches score 2,000 candidates."""
    folder, told = tmp_path_factory.mktemp("pages"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")

        def run(words: list[str]) -> str:
            line = shlex.join(words)
            if line not in told:
                short = words[0] == "search" and "--candidates" not in words
                fewer = ["--candidates", "2000"] if short else []
                told[line] = CliRunner().invoke(app, [*words, *fewer])
            done = told[line]
            assert done.exception is None or isinstance(done.exception, SystemExit), line
            failed = re.search("error: |─ Error ─", done.output)
            assert (done.exit_code == 0) == (failed is None), done.output
            return done.output

        yield run


def shape(line: str) -> str:
    """A line without figures, which differ between processors: its first words."""
    return " ".join(re.sub(r"[\d.,%±]+", "", line).split())[:12]


@pytest.mark.parametrize("page", sorted(RUN, key="docs/troubleshooting.md".__eq__, reverse=True))
def test_transcripts_are_what_commands_print(page, folder):
    """Errors to the letter; of results the lines, since last digits are the processor's."""
    shown = blocks(page, "console")
    assert shown
    for text, _ in shown:
        (words,) = commands(text)
        told = folder(words).splitlines()
        expected = text.splitlines()[1:]
        if any(line.startswith(("error", "Usage")) for line in expected):
            left = iter(told)
            for line in expected:
                assert any(line in out for out in left), (line, told)
        elif expected:
            assert {shape(line) for line in expected} <= {shape(line) for line in told}


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_commands_run_as_they_stand_there(page, folder):
    """In the folder where the page's search was, or a comment says why they are not run."""
    folder(["search", "--latency-ms", "0.5"])
    for text, mark in blocks(page, "sh"):
        if mark == "test command" or mark.startswith("not run: "):
            continue
        assert len(commands(text)) == len(text.splitlines()), text
        for words in commands(text):
            assert "error: " not in folder(words)


def test_what_is_not_run_here_is_run_elsewhere():
    """A comment that names a test names one that exists."""
    for page in ("README.md", "docs/start.md"):
        for _, mark in blocks(page, "sh"):
            for name in re.findall(r"tests/\S+\.py", mark):
                assert (ROOT / name).is_file()


def test_ci_runs_the_test_command_of_the_readme():
    (text,) = [t for t, mark in blocks("README.md", "sh") if mark == "test command"]
    assert re.fullmatch(r"python3 -m venv .venv && .*'\.\[dev\]' && \.venv/bin/pytest\n", text)
    assert "/<!-- test command -->/,/^```$/p" in (ROOT / ".ci/run").read_text()


def test_pandas_answers_what_the_page_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    pairs = blocks("docs/with-pandas.md", "python", "text")
    assert len(pairs) >= 14
    for (code, _), (expected, _) in zip(pairs[::2], pairs[1::2], strict=True):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(code, names)
        assert told.getvalue().rstrip() == expected.rstrip()


def test_a_study_of_ones_own_uses_the_sampler(capsys):
    ((code, _),) = blocks("docs/searching.md", "python")
    exec(code.replace("n_trials=600", "n_trials=90"), {})
    assert int(capsys.readouterr().out.split()[0]) > 3


def test_space_files_load(tmp_path):
    (whole, _), (resnet, _), (bits, _) = blocks("docs/your-space.md", "toml")
    path = tmp_path / "mine.toml"
    path.write_text(whole)
    space = load_space(str(path))
    assert space.slots[1].choices[1] == tuple(range(96, 200, 8))
    path.write_text(resnet)
    assert load_space(str(path)).axis("channels_1").choices == (24, 32)
    path.write_text(re.sub(r"\[bits\].*?\n\n", lambda _: bits + "\n", whole, flags=re.DOTALL))
    assert load_space(str(path)).family.bits.pw_w == ("ternary", "po2-4", 4, 8)


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_menu(build, tmp_path):
    build.pages(tmp_path)
    menu = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(menu) == sorted(p.name for p in tmp_path.glob("*.md"))
    reference = (tmp_path / "commands.md").read_text()
    assert "## apq lut measure\n" in reference
    assert "| `--latency-ms` | Upper limit(s). |" in reference
    assert "def " not in (tmp_path / "api.md").read_text()


def test_the_site_builds_and_loads_nothing_from_elsewhere(build, tmp_path, capfd):
    pytest.importorskip("zensical", reason="the site is built by the extra 'docs'")
    build.build(tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 25
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?([^\"'\s>]+)",
            page.read_text(),
        )
        assert loaded
        assert not [name for name in loaded if "//" in name], page
    styles = "".join(p.read_text() for p in (tmp_path / "site").rglob("*.css"))
    assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", styles)

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "json.md").write_text("# JSON\n\n[gone](nothing.md) [lost](start.md#nowhere)\n")
    with pytest.raises(SystemExit):
        build.build(tmp_path / "other", broken)
    told = capfd.readouterr().err
    assert "page does not exist" in told
    assert "anchor does not exist" in told
    assert not (tmp_path / "other").exists()


def test_shipped_data_belongs_together():
    """Supernet, samples, predictor and table are of one space, samples of that supernet."""
    from apq.hardware.lut import LookupTable
    from apq.hardware.pricing import price_space
    from apq.predictor import load_predictor
    from apq.samples import read_samples
    from apq.supernet import load_supernet

    space = load_space("cifar10")
    supernet = load_supernet(ROOT / "data/cifar10/supernet.safetensors", space)
    seen = {}
    for kind, least in (("fp32", 5000), ("quantized", 500), ("test", 200)):
        samples = read_samples(ROOT / "data/cifar10" / kind, space)
        assert samples.supernet == supernet.hash
        seen[kind] = {row.tobytes() for row in samples.genes}
        assert len(seen[kind]) == len(samples) >= least
        assert set(samples.precision) == {"fp32" if kind == "fp32" else "quantized"}
    assert not seen["test"] & seen["quantized"]
    load_predictor(ROOT / "data/cifar10/predictor.safetensors", space)
    priced = price_space(space, LookupTable.read(ROOT / "lut/bitfusion-apq-cifar10.csv"))
    assert {"latency_ms", "energy_mj"} <= set(priced.metrics)
