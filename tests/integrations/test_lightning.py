"""RecipeModule in a real Trainer: what it trains is what the recipe's terms say, by hand."""

import sys
from functools import partial
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from easybn import PGD, Linf, convert
from easybn.integrations.lightning import RecipeModule
from easybn.recipes import EBN, AdvPropEBN, Context, FastAdvProp, Vanilla
from easybn.train.step import take_step
from tests.small import small_images, small_net

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own advice

X, Y = small_images(24), torch.arange(24) % 4
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ATTACK = PGD(Linf(4 / 255), random_start=True)


def net() -> nn.Module:
    """With dropout, which draws from torch's global generator."""
    return nn.Sequential(small_net(), nn.Dropout(0.2)).train()


def loader(shuffle: bool = False, ids: bool = False) -> DataLoader:
    data = TensorDataset(X, Y, 100 + torch.arange(24)) if ids else TensorDataset(X, Y)
    # torch's sampler whose order is a function of the epoch, which a Trainer tells it
    return DataLoader(data, 8, sampler=DistributedSampler(data, 1, 0, shuffle=shuffle))


def trainer(epochs: int, folder=None, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    saved = {"callbacks": [ModelCheckpoint(folder, save_last=True)]} if folder else {"enable_checkpointing": False}
    return Trainer(max_epochs=epochs, **{**quiet, **saved, **options})


def without_dropout(module: RecipeModule) -> None:
    module.model[1].p = 0.0


@pytest.mark.parametrize(
    "recipe",
    [Vanilla(), EBN(ATTACK), AdvPropEBN(ATTACK, ATTACK), FastAdvProp()],
    ids=lambda recipe: type(recipe).__name__,
)
@pytest.mark.parametrize("ids", [False, True])
def test_two_epochs_by_hand(recipe, ids):
    module = RecipeModule(net(), recipe, SGD, partial(StepLR, step_size=2), clip_norm=0.5, seed=5)
    without_dropout(module)
    trainer(2).fit(module, loader(ids=ids))
    model = small_net().train()
    model = convert(model, recipe.branches) if len(recipe.branches) > 1 else model
    optimizer = SGD(model.parameters())
    schedule = StepLR(optimizer, 2)
    for step in range(6):
        rows = torch.arange(8) + 8 * (step % 3)
        ctx = Context(100 + rows if ids else torch.arange(8), step, step // 3, seed=5)
        take_step(model, optimizer, partial(recipe, model, X[rows], Y[rows], ctx), clip_norm=0.5)
        schedule.step()
    for (name, ours), by_hand in zip(module.model[0].state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, by_hand, msg=lambda text, name=name: f"{name}: {text}")


def test_a_resumed_training_is_the_undisturbed_one(tmp_path):
    def module() -> RecipeModule:
        return RecipeModule(net(), EBN(ATTACK), SGD, partial(StepLR, step_size=2), interval="epoch", seed=1)

    whole, first, resumed = module(), module(), module()
    trainer(3).fit(whole, loader(shuffle=True))
    trainer(2, tmp_path).fit(first, loader(shuffle=True))
    torch.rand(7)  # another state of the global generator
    resume = trainer(3)
    resume.fit(resumed, loader(shuffle=True), ckpt_path=tmp_path / "last.ckpt")
    assert resume.global_step == 9
    assert not torch.equal(first.model[0][0].weight, whole.model[0][0].weight)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert resume.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)
    restored = RecipeModule.load_from_checkpoint(tmp_path / "last.ckpt", model=net(), recipe=EBN(ATTACK), optimizer=SGD)
    assert torch.equal(restored.model[0][0].weight, first.model[0][0].weight)


def test_scores_of_terms_and_branches_are_logged_and_a_plain_model_comes_out(tmp_path):
    given = net()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    module = RecipeModule(given, EBN(ATTACK), SGD)
    fitted = trainer(1, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    fitted.fit(module, loader(), DataLoader(TensorDataset(X, Y), 10))
    logged = set((tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0].split(","))
    assert logged >= {"train/main_loss", "train/main_accuracy", "train/easy_loss", "train/easy_accuracy"}
    assert logged >= {"val/main_loss", "val/main_accuracy", "val/easy_loss", "val/easy_accuracy"}
    plain = module.deployable()
    assert list(plain.state_dict()) == list(before)
    assert not plain.training
    with torch.no_grad():
        logits = plain(X)
    assert float(fitted.callback_metrics["val/main_loss"]) == pytest.approx(float(F.cross_entropy(logits, Y)), rel=1e-4)
    accuracy = float((logits.argmax(1) == Y).float().mean())
    assert float(fitted.callback_metrics["val/main_accuracy"]) == pytest.approx(accuracy)
    assert all(torch.equal(given.state_dict()[name], value) for name, value in before.items())  # a copy is trained


def test_bf16_trains_under_autocast():
    module = RecipeModule(net(), FastAdvProp(), SGD)
    seen = []
    module.model[0][4].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    trainer(1, precision="bf16-mixed", limit_train_batches=1).fit(module, loader())
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in module.model.parameters()} == {torch.float32}
    assert float(module.trainer.callback_metrics["train/adv_loss"]) > 0


def test_without_lightning_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "easybn.integrations.lightning")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'easybn\[lightning\]'"):
        import_module("easybn.integrations.lightning")


def test_a_model_with_other_branches_is_refused():
    with pytest.raises(ValueError, match=r"the model has branches \('main', 'adv'\), EBN wants \('main', 'easy'\)"):
        RecipeModule(convert(net(), ("main", "adv")), EBN(), SGD)
