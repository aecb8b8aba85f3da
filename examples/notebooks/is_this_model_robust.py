# %% [markdown]
# # Is this model robust?
#
# From a model in hand to a verdict that you can believe: a network of timm, a fast verdict and how to read it,
# pictures of what broke it, and a "defence" that fools a simple attack. You need `pip install 'easybn[plot]'`; all of
# it runs on a processor.

# %%
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import easybn
from easybn import Training
from easybn.data import load
from easybn.models import build
from easybn.recipes import Vanilla

torch.manual_seed(0)
quick = os.environ.get("EASYBN_NOTEBOOK") == "quick"  # a test runs all of this in seconds
images, epochs, points, audit = (300, 1, 4, 1) if quick else (4000, 4, 60, 8)
plt.rcParams["figure.dpi"] = 130

# %% [markdown]
# ## 1. A model
#
# Any module does that takes images in [0, 1] and returns logits. If yours wants normalised images, make the
# normalisation its first layer: an attack has to move pixels, and its radius is in pixels. Here it is a ResNet of
# timm, made narrow and without pretrained weights, trained for half a minute on a sample of Fashion-MNIST that comes
# with the package; `build` puts the normalisation in front of it.

# %%
source = load("sample")
narrow = {"channels": (16, 32, 64, 64), "stem_width": 8}  # options of timm's
network = build("timm:resnet10t", in_channels=1, mean=source.mean, std=source.std, **narrow)
training = Training(epochs=epochs, batch_size=50, lr=0.05, seed=0)
model = easybn.fit(network, Vanilla(), source.part(images).train, training).model

x, y = source.test.batch(torch.arange(points))  # float images (N, 1, 28, 28) in [0, 1], and their classes
with torch.no_grad():
    print(f"{(model(x).argmax(1) == y).float().mean():.0%} of {points} test images are classified correctly")

# %% [markdown]
# ## 2. A fast verdict
#
# How many of these images does it still classify correctly if every pixel may change by up to 4, 8 or 16 of 255 grey
# levels? `fast` is a set of strong attacks, followed by an audit: AutoAttack, the standard of the field, tries its
# luck on some of the images that are left (here on 8 for each radius, to save time; by default on 40).

# %%
radii = ["4/255", "8/255", "16/255"]
result = easybn.evaluate(model, x, y, norm="linf", eps=radii, attacks="fast", audit=audit, keep_images=True)
print(result)

# %% [markdown]
# A line for each radius, which can be quoted as it is, and one for what its audit says:
#
# - **at most**: the share of images that nothing broke. No attack proves more: a better one may break some of these.
# - **audited**: what AutoAttack would leave, as an estimate, with its 95% interval. It covers the draw of the images
#   too, and both are few here: it is wide.
# - Lines that begin with `warning` say why a figure may mislead you, and what to do about it. `note` is what you
#   should know. Nothing said is no proof that nothing is wrong.
#
# The same as a picture. At eps 0 it is the accuracy on unchanged images:

# %%
eps = [score.eps or 0 for score in result.scores]
shares = [100 * score.accuracy for score in result.scores]
lows, highs = zip(*((100 * score.interval.low, 100 * score.interval.high) for score in result.scores), strict=True)

fig, ax = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
ax.plot(eps, shares, "o-", color="#0069a8")
ax.vlines(eps, lows, highs, color="#0069a8", linewidth=1)
ax.set(xlabel="eps, l-infinity", ylabel="accuracy, %", ylim=(0, 100), xticks=eps, xticklabels=["0", *radii])
plt.show()

# %% [markdown]
# A normally trained network falls towards 0 as eps grows. If one does not, look for the mistake first.
#
# ## 3. What broke it
#
# The images were kept. Here are the first that broke at the smallest radius, with the answers before and after, and
# the change itself, made visible (red: darker, blue: lighter):

# %%
radius = min(result.robust_at)
broken = torch.nonzero(result.clean & ~result.robust_at[radius]).flatten()[:5]
attacked = result.images_at[radius][broken]

fig, axes = plt.subplots(3, 5, figsize=(6.5, 4.3), layout="constrained", squeeze=False)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
pictures = (x[broken], attacked, 0.5 + (attacked - x[broken]) / (2 * radius))
for row, (line, of_line) in enumerate(zip(axes, pictures, strict=True)):
    for ax, picture in zip(line, of_line, strict=False):
        ax.imshow(picture[0], cmap="gray_r" if row < 2 else "coolwarm", vmin=0, vmax=1)
        if row < 2:
            with torch.no_grad():
                sure, answer = model(picture[None]).softmax(1)[0].max(0)
            ax.set_title(f"{source.classes[answer]}, {sure:.0%}", fontsize=8)
for line, name in zip(axes, ("as it is", "attacked", "the change"), strict=True):
    line[0].set_ylabel(name)
plt.show()

# %% [markdown]
# Which attack was the first to break how many of them, at the largest radius:

# %%
print(dict(result.scores[-1].broke))

# %% [markdown]
# ## 4. A defence that is none
#
# Multiply the logits by 10,000. No answer changes, so no image is more robust. But the network is now so sure of
# itself that the cross-entropy is flat: its gradient is exactly zero in float32, and an attack that follows it stands
# still.


# %%
class Sure(nn.Module):
    """The same answers, given with far too much confidence."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return 10_000 * self.model(x)


def simple_pgd(model, x, y, eps, steps=20):
    """As in many a notebook."""
    moved = x
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
        moved = (moved + eps / 4 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return moved.detach()


for name, tested in (("the model", model), ("the defence", Sure(model).eval())):
    left = (tested(simple_pgd(tested, x, y, 8 / 255)).argmax(1) == y).float().mean()
    print(f"{name}: {left:.0%} withstand a simple PGD at 8/255")

# %% [markdown]
# A paper could be written about that. Now by `evaluate`, which counts what any of its attacks breaks, with losses
# that do not go flat, and which then asks whether gradients can be trusted at all:

# %%
print(easybn.evaluate(Sure(model).eval(), x, y, norm="linf", eps="8/255", attacks="fast", audit=audit))

# %% [markdown]
# The same robust accuracy as before, and a warning that names the trick.
#
# ## 5. Your own model
#
# In Python it is the one call above. On the command line, with a file of yours that makes the model, its checkpoint
# and a folder of images (a folder for each class):
#
# ```bash
# easybn evaluate --model my.py:net --weights best.pt --data my_images --attacks fast --norm linf --eps 4/255 8/255 \
#     --points 200 --plot verdict.pdf
# ```
#
# - More images make the interval narrower: 1,000 give about plus or minus 3 points.
# - For a figure to publish: `--attacks autoattack`, on 1,000 images or more, at the radius that others use.
# - Every verdict is stored: stop it whenever you like, the same command goes on.
#
# What each line of the output means, and what to distrust: the page *How robust is my model?*
