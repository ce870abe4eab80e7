"""The demo keeps what belongs apart: sizes, scenes, and what a user has edited."""

import os

import jax
import pytest

from jaxsci import __main__, demo, linear, sweep
from jaxsci.core import provenance
from jaxsci.demo import _shared, correctors, diffusion, filters, mimic, page, quantization, solvers


@pytest.fixture(autouse=True)
def _precision():
    """The studies choose double precision for their process."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def _tiny(rounds):
    """The study with few rounds, one seed, one small sequence and two policies."""
    study = _shared.load(_shared.source("_study.py", {solvers._SETTINGS: f"ROUNDS, SEEDS = {rounds}, 1"}))
    study.PROBLEMS = {"heat equation": (linear.streams.heat(5), *study.PROBLEMS["heat equation"][1:])}
    study.POLICIES = {name: study.POLICIES[name] for name in ("ω = 1", "fixed ω")}
    return study


def test_the_tables_of_a_page_scroll_in_themselves_on_a_phone(tmp_path):
    """A row of the study's table at the size of a phone: letters of .72rem are half as wide, 5.8 pixels."""
    report = page.Page("a", "b", "c")
    header = ["sequence", "policy", "iterations", "/ fixed ω", "/ ω = 1", "/ instance-optimal"]
    longest = ["heat equation", "binned Tsallis-INF", "610,932", "1.000", "1.000", "12.345"]
    report.table(header, [longest])
    report.write(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert text.count('<div class="wide"><table>') == text.count("</table></div>") == 1
    assert "@media (max-width: 640px)" in text and ".wide { overflow-x: auto; }" in text
    # words break between lines, so a column is as wide as its longest word
    columns = zip(header, longest)
    width = sum(max(len(word) for cell in column for word in cell.replace("-", "- ").split()) for column in columns)
    assert 5.8 * width + len(header) * 2 * 0.2 * 16 + 16 <= 375


def test_every_sequence_is_played_by_the_physics_too():
    study = _tiny(3)
    names = list(_shared.load(_shared.source("_study.py", {})).POLICIES)
    assert "learnt physics" in names
    study.POLICIES = {"learnt physics": _shared.load(_shared.source("_study.py", {})).POLICIES["learnt physics"]}
    ds = study.study(progress=False)
    assert not ds["point.status"].any() and not ds["policy_status"].any()


def test_other_round_numbers_in_one_folder_are_refused_and_equal_ones_continue(tmp_path):
    first = _tiny(3).study(out=tmp_path, progress=False)
    assert first.sizes["round"] == 3 and first["steps"].attrs["units"] == "iterations"
    with pytest.raises(sweep.SweepMismatch, match=r"ROUNDS = 4"):
        _tiny(4).study(out=tmp_path, progress=False)
    assert _tiny(3).study(out=tmp_path, progress=False).equals(first)
    assert _tiny(4).study(progress=False).sizes["round"] == 4


def test_the_identity_holds_the_source_of_the_study(tmp_path):
    def known(edits):
        return provenance.source_of(_shared.load(_shared.source("_study.py", edits)).point)

    assert known({}) == known({})
    for old, new in (
        ("num_rounds=ROUNDS, tol=tol", "num_rounds=ROUNDS, tol=2 * tol"),
        ("epsilon_greedy(20)", "epsilon_greedy(20, epsilon=0.2)"),
    ):
        assert known({}) != known({old: new}), old
    texts = [_shared.source("_study.py", edits) for edits in ({}, {"heat(25)": "heat(24)"})]
    before, after = (_shared.sweep_folder(tmp_path, text) for text in texts)
    assert before.parent == after.parent == tmp_path and before != after


@pytest.mark.parametrize(
    "name, scene",
    [
        ("_study.py", solvers),
        ("_diffusion_study.py", diffusion),
        ("_smc_study.py", filters),
        ("_correctors_study.py", correctors),
        ("_pfn_study.py", mimic),
        ("_quantization_study.py", quantization),
    ],
    ids=["solvers", "diffusion", "filters", "correctors", "pfn", "quantization"],
)
def test_what_is_shown_under_fast_is_what_ran(name, scene):
    text = _shared.source(name, {scene._SETTINGS: scene._FAST})
    assert scene._FAST in text and scene._SETTINGS not in text
    with pytest.raises(ValueError, match="must hold 'no such line' once"):
        _shared.source(name, {"no such line": ""})


def test_an_edited_study_is_never_overwritten(tmp_path, capsys):
    file, ours = tmp_path / "study.py", ("full", "small")
    _shared.write_study(file, "full", ours)
    _shared.write_study(file, "small", ours)
    assert file.read_text() == "small" and capsys.readouterr().out == ""
    file.write_text("mine")
    _shared.write_study(file, "full", ours)
    assert file.read_text() == "mine" and "was edited, and stays" in capsys.readouterr().out


def test_a_scene_leaves_the_folder_of_another_alone(tmp_path):
    _shared.claim(tmp_path, "solvers")
    _shared.claim(tmp_path, "solvers")
    (tmp_path / "sweep").mkdir()
    with pytest.raises(SystemExit, match="holds the results of the scene 'solvers'; choose another folder"):
        demo.run("diffusion", tmp_path)
    (tmp_path / "other" / "sweep").mkdir(parents=True)
    with pytest.raises(OSError, match="holds a sweep that is not of this demo"):
        _shared.claim(tmp_path / "other", "solvers")


def test_every_scene_has_a_folder_of_its_own(monkeypatch, capsys):
    folders = {}
    monkeypatch.setattr(demo, "run", lambda scene, folder, fast: folders.setdefault(scene, os.fspath(folder)) and 0)
    for scene in demo.SCENES:
        assert __main__.main(["demo", scene]) == 0
    others = {scene: f"jaxsci-demo-{scene}" for scene in demo.SCENES if scene != "solvers"}
    assert folders == {"solvers": "jaxsci-demo"} | others
    with pytest.raises(SystemExit):
        __main__.main(["demo", "--help"])
    assert "{solvers,diffusion,filters,correctors,pfn,quantization}" in capsys.readouterr().out
