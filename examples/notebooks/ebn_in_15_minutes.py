# %% [markdown]
# # EBN in 15 minutes
#
# See an easy and an adversarial image, train three recipes on a small sample of Fashion-MNIST, look into the
# branches, and weigh clean against robust accuracy. You need PyTorch, a processor, and `pip install 'easybn[plot]'`.

# %%
import os

import matplotlib.pyplot as plt
import torch

import easybn
from easybn import PGD, Linf, Training, easy, route, untargeted
from easybn.data import load
from easybn.models import build
from easybn.recipes import EBN, AdvProp, Vanilla

torch.manual_seed(0)
quick = os.environ.get("EASYBN_NOTEBOOK") == "quick"  # a test runs all of this in seconds
images, epochs, points = (300, 1, 10) if quick else (3000, 4, 200)
plt.rcParams["figure.dpi"] = 130

# %% [markdown]
# ## 1. Images that are made easier, and harder
#
# The package brings 5,000 training and 1,000 test images, and a small network that is trained. An **adversarial**
# image is moved a little in the direction that makes the network *less* sure of its class. An **easy** one is moved
# in the opposite direction. Both moves stay inside a ball: here no pixel changes by more than `8/255`, eight grey
# levels of 256.

# %%
source = load("sample")
x, y = source.test.batch(torch.tensor([0, 2, 10, 17]))  # images in [0, 1], and their classes
trained = easybn.load("fashion-mnist-vanilla")

attack = PGD(Linf(8 / 255), steps=5)
rows = {
    "as it is": x,
    "easier": attack(trained, x, easy(y)),
    "harder": attack(trained, x, untargeted(y)),
}

fig, axes = plt.subplots(3, 4, figsize=(6.5, 5.6), layout="constrained")
for line, (name, pictures) in zip(axes, rows.items(), strict=True):
    chances = trained(pictures).softmax(1)
    for ax, picture, chance in zip(line, pictures, chances, strict=True):
        sure, answer = chance.max(0)
        ax.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{source.classes[answer]}, {sure:.0%}", fontsize=8)
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
plt.show()

# %% [markdown]
# To us the rows are the same pictures. To the network they are not: the title says what it answers and how sure it
# is.
#
# ## 2. One network, two branches
#
# AdvProp (2020) trains on adversarial images *and* on clean ones, and keeps their statistics apart: every batch norm
# gets a second copy, an auxiliary one for the perturbed images, and all other weights are shared. The paper *Easy
# Batch Normalization* (EBN) does the same with easy images. `convert` makes the copies, `route` chooses one:

# %%
plain = build("resnet_tiny", in_channels=1, mean=source.mean, std=source.std)  # 78,000 parameters
branched = easybn.convert(plain, branches=("main", "easy"))
print(next(module for module in branched.modules() if isinstance(module, easybn.BranchedNorm)))

with route(branched, "easy"):  # in here the copies are used
    print(branched(x).shape)

# %% [markdown]
# A **recipe** says what is trained in which branch, as a generator of losses. Those of three recipes, on our four
# images:

# %%
for recipe in (Vanilla(), AdvProp(), EBN()):
    model = easybn.convert(plain, branches=recipe.branches) if len(recipe.branches) > 1 else plain
    losses = [f"{term.weight:g} x {term.name} loss {term.loss.item():.2f}" for term in recipe(model.train(), x, y)]
    print(f"{type(recipe).__name__}: {' + '.join(losses)}")

# %% [markdown]
# You can put `convert`, `route` and `strip` into a training loop of your own; here the package's loop does it.
#
# ## 3. Train
#
# Vanilla (clean images alone), AdvProp and EBN; the latter two with perturbations of two strengths.

# %%
training = Training(epochs=epochs, batch_size=50, lr=0.1, seed=0)
part = source.part(images)  # every class in proportion

recipes = {
    "Vanilla": Vanilla(),
    "AdvProp 2/255": AdvProp(PGD(Linf(2 / 255), random_start=0.8)),
    "AdvProp 8/255": AdvProp(PGD(Linf(8 / 255), random_start=0.8)),
    "EBN 2/255": EBN(PGD(Linf(2 / 255))),
    "EBN 8/255": EBN(PGD(Linf(8 / 255))),
}
fitted = {name: easybn.fit(plain, recipe, part.train, training) for name, recipe in recipes.items()}

