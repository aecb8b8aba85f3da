"""A model that is not of a training run: named by the user, with a folder for its results."""

import json
import re
import shlex
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from .. import data, models
from ..data import Source
from ..files import write_text
from ..json_files import read_any_json
from ..models import weights
from ..models.exported import is_exported, load_exported
from ..models.hub import is_hub
from ..models.outputs import SelectOutput
from ..models.registry import LIBRARIES, check_stored_options, is_code, user_model
from ..models.robustbench_zoo import DATASET, LIBRARY, OPTIONS, load_zoo_model
from ..models.state_dicts import load_weights
from ..models.weights import TrainedOn
from .config import DATA_OPTIONS
from .run import Run
from .target import EvaluationTarget, read_classes, sized_for

NAME = "evaluation.json"
DIGESTS = "digests"


@dataclass(frozen=True)
class UserModel:
    """A user's model, as the command line names it.

    Args:
        model: "my.py:make", "module:make", "timm:NAME", "torchvision:NAME", a built-in name, a trained model of the
            package (:func:`easybn.models.trained`), "robustbench:NAME" with its own weights
            (:mod:`easybn.models.robustbench_zoo`), hub:USER/NAME@COMMIT (:mod:`easybn.models.hub`), or an ONNX file
            (:mod:`easybn.models.exported`); None if ``weights`` is easybn's own file, which says it.
        weights: a checkpoint, see :func:`easybn.models.state_dicts.load_weights`; None for the model's own weights.
        data: name or path of the data set; None for the one that ``weights`` was trained on, the bundled sample for
            a trained model of the package, or RobustBench's data set.
        data_folder: folder of the data set.
        resize, channels, test_fraction: for an image folder, see :func:`easybn.data.load`.
        classes: file with the class of each output, one name per line in the order of the outputs; None for the
            classes that ``weights`` was trained on. If they are known, labels are matched by name.
        model_options: keyword arguments of the model.
        mean, std: for a model by name or an ONNX file: one number per channel, by which its first layer normalises; by
            default the statistics of the training images; of an ONNX file none.
        weights_key: where in ``weights`` the weights are, such as "state_dict_ema"; by default found by their names.
        output: of a model that returns several: name or index of its logits, see :class:`easybn.SelectOutput`.
    """

    model: str | None = None
    weights: str | None = None
    data: str | None = None
    data_folder: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    weights_key: str | None = None
    resize: int | None = None
    channels: int | None = None
    test_fraction: float | None = None
    classes: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.weights is None:
            raise ValueError("name a model: --model my.py:make or timm:NAME, or --weights FILE written by easybn")
        if self.weights_key is not None and (self.weights is None or self.model is None):
            raise ValueError("--weights_key goes with --weights FILE and --model")
        if is_hub(self.weights):
            raise ValueError(f"--weights {self.weights}: a model of the Hub is whole: --model {self.weights}")
        if is_hub(self.model) and (self.weights or self.mean or self.std or self.model_options):
            raise ValueError(
                f"--model {self.model} has its weights and all that shapes it: leave out the other options"
            )
        if is_exported(self.model) and (self.weights or self.model_options):
            raise ValueError(f"--model {self.model} has its weights in it: leave out --weights and --model_options")
        if self.of_robustbench and (self.weights or self.mean or self.std):
            raise ValueError(
                f"--model {self.model} has weights and a normalisation of its own: leave out --weights, --mean and "
                "--std; --model_options '{model_dir: FOLDER}' says where the weights are"
            )

    @property
    def of_robustbench(self) -> bool:
        """Whether it is one of RobustBench's models."""
        return (self.model or "").startswith(f"{LIBRARY}:")

    @property
    def name(self) -> str:
        """Name for a folder."""
        words = [*([self.model] if self.model else []), *([Path(self.weights).stem] if self.weights else [])]
        words += [self.weights_key] if self.weights_key else []
        if is_hub(self.model):
            words = [re.sub(r"@[0-9a-f]{40}$", lambda commit: commit[0][:13], str(self.model))]
        return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in word).strip("-.") for word in words)

    @cached_property
    def about(self) -> TrainedOn | None:
        """What the weights were trained on, if they say it."""
        if self.weights is None:
            own = is_hub(self.model) or self.model in models.trained()
            return weights.trained_on(str(self.model)) if own else None
        if self.weights.endswith(".safetensors") or Path(self.weights).is_dir():
            return weights.trained_on(self.weights)
        return None

    @cached_property
    def outputs(self) -> tuple[str, ...] | None:
        """The class of each output; None if unknown."""
        if self.classes is not None:
            return read_classes(self.classes)
        return None if self.about is None else self.about.classes

    def load_data(self) -> Source:
        """The data set, with labels matched by name with the model's outputs where their names are known.

        Raises:
            ValueError: it is not named, or does not fit the model.
        """
        name = self.data or ("sample" if self.model in models.trained() else None)
        # a stranger's model may say the name of a known data set, and no path on this machine
        if name is None and self.about is not None and (self.about.name in data.NAMES or not is_hub(self.model)):
            name = self.about.name
        if name is None and self.of_robustbench and (own := self.model_options.get("dataset", DATASET)) in data.NAMES:
            name = own
        if name is None:
            raise ValueError("--data is missing: the name or path of the data set whose test images are attacked")
        source = data.load(name, folder=self.data_folder, **{option: getattr(self, option) for option in DATA_OPTIONS})
        who = self.model or str(self.weights)
        if self.outputs is not None:
            advice = "rename the class folders or leave out the others, or name the outputs by --classes FILE"
            source = source.matched(self.outputs, who, advice)
        if self.about is not None:
            source = sized_for(source, self.about, who, self.resize is not None, name not in data.NAMES)
        return source

    def load_model(self) -> nn.Module:
        """The model with its weights; ValueError if it cannot be built or they do not fit."""
        model = self._model()
        return model if self.output is None else SelectOutput(model, self.output)

    def _model(self) -> nn.Module:
        if self.model is None:
            return weights.load(str(self.weights))
        if is_hub(self.model) or (self.model in models.trained() and self.weights is None):
            return weights.load(self.model)
        named = ""
        library, _, rest = self.model.partition(":")
        if self.of_robustbench:
            return self._of_zoo(rest)
        if is_exported(self.model):
            return load_exported(self.model, self.mean, self.std)
        if is_code(self.model):
            model = user_model(self.model, self.model_options)
        else:
            source = self.load_data()
            mean, std = self.mean or source.mean, self.std or source.std
            if not (mean and std):
                raise ValueError(f"{source.name} has no training images to normalise by: give --mean and --std")
            classes, channels = len(source.classes), source.test.shape[0]
            classes = self.model_options.get("num_classes", classes)
            named = f"made for {classes:,} classes"
            _check_pretrained(self.model, self.model_options, classes, source)
            try:
                options = {"num_classes": classes, **self.model_options}
                model = models.build(self.model, in_channels=channels, mean=mean, std=std, **options)
            except TypeError as error:
                raise ValueError(f"the model does not take these model_options: {error}") from error
            except ValueError as error:
                if "num_classes" not in str(error):
                    raise
                advice = "name the class of each output by --classes FILE, one per line, to match them by name"
                raise ValueError(f"{self.model}: {error} ({source.name}'s classes): {advice}") from error
        if self.weights is not None:
            try:
                load_weights(model, self.weights, self.weights_key)
            except ValueError as error:
                if not named or "of another shape" not in str(error) or self.outputs is not None:
                    raise
                advice = "if the model has other classes, name the class of each output by --classes FILE, one per line"
                raise ValueError(f"{error} ({named}): {advice}") from error
        elif rest and library in LIBRARIES and not {"pretrained", "weights"} & set(self.model_options):
            raise ValueError(f"{self.model} has random weights: give --weights FILE, or --model_options")
        return model

    def _of_zoo(self, name: str) -> nn.Module:
        if unknown := [option for option in self.model_options if option not in OPTIONS]:
            raise ValueError(f"--model {self.model} takes the model_options {', '.join(OPTIONS)}, not {unknown[0]}")
        return load_zoo_model(name, **{option: str(value) for option, value in self.model_options.items()})

    def target(self, folder: Path) -> EvaluationTarget:
        """The target of an evaluation with its results in ``folder``, which is new or has results of the same model.

        Raises:
            ValueError: the folder has results of another model; the target's ``claim`` raises it also for the same
                names with other weights, code or test images.
        """
        about = folder / NAME
        wanted = json.loads(json.dumps(asdict(self)))
        found = read_any_json(about) if about.exists() else wanted
        # files of earlier versions lack fields, which had their defaults
        if differ := [
            f"{key}: {found.get(key)} here, {value} asked" for key, value in wanted.items() if found.get(key) != value
        ]:
            raise ValueError(f"{folder} holds the results of another model ({'; '.join(differ)}): give another --out")

        said = found.get(DIGESTS)
        known = said if isinstance(said, dict) else {}

        def claim() -> None:
            now = target.digests()
            # files may change under the same names: rows of others must not be shown as of these
            if changed := [name for name, digest in now.items() if known.get(name, digest) != digest]:
                raise ValueError(
                    f"{folder} holds the results of other {' and of other '.join(changed)} under the same name: give "
                    "another --out"
                )
            write_text(about, json.dumps({**asdict(self), DIGESTS: now}, indent=2) + "\n")

        target = EvaluationTarget(
            Run(folder), self.load_model, self.load_data, claim=claim, named=lambda: self.outputs is not None
        )
        return target

    @classmethod
    def of(cls, folder: Path, repeated: "UserModel | None" = None) -> "UserModel":
        """The model whose results ``folder`` has, if it may be built.

        A file runs no code: a function, or an option that could load, download or run something, is used only if
        ``repeated`` names it, the model of this call's command line.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read, differs from ``repeated``, or must be repeated; the message says how.
        """
        path, model = folder / NAME, cls.described(folder)
        if repeated is None:
            model._check_no_code(path)
            return model
        if repeated.model != model.model or json.loads(json.dumps(repeated.model_options)) != model.model_options:
            raise ValueError(f"{path} is of another model: {_options(model)} there, {_options(repeated)} asked")
        return model

    @classmethod
    def described(cls, folder: Path) -> "UserModel":
        """What ``folder`` says of the model whose results it has; for its data, as the model may be code to be named.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read.
        """
        path = folder / NAME
        try:
            found = read_any_json(path)
            found.pop(DIGESTS, None)
            for name in ("mean", "std"):
                found[name] = None if found[name] is None else tuple(map(float, found[name]))
            model = cls(**found)
            names = ("model", "weights", "data", "data_folder", "weights_key", "classes", "output")
            texts = [getattr(model, name) for name in names]
            if not all(text is None or isinstance(text, str) for text in texts):
                raise TypeError("a name or path is not text")
            model.model_options.items()
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} does not describe a model ({error}): name it again with --model") from error
        return model

    def _check_no_code(self, path: Path) -> None:
        if is_code(self.model):
            raise ValueError(f"{path} names a model of yours ({self.model}): repeat it: {_options(self)}")
        if is_hub(self.model):
            raise ValueError(f"{path} names a model of the Hub, which no file downloads: repeat it: {_options(self)}")
        try:
            options = {key: value for key, value in self.model_options.items() if key not in ("pretrained", "weights")}
            check_stored_options(options, str(path))
        except ValueError as error:
            raise ValueError(f"{error}: repeat it: {_options(self)}") from error


