"""Calibrations: fitted to records whose truth is known, kept in files, refused for other models."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from branchwise.assets import asset_path
from branchwise.config import EngineConfig
from branchwise.control.calibration import FEATURES, Calibration, features, read_calibration
from branchwise.control.fit import fit_calibration
from branchwise.control.knowledge import Measured, outlook_of
from branchwise.control.quality import expected_error
from branchwise.errors import ConfigError
from branchwise.report.record import Header, Record, Settings
from branchwise.strategies.outlook import Kind, RuleOfThumb, Standing
from records import kept, record

Cell = tuple[str, Header, dict[str, Record]]


def cell(strategy: str, options: dict[str, Any], records: list[Record], prm: str | None = "q") -> Cell:
    settings: Settings = {
        "strategy": strategy, "options": options, "source": None, "policy": "p", "prm": prm, "seed": 0,
    }  # fmt: skip
    return strategy, {"settings": settings, "label": strategy}, {each["id"]: each for each in records}


def solved(name: str, answers: list[tuple[str, float | None]], gold: str | None = "1") -> Record:
    drawn = [
        kept(i, answer=answer, score=score, scores=[] if score is None else [score])
        for i, (answer, score) in enumerate(answers)
    ]
    made: Record = record(name, gold=gold, correct=None, candidates=drawn, cost={"generated_tokens": 10 * len(drawn)})
    return made


def drawn(problems: int, n: int, seed: int = 0, judged: bool = True) -> list[Record]:
    """Solutions that are right with a chance of their problem, and scores that are right on average."""
    rng = random.Random(seed)
    made = []
    for i in range(problems):
        chance = rng.random()
        answers = []
        for _ in range(n):
            score = min(0.99, max(0.01, chance + rng.uniform(-0.2, 0.2)))
            answers.append(("1" if rng.random() < score else str(rng.randint(2, 4)), score if judged else None))
        made.append(solved(str(i), answers))
    return made


def grade(answer: str | None, gold: str) -> bool:
    return answer == gold


CHAINS = {"n": 16, "aggregate": "last", "vote": "max", "max_steps": None}


def test_what_it_says_is_as_often_right() -> None:
    made = fit_calibration([cell("best_of_n", CHAINS, drawn(300, 16))], grade)
    assert made.judged
    assert (made.policy, made.judge) == ("p", "q")
    assert made.tokens == {"chains": 40.0}
    assert made.quality["ece"] < 0.05
    said, right = [], []
    for each in drawn(300, 4, seed=1):
        from branchwise.control.fit import _vote

        now, truth = _vote(each["candidates"], "1", grade, judged=True)
        said.append(made.right(now))
        right.append(truth)
    assert expected_error(said, right) < 0.08
    assert made.first["chains"] == pytest.approx(sum(right) / 300, abs=0.1)


def test_more_gains_where_little_is_known_and_nothing_where_all_agree() -> None:
    made = fit_calibration([cell("best_of_n", CHAINS, drawn(300, 16))], grade)
    doubtful, sure = Standing(4, 1, 1, 0.5, 0.3, 2.0), Standing(4, 4, 0, 0.99, 1.0, 3.9)
    assert made.right(sure) > 0.9 > made.right(doubtful)
    assert made.gain(doubtful, "chains", 4) > made.gain(sure, "chains", 4)
    assert made.gain(sure, "chains", 4) < 0.03
    assert made.gain(doubtful, "chains", 2) == pytest.approx(made.gain(doubtful, "chains", 4) / 2)
    assert made.gain(doubtful, "tree", 4) == 0  # never seen
    assert made.kinds(doubtful) == ("chains",)
    assert made.right(Standing(4, 0, 0, None, 0.0, 0.0)) == 0  # nobody states an answer


def test_trees_are_chosen_where_they_gain_more() -> None:
    better = [solved(each["id"], [("1", 0.9)] * 16) for each in drawn(40, 16)]
    cells = [cell("best_of_n", CHAINS, drawn(40, 16)), cell("dvts", {"n": 16, "expand": 4, "vote": "max"}, better)]
    made = fit_calibration(cells, grade)
    assert made.first["tree"] == 1
    assert made.kinds(Standing(0, 0, 0, None, 0.0, 0.0)) == ("chains", "tree")


@pytest.mark.parametrize("kind", ["beam", "particles"])
def test_a_search_of_three_waves_is_one_large_wave(kind: Kind) -> None:
    trees, large = drawn(60, 16), [solved(each["id"], [("1", 0.9)] * 12) for each in drawn(60, 16)]
    tree, options = {"expand": 4, "vote": "max"}, {"vote": "max"} | ({"expand": 4} if kind == "beam" else {})
    cells = [cell("dvts", {"n": 16, **tree}, trees), cell(kind, {"n": 12, **options}, large)]
    made = fit_calibration(cells, grade)
    assert (made.first[kind], made.tokens[kind]) == (1, 120)
    doubtful = Standing(4, 1, 1, 0.5, 0.3, 2.0)
    assert made.gain(doubtful, kind, 12) > made.gain(doubtful, "tree", 4)
    assert made.gain(doubtful, kind, 6) == pytest.approx(made.gain(doubtful, kind, 12) / 2)
    other_size = fit_calibration([cells[0], cell(kind, {"n": 16, **options}, large)], grade)
    assert kind not in other_size.first


def test_without_a_judge_it_goes_by_agreement() -> None:
    made = fit_calibration([cell("majority", {"n": 16, "max_steps": None}, drawn(200, 16, judged=False), None)], grade)
    assert not made.judged
    assert made.right(Standing(8, 8, 0, None, 1.0, 8.0)) > 0.7 > made.right(Standing(8, 2, 2, None, 0.25, 2.0))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([cell("best_of_n", CHAINS, drawn(9, 16))], "9 problems with known answers"),
        ([cell("beam", {"n": 16, "vote": "max"}, drawn(40, 16))], "no results of waves of 4"),
        ([cell("best_of_n", CHAINS, [solved(str(i), [("1", 0.5)] * 16) for i in range(40)])], "all answers are right"),
        ([cell("best_of_n", CHAINS, [solved(str(i), [("1", 0.5)], None) for i in range(40)])], "0 problems with"),
    ],
)
def test_what_cannot_be_learned_from(cells: list[Cell], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_calibration(cells, grade)


DAMAGE: list[tuple[dict[str, Any], str]] = [
    ({"answered": [1.0]}, "expected 5 coefficients"),
    ({"answered": [float("nan")] * len(FEATURES)}, r"answered\[0\] is NaN, expected a number"),
    ({"mended": {"other": [0.0] * len(FEATURES)}}, "mended has a key that is"),
    ({"mended": {"tree": [0.0] * len(FEATURES)}}, "first, mended, kept and tokens do not know the same"),
    ({"tokens": {}}, "first, mended, kept and tokens"),
    ({"first": {}, "mended": {}, "kept": {}, "tokens": {}}, "first, mended, kept and tokens"),
    ({"first": {"chains": "high"}}, 'first.chains is "high", expected a number'),
    ({"wave": 0}, "wave is 0, expected 1 or more"),
    ({"wave": True}, "wave is true, expected a whole number"),
    ({"policy": None}, "policy is null, expected a text"),
    ({"more": 1}, "more is unknown"),
]


def test_files_come_back_whole_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    made = fit_calibration([cell("best_of_n", CHAINS, drawn(60, 16))], grade)
    path = tmp_path / "c.json"
    made.save(path)
    assert read_calibration(path) == made
    whole = json.loads(path.read_text())
    for damage, words in DAMAGE:
        path.write_text(json.dumps({**whole, **damage}))
        with pytest.raises(ConfigError, match=rf"is damaged \({words}.*\): fit it again with"):
            read_calibration(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="expected a file that branchwise calibrate has written"):
        read_calibration(path)
    path.write_text("no json")
    with pytest.raises(ConfigError, match="it is no JSON"):
        read_calibration(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_calibration(tmp_path / "none")
    with pytest.raises(ConfigError, match="choose another --out"):
        made.save(tmp_path / "none" / "c.json")


def test_it_belongs_to_its_models(tmp_path: Path) -> None:
    policy, prm = str(asset_path("policy-small")), str(asset_path("prm"))
    bundled = outlook_of(EngineConfig(), policy, prm, judges=1, billions=0.001)
    assert isinstance(bundled, Measured)
    assert isinstance(outlook_of(EngineConfig(), policy, None, judges=0, billions=0.001), RuleOfThumb)
    assert isinstance(outlook_of(EngineConfig(), policy, prm, judges=2, billions=0.001), RuleOfThumb)
    path = tmp_path / "c.json"
    other = {field: getattr(bundled.calibration, field) for field in Calibration.__slots__}
    Calibration(**{**other, "judge": "another"}).save(path)
    config = EngineConfig(calibration=path)
    with pytest.raises(ConfigError, match="is one of the judge another, this one is"):
        outlook_of(config, policy, prm, judges=1, billions=0.001)
    with pytest.raises(ConfigError, match="is one of the judge another, this one is none"):
        outlook_of(config, policy, None, judges=0, billions=0.001)
    Calibration(**{**other, "judge": None}).save(path)
    with pytest.raises(ConfigError, match="fitted with a judge, and there is none here"):
        outlook_of(config, policy, None, judges=0, billions=0.001)
    Calibration(**other).save(path)
    assert outlook_of(config, policy, prm, judges=1, billions=0.001) == bundled


def test_votes_of_another_kind_go_by_the_rule_of_thumb() -> None:
    bundled = outlook_of(
        EngineConfig(), str(asset_path("policy-small")), str(asset_path("prm")), judges=1, billions=0.001
    )
    counted = Standing(4, 3, 1, None, 0.75, 3.0)
    assert not bundled.knows(counted)
    assert bundled.right(counted) == RuleOfThumb().right(counted)


def test_features_of_extreme_scores_are_finite() -> None:
    high, low = (features(Standing(4, 4, 0, score, 1.0, 4.0))[1] for score in (1.0, 0.0))
    assert high == pytest.approx(-low)
    assert len(features(Standing(0, 0, 0, None, 0.0, 0.0))) == len(FEATURES)


@pytest.mark.parametrize("quality", [0.4, 1.1, True, "good"])
def test_the_quality_of_a_judge_is_a_probability(quality: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected 0\.5 \(it guesses\) to 1"):
        EngineConfig(judge_quality=quality)