test = source.test.batch(torch.arange(1000))
clean = {name: easybn.evaluate(result.model, *test, attacks="clean").scores[0] for name, result in fitted.items()}
for name, score in clean.items():
    low, high = score.interval
    print(f"{name:14} {score.accuracy:.1%} of 1,000 test images right (95%: {low:.1%} to {high:.1%})")

# %% [markdown]
# `result.model` is what you deploy: the auxiliary branch is stripped, and a plain network is left.
#
# ## 4. Look into the branches
#
# How the losses of each branch fell, and what each branch makes of clean and of perturbed test images:

# %%
colours = {"main": "#66707c", "adv": "#c65200", "easy": "#0069a8"}
fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.4), layout="constrained", sharey=True)
for ax, name in zip(axes, ("AdvProp 8/255", "EBN 8/255"), strict=True):
    history = fitted[name].history
    for branch in history[0]["train"]:
        losses = [row["train"][branch]["loss"] for row in history]
        ax.plot(range(1, len(losses) + 1), losses, marker="o", color=colours[branch], label=branch)
    ax.set(title=name, xlabel="epoch", xticks=range(1, len(losses) + 1))
    ax.legend(frameon=False)
axes[0].set_ylabel("training loss of the branch")
plt.show()

# %%
x, y = source.test.batch(torch.arange(500))
for name, branch, goal in (("AdvProp 8/255", "adv", untargeted), ("EBN 8/255", "easy", easy)):
    model = fitted[name].branched.eval()
    with route(model, branch):
        moved = PGD(Linf(8 / 255))(model, x, goal(y))
    for which in ("main", branch):
        with torch.no_grad(), route(model, which):
            as_is, perturbed = ((model(pictures).argmax(1) == y).float().mean().item() for pictures in (x, moved))
        print(f"{name}, branch {which:4}: {as_is:.1%} of clean images right, {perturbed:.1%} of its perturbed ones")

# %% [markdown]
# AdvProp's second branch has the harder task: its loss stays a little above the other one. EBN's has hardly a task. A
# perturbation towards the true class carries the label, and the branch learns to read it off: its loss collapses, and
# it gets nearly all easy images right, while it is worse than the main branch at clean ones. The shared weights are
# rewarded for following small perturbations, which is what an attacker makes use of.
#
# ## 5. Clean against robust accuracy
#
# `evaluate` attacks the deployed networks: how many test images are still right after 20 steps of PGD within 8/255? One
# strength of each recipe would say little, since a weaker perturbation also buys clean accuracy with robust accuracy.
# So we draw both strengths of each, joined by a line: its *frontier*.

# %%
x, y = source.test.batch(torch.arange(points))
fig, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
places = {}
for name, result in fitted.items():
    found = easybn.evaluate(result.model, x, y, norm="linf", eps="8/255", steps=20, diagnosis=False)
    at, height = 100 * clean[name].accuracy, 100 * found.robust_accuracy
    low, high = (100 * end for end in found.interval)
    left, right = (100 * end for end in clean[name].interval)
    print(f"{name:14} clean {at:.1f}%, robust {height:.1f}% (95%: {low:.1f} to {high:.1f})")
    places.setdefault(type(recipes[name]), []).append((at, height))
    ax.vlines(at, low, high, color=recipes[name].colour[0], linewidth=1)
    ax.hlines(height, left, right, color=recipes[name].colour[0], linewidth=1)
    ax.annotate(name, (at, height), xytext=(5, 3), textcoords="offset points", fontsize=8)
for recipe, points_of_it in places.items():
    ax.plot(*zip(*points_of_it, strict=True), "o-", color=recipe.colour[0])  # every recipe has a colour of its own
ax.set(xlabel="clean accuracy, %", ylabel="robust accuracy at 8/255, %", ylim=(0, 100))
plt.show()

# %% [markdown]
# Further up and to the right is better. The bars are 95% intervals of the test images drawn: from left to right nothing
# can be told apart here, from top to bottom something can. And they say nothing of another training with another seed:
# this is **one short training of a small network on few images**. So take no figure from here. Take the commands that
# do the same with seeds, intervals over them, and paired tests:
#
# ```bash
# easybn demo                                           # three recipes on this sample, with tables
# easybn study cpu                                      # 33 trainings: recipes, three seeds, two data sets
# easybn table runs/mine --frontier --plot figure.pdf   # frontiers over seeds, as a figure
# ```
#
# What those say: *Do easy examples help?* and *All results*, pages of the documentation.
