"""RecipeTrainer, a real Trainer of transformers: what it trains is what the recipe's terms say, by hand.

transformers is imported by the tests alone, since it takes seconds and the fast tests do without it.
"""

import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import easybn
from easybn import PGD, Linf, convert, route
from easybn.recipes import EBN, AdvPropEBN, Context, FastAdvProp, Vanilla
from easybn.recipes.recipe import NeedsBackward
from tests.small import small_images

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the Trainer's own advice

X, Y = small_images(24), torch.arange(24) % 4
ATTACK = PGD(Linf(4 / 255), random_start=True)


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x)["logits"]


class Images(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"pixel_values": X[index], "labels": Y[index]}


@pytest.fixture(scope="module")
def hf():
    """The names of transformers, and a network of its: small, with dropout, of random weights."""
    import transformers

    from easybn.integrations.transformers import RecipeTrainer

    class Net(transformers.ResNetForImageClassification):
        def __init__(self, config):
            super().__init__(config)
            self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(8, config.num_labels))

    class InOrder(RecipeTrainer):
        def get_train_dataloader(self):
            return DataLoader(Images(), self.args.train_batch_size)

    def net(dropout=0.2):
        torch.manual_seed(1)
        shape = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 4}
        return Net(transformers.ResNetConfig(**shape, dropout=dropout))

    def arguments(folder, **options):
        fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 5}
        sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 5}
        return transformers.TrainingArguments(str(folder), **{**fixed, **sizes, **options})

    def trainer(folder, recipe=None, model=None, kind=RecipeTrainer, data=None, **options):
        data = {"train_dataset": Images(), "eval_dataset": Images(), **(data or {})}
        return kind(model or net(), arguments(folder, **options), recipe=recipe or EBN(ATTACK), **data)

    return SimpleNamespace(
        Trainer=transformers.Trainer, RecipeTrainer=RecipeTrainer, InOrder=InOrder, Net=Net,
        net=net, arguments=arguments, trainer=trainer,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """A Trainer that compiles says so to all later ones, by variables."""
    for name in ("BACKEND", "MODE", "USE_FULLGRAPH", "USE_DYNAMIC"):
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "")
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")


def same(a, b):
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


SGD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


@pytest.mark.parametrize(
    "recipe", [Vanilla(), EBN(ATTACK), AdvPropEBN(ATTACK, ATTACK)], ids=lambda recipe: type(recipe).__name__
)
@pytest.mark.parametrize("compiled", [False, True])
def test_accumulated_steps_by_hand(hf, tmp_path, recipe, compiled):
    """Of 3 steps each: two batches with noise of their own, whose losses are means."""
    more = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
    trainer = hf.trainer(tmp_path, recipe, hf.net(dropout=0), hf.InOrder, **SGD, **more)
    trainer.train()
    model = hf.net(dropout=0).train()
    model = convert(model, recipe.branches) if len(recipe.branches) > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = Logits(model)
    for step in range(5):
        optimizer.zero_grad()
        for half in range(2):
            rows = torch.arange(4) + 8 * (step % 3) + 4 * half
            ctx = Context(torch.arange(4) + 4 * half, step, step // 3, seed=5)
            for term in recipe(wrapped, X[rows], Y[rows], ctx):
                (term.loss * term.weight / 2).backward()
        optimizer.step()
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    for (name, ours), by_hand in zip(trained.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, by_hand, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("stopped_at", [2, 4])  # in an epoch of 3 steps, and in the next one
def test_a_resumed_training_is_the_undisturbed_one(hf, tmp_path, stopped_at):
    whole = hf.trainer(tmp_path, save_strategy="steps", save_steps=stopped_at)
    whole.train()
    torch.rand(7)  # another state of the global generator, of which dropout draws
    resumed = hf.trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped_at}"))
    assert resumed.state.global_step == 5
    same(whole.model, resumed.model)
    assert not torch.equal(whole.model.classifier[2].weight, hf.net().classifier[2].weight)


def test_evaluation_is_of_the_main_branch_alone(hf, tmp_path):
    trainer = hf.trainer(tmp_path, data={"compute_metrics": accuracy})
    trainer.train()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    easy_norms = [module for name, module in trainer.model.named_modules() if name.endswith("norms.easy")]
    assert easy_norms
    for norm in easy_norms:
        norm.register_forward_hook(lambda *_: pytest.fail("the easy branch was used"))
    found, answers = trainer.evaluate(), trainer.predict(Images()).predictions
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    with torch.no_grad():
        logits = trainer.deployable()(X).logits
    torch.testing.assert_close(torch.as_tensor(answers), logits)
    assert found["eval_loss"] == pytest.approx(float(F.cross_entropy(logits, Y)), rel=1e-4)
    assert found["eval_accuracy"] == pytest.approx(float((logits.argmax(1) == Y).double().mean()))


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_saved_model_is_plain_and_evaluated_like_its_logits(hf, tmp_path, precision):
    given = hf.net()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    trainer = hf.trainer(tmp_path / "run", model=given, bf16=precision == "bf16")
    kinds = set()
    trainer.model.classifier[2].register_forward_hook(lambda *call: kinds.add(call[2].dtype))
    trainer.train()
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
    trainer.save_model(tmp_path / "plain")
    assert any("norms.easy" in name for name in trainer.model.state_dict())  # that one goes on with its branches
    loaded, plain = hf.Net.from_pretrained(tmp_path / "plain").eval(), trainer.deployable()
    assert list(loaded.state_dict()) == list(before)
    same(loaded, plain)
    same(loaded, easybn.strip(trainer.model))
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())  # a copy is trained
    with torch.no_grad(), route(trainer.model, "main"):
        assert torch.equal(loaded(X).logits, plain(X).logits)
    settings = {"norm": "linf", "eps": 4 / 255, "steps": 3}
    named = easybn.evaluate(loaded, X, Y, output="logits", **settings)
    alone = easybn.evaluate(Logits(loaded), X, Y, **settings)
    assert torch.equal(named.robust, alone.robust)
    with pytest.raises(ValueError, match="--output logits"):
        easybn.evaluate(loaded, X, Y, **settings)


