"""One parser and one formatter of radii: each is tested against the other, and against numbers written by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from easybn import L2, PGD, Linf, evaluate
from easybn.cli.arguments import Parser, number
from easybn.perturb.eps import format_eps, parse_eps, parse_radii
from easybn.runs.config import Experiment

from ..small import small_images, small_net


@pytest.mark.parametrize(
    ("eps", "linf", "l2"),
    [
        (8 / 255, "8/255", "0.03137"),
        (1 / 255, "1/255", "0.003922"),
        (254 / 255, "254/255", "0.9961"),
        (0.8, "204/255", "0.8"),
        (0.5, "0.5", "0.5"),
        (0.2, "51/255", "0.2"),
        (1.0, "1", "1"),
        (2.0, "2", "2"),
        (0.25, "0.25", "0.25"),
        (0.12345, "0.12345", "0.12345"),
        (0.5 / 255, "0.5/255", "0.001961"),
        (1e-9, "1e-09", "1e-09"),
        (float(np.float32(8 / 255)), "8/255", "0.03137"),
    ],
)
def test_each_norm_has_its_way_of_writing(eps, linf, l2):
    assert format_eps(eps, "linf") == linf
    assert format_eps(eps, "l2") == format_eps(eps, None) == l2


@given(some.floats(1e-12, 1e6), some.sampled_from(["l2", "linf", None]))
def test_what_is_shown_is_read_as_what_it_was(eps, norm):
    assert parse_eps(format_eps(eps, norm)) == pytest.approx(eps, rel=5.1e-4)


@given(some.integers(1, 1000), some.integers(1, 1000))
def test_fractions_are_read_as_python_divides(above, below):
    for spelled in (f"{above}/{below}", f" {above} / {below} ", Fraction(above, below), above / below):
        assert parse_eps(spelled) == above / below


@given(some.integers(1, 254))
def test_whole_levels_come_back_exactly(level):
    assert format_eps(level / 255, "linf") == f"{level}/255"
    assert parse_eps(format_eps(level / 255, "linf")) == level / 255


@given(some.decimals("0.0001", 10, places=4).map(str))
def test_short_decimals_come_back_exactly_in_l2(text):
    assert parse_eps(format_eps(parse_eps(text), "l2")) == float(text)


def test_numbers_of_every_kind():
    kinds = [
        1,
        1.0,
        Fraction(1),
        np.float32(1),
        np.int64(1),
        np.array(1.0),
        torch.tensor(1.0),
        torch.ones(1),
        "1",
        "+1.0",
    ]
    assert [parse_eps(kind) for kind in [*kinds, "1.", "1e0", "10E-1", "0.5/0.5"]] == [1.0] * 14
    assert parse_radii(["8/255", 0.5, Fraction(1, 2)]) == [8 / 255, 0.5]
    for one in (0.5, "1/2", Fraction(1, 2), torch.tensor(0.5), np.array(0.5), [0.5], torch.tensor([0.5, 0.5]), {0.5}):
        assert parse_radii(one) == [0.5]
    with pytest.raises(ValueError, match="got none"):
        parse_radii([])


WRONG = ["nan", "inf", "-inf", "-1", "-8/255", "0", "0/255", "8/0", "1e999", "-1e999", "1e999999999", "1/1e999999999"]
WRONG += [
    "1e-999999999",
    "9" * 400,
    "8/255/2",
    "8/",
    "/255",
    "",
    " ",
    "eight",
    "0x10",
    "1_000",
    "8,5",
    "٣",
    "1e5e5",
    "1 2",
]
WRONG += [math.nan, math.inf, -0.5, 0.0, 0, -1, None, True, [0.5], "8/nan", 1j, torch.ones(2), 10**400, "1e-400"]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: str(value)[:12])
def test_everything_else_is_refused_at_once(wrong):
    for refuse in (parse_eps, Linf, L2, lambda value: PGD(L2(1), step_size=value)):
        if wrong is None and refuse not in (parse_eps, Linf, L2):
            continue
        with pytest.raises(ValueError, match="must be a"):
            refuse(wrong)


def test_evaluate_takes_what_the_command_line_takes():
    model, x = small_net(), small_images(4)
    y = model(x).argmax(1)
    spelled = evaluate(model, x, y, norm="linf", eps=["8/255", Fraction(8, 255), 8 / 255], steps=1)
    assert [score.eps for score in spelled.scores] == [None, 8 / 255]
    for wrong in ("1e999999999", "8/0", "nan", -1, [], ["8/255", math.inf]):
        with pytest.raises(ValueError, match="eps must be"):
            evaluate(model, x, y, eps=wrong)


@pytest.mark.parametrize("wrong", ["1e999999999", "8/0", "nan", "-8/255", "1/1e999999999", "inf"])
def test_options_refuse_it_too(wrong, capsys):
    with pytest.raises(ValueError, match="eps must be a"):
        number(wrong)
    parser = Parser(prog="easybn train", allow_abbrev=False)
    parser.add_class_arguments(Experiment, None, skip={"training"})
    with pytest.raises((SystemExit, ValueError)) as stopped:
        parser.read(["--recipe", "EBN", f"--recipe.attack.ball.eps={wrong}"])
    assert "eps" in f"{stopped.value} {capsys.readouterr().err}"


def test_a_fraction_in_an_option_is_the_number():
    parser = Parser(prog="easybn train", allow_abbrev=False)
    parser.add_class_arguments(Experiment, None, skip={"training"})
    recipe = parser.read(["--recipe", "EBN", "--recipe.attack.ball.eps=8/255"]).recipe
    assert recipe.attack.ball.eps == 8 / 255
