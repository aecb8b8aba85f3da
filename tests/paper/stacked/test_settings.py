import pytest

from easybn.paper.stacked_images import Condition, Settings


def test_every_eps_with_every_number_of_steps():
    settings = Settings(eps=(1 / 255, 8 / 255, 8 / 255), steps=(1, 10), copies=("easy", "untouched", "easy"))
    assert settings.conditions == [
        *(Condition("easy", eps / 255, steps) for eps in (1, 8) for steps in (1, 10)), Condition("untouched"),
    ]  # fmt: skip
    assert len(Settings().conditions) == 13


def test_names():
    names = [(str(c), c.file_name) for c in Settings(eps=(16 / 255,)).conditions]
    assert names == [
        ("easy 16/255, 1 step", "easy-16of255-1step"),
        ("easy 16/255, 10 steps", "easy-16of255-10steps"),
        ("untouched", "untouched"),
        ("adversarial 16/255, 1 step", "adversarial-16of255-1step"),
        ("adversarial 16/255, 10 steps", "adversarial-16of255-10steps"),
    ]
    assert Condition("untouched").attack is None
    assert Condition("easy", 8 / 255, 10).attack.step_length == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"eps": (-1 / 255,)}, r"eps must be a whole number of 255ths in \(0, 1\] .*, got -1/255"),
        ({"eps": (0.0,)}, "got 0/255"),
        ({"eps": (0.5 / 255,)}, "got 0.5/255"),
        ({"eps": (2.0,)}, "got 510/255"),
        ({"eps": (float("nan"),)}, "got nan"),
        ({"eps": ()}, "at least one eps"),
        ({"steps": (1, 0)}, "steps must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must"),
        ({"epochs_first": 0}, "epochs_first must"),
        ({"batch_size": -1}, "batch_size must"),
        ({"copies": ("hard",)}, "copies: no 'hard', there are easy, untouched, adversarial"),
        ({"copies": ()}, "copies: name at least one"),
        ({"layout": "below"}, "layout: no 'below', there are above, beside, channels"),
    ],
)
def test_values_out_of_range(wrong, told):
    with pytest.raises(ValueError, match=told):
        Settings(**wrong)