def test_what_the_trainer_pushes_is_plain(hf, tmp_path, monkeypatch):
    trainer, pushed = hf.trainer(tmp_path), []
    monkeypatch.setattr(hf.Trainer, "push_to_hub", lambda self, **options: pushed.append((self.model, options)))
    trainer.push_to_hub(commit_message="done")
    ((model, options),) = pushed
    assert list(model.state_dict()) == list(hf.net().state_dict())
    assert options == {"commit_message": "done"}
    assert any("norms.easy" in name for name in trainer.model.state_dict())


def test_a_model_made_anew_for_each_trial_has_the_branches(hf, tmp_path):
    trainer = hf.RecipeTrainer(
        None, hf.arguments(tmp_path), recipe=EBN(), model_init=lambda: hf.net(), train_dataset=Images()
    )
    assert any("norms.easy" in name for name in trainer.model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, r"EBN\(label_smoothing=0.1\) smooths every term"),
        ({"push_to_hub": True}, r"call push_to_hub\(\) after the training"),
        ({"data": {"compute_loss_func": F.cross_entropy}}, "would replace the recipe's loss"),
    ],
)
def test_options_that_would_train_something_else_are_refused(hf, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        hf.trainer(tmp_path, **options)


def test_data_parallel_is_refused(hf, tmp_path, monkeypatch):
    monkeypatch.setattr(type(hf.arguments(tmp_path)), "n_gpu", 2)
    with pytest.raises(ValueError, match=r"2 GPUs in one process .* by torchrun"):
        hf.trainer(tmp_path)


def test_what_cannot_be_trained_says_why(hf, tmp_path):
    with pytest.raises(ValueError, match=r"the model has branches \('main', 'adv'\), EBN wants \('main', 'easy'\)"):
        hf.trainer(tmp_path, model=convert(hf.net(), ("main", "adv")))
    with pytest.raises(NeedsBackward, match="FastAdvProp cannot be one loss"):
        hf.trainer(tmp_path, FastAdvProp(), per_device_train_batch_size=8).train()
    with pytest.raises(ValueError, match="a batch lacks labels; it has pixel_values"):
        hf.trainer(tmp_path, data={"train_dataset": [{"pixel_values": x} for x in X]}).train()


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "easybn.integrations.transformers", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'easybn\[transformers\]'"):
        import_module("easybn.integrations.transformers")