def _options(model: UserModel) -> str:
    """The options that name the model on the command line."""
    words = ["--model", shlex.quote(model.model)] if model.model else []
    words += ["--model_options", shlex.quote(json.dumps(model.model_options))] if model.model_options else []
    return " ".join(words) or "none"


def target_in(folder: Path, branch: str | None = None, repeated: UserModel | None = None) -> EvaluationTarget:
    """The run, its branch, or the user's model whose results ``folder`` has.

    Args:
        repeated: the model that the command line names, see :meth:`UserModel.of`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: see :meth:`UserModel.of`.
    """
    if (folder / NAME).exists() and not (folder / "config.json").exists():
        return UserModel.of(folder, repeated).target(folder)
    if repeated is not None and repeated.model != Run(folder).config["model"]:
        raise ValueError(f"--model is for a model of yours: leave it out, or name no runs ({folder} was trained here)")
    return EvaluationTarget.of_run(Run(folder), branch)


def _check_pretrained(name: str, options: dict[str, Any], classes: int, source: Source) -> None:
    """Raise ValueError if timm would put a new, random last layer on pretrained weights."""
    library, _, rest = name.partition(":")
    if library != "timm" or not options.get("pretrained"):
        return
    import timm

    known = timm.get_pretrained_cfg(rest)
    if known is not None and known.num_classes != classes:
        raise ValueError(
            f"{name} is pretrained for {known.num_classes:,} classes and {source.name} has {classes:,}: name the class "
            "of each output by --classes FILE, one per line, to match them by name"
        )
